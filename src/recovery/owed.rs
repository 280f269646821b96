//! What a start alone does not mend: units that went down with the services, and such as count as up without a process.

use std::sync::Mutex;

use tokio::time::timeout;
use tracing::warn;

use crate::config::AppName;
use crate::journal::{InProgress, Record};
use crate::service::{DEFAULT_LIMIT, ServiceManager, ServiceName, Status, Trace, stop_limit};

use super::{LOOK, lock, start_service};

/// False: one of them is not up. Not targets: at a boot they wait for the agent to be ready, and so would the agent for
/// them; the next deploy sees to them.
pub(super) async fn start_owed(
    record: &Mutex<Record>,
    attempt: &InProgress,
    manager: &dyn ServiceManager,
    trace: &Trace<'_>,
) -> bool {
    let (app, owed) = {
        let record = lock(record);
        (record.app.clone(), record.owed.clone())
    };
    let mut left = Vec::new();
    for service in owed {
        if !service.is_target() {
            start_service(&app, &service, attempt, manager, &[], trace).await;
        }
        if !is_up(manager, &service).await {
            left.push(service);
        }
    }
    let is_up = left.iter().all(ServiceName::is_target);
    lock(record).owed = left;
    is_up
}

async fn is_up(manager: &dyn ServiceManager, service: &ServiceName) -> bool {
    let look = timeout(LOOK, manager.status(service)).await;
    matches!(
        look,
        Ok(Ok(Status::Running { .. } | Status::Starting | Status::Completed { .. } | Status::Unclear))
    )
}

/// A start does nothing to what counts as up without a process.
pub(super) async fn stop_what_has_ended(
    app: &AppName,
    service: &ServiceName,
    manager: &dyn ServiceManager,
    trace: &Trace<'_>,
) {
    let look = timeout(LOOK, manager.status(service)).await;
    if !matches!(look, Ok(Ok(Status::Ended | Status::Unclear))) {
        return;
    }
    let limit = stop_limit(manager, service, None).await.unwrap_or(DEFAULT_LIMIT);
    match timeout(limit, manager.stop(service, trace)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => warn!(%app, %service, %error, "cannot stop a service whose process has ended"),
        Err(_) => warn!(%app, %service, "stopping a service whose process has ended takes too long"),
    }
}
