//! Publishes as fast as the broker takes it, with packets that were made beforehand.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;

use rumqttc::mqttbytes::QoS;
use rumqttc::mqttbytes::v4::{Connect, Publish};
use tokio_util::bytes::BytesMut;

use crate::support::Mosquitto;

/// How many go out in one write.
const CHUNK: usize = 20;
/// Of a CONNACK, and of a PUBACK.
const ANSWER: usize = 4;

pub struct Publisher {
    stream: TcpStream,
}

impl Publisher {
    pub fn connect(broker: &Mosquitto) -> Self {
        Self::connect_to(broker.port())
    }

    pub fn connect_to(port: u16) -> Self {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_nodelay(true).unwrap();
        let mut connect = Connect::new(format!("publisher-{}", fastrand::u64(..)));
        connect.keep_alive = 0;
        let mut packet = BytesMut::new();
        connect.write(&mut packet).unwrap();
        stream.write_all(&packet).unwrap();
        let mut answer = [0; ANSWER];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(answer[3], 0, "the broker refuses a publisher");
        Self { stream }
    }

    /// Publishes these over and over, `count` messages in all, and waits until the broker has them.
    pub fn publish(&mut self, messages: &[(String, Vec<u8>)], qos: QoS, count: usize) {
        let packets: Vec<Vec<u8>> =
            (0..CHUNK * messages.len()).map(|n| packet(&messages[n % messages.len()], qos, n)).collect();
        let chunks: Vec<Vec<u8>> = packets.chunks(CHUNK).map(<[_]>::concat).collect();
        let mut answers = self.stream.try_clone().unwrap();
        thread::scope(|scope| {
            // Read beside, for a broker that cannot get rid of its answers takes nothing more.
            scope.spawn(move || {
                let mut answer = [0; ANSWER];
                for _ in 0..if qos == QoS::AtLeastOnce { count } else { 0 } {
                    answers.read_exact(&mut answer).unwrap();
                }
            });
            for n in 0..count / CHUNK {
                self.stream.write_all(&chunks[n % chunks.len()]).unwrap();
            }
            for packet in packets.iter().cycle().take(count % CHUNK) {
                self.stream.write_all(packet).unwrap();
            }
        });
    }

    /// Publishes one message, with QoS 1.
    pub fn publish_one(&mut self, topic: &str, payload: &[u8]) {
        let packet = packet(&(topic.to_owned(), payload.to_vec()), QoS::AtLeastOnce, 0);
        self.stream.write_all(&packet).unwrap();
        self.stream.read_exact(&mut [0; ANSWER]).unwrap();
    }
}

fn packet((topic, payload): &(String, Vec<u8>), qos: QoS, n: usize) -> Vec<u8> {
    let mut publish = Publish::new(topic, qos, payload.clone());
    publish.pkid = if qos == QoS::AtMostOnce { 0 } else { u16::try_from(n + 1).unwrap() };
    let mut bytes = BytesMut::new();
    publish.write(&mut bytes).unwrap();
    bytes.to_vec()
}
