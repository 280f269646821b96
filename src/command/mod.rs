//! Runs a configured command: its user, directory, environment, time limit, and its last lines of output.
//!
//! A command is a process group. It gets nothing of the agent's own environment, and standard output and
//! standard error are one pipe, so that its last lines come in the order in which it wrote them.

mod error;
mod group;
mod output;
mod user;

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::process::{Child, ChildStdin};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::tail::clean;
pub use error::{CommandError, StartError};
use group::{Ending, Group};
use output::Output;
use user::Account;
pub use user::{EXEC_FAILED, exec_as};

/// Where a program without a slash is looked for.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// How long a command that was told to end may take before it is killed.
const KILL_AFTER: Duration = Duration::from_secs(10);
/// How long a child that the command left behind may hold up the end of the output.
const DRAIN: Duration = Duration::from_millis(500);

/// A command of the configuration. `argv` is never empty and no shell reads it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandSpec {
    /// The program and its arguments.
    pub argv: Vec<String>,
    /// Whom to run it as; `None`: as the agent itself.
    pub user: Option<String>,
    /// Where to run it; `None`: the user's home directory.
    pub dir: Option<PathBuf>,
    /// How long it may take.
    pub timeout: Duration,
}

/// When a running command has to end for the agent's sake.
#[derive(Debug, Clone)]
pub struct Stop {
    /// Cancelled when the agent begins to shut down.
    pub shutdown: CancellationToken,
    /// How long a command may run on after that; its own time limit still holds. A command that is begun
    /// after the cancellation has this long too: whether to begin one is the caller's decision.
    pub grace: Duration,
}

impl Stop {
    async fn reached(&self) {
        after(&self.shutdown, self.grace).await;
    }
}

/// Runs commands, as the agent itself or as other users.
#[derive(Debug, Clone)]
pub struct Runner {
    /// How long a command that was told to end (SIGTERM) may take before it is killed (SIGKILL).
    pub kill_after: Duration,
    helper: PathBuf,
    own: Account,
    lang: OsString,
}

impl Runner {
    /// `helper` is the program whose `exec-as` calls [`exec_as`]: this one. `/proc/self/exe` goes on naming
    /// it after an upgrade has replaced its file. Looks up the agent's own user, which may block.
    pub fn new(helper: PathBuf) -> Self {
        let lang = std::env::var_os("LANG").filter(|lang| !lang.is_empty());
        let lang = lang.unwrap_or_else(|| OsString::from("C.UTF-8"));
        Self { kill_after: KILL_AFTER, helper, own: Account::own(), lang }
    }

    /// Runs a command to its end, `stdin` (or nothing) on its standard input. When the future is dropped, the
    /// command's process group is killed. What a command that succeeds leaves running is let be.
    pub async fn run(
        &self,
        spec: &CommandSpec,
        environment: &[(String, String)],
        stdin: Option<Vec<u8>>,
        stop: &Stop,
    ) -> Result<(), CommandError> {
        let command = error::describe(spec);
        let source = if stdin.is_some() { Stdio::piped() } else { Stdio::null() };
        let (mut child, mut output) = match self.start(spec, environment, source) {
            Ok(started) => started,
            Err(cause) => return Err(CommandError::Start { command, cause }),
        };
        let group = Group::of(&child);
        let feed = feed(child.stdin.take(), stdin.unwrap_or_default());
        let ended = CancellationToken::new();
        let supervise = async {
            let ending = group.supervise(&mut child, spec.timeout, stop, self.kill_after).await;
            ended.cancel();
            ending
        };
        let talk = async {
            tokio::select! {
                _ = async { tokio::join!(feed, output.follow()) } => {}
                () = after(&ended, DRAIN) => {}
            }
        };
        let (ending, ()) = tokio::join!(supervise, talk);
        judge(command, spec.timeout, stop.grace, ending, output)
    }

    fn start(
        &self,
        spec: &CommandSpec,
        environment: &[(String, String)],
        stdin: Stdio,
    ) -> Result<(Child, Output), StartError> {
        match spec.user.as_deref().filter(|user| !self.own.is(user)) {
            None => self.start_own(spec, environment, stdin),
            Some(user) => self.start_as(user, spec, environment, stdin),
        }
    }

    fn start_own(
        &self,
        spec: &CommandSpec,
        environment: &[(String, String)],
        stdin: Stdio,
    ) -> Result<(Child, Output), StartError> {
        let (program, arguments) = spec.argv.split_first().ok_or(StartError::Empty)?;
        let dir = self.own.dir(spec.dir.as_deref());
        let (output, writer) = Output::open()?;
        let mut command = self.bare(program.as_ref());
        command.args(arguments).current_dir(dir).envs(self.own.variables());
        command.stdin(stdin).stderr(writer.try_clone().map_err(StartError::Pipe)?).stdout(writer);
        let child = spawn(command, environment).map_err(|error| user::blame(error, dir, program.as_ref()))?;
        Ok((child, output))
    }

    fn start_as(
        &self,
        user: &str,
        spec: &CommandSpec,
        environment: &[(String, String)],
        stdin: Stdio,
    ) -> Result<(Child, Output), StartError> {
        let (mut output, writer) = Output::open()?;
        let mut command = self.bare(self.helper.as_ref());
        command.args(user::arguments(user, spec.dir.as_deref(), &spec.argv)).current_dir("/");
        command.stdin(stdin).stdout(writer).stderr(output.open_reports()?);
        let child = spawn(command, environment)
            .map_err(|error| StartError::Helper { helper: self.helper.clone(), error })?;
        Ok((child, output))
    }

    fn bare(&self, program: &OsStr) -> Command {
        let mut command = Command::new(program);
        command.env_clear().env("PATH", PATH).env("LANG", &self.lang);
        command
    }
}

/// A refusal takes both, the helper's word and its exit code: a name service may write to standard error too.
fn judge(
    command: String,
    after: Duration,
    grace: Duration,
    ending: Ending,
    output: Output,
) -> Result<(), CommandError> {
    let reported = output.reported();
    let tail = output.into_lines();
    let status = match ending {
        Ending::TimedOut { killed } => return Err(CommandError::TimedOut { command, after, killed, tail }),
        Ending::Interrupted { killed } => {
            return Err(CommandError::Interrupted { command, grace, killed, tail });
        }
        Ending::Own(Err(error)) => return Err(CommandError::Lost { command, error, tail }),
        Ending::Own(Ok(status)) => status,
    };
    match (status.code(), status.signal()) {
        (Some(0), _) => Ok(()),
        (Some(code), _) if reported && code == i32::from(EXEC_FAILED) => {
            Err(CommandError::Start { command, cause: StartError::Reported(tail.join(" ")) })
        }
        (Some(code), _) => Err(CommandError::Exited { command, code, tail }),
        (None, signal) => Err(CommandError::Signalled { command, signal: signal.unwrap_or(0), tail }),
    }
}

/// Takes the command to close this process's copies of the pipes' writing ends: else they would never end.
fn spawn(mut command: Command, environment: &[(String, String)]) -> io::Result<Child> {
    command.envs(environment.iter().map(|(name, value)| (name, value))).process_group(0);
    tokio::process::Command::from(command).spawn()
}

/// A command that does not read what it is given does no wrong, so errors are none.
async fn feed(pipe: Option<ChildStdin>, bytes: Vec<u8>) {
    if let Some(mut pipe) = pipe {
        let _ = pipe.write_all(&bytes).await;
    }
}

async fn after(token: &CancellationToken, delay: Duration) {
    token.cancelled().await;
    sleep(delay).await;
}
