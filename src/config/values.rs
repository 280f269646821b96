//! Scalars → values. Each error says what is allowed; the caller adds file, line and key.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use bytesize::ByteSize;

use super::fragment::{DECIMAL, Scalar};

/// Longest environment or app name, so that file names made of them stay within the file system's limit.
const MAX_NAME: usize = 100;

pub(super) fn text(scalar: &Scalar) -> Result<String, String> {
    match scalar {
        Scalar::Text(text) if text.is_empty() => Err("is empty".to_owned()),
        Scalar::Text(text) if text.contains(char::is_control) => Err("holds control characters".to_owned()),
        Scalar::Text(text) => Ok(text.to_string()),
        Scalar::Integer(_) | Scalar::Bool(_) | Scalar::Other(DECIMAL) => {
            Err(format!("is {}, but must be text: put it in quotes", scalar.kind()))
        }
        Scalar::Other(kind) => Err(format!("is {kind}, but must be text")),
    }
}

/// The name of a protocol in ALPN (RFC 7301, section 3.1).
pub(super) fn alpn(scalar: &Scalar) -> Result<String, String> {
    let name = text(scalar)?;
    check_alpn(&name).map(|()| name)
}

pub(crate) fn check_alpn(name: &str) -> Result<(), String> {
    let length = name.len();
    if (1..=255).contains(&length) { Ok(()) } else { Err(format!("has {length} bytes: must have 1 to 255")) }
}

/// Text that some type's constructor validates.
pub(super) fn parsed<T: FromStr>(scalar: &Scalar) -> Result<T, String>
where
    T::Err: std::fmt::Display,
{
    let text = text(scalar)?;
    text.parse().map_err(|error| format!("{text:?}: {error}"))
}

