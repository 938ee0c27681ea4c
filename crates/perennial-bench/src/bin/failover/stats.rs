//! Durations as a table shows them.

use std::fmt;
use std::time::Duration;

/// Measured durations, in order.
#[derive(Debug, Clone, Default)]
pub(crate) struct Samples(Vec<Duration>);

impl FromIterator<Duration> for Samples {
    fn from_iter<I: IntoIterator<Item = Duration>>(durations: I) -> Self {
        let mut sorted: Vec<Duration> = durations.into_iter().collect();
        sorted.sort_unstable();
        Self(sorted)
    }
}

impl Samples {
    /// The smallest sample that at least this part of all are no longer than (nearest rank): with 100 samples, the 99th is p99.
    /// Zero when there is none.
    pub(crate) fn quantile(&self, part: f64) -> Duration {
        let rank = (part * self.0.len() as f64).ceil() as usize;
        self.0.get(rank.saturating_sub(1)).or(self.0.last()).copied().unwrap_or_default()
    }

    /// The middle one.
    pub(crate) fn p50(&self) -> Duration {
        self.quantile(0.5)
    }

    /// Only one of a hundred is longer.
    pub(crate) fn p99(&self) -> Duration {
        self.quantile(0.99)
    }

    /// The longest one.
    pub(crate) fn longest(&self) -> Duration {
        self.0.last().copied().unwrap_or_default()
    }
}

impl fmt::Display for Samples {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [min, p50, p90, p99, max] = [0.0, 0.5, 0.9, 0.99, 1.0].map(|part| ms(self.quantile(part)));
        write!(f, "min {min} / p50 {p50} / p90 {p90} / p99 {p99} / max {max} ms, n = {}", self.0.len())
    }
}

/// Milliseconds with as many digits as say something.
pub(crate) fn ms(duration: Duration) -> String {
    let ms = duration.as_secs_f64() * 1e3;
    let digits = match ms {
        ..10.0 => 2,
        ..100.0 => 1,
        _ => 0,
    };
    format!("{ms:.digits$}")
}

/// How many times as long one duration is as another.
pub(crate) fn ratio(long: Duration, short: Duration) -> f64 {
    long.as_secs_f64() / short.as_secs_f64().max(1e-9)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_samples() {
        let samples: Samples = (1..=100).rev().map(Duration::from_millis).collect();
        let expect = [(0.0, 1), (0.5, 50), (0.99, 99), (0.999, 100), (1.0, 100)];
        for (part, ms) in expect {
            assert_eq!(samples.quantile(part), Duration::from_millis(ms), "{part}");
        }
        assert_eq!(samples.longest(), Duration::from_millis(100));
        let one: Samples = [Duration::from_millis(7)].into_iter().collect();
        assert_eq!((one.p50(), one.p99()), (Duration::from_millis(7), Duration::from_millis(7)));
        assert_eq!(Samples::default().p99(), Duration::ZERO);
    }

    #[test]
    fn small_durations_show_more_digits() {
        let shown = [90, 9_990, 12_340, 1_299_400].map(|us| ms(Duration::from_micros(us)));
        assert_eq!(shown, ["0.09", "9.99", "12.3", "1299"]);
    }
}
