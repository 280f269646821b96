//! How long to wait before the next attempt to connect.

use std::time::Duration;

/// What the first delay stays under.
const FIRST: Duration = Duration::from_secs(3);
/// What every delay stays under.
const MOST: Duration = Duration::from_secs(60);
/// A connection that lasted this long proves that the trouble is over.
const LASTED: Duration = Duration::from_secs(10);

/// Exponential back-off with full jitter: a fleet that lost its broker does not return all at once.
pub(super) struct Backoff<R> {
    ceiling: Duration,
    random: R,
}

impl<R: FnMut() -> f64> Backoff<R> {
    /// `random` gives numbers from 0 up to 1.
    pub(super) fn new(random: R) -> Self {
        Self { ceiling: FIRST, random }
    }

    /// The delay after trouble that may be over at any moment.
    pub(super) fn short(&mut self) -> Duration {
        let delay = self.ceiling.mul_f64((self.random)());
        self.ceiling = (self.ceiling * 2).min(MOST);
        delay
    }

    /// The delay after trouble that lasts until somebody does something about it.
    pub(super) fn long(&mut self) -> Duration {
        MOST / 2 + (MOST / 2).mul_f64((self.random)())
    }

    /// A connection has ended after `lasted`.
    pub(super) fn connection_ended(&mut self, lasted: Duration) {
        if lasted >= LASTED {
            self.ceiling = FIRST;
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    const ALMOST_ONE: f64 = 0.999_999;

    fn seconds(delay: Duration) -> u64 {
        (delay + Duration::from_millis(500)).as_secs()
    }

    #[test]
    fn the_ceiling_doubles_up_to_a_minute() {
        let mut backoff = Backoff::new(|| ALMOST_ONE);
        let delays: Vec<u64> = (0..7).map(|_| seconds(backoff.short())).collect();
        assert_eq!(delays, [3, 6, 12, 24, 48, 60, 60]);
    }

    #[test]
    fn the_jitter_is_full() {
        let mut backoff = Backoff::new(|| 0.0);
        assert_eq!(backoff.short(), Duration::ZERO);
        let mut half = Backoff::new(|| 0.5);
        assert_eq!(half.short(), Duration::from_millis(1500));
    }

    #[test]
    fn only_a_connection_that_lasted_starts_over() {
        let mut backoff = Backoff::new(|| ALMOST_ONE);
        backoff.short();
        backoff.connection_ended(Duration::from_secs(9));
        assert_eq!(seconds(backoff.short()), 6);
        backoff.connection_ended(Duration::from_secs(10));
        assert_eq!(seconds(backoff.short()), 3);
    }

    #[test]
    fn lasting_trouble_waits_half_a_minute_at_least() {
        assert_eq!(seconds(Backoff::new(|| 0.0).long()), 30);
        assert_eq!(seconds(Backoff::new(|| ALMOST_ONE).long()), 60);
    }

    #[test]
    fn the_real_randomness_stays_in_range() {
        let mut backoff = Backoff::new(fastrand::f64);
        for _ in 0..1000 {
            assert!(backoff.short() <= MOST);
        }
    }
}
