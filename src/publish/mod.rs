//! The publishing side: a webhook's body, or a wish → the message that agents take.
//!
//! ```text
//! payload and headers ─┐
//!                      ├──► Delivery ──► slim ──► signed ──► addressed ──► mqtt::Outgoing
//! repo, ref and commit ┘
//! ```
//!
//! What leaves has been through the agent's own decoder, so nothing is published that no agent would take.

mod body;
mod delivery;
mod header;
mod topic;

use crate::mqtt::{MAX_PROPERTIES, Outgoing, Protocol};
use crate::push::{self, DecodeError, Decoded, Headers, Opened, Other, Push};
use crate::signature::{Secret, SignatureError};

pub use delivery::{ByHandWish, Delivery};
pub use header::parse as parse_header;
pub use topic::{Destination, DestinationError};

/// How to publish a delivery.
#[derive(Debug)]
pub struct Plan<'a> {
    /// Leave out what no agent reads.
    pub slim: bool,
    /// Sign with this, in the place of any signature that came along.
    pub secret: Option<&'a Secret>,
    /// Carry the headers inside the payload.
    pub envelope: bool,
    /// What the broker is spoken to in: MQTT 3.1.1 has no other place for headers than an envelope.
    pub protocol: Protocol,
    /// Where to publish.
    pub destination: Destination,
    /// Whether the broker shall keep the message for new subscribers.
    pub retain: bool,
}

/// A message, and what it says.
pub struct Composed {
    /// What to publish.
    pub message: Outgoing,
    /// What agents will read in it.
    pub push: Push,
    /// Whether it has a signature.
    pub signed: bool,
}

/// Why there is nothing to publish.
#[derive(Debug, thiserror::Error)]
pub enum ComposeError {
    /// The headers say that this is another event, which is no mistake.
    #[error("the event is not push")]
    OtherEvent,
    /// Not a push.
    #[error("{0}")]
    NotAPush(Other),
    /// Agents would reject it.
    #[error(transparent)]
    Undecodable(#[from] DecodeError),
    /// Its signature cannot be right.
    #[error(transparent)]
    Signature(#[from] SignatureError),
    /// Somebody has put it in an envelope already.
    #[error("the payload is an envelope already: give the body and the headers of the webhook themselves")]
    Envelope,
    /// A signature that would be wrong.
    #[error(
        "the signature that came along is of the whole body: --slim needs --sign-with FILE, to sign what is left"
    )]
    StaleSignature,
    /// A wish that must not be kept for those who come later.
    #[error(
        "a push that says again cannot be retained: each agent that subscribes later would deploy again what it runs; \
         leave out one of the two"
    )]
    AgainRetained,
    /// Agents drop it.
    #[error(
        "the message would be {size} bytes, and agents take {MAX_PAYLOAD}: leave the commits out with --slim"
    )]
    TooLarge {
        /// With its envelope.
        size: usize,
    },
    /// Agents drop it as well.
    #[error(
        "the message would have {count} headers, and agents take {MAX_PROPERTIES}: GitHub sends fewer than 20"
    )]
    TooManyHeaders {
        /// How many.
        count: usize,
    },
    /// Not where agents look for it.
    #[error(transparent)]
    Destination(#[from] DestinationError),
}

/// What agents take when nothing else is configured; GitHub caps payloads at 25 MB.
pub const MAX_PAYLOAD: usize = 32 << 20;

/// Makes the message, and reads it as an agent will.
pub fn compose(delivery: Delivery, plan: &Plan<'_>) -> Result<Composed, ComposeError> {
    if delivery.is_envelope() {
        return Err(ComposeError::Envelope);
    }
    let push = understood(&delivery.headers, &delivery.body)?;
    if plan.retain && push.by_hand.as_ref().is_some_and(|made| made.again) {
        return Err(ComposeError::AgainRetained);
    }
    let delivery = if plan.slim { delivery.slimmed(&push, plan.secret.is_some())? } else { delivery };
    let delivery = match plan.secret {
        Some(secret) => delivery.signed(secret),
        None => delivery,
    };
    let topic = plan.destination.of(&push.repo)?;
    delivery.check_signature()?;
    let signed = delivery.is_signed();
    let in_envelope = plan.envelope || (plan.protocol == Protocol::V311 && !delivery.headers.is_empty());
    let (headers, payload) =
        if in_envelope { (Vec::new(), delivery.into_envelope()) } else { (delivery.headers, delivery.body) };
    if payload.len() > MAX_PAYLOAD {
        return Err(ComposeError::TooLarge { size: payload.len() });
    }
    if headers.len() > MAX_PROPERTIES {
        return Err(ComposeError::TooManyHeaders { count: headers.len() });
    }
    let push = understood(&headers, &payload)?;
    Ok(Composed { message: Outgoing { topic, payload, headers, retain: plan.retain }, push, signed })
}

/// What an agent makes of a message; whether it believes it depends on its secrets.
fn understood(headers: &[(String, String)], payload: &[u8]) -> Result<Push, ComposeError> {
    let pairs = headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let opened = push::open(Headers::from_pairs(pairs)?, payload)?;
    let decoded = match opened {
        Opened::Delivery(delivery) => delivery.authenticate(None)?.decode()?,
        Opened::Other(other) => Decoded::Other(other),
    };
    match decoded {
        Decoded::Push(push) => Ok(*push),
        Decoded::Other(Other::Event) => Err(ComposeError::OtherEvent),
        Decoded::Other(other) => Err(ComposeError::NotAPush(other)),
        // Not here, where every ref is wanted.
        Decoded::Unwanted(_) => Err(ComposeError::NotAPush(Other::Shape)),
    }
}

#[cfg(test)]
mod tests;
