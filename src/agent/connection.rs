//! The agent's end of the connection: what comes from it, and what it is asked for.

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::sync::watch;

use crate::config::Settings;
use crate::journal::SessionFile;
use crate::mqtt::{self, ConnectionState, Handle, Interest, Message, Messages};
use crate::router::Router;

/// The connection to the broker, what comes from it, and what it is asked for.
pub(super) struct Connection {
    pub(super) handle: Handle,
    pub(super) messages: Messages,
    pub(super) state: watch::Receiver<ConnectionState>,
    pub(super) held_filters: watch::Receiver<BTreeSet<String>>,
    pub(super) interest: watch::Sender<Arc<Interest>>,
    pub(super) up: bool,
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
        let session = SessionFile::new(&settings.state_dir);
        let held = session.filters(&settings.mqtt.broker(), &settings.mqtt.client_id);
        let (handle, messages) = mqtt::start(settings.mqtt.clone(), watched, held);
        let (state, held_filters) = (handle.state(), handle.held_filters());
        Self { handle, messages, state, held_filters, interest, up: false }
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
        let came_up = up && !self.up;
        self.up = up;
        came_up
    }
}

pub(super) fn interest_of(settings: &Settings, router: &Arc<Router>) -> Interest {
    let router = router.clone();
    Interest::new(settings.filters(), move |topic| router.manages(topic))
}
