//! Wires the parts together: connection → router → workers; reload; shutdown. Only this file knows them all.

mod connection;

use std::collections::HashMap;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::mpsc;
use tokio::time::{Interval, MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, trace, warn};

use crate::command::Runner;
use crate::config::{App, AppName, Settings};
use crate::github::RepoName;
use crate::journal::{Record, Rescue, RescueFile, Store};
use crate::mqtt::{Ack, ConnectionState, Message};
use crate::push::Headers;
use crate::recovery::{self, Recovered};
use crate::refs::RefMismatch;
use crate::refusals::{Noted, Refusals};
use crate::router::{Rejected, Revision, Routed, Router, Verdict};
use crate::service::{ServiceManager, Status};
use crate::state_dir::{StateDir, StateDirError};
use crate::supervisor::Supervisor;
use crate::worker::{self, Context, Gate, Offer, REMOVED, Receipt, Turns, Worker, Workers};

use connection::{Connection, Heard, interest_of};

/// What the agent uses of the world around it.
pub struct Dependencies {
    /// Stops and starts services.
    pub manager: Arc<dyn ServiceManager>,
    /// Runs commands.
    pub runner: Runner,
    /// Is told how the agent is doing.
    pub supervisor: Supervisor,
}

/// A new configuration, valid, with the service manager that it asks for.
pub struct Reload {
    /// The settings.
    pub settings: Settings,
    /// Stops and starts services from now on.
    pub manager: Arc<dyn ServiceManager>,
}

