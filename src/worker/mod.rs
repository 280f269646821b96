//! One task per app: deploys the newest revision, one deploy at a time.

mod attempt;
mod departure;
mod deploy;
mod ending;
mod gate;
mod inbox;
mod intake;
mod ledger;
mod machine;
mod overdue;
mod report;
mod rest;
mod turns;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, SystemTime};

use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::command::{CommandSpec, Runner};
use crate::config::App;
use crate::journal::{InProgress, Record, Rescue, Store};
use crate::outcome::{Outcome, Verdict};
use crate::refusals::Refusals;
use crate::router::Revision;
use crate::service::{ManagerChoice, ServiceManager};

pub use gate::Gate;
pub use report::Notices;
pub use turns::Turns;

use attempt::{Attempt, begin, carry_out};
pub(crate) use departure::Departure;
use inbox::Inbox;
pub(crate) use inbox::Receipt;
use ledger::Ledger;
use machine::{Machine, Next};
pub(crate) use report::set_aside as report_set_aside;
use rest::Rest;

/// What all workers share. A reload makes a new one.
#[derive(Clone)]
pub struct Context {
    /// Stops and starts the services.
    pub manager: Arc<dyn ServiceManager>,
    /// As which the configuration names that.
    pub service_manager: ManagerChoice,
    /// Runs the commands.
    pub runner: Runner,
    /// Hands out the turns to deploy.
    pub turns: Arc<Turns>,
    /// Holds deploys back while a queue of pushes is read.
    pub gate: Gate,
    /// Counts the pushes that are not taken.
    pub refusals: Arc<Refusals>,
    /// The instance's environment.
    pub environment: Option<String>,
    /// This instance's share of the configured stagger.
    pub stagger: Duration,
    /// Where environment files are written.
    pub state_dir: PathBuf,
    /// Where records are written.
    pub store: Store,
    /// Runs after each outcome.
    pub on_outcome: Option<CommandSpec>,
    /// Runs of it that nobody waits for before the agent ends.
    pub notices: Arc<Notices>,
}

/// The configuration of one app, which a reload may replace between two deploys.
#[derive(Clone)]
struct Setup {
    app: Arc<App>,
    context: Arc<Context>,
}

impl Setup {
    /// Counts an attempt to deploy what is pending, with what the next agent must know should this one be killed.
    fn begin(&self, record: &mut Record) -> Option<InProgress> {
        let rescue = Rescue {
            service_manager: self.context.service_manager.clone(),
            environment: self.context.environment.clone(),
            start_timeout: self.app.start_timeout,
        };
        record.begin(self.app.prepare.is_none(), rescue, SystemTime::now())
    }

    fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.app, &other.app) && Arc::ptr_eq(&self.context, &other.context)
    }
}

/// A push for one app, on its way into the app's record.
pub(crate) struct Offer {
    pub(crate) revision: Revision,
    pub(crate) retained: bool,
    /// Used when the record is on disk.
    pub(crate) receipt: Receipt,
}

/// The worker of one app.
pub(crate) struct Worker {
    shared: Arc<Shared>,
    /// Those of the same name that it waits for: one of them may still be deploying. Their tasks keep them.
    former: Vec<Weak<Shared>>,
    task: JoinHandle<()>,
}

struct Shared {
    ledger: Arc<Ledger>,
    setup: Mutex<Setup>,
    inbox: Inbox,
    /// A push was recorded, or another configuration came.
    changed: Notify,
    /// Another configuration came.
    configured: Notify,
    /// Of the worker, while it waits for a push.
    rest: Rest,
    /// The record is this worker's alone.
    ready: CancellationToken,
    /// The app is no longer in the configuration: a running deploy ends in peace, nothing new begins.
    retired: CancellationToken,
    /// Why, once it is retired.
    departure: OnceLock<Departure>,
    /// The agent is to end.
    shutdown: CancellationToken,
}

impl Worker {
    /// Goes on where `record` says that an earlier agent stopped; once `former`, a worker of the same name that was
    /// retired, has ended.
    pub(crate) fn spawn(
        app: Arc<App>,
        record: Record,
        context: Arc<Context>,
        shutdown: CancellationToken,
        former: Option<Self>,
    ) -> Self {
        let shared = Arc::new(Shared::new(Setup { app, context }, record, shutdown));
        let line = former.as_ref().map_or_else(Vec::new, Self::line);
        let line = line.iter().map(Arc::downgrade).collect();
        let task = tokio::spawn({
            let shared = shared.clone();
            async move {
                if let Some(mut former) = former {
                    former.ended().await;
                    if former.leaves_its_record() {
                        return;
                    }
                }
                shared.ready.cancel();
                work(&shared).await;
                if let Some(departure) = shared.departure.get().filter(|_| !shared.is_deploying()) {
                    Box::pin(set_aside(&shared, *departure)).await;
                }
            }
        });
        Self { shared, former: line, task }
    }

    /// The app as it is configured now.
    pub(crate) fn app(&self) -> Arc<App> {
        self.shared.setup().app
    }

    /// Its record waits for a disk that takes no writes.
    pub(crate) fn is_stuck(&self) -> bool {
        self.shared.ledger.is_stuck()
    }

    /// Hands a push to the worker, which records it.
    pub(crate) fn offer(&self, offer: Offer) {
        if self.shared.inbox.put(offer) {
            tokio::spawn(intake::take_in(self.shared.clone()));
        }
    }

