//! The agent as it is measured: the release binary, with services that are no more than a command.

use std::fmt::Write;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::{Instant, SystemTime};

use serde_json::Value;
use tempfile::TempDir;

use crate::process::Group;
use crate::support::{LOOK, PATIENCE, certificates};

/// Set where another build than that of this program is measured.
static PROGRAM: OnceLock<PathBuf> = OnceLock::new();

/// Measures this one.
pub fn use_program(path: PathBuf) {
    let _ = PROGRAM.set(path);
}

/// What is measured.
pub fn program() -> &'static Path {
    PROGRAM.get_or_init(|| env!("CARGO_BIN_EXE_instance-agent").into())
}

/// What does nothing to a service.
const NOTHING: &str = r#"["true", "{service}"]"#;

/// The command of a service manager.
fn for_service(command: &[String]) -> String {
    format!("{:?}", [command, &["{service}".to_owned()]].concat())
}

/// A configuration to be started.
pub struct Instance {
    directory: TempDir,
    mqtt: String,
    stop: String,
    start: String,
    more: String,
    apps: String,
    state_dir: PathBuf,
    level: &'static str,
}

impl Instance {
    /// An agent of the broker on this port.
    pub fn of(port: u16) -> Self {
        Self::at(&format!("mqtt://127.0.0.1:{port}"))
    }

    /// An agent that connects with TLS to the broker on this port, whose authority is in that directory.
    pub fn with_tls(port: u16, directory: &Path) -> Self {
        Self::at(&format!("mqtts://localhost:{port}"))
            .mqtt(&format!("ca_file: {}/ca.pem", directory.display()))
    }

    fn at(url: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let client_id = format!("agent-{:016x}", fastrand::u64(..));
        let state_dir = directory.path().join("state");
        Self {
            mqtt: format!("  url: {url}\n  client_id: {client_id}\n"),
            directory,
            stop: NOTHING.to_owned(),
            start: NOTHING.to_owned(),
            more: String::new(),
            apps: String::new(),
            state_dir,
            level: "info",
        }
    }

    /// Adds a line to the `mqtt` section.
    pub fn mqtt(mut self, line: &str) -> Self {
        writeln!(self.mqtt, "  {line}").unwrap();
        self
    }

    /// Adds a line of its own.
    pub fn with(mut self, line: &str) -> Self {
        writeln!(self.more, "{line}").unwrap();
        self
    }

    /// What stops a service.
    pub fn stopped_by(mut self, command: &[String]) -> Self {
        self.stop = for_service(command);
        self
    }

    /// What starts a service.
    pub fn started_by(mut self, command: &[String]) -> Self {
        self.start = for_service(command);
        self
    }

    pub fn state_dir(mut self, directory: PathBuf) -> Self {
        self.state_dir = directory;
        self
    }

    pub fn log_level(mut self, level: &'static str) -> Self {
        self.level = level;
        self
    }

    /// An app of the branch `main` of this repository.
    pub fn app(self, name: &str, repo: &str) -> Self {
        self.app_with(name, repo, name)
    }

    /// So many apps, each of a repository of its own. They share a service, for the agent looks once at each service
    /// that there is, which is not what is measured with them.
    pub fn apps(self, count: usize) -> Self {
        (0..count).fold(self, |it, n| it.app_with(&format!("app-{n}"), &format!("managed/app-{n}"), "app"))
    }

    /// An app that has no branch of its own.
    pub fn app_of_default_branch(mut self, name: &str, repo: &str) -> Self {
        writeln!(self.apps, "- {{name: {name}, repo: {repo}, service: {name}, settle: 0s}}").unwrap();
        self
    }

    fn app_with(mut self, name: &str, repo: &str, service: &str) -> Self {
        let line = format!("- {{name: {name}, repo: {repo}, service: {service}, branch: main, settle: 0s}}");
        writeln!(self.apps, "{line}").unwrap();
        self
    }

    pub fn start(self) -> Agent {
        self.start_with(|_| ())
    }

    /// Starts it with more in its environment.
    pub fn start_with(self, more: impl FnOnce(&mut Command)) -> Agent {
        let (dir, Self { mqtt, stop, start, more: rest, apps, .. }) = (self.directory.path(), &self);
        let state = self.state_dir.display();
        let text = format!(
            "mqtt:\n{mqtt}state_dir: {state}\nservice_manager:\n  name: none\n  stop: {stop}\n  start: {start}\n  \
             status: {NOTHING}\n{rest}apps:\n{apps}"
        );
        fs::write(dir.join("config.yaml"), text).unwrap();
        let mut command = Command::new(program());
        command.args(["run", "--log-format", "json", "--log-level", self.level, "--config"]);
        command.arg(dir.join("config.yaml")).stdin(Stdio::null()).stdout(Stdio::null());
        command.stderr(File::create(dir.join("log")).unwrap());
        command
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .env("AWS_EC2_METADATA_DISABLED", "true");
        more(&mut command);
        let started = SystemTime::now();
        Agent { group: Group::spawn(command), started, instance: self }
    }
}

/// A running agent.
pub struct Agent {
    pub group: Group,
    pub instance: Instance,
    /// When it was started.
    pub started: SystemTime,
}

impl Agent {
    /// Waits until the broker has granted its subscriptions, and says when that was.
    pub fn subscribed(&self) -> SystemTime {
        self.logged("subscribed", 1).remove(0)
    }

    /// When these events were logged, once there are so many.
    pub fn logged(&self, message: &str, count: usize) -> Vec<SystemTime> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let times = self.times_of(message);
            if times.len() >= count {
                return times;
            }
            assert!(Instant::now() < deadline, "not logged {count} times: {message}\n{}", self.log());
            std::thread::sleep(LOOK);
        }
    }

    /// When the events with this message were logged so far.
    pub fn times_of(&self, message: &str) -> Vec<SystemTime> {
        let log = self.log();
        let events = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let events = events.filter(|event| event["message"] == message);
        events.map(|event| humantime::parse_rfc3339(event["timestamp"].as_str().unwrap()).unwrap()).collect()
    }

    fn log(&self) -> String {
        fs::read_to_string(self.instance.directory.path().join("log")).unwrap()
    }
}

/// An authority and a certificate, for a broker with TLS.
pub fn authority() -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    certificates(directory.path());
    directory
}
