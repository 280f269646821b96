//! One connection to the broker, whichever version of MQTT it speaks.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::timeout;
use tokio_util::bytes::Bytes;

use super::dial;
use super::exposure::exposed_files;
use super::failure::Failure;
use super::publish::Outgoing;
use super::settings::{MAX_STRING, MqttSettings};
use super::tls;
use super::unfit::Dropped;
use super::wire::Wire;
use crate::exposure::Exposed;

/// How long the broker may take to be reached; then to accept a connection; and then for any progress with what is sent
/// to it, or asked of it.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// What happened on a connection.
pub(super) enum Event {
    Connected(Connected),
    Publish(Publish),
    Dropped(Dropped),
    /// A SUBSCRIBE or UNSUBSCRIBE went out under this number.
    Requested(u16),
    /// What the broker says to each filter of a SUBSCRIBE.
    Subscribed(u16, Vec<Grant>),
    Unsubscribed(u16),
    /// What the broker says of a PUBLISH.
    Published(Answer),
    /// A PUBREL: of a message with QoS 2 that was answered for.
    Released(u16),
    Other,
}

/// What is to be sent.
pub(super) enum Request {
    Acknowledge(u16),
    /// PUBREC and PUBCOMP, the answers to a message with QoS 2 and to its PUBREL.
    Received(u16),
    Complete(u16),
    Subscribe(Vec<String>),
    Unsubscribe(String),
    Publish(Outgoing),
    Ping,
    Disconnect,
}

/// The broker has accepted the connection.
pub(super) struct Connected {
    pub(super) session_present: bool,
    /// How long the broker will keep the session, where it said so.
    pub(super) session_expiry: Option<Duration>,
    pub(super) receive_maximum: u16,
    /// How often the broker wants to hear from this client, where it said so.
    pub(super) keep_alive: Option<Duration>,
}

/// What the broker makes of a filter that it was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Grant {
    /// With `QoS` 1, as asked for.
    Full,
    /// With `QoS` 0: what comes while the agent is away is not kept.
    Qos0,
    Refused(String),
}

/// What the broker makes of a message that it was sent.
pub(super) enum Answer {
    Taken,
    /// Taken, but nobody is subscribed; only MQTT 5 brokers say so.
    NoSubscribers,
    /// Refused, for this reason; only MQTT 5 brokers say so.
    Refused(String),
}

/// A message as it came.
pub(super) struct Publish {
    pub(super) topic: Bytes,
    pub(super) payload: Bytes,
    pub(super) headers: Vec<(String, String)>,
    pub(super) retain: bool,
    /// What to acknowledge; `None`: nothing, it came with `QoS` 0.
    pub(super) packet_id: Option<u16>,
}

impl Publish {
    /// The size of all but the topic, in bytes.
    pub(super) fn size(&self) -> usize {
        let headers = self.headers.iter().map(|(name, value)| name.len() + value.len());
        self.payload.len() + headers.sum::<usize>()
    }
}

/// What the broker wants to see, read from files anew for each connection.
#[derive(Clone)]
pub(super) struct Access {
    tls: Option<Arc<ClientConfig>>,
    password: String,
    /// The files among them that others can read or change.
    pub(super) exposed: Vec<Exposed>,
}

impl Access {
    /// Reads files, so it may block.
    pub(super) fn read(settings: &MqttSettings) -> Result<Self, Failure> {
        let tls = settings.tls.as_ref().map(tls::client_config).transpose();
        Ok(Self {
            tls: tls.map_err(|error| Failure::File(error.to_string()))?,
            password: password(settings)?,
            exposed: exposed_files(settings),
        })
    }

    pub(super) fn tls(&self) -> Option<Arc<ClientConfig>> {
        self.tls.clone()
    }

    /// User and password, where there is either.
    pub(super) fn login(&self, settings: &MqttSettings) -> Option<(String, String)> {
        let user = settings.username.clone().unwrap_or_default();
        (!user.is_empty() || !self.password.is_empty()).then(|| (user, self.password.clone()))
    }
}

fn password(settings: &MqttSettings) -> Result<String, Failure> {
    settings.password_file.as_deref().map_or(Ok(String::new()), password_in).map_err(Failure::File)
}

/// The first line of the password's file.
pub(super) fn password_in(path: &Path) -> Result<String, String> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| format!("cannot read mqtt.password_file {}: {error}", path.display()))?;
    match text.lines().next() {
        Some(line) if line.len() > MAX_STRING => Err(format!(
            "mqtt.password_file {} has a first line longer than {MAX_STRING} bytes, the most that MQTT can carry",
            path.display()
        )),
        Some(line) if !line.is_empty() => Ok(line.to_owned()),
        _ => Err(format!("mqtt.password_file {} has no password in its first line", path.display())),
    }
}

/// The receiving half, to be polled.
pub(super) struct Link {
    settings: MqttSettings,
    access: Access,
    clean: bool,
    requests: UnboundedReceiver<Request>,
    wire: Option<Wire>,
}

impl Link {
    /// The next event. Must not be dropped before it is done, or what it had begun is lost; an error is the end.
    pub(super) async fn poll(&mut self) -> Result<Event, Failure> {
        if let Some(wire) = &mut self.wire {
            return wire.next(&mut self.requests).await;
        }
        let tcp = dial::dial(dial::look_up(&self.settings.host, self.settings.port)).await?;
        let connecting = Wire::connect(tcp, &self.settings, &self.access, self.clean);
        let (wire, greeting) = timeout(PATIENCE, connecting).await.map_err(|_| Failure::NO_ANSWER)??;
        self.wire = Some(wire);
        Ok(Event::Connected(greeting))
    }

    /// Whether the socket has taken all that was to be sent.
    pub(super) fn all_sent(&self) -> bool {
        self.requests.is_empty() && self.wire.as_ref().is_none_or(Wire::all_sent)
    }
}

/// The sending half. Nothing here waits: what is asked for is sent while the link is polled.
pub(super) struct Client(
    // Unbounded, but nobody asks for more than there are unacknowledged messages and open requests.
    UnboundedSender<Request>,
);

impl Client {
    pub(super) fn send(&self, request: Request) {
        // Refused only when the link is gone, and all that was asked for with it.
        let _ = self.0.send(request);
    }
}

/// A connection to be: polling makes it. `clean`: the broker forgets what it kept for this client.
pub(super) fn open(settings: &MqttSettings, access: &Access, clean: bool) -> (Client, Link) {
    let (sender, requests) = unbounded_channel();
    let (settings, access) = (settings.clone(), access.clone());
    (Client(sender), Link { settings, access, clean, requests, wire: None })
}

/// Both versions carry whole seconds in 16 bits.
pub(super) fn keep_alive(settings: &MqttSettings) -> Duration {
    Duration::from_secs(settings.keep_alive.as_secs().clamp(5, u64::from(u16::MAX)))
}
