//! Restart strategies: whether and when to start again what failed. Flink's, with its keys, defaults and words.

use std::fmt;
use std::time::Duration;

use perennial_types::RestartMemory;

/// Times of failures that a new leader is told at most. A strategy that forgives more of them in its interval counts
/// anew after a change of leader.
const REMEMBERED_MAX: usize = 256;

/// What kind of failure asks for a restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureKind {
    /// A task failed by itself: user code, input it cannot read, a job that cannot be started.
    Task,
    /// What ran the task is gone, or cannot be reached: a TaskManager, an executor, the way to another executor.
    Loss,
}

/// What a strategy says to a failure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Start again, this long after the failure.
    Restart {
        /// How long.
        after: Duration,
    },
    /// Do not; the job fails. The text names the strategy, for people.
    Suppress {
        /// Flink's sentence.
        reason: String,
    },
}

/// How long to wait, longer after each failure: `restart-strategy.exponential-delay.*`.
#[derive(Debug, Clone, PartialEq)]
pub struct Backoff {
    /// The first wait.
    pub initial: Duration,
    /// The longest.
    pub max: Duration,
    /// Each wait is so many times the one before, at least 1.
    pub multiplier: f64,
    /// After so long without a failure everything begins anew.
    pub reset_threshold: Duration,
    /// Each wait is up to this share shorter or longer, so that jobs that failed together do not restart together.
    pub jitter: f64,
    /// Failures in a row after which the job fails.
    pub attempts_max: u32,
}

impl Default for Backoff {
    /// Flink's figures.
    fn default() -> Self {
        Self {
            initial: Duration::from_secs(1),
            max: Duration::from_secs(60),
            multiplier: 1.5,
            reset_threshold: Duration::from_secs(3600),
            jitter: 0.1,
            attempts_max: i32::MAX as u32,
        }
    }
}

/// Which strategy: `restart-strategy.type` with what belongs to it.
#[derive(Debug, Clone, PartialEq)]
pub enum Policy {
    /// What holds when nothing is set. A failed task fails the job, as with Flink's `none`: without a checkpoint, running
    /// again would count its input twice. What was lost with a process or a machine starts again, the first time at
    /// once, then as with `exponential-delay`.
    LossesOnly(Backoff),
    /// What holds when nothing is set and the job takes checkpoints: `exponential-delay`, but what was lost with a process or a
    /// machine starts again at once when a checkpoint was completed since the failure before. Waiting makes no process well, and a
    /// job that comes as far as a checkpoint each time is in no hurry.
    LossesAtOnce(Backoff),
    /// `none`: every failure fails the job.
    Never,
    /// `fixed-delay`: so many times, each after the same wait.
    FixedDelay {
        /// Restarts in the job's life.
        attempts: u32,
        /// The wait.
        delay: Duration,
    },
    /// `failure-rate`: as long as failures do not come too often.
    FailureRate {
        /// Failures within the interval that are forgiven.
        max_failures: u32,
        /// The interval.
        interval: Duration,
        /// The wait.
        delay: Duration,
    },
    /// `exponential-delay`: waits longer after each failure.
    ExponentialDelay(Backoff),
}

/// A job's restart strategy with what it remembers of earlier failures.
#[derive(Debug, Clone)]
pub struct RestartStrategy {
    policy: Policy,
    memory: RestartMemory,
    /// Whether the job has come as far as a checkpoint since the last failure, or had none. A new leader takes it to be so.
    calm: bool,
    seed: u64,
}

impl RestartStrategy {
    /// A strategy that goes on from what one under an earlier leader remembered. `seed` takes the place of randomness: jobs with
    /// different seeds wait for slightly different times.
    pub fn new(policy: Policy, memory: RestartMemory, seed: u64) -> Self {
        Self { policy, memory, calm: true, seed }
    }

    /// A checkpoint was completed.
    pub fn calm_down(&mut self) {
        self.calm = true;
    }

