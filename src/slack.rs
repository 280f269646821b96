//! Long timers end a little early, at times that they have in common: one wake-up serves them all.

use std::sync::LazyLock;
use std::time::Duration;

use tokio::time::Instant;

/// What tokio's timers are sorted by. One that ends within a slot, not with it, takes two more wake-ups.
const SLOT: Duration = Duration::from_millis(1 << 12);

/// When the first slot began.
static EPOCH: LazyLock<Instant> = LazyLock::new(Instant::now);

/// To be called just before the runtime is made, for its slots begin with it, and its timers end with a millisecond.
pub(crate) fn begin() {
    LazyLock::force(&EPOCH);
}

/// The end of a wait that may be shorter by a slot; a short one is taken exactly.
pub(crate) fn deadline(wait: Duration) -> Instant {
    aligned(Instant::now(), wait, *EPOCH)
}

fn aligned(now: Instant, wait: Duration, epoch: Instant) -> Instant {
    let exact = now + wait;
    let slots = exact.checked_duration_since(epoch).map(|since| since.as_millis() / SLOT.as_millis());
    match slots.and_then(|slots| u32::try_from(slots).ok()) {
        Some(slots) if wait >= 2 * SLOT => epoch + SLOT * slots,
        _ => exact,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::{Arc, Mutex};

    use tokio::runtime;
    use tokio::time::{sleep, sleep_until};

    use super::*;

    const WAIT: Duration = Duration::from_secs(30);

    #[test]
    fn long_timers_share_one_wake_up() {
        let moments = Arc::new(Mutex::new(BTreeSet::new()));
        let noted = moments.clone();
        let runtime = runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .on_thread_unpark(move || {
                noted.lock().unwrap().insert(Instant::now());
            })
            .build()
            .unwrap();
        let rounds = runtime.block_on(async {
            let epoch = Instant::now();
            let timers = [1234, 1284, 2000].map(|begin| {
                tokio::spawn(async move {
                    sleep(Duration::from_millis(begin)).await;
                    let mut rounds = 0;
                    while epoch.elapsed() < 20 * WAIT {
                        sleep_until(aligned(Instant::now(), WAIT, epoch)).await;
                        rounds += 1;
                    }
                    rounds
                })
            });
            let mut rounds = 0;
            for timer in timers {
                rounds = timer.await.unwrap();
            }
            rounds
        });
        let woken = moments.lock().unwrap().len();
        // The beginnings take up to three each, and what ends minutes away is moved once on its way.
        assert!((rounds..rounds + 12).contains(&woken), "{woken} wake-ups for {rounds} rounds");
    }

    #[tokio::test(start_paused = true)]
    async fn no_wait_is_longer_and_a_short_one_is_exact() {
        let epoch = Instant::now();
        let (before, after) = (epoch - 10 * WAIT, epoch + Duration::from_secs(5));
        for (now, seconds) in [(after, 1), (after, 8), (after, 9), (after, 30), (after, 300), (before, 30)] {
            let wait = Duration::from_secs(seconds);
            let waited = aligned(now, wait, epoch) - now;
            assert!(waited <= wait && waited + SLOT > wait, "{waited:?} for {wait:?}");
            assert!(waited == wait || wait > 2 * SLOT, "{waited:?} for {wait:?}");
        }
    }
}
