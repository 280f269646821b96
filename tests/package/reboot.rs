//! Reboots of the host.

use crate::host::Host;
use crate::{ALL_STEPS, HELLO};

#[test]
#[ignore = "needs the .deb: run `make test-systemd`"]
fn a_push_that_waits_at_the_broker_survives_a_reboot() {
    let mut host = Host::configured(HELLO);
    let sha = host.push("v2");
    host.until_state("deployed", &sha);
    host.systemctl("stop instance-agent");
    let sha = host.push("v3");
    host.reboot();
    host.until_state("deployed", &sha);
    host.until_served("v3");
    assert_eq!(host.property("ActiveState", "instance-agent"), "active");
}

fn assert_made_anew(host: &Host, version: &str, sha: &str, step: &str) {
    host.until_state("deployed", sha);
    host.until_served(version);
    host.assert_no_overlaps();
    assert_eq!(host.events(step, sha), 2, "{}", host.told());
}

#[test]
#[ignore = "needs the .deb: run `make test-systemd`"]
fn a_deploy_that_a_reboot_interrupts_is_made_after_it() {
    let mut host = Host::configured(ALL_STEPS);
    host.hold("update");
    let sha = host.push("v2");
    let update = host.held("update");
    host.begin_reboot();
    // The agent has been asked to end, and the command still has its time.
    host.until_logged(&waits(&sha));
    update.release();
    host.until_rebooted();
    assert_made_anew(&host, "v2", &sha, "update");
}

fn waits(sha: &str) -> String {
    format!("waiting for a running deploy: its services are brought up first app=hello sha={sha}")
}

#[test]
#[ignore = "needs the .deb: run `make test-systemd`"]
fn a_command_is_let_be_for_as_long_as_a_reboot_waits_for_others() {
    let mut host = Host::configured(ALL_STEPS);
    host.drop_in("hello", "[Unit]\nAfter=instance-agent.service\n");
    for what in ["prepare", "stop"] {
        host.hold(what);
    }
    let sha = host.push("v2");
    let prepare = host.held("prepare");
    host.begin_reboot();
    let stop = host.held("stop");
    assert!(!host.holds("systemctl is-failed 'instance-agent-*'"), "{}", host.told());
    stop.release();
    host.until_logged(&waits(&sha));
    prepare.release();
    host.until_rebooted();
    assert_made_anew(&host, "v2", &sha, "prepare");
}

/// systemd refuses to start the service, and will not ask the agent to end before another unit has stopped.
#[test]
#[ignore = "needs the .deb: run `make test-systemd`"]
fn a_service_that_a_reboot_keeps_down_is_started_after_it() {
    let mut host = Host::configured(ALL_STEPS);
    // At boot nobody else starts it.
    host.systemctl("disable hello");
    host.unit(
        "slow",
        "[Unit]\nAfter=instance-agent.service\n\
         [Service]\nExecStart=sleep infinity\nExecStop=/usr/local/bin/step slow\n",
    );
    host.systemctl("start slow");
    for what in ["update", "slow"] {
        host.hold(what);
    }
    let sha = host.push("v2");
    let update = host.held("update");
    host.begin_reboot();
    let slow = host.held("slow");
    update.release();
    host.until_logged(&format!("deploy interrupted by shutdown app=hello sha={sha} step=\"start\""));
    slow.release();
    host.until_rebooted();
    host.until_logged(&format!("a deploy was interrupted when the agent ended app=hello sha={sha}"));
    assert_made_anew(&host, "v2", &sha, "update");
}
