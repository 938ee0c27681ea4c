//! The options of a JobManager, read once.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use perennial_coordination::checkpoint;
use perennial_coordination::job::Patience;
use perennial_coordination::restart_strategy::{Backoff, Policy};
use perennial_types::Configuration;
use perennial_types::config::{CheckpointingMode, Origin, RestartStrategyType, options};
use tracing::warn;

/// Time a TaskManager has for a command beyond `executor.start-timeout`: fetching the artifact is part of starting.
const COMMAND_MARGIN: Duration = Duration::from_secs(60);

/// What the parts of a JobManager need to know.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) patience: Patience,
    pub(crate) heartbeat_timeout: Duration,
    /// After this a command counts as failed.
    pub(crate) command_deadline: Duration,
    /// Ended jobs that stay listed.
    pub(crate) jobs_kept: usize,
    /// How long they do.
    pub(crate) job_expiration: Duration,
    /// Failures of a job that are remembered.
    pub(crate) exceptions_kept: u32,
    pub(crate) artifact_bytes_max: u64,
    /// Where checkpoints are when nobody says it: below this JobManager's data directory.
    pub(crate) checkpoint_dir: String,
    /// What was set for the cluster: jobs see it below their own options.
    pub(crate) cluster_options: BTreeMap<String, String>,
}

impl Settings {
    pub(crate) fn new(config: &Configuration, data_dir: &Path) -> Self {
        let heartbeat_timeout = config.get(&options::HEARTBEAT_TIMEOUT);
        // Other processes take it for the same place.
        let data_dir = std::path::absolute(data_dir).unwrap_or_else(|_| data_dir.to_owned());
        Self {
            patience: Patience {
                slots: config.get(&options::SLOT_REQUEST_TIMEOUT),
                // A TaskManager that is alive comes to a new leader within this time; also one whose process has to be
                // started again first.
                reconciliation: heartbeat_timeout,
            },
            heartbeat_timeout,
            command_deadline: config.get(&options::EXECUTOR_START_TIMEOUT) + COMMAND_MARGIN,
            jobs_kept: config.get(&options::JOBSTORE_MAX_CAPACITY) as usize,
            job_expiration: config.get(&options::JOBSTORE_EXPIRATION_TIME),
            exceptions_kept: config.get(&options::WEB_EXCEPTION_HISTORY_SIZE).get(),
            artifact_bytes_max: config.get(&options::REST_MAX_CONTENT_LENGTH).0,
            checkpoint_dir: format!("file://{}", data_dir.join("checkpoints").display()),
            cluster_options: config.overrides(),
        }
    }
}

/// Options below `prefix` that a job has. One that does not make sense was set by the job itself, after it was planned: it is
/// named in the log, and its default holds.
fn options_of(job: &BTreeMap<String, String>, prefix: &str) -> Configuration {
    let mut config = Configuration::new();
    for (key, value) in job.iter().filter(|(key, _)| key.starts_with(prefix)) {
        if let Err(error) = config.set(key, value, Origin::Flag("job".to_owned())) {
            warn!(%error, "an option of the job is ignored");
        }
    }
    config
}

/// How a job's checkpoints are taken and kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Checkpointing {
    pub(crate) when: checkpoint::Settings,
    pub(crate) mode: CheckpointingMode,
    /// Completed checkpoints that are kept.
    pub(crate) retained: u32,
    /// Directory of all jobs' checkpoints.
    pub(crate) directory: String,
}

/// What a job's options say of checkpoints; `default` is the directory when they say none.
pub(crate) fn checkpointing(job: &BTreeMap<String, String>, default: &str) -> Checkpointing {
    let config = options_of(job, "execution.checkpointing.");
    Checkpointing {
        when: checkpoint::Settings {
            interval: config.get(&options::CHECKPOINTING_INTERVAL),
            timeout: config.get(&options::CHECKPOINTING_TIMEOUT),
            min_pause: config.get(&options::CHECKPOINTING_MIN_PAUSE),
            concurrent_max: config.get(&options::CHECKPOINTING_CONCURRENT_MAX),
            failures_tolerated: config.get(&options::CHECKPOINTING_FAILURES_TOLERATED),
        },
        mode: config.get(&options::CHECKPOINTING_MODE),
        retained: config.get(&options::CHECKPOINTING_RETAINED).get(),
        directory: config.get(&options::CHECKPOINTING_DIR).unwrap_or_else(|| default.to_owned()),
    }
}

