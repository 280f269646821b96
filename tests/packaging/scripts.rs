//! The maintainer scripts under upstart, which can no longer be installed, and where no init runs: their paths moved into
//! a directory, and each program that they call a stand-in that notes the call.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;

use super::read;

const WANTS: &str = "etc/systemd/system/multi-user.target.wants/instance-agent.service";
const DROP_IN: &str = "etc/systemd/system/instance-agent.service.d/without-sandbox.conf";

struct Host(TempDir);

impl Host {
    /// `initctl` and `systemctl` are what these shell commands do.
    fn new(initctl: &str, systemctl: &str) -> Self {
        let host = Self(TempDir::new().unwrap());
        fs::create_dir(host.path("bin")).unwrap();
        host.program("initctl", initctl);
        host.program("systemctl", systemctl);
        host.program("groupadd", "");
        host.program("getent", "exit 2");
        host.program("invoke-rc.d", "");
        host.program("deb-systemd-invoke", "");
        host.program("systemd-run", "");
        // Without the owner, whom only root can give.
        host.program("install", "for last; do :; done; mkdir -p \"$last\"");
        host
    }

    fn upstart() -> Self {
        Self::new("echo 'init (upstart 1.12.1)'", "exit 127")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn program(&self, name: &str, script: &str) {
        let calls = self.path("calls");
        let text = format!("#!/bin/sh\necho \"{name} $*\" >>{}\n{script}\n", calls.display());
        fs::write(self.path("bin").join(name), text).unwrap();
        fs::set_permissions(self.path("bin").join(name), Permissions::from_mode(0o755)).unwrap();
    }

    /// Runs a script and gives the calls that start or stop something.
    fn run(&self, script: &str, arguments: &[&str]) -> Vec<String> {
        let root = self.0.path().display().to_string();
        let mut text = read(format!("deb/{script}"));
        for directory in ["/etc/", "/proc/", "/run/", "/var/"] {
            text = text.replace(&format!(" {directory}"), &format!(" {root}{directory}"));
            text = text.replace(&format!("={directory}"), &format!("={root}{directory}"));
        }
        let _ = fs::remove_file(self.path("calls"));
        let output = Command::new("sh")
            .args(["-c", &text, script])
            .args(arguments)
            .env("PATH", format!("{root}/bin:/usr/bin:/bin"))
            .output()
            .unwrap();
        assert!(output.status.success(), "{script} {arguments:?}: {output:?}");
        let calls = fs::read_to_string(self.path("calls")).unwrap_or_default();
        let acts = ["invoke-rc.d ", "deb-systemd-invoke ", "groupadd ", "systemctl --system", "systemd-run "];
        calls.lines().filter(|call| acts.iter().any(|act| call.starts_with(act))).map(str::to_owned).collect()
    }
}

#[test]
fn under_upstart_the_job_is_started_restarted_and_stopped() {
    let host = Host::upstart();
    let group = "groupadd --system instance-agent";
    assert_eq!(host.run("postinst", &["configure", ""]), [group, "invoke-rc.d instance-agent start"]);
    assert!(host.path("etc/instance-agent").is_dir() && host.path("var/lib/instance-agent").is_dir());
    assert!(host.path(WANTS).is_symlink(), "an upgrade to a release with systemd would leave it off");
    assert!(!host.path(DROP_IN).is_symlink());
    host.program("getent", "");
    assert_eq!(host.run("prerm", &["upgrade", "0.2.0"]), [""; 0]);
    let restart = ["invoke-rc.d instance-agent stop", "invoke-rc.d instance-agent start"];
    assert_eq!(host.run("postinst", &["configure", "0.1.0"]), restart);
    assert_eq!(host.run("prerm", &["remove"]), ["invoke-rc.d instance-agent stop"]);
    assert_eq!(host.run("postrm", &["remove"]), [""; 0]);
    assert!(host.path("var/lib/instance-agent").is_dir());
}

#[test]
fn where_no_init_runs_the_agent_is_enabled_and_nothing_is_started() {
    let host = Host::new("exit 1", "echo 'systemd 252 (252.39-1~deb12u2)'");
    assert_eq!(host.run("postinst", &["configure", ""]), ["groupadd --system instance-agent"]);
    assert!(host.path(WANTS).is_symlink());
    assert_eq!(
        fs::read_link(host.path(WANTS)).unwrap(),
        PathBuf::from("/usr/lib/systemd/system/instance-agent.service")
    );
    host.program("getent", "");
    for (script, arguments) in [("prerm", ["remove"]), ("postrm", ["remove"]), ("postrm", ["purge"])] {
        assert_eq!(host.run(script, &arguments), [""; 0]);
    }
    assert!(!host.path(WANTS).is_symlink() && !host.path("var/lib/instance-agent").exists());
    assert!(!host.path("etc/instance-agent").exists());
}

#[test]
fn what_the_administrator_disabled_and_wrote_stays() {
    let host = Host::new("exit 1", "exit 127");
    host.run("postinst", &["configure", ""]);
    fs::remove_file(host.path(WANTS)).unwrap();
    fs::write(host.path("etc/instance-agent/config.yaml"), "mine").unwrap();
    host.run("postinst", &["configure", "0.1.0"]);
    assert!(!host.path(WANTS).is_symlink());
    host.run("postrm", &["purge"]);
    assert_eq!(fs::read_to_string(host.path("etc/instance-agent/config.yaml")).unwrap(), "mine");
}

#[test]
fn an_old_systemd_gets_no_sandbox_and_purge_takes_that_back() {
    for (version, narrow) in [("systemd 229", true), ("systemd 237", false), ("systemd 256~rc1", false)] {
        let host = Host::new("exit 1", &format!("echo '{version}'"));
        for _ in 0..2 {
            host.run("postinst", &["configure", ""]);
            assert_eq!(host.path(DROP_IN).is_symlink(), narrow, "{version}");
        }
        host.run("postrm", &["purge"]);
        assert!(
            !host.path(DROP_IN).is_symlink() && !host.path(DROP_IN).parent().unwrap().exists(),
            "{version}"
        );
    }
}

#[test]
fn under_systemd_the_unit_is_started_and_restarted_and_may_fail() {
    let host = Host::new("exit 1", "echo 'systemd 252'");
    fs::create_dir_all(host.path("run/systemd/system")).unwrap();
    host.program("getent", "");
    host.program("deb-systemd-invoke", "exit 1");
    let reload = "systemctl --system daemon-reload";
    let unit = "instance-agent.service";
    assert_eq!(
        host.run("postinst", &["configure", ""]),
        [reload, &format!("deb-systemd-invoke start {unit}")]
    );
    let restart = format!("deb-systemd-invoke restart {unit}");
    assert_eq!(host.run("postinst", &["configure", "0.1.0"]), [reload, &restart]);
    assert_eq!(host.run("prerm", &["remove"]), [format!("deb-systemd-invoke stop {unit}")]);
    assert_eq!(host.run("postrm", &["purge"]), [reload]);
}

/// The agent's end waits for the command of a deploy, and would for a script in it that waits for the agent's.
#[test]
fn in_a_deploy_nobody_waits_for_the_agent() {
    let host = Host::new("exit 1", "echo 'systemd 252'");
    for directory in ["run/systemd/system", "proc/self"] {
        fs::create_dir_all(host.path(directory)).unwrap();
    }
    host.program("getent", "");
    let waits = "deb-systemd-invoke restart instance-agent.service";
    let not = format!("systemd-run --quiet /bin/sh -c {waits} || :");
    for (cgroup, call) in [
        ("0::/system.slice/instance-agent-update-web.service", not.as_str()),
        ("12:cpu:/\n1:name=systemd:/system.slice/instance-agent-update-web.scope/x", &not),
        ("0::/system.slice/instance-agent.service", &not),
        ("0::/system.slice/apt-daily-upgrade.service", waits),
        ("0::/system.slice/my-instance-agent.service", waits),
        ("0::/user.slice/user-0.slice/session-1.scope", waits),
    ] {
        fs::write(host.path("proc/self/cgroup"), format!("{cgroup}\n")).unwrap();
        assert_eq!(host.run("postinst", &["configure", "0.1.0"])[1..], [call], "{cgroup}");
    }
}
