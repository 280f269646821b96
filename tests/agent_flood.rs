//! Twenty thousand messages that are not for this instance, and one that is.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    missing_docs
)]

mod support;

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::Mosquitto;
use support::agent::{Agent, Instance, eventually};
use support::payload::{Push, commit};
use support::publisher::{Outgoing, publish_all};

const MESSAGES: usize = 20_000;
const MIB: usize = 1 << 20;

/// The managed repositories: `api` gets the one push, `witness` shows that all before its push has been seen.
const APPS: &str = "
apps:
- {repo: acme/api, service: api, branch: main, settle: 0s}
- {repo: acme/witness, service: witness, branch: main, settle: 0s}
";

/// What an organisation publishes in a busy week. Nothing in it deploys anything.
struct Mix {
    other_repository: Vec<u8>,
    other_branch: Vec<u8>,
    deleted: Vec<u8>,
    large_of_other: Vec<u8>,
    large: Vec<u8>,
}

impl Mix {
    fn new() -> Self {
        let api = Push::new("acme/api", 'e');
        Self {
            other_repository: Push::new("acme/other", 'd').bytes(),
            other_branch: api.clone().to("main-2").bytes(),
            deleted: Push { deleted: true, after: commit('0'), ..api.clone() }.bytes(),
            large_of_other: Push::new("acme/other", 'd').bytes_of(200_000),
            large: api.to("next").bytes_of(200_000),
        }
    }

    fn message(&self, n: usize) -> Outgoing {
        const API: &str = "github/acme/api";
        match n % 20 {
            0 if n.is_multiple_of(400) => Outgoing::new("github/acme/other", &*self.large_of_other),
            0 if n % 400 == 200 => Outgoing::new(API, &*self.large),
            0 => Outgoing::new(API, &*self.other_branch),
            1 => Outgoing::new(API, &*self.deleted).header("X-GitHub-Event", "push"),
            2 => Outgoing::new(API, &*self.other_branch).header("x-github-event", "workflow_run"),
            3 => Outgoing::new(API, &b"{\"zen\":\"Keep it logically awesome.\",\"hook_id\":1}"[..]),
            4 => Outgoing::new(API, ""),
            5 => Outgoing::new(format!("github/acme/repo-{n}"), ""),
            6 => Outgoing::new(format!("github/acme/repo-{n}"), &b"\xff\x00junk {{{"[..]),
            7 => Outgoing::new("github/acme/api/extra", "not ours"),
            _ => Outgoing::new(format!("github/acme/repo-{}", n % 100), &*self.other_repository),
        }
    }
}

/// Everything that was published so far has been looked at.
fn witnessed(broker: &Mosquitto, agent: &Agent, digit: char) {
    let push = Push::new("acme/witness", digit);
    publish_all(broker, [Outgoing::new(push.topic(), push.bytes())]);
    agent.logged("deployed", &[("app", "witness"), ("sha", &push.after)]);
}

/// `at`: how many messages come before the app's one push.
fn one_push_among_them(protocol: &str, at: usize) {
    let broker = Mosquitto::fast();
    let instance = Instance::new(&broker).mqtt(&format!("protocol: {protocol}"));
    instance.configure(APPS);
    let agent = instance.start();
    agent.subscribed(1);
    let mix = Mix::new();
    publish_all(&broker, (0..1000).map(|n| mix.message(n)));
    witnessed(&broker, &agent, '1');
    let (before, _) = agent.memory();

    let push = Push::new("acme/api", 'a');
    let begun = Instant::now();
    let flood = (0..MESSAGES)
        .map(|n| if n == at { Outgoing::new(push.topic(), push.bytes()) } else { mix.message(n) });
    publish_all(&broker, flood);
    witnessed(&broker, &agent, '2');
    // Under a flood mosquitto 2.0.11 lets messages overtake others.
    agent.logged("deployed", &[("app", "api")]);
    let took = begun.elapsed();
    witnessed(&broker, &agent, '3');
    let (after, peak) = agent.memory();

    let events = instance.events();
    let of_api: Vec<_> =
        events.iter().filter(|event| event.ends_with("api") || event.contains("api ")).collect();
    assert_eq!(of_api, ["stop api", "start api aaaaaaa"], "{}", agent.report());
    assert_eq!(events.len(), 8, "{}", agent.report());
    assert!(agent.complaints().is_empty(), "{}", agent.report());
    assert!(after < before + 2048, "from {before} KiB to {after} KiB");
    assert!(peak < before + 8192, "{before} KiB before, {peak} KiB at the highest");
    assert!(took < Duration::from_secs(20), "{took:?}");
    println!("{took:?}, {before} KiB before, {after} KiB after, {peak} KiB at the highest");
}

