//! Which pushes are taken, as a pure function of what is remembered, the push, and the time.

use std::time::{Duration, SystemTime};

use crate::router::Revision;

use super::record::Record;

/// A date this far ahead of our clock says more about the publisher's clock than about the push.
const FUTURE: Duration = Duration::from_secs(5 * 60);
/// How often a failed revision may be tried again by a redelivery …
const REDELIVERIES: usize = 3;
/// … in this time.
pub(super) const HOUR: Duration = Duration::from_secs(60 * 60);

/// What becomes of a push.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Admission {
    /// It is new: it becomes the desired revision.
    Taken,
    /// It is new, but its commit runs already.
    AlreadyDeployed,
    /// It was delivered again on purpose while its deploy is failed: it is tried again.
    TriedAgain,
    /// It was taken before.
    Duplicate,
    /// A newer one was taken.
    Stale,
}

/// Decides. `retained`: the broker sends it on every subscription, so it says nothing about anyone's wish.
pub(crate) fn admit(record: &Record, push: &Revision, retained: bool, now: SystemTime) -> Admission {
    if record.remembers(push) {
        let failed =
            record.desired.as_ref().is_some_and(|desired| desired.failed && desired.revision.is(push));
        return if failed && !retained && record.redeliveries_since(now - HOUR) < REDELIVERIES {
            Admission::TriedAgain
        } else {
            Admission::Duplicate
        };
    }
    if let Some(made) = &push.by_hand {
        let too_old = record.oldest_remembered().is_some_and(|oldest| made.at < oldest);
        let stale = too_old || may_be_forgotten(made.at, record);
        return if stale { Admission::Stale } else { Admission::Taken };
    }
    let (date, high) = dates(record, push, now);
    match (date, high) {
        (Some(date), Some(high)) if date == high && may_be_forgotten(date, record) => Admission::Stale,
        (Some(date), Some(high)) if date < high => Admission::Stale,
        (Some(date), Some(high)) if date == high && is_the_one_before(push, record) => Admission::Stale,
        _ => Admission::Taken,
    }
}

/// The date of the push, and the one it is compared with. Two that are ahead, as all are while our own clock is behind,
/// still tell their order.
fn dates(record: &Record, push: &Revision, now: SystemTime) -> (Option<SystemTime>, Option<SystemTime>) {
    match counting_date(push, now) {
        Some(date) => (Some(date), high(record, now)),
        None => (push.pushed_at, desired(record).and_then(|desired| date_ahead(desired, now))),
    }
}

/// The greatest date of a push that was taken. That of the desired one may not have counted then, and count now.
pub(super) fn high(record: &Record, now: SystemTime) -> Option<SystemTime> {
    record.high.max(desired(record).and_then(|desired| counting_date(desired, now)))
}

fn desired(record: &Record) -> Option<&Revision> {
    record.desired.as_ref().map(|desired| &desired.revision)
}

/// Of so long ago that a push taken then need no longer be remembered: it may be a replay.
fn may_be_forgotten(at: SystemTime, record: &Record) -> bool {
    record.forgotten.is_some_and(|forgotten| at <= forgotten)
}

/// When GitHub took the push, unless it does not say so or cannot be right.
pub(super) fn counting_date(push: &Revision, now: SystemTime) -> Option<SystemTime> {
    push.pushed_at.filter(|date| push.by_hand.is_none() && *date <= now + FUTURE)
}

fn date_ahead(push: &Revision, now: SystemTime) -> Option<SystemTime> {
    push.pushed_at.filter(|date| push.by_hand.is_none() && *date > now + FUTURE)
}

/// GitHub counts seconds: of two pushes in one, what they say of each other tells their order.
fn is_the_one_before(push: &Revision, record: &Record) -> bool {
    let Some(desired) = desired(record) else { return false };
    let leads_to_desired = desired.before.as_ref() == Some(&push.commit);
    let follows_desired = push.before.as_ref() == Some(&desired.commit);
    leads_to_desired && !follows_desired
}

#[cfg(test)]
mod tests;
