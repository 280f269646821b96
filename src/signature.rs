//! The webhook's signature: `X-Hub-Signature-256`, GitHub's HMAC-SHA256 over the exact body.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use ring::hmac::{self, HMAC_SHA256, Key};

/// Far more than a few secrets take, and far less than a wrong file could.
const MAX_FILE: u64 = 64 << 10;
const PREFIX: &str = "sha256=";
/// The length of a SHA-256 digest.
const DIGEST: usize = 32;

/// Secrets that a webhook may be signed with, at least one: while one replaces another, both count.
#[derive(Clone, PartialEq, Eq)]
pub struct Secrets(Vec<Secret>);

/// One secret. Shows itself nowhere.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Box<[u8]>);

/// A file that holds no secrets; the caller names it. No text of the file is in here.
#[derive(Debug, thiserror::Error)]
pub enum SecretsError {
    /// It cannot be read.
    #[error("cannot be read: {0}")]
    Read(#[from] io::Error),
    /// It is no file of secrets.
    #[error("is larger than 64 KiB: write one secret a line, and nothing else")]
    Large,
    /// There is no secret in it.
    #[error("holds no secret: write one a line, as it stands in the webhook's settings")]
    Empty,
}

/// Why a body is not to be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// There is none.
    #[error(
        "it is not signed, and webhook_secret_file is set: publish X-Hub-Signature-256 with it, as an MQTT 5 user \
         property or in an envelope"
    )]
    Missing,
    /// The header is not what GitHub sends.
    #[error("X-Hub-Signature-256 is malformed: must be sha256= and 64 hexadecimal digits")]
    Malformed,
    /// No secret made this signature of this body.
    #[error(
        "the signature is not of this body by any secret of webhook_secret_file (which is read at start and reload)"
    )]
    Mismatch,
}

impl Secrets {
    /// Reads a file with one secret a line. Blank lines and the ends of lines, CRLF too, are no part of a secret.
    pub fn read(path: &Path) -> Result<Self, SecretsError> {
        let mut bytes = Vec::new();
        File::open(path)?.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > MAX_FILE {
            return Err(SecretsError::Large);
        }
        Self::parse(&bytes)
    }

    /// The secrets of such a file.
    pub fn parse(bytes: &[u8]) -> Result<Self, SecretsError> {
        let lines = bytes.split(|b| *b == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
        let secrets: Vec<_> =
            lines.filter(|line| !line.trim_ascii().is_empty()).map(|line| Secret(line.into())).collect();
        if secrets.is_empty() { Err(SecretsError::Empty) } else { Ok(Self(secrets)) }
    }

    /// The one to sign with: the file's first.
    pub fn first(&self) -> &Secret {
        // Never empty: `parse` sees to it.
        &self.0[0]
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// Did one of the secrets make this signature of exactly this body? Takes the same time for every wrong one.
    pub fn verify(&self, body: &[u8], header: &str) -> Result<(), SignatureError> {
        let digest = digest_of(header).ok_or(SignatureError::Malformed)?;
        let made = |secret: &Secret| hmac::verify(&secret.key(), body, &digest).is_ok();
        if self.0.iter().any(made) { Ok(()) } else { Err(SignatureError::Mismatch) }
    }
}

impl Secret {
    /// What GitHub would send as `X-Hub-Signature-256` with this body.
    pub fn sign(&self, body: &[u8]) -> String {
        let tag = hmac::sign(&self.key(), body);
        let digits: String = tag.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{PREFIX}{digits}")
    }

    fn key(&self) -> Key {
        Key::new(HMAC_SHA256, &self.0)
    }
}

/// Could this be a signature at all?
pub fn check_form(header: &str) -> Result<(), SignatureError> {
    digest_of(header).map(drop).ok_or(SignatureError::Malformed)
}

fn digest_of(header: &str) -> Option<[u8; DIGEST]> {
    let digits = header.strip_prefix(PREFIX)?.as_bytes();
    let mut digest = [0; DIGEST];
    if digits.len() != 2 * DIGEST {
        return None;
    }
    for (byte, pair) in digest.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = nibble(pair[0])? << 4 | nibble(pair[1])?;
    }
    Some(digest)
}

fn nibble(digit: u8) -> Option<u8> {
    // One hexadecimal digit is at most 15.
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secrets({})", self.count())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From GitHub's documentation, "Validating webhook deliveries".
    const SECRET: &str = "It's a Secret to Everybody";
    const BODY: &[u8] = b"Hello, World!";
    const SIGNATURE: &str = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";

    fn secrets(file: &str) -> Secrets {
        Secrets::parse(file.as_bytes()).unwrap()
    }

    #[test]
    fn githubs_own_example() {
        let secrets = secrets(SECRET);
        assert_eq!(secrets.first().sign(BODY), SIGNATURE);
        assert_eq!(secrets.verify(BODY, SIGNATURE), Ok(()));
    }

    #[test]
    fn every_line_is_a_secret() {
        let file = format!("\r\nnew\r\n   \n{SECRET}\n\n");
        let secrets = secrets(&file);
        assert_eq!(secrets.count(), 2);
        assert_eq!(secrets.verify(BODY, SIGNATURE), Ok(()));
        assert_eq!(secrets.verify(BODY, &secrets.first().sign(BODY)), Ok(()));
        assert_eq!(secrets.first(), &Secret(b"new"[..].into()));
    }

    #[test]
    fn another_body_secret_or_digest_is_a_mismatch() {
        let right = secrets(SECRET);
        let mut other = SIGNATURE.to_owned();
        other.replace_range(70..71, "8");
        assert_eq!(right.verify(b"Hello, World?", SIGNATURE), Err(SignatureError::Mismatch));
        assert_eq!(right.verify(BODY, &other), Err(SignatureError::Mismatch));
        assert_eq!(secrets("another").verify(BODY, SIGNATURE), Err(SignatureError::Mismatch));
    }

    #[test]
    fn a_header_of_another_form_is_malformed() {
        let digits = SIGNATURE.trim_start_matches(PREFIX);
        for bad in [
            String::new(),
            digits.to_owned(),
            format!("sha1={digits}"),
            format!("SHA256={digits}"),
            format!("{SIGNATURE}0"),
            SIGNATURE[..70].to_owned(),
            format!(" {SIGNATURE}"),
            format!("sha256={}", "é".repeat(32)),
            format!("sha256={}", "+".repeat(64)),
        ] {
            assert_eq!(secrets(SECRET).verify(BODY, &bad), Err(SignatureError::Malformed), "{bad}");
        }
        assert_eq!(
            secrets(SECRET).verify(BODY, &format!("{PREFIX}{}", digits.to_uppercase())),
            Ok(()),
            "hexadecimal digits may be upper case"
        );
    }

    #[test]
    fn a_file_without_secrets_is_an_error() {
        for empty in ["", "\n", " \r\n\t\n"] {
            assert!(matches!(Secrets::parse(empty.as_bytes()), Err(SecretsError::Empty)), "{empty:?}");
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secrets");
        assert!(matches!(Secrets::read(&path), Err(SecretsError::Read(_))));
        std::fs::write(&path, vec![b'a'; 70_000]).unwrap();
        assert!(matches!(Secrets::read(&path), Err(SecretsError::Large)));
        std::fs::write(&path, SECRET).unwrap();
        assert_eq!(Secrets::read(&path).unwrap(), secrets(SECRET));
    }

    #[test]
    fn secrets_show_nothing_of_themselves() {
        let secrets = secrets("one\ntwo");
        assert_eq!(format!("{secrets:?} {:?}", secrets.first()), "Secrets(2) Secret(…)");
    }
}
