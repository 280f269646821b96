//! Topic, headers and payload of a message → a [`Push`] made of validated values only.
//!
//! The payload is the body of GitHub's `push` webhook: today's shape, the 2012 GitHub Services shape, either one
//! form-encoded, or in an envelope that carries the webhook's headers for publishers without MQTT 5. It is read in
//! three steps, each with a type of its own: message → [`Delivery`] → [`Trusted`] → [`Push`]. A message without
//! headers, if it may be an envelope, is first read as one, signed or not; all else is looked at only once the
//! signature was verified, even which event it is. A body is read only as far as it takes to see that nobody here
//! wants its ref.

mod body;
mod headers;

use std::borrow::Cow;
use std::fmt;
use std::time::{Duration, SystemTime};

use crate::github::{CommitId, GitRef, NameError, RepoName};
use crate::signature::{Secrets, SignatureError};

use serde::{Deserialize, Serialize};

use body::{Document, Envelope, Reading};
pub use headers::Headers;

/// One GitHub push event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Push {
    /// The repository that was pushed to.
    pub repo: RepoName,
    /// The ref that was moved.
    pub git_ref: GitRef,
    /// What the ref pointed to before; zeros when it is new.
    pub before: Option<CommitId>,
    /// What it points to now; zeros when it was deleted.
    pub after: CommitId,
    /// GitHub says that the ref was deleted.
    pub deleted: bool,
    /// The repository's default branch, where the payload names it.
    pub default_branch: Option<String>,
    /// When GitHub took the push; 2012 payloads do not say.
    pub pushed_at: Option<SystemTime>,
    /// Set when the push was made by hand, not by GitHub.
    pub by_hand: Option<ByHand>,
    /// GitHub's id of the delivery (`X-GitHub-Delivery`), when it came along.
    pub delivery: Option<String>,
}

/// What a push made by hand says of itself, in the body, where a signature covers it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
pub struct ByHand {
    /// Random, so that each such push is another.
    pub id: String,
    /// When it was made.
    #[serde(with = "crate::journal::time")]
    pub at: SystemTime,
    /// Deploy it even where it runs already.
    pub again: bool,
}

impl Push {
    /// True when the push removed its ref, so that there is nothing to deploy.
    pub fn is_deletion(&self) -> bool {
        self.deleted || self.after.is_none()
    }
}

/// What a message turned out to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decoded {
    /// A push.
    Push(Box<Push>),
    /// A push to a ref that is not wanted. What follows the ref may not have been read.
    Unwanted(GitRef),
    /// Something else, which is no mistake.
    Other(Other),
}

/// Whether a push to this ref may be wanted, of a repository with this default branch: `None` as long as it is not known.
pub type Wanted<'a> = dyn Fn(&GitRef, Option<&str>) -> bool + 'a;

/// A message that is no push, and need not be one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Other {
    /// An empty payload, by which MQTT deletes a retained message.
    #[error("the payload is empty")]
    Empty,
    /// `X-GitHub-Event` names another event.
    #[error("X-GitHub-Event is not push")]
    Event,
    /// JSON without what makes a push: `ref`, `after` and `repository`.
    #[error("not a push: it lacks ref, after or repository")]
    Shape,
}

/// A message that claims to be a push and is none. No text of the message is in it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Neither a JSON object nor a form with one.
    #[error("the payload is not the JSON object of a push ({problem} at line {line}, column {column})")]
    Json {
        /// What kind of mistake it is.
        problem: &'static str,
        /// Line of the payload, from 1.
        line: usize,
        /// Column of the payload, from 1.
        column: usize,
    },
    /// The form has no usable `payload` field.
    #[error("the form-encoded payload holds no JSON object in its field `payload`")]
    Form,
    /// The envelope is contradictory.
    #[error(
        "the envelope must hold `headers` and one of `body` and `body_base64`, which must hold the webhook's body, \
         and must not come with headers of its own"
    )]
    Envelope,
    /// One header twice, with two values.
    #[error("the header {0} came twice")]
    DuplicateHeader(&'static str),
    /// What a push made by hand says of itself.
    #[error("instance_agent: must hold `id` (8 to 64 letters, digits and -) and `time` (seconds since 1970)")]
    ByHand,
    /// A value that breaks the rules of its kind.
    #[error("{field}: {problem}")]
    Value {
        /// Where it stands in the payload.
        field: &'static str,
        /// What is wrong with it.
        problem: NameError,
    },
}

/// A webhook delivery as it came: its headers and exact body, of which nothing is believed yet.
#[derive(Debug)]
pub struct Delivery<'m> {
    headers: Headers,
    body: Body<'m>,
}

