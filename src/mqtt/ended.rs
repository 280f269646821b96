//! How a connection ended, and what it was good for.

use std::time::Duration;

use tokio::time::Instant;

use super::failure::Failure;

pub(super) struct Ended {
    pub(super) why: End,
    /// When the broker accepted it; `None`: never.
    pub(super) connected_at: Option<Instant>,
    /// A filter that the broker had been asked for and had not answered for.
    pub(super) asked_for: Option<String>,
    /// There was a time when it had answered for all.
    pub(super) has_answered: bool,
}

impl Ended {
    pub(super) fn before_it_began(why: End) -> Self {
        Self { why, connected_at: None, asked_for: None, has_answered: false }
    }

    /// How long it served. One on which filters were never answered for did not, however long it lasted.
    pub(super) fn served(&self) -> Option<Duration> {
        self.connected_at.filter(|_| self.has_answered || self.asked_for.is_none()).map(|at| at.elapsed())
    }
}

pub(super) enum End {
    /// The agent goes down.
    Stopped,
    /// Ended by us, to begin anew.
    Renew,
    Failed(Failure),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn only_a_connection_that_served_starts_the_pauses_over() {
        let ended = |asked_for: Option<&str>, has_answered| Ended {
            why: End::Renew,
            connected_at: Some(Instant::now()),
            asked_for: asked_for.map(str::to_owned),
            has_answered,
        };
        let (served, in_vain) = (ended(None, true), ended(Some("github/+/+"), false));
        let asked_again = ended(Some("github/+/+"), true);
        tokio::time::advance(Duration::from_secs(11)).await;
        assert_eq!([served, asked_again].map(|it| it.served()), [Some(Duration::from_secs(11)); 2]);
        assert_eq!((in_vain.served(), Ended::before_it_began(End::Renew).served()), (None, None));
    }
}
