//! The main job, by the real program against a real broker: a push restarts the services of the app it is for.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod support;

use serde_json::json;
use support::Mosquitto;
use support::agent::{Agent, Instance};
use support::apps::API_AND_WEB;
use support::payload::{Push, commit};

/// The API's pushes to `main`, with every step a command.
const API: &str = r#"
environment: demo
on_outcome: {command: ["{dir}/do", outcome, all], dir: "{dir}"}
apps:
- repo: Acme/api
  services: [db-proxy, api]
  branch: main
  prepare: {command: ["{dir}/do", prepare, api], dir: "{dir}"}
  update: {command: ["{dir}/do", update, api], dir: "{dir}"}
  check: {command: ["{dir}/do", check, api], dir: "{dir}"}
  settle: 0s
"#;

fn publish(broker: &Mosquitto, push: &Push) {
    broker.publish(&push.topic(), &push.bytes());
}

fn subscribed(instance: &Instance) -> Agent {
    let agent = instance.start();
    agent.subscribed(1);
    agent
}

fn lines(text: &str) -> Vec<&str> {
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    lines
}

/// The whole deploy, with what each command is told.
fn the_main_job(mqtt: &[&str], shape: fn(&Push) -> Vec<u8>) {
    let broker = Mosquitto::start();
    let instance = mqtt.iter().fold(Instance::new(&broker), |instance, line| instance.mqtt(line));
    instance.configure(API);
    let agent = subscribed(&instance);
    let deploy = |digit: char| {
        let push = Push::new("Acme/api", digit);
        broker.publish(&push.topic(), &shape(&push));
        agent.logged("deployed", &[("app", "db-proxy"), ("sha", &commit(digit))]);
    };
    deploy('a');
    let first = [
        "prepare api aaaaaaa",
        "stop api",
        "stop db-proxy",
        "update api aaaaaaa",
        "start db-proxy aaaaaaa",
        "start api aaaaaaa",
        "check api aaaaaaa",
    ];
    assert_eq!(instance.events()[..7], first);
    deploy('b');
    agent.outcomes(2);

    let handed_over = [
        ("GITHUB_REF", "refs/heads/main"),
        ("GITHUB_REF_NAME", "main"),
        ("GITHUB_REPOSITORY", "Acme/api"),
        ("GITHUB_SHA", &commit('b')),
        ("INSTANCE_AGENT_APP", "db-proxy"),
        ("INSTANCE_AGENT_ENVIRONMENT", "demo"),
        ("INSTANCE_AGENT_PREVIOUS_SHA", &commit('a')),
    ];
    for step in ["prepare.api", "update.api", "check.api", "start.api", "start.db-proxy", "outcome.all"] {
        let environment = instance.read(&format!("env.{step}"));
        for (name, value) in handed_over {
            assert!(
                lines(&environment).contains(&&*format!("{name}={value}")),
                "{step} lacks {name}:\n{environment}"
            );
        }
    }
    for name in ["HOME=", "USER=", "LOGNAME=", "SHELL=", "PATH=", "LANG="] {
        let environment = instance.read("env.update.api");
        assert!(environment.lines().any(|line| line.starts_with(name)), "no {name} in:\n{environment}");
    }
    let file = instance.read("state/env/db-proxy.env");
    let expected: Vec<String> =
        handed_over.iter().map(|(name, value)| format!("{name}=\"{value}\"")).collect();
    assert_eq!(lines(&file), expected, "the environment file");
    let outcomes = instance.outcomes();
    assert_eq!((&outcomes[1]["outcome"], &outcomes[1]["app"]), (&"deployed".into(), &"db-proxy".into()));
    assert_eq!(
        (&outcomes[1]["sha"], &outcomes[1]["previous_sha"]),
        (&commit('b').into(), &commit('a').into())
    );
    assert!(agent.complaints().is_empty(), "{}", agent.report());
}

#[test]
fn a_push_is_deployed_over_mqtt_5() {
    the_main_job(&[], Push::bytes);
}

#[test]
fn a_push_is_deployed_over_mqtt_3() {
    the_main_job(&["protocol: \"3.1.1\""], Push::bytes);
}