    /// Decides about a failure at `now_ms`, and remembers it.
    pub fn decide(&mut self, kind: FailureKind, now_ms: u64) -> Decision {
        if let Some(reason) = self.suppresses(kind) {
            return Decision::Suppress { reason };
        }
        let calm = std::mem::replace(&mut self.calm, false);
        let after = match self.policy.clone() {
            Policy::Never => None,
            Policy::LossesAtOnce(_) if calm && kind == FailureKind::Loss => Some(Duration::ZERO),
            Policy::LossesOnly(backoff) => self.back_off(&backoff, 1, now_ms),
            Policy::LossesAtOnce(backoff) | Policy::ExponentialDelay(backoff) => self.back_off(&backoff, 0, now_ms),
            Policy::FixedDelay { attempts, delay } => (self.memory.restarts < attempts).then_some(delay),
            Policy::FailureRate { max_failures, interval, delay } => {
                let interval_ms = interval.as_millis() as u64;
                let recent = &mut self.memory.recent_ms;
                recent.retain(|at| now_ms.saturating_sub(*at) <= interval_ms);
                recent.push(now_ms);
                (recent.len() <= max_failures as usize).then_some(delay)
            }
        };
        match after {
            Some(after) => {
                self.memory.restarts = self.memory.restarts.saturating_add(1);
                self.memory.restart_ms = Some(now_ms.saturating_add(after.as_millis() as u64));
                Decision::Restart { after }
            }
            None => Decision::Suppress { reason: self.suppression() },
        }
    }

    /// What is left of the wait that the last failure began, under an earlier leader too.
    pub fn remaining(&self, now_ms: u64) -> Duration {
        Duration::from_millis(self.memory.restart_ms.map_or(0, |at| at.saturating_sub(now_ms)))
    }

    /// What a new leader has to know.
    pub fn memory(&self) -> RestartMemory {
        let mut memory = self.memory.clone();
        memory.recent_ms.drain(..memory.recent_ms.len().saturating_sub(REMEMBERED_MAX));
        memory
    }

    /// Why a failure of this kind is never followed by a restart; none when it may be.
    pub fn suppresses(&self, kind: FailureKind) -> Option<String> {
        match (&self.policy, kind) {
            (Policy::Never, _) | (Policy::LossesOnly(_), FailureKind::Task) => Some(self.suppression()),
            _ => None,
        }
    }

    fn suppression(&self) -> String {
        format!("Recovery is suppressed by {}", self.policy)
    }

    /// The wait after one more failure, of which the first `free` ones in a row have none. One that comes before the last wait
    /// is over is part of what that wait is for, as in Flink.
    fn back_off(&mut self, backoff: &Backoff, free: u32, now_ms: u64) -> Option<Duration> {
        let rest = self.remaining(now_ms);
        if !rest.is_zero() && rest <= backoff.max {
            return Some(rest);
        }
        let wait = |failures: u32| {
            let times = f64::from(failures.saturating_sub(1 + free).min(10_000));
            let wait = backoff.initial.as_secs_f64() * backoff.multiplier.max(1.0).powf(times);
            if failures <= free { Duration::ZERO } else { Duration::from_secs_f64(wait.min(backoff.max.as_secs_f64())) }
        };
        let memory = &mut self.memory;
        // Flink counts the peace from the restart, not from the failure.
        let peace = backoff.reset_threshold + wait(memory.in_a_row);
        if memory.last_ms.is_some_and(|last| u128::from(now_ms.saturating_sub(last)) >= peace.as_millis()) {
            memory.in_a_row = 0;
        }
        memory.last_ms = Some(now_ms);
        memory.in_a_row = memory.in_a_row.saturating_add(1);
        if memory.in_a_row > backoff.attempts_max {
            return None;
        }
        let share = backoff.jitter.clamp(0.0, 1.0) * spread(self.seed.wrapping_add(u64::from(memory.in_a_row)));
        Some(wait(memory.in_a_row).mul_f64(1.0 + share).min(backoff.max))
    }
}

/// A number from -1 to 1, different for different numbers: the finish of SplitMix64.
fn spread(number: u64) -> f64 {
    let mut mixed = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^= mixed >> 31;
    mixed as f64 / u64::MAX as f64 * 2.0 - 1.0
}

