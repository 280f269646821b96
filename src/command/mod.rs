//! Runs a configured command: its user, directory, environment, time limit, and its last lines of output.
//!
//! A command of a deploy is a unit where the agent runs [under systemd](Runner::under_systemd), and a process
//! group elsewhere; either can be [ended](Runner::end_survivor) by an agent that did not start it. It gets
//! nothing of the agent's own environment, and standard output and standard error are one pipe, so that its
//! last lines come in the order in which it wrote them.

mod child;
mod doubt;
mod error;
mod failure;
mod group;
mod job;
mod mark;
mod output;
mod state;
mod survivor;
mod systemd;
mod unit;
mod user;
mod witness;

use std::ffi::OsString;
use std::io;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::process::{Child, ChildStdin};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::config::AppName;
use crate::tail::clean;
pub use doubt::doubt;
pub use error::{CommandError, StartError};
pub use failure::{SurvivorError, SystemdError};
use group::{Ending, Group};
pub use job::{JobName, JobStep, Running};
pub use mark::Mark;
use output::{Output, Said};
pub use survivor::ProcessGroup;
use systemd::Systemd;
pub use systemd::SystemdTools;
use unit::Given;
use user::Account;
pub use user::{EXEC_FAILED, exec_as};
pub use witness::witness;

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
    systemd: Option<Systemd>,
}

impl Runner {
    /// Runs every command as a child of this process. `helper` is the program whose `exec-as` calls [`exec_as`]:
    /// this one, as `/proc/PID/exe` with the number of this process, which goes on naming it after an upgrade
    /// has replaced its file. Looks up the agent's own user, which may block.
    pub fn new(helper: PathBuf) -> Self {
        let lang = std::env::var_os("LANG").filter(|lang| !lang.is_empty());
        let lang = lang.unwrap_or_else(|| OsString::from("C.UTF-8"));
        Self { kill_after: KILL_AFTER, helper, own: Account::own(), lang, systemd: None }
    }

    /// Runs the commands of deploys as transient units. It is systemd that starts them, outside this process's
    /// sandbox: `/proc/self/exe` would be another program there, so that is no `helper`.
    pub async fn under_systemd(helper: PathBuf, tools: SystemdTools) -> Result<Self, SystemdError> {
        let systemd = Some(Systemd::detect(tools).await?);
        Ok(Self { systemd, ..Self::new(helper) })
    }

    /// Runs a command of a deploy to its end, with nothing on its standard input. `started` hears of it before
    /// it can do much: what it is told is to be recorded, so that [`Self::end_survivor`] can end the command
    /// when this process does not live to see its end.
    ///
    /// When the future is dropped, the command is ended too. What a command that succeeds leaves running is let
    /// be, though nobody reads its output any more, but not under systemd, where nothing outlives its unit. There a command of the same name that an
    /// agent left behind is ended first.
    pub async fn run(
        &self,
        job: &JobName,
        spec: &CommandSpec,
        environment: &[(String, String)],
        stop: &Stop,
        started: impl FnOnce(Running),
    ) -> Result<(), CommandError> {
        if let Some(systemd) = &self.systemd {
            let starting = || started(Running::Unit(job.clone()));
            let given = Given { environment, stdin: Vec::new() };
            return self.run_unit(systemd, job, spec, given, stop, starting).await;
        }
        let record = |group: &Group| {
            let group =
                group.id().map_or_else(|| Err(io::ErrorKind::NotFound.into()), ProcessGroup::led_by)?;
            started(Running::Group(group));
            Ok(())
        };
        self.run_group(spec, environment, None, stop, record).await
    }

    /// Runs a command that tells how a deploy of the app ended, `stdin` on its standard input: under systemd as a
    /// unit, and so outside this process's sandbox. Several of one app may run at once, and none is looked for later.
    pub async fn run_notice(
        &self,
        app: &AppName,
        spec: &CommandSpec,
        environment: &[(String, String)],
        stdin: Vec<u8>,
        stop: &Stop,
    ) -> Result<(), CommandError> {
        match &self.systemd {
            Some(systemd) => {
                let given = Given { environment, stdin };
                self.run_unit(systemd, &JobName::notice(app), spec, given, stop, || {}).await
            }
            None => self.run_child(spec, environment, Some(stdin), stop).await,
        }
    }

