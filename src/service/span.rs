//! Time spans as systemd prints them: `1min 30s`, `1h 30min 5.007000s`, `1.500ms`, `infinity`.

use std::time::Duration;

/// A span that systemd would not print.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NotASpan;

/// None is no limit: `infinity`, or nothing at all.
pub(super) fn parse(text: &str) -> Result<Option<Duration>, NotASpan> {
    match text {
        "infinity" | "" => Ok(None),
        // The one span without a unit.
        "0" => Ok(Some(Duration::ZERO)),
        spans => spans.split(' ').map(part).try_fold(Duration::ZERO, add).map(Some).ok_or(NotASpan),
    }
}

fn add(sum: Duration, part: Option<Duration>) -> Option<Duration> {
    sum.checked_add(part?)
}

fn part(text: &str) -> Option<Duration> {
    let (number, unit) = text.split_at(text.find(|c: char| c.is_ascii_alphabetic())?);
    let seconds = number.parse::<f64>().ok()? * seconds_of(unit)?;
    Duration::try_from_secs_f64(seconds).ok()
}

/// systemd's month is a twelfth of a year of 365.25 days.
fn seconds_of(unit: &str) -> Option<f64> {
    Some(match unit {
        "us" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        "min" => 60.0,
        "h" => 3600.0,
        "d" => 86_400.0,
        "w" => 604_800.0,
        "month" => 2_629_800.0,
        "y" => 31_557_600.0,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_of_a_real_systemd_are_read() {
        for (text, seconds) in [
            ("1min 30s", 90.0),
            ("1.500000s", 1.5),
            ("1min 30.123456s", 90.123_456),
            ("1.500ms", 0.0015),
            ("1us", 0.000_001),
            ("1h 30min 5.007000s", 5405.007),
            ("3month 1w 1d 16h 30min", 100.0 * 86_400.0),
            ("2month", 2.0 * 2_629_800.0),
            ("1y", 31_557_600.0),
            ("3w", 21.0 * 86_400.0),
            ("0", 0.0),
        ] {
            assert_eq!(parse(text), Ok(Some(Duration::from_secs_f64(seconds))), "{text}");
        }
    }

    #[test]
    fn infinity_is_no_limit() {
        assert_eq!(parse("infinity"), Ok(None));
        assert_eq!(parse(""), Ok(None));
    }

    #[test]
    fn anything_else_is_refused() {
        for text in
            ["1", "s", "-1s", "1 s", "1min  30s", "1fortnight", "NaNs", "1e3s", "99999999999999y", "1s30"]
        {
            assert_eq!(parse(text), Err(NotASpan), "{text}");
        }
    }
}
