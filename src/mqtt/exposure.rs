//! What lets others read what is sent, or pose as whoever sends it.

use std::net::IpAddr;

use super::settings::MqttSettings;
use crate::exposure::Exposed;

/// What anybody between this host and the broker can do. `signed`: pushes are.
pub(crate) fn in_the_clear(settings: &MqttSettings, signed: bool) -> Vec<String> {
    if settings.tls.is_some() || is_loopback(&settings.host) {
        return Vec::new();
    }
    let broker = settings.broker();
    let mut warnings = Vec::new();
    if !signed {
        warnings.push(format!(
            "anybody on the way to {broker} can restart the apps: neither is the connection encrypted nor are pushes \
             signed; use mqtts:// in mqtt.url, or set webhook_secret_file"
        ));
    }
    if settings.password_file.is_some() {
        warnings.push(format!(
            "anybody on the way to {broker} can read the password of mqtt.password_file: use mqtts:// in mqtt.url"
        ));
    }
    warnings
}

/// The files of the connection that others can read or change.
pub(crate) fn exposed_files(settings: &MqttSettings) -> Vec<Exposed> {
    let key_file = settings.tls.as_ref().and_then(|tls| tls.key_file.as_deref());
    let files = [("mqtt.password_file", settings.password_file.as_deref()), ("mqtt.key_file", key_file)];
    files.into_iter().filter_map(|(key, path)| Exposed::look(key, path?)).collect()
}

fn is_loopback(host: &str) -> bool {
    let name = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    // RFC 6761, 6.3: localhost and all below it.
    name == "localhost"
        || name.strip_suffix("localhost").is_some_and(|below| below.as_bytes().ends_with(b"."))
        || name.parse().is_ok_and(|address: IpAddr| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stays_on_this_host_is_loopback() {
        for here in ["localhost", "LOCALHOST.", "broker.localhost", "127.0.0.1", "127.1.2.3", "::1"] {
            assert!(is_loopback(here), "{here}");
        }
        for elsewhere in ["localhost.example.com", "mylocalhost", "10.0.0.1", "::", "0.0.0.0", "broker"] {
            assert!(!is_loopback(elsewhere), "{elsewhere}");
        }
    }
}
