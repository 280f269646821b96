//! The revision that an app shall run, and the attempt to get it there.

use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::command::{Mark, Running};
use crate::router::Revision;
use crate::service::ServiceName;

use super::rescue::Rescue;

/// Interrupted attempts of one revision after which it counts as failed.
pub(super) const INTERRUPTIONS: u32 = 3;

/// The revision that the app shall run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Desired {
    /// The revision.
    pub revision: Revision,
    #[serde(default)]
    /// It was tried as often as it may be: it waits for a new push.
    pub failed: bool,
    #[serde(default)]
    /// Attempts that were begun.
    pub attempts: u32,
    #[serde(default)]
    /// Those of them that were interrupted.
    pub interrupted: u32,
    #[serde(default)]
    /// To be deployed even if its commit runs already.
    pub again: bool,
    /// Pushes that it replaced before they were deployed.
    pub superseded: u32,
}

impl Desired {
    pub(super) fn new(revision: Revision) -> Self {
        let again = revision.by_hand.as_ref().is_some_and(|made| made.again);
        Self { revision, failed: false, attempts: 0, interrupted: 0, again, superseded: 0 }
    }

    pub(super) fn interrupt(&mut self) {
        self.interrupted += 1;
        self.failed = self.interrupted >= INTERRUPTIONS;
    }
}

/// An attempt that has begun and not ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InProgress {
    /// What is being deployed.
    pub revision: Revision,
    /// 1 for the first attempt of the revision.
    pub number: u32,
    /// Pushes that it replaced before they were deployed.
    pub superseded: u32,
    /// The services that it stops and starts, whatever a reload says meanwhile.
    pub services: Vec<ServiceName>,
    /// When it began.
    #[serde(with = "super::time")]
    pub started_at: SystemTime,
    /// Services were stopped, or are about to be.
    pub touched: bool,
    /// By which whatever it runs is found when the agent does not live to see its end.
    pub mark: Mark,
    /// The process group of the command that was begun last, a service manager's included, where systemd does not know
    /// it by name: it may have cleared its environment, and the mark with it.
    pub running: Option<Running>,
    /// What it takes to start the services again.
    #[serde(default)]
    pub rescue: Rescue,
}
