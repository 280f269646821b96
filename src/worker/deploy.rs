//! One deploy: prepare → stop → update → start → verify, each step bounded in time. Never leaves a service down
//! on purpose: whatever fails after the first stop, the services are started again.

mod dependents;
mod meanwhile;

use std::sync::Arc;
use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::command::{CommandError, CommandSpec, JobName, JobStep, Running, Stop};
use crate::config::App;
use crate::handover;
use crate::journal::{InProgress, Record};
use crate::outcome::{Failure, Outcome, Step, Verdict};
use crate::router::Revision;
use crate::service::{ServiceName, Status, Trace};

use super::ledger::Ledger;
use super::machine::Machine;
use super::overdue::{Problem, SHUTDOWN_GRACE, late, late_start, late_stop, unless};
use super::{Context, Setup};

/// For a look at a service or the host, or a small file.
const STATUS_TIMEOUT: Duration = Duration::from_secs(30);

pub(super) async fn deploy(
    setup: &Setup,
    ledger: &Arc<Ledger>,
    attempt: InProgress,
    shutdown: &CancellationToken,
) -> Outcome {
    let clock = Instant::now();
    let previous = ledger.machine().record().last_good.clone();
    let mut deploy = Deploy {
        app: &setup.app,
        context: &setup.context,
        ledger,
        attempt: &attempt,
        previous: previous.as_ref(),
        shutdown,
        failures: Vec::new(),
        stopped: false,
        cut_short: false,
    };
    deploy.run().await;
    let Deploy { failures, cut_short, .. } = deploy;
    let verdict = if failures.is_empty() {
        if cut_short { Verdict::Interrupted } else { Verdict::Deployed }
    } else if shutdown.is_cancelled() || host_goes_down(setup).await {
        Verdict::Interrupted
    } else {
        Verdict::Failed
    };
    Outcome {
        app: setup.app.name.clone(),
        verdict,
        failures,
        reason: None,
        attempt: attempt.number,
        superseded: attempt.superseded,
        revision: attempt.revision,
        previous,
        started_at: attempt.started_at,
        duration: clock.elapsed(),
    }
}

/// Nothing can be started on a host that goes down, even before it asks the agent to end: no fault of the revision's.
async fn host_goes_down(setup: &Setup) -> bool {
    unless(late(STATUS_TIMEOUT), setup.context.manager.is_shutting_down()).await.unwrap_or(false)
}

struct Deploy<'a> {
    app: &'a App,
    context: &'a Context,
    ledger: &'a Arc<Ledger>,
    attempt: &'a InProgress,
    /// What ran for certain last.
    previous: Option<&'a Revision>,
    shutdown: &'a CancellationToken,
    failures: Vec<Failure>,
    /// Every service was stopped.
    stopped: bool,
    /// The agent is ending, so some step was left out.
    cut_short: bool,
}

