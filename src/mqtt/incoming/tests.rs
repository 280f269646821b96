#![allow(clippy::unwrap_used, clippy::panic)]

use std::time::Duration;

use super::*;

const LIMIT: usize = 1000;

struct Connection {
    incoming: Incoming,
    packets: Packets,
}

impl Connection {
    fn new(protocol: Protocol) -> Self {
        let settings = MqttSettings {
            host: "broker.example".into(),
            port: 1883,
            tls: None,
            protocol,
            client_id: "web-7".into(),
            username: None,
            password_file: None,
            keep_alive: Duration::from_secs(5),
            session_expiry: Duration::from_secs(60),
            max_payload: LIMIT,
        };
        Self { incoming: Incoming::new(&settings), packets: Packets::of(&settings) }
    }

    /// All events that these bytes are.
    fn hear(&mut self, bytes: &[u8]) -> Result<Vec<Event>, Failure> {
        self.incoming.buffer.extend_from_slice(bytes);
        let mut events = Vec::new();
        while let Read::Event(event) = self.incoming.next(&mut self.packets)? {
            events.push(event);
        }
        Ok(events)
    }

    fn fails(&mut self, bytes: &[u8]) -> Failure {
        self.hear(bytes).err().unwrap()
    }

    /// The one message in these bytes.
    fn taken(&mut self, bytes: &[u8]) -> Publish {
        match &mut self.hear(bytes).unwrap()[..] {
            [Event::Publish(publish)] => Publish {
                topic: publish.topic.clone(),
                payload: publish.payload.clone(),
                headers: publish.headers.clone(),
                ..*publish
            },
            events => panic!("{} events", events.len()),
        }
    }

    fn dropped(&mut self, bytes: &[u8]) -> Dropped {
        let mut events = self.hear(bytes).unwrap();
        match (events.pop(), events.is_empty()) {
            (Some(Event::Dropped(dropped)), true) => dropped,
            _ => panic!("{} events before something else", events.len()),
        }
    }
}

/// MQTT 5, 3.3: a packet of QoS 1 on the topic `t`, its number 258, this behind it, and so much as still to come.
fn message(rest: &[u8], to_come: usize) -> Vec<u8> {
    [&[0x32], &length_of(5 + rest.len() + to_come)[..], &[0, 1, b't', 1, 2], rest].concat()
}

/// MQTT 5, 1.5.5.
fn length_of(mut size: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while size > 127 {
        bytes.push(0x80 | u8::try_from(size % 128).unwrap());
        size /= 128;
    }
    bytes.push(u8::try_from(size).unwrap());
    bytes
}

fn of_t(why: Unfit) -> Dropped {
    Dropped { topic: Bytes::from_static(b"t"), packet_id: Some(258), why }
}

#[test]
fn a_message_is_the_same_however_it_comes() {
    let header = [8, 0x26, 0, 1, b'n', 0, 2, b'v', b'w'];
    for (protocol, rest, headers) in [
        (Protocol::V5, &header[..], vec![("n".to_owned(), "vw".to_owned())]),
        (Protocol::V5, &[0], vec![]),
        (Protocol::V311, &[], vec![]),
    ] {
        let packet = message(&[rest, b"payload"].concat(), 0);
        for chunk in 1..=packet.len() {
            let mut connection = Connection::new(protocol);
            let chunks: Vec<_> = packet.chunks(chunk).collect();
            let (last, before) = chunks.split_last().unwrap();
            for chunk in before {
                assert!(connection.hear(chunk).unwrap().is_empty());
            }
            let publish = connection.taken(last);
            assert_eq!((&*publish.topic, &*publish.payload), (&b"t"[..], &b"payload"[..]));
            assert_eq!((publish.headers, publish.packet_id), (headers.clone(), Some(258)));
        }
    }
}

/// A broker of MQTT 5 may send properties that the agent has no use for; what is behind them is the payload.
#[test]
fn all_of_the_properties_and_nothing_else_are_properties() {
    // Subscription identifiers, which the library counts as longer than they are.
    let rest = [6, 0x0b, 1, 0x0b, 2, 0x01, 1, b'x'];
    assert_eq!(&*Connection::new(Protocol::V5).taken(&message(&rest, 0)).payload, b"x");
}

