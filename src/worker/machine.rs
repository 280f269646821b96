//! When a worker does what, as a pure state machine: records and results go in, decisions come out. What is to be
//! deployed at all is the record's to say.

use std::time::Duration;

use tokio::time::Instant;

use crate::journal::{InProgress, Record};
use crate::outcome::Outcome;

/// Pause before the first retry of a failed deploy; it doubles with each further one.
const FIRST_BACK_OFF: Duration = Duration::from_secs(10);
/// The longest pause between retries.
const LONGEST_BACK_OFF: Duration = Duration::from_secs(5 * 60);

/// What a worker shall do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// Wait for a push.
    Rest,
    /// Wait until then, or for a push.
    Wait(Instant),
    /// Begin to deploy.
    Deploy,
}

/// The state of one app: its record as it is on disk, and the clock of what comes next.
#[derive(Debug)]
pub(super) struct Machine {
    record: Record,
    /// When to deploy what is pending; `None`: nothing is, or it is being deployed.
    due: Option<Instant>,
    /// When the first push came for which the stagger is waited; `None`: none of it is left to wait for.
    staggered_since: Option<Instant>,
    deploying: bool,
    /// An earlier agent left it interrupted: it has waited enough.
    resumes: bool,
}

impl Machine {
    /// What an earlier agent left pending is due at once.
    pub(super) fn new(record: Record, now: Instant) -> Self {
        let due = record.pending().map(|_| now);
        let resumes = due.is_some() && record.desired.as_ref().is_some_and(|desired| desired.interrupted > 0);
        Self { record, due, staggered_since: None, deploying: false, resumes }
    }

    pub(super) fn record(&self) -> &Record {
        &self.record
    }

    /// Whether what is due is the rest of an interrupted deploy.
    pub(super) fn resumes(&self) -> bool {
        self.resumes
    }

    /// Another configuration was recorded; `dropped` is what became of what it no longer wants.
    pub(super) fn fitted(
        &mut self,
        record: Record,
        dropped: Option<Outcome>,
        stagger: Duration,
    ) -> Option<Outcome> {
        if let (Some(_), Some(since)) = (self.due, self.staggered_since) {
            self.due = Some(since + stagger);
        }
        self.noted(record, ());
        dropped
    }

    /// Something that decides nothing by itself was recorded.
    pub(super) fn noted(&mut self, record: Record, (): ()) {
        self.record = record;
        self.settle(Instant::now());
    }

    /// Whatever came about: what is pending and not being deployed is due some time, and nothing else is.
    fn settle(&mut self, now: Instant) {
        if self.record.pending().is_none() {
            self.due = None;
        } else if self.due.is_none() && !self.deploying {
            self.due = Some(now);
        }
    }

    /// Pushes were recorded: the newest is deployed `stagger` after the first that waits.
    pub(super) fn pushed(&mut self, record: Record, stagger: Duration, now: Instant) {
        let waits_already = self.due.is_some() && attempts(&self.record) == 0;
        let is_new = record.desired != self.record.desired;
        self.record = record;
        if is_new && !waits_already {
            self.due = Some(now + stagger);
            self.staggered_since = Some(now);
        }
        // A newer push has not waited yet.
        self.resumes &= !is_new;
        self.settle(now);
    }

    /// What to do at this moment.
    pub(super) fn next(&self, now: Instant) -> Next {
        match self.due {
            _ if self.deploying => Next::Rest,
            None => Next::Rest,
            Some(due) if due > now => Next::Wait(due),
            Some(_) => Next::Deploy,
        }
    }

    /// An attempt was recorded, unless there was nothing left to do.
    pub(super) fn began(&mut self, record: Record, attempt: Option<InProgress>) -> Option<InProgress> {
        self.record = record;
        self.due = None;
        self.staggered_since = None;
        self.deploying = attempt.is_some();
        self.resumes = false;
        attempt
    }