impl Deploy<'_> {
    async fn run(&mut self) {
        if !self.goes_on() {
            return;
        }
        let environment = self.environment(Some(&self.attempt.revision));
        if !self.command(JobStep::Prepare, self.app.prepare.as_deref(), &environment).await {
            return;
        }
        if !self.goes_on() {
            return;
        }
        let owed = self.dependents().await;
        let touch = |record: &mut Record| {
            record.touch();
            record.owed = owed;
        };
        // Before the first stop, what is deployed must be forgotten.
        if self.ledger.change(touch, Machine::noted).await.is_err() {
            self.cut_short = true;
            return;
        }
        self.stopped = self.stop().await;
        let updated = self.stopped
            && self.goes_on()
            && self.command(JobStep::Update, self.app.update.as_deref(), &environment).await;
        let environment = if updated { environment } else { self.environment(self.previous) };
        self.start(&environment).await;
        self.start_dependents().await;
        let up = self.verify().await;
        if updated && up && self.goes_on() {
            self.command(JobStep::Check, self.app.check.as_deref(), &environment).await;
        }
    }

    /// False once the agent is ending: nothing is begun then but what brings the services up.
    fn goes_on(&mut self) -> bool {
        self.cut_short |= self.shutdown.is_cancelled();
        !self.cut_short
    }

    fn environment(&self, revision: Option<&Revision>) -> Vec<(String, String)> {
        let environment = self.context.environment.as_deref();
        handover::environment(&self.app.name, environment, revision, self.previous)
    }

    /// Runs the step's command, if it has one. False: it failed.
    async fn command(
        &mut self,
        job: JobStep,
        spec: Option<&CommandSpec>,
        environment: &[(String, String)],
    ) -> bool {
        let Some(spec) = spec else { return true };
        let step = step_of(job);
        info!(app = %self.app.name, step = step.as_str(), "running command");
        let job = JobName::new(job, &self.app.name);
        let stop = Stop { shutdown: self.shutdown.clone(), grace: SHUTDOWN_GRACE };
        let started = self.note();
        let (name, mark) = self.attempt.mark.variable();
        let environment = [environment, &[(name.to_owned(), mark)]].concat();
        let ran = self.context.runner.run(&job, spec, &environment, &stop, started).await;
        self.forget_running();
        match ran {
            Ok(()) => true,
            Err(error) => {
                self.failures.push(command_failure(step, &error));
                false
            }
        }
    }

    /// Stops the services, the last one first. False: one of them could not be stopped.
    async fn stop(&mut self) -> bool {
        for service in self.app.services.iter().rev() {
            if !self.goes_on() {
                return false;
            }
            info!(app = %self.app.name, step = "stop", service = %service, "stopping service");
            if !self.stop_service(service).await {
                return false;
            }
        }
        true
    }

    async fn stop_service(&mut self, service: &ServiceName) -> bool {
        let manager = self.context.manager.as_ref();
        let note = self.note();
        let trace = Trace::new(&self.attempt.mark, &note);
        let late = late_stop(manager, service, self.app.stop_timeout, self.shutdown);
        let stopped = unless(late, manager.stop(service, &trace)).await;
        self.forget_running();
        let Err(problem) = stopped else { return true };
        self.failures.push(service_failure(Step::Stop, service, problem));
        false
    }

    /// Starts every service, even when one of them fails.
    async fn start(&mut self, environment: &[(String, String)]) {
        self.write_environment_file(environment).await;
        self.stop_what_others_started().await;
        for service in &self.app.services {
            info!(app = %self.app.name, step = "start", service = %service, "starting service");
            let manager = self.context.manager.as_ref();
            let note = self.note();
            let trace = Trace::new(&self.attempt.mark, &note);
            let late = late_start(manager, service, self.app.start_timeout, self.shutdown);
            let started = unless(late, self.begin_start(service, environment, &trace)).await;
            self.forget_running();
            if let Err(problem) = started {
                self.failures.push(service_failure(Step::Start, service, problem));
            }
        }
    }

    /// A start that waits for a disk that hangs, or is left out for want of this file, would be worse than one with the
    /// file of the last deploy; but a unit that reads it would not run what the deploy is of, so that one has failed.
    async fn write_environment_file(&mut self, environment: &[(String, String)]) {
        if !environment.iter().any(|(name, _)| name == "GITHUB_SHA") {
            return;
        }
        let path = handover::environment_file(&self.context.state_dir, &self.app.name);
        let (file, variables) = (path.clone(), environment.to_vec());
        let writing = spawn_blocking(move || handover::write_environment_file(&file, &variables));
        let written = match timeout(STATUS_TIMEOUT, writing).await {
            Ok(written) => written.unwrap_or_else(|panic| Err(panic.into())),
            Err(late) => Err(late.into()),
        };
        if let Err(error) = written {
            let error = format!("cannot write the environment file {}: {error}", path.display());
            self.failures.push(Failure {
                step: Step::Start,
                service: None,
                error,
                exit_code: None,
                output: Vec::new(),
            });
        }
    }

    /// Sees that every service is up, and stays up in one incarnation for the settling time.
    async fn verify(&mut self) -> bool {
        let before = self.looks().await;
        self.warn_of_unclear(&before);
        info!(app = %self.app.name, step = "verify", settle = ?self.app.settle, "services must stay up");
        self.settle().await;
        if self.app.settle.is_zero() && before.iter().all(is_up) {
            return true;
        }
        let after = self.looks().await;
        // One that came up only meanwhile has not yet shown that it stays up.
        let (before, after) = if !before.iter().all(is_up) && after.iter().all(is_up) {
            self.settle().await;
            let last = self.looks().await;
            (after, last)
        } else {
            (before, after)
        };
        let mut up = true;
        for (service, (before, after)) in self.app.services.iter().zip(before.iter().zip(after)) {
            if let Err(problem) = stayed_up(before, after) {
                up = false;
                self.failures.push(service_failure(Step::Verify, service, problem));
            }
        }
        up
    }

    fn warn_of_unclear(&self, looks: &[Result<Status, String>]) {
        for (service, look) in self.app.services.iter().zip(looks) {
            if matches!(look, Ok(Status::Unclear)) {
                tracing::warn!(app = %self.app.name, %service, "its init script left no process, and counts as up");
            }
        }
    }

    /// Cut short by a shutdown, it proves nothing.
    async fn settle(&mut self) {
        tokio::select! {
            () = sleep(self.app.settle) => {}
            () = self.shutdown.cancelled() => self.cut_short = true,
        }
    }

    async fn looks(&self) -> Vec<Result<Status, String>> {
        let mut looks = Vec::with_capacity(self.app.services.len());
        for service in &self.app.services {
            looks.push(self.look(service).await);
        }
        looks
    }

    async fn look(&self, service: &ServiceName) -> Result<Status, String> {
        unless(late(STATUS_TIMEOUT), self.context.manager.status(service)).await.map_err(|p| p.error)
    }
}

