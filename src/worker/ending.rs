//! What a worker still does once the agent is ending, and how long that may take.

use std::sync::{Arc, Weak};
use std::time::Duration;

use crate::github::CommitId;
use crate::journal::InProgress;
use crate::service::start_limit;

use super::overdue::SHUTDOWN_GRACE;
use super::{Shared, Worker};

/// A command that runs, its end if it does not heed the first word, looks at the services, and the notification: without
/// the starts of the services.
const LONGEST_END: Duration = Duration::from_secs(2 * 60);

impl Worker {
    /// The commit that is being deployed now.
    pub(crate) fn deploying(&self) -> Option<CommitId> {
        self.attempt().map(|(_, attempt)| attempt.revision.commit)
    }

    /// How long a running deploy may take to end once the agent is ending. `None`: none runs.
    pub(crate) async fn longest_end(&self) -> Option<Duration> {
        let (shared, attempt) = self.attempt()?;
        let owed = shared.ledger.machine().record().owed.clone();
        let manager = shared.setup().context.manager.clone();
        let mut longest = LONGEST_END;
        for service in attempt.services.iter().chain(&owed) {
            let limit = start_limit(manager.as_ref(), service, attempt.rescue.start_timeout).await;
            longest = longest.saturating_add(limit.unwrap_or(SHUTDOWN_GRACE));
        }
        Some(longest)
    }

    /// It has ended with services down, and the next agent must find that where it is recorded.
    pub(super) fn leaves_its_record(&self) -> bool {
        self.shared.is_deploying() || !self.shared.ready.is_cancelled()
    }

    /// What runs, its own or that of one before it: of one name, only one deploys.
    fn attempt(&self) -> Option<(Arc<Shared>, InProgress)> {
        self.line().into_iter().find_map(|shared| {
            let attempt = shared.attempt()?;
            Some((shared, attempt))
        })
    }

    /// It and those before it that have not ended: its successor waits for them.
    pub(super) fn line(&self) -> Vec<Arc<Shared>> {
        let former = self.former.iter().filter_map(Weak::upgrade);
        former.chain([self.shared.clone()]).collect()
    }
}

impl Shared {
    pub(super) fn is_deploying(&self) -> bool {
        self.ledger.machine().record().attempt.is_some()
    }

    fn attempt(&self) -> Option<InProgress> {
        self.ledger.machine().record().attempt.clone()
    }
}