    /// Runs a command that belongs to no deploy to its end, as a child of this process, `stdin` (or nothing) on
    /// its standard input. When the future is dropped, the command's process group is killed.
    pub async fn run_child(
        &self,
        spec: &CommandSpec,
        environment: &[(String, String)],
        stdin: Option<Vec<u8>>,
        stop: &Stop,
    ) -> Result<(), CommandError> {
        self.run_group(spec, environment, stdin, stop, |_| Ok(())).await
    }

    /// Ends a command that was running when an earlier agent was killed, and waits until none of its processes
    /// is left. Does nothing when it ended long ago, even where its number is another's by now, nor about a unit
    /// where there is no systemd.
    pub async fn end_survivor(&self, running: &Running) -> Result<(), SurvivorError> {
        match running {
            Running::Unit(job) => self.end_survivors(std::slice::from_ref(job)).await,
            Running::Group(group) => group.end(self.kill_after).await,
        }
    }

    /// Ends whatever has this mark in its environment, as [`Self::end_survivor`] does.
    pub async fn end_marked(&self, mark: &Mark) -> Result<(), SurvivorError> {
        mark.end(self.kill_after).await
    }

    /// Ends whatever is left of these commands, as [`Self::end_survivor`] does, without a record of them: under
    /// systemd the names are enough. All are tried; the error is the first one.
    pub async fn end_survivors(&self, jobs: &[JobName]) -> Result<(), SurvivorError> {
        let mut result = Ok(());
        if let Some(systemd) = &self.systemd {
            for job in jobs {
                let ended = systemd.end(&systemd.unit(job), self.kill_after).await;
                result = result.and(ended.map(drop).map_err(SurvivorError::from));
            }
        }
        result
    }
}

/// Feeds and listens to a command until it has ended and its output has, or soon after.
async fn accompany(
    supervise: impl Future<Output = Ending>,
    feed: impl Future<Output = ()>,
    output: &mut Output,
) -> Ending {
    let ended = CancellationToken::new();
    let supervise = async {
        let ending = supervise.await;
        ended.cancel();
        ending
    };
    let talk = async {
        tokio::select! {
            // What there is to read is read, however late this task gets its turn.
            biased;
            _ = async { tokio::join!(feed, output.follow()) } => {}
            () = after(&ended, DRAIN) => {}
        }
    };
    tokio::join!(supervise, talk).0
}

/// A command that does not read what it is given does no wrong, so errors are none.
async fn feed(pipe: Option<ChildStdin>, bytes: Vec<u8>) {
    if let Some(mut pipe) = pipe {
        let _ = pipe.write_all(&bytes).await;
    }
}

fn judge(
    command: String,
    after: Duration,
    grace: Duration,
    ending: Ending,
    output: Output,
) -> Result<(), CommandError> {
    let Said { reports, ending: witnessed, tail } = output.finish();
    let (status, by_starter) = match ending {
        Ending::TimedOut { killed } => return Err(CommandError::TimedOut { command, after, killed, tail }),
        Ending::Interrupted { killed } => {
            return Err(CommandError::Interrupted { command, grace, killed, tail });
        }
        Ending::Own(Err(error)) => return Err(CommandError::Lost { command, error, tail }),
        Ending::Own(Ok(status)) => (status, false),
        Ending::Starter(status) => (status, true),
        Ending::Unit { client, name } => match (witnessed, client.success()) {
            (Some(status), _) => (status, false),
            (None, false) if reports.is_some() => (client, true),
            (None, _) => {
                let error = io::Error::other(SystemdError::Unseen { unit: name });
                return Err(CommandError::Lost { command, error, tail });
            }
        },
    };
    match (status.code(), reports) {
        (Some(0), _) => Ok(()),
        // It takes both, the word and the exit code: a name service may write to standard error too.
        (Some(code), Some(words)) if code == i32::from(EXEC_FAILED) => {
            Err(CommandError::Start { command, cause: StartError::Reported(words) })
        }
        (Some(_), Some(words)) if by_starter => {
            Err(CommandError::Start { command, cause: StartError::Refused(words) })
        }
        (Some(code), _) => Err(CommandError::Exited { command, code, tail }),
        (None, _) => Err(CommandError::Signalled { command, signal: status.signal().unwrap_or(0), tail }),
    }
}

/// Takes the command to close this process's copies of the pipes' writing ends: else they would never end.
fn spawn(mut command: Command) -> io::Result<Child> {
    command.process_group(0);
    tokio::process::Command::from(command).spawn()
}

async fn after(token: &CancellationToken, delay: Duration) {
    token.cancelled().await;
    sleep(delay).await;
}
