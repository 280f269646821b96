//! Runs the demo as a user does: to its end, with its invitation to play, and without git.
#![allow(clippy::panic, clippy::unwrap_used)]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, ExitStatus, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

/// How long anything may take before a test fails.
const PATIENCE: Duration = Duration::from_secs(60);

/// The demo, with a directory for its own temporary one.
fn demo(directory: &TempDir) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_demo"));
    command.env("TMPDIR", directory.path()).stdin(Stdio::null()).stdout(Stdio::piped());
    command
}

/// A demo that is killed when a test fails.
struct Running {
    child: Child,
    output: BufReader<ChildStdout>,
}

impl Running {
    fn start(command: &mut Command) -> Self {
        let mut child = command.spawn().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        Self { child, output }
    }

    /// The next line that begins so, but for blanks.
    fn line(&mut self, begin: &str) -> String {
        let mut line = String::new();
        while self.output.read_line(&mut line).unwrap() > 0 {
            if line.trim().starts_with(begin) {
                return line.trim().to_owned();
            }
            line.clear();
        }
        panic!("no line that begins with {begin:?}");
    }

    /// Presses Ctrl-C, and reads to the end.
    fn end(&mut self) -> ExitStatus {
        kill(Pid::from_raw(self.child.id().try_into().unwrap()), Signal::SIGINT).unwrap();
        self.output.read_to_string(&mut String::new()).unwrap();
        self.child.wait().unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The demo has removed what it made, and none of its processes is left.
fn assert_gone(directory: &TempDir) {
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0, "files are left");
    let deadline = Instant::now() + PATIENCE;
    while let Some(process) = process_about(directory.path()) {
        assert!(Instant::now() < deadline, "a process is left: {process}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// The command line of a process that mentions the directory.
fn process_about(directory: &Path) -> Option<String> {
    let directory = directory.to_str().unwrap();
    fs::read_dir("/proc").unwrap().flatten().find_map(|entry| {
        let words = fs::read(entry.path().join("cmdline")).ok()?;
        let words = String::from_utf8_lossy(&words).replace('\0', " ");
        words.contains(directory).then_some(words)
    })
}

fn assert_in_order(text: &str, parts: &[&str]) {
    let mut rest = text;
    for part in parts {
        let Some(at) = rest.find(part) else { panic!("no {part:?} where it should be in:\n{text}") };
        rest = &rest[at + part.len()..];
    }
}

fn text(output: &Output) -> String {
    assert!(!output.stdout.contains(&0x1b), "colours, although this is no terminal");
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[test]
fn version_2_is_served_and_the_other_push_restarts_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let output = demo(&directory).output().unwrap();
    let text = text(&output);
    assert!(output.status.success(), "{text}");
    assert_in_order(
        &text,
        &[
            "app   │ hello: process",
            "→ version 1",
            "agent │",
            "INFO subscribed filters=\"github/+/+\"",
            "topic github/octo-org/website",
            "→ version 1",
            "✓ ignored",
            "developer$ git push origin main",
            "topic github/octo-org/hello",
            "INFO push taken",
            "INFO deploy began",
            "INFO stopping service",
            "has ended",
            "step=\"update\"",
            "HEAD is now at",
            "INFO starting service",
            "serves \"version 2\"",
            "INFO deployed",
            "✓ the push to octo-org/website restarted nothing",
            "✓ the push to octo-org/hello restarted hello",
            "INFO stopped",
        ],
    );
    assert_eq!(text.matches("deploy began").count(), 1, "{text}");
    assert_gone(&directory);
}

#[test]
fn the_commands_to_play_with_work() {
    let directory = tempfile::tempdir().unwrap();
    let mut running = Running::start(demo(&directory).arg("--keep"));
    let commit = running.line("cd ");
    let publish = running.line("mosquitto_pub ");
    let ask = running.line("curl ");
    run(&commit);
    run(&publish);
    running.line("app   │ hello: process");
    assert!(running.line("app   │ hello: process").ends_with("serves \"version 3\""));
    running.line("agent │");
    assert!(get(ask.strip_prefix("curl http://").unwrap()).ends_with("\r\n\r\nversion 3\n"));
    assert!(running.end().success());
    assert_gone(&directory);
}

fn run(line: &str) {
    let output = Command::new("sh").args(["-ec", line]).output().unwrap();
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
}

/// What curl would get, which need not be installed.
fn get(url: &str) -> String {
    let mut stream = TcpStream::connect(url.trim_end_matches('/')).unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).unwrap();
    response
}

#[test]
fn an_interrupted_demo_leaves_nothing_behind() {
    let directory = tempfile::tempdir().unwrap();
    let mut running = Running::start(demo(&directory).stderr(Stdio::null()));
    running.line("app   │ hello: process");
    assert_eq!(running.end().code(), Some(130));
    assert_gone(&directory);
}

#[test]
fn without_git_it_fails_and_says_why() {
    let directory = tempfile::tempdir().unwrap();
    let output = demo(&directory).env("PATH", "/nonexistent").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let words = String::from_utf8(output.stderr).unwrap();
    assert!(words.contains("The demo failed") && words.contains("is git installed?"), "{words}");
    assert_gone(&directory);
}