/// One of a few words.
pub(super) fn choice<T: Copy>(scalar: &Scalar, allowed: &[(&'static str, T)]) -> Result<T, String> {
    let text = match scalar {
        Scalar::Integer(digits) => digits.to_string(),
        scalar => text(scalar)?,
    };
    allowed.iter().find(|(word, _)| *word == text).map(|(_, value)| *value).ok_or_else(|| {
        let words: Vec<_> = allowed.iter().map(|(word, _)| format!("{word:?}")).collect();
        format!("{text:?}: must be {}", words.join(" or "))
    })
}

pub(super) fn boolean(scalar: &Scalar) -> Result<bool, String> {
    match scalar {
        Scalar::Bool(value) => Ok(*value),
        scalar => Err(format!("is {}, but must be true or false", scalar.kind())),
    }
}

pub(super) fn integer(scalar: &Scalar, min: u32, max: u32) -> Result<u32, String> {
    let allowed = || format!("must be a whole number from {min} to {max}, written in digits");
    let number = match scalar {
        Scalar::Integer(digits) => digits.parse().map_err(|_| format!("{digits}: {}", allowed()))?,
        scalar => return Err(format!("is {}, but {}", scalar.kind(), allowed())),
    };
    if (min..=max).contains(&number) { Ok(number) } else { Err(format!("{number}: {}", allowed())) }
}

pub(super) fn duration(scalar: &Scalar, min: Duration, max: Duration) -> Result<Duration, String> {
    let (text, parsed) = match scalar {
        Scalar::Integer(digits) if **digits == *"0" => ("0".to_owned(), Ok(Duration::ZERO)),
        Scalar::Integer(number) => {
            return Err(format!("{number}: a duration needs a unit, such as {number}s or {number}m"));
        }
        Scalar::Other(DECIMAL) => {
            return Err(format!("is {DECIMAL}, but a duration needs a unit: write it as 500ms, 30s or 5m"));
        }
        Scalar::Bool(_) => {
            return Err(format!("is {}, but must be a duration: write it as 30s or 5m", scalar.kind()));
        }
        scalar => {
            let text = text(scalar)?;
            let parsed = humantime::parse_duration(&text);
            (text, parsed)
        }
    };
    if let Some(unit) = calendar_unit(&text) {
        return Err(format!("{text:?}: {unit} is no fixed time: write 5m for minutes, and days as 30d"));
    }
    let value =
        parsed.map_err(|_| format!("{text:?} is no duration: write it as 500ms, 30s, 5m, 2h or 1d"))?;
    if (min..=max).contains(&value) {
        Ok(value)
    } else {
        Err(format!("{text}: must be from {} to {}", in_time_units(min), in_time_units(max)))
    }
}

/// Months and years, for which the library takes `M` and `y`: whoever writes `5M` may mean minutes.
fn calendar_unit(text: &str) -> Option<&str> {
    let units = text.split(|c: char| !c.is_alphabetic());
    units.into_iter().find(|unit| matches!(*unit, "M" | "month" | "months" | "y" | "yr" | "year" | "years"))
}

/// In the largest unit that divides it, as it can be written.
fn in_time_units(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let units = [("d", 24 * 60 * 60), ("h", 60 * 60), ("m", 60)];
    let unit = units.into_iter().find(|(_, unit)| seconds >= *unit && seconds.is_multiple_of(*unit));
    unit.map_or_else(
        || humantime::format_duration(duration).to_string(),
        |(name, unit)| format!("{}{name}", seconds / unit),
    )
}

pub(super) fn size(scalar: &Scalar, min: u64, max: u64) -> Result<usize, String> {
    let range = || format!("must be from {} to {}", in_units(min), in_units(max));
    let bytes = match scalar {
        Scalar::Integer(digits) => digits.parse().map_err(|_| format!("{digits} bytes: {}", range()))?,
        Scalar::Other(DECIMAL) => {
            return Err(format!(
                "is {DECIMAL}, but must be a whole number written in digits, or have a unit, such as 32MiB"
            ));
        }
        Scalar::Bool(_) => {
            return Err(format!("is {}, but must be a size: write it as 512KiB or 32MiB", scalar.kind()));
        }
        scalar => {
            let text = text(scalar)?;
            let size = text.parse::<ByteSize>();
            size.map_err(|_| format!("{text:?} is no size: write it as 512KiB, 32MiB or 1000000"))?.as_u64()
        }
    };
    let allowed = || format!("{bytes} bytes: {}", range());
    if (min..=max).contains(&bytes) { usize::try_from(bytes).map_err(|_| allowed()) } else { Err(allowed()) }
}

/// In the largest unit that divides it. (The library's words would take a logarithm, and with it another shared library.)
fn in_units(bytes: u64) -> String {
    let units = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    let unit = units.into_iter().find(|(_, unit)| bytes >= *unit && bytes.is_multiple_of(*unit));
    unit.map_or_else(|| format!("{bytes} bytes"), |(name, unit)| format!("{} {name}", bytes / unit))
}

pub(super) fn path(scalar: &Scalar) -> Result<PathBuf, String> {
    let path = PathBuf::from(text(scalar)?);
    if path.is_absolute() { Ok(path) } else { Err(format!("{}: must be an absolute path", path.display())) }
}

/// The path of a file that can be read now.
pub(super) fn readable_file(scalar: &Scalar) -> Result<PathBuf, String> {
    let path = path(scalar)?;
    check_readable(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(path)
}

fn check_readable(path: &Path) -> Result<(), String> {
    // Looked at before it is opened: a FIFO would hold up whoever opens it.
    let kind = std::fs::metadata(path).map_err(|error| error.to_string())?.file_type();
    if kind.is_dir() {
        return Err("is a directory, but must be a file".to_owned());
    }
    if !kind.is_file() {
        return Err("is no regular file, but must be one: it is read again and again".to_owned());
    }
    std::fs::File::open(path).map(drop).map_err(|error| error.to_string())
}

/// The path of a directory that may yet have to be made.
pub(super) fn directory(scalar: &Scalar) -> Result<PathBuf, String> {
    let path = path(scalar)?;
    match std::fs::metadata(&path) {
        Ok(metadata) if metadata.is_dir() => Ok(path),
        Ok(_) => Err(format!("{}: is there already, but is no directory", path.display())),
        Err(error) if error.kind() == std::io::ErrorKind::NotADirectory => {
            Err(format!("{}: lies below something that is no directory", path.display()))
        }
        Err(_) => Ok(path),
    }
}

/// A name that becomes part of file names and unit names.
pub(super) fn name(scalar: &Scalar) -> Result<String, String> {
    let name = match scalar {
        Scalar::Integer(digits) => digits.to_string(),
        scalar => text(scalar)?,
    };
    if is_name(&name) { Ok(name) } else { Err(not_a_name(&name)) }
}

pub(super) fn not_a_name(text: &str) -> String {
    format!(
        "{text:?}: must be letters, digits and any of . _ @ : -, the first a letter or a digit, at most {MAX_NAME}"
    )
}

pub(super) fn is_name(text: &str) -> bool {
    text.len() <= MAX_NAME
        && text.bytes().next().is_some_and(|first| first.is_ascii_alphanumeric())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'@' | b':' | b'-'))
}

/// `mqtt.url`, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BrokerUrl {
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) tls: bool,
}

impl FromStr for BrokerUrl {
    type Err = String;

    /// No message repeats the URL: it may hold a password, which belongs in a file.
    fn from_str(url: &str) -> Result<Self, String> {
        let (tls, rest) = match url.split_once("://") {
            Some(("mqtt", rest)) => (false, rest),
            Some(("mqtts", rest)) => (true, rest),
            _ => return Err("must be mqtt://HOST[:PORT] or mqtts://HOST[:PORT]".to_owned()),
        };
        if rest.contains('@') {
            return Err(
                "must not hold a user or password: use mqtt.username and mqtt.password_file".to_owned()
            );
        }
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        if authority.contains(['/', '?', '#']) {
            return Err("must end after the port: MQTT has no path".to_owned());
        }
        let (host, port) = split_port(authority)?;
        if !is_host(host) {
            return Err("names no valid host: a DNS name, an IPv4 address or an [IPv6 address]".to_owned());
        }
        if tls && host.starts_with('[') {
            return Err("mqtts:// needs a DNS name or an IPv4 address, not an IPv6 address".to_owned());
        }
        let port = match port {
            None => Ok(if tls { 8883 } else { 1883 }),
            Some(port) => {
                port.parse().ok().filter(|port| *port != 0).ok_or("the port must be from 1 to 65535")
            }
        };
        let host = host.trim_matches(['[', ']']);
        Ok(Self { host: host.to_owned(), port: port?, tls })
    }
}