#[test]
fn a_message_above_the_limit_is_let_go_of_as_it_comes_in() {
    for (protocol, rest) in [(Protocol::V5, &[0][..]), (Protocol::V311, &[])] {
        for (size, why) in [
            (LIMIT + 1, Unfit::Payload { size: LIMIT + 1, limit: LIMIT }),
            (5 << 20, Unfit::Payload { size: 5 << 20, limit: LIMIT }),
            (70 << 20, Unfit::Packet { size: 5 + rest.len() + (70 << 20), limit: 64 << 20 }),
        ] {
            let mut connection = Connection::new(protocol);
            assert!(connection.hear(&message(rest, size)).unwrap().is_empty());
            let chunk = vec![b'x'; READ];
            let mut left = size;
            while left > READ {
                assert!(connection.hear(&chunk).unwrap().is_empty());
                assert!(connection.incoming.buffer.capacity() <= 2 * READ);
                left -= READ;
            }
            let next = message(&[rest, b"next"].concat(), 0);
            let mut events = connection.hear(&[&chunk[..left], &next].concat()).unwrap();
            assert!(matches!(events.pop(), Some(Event::Publish(publish)) if &*publish.payload == b"next"));
            assert!(matches!(events.pop(), Some(Event::Dropped(dropped)) if dropped == of_t(why)));
            assert!(events.is_empty());
        }
    }
}

#[test]
fn a_message_at_the_limit_is_taken() {
    for (protocol, rest) in [(Protocol::V5, &[0][..]), (Protocol::V311, &[])] {
        let packet = message(&[rest, &[b'x'; LIMIT]].concat(), 0);
        assert_eq!(Connection::new(protocol).taken(&packet).payload.len(), LIMIT);
    }
}

/// The topic is as long as it can be, so the packet's number comes late.
#[test]
fn no_more_is_kept_than_it_takes_to_acknowledge() {
    let mut connection = Connection::new(Protocol::V311);
    let opening = [&[0x32, 0xff, 0xff, 0xff, 0x7f, 0xff, 0xff][..], &b"t".repeat(0xffff), &[1, 2]].concat();
    let mut chunks = opening.chunks(1000).peekable();
    while let Some(chunk) = chunks.next() {
        assert!(connection.hear(chunk).unwrap().is_empty());
        assert_eq!(connection.incoming.buffer.is_empty(), chunks.peek().is_none());
    }
}

#[test]
fn properties_are_not_read_where_they_are_large() {
    let mut connection = Connection::new(Protocol::V5);
    let most = MOST - 4;
    // The shortest: a user property without a name or a value.
    let properties = [0x26, 0, 0, 0, 0].repeat(most / 5);
    let packet = message(&[&length_of(properties.len())[..], &properties].concat(), 0);
    assert_eq!(connection.dropped(&packet), of_t(Unfit::Headers(most / 5)));
    connection.incoming.buffer.reserve(READ);
    assert!(connection.incoming.buffer.capacity() <= 2 * READ, "the buffer of a large packet is kept");
    let packet = message(&[&length_of(MOST)[..], &properties, &[0; 9]].concat(), 0);
    assert_eq!(connection.dropped(&packet), of_t(Unfit::Properties { size: MOST + 3, limit: MOST }));
}

#[test]
fn what_can_not_be_read_is_acknowledged_all_the_same() {
    let malformed: [&[u8]; 8] = [
        // No length of the properties, one that has no end, one that is beyond the packet's.
        &[],
        &[0x80],
        &[0x80, 0x80, 0x80, 0x80, 1],
        &[9, 0x26, 0, 1, b'n', 0, 1, b'v'],
        // A name that is not UTF-8, a property that no message has, one that is none, one that is cut short.
        &[7, 0x26, 0, 1, 0xff, 0, 1, b'v', b'x'],
        &[3, 0x13, 0, 0, b'x'],
        &[2, 0x77, 0, b'x'],
        &[5, 0x26, 0, 1, b'n', 0, b'x', b'x', b'x', b'x'],
    ];
    for rest in malformed {
        let mut connection = Connection::new(Protocol::V5);
        let dropped = connection.dropped(&message(rest, 0));
        assert!(matches!(dropped.why, Unfit::Malformed(_)), "{rest:?}: {dropped:?}");
        assert_eq!((&*dropped.topic, dropped.packet_id), (&b"t"[..], Some(258)));
        assert_eq!(&*connection.taken(&message(&[0, b'x'], 0)).payload, b"x", "{rest:?}");
    }
}

