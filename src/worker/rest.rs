//! A worker at rest, for which an attempt may be begun by whoever records a push.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::Attempt;

/// Whether the worker rests, and what was begun for it meanwhile: it carries out all that is.
#[derive(Default)]
pub(super) struct Rest {
    state: Mutex<State>,
    /// A claim was used, or given back.
    settled: Notify,
}

#[derive(Default)]
enum State {
    /// The worker does something, or has ended.
    #[default]
    Busy,
    Resting,
    /// Somebody may be about to begin an attempt.
    Claimed,
    Begun(Box<Attempt>),
}

impl Rest {
    /// The worker has nothing to do: from now on others may begin an attempt for it.
    pub(super) fn begin(&self) {
        *self.state() = State::Resting;
    }

    /// The worker goes on, with what was begun for it if anything was. From now on nobody else begins anything.
    pub(super) async fn end(&self) -> Option<Attempt> {
        loop {
            {
                let mut state = self.state();
                match std::mem::take(&mut *state) {
                    State::Busy | State::Resting => return None,
                    State::Begun(attempt) => return Some(*attempt),
                    State::Claimed => *state = State::Claimed,
                }
            }
            self.settled.notified().await;
        }
    }

    /// The right to begin an attempt, if the worker rests and nobody else has it.
    pub(super) fn claim(&self) -> Option<Claim<'_>> {
        let mut state = self.state();
        matches!(*state, State::Resting).then(|| {
            *state = State::Claimed;
            Claim(self)
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The right to begin an attempt; given back when it is dropped.
pub(super) struct Claim<'r>(&'r Rest);

impl Claim<'_> {
    /// Hands the worker an attempt that is on record.
    pub(super) fn begun(self, attempt: Attempt) {
        *self.0.state() = State::Begun(Box::new(attempt));
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state();
        if matches!(*state, State::Claimed) {
            *state = State::Resting;
        }
        drop(state);
        self.0.settled.notify_one();
    }
}
