//! Which filters are asked for, granted, refused, and still held by the session: bookkeeping without a network.

use std::collections::{BTreeSet, HashMap, VecDeque};

use super::link::Grant;

/// AWS takes no more filters than this in one SUBSCRIBE.
const FILTERS_PER_SUBSCRIBE: usize = 8;
/// Far from what any broker keeps open at a time.
const OUTSTANDING: usize = 8;
/// After so many connections in a row that ended over the new filters, the old ones make room for them first.
const IN_VAIN: u32 = 2;

/// A request to the broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Request {
    Subscribe(Vec<String>),
    Unsubscribe(String),
}

impl Request {
    /// The first filter of a SUBSCRIBE.
    fn subscribes(&self) -> Option<&str> {
        match self {
            Self::Subscribe(filters) => filters.first().map(String::as_str),
            Self::Unsubscribe(_) => None,
        }
    }
}

/// A filter that the broker does not grant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) filter: String,
    pub(super) reason: String,
}

/// What is amiss with the filters that the broker has answered for.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Amiss {
    pub(super) refusals: Vec<Refusal>,
    /// Granted with `QoS` 0 only, and not known to be.
    pub(super) weak: Vec<String>,
}

/// The subscriptions of one client over all its connections.
///
/// What covers a topic now and what covers it next may be two filters, so the old ones are unsubscribed when the new ones
/// have been granted: in between, messages come twice rather than not at all.
#[derive(Debug, Default)]
pub(super) struct Subscriptions {
    /// What the session at the broker may hold: it brings messages for these even when nobody asks any more.
    held: BTreeSet<String>,
    /// What is subscribed to once all requests have been answered.
    asked: BTreeSet<String>,
    granted: BTreeSet<String>,
    refused: BTreeSet<String>,
    /// Granted with `QoS` 0 when they were answered for last, on whichever connection.
    weak: BTreeSet<String>,
    to_send: VecDeque<Request>,
    /// Handed to the link, which numbers them in this order.
    unnumbered: VecDeque<Request>,
    unanswered: HashMap<u16, Request>,
    outstanding_limit: usize,
    /// How many UNSUBSCRIBEs are to be sent or unanswered.
    leaving: usize,
    /// The broker refused a filter while it still held old ones: it may have a limit on their number.
    wants_room: bool,
    /// How many connections in a row ended with new filters unanswered and old ones still subscribed.
    in_vain: u32,
}

impl Subscriptions {
    /// `held`: what an earlier process may have left subscribed.
    pub(super) fn new(held: impl IntoIterator<Item = String>) -> Self {
        Self { held: held.into_iter().collect(), ..Self::default() }
    }

    /// A connection begins: everything is asked for again, for only the answer tells whether it is granted.
    pub(super) fn connected(&mut self, filters: &[String], session_present: bool, receive_maximum: u16) {
        self.in_vain = if self.leaving > 0 && self.asked_for().is_some() { self.in_vain + 1 } else { 0 };
        if !session_present {
            self.held.clear();
        }
        // A broker that takes little at a time gets little.
        self.outstanding_limit = OUTSTANDING.min(usize::from(receive_maximum)).max(1);
        self.asked.clear();
        self.granted.clear();
        self.refused.clear();
        self.to_send.clear();
        self.unnumbered.clear();
        self.unanswered.clear();
        self.leaving = 0;
        self.wants_room = false;
        let gone = all_but(&self.held, filters);
        if self.in_vain >= IN_VAIN {
            self.leave(gone);
            self.want(filters);
        } else {
            self.want(filters);
            self.leave(gone);
        }
    }

    /// Asks for what is new in `filters`, and no longer for what is gone.
    pub(super) fn want(&mut self, filters: &[String]) {
        let gone = all_but(&self.asked, filters);
        let mut new = Vec::new();
        for filter in filters {
            if self.asked.insert(filter.clone()) {
                new.push(filter.clone());
            }
        }
        self.ask(&new);
        self.leave(gone);
    }

    /// Asks for what was refused once more.
    pub(super) fn ask_again(&mut self) {
        let refused: Vec<String> = std::mem::take(&mut self.refused).into_iter().collect();
        self.ask(&refused);
    }

    fn ask(&mut self, filters: &[String]) {
        self.to_send
            .extend(filters.chunks(FILTERS_PER_SUBSCRIBE).map(|batch| Request::Subscribe(batch.to_vec())));
    }

