//! The connection against a real broker, in both versions of MQTT.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod support;
#[path = "mqtt/unfit.rs"]
mod unfit;

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use instance_agent::mqtt::{
    self, Ack, ConnectionState, Handle, Interest, Message, Messages, MqttSettings, Protocol, TlsSettings,
};
use support::{LOOK, Log, Mosquitto, PATIENCE, certificates};
use tokio::sync::watch;
use tokio::time::timeout;

const API: &str = "github/acme/api";
const WEB: &str = "github/acme/web";
const OTHER: &str = "github/acme/other";
const ALL: &str = "github/+/+";
const MIB: usize = 1 << 20;

/// Makes a test of each function, once for each version.
macro_rules! both {
    ($($name:ident)*) => {
        mod mqtt5 {
            $(#[tokio::test] async fn $name() { super::$name(super::Protocol::V5).await; })*
        }
        mod mqtt311 {
            $(#[tokio::test] async fn $name() { super::$name(super::Protocol::V311).await; })*
        }
    };
}

#[path = "mqtt/endings.rs"]
mod endings;
#[path = "mqtt/filters.rs"]
mod filters;

both! {
    receives_a_push_with_its_headers
    acknowledges_at_once_what_nobody_wants
    an_unacknowledged_message_comes_again_and_an_acknowledged_one_does_not
    a_ticket_of_an_old_connection_does_nothing
    subscribes_once_a_broker_is_there
    subscribes_again_when_the_broker_was_restarted
    a_new_interest_needs_no_new_connection
    unsubscribes_what_an_earlier_process_left
    subscribes_to_more_filters_than_one_request_takes
    a_refused_filter_is_named
    a_wrong_password_is_named
    a_refused_filter_is_asked_for_again
    a_payload_above_the_limit_is_dropped
    a_flood_of_payloads_above_the_limit_is_warned_about_once
    a_panic_of_the_connection_is_noticed
    a_full_queue_loses_nothing
    qos_0_is_taken_and_warned_about_once
    says_when_the_broker_lost_the_session
    stops_with_a_goodbye
    speaks_tls
    a_broker_of_the_other_version_is_an_error_that_says_so
}

fn settings(port: u16, protocol: Protocol) -> MqttSettings {
    MqttSettings {
        host: "127.0.0.1".into(),
        port,
        tls: None,
        protocol,
        client_id: "web-7".into(),
        username: None,
        password_file: None,
        keep_alive: Duration::from_secs(30),
        session_expiry: Duration::from_secs(3600),
        max_payload: 32 * MIB,
    }
}

fn interest(filters: &[&str], wanted: &[&str]) -> Arc<Interest> {
    let wanted: Vec<String> = wanted.iter().map(|&topic| topic.to_owned()).collect();
    let filters = filters.iter().map(|&filter| filter.to_owned()).collect();
    Arc::new(Interest::new(filters, move |topic| wanted.iter().any(|wanted| wanted == topic)))
}

struct Agent {
    handle: Handle,
    messages: Messages,
    state: watch::Receiver<ConnectionState>,
    interest: watch::Sender<Arc<Interest>>,
}

impl Agent {
    fn start(settings: MqttSettings, filters: &[&str]) -> Self {
        Self::start_holding(settings, filters, &[])
    }

    fn start_holding(settings: MqttSettings, filters: &[&str], held: &[&str]) -> Self {
        let (sender, receiver) = watch::channel(interest(filters, &[API, WEB]));
        let held: BTreeSet<String> = held.iter().map(|&filter| filter.to_owned()).collect();
        let (handle, messages) = mqtt::start(settings, receiver, held, None);
        let state = handle.state();
        Self { handle, messages, state, interest: sender }
    }

    async fn subscribed(settings: MqttSettings, filters: &[&str]) -> Self {
        let mut agent = Self::start(settings, filters);
        agent.state_is(is_subscribed).await;
        agent
    }

    async fn state_is(&mut self, wanted: impl FnMut(&ConnectionState) -> bool) -> ConnectionState {
        let state = self.state.clone();
        match timeout(PATIENCE, self.state.wait_for(wanted)).await {
            Ok(state) => state.unwrap().clone(),
            Err(tokio::time::error::Elapsed { .. }) => panic!("still {:?}", *state.borrow()),
        }
    }

    async fn down(&mut self) -> String {
        match self.state_is(|state| matches!(state, ConnectionState::Down { .. })).await {
            ConnectionState::Down { reason, .. } => reason,
            _ => unreachable!(),
        }
    }

    async fn next(&mut self) -> Message {
        timeout(PATIENCE, self.messages.recv()).await.expect("no message in time").expect("no more messages")
    }

    /// The payload of the next message, which is acknowledged.
    async fn take(&mut self) -> String {
        let message = self.next().await;
        let text = String::from_utf8(message.payload.to_vec()).unwrap();
        message.ack.acknowledge();
        text
    }
}

fn is_subscribed(state: &ConnectionState) -> bool {
    matches!(state, ConnectionState::Subscribed { .. })
}

async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(LOOK).await;
    }
}

