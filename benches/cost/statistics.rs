//! The few numbers that stand for many.

/// The one in the middle.
pub fn median(values: &[f64]) -> f64 {
    percentile(values, 50.0)
}

/// The smallest that so many percent of all do not exceed.
pub fn percentile(values: &[f64], percent: f64) -> f64 {
    assert!(!values.is_empty(), "nothing was measured");
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (percent / 100.0 * sorted.len() as f64).ceil() as usize;
    sorted[rank.clamp(1, sorted.len()) - 1]
}
