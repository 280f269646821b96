//! `instance-agent exec-as`: hidden; becomes a user and then the command.

use std::ffi::OsString;
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

pub(super) fn exec_as(args: &ExecAsArgs) -> ExitCode {
    let Err(error) = command::exec_as(&args.user, args.dir.as_deref(), &args.argv);
    // Bare: the runner puts the command before it.
    eprintln!("{error}");
    ExitCode::from(command::EXEC_FAILED)
}
