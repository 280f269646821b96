//! An attempt to deploy what is pending, from the app's turn to the record of how it ended.

use tokio::time::{Instant, sleep};

use crate::journal::{Ended, Entry, InProgress, Record};
use crate::outcome::{Outcome, Verdict};

use super::ledger::{NotRecorded, RETRY, Tries};
use super::machine::Machine;
use super::report::Prospect;
use super::turns::Turn;
use super::{Setup, Shared, deploy, fit, report, report_unwanted};

/// An attempt that is recorded, and may begin.
pub(super) struct Attempt {
    pub(super) setup: Setup,
    pub(super) progress: InProgress,
    pub(super) turn: Turn,
}

/// Waits for the app's turn, and records that what is pending is deployed now. Pushes may have come meanwhile: the
/// newest counts.
pub(super) async fn begin(shared: &Shared) -> Option<Attempt> {
    let (setup, turn) = tokio::select! {
        biased;
        () = shared.ending() => return None,
        turn = turn(shared) => turn,
    };
    let change = |record: &mut Record| {
        let in_force = setup.is_same(&shared.setup());
        in_force.then(|| (record.fit(&setup.app), setup.begin(record)))
    };
    let begun = shared.ledger.change_at_once(change, |machine, record, begun| {
        let Some((dropped, progress)) = begun else {
            machine.noted(record, ());
            return (None, None);
        };
        (dropped, machine.began(record, progress))
    });
    let Ok((dropped, progress)) = begun.await else {
        // The turn is others' meanwhile, and the configuration may be another one then.
        drop(turn);
        tokio::select! {
            () = sleep(RETRY) => {}
            () = shared.ending() => {}
        }
        return None;
    };
    if let Some(dropped) = dropped {
        report_unwanted(dropped, &setup, shared);
    }
    let progress = progress?;
    report::began(&setup.app, &progress);
    Some(Attempt { setup, progress, turn })
}

/// Waits for the app's turn, and gives it with the configuration that is in force then.
async fn turn(shared: &Shared) -> (Setup, Turn) {
    loop {
        let setup = shared.setup();
        if !shared.ledger.machine().resumes() {
            setup.context.gate.open().await;
        }
        tokio::select! {
            turn = setup.context.turns.take(&setup.app) => if setup.is_same(&shared.setup()) {
                return (setup, turn);
            },
            () = shared.configured.notified() => {}
        }
        // A reload came meanwhile: the services, and so the locks, may be others, and there may be more turns.
    }
}

/// What is left to do once an attempt has ended.
pub(super) struct Aftermath {
    pub(super) to_tell: Vec<Outcome>,
    /// The agent ends, or the host goes down, which may not have asked it to yet.
    pub(super) is_interrupted: bool,
}

/// Deploys, and records how it ended.
pub(super) async fn carry_out(shared: &Shared, attempt: Attempt) -> Aftermath {
    let Attempt { setup, progress, turn } = attempt;
    let outcome = deploy::deploy(&setup, &shared.ledger, progress, &shared.shutdown).await;
    // Not held until the disk has taken the end.
    drop(turn);
    let is_interrupted = outcome.verdict == Verdict::Interrupted;
    if outcome.leaves_services_down() {
        // Not recorded as ended: the next agent finds it in progress, and brings its services up first.
        report::ended(&outcome, Prospect::Nothing);
        return Aftermath { to_tell: vec![outcome], is_interrupted };
    }
    let recorded = end(shared, &outcome, &setup, Tries::One).await;
    let is_recorded = recorded.is_ok();
    let given_up = if let Ok((given_up, prospect)) = recorded {
        report::ended(&outcome, prospect);
        given_up
    } else {
        // Whoever sees to the disk must know meanwhile what has failed, which may be why it is full.
        report::ended(&outcome, Prospect::Unrecorded);
        report::tell(&outcome, &setup.context, &shared.shutdown).await;
        // Not recorded: the next agent finds an attempt that was interrupted, and makes it again.
        end(shared, &outcome, &setup, Tries::Endless).await.map_or(None, |(given_up, _)| given_up)
    };
    if let Some(given_up) = &given_up {
        report::given_up(&given_up.app, &given_up.revision);
    }
    // A reload that came meanwhile has waited for the end.
    fit(shared).await;
    let to_tell = is_recorded.then_some(outcome).into_iter().chain(given_up).collect();
    Aftermath { to_tell, is_interrupted }
}

/// Records how an attempt ended. Gives what else is to be told, and what comes next.
async fn end(
    shared: &Shared,
    outcome: &Outcome,
    setup: &Setup,
    tries: Tries,
) -> Result<(Option<Outcome>, Prospect), NotRecorded> {
    let retries = setup.app.retries;
    let change = |record: &mut Record| record.end(Entry::from(outcome), retries);
    let take_over = |machine: &mut Machine, record: Record, ended: Ended| {
        let pause = machine.ended(record, ended.retry, Instant::now());
        (ended.given_up, pause.map_or(Prospect::Nothing, Prospect::Retry))
    };
    match tries {
        Tries::One => shared.ledger.change_at_once(change, take_over).await,
        Tries::Endless => shared.ledger.change(change, take_over).await,
    }
}
