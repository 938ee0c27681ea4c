//! How long to wait before trying again.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

/// Doubling waits with jitter, from `first` up to `longest`.
///
/// Each wait is drawn evenly from the upper half of its step, so that peers that failed together do not return
/// together. Succeeding calls for [`reset`](Self::reset).
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    step: Duration,
}

impl Backoff {
    /// Waits from about `first` to at most `longest`.
    pub fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest: longest.max(first), step: first }
    }

    /// The next wait: between half of the step and the step, which then doubles.
    pub fn next_wait(&mut self) -> Duration {
        let step = self.step;
        self.step = step.saturating_mul(2).min(self.longest);
        step.mul_f64(0.5 + fraction() / 2.0)
    }

    /// Begins again with the first wait.
    pub fn reset(&mut self) {
        self.step = self.first;
    }
}

/// A random number in `0.0..1.0`. The standard library seeds every hasher differently, which is random enough here.
fn fraction() -> f64 {
    let bits = RandomState::new().hash_one(0_u8) >> 11;
    bits as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest_and_begin_again_after_a_reset() {
        let ms = Duration::from_millis;
        let mut backoff = Backoff::new(ms(100), ms(350));
        for step in [100, 200, 350, 350] {
            let wait = backoff.next_wait();
            assert!(wait >= ms(step / 2) && wait <= ms(step), "{wait:?} of {step} ms");
        }
        backoff.reset();
        assert!(backoff.next_wait() <= ms(100));
    }

    #[test]
    fn two_that_fail_together_wait_differently() {
        let mut waits: Vec<Duration> =
            (0..20).map(|_| Backoff::new(Duration::from_secs(1), Duration::from_secs(1)).next_wait()).collect();
        waits.sort();
        waits.dedup();
        assert!(waits.len() > 10, "{waits:?}");
    }
}
