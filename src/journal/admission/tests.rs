use crate::journal::{Entry, Rescue};
use crate::outcome::Verdict;
use crate::push::ByHand;

use super::Admission::{AlreadyDeployed, Duplicate, Stale, Taken, TriedAgain};
use super::*;

/// Noon of some day, by this host's clock.
fn noon() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000)
}

fn at(offset: i64) -> SystemTime {
    let by = Duration::from_secs(offset.unsigned_abs());
    if offset < 0 { noon() - by } else { noon() + by }
}

/// A push `from` one commit `to` another, `offset` seconds from noon.
fn push(from: char, to: char, offset: i64) -> Revision {
    Revision {
        repo: "o/r".parse().unwrap(),
        git_ref: "refs/heads/main".parse().unwrap(),
        before: Some(from.to_string().repeat(40).parse().unwrap()),
        commit: to.to_string().repeat(40).parse().unwrap(),
        on_default_branch: false,
        pushed_at: Some(at(offset)),
        by_hand: None,
        delivery: None,
    }
}

fn undated(from: char, to: char) -> Revision {
    Revision { pushed_at: None, ..push(from, to, 0) }
}

fn by_hand(id: &str, to: char, offset: i64, again: bool) -> Revision {
    let by_hand = Some(ByHand { id: id.to_owned(), at: at(offset), again });
    Revision { by_hand, before: None, pushed_at: None, ..push('0', to, 0) }
}

/// What happens to an app, step by step.
enum Step {
    /// A push comes, with what must become of it.
    Push(Revision, Admission),
    Retained(Revision, Admission),
    /// What is pending is deployed, and the deploy ends so.
    Deploy(Verdict),
    /// Nothing is pending.
    Rest,
    /// Time goes by.
    Wait(u64),
}

use Step::{Deploy, Push, Rest, Retained, Wait};

fn play(name: &str, steps: Vec<Step>) {
    let mut record = Record::for_test("api", "o/r");
    let mut now = noon();
    for (i, step) in steps.into_iter().enumerate() {
        match step {
            Push(push, expected) => assert_eq!(record.admit(&push, false, now), expected, "{name}, step {i}"),
            Retained(push, expected) => {
                assert_eq!(record.admit(&push, true, now), expected, "{name}, step {i}");
            }
            Deploy(verdict) => {
                let attempt = record
                    .begin(true, Rescue::default(), now)
                    .unwrap_or_else(|| panic!("{name}, step {i}: nothing pending"));
                record.end(Entry::without_attempt(verdict, &attempt.revision, now, String::new()), 0);
            }
            Rest => assert_eq!(record.pending(), None, "{name}, step {i}"),
            Wait(seconds) => now += Duration::from_secs(seconds),
        }
    }
}

#[test]
fn redeliveries_do_nothing() {
    play(
        "a duplicate before, during and after its deploy",
        vec![
            Push(push('0', 'a', 0), Taken),
            Push(push('0', 'a', 0), Duplicate),
            Deploy(Verdict::Deployed),
            Push(push('0', 'a', 0), Duplicate),
            Rest,
        ],
    );
    play(
        "a replay of an old push",
        vec![
            Push(push('0', 'a', -100), Taken),
            Deploy(Verdict::Deployed),
            Push(push('a', 'b', -50), Taken),
            Deploy(Verdict::Deployed),
            Push(push('0', 'a', -100), Duplicate),
            Push(push('9', '0', -200), Stale),
            Rest,
        ],
    );
}

#[test]
fn a_failed_revision_is_tried_again_by_a_redelivery_three_times_an_hour() {
    let again = || Push(push('0', 'a', 0), TriedAgain);
    play(
        "redelivered on purpose",
        vec![
            Push(push('0', 'a', 0), Taken),
            Deploy(Verdict::Failed),
            Rest,
            again(),
            Deploy(Verdict::Failed),
            again(),
            Push(push('0', 'a', 0), Duplicate),
            Deploy(Verdict::Failed),
            again(),
            Deploy(Verdict::Failed),
            Push(push('0', 'a', 0), Duplicate),
            Wait(3601),
            again(),
            Deploy(Verdict::Deployed),
            Push(push('0', 'a', 0), Duplicate),
        ],
    );
    play(
        "retained: the broker sends it after each reconnect",
        vec![
            Retained(push('0', 'a', 0), Taken),
            Deploy(Verdict::Failed),
            Retained(push('0', 'a', 0), Duplicate),
            Retained(push('0', 'a', 0), Duplicate),
            Rest,
        ],
    );
    play(
        "a failed one that is no longer desired",
        vec![
            Push(push('0', 'a', 0), Taken),
            Deploy(Verdict::Failed),
            Push(push('a', 'b', 1), Taken),
            Push(push('0', 'a', 0), Duplicate),
            Deploy(Verdict::Deployed),
        ],
    );
}

