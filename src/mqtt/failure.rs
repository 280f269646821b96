//! Why there is no connection, in words that say what to do, and how long it is likely to last.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;

use super::settings::{MqttSettings, Protocol};
use crate::tail::clean;

/// How many of its addresses a line names.
const ADDRESSES_NAMED: usize = 10;

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
    /// What answered speaks TLS, and was not spoken to in it.
    Tls,
    /// None of the broker's addresses takes a connection, for these reasons.
    Unreachable(BTreeMap<IpAddr, String>),
    /// Another client with this client's id keeps taking the session over: the broker says so.
    TakenOver,
    /// The broker keeps closing connections soon after it has granted all that was asked for.
    ClosedSoon,
    /// The broker closes connections on which it was asked for this filter, and what it says to that, if anything.
    ClosedWhenAsked { filter: String, said: Option<String> },
    /// This side ended it, for the broker did not do what it had to in time.
    GaveUp(&'static str),
    /// The broker said why it ended the connection.
    Disconnected(String),
    /// Everything else: likely to pass.
    Network(String),
}

impl Failure {
    pub(super) const NO_NAME: Self = Self::GaveUp("its name could not be looked up within 10 s");
    pub(super) const NO_ANSWER: Self = Self::GaveUp("no answer within 10 s");
    pub(super) const SILENT: Self = Self::GaveUp("no answer to a ping");
    pub(super) const STALLED: Self = Self::GaveUp("it has taken nothing of what it was sent for 10 s");
    pub(super) const UNANSWERED: Self =
        Self::GaveUp("no answer to SUBSCRIBE or UNSUBSCRIBE within 10 s, though the connection stands");

    /// Whether somebody has to do something before it can get better.
    pub(super) fn lasting(&self) -> bool {
        matches!(
            self,
            Self::File(_)
                | Self::Refused(_)
                | Self::Certificate(_)
                | Self::Version
                | Self::TakenOver
                | Self::ClosedSoon
                | Self::ClosedWhenAsked { .. }
        )
    }

    /// What makes a failure another one than the last: a name with many addresses shows some at a time.
    pub(super) fn gist<'a>(&self, reason: &'a str) -> Cow<'a, str> {
        match self {
            Self::Unreachable(tried) => {
                let whys: BTreeSet<&str> = tried.values().map(String::as_str).collect();
                whys.into_iter().collect::<Vec<_>>().join(", ").into()
            }
            _ => reason.into(),
        }
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
                "{broker} keeps ending the connection: another client with the id {} takes it over each time; give \
                 each agent a mqtt.client_id of its own",
                settings.client_id
            ),
            Self::ClosedSoon => format!(
                "{broker} keeps closing the connection soon after it granted the filters: most likely another client \
                 with the id {} takes it over each time; give each agent a mqtt.client_id of its own",
                settings.client_id
            ),
            Self::ClosedWhenAsked { filter, said } => format!(
                "{broker} closes the connection when it is asked for the filter {filter}{}: do its access rules allow \
                 client {} to subscribe to that, or is another client with this id connected?",
                said.as_ref().map(|said| format!(" ({said})")).unwrap_or_default(),
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
            Self::Tls if settings.tls.is_some() => format!(
                "{broker} speaks TLS, but hands what is inside on to a port that expects TLS itself: give mqtt.url that port"
            ),
            Self::Tls => format!("{broker} speaks TLS on that port: set mqtt.url to mqtts://"),
            Self::Unreachable(tried) => format!("{broker}: {}", attempts(tried, &settings.host)),
            Self::GaveUp(reason) => format!("{broker}: {reason}"),
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

/// What came of each address, unless there is but the one that the broker is named by.
fn attempts(tried: &BTreeMap<IpAddr, String>, host: &str) -> String {
    let mut addresses = tried.iter();
    match (addresses.next(), addresses.next()) {
        (None, _) => "its name has no address".to_owned(),
        (Some((address, why)), None) if host.parse() == Ok(*address) => why.clone(),
        _ => {
            let named = tried.iter().take(ADDRESSES_NAMED).map(|(address, why)| format!("{address}: {why}"));
            let more = tried.len().saturating_sub(ADDRESSES_NAMED);
            let more = (more > 0).then(|| format!("and {more} more"));
            format!(
                "none of its addresses takes a connection ({})",
                named.chain(more).collect::<Vec<_>>().join("; ")
            )
        }
    }
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
    use std::time::Duration;

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
    fn the_addresses_that_were_tried_are_named() {
        let settings = settings(Protocol::V5);
        let unreachable = |tried: &[(&str, &str)]| {
            let tried = tried.iter().map(|(address, why)| (address.parse().unwrap(), (*why).to_owned()));
            Failure::Unreachable(tried.collect())
        };
        let both = unreachable(&[("2001:db8::1", "no answer"), ("192.0.2.1", "refused")]);
        let text = both.explain(&settings, false);
        assert!(text.starts_with("broker.example:8883: none of its addresses"), "{text}");
        assert!(text.contains("192.0.2.1: refused; 2001:db8::1: no answer"), "{text}");
        assert!(!both.lasting());
        let alone = unreachable(&[("192.0.2.1", "refused")]);
        assert!(alone.explain(&settings, false).contains("192.0.2.1"));
        let literal = MqttSettings { host: "192.0.2.1".into(), ..settings.clone() };
        assert_eq!(alone.explain(&literal, false), "192.0.2.1:8883: refused");
        assert_eq!(
            unreachable(&[]).explain(&settings, false),
            "broker.example:8883: its name has no address"
        );
        let many: Vec<String> = (0..12).map(|n| format!("192.0.2.{n}")).collect();
        let many: Vec<_> = many.iter().map(|address| (address.as_str(), "refused")).collect();
        let text = unreachable(&many).explain(&settings, false);
        assert!(text.contains("192.0.2.9") && text.ends_with("; and 2 more)"), "{text}");
        let others = unreachable(&[("192.0.2.7", "no answer"), ("192.0.2.8", "refused")]);
        assert_eq!(others.gist("a"), both.gist("b"), "other addresses are no other trouble");
        assert_eq!(Failure::Closed.gist("a"), "a");
    }

    #[test]
    fn who_closes_a_connection_and_why_is_said_as_far_as_it_is_known() {
        let settings = settings(Protocol::V5);
        let taken_over = Failure::TakenOver.explain(&settings, true);
        assert!(taken_over.contains(": another client with the id web-7 takes it over"), "{taken_over}");
        let likely = Failure::ClosedSoon.explain(&settings, true);
        assert!(likely.contains("most likely another client with the id web-7 takes it over"), "{likely}");
        let asked =
            Failure::ClosedWhenAsked { filter: "github/+/+".into(), said: Some("NotAuthorized".into()) };
        let text = asked.explain(&settings, true);
        for part in
            ["github/+/+ (NotAuthorized): do its access rules", "allow client web-7", "another client"]
        {
            assert!(text.contains(part), "{part} is missing: {text}");
        }
        assert!(asked.lasting() && Failure::ClosedSoon.lasting() && !Failure::SILENT.lasting());
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