impl fmt::Display for Policy {
    /// The name people search for, of Flink's class.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LossesOnly(_) | Self::Never => f.write_str("NoRestartBackoffTimeStrategy"),
            Self::FixedDelay { attempts, delay } => write!(
                f,
                "FixedDelayRestartBackoffTimeStrategy(maxNumberRestartAttempts={attempts}, backoffTimeMS={})",
                delay.as_millis()
            ),
            Self::FailureRate { max_failures, interval, delay } => write!(
                f,
                "FailureRateRestartBackoffTimeStrategy(failuresIntervalMS={},backoffTimeMS={},\
                 maxFailuresPerInterval={max_failures})",
                interval.as_millis(),
                delay.as_millis()
            ),
            Self::LossesAtOnce(backoff) | Self::ExponentialDelay(backoff) => write!(
                f,
                "ExponentialDelayRestartBackoffTimeStrategy(initialBackoffMS={}, maxBackoffMS={}, backoffMultiplier={}, \
                 resetBackoffThresholdMS={}, jitterFactor={}, attemptsBeforeResetBackoff={})",
                backoff.initial.as_millis(),
                backoff.max.as_millis(),
                backoff.multiplier,
                backoff.reset_threshold.as_millis(),
                backoff.jitter,
                backoff.attempts_max
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn backoff() -> Backoff {
        Backoff { jitter: 0.0, ..Backoff::default() }
    }

    /// Milliseconds of the waits after failures at these times; none for a suppressed one.
    fn waits(policy: Policy, kind: FailureKind, at_s: &[u64]) -> Vec<Option<u128>> {
        let mut strategy = RestartStrategy::new(policy, RestartMemory::default(), 7);
        let decide = |at: &u64| match strategy.decide(kind, at * 1000) {
            Decision::Restart { after } => Some(after.as_millis()),
            Decision::Suppress { .. } => None,
        };
        at_s.iter().map(decide).collect()
    }

    #[test]
    fn fixed_delay_restarts_so_often_and_no_more_also_over_leaders() {
        let policy = Policy::FixedDelay { attempts: 2, delay: SECOND };
        let expect = [Some(1000), Some(1000), None, None];
        assert_eq!(waits(policy.clone(), FailureKind::Task, &[0, 9000, 90_000, 99_000]), expect);
        let mut taken_over = RestartStrategy::new(policy, RestartMemory { restarts: 2, ..RestartMemory::default() }, 7);
        assert_eq!(
            taken_over.decide(FailureKind::Loss, 0),
            Decision::Suppress {
                reason: "Recovery is suppressed by \
                         FixedDelayRestartBackoffTimeStrategy(maxNumberRestartAttempts=2, backoffTimeMS=1000)"
                    .to_owned()
            }
        );
    }

    #[test]
    fn failure_rate_looks_back_over_its_interval_only() {
        let policy = Policy::FailureRate { max_failures: 2, interval: 60 * SECOND, delay: 3 * SECOND };
        let expect = [Some(3000), Some(3000), None, Some(3000)];
        assert_eq!(waits(policy, FailureKind::Task, &[0, 10, 20, 200]), expect);
    }

    #[test]
    fn exponential_delay_grows_to_its_maximum_and_begins_anew_after_a_long_peace() {
        let policy = Policy::ExponentialDelay(Backoff { max: 3 * SECOND, ..backoff() });
        let expect = [Some(1000), Some(1500), Some(2250), Some(3000), Some(3000), Some(1000)];
        assert_eq!(waits(policy, FailureKind::Loss, &[0, 5, 10, 20, 30, 5000]), expect);
        let few = Policy::ExponentialDelay(Backoff { attempts_max: 1, ..backoff() });
        assert_eq!(waits(few, FailureKind::Loss, &[0, 5]), [Some(1000), None]);
    }

    #[test]
    fn by_default_losses_restart_at_once_and_then_later_while_failed_tasks_fail_the_job() {
        let policy = Policy::LossesOnly(backoff());
        let expect = [Some(0), Some(1000), Some(1500), Some(0)];
        assert_eq!(waits(policy.clone(), FailureKind::Loss, &[0, 5, 10, 5000]), expect);
        assert_eq!(waits(policy.clone(), FailureKind::Task, &[0]), [None]);
        let mut strategy = RestartStrategy::new(policy, RestartMemory::default(), 7);
        let reason = "Recovery is suppressed by NoRestartBackoffTimeStrategy".to_owned();
        assert_eq!(strategy.decide(FailureKind::Task, 0), Decision::Suppress { reason });
        assert_eq!(waits(Policy::Never, FailureKind::Loss, &[0]), [None]);
    }

    #[test]
    fn with_checkpoints_a_loss_restarts_at_once_unless_the_last_failure_was_just_now() {
        let mut strategy = RestartStrategy::new(Policy::LossesAtOnce(backoff()), RestartMemory::default(), 7);
        let mut now_ms = 0;
        let mut waits = |calm: bool, kind| {
            now_ms += 10_000;
            if calm {
                strategy.calm_down();
            }
            match strategy.decide(kind, now_ms) {
                Decision::Restart { after } => after.as_millis(),
                Decision::Suppress { reason } => panic!("{reason}"),
            }
        };
        assert_eq!(waits(false, FailureKind::Loss), 0, "the first");
        assert_eq!(waits(false, FailureKind::Loss), 1000, "no checkpoint since");
        assert_eq!(waits(true, FailureKind::Loss), 0);
        assert_eq!(waits(true, FailureKind::Task), 1500, "user code fails again at once");
        assert_eq!(waits(false, FailureKind::Loss), 2250);
    }

    /// What Flink calls one attempt: a failure while the wait goes on lengthens nothing and counts nothing.
    #[test]
    fn failures_within_one_wait_of_exponential_delay_are_one() {
        let policy = Policy::ExponentialDelay(Backoff { initial: 10 * SECOND, attempts_max: 2, ..backoff() });
        let expect = [Some(10_000), Some(6000), Some(1000), Some(15_000), Some(9000), None];
        assert_eq!(waits(policy, FailureKind::Task, &[0, 4, 9, 10, 16, 25]), expect);
    }

    /// Every policy, with failures at the given seconds and a change of leader before each of them.
    #[test]
    fn a_new_leader_decides_as_the_old_one_would_have() {
        let exponential = Backoff { reset_threshold: 60 * SECOND, ..backoff() };
        let policies = [
            Policy::Never,
            Policy::LossesOnly(exponential.clone()),
            Policy::FixedDelay { attempts: 3, delay: SECOND },
            Policy::FailureRate { max_failures: 2, interval: 20 * SECOND, delay: SECOND },
            Policy::ExponentialDelay(Backoff { jitter: 0.5, ..exponential }),
        ];
        let at_s = [0, 5, 6, 20, 30, 31, 300, 301];
        for policy in policies {
            let mut old = RestartStrategy::new(policy.clone(), RestartMemory::default(), 7);
            let mut taken_over = old.clone();
            for at in at_s {
                taken_over = RestartStrategy::new(policy.clone(), taken_over.memory(), 7);
                let decided = [&mut old, &mut taken_over].map(|strategy| strategy.decide(FailureKind::Loss, at * 1000));
                assert_eq!(decided[0], decided[1], "{policy} at {at} s");
            }
        }
    }

    #[test]
    fn the_rest_of_a_wait_is_known_and_what_is_told_of_the_past_is_bounded() {
        let policy = Policy::FailureRate { max_failures: u32::MAX, interval: 60 * SECOND, delay: 3 * SECOND };
        let mut strategy = RestartStrategy::new(policy, RestartMemory::default(), 7);
        assert_eq!(strategy.remaining(0), Duration::ZERO);
        (0..1000).for_each(|at| drop(strategy.decide(FailureKind::Task, at)));
        assert_eq!(strategy.remaining(1999), 2 * SECOND);
        assert_eq!(strategy.remaining(9999), Duration::ZERO);
        let memory = strategy.memory();
        assert_eq!((memory.recent_ms.len(), memory.recent_ms.last()), (REMEMBERED_MAX, Some(&999)));
    }

    proptest! {
        #[test]
        fn waits_stay_within_jitter_and_maximum(
            seed in any::<u64>(),
            times in proptest::collection::vec(0u64..10_000_000, 0..40),
            multiplier in 0.0f64..100.0,
            jitter in 0.0f64..1.0,
        ) {
            let settings = Backoff { multiplier, jitter, ..Backoff::default() };
            let mut strategy = RestartStrategy::new(Policy::ExponentialDelay(settings), RestartMemory::default(), seed);
            for at in times {
                let rest = strategy.remaining(at);
                let Decision::Restart { after } = strategy.decide(FailureKind::Task, at) else {
                    return Err(TestCaseError::fail("it gave up"));
                };
                prop_assert!(after <= Duration::from_secs(60));
                prop_assert!(after.as_secs_f64() >= (1.0 - jitter) * 0.999 || after == rest, "{:?}", after);
            }
        }
    }
}
