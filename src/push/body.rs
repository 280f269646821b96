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
use super::{ByHand, DecodeError, Wanted, seconds_since_epoch};
use crate::github::GitRef;

/// The fields of a push, and those that give away an envelope where there must be none.
#[derive(Default)]
pub(super) struct Document {
    pub(super) git_ref: Option<String>,
    pub(super) before: Option<String>,
    pub(super) after: Option<String>,
    pub(super) deleted: Option<bool>,
    pub(super) repository: Option<Repository>,
    pub(super) instance_agent: Option<Made>,
    pub(super) is_envelope: bool,
}

/// What was read of a body.
pub(super) enum Reading {
    /// All of it.
    Whole(Box<Document>),
    /// As much as it took to see that its ref is not wanted.
    Unwanted(GitRef),
}

impl Document {
    /// Reads no further than it must: GitHub begins with the ref, and the commits, of which there may be megabytes, come
    /// last.
    pub(super) fn parse(json: &[u8], wanted: &Wanted) -> Result<Reading, DecodeError> {
        must_be_object(json)?;
        let mut unwanted = None;
        let mut deserializer = serde_json::Deserializer::from_slice(json);
        let reader = DocumentReader { wanted, unwanted: &mut unwanted };
        let read = deserializer.deserialize_map(reader);
        if let Some(git_ref) = unwanted {
            return Ok(Reading::Unwanted(git_ref));
        }
        let document = read.and_then(|document| deserializer.end().map(|()| document)).map_err(mistake)?;
        Ok(Reading::Whole(Box::new(document)))
    }

    /// The ref, if what is known of the push suffices to see that it is not wanted.
    fn unwanted(&self, wanted: &Wanted) -> Option<GitRef> {
        let git_ref = self.git_ref.as_ref()?.parse().ok()?;
        let default_branch = self.repository.as_ref().and_then(Repository::default_branch);
        (!wanted(&git_ref, default_branch)).then_some(git_ref)
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(field_identifier, rename_all = "snake_case")]
enum Field {
    Ref,
    Before,
    After,
    Deleted,
    Repository,
    InstanceAgent,
    Headers,
    Body,
    BodyBase64,
    #[serde(other)]
    Unused,
}

struct DocumentReader<'a> {
    wanted: &'a Wanted<'a>,
    /// Set when reading ends early, which for serde_json is an error.
    unwanted: &'a mut Option<GitRef>,
}

impl<'de> Visitor<'de> for DocumentReader<'_> {
    type Value = Document;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the object of a push")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Document, A::Error> {
        let mut document = Document::default();
        let mut seen = 0;
        while let Some(field) = map.next_key()? {
            let bit = 1_u16 << field as u8;
            // Of a key that comes twice, no one knows which of the values was meant.
            if seen & bit != 0 && field != Field::Unused {
                return Err(de::Error::custom("a field comes twice"));
            }
            seen |= bit;
            match field {
                Field::Ref => document.git_ref = map.next_value()?,
                Field::Before => document.before = map.next_value()?,
                Field::After => document.after = map.next_value()?,
                Field::Deleted => document.deleted = map.next_value()?,
                Field::Repository => document.repository = map.next_value()?,
                Field::InstanceAgent => document.instance_agent = map.next_value()?,
                Field::Headers | Field::Body | Field::BodyBase64 => {
                    document.is_envelope |= map.next_value::<Option<IgnoredAny>>()?.is_some();
                }
                Field::Unused => drop(map.next_value::<IgnoredAny>()?),
            }
            if matches!(field, Field::Ref | Field::Repository) {
                *self.unwanted = document.unwanted(self.wanted);
                if self.unwanted.is_some() {
                    return Err(de::Error::custom("its ref is not wanted"));
                }
            }
        }
        Ok(document)
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
    must_be_object(json)?;
    serde_json::from_slice(json).map_err(mistake)
}

/// A derived struct would also be read from an array, by position.
fn must_be_object(json: &[u8]) -> Result<(), DecodeError> {
    if json.iter().find(|b| !b.is_ascii_whitespace()) == Some(&b'{') {
        return Ok(());
    }
    Err(DecodeError::Json { problem: "no object", line: 1, column: 1 })
}

/// Without the words of serde_json, which quote the message.
#[allow(clippy::needless_pass_by_value)]
fn mistake(error: serde_json::Error) -> DecodeError {
    DecodeError::Json {
        problem: match error.classify() {
            Category::Eof => "cut short",
            Category::Syntax => "syntax error",
            Category::Data => "wrong type of value",
            Category::Io => "unreadable",
        },
        line: error.line(),
        column: error.column(),
    }
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
    default_branch: Option<String>,
    master_branch: Option<String>,
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

    pub(super) fn default_branch(&self) -> Option<&str> {
        self.default_branch.as_deref().or(self.master_branch.as_deref())
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