#[test]
fn the_last_of_them_is_found_over_mqtt_5() {
    one_push_among_them("\"5\"", MESSAGES - 1);
}

#[test]
fn the_last_of_them_is_found_over_mqtt_3() {
    one_push_among_them("3.1.1", MESSAGES - 1);
}

#[test]
fn one_in_the_middle_is_found() {
    one_push_among_them("\"5\"", MESSAGES / 2);
}

/// Without this, glibc's malloc keeps the largest buffer that it was given back for the next time.
fn start_giving_back(instance: &Instance) -> Agent {
    instance.start_with(|command| {
        command.env("MALLOC_MMAP_THRESHOLD_", "131072");
    })
}

fn huge_messages(protocol: &str) {
    let broker = Mosquitto::fast();
    let instance = Instance::new(&broker).mqtt(&format!("protocol: {protocol}"));
    instance.configure(APPS);
    let agent = start_giving_back(&instance);
    agent.subscribed(1);
    witnessed(&broker, &agent, '1');
    let (before, _) = agent.memory();
    let other = Push::new("acme/other", 'd').bytes_of(24 * MIB);
    let branch = Push::new("acme/api", 'e').to("next").bytes_of(24 * MIB);
    for _ in 0..2 {
        publish_all(&broker, [Outgoing::new("github/acme/other", &*other)]);
        publish_all(&broker, [Outgoing::new("github/acme/api", &*branch)]);
    }
    witnessed(&broker, &agent, '2');
    assert!(agent.complaints().is_empty(), "{}", agent.report());
    let ours = Push::new("acme/api", 'a').bytes_of(24 * MIB);
    publish_all(&broker, [Outgoing::new("github/acme/api", ours)]);
    agent.logged("deployed", &[("app", "api")]);
    // What it needed is given back, if not in the same moment.
    witnessed(&broker, &agent, '3');
    assert_eq!(instance.events().len(), 8, "{}", agent.report());
    assert!(agent.complaints().is_empty(), "{}", agent.report());
    let returned = || (agent.memory().0 < before + 2048).then_some(());
    eventually(returned, || format!("from {before} KiB to {} KiB", agent.memory().0));
    let (after, peak) = agent.memory();
    assert!(peak < before + 100 * 1024, "{before} KiB before, {peak} KiB at the highest");
    println!("{before} KiB before, {after} KiB after, {peak} KiB at the highest");
}

#[test]
fn huge_messages_are_taken_and_their_memory_is_given_back_over_mqtt_5() {
    huge_messages("\"5\"");
}

#[test]
fn huge_messages_are_taken_and_their_memory_is_given_back_over_mqtt_3() {
    huge_messages("3.1.1");
}

