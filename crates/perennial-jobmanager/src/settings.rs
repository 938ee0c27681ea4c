//! The options of a JobManager, read once.

use std::collections::BTreeMap;
use std::time::Duration;

use perennial_coordination::job::Patience;
use perennial_types::Configuration;
use perennial_types::config::options;

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
    pub(crate) artifact_bytes_max: u64,
    /// What was set for the cluster: jobs see it below their own options.
    pub(crate) cluster_options: BTreeMap<String, String>,
}

impl Settings {
    pub(crate) fn new(config: &Configuration) -> Self {
        let heartbeat_timeout = config.get(&options::HEARTBEAT_TIMEOUT);
        Self {
            patience: Patience {
                slots: config.get(&options::SLOT_REQUEST_TIMEOUT),
                // A TaskManager that is alive comes to a new leader within this time.
                reconciliation: heartbeat_timeout,
            },
            heartbeat_timeout,
            command_deadline: config.get(&options::EXECUTOR_START_TIMEOUT) + COMMAND_MARGIN,
            jobs_kept: config.get(&options::JOBSTORE_MAX_CAPACITY) as usize,
            job_expiration: config.get(&options::JOBSTORE_EXPIRATION_TIME),
            artifact_bytes_max: config.get(&options::REST_MAX_CONTENT_LENGTH).0,
            cluster_options: config.overrides(),
        }
    }
}
