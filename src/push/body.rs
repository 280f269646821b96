//! The JSON of a payload, typed: what a push needs, and nothing else of it is kept.

use std::fmt;
use std::time::SystemTime;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use memchr::memmem;
use serde::de::{self, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::error::Category;

use super::headers::Headers;
use super::{ByHand, DecodeError, seconds_since_epoch};

/// The fields of a push, and those that give away an envelope where there must be none.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Document {
    #[serde(rename = "ref")]
    pub(super) git_ref: Option<String>,
    pub(super) before: Option<String>,
    pub(super) after: Option<String>,
    pub(super) deleted: Option<bool>,
    pub(super) repository: Option<Repository>,
    pub(super) instance_agent: Option<Made>,
    headers: Option<IgnoredAny>,
    body: Option<IgnoredAny>,
    body_base64: Option<IgnoredAny>,
}

impl Document {
    pub(super) fn parse(json: &[u8]) -> Result<Self, DecodeError> {
        parse(json)
    }

    pub(super) fn is_envelope(&self) -> bool {
        self.headers.is_some() || self.body.is_some() || self.body_base64.is_some()
    }
}

/// A webhook's headers and its exact body.
pub(super) struct Envelope {
    pub(super) headers: Headers,
    pub(super) body: Vec<u8>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct EnvelopeFields {
    headers: Option<Headers>,
    body: Option<String>,
    body_base64: Option<String>,
}

impl Envelope {
    /// Whether it may be one, at a fiftieth of the cost of reading it: an envelope has `headers`. Who writes the name with
    /// escapes is refused with the body.
    pub(super) fn is_named_in(json: &[u8]) -> bool {
        memmem::find(json, b"\"headers\"").is_some()
    }

    /// `None`: an object that is no envelope.
    pub(super) fn parse(json: &[u8]) -> Result<Option<Self>, DecodeError> {
        let EnvelopeFields { headers, body, body_base64 } = parse(json)?;
        let body = match (body, body_base64) {
            (None, None) if headers.is_none() => return Ok(None),
            (Some(body), None) => body.into_bytes(),
            (None, Some(encoded)) => STANDARD.decode(encoded).map_err(|_| DecodeError::Envelope)?,
            _ => return Err(DecodeError::Envelope),
        };
        let headers = headers.ok_or(DecodeError::Envelope)?;
        Ok(Some(Self { headers, body }))
    }
}

fn parse<'de, T: Deserialize<'de>>(json: &'de [u8]) -> Result<T, DecodeError> {
    // A derived struct would also be read from an array, by position.
    let first = json.iter().find(|b| !b.is_ascii_whitespace());
    if first != Some(&b'{') {
        return Err(DecodeError::Json { problem: "no object", line: 1, column: 1 });
    }
    serde_json::from_slice(json).map_err(|error| DecodeError::Json {
        problem: match error.classify() {
            Category::Eof => "cut short",
            Category::Syntax => "syntax error",
            Category::Data => "wrong type of value",
            Category::Io => "unreadable",
        },
        line: error.line(),
        column: error.column(),
    })
}

/// What `instance-agent publish` adds to a push that it makes itself.
#[derive(Deserialize)]
pub(super) struct Made {
    id: Option<String>,
    time: Option<u64>,
    #[serde(default)]
    again: bool,
}

impl Made {
    pub(super) fn check(self) -> Result<ByHand, DecodeError> {
        let well_formed = |id: &String| {
            (8..=64).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        };
        let id = self.id.filter(well_formed).ok_or(DecodeError::ByHand)?;
        let at = self.time.and_then(seconds_since_epoch).ok_or(DecodeError::ByHand)?;
        Ok(ByHand { id, at, again: self.again })
    }
}

#[derive(Deserialize)]
pub(super) struct Repository {
    full_name: Option<String>,
    name: Option<String>,
    owner: Option<Owner>,
    pub(super) default_branch: Option<String>,
    pub(super) master_branch: Option<String>,
    pub(super) pushed_at: Option<PushedAt>,
}

#[derive(Deserialize)]
struct Owner {
    name: Option<String>,
    login: Option<String>,
}

impl Repository {
    /// `owner/name`; 2012 payloads have no `full_name` to say it.
    pub(super) fn full_name(&self) -> Option<String> {
        let assembled = || {
            let owner = self.owner.as_ref()?;
            Some(format!("{}/{}", owner.name.as_ref().or(owner.login.as_ref())?, self.name.as_ref()?))
        };
        self.full_name.clone().or_else(assembled)
    }
}

/// Seconds since the epoch, or RFC 3339 in some old payloads; anything else counts as not said.
pub(super) struct PushedAt(pub(super) Option<SystemTime>);

impl<'de> Deserialize<'de> for PushedAt {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(PushedAtVisitor).map(Self)
    }
}

struct PushedAtVisitor;

impl<'de> Visitor<'de> for PushedAtVisitor {
    type Value = Option<SystemTime>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a time")
    }

    fn visit_u64<E: de::Error>(self, seconds: u64) -> Result<Self::Value, E> {
        Ok(seconds_since_epoch(seconds))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
        Ok(humantime::parse_rfc3339(text).ok())
    }

    fn visit_i64<E: de::Error>(self, _: i64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_f64<E: de::Error>(self, _: f64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_bool<E: de::Error>(self, _: bool) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(None)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(None)
    }
}
