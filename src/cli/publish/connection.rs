//! Options → how to reach the broker.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};

use crate::config::{BrokerUrl, check_alpn};
use crate::mqtt::{MAX_STRING, MqttSettings, Protocol, TlsSettings};

use super::Problem;

/// Which broker, and as whom.
#[derive(Debug, Args)]
pub(super) struct ConnectionArgs {
    /// Broker, as mqtts://HOST[:PORT] or mqtt://HOST[:PORT]
    #[arg(long, value_name = "URL")]
    broker: String,
    /// Name of this client at the broker [default: publish- and random digits]
    #[arg(long, value_name = "ID")]
    client_id: Option<String>,
    /// Whom to log in as
    #[arg(long, value_name = "NAME")]
    username: Option<String>,
    /// File whose first line is the password
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
    /// Certificates of the authorities to trust, PEM [default: the system's]
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// This client's certificate, PEM
    #[arg(long, value_name = "FILE")]
    cert_file: Option<PathBuf>,
    /// The private key to --cert-file, PEM
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
    /// Application protocol to ask for, such as x-amzn-mqtt-ca
    #[arg(long, value_name = "NAME")]
    alpn: Option<String>,
    /// Version of MQTT
    #[arg(long, value_name = "VERSION", default_value = "5")]
    protocol: ProtocolArg,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum ProtocolArg {
    #[value(name = "5")]
    V5,
    #[value(name = "3.1.1")]
    V311,
}

impl ConnectionArgs {
    pub(super) fn settings(self) -> Result<MqttSettings, Problem> {
        let url: BrokerUrl =
            self.broker.parse().map_err(|problem| Problem::Usage(format!("--broker: {problem}")))?;
        self.check(url.tls)?;
        let tls = TlsSettings {
            ca_file: self.ca_file,
            cert_file: self.cert_file,
            key_file: self.key_file,
            alpn: self.alpn,
        };
        Ok(MqttSettings {
            host: url.host,
            port: url.port,
            tls: url.tls.then_some(tls),
            protocol: match self.protocol {
                ProtocolArg::V5 => Protocol::V5,
                ProtocolArg::V311 => Protocol::V311,
            },
            client_id: self.client_id.unwrap_or_else(client_id),
            username: self.username,
            password_file: self.password_file,
            keep_alive: Duration::from_secs(30),
            session_expiry: Duration::ZERO,
            max_payload: crate::publish::MAX_PAYLOAD,
        })
    }

    fn check(&self, tls: bool) -> Result<(), Problem> {
        if self.password_file.is_some() && self.username.is_none() {
            return Err(Problem::usage("--password-file needs --username beside it"));
        }
        if self.client_id.as_ref().is_some_and(|id| id.is_empty() || id.chars().any(char::is_control)) {
            return Err(Problem::usage("--client-id must not be empty or hold control characters"));
        }
        let sent = [("--client-id", &self.client_id), ("--username", &self.username)];
        if let Some((option, _)) =
            sent.iter().find(|(_, text)| text.as_ref().is_some_and(|it| it.len() > MAX_STRING))
        {
            return Err(Problem::Usage(format!(
                "{option} is longer than {MAX_STRING} bytes, the most that MQTT can carry"
            )));
        }
        if let Some(Err(problem)) = self.alpn.as_deref().map(check_alpn) {
            return Err(Problem::Usage(format!("--alpn {problem}")));
        }
        match (&self.cert_file, &self.key_file) {
            (Some(_), None) => return Err(Problem::usage("--cert-file needs --key-file beside it")),
            (None, Some(_)) => return Err(Problem::usage("--key-file needs --cert-file beside it")),
            _ => {}
        }
        let of_tls = [
            ("--ca-file", self.ca_file.is_some()),
            ("--cert-file", self.cert_file.is_some()),
            ("--alpn", self.alpn.is_some()),
        ];
        match of_tls.iter().find(|(_, given)| *given && !tls) {
            Some((option, _)) => Err(Problem::Usage(format!(
                "{option} needs a broker with TLS: --broker must begin with mqtts://"
            ))),
            None => Ok(()),
        }
    }
}

/// Another one each time, and within the 23 letters and digits that every MQTT 3.1.1 broker must take.
fn client_id() -> String {
    format!("publish-{:012x}", fastrand::u64(..1 << 48))
}

/// What the configuration calls keys, the command line calls options.
pub(super) fn in_options(text: &str) -> String {
    let names = [
        ("mqtt.url", "--broker"),
        ("mqtt.client_id", "--client-id"),
        ("mqtt.username", "--username"),
        ("mqtt.password_file", "--password-file"),
        ("mqtt.ca_file", "--ca-file"),
        ("mqtt.cert_file", "--cert-file"),
        ("mqtt.key_file", "--key-file"),
        ("mqtt.protocol", "--protocol"),
        ("set webhook_secret_file", "give --sign-with"),
    ];
    names.iter().fold(text.to_owned(), |text, (key, option)| text.replace(key, option))
}
