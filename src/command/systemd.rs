//! Commands as transient units of systemd's, through `systemd-run` and `systemctl`.
//!
//! A service needs `systemd-run` 237 (Ubuntu 18.04): --wait came with 232, --pipe with 235, TimeoutStopSec= as
//! a property of transient units with 237. Older ones get a scope, which every systemd knows since 2013: it has
//! the same name and the same end, but it is a child of the agent's and stays in its sandbox.
//!
//! How a command ended, its [witness](super::witness) tells, and neither `systemd-run --wait` nor `systemctl show`.
//! --uid is not used: the helper changes the user, as without systemd, and says what is wrong with user,
//! directory and program, where systemd has exit codes (217, 200, 203) that the command might have as well.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::state::{PROPERTIES, State};
use super::{JobName, PATH, SystemdError, clean};

/// The first version whose services are used.
const SERVICES: u32 = 237;
/// systemctl answers in milliseconds; the manager may be busy with a boot.
const PATIENCE: Duration = Duration::from_secs(30);
/// On top of the time that a stopped command has: systemd itself kills what is left when the agent cannot.
const MARGIN: Duration = Duration::from_secs(1);
/// How long systemd may keep a unit in mind that is over.
const FORGET: Duration = Duration::from_secs(5);
/// How often it is looked whether it has forgotten it.
const LOOK: Duration = Duration::from_millis(20);

/// Where systemd's programs are; without a slash they are looked for in the usual directories.
#[derive(Debug, Clone)]
pub struct SystemdTools {
    /// `systemd-run`
    pub systemd_run: PathBuf,
    /// `systemctl`
    pub systemctl: PathBuf,
}

impl Default for SystemdTools {
    fn default() -> Self {
        Self { systemd_run: "systemd-run".into(), systemctl: "systemctl".into() }
    }
}

#[derive(Debug, Clone)]
pub(super) struct Systemd {
    tools: SystemdTools,
    scopes: bool,
}

/// What became of a unit that was ended.
#[derive(Debug)]
pub(super) struct Ended {
    /// Its main process ran until then.
    pub(super) ran: bool,
    /// SIGTERM did not do.
    pub(super) killed: bool,
}

impl Systemd {
    pub(super) async fn detect(tools: SystemdTools) -> Result<Self, SystemdError> {
        let mut command = bare(tools.systemd_run.as_ref());
        command.arg("--version");
        let said = text(&answer(command, PATIENCE).await?.stdout);
        let said = said.lines().next().unwrap_or_default().to_owned();
        let scopes = version(&said).ok_or(SystemdError::Version { said })? < SERVICES;
        Ok(Self { tools, scopes })
    }

    /// True: the command is a child of the agent's, so that its exit status is the child's.
    pub(super) fn has_scopes(&self) -> bool {
        self.scopes
    }

    pub(super) fn unit(&self, job: &JobName) -> String {
        format!("{job}.{}", if self.scopes { "scope" } else { "service" })
    }

    /// The client that runs `argv` as the unit and ends with it. The program is given by its full path.
    pub(super) fn client(
        &self,
        unit: &str,
        limit: Duration,
        kill_after: Duration,
        argv: Vec<OsString>,
    ) -> Command {
        let mut command = bare(self.tools.systemd_run.as_ref());
        command.args(["--quiet", &format!("--unit={unit}")]);
        if self.scopes {
            command.arg("--scope").arg("--").args(argv);
            return command;
        }
        // For what the agent, which has limits of its own, does not live to end.
        let stop = kill_after.saturating_add(MARGIN);
        let start = limit.saturating_add(stop).as_millis();
        let stop = stop.as_millis();
        // A oneshot service starts until its command has ended.
        // --collect: what failed is forgotten, even when the agent does not live to see it.
        // No default dependencies: a shutdown of the host would end the command before it asks the agent to end,
        // which gives it its time, and before others stop that the agent is needed for. What a command needs is there
        // for as long as the agent is.
        command.args([
            "--wait",
            "--pipe",
            "--collect",
            "--service-type=oneshot",
            "--property=KillMode=control-group",
            "--property=DefaultDependencies=no",
        ]);
        command.arg("--description=Command of instance-agent");
        command.arg(format!("--property=TimeoutStartSec={start}ms"));
        command.arg(format!("--property=TimeoutStopSec={stop}ms"));
        command.arg("--").args(argv.into_iter().map(|word| escape(&word)));
        command
    }

    /// Stops the unit, waits until none of its processes is left, and makes systemd forget it.
    pub(super) async fn end(&self, unit: &str, kill_after: Duration) -> Result<Ended, SystemdError> {
        let state = self.show(unit).await?;
        let ran = state.main_runs();
        if state.is_forgotten() {
            return Ok(Ended { ran, killed: false });
        }
        let killed = self.stop(unit, kill_after).await?;
        if self.show(unit).await?.is_active() {
            return Err(SystemdError::Alive { unit: unit.into() });
        }
        self.forget(unit).await?;
        Ok(Ended { ran, killed })
    }

