//! The headers of a webhook delivery that matter here, from MQTT 5 user properties or from an envelope.

use std::fmt;

use serde::de::{Error as _, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::DecodeError;

/// Longest delivery id that is kept; GitHub's are UUIDs of 36 characters.
const MAX_DELIVERY: usize = 64;

const EVENT: &str = "X-GitHub-Event";
const DELIVERY: &str = "X-GitHub-Delivery";
const SIGNATURE: &str = "X-Hub-Signature-256";

/// The known headers of one delivery. Names compare without regard to case.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Headers {
    event: Option<String>,
    delivery: Option<String>,
    signature: Option<String>,
}

impl fmt::Debug for Headers {
    /// Only which there are: what is in them must not reach a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { event, delivery, signature } = self;
        let known = [(EVENT, event), (DELIVERY, delivery), (SIGNATURE, signature)];
        f.debug_list()
            .entries(known.iter().filter(|(_, value)| value.is_some()).map(|(name, _)| name))
            .finish()
    }
}

impl Headers {
    /// Picks the known headers; one that comes twice with different values is a mistake or an attack.
    pub fn from_pairs<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<Self, DecodeError> {
        let mut headers = Self::default();
        for (name, value) in pairs {
            if let Some((known, slot)) = headers.slot(name) {
                fill(known, slot, value.to_owned())?;
            }
        }
        Ok(headers)
    }

    /// No known header came.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The event is named, and it is not `push`.
    pub fn is_other_event(&self) -> bool {
        self.event.as_deref().is_some_and(|event| event != "push")
    }

    /// The delivery's id, unless its characters are not those of an id.
    pub fn delivery(&self) -> Option<&str> {
        self.delivery.as_deref().filter(|id| {
            !id.is_empty()
                && id.len() <= MAX_DELIVERY
                && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        })
    }

    /// GitHub's signature of the body, as it came.
    pub fn signature(&self) -> Option<&str> {
        self.signature.as_deref()
    }

    fn slot(&mut self, name: &str) -> Option<(&'static str, &mut Option<String>)> {
        let Self { event, delivery, signature } = self;
        let known = [(EVENT, event), (DELIVERY, delivery), (SIGNATURE, signature)];
        known.into_iter().find(|(known, _)| name.eq_ignore_ascii_case(known))
    }
}

fn fill(name: &'static str, slot: &mut Option<String>, value: String) -> Result<(), DecodeError> {
    match slot {
        Some(earlier) if *earlier != value => Err(DecodeError::DuplicateHeader(name)),
        _ => {
            *slot = Some(value);
            Ok(())
        }
    }
}

impl<'de> Deserialize<'de> for Headers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(HeadersVisitor)
    }
}

struct HeadersVisitor;

impl<'de> Visitor<'de> for HeadersVisitor {
    type Value = Headers;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of headers")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Headers, A::Error> {
        let mut headers = Headers::default();
        while let Some(name) = map.next_key::<String>()? {
            match headers.slot(&name) {
                Some((known, slot)) => fill(known, slot, map.next_value()?).map_err(A::Error::custom)?,
                None => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(headers)
    }
}
