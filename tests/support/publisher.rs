//! Publishes as fast as the broker takes it.

use std::time::Duration;

use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::PublishProperties;
use rumqttc::v5::{AsyncClient, Event, Incoming, MqttOptions};

use super::Mosquitto;

/// One message, to be published with QoS 1.
pub struct Outgoing {
    pub topic: String,
    pub payload: Vec<u8>,
    /// User properties.
    pub headers: Vec<(String, String)>,
}

impl Outgoing {
    pub fn new(topic: impl Into<String>, payload: impl Into<Vec<u8>>) -> Self {
        Self { topic: topic.into(), payload: payload.into(), headers: Vec::new() }
    }

    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }
}

/// Publishes everything and waits until the broker has it.
pub fn publish_all(broker: &Mosquitto, messages: impl IntoIterator<Item = Outgoing>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let messages: Vec<Outgoing> = messages.into_iter().collect();
    runtime.block_on(async {
        let mut options = MqttOptions::new("publisher", "127.0.0.1", broker.port());
        options.set_keep_alive(Duration::from_secs(60));
        let (client, mut events) = AsyncClient::new(options, 100);
        let mut unanswered = messages.len();
        let publish = async {
            for Outgoing { topic, payload, headers } in messages {
                let properties =
                    PublishProperties { user_properties: headers, ..PublishProperties::default() };
                client
                    .publish_with_properties(topic, QoS::AtLeastOnce, false, payload, properties)
                    .await
                    .unwrap();
            }
        };
        let poll = async {
            while unanswered > 0 {
                if let Event::Incoming(Incoming::PubAck(_)) = events.poll().await.unwrap() {
                    unanswered -= 1;
                }
            }
        };
        tokio::join!(publish, poll);
    });
}
