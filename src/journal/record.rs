//! What is remembered of one app.

use std::collections::{BTreeSet, VecDeque};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::command::{Mark, Running};
use crate::config::{App, AppName};
use crate::github::RepoName;
use crate::outcome::{Outcome, Verdict};
use crate::router::Revision;
use crate::service::ServiceName;

use super::admission::{self, Admission};
use super::desired::{Desired, INTERRUPTIONS, InProgress};
use super::entry::Entry;
use super::rescue::Rescue;

/// The format that this version writes.
pub(super) const VERSION: u32 = 1;
/// Push identities that are remembered.
const IDENTITIES: usize = 64;
/// Outcomes that are kept.
const OUTCOMES: usize = 20;

/// One app's part of the journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    pub(super) version: u32,
    /// The app.
    pub app: AppName,
    /// Its repository; another one under the same name is another app.
    pub repository: RepoName,
    /// The services as they were configured last.
    pub services: Vec<ServiceName>,
    #[serde(default)]
    /// The newest push that was taken.
    pub desired: Option<Desired>,
    #[serde(default)]
    /// What runs for certain: forgotten before the first stop, set by a verified success.
    pub deployed: Option<Revision>,
    #[serde(default)]
    /// What ran for certain last.
    pub last_good: Option<Revision>,
    #[serde(default)]
    /// The attempt in progress.
    pub attempt: Option<InProgress>,
    /// An interrupted attempt whose services could not be started: each start of an agent tries again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left_down: Option<InProgress>,
    /// The greatest date of a push that was taken.
    #[serde(with = "super::time::optional", default)]
    pub(super) high: Option<SystemTime>,
    #[serde(default)]
    pub(super) seen: VecDeque<Seen>,
    /// The greatest date of those that had to make room.
    #[serde(with = "super::time::optional", default)]
    pub(super) forgotten: Option<SystemTime>,
    /// When redeliveries had a failed revision tried again.
    #[serde(with = "super::time::list", default)]
    redeliveries: Vec<SystemTime>,
    #[serde(default)]
    /// Pushes that were replaced by a newer one before they were deployed.
    pub superseded: u64,
    #[serde(default)]
    /// The last outcomes, the oldest first.
    pub outcomes: VecDeque<Entry>,
    /// Units that went down with the services, and are still to be started again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) owed: Vec<ServiceName>,
}

/// What follows from the end of an attempt.
#[derive(Debug, Default)]
pub(crate) struct Ended {
    /// The same revision will be tried again.
    pub(crate) retry: bool,
    /// It was interrupted too often, and will not be.
    pub(crate) given_up: Option<Outcome>,
}

/// A push that was taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Seen {
    identity: String,
    #[serde(with = "super::time")]
    at: SystemTime,
}

impl Record {
    /// A record of an app of which nothing is known.
    pub fn new(app: &App) -> Self {
        Self::of(app.name.clone(), app.repo.clone(), app.services.clone())
    }

    fn of(app: AppName, repository: RepoName, services: Vec<ServiceName>) -> Self {
        Self {
            version: VERSION,
            app,
            repository,
            services,
            desired: None,
            deployed: None,
            last_good: None,
            attempt: None,
            left_down: None,
            high: None,
            seen: VecDeque::new(),
            forgotten: None,
            redeliveries: Vec::new(),
            superseded: 0,
            outcomes: VecDeque::new(),
            owed: Vec::new(),
        }
    }

    #[cfg(test)]
    pub(crate) fn for_test(app: &str, repo: &str) -> Self {
        Self::of(app.parse().unwrap(), repo.parse().unwrap(), vec![app.parse().unwrap()])
    }

    /// Decides about a push, and makes it the desired revision if it is taken.
    pub(crate) fn admit(&mut self, push: &Revision, retained: bool, now: SystemTime) -> Admission {
        let admission = admission::admit(self, push, retained, now);
        match admission {
            Admission::Taken | Admission::AlreadyDeployed => {
                self.take(push, now);
                let runs = self.pending().is_none() && self.attempt.is_none();
                return if runs { Admission::AlreadyDeployed } else { Admission::Taken };
            }
            Admission::TriedAgain => {
                self.redeliveries.retain(|at| *at > now - admission::HOUR && *at <= now);
                self.redeliveries.push(now);
                if let Some(desired) = &mut self.desired {
                    *desired = Desired::new(desired.revision.clone());
                }
            }
            Admission::Duplicate | Admission::Stale => {}
        }
        admission
    }

