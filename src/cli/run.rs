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
use crate::recovery;
use crate::service::DetectionRoot;
use crate::state_dir::StateDir;
use crate::supervisor::Supervisor;
use crate::tools::Tools;

use super::log::{self, LogArgs};
use super::reload::Reloader;
use super::{ConfigArgs, exit};

/// How long a start waits for the metadata service; cloud-init waits as long.
const BOOT_LIMIT: Duration = Duration::from_secs(120);

pub(super) fn run(config: ConfigArgs, log: &LogArgs) -> ExitCode {
    log.start();
    let runtime = match runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return exit::failure(&error, exit::FAILED),
    };
    let mut loader = match config.into_loader() {
        Ok(loader) => loader,
        Err(error) => {
            log_errors(&error, "");
            return exit::of_load(&error);
        }
    };
    loader.show_nothing();
    let code = match runtime.block_on(load(&mut loader)) {
        Ok(loaded) => runtime.block_on(serve(loader, loaded)),
        Err(LoadError::Unconfigured(tried)) => {
            runtime.block_on(rescue(loader.request()));
            unconfigured(&tried)
        }
        Err(error) => {
            log_errors(&error, "");
            runtime.block_on(rescue(loader.request()));
            exit::of_load(&error)
        }
    };
    // What has not ended by now waits for a disk that hangs.
    runtime.shutdown_background();
    code
}

async fn load(loader: &mut Loader) -> Result<Loaded, LoadError> {
    if loader.asks_metadata() {
        let supervisor = Supervisor::from_environment();
        supervisor.extend_timeout(BOOT_LIMIT + Duration::from_secs(60));
        supervisor.status("Asking the instance metadata service for the configuration");
    }
    loader.instance_id().inspect(|id| log::name_instance(id));
    let loaded = loader.load(BOOT_LIMIT).await;
    loader.instance_id().inspect(|id| log::name_instance(id));
    loaded
}

/// Services that an interrupted deploy had stopped are started even though the configuration is of no use.
async fn rescue(request: &Request) {
    let path = config::state_dir(request);
    let touched = |record: &Record| record.attempt.as_ref().is_some_and(|attempt| attempt.touched);
    let problem = match Store::new(&path).read_all() {
        Ok((records, _)) if !records.iter().any(touched) => return,
        Ok(_) => recover(&path).await.err(),
        Err(problem) => Some(problem.into()),
    };
    if let Some(problem) = problem {
        error!("cannot start the services that an interrupted deploy had stopped: {problem}");
    }
}

/// With what the interrupted deploys were made with: this configuration may not even say what starts services.
async fn recover(path: &Path) -> Result<(), Box<dyn Error>> {
    let state_dir = StateDir::open(path)?;
    let supervisor = Supervisor::from_environment();
    let recovery = recovery::recover(state_dir.store(), None);
    supervisor.attend(&mut supervisor.heartbeat(), recovery).await?;
    Ok(())
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

async fn serve(loader: Loader, loaded: Loaded) -> ExitCode {
    // Caught from here on, so that a signal during the start is not lost.
    let shutdown = CancellationToken::new();
    let hangup = match catch_signals(&shutdown) {
        Ok(hangup) => hangup,
        Err(error) => return exit::failure(&error, exit::FAILED),
    };
    let Loaded { settings, warnings, .. } = loaded;
    log_warnings(&warnings);
    let root = DetectionRoot::default();
    let detected = tokio::select! {
        detected = Tools::of(&settings.service_manager, &root) => detected,
        () = shutdown.cancelled() => return ExitCode::SUCCESS,
    };
    let tools = match detected {
        Ok(tools) => tools,
        Err(problem) => {
            error!("{problem}");
            rescue(loader.request()).await;
            return ExitCode::from(exit::CONFIG);
        }
    };
    let dependencies = Dependencies { tools, supervisor: Supervisor::from_environment() };
    let (reloads, receiver) = mpsc::channel(1);
    let reloader = tokio::spawn(Reloader::new(loader, settings.tag_refresh, reloads).run(hangup));
    let result = agent::run(settings, dependencies, receiver, shutdown).await;
    reloader.abort();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            error!("{problem}");
            ExitCode::from(exit::FAILED)
        }
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
