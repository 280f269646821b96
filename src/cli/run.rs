//! `instance-agent run`: signals, logging and exit codes around [`agent::run`].

use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use nix::unistd::geteuid;
use tokio::runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::agent::{self, Dependencies, Reload};
use crate::command::{Runner, SystemdTools};
use crate::config::{self, ConfigErrors, DEFAULT_FILE, Host, Loaded, Request};
use crate::journal::{Record, Rescue, RescueFile, Store};
use crate::recovery;
use crate::service::{self, DetectionRoot, ServiceManager, Systemd};
use crate::state_dir::StateDir;
use crate::supervisor::Supervisor;

use super::exit;
use super::log::LogArgs;

pub(super) fn run(request: Request, log: &LogArgs) -> ExitCode {
    log.start();
    let host = Host::detect();
    let loaded = match config::load(&request, &host) {
        Ok(Some(loaded)) => loaded,
        Ok(None) => {
            rescue(&request);
            return unconfigured();
        }
        Err(errors) => {
            log_errors(&errors, "invalid configuration");
            rescue(&request);
            return ExitCode::from(exit::CONFIG);
        }
    };
    let runtime = match runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return exit::failure(&error, exit::FAILED),
    };
    runtime.block_on(serve(request, host, loaded))
}

/// Services that an interrupted deploy had stopped are started even though the configuration is invalid.
fn rescue(request: &Request) {
    let path = config::state_dir(request);
    let touched = |record: &Record| record.attempt.as_ref().is_some_and(|attempt| attempt.touched);
    if !Store::new(&path).read_all().is_ok_and(|(records, _)| records.iter().any(touched)) {
        return;
    }
    let recovery = async { recover(request, &StateDir::open(&path)?, &path).await };
    let runtime = runtime::Builder::new_current_thread().enable_all().build();
    if let Err(problem) = runtime.map_err(Into::into).and_then(|runtime| runtime.block_on(recovery)) {
        error!("cannot start the services that an interrupted deploy had stopped: {problem}");
    }
}

/// As the last valid configuration had it: this one may not even say what stops and starts services.
async fn recover(request: &Request, state_dir: &StateDir, path: &Path) -> Result<(), Box<dyn Error>> {
    let kept = RescueFile::new(path).read();
    let Rescue { service_manager, environment } = kept
        .unwrap_or_else(|| Rescue { service_manager: config::service_manager(request), environment: None });
    let manager = service::detect(&service_manager, &DetectionRoot::default()).await?;
    let runner = runner(manager.as_ref()).await;
    recovery::recover(state_dir.store(), &manager, &runner, environment.as_deref()).await?;
    Ok(())
}

/// A freshly installed package has nothing to do yet, which is no failure.
fn unconfigured() -> ExitCode {
    info!(
        "not configured: write {DEFAULT_FILE} (at least mqtt.url and apps), or pass --broker and --app; then start"
    );
    let supervisor = Supervisor::from_environment();
    supervisor.status("Not configured: write /etc/instance-agent/config.yaml, then start");
    supervisor.ready();
    ExitCode::SUCCESS
}

fn log_errors(errors: &ConfigErrors, message: &str) {
    for problem in errors.iter() {
        error!("{message}: {problem}");
    }
}

async fn serve(request: Request, host: Host, loaded: Loaded) -> ExitCode {
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
        detected = service::detect(&settings.service_manager, &root) => detected,
        () = shutdown.cancelled() => return ExitCode::SUCCESS,
    };
    let manager = match detected {
        Ok(manager) => manager,
        Err(problem) => {
            error!("{problem}");
            return ExitCode::from(exit::CONFIG);
        }
    };
    let dependencies = Dependencies {
        runner: runner(manager.as_ref()).await,
        manager,
        supervisor: Supervisor::from_environment(),
    };
    let (reloads, receiver) = mpsc::channel(1);
    let reloader = tokio::spawn(reload_on(hangup, request, host, reloads));
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

/// Under systemd, commands run as units of their own, if the agent may start such; else as its children.
async fn runner(manager: &dyn ServiceManager) -> Runner {
    // The link goes on naming this program when an upgrade replaces its file, and names it to other processes too.
    let helper = PathBuf::from(format!("/proc/{}/exe", std::process::id()));
    if manager.name() == Systemd::NAME && geteuid().is_root() {
        match Runner::under_systemd(helper.clone(), SystemdTools::default()).await {
            Ok(runner) => return runner,
            Err(problem) => warn!("commands will end with the agent: they cannot run as units: {problem}"),
        }
    }
    Runner::new(helper)
}

fn log_warnings(warnings: &[String]) {
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

async fn reload_on(mut hangup: Signal, request: Request, host: Host, reloads: mpsc::Sender<Reload>) {
    while hangup.recv().await.is_some() {
        reload(&request, &host, &reloads).await;
    }
}

/// Hands the agent a new configuration; a bad one changes nothing.
async fn reload(request: &Request, host: &Host, reloads: &mpsc::Sender<Reload>) {
    let supervisor = Supervisor::from_environment();
    supervisor.reloading();
    let Some(reload) = read_again(request, host).await else {
        warn!("the old configuration stays in force");
        supervisor.ready();
        return;
    };
    // Refused only when the agent is ending.
    let _ = reloads.send(reload).await;
}

async fn read_again(request: &Request, host: &Host) -> Option<Reload> {
    let (for_load, host) = (request.clone(), host.clone());
    // Looks up users and opens files, which may take its time.
    let loaded = tokio::task::spawn_blocking(move || config::load(&for_load, &host)).await;
    let loaded = match loaded {
        Ok(loaded) => loaded,
        Err(problem) => {
            error!("cannot reload: {problem}");
            return None;
        }
    };
    let Loaded { settings, warnings, .. } = match loaded {
        Ok(Some(loaded)) => loaded,
        Ok(None) => {
            error!("cannot reload: {DEFAULT_FILE} is gone or empty");
            return None;
        }
        Err(errors) => {
            log_errors(&errors, "cannot reload: invalid configuration");
            return None;
        }
    };
    log_warnings(&warnings);
    match service::detect(&settings.service_manager, &DetectionRoot::default()).await {
        Ok(manager) => Some(Reload { settings, manager }),
        Err(problem) => {
            error!("cannot reload: {problem}");
            None
        }
    }
}
