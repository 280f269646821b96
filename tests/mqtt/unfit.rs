//! Messages that cannot be read, or are too large to be: each is acknowledged, and what comes behind it arrives.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::thread::{self, JoinHandle};

use instance_agent::mqtt::Protocol;

use crate::support::{Log, Mosquitto};
use crate::{ALL, API, Agent, MIB, OTHER, eventually, packet, settings};

/// More than any push has, and than the agent takes into memory.
const OVERSIZE: usize = 67 * MIB;

#[tokio::test]
async fn a_retained_oversize_message_costs_neither_session_nor_connection_in_mqtt_5() {
    a_retained_oversize_message(Protocol::V5).await;
}

#[tokio::test]
async fn a_retained_oversize_message_costs_neither_session_nor_connection_in_mqtt_3() {
    a_retained_oversize_message(Protocol::V311).await;
}

async fn a_retained_oversize_message(protocol: Protocol) {
    let (log, _guard) = Log::listen();
    let broker = Mosquitto::start();
    broker.publish_with(&["-q", "1", "-r", "-t", OTHER, "-s"], &vec![0; OVERSIZE]);
    broker.publish_with(&["-q", "1", "-r", "-t", API, "-s"], &vec![0; OVERSIZE]);
    let mut agent = Agent::subscribed(settings(broker.port(), protocol), &[ALL]).await;
    eventually("both acknowledged", || broker.logged("Received PUBACK from web-7") == 2).await;
    broker.publish(API, b"behind it");
    assert_eq!(agent.take().await, "behind it");
    assert_eq!(broker.logged("as web-7"), 1, "{}", broker.log());
    let line = log.line(&["WARN", "message dropped", "larger than any push", API, "limit=67108864"]).await;
    assert!(line.contains("size=70254"), "{line}");
    assert!(!log.text().contains(OTHER), "a topic of others was logged: {}", log.text());
    assert_eq!(log.text().matches("message dropped").count(), 2, "{}", log.text());

    // Queued for who is away, it is as harmless.
    agent.handle.stop().await;
    broker.publish(API, &vec![0; OVERSIZE]);
    broker.publish(API, b"queued behind it");
    let mut agent = Agent::subscribed(settings(broker.port(), protocol), &[ALL]).await;
    assert_eq!(agent.take().await, "queued behind it");
    assert_eq!(broker.logged("as web-7"), 2, "{}", broker.log());
    assert!(!log.text().contains("connection lost"), "{}", log.text());
}

#[tokio::test]
async fn messages_with_qos_2_that_another_client_has_left_are_answered_for_in_mqtt_5() {
    messages_with_qos_2(Protocol::V5).await;
}

#[tokio::test]
async fn messages_with_qos_2_that_another_client_has_left_are_answered_for_in_mqtt_3() {
    messages_with_qos_2(Protocol::V311).await;
}

/// More than a broker sends unanswered.
async fn messages_with_qos_2(protocol: Protocol) {
    let (log, _guard) = Log::listen();
    let broker = Mosquitto::start();
    let subscribe = ["-i", "web-7", "-q", "2", "-c", "-E", "-t", ALL, "-p", &broker.port().to_string()];
    let other = Command::new("mosquitto_sub").args(subscribe).status().unwrap();
    assert!(other.success());
    for _ in 0..100 {
        broker.publish_with(&["-q", "2", "-t", OTHER, "-s"], b"twice");
    }
    let mut agent = Agent::subscribed(settings(broker.port(), protocol), &[ALL]).await;
    broker.publish(API, b"behind them");
    assert_eq!(agent.take().await, "behind them");
    eventually("all completed", || broker.logged("Received PUBCOMP from web-7") == 100).await;
    log.line(&["WARN", "message dropped", "QoS 2", "mqtt.client_id"]).await;
}

#[tokio::test]
async fn what_is_only_too_large_for_the_configuration_is_nobodys_business_elsewhere() {
    let (log, _guard) = Log::listen();
    let broker = Mosquitto::start();
    let mut settings = settings(broker.port(), Protocol::V5);
    settings.max_payload = 100;
    let mut agent = Agent::subscribed(settings, &[ALL]).await;
    broker.publish(OTHER, &[b'x'; 101]);
    let headers = ["-D", "publish", "user-property", "a", ""].repeat(101);
    broker.publish_with(&[&["-V", "5", "-q", "1", "-t", OTHER, "-s"], &headers[..]].concat(), b"x");
    broker.publish(API, b"behind them");
    assert_eq!(agent.take().await, "behind them");
    eventually("all acknowledged", || broker.logged("Received PUBACK from web-7") == 3).await;
    assert!(!log.text().contains("message dropped"), "{}", log.text());
}