#[test]
fn force_pushes_go_back_and_forth() {
    play(
        "A, B, A, B",
        vec![
            Push(push('0', 'a', 0), Taken),
            Push(push('a', 'b', 1), Taken),
            Push(push('b', 'a', 2), Taken),
            Push(push('a', 'b', 3), Taken),
            Deploy(Verdict::Deployed),
            Push(push('b', 'a', 4), Taken),
            Deploy(Verdict::Deployed),
            Rest,
        ],
    );
    play(
        "A, B, A while A runs",
        vec![
            Push(push('0', 'a', 0), Taken),
            Deploy(Verdict::Deployed),
            Push(push('a', 'b', 1), Taken),
            Push(push('b', 'a', 2), AlreadyDeployed),
            Rest,
        ],
    );
    play(
        "back to the old commit after a failed one: it is not known to run any more",
        vec![
            Push(push('0', 'a', 0), Taken),
            Deploy(Verdict::Deployed),
            Push(push('a', 'b', 1), Taken),
            Deploy(Verdict::Failed),
            Push(push('b', 'a', 2), Taken),
            Deploy(Verdict::Deployed),
        ],
    );
}

#[test]
fn several_refs_of_one_app_share_a_clock() {
    let tag = |to, offset| Revision { git_ref: "refs/tags/v1".parse().unwrap(), ..push('0', to, offset) };
    play(
        "a branch created, a tag, the older branch push late",
        vec![
            Push(push('0', 'a', 0), Taken),
            Push(tag('b', 10), Taken),
            Push(push('a', 'c', 5), Stale),
            Push(push('a', 'd', 11), Taken),
            Deploy(Verdict::Deployed),
            Push(tag('d', 12), AlreadyDeployed),
        ],
    );
}

#[test]
fn of_two_pushes_in_one_second_the_order_shows_in_what_they_say_of_each_other() {
    play(
        "in their order",
        vec![Push(push('0', 'a', 0), Taken), Push(push('a', 'b', 0), Taken), Deploy(Verdict::Deployed)],
    );
    play(
        "the second first",
        vec![Push(push('a', 'b', 0), Taken), Push(push('0', 'a', 0), Stale), Deploy(Verdict::Deployed), Rest],
    );
    play(
        "there and back in one second: both lead to each other, so the order of arrival decides",
        vec![Push(push('a', 'b', 0), Taken), Push(push('b', 'a', 0), Taken)],
    );
    play("unrelated", vec![Push(push('a', 'b', 0), Taken), Push(push('c', 'd', 0), Taken)]);
}

#[test]
fn dates_that_cannot_be_right_do_not_count() {
    play(
        "a date in the future does not lock out what comes after it",
        vec![
            Push(push('0', 'a', 3600), Taken),
            Push(push('a', 'b', 10), Taken),
            Push(push('b', 'c', 5), Stale),
            Push(push('b', 'd', 20), Taken),
        ],
    );
    play(
        "a little ahead of our clock is an ordinary date",
        vec![Push(push('0', 'a', 200), Taken), Push(push('a', 'b', 100), Stale)],
    );
    play(
        "without dates the order of arrival decides",
        vec![
            Push(undated('0', 'a'), Taken),
            Push(undated('a', 'b'), Taken),
            Push(undated('0', 'a'), Duplicate),
            Push(push('b', 'c', -1000), Taken),
            Push(undated('c', 'd'), Taken),
        ],
    );
}

