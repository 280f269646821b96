//! Which filters are asked for, granted, refused, and still held by the session: bookkeeping without a network.

use std::collections::{BTreeSet, HashMap, VecDeque};

/// AWS takes no more filters than this in one SUBSCRIBE.
const FILTERS_PER_SUBSCRIBE: usize = 8;
/// Far from what any broker keeps open at a time.
const OUTSTANDING: usize = 8;

/// A request to the broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Request {
    Subscribe(Vec<String>),
    Unsubscribe(String),
}

/// A filter that the broker does not grant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) filter: String,
    pub(super) reason: String,
}

/// The subscriptions of one client over all its connections.
#[derive(Debug, Default)]
pub(super) struct Subscriptions {
    /// What the session at the broker may hold: it brings messages for these even when nobody asks any more.
    held: BTreeSet<String>,
    /// What is subscribed to once all requests have been answered.
    asked: BTreeSet<String>,
    granted: BTreeSet<String>,
    refused: BTreeSet<String>,
    to_send: VecDeque<Request>,
    /// Handed to the link, which numbers them in this order.
    unnumbered: VecDeque<Request>,
    unanswered: HashMap<u16, Request>,
    outstanding_limit: usize,
}

impl Subscriptions {
    /// `held`: what an earlier process may have left subscribed.
    pub(super) fn new(held: impl IntoIterator<Item = String>) -> Self {
        Self { held: held.into_iter().collect(), ..Self::default() }
    }

    /// A connection begins: everything is asked for again, for only the answer tells whether it is granted.
    pub(super) fn connected(&mut self, filters: &[String], session_present: bool, receive_maximum: u16) {
        if !session_present {
            self.held.clear();
        }
        // A broker that takes little at a time gets little.
        self.outstanding_limit = OUTSTANDING.min(usize::from(receive_maximum)).max(1);
        self.asked = self.held.clone();
        self.granted.clear();
        self.refused.clear();
        self.to_send.clear();
        self.unnumbered.clear();
        self.unanswered.clear();
        self.unsubscribe_all_but(filters);
        self.asked.clear();
        self.want(filters);
    }

