//! Says how a deploy goes: in the log, and to the `on_outcome` command.

use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use crate::command::Stop;
use crate::config::{App, AppName};
use crate::handover;
use crate::journal::{Admission, InProgress};
use crate::outcome::{Outcome, Verdict};
use crate::refusals::{Noted, Refusals};
use crate::router::Revision;
use crate::service::ServiceName;

use super::Context;

/// How long a notification may take once the agent is ending.
const GRACE: Duration = Duration::from_secs(10);

pub(super) fn admitted(app: &App, push: &Revision, admission: Admission, refusals: &Refusals) {
    let (app, r#ref, sha, delivery) = (&app.name, &push.git_ref, &push.commit, &push.delivery);
    match admission {
        Admission::Taken => info!(%app, %r#ref, %sha, delivery, "push taken"),
        Admission::AlreadyDeployed => {
            info!(%app, %r#ref, %sha, delivery, "push taken: its commit runs already");
        }
        Admission::TriedAgain => {
            info!(%app, %r#ref, %sha, delivery, "push delivered again: its failed deploy is tried again");
        }
        Admission::Duplicate => {
            if let Some(Noted { unsaid, total }) = refusals.note("duplicate") {
                info!(%app, %r#ref, %sha, delivery, unsaid, total, "push ignored: it was taken before");
            } else {
                debug!(%app, %r#ref, %sha, delivery, "push ignored: it was taken before");
            }
        }
        Admission::Stale => {
            if let Some(Noted { unsaid, total }) = refusals.note("stale") {
                info!(%app, %r#ref, %sha, delivery, unsaid, total, "push ignored: a newer one was taken");
            } else {
                debug!(%app, %r#ref, %sha, delivery, "push ignored: a newer one was taken");
            }
        }
    }
}

pub(super) fn dropped(revision: &Revision, app: &AppName, why: &str) {
    let (r#ref, sha) = (&revision.git_ref, &revision.commit);
    warn!(%app, %r#ref, %sha, why, "pending push dropped");
}

pub(super) fn left_down(app: &AppName, services: &[ServiceName], why: &str) {
    let services = services.iter().map(ServiceName::as_str).collect::<Vec<_>>().join(" ");
    error!(%app, services, why, "an interrupted deploy has left services down, and no start is tried any more: see to them");
}

/// What became of the record of an app that is no longer here; it may never have had one.
pub(crate) fn set_aside(app: &AppName, aside: &io::Result<PathBuf>) {
    match aside {
        Ok(file) => info!(%app, file = %file.display(), "record of an app that is no longer here set aside"),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => warn!(%app, %error, "cannot set the record of a removed app aside"),
    }
}

pub(super) fn given_up(app: &AppName, revision: &Revision) {
    let sha = &revision.commit;
    error!(%app, %sha, "deploy given up after too many interruptions: waiting for a new push");
}

pub(super) fn began(app: &App, attempt: &InProgress) {
    let revision = &attempt.revision;
    info!(
        app = %app.name,
        repository = %revision.repo,
        r#ref = %revision.git_ref,
        sha = %revision.commit,
        attempt = attempt.number,
        superseded = attempt.superseded,
        "deploy began"
    );
}

/// What comes after a deploy.
#[derive(Debug, Clone, Copy)]
pub(super) enum Prospect {
    /// It is tried again after this.
    Retry(Duration),
    /// Nothing, unless a push comes or has come.
    Nothing,
    /// That is decided when its end can be recorded.
    Unrecorded,
}

pub(super) fn ended(outcome: &Outcome, prospect: Prospect) {
    let (app, sha, took) = (&outcome.app, &outcome.revision.commit, readable(outcome.duration));
    match (outcome.verdict, outcome.cause()) {
        (Verdict::Deployed | Verdict::Dropped, _) => info!(%app, %sha, took, "deployed"),
        (_, None) => {
            warn!(%app, %sha, took, "deploy interrupted by shutdown");
        }
        (Verdict::Interrupted, Some(cause)) => {
            warn!(%app, %sha, step = cause.step.as_str(), error = cause.error, took, "deploy interrupted by shutdown");
        }
        (Verdict::Failed, Some(cause)) => {
            let output = cause.output.join(" | ");
            let (step, error) = (cause.step.as_str(), &cause.error);
            match prospect {
                Prospect::Retry(pause) => {
                    let retry_in = readable(pause);
                    error!(%app, %sha, step, error, output, took, retry_in, "deploy failed");
                }
                Prospect::Nothing => {
                    error!(%app, %sha, step, error, output, took, "deploy failed: waiting for a new push");
                }
                Prospect::Unrecorded => {
                    error!(%app, %sha, step, error, output, took, "deploy failed: waiting for the journal");
                }
            }
        }
    }
    for failure in outcome.failures.iter().skip(1) {
        let step = failure.step.as_str();
        error!(%app, %sha, step, error = failure.error, "step failed as well");
    }
}

/// Whole milliseconds, for nobody reads nanoseconds.
fn readable(duration: Duration) -> String {
    let whole = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    humantime::format_duration(Duration::from_millis(whole)).to_string()
}

/// Notifications that are given beside other work.
#[derive(Debug, Default)]
pub struct Notices(Mutex<JoinSet<()>>);

impl Notices {
    pub(super) fn spawn(&self, notice: impl Future<Output = ()> + Send + 'static) {
        let mut notices = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Those that were given are forgotten.
        while notices.try_join_next().is_some() {}
        notices.spawn(notice);
    }

    /// Waits until all are given, which takes not long once the agent is ending.
    pub(crate) async fn given(&self) {
        let mut notices = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        while notices.join_next().await.is_some() {}
    }
}

/// Runs `on_outcome`, whose failure changes nothing.
pub(super) async fn tell(outcome: &Outcome, context: &Context, shutdown: &CancellationToken) {
    let Some(command) = &context.on_outcome else { return };
    let mut variables = handover::environment(
        &outcome.app,
        context.environment.as_deref(),
        Some(&outcome.revision),
        outcome.previous.as_ref(),
    );
    let mut add = |name: &str, value: String| variables.push((name.to_owned(), value));
    add("INSTANCE_AGENT_OUTCOME", outcome.verdict.as_str().to_owned());
    if let Some(cause) = outcome.cause() {
        add("INSTANCE_AGENT_STEP", cause.step.to_string());
        add("INSTANCE_AGENT_ERROR", cause.error.clone());
    } else if let Some(reason) = &outcome.reason {
        add("INSTANCE_AGENT_ERROR", reason.clone());
    }
    let json = match serde_json::to_vec(outcome) {
        Ok(json) => json,
        Err(error) => {
            warn!(app = %outcome.app, %error, "cannot write the outcome as JSON for on_outcome");
            Vec::new()
        }
    };
    let stop = Stop { shutdown: shutdown.clone(), grace: GRACE };
    if let Err(error) = context.runner.run_notice(&outcome.app, command, &variables, json, &stop).await {
        warn!(app = %outcome.app, %error, "on_outcome failed; the deploy is not affected");
    }
}
