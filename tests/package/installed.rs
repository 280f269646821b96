//! The package from its installation to its removal.

use std::fs;
use std::process::Command;

use crate::HELLO;
use crate::host::{BOOTSTRAP, Host, package};

const README: &str = include_str!("../../README.md");

#[test]
#[ignore = "needs the .deb: run `make test-systemd`"]
fn a_fresh_install_is_calm() {
    let host = Host::unconfigured();
    for (property, value) in [
        ("ActiveState", "inactive"),
        // Not auto-restart.
        ("SubState", "dead"),
        ("Result", "success"),
        ("ExecMainStatus", "0"),
        ("NRestarts", "0"),
        ("UnitFileState", "enabled"),
    ] {
        assert_eq!(host.property(property, "instance-agent"), value, "{property}: {}", host.told());
    }
    assert!(!host.holds("systemctl is-failed instance-agent"));
    let status = host.run("systemctl status --no-pager instance-agent");
    assert_eq!(status.status.code(), Some(3), "inactive is 3");
    let status = String::from_utf8(status.stdout).unwrap();
    assert!(status.contains("not configured: write /etc/instance-agent/config.yaml"), "{status}");
}

#[test]
#[ignore = "needs the .deb: run `make test-systemd`"]
fn the_bootstrap_script_makes_an_instance_that_deploys() {
    let host = Host::without_package();
    host.become_ec2_instance();
    // Tags have no commands: the unit fetches the code itself.
    let fetch = "test -z \"$GITHUB_SHA\" || /usr/local/bin/switch-hello";
    host.drop_in("hello", &format!("[Service]\nExecStartPre=sh -c '{fetch}'\n"));
    let script = format!(
        "export PACKAGE_URL=file://{0} PACKAGE_SHA256=$(sha256sum {0} | cut -c -64)
         export BROKER_URL=mqtt://localhost PASSWORD_PARAMETER=
         sh {BOOTSTRAP}",
        package().display()
    );
    let said = host.sh(&script);
    assert!(said.ends_with("instance-agent: done"), "{said}");
    host.until_subscribed();
    let agent = host.property("InvocationID", "instance-agent");
    let sha = host.push("v2");
    host.until_state("deployed", &sha);
    host.until_served("v2");
    let said = host.sh(&script);
    assert!(said.contains("this version is installed already") && !said.contains("wrote"), "{said}");
    assert_eq!(host.property("InvocationID", "instance-agent"), agent, "it was started again for nothing");
    // dpkg keeps the version of a removed package in mind.
    host.sh("apt-get remove -q -y instance-agent");
    let said = host.sh(&script);
    assert!(said.ends_with("instance-agent: done"), "{said}");
    host.until_subscribed();
}