    fn leave(&mut self, filters: Vec<String>) {
        self.leaving += filters.len();
        for filter in filters {
            self.asked.remove(&filter);
            self.granted.remove(&filter);
            self.refused.remove(&filter);
            self.weak.remove(&filter);
            self.to_send.push_back(Request::Unsubscribe(filter));
        }
    }

    /// The next request to hand to the link, unless too many are unanswered.
    pub(super) fn next_request(&mut self) -> Option<Request> {
        if self.unnumbered.len() + self.unanswered.len() >= self.outstanding_limit {
            return None;
        }
        if matches!(self.to_send.front(), Some(Request::Unsubscribe(_))) && self.asked_for().is_some() {
            return None;
        }
        let request = self.to_send.pop_front()?;
        if let Request::Subscribe(filters) = &request {
            self.held.extend(filters.iter().cloned());
        }
        self.unnumbered.push_back(request.clone());
        Some(request)
    }

    /// The link has sent the oldest request it was handed, under this number.
    pub(super) fn sent(&mut self, packet_id: u16) {
        if let Some(request) = self.unnumbered.pop_front() {
            self.unanswered.insert(packet_id, request);
        }
    }

    /// The broker's answer to a SUBSCRIBE.
    pub(super) fn subscribe_answered(&mut self, packet_id: u16, answers: Vec<Grant>) -> Amiss {
        let mut amiss = Amiss::default();
        let Some(Request::Subscribe(filters)) = self.unanswered.remove(&packet_id) else { return amiss };
        let missing =
            std::iter::repeat_with(|| Grant::Refused("the broker gave no answer for it".to_owned()));
        for (filter, answer) in filters.into_iter().zip(answers.into_iter().chain(missing)) {
            // Dropped from the interest meanwhile: its UNSUBSCRIBE is on the way.
            if !self.asked.contains(&filter) {
                continue;
            }
            match answer {
                Grant::Full => self.grant(filter),
                Grant::Qos0 => {
                    if self.weak.insert(filter.clone()) {
                        amiss.weak.push(filter.clone());
                    }
                    self.granted.insert(filter);
                }
                Grant::Refused(reason) => amiss.refusals.extend(self.refuse(filter, reason)),
            }
        }
        amiss
    }

    fn grant(&mut self, filter: String) {
        self.weak.remove(&filter);
        self.granted.insert(filter);
    }

    /// While old filters are still subscribed the last word is not spoken.
    fn refuse(&mut self, filter: String, reason: String) -> Option<Refusal> {
        self.refused.insert(filter.clone());
        if self.leaving > 0 {
            self.wants_room = true;
            return None;
        }
        Some(Refusal { filter, reason })
    }

    /// The broker's answer to an UNSUBSCRIBE.
    pub(super) fn unsubscribe_answered(&mut self, packet_id: u16) {
        let Some(Request::Unsubscribe(filter)) = self.unanswered.remove(&packet_id) else { return };
        if !self.asked.contains(&filter) {
            self.held.remove(&filter);
        }
        self.leaving = self.leaving.saturating_sub(1);
        if self.leaving == 0 && std::mem::take(&mut self.wants_room) {
            self.ask_again();
        }
    }

    /// Whether the broker has answered everything.
    pub(super) fn settled(&self) -> bool {
        self.to_send.is_empty() && self.unnumbered.is_empty() && self.unanswered.is_empty()
    }

    /// A filter that the broker was asked for and has not answered for, the oldest of them.
    pub(super) fn asked_for(&self) -> Option<&str> {
        let numbered = self.unanswered.iter().filter_map(|(id, request)| Some((id, request.subscribes()?)));
        let oldest = numbered.min_by_key(|(id, _)| **id).map(|(_, filter)| filter);
        oldest.or_else(|| self.unnumbered.iter().find_map(Request::subscribes))
    }

    /// Whether it may be the broker that made a message on this topic come with `QoS` 0.
    pub(super) fn weakened(&self, topic: &str) -> bool {
        self.weak.iter().any(|filter| rumqttc::matches(topic, filter))
    }

    pub(super) fn granted(&self) -> &BTreeSet<String> {
        &self.granted
    }

    pub(super) fn refused(&self) -> &BTreeSet<String> {
        &self.refused
    }

    pub(super) fn held(&self) -> &BTreeSet<String> {
        &self.held
    }
}

fn all_but(filters: &BTreeSet<String>, wanted: &[String]) -> Vec<String> {
    let wanted: BTreeSet<&String> = wanted.iter().collect();
    filters.iter().filter(|filter| !wanted.contains(filter)).cloned().collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests;
