//! What others could see or forge is warned of, as `run` does, and published all the same.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Output;

use tempfile::TempDir;

use crate::support::Mosquitto;
use crate::support::payload::commit;
use crate::{holds, publish, published, refused};

/// Files with these modes.
struct Files(TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn with_mode(&self, name: &str, mode: u32) -> String {
        let path = self.path(name);
        fs::write(&path, "sesame\n").unwrap();
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        path.display().to_string()
    }
}

fn by_hand(broker: &str, more: &[&str]) -> Output {
    let a = commit('a');
    let push = ["--broker", broker, "--repo", "acme/api", "--ref", "main", "--sha", &a];
    publish(&[&push[..], more].concat(), &[], b"")
}

fn warnings(output: &Output) -> Vec<String> {
    let text = String::from_utf8(output.stderr.clone()).unwrap();
    let warnings = text.lines().filter_map(|line| line.strip_prefix("instance-agent: warning: "));
    warnings.map(str::to_owned).collect()
}

#[test]
fn what_anybody_on_the_way_could_do() {
    let files = Files::new();
    let (password, secret) = (files.with_mode("password", 0o600), files.with_mode("secret", 0o600));
    // Nothing is there: what matters is said before.
    let to_nobody = |more: &[&str]| {
        let output = by_hand("mqtt://192.0.2.1", &[&["--timeout", "100ms"], more].concat());
        refused(&output, 1);
        warnings(&output)
    };
    let login = ["--username", "ci", "--password-file", &password];
    let [unsigned] = &to_nobody(&[])[..] else { panic!("one warning") };
    holds(unsigned, &["on the way to 192.0.2.1:1883", "mqtts:// in --broker", "give --sign-with"]);
    let [again, in_the_clear] = &to_nobody(&login)[..] else { panic!("two warnings") };
    assert_eq!(again, unsigned);
    holds(in_the_clear, &["read the password of --password-file", "mqtts:// in --broker"]);
    let [signed] = &to_nobody(&[&login[..], &["--sign-with", &secret]].concat())[..] else { panic!("one") };
    assert_eq!(signed, in_the_clear);
}

#[test]
fn what_others_on_this_host_can_read() {
    let (broker, files) = (Mosquitto::start(), Files::new());
    let url = format!("mqtt://127.0.0.1:{}", broker.port());
    let with = |password: &str, secret: &str| {
        let output = by_hand(&url, &["--username", "ci", "--password-file", password, "--sign-with", secret]);
        published(&output);
        warnings(&output)
    };
    let (password, secret) = (files.with_mode("password", 0o640), files.with_mode("secret", 0o604));
    let [warning] = &with(&password, &secret)[..] else { panic!("one warning") };
    holds(warning, &[&format!("--sign-with: {secret} has mode 0604"), "chmod o="]);
    let (password, secret) = (files.with_mode("password", 0o666), files.with_mode("secret", 0o600));
    let [warning] = &with(&password, &secret)[..] else { panic!("one warning") };
    holds(warning, &[&format!("--password-file: {password} has mode 0666")]);
}
