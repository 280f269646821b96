//! Deploys that fail: the service is never left down on purpose, and the outcome says what failed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod support;

use std::fs;
use std::time::{Duration, Instant};

use serde_json::Value;
use support::Mosquitto;
use support::agent::{Agent, Instance, eventually};
use support::apps::{ON_OUTCOME, STEPS};
use support::payload::{Push, commit};

struct Bench {
    broker: Mosquitto,
    instance: Instance,
    agent: Agent,
}

impl Bench {
    /// Commit a is deployed.
    fn new(configuration: &str) -> Self {
        let broker = Mosquitto::start();
        let instance = Instance::new(&broker);
        instance.configure(&format!("{ON_OUTCOME}{configuration}"));
        let agent = instance.start();
        agent.subscribed(1);
        let bench = Self { broker, instance, agent };
        bench.push('a');
        bench.agent.logged("deployed", &[]);
        bench.agent.outcomes(1);
        bench
    }

    fn push(&self, digit: char) {
        let push = Push::new("acme/api", digit);
        self.broker.publish(&push.topic(), &push.bytes());
    }

    /// Pushes commit b, which fails. The events since, the outcome, and the log's event.
    fn fails(&self) -> (Vec<String>, Value, Value) {
        let before = self.instance.events().len();
        self.push('b');
        let outcome = self.agent.outcomes(2).pop().unwrap();
        let event = self.agent.logged("deploy failed", &[("sha", &commit('b'))]);
        (self.instance.events().split_off(before), outcome, event)
    }
}

/// What was said of the failure of one command: to the log, and to `on_outcome` in both ways.
fn assert_told(bench: &Bench, step: &str, outcome: &Value, event: &Value) {
    let cause = &outcome["failures"][0];
    let command = format!("{}/do", bench.instance.path().display());
    assert_eq!((&outcome["outcome"], &cause["step"]), (&"failed".into(), &step.into()), "{outcome}");
    assert_eq!((&outcome["attempt"], &outcome["sha"]), (&1.into(), &commit('b').into()));
    assert_eq!(outcome["previous_sha"], *commit('a'));
    let error = cause["error"].as_str().unwrap();
    for part in [&command, "status", "7", "two"] {
        assert!(error.contains(part), "{part} is missing: {error}");
    }
    assert_eq!(cause["output"], serde_json::json!(["one", "two"]), "{outcome}");
    assert_eq!((&event["step"], &event["level"]), (&step.into(), &"ERROR".into()));
    assert_eq!((&event["error"], &event["output"]), (&error.into(), &"one | two".into()));
    let environment = bench.instance.read("env.outcome.all");
    for line in [
        "INSTANCE_AGENT_OUTCOME=failed".to_owned(),
        format!("INSTANCE_AGENT_STEP={step}"),
        format!("INSTANCE_AGENT_ERROR={error}"),
        format!("INSTANCE_AGENT_PREVIOUS_SHA={}", commit('a')),
        format!("GITHUB_SHA={}", commit('b')),
    ] {
        assert!(environment.lines().any(|it| it == line), "no {line} in:\n{environment}");
    }
}

const OUTPUT: &str = "one\ntwo\n";

#[test]
fn a_failed_prepare_touches_nothing() {
    let bench = Bench::new(STEPS);
    bench.instance.fail("prepare", "api", OUTPUT);
    let (events, outcome, event) = bench.fails();
    assert_eq!(events, ["prepare api bbbbbbb", "outcome all bbbbbbb"]);
    assert_told(&bench, "prepare", &outcome, &event);
    assert_eq!(outcome["failures"][0]["exit_code"], 7);
    assert!(bench.instance.read("state/env/api.env").contains(&commit('a')));
    // What ran before still does, so that going back to it is no deploy.
    bench.push('a');
    bench.agent.logged("push taken: its commit runs already", &[("app", "api")]);
}

#[test]
fn after_a_failed_stop_nothing_is_updated_and_start_is_tried() {
    let bench = Bench::new(STEPS);
    bench.instance.fail("stop", "api", OUTPUT);
    let (events, outcome, event) = bench.fails();
    assert_eq!(events, ["prepare api bbbbbbb", "stop api", "start api aaaaaaa", "outcome all bbbbbbb"]);
    assert_told(&bench, "stop", &outcome, &event);
    assert_eq!(outcome["failures"][0]["service"], "api");
    assert!(bench.instance.is_up("api"));
}

#[test]
fn after_a_failed_update_the_previous_revision_is_started() {
    let bench = Bench::new(STEPS);
    bench.instance.fail("update", "api", OUTPUT);
    let (events, outcome, event) = bench.fails();
    let expected =
        ["prepare api bbbbbbb", "stop api", "update api bbbbbbb", "start api aaaaaaa", "outcome all bbbbbbb"];
    assert_eq!(events, expected);
    assert_told(&bench, "update", &outcome, &event);
    assert_eq!(outcome["failures"][0]["exit_code"], 7);
    assert!(bench.instance.is_up("api"));
    assert!(bench.instance.read("state/env/api.env").contains(&format!("GITHUB_SHA=\"{}\"", commit('a'))));
    // What runs now is not known, so going back is a deploy of its own.
    bench.instance.mend("update", "api");
    bench.push('a');
    bench.agent.logged_times(2, "deployed", &[("sha", &commit('a'))]);
}

