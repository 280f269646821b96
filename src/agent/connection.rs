//! The agent's end of the connection: what comes from it, and what it is asked for.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use tracing::warn;

use crate::config::Settings;
use crate::journal::{Session, SessionFile};
use crate::mqtt::{self, ConnectionState, Handle, Interest, Message, Messages};
use crate::router::Router;

/// How long the end waits for the disk to take what there is to remember.
const LAST_WRITE: Duration = Duration::from_secs(5);

/// The connection to the broker, what comes from it, and what it is asked for.
pub(super) struct Connection {
    pub(super) handle: Handle,
    pub(super) messages: Messages,
    pub(super) state: watch::Receiver<ConnectionState>,
    pub(super) held_filters: watch::Receiver<BTreeSet<String>>,
    pub(super) interest: watch::Sender<Arc<Interest>>,
    file: SessionFile,
    session: Session,
    up: bool,
}

/// What the connection has to say.
pub(super) enum Heard {
    /// The polling task has ended, although it was not told to.
    End,
    State,
    HeldFilters,
    Message(Message),
}

impl Connection {
    pub(super) fn open(settings: &Settings, router: &Arc<Router>) -> Self {
        let (interest, watched) = watch::channel(Arc::new(interest_of(settings, router)));
        let file = SessionFile::new(&settings.state_dir);
        let session = file.read(&settings.mqtt.broker(), &settings.mqtt.client_id);
        let (held, connected) = (session.filters.clone(), session.connected);
        let (handle, messages) = mqtt::start(settings.mqtt.clone(), watched, held, connected);
        let (state, held_filters) = (handle.state(), handle.held_filters());
        Self { handle, messages, state, held_filters, interest, file, session, up: false }
    }

    pub(super) async fn next(&mut self) -> Heard {
        tokio::select! {
            // First, so that what a new connection brings is met by a closed gate.
            biased;
            Ok(()) = self.state.changed() => Heard::State,
            Ok(()) = self.held_filters.changed() => Heard::HeldFilters,
            Some(message) = self.messages.recv() => Heard::Message(message),
            else => Heard::End,
        }
    }

    /// Notes the state. True: the connection has come up since the last look.
    pub(super) fn has_come_up(&mut self) -> bool {
        let state = self.state.borrow_and_update();
        let up = matches!(*state, ConnectionState::Connected | ConnectionState::Subscribed { .. });
        drop(state);
        let was_up = std::mem::replace(&mut self.up, up);
        if up != was_up {
            self.remember();
        }
        up && !was_up
    }

    /// Notes for the next agent what the session holds, and that there is or was a connection.
    pub(super) fn remember(&mut self) {
        self.note();
        // Rare and small, so it may be written here; and in their order.
        if let Err(error) = self.file.write(&self.session) {
            self.cannot_remember(&error);
        }
    }

    fn note(&mut self) {
        self.session.filters.clone_from(&self.held_filters.borrow_and_update());
        self.session.connected = Some(SystemTime::now());
    }

    /// Disconnects, and waits until that is done; for a disk that hangs, not for long.
    pub(super) async fn stop(mut self) {
        self.handle.end();
        if self.up {
            self.note();
            let (file, session) = (self.file.clone(), self.session.clone());
            match timeout(LAST_WRITE, spawn_blocking(move || file.write(&session))).await {
                Ok(Ok(Ok(()))) => {}
                Ok(Ok(Err(error))) => self.cannot_remember(&error),
                Ok(Err(panic)) => self.cannot_remember(&panic),
                Err(late) => self.cannot_remember(&late),
            }
        }
        self.handle.stop().await;
    }

    fn cannot_remember(&self, error: &dyn std::fmt::Display) {
        warn!(file = %self.file.path().display(), %error, "cannot remember the session");
    }
}

pub(super) fn interest_of(settings: &Settings, router: &Arc<Router>) -> Interest {
    let router = router.clone();
    Interest::new(settings.filters(), move |topic| router.manages(topic))
}
