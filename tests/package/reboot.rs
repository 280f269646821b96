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

#[test]
#[ignore = "needs the .deb: run `make test-systemd`"]
fn a_deploy_that_a_reboot_interrupts_is_made_after_it() {
    let mut host = Host::configured(ALL_STEPS);
    host.hold("update");
    let sha = host.push("v2");
    let held = host.held("update");
    // systemd ends the command with everything else.
    host.reboot();
    drop(held);
    host.until_state("deployed", &sha);
    host.until_served("v2");
    host.assert_no_overlaps();
}