    /// Asks for what is new in `filters`, and no longer for what is gone.
    pub(super) fn want(&mut self, filters: &[String]) {
        self.unsubscribe_all_but(filters);
        let mut new = Vec::new();
        for filter in filters {
            if self.asked.insert(filter.clone()) {
                new.push(filter.clone());
            }
        }
        self.ask(&new);
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

    fn unsubscribe_all_but(&mut self, filters: &[String]) {
        let wanted: BTreeSet<&String> = filters.iter().collect();
        let gone: Vec<String> = self.asked.iter().filter(|asked| !wanted.contains(asked)).cloned().collect();
        for filter in gone {
            self.asked.remove(&filter);
            self.granted.remove(&filter);
            self.refused.remove(&filter);
            self.to_send.push_back(Request::Unsubscribe(filter));
        }
    }

    /// The next request to hand to the link, unless too many are unanswered.
    pub(super) fn next_request(&mut self) -> Option<Request> {
        if self.unnumbered.len() + self.unanswered.len() >= self.outstanding_limit {
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

    /// The broker's answer to a SUBSCRIBE: for each filter nothing, or why it is refused.
    pub(super) fn subscribe_answered(
        &mut self,
        packet_id: u16,
        answers: Vec<Option<String>>,
    ) -> Vec<Refusal> {
        let Some(Request::Subscribe(filters)) = self.unanswered.remove(&packet_id) else {
            return Vec::new();
        };
        let missing = std::iter::repeat(Some("the broker gave no answer for it".to_owned()));
        let mut refusals = Vec::new();
        for (filter, answer) in filters.into_iter().zip(answers.into_iter().chain(missing)) {
            // Dropped from the interest meanwhile: its UNSUBSCRIBE is on the way.
            if !self.asked.contains(&filter) {
                continue;
            }
            if let Some(reason) = answer {
                self.refused.insert(filter.clone());
                refusals.push(Refusal { filter, reason });
            } else {
                self.granted.insert(filter);
            }
        }
        refusals
    }

    /// The broker's answer to an UNSUBSCRIBE.
    pub(super) fn unsubscribe_answered(&mut self, packet_id: u16) {
        if let Some(Request::Unsubscribe(filter)) = self.unanswered.remove(&packet_id)
            && !self.asked.contains(&filter)
        {
            self.held.remove(&filter);
        }
    }

    /// Whether the broker has answered everything.
    pub(super) fn settled(&self) -> bool {
        self.to_send.is_empty() && self.unnumbered.is_empty() && self.unanswered.is_empty()
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

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    fn filters(names: &[&str]) -> Vec<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    fn subscribe(names: &[&str]) -> Request {
        Request::Subscribe(filters(names))
    }

    fn unsubscribe(name: &str) -> Request {
        Request::Unsubscribe(name.to_owned())
    }

    fn set(names: &[&str]) -> BTreeSet<String> {
        filters(names).into_iter().collect()
    }

    /// Subscribed to these, all granted.
    fn granted(names: &[&str]) -> Subscriptions {
        let mut subscriptions = Subscriptions::new([]);
        subscriptions.connected(&filters(names), false, 20);
        subscriptions.next_request().unwrap();
        subscriptions.sent(1);
        assert!(subscriptions.subscribe_answered(1, vec![None; names.len()]).is_empty());
        assert!(subscriptions.settled());
        subscriptions
    }

    #[test]
    fn eight_filters_a_request_and_eight_requests_at_a_time() {
        let many: Vec<String> = (0..100).map(|n| format!("t/{n}")).collect();
        let mut subscriptions = Subscriptions::new([]);
        subscriptions.connected(&many, false, u16::MAX);
        let mut seen = Vec::new();
        for packet_id in 1..=8 {
            let Some(Request::Subscribe(batch)) = subscriptions.next_request() else { panic!("none left") };
            assert_eq!(batch.len(), 8);
            seen.extend(batch);
            subscriptions.sent(packet_id);
        }
        assert_eq!(subscriptions.next_request(), None);
        assert!(!subscriptions.settled());
        subscriptions.subscribe_answered(3, vec![None; 8]);
        for packet_id in 9.. {
            let Some(Request::Subscribe(batch)) = subscriptions.next_request() else { break };
            seen.extend(batch.clone());
            subscriptions.sent(packet_id);
            subscriptions.subscribe_answered(packet_id, vec![None; batch.len()]);
        }
        assert_eq!(seen, many);
        for packet_id in [1, 2, 4, 5, 6, 7, 8] {
            assert!(!subscriptions.settled());
            subscriptions.subscribe_answered(packet_id, vec![None; 8]);
        }
        assert!(subscriptions.settled());
        assert_eq!(subscriptions.granted().len(), 100);
    }

    #[test]
    fn a_small_receive_maximum_limits_what_is_outstanding() {
        let many: Vec<String> = (0..30).map(|n| format!("t/{n}")).collect();
        let mut subscriptions = Subscriptions::new([]);
        subscriptions.connected(&many, false, 2);
        assert!(subscriptions.next_request().is_some());
        assert!(subscriptions.next_request().is_some());
        assert_eq!(subscriptions.next_request(), None);
    }

    #[test]
    fn answers_are_matched_by_number_and_refusals_by_place() {
        let mut subscriptions = Subscriptions::new([]);
        subscriptions.connected(&filters(&["a", "b", "c"]), false, 20);
        subscriptions.next_request().unwrap();
        subscriptions.sent(7);
        assert!(subscriptions.subscribe_answered(6, vec![None]).is_empty(), "not ours");
        let refusals = subscriptions.subscribe_answered(7, vec![None, Some("not authorized".into())]);
        let refused: Vec<_> = refusals.iter().map(|refusal| refusal.filter.as_str()).collect();
        assert_eq!(refused, ["b", "c"], "what has no answer is not granted");
        assert_eq!(refusals[0].reason, "not authorized");
        assert_eq!(subscriptions.granted(), &set(&["a"]));
        assert_eq!(subscriptions.refused(), &set(&["b", "c"]));
        assert_eq!(subscriptions.held(), &set(&["a", "b", "c"]), "an older grant may live on");
    }

    #[test]
    fn a_change_asks_for_the_difference_only() {
        let mut subscriptions = granted(&["a", "b"]);
        subscriptions.want(&filters(&["b", "c"]));
        assert_eq!(subscriptions.next_request(), Some(unsubscribe("a")));
        assert_eq!(subscriptions.next_request(), Some(subscribe(&["c"])));
        assert_eq!(subscriptions.next_request(), None);
        assert_eq!(subscriptions.held(), &set(&["a", "b", "c"]), "until the broker has answered");
        subscriptions.sent(2);
        subscriptions.sent(3);
        subscriptions.unsubscribe_answered(2);
        subscriptions.subscribe_answered(3, vec![None]);
        assert!(subscriptions.settled());
        assert_eq!(subscriptions.granted(), &set(&["b", "c"]));
        assert_eq!(subscriptions.held(), &set(&["b", "c"]));
    }

    #[test]
    fn a_filter_that_goes_while_it_is_asked_for_is_unsubscribed() {
        let mut subscriptions = Subscriptions::new([]);
        subscriptions.connected(&filters(&["a"]), false, 20);
        subscriptions.next_request().unwrap();
        subscriptions.sent(1);
        subscriptions.want(&[]);
        assert_eq!(subscriptions.next_request(), Some(unsubscribe("a")));
        subscriptions.sent(2);
        subscriptions.subscribe_answered(1, vec![None]);
        assert!(subscriptions.granted().is_empty());
        subscriptions.unsubscribe_answered(2);
        assert!(subscriptions.held().is_empty() && subscriptions.settled());
    }

    #[test]
    fn a_filter_that_comes_back_is_asked_for_again() {
        let mut subscriptions = granted(&["a"]);
        subscriptions.want(&[]);
        subscriptions.want(&filters(&["a"]));
        assert_eq!(subscriptions.next_request(), Some(unsubscribe("a")));
        assert_eq!(subscriptions.next_request(), Some(subscribe(&["a"])));
        subscriptions.sent(1);
        subscriptions.sent(2);
        subscriptions.unsubscribe_answered(1);
        subscriptions.subscribe_answered(2, vec![None]);
        assert_eq!(subscriptions.granted(), &set(&["a"]));
        assert_eq!(subscriptions.held(), &set(&["a"]));
    }

    #[test]
    fn a_kept_session_is_rid_of_what_nobody_wants() {
        let mut subscriptions = Subscriptions::new(filters(&["old", "a"]));
        subscriptions.connected(&filters(&["a"]), true, 20);
        assert_eq!(subscriptions.next_request(), Some(unsubscribe("old")));
        assert_eq!(
            subscriptions.next_request(),
            Some(subscribe(&["a"])),
            "asked for again: only a SUBACK says granted"
        );
    }

    #[test]
    fn a_new_session_holds_nothing() {
        let mut subscriptions = Subscriptions::new(filters(&["old"]));
        subscriptions.connected(&filters(&["a"]), false, 20);
        assert_eq!(subscriptions.next_request(), Some(subscribe(&["a"])));
        assert_eq!(subscriptions.next_request(), None);
    }

    #[test]
    fn a_reconnect_forgets_what_was_unanswered() {
        let mut subscriptions = Subscriptions::new([]);
        subscriptions.connected(&filters(&["a"]), false, 20);
        subscriptions.next_request().unwrap();
        subscriptions.sent(1);
        subscriptions.connected(&filters(&["b"]), true, 20);
        assert_eq!(subscriptions.next_request(), Some(unsubscribe("a")), "the broker may have taken it");
        assert_eq!(subscriptions.next_request(), Some(subscribe(&["b"])));
    }

    #[test]
    fn what_was_refused_and_is_still_wanted_can_be_asked_for_again() {
        let mut subscriptions = Subscriptions::new([]);
        subscriptions.connected(&filters(&["a", "b", "c"]), false, 20);
        subscriptions.next_request().unwrap();
        subscriptions.sent(1);
        let no = || Some("not authorized".to_owned());
        assert_eq!(subscriptions.subscribe_answered(1, vec![None, no(), no()]).len(), 2);
        subscriptions.want(&filters(&["a", "b"]));
        subscriptions.ask_again();
        subscriptions.ask_again();
        assert_eq!(subscriptions.next_request(), Some(unsubscribe("c")));
        assert_eq!(subscriptions.next_request(), Some(subscribe(&["b"])));
        assert_eq!(subscriptions.next_request(), None, "asked for already");
        subscriptions.sent(2);
        subscriptions.sent(3);
        subscriptions.unsubscribe_answered(2);
        assert!(subscriptions.subscribe_answered(3, vec![None]).is_empty());
        assert_eq!(subscriptions.granted(), &set(&["a", "b"]));
        assert!(subscriptions.refused().is_empty() && subscriptions.settled());
    }

    #[test]
    fn duplicates_are_asked_for_once() {
        let mut subscriptions = Subscriptions::new([]);
        subscriptions.connected(&filters(&["a", "a"]), false, 20);
        assert_eq!(subscriptions.next_request(), Some(subscribe(&["a"])));
        assert_eq!(subscriptions.next_request(), None);
    }
}
