//! Says at most once a minute what could otherwise be said a thousand times a second.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;

use tokio::time::Instant;

const INTERVAL: Duration = Duration::from_secs(60);

/// Per key, when it was last said. Keys are of the configuration, never of messages, so their number is bounded.
#[derive(Debug)]
pub(crate) struct Throttle<K>(HashMap<K, Said>);

#[derive(Debug)]
struct Said {
    at: Instant,
    unsaid: u64,
}

impl<K: Eq + Hash> Throttle<K> {
    pub(crate) fn new() -> Self {
        Self(HashMap::new())
    }

    /// `Some`: say it now, with how often it went unsaid since the last time.
    pub(crate) fn pass(&mut self, key: K, now: Instant) -> Option<u64> {
        match self.0.get_mut(&key) {
            Some(said) if now.duration_since(said.at) < INTERVAL => {
                said.unsaid += 1;
                None
            }
            Some(said) => {
                said.at = now;
                Some(std::mem::take(&mut said.unsaid))
            }
            None => {
                self.0.insert(key, Said { at: now, unsaid: 0 });
                Some(0)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_key_is_said_once_a_minute_with_what_went_unsaid() {
        let (mut throttle, start) = (Throttle::new(), Instant::now());
        assert_eq!(throttle.pass("a", start), Some(0));
        assert_eq!(throttle.pass("a", start + Duration::from_secs(1)), None);
        assert_eq!(throttle.pass("b", start + Duration::from_secs(1)), Some(0));
        assert_eq!(throttle.pass("a", start + Duration::from_secs(59)), None);
        assert_eq!(throttle.pass("a", start + Duration::from_secs(60)), Some(2));
        assert_eq!(throttle.pass("a", start + Duration::from_secs(121)), Some(0));
    }
}
