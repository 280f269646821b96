//! Connections that a broker, or another client, brings to an end, and what is said of it.

use std::io::Write;
use std::net::TcpListener;
use std::process::Command;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use instance_agent::mqtt::{self, ConnectionState, Outgoing, Protocol, Reception};

use crate::support::{Log, Mosquitto};
use crate::{ALL, Agent, answering, eventually, is_subscribed, packet, settings};

both! {
    another_client_with_the_same_id_is_named
    a_broker_that_closes_when_it_is_asked_is_no_take_over
    a_broker_that_closes_after_it_granted_may_serve_another_client
    a_broker_that_answers_no_subscribe_is_given_up
    a_publisher_is_bound_by_its_own_limit
    an_alert_of_tls_says_which_url_to_set
}

const CONNECT: u8 = 1;
const PUBLISH: u8 = 3;
const SUBSCRIBE: u8 = 8;

/// What it answers to a packet's type and body, and whether it keeps the connection then.
trait Answers: Fn(u8, &[u8]) -> (Vec<u8>, bool) + Send + 'static {}
impl<T: Fn(u8, &[u8]) -> (Vec<u8>, bool) + Send + 'static> Answers for T {}

/// A broker that serves one connection after the other.
fn serving(answers: impl Answers) -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    // Ends with the process: there is nothing to wait for.
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            loop {
                let (kind, body) = packet(&mut stream);
                let (answer, stays) = answers(kind, &body);
                stream.write_all(&answer).unwrap();
                if !stays {
                    break;
                }
            }
        }
    });
    port
}

fn connack(protocol: Protocol) -> Vec<u8> {
    match protocol {
        Protocol::V5 => vec![0x20, 3, 0, 0, 0],
        Protocol::V311 => vec![0x20, 2, 0, 0],
    }
}

fn suback(protocol: Protocol, asked: &[u8]) -> Vec<u8> {
    match protocol {
        Protocol::V5 => vec![0x90, 4, asked[0], asked[1], 0, 1],
        Protocol::V311 => vec![0x90, 3, asked[0], asked[1], 1],
    }
}

/// Waits until so many connections are lost, and lets the pause before the next one go by.
async fn lost(count: usize, agent: &Agent, log: &Log) {
    eventually("the connection is lost", || log.text().matches("connection lost").count() == count).await;
    let ConnectionState::Down { retry_in, .. } = *agent.state.borrow() else { panic!("it is not down") };
    tokio::time::pause();
    tokio::time::advance(retry_in).await;
    tokio::time::resume();
}

async fn another_client_with_the_same_id_is_named(protocol: Protocol) {
    let (log, _guard) = Log::listen();
    let broker = Mosquitto::start();
    let mut agent = Agent::start(settings(broker.port(), protocol), &[ALL]);
    for round in 1..=3 {
        agent.state_is(is_subscribed).await;
        let port = broker.port().to_string();
        let other = ["-h", "127.0.0.1", "-p", &port, "-i", "web-7", "-t", "x", "-E"];
        assert!(Command::new("mosquitto_sub").args(other).status().unwrap().success());
        lost(round, &agent, &log).await;
    }
    // mosquitto 2.0.11 says no word to the one that it ends, in neither version.
    log.line(&["ERROR", "most likely another client with the id web-7 takes it over each time"]).await;
}

#[tokio::test]
async fn a_take_over_that_the_broker_speaks_of_is_a_fact() {
    let (log, _guard) = Log::listen();
    let port = serving(|kind, _| match kind {
        CONNECT => (connack(Protocol::V5), true),
        // MQTT 5, 3.14.2.1: session taken over.
        _ => (vec![0xe0, 2, 0x8e, 0], false),
    });
    let agent = Agent::start(settings(port, Protocol::V5), &[ALL]);
    for round in 1..=3 {
        lost(round, &agent, &log).await;
    }
    log.line(&["ERROR", ": another client with the id web-7 takes it over each time"]).await;
}

async fn a_broker_that_closes_when_it_is_asked_is_no_take_over(protocol: Protocol) {
    let (log, _guard) = Log::listen();
    let port =
        serving(move |kind, _| if kind == CONNECT { (connack(protocol), true) } else { (vec![], false) });
    let agent = Agent::start(settings(port, protocol), &[ALL]);
    for round in 1..=3 {
        assert!(!log.text().contains("access rules"), "two may be chance: {}", log.text());
        lost(round, &agent, &log).await;
    }
    let asked = format!("when it is asked for the filter {ALL}: do its access rules allow client web-7");
    log.line(&["ERROR", "connection lost", &asked]).await;
    assert!(!log.text().contains("takes it over"), "{}", log.text());
}

async fn a_broker_that_closes_after_it_granted_may_serve_another_client(protocol: Protocol) {
    let (log, _guard) = Log::listen();
    let port = serving(move |kind, body| match kind {
        CONNECT => (connack(protocol), true),
        _ => (suback(protocol, body), false),
    });
    let agent = Agent::start(settings(port, protocol), &[ALL]);
    for round in 1..=3 {
        lost(round, &agent, &log).await;
    }
    log.line(&["ERROR", "most likely another client with the id web-7 takes it over"]).await;
}

async fn a_broker_that_answers_no_subscribe_is_given_up(protocol: Protocol) {
    let (asked, was_asked) = mpsc::channel();
    let port = serving(move |kind, _| match kind {
        CONNECT => (connack(protocol), true),
        SUBSCRIBE => (vec![], asked.send(()).is_ok()),
        // A ping's.
        _ => (vec![0xd0, 0], true),
    });
    let mut agent = Agent::start(settings(port, protocol), &[ALL]);
    tokio::task::spawn_blocking(move || was_asked.recv().unwrap()).await.unwrap();
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(10)).await;
    tokio::time::resume();
    let reason = agent.down().await;
    assert!(reason.contains("no answer to SUBSCRIBE"), "{reason}");
}

async fn a_publisher_is_bound_by_its_own_limit(protocol: Protocol) {
    let ((sent, was_sent), (confirm, confirmed)) = (mpsc::channel(), mpsc::channel());
    let port = serving(move |kind, body| match kind {
        CONNECT => (connack(protocol), true),
        PUBLISH => {
            sent.send(()).unwrap();
            // The number is behind the topic, which has one letter.
            (vec![0x40, 2, body[3], body[4]], confirmed.recv().is_ok())
        }
        _ => (vec![], true),
    });
    let publishing = tokio::spawn(async move {
        let message =
            Outgoing { topic: "t".into(), payload: b"push".to_vec(), headers: Vec::new(), retain: false };
        mqtt::publish(&settings(port, protocol), &message, Duration::from_secs(120)).await
    });
    tokio::task::spawn_blocking(move || was_sent.recv().unwrap()).await.unwrap();
    // More than two of the pings that would go unanswered.
    tokio::time::pause();
    for _ in 0..4 {
        tokio::time::advance(Duration::from_secs(28)).await;
        tokio::task::yield_now().await;
    }
    tokio::time::resume();
    confirm.send(()).unwrap();
    assert_eq!(publishing.await.unwrap().unwrap(), Reception::Taken);
}

async fn an_alert_of_tls_says_which_url_to_set(protocol: Protocol) {
    // TLS 1.0 to 1.2, fatal, protocol_version or unexpected_message.
    for alert in [&[0x15, 3, 1, 0, 2, 2, 70], &[0x15, 3, 3, 0, 2, 2, 10]] {
        let reason = Agent::start(settings(answering(alert), protocol), &[ALL]).down().await;
        assert!(reason.ends_with("speaks TLS on that port: set mqtt.url to mqtts://"), "{reason}");
    }
}
