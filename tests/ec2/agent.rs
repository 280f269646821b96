//! The program, configured by nothing but user-data.

use std::io::Write;
use std::process::{Command, Output};
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::Value;

use crate::support::Mosquitto;
use crate::support::agent::{Agent, Instance};
use crate::support::apps::API;
use crate::support::imds::{INSTANCE_ID, Imds, Trouble};
use crate::support::payload::Push;

/// Makes a command ask this metadata service; a proxy is none of its business.
pub(crate) fn on_ec2<'c>(command: &'c mut Command, imds: &Imds) -> &'c mut Command {
    command.env_remove("AWS_EC2_METADATA_DISABLED");
    command.env("AWS_EC2_METADATA_SERVICE_ENDPOINT", imds.endpoint());
    command.env("http_proxy", "http://127.0.0.1:9").env("HTTP_PROXY", "http://127.0.0.1:9");
    command.arg("--ec2")
}

/// A `#cloud-config` with what [`Instance::configure`] would write, but for the client id.
pub(crate) fn cloud_config(instance: &Instance, rest: &str) -> String {
    let document = instance.document(rest);
    let lines = document.lines().filter(|line| !line.contains("client_id"));
    let lines: String = lines.map(|line| format!("  {line}\n")).collect();
    format!("#cloud-config\npackages: [curl]\ninstance_agent:\n{lines}")
}

fn gzip(text: &str) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(text.as_bytes()).unwrap();
    encoder.finish().unwrap()
}

pub(crate) fn start(instance: &Instance, imds: &Imds) -> Agent {
    instance.start_without_file(|command| {
        on_ec2(command, imds);
    })
}

fn check(imds: &Imds, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_instance-agent"));
    on_ec2(command.env_clear().arg("check"), imds).args(arguments).output().unwrap()
}

pub(crate) fn publish(broker: &Mosquitto, repo: &str, branch: &str, digit: char) {
    let push = Push::new(repo, digit).to(branch);
    broker.publish(&push.topic(), &push.bytes());
}

#[test]
fn user_data_is_all_that_an_instance_needs() {
    let broker = Mosquitto::start();
    let instance = Instance::new(&broker);
    let imds = Imds::with_user_data(gzip(&cloud_config(&instance, API)));
    // As at boot, when the service is not quite there yet.
    imds.state().troubles.extend([Trouble::Closed, Trouble::Status(503), Trouble::Status(429)]);
    let mut agent = start(&instance, &imds);
    agent.subscribed(1);
    publish(&broker, "acme/api", "main", 'a');
    agent.logged("deployed", &[("app", "api")]);
    assert!(agent.stop().success());
    let starts =
        agent.logged("instance-agent starts", &[("client_id", "instance-agent-i-0123456789abcdef0")]);
    assert_eq!(starts["instance_id"], INSTANCE_ID);
    let unnamed = |event: &&Value| event["instance_id"] != INSTANCE_ID;
    assert_eq!(agent.log().iter().filter(unnamed).count(), 0, "{}", agent.report());
    assert!(agent.complaints().is_empty(), "{}", agent.report());
}

#[test]
fn check_names_the_user_data_and_the_tags() {
    let instance = Instance::at(1);
    let imds = Imds::with_user_data(cloud_config(&instance, "ec2: {tags: true}"));
    imds.tag(&[("instance-agent:environment", "demo"), ("instance-agent:app:web", "acme/web@main=nginx")]);
    let output = check(&imds, &["--app", "acme/api=api"]);
    let text = String::from_utf8(output.stdout).unwrap();
    for (key, value, place) in [
        ("mqtt.url", "mqtt://127.0.0.1:1", "user-data (#cloud-config):5"),
        ("mqtt.client_id", "instance-agent-i-0123456789abcdef0", "default"),
        ("environment", "demo", "tag instance-agent:environment"),
        ("apps[0].repo", "acme/api", "--app"),
        ("apps[1].name", "web", "tag instance-agent:app:web"),
        ("apps[1].branch", "main", "tag instance-agent:app:web"),
        ("ec2.tags", "true", "user-data (#cloud-config):12"),
        ("ec2.refresh", "1m", "default"),
    ] {
        let fits = |line: &str| line.split_whitespace().eq([key, value].into_iter().chain(place.split(' ')));
        assert!(text.lines().any(fits), "{key} {value} {place} is missing:\n{text}");
    }
    let wrong = check(&Imds::with_user_data("#instance-agent\nbroker: x\n"), &[]);
    assert_eq!(wrong.status.code(), Some(78));
    let wrong = String::from_utf8(wrong.stderr).unwrap();
    assert!(wrong.starts_with("user-data (#instance-agent):2: unknown key \"broker\""), "{wrong}");
}

