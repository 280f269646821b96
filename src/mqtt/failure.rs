//! Why there is no connection, in words that say what to do, and how long it is likely to last.

use std::io;
use std::time::Duration;

use super::settings::{MqttSettings, Protocol};
use crate::tail::clean;

/// Why an attempt to connect failed, or a connection ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Failure {
    /// A file of the configuration cannot be used.
    File(String),
    /// The broker does not let this client in.
    Refused(String),
    /// One side does not trust the other's certificate.
    Certificate(String),
    /// The broker does not speak this version of MQTT.
    Version,
    /// A packet of so many bytes that is no message, and far too large for anything else.
    Oversize(usize),
    /// A packet of ours is larger than the broker takes.
    TooLarge { size: u32, most: u32 },
    /// The broker closed the connection without a word.
    Closed,
    /// Somebody on the way, or the broker, cut the connection off.
    Reset,
    /// What answered does not speak TLS.
    NoTls,
    /// Another client with this client's id keeps taking the session over.
    TakenOver,
    /// The broker said why it ended the connection.
    Disconnected(String),
    /// Everything else: likely to pass.
    Network(String),
}

impl Failure {
    /// Whether somebody has to do something before it can get better.
    pub(super) fn lasting(&self) -> bool {
        matches!(
            self,
            Self::File(_) | Self::Refused(_) | Self::Certificate(_) | Self::Version | Self::TakenOver
        )
    }

    /// Nothing was heard for so long.
    pub(super) fn no_answer(limit: Duration) -> Self {
        Self::Network(format!("no answer within {} s", limit.as_secs()))
    }

    /// `connected`: whether the broker had accepted the connection that failed.
    pub(super) fn explain(&self, settings: &MqttSettings, connected: bool) -> String {
        // A certificate, too, may name anything; a line break would be another message to systemd.
        clean(&self.words(settings, connected))
    }

    fn words(&self, settings: &MqttSettings, connected: bool) -> String {
        let broker = settings.broker();
        match self {
            Self::File(what) => what.clone(),
            Self::Refused(reason) => format!(
                "{broker} refused client {} of user {} ({reason}): check mqtt.username, mqtt.password_file and \
                 mqtt.client_id, and what the broker allows them",
                settings.client_id,
                settings.username.as_deref().unwrap_or("(none)"),
            ),
            Self::Certificate(reason) => format!("no TLS with {broker}: {reason}{}", advice(settings)),
            Self::Version => format!(
                "{broker} does not speak MQTT {}: set mqtt.protocol to \"{}\"",
                settings.protocol,
                other(settings.protocol)
            ),
            Self::Oversize(size) => {
                format!("{broker} sent a packet of {size} bytes that is no message: is it an MQTT broker?")
            }
            Self::TooLarge { size, most } => {
                format!(
                    "{broker} takes packets of at most {most} bytes, and this one has {size}: leave out the commits, with --slim"
                )
            }
            Self::TakenOver => format!(
                "{broker} keeps closing the connection soon after it was made: another client with the id {} takes \
                 it over each time; give each agent a mqtt.client_id of its own",
                settings.client_id
            ),
            Self::Closed if connected => {
                format!(
                    "{broker} closed the connection (if it does so again and again: is another client {} connected?)",
                    settings.client_id
                )
            }
            Self::Closed => {
                format!("{broker} closed the connection without accepting it{}", doubts(settings))
            }
            Self::Reset if connected => format!("{broker}: connection reset"),
            Self::Reset => format!("{broker}: connection reset before it was accepted{}", doubts(settings)),
            Self::NoTls => {
                format!(
                    "{broker} does not speak TLS on that port: give mqtt.url the port that does, or mqtt://"
                )
            }
            Self::Disconnected(reason) => format!("{broker} ended the connection: {reason}"),
            Self::Network(reason) => format!("{broker}: {reason}"),
        }
    }
}

/// What may be wrong where a broker says nothing at all.
fn doubts(settings: &MqttSettings) -> String {
    let version = (settings.protocol == Protocol::V5)
        .then_some("if it does not speak MQTT 5: set mqtt.protocol to \"3.1.1\"");
    let tls = match &settings.tls {
        None => "if the port speaks TLS: set mqtt.url to mqtts://",
        Some(_) => "if the port does not speak TLS: set mqtt.url to mqtt://",
    };
    let doubts: Vec<_> = version.into_iter().chain([tls]).collect();
    format!(" ({})", doubts.join("; "))
}

fn other(protocol: Protocol) -> Protocol {
    match protocol {
        Protocol::V5 => Protocol::V311,
        Protocol::V311 => Protocol::V5,
    }
}

/// The files that decide about trust.
fn advice(settings: &MqttSettings) -> String {
    let Some(tls) = &settings.tls else { return String::new() };
    let trusted = match &tls.ca_file {
        Some(path) => format!("mqtt.ca_file {}", path.display()),
        None => "the system's root certificates (or set mqtt.ca_file)".to_owned(),
    };
    match &tls.cert_file {
        Some(path) => format!("; check {trusted} and mqtt.cert_file {}", path.display()),
        None => format!("; check {trusted}"),
    }
}

