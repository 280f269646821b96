//! Connections that the broker closes soon after it has accepted them: what may be behind it.

use std::time::Duration;

use super::failure::Failure;

/// After so many in a row they have a cause of their own …
const IN_A_ROW: u32 = 3;
/// … and soon is within the longest pause of another client that takes the session over, and a little more.
const SOON: Duration = Duration::from_secs(90);

/// The connections in a row that were closed soon.
#[derive(Debug, Default)]
pub(super) struct Closings {
    count: u32,
    /// On one of them, MQTT 5's word for a take-over.
    said: bool,
    /// On one of them this had been asked for, and was not answered.
    asked_for: Option<String>,
}

impl Closings {
    /// What a failure comes to after those before it. `lasted`: how long the connection did, if there was one;
    /// `asked_for`: a filter that the broker had not answered for when it ended.
    pub(super) fn recognise(
        &mut self,
        failure: Failure,
        lasted: Option<Duration>,
        asked_for: Option<String>,
    ) -> Failure {
        let said = matches!(&failure, Failure::Disconnected(reason) if reason.contains("SessionTakenOver"));
        let closed = said
            || failure == Failure::Closed
            // A socket that is closed before it was read to its end says so.
            || failure == Failure::Reset && asked_for.is_some();
        // A broker that takes no connection in between is in trouble itself.
        if !closed || lasted.is_none_or(|lasted| lasted >= SOON) {
            *self = Self::default();
            return forbidden(failure, asked_for);
        }
        self.count += 1;
        self.said |= said;
        self.asked_for = asked_for.or(self.asked_for.take());
        match &self.asked_for {
            _ if self.count < IN_A_ROW => failure,
            _ if self.said => Failure::TakenOver,
            Some(filter) => Failure::ClosedWhenAsked { filter: filter.clone(), said: None },
            None => Failure::ClosedSoon,
        }
    }
}

/// Some brokers end the connection instead of refusing a filter.
fn forbidden(failure: Failure, asked_for: Option<String>) -> Failure {
    match (failure, asked_for) {
        (Failure::Disconnected(reason), Some(filter)) if reason.starts_with("NotAuthorized") => {
            Failure::ClosedWhenAsked { filter, said: Some(reason) }
        }
        (failure, _) => failure,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BRIEF: Option<Duration> = Some(Duration::from_secs(2));

    fn taken_over() -> Failure {
        Failure::Disconnected("SessionTakenOver".into())
    }

    fn filter() -> String {
        "github/+/+".to_owned()
    }

    fn when_asked(said: Option<&str>) -> Failure {
        Failure::ClosedWhenAsked { filter: "github/+/+".to_owned(), said: said.map(str::to_owned) }
    }

    #[test]
    fn a_take_over_is_one_when_the_broker_says_so() {
        let mut closings = Closings::default();
        assert_eq!(closings.recognise(Failure::Closed, BRIEF, Some(filter())), Failure::Closed);
        assert_eq!(closings.recognise(taken_over(), BRIEF, None), taken_over());
        assert_eq!(closings.recognise(Failure::Closed, BRIEF, Some(filter())), Failure::TakenOver);
        assert_eq!(closings.recognise(Failure::Closed, Some(SOON), None), Failure::Closed, "it had lasted");
        assert_eq!(closings.recognise(Failure::Closed, BRIEF, None), Failure::Closed);
    }

    #[test]
    fn a_take_over_is_likely_when_all_filters_had_been_granted() {
        let mut closings = Closings::default();
        assert_eq!(closings.recognise(Failure::Closed, BRIEF, None), Failure::Closed);
        assert_eq!(closings.recognise(Failure::Closed, BRIEF, None), Failure::Closed);
        assert_eq!(closings.recognise(Failure::Closed, BRIEF, None), Failure::ClosedSoon);
        assert_eq!(
            closings.recognise(Failure::Closed, BRIEF, Some(filter())),
            when_asked(None),
            "not on all of them"
        );
    }

    #[test]
    fn a_broker_that_closes_when_asked_may_forbid_the_filter() {
        for failure in [Failure::Closed, Failure::Reset] {
            let mut closings = Closings::default();
            assert_eq!(closings.recognise(failure.clone(), BRIEF, Some(filter())), failure);
            assert_eq!(closings.recognise(failure.clone(), BRIEF, Some(filter())), failure);
            assert_eq!(closings.recognise(failure, BRIEF, Some(filter())), when_asked(None));
        }
        let said = |reason: &str| Failure::Disconnected(reason.to_owned());
        let mut closings = Closings::default();
        let denied = closings.recognise(said("NotAuthorized (no)"), BRIEF, Some(filter()));
        assert_eq!(denied, when_asked(Some("NotAuthorized (no)")), "at once");
        for (reason, asked_for) in [("NotAuthorized", None), ("ServerShuttingDown", Some(filter()))] {
            assert_eq!(closings.recognise(said(reason), BRIEF, asked_for), said(reason));
        }
    }

    #[test]
    fn a_broker_that_is_away_in_between_is_in_trouble_itself() {
        let mut closings = Closings::default();
        for _ in 0..2 {
            assert_eq!(closings.recognise(Failure::Closed, BRIEF, None), Failure::Closed);
        }
        let away = Failure::Network("refused".into());
        assert_eq!(closings.recognise(away.clone(), None, None), away);
        assert_eq!(closings.recognise(Failure::Closed, BRIEF, None), Failure::Closed);
    }
}
