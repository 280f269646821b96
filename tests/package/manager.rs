//! A service manager of the configuration, whose commands and those of deploys are children of the agent.

use crate::host::Host;

const MANAGER: &str = "service_manager:
  name: mine
  stop: [/usr/local/bin/mine, stop, \"{service}\"]
  start: [/usr/local/bin/mine, start, \"{service}\"]
  status: [/usr/local/bin/mine, status, \"{service}\"]
";

/// `start` notes what it was given.
const MINE: &str = "#!/bin/sh
[ $1 = start ] || exit 0
umask >/srv/steps/umask.start
exec env >/srv/steps/env.start
";

/// systemd runs the agent, but not these.
fn host() -> Host {
    let host = Host::unconfigured();
    host.write("/usr/local/bin/mine", MINE);
    host.sh("chmod 755 /usr/local/bin/mine; mkdir /etc/systemd/system/instance-agent.service.d; \
         ln -s /usr/share/instance-agent/without-sandbox.conf /etc/systemd/system/instance-agent.service.d; \
         systemctl daemon-reload");
    host
}

#[test]
#[ignore = "needs the .deb: run `make test-systemd`"]
fn what_is_the_agents_own_does_not_reach_apps() {
    let host = host();
    let update = "[sh, -c, \"umask >/srv/steps/umask.update; echo v2 >/srv/steps/code\"], user: deploy";
    let app = "{repo: octocat/hello, service: hello, branch: main, settle: 0s";
    host.configure(&format!("{MANAGER}apps: [{app}, update: {{command: {update}}}}}]\n"));
    host.systemctl("start instance-agent");
    host.until_subscribed();
    let sha = host.push("v2");
    host.until_state("deployed", &sha);
    for step in ["start", "update"] {
        assert_eq!(host.read(&format!("/srv/steps/umask.{step}")), "0022\n", "{step}");
    }
    assert_eq!(host.sh("stat -c '%A %U' /srv/steps/code"), "-rw-r--r-- deploy");
    let environment = host.read("/srv/steps/env.start");
    assert!(environment.contains(&format!("GITHUB_SHA={sha}\n")), "{environment}");
    let expected = [
        "GITHUB_",
        "INSTANCE_AGENT_",
        "LANG",
        "PATH=",
        "PWD=",
        "HOME=",
        "LOGNAME=",
        "USER=",
        "SHELL=",
        "SHLVL=",
        "_=",
    ];
    for line in environment.lines() {
        assert!(expected.iter().any(|name| line.starts_with(name)), "{line} is not for an app");
    }
}

/// The group reads the journal, and nobody else what is in it, whatever the agent's umask.
#[test]
#[ignore = "needs the .deb: run `make test-systemd`"]
fn what_the_agent_writes_is_for_its_group_alone() {
    let host = Host::configured(crate::HELLO);
    let sha = host.push("v2");
    host.until_state("deployed", &sha);
    let modes = host.sh("find /var/lib/instance-agent -mindepth 0 -printf '%M %u:%g %P\\n'");
    assert!(modes.contains("env/hello.env") && modes.contains("apps/hello.json"), "{modes}");
    for line in modes.lines() {
        let right = ["drwxr-x--- ", "-rw-r----- "].iter().any(|mode| line.starts_with(mode));
        assert!(right && line.contains(" root:instance-agent "), "{line} of {modes}");
    }
}
