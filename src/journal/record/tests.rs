use std::time::Duration;

use crate::refs::{Branches, RefRules};

use super::*;

fn app(services: &[&str], branch: &str) -> App {
    let refs = RefRules { branches: Branches::Listed(vec![branch.parse().unwrap()]), tags: Vec::new() };
    App { refs, ..App::for_test(services) }
}

fn revision(digit: char) -> Revision {
    let pushed_at = Some(SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000));
    Revision { pushed_at, ..Revision::for_test(digit) }
}

fn record(app: &App) -> Record {
    let mut record = Record::new(app);
    assert_eq!(record.admit(&revision('a'), false, SystemTime::now()), Admission::Taken);
    record
}

fn attempt(record: &mut Record, verdict: Verdict, retries: u32) {
    let now = SystemTime::now();
    let attempted = record.begin(true, Rescue::default(), now).unwrap().revision;
    record.end(Entry::without_attempt(verdict, &attempted, now, String::new()), retries);
}

#[test]
fn services_in_another_order_or_spelling_are_no_others() {
    let mut record = record(&app(&["proxy", "api"], "main"));
    attempt(&mut record, Verdict::Deployed, 0);
    record.fit(&app(&["api.service", "proxy"], "main"));
    assert_eq!(record.pending(), None);
    assert_eq!(record.services.iter().map(ServiceName::as_str).collect::<Vec<_>>(), ["api.service", "proxy"]);
    record.fit(&app(&["api"], "main"));
    assert_eq!(record.pending(), Some(&revision('a')), "whether it runs that commit is not known");
}

#[test]
fn other_services_have_all_their_tries() {
    let mut record = record(&app(&["api"], "main"));
    attempt(&mut record, Verdict::Failed, 1);
    record.fit(&app(&["other"], "main"));
    attempt(&mut record, Verdict::Failed, 1);
    assert_eq!(record.pending(), Some(&revision('a')));
    attempt(&mut record, Verdict::Failed, 1);
    assert_eq!(record.pending(), None);
    record.fit(&app(&["third"], "main"));
    assert_eq!(record.pending(), None, "it waits for a new push");
}

#[test]
fn what_a_mistake_in_the_configuration_dropped_can_be_delivered_again() {
    let mut record = record(&app(&["api"], "main"));
    assert!(record.fit(&app(&["api"], "mian")).is_some());
    record.fit(&app(&["api"], "main"));
    assert_eq!(record.admit(&revision('a'), false, SystemTime::now()), Admission::Taken);
}

#[test]
fn what_was_left_down_is_known_until_its_services_were_started() {
    let mut record = record(&app(&["api"], "main"));
    record.begin(true, Rescue::default(), SystemTime::now()).unwrap();
    assert_eq!(record.interrupted(false), None);
    record.fit(&app(&["other"], "main"));
    attempt(&mut record, Verdict::Failed, 1);
    assert!(record.left_down.is_some(), "the attempt was none of its services");
    record.fit(&app(&["api.service", "other"], "main"));
    attempt(&mut record, Verdict::Failed, 1);
    assert_eq!(record.left_down, None);
}

#[test]
fn an_attempt_that_stopped_nothing_says_nothing_of_what_was_left_down() {
    let mut left_down = record(&app(&["api"], "main"));
    left_down.begin(true, Rescue::default(), SystemTime::now()).unwrap();
    left_down.interrupted(false);
    left_down.begin(false, Rescue::default(), SystemTime::now()).unwrap();
    let mut killed = left_down.clone();
    killed.interrupted(true);
    let at = SystemTime::now();
    left_down.end(Entry::without_attempt(Verdict::Failed, &revision('a'), at, String::new()), 1);
    for record in [killed, left_down] {
        assert!(record.left_down.is_some_and(|attempt| attempt.touched));
    }
}