#[test]
fn pushes_made_by_hand_roll_back_and_do_not_move_the_clock() {
    play(
        "an older commit again, and then an ordinary push",
        vec![
            Push(push('0', 'a', -100), Taken),
            Push(push('a', 'b', -50), Taken),
            Deploy(Verdict::Deployed),
            Push(by_hand("roll-back-1", 'a', 0, false), Taken),
            Deploy(Verdict::Deployed),
            Push(by_hand("roll-back-1", 'a', 0, false), Duplicate),
            Push(push('b', 'c', -20), Taken),
            Deploy(Verdict::Deployed),
        ],
    );
    play(
        "with a slow clock: taken while it is after the oldest that is remembered",
        vec![
            Push(push('0', 'a', -1000), Taken),
            Deploy(Verdict::Deployed),
            Push(by_hand("slow-clock", 'b', -900, false), Taken),
            Push(by_hand("too-slow", 'b', -1001, false), Stale),
        ],
    );
    play(
        "with a fast clock",
        vec![
            Push(push('0', 'a', 0), Taken),
            Push(by_hand("fast-clock", 'b', 7200, false), Taken),
            Push(push('a', 'c', 10), Taken),
        ],
    );
    play(
        "again deploys what runs, once",
        vec![
            Push(push('0', 'a', 0), Taken),
            Deploy(Verdict::Deployed),
            Push(by_hand("without-again", 'a', 1, false), AlreadyDeployed),
            Rest,
            Push(by_hand("with-again", 'a', 2, true), Taken),
            Deploy(Verdict::Deployed),
            Rest,
            Push(by_hand("with-again", 'a', 2, true), Duplicate),
        ],
    );
}

#[test]
fn what_had_to_make_room_is_not_taken_again_even_within_one_second() {
    let mut record = Record::for_test("api", "o/r");
    let late = noon() + Duration::from_secs(100);
    let first = push('0', 'a', 0);
    assert_eq!(record.admit(&first, false, late), Taken);
    // So many that of two in one second only the first has to make room.
    for n in 0..71 {
        let made = by_hand(&format!("by-hand-{n:02}"), 'b', n / 2 + 1, false);
        assert_ne!(record.admit(&made, false, late), Stale);
    }
    assert_eq!(record.admit(&first, false, late), Stale, "its date is still the greatest of GitHub's");
    for n in 0..71 {
        let made = by_hand(&format!("by-hand-{n:02}"), 'b', n / 2 + 1, false);
        assert!(matches!(record.admit(&made, false, late), Stale | Duplicate), "{n}");
    }
    assert_eq!(record.admit(&push('a', 'c', 1), false, late), Taken);
}

#[test]
fn after_three_interruptions_a_revision_is_failed_until_a_new_push() {
    let mut record = Record::for_test("api", "o/r");
    record.admit(&push('0', 'a', 0), false, noon());
    for _ in 0..3 {
        assert!(record.begin(true, Rescue::default(), noon()).is_some());
        assert!(record.count_interruption().is_some_and(|attempt| attempt.touched));
        let given_up = record.interrupted(true);
        assert_eq!(given_up.is_some(), record.pending().is_none());
    }
    assert_eq!(record.pending(), None);
    let verdicts: Vec<_> = record.outcomes.iter().map(|entry| entry.outcome).collect();
    assert_eq!(verdicts[..3], [Verdict::Interrupted; 3]);
    assert_eq!(verdicts[3..], [Verdict::Failed]);
    assert_eq!(record.admit(&push('a', 'b', 1), false, noon()), Taken);
    assert!(record.pending().is_some());
}

#[test]
fn only_so_much_is_remembered() {
    let mut record = Record::for_test("api", "o/r");
    for offset in 0..100 {
        record.admit(&push('a', 'b', offset), false, at(100));
        if let Some(attempt) = record.begin(true, Rescue::default(), noon()) {
            record.end(Entry::without_attempt(Verdict::Failed, &attempt.revision, noon(), String::new()), 0);
        }
    }
    assert_eq!((record.seen.len(), record.outcomes.len()), (64, 20));
    assert_eq!(
        record.admit(&push('a', 'b', 0), false, at(100)),
        Stale,
        "forgotten, but older than the newest"
    );
}

/// As at a boot, before the time has come from the network.
#[test]
fn a_clock_that_is_behind_does_not_turn_the_order_round() {
    let mut record = Record::for_test("api", "o/r");
    let behind = at(-3600);
    for (newer, expected) in
        [(push('a', 'b', -1200), Taken), (push('c', 'd', 0), Taken), (push('b', 'c', -600), Stale)]
    {
        assert_eq!(record.admit(&newer, false, behind), expected, "{newer:?}");
    }
    // The clock is right by now.
    assert_eq!(record.admit(&push('e', 'f', -300), false, at(60)), Stale);
    assert_eq!(record.admit(&by_hand("back", 'a', 70, false), false, at(70)), Taken);
    assert_eq!(record.admit(&push('e', 'f', -300), false, at(80)), Stale, "the high date is kept");
    assert_eq!(record.admit(&push('a', 'e', 1), false, at(90)), Taken);
}