/// A broker that has one client, grants what it asks for, and then sends these bytes. Ends with the numbers that the
/// client has acknowledged, once it says goodbye.
fn sending(connack: &'static [u8], suback: &'static [u8], bytes: Vec<u8>) -> (u16, JoinHandle<Vec<u16>>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let broker = thread::spawn(move || {
        let mut stream = listener.accept().unwrap().0;
        let mut acknowledged = Vec::new();
        loop {
            let (kind, body) = packet(&mut stream);
            match kind {
                1 => stream.write_all(connack).unwrap(),
                4 => acknowledged.push(u16::from_be_bytes([body[0], body[1]])),
                8 => {
                    let length = u8::try_from(2 + suback.len()).unwrap();
                    stream.write_all(&[&[0x90, length, body[0], body[1]], suback].concat()).unwrap();
                    stream.write_all(&bytes).unwrap();
                }
                14 => return acknowledged,
                other => panic!("unexpected packet {other}"),
            }
        }
    });
    (port, broker)
}

/// A message of QoS 1 on this topic: number, properties with their length, payload.
fn message(topic: &[u8], number: u8, rest: &[u8]) -> Vec<u8> {
    let length = |n: usize| u8::try_from(n).unwrap();
    let head = [0x32, length(4 + topic.len() + rest.len()), 0, length(topic.len())];
    [&head, topic, &[0, number], rest].concat()
}

#[tokio::test]
async fn what_can_not_be_read_holds_nothing_up_in_mqtt_5() {
    let (log, _guard) = Log::listen();
    let messages = [
        message(API.as_bytes(), 1, &[7, 0x26, 0, 1, 0xff, 0, 1, b'v', b'x']),
        message(API.as_bytes(), 2, &[9, 0x26, 0, 1, b'n', 0, 1, b'v', b'x']),
        message(OTHER.as_bytes(), 3, &[2, 0x77, 0, b'x']),
        message(b"github/acme/\xff", 4, &[0, b'x']),
        message(API.as_bytes(), 5, b"\0behind them"),
    ];
    let (port, broker) = sending(&[0x20, 3, 0, 0, 0], &[0, 1], messages.concat());
    let mut agent = Agent::subscribed(settings(port, Protocol::V5), &[ALL]).await;
    assert_eq!(agent.take().await, "behind them");
    agent.handle.stop().await;
    assert_eq!(broker.join().unwrap(), [1, 2, 3, 4, 5]);
    log.line(&["WARN", "message dropped", "not as MQTT demands", API]).await;
    // Once for the managed repository, once for all others.
    assert_eq!(log.text().matches("message dropped").count(), 2, "{}", log.text());
    assert!(!log.text().contains("acme/other"), "{}", log.text());
}

#[tokio::test]
async fn what_can_not_be_read_holds_nothing_up_in_mqtt_3() {
    let (log, _guard) = Log::listen();
    let messages = [message(b"github/acme/\xff", 1, b"x"), message(API.as_bytes(), 2, b"behind it")];
    let (port, broker) = sending(&[0x20, 2, 0, 0], &[1], messages.concat());
    let mut agent = Agent::subscribed(settings(port, Protocol::V311), &[ALL]).await;
    assert_eq!(agent.take().await, "behind it");
    agent.handle.stop().await;
    assert_eq!(broker.join().unwrap(), [1, 2]);
    log.line(&["WARN", "message dropped", "not as MQTT demands", "UTF-8"]).await;
}

/// A million properties, the shortest there are.
#[tokio::test]
async fn a_message_made_of_properties_is_not_read() {
    let (log, _guard) = Log::listen();
    let properties = [0x26, 0, 0, 0, 0].repeat(MIB);
    // 5 MiB as MQTT writes lengths, and the topic, the number and that length more.
    let topic = [&[0, 15], API.as_bytes(), &[0, 1]].concat();
    let head = [&[0x32, 0x80 + 23, 0x80, 0xc0, 2][..], &topic, &[0x80, 0x80, 0xc0, 2], &properties].concat();
    let bytes = [head, message(API.as_bytes(), 2, b"\0behind it")].concat();
    let (port, broker) = sending(&[0x20, 3, 0, 0, 0], &[0, 1], bytes);
    let mut agent = Agent::subscribed(settings(port, Protocol::V5), &[ALL]).await;
    assert_eq!(agent.take().await, "behind it");
    agent.handle.stop().await;
    assert_eq!(broker.join().unwrap(), [1, 2]);
    log.line(&["WARN", "message dropped", "properties are larger", API, "size=52428", "limit=1048576"]).await;
}

/// MQTT 5, 3.14.2.2.1, lets the broker leave out all but the reason.
#[tokio::test]
async fn a_short_goodbye_is_understood() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let broker = thread::spawn(move || {
        let mut stream = listener.accept().unwrap().0;
        packet(&mut stream);
        stream.write_all(&[0x20, 3, 0, 0, 0]).unwrap();
        packet(&mut stream);
        stream.write_all(&[0xe0, 1, 0x8b]).unwrap();
        until_closed(stream);
    });
    let mut agent = Agent::start(settings(port, Protocol::V5), &[ALL]);
    let reason = agent.down().await;
    assert!(reason.ends_with("ended the connection: ServerShuttingDown"), "{reason}");
    agent.handle.stop().await;
    broker.join().unwrap();
}

fn until_closed(mut stream: TcpStream) {
    let _ = stream.read_to_end(&mut Vec::new());
}