    fn take(&mut self, push: &Revision, now: SystemTime) {
        let date = admission::counting_date(push, now);
        self.high = admission::high(self, now).max(date);
        if self.seen.len() == IDENTITIES {
            // The oldest by its date: what is forgotten must be before all that is remembered.
            let oldest = self.seen.iter().enumerate().min_by_key(|(_, seen)| seen.at).map(|(i, _)| i);
            let oldest = oldest.and_then(|i| self.seen.remove(i));
            self.forgotten = self.forgotten.max(oldest.map(|seen| seen.at));
        }
        self.redeliveries.clear();
        // One made by a clock that is ahead is not remembered for longer than others.
        let at = push.by_hand.as_ref().map(|made| made.at.min(now)).or(date).unwrap_or(now);
        self.seen.push_back(Seen { identity: push.identity(), at });
        let replaced = self
            .desired
            .as_ref()
            .filter(|desired| self.pending().is_some() && !self.is_deploying(&desired.revision));
        let superseded = replaced.map_or(0, |desired| desired.superseded + 1);
        self.superseded += u64::from(superseded > 0);
        self.desired = Some(Desired { superseded, ..Desired::new(push.clone()) });
    }

    /// The revision that has yet to be deployed.
    pub fn pending(&self) -> Option<&Revision> {
        let desired = self.desired.as_ref().filter(|desired| !desired.failed)?;
        let runs = self.deployed.as_ref().is_some_and(|deployed| deployed.commit == desired.revision.commit);
        (desired.again || !runs).then_some(&desired.revision)
    }

    pub(crate) fn is_deploying(&self, revision: &Revision) -> bool {
        self.attempt.as_ref().is_some_and(|attempt| attempt.revision.commit == revision.commit)
    }

    /// Counts an attempt to deploy what is pending. `touches`: its first step is to stop the services.
    pub(crate) fn begin(&mut self, touches: bool, rescue: Rescue, now: SystemTime) -> Option<InProgress> {
        let revision = self.pending()?.clone();
        let desired = self.desired.as_mut()?;
        desired.attempts += 1;
        let attempt = InProgress {
            revision,
            number: desired.attempts,
            superseded: desired.superseded,
            services: self.services.clone(),
            started_at: now,
            touched: false,
            mark: Mark::random(),
            running: None,
            rescue,
        };
        self.attempt = Some(attempt.clone());
        if touches {
            self.touch();
        }
        Some(attempt)
    }

    /// Services are about to be stopped: what is deployed is not known until the attempt has succeeded.
    pub(crate) fn touch(&mut self) {
        self.deployed = None;
        if let Some(attempt) = &mut self.attempt {
            attempt.touched = true;
        }
    }

    /// A command of the attempt was begun, or has ended.
    pub(crate) fn set_running(&mut self, running: Option<Running>) {
        if let Some(attempt) = &mut self.attempt {
            attempt.running = running;
        }
    }

    /// The attempt has ended. `retries`: how often a failed one is tried again.
    pub(crate) fn end(&mut self, entry: Entry, retries: u32) -> Ended {
        let verdict = entry.outcome;
        self.note(entry);
        let Some(attempt) = self.attempt.take() else { return Ended::default() };
        if attempt.touched {
            self.brought_up(&attempt.services);
        }
        if verdict == Verdict::Deployed {
            self.deployed = Some(attempt.revision.clone());
            self.last_good = Some(attempt.revision.clone());
        }
        // A newer push came meanwhile: the attempt says nothing about it.
        let Some(desired) = self.desired.as_mut().filter(|it| it.revision.is(&attempt.revision)) else {
            return Ended::default();
        };
        match verdict {
            Verdict::Deployed => desired.again = false,
            Verdict::Interrupted => {
                desired.interrupt();
                return Ended { retry: false, given_up: self.give_up_interrupted(attempt) };
            }
            Verdict::Failed | Verdict::Dropped => {
                desired.failed = desired.attempts.saturating_sub(desired.interrupted) > retries;
            }
        }
        Ended { retry: verdict == Verdict::Failed && !desired.failed, given_up: None }
    }

