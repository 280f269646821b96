//! From the inbox into the record; and, where nothing stands in the way, with the same write into a deploy.

use std::sync::Arc;
use std::time::SystemTime;

use tokio::time::Instant;

use crate::journal::{Admission, Record};

use super::ledger::NotRecorded;
use super::machine::Next;
use super::rest::Claim;
use super::turns::Turn;
use super::{Attempt, Offer, Setup, Shared, report};

/// Records what is in the inbox, all that there is in one go, until there is no more.
pub(super) async fn take_in(shared: Arc<Shared>) {
    shared.ready.cancelled().await;
    while let Some(offers) = shared.inbox.take() {
        let setup = shared.setup();
        let recorded = match record_and_begin(&shared, &setup, &offers).await {
            Ok(recorded) => Ok(recorded),
            // Whoever waits for a disk that refuses holds no turn meanwhile.
            Err(NotRecorded) => record(&shared, &setup, &offers).await.map(|admissions| (admissions, None)),
        };
        let Ok((admissions, begun)) = recorded else {
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
            report::admitted(&setup.app, &offer.revision, admission, &setup.context.refusals);
        }
        // Before the acknowledgement, which can wait for as long as it takes to begin.
        if let Some((claim, attempt)) = begun {
            report::began(&setup.app, &attempt.progress);
            claim.begun(attempt);
        }
        shared.changed.notify_one();
        for offer in offers {
            offer.receipt.recorded();
        }
    }
}

/// The right to deploy what comes this moment: the worker rests, nothing is to be waited for, and it is the app's turn.
fn chance<'s>(shared: &'s Shared, setup: &Setup) -> Option<(Claim<'s>, Turn)> {
    let Setup { app, context } = setup;
    let at_once = context.stagger.is_zero() && context.gate.is_open();
    if !at_once || shared.is_ending() || shared.ledger.machine().next(Instant::now()) != Next::Rest {
        return None;
    }
    Some((shared.rest.claim()?, context.turns.try_take(app)?))
}