async fn receives_a_push_with_its_headers(protocol: Protocol) {
    let (log, _guard) = Log::listen();
    let broker = Mosquitto::start();
    let mut agent = Agent::subscribed(settings(broker.port(), protocol), &[ALL]).await;
    let header = ["-D", "publish", "user-property", "X-GitHub-Event", "push"];
    broker.publish_with(&[&["-V", "5", "-q", "1", "-t", API, "-s"], &header[..]].concat(), b"{}");
    let message = agent.next().await;
    assert_eq!((message.topic.as_str(), &*message.payload), (API, &b"{}"[..]));
    assert!(!message.retain && !message.qos0);
    let expected = match protocol {
        Protocol::V5 => vec![("X-GitHub-Event".to_owned(), "push".to_owned())],
        Protocol::V311 => vec![],
    };
    assert_eq!(message.headers, expected);
    let line = log.line(&["INFO", "subscribed", ALL]).await;
    assert!(line.contains(&format!("127.0.0.1:{}", broker.port())), "{line}");
    assert!(line.contains(&format!("protocol={protocol}")), "{line}");
    assert!(!log.text().contains("{}"), "a payload was logged");
}

async fn acknowledges_at_once_what_nobody_wants(protocol: Protocol) {
    let broker = Mosquitto::start();
    let mut agent = Agent::subscribed(settings(broker.port(), protocol), &[ALL]).await;
    // More than twice what mosquitto sends before it waits for acknowledgements.
    broker.publish_with(&["-q", "1", "-t", OTHER, "-l"], "x\n".repeat(200).as_bytes());
    broker.publish(API, b"wanted");
    assert_eq!(agent.take().await, "wanted");
    eventually("all acknowledged", || broker.logged("Received PUBACK from web-7") == 201).await;
}

async fn an_unacknowledged_message_comes_again_and_an_acknowledged_one_does_not(protocol: Protocol) {
    let broker = Mosquitto::start();
    let settings = settings(broker.port(), protocol);
    let mut agent = Agent::subscribed(settings.clone(), &[ALL]).await;
    broker.publish(API, b"one");
    broker.publish(API, b"two");
    let one = agent.next().await;
    assert_eq!(&*one.payload, b"one");
    assert_eq!(agent.take().await, "two");
    drop(one);
    agent.handle.stop().await;
    let mut agent = Agent::start(settings.clone(), &[ALL]);
    assert_eq!(agent.take().await, "one");
    broker.publish(API, b"three");
    assert_eq!(agent.take().await, "three", "what was acknowledged came again");
    agent.handle.stop().await;
}

async fn a_ticket_of_an_old_connection_does_nothing(protocol: Protocol) {
    let mut broker = Mosquitto::start();
    let settings = settings(broker.port(), protocol);
    let mut agent = Agent::subscribed(settings.clone(), &[ALL]).await;
    broker.publish(API, b"push");
    let Message { ack: old, .. } = agent.next().await;
    broker.start_again();
    let again = agent.next().await;
    assert_eq!(&*again.payload, b"push");
    old.acknowledge();
    agent.handle.stop().await;
    let mut agent = Agent::start(settings, &[ALL]);
    assert_eq!(agent.take().await, "push", "the old ticket acknowledged the new delivery");
}

async fn subscribes_once_a_broker_is_there(protocol: Protocol) {
    let (log, _guard) = Log::listen();
    let mut broker = Mosquitto::start();
    broker.stop();
    let mut agent = Agent::start(settings(broker.port(), protocol), &[ALL]);
    let reason = agent.down().await;
    assert!(reason.contains("refused") && reason.contains(&broker.port().to_string()), "{reason}");
    log.line(&["WARN", "no connection", "retry_in"]).await;
    broker.start_again();
    agent.state_is(is_subscribed).await;
    broker.publish(API, b"push");
    assert_eq!(agent.take().await, "push");
}

