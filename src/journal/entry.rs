//! An outcome as it is kept.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::github::{CommitId, GitRef};
use crate::outcome::{Outcome, Step, Verdict};
use crate::router::Revision;

use super::desired::InProgress;

/// How one deploy ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// How it ended.
    pub outcome: Verdict,
    /// The branch or tag.
    #[serde(rename = "ref")]
    pub git_ref: GitRef,
    /// The commit.
    pub sha: CommitId,
    /// 1 for the first attempt of the revision; 0 when it was given up without one.
    pub attempt: u32,
    /// When it began.
    #[serde(with = "super::time")]
    pub started_at: SystemTime,
    /// How long it took, in milliseconds; not known of an attempt that was killed.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub duration_ms: Option<u64>,
    /// The step that failed.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub step: Option<Step>,
    /// Why, in one line.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub error: Option<String>,
    /// The last lines of output of the command that failed.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub output: Vec<String>,
}

impl Entry {
    pub(crate) fn interrupted(attempt: &InProgress) -> Self {
        let error = "the agent ended in the middle of it".to_owned();
        Self::without_attempt(Verdict::Interrupted, &attempt.revision, attempt.started_at, error)
            .numbered(attempt.number)
    }

    /// A revision that is given up without an attempt.
    pub(crate) fn without_attempt(
        outcome: Verdict,
        revision: &Revision,
        at: SystemTime,
        error: String,
    ) -> Self {
        Self {
            outcome,
            git_ref: revision.git_ref.clone(),
            sha: revision.commit.clone(),
            attempt: 0,
            started_at: at,
            duration_ms: None,
            step: None,
            error: Some(error),
            output: Vec::new(),
        }
    }

    fn numbered(self, attempt: u32) -> Self {
        Self { attempt, ..self }
    }
}

impl From<&Outcome> for Entry {
    fn from(outcome: &Outcome) -> Self {
        let cause = outcome.cause();
        Self {
            outcome: outcome.verdict,
            git_ref: outcome.revision.git_ref.clone(),
            sha: outcome.revision.commit.clone(),
            attempt: outcome.attempt,
            started_at: outcome.started_at,
            duration_ms: outcome.reason.is_none().then(|| milliseconds(outcome.duration)),
            step: cause.map(|cause| cause.step),
            error: cause.map(|cause| cause.error.clone()).or_else(|| outcome.reason.clone()),
            output: cause.map(|cause| cause.output.clone()).unwrap_or_default(),
        }
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