#[test]
fn a_failed_start_is_told() {
    let bench = Bench::new(STEPS);
    bench.instance.fail("start", "api", OUTPUT);
    let (events, outcome, event) = bench.fails();
    let expected =
        ["prepare api bbbbbbb", "stop api", "update api bbbbbbb", "start api bbbbbbb", "outcome all bbbbbbb"];
    assert_eq!(events, expected);
    assert_told(&bench, "start", &outcome, &event);
    assert_eq!(outcome["failures"][1]["step"], "verify", "that it is down is told as well: {outcome}");
    bench.agent.logged("step failed as well", &[("step", "verify")]);
    // The next push finds it mended.
    bench.instance.mend("start", "api");
    bench.push('c');
    bench.agent.logged("deployed", &[("sha", &commit('c'))]);
    assert!(bench.instance.is_up("api"));
}

#[test]
fn a_failed_check_is_told() {
    let bench = Bench::new(STEPS);
    bench.instance.fail("check", "api", OUTPUT);
    let (events, outcome, event) = bench.fails();
    assert_eq!(events.last().unwrap(), "outcome all bbbbbbb");
    assert_eq!(events[events.len() - 2], "check api bbbbbbb");
    assert_told(&bench, "check", &outcome, &event);
    assert!(bench.instance.is_up("api"));
}

#[test]
fn a_service_that_does_not_stay_up_is_told() {
    let bench = Bench::new(&STEPS.replacen("settle: 0s", "settle: 10ms", 1));
    bench.instance.write("dies.api", "");
    let (_, outcome, event) = bench.fails();
    assert_eq!((&outcome["failures"][0]["step"], &event["step"]), (&"verify".into(), &"verify".into()));
    let error = event["error"].as_str().unwrap();
    assert!(error.contains("api") && error.contains("did not stay up: it is stopped"), "{error}");
}

#[test]
fn a_retry_is_announced_and_a_newer_push_ends_the_wait() {
    let bench = Bench::new(&STEPS.replacen("settle: 0s", "settle: 0s\n  retries: 1", 1));
    bench.instance.fail("check", "api", OUTPUT);
    let (_, _, event) = bench.fails();
    assert_eq!(event["retry_in"], "10s", "{event}");
    bench.instance.mend("check", "api");
    let begun = Instant::now();
    bench.push('c');
    bench.agent.logged("deployed", &[("sha", &commit('c'))]);
    assert!(begun.elapsed() < Duration::from_secs(9), "{:?}", begun.elapsed());
}

#[test]
fn a_failed_deploy_is_tried_again() {
    let bench = Bench::new(&STEPS.replacen("settle: 0s", "settle: 0s\n  retries: 1", 1));
    bench.instance.fail("prepare", "api", OUTPUT);
    bench.fails();
    bench.instance.mend("prepare", "api");
    bench.agent.logged("deploy began", &[("sha", &commit('b')), ("attempt", "2")]);
    bench.agent.logged("deployed", &[("sha", &commit('b'))]);
    let outcome = bench.agent.outcomes(3).pop().unwrap();
    assert_eq!((&outcome["outcome"], &outcome["attempt"]), (&"deployed".into(), &2.into()));
}

#[test]
fn a_command_that_takes_too_long_is_ended_with_all_it_started() {
    let configuration = STEPS.replace(
        r#"update: {command: ["{dir}/do", update, api], dir: "{dir}"}"#,
        r#"update: {command: ["{dir}/slow"], dir: "{dir}", timeout: 1s}"#,
    );
    assert_ne!(configuration, STEPS);
    let broker = Mosquitto::start();
    let instance = Instance::new(&broker);
    instance.configure(&format!("{ON_OUTCOME}{configuration}"));
    instance.write("slow", "#!/bin/sh\necho begun\nsleep 300 &\necho $! > child\nwait\n");
    let mode = fs::metadata(instance.file("do")).unwrap().permissions();
    fs::set_permissions(instance.file("slow"), mode).unwrap();
    let agent = instance.start();
    agent.subscribed(1);
    let push = Push::new("acme/api", 'a');
    broker.publish(&push.topic(), &push.bytes());
    let outcome = agent.outcomes(1).pop().unwrap();
    let cause = &outcome["failures"][0];
    assert_eq!((&cause["step"], &cause["output"][0]), (&"update".into(), &"begun".into()), "{outcome}");
    let error = cause["error"].as_str().unwrap();
    assert!(error.contains("slow") && error.contains("time limit of 1s"), "{error}");
    let child = format!("/proc/{}/cwd", instance.read("child").trim());
    eventually(|| fs::read_link(&child).is_err().then_some(()), || "its child lives on".to_owned());
    // There is no previous revision to hand over.
    agent.did(&["prepare api aaaaaaa", "stop api", "start api", "outcome all aaaaaaa"]);
}

#[test]
fn a_failing_on_outcome_changes_nothing() {
    let broker = Mosquitto::start();
    let instance = Instance::new(&broker);
    instance.configure(&format!("{ON_OUTCOME}{STEPS}"));
    instance.fail("outcome", "all", OUTPUT);
    let agent = instance.start();
    agent.subscribed(1);
    let push = Push::new("acme/api", 'a');
    broker.publish(&push.topic(), &push.bytes());
    agent.logged("deployed", &[]);
    let event = agent.logged("on_outcome failed", &[("app", "api")]);
    assert_eq!(event["level"], "WARN");
    let push = Push::new("acme/api", 'b');
    broker.publish(&push.topic(), &push.bytes());
    agent.logged("deployed", &[("sha", &push.after)]);
}