async fn subscribes_again_when_the_broker_was_restarted(protocol: Protocol) {
    let (log, _guard) = Log::listen();
    let mut broker = Mosquitto::start();
    let mut agent = Agent::subscribed(settings(broker.port(), protocol), &[ALL]).await;
    broker.stop();
    agent.down().await;
    log.line(&["WARN", "connection lost", "retry_in"]).await;
    broker.start_again();
    broker.publish(API, b"while away");
    assert_eq!(agent.take().await, "while away");
    agent.state_is(is_subscribed).await;
    assert!(!log.text().contains("did not keep"), "it did keep the session");
}

async fn a_new_interest_needs_no_new_connection(protocol: Protocol) {
    let broker = Mosquitto::start();
    let mut agent = Agent::subscribed(settings(broker.port(), protocol), &[API, OTHER]).await;
    agent.interest.send_replace(interest(&[API, WEB], &[WEB]));
    eventually("unsubscribed and subscribed", || {
        broker.logged("Received UNSUBSCRIBE from web-7") == 1 && broker.logged("Sending SUBACK to web-7") == 2
    })
    .await;
    broker.publish(API, b"no longer wanted");
    broker.publish(WEB, b"wanted now");
    assert_eq!(agent.take().await, "wanted now");
    assert_eq!(broker.logged("as web-7"), 1, "{}", broker.log());
    let held = agent.handle.held_filters();
    eventually("the new filters are held", || held.borrow().iter().map(String::as_str).eq([API, WEB])).await;
}

async fn unsubscribes_what_an_earlier_process_left(protocol: Protocol) {
    let broker = Mosquitto::start();
    let settings = settings(broker.port(), protocol);
    let agent = Agent::subscribed(settings.clone(), &[WEB]).await;
    let held: Vec<String> = agent.handle.held_filters().borrow().iter().cloned().collect();
    agent.handle.stop().await;
    let held: Vec<&str> = held.iter().map(String::as_str).collect();
    let mut agent = Agent::start_holding(settings, &[API], &held);
    agent.state_is(is_subscribed).await;
    broker.publish(WEB, b"left behind");
    broker.publish(API, b"asked for");
    assert_eq!(agent.take().await, "asked for");
}

async fn subscribes_to_more_filters_than_one_request_takes(protocol: Protocol) {
    let broker = Mosquitto::start();
    let many: Vec<String> = (0..150).map(|n| format!("github/acme/{n:03}")).collect();
    let mut filters: Vec<&str> = many.iter().map(String::as_str).collect();
    filters.push(API);
    let mut agent = Agent::start(settings(broker.port(), protocol), &filters);
    let state = agent.state_is(is_subscribed).await;
    assert_eq!(state, ConnectionState::Subscribed { filters: 151, refused: 0 });
    assert_eq!(broker.logged("Sending SUBACK to web-7"), 19);
    broker.publish(API, b"the last one");
    assert_eq!(agent.take().await, "the last one");
}

/// Lets clients subscribe to one topic only: mosquitto's access files grant every subscription.
fn only_api(directory: &Path) -> String {
    let file = directory.join("dynsec.json");
    let rule = |kind: &str, topic: &str| {
        format!(r#"{{"acltype":"{kind}","topic":"{topic}","priority":0,"allow":true}}"#)
    };
    let rules =
        [rule("subscribePattern", API), rule("publishClientSend", "#"), rule("publishClientReceive", "#")];
    let json = format!(
        r#"{{"defaultACLAccess":{{"publishClientSend":true,"publishClientReceive":true,"subscribe":false,"unsubscribe":true}},
            "roles":[{{"rolename":"api","acls":[{}]}}],
            "groups":[{{"groupname":"anonymous","roles":[{{"rolename":"api","priority":0}}],"clients":[]}}],
            "anonymousGroup":"anonymous","clients":[]}}"#,
        rules.join(",")
    );
    fs::write(&file, json).unwrap();
    format!(
        "allow_anonymous true\nplugin {}\nplugin_opt_config_file {}",
        dynamic_security_plugin().display(),
        file.display()
    )
}

