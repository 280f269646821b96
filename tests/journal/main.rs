//! What the journal is for: pushes and deploys outlive an agent that is killed, a disk that refuses, and another
//! configuration.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod configured;
mod disk;
mod interrupted;
#[path = "../support/mod.rs"]
mod support;
mod taken;
mod told;

use std::fs;

use nix::sys::signal::Signal;
use serde_json::Value;
use support::agent::{Agent, Instance, eventually};
use support::payload::{Push, commit};
use support::{Mosquitto, PATIENCE};

const API: &str = "apps: [{repo: acme/api, service: api, branch: main, settle: 0s}]";
const WEB: &str = "apps: [{repo: acme/web, service: web, branch: main, settle: 0s}]";
const API_AND_WEB: &str = "
apps:
- {repo: acme/api, service: api, branch: main, settle: 0s}
- {repo: acme/web, service: web, branch: main, settle: 0s}
";
const STEPS: &str = r#"
apps:
- repo: acme/api
  service: api
  branch: main
  prepare: {command: ["{dir}/do", prepare, api], dir: "{dir}"}
  update: {command: ["{dir}/do", update, api], dir: "{dir}"}
  check: {command: ["{dir}/do", check, api], dir: "{dir}"}
  settle: 0s
- {repo: acme/web, service: web, branch: main, settle: 0s}
"#;

const ON_OUTCOME: &str = r#"
on_outcome: {command: ["{dir}/do", outcome, all], dir: "{dir}"}
"#;

fn debugging(instance: &Instance) -> Agent {
    let agent = instance.start_with(|command| {
        command.args(["--log-level", "debug"]);
    });
    agent.subscribed(1);
    agent
}

/// Each of these pointers leads to this text.
fn assert_says(json: &Value, facts: &[(&str, &str)]) {
    for (pointer, expected) in facts {
        assert_eq!(json.pointer(pointer).and_then(Value::as_str), Some(*expected), "{pointer} of {json}");
    }
}

fn publish(broker: &Mosquitto, push: &Push) {
    broker.publish(&push.topic(), &push.bytes());
}

/// A broker, an instance with this configuration, and its agent.
struct Bench {
    broker: Mosquitto,
    instance: Instance,
    agent: Agent,
}

impl Bench {
    fn new(configuration: &str) -> Self {
        Self::on(Mosquitto::start(), configuration)
    }

    fn on(broker: Mosquitto, configuration: &str) -> Self {
        let instance = Instance::new(&broker);
        instance.configure(configuration);
        Self::of(broker, instance)
    }

    fn of(broker: Mosquitto, instance: Instance) -> Self {
        let agent = debugging(&instance);
        Self { broker, instance, agent }
    }

    fn push(&self, repo: &str, digit: char) {
        publish(&self.broker, &Push::new(repo, digit));
    }

    /// Pushes, and waits until it is deployed.
    fn deploy(&self, repo: &str, digit: char) {
        self.push(repo, digit);
        self.agent.logged("deployed", &[("sha", &commit(digit))]);
    }

    /// Another agent in the place of one that was killed.
    fn start_again(&mut self) {
        self.agent.kill();
        self.agent = debugging(&self.instance);
    }

    /// Messages that the broker has sent to the agent.
    fn sent(&self) -> usize {
        self.broker.logged(&format!("Sending PUBLISH to {}", self.instance.client_id()))
    }

    /// Waits until the agent has acknowledged so many.
    fn acknowledged(&self, count: usize) {
        let acknowledged = || self.acknowledgements() >= count;
        eventually(|| acknowledged().then_some(()), || format!("not {count}: {}", self.broker.log()));
    }

    fn acknowledgements(&self) -> usize {
        self.broker.logged(&format!("Received PUBACK from {}", self.instance.client_id()))
    }

    /// Waits until the journal knows the process group of this step's command, so that the next agent can end it.
    fn noted(&self, step: &str) {
        let noted = || {
            let record: Value = serde_json::from_str(&self.instance.read("state/apps/api.json")).ok()?;
            let leader = record.pointer("/attempt/running/group/pgid")?.as_i64()?;
            let command = fs::read_to_string(format!("/proc/{leader}/cmdline")).ok()?;
            command.contains(step).then_some(())
        };
        eventually(noted, || format!("{step} is not noted: {}", self.report()));
    }

    /// The events that start with this.
    fn count(&self, event: &str) -> usize {
        self.instance.events().iter().filter(|it| it.starts_with(event)).count()
    }

    /// Everything that was published before has been seen, and deployed if it ever will be.
    fn witnessed(&self, digit: char) {
        self.deploy("acme/web", digit);
    }

    fn report(&self) -> String {
        self.agent.report()
    }
}