/// The agent cannot run.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The state directory cannot be used.
    #[error(transparent)]
    StateDir(#[from] StateDirError),
    /// The journal cannot be read.
    #[error(transparent)]
    Journal(#[from] recovery::RecoveryError),
    /// The task that keeps the connection is gone.
    #[error("the connection's task has ended by itself: this is a fault of the program, please report it")]
    Connection,
}

/// Why what is pending is dropped when its app has another repository.
const REPLACED: &str = "its app has another repository now";

/// What systemd is asked for again and again while services are brought up; each step of that is bounded.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs the agent until `shutdown` is cancelled and what was running has ended.
pub async fn run(
    settings: Settings,
    dependencies: Dependencies,
    mut reloads: mpsc::Receiver<Reload>,
    shutdown: CancellationToken,
) -> Result<(), AgentError> {
    let state_dir = StateDir::open(&settings.state_dir)?;
    let mut heartbeat = Heartbeat::of(&dependencies.supervisor);
    let Dependencies { manager, runner, .. } = &dependencies;
    let recovery = recovery::recover(state_dir.store(), manager, runner, settings.environment.as_deref());
    let Some(recovered) = attended(recovery, &dependencies.supervisor, &mut heartbeat, &shutdown).await
    else {
        return Ok(());
    };
    let mut agent = Agent::start(settings, dependencies, recovered?, shutdown.clone());
    agent.supervisor.ready();
    let result = loop {
        tokio::select! {
            biased;
            () = shutdown.cancelled() => break Ok(()),
            Some(reload) = reloads.recv() => agent.reload(reload).await,
            () = heartbeat.beat() => agent.alive(),
            heard = agent.connection.next() => match heard {
                Heard::End => break Err(AgentError::Connection),
                Heard::State => agent.connection_changed(),
                Heard::HeldFilters => agent.connection.remember(),
                Heard::Message(message) => agent.handle(message),
            },
        }
    };
    shutdown.cancel();
    let supervisor = agent.supervisor.clone();
    supervisor.stopping();
    attended(agent.end(), &supervisor, &mut heartbeat, &CancellationToken::new()).await;
    result
}

/// Waits for what takes its time, while systemd is kept patient. `None`: cut off, some time after `shutdown`.
async fn attended<T>(
    work: impl Future<Output = T>,
    supervisor: &Supervisor,
    heartbeat: &mut Heartbeat,
    shutdown: &CancellationToken,
) -> Option<T> {
    let mut work = pin!(work);
    let cut_off = async {
        shutdown.cancelled().await;
        sleep(PATIENCE).await;
    };
    let mut cut_off = pin!(cut_off);
    let mut patience = interval(PATIENCE / 2);
    loop {
        tokio::select! {
            done = &mut work => return Some(done),
            () = &mut cut_off => return None,
            () = heartbeat.beat() => supervisor.alive(),
            _ = patience.tick() => supervisor.extend_timeout(PATIENCE),
        }
    }
}

/// The watchdog's clock; silent where there is none.
struct Heartbeat(Option<Interval>);

impl Heartbeat {
    fn of(supervisor: &Supervisor) -> Self {
        Self(supervisor.heartbeat().map(|pause| {
            let mut clock = interval(pause);
            clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
            clock
        }))
    }

    async fn beat(&mut self) {
        match &mut self.0 {
            Some(clock) => {
                clock.tick().await;
            }
            None => std::future::pending().await,
        }
    }
}

struct Agent {
    settings: Settings,
    context: Arc<Context>,
    supervisor: Arc<Supervisor>,
    router: Arc<Router>,
    connection: Connection,
    workers: Workers,
    /// Workers of apps that were removed, which may still end a deploy.
    retired: Vec<Worker>,
    /// How many refusals the status told of last.
    refusals_told: u64,
    shutdown: CancellationToken,
}

impl Agent {
    fn start(
        settings: Settings,
        dependencies: Dependencies,
        recovered: Recovered,
        shutdown: CancellationToken,
    ) -> Self {
        let Dependencies { manager, runner, supervisor } = dependencies;
        let router = Arc::new(router_for(&settings));
        info!(
            version = env!("CARGO_PKG_VERSION"),
            apps = settings.apps.len(),
            service_manager = manager.name(),
            broker = settings.mqtt.broker(),
            client_id = settings.mqtt.client_id,
            environment = settings.environment,
            "instance-agent starts"
        );
        let turns = Arc::new(Turns::new(settings.max_parallel));
        let shared = Shared { runner, turns, gate: Gate::new(), refusals: Arc::default() };
        let context = Arc::new(context(&settings, manager, shared));
        let mut agent = Self {
            connection: Connection::open(&settings, &router),
            supervisor: Arc::new(supervisor),
            workers: Workers::new(),
            retired: Vec::new(),
            refusals_told: 0,
            settings,
            context,
            router,
            shutdown,
        };
        agent.remember_rescue();
        agent.staff(recovered.records);
        for outcome in recovered.given_up {
            worker::tell(outcome, agent.context.clone(), &agent.shutdown);
        }
        agent.tell_status();
        agent
    }

    /// For the next start, whose configuration may be invalid.
    fn remember_rescue(&self) {
        let Settings { service_manager, environment, state_dir, .. } = &self.settings;
        let rescue = Rescue { service_manager: service_manager.clone(), environment: environment.clone() };
        let file = RescueFile::new(state_dir);
        if let Err(error) = file.write(&rescue) {
            warn!(file = %file.path().display(), %error, "cannot remember the service manager");
        }
    }

    /// Gives each app its worker, and takes them from apps that are gone.
    ///
    /// `records`: what an earlier agent left. What of it no longer fits is set aside, not revived later.
    fn staff(&mut self, records: Vec<Record>) {
        let mut records: HashMap<_, _> =
            records.into_iter().map(|record| (record.app.clone(), record)).collect();
        let mut former = std::mem::take(&mut self.workers);
        for app in &self.settings.apps.clone() {
            let worker = match former.remove(&app.name) {
                Some(worker) if worker.app().repo == app.repo => {
                    worker.configure(app.clone(), self.context.clone());
                    worker
                }
                replaced => {
                    let record = self.record_of(app, records.remove(&app.name));
                    let former = replaced.inspect(Worker::retire).or_else(|| self.take_retired(&app.name));
                    Worker::spawn(app.clone(), record, self.context.clone(), self.shutdown.clone(), former)
                }
            };
            self.workers.insert(app.name.clone(), worker);
        }
        for record in records.values() {
            self.abandon(record, "removed", REMOVED);
        }
        self.retired.extend(former.into_values().inspect(Worker::retire));
        self.retired.retain(|worker| !worker.has_ended());
        tokio::spawn(warn_about_services(self.context.manager.clone(), self.settings.apps.clone()));
    }

    /// The worker of a removed app that has come back while its last deploy still runs.
    fn take_retired(&mut self, app: &AppName) -> Option<Worker> {
        let position = self.retired.iter().position(|worker| worker.app().name == *app)?;
        Some(self.retired.swap_remove(position))
    }

    /// The record that a new worker goes on with.
    fn record_of(&self, app: &App, record: Option<Record>) -> Record {
        match record {
            Some(record) if record.repository == app.repo => record,
            other => {
                if let Some(record) = other {
                    self.abandon(&record, "replaced", REPLACED);
                }
                Record::new(app)
            }
        }
    }

    /// Nothing more is done for this record, which is kept under another name.
    fn abandon(&self, record: &Record, ending: &str, why: &str) {
        worker::abandon(record, why, &self.context, &self.shutdown);
        worker::report_set_aside(&record.app, &self.context.store.set_app_aside(&record.app, ending));
    }

    async fn reload(&mut self, reload: Reload) {
        let Reload { mut settings, manager } = reload;
        if settings.state_dir != self.settings.state_dir {
            warn!(state_dir = %settings.state_dir.display(), "another state_dir takes effect at the next start");
            settings.state_dir.clone_from(&self.settings.state_dir);
        }
        let reconnect = settings.mqtt != self.settings.mqtt;
        let turns = if settings.max_parallel == self.settings.max_parallel {
            self.context.turns.clone()
        } else {
            Arc::new(self.context.turns.resized(settings.max_parallel))
        };
        let Context { runner, gate, refusals, .. } = &*self.context;
        let (runner, gate, refusals) = (runner.clone(), gate.clone(), refusals.clone());
        self.context = Arc::new(context(&settings, manager, Shared { runner, turns, gate, refusals }));
        self.router = Arc::new(router_for(&settings));
        self.settings = settings;
        self.context.refusals.say_again();
        self.remember_rescue();
        self.staff(Vec::new());
        if reconnect {
            self.reconnect().await;
        } else {
            self.connection.interest.send_replace(Arc::new(interest_of(&self.settings, &self.router)));
        }
        info!(apps = self.settings.apps.len(), reconnect, "configuration reloaded");
        self.tell_status();
        self.supervisor.ready();
    }

    async fn reconnect(&mut self) {
        let (settings, router) = (self.settings.clone(), self.router.clone());
        self.connection.handle.end();
        // What is in the queue would be lost if the new session is another one.
        while let Some(message) = self.connection.messages.recv().await {
            self.handle(message);
        }
        self.connection = Connection::open(&settings, &router);
    }

    fn connection_changed(&mut self) {
        if self.connection.has_come_up() {
            self.context.gate.connected();
        }
        self.tell_status();
    }

    /// The main loop is; and who looks at the status sees what was refused meanwhile.
    fn alive(&mut self) {
        self.supervisor.alive();
        if self.context.refusals.total() != self.refusals_told {
            self.tell_status();
        }
    }

    fn tell_status(&mut self) {
        let broker = self.settings.mqtt.broker();
        let connection = match &*self.connection.state.borrow() {
            ConnectionState::Connecting => format!("Connecting to {broker}"),
            ConnectionState::Connected => format!("Connected to {broker}, subscribing"),
            ConnectionState::Subscribed { refused: 0, .. } => format!("Connected to {broker}"),
            ConnectionState::Subscribed { refused, .. } => {
                format!("Connected to {broker}, but {refused} subscriptions were refused")
            }
            ConnectionState::Down { reason, .. } => format!("Not connected to {broker}: {reason}"),
        };
        let apps = self.settings.apps.len();
        let refusals = &self.context.refusals;
        self.refusals_told = refusals.total();
        let refused = if self.refusals_told > 0 { format!("; refused: {refusals}") } else { String::new() };
        self.supervisor.status(&format!("{connection}; apps: {apps}{refused}"));
    }

    fn handle(&mut self, message: Message) {
        let pairs = message.headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let routed = match Headers::from_pairs(pairs) {
            Ok(headers) => self.router.route(&message.topic, headers, &message.payload, SystemTime::now()),
            Err(error) => error.into(),
        };
        match routed {
            Routed::Unmanaged => debug!("message ignored: its repository is no longer managed"),
            Routed::Ignored(why) => {
                let repository = self.router.repository(&message.topic).map(RepoName::as_str);
                debug!(repository, %why, "message ignored");
            }
            Routed::Rejected(why) => self.reject(&message.topic, &why),
            Routed::Push(revision, verdicts) => {
                trace!(repository = %revision.repo, sha = %revision.commit, "push decoded");
                self.context.gate.pushed();
                return self.hand_on(&revision, verdicts, message.retain, message.ack);
            }
        }
        message.ack.acknowledge();
    }

    /// The topic is one of a managed repository, or the message would not be here.
    fn reject(&self, topic: &str, why: &Rejected) {
        let (reason, repository) = (why.kind(), self.router.repository(topic).map(RepoName::as_str));
        if let Some(Noted { unsaid, total }) = self.context.refusals.note(reason) {
            warn!(repository, reason, %why, unsaid, total, "message rejected");
        }
    }

    /// Gives the push to the worker of each app that it deploys; the last to record it acknowledges the message.
    fn hand_on(&mut self, revision: &Revision, verdicts: Vec<(AppName, Verdict)>, retained: bool, ack: Ack) {
        let mut takers = Vec::new();
        for (app, verdict) in verdicts {
            match verdict {
                Ok(()) => takers.extend(self.workers.get(&app)),
                Err(why @ RefMismatch::NoDefaultBranch) => {
                    if let Some(Noted { unsaid, total }) = self.context.refusals.note("no default branch") {
                        warn!(%app, %why, unsaid, total, "push ignored");
                    }
                }
                Err(why) => debug!(%app, r#ref = %revision.git_ref, %why, "push ignored"),
            }
        }
        let receipt = Receipt::new(ack, takers.len());
        for worker in takers {
            worker.offer(Offer { revision: revision.clone(), retained, receipt: receipt.clone() });
        }
    }

    /// Stops the intake, then waits for what is running. The workers have seen the shutdown themselves.
    async fn end(self) {
        info!("shutting down");
        let workers: Vec<Worker> = self.workers.into_values().chain(self.retired).collect();
        for worker in &workers {
            if let Some(sha) = worker.deploying() {
                info!(app = %worker.app().name, %sha, "waiting for a running deploy: its services are brought up first");
            }
        }
        self.connection.stop().await;
        for worker in workers {
            worker.ended().await;
        }
        info!("stopped");
    }
}

fn router_for(settings: &Settings) -> Router {
    Router::new(settings.topic.clone(), settings.trust.clone(), &settings.apps)
}

/// What all contexts of one agent have in common.
struct Shared {
    runner: Runner,
    turns: Arc<Turns>,
    gate: Gate,
    refusals: Arc<Refusals>,
}

fn context(settings: &Settings, manager: Arc<dyn ServiceManager>, shared: Shared) -> Context {
    let Shared { runner, turns, gate, refusals } = shared;
    Context {
        manager,
        runner,
        turns,
        gate,
        refusals,
        environment: settings.environment.clone(),
        stagger: worker::share_of(settings.stagger, &settings.mqtt.client_id),
        state_dir: settings.state_dir.clone(),
        store: Store::new(&settings.state_dir),
        on_outcome: settings.on_outcome.clone(),
    }
}

/// Looks at every service once, so that a wrong name shows before the first push does.
async fn warn_about_services(manager: Arc<dyn ServiceManager>, apps: Vec<Arc<App>>) {
    for app in apps {
        for service in &app.services {
            let (app, manager_name) = (&app.name, manager.name());
            match manager.status(service).await {
                Ok(Status::NotFound) => {
                    warn!(%app, %service, "{manager_name} knows no such service: pushes to this app will fail");
                }
                Ok(_) => {}
                Err(error) => warn!(%app, %service, %error, "cannot look at the service"),
            }
        }
    }
}
