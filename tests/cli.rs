//! The command line: every mistake in a configuration is named, and `check` says what `run` would do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[path = "cli/check.rs"]
mod check;
#[path = "cli/files.rs"]
mod files;
#[path = "cli/message.rs"]
mod message;
#[path = "cli/usage.rs"]
mod usage;
#[path = "cli/values.rs"]
mod values;

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use serde_json::Value;
use support::program;
use tempfile::TempDir;

/// A service manager that every host has.
const MANAGER: &str = "service_manager: {name: none, stop: [\"true\", \"{service}\"], start: [\"true\", \"{service}\"], \
                       status: [\"true\", \"{service}\"]}";

struct Directory(TempDir);

impl Directory {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.path().join(name);
        fs::write(&path, content).unwrap();
        path
    }

    /// The file outlives this.
    fn write_kept(self, name: &str, content: &str) -> KeptFile {
        let path = self.write(name, content);
        KeptFile { path, _directory: self }
    }
}

struct KeptFile {
    path: PathBuf,
    _directory: Directory,
}

impl std::ops::Deref for KeptFile {
    type Target = Path;

    fn deref(&self) -> &Path {
        &self.path
    }
}

fn agent(arguments: &[&str]) -> Output {
    agent_given(arguments, &[])
}

fn agent_given(arguments: &[&str], input: &[u8]) -> Output {
    let variables = [("PATH", "/usr/bin:/bin"), ("AWS_EC2_METADATA_DISABLED", "true")];
    program::run(arguments, &variables, input)
}

fn errors(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn words(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// The lines that `check` complains with about this file. `run` must say the same.
fn complaints_about(path: &Path, flags: &[&str]) -> Vec<String> {
    let config = ["--config", path.to_str().unwrap()];
    let checked = agent(&[&["check"], &config[..], flags].concat());
    assert_eq!(checked.status.code(), Some(78), "{checked:?}");
    assert!(checked.stdout.is_empty(), "{checked:?}");
    let lines: Vec<String> = errors(&checked).lines().map(str::to_owned).collect();
    let run = agent(&[&["run", "--log-format", "json"], &config[..], flags].concat());
    assert_eq!(run.status.code(), Some(78), "{run:?}");
    let logged: Vec<Value> = errors(&run).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(logged.len(), lines.len(), "{run:?}");
    for (event, line) in logged.iter().zip(&lines) {
        assert_eq!(event["level"], "ERROR");
        assert_eq!(event["message"].as_str().unwrap(), format!("invalid configuration: {line}"));
    }
    lines
}

/// Each mistake as its line (0: none) and the words that must follow in this order.
fn assert_mistakes(text: &str, expected: &[(usize, &[&str])]) {
    let directory = Directory::new();
    let path = directory.write("config.yaml", text);
    let lines = complaints_about(&path, &[]);
    let path = path.display();
    assert_eq!(lines.len(), expected.len(), "{text}\n{lines:#?}");
    for (line, (number, parts)) in lines.iter().zip(expected) {
        let start = if *number == 0 { format!("{path}: ") } else { format!("{path}:{number}: ") };
        let mut rest = line.strip_prefix(&start).unwrap_or_else(|| panic!("{start}\n{text}\n{lines:#?}"));
        for part in *parts {
            let at = rest.find(part).unwrap_or_else(|| panic!("{part} is missing: {line}\n{text}"));
            rest = &rest[at + part.len()..];
        }
    }
}

/// A document whose first line is this, and which is right otherwise.
fn beside_apps(first: &str) -> String {
    format!("{first}\nmqtt: {{url: mqtt://localhost}}\n{MANAGER}\napps: [{{repo: acme/api, service: api}}]\n")
}

/// A document with this in its `mqtt` section, on line 3.
fn in_mqtt(line: &str) -> String {
    format!(
        "mqtt:\n  url: mqtts://localhost\n  {line}\n{MANAGER}\napps: [{{repo: acme/api, service: api}}]\n"
    )
}

/// A document whose only app says this from line 4 on.
fn in_app(lines: &str) -> String {
    format!("mqtt: {{url: mqtt://localhost}}\n{MANAGER}\napps:\n- {}\n", lines.replace('\n', "\n  "))
}

/// A document whose only app has this beside its repository and service, on line 6.
fn app_with(line: &str) -> String {
    in_app(&format!("repo: acme/api\nservice: api\n{line}"))
}

#[test]
fn the_documents_of_these_tests_are_right_without_their_mistakes() {
    for text in [beside_apps("max_parallel: 2"), in_mqtt("keep_alive: 60s"), app_with("settle: 1s")] {
        let path = Directory::new();
        let path = path.write("config.yaml", text);
        let output = agent(&["check", "--config", path.to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
    }
}
