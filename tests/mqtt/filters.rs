//! Filters that change while pushes come, and what a broker makes of them.

use std::collections::BTreeSet;
use std::io::Write;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};

use instance_agent::mqtt::{Handle, Protocol};
use tokio::select;

use crate::support::{LOOK, Log, Mosquitto};
use crate::{ALL, API, Agent, WEB, interest, settings};

both! {
    a_topic_of_old_and_new_filters_loses_nothing
    a_topic_of_filters_that_change_over_a_restart_loses_nothing
    a_grant_below_qos_1_is_warned_about_instead_of_the_publisher
}

/// How often the filters change.
const CHANGES: usize = 12;
/// How many pushes may be on their way: none of them shall wait long.
const UNDER_WAY: usize = 200;

/// Publishes numbers on [`API`] with QoS 1, one after the other, until it is told to stop.
struct Stream {
    client: Child,
    taken: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    feeder: JoinHandle<usize>,
}

impl Stream {
    fn start(broker: &Mosquitto) -> Self {
        let port = broker.port().to_string();
        let mut client = Command::new("mosquitto_pub")
            .args(["-h", "127.0.0.1", "-p", &port, "-q", "1", "-t", API, "-l"])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let mut input = client.stdin.take().unwrap();
        let (taken, stop) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let (seen, ended) = (taken.clone(), stop.clone());
        let feeder = thread::spawn(move || {
            let mut next = 0;
            while !ended.load(Ordering::SeqCst) {
                if next < seen.load(Ordering::SeqCst) + UNDER_WAY {
                    writeln!(input, "{next}").unwrap();
                    next += 1;
                } else {
                    thread::sleep(LOOK);
                }
            }
            next
        });
        Self { client, taken, stop, feeder }
    }

    fn taken(&self, number: usize) {
        self.taken.fetch_max(number + 1, Ordering::SeqCst);
    }

    /// How many there were.
    fn end(mut self) -> usize {
        self.stop.store(true, Ordering::SeqCst);
        let count = self.feeder.join().unwrap();
        assert!(self.client.wait().unwrap().success());
        count
    }
}

/// A hundred filters, and one: the topic is covered by either.
fn either(round: usize) -> Vec<String> {
    if round % 2 == 1 {
        return vec![ALL.to_owned()];
    }
    let others = (0..100).map(|n| format!("github/acme/x{n:02}"));
    // Neither the first nor the last of them.
    others.chain([API.to_owned()]).rev().collect()
}

fn strs(filters: &[String]) -> Vec<&str> {
    filters.iter().map(String::as_str).collect()
}

fn holds(handle: &Handle, filters: &[String]) -> bool {
    *handle.held_filters().borrow() == filters.iter().cloned().collect()
}

/// Takes what comes, until the broker holds these filters and no others.
async fn take_until_held(agent: &mut Agent, filters: &[String], stream: &Stream, seen: &mut BTreeSet<usize>) {
    let mut held = agent.handle.held_filters();
    while !holds(&agent.handle, filters) {
        select! {
            text = agent.take() => {
                let number = text.parse().unwrap();
                stream.taken(number);
                seen.insert(number);
            }
            changed = held.changed() => changed.unwrap(),
        }
    }
}

/// Takes what is still to come, up to one more that cannot be lost: with QoS 1 none overtakes another.
async fn take_the_rest(agent: &mut Agent, broker: &Mosquitto, stream: Stream, seen: &mut BTreeSet<usize>) {
    let count = stream.end();
    broker.publish(API, count.to_string().as_bytes());
    while seen.last() != Some(&count) {
        seen.insert(agent.take().await.parse().unwrap());
    }
    let lost: Vec<usize> = (0..count).filter(|number| !seen.contains(number)).collect();
    assert!(lost.is_empty(), "{} of {count} were lost: {lost:?}", lost.len());
}

async fn a_topic_of_old_and_new_filters_loses_nothing(protocol: Protocol) {
    let broker = Mosquitto::fast();
    let mut agent = Agent::subscribed(settings(broker.port(), protocol), &strs(&either(0))).await;
    let (stream, mut seen) = (Stream::start(&broker), BTreeSet::new());
    for round in 1..=CHANGES {
        let filters = either(round);
        agent.interest.send_replace(interest(&strs(&filters), &[API]));
        take_until_held(&mut agent, &filters, &stream, &mut seen).await;
    }
    take_the_rest(&mut agent, &broker, stream, &mut seen).await;
    assert_eq!(broker.logged("as web-7"), 1, "it needed no other connection");
}

async fn a_topic_of_filters_that_change_over_a_restart_loses_nothing(protocol: Protocol) {
    let broker = Mosquitto::fast();
    let settings = settings(broker.port(), protocol);
    let mut agent = Agent::subscribed(settings.clone(), &strs(&either(0))).await;
    let (stream, mut seen) = (Stream::start(&broker), BTreeSet::new());
    for round in 1..=CHANGES {
        let filters = either(round);
        let held: Vec<String> = agent.handle.held_filters().borrow().iter().cloned().collect();
        // What it had taken and not acknowledged comes again.
        agent.handle.stop().await;
        agent = Agent::start_holding(settings.clone(), &strs(&filters), &strs(&held));
        take_until_held(&mut agent, &filters, &stream, &mut seen).await;
    }
    take_the_rest(&mut agent, &broker, stream, &mut seen).await;
}

async fn a_grant_below_qos_1_is_warned_about_instead_of_the_publisher(protocol: Protocol) {
    let (log, _guard) = Log::listen();
    let broker = Mosquitto::configured(|_| "max_qos 0\nallow_anonymous true".to_owned());
    let mut agent = Agent::subscribed(settings(broker.port(), protocol), &[API, WEB]).await;
    for filter in [API, WEB] {
        log.line(&["WARN", "the broker grants only QoS 0", filter]).await;
    }
    broker.publish_with(&["-q", "0", "-t", API, "-s"], b"push");
    assert_eq!(agent.take().await, "push");
    assert!(!log.text().contains("a push came with QoS 0"), "{}", log.text());
}
