//! One connection, from its CONNECT to its end: polls, subscribes, hands messages on, acknowledges.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::select;
use tokio::task::yield_now;
use tokio::time::{Instant, sleep_until};
use tracing::{debug, error, info, trace, warn};

use super::ConnectionState;
use super::ended::{End, Ended};
use super::failure::Failure;
use super::link::{self, Access, Client, Connected, Event, Grant, Link, Publish, Request};
use super::message::{Ack, Message, Payload, Receipt, Share};
use super::settings::Interest;
use super::subscriptions::Request as Asked;
use super::task::Core;
use super::unfit::{Dropped, Unfit};
use tokio_util::bytes::Bytes;

/// How long the broker may take to see us off.
const FAREWELL: Duration = Duration::from_secs(2);
/// How long a refused filter waits until it is asked for again: the broker's rules may have changed.
const ASK_AGAIN: Duration = Duration::from_secs(300);
/// How many filters the log names.
const FILTERS_NAMED: usize = 10;
/// Payloads up to here are copied, for a slice keeps the whole read buffer in memory.
const COPIED: usize = 64 * 1024;

/// What ends a wait.
enum Wake {
    Event(Result<Event, Failure>),
    Receipt(Receipt),
    Interest,
    Drained,
    Stop,
    FarewellOver,
    AskAgain,
}

struct Closing {
    why: End,
    deadline: Instant,
}

/// A connection and what outlives it.
pub(super) struct Session<'a> {
    core: &'a mut Core,
    client: Client,
    interest: Arc<Interest>,
    connected_at: Option<Instant>,
    /// What the broker said when it accepted the connection.
    greeting: Option<Connected>,
    unannounced: bool,
    /// The broker has answered for all that it was asked for, some time.
    has_answered: bool,
    closing: Option<Closing>,
    /// When to ask for the refused filters again.
    ask_again_at: Option<Instant>,
}

/// Makes a connection and serves it until it ends.
pub(super) async fn run(core: &mut Core, access: &Access) -> Ended {
    let (client, mut link) = link::open(&core.settings, access, false);
    core.generation += 1;
    let interest = Arc::clone(&core.interest.borrow_and_update());
    let mut session = Session {
        core,
        client,
        interest,
        connected_at: None,
        greeting: None,
        unannounced: false,
        has_answered: false,
        closing: None,
        ask_again_at: None,
    };
    let why = session.serve(&mut link).await;
    let (connected_at, has_answered) = (session.connected_at, session.has_answered);
    let asked_for = connected_at.and(core.subscriptions.asked_for()).map(str::to_owned);
    Ended { why, connected_at, asked_for, has_answered }
}

