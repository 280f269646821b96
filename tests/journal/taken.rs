//! Pushes outlive the agent and the broker, and are deployed once.

use std::time::{SystemTime, UNIX_EPOCH};

use super::support::proxy::Proxy;
use super::support::publisher::{Outgoing, publish_all};
use super::*;

#[test]
fn an_acknowledged_push_needs_no_second_message() {
    let mut bench = Bench::new(&format!("stagger: 1d\n{API}"));
    bench.push("acme/api", 'a');
    bench.acknowledged(1);
    assert_eq!(bench.instance.status("api")["state"], "pending");
    bench.agent.kill();
    assert_eq!(bench.instance.events().len(), 0);
    bench.instance.configure(API);
    bench.start_again();
    bench.agent.logged("deployed", &[("sha", &commit('a'))]);
    bench.agent.did(&["stop api", "start api aaaaaaa"]);
    assert_eq!(bench.sent(), 1, "{}", bench.broker.log());
}

/// Whose agent speaks to the broker through this.
fn through_a_proxy(configuration: &str) -> (Bench, Proxy) {
    let broker = Mosquitto::start();
    let proxy = Proxy::start(broker.port());
    let instance = Instance::at(proxy.port());
    instance.configure(configuration);
    (Bench::of(broker, instance), proxy)
}

#[test]
fn a_redelivered_push_is_not_deployed_again() {
    let (mut bench, proxy) = through_a_proxy(API_AND_WEB);
    proxy.deafen();
    bench.push("acme/api", 'a');
    bench.agent.logged("deployed", &[]);
    proxy.swallowed();
    bench.agent.kill();
    proxy.cut();
    assert_eq!(bench.acknowledgements(), 0);
    bench.start_again();
    bench.agent.logged("push ignored: it was taken before", &[("app", "api")]);
    bench.acknowledged(1);
    bench.witnessed('c');
    bench.agent.did(&["stop api", "start api aaaaaaa", "stop web", "start web ccccccc"]);
}

#[test]
fn a_connection_cut_in_the_middle_of_a_push_loses_nothing() {
    let (bench, proxy) = through_a_proxy(API_AND_WEB);
    proxy.cut_after(1000, || bench.push("acme/api", 'a'));
    bench.agent.logged("deployed", &[]);
    bench.agent.subscribed(2);
    bench.witnessed('c');
    bench.agent.did(&["stop api", "start api aaaaaaa", "stop web", "start web ccccccc"]);
}

fn retain(broker: &Mosquitto, push: &Push) {
    broker.publish_with(&["-q", "1", "-r", "-t", &push.topic(), "-s"], &push.bytes());
}

/// MQTT 3.1.1 sends retained messages on each subscription.
#[test]
fn a_retained_push_is_deployed_once() {
    let broker = Mosquitto::start();
    let instance = Instance::new(&broker).mqtt("protocol: 3.1.1");
    instance.configure(API);
    let push = Push::new("acme/api", 'a');
    retain(&broker, &push);
    let mut bench = Bench::of(broker, instance);
    bench.agent.logged("deployed", &[("app", "api")]);
    for _ in 0..2 {
        bench.start_again();
        bench.agent.logged("push ignored: it was taken before", &[("app", "api")]);
    }
    // Published again: nobody wishes for a deploy of what runs.
    publish(&bench.broker, &push);
    bench.agent.logged_times(2, "push ignored: it was taken before", &[("app", "api")]);
    bench.deploy("acme/api", 'b');
    bench.agent.did(&["stop api", "start api aaaaaaa", "stop api", "start api bbbbbbb"]);
}

#[test]
fn a_retained_push_that_fails_is_not_bounced_by_reconnects() {
    let broker = Mosquitto::start();
    let instance = Instance::new(&broker).mqtt("protocol: 3.1.1");
    instance.configure(API_AND_WEB);
    instance.fail("start", "api", "no\n");
    retain(&broker, &Push::new("acme/api", 'a'));
    let mut bench = Bench::of(broker, instance);
    bench.agent.logged("deploy failed", &[("app", "api")]);
    for reconnect in 1..=2 {
        bench.broker.start_again();
        bench.agent.logged_times(reconnect, "push ignored: it was taken before", &[("app", "api")]);
    }
    bench.start_again();
    bench.agent.logged("push ignored: it was taken before", &[("app", "api")]);
    bench.witnessed('c');
    bench.agent.did(&["stop api", "start api aaaaaaa", "stop web", "start web ccccccc"]);
}

/// The n-th of many pushes: each newer than the one before, none in the future.
fn nth(repo: &str, n: u64) -> Push {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    // The test takes less than this offset leaves.
    let pushed_at = now - 100_000 + 10 * n;
    Push { after: format!("{n:07x}{:033x}", 0xabc), pushed_at, ..Push::new(repo, '1') }
}

fn outgoing(push: &Push) -> Outgoing {
    Outgoing::new(push.topic(), push.bytes())
}

#[test]
fn a_burst_during_a_deploy_makes_two_further_ones_at_most() {
    let bench = Bench::on(Mosquitto::fast(), STEPS);
    bench.instance.hold("update", "api");
    publish(&bench.broker, &nth("acme/api", 1));
    let held = bench.instance.held("update", "api");
    let pushes: Vec<_> = (2..=201).map(|n| nth("acme/api", n)).collect();
    publish_all(&bench.broker, pushes.iter().map(outgoing));
    bench.acknowledged(201);
    bench.instance.hold_no_more("update", "api");
    drop(held);
    let last = pushes.last().unwrap();
    bench.agent.logged("deployed", &[("sha", &last.after)]);
    bench.witnessed('c');
    let deploys = bench.count("start api");
    assert!(deploys <= 3, "{}", bench.report());
    let status = bench.instance.status("api");
    assert_says(&status, &[("/state", "deployed"), ("/deployed/commit", &last.after)]);
    assert_eq!(status["superseded"], 201 - deploys);
}

#[test]
fn of_a_thousand_queued_pushes_only_the_newest_of_each_app_is_deployed() {
    const APPS: u64 = 10;
    let app = |n: u64| format!("- {{repo: acme/app{n}, service: app{n}, branch: main, settle: 0s}}\n");
    let configuration: String = (0..APPS).map(app).collect();
    let mut bench = Bench::on(Mosquitto::fast(), &format!("apps:\n{configuration}"));
    bench.agent.kill();
    let pushes: Vec<_> = (1..=1000).map(|n| nth(&format!("acme/app{}", n % APPS), n)).collect();
    publish_all(&bench.broker, pushes.iter().map(outgoing));
    bench.start_again();
    for push in &pushes[990..] {
        bench.agent.logged("deployed", &[("sha", &push.after)]);
    }
    bench.acknowledged(1000);
    assert_eq!(bench.count("start"), 10, "{}", bench.report());
    bench.start_again();
    let again = nth("acme/app0", 1001);
    publish(&bench.broker, &again);
    bench.agent.logged("deployed", &[("sha", &again.after)]);
    assert_eq!(bench.count("start"), 11, "{}", bench.report());
}
