//! What the configuration says about the connection, and what the agent wants to hear.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use tracing::error;

/// How to reach the broker. Holds no secret, only where to find one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MqttSettings {
    /// The broker's name or address; an IPv6 address without brackets.
    pub host: String,
    /// The broker's port.
    pub port: u16,
    /// How to encrypt; `None`: not at all.
    pub tls: Option<TlsSettings>,
    /// The version of MQTT to speak.
    pub protocol: Protocol,
    /// The name of this client's session at the broker; never empty.
    pub client_id: String,
    /// Whom to log in as.
    pub username: Option<String>,
    /// Where the password is; read again for every connection.
    pub password_file: Option<PathBuf>,
    /// How often to prove to be alive; at least 5 s.
    pub keep_alive: Duration,
    /// How long the broker keeps the session of a client that is away; MQTT 5 only.
    pub session_expiry: Duration,
    /// The largest payload the agent takes, in bytes.
    pub max_payload: usize,
}

impl MqttSettings {
    /// The broker as logs name it.
    pub fn broker(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    /// What is too large to be a push with certainty.
    pub(super) fn max_packet(&self) -> usize {
        (64 << 20).max(self.max_payload.saturating_mul(2)).min(MAX_REMAINING_LENGTH)
    }
}

/// The longest string or binary data MQTT can express, in bytes: MQTT 5, 1.5.4 and 1.5.6; 3.1.1, 1.5.3.
pub(crate) const MAX_STRING: usize = 65_535;

/// The longest packet MQTT can express.
const MAX_REMAINING_LENGTH: usize = 268_435_455;

/// How to encrypt. All files are read again for every connection, so renewed ones need no restart.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TlsSettings {
    /// Certificates of the authorities to trust; `None`: the system's.
    pub ca_file: Option<PathBuf>,
    /// This client's certificate chain.
    pub cert_file: Option<PathBuf>,
    /// The private key to `cert_file`.
    pub key_file: Option<PathBuf>,
    /// The application protocol to ask for.
    pub alpn: Option<String>,
}

/// A version of MQTT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// MQTT 5.
    V5,
    /// MQTT 3.1.1.
    V311,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V5 => "5",
            Self::V311 => "3.1.1",
        })
    }
}

/// What to subscribe to, and which of the topics that then arrive to hand on.
pub struct Interest {
    filters: Vec<String>,
    wanted: Box<dyn Fn(&str) -> bool + Send + Sync>,
}

impl Interest {
    /// `filters` go to the broker. `wanted` is asked about every message, so it must be quick.
    pub fn new(mut filters: Vec<String>, wanted: impl Fn(&str) -> bool + Send + Sync + 'static) -> Self {
        // A broker ends the connection of who asks for these.
        filters.retain(|filter| {
            let valid = rumqttc::valid_filter(filter);
            if !valid {
                error!(filter, "not subscribed: this is no MQTT topic filter");
            }
            valid
        });
        Self { filters, wanted: Box::new(wanted) }
    }

    pub(super) fn filters(&self) -> &[String] {
        &self.filters
    }

    pub(super) fn wants(&self, topic: &str) -> bool {
        (self.wanted)(topic)
    }
}

impl fmt::Debug for Interest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Interest").field("filters", &self.filters).finish_non_exhaustive()
    }
}
