//! The queue between the connection and the agent: bounded in messages and in bytes, and nobody waits to fill it.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio::time::Instant;
use tracing::warn;

use super::message::{Message, Share};

/// How many messages are on their way to the agent at most.
pub(super) const QUEUE_MESSAGES: u16 = 128;

/// Unit of the room: a semaphore counts no further than a `u32` at a time.
const KIB: usize = 1024;
/// How often dropped messages are worth a line.
const WARN_EVERY: Duration = Duration::from_secs(60);

/// The connection's end of the queue.
pub(super) struct Intake {
    // Bounded by the slots, which a message holds until its payload is dropped.
    sender: UnboundedSender<Message>,
    slots: Arc<Semaphore>,
    room: Arc<Semaphore>,
    kib: u32,
    overflowed: bool,
    dropped: u64,
    warned: Option<Instant>,
}

/// The agent's end of the queue.
#[derive(Debug)]
pub struct Messages(UnboundedReceiver<Message>);

impl Messages {
    /// The next message; `None` once the queue is empty and nobody fills it any more: the connection has been
    /// stopped, or its task has ended by a panic.
    pub async fn recv(&mut self) -> Option<Message> {
        self.0.recv().await
    }
}

/// A queue for [`QUEUE_MESSAGES`] messages of `bytes` in all.
pub(super) fn queue(bytes: usize) -> (Intake, Messages) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let kib = u32::try_from(bytes.div_ceil(KIB)).unwrap_or(u32::MAX);
    let intake = Intake {
        sender,
        slots: Arc::new(Semaphore::new(QUEUE_MESSAGES.into())),
        room: Arc::new(Semaphore::new(kib as usize)),
        kib,
        overflowed: false,
        dropped: 0,
        warned: None,
    };
    (intake, Messages(receiver))
}

impl Intake {
    /// Room for a message of this size, if there is any. After one that found none all others are turned away
    /// until the connection is renewed, or they would overtake it.
    pub(super) fn reserve(&mut self, size: usize) -> Option<Share> {
        if self.overflowed {
            return None;
        }
        let kib = u32::try_from(size.div_ceil(KIB)).unwrap_or(u32::MAX);
        let slot = Arc::clone(&self.slots).try_acquire_owned().ok()?;
        let room = Arc::clone(&self.room).try_acquire_many_owned(kib).ok()?;
        Some(Share { _slot: slot, _room: room })
    }

    pub(super) fn push(&self, message: Message) {
        // Without a receiver the agent is going down, and the broker keeps what is not acknowledged.
        let _ = self.sender.send(message);
    }

    /// A `QoS` 1 message found no room: the broker must send it again.
    pub(super) fn overflow(&mut self) {
        self.overflowed = true;
    }

    pub(super) fn overflowed(&self) -> bool {
        self.overflowed
    }

    /// A new connection: the broker sends again what was turned away.
    pub(super) fn renewed(&mut self) {
        self.overflowed = false;
    }

    /// Waits until the agent is done with all it was given.
    pub(super) async fn drained(&self) {
        let _ = self.slots.acquire_many(QUEUE_MESSAGES.into()).await;
        let _ = self.room.acquire_many(self.kib).await;
    }

    /// A `QoS` 0 message found no room, and is lost.
    pub(super) fn dropped(&mut self) {
        self.dropped += 1;
        if self.warned.is_none_or(|at| at.elapsed() >= WARN_EVERY) {
            warn!(dropped = self.dropped, "queue full: dropped messages that were published with QoS 0");
            self.warned = Some(Instant::now());
            self.dropped = 0;
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;
    use crate::mqtt::message::{Ack, Payload};
    use tokio_util::bytes::Bytes;

    const MIB: usize = 1 << 20;

    fn message(share: Share) -> Message {
        Message {
            topic: String::new(),
            payload: Payload::queued(Bytes::new(), share),
            headers: Vec::new(),
            retain: false,
            qos0: true,
            ack: Ack::none(),
        }
    }

    #[test]
    fn holds_so_many_messages_and_no_more() {
        let (mut intake, _messages) = queue(MIB);
        let held: Vec<_> = (0..QUEUE_MESSAGES).map(|_| intake.reserve(1).unwrap()).collect();
        assert!(intake.reserve(1).is_none());
        drop(held);
        assert!(intake.reserve(1).is_some());
    }

    #[test]
    fn holds_so_many_bytes_and_no_more() {
        let (mut intake, _messages) = queue(MIB);
        let most = intake.reserve(MIB - 1024).unwrap();
        assert!(intake.reserve(1025).is_none(), "a part of a KiB counts as a whole one");
        assert!(intake.reserve(1024).is_some());
        drop(most);
        assert!(intake.reserve(MIB).is_some());
    }

    #[test]
    fn nothing_overtakes_what_was_turned_away() {
        let (mut intake, _messages) = queue(MIB);
        intake.overflow();
        assert!(intake.reserve(1).is_none());
        intake.renewed();
        assert!(intake.reserve(1).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn is_drained_when_the_last_payload_is_dropped() {
        let (mut intake, mut messages) = queue(MIB);
        let share = intake.reserve(MIB).unwrap();
        intake.push(message(share));
        let received = messages.recv().await.unwrap();
        let soon = Duration::from_millis(1);
        assert!(tokio::time::timeout(soon, intake.drained()).await.is_err());
        let Message { payload, ack, .. } = received;
        drop(payload);
        tokio::time::timeout(soon, intake.drained()).await.unwrap();
        ack.acknowledge();
    }
}