fn step_of(job: JobStep) -> Step {
    match job {
        JobStep::Prepare => Step::Prepare,
        JobStep::Update => Step::Update,
        JobStep::Check => Step::Check,
    }
}

impl Deploy<'_> {
    /// Hears of what was begun.
    fn note(&self) -> impl Fn(Running) + Send + Sync + use<> {
        let ledger = self.ledger.clone();
        move |running| remember(ledger.clone(), running)
    }

    /// What a command left running is none of the next agent's business.
    fn forget_running(&self) {
        let ledger = self.ledger.clone();
        tokio::spawn(async move {
            // After what `remember` began, as changes are made in their order; nothing is written if nothing was noted.
            let _ = ledger.change(|record| record.set_running(None), Machine::noted).await;
        });
    }
}

/// Notes a process group, so that the next agent can end it should this one be killed. A unit is known by its name.
fn remember(ledger: Arc<Ledger>, running: Running) {
    if matches!(running, Running::Group(_)) {
        tokio::spawn(async move {
            // Not recorded: the agent is ending, and waits for the command.
            let _ = ledger.change(|record| record.set_running(Some(running)), Machine::noted).await;
        });
    }
}

fn is_up(look: &Result<Status, String>) -> bool {
    matches!(look, Ok(Status::Running { .. } | Status::Completed { .. } | Status::Unclear))
}

/// Whoever meant it so is told how to say it.
const ENDED: &str = "its process ended (one that has done its work then is Type=oneshot)";

fn stayed_up(before: &Result<Status, String>, after: Result<Status, String>) -> Result<(), Problem> {
    let down = |what: &str| Err(Problem::plain(format!("did not stay up: {what}")));
    match after {
        Err(error) => Err(Problem::plain(error)),
        Ok(Status::Running { incarnation }) => match before {
            Ok(Status::Running { incarnation: first }) if *first != incarnation => {
                down("it died and was restarted by its service manager")
            }
            _ => Ok(()),
        },
        Ok(Status::Unclear) if matches!(before, Ok(Status::Running { .. })) => down(ENDED),
        Ok(Status::Completed { .. } | Status::Unclear) => Ok(()),
        Ok(Status::Ended) => down(ENDED),
        Ok(Status::Starting) => down("it is still starting, or waits to be restarted after it died"),
        Ok(Status::Stopped) => down("it is stopped"),
        Ok(Status::Failed(what)) => down(&what),
        Ok(Status::NotFound) => down("the service manager no longer knows it"),
    }
}

fn service_failure(step: Step, service: &ServiceName, problem: Problem) -> Failure {
    Failure {
        step,
        service: Some(service.to_string()),
        error: format!("{service}: {}", problem.error),
        exit_code: None,
        output: problem.output,
    }
}

fn command_failure(step: Step, error: &CommandError) -> Failure {
    Failure {
        step,
        service: None,
        error: error.to_string(),
        exit_code: error.exit_code(),
        output: error.tail().to_vec(),
    }
}