/// Distributions keep it in different places, some by architecture.
fn dynamic_security_plugin() -> PathBuf {
    let name = "mosquitto_dynamic_security.so";
    let machine = format!("/usr/lib/{}-linux-gnu", std::env::consts::ARCH);
    let places = [machine.as_str(), "/usr/lib64", "/usr/lib", "/usr/local/lib"];
    let found = places.iter().map(|place| Path::new(place).join(name)).find(|file| file.exists());
    found.unwrap_or_else(|| panic!("{name} is in none of {places:?}: install mosquitto with its plugins"))
}

async fn a_refused_filter_is_named(protocol: Protocol) {
    let (log, _guard) = Log::listen();
    let broker = Mosquitto::configured(only_api);
    let mut agent = Agent::start(settings(broker.port(), protocol), &[API, WEB]);
    let state = agent.state_is(is_subscribed).await;
    assert_eq!(state, ConnectionState::Subscribed { filters: 1, refused: 1 });
    let line = log.line(&["ERROR", "subscription refused", WEB]).await;
    assert!(!line.contains(API), "{line}");
    broker.publish(API, b"granted");
    assert_eq!(agent.take().await, "granted");
}

async fn a_refused_filter_is_asked_for_again(protocol: Protocol) {
    let (log, _guard) = Log::listen();
    let broker = Mosquitto::configured(only_api);
    let mut agent = Agent::start(settings(broker.port(), protocol), &[API, WEB]);
    agent.state_is(is_subscribed).await;
    let refused = || log.text().matches("subscription refused").count();
    eventually("refused", || refused() == 1).await;
    agent.interest.send_replace(interest(&[API, WEB], &[API, WEB]));
    eventually("asked for again with a new interest", || refused() == 2).await;
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(301)).await;
    tokio::time::resume();
    eventually("asked for again after five minutes", || refused() == 3).await;
    assert_eq!(*agent.state.borrow(), ConnectionState::Subscribed { filters: 1, refused: 1 });
    assert_eq!(log.text().matches("subscribed").count(), 2, "said without news: {}", log.text());
}

async fn a_wrong_password_is_named(protocol: Protocol) {
    let (log, _guard) = Log::listen();
    let broker = Mosquitto::configured(|directory| {
        let file = directory.join("users");
        let arguments = ["-b", "-c", file.to_str().unwrap(), "agent", "right"];
        assert!(Command::new("mosquitto_passwd").args(arguments).status().unwrap().success());
        format!("allow_anonymous false\npassword_file {}", file.display())
    });
    let password = broker.directory().join("password");
    fs::write(&password, "wrong-password\n").unwrap();
    let mut settings = settings(broker.port(), protocol);
    settings.username = Some("agent".into());
    settings.password_file = Some(password.clone());
    let mut agent = Agent::start(settings.clone(), &[ALL]);
    let reason = agent.down().await;
    for part in ["refused client web-7 of user agent", &broker.port().to_string(), "mqtt.password_file"] {
        assert!(reason.contains(part), "{part} is missing: {reason}");
    }
    log.line(&["ERROR", "refused client web-7 of user agent"]).await;
    assert!(!log.text().contains("wrong-password"), "the password was logged");
    fs::write(&password, "right\n").unwrap();
    Agent::subscribed(settings.clone(), &[ALL]).await;
    fs::remove_file(&password).unwrap();
    let reason = Agent::start(settings, &[ALL]).down().await;
    assert!(reason.contains(password.to_str().unwrap()), "{reason}");
}

async fn a_payload_above_the_limit_is_dropped(protocol: Protocol) {
    let (log, _guard) = Log::listen();
    let broker = Mosquitto::start();
    let mut settings = settings(broker.port(), protocol);
    settings.max_payload = 20_000;
    let mut agent = Agent::subscribed(settings, &[ALL]).await;
    broker.publish(API, &vec![b'x'; 20_001]);
    broker.publish(API, &vec![b'y'; 20_000]);
    assert!(agent.take().await.starts_with('y'));
    log.line(&["WARN", "mqtt.max_payload", API, "size=20001", "limit=20000"]).await;
    eventually("both acknowledged", || broker.logged("Received PUBACK from web-7") == 2).await;
}

