//! Which failures are worth a line in the log: not the same one every few seconds.

use std::time::Duration;

use tokio::time::Instant;

/// How often a reason that stays the same is repeated.
const REPEAT: Duration = Duration::from_secs(300);

/// What was complained about last.
#[derive(Debug, Default)]
pub(super) struct Complaints(Option<(String, Instant)>);

impl Complaints {
    /// Whether this failure should be seen. `lost`: it ended a connection, rather than an attempt at one.
    pub(super) fn worth(&mut self, reason: &str, lost: bool) -> bool {
        let old = self.0.as_ref().is_some_and(|(last, at)| last == reason && at.elapsed() < REPEAT);
        if lost || !old {
            self.0 = Some((reason.to_owned(), Instant::now()));
        }
        lost || !old
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_same_reason_is_seen_every_five_minutes() {
        let mut complaints = Complaints::default();
        assert!(complaints.worth("refused", false));
        assert!(!complaints.worth("refused", false));
        tokio::time::advance(REPEAT).await;
        assert!(complaints.worth("refused", false));
        assert!(!complaints.worth("refused", false));
    }

    #[tokio::test(start_paused = true)]
    async fn another_reason_and_a_lost_connection_are_seen_at_once() {
        let mut complaints = Complaints::default();
        assert!(complaints.worth("refused", false));
        assert!(complaints.worth("no route", false));
        assert!(complaints.worth("no route", true));
        assert!(!complaints.worth("no route", false));
    }
}
