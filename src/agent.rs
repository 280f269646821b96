//! Wires the parts together: connection → router → workers; reload; shutdown. Only this file knows them all.

mod connection;
mod staff;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, trace, warn};

use crate::config::{App, AppName, Settings};
use crate::github::RepoName;
use crate::journal::{Record, Store};
use crate::mqtt::{Ack, ConnectionState, Message};
use crate::outcome::Outcome;
use crate::push::Headers;
use crate::recovery::{self, Recovered};
use crate::refs::RefMismatch;
use crate::refusals::{Noted, Refusals};
use crate::router::{Rejected, Revision, Routed, Router, Verdict};
use crate::service::{ServiceManager, Status};
use crate::state_dir::{StateDir, StateDirError};
use crate::supervisor::Supervisor;
use crate::tools::Tools;
use crate::worker::{self, Context, Gate, Notices, Offer, Receipt, Turns};

use connection::{Connection, Heard, interest_of};
use staff::Staff;

/// What the agent uses of the world around it.
pub struct Dependencies {
    /// Stops and starts services, and runs commands.
    pub tools: Tools,
    /// Is told how the agent is doing.
    pub supervisor: Supervisor,
    /// Revisions given up before the configuration was known: they are told of first.
    pub given_up: Vec<Outcome>,
}

/// A new configuration, valid, with the tools that it asks for.
pub struct Reload {
    /// The settings.
    pub settings: Settings,
    /// Stop and start services, and run commands, from now on.
    pub tools: Tools,
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

/// Runs the agent until `shutdown` is cancelled and what was running has ended.
pub async fn run(
    settings: Settings,
    dependencies: Dependencies,
    mut reloads: mpsc::Receiver<Reload>,
    shutdown: CancellationToken,
) -> Result<(), AgentError> {
    let state_dir = StateDir::open(&settings.state_dir)?;
    let supervisor = &dependencies.supervisor;
    let mut heartbeat = supervisor.heartbeat();
    let current = (&settings.service_manager, &dependencies.tools);
    let recovery =
        recovery::unless_ended(&shutdown, Box::pin(recovery::recover(state_dir.store(), Some(current))));
    let Some(recovered) = supervisor.attend(&mut heartbeat, recovery).await else { return Ok(()) };
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
    supervisor.attend(&mut heartbeat, agent.end()).await;
    result
}

struct Agent {
    settings: Settings,
    context: Arc<Context>,
    supervisor: Arc<Supervisor>,
    router: Arc<Router>,
    connection: Connection,
    staff: Staff,
    /// How many refusals the status told of last.
    refusals_told: u64,
    /// The same of apps whose record the disk does not take.
    stuck_told: usize,
    shutdown: CancellationToken,
}

impl Agent {
    fn start(
        settings: Settings,
        dependencies: Dependencies,
        recovered: Recovered,
        shutdown: CancellationToken,
    ) -> Self {
        let Dependencies { tools, supervisor, given_up } = dependencies;
        let router = Arc::new(router_for(&settings));
        info!(
            version = env!("CARGO_PKG_VERSION"),
            apps = settings.apps.len(),
            service_manager = tools.manager.name(),
            broker = settings.mqtt.broker(),
            client_id = settings.mqtt.client_id,
            environment = settings.environment,
            "instance-agent starts"
        );
        let turns = Arc::new(Turns::new(settings.max_parallel));
        let shared = Shared { turns, gate: Gate::new(), refusals: Arc::default(), notices: Arc::default() };
        let context = Arc::new(context(&settings, tools, shared));
        let mut agent = Self {
            connection: Connection::open(&settings, &router),
            supervisor: Arc::new(supervisor),
            staff: Staff::new(shutdown.clone()),
            refusals_told: 0,
            stuck_told: 0,
            settings,
            context,
            router,
            shutdown,
        };
        agent.assign(recovered.records);
        for outcome in given_up.into_iter().chain(recovered.given_up) {
            worker::tell(outcome, agent.context.clone(), &agent.shutdown);
        }
        agent.tell_status();
        agent
    }

    /// Gives each app its worker. `records`: what an earlier agent left.
    fn assign(&mut self, records: Vec<Record>) {
        self.staff.assign(&self.settings.apps, records, &self.context);
        tokio::spawn(warn_about_services(self.context.manager.clone(), self.settings.apps.clone()));
    }

    async fn reload(&mut self, reload: Reload) {
        let Reload { mut settings, tools } = reload;
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
        let Context { gate, refusals, notices, .. } = &*self.context;
        let (gate, refusals, notices) = (gate.clone(), refusals.clone(), notices.clone());
        self.context = Arc::new(context(&settings, tools, Shared { turns, gate, refusals, notices }));
        self.router = Arc::new(router_for(&settings));
        self.settings = settings;
        self.context.refusals.say_again();
        self.assign(Vec::new());
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
        self.connection.reopen(&settings, &router);
    }

