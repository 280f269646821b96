//! Whose messages count: signed with one of the secrets, and not too old. Pure; the clock is an argument.

use std::time::{Duration, SystemTime};

use crate::push::{Delivery, Push, Trusted};
use crate::signature::{Secrets, SignatureError};

/// What a push must prove here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Trust {
    /// It must be signed with one of these; `None`: signatures mean nothing.
    pub secrets: Option<Secrets>,
    /// It must not be older; `None`: its age does not matter.
    pub max_push_age: Option<Duration>,
}

/// How far apart clocks may be.
const AHEAD: Duration = Duration::from_secs(5 * 60);

/// Why a message is not trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Distrust {
    /// Its signature is missing, or wrong.
    #[error(transparent)]
    Signature(#[from] SignatureError),
    /// It may be a replay.
    #[error("it was pushed {} ago, and max_push_age is {}", text(*.age), text(*.limit))]
    TooOld {
        /// How long ago it was pushed.
        age: Duration,
        /// How long ago that may be.
        limit: Duration,
    },
    /// It would stay young for as long as it is ahead.
    #[error(
        "it is dated more than 5 minutes ahead of this host's clock: set the clock of whoever made it, or this one"
    )]
    Ahead,
    /// Whether it is a replay cannot be told.
    #[error("it does not say when it was pushed (repository.pushed_at), and max_push_age is set")]
    Undated,
}

fn text(duration: Duration) -> humantime::FormattedDuration {
    humantime::format_duration(Duration::from_secs(duration.as_secs()))
}

impl Distrust {
    /// A word for counting.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Signature(SignatureError::Missing) => "unsigned",
            Self::Signature(_) => "forged",
            Self::TooOld { .. } => "too old",
            Self::Ahead => "dated ahead",
            Self::Undated => "undated",
        }
    }
}

impl Trust {
    /// Lets a delivery through whose body may be read.
    pub fn authenticate<'m>(&self, delivery: Delivery<'m>) -> Result<Trusted<'m>, Distrust> {
        Ok(delivery.authenticate(self.secrets.as_ref())?)
    }

    /// Is the push young enough? What is dated a little ahead of `now` is: clocks differ.
    pub fn check_age(&self, push: &Push, now: SystemTime) -> Result<(), Distrust> {
        let Some(limit) = self.max_push_age else { return Ok(()) };
        let made = push.by_hand.as_ref().map(|made| made.at).or(push.pushed_at).ok_or(Distrust::Undated)?;
        if made > now + AHEAD {
            return Err(Distrust::Ahead);
        }
        let age = now.duration_since(made).unwrap_or_default();
        if age > limit { Err(Distrust::TooOld { age, limit }) } else { Ok(()) }
    }
}