#[test]
fn the_instance_is_named_in_text_for_people_too() {
    let imds = Imds::with_user_data("#!/bin/sh\n");
    let mut command = Command::new(env!("CARGO_BIN_EXE_instance-agent"));
    let output = on_ec2(command.env_clear().arg("run"), &imds).output().unwrap();
    assert!(output.status.success());
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.trim_end().ends_with(&format!(" instance_id={INSTANCE_ID}")), "{text}");
    assert!(text.contains("user-data: a script (#!)") && text.lines().count() == 1, "{text}");
}

#[test]
fn a_metadata_service_that_is_off_keeps_no_complete_file_from_starting() {
    let broker = Mosquitto::start();
    let instance = Instance::new(&broker);
    instance.configure(API);
    let imds = Imds::start();
    imds.state().trouble = Some(Trouble::Status(403));
    let agent = instance.start_with(|command| {
        on_ec2(command, &imds);
    });
    agent.subscribed(1);
    agent.logged("the instance metadata service is off", &[("level", "WARN")]);
}

/// Somebody may mend the tags or the instance's options from afar: systemd shall try again, as it does not on 78.
#[test]
fn a_start_without_an_answer_says_what_is_missing() {
    let instance = Instance::at(1);
    let imds = Imds::start();
    let start = |arguments: &[&str]| {
        let mut agent = instance.start_without_file(|command| {
            on_ec2(command, &imds).args(["--broker", "mqtt://localhost", "--state-dir"]);
            command.arg(instance.path()).args(arguments);
        });
        assert_eq!(agent.wait().code(), Some(1), "{}", agent.report());
        agent
    };
    imds.state().trouble = Some(Trouble::Status(403));
    let agent = start(&[]);
    agent.logged("the instance metadata service is off", &[("level", "ERROR")]);
    agent.logged(
        "invalid configuration: command line (there is no configuration file): apps: is missing",
        &[],
    );
    start(&["--app", "acme/api=api", "--ec2-tags"]).logged("the instance metadata service is off", &[]);
    imds.state().trouble = None;
    imds.tag(&[("instance-agent:app:api", "nonsense")]);
    start(&["--ec2-tags"])
        .logged("invalid configuration: tag instance-agent:app:api: its value must be", &[]);
}

fn noise(mut seed: u64) -> Vec<u8> {
    let mut next = || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        seed.to_le_bytes()[7]
    };
    (0..16 * 1024).map(|_| next()).collect()
}

/// The highest memory of an agent with this user-data beside its file.
fn memory_with(broker: &Mosquitto, user_data: Vec<u8>) -> u64 {
    let instance = Instance::new(broker);
    instance.configure(API);
    let imds = Imds::with_user_data(user_data);
    let agent = instance.start_with(|command| {
        on_ec2(command, &imds);
    });
    agent.subscribed(1);
    agent.memory().1
}

#[test]
fn hostile_user_data_takes_no_memory() {
    let broker = Mosquitto::start();
    let usual = memory_with(&broker, b"#!/bin/sh\n".to_vec());
    let head = "MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=x\n\n";
    let deep = format!("{head}{}", "--x\n\n".repeat(3000));
    let expanding = [
        " ".repeat(10 << 20),
        format!("#cloud-config\n{}", "- [a, b]\n".repeat(100_000)),
        format!("#cloud-config\ninstance_agent: {{}}\nx: \"{}\"\n", "\\x41".repeat(200_000)),
        format!("{head}{}", "--x\nContent-Type: multipart/mixed; boundary=y\n\n".repeat(20_000)),
        format!("{head}{}", "--x\nContent-Type: message/rfc822\n\n".repeat(25_000)),
        format!("MIME-Version: 1.0\n{}\n", "Content-Type: a/b; c=d\n".repeat(40_000)),
    ];
    let small = [deep.into_bytes(), noise(1)];
    for hostile in expanding.iter().map(|text| gzip(text)).chain(small) {
        assert!(hostile.len() <= 16 * 1024, "{}", hostile.len());
        let most = memory_with(&broker, hostile);
        assert!(most < usual + 10 * 1024, "{most} KiB, but usually {usual} KiB");
    }
    let cyclic = Imds::with_user_data("#instance-agent\napps: &apps [*apps]\n");
    let begun = std::time::Instant::now();
    let output = check(&cyclic, &[]);
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    assert_eq!(output.status.code(), Some(78), "{output:?}");
}