async fn a_flood_of_payloads_above_the_limit_is_warned_about_once(protocol: Protocol) {
    let (log, _guard) = Log::listen();
    let broker = Mosquitto::start();
    let mut settings = settings(broker.port(), protocol);
    settings.max_payload = 100;
    let mut agent = Agent::subscribed(settings, &[ALL]).await;
    let large = "x".repeat(101);
    broker.publish_with(
        &["-q", "1", "-t", API, "-l"],
        format!("{large}\n{large}\n{large}\nsmall\n").as_bytes(),
    );
    assert_eq!(agent.take().await, "small");
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(61)).await;
    tokio::time::resume();
    broker.publish(WEB, large.as_bytes());
    log.line(&["WARN", "mqtt.max_payload", WEB, "unsaid=2"]).await;
    assert_eq!(log.text().matches("mqtt.max_payload").count(), 2, "{}", log.text());
}

#[tokio::test]
async fn a_message_with_more_user_properties_than_any_webhook_has_headers_is_dropped() {
    let (log, _guard) = Log::listen();
    let broker = Mosquitto::start();
    let mut agent = Agent::subscribed(settings(broker.port(), Protocol::V5), &[ALL]).await;
    for (count, payload) in [(101, "one too many"), (100, "taken")] {
        let properties = ["-D", "publish", "user-property", "a", ""].repeat(count);
        let arguments = [&["-V", "5", "-q", "1", "-t", API, "-s"], &properties[..]].concat();
        broker.publish_with(&arguments, payload.as_bytes());
    }
    assert_eq!(agent.take().await, "taken");
    log.line(&["WARN", "user properties", API, "properties=101", "limit=100"]).await;
    eventually("both acknowledged", || broker.logged("Received PUBACK from web-7") == 2).await;
}

async fn a_panic_of_the_connection_is_noticed(protocol: Protocol) {
    let broker = Mosquitto::start();
    let (_sender, receiver) =
        watch::channel(Arc::new(Interest::new(vec![ALL.to_owned()], |_| panic!("on purpose"))));
    let (handle, mut messages) =
        mqtt::start(settings(broker.port(), protocol), receiver, BTreeSet::new(), None);
    let mut state = handle.state();
    state.wait_for(is_subscribed).await.unwrap();
    assert!(handle.is_alive());
    broker.publish(API, b"push");
    assert!(timeout(PATIENCE, messages.recv()).await.unwrap().is_none());
    let mut held = handle.held_filters();
    assert!(held.changed().await.is_ok(), "what it held is still to be seen");
    assert!(state.changed().await.is_err() && held.changed().await.is_err());
    eventually("not alive", || !handle.is_alive()).await;
    handle.stop().await;
}

/// MQTT 5's receive maximum keeps the count small, so there the bytes have to fill the queue.
async fn a_full_queue_loses_nothing(protocol: Protocol) {
    let (log, _guard) = Log::listen();
    let broker = Mosquitto::configured(|_| "allow_anonymous true\nmax_inflight_messages 0".to_owned());
    let (count, padding) = match protocol {
        Protocol::V5 => (6, 15 * MIB),
        Protocol::V311 => (300, 0),
    };
    let mut agent = Agent::subscribed(settings(broker.port(), protocol), &[ALL]).await;
    for n in 0..count {
        broker.publish(API, format!("{n:03}{}", "x".repeat(padding)).as_bytes());
    }
    log.line(&["WARN", "queue full"]).await;
    let mut seen = BTreeSet::new();
    let mut order = Vec::new();
    while seen.len() < count {
        let message = agent.next().await;
        let number: usize = std::str::from_utf8(&message.payload[..3]).unwrap().parse().unwrap();
        if seen.insert(number) {
            order.push(number);
        }
        message.ack.acknowledge();
    }
    assert!(order.is_sorted(), "messages overtook others: {order:?}");
    assert!(broker.logged("as web-7") > 1, "the connection was not renewed");
}

async fn qos_0_is_taken_and_warned_about_once(protocol: Protocol) {
    let (log, _guard) = Log::listen();
    let broker = Mosquitto::start();
    let mut agent = Agent::subscribed(settings(broker.port(), protocol), &[ALL]).await;
    broker.publish_with(&["-q", "0", "-t", API, "-l"], b"one\ntwo\n");
    let message = agent.next().await;
    assert!(message.qos0);
    message.ack.acknowledge();
    assert_eq!(agent.take().await, "two");
    assert_eq!(log.text().matches("a push came with QoS 0").count(), 1);
}