    /// Begins to stop the unit, and lets nobody wait for it.
    pub(super) fn end_soon(&self, unit: &str) {
        let mut reset = self.systemctl("reset-failed", unit);
        let Ok(mut stop) = self.systemctl("stop", unit).spawn() else { return };
        // A thread, because the runtime may be at its end. Should this process end first, systemctl goes on.
        std::thread::spawn(move || stop.wait().and_then(|_| reset.status()));
    }

    /// True when SIGTERM did not do. Whether it is stopped then, its state says.
    async fn stop(&self, unit: &str, kill_after: Duration) -> Result<bool, SystemdError> {
        match answer(self.systemctl("stop", unit), kill_after).await {
            Err(SystemdError::Silent { .. }) => {}
            other => return other.map(|_| false),
        }
        let mut kill = self.systemctl("kill", unit);
        kill.arg("--signal=KILL");
        answer(kill, PATIENCE).await?;
        answer(self.systemctl("stop", unit), PATIENCE).await?;
        Ok(true)
    }

    /// A unit that failed is kept in mind, and its name with it, until this. One that a client waited for goes
    /// when the client has gone.
    async fn forget(&self, unit: &str) -> Result<(), SystemdError> {
        // Fails when there is nothing to forget.
        answer(self.systemctl("reset-failed", unit), PATIENCE).await?;
        let end = Instant::now() + FORGET;
        while !self.show(unit).await?.is_forgotten() && Instant::now() < end {
            sleep(LOOK).await;
        }
        Ok(())
    }

    async fn show(&self, unit: &str) -> Result<State, SystemdError> {
        let mut command = self.systemctl("show", unit);
        command.args(["--property", PROPERTIES]);
        let output = answer(command, PATIENCE).await?;
        State::parse(&text(&output.stdout))
            .ok_or_else(|| SystemdError::Answer { unit: unit.into(), said: text(&output.stderr) })
    }

    fn systemctl(&self, verb: &str, unit: &str) -> Command {
        let mut command = bare(self.tools.systemctl.as_ref());
        command.args([verb, unit]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command
    }
}

/// With nothing of the agent's environment, and in words that are not translated.
fn bare(program: &OsStr) -> Command {
    let mut command = Command::new(program);
    command.env_clear().env("PATH", PATH).env("LC_ALL", "C").process_group(0);
    command
}

async fn answer(command: Command, patience: Duration) -> Result<Output, SystemdError> {
    let program = command.get_program().to_string_lossy().into_owned();
    let mut command = tokio::process::Command::from(command);
    command.stdin(Stdio::null()).kill_on_drop(true);
    // On the heap: else it would be part, many times over, of every future that runs a command.
    match timeout(patience, Box::pin(command.output())).await {
        Ok(Ok(output)) => Ok(output),
        Ok(Err(error)) => Err(SystemdError::Run { program, error }),
        Err(_) => Err(SystemdError::Silent { program, after: patience }),
    }
}

fn text(bytes: &[u8]) -> String {
    let lines = String::from_utf8_lossy(bytes);
    lines.lines().map(clean).collect::<Vec<_>>().join("\n")
}

/// `systemd 252 (252.39-1~deb12u2)`, `systemd 256~rc1`
fn version(said: &str) -> Option<u32> {
    let word = said.strip_prefix("systemd ")?;
    let end = word.find(|c: char| !c.is_ascii_digit()).unwrap_or(word.len());
    word[..end].parse().ok()
}

/// In the arguments of a service systemd replaces `$NAME`, and `$$` by `$`.
fn escape(word: &OsStr) -> OsString {
    let bytes =
        word.as_bytes().iter().flat_map(|&byte| std::iter::repeat_n(byte, 1 + usize::from(byte == b'$')));
    OsString::from_vec(bytes.collect())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_all_distributions_are_read() {
        let said =
            ["systemd 252 (252.39-1~deb12u2)\n+PAM", "systemd 229\n+PAM", "systemd 256~rc1", "systemd 219"];
        assert_eq!(said.map(version), [Some(252), Some(229), Some(256), Some(219)]);
        assert_eq!(["", "systemd", "elogind 5", "systemd x"].map(version), [None; 4]);
    }

    #[test]
    fn every_dollar_is_doubled() {
        assert_eq!(escape("a$b$$ %n \\x".as_ref()), "a$$b$$$$ %n \\x");
    }

    #[test]
    fn only_what_every_version_knows_is_asked_of_an_old_systemd() {
        let old = Systemd { tools: SystemdTools::default(), scopes: true };
        let unit = old.unit(&"instance-agent-update-web".to_owned().try_into().unwrap());
        let client =
            old.client(&unit, Duration::ZERO, Duration::ZERO, vec!["/bin/echo".into(), "$HOME".into()]);
        let arguments: Vec<_> = client.get_args().collect();
        let unit = "--unit=instance-agent-update-web.scope";
        assert_eq!(arguments, ["--quiet", unit, "--scope", "--", "/bin/echo", "$HOME"]);
    }
}