#[test]
fn a_push_is_deployed_with_exact_subscriptions() {
    the_main_job(&["subscribe: exact"], Push::bytes);
    the_main_job(&["subscribe: exact", "protocol: 3.1.1"], Push::bytes);
}

#[test]
fn a_push_of_2012_is_deployed() {
    the_main_job(&[], |push| push.json_of_2012().to_string().into_bytes());
}

#[test]
fn the_log_says_what_was_subscribed_to() {
    let broker = Mosquitto::start();
    let wildcard = Instance::new(&broker);
    let exact = Instance::new(&broker).mqtt("subscribe: exact").mqtt("topic: ci/hooks/+/+");
    wildcard.configure(API_AND_WEB);
    exact.configure(API_AND_WEB);
    let (agent, other) = (wildcard.start(), exact.start());
    let event = agent.subscribed(1);
    assert_eq!((&event["filters"], &event["level"]), (&"github/+/+".into(), &"INFO".into()));
    let event = other.subscribed(1);
    assert_eq!(event["filters"], "ci/hooks/acme/api ci/hooks/acme/web");
    let push = Push::new("acme/web", 'a');
    broker.publish("ci/hooks/acme/web", &push.bytes());
    other.did(&["stop web", "start web aaaaaaa"]);
    assert!(wildcard.events().is_empty());
}

#[test]
fn a_commit_that_runs_already_is_not_deployed_again() {
    let broker = Mosquitto::start();
    let instance = Instance::new(&broker);
    instance.configure(API_AND_WEB);
    let agent = subscribed(&instance);
    publish(&broker, &Push::new("acme/api", 'a'));
    agent.logged("deployed", &[("app", "api")]);
    publish(&broker, &Push::new("acme/api", 'a'));
    publish(&broker, &Push::new("acme/web", 'c'));
    agent.did(&["stop api", "start api aaaaaaa", "stop web", "start web ccccccc"]);
}

#[test]
fn two_agents_restart_only_their_own() {
    let broker = Mosquitto::start();
    let (one, other) = (Instance::new(&broker), Instance::new(&broker).mqtt("protocol: \"3.1.1\""));
    one.configure("apps: [{repo: acme/api, service: api, settle: 0s}]");
    other.configure("apps: [{repo: acme/web, service: web, settle: 0s}]");
    let (one, other) = (subscribed(&one), subscribed(&other));
    for (api, web) in [('a', 'b'), ('c', 'd')] {
        publish(&broker, &Push::new("acme/api", api));
        publish(&broker, &Push::new("acme/web", web));
        one.logged("deployed", &[("sha", &commit(api))]);
        other.logged("deployed", &[("sha", &commit(web))]);
    }
    one.did(&["stop api", "start api aaaaaaa", "stop api", "start api ccccccc"]);
    other.did(&["stop web", "start web bbbbbbb", "stop web", "start web ddddddd"]);
    for agent in [one, other] {
        assert!(agent.complaints().is_empty(), "{}", agent.report());
    }
}

#[test]
fn each_environment_follows_its_own_branch_of_one_repository() {
    let broker = Mosquitto::start();
    let agents = ["production", "demo", "sandbox"].map(|environment| {
        let instance = Instance::new(&broker);
        instance.configure(&format!(
            "environment: {environment}\napps:\n\
             - {{repo: acme/api, service: api, branch: {{production: master, demo: [demo, \"demo/*\"]}}, settle: 0s}}\n\
             - {{repo: acme/web, service: web, branch: main, settle: 0s}}"
        ));
        subscribed(&instance)
    });
    for (digit, branch) in
        [('a', "master"), ('b', "demo"), ('c', "main"), ('d', "demo/new"), ('e', "demo/new/x")]
    {
        let push = Push::new("acme/api", digit).to(branch);
        publish(&broker, &push);
        if matches!(branch, "demo" | "demo/new") {
            agents[1].logged("deployed", &[("sha", &push.after)]);
        }
    }
    // Once this one is through, so are those before it.
    publish(&broker, &Push::new("acme/web", 'f'));
    let [production, demo, sandbox] = &agents;
    let web = ["stop web", "start web fffffff"];
    production.did_at_last("start api aaaaaaa");
    production.did_at_last(web[1]);
    assert_eq!(production.instance.events().len(), 4, "{}", production.report());
    demo.did(&["stop api", "start api bbbbbbb", "stop api", "start api ddddddd", web[0], web[1]]);
    sandbox.did(&web);
}

