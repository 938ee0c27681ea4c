//! What a checkpoint consists of, and what a task is given back from it.
//!
//! A checkpoint is a cut through a running job: the state of each subtask at the barrier of that number. Its big parts are files;
//! what says which they are is [`CheckpointMetadata`]. A checkpoint exists when its entry is committed, and not before.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{CheckpointId, JobId, KeyGroupRange, OperatorId, OperatorInfo, VertexId};

/// Why a snapshot is taken, and what follows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum SnapshotKind {
    /// By the system, for recovery; replaced by later ones.
    Checkpoint,
    /// Asked for, and owned by who asked.
    Savepoint,
    /// A savepoint after which the job ends. With `drain`, its input is taken for ended before it.
    Suspend {
        /// Whether the sources end first.
        drain: bool,
    },
}

impl SnapshotKind {
    /// Whether it belongs to the user: it has a directory of its own, and the system never deletes it.
    pub const fn is_savepoint(self) -> bool {
        !matches!(self, Self::Checkpoint)
    }

    /// Whether a job may go on from it by itself, and its sinks commit with it. A savepoint that is taken while the job goes on is
    /// a copy for somebody else.
    pub const fn is_recovery_point(self) -> bool {
        !matches!(self, Self::Savepoint)
    }
}

/// Who owns the files that a job is started from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ClaimMode {
    /// The user: they stay.
    #[default]
    NoClaim,
    /// The job: they are deleted like one of its own checkpoints, when enough newer ones are complete or it ends.
    Claim,
}

impl fmt::Display for ClaimMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoClaim => "NO_CLAIM",
            Self::Claim => "CLAIM",
        })
    }
}

impl FromStr for ClaimMode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.to_ascii_uppercase().as_str() {
            "NO_CLAIM" => Ok(Self::NoClaim),
            "CLAIM" => Ok(Self::Claim),
            _ => Err(format!("`{text}` is no claim mode; there are NO_CLAIM and CLAIM")),
        }
    }
}

/// What a job is to be started from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoreSettings {
    /// Directory of a savepoint or of a checkpoint that was kept: an absolute path or a URI.
    pub path: String,
    /// Whether state of operators that the job does not have is left out; it is refused else.
    pub allow_non_restored: bool,
    /// Who owns the files from then on.
    pub claim: ClaimMode,
}

/// A file with the state of one operator of one subtask.
/// Directory of the files that several checkpoints of a job may name, beside those of the checkpoints.
pub const SHARED_DIRECTORY: &str = "shared";

/// A file with the state of one subtask, or of what has changed in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateFile {
    /// Name, in the checkpoint's directory or in that of the shared files.
    pub name: String,
    /// Whether other checkpoints of the job may name it, too: it lies in [`SHARED_DIRECTORY`] and is deleted with the last of them.
    #[serde(default)]
    pub shared: bool,
    /// Length.
    pub bytes: u64,
    /// CRC-32 of the whole file.
    pub crc: u32,
    /// Key groups that may be in it; none for state that belongs to no key.
    pub key_groups: Option<KeyGroupRange>,
}

impl StateFile {
    /// Where the file is, when this is the directory of its checkpoint.
    pub fn location(&self, checkpoint: &str) -> String {
        match checkpoint.trim_end_matches('/').rsplit_once('/') {
            Some((above, _)) if self.shared => format!("{above}/{SHARED_DIRECTORY}/{}", self.name),
            _ => format!("{checkpoint}/{}", self.name),
        }
    }
}

/// State of one operator of one subtask.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperatorSnapshot {
    /// Whose.
    pub operator: OperatorId,
    /// Files with its keyed state, each on top of those before it. One, unless checkpoints are incremental.
    pub keyed: Vec<StateFile>,
    /// Elements that a later run of another parallelism may spread over its subtasks: splits with their positions, transactions.
    pub list: Vec<Vec<u8>>,
    /// Elements of which every subtask of a later run gets those of all.
    #[serde(default)]
    pub union_list: Vec<Vec<u8>>,
    /// What all subtasks have alike: each of a later run gets that of one.
    #[serde(default)]
    pub broadcast: Option<Vec<u8>>,
}

/// State of one subtask, and what it took to write.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskSnapshot {
    /// State of the operators of its chain that have any.
    pub operators: Vec<OperatorSnapshot>,
    /// Whether its input had ended: restored from this it has nothing to do.
    pub finished: bool,
    /// Bytes that were written for it.
    pub bytes: u64,
    /// Time the task itself stood still for it, in microseconds.
    pub sync_us: u64,
    /// Time the rest took beside the task, in milliseconds.
    pub async_ms: u64,
    /// Time from its first barrier to its last, in microseconds.
    pub align_us: u64,
}

/// What a subtask begins with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskRestore {
    /// The checkpoint it is from.
    pub checkpoint: CheckpointId,
    /// State of the operators of its chain.
    pub operators: Vec<OperatorRestore>,
    /// Whether its input had ended.
    pub finished: bool,
}

/// What an operator of a subtask begins with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperatorRestore {
    /// Whose.
    pub operator: OperatorId,
    /// Files with keyed state, each with its absolute location. Several after a change of the parallelism, one subtask after the
    /// other, and several of each when checkpoints are incremental.
    pub keyed: Vec<(String, StateFile)>,
    /// Its share of the elements.
    pub list: Vec<Vec<u8>>,
    /// Elements of all subtasks that each is to have.
    #[serde(default)]
    pub union_list: Vec<Vec<u8>>,
    /// What all subtasks have alike.
    #[serde(default)]
    pub broadcast: Option<Vec<u8>>,
}

/// A whole checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckpointMetadata {
    /// Whose.
    pub job: JobId,
    /// Its number.
    pub checkpoint: CheckpointId,
    /// What for.
    pub kind: SnapshotKind,
    /// When it was complete, in milliseconds since 1970 by the leader's clock.
    pub at_ms: u64,
    /// The vertices of the job.
    pub vertices: Vec<VertexSnapshot>,
}

/// The subtasks of one vertex in a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VertexSnapshot {
    /// Which.
    pub vertex: VertexId,
    /// Its name, for people.
    #[serde(default)]
    pub name: String,
    /// Its chain, those without state included.
    #[serde(default)]
    pub operators: Vec<OperatorInfo>,
    /// Number of key groups of the job; the same at every restore.
    pub max_parallelism: u32,
    /// One per subtask, in order.
    pub subtasks: Vec<TaskSnapshot>,
}