#[test]
#[ignore = "needs the .deb: run `make test-systemd`"]
fn the_licence_of_each_crate_is_in_the_package() {
    let contents = tempfile::tempdir().unwrap();
    let unpacked = Command::new("dpkg-deb").arg("-x").arg(package()).arg(contents.path()).status().unwrap();
    assert!(unpacked.success());
    let text = contents.path().join("usr/share/doc/instance-agent/third-party-licenses.txt");
    let text = fs::read_to_string(text).unwrap();
    let tree = Command::new(env!("CARGO"))
        .args(["tree", "--locked", "--package", env!("CARGO_PKG_NAME"), "--edges", "normal"])
        .args(["--target", "x86_64-unknown-linux-gnu", "--prefix", "none", "--format", "{p}"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    let tree = String::from_utf8(tree.stdout).unwrap();
    let crates: Vec<_> = tree.lines().skip(1).map(|line| line.split(' ').collect::<Vec<_>>()).collect();
    assert!(crates.iter().any(|words| words[0] == "ring"), "{tree}");
    for words in crates {
        let [name, version] = [words[0], &words[1][1..]];
        assert!(text.contains(&format!("\n{name} {version}: ")), "{name} {version} is not named");
        assert!(text.contains(&format!("\n  {name} {version}, ")), "{name} {version} has no licence");
    }
    assert!(text.contains("Copyright 2015-2016 Brian Smith"), "the texts are missing");
}

/// The commands of "Install" as they stand, but for what a test must answer by itself, where no one is and no network.
#[test]
#[ignore = "needs the .deb: run `make test-systemd`"]
fn the_readme_leads_to_a_deployed_app() {
    let host = Host::without_package();
    let install = README.split("\n## Install\n").nth(1).unwrap();
    let block = install.split("```sh\n").nth(1).unwrap().split("```").next().unwrap();
    let commands: Vec<_> = block.lines().map(|line| line.split(" #").next().unwrap().trim()).collect();
    assert_eq!(commands.len(), 4, "{commands:?}");
    for command in commands {
        let command = command.strip_prefix("sudo ").unwrap();
        let command = command.replace("./instance-agent_0.1.0_amd64.deb", package().to_str().unwrap());
        host.sh(&command.replace("apt install ", "apt-get install -q -y --no-install-recommends "));
        if command.starts_with("cp ") {
            assert!(host.holds("test -s /etc/instance-agent/config.yaml"));
            // "Adapt it".
            host.configure(HELLO);
        }
    }
    host.until_subscribed();
    let sha = host.push("v2");
    host.until_state("deployed", &sha);
    host.until_served("v2");
}

#[test]
#[ignore = "needs the .deb: run `make test-systemd`"]
fn what_the_journal_gets_reads_well() {
    let host = Host::configured(HELLO);
    let sha = host.push("v2");
    host.until_state("deployed", &sha);
    host.systemctl("stop instance-agent");
    let entries = host.sh("journalctl -u instance-agent -o json _SYSTEMD_UNIT=instance-agent.service");
    let entries: Vec<serde_json::Value> =
        entries.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let events: Vec<&str> = entries.iter().map(|entry| entry["MESSAGE"].as_str().unwrap()).collect();
    let began = events.iter().position(|event| event.starts_with("instance-agent starts version=")).unwrap();
    let told = ["instance-agent starts", "subscribed", "push taken", "deploy began", "deployed", "stopped"];
    let mut rest = events[began..].iter();
    for start in told {
        assert!(rest.any(|event| event.starts_with(start)), "{start} is not in its place in {events:#?}");
    }
    for event in &events {
        let first = event.chars().next().unwrap();
        assert!(first.is_alphabetic(), "no event begins with a time, a level or a space: {event:?}");
        assert!(!event.contains(['\n', '\u{1b}']), "{event:?}");
    }
    for entry in &entries {
        assert_eq!(entry["SYSLOG_IDENTIFIER"], "instance-agent", "{entry:#}");
        assert_eq!(entry["PRIORITY"], "6", "nothing but information: {entry:#}");
    }
}

#[test]
#[ignore = "needs the .deb: run `make test-systemd`"]
fn the_unit_is_hardened() {
    let host = Host::unconfigured();
    // Fails when the exposure is above 2.5.
    let analysis = host.sh("systemd-analyze security --no-pager --threshold=25 instance-agent.service");
    assert!(analysis.contains("Overall exposure level for instance-agent.service"), "{analysis}");
}

#[test]
#[ignore = "needs the .deb: run `make test-systemd`"]
fn a_reinstalled_package_goes_on_with_its_state() {
    let host = Host::configured(HELLO);
    let sha = host.push("v2");
    host.until_state("deployed", &sha);
    let app = host.incarnation();
    host.sh("apt-get remove -q -y instance-agent");
    assert!(!host.holds("systemctl is-active instance-agent") && !host.holds("command -v instance-agent"));
    host.sh("test -e /etc/instance-agent/config.yaml");
    host.install(&package());
    host.until_subscribed();
    host.until_state("deployed", &sha);
    assert_eq!(host.incarnation(), app, "the app was touched");
    let sha = host.push("v3");
    host.until_state("deployed", &sha);
    host.until_served("v3");
}

#[test]
#[ignore = "needs the .deb: run `make test-systemd`"]
fn a_purge_leaves_the_users_file_and_the_group_and_nothing_else() {
    let host = Host::without_package();
    let look = || host.sh("find /etc /run /usr /var -name '*instance-agent*'");
    let before = look();
    host.install(&package());
    host.configure(HELLO);
    host.systemctl("start instance-agent");
    host.until_subscribed();
    let sha = host.push("v2");
    host.until_state("deployed", &sha);
    let text = host.read("/etc/instance-agent/config.yaml");
    host.sh("apt-get purge -q -y instance-agent");
    assert_eq!(host.read("/etc/instance-agent/config.yaml"), text);
    host.sh("rm -r /etc/instance-agent");
    assert_eq!(look(), before);
    host.sh("getent group instance-agent");
    host.until_served("v2");
}

#[test]
#[ignore = "needs the .deb: run `make test-systemd`"]
fn an_upgrade_touches_neither_the_apps_nor_the_users_file() {
    let host = Host::configured(HELLO);
    let sha = host.push("v2");
    host.until_state("deployed", &sha);
    let (app, agent) = (host.incarnation(), host.property("InvocationID", "instance-agent"));
    let file = host.sh("stat -c '%i %Y %a %U' /etc/instance-agent/config.yaml");
    host.install(&host.newer_package(0));
    host.until_subscribed();
    assert_ne!(host.property("InvocationID", "instance-agent"), agent, "the old one still runs");
    assert_eq!(host.incarnation(), app, "the app was touched");
    assert_eq!(host.sh("stat -c '%i %Y %a %U' /etc/instance-agent/config.yaml"), file);
    let sha = host.push("v3");
    host.until_state("deployed", &sha);
    host.until_served("v3");
    let (app, agent) = (host.incarnation(), host.property("InvocationID", "instance-agent"));
    host.sh(&format!(
        "apt-get install -q -y --allow-downgrades --no-install-recommends {}",
        package().display()
    ));
    host.until_subscribed();
    assert_ne!(host.property("InvocationID", "instance-agent"), agent, "the newer one still runs");
    assert_eq!(host.incarnation(), app, "the app was touched by the roll-back");
}

/// Files of the host may belong to its group, and the journal does.
#[test]
#[ignore = "needs the .deb: run `make test-systemd`"]
fn members_of_its_group_read_the_status_and_others_do_not() {
    let host = Host::configured(HELLO);
    let sha = host.push("v2");
    host.until_state("deployed", &sha);
    host.sh("useradd --system --groups instance-agent member; useradd --system other");
    let status = |user: &str| {
        host.run(&format!("setpriv --reuid {user} --regid {user} --init-groups instance-agent status --json"))
    };
    let told = status("member");
    assert!(String::from_utf8_lossy(&told.stdout).contains(&sha), "{told:?}");
    let refused = status("other");
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert!(String::from_utf8_lossy(&refused.stderr).contains("/var/lib/instance-agent"), "{refused:?}");
}

/// Where an image is built no init runs, and nothing is started.
#[test]
#[ignore = "needs the .deb: run `make test-systemd`"]
fn what_is_built_into_an_image_runs_from_the_first_boot() {
    let mut host = Host::without_package();
    let package = package();
    host.sh(&format!(
        "unshare --mount sh -euc 'mount -t tmpfs none /run; exec apt-get install -q -y --no-install-recommends {}'",
        package.display()
    ));
    host.sh("pgrep -x instance-agent && exit 1 || :");
    host.configure(HELLO);
    host.reboot();
    host.until_subscribed();
    let sha = host.push("v2");
    host.until_state("deployed", &sha);
    host.until_served("v2");
}

#[test]
#[ignore = "needs the .deb: run `make test-systemd`"]
fn an_invalid_configuration_is_told_and_not_tried_again() {
    let host = Host::unconfigured();
    host.configure("apps: [{repo: octocat/hello, servce: hello}]\n");
    assert!(!host.holds("systemctl start instance-agent"));
    for (property, value) in
        [("ActiveState", "failed"), ("SubState", "failed"), ("ExecMainStatus", "78"), ("NRestarts", "0")]
    {
        assert_eq!(host.property(property, "instance-agent"), value, "{property}: {}", host.told());
    }
    host.until_logged("/etc/instance-agent/config.yaml:3:");
}

/// As before a container image or a host that shall start nothing by itself.
#[test]
#[ignore = "needs the .deb: run `make test-systemd`"]
fn a_policy_that_forbids_starts_is_respected() {
    let host = Host::without_package();
    host.sh("printf '#!/bin/sh\\nexit 101\\n' > /usr/sbin/policy-rc.d; chmod 755 /usr/sbin/policy-rc.d");
    host.configure(HELLO);
    host.install(&package());
    assert_eq!(host.property("ActiveState", "instance-agent"), "inactive");
    assert_eq!(host.property("UnitFileState", "instance-agent"), "enabled");
    assert_eq!(host.property("InactiveExitTimestampMonotonic", "instance-agent"), "0", "it was started");
}

/// With the drop-in that docs/operations.md names.
#[test]
#[ignore = "needs the .deb: run `make test-systemd`"]
fn the_state_may_be_elsewhere() {
    let host = Host::unconfigured();
    host.sh("mkdir /srv/instance-agent");
    host.drop_in("instance-agent", "[Service]\nReadWritePaths=/srv/instance-agent\n");
    host.configure(&format!("state_dir: /srv/instance-agent\n{HELLO}"));
    host.systemctl("start instance-agent");
    host.until_subscribed();
    let sha = host.push("v2");
    host.until_state("deployed", &sha);
    host.until_served("v2");
}