async fn says_when_the_broker_lost_the_session(protocol: Protocol) {
    let (log, _guard) = Log::listen();
    let mut broker = Mosquitto::start();
    let mut agent = Agent::subscribed(settings(broker.port(), protocol), &[ALL]).await;
    broker.stop();
    agent.down().await;
    fs::remove_file(broker.directory().join("mosquitto.db")).unwrap();
    broker.start_again();
    agent.state_is(is_subscribed).await;
    log.line(&["WARN", "did not keep the session", "since=\"20"]).await;
}

async fn stops_with_a_goodbye(protocol: Protocol) {
    let broker = Mosquitto::start();
    let agent = Agent::subscribed(settings(broker.port(), protocol), &[ALL]).await;
    timeout(Duration::from_secs(2), agent.handle.stop()).await.expect("took too long");
    eventually("the broker got a DISCONNECT", || broker.logged("Received DISCONNECT from web-7") == 1).await;
    let mut messages = agent.messages;
    assert!(timeout(PATIENCE, messages.recv()).await.unwrap().is_none());
}

/// Takes only clients with a certificate of its own authority.
fn tls_broker() -> Mosquitto {
    Mosquitto::configured(|directory| {
        certificates(directory);
        let path = directory.display();
        format!(
            "allow_anonymous true\ncafile {path}/ca.pem\ncertfile {path}/cert.pem\nkeyfile {path}/key.pem\n\
             require_certificate true"
        )
    })
}

/// mosquitto sends tickets of TLS 1.3 before its CONNACK, which Nagle's algorithm holds back until they are acknowledged.
#[tokio::test]
async fn tls_tickets_are_acknowledged_at_once() {
    // Linux delays an acknowledgement by 40 ms, or a tick of its clock less.
    const DELAY: Duration = Duration::from_millis(30);
    let broker = tls_broker();
    let file = |name: &str| Some(broker.directory().join(name));
    let mut settings = settings(broker.port(), Protocol::V5);
    settings.host = "localhost".into();
    settings.tls = Some(TlsSettings {
        ca_file: file("ca.pem"),
        cert_file: file("cert.pem"),
        key_file: file("key.pem"),
        alpn: None,
    });
    let deadline = Instant::now() + PATIENCE;
    loop {
        let begun = Instant::now();
        let agent = Agent::subscribed(settings.clone(), &[ALL]).await;
        let took = begun.elapsed();
        agent.handle.stop().await;
        // A busy host may be slow at times.
        if took < DELAY {
            break;
        }
        assert!(Instant::now() < deadline, "never in less than {DELAY:?}; the last time in {took:?}");
    }
}

async fn speaks_tls(protocol: Protocol) {
    let broker = tls_broker();
    let file = |name: &str| Some(broker.directory().join(name));
    let mut settings = settings(broker.port(), protocol);
    settings.host = "localhost".into();
    let tls = |ca: &str, cert: &str, key: &str| {
        Some(TlsSettings { ca_file: file(ca), cert_file: file(cert), key_file: file(key), alpn: None })
    };
    settings.tls = tls("ca.pem", "cert.pem", "key.pem");
    Agent::subscribed(settings.clone(), &[ALL]).await.handle.stop().await;

    let reason_for = async |tls: Option<TlsSettings>| {
        let mut agent = Agent::start(MqttSettings { tls, ..settings.clone() }, &[ALL]);
        agent.down().await
    };
    // Any certificate will do that did not sign the broker's.
    let reason = reason_for(tls("cert.pem", "cert.pem", "key.pem")).await;
    assert!(reason.contains("no TLS with") && reason.contains("mqtt.ca_file"), "{reason}");
    let reason = reason_for(tls("missing.pem", "cert.pem", "key.pem")).await;
    assert!(reason.contains("cannot read mqtt.ca_file") && reason.contains("missing.pem"), "{reason}");
    let reason = reason_for(tls("key.pem", "cert.pem", "key.pem")).await;
    assert!(reason.contains("mqtt.ca_file") && reason.contains("holds no certificate"), "{reason}");
    let reason = reason_for(tls("ca.pem", "cert.pem", "cert.pem")).await;
    assert!(reason.contains("mqtt.key_file") && reason.contains("holds no private key"), "{reason}");
    let reason = reason_for(tls("ca.pem", "cert.pem", "ca.key")).await;
    assert!(reason.contains("mqtt.cert_file") && reason.contains("cannot be used with"), "{reason}");
    let without = TlsSettings { ca_file: file("ca.pem"), ..TlsSettings::default() };
    let reason = reason_for(Some(without)).await;
    assert!(reason.contains("no TLS with") && reason.contains("ertificate"), "{reason}");
    let reason = reason_for(None).await;
    assert!(reason.contains("if the port speaks TLS: set mqtt.url to mqtts://"), "{reason}");

    let plain = Mosquitto::start();
    let settings = MqttSettings { port: plain.port(), ..settings.clone() };
    let reason = Agent::start(settings, &[ALL]).down().await;
    assert!(reason.contains("if the port does not speak TLS: set mqtt.url to mqtt://"), "{reason}");
}

