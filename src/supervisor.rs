//! What systemd is told about the agent, by sd_notify(3). Without systemd, nothing happens.

use std::future::Future;
use std::pin::{Pin, pin};
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::time::{Sleep, interval, sleep};
use tracing::debug;

use crate::slack;

/// For how long systemd is asked to be patient, again and again.
const PATIENCE: Duration = Duration::from_secs(60);

/// The service manager that runs the agent itself.
#[derive(Debug)]
pub struct Supervisor {
    /// Somebody listens.
    told: bool,
    watchdog: Option<Duration>,
}

impl Supervisor {
    /// As the environment says (`NOTIFY_SOCKET`, `WATCHDOG_USEC`).
    pub fn from_environment() -> Self {
        Self { told: true, watchdog: sd_notify::watchdog_enabled() }
    }

    /// None: nobody is told anything.
    pub fn none() -> Self {
        Self { told: false, watchdog: None }
    }

    /// How often to say that the main loop is alive: half the limit, as sd_watchdog_enabled(3) advises.
    pub fn heartbeat(&self) -> Heartbeat {
        let pause = self.watchdog.map(|limit| limit / 2).filter(|pause| !pause.is_zero());
        Heartbeat(pause.map(|pause| (pause, Box::pin(sleep(Duration::ZERO)))))
    }

    /// The start is complete, or the reload is.
    pub fn ready(&self) {
        self.notify(&[NotifyState::Ready]);
    }

    /// A reload begins; [`Supervisor::ready`] ends it.
    pub fn reloading(&self) {
        // Type=notify-reload wants the time beside it (systemd 253 and newer).
        match NotifyState::monotonic_usec_now() {
            Ok(now) => self.notify(&[NotifyState::Reloading, now]),
            Err(_) => self.notify(&[NotifyState::Reloading]),
        }
    }

    /// The agent is about to end.
    pub fn stopping(&self) {
        self.notify(&[NotifyState::Stopping]);
    }

    /// The end takes so much longer (EXTEND_TIMEOUT_USEC; systemd 236 and newer).
    pub fn extend_timeout(&self, by: Duration) {
        self.notify(&[NotifyState::ExtendTimeoutUsec(u32::try_from(by.as_micros()).unwrap_or(u32::MAX))]);
    }

    /// Waits for what takes its time before the start is complete, or at the end, while systemd is kept patient.
    pub async fn attend<T>(&self, heartbeat: &mut Heartbeat, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        let mut patience = interval(PATIENCE / 2);
        loop {
            tokio::select! {
                done = &mut work => return done,
                () = heartbeat.beat() => self.alive(),
                _ = patience.tick() => self.extend_timeout(PATIENCE),
            }
        }
    }

    /// One line for `systemctl status`.
    pub fn status(&self, text: &str) {
        self.notify(&[NotifyState::Status(text)]);
    }

    /// The main loop is alive.
    pub fn alive(&self) {
        self.notify(&[NotifyState::Watchdog]);
    }

    fn notify(&self, state: &[NotifyState<'_>]) {
        if !self.told {
            return;
        }
        if let Err(error) = sd_notify::notify(state) {
            debug!(%error, "cannot notify systemd");
        }
    }
}

/// The watchdog's clock; silent where there is none.
#[derive(Debug)]
pub struct Heartbeat(Option<(Duration, Pin<Box<Sleep>>)>);

impl Heartbeat {
    /// Waits until it is time to say that the main loop is alive.
    pub async fn beat(&mut self) {
        match &mut self.0 {
            Some((pause, next)) => {
                next.as_mut().await;
                next.as_mut().reset(slack::deadline(*pause));
            }
            None => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_watchdog_is_fed_at_once_and_then_with_other_long_timers() {
        let limit = Duration::from_secs(60);
        let mut heartbeat = Supervisor { told: false, watchdog: Some(limit) }.heartbeat();
        let start = Instant::now();
        heartbeat.beat().await;
        assert_eq!(start, Instant::now());
        for _ in 0..3 {
            let shared = slack::deadline(limit / 2);
            heartbeat.beat().await;
            let late = Instant::now() - shared;
            assert!(late < Duration::from_millis(1), "{late:?}");
        }
    }
}