/// With one write, the pushes and the attempt to deploy what they want.
async fn record_and_begin<'s>(
    shared: &'s Shared,
    setup: &Setup,
    offers: &[Offer],
) -> Result<(Vec<Admission>, Option<(Claim<'s>, Attempt)>), NotRecorded> {
    let (claim, turn) = chance(shared, setup).ok_or(NotRecorded)?;
    let change = |record: &mut Record| {
        let admissions = admit(record, offers);
        let begins = setup.is_same(&shared.setup()) && record.fits(&setup.app);
        let progress = begins.then(|| setup.begin(record)).flatten();
        (admissions, progress)
    };
    let stagger = setup.context.stagger;
    let recorded = shared.ledger.change_at_once(change, |machine, record, (admissions, progress)| {
        if progress.is_some() {
            return (admissions, machine.began(record, progress));
        }
        machine.pushed(record, stagger, Instant::now());
        (admissions, None)
    });
    let (admissions, progress) = recorded.await?;
    let attempt = progress.map(|progress| (claim, Attempt { setup: setup.clone(), progress, turn }));
    Ok((admissions, attempt))
}

async fn record(shared: &Shared, setup: &Setup, offers: &[Offer]) -> Result<Vec<Admission>, NotRecorded> {
    let stagger = setup.context.stagger;
    let recorded = shared.ledger.change(
        |record| admit(record, offers),
        |machine, record, admissions| {
            machine.pushed(record, stagger, Instant::now());
            admissions
        },
    );
    recorded.await
}

fn admit(record: &mut Record, offers: &[Offer]) -> Vec<Admission> {
    let now = SystemTime::now();
    offers.iter().map(|offer| record.admit(&offer.revision, offer.retained, now)).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;
    use std::time::Duration;

    use tokio::task::yield_now;
    use tokio::time::{sleep, timeout};

    use crate::config::App;
    use crate::mqtt::Ack;
    use crate::refs::{Branches, RefRules};

    use super::super::ledger::RETRY;
    use super::super::tests::{Bench, Fake, app, push, revision, shell};
    use super::super::{Departure, Gate, Receipt};
    use super::*;

    fn setup(bench: &Bench, app: App) -> Setup {
        Setup { app: Arc::new(app), context: Arc::new(bench.context.clone()) }
    }

    /// A worker's share in a push that has come to it while it rests.
    fn at_rest(bench: &Bench, app: App) -> Arc<Shared> {
        let record = Record::new(&app);
        let shared = Arc::new(Shared::new(setup(bench, app), record, bench.shutdown.clone()));
        shared.ready.cancel();
        shared.rest.begin();
        let receipt = Receipt::new(Ack::none(), 1);
        shared.inbox.put(Offer { revision: revision('a'), retained: false, receipt });
        shared
    }

    /// What is on disk of the push once it is acknowledged, and the worker's share in it.
    async fn taken_in(bench: &Bench, app: App) -> (Record, Arc<Shared>) {
        let shared = at_rest(bench, app);
        take_in(shared.clone()).await;
        (on_disk(bench).unwrap(), shared)
    }

    fn on_disk(bench: &Bench) -> Option<Record> {
        bench.context.store.read_all().unwrap().0.pop()
    }

    async fn until_pending(bench: &Bench, digit: char) {
        until(|| on_disk(bench).is_some_and(|record| record.pending() == Some(&revision(digit)))).await;
    }

    async fn until(what: impl Fn() -> bool) {
        let looking = async {
            while !what() {
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(Duration::from_secs(30), looking).await.expect("it never comes about");
    }

    async fn until_called(bench: &Bench, expected: &str) {
        until(|| bench.fake.calls().iter().any(|call| call == expected)).await;
    }

    fn quick(services: &[&str]) -> App {
        App { settle: Duration::ZERO, ..app(services) }
    }

    #[tokio::test]
    async fn at_rest_the_attempt_is_on_record_with_its_push() {
        let bench = Bench::new(Fake::default());
        let (record, shared) = taken_in(&bench, app(&["api"])).await;
        assert_eq!(record.pending(), Some(&revision('a')));
        let attempt = shared.rest.end().await.unwrap();
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
        let refs = RefRules { branches: Branches::Listed(Vec::new()), tags: Vec::new() };
        let unwanted = App { refs, ..app(&["api"]) };
        for (bench, app) in [
            (in_turn, app(&["api"])),
            (staggered, app(&["api"])),
            (in_queue, app(&["api"])),
            (ending, app(&["api"])),
            (Bench::new(Fake::default()), unwanted),
        ] {
            let (record, shared) = taken_in(&bench, app).await;
            assert_eq!((record.pending(), &record.attempt), (Some(&revision('a')), &None));
            assert_ne!(shared.ledger.machine().next(Instant::now()), Next::Rest, "it is due");
            assert!(shared.rest.claim().is_some(), "whoever comes next may begin it");
        }
    }

    #[tokio::test]
    async fn nothing_begins_as_it_is_no_longer_configured() {
        let bench = Bench::new(Fake::default());
        let shared = at_rest(&bench, quick(&["api"]));
        let busy = shared.ledger.busy().await;
        let reload = async {
            // Its services and its ref are the same, so that the record fits.
            *super::super::lock(&shared.setup) = setup(&bench, App { retries: 7, ..quick(&["api"]) });
            drop(busy);
        };
        tokio::join!(biased; take_in(shared.clone()), reload);
        assert_eq!(on_disk(&bench).unwrap().attempt, None);
        assert_eq!(shared.ledger.machine().next(Instant::now()), Next::Deploy);
    }

    /// An app whose outcomes are told by a command, which waits for the second file once it has made the first.
    fn told_slowly(bench: &mut Bench) -> [PathBuf; 2] {
        let files = ["told", "go"].map(|name| bench.context.state_dir.join(name));
        let line = format!(
            "touch {}; while ! test -e {}; do sleep 0.02; done",
            files[0].display(),
            files[1].display()
        );
        bench.context.on_outcome = Some(shell(&line));
        files
    }

    #[tokio::test]
    async fn nothing_begins_while_an_outcome_is_told() {
        let mut bench = Bench::new(Fake::default());
        let [told, go] = told_slowly(&mut bench);
        let mut worker = bench.worker(quick(&["api"]));
        push(&worker, 'a');
        until(|| told.exists()).await;
        for digit in ['b', 'c'] {
            push(&worker, digit);
            until_pending(&bench, digit).await;
            assert_eq!(on_disk(&bench).unwrap().attempt, None);
        }
        fs::write(go, "").unwrap();
        until_called(&bench, "start api c").await;
        assert_eq!(bench.fake.calls(), ["stop api", "start api a", "stop api", "start api c"]);
        bench.shutdown.cancel();
        worker.ended().await;
    }

    /// Reloads at each moment of the way of a push into its record.
    #[tokio::test]
    async fn who_replaces_an_app_that_has_just_begun_gets_its_turn() {
        for moment in 0..40 {
            let bench = Bench::new(Fake::default());
            let last = bench.worker(quick(&["api"]));
            yield_now().await;
            push(&last, 'a');
            for _ in 0..moment {
                yield_now().await;
            }
            let mut next = bench.replace(last);
            push(&next, 'c');
            until_called(&bench, "start api c").await;
            bench.shutdown.cancel();
            next.ended().await;
        }
    }

    #[tokio::test]
    async fn what_a_disk_has_refused_is_deployed_as_it_is_configured_then() {
        let bench = Bench::new(Fake::default());
        let mut worker = bench.worker(quick(&["old"]));
        yield_now().await;
        let refusal = refusal(&bench);
        push(&worker, 'a');
        until(|| worker.is_stuck()).await;
        assert!(bench.context.turns.try_take(&app(&["old"])).is_some(), "others may deploy meanwhile");
        worker.configure(Arc::new(quick(&["new"])), Arc::new(bench.context.clone()));
        fs::remove_dir(&refusal).unwrap();
        until_called(&bench, "start new a").await;
        assert_eq!(bench.fake.calls(), ["stop new", "start new a"]);
        bench.shutdown.cancel();
        worker.ended().await;
    }

    /// Has the disk refuse what is written from now on, until the directory is removed.
    fn refusal(bench: &Bench) -> PathBuf {
        let refusal = bench.context.state_dir.join("apps/api.json.new");
        fs::create_dir(&refusal).unwrap();
        refusal
    }

    #[tokio::test(start_paused = true)]
    async fn a_turn_is_not_kept_for_a_disk_that_refuses() {
        let bench = Bench::new(Fake::default());
        let turn = bench.context.turns.try_take(&app(&["old"])).unwrap();
        let mut worker = bench.worker(quick(&["old"]));
        push(&worker, 'a');
        until_pending(&bench, 'a').await;
        let refusal = refusal(&bench);
        push(&worker, 'b');
        until(|| worker.is_stuck()).await;
        drop(turn);
        let given = Instant::now();
        for _ in 0..10 {
            yield_now().await;
        }
        // The worker has had it.
        until(|| bench.context.turns.try_take(&app(&["old"])).is_some()).await;
        assert!(given.elapsed() < RETRY, "it is kept until the next try");
        worker.configure(Arc::new(quick(&["new"])), Arc::new(bench.context.clone()));
        fs::remove_dir(refusal).unwrap();
        until_called(&bench, "start new b").await;
        assert_eq!(bench.fake.calls(), ["stop new", "start new b"]);
        bench.shutdown.cancel();
        worker.ended().await;
    }

    #[tokio::test]
    async fn a_failure_is_told_even_while_the_disk_refuses() {
        let mut bench = Bench::new(Fake::default());
        let told = bench.context.state_dir.join("told");
        bench.context.on_outcome =
            Some(shell(&format!("echo $INSTANCE_AGENT_OUTCOME >> {}", told.display())));
        let refusal = bench.context.state_dir.join("apps/api.json.new");
        // As if it had filled the disk, though another write may just have that file.
        let update = shell(&format!("until mkdir {} 2>&-; do :; done; exit 28", refusal.display()));
        let mut worker = bench.worker(App { update: Some(update.into()), ..quick(&["api"]) });
        push(&worker, 'a');
        until(|| told.exists()).await;
        assert!(on_disk(&bench).unwrap().attempt.is_some(), "its end is recorded already");
        fs::remove_dir(refusal).unwrap();
        until(|| on_disk(&bench).unwrap().attempt.is_none()).await;
        bench.shutdown.cancel();
        worker.ended().await;
        assert_eq!(fs::read_to_string(told).unwrap(), "failed\n", "told once");
    }

    #[tokio::test]
    async fn who_is_removed_while_the_disk_refuses_does_not_wait_for_it() {
        let bench = Bench::new(Fake::default());
        let mut worker = bench.worker(quick(&["old"]));
        yield_now().await;
        let _refusal = refusal(&bench);
        worker.configure(Arc::new(quick(&["new"])), Arc::new(bench.context.clone()));
        until(|| worker.is_stuck()).await;
        push(&worker, 'a');
        yield_now().await;
        worker.retire(Departure::Removed);
        timeout(Duration::from_secs(30), worker.ended()).await.expect("it waits for the disk");
    }
}
