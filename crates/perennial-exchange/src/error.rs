//! Why an exchange does not go on.

/// Another executor of the job is gone or sends what is not of the protocol.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("exchange with {peer} failed: {reason}")]
pub struct ExchangeError {
    /// The other executor.
    pub peer: String,
    /// What happened.
    pub reason: String,
}

/// Why records could not be written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// A channel broke.
    #[error(transparent)]
    Exchange(#[from] ExchangeError),
    /// The user's partitioner named a subtask that does not exist.
    #[error("the partitioner chose subtask {chosen} of {subtasks}")]
    NoSuchSubtask {
        /// What it returned.
        chosen: u32,
        /// Number of subtasks connected.
        subtasks: u32,
    },
}