#[test]
fn nobody_waits_for_what_is_no_message_and_large() {
    for protocol in [Protocol::V5, Protocol::V311] {
        let failure = Connection::new(protocol).fails(&[0x90, 0x81, 0x80, 0x40]);
        assert_eq!(failure, Failure::Oversize(MOST + 1));
    }
}

/// MQTT 3.1.1, 3.2: what a broker of that version answers, whoever asks. MQTT 5, 3.14.2.1 and 3.14.2.2.1.
#[test]
fn short_answers_are_understood_in_mqtt_5() {
    let fails = |packet: &[u8]| Connection::new(Protocol::V5).fails(packet);
    assert_eq!(fails(&[0x20, 2, 0, 1]), Failure::Version);
    assert_eq!(fails(&[0x20, 2, 0, 0]), Failure::Version);
    assert_eq!(fails(&[0x20, 2, 0, 0x87]), Failure::Refused("NotAuthorized".into()));
    for (packet, reason) in [
        (&[0xe0, 1, 0x8b][..], "ServerShuttingDown"),
        (&[0xe0, 1, 0x87], "NotAuthorized"),
        (&[0xe0, 1, 0x8e], "SessionTakenOver: another client uses this mqtt.client_id"),
        (&[0xe0, 0], "NormalDisconnection"),
        (&[0xe0, 2, 0x8b, 0], "ServerShuttingDown"),
    ] {
        assert_eq!(fails(packet), Failure::Disconnected(reason.into()));
    }
}

#[test]
fn a_packet_that_is_all_there_and_yet_too_short_is_the_brokers_fault() {
    for packet in [&[0x90, 2, 0, 1][..], &[0x20, 1, 0], &[0xb0, 2, 0, 1], &[0x40, 0], &[0xe1, 1, 0]] {
        assert!(matches!(Connection::new(Protocol::V5).fails(packet), Failure::Network(_)), "{packet:?}");
    }
    for packet in [&[0x20, 1, 0][..], &[0xb0, 1, 0], &[0x40, 0]] {
        assert!(matches!(Connection::new(Protocol::V311).fails(packet), Failure::Network(_)), "{packet:?}");
    }
}

#[test]
fn what_nobody_asked_for_with_qos_2_is_passed_over() {
    let mut connection = Connection::new(Protocol::V311);
    let twice = [0x34, 6, 0, 1, b't', 1, 2, b'x'];
    assert!(matches!(
        connection.hear(&twice).unwrap()[..],
        [Event::Dropped(Dropped { packet_id: None, why: Unfit::ExactlyOnce { .. }, .. })]
    ));
    assert_eq!(&*connection.taken(&message(b"x", 0)).payload, b"x");
}

/// Whatever comes is taken apart into as many packets as it has, or fails.
#[test]
fn nothing_that_comes_stops_the_agent() {
    let random = &mut fastrand::Rng::with_seed(7);
    let header = [8, 0x26, 0, 1, b'n', 0, 2, b'v', b'w', b'x'];
    let whole =
        [message(&header, 0), vec![0x90, 4, 0, 1, 0, 1], vec![0xd0, 0], message(&[0, b'x'], 0)].concat();
    for round in 0..20_000 {
        let protocol = if round % 2 == 0 { Protocol::V5 } else { Protocol::V311 };
        let mut bytes = whole.clone();
        for _ in 0..random.usize(0..4) {
            let at = random.usize(..bytes.len());
            bytes[at] = random.u8(..);
        }
        let mut connection = Connection::new(protocol);
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let (chunk, behind) = rest.split_at(random.usize(1..=rest.len()));
            rest = behind;
            if connection.hear(chunk).is_err() {
                break;
            }
        }
    }
}
