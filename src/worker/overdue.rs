//! When what a deploy asks of the service manager takes too long.

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::service::{DEFAULT_LIMIT, ServiceError, ServiceManager, ServiceName, start_limit, stop_limit};

/// How long a running command or stop, or a start of which nobody says how long it may take, may go on once the agent
/// is ending.
pub(super) const SHUTDOWN_GRACE: Duration = Duration::from_secs(60);
/// Most stops and starts are over by then.
const SOON: Duration = Duration::from_secs(1);

/// What went wrong with a service.
pub(super) struct Problem {
    pub(super) error: String,
    pub(super) output: Vec<String>,
}

impl Problem {
    pub(super) fn plain(error: String) -> Self {
        Self { error, output: Vec::new() }
    }
}

impl From<ServiceError> for Problem {
    fn from(error: ServiceError) -> Self {
        let output = match &error {
            ServiceError::Failed { output, .. } => output.clone(),
            _ => Vec::new(),
        };
        Self { error: error.to_string(), output }
    }
}

/// The answer, unless there is a problem with it first.
pub(super) async fn unless<T>(
    problem: impl Future<Output = Problem>,
    answer: impl Future<Output = Result<T, ServiceError>>,
) -> Result<T, Problem> {
    tokio::select! {
        biased;
        answered = answer => Ok(answered?),
        problem = problem => Err(problem),
    }
}

/// Comes to its end when what begins now takes longer than that.
pub(super) async fn late(limit: Duration) -> Problem {
    sleep(limit).await;
    Problem::plain(format!("took longer than {}", humantime::format_duration(limit)))
}

/// Comes to its end when a stop that begins now takes too long.
pub(super) async fn late_stop(
    manager: &dyn ServiceManager,
    service: &ServiceName,
    configured: Option<Duration>,
    shutdown: &CancellationToken,
) -> Problem {
    let begun = Instant::now();
    let limit = when_slow(configured, stop_limit(manager, service, configured));
    tokio::select! {
        problem = async { Bound::of(configured, limit.await, "stop_timeout").over(begun).await } => problem,
        problem = grace_over(shutdown) => problem,
    }
}

/// Comes to its end when a start that begins now takes too long. No service is left down on purpose: an agent that is
/// ending waits for as long as the start may take.
pub(super) async fn late_start(
    manager: &dyn ServiceManager,
    service: &ServiceName,
    configured: Option<Duration>,
    shutdown: &CancellationToken,
) -> Problem {
    let begun = Instant::now();
    let limit = when_slow(configured, start_limit(manager, service, configured));
    let mut grace_over = pin!(grace_over(shutdown));
    let limit = tokio::select! {
        limit = limit => limit,
        problem = &mut grace_over => return problem,
    };
    let bound = Bound::of(configured, limit, "start_timeout");
    if limit.is_some() {
        return bound.over(begun).await;
    }
    tokio::select! {
        problem = bound.over(begun) => problem,
        problem = grace_over => problem,
    }
}

/// How long something may take, and what to say when it takes longer.
struct Bound {
    limit: Duration,
    says: String,
}

impl Bound {
    /// `limit`: what there is of one; `key`: what the configuration calls it.
    fn of(configured: Option<Duration>, limit: Option<Duration>, key: &str) -> Self {
        let whose = match (configured, limit) {
            (Some(_), _) => format!("its {key}"),
            (None, Some(_)) => "what its unit allows, and 10 s".to_owned(),
            (None, None) => "the default, as its own limit is none or not known".to_owned(),
        };
        let limit = limit.unwrap_or(DEFAULT_LIMIT);
        let says = format!("took longer than {} ({whose}): raise {key}", humantime::format_duration(limit));
        Self { limit, says }
    }

    async fn over(self, begun: Instant) -> Problem {
        sleep(self.limit.saturating_sub(begun.elapsed())).await;
        Problem::plain(self.says)
    }
}

/// Puts the question to the service manager only once the answer counts: it takes as long as many a stop, and slows it
/// down. What is `configured` need not be asked.
async fn when_slow<T>(configured: Option<Duration>, answer: impl Future<Output = T>) -> T {
    if configured.is_none() {
        sleep(SOON).await;
    }
    answer.await
}

