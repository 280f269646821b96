//! One task per app: deploys the newest revision, one deploy at a time.

mod deploy;
mod gate;
mod machine;
mod report;
mod turns;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::command::{CommandSpec, Runner};
use crate::config::{App, AppName};
use crate::outcome::{Outcome, Verdict};
use crate::router::Revision;
use crate::service::ServiceManager;

pub use gate::Gate;
pub use turns::Turns;

pub(crate) use machine::Taken;
use machine::{Attempt, Ending, Machine, Next, Policy};

/// What all workers share. A reload makes a new one.
#[derive(Clone)]
pub struct Context {
    /// Stops and starts the services.
    pub manager: Arc<dyn ServiceManager>,
    /// Runs the commands.
    pub runner: Runner,
    /// Hands out the turns to deploy.
    pub turns: Arc<Turns>,
    /// Holds deploys back while a queue of pushes is read.
    pub gate: Gate,
    /// The instance's environment.
    pub environment: Option<String>,
    /// This instance's share of the configured stagger.
    pub stagger: Duration,
    /// Where environment files are written.
    pub state_dir: PathBuf,
    /// Runs after each outcome.
    pub on_outcome: Option<CommandSpec>,
}

/// The configuration of one app, which a reload may replace between two deploys.
#[derive(Clone)]
struct Setup {
    app: Arc<App>,
    context: Arc<Context>,
}

impl Setup {
    fn policy(&self) -> Policy {
        Policy { retries: self.app.retries, stagger: self.context.stagger }
    }
}

/// The worker of one app.
pub(crate) struct Worker {
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

struct Shared {
    machine: Mutex<Machine>,
    setup: Mutex<Setup>,
    /// A push or another configuration came.
    changed: Notify,
    /// The app is no longer in the configuration: a running deploy ends in peace, nothing new begins.
    retired: CancellationToken,
    /// The agent is to end.
    shutdown: CancellationToken,
}

impl Worker {
    pub(crate) fn spawn(app: Arc<App>, context: Arc<Context>, shutdown: CancellationToken) -> Self {
        let shared = Arc::new(Shared {
            machine: Mutex::default(),
            setup: Mutex::new(Setup { app, context }),
            changed: Notify::new(),
            retired: CancellationToken::new(),
            shutdown,
        });
        let task = tokio::spawn(work(shared.clone()));
        Self { shared, task }
    }

    /// The app as it is configured now.
    pub(crate) fn app(&self) -> Arc<App> {
        self.shared.setup().app
    }

    /// Hands a push to the worker.
    pub(crate) fn push(&self, revision: Revision) -> Taken {
        let policy = self.shared.setup().policy();
        let taken = self.shared.machine().push(revision, Instant::now(), policy);
        self.shared.changed.notify_one();
        taken
    }

    /// Replaces the configuration; a deploy that is running goes on with the old one.
    pub(crate) fn configure(&self, app: Arc<App>, context: Arc<Context>) {
        *lock(&self.shared.setup) = Setup { app, context };
        self.shared.changed.notify_one();
    }

    /// Begins nothing new; a running deploy goes on to its end.
    pub(crate) fn retire(&self) {
        self.shared.retired.cancel();
        if let Some(revision) = self.shared.machine().drop_pending() {
            let app = self.app();
            info!(app = %app.name, sha = %revision.commit, "pending push dropped: the app is no longer configured so");
        }
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.task.is_finished()
    }

    /// Waits until the worker has ended, after a shutdown or [`Worker::retire`].
    pub(crate) async fn ended(self) {
        // It cannot panic without having said so, and is never aborted.
        let _ = self.task.await;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    fn machine(&self) -> MutexGuard<'_, Machine> {
        lock(&self.machine)
    }

    fn setup(&self) -> Setup {
        lock(&self.setup).clone()
    }

    async fn ending(&self) {
        tokio::select! {
            () = self.retired.cancelled() => {}
            () = self.shutdown.cancelled() => {}
        }
    }
}

async fn work(shared: Arc<Shared>) {
    loop {
        let next = shared.machine().next(Instant::now());
        let step = async {
            match next {
                Next::Rest => shared.changed.notified().await,
                Next::Wait(until) => tokio::select! {
                    () = sleep_until(until) => {}
                    () = shared.changed.notified() => {}
                },
                Next::Deploy => return Some(turn(&shared).await),
            }
            None
        };
        let turn = tokio::select! {
            biased;
            () = shared.ending() => return,
            turn = step => turn,
        };
        let Some((setup, turn)) = turn else { continue };
        // Pushes may have come while the turn was awaited: the newest counts.
        let attempt = shared.machine().begin(Instant::now());
        let Some(attempt) = attempt else { continue };
        let outcome = attempt_deploy(&shared, &setup, attempt).await;
        drop(turn);
        report::tell(&outcome, &setup.context, &shared.shutdown).await;
    }
}

async fn turn(shared: &Shared) -> (Setup, turns::Turn) {
    let setup = shared.setup();
    setup.context.gate.open().await;
    let turn = setup.context.turns.take(&setup.app).await;
    (setup, turn)
}

async fn attempt_deploy(shared: &Shared, setup: &Setup, attempt: Attempt) -> Outcome {
    report::began(&setup.app, &attempt);
    let outcome = deploy::deploy(&setup.app, &setup.context, attempt, &shared.shutdown).await;
    let retry = shared.machine().end(ending_of(&outcome), Instant::now(), setup.policy());
    report::ended(&outcome, retry);
    outcome
}

fn ending_of(outcome: &Outcome) -> Ending {
    match outcome.verdict {
        Verdict::Deployed => Ending::Succeeded,
        _ if outcome.touched => Ending::Failed,
        _ => Ending::FailedUntouched,
    }
}

/// This instance's share of the stagger, from 0 to all of it: the same at each start, other for each instance.
pub fn share_of(stagger: Duration, instance: &str) -> Duration {
    let digest = ring::digest::digest(&ring::digest::SHA256, instance.as_bytes());
    let fraction = digest.as_ref().iter().take(4).fold(0_u32, |sum, byte| (sum << 8) | u32::from(*byte));
    stagger.mul_f64(f64::from(fraction) / f64::from(u32::MAX))
}

/// Workers by the names of their apps.
pub(crate) type Workers = std::collections::BTreeMap<AppName, Worker>;

#[cfg(test)]
mod tests;
