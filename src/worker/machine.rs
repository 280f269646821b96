//! What a worker does next, as a pure state machine: pushes and results go in, decisions come out.

use std::time::Duration;

use tokio::time::Instant;

use crate::router::Revision;

/// Pause before the first retry of a failed deploy; it doubles with each further one.
const FIRST_BACK_OFF: Duration = Duration::from_secs(10);
/// The longest pause between retries.
const LONGEST_BACK_OFF: Duration = Duration::from_secs(5 * 60);

/// The rules that the configuration sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Policy {
    /// How often a failed deploy is tried again.
    pub(super) retries: u32,
    /// How long this instance waits before the deploy of a push.
    pub(super) stagger: Duration,
}

/// What became of a push that was handed to a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Taken {
    /// It will be deployed.
    Desired,
    /// Its commit runs already.
    AlreadyDeployed,
}

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

/// One deploy to carry out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Attempt {
    pub(super) revision: Revision,
    /// What was deployed last with success.
    pub(super) previous: Option<Revision>,
    /// 1 for the first attempt of this revision.
    pub(super) number: u32,
    /// Pushes that this one replaced before they were deployed.
    pub(super) superseded: u32,
}

/// How an attempt ended, as far as it matters for what comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// The revision runs, and was checked.
    Succeeded,
    /// It failed before anything was stopped.
    FailedUntouched,
    /// It failed, so that what runs now is not known.
    Failed,
}

/// The state of one app.
#[derive(Debug, Default)]
pub(super) struct Machine {
    /// The newest push; `None` until the first one.
    desired: Option<Revision>,
    /// What runs for certain.
    deployed: Option<Revision>,
    /// What ran for certain last: its environment is handed over when an update fails.
    last_good: Option<Revision>,
    /// When to deploy the desired revision; `None`: not at all, or it is being deployed.
    due: Option<Instant>,
    /// The revision that is being deployed.
    deploying: Option<Revision>,
    /// Attempts made to deploy the desired revision.
    attempts: u32,
    superseded: u32,
}

impl Machine {
    /// Takes a push: it becomes the desired revision.
    pub(super) fn push(&mut self, revision: Revision, now: Instant, policy: Policy) -> Taken {
        let runs =
            self.deploying.is_none() && self.deployed.as_ref().is_some_and(|it| it.commit == revision.commit);
        let is_deploying = self.deploying.as_ref().is_some_and(|it| it.commit == revision.commit);
        let waiting_for_its_first_attempt = self.due.is_some() && self.attempts == 0;
        if waiting_for_its_first_attempt {
            self.superseded += 1;
        }
        self.desired = Some(revision);
        if runs || is_deploying {
            // Whether it has to be deployed once more shows when the running deploy has ended.
            self.due = None;
        } else if !waiting_for_its_first_attempt {
            self.due = Some(now + policy.stagger);
        }
        if !is_deploying {
            self.attempts = 0;
        }
        if runs { Taken::AlreadyDeployed } else { Taken::Desired }
    }

    /// What to do at this moment.
    pub(super) fn next(&self, now: Instant) -> Next {
        match self.due {
            _ if self.deploying.is_some() => Next::Rest,
            None => Next::Rest,
            Some(due) if due > now => Next::Wait(due),
            Some(_) => Next::Deploy,
        }
    }

    /// Begins the deploy that [`Machine::next`] called for.
    pub(super) fn begin(&mut self, now: Instant) -> Option<Attempt> {
        if self.next(now) != Next::Deploy {
            return None;
        }
        let revision = self.desired.clone()?;
        self.due = None;
        self.attempts += 1;
        self.deploying = Some(revision.clone());
        Some(Attempt {
            revision,
            previous: self.last_good.clone(),
            number: self.attempts,
            superseded: std::mem::take(&mut self.superseded),
        })
    }