    fn connection_changed(&mut self) {
        if self.connection.has_come_up() {
            self.context.gate.connected();
        }
        self.tell_status();
    }

    /// The main loop is; and who looks at the status sees what was refused or got stuck meanwhile.
    fn alive(&mut self) {
        self.supervisor.alive();
        if (self.context.refusals.total(), self.staff.stuck()) != (self.refusals_told, self.stuck_told) {
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
        self.stuck_told = self.staff.stuck();
        let stuck = match self.stuck_told {
            0 => String::new(),
            count => format!("; the journal of {count} cannot be written, their pushes wait"),
        };
        self.supervisor.status(&format!("{connection}; apps: {apps}{stuck}{refused}"));
    }

    fn handle(&mut self, message: Message) {
        let pairs = message.headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let routed = match Headers::from_pairs(pairs) {
            Ok(headers) => self.router.route(&message.topic, headers, &message.payload, SystemTime::now()),
            Err(error) => error.into(),
        };
        if routed.is_managed_push() {
            self.context.gate.pushed();
        }
        match routed {
            Routed::Unmanaged => debug!("message ignored: its repository is no longer managed"),
            Routed::Ignored(why) => {
                let repository = self.router.repository(&message.topic).map(RepoName::as_str);
                debug!(repository, %why, "message ignored");
            }
            Routed::Rejected(why) => self.reject(&message.topic, &why),
            Routed::Push(revision, verdicts) => {
                trace!(repository = %revision.repo, sha = %revision.commit, "push decoded");
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
                Ok(()) => takers.push(app),
                Err(why @ RefMismatch::NoDefaultBranch) => {
                    if let Some(Noted { unsaid, total }) = self.context.refusals.note("no default branch") {
                        warn!(%app, %why, unsaid, total, "push ignored");
                    }
                }
                Err(why) => debug!(%app, r#ref = %revision.git_ref, %why, "push ignored"),
            }
        }
        let receipt = Receipt::new(ack, takers.len());
        for app in takers {
            let receipt = receipt.clone();
            match self.staff.worker(&app, &self.context) {
                Some(worker) => worker.offer(Offer { revision: revision.clone(), retained, receipt }),
                // The router knows the same apps; should it not, nobody is left to record it.
                None => receipt.recorded(),
            }
        }
    }

    /// Stops the intake, then waits for what is running. The workers have seen the shutdown themselves.
    async fn end(self) {
        info!("shutting down");
        self.staff.say_what_runs();
        self.connection.stop().await;
        self.staff.end(&self.context.notices, staff::REST).await;
        info!("stopped");
    }
}

fn router_for(settings: &Settings) -> Router {
    Router::new(settings.topic.clone(), settings.trust.clone(), &settings.apps)
}

/// What all contexts of one agent have in common.
struct Shared {
    turns: Arc<Turns>,
    gate: Gate,
    refusals: Arc<Refusals>,
    notices: Arc<Notices>,
}

fn context(settings: &Settings, tools: Tools, shared: Shared) -> Context {
    let Shared { turns, gate, refusals, notices } = shared;
    Context {
        manager: tools.manager,
        service_manager: settings.service_manager.clone(),
        runner: tools.runner,
        turns,
        gate,
        refusals,
        environment: settings.environment.clone(),
        stagger: worker::share_of(settings.stagger, &settings.mqtt.client_id),
        state_dir: settings.state_dir.clone(),
        store: Store::new(&settings.state_dir),
        on_outcome: settings.on_outcome.clone(),
        notices,
    }
}

/// For a look at a service.
const LOOK: Duration = Duration::from_secs(10);

/// Looks at every service once, so that a wrong name shows before the first push does.
async fn warn_about_services(manager: Arc<dyn ServiceManager>, apps: Vec<Arc<App>>) {
    let mut seen = HashSet::new();
    for app in &apps {
        for service in app.services.iter().filter(|service| seen.insert(*service)) {
            let (app, manager_name) = (&app.name, manager.name());
            match timeout(LOOK, manager.status(service)).await {
                Ok(Ok(Status::NotFound)) => {
                    warn!(%app, %service, "{manager_name} knows no such service: pushes to this app will fail");
                }
                Ok(Ok(_)) => {}
                Ok(Err(error)) => warn!(%app, %service, %error, "cannot look at the service"),
                Err(_) => {
                    warn!(%app, %service, "{manager_name} does not say how the service is: is it hung?");
                }
            }
        }
    }
}