/// The restart strategy that a job's options name. When they name none, a job with checkpoints restarts after any failure, as
/// in Flink: it repeats nothing, and losses it restarts at once. One without restarts after losses only.
pub(crate) fn restart_policy(job: &BTreeMap<String, String>, checkpoints: bool) -> Policy {
    let config = options_of(job, "restart-strategy.");
    let backoff = || Backoff {
        initial: config.get(&options::RESTART_BACKOFF_INITIAL),
        max: config.get(&options::RESTART_BACKOFF_MAX),
        multiplier: config.get(&options::RESTART_BACKOFF_MULTIPLIER),
        reset_threshold: config.get(&options::RESTART_BACKOFF_RESET),
        jitter: config.get(&options::RESTART_BACKOFF_JITTER),
        attempts_max: config.get(&options::RESTART_BACKOFF_ATTEMPTS),
    };
    match config.get(&options::RESTART_STRATEGY) {
        None if checkpoints => Policy::LossesAtOnce(backoff()),
        None => Policy::LossesOnly(backoff()),
        Some(RestartStrategyType::None) => Policy::Never,
        Some(RestartStrategyType::FixedDelay) => Policy::FixedDelay {
            attempts: config.get(&options::RESTART_FIXED_DELAY_ATTEMPTS),
            delay: config.get(&options::RESTART_FIXED_DELAY_DELAY),
        },
        Some(RestartStrategyType::FailureRate) => Policy::FailureRate {
            max_failures: config.get(&options::RESTART_FAILURE_RATE_MAX),
            interval: config.get(&options::RESTART_FAILURE_RATE_INTERVAL),
            delay: config.get(&options::RESTART_FAILURE_RATE_DELAY),
        },
        Some(RestartStrategyType::ExponentialDelay) => Policy::ExponentialDelay(backoff()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_policy_is_what_the_jobs_options_say_and_flinks_defaults_hold_for_the_rest() {
        let policy = |options: &[(&str, &str)]| {
            let options = options.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
            restart_policy(&options.collect(), false)
        };
        assert_eq!(policy(&[]), Policy::LossesOnly(Backoff::default()));
        assert_eq!(policy(&[("restart-strategy.type", "off")]), Policy::Never);
        assert_eq!(
            policy(&[("restart-strategy.type", "fixeddelay"), ("restart-strategy.fixed-delay.attempts", "7")]),
            Policy::FixedDelay { attempts: 7, delay: Duration::from_secs(1) }
        );
        assert_eq!(
            policy(&[("restart-strategy.type", "failure-rate")]),
            Policy::FailureRate { max_failures: 1, interval: Duration::from_secs(60), delay: Duration::from_secs(1) }
        );
        assert_eq!(
            policy(&[("restart-strategy.type", "exponential-delay"), ("restart-strategy.fixed-delay.delay", "soon")]),
            Policy::ExponentialDelay(Backoff::default())
        );
    }

    /// Every key of Flink's, set to something else than its default.
    #[test]
    fn every_key_of_a_strategy_reaches_it() {
        let ms = Duration::from_millis;
        let backoff = Backoff {
            initial: ms(10),
            max: ms(20),
            multiplier: 3.0,
            reset_threshold: ms(30),
            jitter: 0.5,
            attempts_max: 4,
        };
        let fixed = Policy::FixedDelay { attempts: 5, delay: ms(40) };
        let rate = Policy::FailureRate { max_failures: 6, interval: ms(50), delay: ms(60) };
        let options = [
            ("fixed-delay.attempts", "5"),
            ("fixed-delay.delay", "40 ms"),
            ("failure-rate.max-failures-per-interval", "6"),
            ("failure-rate.failure-rate-interval", "50 ms"),
            ("failure-rate.delay", "60 ms"),
            ("exponential-delay.initial-backoff", "10 ms"),
            ("exponential-delay.max-backoff", "20 ms"),
            ("exponential-delay.backoff-multiplier", "3"),
            ("exponential-delay.reset-backoff-threshold", "30 ms"),
            ("exponential-delay.jitter-factor", "0.5"),
            ("exponential-delay.attempts-before-reset-backoff", "4"),
        ];
        let mut options: BTreeMap<String, String> =
            options.into_iter().map(|(key, value)| (format!("restart-strategy.{key}"), value.to_owned())).collect();
        for (names, policy) in [
            (&["none", "off", "disable", "Disable"][..], Policy::Never),
            (&["fixed-delay", "fixeddelay"], fixed),
            (&["failure-rate", "failurerate"], rate),
            (&["exponential-delay", "exponentialdelay"], Policy::ExponentialDelay(backoff)),
        ] {
            for name in names {
                options.insert("restart-strategy.type".to_owned(), (*name).to_owned());
                assert_eq!(restart_policy(&options, true), policy, "{name}");
            }
        }
    }

    #[test]
    fn a_job_with_checkpoints_restarts_after_any_failure_unless_it_says_otherwise() {
        assert_eq!(restart_policy(&BTreeMap::new(), true), Policy::LossesAtOnce(Backoff::default()));
        let never = BTreeMap::from([("restart-strategy.type".to_owned(), "none".to_owned())]);
        assert_eq!(restart_policy(&never, true), Policy::Never);
    }

    #[test]
    fn checkpoints_are_taken_when_an_interval_is_set_and_are_where_the_job_says() {
        let none = checkpointing(&BTreeMap::new(), "file:///data/checkpoints");
        assert_eq!((none.when.interval, none.retained), (None, 1));
        assert_eq!(none.directory, "file:///data/checkpoints");
        let options = [
            ("execution.checkpointing.interval", "2 s"),
            ("execution.checkpointing.min-pause", "1 s"),
            ("execution.checkpointing.dir", "file:///mnt/c"),
            ("execution.checkpointing.mode", "AT_LEAST_ONCE"),
            ("execution.checkpointing.tolerable-failed-checkpoints", "4"),
        ];
        let options = options.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
        let some = checkpointing(&options, "file:///data/checkpoints");
        let (interval, min_pause) = (Some(Duration::from_secs(2)), Duration::from_secs(1));
        let failures_tolerated = 4;
        assert_eq!(
            some.when,
            checkpoint::Settings { interval, min_pause, failures_tolerated, ..checkpoint::Settings::default() }
        );
        assert_eq!(some.mode, CheckpointingMode::AtLeastOnce);
        assert_eq!(some.directory, "file:///mnt/c");
    }
}
