//! What `packaging/` installs, as far as it can be tried without a package: the container tests do the rest.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[path = "packaging/example.rs"]
mod example;
#[path = "packaging/scripts.rs"]
mod scripts;
#[path = "packaging/tarball.rs"]
mod tarball;

use std::fs;
use std::path::{Path, PathBuf};

fn packaging() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging")
}

fn read(path: impl AsRef<Path>) -> String {
    let path = packaging().join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The value of a line `key=value`, or `key value`.
fn setting<'a>(text: &'a str, key: &str, between: char) -> &'a str {
    let mut values = text.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix(between));
    let value = values.next().unwrap_or_else(|| panic!("{key} is not set"));
    assert!(values.next().is_none(), "{key} is set twice");
    value
}

#[test]
fn unit_and_job_agree() {
    let unit = read("usr/lib/systemd/system/instance-agent.service");
    let job = read("etc/init/instance-agent.conf");
    assert_eq!(setting(&unit, "ExecStart", '='), setting(&job, "exec", ' '));
    assert_eq!(setting(&unit, "RestartPreventExitStatus", '='), "78");
    assert_eq!(setting(&job, "normal exit", ' '), "0 78");
    let environment = setting(&unit, "Environment", '=');
    assert_eq!(environment, setting(&job, "env", ' '));
    assert_eq!(setting(&unit, "UMask", '='), format!("0{}", setting(&job, "umask", ' ')));
    assert_eq!(setting(&unit, "UMask", '='), "0022", "commands inherit it");
    let stop = humantime::parse_duration(setting(&unit, "TimeoutStopSec", '=')).unwrap();
    assert_eq!(stop.as_secs().to_string(), setting(&job, "kill timeout", ' '));
}

/// All that the package lists is there, and all that is there the package lists.
#[test]
fn every_file_is_packaged() {
    let manifest = fs::read_to_string(packaging().join("../Cargo.toml")).unwrap();
    let mut found = 0;
    for tree in ["usr", "etc"] {
        for file in files(&packaging().join(tree)) {
            let path = file.strip_prefix(packaging()).unwrap().display().to_string();
            let directory = &path[..=path.rfind('/').unwrap()];
            let line = format!("[\"packaging/{path}\", \"{directory}\", \"644\"],");
            assert!(manifest.contains(&line), "Cargo.toml lacks {line}");
            found += 1;
        }
    }
    assert!(found > 8, "{found}");
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}