    /// Counts the attempt that was in progress when the agent was killed among the interrupted ones. It stays in
    /// progress until its services are up.
    pub(crate) fn count_interruption(&mut self) -> Option<InProgress> {
        let attempt = self.attempt.clone()?;
        if let Some(desired) = self.desired.as_mut().filter(|it| it.revision.is(&attempt.revision)) {
            desired.interrupt();
        }
        Some(attempt)
    }

    /// Whatever an interrupted attempt had stopped was started, or could not be. Its revision may be given up.
    pub(crate) fn interrupted(&mut self, is_up: bool) -> Option<Outcome> {
        let attempt = self.attempt.take()?;
        self.note(Entry::interrupted(&attempt));
        if attempt.touched {
            if is_up {
                self.brought_up(&attempt.services);
            } else {
                self.left_down = Some(attempt.clone());
            }
        }
        self.give_up_interrupted(attempt)
    }

    /// These were started, or it is known that they do not start.
    pub(crate) fn brought_up(&mut self, services: &[ServiceName]) {
        let among = |down: &ServiceName| services.iter().any(|service| service.key() == down.key());
        self.left_down.take_if(|attempt| attempt.services.iter().all(among));
    }

    fn give_up_interrupted(&mut self, attempt: InProgress) -> Option<Outcome> {
        self.desired.as_ref().filter(|it| it.failed && it.revision.is(&attempt.revision))?;
        let why = format!("interrupted {INTERRUPTIONS} times: it waits for a new push");
        Some(self.give_up(Verdict::Failed, attempt.revision, why))
    }

    fn give_up(&mut self, verdict: Verdict, revision: Revision, why: String) -> Outcome {
        let outcome = Outcome::given_up(verdict, self, revision, why);
        self.note(Entry::from(&outcome));
        outcome
    }

    /// Whether it follows the app's configuration already, and nothing is in progress.
    pub(crate) fn fits(&self, app: &App) -> bool {
        self.attempt.is_none() && self.services == app.services && self.wants_what_is_pending(app)
    }

    /// Also if nothing is.
    fn wants_what_is_pending(&self, app: &App) -> bool {
        self.pending().is_none_or(|pending| {
            let default_branch = pending.git_ref.branch().filter(|_| pending.on_default_branch);
            app.refs.allow(&pending.git_ref, default_branch).is_ok()
        })
    }

    /// Takes over the app's configuration. Gives up what it no longer matches.
    /// While an attempt is in progress, that waits until it has ended.
    pub(crate) fn fit(&mut self, app: &App) -> Option<Outcome> {
        if self.attempt.is_some() {
            return None;
        }
        if !are_the_same(&self.services, &app.services) {
            // Whether the others run the commit too is not known, and what failed with these may not with those.
            self.deployed = None;
            if let Some(desired) = self.desired.as_mut().filter(|desired| !desired.failed) {
                (desired.attempts, desired.interrupted) = (0, 0);
            }
        }
        self.services.clone_from(&app.services);
        if self.wants_what_is_pending(app) {
            return None;
        }
        let revision = self.desired.take()?.revision;
        // It was never deployed: once its ref is wanted again, GitHub may deliver it again.
        let identity = revision.identity();
        self.seen.retain(|seen| seen.identity != identity);
        let why = "the configuration no longer has its ref".to_owned();
        Some(self.give_up(Verdict::Dropped, revision, why))
    }

    fn note(&mut self, entry: Entry) {
        if self.outcomes.len() == OUTCOMES {
            self.outcomes.pop_front();
        }
        self.outcomes.push_back(entry);
    }

    pub(super) fn remembers(&self, push: &Revision) -> bool {
        let identity = push.identity();
        self.seen.iter().any(|seen| seen.identity == identity)
    }

    pub(super) fn oldest_remembered(&self) -> Option<SystemTime> {
        self.seen.iter().map(|seen| seen.at).min()
    }

    pub(super) fn redeliveries_since(&self, start: SystemTime) -> usize {
        self.redeliveries.iter().filter(|at| **at > start && **at <= start + admission::HOUR).count()
    }
}

/// In whatever order, and however they are spelt.
fn are_the_same(services: &[ServiceName], others: &[ServiceName]) -> bool {
    let keys = |services: &[ServiceName]| -> BTreeSet<String> {
        services.iter().map(|service| service.key().to_owned()).collect()
    };
    keys(services) == keys(others)
}

#[cfg(test)]
mod tests;
