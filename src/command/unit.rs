//! A command as a unit of systemd's: from the end of a survivor to its own.

use std::ffi::OsString;
use std::io;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::process::Child;
use tokio::time::{sleep, timeout};

use super::error::{CommandError, StartError, describe};
use super::group::{Ending, Group};
use super::output::Output;
use super::systemd::Systemd;
use super::witness::WITNESS;
use super::{
    CommandSpec, JobName, PATH, Runner, Stop, SystemdError, accompany, feed, judge, spawn, user, witness,
};

/// On every Linux there is, and it alone keeps out what the manager's configuration gives to all services.
const ENV: &str = "/usr/bin/env";
/// How long the client may take to see that its unit has ended.
const FAREWELL: Duration = Duration::from_secs(1);

/// What a command is given.
pub(super) struct Given<'a> {
    pub(super) environment: &'a [(String, String)],
    /// On its standard input; empty: nothing.
    pub(super) stdin: Vec<u8>,
}

/// A unit, stopped on drop unless it has ended.
struct Unit<'a> {
    systemd: &'a Systemd,
    name: String,
    client: Group,
    ended: bool,
}

impl Runner {
    /// `starting` is called when nothing of that name is left and before the command begins.
    pub(super) async fn run_unit(
        &self,
        systemd: &Systemd,
        job: &JobName,
        spec: &CommandSpec,
        given: Given<'_>,
        stop: &Stop,
        starting: impl FnOnce(),
    ) -> Result<(), CommandError> {
        let command = describe(spec);
        let name = systemd.unit(job);
        if let Err(error) = systemd.end(&name, self.kill_after).await {
            return Err(CommandError::Start { command, cause: StartError::Survivor(error) });
        }
        starting();
        let (mut child, mut output, input) = match self.start_unit(systemd, &name, spec, given) {
            Ok(started) => started,
            Err(cause) => return Err(CommandError::Start { command, cause }),
        };
        let unit = Unit { systemd, name, client: Group::of(&child), ended: false };
        let feed = feed(child.stdin.take(), input);
        let supervise = unit.supervise(&mut child, spec.timeout, stop, self.kill_after);
        let ending = accompany(supervise, feed, &mut output).await;
        judge(command, spec.timeout, stop.grace, ending, output)
    }

    fn start_unit(
        &self,
        systemd: &Systemd,
        name: &str,
        spec: &CommandSpec,
        given: Given<'_>,
    ) -> Result<(Child, Output, Vec<u8>), StartError> {
        let program = spec.argv.first().ok_or(StartError::Empty)?;
        let (mut output, writer) = Output::open()?;
        let mut argv = self.environment_alone();
        let mut input = given.stdin;
        if systemd.has_scopes() {
            // This process is the parent of the scope's command, and sees itself how it ends.
            argv.extend(given.environment.iter().map(|(name, value)| format!("{name}={value}").into()));
            argv.push(self.helper.clone().into());
        } else {
            argv.extend([self.helper.clone().into(), WITNESS.into()]);
            input = witness::input(given.environment, &input)?;
        }
        let user = spec.user.as_deref().unwrap_or(self.own.name());
        argv.extend(user::arguments(user, spec.dir.as_deref(), &spec.argv));
        let mut command = systemd.client(name, spec.timeout, self.kill_after, argv);
        let source = if input.is_empty() { Stdio::null() } else { Stdio::piped() };
        command.stdin(source).stdout(writer).stderr(output.open_reports()?);
        let client = command.get_program().to_owned();
        let child = spawn(command).map_err(|error| match error.kind() {
            // A NUL byte in an argument.
            io::ErrorKind::InvalidInput => StartError::program(program, true, error),
            _ => StartError::Systemd(SystemdError::Run { program: client.to_string_lossy().into(), error }),
        })?;
        Ok((child, output, input))
    }

    fn environment_alone(&self) -> Vec<OsString> {
        let mut lang = OsString::from("LANG=");
        lang.push(&self.lang);
        vec![ENV.into(), "-i".into(), format!("PATH={PATH}").into(), lang]
    }
}

impl Unit<'_> {
    /// Waits for the command, no longer than it may run. Afterwards nothing of its unit is left.
    async fn supervise(
        mut self,
        child: &mut Child,
        limit: Duration,
        stop: &Stop,
        kill_after: Duration,
    ) -> Ending {
        tokio::select! {
            biased;
            status = child.wait() => self.conclude(status, kill_after).await,
            () = sleep(limit) => {
                let killed = self.end(child, kill_after).await;
                killed.map_or_else(Ending::unknown, |killed| Ending::TimedOut { killed })
            }
            () = stop.reached() => {
                let killed = self.end(child, kill_after).await;
                killed.map_or_else(Ending::unknown, |killed| Ending::Interrupted { killed })
            }
        }
    }

    /// A client that ended has not always seen the end of its unit: it succeeds, too, when D-Bus is restarted.
    async fn conclude(&mut self, client: io::Result<ExitStatus>, kill_after: Duration) -> Ending {
        self.client.release();
        let ended = match self.systemd.end(&self.name, kill_after).await {
            Ok(ended) => ended,
            Err(error) => return Ending::unknown(error),
        };
        self.ended = true;
        match client {
            Err(error) => Ending::Own(Err(error)),
            Ok(status) if self.systemd.has_scopes() => Ending::Starter(status),
            Ok(_) if ended.ran => Ending::unknown(SystemdError::Lost { unit: self.name.clone() }),
            Ok(client) => Ending::Unit { client, name: self.name.clone() },
        }
    }

    /// True when SIGTERM did not do.
    async fn end(&mut self, child: &mut Child, kill_after: Duration) -> Result<bool, SystemdError> {
        let first = self.systemd.end(&self.name, kill_after).await?;
        if timeout(FAREWELL, child.wait()).await.is_err() {
            self.client.kill();
            let _ = child.wait().await;
        }
        self.client.release();
        // The client may have come to start the unit only in between.
        let second = self.systemd.end(&self.name, kill_after).await?;
        self.ended = true;
        Ok(first.killed || second.killed)
    }
}

impl Drop for Unit<'_> {
    fn drop(&mut self) {
        // The client first: it may be about to start the unit.
        self.client.kill();
        if !self.ended {
            self.systemd.end_soon(&self.name);
        }
    }
}
