//! Deploys of units of every kind, good and bad.

use crate::HELLO;
use crate::host::Host;

/// The step that the last deploy failed in, and all that is said of it.
fn failure(host: &Host) -> (String, String) {
    let outcome = host.status()["last_outcome"].take();
    (outcome["step"].as_str().unwrap_or_default().to_owned(), outcome.to_string())
}

#[test]
#[ignore = "needs the .deb: run `make test-systemd`"]
fn a_wrong_unit_name_is_told_and_touches_nothing() {
    let wrong = HELLO.replace("service: hello", "service: helo\n  name: hello");
    let host = Host::configured(&wrong);
    host.until_logged("systemd knows no such service: pushes to this app will fail");
    let sha = host.push("v2");
    host.until_state("failed", &sha);
    let (step, said) = failure(&host);
    assert!(step == "stop" && said.contains("systemd knows no service helo: check its name"), "{said}");
    host.until_served("v1");
    host.configure(HELLO);
    host.systemctl("reload instance-agent");
    let sha = host.push("v3");
    host.until_state("deployed", &sha);
    host.until_served("v3");
}

#[test]
#[ignore = "needs the .deb: run `make test-systemd`"]
fn a_unit_that_fails_to_start_is_told_and_can_be_mended() {
    let host = Host::configured(HELLO);
    host.write("/srv/steps/fail.start", "no database\n");
    let sha = host.push("v2");
    host.until_state("failed", &sha);
    let (step, said) = failure(&host);
    assert!(step == "start" && said.contains("`systemctl restart -- hello` failed"), "{said}");
    assert!(said.contains("Result=exit-code"), "{said}");
    host.sh("rm /srv/steps/fail.start");
    host.publish(&sha);
    host.until_state("deployed", &sha);
    host.until_served("v2");
}

#[test]
#[ignore = "needs the .deb: run `make test-systemd`"]
fn a_unit_that_dies_every_second_is_not_taken_for_deployed() {
    let host = Host::configured(&HELLO.replace("settle: 200ms", "settle: 2500ms"));
    host.drop_in(
        "hello",
        "[Unit]\nStartLimitIntervalSec=0\n\
         [Service]\nExecStart=\nExecStart=sleep 1\nRestart=always\nRestartSec=0\n",
    );
    let sha = host.push("v2");
    host.until_state("failed", &sha);
    let (step, said) = failure(&host);
    assert!(step == "verify" && said.contains("hello: did not stay up: "), "{said}");
}

/// systemd's limit is five starts in ten seconds. Here it is five in an hour, so that it is met however slow the host is.
#[test]
#[ignore = "needs the .deb: run `make test-systemd`"]
fn six_pushes_do_not_meet_the_start_limit() {
    let host = Host::configured(HELLO);
    host.drop_in("hello", "[Unit]\nStartLimitIntervalSec=1h\nStartLimitBurst=5\n");
    for version in ["v2", "v3", "v4", "v5", "v6", "v7"] {
        let sha = host.push(version);
        host.until_state("deployed", &sha);
    }
    host.until_served("v7");
    assert_eq!(host.property("Result", "hello"), "success");
}

#[test]
#[ignore = "needs the .deb: run `make test-systemd`"]
fn of_six_pushes_at_once_the_newest_is_deployed() {
    let host = Host::configured(HELLO);
    let shas = ["v2", "v3", "v4", "v5", "v6", "v7"].map(|version| host.commit(version));
    let before = host.property("ActiveEnterTimestampMonotonic", "hello");
    let pushes = shas.each_ref().map(|sha| Host::publish_command(sha)).join("; ");
    host.sh(&pushes);
    let app = host.until_state("deployed", &shas[5]);
    host.until_served("v7");
    assert_ne!(host.property("ActiveEnterTimestampMonotonic", "hello"), before);
    let starts = host.read("/srv/steps/events").lines().filter(|line| line.starts_with("start ")).count();
    assert!(starts <= 1 + 6, "{app:#}");
}

#[test]
#[ignore = "needs the .deb: run `make test-systemd`"]
fn a_oneshot_unit_is_run_for_each_push() {
    let host = Host::unconfigured();
    host.unit(
        "report",
        "[Service]\nType=oneshot\nEnvironmentFile=-/var/lib/instance-agent/env/report.env\n\
         ExecStart=sh -c 'echo $GITHUB_SHA >> /srv/steps/reports'\n",
    );
    host.configure("apps: [{repo: octocat/hello, service: report, branch: main, settle: 200ms}]\n");
    host.systemctl("start instance-agent");
    host.until_subscribed();
    let shas = ["v2", "v3"].map(|version| {
        let sha = host.push(version);
        host.until_state("deployed", &sha);
        sha
    });
    assert_eq!(host.read("/srv/steps/reports"), format!("{}\n{}\n", shas[0], shas[1]));
}

#[test]
#[ignore = "needs the .deb: run `make test-systemd`"]
fn a_unit_that_ignores_term_is_killed_by_systemd_and_deployed() {
    let host = Host::configured(HELLO);
    // A signal that is ignored stays so in what a shell becomes.
    let stubborn = "sh -c 'trap \"\" TERM; exec /usr/bin/python3 /srv/hello/serve.py'";
    host.drop_in("hello", &format!("[Service]\nExecStart=\nExecStart={stubborn}\nTimeoutStopSec=1s\n"));
    host.systemctl("restart hello");
    host.until_served("v1");
    let sha = host.push("v2");
    host.until_state("deployed", &sha);
    host.until_served("v2");
    host.sh("journalctl -u hello | grep -q \"State 'stop-sigterm' timed out. Killing.\"");
}

#[test]
#[ignore = "needs the .deb: run `make test-systemd`"]
fn a_masked_unit_is_told_and_deployed_once_it_is_not() {
    let host = Host::configured(HELLO);
    host.systemctl("mask hello");
    let sha = host.push("v2");
    host.until_state("failed", &sha);
    let (_, said) = failure(&host);
    assert!(said.contains("Unit hello.service is masked.") && said.contains("systemctl unmask"), "{said}");
    host.systemctl("unmask hello");
    host.publish(&sha);
    host.until_state("deployed", &sha);
    host.until_served("v2");
}

/// Commands run outside of the agent's own sandbox, as whom they are configured to.
#[test]
#[ignore = "needs the .deb: run `make test-systemd`"]
fn commands_may_do_what_their_user_may() {
    let note =
        |name: &str| format!("[sh, -c, \"id -un >/srv/steps/who.{name}; cat >>/srv/steps/heard.{name}\"]");
    let host = Host::configured(&format!(
        "on_outcome: {{command: {}, user: deploy}}\n{HELLO}\x20 prepare: {{command: {}}}\n\x20 check: {{command: {}, user: deploy}}\n",
        note("outcome"),
        note("prepare"),
        note("check"),
    ));
    let sha = host.push("v2");
    host.until_state("deployed", &sha);
    host.until("the outcome is told", "test -s /srv/steps/heard.outcome");
    for (name, user) in [("prepare", "root"), ("check", "deploy"), ("outcome", "deploy")] {
        assert_eq!(host.read(&format!("/srv/steps/who.{name}")), format!("{user}\n"), "{name}");
    }
    let outcome: serde_json::Value = serde_json::from_str(&host.read("/srv/steps/heard.outcome")).unwrap();
    assert!(outcome["outcome"] == "deployed" && outcome["sha"] == sha, "{outcome:#}");
}