    /// Ends the attempt that was begun. Says when it will be tried again.
    pub(super) fn end(&mut self, ending: Ending, now: Instant, policy: Policy) -> Option<Duration> {
        let attempted = self.deploying.take();
        match ending {
            Ending::Succeeded => {
                self.deployed.clone_from(&attempted);
                self.last_good.clone_from(&attempted);
            }
            Ending::Failed => self.deployed = None,
            Ending::FailedUntouched => {}
        }
        let same_commit = |a: &Option<Revision>, b: &Option<Revision>| {
            a.as_ref().zip(b.as_ref()).is_some_and(|(a, b)| a.commit == b.commit)
        };
        if !same_commit(&attempted, &self.desired) {
            // A newer push came meanwhile. It may have gone back to what runs.
            if same_commit(&self.deployed, &self.desired) {
                self.due = None;
            }
            return None;
        }
        if ending == Ending::Succeeded || self.attempts > policy.retries {
            return None;
        }
        let pause = back_off(self.attempts);
        self.due = Some(now + pause);
        Some(pause)
    }

    /// Forgets the desired revision, as when the configuration no longer has the app. Says whether it was pending.
    pub(super) fn drop_pending(&mut self) -> Option<Revision> {
        self.due.take().and_then(|_| self.desired.clone())
    }
}

