//! Says how a deploy goes: in the log, and to the `on_outcome` command.

use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::command::Stop;
use crate::config::App;
use crate::handover;
use crate::outcome::{Outcome, Verdict};

use super::Context;
use super::deploy::SHUTDOWN_GRACE;
use super::machine::Attempt;

pub(super) fn began(app: &App, attempt: &Attempt) {
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

pub(super) fn ended(outcome: &Outcome, retry: Option<Duration>) {
    let (app, sha, took) = (&outcome.app, &outcome.revision.commit, outcome.duration);
    for failure in outcome.failures.iter().skip(1) {
        let step = failure.step.as_str();
        error!(%app, %sha, step, error = failure.error, "step failed as well");
    }
    match (outcome.verdict, outcome.cause()) {
        (Verdict::Deployed, _) | (_, None) => info!(%app, %sha, ?took, "deployed"),
        (Verdict::Interrupted, Some(cause)) => {
            warn!(%app, %sha, step = cause.step.as_str(), error = cause.error, ?took, "deploy interrupted by shutdown");
        }
        (Verdict::Failed, Some(cause)) => {
            let output = cause.output.join(" | ");
            let (step, error) = (cause.step.as_str(), &cause.error);
            match retry {
                Some(retry_in) => error!(%app, %sha, step, error, output, ?took, ?retry_in, "deploy failed"),
                None => {
                    error!(%app, %sha, step, error, output, ?took, "deploy failed: waiting for a new push");
                }
            }
        }
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
    }
    let json = match serde_json::to_vec(outcome) {
        Ok(json) => json,
        Err(error) => {
            warn!(app = %outcome.app, %error, "cannot write the outcome as JSON for on_outcome");
            Vec::new()
        }
    };
    let stop = Stop { shutdown: shutdown.clone(), grace: SHUTDOWN_GRACE };
    if let Err(error) = context.runner.run_child(command, &variables, Some(json), &stop).await {
        warn!(app = %outcome.app, %error, "on_outcome failed; the deploy is not affected");
    }
}
