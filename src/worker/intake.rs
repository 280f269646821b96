//! From the inbox into the record; and, where nothing stands in the way, with the same write into a deploy.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::journal::Record;

use super::machine::Next;
use super::turns::Turn;
use super::{Attempt, Offer, Setup, Shared, report};

/// Records what is in the inbox, all that there is in one go, until there is no more.
pub(super) async fn take_in(shared: Arc<Shared>) {
    shared.ready.cancelled().await;
    while let Some(offers) = shared.inbox.take() {
        let setup = shared.setup();
        let (app, context) = (&setup.app, &setup.context);
        let now = SystemTime::now();
        let turn = turn_at_once(&shared, &setup);
        let admit = |record: &mut Record| {
            let admit = |offer: &Offer| record.admit(&offer.revision, offer.retained, now);
            let admissions: Vec<_> = offers.iter().map(admit).collect();
            let begins = turn.is_some() && record.fits(app);
            (admissions, begins.then(|| setup.begin(record)).flatten())
        };
        let recorded = shared
            .ledger
            .change_unless(&shared.retired, admit, |machine, record, (admissions, progress)| {
                if progress.is_some() {
                    return (admissions, machine.began(record, progress));
                }
                machine.pushed(record, context.stagger, Instant::now());
                (admissions, None)
            })
            .await;
        let Ok((admissions, progress)) = recorded else {
            // The agent ends, and the broker sends them again to the next one. Or the app was removed: nobody wants them.
            if !shared.retired.is_cancelled() {
                return;
            }
            for offer in offers {
                offer.receipt.recorded();
            }
            continue;
        };
        for (offer, admission) in offers.iter().zip(admissions) {
            report::admitted(app, &offer.revision, admission, &context.refusals);
        }
        // Before the acknowledgement, which can wait for as long as it takes to begin.
        if let (Some(turn), Some(progress)) = (turn, progress) {
            report::began(app, &progress);
            shared.begun.hand_over(Attempt { setup, progress, _turn: turn });
        } else {
            shared.changed.notify_one();
        }
        for offer in offers {
            offer.receipt.recorded();
        }
    }
}

/// The app's turn, if it is at rest and may deploy this moment. Who holds it is the only one to begin anything.
fn turn_at_once(shared: &Shared, setup: &Setup) -> Option<Turn> {
    let Setup { app, context } = setup;
    let at_rest = shared.ledger.machine().next(Instant::now()) == Next::Rest;
    let ending = shared.retired.is_cancelled() || shared.shutdown.is_cancelled();
    let at_once = at_rest && !ending && context.stagger.is_zero() && context.gate.is_open();
    at_once.then(|| context.turns.try_take(app)).flatten()
}

/// An attempt on its way to the worker, whose it is to carry out.
#[derive(Default)]
pub(super) struct Begun {
    attempt: Mutex<Option<Attempt>>,
    handed_over: Notify,
}

impl Begun {
    /// There is never a second one: it would need the turn that the first holds.
    fn hand_over(&self, attempt: Attempt) {
        *self.attempt.lock().unwrap_or_else(PoisonError::into_inner) = Some(attempt);
        self.handed_over.notify_one();
    }

    pub(super) async fn wait(&self) -> Attempt {
        loop {
            let attempt = self.attempt.lock().unwrap_or_else(PoisonError::into_inner).take();
            match attempt {
                Some(attempt) => return attempt,
                None => self.handed_over.notified().await,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crate::journal::Record;
    use crate::mqtt::Ack;

    use super::super::tests::{Bench, Fake, app, revision};
    use super::super::{Gate, Receipt};
    use super::*;

    /// What is on disk of a push once it is acknowledged, and the worker's share in it.
    async fn taken_in(bench: &Bench) -> (Record, Arc<Shared>) {
        let app = Arc::new(app(&["api"]));
        let setup = Setup { app: app.clone(), context: Arc::new(bench.context.clone()) };
        let shared = Arc::new(Shared::new(setup, Record::new(&app), bench.shutdown.clone()));
        shared.ready.cancel();
        let receipt = Receipt::new(Ack::none(), 1);
        shared.inbox.put(Offer { revision: revision('a'), retained: false, receipt });
        take_in(shared.clone()).await;
        let (mut records, _) = bench.context.store.read_all().unwrap();
        (records.remove(0), shared)
    }

    #[tokio::test]
    async fn at_rest_the_attempt_is_on_record_with_its_push() {
        let bench = Bench::new(Fake::default());
        let (record, shared) = taken_in(&bench).await;
        assert_eq!(record.pending(), Some(&revision('a')));
        let attempt = shared.begun.wait().await;
        assert_eq!(record.attempt.map(|attempt| attempt.mark), Some(attempt.progress.mark));
        assert_eq!(shared.ledger.machine().next(Instant::now()), Next::Rest, "it deploys");
        assert!(bench.context.turns.try_take(&attempt.setup.app).is_none(), "it is its turn");
    }

    #[tokio::test]
    async fn what_must_wait_is_recorded_all_the_same() {
        let in_turn = Bench::new(Fake::default());
        let _turn = in_turn.context.turns.try_take(&app(&["api"]));
        let mut staggered = Bench::new(Fake::default());
        staggered.context.stagger = Duration::from_secs(60);
        let mut in_queue = Bench::new(Fake::default());
        in_queue.context.gate = Gate::new();
        let ending = Bench::new(Fake::default());
        ending.shutdown.cancel();
        for bench in [in_turn, staggered, in_queue, ending] {
            let (record, shared) = taken_in(&bench).await;
            assert_eq!((record.pending(), &record.attempt), (Some(&revision('a')), &None));
            assert_ne!(shared.ledger.machine().next(Instant::now()), Next::Rest, "it is due");
        }
    }
}