fn messages_above_the_limit(protocol: &str) {
    let broker = Mosquitto::fast();
    let instance = Instance::new(&broker).mqtt(&format!("protocol: {protocol}")).mqtt("max_payload: 1MiB");
    instance.configure(APPS);
    let agent = start_giving_back(&instance);
    agent.subscribed(1);
    witnessed(&broker, &agent, '1');
    let (before, _) = agent.memory();
    let large = Push::new("acme/api", 'e').bytes_of(5 * MIB);
    publish_all(&broker, (0..30).map(|_| Outgoing::new("github/acme/api", &*large)));
    let push = Push::new("acme/api", 'a');
    publish_all(&broker, [Outgoing::new(push.topic(), push.bytes())]);
    agent.logged("deployed", &[("app", "api"), ("sha", &push.after)]);
    witnessed(&broker, &agent, '2');
    assert_eq!(instance.events().len(), 6, "{}", agent.report());
    let complaints = agent.complaints();
    let [dropped] = &complaints[..] else { panic!("{}", agent.report()) };
    assert_eq!(dropped["topic"], "github/acme/api");
    assert_eq!(dropped["limit"], MIB);
    assert_eq!(agent.log_of("subscribed", &[]).len(), 1, "{}", agent.report());
    let returned = || (agent.memory().0 < before + 2048).then_some(());
    eventually(returned, || format!("from {before} KiB to {} KiB", agent.memory().0));
}

#[test]
fn messages_above_the_limit_hold_nothing_up_over_mqtt_5() {
    messages_above_the_limit("\"5\"");
}

#[test]
fn messages_above_the_limit_hold_nothing_up_over_mqtt_3() {
    messages_above_the_limit("3.1.1");
}

/// Junk on a managed topic is worth a warning, but not ten thousand.
#[test]
fn junk_on_a_managed_topic_is_warned_about_once_a_minute() {
    let broker = Mosquitto::fast();
    let instance = Instance::new(&broker);
    instance.configure(APPS);
    let agent = instance.start();
    agent.subscribed(1);
    let mismatch = Push::new("acme/other", 'd').bytes();
    let junk = (0..MESSAGES).map(|n| match n % 4 {
        0 => Outgoing::new("github/acme/api", "junk"),
        1 => Outgoing::new("github/acme/api", &b"{\"ref\":\"refs/heads/main\",\"after\":1}"[..]),
        2 => Outgoing::new("github/acme/api", vec![0xff; 1000]),
        _ => Outgoing::new("github/acme/api", &*mismatch),
    });
    publish_all(&broker, junk);
    witnessed(&broker, &agent, '1');
    let complaints = agent.complaints();
    // Not decodable, and not of its topic: one each. That there is more than the queue holds may be said as well.
    let rejected = agent.log_of("message rejected", &[]).len();
    assert_eq!(rejected, 2, "{}", agent.report());
    assert!(complaints.len() <= 3, "{}", agent.report());
    assert_eq!(instance.events(), ["stop witness", "start witness 1111111"]);
}

/// What was never read takes no memory, not even for a moment.
#[test]
fn what_is_unfit_to_be_read_takes_no_memory() {
    let broker = Mosquitto::fast();
    let instance = Instance::new(&broker);
    instance.configure(APPS);
    let agent = instance.start();
    agent.subscribed(1);
    witnessed(&broker, &agent, '1');
    let (before, _) = agent.memory();
    publish_all(&broker, [Outgoing::new("github/acme/other", vec![b'x'; 67 * MIB])]);
    publish_all(&broker, [Outgoing::new("github/acme/api", vec![b'x'; 40 * MIB])]);
    // 10 MiB of properties, which would be 100 MiB in memory.
    let headers = vec![(String::new(), String::new()); 2 * MIB];
    publish_all(&broker, [Outgoing { headers, ..Outgoing::new("github/acme/api", "") }]);
    witnessed(&broker, &agent, '2');
    let (after, peak) = agent.memory();
    assert!(after < before + 2048, "from {before} KiB to {after} KiB");
    assert!(peak < before + 4096, "{before} KiB before, {peak} KiB at the highest");
    let dropped: Vec<_> = agent.complaints().iter().map(|line| line["topic"].clone()).collect();
    assert_eq!(
        dropped,
        [Value::Null, json!("github/acme/api"), json!("github/acme/api")],
        "{}",
        agent.report()
    );
    assert_eq!(agent.log_of("subscribed", &[]).len(), 1, "{}", agent.report());
}
