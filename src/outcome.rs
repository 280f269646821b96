//! How a deploy ended: for the log, for `on_outcome`, and for the record.

use std::fmt;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize, Serializer};

use crate::config::AppName;
use crate::journal::Record;
use crate::router::Revision;

/// A step of a deploy, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Step {
    /// The command that runs while the old version still serves.
    Prepare,
    /// Stopping the services.
    Stop,
    /// The command that runs while they are down.
    Update,
    /// Starting the services.
    Start,
    /// Seeing that they stay up.
    Verify,
    /// The command that looks whether they work.
    Check,
}

impl Step {
    /// Its name in the configuration and in logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Prepare => "prepare",
            Self::Stop => "stop",
            Self::Update => "update",
            Self::Start => "start",
            Self::Verify => "verify",
            Self::Check => "check",
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A step that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Failure {
    /// Which step.
    pub step: Step,
    /// The service it was about, if it was about one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// What went wrong, in one line, with the command and its exit status.
    pub error: String,
    /// The exit status of the command, when it had one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// The command's last lines of output.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub output: Vec<String>,
}

/// The result of a deploy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// The revision runs, stayed up, and passed its check.
    Deployed,
    /// Some step failed.
    Failed,
    /// The agent had to end before the deploy did.
    Interrupted,
    /// The configuration no longer wanted it.
    Dropped,
}

impl Verdict {
    /// Its name in logs, JSON and the environment of `on_outcome`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Deployed => "deployed",
            Self::Failed => "failed",
            Self::Interrupted => "interrupted",
            Self::Dropped => "dropped",
        }
    }
}

/// How a deploy ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The app.
    pub app: AppName,
    /// What was to be deployed.
    pub revision: Revision,
    /// What was deployed last before it.
    pub previous: Option<Revision>,
    /// How it ended.
    pub verdict: Verdict,
    /// What failed; the first is the cause. Empty after a success.
    pub failures: Vec<Failure>,
    /// Why it ended without an attempt, where it did.
    pub reason: Option<String>,
    /// 1 for the first attempt of the revision; 0 when it was given up without one.
    pub attempt: u32,
    /// Pushes that this one replaced before they were deployed.
    pub superseded: u32,
    /// When it began.
    pub started_at: SystemTime,
    /// How long it took.
    pub duration: Duration,
}

impl Outcome {
    /// The pending revision of this record was given up without another attempt.
    pub fn given_up(verdict: Verdict, record: &Record, revision: Revision, reason: String) -> Self {
        Self {
            app: record.app.clone(),
            revision,
            previous: record.last_good.clone(),
            verdict,
            failures: Vec::new(),
            reason: Some(reason),
            attempt: 0,
            superseded: 0,
            started_at: SystemTime::now(),
            duration: Duration::ZERO,
        }
    }

    /// The agent is ending, and could not bring every service up.
    pub fn leaves_services_down(&self) -> bool {
        let about_being_up = |failure: &Failure| matches!(failure.step, Step::Start | Step::Verify);
        self.verdict == Verdict::Interrupted && self.failures.iter().any(about_being_up)
    }

    /// What it was that failed first.
    pub fn cause(&self) -> Option<&Failure> {
        self.failures.first()
    }
}

impl Serialize for Outcome {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Flat<'a> {
            app: &'a str,
            outcome: Verdict,
            repository: &'a str,
            r#ref: &'a str,
            sha: &'a str,
            #[serde(skip_serializing_if = "Option::is_none")]
            previous_sha: Option<&'a str>,
            #[serde(skip_serializing_if = "Option::is_none")]
            delivery: Option<&'a str>,
            failures: &'a [Failure],
            #[serde(skip_serializing_if = "Option::is_none")]
            reason: Option<&'a str>,
            attempt: u32,
            superseded: u32,
            started_at: String,
            duration_ms: u64,
        }
        Flat {
            app: self.app.as_str(),
            outcome: self.verdict,
            repository: self.revision.repo.as_str(),
            r#ref: self.revision.git_ref.as_str(),
            sha: self.revision.commit.as_str(),
            previous_sha: self.previous.as_ref().map(|previous| previous.commit.as_str()),
            delivery: self.revision.delivery.as_deref(),
            failures: &self.failures,
            reason: self.reason.as_deref(),
            attempt: self.attempt,
            superseded: self.superseded,
            started_at: humantime::format_rfc3339_millis(self.started_at).to_string(),
            duration_ms: u64::try_from(self.duration.as_millis()).unwrap_or(u64::MAX),
        }
        .serialize(serializer)
    }
}
