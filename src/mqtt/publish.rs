//! The publishing side: one connection, one message, the broker's word for it.

use std::time::Duration;

use tokio::time::{Instant, timeout, timeout_at};

use super::failure::Failure;
use super::link::{self, Access, Answer, Client, Event, Link, Request};
use super::settings::MqttSettings;
use crate::tail::clean;

/// How long the connection's end may take once the broker has answered.
const GOODBYE: Duration = Duration::from_secs(2);

/// A message to be published with QoS 1.
#[derive(Clone, PartialEq, Eq)]
pub struct Outgoing {
    /// A topic without wildcards.
    pub topic: String,
    /// The content.
    pub payload: Vec<u8>,
    /// MQTT 5's user properties; MQTT 3.1.1 has no place for them.
    pub headers: Vec<(String, String)>,
    /// Whether the broker shall keep it for new subscribers.
    pub retain: bool,
}

/// The broker has the message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reception {
    /// It said no more than that.
    Taken,
    /// Nobody is subscribed to the topic; only MQTT 5 brokers say so, and not all of them.
    NoSubscribers,
}

/// Why the broker does not have the message, so far as this side knows.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// The connection could not be made, or ended.
    #[error("{0}")]
    Connection(String),
    /// It ended before the broker had said anything of the message.
    #[error(
        "{broker} broke the connection off instead of confirming the message of {size} bytes on {topic} ({reason}): do \
         its access rules allow client {client_id} to publish there, and does it take messages of this size?"
    )]
    Unconfirmed {
        /// Host and port.
        broker: String,
        /// The message's topic.
        topic: String,
        /// The size of its payload.
        size: usize,
        /// How it ended.
        reason: String,
        /// Who sent it.
        client_id: String,
    },
    /// This side ended it, before the broker had said anything of the message.
    #[error(
        "{broker} has not confirmed the message of {size} bytes on {topic}{}, and the connection was given up ({reason})",
        if *.sent { ", though it may have it" } else { "" }
    )]
    GivenUp {
        /// Host and port.
        broker: String,
        /// The message's topic.
        topic: String,
        /// The size of its payload.
        size: usize,
        /// What the broker did not do.
        reason: &'static str,
        /// Whether all of the message had been sent.
        sent: bool,
    },
    /// The broker said no.
    #[error(
        "{broker} refused the message on {topic} ({reason}): its access rules must allow client {client_id} of user \
         {user} to publish there"
    )]
    Refused {
        /// Host and port.
        broker: String,
        /// The message's topic.
        topic: String,
        /// MQTT 5's reason, and the broker's words.
        reason: String,
        /// Who sent it.
        client_id: String,
        /// As whom.
        user: String,
    },
    /// Time is up.
    #[error("{broker} did not {what} within {}", humantime::format_duration(*.limit))]
    Timeout {
        /// Host and port.
        broker: String,
        /// What it was to do.
        what: &'static str,
        /// How long it had.
        limit: Duration,
    },
    /// No message can be sent there.
    #[error("{0} is no topic that can be published on")]
    Topic(String),
}

/// Publishes one message and waits for the broker's confirmation, so long at most. Reads files, so it may block.
pub async fn publish(
    settings: &MqttSettings,
    message: &Outgoing,
    limit: Duration,
) -> Result<Reception, PublishError> {
    let deadline = Instant::now() + limit;
    // A broker that is busy with a large message answers no pings, and the limit is the caller's.
    let settings = &MqttSettings { keep_alive: limit.max(settings.keep_alive), ..settings.clone() };
    let access = Access::read(settings)
        .map_err(|failure| PublishError::Connection(failure.explain(settings, false)))?;
    let (client, link) = link::open(settings, &access, true);
    let mut publisher = Publisher { settings, message, client, link, stage: Stage::Connecting };
    let answer = match timeout_at(deadline, publisher.run()).await {
        Ok(answer) => answer?,
        Err(_) => return Err(publisher.too_late(limit)),
    };
    publisher.end().await;
    publisher.reception(answer)
}

/// How far it has got.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Connecting,
    Sent,
}

struct Publisher<'a> {
    settings: &'a MqttSettings,
    message: &'a Outgoing,
    client: Client,
    link: Link,
    stage: Stage,
}