    /// The end of the attempt was recorded. `retry`: the same revision is to be tried again.
    pub(super) fn ended(&mut self, record: Record, retry: bool, now: Instant) -> Option<Duration> {
        self.deploying = false;
        self.record = record;
        let pause = retry.then(|| back_off(failures(&self.record)));
        if let Some(pause) = pause {
            self.due = Some(now + pause);
        }
        self.settle(now);
        pause
    }
}

fn attempts(record: &Record) -> u32 {
    record.desired.as_ref().map_or(0, |desired| desired.attempts)
}

fn failures(record: &Record) -> u32 {
    record.desired.as_ref().map_or(0, |desired| desired.attempts.saturating_sub(desired.interrupted))
}

fn back_off(failures: u32) -> Duration {
    let doublings = failures.saturating_sub(1).min(16);
    (FIRST_BACK_OFF * 2_u32.pow(doublings)).min(LONGEST_BACK_OFF)
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use crate::journal::{Admission, Entry, Rescue};
    use crate::outcome::Verdict;
    use crate::router::Revision;

    use super::*;

    /// A machine with its record, as the ledger would move them.
    struct Bench {
        machine: Machine,
        now: Instant,
        stagger: Duration,
        retries: u32,
    }

    impl Bench {
        fn new() -> Self {
            let record = Record::for_test("api", "o/r");
            let now = Instant::now();
            Self { machine: Machine::new(record, now), now, stagger: Duration::ZERO, retries: 0 }
        }

        fn push(&mut self, digit: char) {
            let mut record = self.machine.record().clone();
            record.admit(&Revision::for_test(digit), false, SystemTime::now());
            self.machine.pushed(record, self.stagger, self.now);
        }

        fn begin(&mut self) -> InProgress {
            assert_eq!(self.machine.next(self.now), Next::Deploy);
            let mut record = self.machine.record().clone();
            let attempt = record.begin(true, Rescue::default(), SystemTime::now());
            self.machine.began(record, attempt).unwrap()
        }

        fn end(&mut self, verdict: Verdict) -> Option<Duration> {
            let mut record = self.machine.record().clone();
            let attempted = record.attempt.clone().unwrap().revision;
            let entry = Entry::without_attempt(verdict, &attempted, SystemTime::now(), String::new());
            let retry = record.end(entry, self.retries).retry;
            self.machine.ended(record, retry, self.now)
        }

        fn next(&self) -> Next {
            self.machine.next(self.now)
        }
    }

    #[test]
    fn a_push_is_deployed_once() {
        let mut bench = Bench::new();
        assert_eq!(bench.next(), Next::Rest);
        bench.push('a');
        assert_eq!(bench.begin().revision, Revision::for_test('a'));
        assert_eq!(bench.next(), Next::Rest, "one deploy at a time");
        assert_eq!(bench.end(Verdict::Deployed), None);
        assert_eq!(bench.next(), Next::Rest);
        bench.push('a');
        assert_eq!(bench.next(), Next::Rest);
    }

    #[test]
    fn pushes_during_a_deploy_coalesce_to_the_newest() {
        let mut bench = Bench::new();
        bench.push('a');
        bench.begin();
        for digit in ['b', 'c', 'd'] {
            bench.push(digit);
            assert_eq!(bench.next(), Next::Rest);
        }
        bench.end(Verdict::Deployed);
        assert_eq!(bench.begin().revision, Revision::for_test('d'));
        assert_eq!(bench.machine.record().superseded, 2);
        bench.end(Verdict::Deployed);
        assert_eq!(bench.next(), Next::Rest);
    }

    #[test]
    fn a_newer_push_is_deployed_even_if_the_attempt_before_it_failed() {
        let mut bench = Bench::new();
        bench.push('a');
        bench.begin();
        bench.push('b');
        assert_eq!(bench.end(Verdict::Failed), None);
        assert_eq!(bench.begin().revision, Revision::for_test('b'));
    }

    #[test]
    fn a_failed_deploy_is_retried_with_growing_pauses_and_then_no_more() {
        let mut bench = Bench { retries: 2, ..Bench::new() };
        bench.push('a');
        for pause in [10, 20] {
            let pause = Duration::from_secs(pause);
            bench.begin();
            assert_eq!(bench.end(Verdict::Failed), Some(pause));
            assert_eq!(bench.next(), Next::Wait(bench.now + pause));
            bench.now += pause;
        }
        assert_eq!(bench.begin().number, 3);
        assert_eq!(bench.end(Verdict::Failed), None);
        assert_eq!(bench.next(), Next::Rest);
    }

    #[test]
    fn a_newer_push_ends_the_pause_before_a_retry() {
        let mut bench = Bench { retries: 5, ..Bench::new() };
        bench.push('a');
        bench.begin();
        bench.end(Verdict::Failed);
        bench.push('b');
        let attempt = bench.begin();
        assert_eq!((attempt.revision, attempt.number), (Revision::for_test('b'), 1));
    }

    #[test]
    fn stagger_runs_from_the_first_push_that_waits() {
        let mut bench = Bench { stagger: Duration::from_secs(30), ..Bench::new() };
        let due = bench.now + bench.stagger;
        bench.push('a');
        bench.now += Duration::from_secs(20);
        bench.push('b');
        assert_eq!(bench.next(), Next::Wait(due));
        bench.now = due;
        assert_eq!(bench.begin().revision, Revision::for_test('b'));
    }

    #[test]
    fn another_stagger_counts_for_the_push_that_waits_but_not_for_a_retry() {
        let hour = Duration::from_secs(60 * 60);
        let mut bench = Bench { stagger: hour, retries: 1, ..Bench::new() };
        let came = bench.now;
        bench.push('a');
        bench.now += Duration::from_secs(20);
        for (stagger, due) in [(2 * hour, came + 2 * hour), (hour / 2, came + hour / 2)] {
            bench.machine.fitted(bench.machine.record().clone(), None, stagger);
            assert_eq!(bench.next(), Next::Wait(due));
        }
        bench.machine.fitted(bench.machine.record().clone(), None, Duration::ZERO);
        bench.begin();
        let pause = bench.end(Verdict::Failed).unwrap();
        bench.machine.fitted(bench.machine.record().clone(), None, Duration::ZERO);
        assert_eq!(bench.next(), Next::Wait(bench.now + pause));
    }

    #[test]
    fn what_an_earlier_agent_left_pending_is_due_at_once() {
        let mut bench = Bench { stagger: Duration::from_secs(30), ..Bench::new() };
        bench.push('a');
        let next = Machine::new(bench.machine.record().clone(), bench.now);
        assert_eq!(next.next(bench.now), Next::Deploy);
        assert!(!next.resumes());
        bench.now += bench.stagger;
        bench.begin();
        let mut record = bench.machine.record().clone();
        record.count_interruption();
        record.interrupted(true);
        assert!(Machine::new(record, bench.now).resumes());
    }

    #[test]
    fn going_back_to_what_ran_while_its_successor_is_prepared_is_a_deploy_of_its_own() {
        let mut bench = Bench::new();
        bench.push('a');
        bench.begin();
        bench.end(Verdict::Deployed);
        bench.push('b');
        let mut record = bench.machine.record().clone();
        let attempt = record.begin(false, Rescue::default(), SystemTime::now());
        bench.machine.began(record, attempt);
        let mut back = Revision::for_test('a');
        back.before = Some("b".repeat(40).parse().unwrap());
        let mut record = bench.machine.record().clone();
        assert_eq!(record.admit(&back, false, SystemTime::now()), Admission::Taken);
        bench.machine.pushed(record, bench.stagger, bench.now);
        let mut record = bench.machine.record().clone();
        record.touch();
        bench.machine.noted(record, ());
        bench.end(Verdict::Deployed);
        assert_eq!(bench.begin().revision, back);
    }

    #[test]
    fn the_pause_has_a_ceiling() {
        assert_eq!(back_off(1), Duration::from_secs(10));
        assert_eq!(back_off(100), LONGEST_BACK_OFF);
    }
}
