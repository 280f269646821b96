//! Nobody without the secret restarts an app, whatever is published.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    missing_docs
)]

mod support;

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use nix::sys::signal::Signal;
use support::agent::{Agent, Instance};
use support::forger::Forger;
use support::payload::Push;
use support::publisher::{Outgoing, publish_all};
use support::{Mosquitto, certificates, free_port};

const FORGED: usize = 10_000;
const SECRET: &str = "It's a Secret to Everybody";
const TRUST: &str = "
webhook_secret_file: {dir}/secrets
max_push_age: 1d
apps: [{repo: acme/api, service: api, branch: main, settle: 0s}]
";

fn instance(broker: &Mosquitto, protocol: &str) -> Instance {
    let instance = Instance::new(broker).mqtt(&format!("protocol: {protocol}"));
    write_secrets(&instance, SECRET);
    instance.configure(TRUST);
    instance
}

fn write_secrets(instance: &Instance, secrets: &str) {
    instance.write("secrets", secrets);
    fs::set_permissions(instance.file("secrets"), Permissions::from_mode(0o600)).unwrap();
}

/// The reasons that were given for refusing messages.
fn reasons(agent: &Agent) -> BTreeSet<String> {
    let rejected = agent.log_of("message rejected", &[]);
    rejected.iter().map(|event| event["reason"].as_str().unwrap().to_owned()).collect()
}

/// `count` messages that must deploy nothing, between two that must.
fn forged(protocol: &str, count: usize, good: fn(&Forger, &Push) -> Outgoing) {
    let broker = Mosquitto::fast();
    let instance = instance(&broker, protocol);
    let mut agent = instance.start();
    agent.subscribed(1);
    let deployed = Push::new("acme/api", '1');
    let mut forger = Forger::new(20_191, SECRET, deployed.clone());
    publish_all(&broker, [good(&forger, &deployed)]);
    agent.did(&["stop api", "start api 1111111"]);
    let warm: Vec<_> = (0..count / 10).map(|n| forger.message(n)).collect();
    publish_all(&broker, warm);
    let next = Push::new("acme/api", '2');
    publish_all(&broker, [good(&forger, &next)]);
    agent.logged("deployed", &[("sha", &next.after)]);
    let (before, _) = agent.memory();

    let flood: Vec<_> = (0..count).map(|n| forger.message(n)).collect();
    publish_all(&broker, flood);
    let last = Push::new("acme/api", 'a');
    publish_all(&broker, [good(&forger, &last)]);
    agent.logged("deployed", &[("sha", &last.after)]);
    let (after, peak) = agent.memory();

    let expected =
        ["stop api", "start api 1111111", "stop api", "start api 2222222", "stop api", "start api aaaaaaa"];
    assert_eq!(instance.events(), expected, "{}", agent.report());
    assert!(after < before + 2048, "from {before} KiB to {after} KiB");
    println!("{before} KiB before, {after} KiB after, {peak} KiB at the highest");
    let known = ["forged", "too old", "topic mismatch", "undated", "undecodable", "unsigned"];
    assert_eq!(reasons(&agent), known.map(str::to_owned).into(), "{}", agent.report());
    // Each reason once a minute, and this takes less than two.
    assert!(agent.log_of("message rejected", &[]).len() <= 2 * reasons(&agent).len(), "{}", agent.report());
    assert!(agent.log_of("push ignored", &[]).len() <= 4, "{}", agent.report());
    assert!(agent.stop().success());
    // What was not acknowledged would come again, before what is new.
    let again = instance.start();
    again.subscribed(1);
    let newest = Push::new("acme/api", 'b');
    publish_all(&broker, [good(&forger, &newest)]);
    again.logged("deployed", &[("sha", &newest.after)]);
    assert!(again.log_of("message rejected", &[]).is_empty(), "{}", again.report());
    assert!(again.log_of("push ignored", &[]).is_empty(), "{}", again.report());
}

#[test]
fn ten_thousand_forged_messages_deploy_nothing() {
    forged("\"5\"", FORGED, Forger::good);
}

