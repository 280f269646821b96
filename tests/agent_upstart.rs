//! A deploy by the real program on a host of upstart's, whose `initctl` is a stand-in: it can no longer be installed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod support;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use support::Mosquitto;
use support::agent::{Agent, Instance};
use support::payload::{Push, commit};

/// With the job `api`, which runs as process 77.
fn host(broker: &Mosquitto) -> (Instance, Agent) {
    let instance = Instance::new(broker);
    let stand_in = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/stand-ins/initctl");
    symlink(stand_in, instance.file("initctl")).unwrap();
    fs::create_dir(instance.file("jobs")).unwrap();
    instance.write("jobs/api", "77\n");
    let dir = instance.path().display().to_string();
    let document = format!(
        "mqtt: {{url: \"mqtt://127.0.0.1:{}\"}}\nstate_dir: {dir}/state\nservice_manager: upstart\n\
         apps: [{{repo: acme/api, service: api, branch: main, settle: 0s}}]\n",
        broker.port()
    );
    instance.write("config.yaml", document);
    let path = format!("{dir}:/usr/bin:/bin");
    let agent = instance.start_with(|command| {
        command.env("PATH", path);
    });
    agent.subscribed(1);
    (instance, agent)
}

fn publish(broker: &Mosquitto, digit: char) {
    let push = Push::new("acme/api", digit);
    broker.publish(&push.topic(), &push.bytes());
}

#[test]
fn a_push_restarts_a_job_with_the_revision_as_its_arguments() {
    let broker = Mosquitto::start();
    let (instance, agent) = host(&broker);
    publish(&broker, 'a');
    agent.logged("deployed", &[("app", "api"), ("sha", &commit('a'))]);
    assert_ne!(instance.read("jobs/api"), "77\n", "it is the old process");
    let told = instance.read("jobs/api.environment");
    for line in ["GITHUB_REF_NAME=main".to_owned(), format!("GITHUB_SHA={}", commit('a'))] {
        assert!(told.lines().any(|it| it == line), "{line} is not in {told}");
    }
}

#[test]
fn a_job_that_fails_to_start_is_named_with_upstarts_words() {
    let broker = Mosquitto::start();
    let (instance, agent) = host(&broker);
    instance.write("jobs/api.fails", "");
    publish(&broker, 'a');
    agent.logged("deploy failed: waiting for a new push", &[("app", "api"), ("step", "start")]);
    let history = instance.history("api");
    let said = history.last().unwrap().to_string();
    assert!(said.contains("initctl: Job failed to start"), "{said}");
}