fn split_port(authority: &str) -> Result<(&str, Option<&str>), String> {
    let after_brackets = authority.rfind(']').map_or(0, |end| end + 1);
    match authority[after_brackets..].split_once(':') {
        None => Ok((authority, None)),
        Some((_, port)) => match authority.len().checked_sub(port.len() + 1) {
            Some(end) if !port.contains(':') => Ok((&authority[..end], Some(port))),
            _ => Err("an IPv6 address must stand in brackets: mqtt://[::1]:1883".to_owned()),
        },
    }
}

fn is_host(host: &str) -> bool {
    if let Some(address) = host.strip_prefix('[') {
        return address
            .strip_suffix(']')
            .is_some_and(|address| address.parse::<std::net::Ipv6Addr>().is_ok());
    }
    let label = |label: &str| {
        !label.is_empty() && label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
    };
    host.len() <= 253 && host.strip_suffix('.').unwrap_or(host).split('.').all(label)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Result<(String, u16, bool), String> {
        text.parse::<BrokerUrl>().map(|url| (url.host, url.port, url.tls))
    }

    #[test]
    fn broker_urls() {
        assert_eq!(url("mqtt://localhost"), Ok(("localhost".into(), 1883, false)));
        assert_eq!(url("mqtts://b.example.com"), Ok(("b.example.com".into(), 8883, true)));
        assert_eq!(url("mqtts://b.example.com:443/"), Ok(("b.example.com".into(), 443, true)));
        assert_eq!(url("mqtt://127.0.0.1:2883"), Ok(("127.0.0.1".into(), 2883, false)));
        assert_eq!(url("mqtt://[::1]:1884"), Ok(("::1".into(), 1884, false)));
        assert_eq!(url("mqtt://[::1]"), Ok(("::1".into(), 1883, false)));
        for (bad, part) in [
            ("", "must be mqtt://"),
            ("broker:1883", "must be mqtt://"),
            ("http://broker", "must be mqtt://"),
            ("mqtt://", "no valid host"),
            ("mqtt://:1883", "no valid host"),
            ("mqtt://a b", "no valid host"),
            ("mqtt://broker:0", "port"),
            ("mqtt://broker:65536", "port"),
            ("mqtt://broker:", "port"),
            ("mqtt://broker/path", "no path"),
            ("mqtt://::1:1883", "brackets"),
            ("mqtt://[::1", "brackets"),
            ("mqtts://[::1]", "not an IPv6"),
        ] {
            let error = url(bad).unwrap_err();
            assert!(error.contains(part), "{bad}: {error}");
        }
    }

    #[test]
    fn a_url_with_a_password_is_refused_without_repeating_it() {
        let error = url("mqtt://agent:hunter2@broker").unwrap_err();
        assert!(error.contains("password_file") && !error.contains("hunter2"), "{error}");
    }

    #[test]
    fn durations_need_units_and_keep_their_range() {
        let read = |text: &str| {
            duration(&Scalar::Text(text.into()), Duration::from_secs(5), Duration::from_secs(3600))
        };
        assert_eq!(read("1m 30s"), Ok(Duration::from_secs(90)));
        assert!(read("soon").unwrap_err().contains("no duration"));
        assert!(read("1s").unwrap_err().contains("from 5s to 1h"));
        let number = duration(&Scalar::Integer("30".into()), Duration::ZERO, Duration::MAX).unwrap_err();
        assert!(number.contains("needs a unit, such as 30s"), "{number}");
        assert_eq!(duration(&Scalar::Integer("0".into()), Duration::ZERO, Duration::MAX), Ok(Duration::ZERO));
    }

    #[test]
    fn sizes_have_units_or_are_bytes() {
        let read = |text: &str| size(&Scalar::Text(text.into()), 1024, 1 << 30);
        assert_eq!(read("32MiB"), Ok(32 << 20));
        assert_eq!(read("1MB"), Ok(1_000_000));
        assert_eq!(size(&Scalar::Integer("2048".into()), 1024, 1 << 30), Ok(2048));
        assert!(read("many").unwrap_err().contains("no size"));
        assert!(read("1B").unwrap_err().contains("from"));
    }

    #[test]
    fn text_that_yaml_takes_for_something_else_is_refused() {
        assert!(text(&Scalar::Bool(true)).unwrap_err().contains("quotes"));
        assert!(text(&Scalar::Other("a list")).unwrap_err().contains("must be text"));
        assert!(text(&Scalar::Text("a\u{1b}[31m".into())).unwrap_err().contains("control"));
    }
}