#[test]
fn forged_messages_deploy_nothing_over_mqtt_3() {
    forged("3.1.1", FORGED, Forger::good_in_envelope);
}

fn signed_by(secret: &str, digit: char) -> (Push, Outgoing) {
    let push = Push::new("acme/api", digit);
    let outgoing = Forger::new(0, secret, push.clone()).good(&push);
    (push, outgoing)
}

/// Publishes a push that is believed.
fn deploys(broker: &Mosquitto, agent: &Agent, secret: &str, digit: char) {
    let (push, outgoing) = signed_by(secret, digit);
    publish_all(broker, [outgoing]);
    agent.logged("deployed", &[("sha", &push.after)]);
}

#[test]
fn any_secret_of_the_file_counts_and_a_reload_reads_it_again() {
    let broker = Mosquitto::start();
    let instance = instance(&broker, "\"5\"");
    write_secrets(&instance, "new\r\n\nold\n");
    let agent = instance.start();
    agent.subscribed(1);
    deploys(&broker, &agent, "old", '1');
    deploys(&broker, &agent, "new", '2');

    write_secrets(&instance, "newer\n");
    agent.signal(Signal::SIGHUP);
    agent.logged("configuration reloaded", &[("reconnect", "false")]);
    publish_all(&broker, [signed_by("new", '3').1]);
    agent.logged("message rejected", &[("reason", "forged"), ("repository", "acme/api"), ("total", "1")]);
    deploys(&broker, &agent, "newer", '4');

    write_secrets(&instance, "\n");
    agent.signal(Signal::SIGHUP);
    let error = agent.logged("cannot reload", &[("message", "webhook_secret_file")]);
    assert!(error["message"].as_str().unwrap().contains("holds no secret"), "{error}");
    agent.logged("the old configuration stays in force", &[]);
    deploys(&broker, &agent, "newer", '5');
    publish_all(&broker, [signed_by("new", '6').1]);
    deploys(&broker, &agent, "newer", '7');
    assert!(!instance.events().iter().any(|event| event.contains("3333") || event.contains("6666")));
}

