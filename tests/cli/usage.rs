//! The program as a program: its arguments, and where its words go.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::process::{Command, Stdio};

use crate::{Directory, agent, beside_apps, complaints_about, errors, words};

#[test]
fn mistakes_in_flags_name_the_flag() {
    let file = Directory::new().write_kept("config.yaml", &beside_apps(""));
    for (flags, parts) in [
        (
            &["--app", "acme/web=web", "--app", "acme/api"][..],
            &["--app: \"acme/api\" must be OWNER/REPO[@BRANCH]=SERVICE"][..],
        ),
        (&["--app", "acme=api"], &["--app: apps[0].repo: \"acme\"", "OWNER/NAME"]),
        (&["--app", "acme/api=-x"], &["--app: apps[0].service: \"-x\""]),
        (&["--app", "acme/api@a b=x"], &["--app: apps[0].branch: \"a b\""]),
        (&["--app", "acme/api=x", "--app", "acme/web=x"], &["--app: apps[1].name: \"x\""]),
        (&["--app", "acme/api@=x"], &["--app: apps[0].branch: "]),
        (&["--app", ""], &["--app: \"\" must be OWNER/REPO"]),
        (&["--broker", "http://x"], &["--broker: mqtt.url: must be mqtt://"]),
        (&["--environment", "a b"], &["--environment: environment: \"a b\""]),
    ] {
        let lines = complaints_about(&file, flags);
        assert_eq!(lines.len(), 1, "{flags:?} {lines:?}");
        assert!(parts.iter().all(|part| lines[0].contains(part)), "{flags:?} {lines:?}");
    }
}

#[test]
fn wrong_usage_exits_with_2() {
    for arguments in [
        &[][..],
        &["walk"],
        &["run", "--nonsense"],
        &["run", "extra"],
        &["run", "--config"],
        &["run", "--log-format", "xml"],
        &["run", "--log-level", "loud"],
        &["check", "--message", "file"],
        &["check", "--topic", "github/a/b"],
        &["check", "--message", "-", "--topic", "t", "--header", "no colon"],
    ] {
        let output = agent(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?} {output:?}");
        assert!(errors(&output).contains("Usage") || errors(&output).contains("--help"), "{output:?}");
    }
    for arguments in [&["--help"][..], &["--version"], &["run", "--help"], &["check", "--help"]] {
        let output = agent(arguments);
        assert!(output.status.success() && !output.stdout.is_empty(), "{output:?}");
    }
    assert!(!words(&agent(&["--help"])).contains("exec-as"));
}

/// Neither is a reason to panic.
#[test]
fn a_reader_that_leaves_and_a_full_disk_are_borne() {
    let file = Directory::new().write_kept("config.yaml", &beside_apps(""));
    let state = tempfile::tempdir().unwrap();
    let state = state.path().to_str().unwrap();
    let config = ["--config", file.to_str().unwrap()];
    let message = ["--topic", "github/acme/other", "--message", "/dev/null"];
    for arguments in [
        [&["check"], &config[..]].concat(),
        [&["check"], &config[..], &message].concat(),
        vec!["status", "--state-dir", state],
    ] {
        let output = |stdout: Stdio| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_instance-agent"));
            command.args(&arguments).stdin(Stdio::null()).stdout(stdout).output().unwrap()
        };
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let left = output(writer.into());
        assert!(left.status.code() == Some(0) && left.stderr.is_empty(), "{arguments:?} {left:?}");
        let full = output(fs::File::create("/dev/full").unwrap().into());
        assert_eq!(full.status.code(), Some(1), "{arguments:?} {full:?}");
        assert!(errors(&full).starts_with("instance-agent: No space left"), "{arguments:?} {full:?}");
    }
}

/// What cannot be said does not end what is to be done.
#[test]
fn a_standard_error_that_is_full_or_gone_is_borne() {
    let mistaken = Directory::new().write_kept("config.yaml", &beside_apps("environment: [a]"));
    let config = ["--config", mistaken.to_str().unwrap()];
    for (arguments, code) in [
        ([&["check"], &config[..]].concat(), 78),
        ([&["run"], &config[..]].concat(), 78),
        ([&["run", "--log-format", "json"], &config[..]].concat(), 78),
        (vec!["status", "--state-dir", "/no/such/directory"], 1),
        (vec!["publish"], 2),
    ] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        for stderr in [writer.into(), Stdio::from(fs::File::create("/dev/full").unwrap())] {
            let mut command = Command::new(env!("CARGO_BIN_EXE_instance-agent"));
            command.args(&arguments).env("AWS_EC2_METADATA_DISABLED", "true");
            let status = command.stdin(Stdio::null()).stderr(stderr).status().unwrap();
            assert_eq!(status.code(), Some(code), "{arguments:?}");
        }
    }
}

/// "No push has come" would belie the journal that is elsewhere.
#[test]
fn status_says_where_it_has_looked_in_vain() {
    let directory = Directory::new();
    let path = |name: &str| directory.0.path().join(name).display().to_string();
    let state = directory.0.path().to_str().unwrap();
    for command in ["status", "history"] {
        let output = agent(&[command, "--state-dir", state]);
        assert_eq!(words(&output), format!("No app has a record in {state} yet: no push has come.\n"));
        assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
        for nowhere in [path("nowhere"), directory.write("file", "").display().to_string()] {
            let output = agent(&[command, "--state-dir", &nowhere]);
            assert_eq!(output.status.code(), Some(1), "{output:?}");
            assert!(errors(&output).contains(&format!("{nowhere} is no directory")), "{output:?}");
        }
        let output = agent(&[command, "--json", "--config", &path("confg.yaml")]);
        assert!(errors(&output).contains("confg.yaml: No such file"), "{output:?}");
        let output = agent(&[command, "--config", &path("confg.yaml"), "--state-dir", state]);
        assert!(output.stderr.is_empty(), "the file does not count: {output:?}");
    }
}

/// systemd says by `$JOURNAL_STREAM` which file the journal listens on.
#[test]
fn the_journal_gets_priorities_and_no_times() {
    let directory = Directory::new();
    let file = directory.write("config.yaml", "mqtt: {url: mqtt://localhost}\n");
    let log = fs::File::create(directory.0.path().join("log")).unwrap();
    let facts = log.metadata().unwrap();
    let run = |stream: String| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_instance-agent"));
        command.args(["run", "--config", file.to_str().unwrap()]);
        command.env_clear().env("AWS_EC2_METADATA_DISABLED", "true").env("JOURNAL_STREAM", stream);
        command.stderr(log.try_clone().unwrap()).status().unwrap();
        fs::read_to_string(directory.0.path().join("log")).unwrap()
    };
    let text = run(format!("{}:{}", facts.dev(), facts.ino()));
    assert!(text.starts_with("<3>invalid configuration: ") && text.lines().count() == 1, "{text}");
    let text = run(format!("{}:{}", facts.dev(), facts.ino() + 1));
    let elsewhere = text.lines().nth(1).unwrap();
    assert!(elsewhere.starts_with("20") && elsewhere.contains("ERROR invalid configuration"), "{text}");
}
