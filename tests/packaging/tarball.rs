//! `install.sh` of the tarball, into a directory.

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

use super::{files, packaging};

/// A tarball as it is unpacked, with a program that does nothing.
struct Unpacked {
    here: TempDir,
    root: TempDir,
}

impl Unpacked {
    fn new(program: &str) -> Self {
        let (here, root) = (TempDir::new().unwrap(), TempDir::new().unwrap());
        let copied = Command::new("cp")
            .arg("-r")
            .args([packaging().join("usr"), packaging().join("tarball/install.sh")])
            .arg(here.path())
            .status();
        assert!(copied.unwrap().success());
        let bin = here.path().join("usr/bin");
        fs::create_dir(&bin).unwrap();
        fs::write(bin.join("instance-agent"), format!("#!/bin/sh\n{program}\n")).unwrap();
        fs::set_permissions(bin.join("instance-agent"), Permissions::from_mode(0o755)).unwrap();
        Self { here, root }
    }

    fn install(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(self.here.path().join("install.sh"));
        command.args(arguments).env("DESTDIR", self.root.path()).output().unwrap()
    }

    fn installs(&self, arguments: &[&str]) {
        let output = self.install(arguments);
        assert!(output.status.success(), "{output:?}");
    }

    fn installed(&self) -> BTreeSet<PathBuf> {
        below(self.root.path())
    }
}

fn below(directory: &Path) -> BTreeSet<PathBuf> {
    files(directory).iter().map(|file| file.strip_prefix(directory).unwrap().to_owned()).collect()
}

#[test]
fn it_installs_all_of_it_twice_and_removes_it_again() {
    let unpacked = Unpacked::new("exit 0");
    let expected: BTreeSet<_> =
        below(&unpacked.here.path().join("usr")).iter().map(|file| Path::new("usr").join(file)).collect();
    assert!(expected.len() > 8, "{expected:?}");
    let theirs = unpacked.root.path().join("usr/share/doc/other");
    fs::create_dir_all(theirs.parent().unwrap()).unwrap();
    fs::write(&theirs, "").unwrap();
    let (program, unit) = ("usr/bin/instance-agent", "usr/lib/systemd/system/instance-agent.service");
    for _ in 0..2 {
        unpacked.installs(&[]);
        let mut installed = unpacked.installed();
        assert!(installed.remove(Path::new("usr/share/doc/other")));
        assert_eq!(installed, expected);
        let mode =
            |file| fs::metadata(unpacked.root.path().join(file)).unwrap().permissions().mode() & 0o7777;
        assert_eq!((mode(program), mode(unit)), (0o755, 0o644));
    }
    unpacked.installs(&["--uninstall"]);
    assert_eq!(unpacked.installed(), BTreeSet::from(["usr/share/doc/other".into()]));
    assert!(!unpacked.root.path().join("usr/share/doc/instance-agent").exists());
    unpacked.installs(&["--purge"]);
}

#[test]
fn a_program_that_runs_is_replaced_and_not_written_into() {
    let unpacked = Unpacked::new("exit 0");
    unpacked.installs(&[]);
    let program = unpacked.root.path().join("usr/bin/instance-agent");
    let kept = unpacked.root.path().join("kept");
    fs::hard_link(&program, &kept).unwrap();
    fs::write(unpacked.here.path().join("usr/bin/instance-agent"), "#!/bin/sh\nexit 0 # newer\n").unwrap();
    unpacked.installs(&[]);
    assert!(fs::read_to_string(&program).unwrap().contains("newer"));
    assert!(!fs::read_to_string(&kept).unwrap().contains("newer"));
}

#[test]
fn nothing_is_installed_where_the_program_does_not_run_or_the_usage_is_wrong() {
    let unpacked = Unpacked::new("exit 1");
    let output = unpacked.install(&[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("does not run on this machine"), "{output:?}");
    let output = Unpacked::new("exit 0").install(&["--help"]);
    assert!(
        !output.status.success() && String::from_utf8_lossy(&output.stderr).contains("usage"),
        "{output:?}"
    );
    assert!(unpacked.installed().is_empty());
}