    /// Replaces the configuration; a deploy that is running goes on with the old one.
    pub(crate) fn configure(&self, app: Arc<App>, context: Arc<Context>) {
        let shared = self.shared.clone();
        *lock(&shared.setup) = Setup { app, context };
        shared.configured.notify_one();
        tokio::spawn(async move {
            shared.ready.cancelled().await;
            fit(&shared).await;
            shared.changed.notify_one();
        });
    }

    /// Begins nothing new; a running deploy goes on to its end, and then the record is set aside.
    pub(crate) fn retire(&self, departure: Departure) {
        // Only once: a worker that was retired gets no other app.
        let _ = self.shared.departure.set(departure);
        self.shared.retired.cancel();
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.task.is_finished()
    }

    /// Waits until the worker has ended, after a shutdown or [`Worker::retire`]; once only.
    pub(crate) async fn ended(&mut self) {
        // It cannot panic without having said so, and is never aborted.
        let _ = (&mut self.task).await;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    fn new(setup: Setup, record: Record, shutdown: CancellationToken) -> Self {
        Self {
            ledger: Arc::new(Ledger::new(setup.context.store.clone(), record, &shutdown)),
            setup: Mutex::new(setup),
            inbox: Inbox::default(),
            changed: Notify::new(),
            configured: Notify::new(),
            rest: Rest::default(),
            ready: CancellationToken::new(),
            retired: CancellationToken::new(),
            departure: OnceLock::new(),
            shutdown,
        }
    }

    fn setup(&self) -> Setup {
        lock(&self.setup).clone()
    }

    fn is_ending(&self) -> bool {
        self.retired.is_cancelled() || self.shutdown.is_cancelled()
    }

    async fn ending(&self) {
        tokio::select! {
            () = self.retired.cancelled() => {}
            () = self.shutdown.cancelled() => {}
        }
    }
}

/// Says that what is pending in this record will not be deployed, and what was left down not be started.
pub(crate) fn abandon(
    record: &Record,
    departure: Departure,
    context: &Arc<Context>,
    shutdown: &CancellationToken,
) {
    let why = departure.reason();
    if let Some(attempt) = &record.left_down {
        report::left_down(&record.app, &attempt.services, why);
    }
    if let Some(pending) = record.pending() {
        report::dropped(pending, &record.app, why);
        let outcome = Outcome::given_up(Verdict::Dropped, record, pending.clone(), why.to_owned());
        tell(outcome, context.clone(), shutdown);
    }
}

/// What an app leaves behind that is gone.
async fn set_aside(shared: &Shared, departure: Departure) {
    let Setup { app, context } = shared.setup();
    let aside = shared.ledger.set_aside(departure).await;
    // As it is now that nothing is recorded any more.
    let record = shared.ledger.machine().record().clone();
    abandon(&record, departure, &context, &shared.shutdown);
    report::set_aside(&app.name, &aside);
}

/// What it does now and then is boxed: at rest, which is nearly always, a worker then takes a tenth of the memory.
async fn work(shared: &Shared) {
    Box::pin(fit(shared)).await;
    while !shared.is_ending() {
        let next = shared.ledger.machine().next(Instant::now());
        let attempt = match next {
            Next::Rest => rest(shared).await,
            Next::Wait(until) => {
                tokio::select! {
                    () = sleep_until(until) => {}
                    () = shared.changed.notified() => {}
                    () = shared.ending() => {}
                }
                None
            }
            Next::Deploy => Box::pin(begin(shared)).await,
        };
        let Some(attempt) = attempt else { continue };
        let context = attempt.setup.context.clone();
        let aftermath = Box::pin(carry_out(shared, attempt)).await;
        for outcome in aftermath.to_tell {
            Box::pin(report::tell(&outcome, &context, &shared.shutdown)).await;
        }
        if aftermath.is_interrupted {
            // The host may go down before it asks the agent to end: what is begun then only fails.
            shared.shutdown.cancelled().await;
        }
    }
}

/// Waits for something to do, which may have been begun already.
async fn rest(shared: &Shared) -> Option<Attempt> {
    shared.rest.begin();
    tokio::select! {
        () = shared.changed.notified() => {}
        () = shared.ending() => {}
    }
    shared.rest.end().await
}

/// Has the record follow the app's configuration, which may no longer want what is pending.
async fn fit(shared: &Shared) {
    let setup = shared.setup();
    let stagger = setup.context.stagger;
    let take_over =
        |machine: &mut Machine, record, dropped| Machine::fitted(machine, record, dropped, stagger);
    let fitted = shared.ledger.change(|record| record.fit(&setup.app), take_over).await;
    if let Ok(Some(dropped)) = fitted {
        report_unwanted(dropped, &setup, shared);
    }
}

fn report_unwanted(dropped: Outcome, setup: &Setup, shared: &Shared) {
    report::dropped(&dropped.revision, &setup.app.name, "the configuration no longer has its ref");
    tell(dropped, setup.context.clone(), &shared.shutdown);
}

/// Has `on_outcome` told beside other work.
pub(crate) fn tell(outcome: Outcome, context: Arc<Context>, shutdown: &CancellationToken) {
    let (shutdown, notices) = (shutdown.clone(), context.notices.clone());
    notices.spawn(async move { report::tell(&outcome, &context, &shutdown).await });
}

/// This instance's share of the stagger, from 0 to all of it: the same at each start, other for each instance.
pub fn share_of(stagger: Duration, instance: &str) -> Duration {
    let digest = ring::digest::digest(&ring::digest::SHA256, instance.as_bytes());
    let fraction = digest.as_ref().iter().take(4).fold(0_u32, |sum, byte| (sum << 8) | u32::from(*byte));
    stagger.mul_f64(f64::from(fraction) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests;
