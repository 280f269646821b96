//! `instance-agent run`: signals, logging and exit codes around [`agent::run`].

use std::error::Error;
use std::io;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use tokio::runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::agent::{self, Dependencies};
use crate::config::{self, DEFAULT_FILE, LoadError, Loaded, Loader, Request, Tried};
use crate::journal::{Record, Store};
use crate::outcome::Outcome;
use crate::recovery;
use crate::service::DetectionRoot;
use crate::slack;
use crate::state_dir::{self, StateDir};
use crate::supervisor::Supervisor;
use crate::tools::Tools;

use super::log::{self, LogArgs};
use super::reload::Reloader;
use super::{ConfigArgs, exit, loader_of};

/// How long a start waits for the metadata service; cloud-init waits as long.
const BOOT_LIMIT: Duration = Duration::from_secs(120);

pub(super) fn run(config: ConfigArgs, log: &LogArgs) -> ExitCode {
    log.start();
    slack::begin();
    let runtime = match runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return exit::failure(&error, exit::FAILED),
    };
    let code = runtime.block_on(start(config.into_request()));
    // What has not ended by now waits for a disk that hangs.
    runtime.shutdown_background();
    code
}

async fn start(request: Request) -> ExitCode {
    // Caught from here on, so that a signal during the start is neither lost nor fatal.
    let shutdown = CancellationToken::new();
    let mut hangup = match catch_signals(&shutdown) {
        Ok(hangup) => hangup,
        Err(error) => return exit::failure(&error, exit::FAILED),
    };
    let mut loader = match loader_of(request.clone()) {
        Ok(loader) => loader,
        Err(error) => {
            log_errors(&error, "");
            rescue(&request, &shutdown).await;
            return exit::of_load(&error);
        }
    };
    loader.show_nothing();
    loader.instance_id().inspect(|id| log::name_instance(id));
    let mut given_up = Vec::new();
    if loader.asks_metadata() {
        // No service stays down for as long as nobody answers.
        given_up = rescue(loader.request(), &shutdown).await;
    }
    match load(&mut loader, &mut hangup, &shutdown).await {
        None => {
            info!("stopped before the configuration was known");
            ExitCode::SUCCESS
        }
        Some(Ok(loaded)) => Box::pin(serve(loader, loaded, given_up, hangup, shutdown)).await,
        Some(Err(LoadError::Unconfigured(tried))) => {
            rescue(loader.request(), &shutdown).await;
            unconfigured(&tried)
        }
        Some(Err(error)) => {
            log_errors(&error, "");
            rescue(loader.request(), &shutdown).await;
            exit::of_load(&error)
        }
    }
}

/// `None`: told to end meanwhile.
async fn load(
    loader: &mut Loader,
    hangup: &mut Signal,
    shutdown: &CancellationToken,
) -> Option<Result<Loaded, LoadError>> {
    loop {
        if loader.asks_metadata() {
            let supervisor = Supervisor::from_environment();
            supervisor.extend_timeout(BOOT_LIMIT + Duration::from_secs(60));
            supervisor.status("Asking the instance metadata service for the configuration");
        }
        let loaded = tokio::select! {
            biased;
            () = shutdown.cancelled() => return None,
            Some(()) = hangup.recv() => {
                info!("SIGHUP: the configuration is read from the beginning");
                continue;
            }
            loaded = loader.load(BOOT_LIMIT) => loaded,
        };
        loader.instance_id().inspect(|id| log::name_instance(id));
        return Some(loaded);
    }
}

/// Services that an interrupted deploy had stopped are started, whether or not there will be a configuration. Gives
/// the outcomes of revisions that were given up.
async fn rescue(request: &Request, shutdown: &CancellationToken) -> Vec<Outcome> {
    let path = config::state_dir(request);
    let touched = |record: &Record| record.attempt.as_ref().is_some_and(|attempt| attempt.touched);
    let recovered = match Store::new(&path).read_all() {
        Ok((records, _)) if !records.iter().any(touched) => return Vec::new(),
        Ok(_) => recover(&path, shutdown).await,
        Err(problem) => Err(problem.into()),
    };
    recovered.unwrap_or_else(|problem| {
        error!("cannot start the services that an interrupted deploy had stopped: {problem}");
        Vec::new()
    })
}