#[test]
fn two_apps_of_one_repository_are_both_deployed() {
    let broker = Mosquitto::start();
    let instance = Instance::new(&broker);
    instance.configure(
        "max_parallel: 1\napps:\n- {repo: acme/mono, service: api, settle: 0s}\n\
         - {repo: ACME/Mono, service: web, tags: \"v*\", branch: next, settle: 0s}",
    );
    let agent = subscribed(&instance);
    publish(&broker, &Push::new("acme/mono", 'a'));
    agent.did(&["stop api", "start api aaaaaaa"]);
    publish(&broker, &Push::new("acme/mono", 'b').tag("v1"));
    agent.did_at_last("start web bbbbbbb");
    publish(&broker, &Push::new("acme/mono", 'c').to("next"));
    agent.did(&[
        "stop api",
        "start api aaaaaaa",
        "stop web",
        "start web bbbbbbb",
        "stop web",
        "start web ccccccc",
    ]);
}

#[test]
fn pushes_during_a_deploy_coalesce_to_the_newest() {
    let broker = Mosquitto::start();
    let instance = Instance::new(&broker);
    instance.configure(API);
    instance.hold("update", "api");
    let mut agent = subscribed(&instance);
    publish(&broker, &Push::new("Acme/api", 'a'));
    agent.did_at_last("update api aaaaaaa");
    for n in 1..20 {
        publish(&broker, &Push { after: format!("{n:040x}"), ..Push::new("Acme/api", 'b') });
    }
    publish(&broker, &Push::new("Acme/api", 'c'));
    agent.logged("push taken", &[("sha", &commit('c'))]);
    instance.release_for_good("update", "api");
    let outcomes = agent.outcomes(2);
    assert_eq!(outcomes[1]["sha"], *commit('c'));
    assert_eq!(outcomes[1]["superseded"], 19);
    assert_eq!(outcomes[1]["previous_sha"], *commit('a'));
    assert!(agent.stop().success());
    let updates: Vec<_> = instance.events().into_iter().filter(|event| event.starts_with("update")).collect();
    assert_eq!(updates, ["update api aaaaaaa", "update api ccccccc"]);
    assert_eq!(instance.events().len(), 16, "{}", agent.report());
}

const FOUR_APPS: &str = r#"
max_parallel: 2
apps:
- name: one
  repo: acme/one
  services: [shared, api]
  prepare: {command: ["{dir}/do", prepare, one], dir: "{dir}"}
  check: {command: ["{dir}/do", check, one], dir: "{dir}"}
  settle: 0s
- name: two
  repo: acme/two
  services: [web, shared]
  prepare: {command: ["{dir}/do", prepare, two], dir: "{dir}"}
  check: {command: ["{dir}/do", check, two], dir: "{dir}"}
  settle: 0s
- name: three
  repo: acme/three
  service: worker
  prepare: {command: ["{dir}/do", prepare, three], dir: "{dir}"}
  check: {command: ["{dir}/do", check, three], dir: "{dir}"}
  settle: 0s
- name: four
  repo: acme/four
  service: mailer
  prepare: {command: ["{dir}/do", prepare, four], dir: "{dir}"}
  check: {command: ["{dir}/do", check, four], dir: "{dir}"}
  settle: 0s
"#;