/// Comes to its end when the agent has been ending for too long.
async fn grace_over(shutdown: &CancellationToken) -> Problem {
    shutdown.cancelled().await;
    sleep(SHUTDOWN_GRACE).await;
    let grace = humantime::format_duration(SHUTDOWN_GRACE);
    Problem::plain(format!("the agent is ending, and waited {grace} for it"))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use crate::service::{Answer, Limits, Status, Trace};

    use super::*;

    /// Knows limits, and whether it was asked for them.
    struct Manager {
        limits: Limits,
        asked: AtomicBool,
    }

    impl Manager {
        fn of(limit: Option<u64>) -> Self {
            let limit = limit.map(Duration::from_secs);
            Self { limits: Limits { stop: limit, start: limit }, asked: AtomicBool::new(false) }
        }
    }

    impl ServiceManager for Manager {
        fn name(&self) -> &'static str {
            "manager"
        }

        fn stop<'a>(&'a self, _: &'a ServiceName, _: &'a Trace<'a>) -> Answer<'a, ()> {
            Box::pin(std::future::pending())
        }

        fn start<'a>(
            &'a self,
            _: &'a ServiceName,
            _: &'a [(String, String)],
            _: &'a Trace<'a>,
        ) -> Answer<'a, ()> {
            Box::pin(std::future::pending())
        }

        fn status<'a>(&'a self, _: &'a ServiceName) -> Answer<'a, Status> {
            Box::pin(std::future::pending())
        }

        fn limits<'a>(&'a self, _: &'a ServiceName) -> Answer<'a, Limits> {
            self.asked.store(true, Ordering::Relaxed);
            Box::pin(std::future::ready(Ok(self.limits)))
        }
    }

    /// After how many seconds a stop and a start count as late, of an agent that is told to end after so many.
    async fn late_after(own: Option<u64>, configured: Option<u64>, ends_after: u64) -> [u64; 2] {
        let (manager, service) = (Manager::of(own), "api".parse().unwrap());
        let configured = configured.map(Duration::from_secs);
        let shutdown = CancellationToken::new();
        let told = async {
            sleep(Duration::from_secs(ends_after)).await;
            shutdown.cancel();
            std::future::pending::<()>().await;
        };
        let begun = Instant::now();
        let passed = |_: Problem| begun.elapsed().as_secs();
        let stop = async { passed(late_stop(&manager, &service, configured, &shutdown).await) };
        let start = async { passed(late_start(&manager, &service, configured, &shutdown).await) };
        tokio::select! {
            (stop, start) = async { tokio::join!(stop, start) } => [stop, start],
            () = told => unreachable!("it never comes to its end"),
        }
    }

    const NEVER: u64 = 1_000_000;

    #[tokio::test(start_paused = true)]
    async fn the_app_counts_more_than_the_service_and_that_more_than_the_default() {
        assert_eq!(late_after(Some(30), Some(5), NEVER).await, [5, 5]);
        assert_eq!(late_after(Some(30), None, NEVER).await, [40, 40], "its manager gives up first");
        assert_eq!(late_after(None, None, NEVER).await, [600, 600]);
    }

    #[test]
    fn it_is_said_which_limit_it_was_and_what_to_raise() {
        let seconds = |limit| Some(Duration::from_secs(limit));
        for (configured, limit, says) in [
            (seconds(60), seconds(60), "took longer than 1m (its stop_timeout): raise stop_timeout"),
            (
                None,
                seconds(100),
                "took longer than 1m 40s (what its unit allows, and 10 s): raise stop_timeout",
            ),
            (
                None,
                None,
                "took longer than 10m (the default, as its own limit is none or not known): raise stop_timeout",
            ),
        ] {
            assert_eq!(Bound::of(configured, limit, "stop_timeout").says, says);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_agent_that_ends_waits_for_a_start_but_not_for_ever() {
        assert_eq!(late_after(None, Some(300), 0).await, [60, 300]);
        assert_eq!(late_after(Some(300), None, 0).await, [60, 310]);
        assert_eq!(late_after(None, None, 0).await, [60, 60]);
        assert_eq!(late_after(None, None, 100).await, [160, 160]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_over_soon_is_not_asked_about() {
        let (manager, service, shutdown) =
            (Manager::of(None), "api".parse().unwrap(), CancellationToken::new());
        let over = sleep(SOON / 2);
        tokio::select! {
            _ = late_stop(&manager, &service, None, &shutdown) => panic!("it is not late"),
            _ = late_start(&manager, &service, None, &shutdown) => panic!("it is not late"),
            () = over => assert!(!manager.asked.load(Ordering::Relaxed)),
        }
    }
}
