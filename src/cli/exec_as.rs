//! `instance-agent exec-as`: hidden; becomes a user and then the command. `instance-agent witness`, hidden as well, runs it
//! and tells how that ended.

use std::ffi::OsString;
use std::fmt::Display;
use std::io::{self, Write as _};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use crate::command;

/// Arguments that the runner composes.
#[derive(Debug, Args)]
pub(super) struct ExecAsArgs {
    /// Whom to become
    #[arg(long)]
    user: String,
    /// Where to run the command
    #[arg(long)]
    dir: Option<PathBuf>,
    /// The program and its arguments
    #[arg(last = true, required = true)]
    argv: Vec<OsString>,
}

/// Arguments that the runner composes.
#[derive(Debug, Args)]
pub(super) struct WitnessArgs {
    /// What to run this program with
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
    arguments: Vec<OsString>,
}

pub(super) fn exec_as(args: &ExecAsArgs) -> ExitCode {
    let Err(error) = command::exec_as(&args.user, args.dir.as_deref(), &args.argv);
    failed(&error)
}

pub(super) fn witness(args: &WitnessArgs) -> ExitCode {
    match command::witness(&args.arguments) {
        // As shells have it.
        Ok(status) => {
            let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
            ExitCode::from(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(command::EXEC_FAILED))
        }
        Err(error) => failed(&error),
    }
}

/// Bare: the runner puts the command before it.
fn failed(error: &dyn Display) -> ExitCode {
    // Nobody reads it any more when the agent was killed.
    let _ = writeln!(io::stderr(), "{error}");
    ExitCode::from(command::EXEC_FAILED)
}
