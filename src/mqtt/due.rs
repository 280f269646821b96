//! What the broker has yet to answer: one that answers pings, but no SUBSCRIBE, would otherwise be waited for for ever.

use std::future::pending;

use tokio::time::{Instant, sleep_until};

use super::link::{Event, PATIENCE};

/// Until when the broker has to say something of the SUBSCRIBEs and UNSUBSCRIBEs that it was sent.
#[derive(Default)]
pub(super) struct Due {
    open: usize,
    until: Option<Instant>,
}

impl Due {
    /// Another one goes out.
    pub(super) fn asked(&mut self) {
        self.open += 1;
        self.postpone();
    }

    /// An answer, or a message that came before it; to answer pings is not enough.
    pub(super) fn heard(&mut self, event: &Event) {
        if self.until.is_none() {
            return;
        }
        match event {
            Event::Subscribed(..) | Event::Unsubscribed(_) => self.open = self.open.saturating_sub(1),
            Event::Publish(_) | Event::Dropped(_) => {}
            _ => return,
        }
        if self.open == 0 {
            self.until = None;
        } else {
            self.postpone();
        }
    }

    pub(super) fn postpone(&mut self) {
        self.until = Some(Instant::now() + PATIENCE);
    }

    /// Waits until it is too late.
    pub(super) async fn over(&self) {
        match self.until {
            Some(until) => sleep_until(until).await,
            None => pending().await,
        }
    }
}