#[test]
fn without_secrets_signatures_mean_nothing() {
    let broker = Mosquitto::start();
    let instance = Instance::new(&broker);
    instance.configure("apps: [{repo: acme/api, service: api, branch: main, settle: 0s}]");
    let agent = instance.start();
    agent.subscribed(1);
    deploys(&broker, &agent, "anything", '1');
    assert!(agent.complaints().is_empty(), "{}", agent.report());
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[test]
fn check_names_the_secrets_file_and_shows_none_of_it() {
    let instance = Instance::at(free_port());
    write_secrets(&instance, &format!("{SECRET}\nanother"));
    instance.configure(TRUST);
    let text = said(&instance.ask(&["check"]));
    let line = text.lines().find(|line| line.starts_with("webhook_secret_file ")).unwrap();
    assert!(line.contains("/secrets (2 secrets)"), "{line}");
    assert!(text.lines().any(|line| line.starts_with("max_push_age ") && line.contains(" 1d ")), "{text}");
    assert!(!text.contains(SECRET) && !text.contains("another") && !text.contains("Warning"), "{text}");

    for (secrets, part) in [("\n", "holds no secret"), (&*"x".repeat(70_000), "larger than 64 KiB")] {
        write_secrets(&instance, secrets);
        let output = instance.ask(&["check"]);
        assert_eq!(output.status.code(), Some(78));
        let text = said(&output);
        assert!(text.contains("webhook_secret_file: ") && text.contains(part), "{text}");
    }
}

#[test]
fn check_says_why_a_message_would_not_be_believed() {
    let instance = Instance::at(free_port());
    write_secrets(&instance, SECRET);
    instance.configure(TRUST);
    let (push, good) = signed_by(SECRET, 'a');
    instance.write("body", &good.payload);
    let headers: Vec<String> = good.headers.iter().map(|(name, value)| format!("{name}: {value}")).collect();
    let file = instance.file("body");
    let message = ["check", "--topic", &push.topic(), "--message", file.to_str().unwrap()].map(str::to_owned);
    let ask = |headers: &[String]| {
        let headers = headers.iter().flat_map(|header| ["--header".to_owned(), header.clone()]);
        let arguments: Vec<String> = message.iter().cloned().chain(headers).collect();
        instance.ask(&arguments.iter().map(String::as_str).collect::<Vec<_>>())
    };
    let output = ask(&headers);
    assert!(output.status.success() && said(&output).contains("api: deployed"), "{}", said(&output));
    let output = ask(&[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("Rejected: it is not signed"), "{}", said(&output));
    let (_, other) = signed_by("wrong", 'a');
    instance.write("body", other.payload);
    assert!(said(&ask(&headers)).contains("Rejected: the signature is not of this body"));
}

#[test]
fn what_others_can_read_on_the_wire_or_on_disk_is_warned_about_at_each_start() {
    let instance = Instance::at(free_port()).mqtt("username: agent").mqtt("password_file: {dir}/password");
    instance.write("password", "hunter2");
    instance.write("secrets", SECRET);
    let mode =
        |name: &str, mode| fs::set_permissions(instance.file(name), Permissions::from_mode(mode)).unwrap();
    mode("password", 0o640);
    mode("secrets", 0o644);
    instance.configure(TRUST);
    let remote = |command: &mut Command| {
        command.args(["--broker", "mqtt://192.0.2.1"]);
    };
    let mut agent = instance.start_with(remote);
    let warning = agent.logged("webhook_secret_file", &[("level", "WARN")]);
    let text = warning["message"].as_str().unwrap();
    assert!(text.contains("/secrets has mode 0644") && text.contains("chmod o="), "{text}");
    agent.logged("can read the password", &[("message", "192.0.2.1:1883")]);
    assert!(agent.log_of("can restart the apps", &[]).is_empty(), "{}", agent.report());
    assert!(agent.log_of("/password has mode", &[]).is_empty(), "{}", agent.report());
    agent.signal(Signal::SIGTERM);
    agent.wait();

    mode("password", 0o646);
    instance.configure("apps: [{repo: acme/api, service: api}]");
    let agent = instance.start_with(remote);
    agent.logged("anybody on the way to 192.0.2.1:1883 can restart the apps", &[("level", "WARN")]);
    agent.logged("mqtt.password_file", &[("message", "/password has mode 0646")]);
    let text = said(&instance.ask(&["check", "--broker", "mqtt://192.0.2.1"]));
    assert_eq!(text.matches("Warning: ").count(), 3, "{text}");
    let text = said(&instance.ask(&["check", "--broker", "mqtt://localhost"]));
    assert_eq!(text.matches("Warning: ").count(), 1, "{text}");
    mode("password", 0o600);
    mode("config.yaml", 0o666);
    let text = said(&instance.ask(&["check", "--broker", "mqtt://localhost"]));
    let warning = text.lines().find(|line| line.starts_with("Warning: ")).expect(&text);
    assert!(warning.contains("/config.yaml has mode 0666") && warning.contains("chmod o-w"), "{text}");
}

#[test]
fn a_file_that_others_can_read_is_noticed_at_a_reconnect_and_told_of_once() {
    let mut broker = Mosquitto::start();
    let instance = Instance::new(&broker).mqtt("username: agent").mqtt("password_file: {dir}/password");
    let mode = |mode| fs::set_permissions(instance.file("password"), Permissions::from_mode(mode)).unwrap();
    instance.write("password", "hunter2");
    mode(0o604);
    instance.configure("apps: [{repo: acme/api, service: api}]");
    let agent = instance.start();
    agent.subscribed(1);
    let told = || agent.log_of("/password has mode", &[("level", "WARN")]).len();
    assert_eq!(told(), 1, "by the start, not by the first connection\n{}", agent.report());
    mode(0o644);
    for times in 2..=3 {
        broker.start_again();
        agent.subscribed(times);
        assert_eq!(told(), 2, "{}", agent.report());
    }
    agent.logged("mqtt.password_file", &[("message", "/password has mode 0644")]);
}

/// The broker's accounts: one, with this password.
fn accounts(directory: &Path, password: &str) {
    let mut command = Command::new("mosquitto_passwd");
    command.args(["-b", "-c"]).arg(directory.join("accounts")).args(["agent", password]);
    assert!(command.status().unwrap().success());
}

/// Hands the agent what it needs to be let in.
fn credentials(instance: &Instance, broker: &Mosquitto, password: &str) {
    for name in ["ca.pem", "cert.pem", "key.pem"] {
        fs::copy(broker.directory().join(name), instance.file(name)).unwrap();
    }
    instance.write("password", password);
}

#[test]
fn renewed_certificates_and_passwords_need_no_restart() {
    let mut broker = Mosquitto::configured(|directory| {
        certificates(directory);
        accounts(directory, "one");
        let path = directory.display();
        format!(
            "allow_anonymous false\npassword_file {path}/accounts\ncafile {path}/ca.pem\ncertfile {path}/cert.pem\n\
             keyfile {path}/key.pem\nrequire_certificate true"
        )
    });
    let instance = Instance::new(&broker)
        .mqtt("username: agent")
        .mqtt("password_file: {dir}/password")
        .mqtt("ca_file: {dir}/ca.pem")
        .mqtt("cert_file: {dir}/cert.pem")
        .mqtt("key_file: {dir}/key.pem");
    instance.configure("apps: [{repo: acme/api, service: api, branch: main, settle: 0s}]");
    credentials(&instance, &broker, "one\n");
    let url = format!("mqtts://localhost:{}", broker.port());
    let agent = instance.start_with(|command| {
        command.args(["--broker", &url]);
    });
    agent.subscribed(1);

    // Another authority, so nothing of the old is of any use with the new.
    certificates(broker.directory());
    accounts(broker.directory(), "two");
    credentials(&instance, &broker, "two\n");
    broker.start_again();
    agent.subscribed(2);
    for complaint in agent.complaints() {
        let reason = complaint["reason"].to_string();
        assert!(!reason.contains("TLS") && !reason.contains("refused client"), "{complaint}");
    }
}

#[test]
fn the_application_protocol_is_asked_for() {
    let instance = Instance::at(free_port()).mqtt("ca_file: {dir}/ca.pem").mqtt("alpn: x-amzn-mqtt-ca");
    certificates(instance.path());
    instance.configure("apps: [{repo: acme/api, service: api}]");
    let port = free_port().to_string();
    let mut server = Command::new("openssl")
        .args([
            "s_server",
            "-accept",
            &port,
            "-cert",
            "cert.pem",
            "-key",
            "key.pem",
            "-alpn",
            "x-amzn-mqtt-ca",
        ])
        .current_dir(instance.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(server.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert!(lines.any(|line| line.contains("ACCEPT")));
    let _agent = instance.start_with(|command| {
        command.args(["--broker", &format!("mqtts://localhost:{port}")]);
    });
    let selected = lines.find(|line| line.contains("ALPN protocols selected"));
    server.kill().unwrap();
    server.wait().unwrap();
    assert_eq!(selected.as_deref(), Some("ALPN protocols selected: x-amzn-mqtt-ca"));
}

#[test]
fn without_a_ca_file_the_systems_roots_are_trusted() {
    let broker = Mosquitto::configured(|directory| {
        certificates(directory);
        let path = directory.display();
        format!("allow_anonymous true\ncertfile {path}/cert.pem\nkeyfile {path}/key.pem")
    });
    let instance = Instance::new(&broker);
    instance.configure("apps: [{repo: acme/api, service: api}]");
    let url = format!("mqtts://localhost:{}", broker.port());
    let with_roots = |roots: &str| {
        instance.start_with(|command| {
            command.args(["--broker", &url]).env("SSL_CERT_FILE", broker.directory().join(roots));
        })
    };
    with_roots("ca.pem").subscribed(1);
    // Any certificate will do that did not sign the broker's.
    let reason = with_roots("cert.pem").logged("no connection", &[("reason", "no TLS with localhost")]);
    assert!(reason["reason"].as_str().unwrap().contains("the system's root certificates"), "{reason}");
}
