//! The real program, and services that are no more than files.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use nix::libc::O_NONBLOCK;
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, mkfifo};
use serde_json::Value;
use tempfile::TempDir;

use super::{LOOK, Mosquitto, PATIENCE};

/// Plays the service manager and all commands: `do WHAT NAME` notes that it ran, and with which commit. A FIFO
/// `hold.WHAT.NAME` holds it up until a test writes to it; a file `fail.WHAT.NAME` makes it print that and fail; a
/// service with a file `dies.NAME` is down once it has been seen up. What begins while another of the same name is
/// still at work is noted as an overlap; outcomes of different apps may well be told side by side.
const DO: &str = r#"#!/bin/sh
here=${0%/*}
if [ "$1" = status ]; then
  test -e "$here/up.$2" || exit 3
  if [ -e "$here/dies.$2" ]; then rm -f "$here/up.$2"; fi
  exit 0
fi
if [ "$1" != outcome ]; then
  for other in "$here/at-work.$2".*; do
    if grep -qs "$here/do" "/proc/${other##*.}/cmdline"; then echo "$1 $2 beside $(cat "$other")" >> "$here/overlaps"; fi
  done
  echo "$1 $2" > "$here/at-work.$2.$$"
  trap 'rm -f "$here/at-work.$2.$$"' EXIT
fi
env > "$here/env.$1.$2.new" && mv "$here/env.$1.$2.new" "$here/env.$1.$2"
printf '%s %s%.8s\n' "$1" "$2" "${GITHUB_SHA:+ $GITHUB_SHA}" >> "$here/events"
if [ -p "$here/hold.$1.$2" ]; then read -r _ < "$here/hold.$1.$2"; fi
if [ -e "$here/fail.$1.$2" ]; then cat "$here/fail.$1.$2"; exit 7; fi
case $1 in
  stop) rm -f "$here/up.$2" ;;
  start) : > "$here/up.$2" ;;
  outcome) printf '%s\n' "$(cat)" >> "$here/outcomes" ;;
esac
"#;

/// A directory with a configuration, and with the services and commands that it names.
#[derive(Clone)]
pub struct Instance {
    directory: Arc<Directory>,
    url: String,
    mqtt: String,
}

impl Instance {
    pub fn new(broker: &Mosquitto) -> Self {
        Self::at(broker.port())
    }

    /// With its broker on this port.
    pub fn at(port: u16) -> Self {
        Self::of(&format!("mqtt://127.0.0.1:{port}"))
    }

    /// With this as its `mqtt.url`.
    pub fn of(url: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join("do");
        fs::write(&program, DO).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        Self { directory: Arc::new(Directory(directory)), url: url.to_owned(), mqtt: String::new() }
    }

    /// Adds a line to the `mqtt` section of all configurations from now on; `{dir}` is the directory.
    #[must_use]
    pub fn mqtt(mut self, line: &str) -> Self {
        writeln!(self.mqtt, "  {line}").unwrap();
        self
    }

    /// Writes the configuration: the broker, the services, and this, in which `{dir}` is the directory.
    pub fn configure(&self, rest: &str) {
        self.write("config.yaml", self.document(rest));
    }

    /// What [`Instance::configure`] writes.
    pub fn document(&self, rest: &str) -> String {
        let dir = self.path().display();
        let (url, mqtt, id) = (&self.url, &self.mqtt, self.client_id());
        let head = format!(
            "mqtt:\n  url: {url}\n  client_id: {id}\n{mqtt}\
             state_dir: {dir}/state\n\
             service_manager:\n  name: files\n  stop: [{dir}/do, stop, \"{{service}}\"]\n  \
             start: [{dir}/do, start, \"{{service}}\"]\n  status: [{dir}/do, status, \"{{service}}\"]\n"
        );
        format!("{head}{rest}\n").replace("{dir}", &dir.to_string())
    }

    pub fn client_id(&self) -> String {
        let name = self.path().file_name().unwrap().to_str().unwrap();
        format!("agent{}", name.replace('.', "-"))
    }

    pub fn path(&self) -> &Path {
        self.directory.0.path()
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        fs::write(self.file(name), content).unwrap();
    }

    /// The text of a file; empty when there is none.
    pub fn read(&self, name: &str) -> String {
        String::from_utf8_lossy(&fs::read(self.file(name)).unwrap_or_default()).into_owned()
    }

    /// The text of a file, once there is one.
    pub fn wait_for_file(&self, name: &str) -> String {
        eventually(|| fs::read_to_string(self.file(name)).ok(), || format!("no file {name}"))
    }

    /// Makes this command or service action fail, with this output.
    pub fn fail(&self, what: &str, name: &str, output: &str) {
        self.write(&format!("fail.{what}.{name}"), output);
    }

    /// Takes back [`Instance::fail`].
    pub fn mend(&self, what: &str, name: &str) {
        fs::remove_file(self.file(&format!("fail.{what}.{name}"))).unwrap();
    }

    /// Holds this command or service action up, each time until it is released.
    pub fn hold(&self, what: &str, name: &str) {
        mkfifo(&self.file(&format!("hold.{what}.{name}")), Mode::S_IRWXU).unwrap();
    }

    /// Lets it go on once, as soon as it waits.
    pub fn release(&self, what: &str, name: &str) {
        self.held(what, name).write_all(b"go\n").unwrap();
    }

    /// Waits until it is held up, and keeps it so until what this gives is dropped.
    pub fn held(&self, what: &str, name: &str) -> File {
        let fifo = self.file(&format!("hold.{what}.{name}"));
        let open = || fs::OpenOptions::new().write(true).custom_flags(O_NONBLOCK).open(&fifo).ok();
        eventually(open, || format!("{what} {name} never waits\n{:#?}", self.events()))
    }

    /// Takes back [`Instance::hold`], but not from what waits already.
    pub fn hold_no_more(&self, what: &str, name: &str) {
        fs::remove_file(self.file(&format!("hold.{what}.{name}"))).unwrap();
    }

    /// Lets it go on, now and from now on.
    pub fn release_for_good(&self, what: &str, name: &str) {
        self.release(what, name);
        fs::remove_file(self.file(&format!("hold.{what}.{name}"))).unwrap();
    }

    /// What the services and commands did: `stop api`, `update api aaaaaaa`, …
    pub fn events(&self) -> Vec<String> {
        self.read("events").lines().map(str::to_owned).collect()
    }

    /// What began while another of its name was at work.
    pub fn overlaps(&self) -> String {
        self.read("overlaps")
    }

    /// Runs the program, with this configuration, to its end.
    pub fn ask(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_instance-agent"));
        command.args(arguments).arg("--config").arg(self.file("config.yaml"));
        command.env_clear().stdin(Stdio::null()).output().unwrap()
    }

    /// What `status --json` says of an app.
    pub fn status(&self, app: &str) -> Value {
        let apps: Vec<Value> = serde_json::from_slice(&self.ask(&["status", "--json"]).stdout).unwrap();
        apps.into_iter().find(|it| it["app"] == app).unwrap_or_default()
    }

    /// What `history --json` says of an app, the oldest outcome first.
    pub fn history(&self, app: &str) -> Vec<Value> {
        serde_json::from_slice(&self.ask(&["history", app, "--json"]).stdout).unwrap()
    }

    /// Whether the service is up.
    pub fn is_up(&self, service: &str) -> bool {
        self.file(&format!("up.{service}")).exists()
    }

    /// The JSON that `on_outcome` has been given so far.
    pub fn outcomes(&self) -> Vec<Value> {
        self.read("outcomes").lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    pub fn start(&self) -> Agent {
        self.start_with(|_| ())
    }

    /// Starts the agent with more arguments or variables.
    pub fn start_with(&self, more: impl FnOnce(&mut Command)) -> Agent {
        let mut command = Command::new(env!("CARGO_BIN_EXE_instance-agent"));
        command.arg("run").arg("--config").arg(self.file("config.yaml"));
        self.spawn(command, more)
    }

    /// Starts the agent without `--config`.
    pub fn start_without_file(&self, more: impl FnOnce(&mut Command)) -> Agent {
        let mut command = Command::new(env!("CARGO_BIN_EXE_instance-agent"));
        command.arg("run");
        self.spawn(command, more)
    }

    fn spawn(&self, mut command: Command, more: impl FnOnce(&mut Command)) -> Agent {
        command.args(["--log-format", "json"]);
        // What a command runs in tells whose it is, should it have to be cleared away.
        command.current_dir(self.path());
        command.env_clear().env("PATH", "/usr/local/bin:/usr/bin:/bin");
        // The tests may themselves run on an EC2 instance.
        command.env("AWS_EC2_METADATA_DISABLED", "true");
        // What packages use is none of the tests' business.
        command.env("STATE_DIRECTORY", self.file("usual"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        more(&mut command);
        let mut child = command.spawn().unwrap();
        let lines = Arc::new(Mutex::new(Vec::new()));
        let reader = collect(child.stderr.take().unwrap(), lines.clone());
        Agent { instance: self.clone(), child, lines, reader: Some(reader) }
    }
}

/// Removed with the last of its instances, once what runs in it was killed.
struct Directory(TempDir);

impl Drop for Directory {
    fn drop(&mut self) {
        let ours = fs::canonicalize(self.0.path()).unwrap();
        for process in fs::read_dir("/proc").unwrap().flatten() {
            let Ok(pid) = process.file_name().to_string_lossy().parse() else { continue };
            if fs::read_link(process.path().join("cwd")).is_ok_and(|cwd| cwd.starts_with(&ours)) {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
    }
}

fn collect(stderr: ChildStderr, lines: Arc<Mutex<Vec<String>>>) -> JoinHandle<()> {
    thread::spawn(move || {
        for line in BufReader::new(stderr).split(b'\n') {
            let line = String::from_utf8_lossy(&line.unwrap()).into_owned();
            lines.lock().unwrap().push(line);
        }
    })
}

/// A running agent; killed when dropped, and what it runs when its instance is.
pub struct Agent {
    pub instance: Instance,
    child: Child,
    lines: Arc<Mutex<Vec<String>>>,
    reader: Option<JoinHandle<()>>,
}

impl Agent {
    /// Waits until the broker has granted the subscriptions so many times.
    pub fn subscribed(&self, times: usize) -> Value {
        self.logged_times(times, "subscribed", &[]).pop().unwrap()
    }

    /// The first event with this message whose fields contain these texts, once there is one.
    pub fn logged(&self, message: &str, fields: &[(&str, &str)]) -> Value {
        self.logged_times(1, message, fields).swap_remove(0)
    }

    /// The same, once there are so many.
    pub fn logged_times(&self, times: usize, message: &str, fields: &[(&str, &str)]) -> Vec<Value> {
        let look = || Some(self.log_of(message, fields)).filter(|found| found.len() >= times);
        eventually(look, || format!("not logged {times} times: {message} {fields:?}\n{}", self.report()))
    }

    /// The events so far with this message whose fields contain these texts.
    pub fn log_of(&self, message: &str, fields: &[(&str, &str)]) -> Vec<Value> {
        let fits = |event: &Value| {
            event["message"].as_str().unwrap().contains(message)
                && fields.iter().all(|(key, part)| text(&event[*key]).contains(part))
        };
        self.log().into_iter().filter(fits).collect()
    }

    /// All events so far. Each line must be one.
    pub fn log(&self) -> Vec<Value> {
        let event = |line: &String| {
            serde_json::from_str(line).unwrap_or_else(|error| panic!("no event: {error}: {line}"))
        };
        self.lines.lock().unwrap().iter().map(event).collect()
    }

    /// The events so far that are warnings or errors.
    pub fn complaints(&self) -> Vec<Value> {
        self.log()
            .into_iter()
            .filter(|event| matches!(event["level"].as_str(), Some("WARN" | "ERROR")))
            .collect()
    }

    /// What to show when something is not as it should be.
    pub fn report(&self) -> String {
        let log = self.lines.lock().unwrap().join("\n");
        format!("log:\n{log}\nevents: {:#?}", self.instance.events())
    }

    /// Waits until the services and commands have done this and no more, in this order.
    pub fn did(&self, expected: &[&str]) {
        let look = || (self.instance.events() == expected).then_some(());
        eventually(look, || format!("expected {expected:#?}\n{}", self.report()));
    }

    /// Waits until they have done this.
    pub fn did_at_last(&self, event: &str) {
        let look = || self.instance.events().iter().any(|it| it == event).then_some(());
        eventually(look, || format!("never: {event}\n{}", self.report()));
    }

    /// The outcomes that `on_outcome` was given, once there are so many.
    pub fn outcomes(&self, count: usize) -> Vec<Value> {
        let look = || Some(self.instance.outcomes()).filter(|outcomes| outcomes.len() >= count);
        eventually(look, || format!("not {count} outcomes\n{}", self.report()))
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), signal).unwrap();
    }

    /// Tells it to end and waits until it has.
    pub fn stop(&mut self) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        self.wait()
    }

    /// Waits until it has ended, and all its log has been read.
    pub fn wait(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(Instant::now() < deadline, "it does not end\n{}", self.report());
            thread::sleep(LOOK);
        };
        if let Some(reader) = self.reader.take() {
            reader.join().unwrap();
        }
        status
    }

    /// Ends it as a crash would.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its resident memory now and at its highest, in KiB.
    pub fn memory(&self) -> (u64, u64) {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let field = |name: &str| {
            let line = status.lines().find(|line| line.starts_with(name)).unwrap();
            line.split_whitespace().nth(1).unwrap().parse().unwrap()
        };
        (field("VmRSS:"), field("VmHWM:"))
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// Looks until there is something.
pub fn eventually<T>(look: impl Fn() -> Option<T>, complaint: impl FnOnce() -> String) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "{}", complaint());
        thread::sleep(LOOK);
    }
}