impl From<&io::Error> for Failure {
    fn from(error: &io::Error) -> Self {
        match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            Some(error) => error.into(),
            None => match error.kind() {
                io::ErrorKind::ConnectionReset => Self::Reset,
                // In mid-handshake, or without the goodbye of TLS.
                io::ErrorKind::UnexpectedEof => Self::Closed,
                _ => Self::Network(error.to_string()),
            },
        }
    }
}

impl From<&rustls::Error> for Failure {
    fn from(error: &rustls::Error) -> Self {
        use rustls::{Error, InvalidMessage};
        match error {
            Error::InvalidCertificate(_)
            | Error::NoCertificatesPresented
            | Error::UnsupportedNameType
            | Error::AlertReceived(_)
            | Error::NoApplicationProtocol => Self::Certificate(error.to_string()),
            Error::InvalidMessage(InvalidMessage::InvalidContentType) => Self::NoTls,
            _ => Self::Network(format!("TLS: {error}")),
        }
    }
}

/// The broker's own words, fit for a log line.
pub(super) fn printable(text: &str) -> String {
    clean(text).chars().take(200).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;
    use crate::mqtt::settings::TlsSettings;

    fn settings(protocol: Protocol) -> MqttSettings {
        MqttSettings {
            host: "broker.example".into(),
            port: 8883,
            tls: Some(TlsSettings { ca_file: Some("/etc/ca.pem".into()), ..TlsSettings::default() }),
            protocol,
            client_id: "web-7".into(),
            username: Some("agent".into()),
            password_file: None,
            keep_alive: Duration::from_secs(30),
            session_expiry: Duration::from_secs(60),
            max_payload: 1 << 20,
        }
    }

    #[test]
    fn a_refused_login_names_broker_client_and_user() {
        let failure = Failure::Refused("NotAuthorized".into());
        let text = failure.explain(&settings(Protocol::V5), false);
        for part in ["broker.example:8883", "web-7", "agent", "NotAuthorized", "mqtt.password_file"] {
            assert!(text.contains(part), "{part} is missing: {text}");
        }
        assert!(failure.lasting());
    }

    #[test]
    fn an_untrusted_certificate_names_the_file() {
        let error = rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer);
        let failure = Failure::from(&io::Error::new(io::ErrorKind::InvalidData, error));
        assert!(failure.lasting());
        let text = failure.explain(&settings(Protocol::V5), false);
        assert!(text.contains("UnknownIssuer") && text.contains("mqtt.ca_file /etc/ca.pem"), "{text}");
    }

    #[test]
    fn an_unsupported_version_says_which_to_set() {
        let text = |protocol| Failure::Version.explain(&settings(protocol), false);
        assert!(text(Protocol::V5).ends_with("does not speak MQTT 5: set mqtt.protocol to \"3.1.1\""));
        assert!(text(Protocol::V311).ends_with("does not speak MQTT 3.1.1: set mqtt.protocol to \"5\""));
        let closed = Failure::Closed.explain(&settings(Protocol::V5), false);
        assert!(closed.contains("(if it does not speak MQTT 5: set mqtt.protocol to \"3.1.1\""), "{closed}");
    }

    #[test]
    fn a_port_that_may_be_the_wrong_one_is_doubted() {
        let reset = Failure::from(&io::Error::from(io::ErrorKind::ConnectionReset));
        let plain = MqttSettings { tls: None, ..settings(Protocol::V311) };
        for failure in [reset.clone(), Failure::Closed] {
            let text = failure.explain(&plain, false);
            assert!(text.ends_with("(if the port speaks TLS: set mqtt.url to mqtts://)"), "{text}");
            let both = failure.explain(&MqttSettings { tls: None, ..settings(Protocol::V5) }, false);
            assert!(both.contains("MQTT 5") && both.contains("mqtts://"), "{both}");
            assert!(!failure.explain(&plain, true).contains("TLS"), "it was accepted");
            let text = failure.explain(&settings(Protocol::V311), false);
            assert!(text.ends_with("(if the port does not speak TLS: set mqtt.url to mqtt://)"), "{text}");
        }
        assert!(!reset.lasting());
    }

    #[test]
    fn trouble_of_the_network_passes() {
        let failure = Failure::from(&io::Error::from(io::ErrorKind::ConnectionRefused));
        assert_eq!(failure, Failure::Network("connection refused".into()));
        assert!(!failure.lasting() && !Failure::Closed.lasting() && !Failure::Oversize(1).lasting());
    }

    #[test]
    fn the_brokers_words_cannot_forge_a_log_line() {
        let forged = "bye\nERROR \u{1b}[31m\u{202e}forged";
        assert_eq!(printable(forged), "bye\u{fffd}ERROR \u{fffd}[31m\u{fffd}forged");
        assert_eq!(printable(&"x".repeat(1000)).len(), 200);
        // What rustls says of a certificate for other names holds those names.
        let text = Failure::Certificate(forged.into()).explain(&settings(Protocol::V5), false);
        assert!(!text.contains(char::is_control) && !text.contains('\u{202e}'), "{text:?}");
    }
}