fn back_off(failures: u32) -> Duration {
    let doublings = failures.saturating_sub(1).min(16);
    (FIRST_BACK_OFF * 2_u32.pow(doublings)).min(LONGEST_BACK_OFF)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROMPT: Policy = Policy { retries: 0, stagger: Duration::ZERO };

    fn revision(digit: char) -> Revision {
        Revision {
            repo: "o/r".parse().unwrap(),
            git_ref: "refs/heads/main".parse().unwrap(),
            before: None,
            commit: digit.to_string().repeat(40).parse().unwrap(),
            pushed_at: None,
            delivery: None,
        }
    }

    fn deploy(
        machine: &mut Machine,
        now: Instant,
        ending: Ending,
        policy: Policy,
    ) -> (Attempt, Option<Duration>) {
        let attempt = machine.begin(now).unwrap();
        let retry = machine.end(ending, now, policy);
        (attempt, retry)
    }

    #[test]
    fn a_push_is_deployed_once() {
        let (mut machine, now) = (Machine::default(), Instant::now());
        assert_eq!(machine.next(now), Next::Rest);
        assert_eq!(machine.push(revision('a'), now, PROMPT), Taken::Desired);
        let (attempt, retry) = deploy(&mut machine, now, Ending::Succeeded, PROMPT);
        assert_eq!(
            (attempt.revision, attempt.previous, attempt.number, retry),
            (revision('a'), None, 1, None)
        );
        assert_eq!(machine.next(now), Next::Rest);
        assert_eq!(machine.push(revision('a'), now, PROMPT), Taken::AlreadyDeployed);
        assert_eq!(machine.next(now), Next::Rest);
    }

    #[test]
    fn pushes_during_a_deploy_coalesce_to_the_newest() {
        let (mut machine, now) = (Machine::default(), Instant::now());
        machine.push(revision('a'), now, PROMPT);
        machine.begin(now).unwrap();
        for digit in ['b', 'c', 'd'] {
            machine.push(revision(digit), now, PROMPT);
            assert_eq!(machine.next(now), Next::Rest, "one deploy at a time");
        }
        machine.end(Ending::Succeeded, now, PROMPT);
        let (attempt, _) = deploy(&mut machine, now, Ending::Succeeded, PROMPT);
        assert_eq!(attempt.revision, revision('d'));
        assert_eq!(attempt.previous, Some(revision('a')));
        assert_eq!(attempt.superseded, 2);
        assert_eq!(machine.next(now), Next::Rest);
    }

    #[test]
    fn going_back_to_what_is_being_deployed_needs_no_second_deploy() {
        let (mut machine, now) = (Machine::default(), Instant::now());
        machine.push(revision('a'), now, PROMPT);
        machine.begin(now).unwrap();
        machine.push(revision('b'), now, PROMPT);
        machine.push(revision('a'), now, PROMPT);
        machine.end(Ending::Succeeded, now, PROMPT);
        assert_eq!(machine.next(now), Next::Rest);
    }

    #[test]
    fn a_newer_push_is_deployed_even_if_the_attempt_before_it_failed() {
        let (mut machine, now) = (Machine::default(), Instant::now());
        machine.push(revision('a'), now, PROMPT);
        machine.begin(now).unwrap();
        machine.push(revision('b'), now, PROMPT);
        assert_eq!(machine.end(Ending::Failed, now, PROMPT), None);
        assert_eq!(machine.begin(now).unwrap().revision, revision('b'));
    }

    #[test]
    fn after_a_failure_the_old_commit_is_not_taken_to_be_running() {
        let (mut machine, now) = (Machine::default(), Instant::now());
        machine.push(revision('a'), now, PROMPT);
        deploy(&mut machine, now, Ending::Succeeded, PROMPT);
        machine.push(revision('b'), now, PROMPT);
        deploy(&mut machine, now, Ending::Failed, PROMPT);
        assert_eq!(machine.push(revision('a'), now, PROMPT), Taken::Desired);
        let (attempt, _) = deploy(&mut machine, now, Ending::Succeeded, PROMPT);
        assert_eq!(attempt.previous, Some(revision('a')));
    }

    #[test]
    fn a_failed_prepare_leaves_the_old_commit_running() {
        let (mut machine, now) = (Machine::default(), Instant::now());
        machine.push(revision('a'), now, PROMPT);
        deploy(&mut machine, now, Ending::Succeeded, PROMPT);
        machine.push(revision('b'), now, PROMPT);
        deploy(&mut machine, now, Ending::FailedUntouched, PROMPT);
        assert_eq!(machine.push(revision('a'), now, PROMPT), Taken::AlreadyDeployed);
        assert_eq!(machine.next(now), Next::Rest);
    }

    #[test]
    fn a_failed_deploy_is_retried_with_growing_pauses_and_then_no_more() {
        let policy = Policy { retries: 2, stagger: Duration::ZERO };
        let (mut machine, mut now) = (Machine::default(), Instant::now());
        machine.push(revision('a'), now, policy);
        for pause in [10, 20] {
            let pause = Duration::from_secs(pause);
            let (_, retry) = deploy(&mut machine, now, Ending::Failed, policy);
            assert_eq!(retry, Some(pause));
            assert_eq!(machine.next(now), Next::Wait(now + pause));
            now += pause;
            assert_eq!(machine.next(now), Next::Deploy);
        }
        let (attempt, retry) = deploy(&mut machine, now, Ending::Failed, policy);
        assert_eq!((attempt.number, retry), (3, None));
        assert_eq!(machine.next(now), Next::Rest);
    }

    #[test]
    fn a_newer_push_ends_the_pause_before_a_retry() {
        let policy = Policy { retries: 5, stagger: Duration::ZERO };
        let (mut machine, now) = (Machine::default(), Instant::now());
        machine.push(revision('a'), now, policy);
        deploy(&mut machine, now, Ending::Failed, policy);
        machine.push(revision('b'), now, policy);
        let attempt = machine.begin(now).unwrap();
        assert_eq!((attempt.revision, attempt.number), (revision('b'), 1));
    }

    #[test]
    fn stagger_runs_from_the_first_push_that_waits() {
        let policy = Policy { retries: 0, stagger: Duration::from_secs(30) };
        let (mut machine, start) = (Machine::default(), Instant::now());
        machine.push(revision('a'), start, policy);
        let later = start + Duration::from_secs(20);
        machine.push(revision('b'), later, policy);
        assert_eq!(machine.next(later), Next::Wait(start + policy.stagger));
        let attempt = machine.begin(start + policy.stagger).unwrap();
        assert_eq!((attempt.revision, attempt.superseded), (revision('b'), 1));
    }

    #[test]
    fn the_pause_has_a_ceiling() {
        assert_eq!(back_off(1), Duration::from_secs(10));
        assert_eq!(back_off(100), LONGEST_BACK_OFF);
    }

    #[test]
    fn a_pending_push_can_be_dropped() {
        let (mut machine, now) = (Machine::default(), Instant::now());
        machine.push(revision('a'), now, PROMPT);
        assert_eq!(machine.drop_pending(), Some(revision('a')));
        assert_eq!(machine.next(now), Next::Rest);
    }
}
