//! The agent is stopped, killed or upgraded in each step of a deploy: never are two of a kind at work, never is the
//! service left down, and the deploy is made in the end.

use crate::host::Host;
use crate::{ALL_STEPS, HELLO};

const STEPS: [&str; 5] = ["prepare", "stop", "update", "start", "check"];

fn host() -> Host {
    let host = Host::configured(ALL_STEPS);
    // A kill in each step is no reason to give up.
    host.drop_in("instance-agent", "[Unit]\nStartLimitIntervalSec=0\n[Service]\nRestartSec=100ms\n");
    host
}

fn assert_ended_well(host: &Host, version: &str, sha: &str) {
    host.until_state("deployed", sha);
    host.until_served(version);
    assert_eq!(host.property("ActiveState", "hello"), "active");
    host.assert_no_overlaps();
}

#[test]
#[ignore = "needs the .deb: run `make test-systemd`"]
fn the_agent_is_killed_in_each_step() {
    let host = host();
    for step in STEPS {
        host.hold(step);
        let sha = host.push(step);
        let held = host.held(step);
        let before = host.property("MainPID", "instance-agent");
        host.systemctl("kill --kill-who=main --signal=KILL instance-agent");
        host.until("the agent is gone", &format!("! test -e /proc/{before}"));
        // What systemd itself runs has outlived the agent, which waits for it.
        if ["stop", "start"].contains(&step) {
            host.until_logged(&format!("a deploy was interrupted when the agent ended app=hello sha={sha}"));
            held.release();
        }
        assert_ended_well(&host, step, &sha);
        let runs = host.events(step, &sha);
        assert!(runs == 2 || ["stop", "start"].contains(&step), "{step} ran {runs} times\n{}", host.told());
    }
}

#[test]
#[ignore = "needs the .deb: run `make test-systemd`"]
fn the_agent_is_stopped_in_each_step() {
    let host = host();
    for step in STEPS {
        host.hold(step);
        let sha = host.push(step);
        let held = host.held(step);
        host.systemctl("stop --no-block instance-agent");
        host.until_logged(&format!(
            "waiting for a running deploy: its services are brought up first app=hello sha={sha}"
        ));
        held.release();
        host.until("the agent has ended", "test \"$(systemctl is-active instance-agent)\" = inactive");
        assert_eq!(host.property("Result", "instance-agent"), "success", "{}", host.told());
        assert_eq!(host.property("ActiveState", "hello"), "active", "the service is left down");
        host.systemctl("start instance-agent");
        assert_ended_well(&host, step, &sha);
    }
}

#[test]
#[ignore = "needs the .deb: run `make test-systemd`"]
fn the_package_is_upgraded_in_mid_deploy() {
    let host = host();
    for (number, step) in STEPS.iter().enumerate() {
        let newer = host.newer_package(number);
        host.hold(step);
        let sha = host.push(step);
        let held = host.held(step);
        let upgrade =
            host.begin(&format!("apt-get install -q -y --no-install-recommends {}", newer.display()));
        host.until_logged(&format!("its services are brought up first app=hello sha={sha}"));
        // While no agent is connected.
        let later = host.push(&format!("after-{step}"));
        held.release();
        upgrade.ended();
        assert_ended_well(&host, &format!("after-{step}"), &later);
        assert_eq!(host.property("ActiveState", "instance-agent"), "active");
    }
}

#[test]
#[ignore = "needs the .deb: run `make test-systemd`"]
fn the_agent_is_upgraded_by_a_deploy() {
    let host = Host::unconfigured();
    let upgrade =
        format!("apt-get, install, -q, -y, --no-install-recommends, {}", host.newer_package(0).display());
    let switch = "/usr/local/bin/switch-hello], user: deploy";
    assert!(HELLO.contains(switch));
    host.configure(&HELLO.replace(switch, &format!("{upgrade}]")));
    host.systemctl("start instance-agent");
    host.until_subscribed();
    let agent = host.property("InvocationID", "instance-agent");
    let sha = host.push("v2");
    host.until_logged(&format!("deploy interrupted by shutdown app=hello sha={sha}"));
    host.until_state("deployed", &sha);
    let package = host.sh("dpkg-query -W -f '${Status} ${Version}' instance-agent; dpkg --audit");
    assert_eq!(package, "install ok installed 99.0");
    assert_ne!(host.property("InvocationID", "instance-agent"), agent, "the old one still runs");
    let history = host.sh("instance-agent history");
    assert!(!history.contains("failed"), "{history}");
}
