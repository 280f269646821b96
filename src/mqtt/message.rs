//! What the connection hands on: a message, its payload, and the ticket to acknowledge it with.

use std::fmt;
use std::ops::Deref;

use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::mpsc::UnboundedSender;
use tokio_util::bytes::Bytes;

/// A message on a topic the agent wants. Unless it is acknowledged, the broker sends it again after the next
/// reconnect.
#[derive(Debug)]
pub struct Message {
    /// The topic it was published on.
    pub topic: String,
    /// The content.
    pub payload: Payload,
    /// MQTT 5's user properties, in their order; empty in MQTT 3.1.1.
    pub headers: Vec<(String, String)>,
    /// Whether the broker had kept it for new subscribers.
    pub retain: bool,
    /// Whether it came with `QoS` 0: the broker will not send it again, whatever happens.
    pub qos0: bool,
    /// The ticket to acknowledge it with, which may outlive the rest of the message.
    pub ack: Ack,
}

/// The content of a message. Its share of the queue is free again when it is dropped.
pub struct Payload {
    bytes: Bytes,
    _share: Option<Share>,
}

/// What a message takes up in the queue.
pub(super) struct Share {
    pub(super) _slot: OwnedSemaphorePermit,
    pub(super) _room: OwnedSemaphorePermit,
}

impl Payload {
    pub(super) fn queued(bytes: Bytes, share: Share) -> Self {
        Self { bytes, _share: Some(share) }
    }
}

impl From<Vec<u8>> for Payload {
    /// A payload that never was in a queue.
    fn from(bytes: Vec<u8>) -> Self {
        Self { bytes: bytes.into(), _share: None }
    }
}

impl Deref for Payload {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl fmt::Debug for Payload {
    /// Only the size: what is inside must not reach a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Payload({} bytes)", self.bytes.len())
    }
}

/// A ticket to acknowledge one message with. Dropped, it leaves the message unacknowledged.
#[derive(Debug)]
#[must_use = "the broker sends the message again unless it is acknowledged"]
pub struct Ack(Option<Pending>);

#[derive(Debug)]
struct Pending {
    receipt: Receipt,
    // Unbounded, but no longer than the tickets that are out: each is used up by sending.
    receipts: UnboundedSender<Receipt>,
}

/// An acknowledgement on its way to the connection it belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Receipt {
    pub(super) generation: u64,
    pub(super) packet_id: u16,
}

impl Ack {
    /// A ticket for what needs no acknowledgement.
    pub fn none() -> Self {
        Self(None)
    }

    /// Whether the broker keeps the message until it is acknowledged.
    pub(crate) fn is_awaited(&self) -> bool {
        self.0.is_some()
    }

    pub(super) fn new(receipt: Receipt, receipts: UnboundedSender<Receipt>) -> Self {
        Self(Some(Pending { receipt, receipts }))
    }

    /// Tells the broker that the message is in safe hands. Does nothing when the connection that brought the
    /// message is over: the broker sends it again.
    pub fn acknowledge(self) {
        if let Some(Pending { receipt, receipts }) = self.0 {
            // Refused only when the connection has been stopped.
            let _ = receipts.send(receipt);
        }
    }
}
