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
    assert_eq!(subscriptions.subscribe_answered(1, vec![Grant::Full; names.len()]), Amiss::default());
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
    subscriptions.subscribe_answered(3, vec![Grant::Full; 8]);
    for packet_id in 9.. {
        let Some(Request::Subscribe(batch)) = subscriptions.next_request() else { break };
        seen.extend(batch.clone());
        subscriptions.sent(packet_id);
        subscriptions.subscribe_answered(packet_id, vec![Grant::Full; batch.len()]);
    }
    assert_eq!(seen, many);
    for packet_id in [1, 2, 4, 5, 6, 7, 8] {
        assert!(!subscriptions.settled());
        subscriptions.subscribe_answered(packet_id, vec![Grant::Full; 8]);
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
    assert_eq!(subscriptions.subscribe_answered(6, vec![Grant::Full]), Amiss::default(), "not ours");
    let answers = vec![Grant::Full, Grant::Refused("not authorized".into())];
    let Amiss { refusals, .. } = subscriptions.subscribe_answered(7, answers);
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
    assert_eq!(subscriptions.next_request(), Some(subscribe(&["c"])));
    subscriptions.sent(2);
    assert_eq!(subscriptions.next_request(), None, "not before c is granted: both may cover a topic");
    subscriptions.subscribe_answered(2, vec![Grant::Full]);
    assert_eq!(subscriptions.next_request(), Some(unsubscribe("a")));
    assert_eq!(subscriptions.next_request(), None);
    assert_eq!(subscriptions.held(), &set(&["a", "b", "c"]), "until the broker has answered");
    subscriptions.sent(3);
    subscriptions.unsubscribe_answered(3);
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
    assert_eq!(subscriptions.next_request(), None, "not before it is answered");
    subscriptions.subscribe_answered(1, vec![Grant::Full]);
    assert!(subscriptions.granted().is_empty());
    assert_eq!(subscriptions.next_request(), Some(unsubscribe("a")));
    subscriptions.sent(2);
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
    subscriptions.subscribe_answered(2, vec![Grant::Full]);
    assert_eq!(subscriptions.granted(), &set(&["a"]));
    assert_eq!(subscriptions.held(), &set(&["a"]));
}

#[test]
fn a_kept_session_is_rid_of_what_nobody_wants() {
    let mut subscriptions = Subscriptions::new(filters(&["old", "a"]));
    subscriptions.connected(&filters(&["a"]), true, 20);
    assert_eq!(
        subscriptions.next_request(),
        Some(subscribe(&["a"])),
        "asked for again: only a SUBACK says granted"
    );
    subscriptions.sent(1);
    subscriptions.subscribe_answered(1, vec![Grant::Full]);
    assert_eq!(subscriptions.next_request(), Some(unsubscribe("old")));
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
    assert_eq!(subscriptions.next_request(), Some(subscribe(&["b"])));
    subscriptions.sent(1);
    subscriptions.subscribe_answered(1, vec![Grant::Full]);
    assert_eq!(subscriptions.next_request(), Some(unsubscribe("a")), "the broker may have taken it");
}

