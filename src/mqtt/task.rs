//! The task that keeps a connection: one after the other, with a pause between those that fail.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, warn};

use super::ConnectionState;
use super::backoff::Backoff;
use super::closings::Closings;
use super::complaints::Complaints;
use super::ended::{End, Ended};
use super::failure::Failure;
use super::link::Access;
use super::message::Receipt;
use super::queue::Intake;
use super::session;
use super::settings::{Interest, MqttSettings};
use super::subscriptions::Subscriptions;
use super::unfit::Drops;
use crate::exposure::Known;

/// What outlives a connection.
pub(super) struct Core {
    pub(super) settings: MqttSettings,
    /// The broker as logs name it.
    pub(super) broker: String,
    pub(super) interest: watch::Receiver<Arc<Interest>>,
    pub(super) subscriptions: Subscriptions,
    pub(super) intake: Intake,
    pub(super) receipts: UnboundedReceiver<Receipt>,
    pub(super) receipts_sender: UnboundedSender<Receipt>,
    pub(super) state: watch::Sender<ConnectionState>,
    pub(super) held: watch::Sender<BTreeSet<String>>,
    pub(super) shutdown: CancellationToken,
    /// Counts connections: an acknowledgement belongs to one.
    pub(super) generation: u64,
    /// When there was a connection last.
    pub(super) lost_at: Option<SystemTime>,
    /// Whether the broker should know this client's session.
    pub(super) has_session: bool,
    pub(super) qos0_warned: bool,
    pub(super) drops: Drops,
    /// The files that others could read when they were read last.
    pub(super) exposed: Known,
}

impl Core {
    pub(super) fn set_state(&self, state: ConnectionState) {
        self.state.send_if_modified(|current| {
            let changed = *current != state;
            *current = state;
            changed
        });
    }

    fn set_down(&self, reason: String, retry_in: Duration) {
        self.state.send_modify(|state| {
            let since = match state {
                ConnectionState::Down { since, .. } => *since,
                _ => SystemTime::now(),
            };
            *state = ConnectionState::Down { reason, since, retry_in };
        });
    }

    pub(super) fn publish_held(&self) {
        self.held.send_if_modified(|held| {
            let changed = held != self.subscriptions.held();
            if changed {
                held.clone_from(self.subscriptions.held());
            }
            changed
        });
    }

    pub(super) fn session_began(&mut self, present: bool) {
        if self.has_session && !present {
            let since = self.lost_at.map(|at| humantime::format_rfc3339_seconds(at).to_string());
            warn!(
                broker = self.broker,
                client_id = self.settings.client_id,
                since,
                "the broker did not keep the session: pushes may have been missed"
            );
        }
        self.has_session = true;
    }
}

/// Keeps a connection until it is told to stop.
pub(super) async fn run(mut core: Core) {
    let mut retry = Retry::default();
    while !core.shutdown.is_cancelled() {
        let ended = connect(&mut core).await;
        let Some(delay) = retry.after(&core, ended) else { continue };
        let shutdown = core.shutdown.clone();
        let _ = tokio::time::timeout(delay, shutdown.cancelled()).await;
    }
}

async fn connect(core: &mut Core) -> Ended {
    let settings = core.settings.clone();
    let reading = tokio::task::spawn_blocking(move || Access::read(&settings));
    let access = tokio::select! {
        access = reading => access,
        () = core.shutdown.cancelled() => return Ended::before_it_began(End::Stopped),
    };
    match access {
        Ok(Ok(access)) => {
            for file in core.exposed.news(&access.exposed) {
                warn!("{file}");
            }
            session::run(core, &access).await
        }
        Ok(Err(failure)) => Ended::before_it_began(End::Failed(failure)),
        Err(_) => Ended::before_it_began(End::Failed(Failure::Network(
            "reading the files of the mqtt section was interrupted".into(),
        ))),
    }
}

/// What is remembered from one failure to the next.
struct Retry {
    backoff: Backoff<fn() -> f64>,
    complaints: Complaints,
    closings: Closings,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            backoff: Backoff::new(fastrand::f64),
            complaints: Complaints::default(),
            closings: Closings::default(),
        }
    }
}

impl Retry {
    /// How long to wait before the next connection; `None`: not at all.
    fn after(&mut self, core: &Core, ended: Ended) -> Option<Duration> {
        let lasted = ended.connected_at.map(|at| at.elapsed());
        let connected = lasted.is_some();
        if let Some(served) = ended.served() {
            self.backoff.connection_ended(served);
        }
        match ended.why {
            End::Stopped => None,
            End::Renew => {
                core.set_state(ConnectionState::Connecting);
                None
            }
            End::Failed(failure) => {
                let failure = self.closings.recognise(failure, lasted, ended.asked_for);
                Some(self.failed(core, &failure, connected))
            }
        }
    }

    fn failed(&mut self, core: &Core, failure: &Failure, connected: bool) -> Duration {
        let delay = if failure.lasting() { self.backoff.long() } else { self.backoff.short() };
        let reason = failure.explain(&core.settings, connected);
        self.log(core, failure, &reason, connected, delay);
        core.set_down(reason, delay);
        delay
    }

    fn log(&mut self, core: &Core, failure: &Failure, reason: &str, connected: bool, delay: Duration) {
        // Whole milliseconds, for nobody reads nanoseconds.
        let delay = Duration::from_millis(u64::try_from(delay.as_millis()).unwrap_or(u64::MAX));
        let retry_in = humantime::format_duration(delay).to_string();
        let broker = &core.broker;
        if !self.complaints.worth(&failure.gist(reason), connected) {
            debug!(broker, reason, retry_in, "still no connection");
            return;
        }
        match (connected, failure.lasting()) {
            (true, true) => error!(broker, reason, retry_in, "connection lost"),
            (true, false) => warn!(broker, reason, retry_in, "connection lost"),
            (false, true) => error!(broker, reason, retry_in, "no connection"),
            (false, false) => warn!(broker, reason, retry_in, "no connection"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_other_client_is_given_time() {
        assert!(Failure::TakenOver.lasting() && Failure::ClosedSoon.lasting());
        let mut retry = Retry::default();
        assert!(retry.backoff.long() >= Duration::from_secs(30));
    }
}