impl Session<'_> {
    async fn serve(&mut self, link: &mut Link) -> End {
        loop {
            // One poll lives until it is done: dropped half-way it would lose a connection being made.
            let mut poll = pin!(link.poll());
            let event = loop {
                match self.wait(poll.as_mut()).await {
                    Wake::Event(Ok(event)) => break event,
                    Wake::Event(Err(failure)) => return self.ended(failure),
                    Wake::Receipt(receipt) => self.receipt(receipt),
                    Wake::Interest => self.interest_changed(),
                    Wake::Drained => self.close(End::Renew),
                    Wake::Stop if self.connected_at.is_none() => return End::Stopped,
                    Wake::Stop => self.close(End::Stopped),
                    Wake::AskAgain => self.ask_again(),
                    Wake::FarewellOver => return self.ended(Failure::Closed),
                }
                self.ask();
            };
            let handed_on = self.handle(event);
            self.look_up();
            self.ask();
            if handed_on {
                // A flood would otherwise fill the queue before the agent, on the same thread, gets to see it.
                yield_now().await;
            }
        }
    }

    async fn wait(&mut self, poll: Pin<&mut impl Future<Output = Result<Event, Failure>>>) -> Wake {
        let core = &mut *self.core;
        let open = self.closing.is_none();
        let deadline = self.closing.as_ref().map_or_else(Instant::now, |closing| closing.deadline);
        let ask_again_at = self.ask_again_at;
        select! {
            biased;
            event = poll => Wake::Event(event),
            // The task holds a sender of its own, so there is always another receipt to wait for.
            Some(receipt) = core.receipts.recv() => Wake::Receipt(receipt),
            Ok(()) = core.interest.changed() => Wake::Interest,
            () = core.intake.drained(), if open && core.intake.overflowed() => Wake::Drained,
            () = core.shutdown.cancelled(), if open => Wake::Stop,
            () = sleep_until(deadline), if !open => Wake::FarewellOver,
            () = sleep_until(ask_again_at.unwrap_or(deadline)), if ask_again_at.is_some() => Wake::AskAgain,
        }
    }

    /// Sees to what else there is between two events: under a flood the wait never gets beyond the next one.
    fn look_up(&mut self) {
        while let Ok(receipt) = self.core.receipts.try_recv() {
            self.receipt(receipt);
        }
        if self.core.interest.has_changed().unwrap_or(false) {
            self.interest_changed();
        }
        if self.ask_again_at.is_some_and(|at| at <= Instant::now()) {
            self.ask_again();
        }
        if self.closing.is_none() && self.connected_at.is_some() && self.core.shutdown.is_cancelled() {
            self.close(End::Stopped);
        }
    }

    /// True: a message was handed on.
    fn handle(&mut self, event: Event) -> bool {
        match event {
            Event::Publish(publish) => return self.publish(publish),
            Event::Dropped(dropped) => self.dropped(&dropped),
            Event::Connected(greeting) => self.connected(greeting),
            Event::Requested(packet_id) => self.core.subscriptions.sent(packet_id),
            Event::Subscribed(packet_id, answers) => self.subscribed(packet_id, answers),
            Event::Unsubscribed(packet_id) => {
                self.core.subscriptions.unsubscribe_answered(packet_id);
                self.announce();
            }
            // The agent publishes nothing.
            Event::Published(_) | Event::Released(_) | Event::Other => {}
        }
        false
    }

    fn connected(&mut self, greeting: Connected) {
        self.connected_at = Some(Instant::now());
        debug!(broker = self.core.broker, session_present = greeting.session_present, "connected");
        self.core.session_began(greeting.session_present);
        self.core.intake.renewed();
        self.core.set_state(ConnectionState::Connected);
        self.core.subscriptions.connected(
            self.interest.filters(),
            greeting.session_present,
            greeting.receive_maximum,
        );
        self.greeting = Some(greeting);
        self.unannounced = true;
        self.announce();
    }

    fn subscribed(&mut self, packet_id: u16, answers: Vec<Grant>) {
        let granted = self.core.subscriptions.granted().len();
        let amiss = self.core.subscriptions.subscribe_answered(packet_id, answers);
        for filter in amiss.weak {
            warn!(
                filter,
                broker = self.core.broker,
                "the broker grants only QoS 0: pushes are lost while this agent is away"
            );
        }
        for refusal in amiss.refusals {
            self.ask_again_at = Some(Instant::now() + ASK_AGAIN);
            error!(
                filter = refusal.filter,
                reason = refusal.reason,
                broker = self.core.broker,
                client_id = self.core.settings.client_id,
                "subscription refused: the broker's access rules must allow this client to subscribe to the filter"
            );
        }
        // Another refusal of what was refused before is no news.
        self.unannounced |= self.core.subscriptions.granted().len() > granted;
        self.announce();
    }

    fn ask_again(&mut self) {
        self.ask_again_at = None;
        self.core.subscriptions.ask_again();
    }

    fn interest_changed(&mut self) {
        self.interest = Arc::clone(&self.core.interest.borrow_and_update());
        if self.connected_at.is_some() && self.closing.is_none() {
            self.core.subscriptions.want(self.interest.filters());
            self.ask_again();
            self.unannounced |= !self.core.subscriptions.settled();
            self.announce();
        }
    }

    /// Says what was granted, once the broker has answered everything.
    fn announce(&mut self) {
        self.core.publish_held();
        let subscriptions = &self.core.subscriptions;
        if !self.unannounced || !subscriptions.settled() {
            return;
        }
        self.unannounced = false;
        self.has_answered = true;
        let (granted, refused) = (subscriptions.granted(), subscriptions.refused());
        let state = ConnectionState::Subscribed { filters: granted.len(), refused: refused.len() };
        if granted.is_empty() && !refused.is_empty() {
            // Each refusal has been logged; "subscribed" would belie them.
            self.core.set_state(state);
            return;
        }
        let named: Vec<&str> = granted.iter().take(FILTERS_NAMED).map(String::as_str).collect();
        let greeting = self.greeting.as_ref();
        let expiry = greeting.and_then(|greeting| greeting.session_expiry);
        info!(
            filters = named.join(" "),
            count = granted.len(),
            refused = refused.len(),
            broker = self.core.broker,
            protocol = %self.core.settings.protocol,
            session_present = greeting.is_some_and(|greeting| greeting.session_present),
            session_expiry = expiry.map(|expiry| humantime::format_duration(expiry).to_string()),
            "subscribed"
        );
        self.core.set_state(state);
    }

    fn publish(&mut self, publish: Publish) -> bool {
        if self.closing.is_some() {
            return false;
        }
        match std::str::from_utf8(&publish.topic) {
            Ok(topic) if self.interest.wants(topic) => {
                self.wanted(topic.to_owned(), publish);
                return true;
            }
            Ok(_) => self.acknowledge(publish.packet_id),
            Err(_) => self.dropped(&Dropped {
                topic: publish.topic,
                packet_id: publish.packet_id,
                why: Unfit::Malformed("its topic is no UTF-8".into()),
            }),
        }
        false
    }

    fn dropped(&mut self, dropped: &Dropped) {
        let topic = std::str::from_utf8(&dropped.topic).ok().filter(|topic| self.interest.wants(topic));
        self.core.drops.note(&dropped.why, topic);
        self.acknowledge(dropped.packet_id);
    }

    fn wanted(&mut self, topic: String, publish: Publish) {
        trace!(topic, size = publish.payload.len(), "message received");
        let qos0 = publish.packet_id.is_none() && !self.core.qos0_warned;
        if qos0 && !self.core.subscriptions.weakened(&topic) {
            self.core.qos0_warned = true;
            warn!(
                topic,
                "a push came with QoS 0: publish with QoS 1, or pushes are lost while this agent is away"
            );
        }
        match self.core.intake.reserve(topic.len() + publish.size()) {
            Some(share) => self.enqueue(topic, publish, share),
            None => self.turn_away(&publish),
        }
    }

    fn enqueue(&mut self, topic: String, publish: Publish, share: Share) {
        let bytes = if publish.payload.len() <= COPIED {
            Bytes::copy_from_slice(&publish.payload)
        } else {
            publish.payload
        };
        let ack = publish.packet_id.map_or_else(Ack::none, |packet_id| {
            let receipt = Receipt { generation: self.core.generation, packet_id };
            Ack::new(receipt, self.core.receipts_sender.clone())
        });
        self.core.intake.push(Message {
            topic,
            payload: Payload::queued(bytes, share),
            headers: publish.headers,
            retain: publish.retain,
            qos0: publish.packet_id.is_none(),
            ack,
        });
    }

    fn turn_away(&mut self, publish: &Publish) {
        if publish.packet_id.is_none() {
            self.core.intake.dropped();
        } else if !self.core.intake.overflowed() {
            self.core.intake.overflow();
            warn!(
                "queue full: the connection is renewed once it is empty, for the broker to send the rest again"
            );
        }
    }

    fn receipt(&mut self, receipt: Receipt) {
        if receipt.generation == self.core.generation {
            self.acknowledge(Some(receipt.packet_id));
        }
    }

    fn acknowledge(&mut self, packet_id: Option<u16>) {
        if let Some(packet_id) = packet_id
            && self.closing.is_none()
        {
            self.client.send(Request::Acknowledge(packet_id));
        }
    }

    /// Says goodbye. From here on nothing is taken in: what is unacknowledged comes again.
    fn close(&mut self, why: End) {
        self.client.send(Request::Disconnect);
        self.closing = Some(Closing { why, deadline: Instant::now() + FAREWELL });
    }

    fn ended(&mut self, failure: Failure) -> End {
        self.core.lost_at = self.connected_at.map(|_| SystemTime::now()).or(self.core.lost_at);
        self.closing.take().map_or(End::Failed(failure), |closing| closing.why)
    }

    /// Asks for the subscriptions that are due.
    fn ask(&mut self) {
        if self.closing.is_some() {
            return;
        }
        while let Some(request) = self.core.subscriptions.next_request() {
            self.core.publish_held();
            self.client.send(match request {
                Asked::Subscribe(filters) => Request::Subscribe(filters),
                Asked::Unsubscribe(filter) => Request::Unsubscribe(filter),
            });
        }
    }
}
