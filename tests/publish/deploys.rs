//! What is published is deployed.

use std::fs;

use crate::support::Mosquitto;
use crate::support::agent::{Agent, Instance};
use crate::support::payload::{Push, commit};
use crate::{publish, published};

const APPS: &str = "
apps:
- {repo: Acme/api, service: api, branch: main, settle: 0s}
- {repo: Acme/web, service: web, settle: 0s}
";

fn subscribed(broker: &Mosquitto) -> Agent {
    let instance = Instance::new(broker).mqtt("subscribe: exact");
    instance.configure(APPS);
    let agent = instance.start();
    agent.subscribed(1);
    agent
}

fn url(broker: &Mosquitto) -> String {
    format!("mqtt://127.0.0.1:{}", broker.port())
}

#[test]
fn a_push_by_hand_is_deployed_and_an_old_commit_as_well() {
    let broker = Mosquitto::start();
    let agent = subscribed(&broker);
    let by_hand = |digit: char, more: &[&str]| {
        let (url, commit) = (url(&broker), commit(digit));
        let arguments =
            ["--broker", &url, "--repo", "Acme/api", "--ref", "main", "--sha", &commit].map(str::to_owned);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).chain(more.iter().copied()).collect();
        published(&publish(&arguments, &[], b""))
    };
    let deployed = |times, digit| {
        let sha = commit(digit);
        agent.logged_times(times, "deployed", &[("app", "api"), ("sha", sha.as_str())]);
    };
    let push = Push::new("Acme/api", 'a');
    broker.publish(&push.topic(), &push.bytes());
    deployed(1, 'a');
    let said = by_hand('b', &[]);
    assert!(said.starts_with("Published on github/Acme/api: refs/heads/main of Acme/api at bbbb"), "{said}");
    deployed(1, 'b');
    by_hand('a', &["--protocol", "3.1.1"]);
    deployed(2, 'a');
    by_hand('a', &[]);
    by_hand('a', &["--again"]);
    deployed(3, 'a');
    assert_eq!(agent.instance.history("api").len(), 4, "only --again deploys what runs\n{}", agent.report());
}

#[test]
fn githubs_payload_is_deployed_however_it_travels() {
    let broker = Mosquitto::start();
    let agent = subscribed(&broker);
    let (url, file) = (url(&broker), agent.instance.file("push.json"));
    let ways: [&[&str]; 4] = [&[], &["--protocol", "3.1.1"], &["--envelope"], &["--slim"]];
    for (way, digit) in ways.iter().zip("abcd".chars()) {
        let push = Push::new("Acme/web", digit);
        fs::write(&file, push.bytes()).unwrap();
        let arguments =
            ["--broker", &url, "--payload", file.to_str().unwrap(), "--header", "X-GitHub-Event: push"];
        published(&publish(&[&arguments[..], way].concat(), &[], b""));
        agent.logged("deployed", &[("app", "web"), ("sha", &commit(digit))]);
    }
    let push = Push::new("Acme/web", 'e');
    published(&publish(&["--broker", &url, "--payload", "-"], &[], &push.bytes()));
    agent.logged("deployed", &[("app", "web"), ("sha", &commit('e'))]);
}

#[test]
fn a_runners_environment_is_enough() {
    let broker = Mosquitto::start();
    let agent = subscribed(&broker);
    let (url, file) = (url(&broker), agent.instance.file("event.json"));
    fs::write(&file, Push::new("Acme/api", 'a').bytes()).unwrap();
    let b = commit('b');
    let run = |event, more: &[&str]| {
        let variables = [
            ("GITHUB_EVENT_PATH", file.to_str().unwrap()),
            ("GITHUB_EVENT_NAME", event),
            ("GITHUB_REPOSITORY", "Acme/api"),
            ("GITHUB_REF", "refs/heads/main"),
            ("GITHUB_SHA", &b),
        ];
        published(&publish(&[&["--broker", &*url], more].concat(), &variables, b""))
    };
    assert_eq!(run("workflow_dispatch", &[]), "Nothing published: the event is not push.\n");
    run("push", &[]);
    agent.logged("deployed", &[("app", "api"), ("sha", &commit('a'))]);
    run("workflow_dispatch", &["--default-branch", "main"]);
    agent.logged("deployed", &[("app", "api"), ("sha", &b)]);
}

#[test]
fn a_retained_push_waits_for_whoever_subscribes_later() {
    let broker = Mosquitto::start();
    let url = url(&broker);
    let push = Push::new("Acme/web", 'a');
    let said = published(&publish(&["--broker", &url, "--payload", "-", "--retain"], &[], &push.bytes()));
    assert!(said.contains("nobody is subscribed"), "{said}");
    let agent = subscribed(&broker);
    agent.logged("deployed", &[("app", "web"), ("sha", &commit('a'))]);
}
