//! What GitHub would send: a body and headers.

use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::de::IgnoredAny;
use serde::ser::SerializeMap;
use serde::{Deserialize, Serialize, Serializer};

use crate::github::{CommitId, GitRef, RepoName};
use crate::push::{ByHand, Push};
use crate::signature::{Secret, SignatureError, check_form};

use super::{ComposeError, body};

const EVENT: &str = "X-GitHub-Event";
const DELIVERY: &str = "X-GitHub-Delivery";
const SIGNATURE: &str = "X-Hub-Signature-256";

/// The body says whole seconds; rounded down, the push would be older than one that came in the same second.
const ALMOST_A_SECOND: Duration = Duration::from_nanos(999_999_999);

/// A webhook's exact body with its headers.
#[derive(Clone, PartialEq, Eq)]
pub struct Delivery {
    /// Byte for byte, as a signature covers it.
    pub body: Vec<u8>,
    /// Names and values.
    pub headers: Vec<(String, String)>,
}

/// A push that somebody wants, rather than one that GitHub saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ByHandWish {
    /// What to deploy.
    pub repo: RepoName,
    /// The branch or tag whose apps are meant.
    pub git_ref: GitRef,
    /// The commit to deploy; it need not be new.
    pub commit: CommitId,
    /// For apps that name no branch.
    pub default_branch: Option<String>,
    /// Deploy it even where it runs already.
    pub again: bool,
}

impl Delivery {
    /// A push made by hand. `id` tells it from all others; `now` is what makes it newer than them.
    pub fn by_hand(wish: ByHandWish, id: String, now: SystemTime) -> Self {
        let push = Push {
            repo: wish.repo,
            git_ref: wish.git_ref,
            before: None,
            after: wish.commit,
            deleted: false,
            default_branch: wish.default_branch,
            pushed_at: None,
            by_hand: Some(ByHand { id: id.clone(), at: now + ALMOST_A_SECOND, again: wish.again }),
            delivery: None,
        };
        let headers = vec![(EVENT.to_owned(), "push".to_owned()), (DELIVERY.to_owned(), id)];
        Self { body: body::of(&push), headers }
    }

    /// Says which event this is, unless a header does so already.
    #[must_use]
    pub fn of_event(self, event: Option<&str>) -> Self {
        self.with_default(EVENT, event)
    }

    /// Says by which id agents shall log it, unless a header does so already.
    #[must_use]
    pub fn with_id(self, id: Option<&str>) -> Self {
        self.with_default(DELIVERY, id)
    }

    fn with_default(mut self, header: &str, value: Option<&str>) -> Self {
        if !self.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case(header)) {
            self.headers.extend(value.map(|value| (header.to_owned(), value.to_owned())));
        }
        self
    }

    pub(super) fn is_signed(&self) -> bool {
        self.headers.iter().any(is_signature)
    }

    /// Whether it is right depends on the agents' secrets; what none can have made is refused.
    pub(super) fn check_signature(&self) -> Result<(), SignatureError> {
        let mut signatures = self.headers.iter().filter(|header| is_signature(header));
        signatures.try_for_each(|(_, value)| check_form(value))
    }

    pub(super) fn is_envelope(&self) -> bool {
        let probe: Result<EnvelopeProbe, _> = serde_json::from_slice(&self.body);
        probe.is_ok_and(|it| it.headers.is_some() || it.body.is_some() || it.body_base64.is_some())
    }

    /// With no more in its body than agents read.
    pub(super) fn slimmed(self, push: &Push, signed_anew: bool) -> Result<Self, ComposeError> {
        if self.is_signed() && !signed_anew {
            return Err(ComposeError::StaleSignature);
        }
        Ok(Self { body: body::of(push), ..self })
    }

    /// With this secret's signature, and no other.
    pub(super) fn signed(mut self, secret: &Secret) -> Self {
        self.headers.retain(|header| !is_signature(header));
        self.headers.push((SIGNATURE.to_owned(), secret.sign(&self.body)));
        self
    }

    /// As one JSON object, for what carries no headers.
    pub(super) fn into_envelope(self) -> Vec<u8> {
        let (body, body_base64) = match std::str::from_utf8(&self.body) {
            Ok(text) => (Some(text), None),
            Err(_) => (None, Some(STANDARD.encode(&self.body))),
        };
        let envelope = Envelope { headers: Pairs(&self.headers), body, body_base64 };
        // Text under names of text: nothing here has no form in JSON.
        serde_json::to_vec(&envelope).unwrap_or_default()
    }
}

fn is_signature((name, _): &(String, String)) -> bool {
    name.eq_ignore_ascii_case(SIGNATURE)
}

#[derive(Deserialize)]
struct EnvelopeProbe {
    headers: Option<IgnoredAny>,
    body: Option<IgnoredAny>,
    body_base64: Option<IgnoredAny>,
}

#[derive(Serialize)]
struct Envelope<'a> {
    headers: Pairs<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    body_base64: Option<String>,
}

/// An object in the order of its pairs.
struct Pairs<'a>(&'a [(String, String)]);

impl Serialize for Pairs<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, value) in self.0 {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}
