//! The connection to the broker: polls, subscribes, acknowledges, backs off.
//!
//! One task polls and does nothing else. Each connection is made anew, so that nothing of an old one can survive into
//! the next: not its buffered messages, not its requests, not its acknowledgements.
//!
//! ```text
//! task       one connection after the other, with back-off
//!   session  one connection: events in, messages and acknowledgements out
//!     link   the socket, one adapter for each version of the library's packets: dial, wire, v4, v5;
//!            what comes in is taken apart, and what is unfit to be read let go of: incoming, frame, unfit
//! ```

mod backoff;
mod closings;
mod complaints;
mod dial;
mod due;
mod ended;
mod exposure;
mod failure;
mod files;
mod frame;
mod incoming;
mod link;
mod message;
mod publish;
mod queue;
mod session;
mod settings;
mod subscriptions;
mod task;
mod tls;
mod unfit;
mod v4;
mod v5;
mod wire;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

pub(crate) use exposure::{exposed_files, in_the_clear};
pub(crate) use files::{check_ca_file, check_cert_file, check_key_file, check_pair, check_password_file};
pub use message::{Ack, Message, Payload};
pub use publish::{Outgoing, PublishError, Reception, publish};
pub use queue::Messages;
pub(crate) use settings::MAX_STRING;
pub use settings::{Interest, MqttSettings, Protocol, TlsSettings};

use subscriptions::Subscriptions;
use task::Core;
use unfit::Drops;
pub(crate) use unfit::MAX_PROPERTIES;

use crate::exposure::Known;

/// How the connection is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConnectionState {
    /// Not yet connected, and nothing has failed so far.
    Connecting,
    /// The broker has accepted the connection but not yet answered the subscriptions.
    Connected,
    /// The broker has answered all subscriptions.
    Subscribed {
        /// How many filters it granted.
        filters: usize,
        /// How many it refused.
        refused: usize,
    },
    /// There is no connection; another attempt follows.
    Down {
        /// Why, and what to do.
        reason: String,
        /// When it was lost, or the first attempt failed.
        since: SystemTime,
        /// How long after the failure the next attempt follows.
        retry_in: Duration,
    },
}

/// Holds the connection: it ends when this is dropped.
///
/// Should the task behind it end by a panic, which would be a bug, nobody connects again: [`Messages::recv`] then gives
/// `None` once the queue is empty, [`Handle::is_alive`] is false, and `changed()` of both receivers errs.
#[derive(Debug)]
pub struct Handle {
    state: watch::Receiver<ConnectionState>,
    held: watch::Receiver<BTreeSet<String>>,
    token: CancellationToken,
    _ends_when_dropped: DropGuard,
    task: JoinHandle<()>,
}

impl Handle {
    /// How the connection is doing, now and later. `changed()` errs once nobody keeps the connection any more.
    pub fn state(&self) -> watch::Receiver<ConnectionState> {
        self.state.clone()
    }

    /// The filters that the session at the broker may hold, to be given to [`start`] by the next process.
    pub fn held_filters(&self) -> watch::Receiver<BTreeSet<String>> {
        self.held.clone()
    }

    /// False when nobody keeps the connection any more although it was not stopped.
    pub fn is_alive(&self) -> bool {
        !self.task.is_finished()
    }

    /// Begins to disconnect, having sent the acknowledgements made so far. Takes about 2 s at most; then there are no
    /// more messages.
    pub fn end(&self) {
        self.token.cancel();
    }

    /// Disconnects, as [`Handle::end`] does, and waits until that is done.
    pub async fn stop(self) {
        self.end();
        // A panic of the task has already been reported where it happened.
        let _ = self.task.await;
    }
}

/// Begins to connect, and keeps a connection from then on.
///
/// `interest` may change at any time, without a new connection. `held_filters` is what
/// [`Handle::held_filters`] said last in an earlier process: what is in there and no longer of interest is
/// unsubscribed when the broker has kept the session. `connected`: when that process was connected last.
pub fn start(
    settings: MqttSettings,
    interest: watch::Receiver<Arc<Interest>>,
    held_filters: BTreeSet<String>,
    connected: Option<SystemTime>,
) -> (Handle, Messages) {
    let (intake, messages) = queue::queue(settings.max_packet());
    let (receipts_sender, receipts) = mpsc::unbounded_channel();
    let (state_sender, state) = watch::channel(ConnectionState::Connecting);
    // An earlier process had a session here.
    let has_session = !held_filters.is_empty();
    let (held_sender, held) = watch::channel(held_filters.clone());
    let shutdown = CancellationToken::new();
    let core = Core {
        broker: settings.broker(),
        settings,
        interest,
        subscriptions: Subscriptions::new(held_filters),
        intake,
        receipts,
        receipts_sender,
        state: state_sender,
        held: held_sender,
        shutdown: shutdown.clone(),
        generation: 0,
        lost_at: connected,
        has_session,
        qos0_warned: false,
        drops: Drops::new(),
        exposed: Known::default(),
    };
    let task = tokio::spawn(task::run(core));
    let handle =
        Handle { state, held, token: shutdown.clone(), _ends_when_dropped: shutdown.drop_guard(), task };
    (handle, messages)
}
