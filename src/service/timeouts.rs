//! How long systemd lets a unit take to stop and to start.

use std::time::Duration;

use super::{Limits, span};

/// The properties to ask for. Each command is a line of its own.
pub(super) const PROPERTIES: &str = "TimeoutStartUSec,ExecCondition,ExecStartPre,ExecStart,ExecStartPost,\
                                     TimeoutStopUSec,ExecStop,ExecStopPost";
/// What a start runs, one after the other; the limit holds for each.
const START: [&str; 4] = ["ExecCondition", "ExecStartPre", "ExecStart", "ExecStartPost"];
/// What a stop runs beside sending the signal.
const STOP: [&str; 2] = ["ExecStop", "ExecStopPost"];

/// None when a time span is not understood. Units that are no services have none.
pub(super) fn parse(answer: &str) -> Option<Limits> {
    let properties = || answer.lines().filter_map(|line| line.split_once('='));
    let count = |keys: &[&str]| {
        let commands = properties().filter(|(key, value)| keys.contains(key) && !value.is_empty());
        u32::try_from(commands.count()).unwrap_or(u32::MAX)
    };
    let limit = |key: &str, times: u32| {
        let value = properties().find(|(known, _)| *known == key).map_or("", |(_, value)| value);
        let each: Option<Duration> = span::parse(value).ok()?;
        Some(each.map(|each| each.saturating_mul(times)))
    };
    Some(Limits {
        stop: limit("TimeoutStopUSec", count(&STOP).saturating_add(1))?,
        start: limit("TimeoutStartUSec", count(&START).max(1))?,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// An answer of systemd 252, kept whole.
    macro_rules! limits {
        ($name:literal) => {
            parse(include_str!(concat!("fixtures/", $name, ".timeouts"))).unwrap()
        };
    }

    fn seconds(stop: impl Into<Option<u64>>, start: impl Into<Option<u64>>) -> Limits {
        Limits { stop: stop.into().map(Duration::from_secs), start: start.into().map(Duration::from_secs) }
    }

    #[test]
    fn the_limit_of_a_unit_holds_for_each_of_its_commands() {
        assert_eq!(limits!("one-command"), seconds(90, 90));
        assert_eq!(limits!("many-commands"), seconds(7 * 4, 6 * 5));
        assert_eq!(limits!("no-limits"), seconds(None, None));
        assert_eq!(limits!("target"), seconds(None, None));
    }

    #[test]
    fn an_answer_of_another_kind_is_not_understood() {
        assert_eq!(parse("TimeoutStartUSec=soon\nTimeoutStopUSec=1min 30s\n"), None);
        assert_eq!(parse("TimeoutStartUSec=1min 30s\nTimeoutStopUSec=soon\n"), None);
    }
}