impl Publisher<'_> {
    async fn run(&mut self) -> Result<Answer, PublishError> {
        loop {
            match self.link.poll().await {
                Ok(Event::Connected(_)) => self.send()?,
                Ok(Event::Published(answer)) => return Ok(answer),
                Ok(_) => {}
                Err(failure) => return Err(self.failed(&failure)),
            }
        }
    }

    fn send(&mut self) -> Result<(), PublishError> {
        self.stage = Stage::Sent;
        if !rumqttc::valid_topic(&self.message.topic) {
            return Err(PublishError::Topic(self.message.topic.clone()));
        }
        self.client.send(Request::Publish(self.message.clone()));
        Ok(())
    }

    /// Says goodbye, which is sent only while the link is polled.
    async fn end(&mut self) {
        self.client.send(Request::Disconnect);
        let until_it_errs = async { while self.link.poll().await.is_ok() {} };
        // The broker has answered: however this ends, the message is where it is.
        let _ = timeout(GOODBYE, until_it_errs).await;
    }

    fn reception(&self, answer: Answer) -> Result<Reception, PublishError> {
        match answer {
            Answer::Taken => Ok(Reception::Taken),
            Answer::NoSubscribers => Ok(Reception::NoSubscribers),
            Answer::Refused(reason) => Err(PublishError::Refused {
                broker: self.settings.broker(),
                topic: self.message.topic.clone(),
                reason,
                client_id: self.settings.client_id.clone(),
                user: self.settings.username.clone().unwrap_or_else(|| "(none)".to_owned()),
            }),
        }
    }

    fn failed(&self, failure: &Failure) -> PublishError {
        let reason = match (self.stage, failure) {
            (Stage::Sent, Failure::Closed) => "closed".to_owned(),
            (Stage::Sent, Failure::Reset) => "connection reset".to_owned(),
            (Stage::Sent, Failure::Network(reason)) => clean(reason),
            (Stage::Sent, &Failure::GaveUp(reason)) => {
                return PublishError::GivenUp {
                    broker: self.settings.broker(),
                    topic: self.message.topic.clone(),
                    size: self.message.payload.len(),
                    reason,
                    sent: self.link.all_sent(),
                };
            }
            (stage, failure) => {
                return PublishError::Connection(failure.explain(self.settings, stage == Stage::Sent));
            }
        };
        PublishError::Unconfirmed {
            broker: self.settings.broker(),
            topic: self.message.topic.clone(),
            size: self.message.payload.len(),
            reason,
            client_id: self.settings.client_id.clone(),
        }
    }

    fn too_late(&self, limit: Duration) -> PublishError {
        let what = match self.stage {
            Stage::Connecting => "accept the connection",
            Stage::Sent if !self.link.all_sent() => "take all of the message",
            Stage::Sent => "confirm the message, though it may have it,",
        };
        PublishError::Timeout { broker: self.settings.broker(), what, limit }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::mqtt::settings::Protocol;

    #[test]
    fn who_gave_up_and_what_may_have_arrived_is_said() {
        let settings = MqttSettings {
            host: "broker.example".into(),
            port: 1883,
            tls: None,
            protocol: Protocol::V5,
            client_id: "ci".into(),
            username: None,
            password_file: None,
            keep_alive: Duration::from_secs(30),
            session_expiry: Duration::ZERO,
            max_payload: 1 << 20,
        };
        let message =
            Outgoing { topic: "t".into(), payload: b"push".to_vec(), headers: Vec::new(), retain: false };
        let (client, link) = link::open(&settings, &Access::read(&settings).unwrap(), true);
        let mut publisher =
            Publisher { settings: &settings, message: &message, client, link, stage: Stage::Sent };
        let sent = publisher.failed(&Failure::SILENT).to_string();
        assert!(sent.contains("though it may have it, and the connection was given up"), "{sent}");
        assert!(sent.ends_with("(no answer to a ping)") && !sent.contains("broke the"), "{sent}");
        publisher.send().unwrap();
        let stalled = publisher.failed(&Failure::STALLED).to_string();
        assert!(stalled.contains("of 4 bytes on t, and the connection was given up"), "{stalled}");
        let late = publisher.too_late(Duration::from_secs(30)).to_string();
        assert_eq!(late, "broker.example:1883 did not take all of the message within 30s");
        let closed = publisher.failed(&Failure::Closed).to_string();
        assert!(closed.contains("broke the connection off"), "{closed}");
    }
}
