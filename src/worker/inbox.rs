//! Pushes on their way into a record, and the acknowledgement that waits for it.

use std::sync::{Arc, Mutex, PoisonError};

use tracing::warn;

use crate::mqtt::Ack;

use super::Offer;

/// How many may wait for a disk that refuses before those with QoS 0 are dropped. With QoS 1 the broker sends only so many
/// unacknowledged, and sends them again after a reconnect.
const CAPACITY: usize = 1024;

/// The pushes that have come and are not recorded yet.
#[derive(Default)]
pub(super) struct Inbox(Mutex<State>);

#[derive(Default)]
struct State {
    offers: Vec<Offer>,
    /// A task is taking them out.
    attended: bool,
}

impl Inbox {
    /// True: a task must be started that takes them out.
    pub(super) fn put(&self, offer: Offer) -> bool {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.offers.len() >= CAPACITY && !offer.receipt.is_awaited() {
            warn!(repository = %offer.revision.repo, "push with QoS 0 dropped: too many wait for the disk");
            return false;
        }
        state.offers.push(offer);
        !std::mem::replace(&mut state.attended, true)
    }

    /// All that are there; `None`: none, and the task ends.
    pub(super) fn take(&self) -> Option<Vec<Offer>> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.offers.is_empty() {
            state.attended = false;
            return None;
        }
        Some(std::mem::take(&mut state.offers))
    }
}

/// Acknowledges a message when every app that it concerns has recorded it.
#[derive(Clone)]
pub(crate) struct Receipt(Arc<Mutex<Waiting>>);

struct Waiting {
    ack: Option<Ack>,
    records: usize,
}

impl Receipt {
    /// For a message that concerns so many apps.
    pub(crate) fn new(ack: Ack, records: usize) -> Self {
        let receipt = Self(Arc::new(Mutex::new(Waiting { ack: Some(ack), records })));
        if records == 0 {
            receipt.settle();
        }
        receipt
    }

    /// Whether the broker keeps the message until it is acknowledged.
    fn is_awaited(&self) -> bool {
        let waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.ack.as_ref().is_some_and(Ack::is_awaited)
    }

    /// One of the apps has recorded it.
    pub(crate) fn recorded(self) {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.records = waiting.records.saturating_sub(1);
        let done = waiting.records == 0;
        drop(waiting);
        if done {
            self.settle();
        }
    }

    fn settle(&self) {
        if let Some(ack) = self.0.lock().unwrap_or_else(PoisonError::into_inner).ack.take() {
            ack.acknowledge();
        }
    }
}
