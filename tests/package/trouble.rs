//! What befalls a daemon in the years that it runs.

use std::fs;
use std::path::{Path, PathBuf};

use crate::host::Host;
use crate::{ALL_STEPS, HELLO};

#[test]
#[ignore = "needs the .deb: run `make test-systemd`"]
fn a_hung_agent_is_restarted_by_the_watchdog() {
    let host = Host::unconfigured();
    assert_ne!(host.property("WatchdogUSec", "instance-agent"), "0", "the unit has no watchdog");
    host.drop_in("instance-agent", "[Service]\nWatchdogSec=2s\nRestartSec=100ms\n");
    host.configure(HELLO);
    host.systemctl("start instance-agent");
    host.until_subscribed();
    host.systemctl("kill --kill-who=main --signal=STOP instance-agent");
    let sha = host.push("v2");
    host.until("the watchdog", "journalctl -u instance-agent | grep -q 'Watchdog timeout (limit 2s)!'");
    host.until_state("deployed", &sha);
    host.until_served("v2");
    assert_eq!(host.property("NRestarts", "instance-agent"), "1");
}

/// A cgroup with little memory, on top of this host's limits. MemoryMax= is not enforced in a container here.
struct Narrow(PathBuf);

impl Narrow {
    /// `None`: this host has no memory controller of the first version.
    fn make(bytes: u64) -> Option<Self> {
        let root = Path::new("/sys/fs/cgroup/memory");
        root.join("memory.limit_in_bytes").exists().then(|| {
            let narrow = Self(root.join(format!("instance-agent-test-{}", std::process::id())));
            fs::create_dir(&narrow.0).unwrap();
            fs::write(narrow.0.join("memory.limit_in_bytes"), bytes.to_string()).unwrap();
            narrow
        })
    }
}

impl Drop for Narrow {
    fn drop(&mut self) {
        let removed = fs::remove_dir(&self.0);
        assert!(removed.is_ok() || std::thread::panicking(), "{}: {removed:?}", self.0.display());
    }
}

