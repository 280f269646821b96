//! What a worker still does once the agent is ending, and how long that may take.

use std::sync::Arc;
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
        let manager = shared.setup().context.manager.clone();
        let mut longest = LONGEST_END;
        for service in &attempt.services {
            let limit = start_limit(manager.as_ref(), service, attempt.rescue.start_timeout).await;
            longest = longest.saturating_add(limit.unwrap_or(SHUTDOWN_GRACE));
        }
        Some(longest)
    }

    /// What runs, its own or that of one before it: of one name, only one deploys.
    fn attempt(&self) -> Option<(&Shared, InProgress)> {
        let workers = self.former.iter().chain([&self.shared]);
        workers.map(Arc::as_ref).find_map(|shared| Some((shared, shared.attempt()?)))
    }

    /// It and those before it that still deploy: its successor waits for them.
    pub(super) fn line(&self) -> Vec<Arc<Shared>> {
        let deploying = self.former.iter().filter(|shared| shared.attempt().is_some());
        deploying.chain([&self.shared]).cloned().collect()
    }
}

impl Shared {
    fn attempt(&self) -> Option<InProgress> {
        self.ledger.machine().record().attempt.clone()
    }
}
