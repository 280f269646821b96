//! How long a broker is waited for: tests.

use std::time::Duration;

use tokio::io::{DuplexStream, duplex};
use tokio::sync::mpsc::unbounded_channel;
use tokio::time::sleep;

use super::tests::{message, settings};
use super::*;

/// MQTT 3.1.1, 3.8 to 3.13: the broker answers the ping, which is 2 bytes, and not what goes before it.
async fn answer_pings(theirs: &mut DuplexStream) {
    loop {
        let mut heard = BytesMut::new();
        theirs.read_buf(&mut heard).await.unwrap();
        if heard.ends_with(&[0xc0, 0]) {
            theirs.write_u16(0xd000).await.unwrap();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_answers_pings_alone_is_given_up() {
    let (ours, mut theirs) = duplex(READ);
    let mut wire = Wire::over(Box::new(ours), &settings());
    let (sender, mut requests) = unbounded_channel();
    let subscribe = || Request::Subscribe(vec!["t".to_owned()]);
    sender.send(subscribe()).unwrap();
    assert!(matches!(wire.next(&mut requests).await, Ok(Event::Requested(1))));
    let begun = Instant::now();
    let polling = async {
        loop {
            match wire.next(&mut requests).await {
                Ok(event) => assert!(matches!(event, Event::Other)),
                Err(failure) => break failure,
            }
        }
    };
    let failure = select! {
        failure = polling => failure,
        () = answer_pings(&mut theirs) => unreachable!(),
    };
    assert_eq!((failure, begun.elapsed().as_secs()), (Failure::UNANSWERED, PATIENCE.as_secs()));
}

#[tokio::test(start_paused = true)]
async fn an_answer_may_come_behind_messages_and_then_nothing_is_due() {
    let (ours, mut theirs) = duplex(READ);
    let mut wire = Wire::over(Box::new(ours), &settings());
    let (sender, mut requests) = unbounded_channel();
    sender.send(Request::Subscribe(vec!["t".to_owned()])).unwrap();
    assert!(matches!(wire.next(&mut requests).await, Ok(Event::Requested(1))));
    let slowly = async {
        for byte in [message(), message(), vec![0x90, 3, 0, 1, 1]].concat() {
            sleep(Duration::from_secs(1)).await;
            theirs.write_all(&[byte]).await.unwrap();
        }
        answer_pings(&mut theirs).await;
    };
    let polling = async {
        for _ in 0..2 {
            assert!(matches!(wire.next(&mut requests).await, Ok(Event::Publish(_))));
        }
        let event = wire.next(&mut requests).await;
        assert!(matches!(event, Ok(Event::Subscribed(1, grants)) if grants == [link::Grant::Full]));
        for _ in 0..8 {
            assert!(matches!(wire.next(&mut requests).await, Ok(Event::Other)), "a ping's answer");
        }
    };
    select! {
        () = polling => {}
        () = slowly => unreachable!(),
    }
}

/// A message of so many bytes to be sent, through a socket that takes a KiB.
fn sending(size: usize) -> (Wire, UnboundedReceiver<Request>, DuplexStream) {
    let (ours, theirs) = duplex(1024);
    // No ping shall be under way.
    let keep_alive = Duration::from_secs(7200);
    let mut wire = Wire::over(Box::new(ours), &MqttSettings { keep_alive, ..settings() });
    wire.output.extend_from_slice(&vec![b'x'; size]);
    (wire, unbounded_channel().1, theirs)
}

#[tokio::test(start_paused = true)]
async fn a_large_message_may_take_its_time() {
    let (mut wire, mut requests, mut theirs) = sending(100 * 1024);
    let reading = async {
        let mut heard = Vec::new();
        while heard.len() < 100 * 1024 {
            sleep(PATIENCE * 9 / 10).await;
            theirs.read_buf(&mut heard).await.unwrap();
        }
    };
    select! {
        event = wire.next(&mut requests) => panic!("given up: {:?}", event.err()),
        () = reading => {}
    }
    assert!(wire.all_sent());
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_takes_nothing_is_given_up() {
    let (mut wire, mut requests, _theirs) = sending(2048);
    let begun = Instant::now();
    let failure = wire.next(&mut requests).await.err();
    assert_eq!((failure, begun.elapsed().as_secs()), (Some(Failure::STALLED), PATIENCE.as_secs()));
    assert!(!wire.all_sent());
}

#[tokio::test]
async fn an_alert_of_tls_is_known_as_one() {
    let (ours, mut theirs) = duplex(READ);
    let mut wire = Wire::over(Box::new(ours), &settings());
    // TLS 1.2, fatal, unexpected_message; in parts, as they may come.
    theirs.write_all(&[0x15]).await.unwrap();
    let answering = async {
        tokio::task::yield_now().await;
        theirs.write_all(&[0x03, 0x03, 0, 2, 2, 10]).await.unwrap();
    };
    let (greeting, ()) = tokio::join!(wire.greeting(), answering);
    assert_eq!(greeting.err(), Some(Failure::Tls));
}
