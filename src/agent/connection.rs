//! The agent's end of the connection: what comes from it, and what it is asked for.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tokio::task::{JoinHandle, spawn_blocking};
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
    memory: Memory,
    session: Session,
    up: bool,
}

/// Writes the session's file, one version after the other, where a disk that hangs holds nobody up.
struct Memory {
    newest: watch::Sender<Session>,
    writing: JoinHandle<()>,
}

impl Memory {
    fn new(file: SessionFile, session: Session) -> Self {
        let (newest, mut watched) = watch::channel(session);
        let writing = tokio::spawn(async move {
            while watched.changed().await.is_ok() {
                let (to, session) = (file.clone(), watched.borrow_and_update().clone());
                match spawn_blocking(move || to.write(&session)).await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => cannot_remember(&file, &error),
                    Err(panic) => cannot_remember(&file, &panic),
                }
            }
        });
        Self { newest, writing }
    }

    /// Waits until the newest version is written, but not for long.
    async fn close(self) {
        drop(self.newest);
        if timeout(LAST_WRITE, self.writing).await.is_err() {
            warn!("cannot remember the session: the disk takes too long");
        }
    }
}

fn cannot_remember(file: &SessionFile, error: &dyn std::fmt::Display) {
    warn!(file = %file.path().display(), %error, "cannot remember the session");
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
        let file = SessionFile::new(&settings.state_dir);
        let session = Session::of(file.read(), &settings.mqtt.broker(), &settings.mqtt.client_id);
        let memory = Memory::new(file, session.clone());
        let (handle, messages, interest) = begin(settings, router, &session);
        let (state, held_filters) = (handle.state(), handle.held_filters());
        Self { handle, messages, state, held_filters, interest, memory, session, up: false }
    }

    /// Makes another connection in the place of this one, which has ended.
    pub(super) fn reopen(&mut self, settings: &Settings, router: &Arc<Router>) {
        if self.up {
            self.note();
        }
        let last = Some(self.session.clone());
        self.session = Session::of(last, &settings.mqtt.broker(), &settings.mqtt.client_id);
        (self.handle, self.messages, self.interest) = begin(settings, router, &self.session);
        (self.state, self.held_filters) = (self.handle.state(), self.handle.held_filters());
        self.up = false;
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
        self.memory.newest.send_replace(self.session.clone());
    }

    fn note(&mut self) {
        self.session.filters.clone_from(&self.held_filters.borrow_and_update());
        self.session.connected = Some(SystemTime::now());
    }

    /// Disconnects, and waits until that is done; for a disk that hangs, not for long.
    pub(super) async fn stop(mut self) {
        self.handle.end();
        if self.up {
            self.remember();
        }
        self.memory.close().await;
        self.handle.stop().await;
    }
}

fn begin(
    settings: &Settings,
    router: &Arc<Router>,
    session: &Session,
) -> (Handle, Messages, watch::Sender<Arc<Interest>>) {
    let (interest, watched) = watch::channel(Arc::new(interest_of(settings, router)));
    let (handle, messages) =
        mqtt::start(settings.mqtt.clone(), watched, session.filters.clone(), session.connected);
    (handle, messages, interest)
}

pub(super) fn interest_of(settings: &Settings, router: &Arc<Router>) -> Interest {
    let router = router.clone();
    Interest::new(settings.filters(), move |topic| router.manages(topic))
}
