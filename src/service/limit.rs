//! How long a stop or a start may take: as the app says, else as the service itself does.

use std::time::Duration;

use tokio::time::timeout;

use super::{Limits, ServiceManager, ServiceName};

/// For a service whose own limit is not known, or is none: longer than systemd's default of 90 s.
pub(crate) const DEFAULT_LIMIT: Duration = Duration::from_secs(10 * 60);
/// On top of a unit's own limit, so that its manager is the first to give up and can say why.
const MARGIN: Duration = Duration::from_secs(10);
/// For asking after the limit itself.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long a stop may take. `None`: nobody says.
pub(crate) async fn stop_limit(
    manager: &dyn ServiceManager,
    service: &ServiceName,
    configured: Option<Duration>,
) -> Option<Duration> {
    limit(manager, service, configured, |limits| limits.stop).await
}

/// How long a start may take. `None`: nobody says.
pub(crate) async fn start_limit(
    manager: &dyn ServiceManager,
    service: &ServiceName,
    configured: Option<Duration>,
) -> Option<Duration> {
    limit(manager, service, configured, |limits| limits.start).await
}

async fn limit(
    manager: &dyn ServiceManager,
    service: &ServiceName,
    configured: Option<Duration>,
    own: impl Fn(Limits) -> Option<Duration>,
) -> Option<Duration> {
    if configured.is_some() {
        return configured;
    }
    // A manager that cannot even say this will fail the step itself, with a better message.
    let limits = timeout(PATIENCE, manager.limits(service)).await.ok()?.ok()?;
    own(limits).map(|limit| limit.saturating_add(MARGIN))
}
