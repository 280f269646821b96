//! What a push must prove, and what lets others see or forge what proves it.

use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::mqtt::MqttSettings;
use crate::signature::Secrets;
use crate::trust::Trust;

use super::checker::Checker;
use super::fragment::Scalar;
use super::source::{Place, Placed, Sources};
use super::validate::DAY;
use super::values;

const SECRET_FILE: &str = "webhook_secret_file";
/// The bits of a file's mode by which those outside its owner and group read and write it.
const OTHERS: u32 = 0o006;

pub(super) fn trust(checker: &mut Checker, sources: &mut Sources, mqtt: Option<&MqttSettings>) -> Trust {
    let secrets = secrets(checker, sources.take(|f| &mut f.webhook_secret_file));
    let max_push_age =
        checker.optional_or("max_push_age", sources.take(|f| &mut f.max_push_age), "none", |text| {
            values::duration(text, Duration::from_secs(60), 365 * DAY)
        });
    let (file, secrets) = secrets.unzip();
    if let Some(mqtt) = mqtt {
        checker.warnings.extend(open_to_all(mqtt, secrets.is_some()));
        checker.warnings.extend(shared_files(mqtt, file.as_deref()));
    }
    Trust { secrets, max_push_age }
}

fn secrets(checker: &mut Checker, field: Option<Placed<Scalar>>) -> Option<(PathBuf, Secrets)> {
    let Some(field) = field else {
        checker.show(&Place::DEFAULT, SECRET_FILE, "none: unsigned pushes are taken");
        return None;
    };
    let read = values::readable_file(&field.value).and_then(|path| {
        let secrets = Secrets::read(&path).map_err(|problem| format!("{}: {problem}", path.display()))?;
        Ok((path, secrets))
    });
    match read {
        Ok((path, secrets)) => {
            let noun = if secrets.count() == 1 { "secret" } else { "secrets" };
            let shown = format!("{} ({} {noun})", path.display(), secrets.count());
            checker.show(&field.place, SECRET_FILE, shown);
            Some((path, secrets))
        }
        Err(problem) => {
            checker.error(&field.place, SECRET_FILE, problem);
            None
        }
    }
}

/// What anybody between this host and the broker can do.
fn open_to_all(mqtt: &MqttSettings, signed: bool) -> Vec<String> {
    if mqtt.tls.is_some() || is_loopback(&mqtt.host) {
        return Vec::new();
    }
    let broker = mqtt.broker();
    let mut warnings = Vec::new();
    if !signed {
        warnings.push(format!(
            "anybody on the way to {broker} can restart the apps: neither is the connection encrypted nor are pushes \
             signed; use mqtts:// in mqtt.url, or set {SECRET_FILE}"
        ));
    }
    if mqtt.password_file.is_some() {
        warnings.push(format!(
            "anybody on the way to {broker} can read the password of mqtt.password_file: use mqtts:// in mqtt.url"
        ));
    }
    warnings
}

fn is_loopback(host: &str) -> bool {
    let name = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    // RFC 6761, 6.3: localhost and all below it.
    name == "localhost"
        || name.strip_suffix("localhost").is_some_and(|below| below.as_bytes().ends_with(b"."))
        || name.parse().is_ok_and(|address: IpAddr| address.is_loopback())
}

/// A warning for each file of keys or passwords that others can read or change.
fn shared_files(mqtt: &MqttSettings, secret_file: Option<&Path>) -> Vec<String> {
    let key_file = mqtt.tls.as_ref().and_then(|tls| tls.key_file.as_deref());
    let files = [
        (SECRET_FILE, secret_file),
        ("mqtt.password_file", mqtt.password_file.as_deref()),
        ("mqtt.key_file", key_file),
    ];
    files.into_iter().filter_map(|(key, path)| shared_file(key, path?)).collect()
}

fn shared_file(key: &str, path: &Path) -> Option<String> {
    let mode = path.metadata().ok()?.mode() & 0o7777;
    (mode & OTHERS != 0).then(|| {
        format!(
            "{key}: {} has mode {mode:04o}, so others on this host can read or change what is in it: chmod o= {0}, and \
             replace what it holds if somebody may have looked",
            path.display()
        )
    })
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
