//! Counts what is refused, and says so once a minute for each reason.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

use crate::throttle::Throttle;

/// The refusals since the agent started, by reason.
#[derive(Debug)]
pub struct Refusals(Mutex<Counts>);

#[derive(Debug)]
struct Counts {
    throttle: Throttle<&'static str>,
    totals: BTreeMap<&'static str, u64>,
}

/// What to say of a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Noted {
    /// How often the same reason went unsaid since the last time.
    pub(crate) unsaid: u64,
    /// How often it was the reason since the agent started.
    pub(crate) total: u64,
}

impl Default for Refusals {
    fn default() -> Self {
        Self(Mutex::new(Counts { throttle: Throttle::new(), totals: BTreeMap::new() }))
    }
}

impl Refusals {
    /// Counts one. `Some`: say it now. Reasons are the program's own words, so their number is bounded.
    pub(crate) fn note(&self, reason: &'static str) -> Option<Noted> {
        let mut counts = self.counts();
        let total = counts.totals.entry(reason).or_default();
        *total += 1;
        let total = *total;
        let unsaid = counts.throttle.pass(reason, Instant::now())?;
        Some(Noted { unsaid, total })
    }

    /// Every reason is said again at once: somebody has changed something and looks.
    pub(crate) fn say_again(&self) {
        self.counts().throttle = Throttle::new();
    }

    /// How many there were, for whatever reason.
    pub(crate) fn total(&self) -> u64 {
        self.counts().totals.values().sum()
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        // Numbers are whole whatever panicked beside them.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Display for Refusals {
    /// `forged 3, unsigned 12`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (reason, total)) in self.counts().totals.iter().enumerate() {
            let comma = if i > 0 { ", " } else { "" };
            write!(f, "{comma}{reason} {total}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn each_reason_is_counted_and_said_once_a_minute() {
        let refusals = Refusals::default();
        assert_eq!(refusals.note("unsigned"), Some(Noted { unsaid: 0, total: 1 }));
        assert_eq!(refusals.note("unsigned"), None);
        assert_eq!(refusals.note("forged"), Some(Noted { unsaid: 0, total: 1 }));
        tokio::time::advance(std::time::Duration::from_secs(60)).await;
        assert_eq!(refusals.note("unsigned"), Some(Noted { unsaid: 1, total: 3 }));
        refusals.say_again();
        assert_eq!(refusals.note("unsigned"), Some(Noted { unsaid: 0, total: 4 }));
        assert_eq!((refusals.to_string().as_str(), refusals.total()), ("forged 1, unsigned 4", 5));
    }
}
