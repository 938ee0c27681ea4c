//! The options of a job that its tasks obey.

use std::collections::BTreeMap;
use std::time::Duration;

use perennial_exchange::WriterSettings;
use perennial_types::config::{Configuration, Origin, SetError, options};

/// What tasks need of the configuration, read once.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TaskSettings {
    pub(crate) writer: WriterSettings,
    /// Longest time a record waits in a batch that is not full.
    pub(crate) buffer_timeout: Duration,
    /// Whether a checkpoint has what has changed in keyed state, rather than all of it.
    pub(crate) incremental: bool,
    /// Whether a task whose input has ended stays until a checkpoint has all that it has done.
    pub(crate) last_checkpoint: bool,
}

/// Makes a configuration of the effective options of a job.
pub(crate) fn configuration(config: &BTreeMap<String, String>) -> Result<Configuration, SetError> {
    let mut checked = Configuration::new();
    for (key, value) in config {
        checked.set(key, value, Origin::Flag(format!("job option {key}")))?;
    }
    Ok(checked)
}

impl TaskSettings {
    pub(crate) fn new(config: &Configuration) -> Self {
        let segment = config.get(&options::NETWORK_SEGMENT_SIZE).0;
        Self {
            writer: WriterSettings {
                segment_bytes: usize::try_from(segment).unwrap_or(usize::MAX).max(1),
                credit: config.get(&options::NETWORK_BUFFERS_PER_CHANNEL).get(),
            },
            buffer_timeout: config.get(&options::BUFFER_TIMEOUT),
            incremental: config.get(&options::CHECKPOINTING_INCREMENTAL),
            last_checkpoint: config.get(&options::CHECKPOINTING_INTERVAL).is_some()
                && config.get(&options::CHECKPOINTS_AFTER_TASKS_FINISH),
        }
    }
}