#[test]
fn what_was_refused_and_is_still_wanted_can_be_asked_for_again() {
    let mut subscriptions = Subscriptions::new([]);
    subscriptions.connected(&filters(&["a", "b", "c"]), false, 20);
    subscriptions.next_request().unwrap();
    subscriptions.sent(1);
    let no = || Grant::Refused("not authorized".to_owned());
    assert_eq!(subscriptions.subscribe_answered(1, vec![Grant::Full, no(), no()]).refusals.len(), 2);
    subscriptions.want(&filters(&["a", "b"]));
    subscriptions.ask_again();
    subscriptions.ask_again();
    assert_eq!(subscriptions.next_request(), Some(unsubscribe("c")));
    assert_eq!(subscriptions.next_request(), Some(subscribe(&["b"])));
    assert_eq!(subscriptions.next_request(), None, "asked for already");
    subscriptions.sent(2);
    subscriptions.sent(3);
    subscriptions.unsubscribe_answered(2);
    assert_eq!(subscriptions.subscribe_answered(3, vec![Grant::Full]), Amiss::default());
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

/// Hands everything to a broker with room for so many filters, which answers at once.
fn answer_all(subscriptions: &mut Subscriptions, at_broker: &mut BTreeSet<String>, limit: usize) -> Amiss {
    let mut all = Amiss::default();
    for packet_id in 1.. {
        let Some(request) = subscriptions.next_request() else { break };
        subscriptions.sent(packet_id);
        match request {
            Request::Unsubscribe(filter) => {
                at_broker.remove(&filter);
                subscriptions.unsubscribe_answered(packet_id);
            }
            Request::Subscribe(filters) => {
                let mut answer = |filter| {
                    if at_broker.len() == limit {
                        return Grant::Refused("quota exceeded".to_owned());
                    }
                    at_broker.insert(filter);
                    Grant::Full
                };
                let answers = filters.into_iter().map(&mut answer).collect();
                all.refusals.extend(subscriptions.subscribe_answered(packet_id, answers).refusals);
            }
        }
    }
    all
}

#[test]
fn what_a_limit_refused_is_asked_for_again_once_the_old_filters_are_gone() {
    let mut subscriptions = granted(&["a", "b"]);
    let mut at_broker = set(&["a", "b"]);
    subscriptions.want(&filters(&["c", "d", "e", "f"]));
    let amiss = answer_all(&mut subscriptions, &mut at_broker, 3);
    assert_eq!(at_broker, set(&["c", "d", "e"]), "d and e found room the second time");
    let refused: Vec<_> = amiss.refusals.iter().map(|refusal| refusal.filter.as_str()).collect();
    assert_eq!(refused, ["f"], "what found room in the end is no news");
    assert!(subscriptions.settled());
    assert_eq!((subscriptions.granted(), subscriptions.refused()), (&at_broker, &set(&["f"])));
    assert_eq!(answer_all(&mut subscriptions, &mut at_broker, 3), Amiss::default(), "and not for ever");
}

#[test]
fn a_broker_that_closes_at_its_limit_is_given_room_first() {
    let mut subscriptions = Subscriptions::new(filters(&["a"]));
    for _ in 0..IN_VAIN {
        subscriptions.connected(&filters(&["b"]), true, 20);
        assert_eq!(subscriptions.next_request(), Some(subscribe(&["b"])));
        subscriptions.sent(1);
        assert_eq!(subscriptions.asked_for(), Some("b"));
    }
    subscriptions.connected(&filters(&["b"]), true, 20);
    assert_eq!(subscriptions.next_request(), Some(unsubscribe("a")));
    assert_eq!(subscriptions.next_request(), Some(subscribe(&["b"])));
    subscriptions.sent(1);
    subscriptions.unsubscribe_answered(1);
    assert_eq!(subscriptions.held(), &set(&["b"]));
    subscriptions.connected(&filters(&["c"]), true, 20);
    assert_eq!(subscriptions.next_request(), Some(subscribe(&["c"])), "as ever");
}

#[test]
fn a_grant_below_what_was_asked_for_is_told_once() {
    let mut subscriptions = Subscriptions::new([]);
    let weak = |names: &[&str]| Amiss { weak: filters(names), ..Amiss::default() };
    let mut connect = |answers| {
        subscriptions.connected(&filters(&["a/+", "b/c"]), true, 20);
        subscriptions.next_request().unwrap();
        subscriptions.sent(1);
        let amiss = subscriptions.subscribe_answered(1, answers);
        (amiss, subscriptions.weakened("a/x"), subscriptions.granted().len())
    };
    assert_eq!(connect(vec![Grant::Qos0, Grant::Full]), (weak(&["a/+"]), true, 2));
    assert_eq!(connect(vec![Grant::Qos0, Grant::Qos0]), (weak(&["b/c"]), true, 2));
    assert_eq!(connect(vec![Grant::Full, Grant::Qos0]), (weak(&[]), false, 2));
    assert_eq!(connect(vec![Grant::Qos0, Grant::Qos0]), (weak(&["a/+"]), true, 2));
}

#[test]
fn the_oldest_filter_without_an_answer_is_known() {
    let mut subscriptions = granted(&["a"]);
    assert_eq!(subscriptions.asked_for(), None);
    subscriptions.want(&filters(&["a", "b"]));
    subscriptions.next_request().unwrap();
    assert_eq!(subscriptions.asked_for(), Some("b"));
    subscriptions.sent(2);
    subscriptions.want(&filters(&["a", "b", "c"]));
    subscriptions.next_request().unwrap();
    subscriptions.sent(3);
    assert_eq!(subscriptions.asked_for(), Some("b"));
    subscriptions.subscribe_answered(2, vec![Grant::Full]);
    assert_eq!(subscriptions.asked_for(), Some("c"));
    subscriptions.subscribe_answered(3, vec![Grant::Full]);
    subscriptions.want(&[]);
    subscriptions.next_request().unwrap();
    assert_eq!(subscriptions.asked_for(), None, "an UNSUBSCRIBE is none");
}
