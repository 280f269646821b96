//! One connection to the broker, whichever version of MQTT it speaks.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rumqttc::{TlsConfiguration, Transport};
use rustls::ClientConfig;
use tokio_util::bytes::Bytes;

use super::exposure::exposed_files;
use super::failure::Failure;
use super::publish::Outgoing;
use super::settings::{MqttSettings, Protocol};
use super::{tls, v4, v5};
use crate::exposure::Exposed;

/// How many requests the library takes before it has sent any.
pub(super) const REQUESTS: usize = 64;
/// How many of this client's packets may be unanswered: also the library's highest packet id.
pub(super) const IN_FLIGHT: u16 = 16;
/// How long the broker may take to accept a connection.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// What happened on a connection.
pub(super) enum Event {
    Connected(Connected),
    Publish(Publish),
    /// A SUBSCRIBE or UNSUBSCRIBE went out under this number.
    Requested(u16),
    /// For each filter of a SUBSCRIBE nothing, or why it is refused.
    Subscribed(u16, Vec<Option<String>>),
    Unsubscribed(u16),
    /// What the broker says of a PUBLISH.
    Published(Answer),
    Other,
}

/// The broker has accepted the connection.
pub(super) struct Connected {
    pub(super) session_present: bool,
    /// How long the broker will keep the session, where it said so.
    pub(super) session_expiry: Option<Duration>,
    pub(super) receive_maximum: u16,
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

    pub(super) fn transport(&self) -> Transport {
        match &self.tls {
            Some(config) => Transport::tls_with_config(TlsConfiguration::Rustls(Arc::clone(config))),
            None => Transport::tcp(),
        }
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
        Some(line) if !line.is_empty() => Ok(line.to_owned()),
        _ => Err(format!("mqtt.password_file {} has no password in its first line", path.display())),
    }
}

/// The receiving half, to be polled.
pub(super) enum Link {
    V4(Box<rumqttc::EventLoop>),
    V5(Box<rumqttc::v5::EventLoop>, Duration),
}

impl Link {
    /// The next event. Must not be dropped before it is done, or what it had begun is lost; an error is the end.
    pub(super) async fn poll(&mut self) -> Result<Event, Failure> {
        match self {
            Self::V4(events) => v4::poll(events).await,
            Self::V5(events, keep_alive) => v5::poll(events, *keep_alive).await,
        }
    }
}

/// The sending half. Nothing here waits: `false` means that the library takes no more for now.
pub(super) enum Client {
    V4(rumqttc::AsyncClient),
    V5(rumqttc::v5::AsyncClient),
}

impl Client {
    pub(super) fn acknowledge(&self, packet_id: u16) -> bool {
        match self {
            Self::V4(client) => v4::acknowledge(client, packet_id),
            Self::V5(client) => v5::acknowledge(client, packet_id),
        }
    }

    pub(super) fn subscribe(&self, filters: &[String]) -> bool {
        match self {
            Self::V4(client) => v4::subscribe(client, filters),
            Self::V5(client) => v5::subscribe(client, filters),
        }
    }

    pub(super) fn unsubscribe(&self, filter: &str) -> bool {
        match self {
            Self::V4(client) => client.try_unsubscribe(filter).is_ok(),
            Self::V5(client) => client.try_unsubscribe(filter).is_ok(),
        }
    }

    pub(super) fn publish(&self, message: &Outgoing) -> bool {
        match self {
            Self::V4(client) => v4::publish(client, message),
            Self::V5(client) => v5::publish(client, message),
        }
    }

    pub(super) fn disconnect(&self) -> bool {
        match self {
            Self::V4(client) => client.try_disconnect().is_ok(),
            Self::V5(client) => client.try_disconnect().is_ok(),
        }
    }
}

/// A connection to be: polling makes it. `clean`: the broker forgets what it kept for this client.
pub(super) fn open(settings: &MqttSettings, access: &Access, clean: bool) -> (Client, Link) {
    match settings.protocol {
        Protocol::V311 => {
            let (client, events) = v4::open(settings, access, clean);
            (Client::V4(client), Link::V4(Box::new(events)))
        }
        Protocol::V5 => {
            let (client, events) = v5::open(settings, access, clean);
            (Client::V5(client), Link::V5(Box::new(events), keep_alive(settings)))
        }
    }
}

/// Both versions carry whole seconds in 16 bits, and MQTT 5 in the library panics below 5 s.
pub(super) fn keep_alive(settings: &MqttSettings) -> Duration {
    Duration::from_secs(settings.keep_alive.as_secs().clamp(5, u64::from(u16::MAX)))
}
