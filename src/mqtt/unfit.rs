//! Messages that are dropped for what they are: which, and how the log hears of them.

use std::mem::{Discriminant, discriminant};

use tokio::time::Instant;
use tokio_util::bytes::Bytes;
use tracing::warn;

use crate::throttle::Throttle;

/// More user properties than any webhook has headers: each takes far more memory than its share of the queue.
pub(crate) const MAX_PROPERTIES: usize = 100;

/// A message that nobody gets to see.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Dropped {
    pub(super) topic: Bytes,
    /// What to acknowledge, or the broker would send it for ever; `None`: nothing.
    pub(super) packet_id: Option<u16>,
    pub(super) why: Unfit,
}

/// Why a message is dropped.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Unfit {
    /// So large that it is no push whatever the configuration says.
    Packet {
        size: usize,
        limit: usize,
    },
    /// All its properties together are larger than those of any webhook.
    Properties {
        size: usize,
        limit: usize,
    },
    /// Not as the standard says, in the words of who noticed.
    Malformed(String),
    Payload {
        size: usize,
        limit: usize,
    },
    /// It has so many user properties.
    Headers(usize),
    /// With `QoS` 2, for a subscription that this client never makes. The connection answers for it.
    ExactlyOnce {
        packet_id: u16,
    },
}

impl Unfit {
    /// Whether it is worth a word even where nothing of the repository runs here: no webhook makes such a thing.
    fn concerns_everybody(&self) -> bool {
        !matches!(self, Self::Payload { .. } | Self::Headers(_))
    }

    /// `topic`: only one that is wanted.
    fn warn(&self, topic: Option<&str>, unsaid: u64) {
        match self {
            Self::Packet { size, limit } => {
                warn!(topic, size, limit, unsaid, "message dropped: it is larger than any push");
            }
            Self::Properties { size, limit } => {
                warn!(
                    topic,
                    size, limit, unsaid, "message dropped: its properties are larger than any webhook's"
                );
            }
            Self::Malformed(fault) => {
                warn!(topic, fault, unsaid, "message dropped: it is not as MQTT demands");
            }
            Self::Payload { size, limit } => {
                warn!(
                    topic,
                    size, limit, unsaid, "message dropped: its payload is larger than mqtt.max_payload"
                );
            }
            Self::ExactlyOnce { .. } => warn!(
                topic,
                unsaid,
                "message dropped: it comes with QoS 2, for which this client never asks: does another use mqtt.client_id?"
            ),
            Self::Headers(properties) => warn!(
                topic,
                properties,
                limit = MAX_PROPERTIES,
                unsaid,
                "message dropped: no webhook has so many headers as this has user properties"
            ),
        }
    }
}

/// Says so, but not for each: anybody who may publish could otherwise fill the log.
pub(super) struct Drops(
    // What others publish on topics of their own hides nothing that is said of managed ones.
    Throttle<(Discriminant<Unfit>, bool)>,
);

impl Drops {
    pub(super) fn new() -> Self {
        Self(Throttle::new())
    }

    /// `topic`: only one that is wanted.
    pub(super) fn note(&mut self, why: &Unfit, topic: Option<&str>) {
        if topic.is_none() && !why.concerns_everybody() {
            return;
        }
        if let Some(unsaid) = self.0.pass((discriminant(why), topic.is_some()), Instant::now()) {
            why.warn(topic, unsaid);
        }
    }
}