#[test]
fn apps_that_share_a_service_take_turns() {
    let broker = Mosquitto::start();
    let instance = Instance::new(&broker);
    instance.configure(FOUR_APPS);
    instance.hold("check", "one");
    instance.hold("check", "three");
    let agent = subscribed(&instance);
    publish(&broker, &Push::new("acme/one", 'a'));
    agent.did_at_last("check one aaaaaaa");
    publish(&broker, &Push::new("acme/two", 'b'));
    publish(&broker, &Push::new("acme/three", 'c'));
    // Side by side with the first, while the second waits for it.
    agent.did_at_last("check three ccccccc");
    assert!(!instance.events().iter().any(|event| event.contains("two")), "{}", agent.report());
    instance.release("check", "one");
    agent.did_at_last("check two bbbbbbb");
    instance.release("check", "three");
    agent.logged_times(3, "deployed", &[]);
    let events = instance.events();
    let at = |event: &str| events.iter().position(|it| it == event).unwrap();
    assert!(at("check one aaaaaaa") < at("prepare two bbbbbbb"), "{events:?}");
}

#[test]
fn independent_apps_are_deployed_side_by_side_up_to_the_limit() {
    let broker = Mosquitto::start();
    let instance = Instance::new(&broker);
    instance.configure(FOUR_APPS);
    for app in ["one", "three", "four"] {
        instance.hold("prepare", app);
    }
    let agent = subscribed(&instance);
    publish(&broker, &Push::new("acme/one", 'a'));
    publish(&broker, &Push::new("acme/three", 'b'));
    agent.did_at_last("prepare one aaaaaaa");
    agent.did_at_last("prepare three bbbbbbb");
    publish(&broker, &Push::new("acme/four", 'c'));
    agent.logged("push taken", &[("app", "four")]);
    // A third slot would have been taken by the time that this has its second push.
    publish(&broker, &Push::new("acme/one", 'd'));
    agent.logged("push taken", &[("sha", &commit('d'))]);
    assert_eq!(instance.events().len(), 2, "{}", agent.report());
    instance.release("prepare", "one");
    agent.did_at_last("prepare four ccccccc");
    instance.release("prepare", "four");
    instance.release("prepare", "three");
    instance.release("prepare", "one");
    agent.logged_times(4, "deployed", &[]);
}

/// Whatever a message holds, the log stays one event a line, of validated values.
#[test]
fn nothing_of_a_message_reaches_the_log_unvalidated() {
    const EVIL: &str = "x\n{\"level\":\"ERROR\",\"message\":\"forged\"}\u{1b}[31m\u{7}";
    let broker = Mosquitto::start();
    let instance = Instance::new(&broker);
    instance.configure(API_AND_WEB);
    let mut agent = instance.start_with(|command| {
        command.args(["--log-level", "debug"]);
    });
    agent.subscribed(1);
    let push = Push::new("acme/api", 'a');
    let evil = [
        Push { git_ref: format!("refs/heads/{EVIL}"), ..push.clone() },
        Push { repo: format!("acme/{EVIL}"), ..push.clone() },
        Push { after: format!("{EVIL}{}", commit('b')), ..push.clone() },
        Push { before: format!("{EVIL}{}", commit('b')), ..push.clone() },
        Push { git_ref: EVIL.to_owned(), default_branch: Some(EVIL.to_owned()), ..push.clone() },
    ];
    for push in &evil {
        broker.publish("github/acme/api", &push.bytes());
    }
    broker.publish("github/acme/api", EVIL.as_bytes());
    let web = Push::new("acme/web", 'c');
    for header in ["X-GitHub-Delivery", "X-GitHub-Event", EVIL] {
        let envelope = json!({"headers": {header: EVIL}, "body": web.json().to_string()});
        broker.publish("github/acme/web", envelope.to_string().as_bytes());
    }
    let property = ["-D", "publish", "user-property", "X-GitHub-Delivery", "x\",\"message\":\"forged"];
    broker.publish_with(
        &[&["-V", "5", "-q", "1", "-t", "github/acme/web", "-s"], &property[..]].concat(),
        &web.bytes(),
    );
    publish(&broker, &push);
    agent.did_at_last("start api aaaaaaa");
    agent.did_at_last("start web ccccccc");
    agent.logged("message rejected", &[]);
    assert!(agent.stop().success());
    for event in agent.log() {
        let text = event.to_string();
        assert!(!text.contains("forged") && !text.contains("\\u001b") && !text.contains("\\u0007"), "{text}");
    }
    let taken = agent.log_of("push taken", &[("app", "web")]);
    assert!(taken.iter().all(|event| event["delivery"].is_null()), "{taken:?}");
}