/// Answers the first packet of every connection with these bytes, and leaves it open.
fn answering(answer: &'static [u8]) -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    // Ends with the process: there is nothing to wait for.
    thread::spawn(move || {
        let mut open = Vec::new();
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 1024]);
            let _ = stream.write_all(answer);
            open.push(stream);
        }
    });
    port
}

/// A packet's type and body.
fn packet(stream: &mut impl Read) -> (u8, Vec<u8>) {
    let mut head = [0; 2];
    stream.read_exact(&mut head).unwrap();
    assert!(head[1] < 128, "longer than this reader knows");
    let mut body = vec![0; head[1].into()];
    stream.read_exact(&mut body).unwrap();
    (head[0] >> 4, body)
}

/// rumqttc takes a server keep alive of 0, which means "never", for "without pause".
#[tokio::test]
async fn a_broker_that_wants_no_pings_is_not_flooded_with_them() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let broker = thread::spawn(move || {
        let mut stream = listener.accept().unwrap().0;
        let mut pings = 0;
        loop {
            let (kind, body) = packet(&mut stream);
            match kind {
                // CONNECT: accepted, with a server keep alive of 0.
                1 => stream.write_all(&[0x20, 6, 0, 0, 3, 0x13, 0, 0]).unwrap(),
                // SUBSCRIBE: granted, after the time for many pings.
                8 => {
                    thread::sleep(Duration::from_millis(100));
                    stream.write_all(&[0x90, 4, body[0], body[1], 0, 1]).unwrap();
                }
                12 => {
                    pings += 1;
                    stream.write_all(&[0xd0, 0]).unwrap();
                }
                14 => return pings,
                other => panic!("unexpected packet {other}"),
            }
        }
    });
    let agent = Agent::subscribed(settings(port, Protocol::V5), &[API]).await;
    agent.handle.stop().await;
    assert!(broker.join().unwrap() <= 1, "pings without pause");
}

async fn a_broker_of_the_other_version_is_an_error_that_says_so(protocol: Protocol) {
    let (answers, advice): (&[&'static [u8]], _) = match protocol {
        // Brokers of the old version refuse with its code 1; the new one has a code of its own.
        Protocol::V5 => (&[&[0x20, 2, 0, 1], &[0x20, 3, 0, 0x84, 0]], "set mqtt.protocol to \"3.1.1\""),
        Protocol::V311 => (&[&[0x20, 2, 0, 1]], "set mqtt.protocol to \"5\""),
    };
    for answer in answers {
        let reason = Agent::start(settings(answering(answer), protocol), &[ALL]).down().await;
        assert!(reason.contains(advice), "{answer:?}: {reason}");
    }
}

/// More tickets at once than the library takes requests. In MQTT 5 the receive maximum keeps them fewer.
#[tokio::test]
async fn a_burst_of_acknowledgements_is_sent_to_its_end() {
    let broker = Mosquitto::configured(|_| "allow_anonymous true\nmax_inflight_messages 0".to_owned());
    let mut agent = Agent::subscribed(settings(broker.port(), Protocol::V311), &[ALL]).await;
    broker.publish_with(&["-q", "1", "-t", API, "-l"], "push\n".repeat(120).as_bytes());
    let mut tickets = Vec::new();
    while tickets.len() < 120 {
        tickets.push(agent.next().await.ack);
    }
    tickets.into_iter().for_each(Ack::acknowledge);
    eventually("all acknowledged", || broker.logged("Received PUBACK from web-7") == 120).await;
}
