//! Holds deploys back after a connect, so that a queue of pushes is read to its end before anything is deployed.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

/// No managed push for this long: the queue has been read.
const QUIET: Duration = Duration::from_millis(500);
/// Pushes that keep coming are not waited for any longer.
const LONGEST: Duration = Duration::from_secs(10);

/// Closed by a connect; opens when the pushes that were queued have come.
#[derive(Debug, Clone)]
pub struct Gate(Arc<watch::Sender<Hold>>);

#[derive(Debug, Clone, Copy)]
struct Hold {
    until: Instant,
    at_most: Instant,
}

impl Gate {
    /// Closed until the broker has been connected to for the first time, but not for long.
    pub fn new() -> Self {
        let at_most = Instant::now() + LONGEST;
        Self(Arc::new(watch::Sender::new(Hold { until: at_most, at_most })))
    }

    /// An open gate.
    #[cfg(test)]
    pub(super) fn opened() -> Self {
        let now = Instant::now();
        Self(Arc::new(watch::Sender::new(Hold { until: now, at_most: now })))
    }

    /// The broker was connected to: what it has queued comes now.
    pub fn connected(&self) {
        let now = Instant::now();
        self.0.send_replace(Hold { until: now + QUIET, at_most: now + LONGEST });
    }

    /// A managed push came.
    pub fn pushed(&self) {
        let now = Instant::now();
        self.0.send_if_modified(|hold| {
            let closed = now < hold.until;
            if closed {
                hold.until = (now + QUIET).min(hold.at_most);
            }
            closed
        });
    }

    pub(super) fn is_open(&self) -> bool {
        self.0.borrow().until <= Instant::now()
    }

    pub(super) async fn open(&self) {
        loop {
            let until = self.0.borrow().until;
            if until <= Instant::now() {
                return;
            }
            let mut changes = self.0.subscribe();
            tokio::select! {
                () = sleep_until(until) => {}
                _ = changes.changed() => {}
            }
        }
    }
}

impl Default for Gate {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn time_to_open(gate: &Gate) -> Duration {
        let start = Instant::now();
        gate.open().await;
        start.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn it_waits_for_the_first_connection_but_not_for_ever() {
        let gate = Gate::new();
        assert_eq!(time_to_open(&gate).await, LONGEST);
        let gate = Gate::new();
        let connect = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            gate.connected();
        };
        let (waited, ()) = tokio::join!(time_to_open(&gate), connect);
        assert_eq!(waited, Duration::from_secs(1) + QUIET);
    }

    #[tokio::test(start_paused = true)]
    async fn each_push_holds_it_closed_a_little_longer() {
        let gate = Gate::new();
        gate.connected();
        tokio::time::advance(Duration::from_millis(400)).await;
        gate.pushed();
        assert_eq!(time_to_open(&gate).await, Duration::from_millis(500));
        gate.pushed();
        assert_eq!(time_to_open(&gate).await, Duration::ZERO, "once open, a push does not close it");
    }

    #[tokio::test(start_paused = true)]
    async fn pushes_without_end_do_not_hold_it_closed_for_ever() {
        let gate = Gate::new();
        gate.connected();
        let start = Instant::now();
        for _ in 0..100 {
            tokio::time::advance(Duration::from_millis(300)).await;
            gate.pushed();
        }
        assert!(start.elapsed() > LONGEST);
        assert_eq!(time_to_open(&gate).await, Duration::ZERO);
    }
}