/// A delivery whose body may be read: signed, or nobody asks for signatures here.
#[derive(Debug)]
pub struct Trusted<'m>(Delivery<'m>);

/// The exact body; it must not reach a log.
struct Body<'m>(Cow<'m, [u8]>);

impl fmt::Debug for Body<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Body({} bytes)", self.0.len())
    }
}

/// What a message holds, before its body is looked at.
#[derive(Debug)]
pub enum Opened<'m> {
    /// A delivery.
    Delivery(Delivery<'m>),
    /// Something else, which is no mistake.
    Other(Other),
}

/// Opens the message of a topic that names a managed repository. `headers` are those that MQTT 5 carried; without
/// any, the payload may be an envelope.
pub fn open(headers: Headers, payload: &[u8]) -> Result<Opened<'_>, DecodeError> {
    if payload.is_empty() {
        return Ok(Opened::Other(Other::Empty));
    }
    let may_be_envelope = headers.is_empty() && !is_form(payload) && Envelope::is_named_in(payload);
    let envelope = if may_be_envelope { Envelope::parse(payload)? } else { None };
    let delivery = match envelope {
        Some(Envelope { headers, body }) => Delivery { headers, body: Body(body.into()) },
        None => Delivery { headers, body: Body(payload.into()) },
    };
    Ok(Opened::Delivery(delivery))
}

impl<'m> Delivery<'m> {
    /// Verifies the signature over the exact body. Without secrets, signatures mean nothing.
    pub fn authenticate(self, secrets: Option<&Secrets>) -> Result<Trusted<'m>, SignatureError> {
        if let Some(secrets) = secrets {
            let signature = self.headers.signature().ok_or(SignatureError::Missing)?;
            secrets.verify(&self.body.0, signature)?;
        }
        Ok(Trusted(self))
    }
}

impl Trusted<'_> {
    /// Reads the body, unless it is another event's.
    pub fn decode(&self) -> Result<Decoded, DecodeError> {
        self.decode_if(&|_, _| true)
    }

    /// The same, but reads no further once it shows that the push is not `wanted`.
    pub fn decode_if(&self, wanted: &Wanted) -> Result<Decoded, DecodeError> {
        let Self(Delivery { headers, body: Body(body) }) = self;
        if headers.is_other_event() {
            return Ok(Decoded::Other(Other::Event));
        }
        let json = if is_form(body) { form_field(body)? } else { Cow::Borrowed(&**body) };
        match Document::parse(&json, wanted)? {
            Reading::Whole(document) => push_of(*document, headers),
            Reading::Unwanted(git_ref) => Ok(Decoded::Unwanted(git_ref)),
        }
    }
}

fn is_form(payload: &[u8]) -> bool {
    payload.starts_with(b"payload=")
}

/// GitHub sends a form when a webhook is left on its default content type.
fn form_field(payload: &[u8]) -> Result<Cow<'_, [u8]>, DecodeError> {
    let (_, json) =
        form_urlencoded::parse(payload).find(|(key, _)| key == "payload").ok_or(DecodeError::Form)?;
    match json {
        Cow::Borrowed(json) => Ok(Cow::Borrowed(json.as_bytes())),
        Cow::Owned(json) => Ok(Cow::Owned(json.into_bytes())),
    }
}

fn push_of(document: Document, headers: &Headers) -> Result<Decoded, DecodeError> {
    if document.is_envelope {
        return Err(DecodeError::Envelope);
    }
    let (Some(git_ref), Some(after), Some(repository)) =
        (document.git_ref, document.after, document.repository)
    else {
        return Ok(Decoded::Other(Other::Shape));
    };
    let value = |field| move |problem| DecodeError::Value { field, problem };
    let repo = repository.full_name().ok_or(NameError::Repository).and_then(|name| name.parse());
    Ok(Decoded::Push(Box::new(Push {
        repo: repo.map_err(value("repository"))?,
        git_ref: git_ref.parse().map_err(value("ref"))?,
        before: document.before.map(|id| id.parse()).transpose().map_err(value("before"))?,
        after: after.parse().map_err(value("after"))?,
        deleted: document.deleted.unwrap_or(false),
        default_branch: repository.default_branch().map(str::to_owned),
        pushed_at: repository.pushed_at.and_then(|time| time.0),
        by_hand: document.instance_agent.map(body::Made::check).transpose()?,
        delivery: headers.delivery().map(str::to_owned),
    })))
}

/// The last second of the year 9999: what is later has no RFC 3339 form.
const LAST_SECOND: u64 = 253_402_300_799;

/// A time in whole seconds, as GitHub counts.
fn seconds_since_epoch(seconds: u64) -> Option<SystemTime> {
    (seconds <= LAST_SECOND).then(|| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests;
