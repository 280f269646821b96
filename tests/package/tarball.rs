//! What a distribution without dpkg installs: the tarball.

use crate::HELLO;
use crate::host::{Host, tarball};

/// Where it is unpacked; the installer in it.
fn unpack(host: &Host) -> String {
    host.sh(&format!("mkdir /var/tmp/unpacked; tar -x -C /var/tmp/unpacked -f {}", tarball().display()));
    host.sh("ls /var/tmp/unpacked/*/install.sh")
}

#[test]
#[ignore = "needs the tarball: run `make test-systemd`"]
fn the_tarball_installs_upgrades_and_removes_the_agent() {
    let host = Host::without_package();
    let look = || host.sh("find /etc /run /usr /var -name '*instance-agent*' -not -path '/var/tmp/*'");
    let before = look();
    let installer = unpack(&host);
    host.sh(&installer);
    assert_eq!(host.property("SubState", "instance-agent"), "dead");
    assert_eq!(host.property("Result", "instance-agent"), "success");
    assert_eq!(host.property("UnitFileState", "instance-agent"), "enabled");

    host.configure(HELLO);
    host.systemctl("start instance-agent");
    host.until_subscribed();
    let sha = host.push("v2");
    host.until_state("deployed", &sha);
    host.until_served("v2");

    let (app, agent) = (host.incarnation(), host.property("InvocationID", "instance-agent"));
    host.sh(&installer);
    host.until_subscribed();
    assert_ne!(host.property("InvocationID", "instance-agent"), agent, "the old one still runs");
    assert_eq!(host.incarnation(), app, "the app was touched");

    host.sh(&format!("{installer} --uninstall"));
    assert!(!host.holds("systemctl is-active instance-agent"));
    host.sh(&installer);
    host.until_state("deployed", &sha);
    host.until_subscribed();

    host.sh(&format!("{installer} --purge"));
    host.sh("rm -r /etc/instance-agent");
    assert_eq!(look(), before);
    host.until_served("v2");
}

#[test]
#[ignore = "needs the tarball: run `make test-systemd`"]
fn what_the_administrator_disabled_is_not_started_by_an_upgrade() {
    let host = Host::without_package();
    // As it is on other distributions.
    host.sh("rm $(command -v deb-systemd-invoke)");
    let installer = unpack(&host);
    host.configure(HELLO);
    host.sh(&installer);
    host.until_subscribed();
    host.systemctl("disable --quiet instance-agent");
    let agent = host.property("InvocationID", "instance-agent");
    host.sh(&installer);
    host.until_subscribed();
    assert_ne!(host.property("InvocationID", "instance-agent"), agent, "the old one still runs");
    host.systemctl("stop instance-agent");
    host.sh(&installer);
    assert_eq!(host.property("ActiveState", "instance-agent"), "inactive");
    assert_eq!(host.property("UnitFileState", "instance-agent"), "disabled");
}