#[test]
#[ignore = "needs the .deb: run `make test-systemd`"]
fn an_agent_that_the_kernel_kills_for_want_of_memory_comes_back_to_its_push() {
    let host = Host::configured(HELLO);
    host.drop_in("instance-agent", "[Service]\nRestartSec=100ms\n");
    let sha = host.commit("v2");
    // Larger than the memory that it may still take.
    let padding = "x".repeat(20_000_000);
    host.write("/var/tmp/payload", &github_push(&sha, &format!(r#","padding":"{padding}""#)));
    let narrow = Narrow::make(1 << 20);
    if let Some(narrow) = &narrow {
        fs::write(narrow.0.join("cgroup.procs"), host.process_outside("instance-agent.service")).unwrap();
    } else {
        // The nearest thing to it.
        host.systemctl("kill --kill-who=main --signal=KILL instance-agent");
    }
    host.sh("mosquitto_pub -q 1 -t github/octocat/hello -f /var/tmp/payload");
    host.until("another agent", "test \"$(systemctl show -P NRestarts instance-agent)\" = 1");
    host.until_state("deployed", &sha);
    host.until_served("v2");
    if let Some(narrow) = &narrow {
        let killed = fs::read_to_string(narrow.0.join("memory.oom_control")).unwrap();
        assert!(killed.contains("oom_kill 1\n"), "{killed}");
    }
}

/// As GitHub's webhook has it, with more fields at its end.
fn github_push(sha: &str, more: &str) -> String {
    format!(
        r#"{{"ref":"refs/heads/main","after":"{sha}","repository":{{"full_name":"octocat/hello"{more}}}}}"#
    )
}

/// As ext4 does after an error.
#[test]
#[ignore = "needs the .deb: run `make test-systemd`"]
fn a_state_directory_that_becomes_read_only_is_told_and_waited_for() {
    let host = Host::without_package();
    host.sh("mkdir -p /var/lib/instance-agent; mount -t tmpfs disk /var/lib/instance-agent");
    host.install(&crate::host::package());
    // The status is told in its rhythm.
    host.drop_in("instance-agent", "[Service]\nWatchdogSec=5s\n");
    host.configure(HELLO);
    host.systemctl("start instance-agent");
    host.until_subscribed();
    host.sh("mount -o remount,ro /var/lib/instance-agent");
    let sha = host.push("v2");
    host.until_logged("cannot write the journal");
    let stuck = "systemctl show -P StatusText instance-agent | grep -q 'the journal of 1 cannot be written'";
    host.until("the status tells of it", stuck);
    host.until_served("v1");
    host.sh("mount -o remount,rw /var/lib/instance-agent");
    host.until_state("deployed", &sha);
    host.until_served("v2");
    host.until("the status tells of it no more", &format!("! {stuck}"));
    assert_eq!(host.property("NRestarts", "instance-agent"), "0");
}

/// The container has this host's clock, so only the agent's own is moved (libfaketime).
#[test]
#[ignore = "needs the .deb: run `make test-systemd`"]
fn a_clock_that_jumps_neither_loses_pushes_nor_cuts_deploys() {
    let host = Host::unconfigured();
    let clock = |days: i64| host.write("/etc/instance-agent/clock", &format!("{days:+}d\n"));
    clock(0);
    host.drop_in(
        "instance-agent",
        "[Service]\nEnvironment=LD_PRELOAD=/usr/$LIB/faketime/libfaketime.so.1 FAKETIME_NO_CACHE=1 \
         FAKETIME_DONT_FAKE_MONOTONIC=1 FAKETIME_TIMESTAMP_FILE=/etc/instance-agent/clock\n",
    );
    host.configure(ALL_STEPS);
    host.systemctl("start instance-agent");
    host.until_subscribed();
    let now: i64 = host.sh("date +%s").parse().unwrap();
    let github = |sha: &str, at: i64| {
        let payload = github_push(sha, &format!(r#","pushed_at":{at}"#));
        host.sh(&format!("mosquitto_pub -q 1 -t github/octocat/hello -m '{payload}'"));
    };
    // The others must not be taken for older than this one.
    let sha = host.commit("ahead");
    github(&sha, now + 400 * 86_400);
    host.until_state("deployed", &sha);
    for (version, days) in [("v2", 0), ("v3", -400), ("v4", 400), ("v5", 0)] {
        host.hold("update");
        let sha = host.commit(version);
        github(&sha, now);
        let held = host.held("update");
        clock(days);
        held.release();
        host.until_state("deployed", &sha);
        host.until_served(version);
        // By the agent's own clock.
        let by_hand = host.push(&format!("{version}-again"));
        let app = host.until_state("deployed", &by_hand);
        let began = app["last_outcome"]["started_at"].as_str().unwrap();
        let ahead = host.sh(&format!("echo $(($(date --date={began} +%s) - {now}))")).parse::<i64>().unwrap();
        assert!((ahead - days * 86_400).abs() < 3600, "the agent goes by another clock: {ahead} s ahead");
    }
    assert_eq!(host.property("NRestarts", "instance-agent"), "0", "the watchdog went by that clock");
}

#[test]
#[ignore = "needs the .deb: run `make test-systemd`"]
fn a_start_on_a_read_only_state_directory_is_told_and_tried_again() {
    let host = Host::without_package();
    host.sh("mkdir -p /var/lib/instance-agent; mount -t tmpfs disk /var/lib/instance-agent");
    host.install(&crate::host::package());
    host.drop_in("instance-agent", "[Unit]\nStartLimitIntervalSec=0\n[Service]\nRestartSec=100ms\n");
    host.configure(HELLO);
    host.sh("mount -o remount,ro /var/lib/instance-agent");
    host.run("systemctl start instance-agent");
    host.until_logged("/var/lib/instance-agent cannot be made: Read-only file system");
    host.sh("mount -o remount,rw /var/lib/instance-agent");
    host.until_subscribed();
    let sha = host.push("v2");
    host.until_state("deployed", &sha);
}