/// With what the interrupted deploys were made with: this configuration may not even say what starts services.
async fn recover(path: &Path, shutdown: &CancellationToken) -> Result<Vec<Outcome>, Box<dyn Error>> {
    let state_dir = StateDir::open(path)?;
    let supervisor = Supervisor::from_environment();
    let recovery = recovery::unless_ended(shutdown, Box::pin(recovery::recover(state_dir.store(), None)));
    let recovered = supervisor.attend(&mut supervisor.heartbeat(), recovery).await.transpose()?;
    Ok(recovered.unwrap_or_default().given_up)
}

/// A freshly installed package has nothing to do yet, which is no failure.
fn unconfigured(tried: &Tried) -> ExitCode {
    info!(
        %tried,
        "not configured: write {DEFAULT_FILE} (at least mqtt.url and apps), pass --broker and --app, or use EC2 user-data; then start"
    );
    let supervisor = Supervisor::from_environment();
    supervisor.status("Not configured: write /etc/instance-agent/config.yaml, then start");
    supervisor.ready();
    ExitCode::SUCCESS
}

/// One event for each mistake; `during` comes before all of them.
pub(super) fn log_errors(error: &LoadError, during: &str) {
    let mistakes = match error {
        LoadError::Invalid(errors) => Some(errors),
        LoadError::Metadata { trouble, without } => {
            error!("{during}{trouble}");
            without.as_ref()
        }
        LoadError::Unconfigured(_) | LoadError::Panic(_) => {
            error!("{during}{error}");
            None
        }
    };
    for mistake in mistakes.iter().flat_map(|mistakes| mistakes.iter()) {
        error!("{during}invalid configuration: {mistake}");
    }
}

/// `given_up`: what is still to be told of.
async fn serve(
    loader: Loader,
    loaded: Loaded,
    given_up: Vec<Outcome>,
    hangup: Signal,
    shutdown: CancellationToken,
) -> ExitCode {
    let Loaded { settings, warnings, .. } = loaded;
    log_warnings(&warnings);
    remember_state_dir(&loader, &settings.state_dir);
    let root = DetectionRoot::default();
    let detected = tokio::select! {
        detected = Tools::of(&settings.service_manager, &root) => detected,
        () = shutdown.cancelled() => return ExitCode::SUCCESS,
    };
    let tools = match detected {
        Ok(tools) => tools,
        Err(problem) => {
            error!("{problem}");
            rescue(loader.request(), &shutdown).await;
            return ExitCode::from(exit::CONFIG);
        }
    };
    let dependencies = Dependencies { tools, supervisor: Supervisor::from_environment(), given_up };
    let (reloads, receiver) = mpsc::channel(1);
    let reloader = tokio::spawn(Reloader::new(loader, settings.tag_refresh, reloads).run(hangup));
    // On the heap: it would be part of every future around it.
    let result = Box::pin(agent::run(settings, dependencies, receiver, shutdown)).await;
    reloader.abort();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            error!("{problem}");
            ExitCode::from(exit::FAILED)
        }
    }
}

/// For the next start, which cannot ask the user-data before it has to know.
fn remember_state_dir(loader: &Loader, actual: &Path) {
    let Some(usual) = loader.usual_state_dir() else { return };
    if let Err(error) = state_dir::remember(usual, actual) {
        warn!(
            dir = %usual.display(), state_dir = %actual.display(), %error,
            "cannot remember state_dir: should a deploy be interrupted, its services stay down at the next start until \
             the user-data is read; set it in the file, or by --state-dir"
        );
    }
}

pub(super) fn log_warnings(warnings: &[String]) {
    for warning in warnings {
        warn!("{warning}");
    }
}

/// SIGTERM and SIGINT begin the shutdown; what SIGHUP does is another task's work, which must not keep these waiting.
fn catch_signals(shutdown: &CancellationToken) -> io::Result<Signal> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let shutdown = shutdown.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        shutdown.cancel();
    });
    signal(SignalKind::hangup())
}
