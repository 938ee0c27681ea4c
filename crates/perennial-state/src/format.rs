//! The state file of one subtask in one checkpoint, version 1.
//!
//! ```text
//! magic "PRNS", u32 version
//! header    u32 length, JSON (StateFileHeader), u32 crc of length and JSON
//! blocks    of each state in the header's order, entries before removed keys, each in order of key group:
//!           u16 group, u32 entries, u32 bytes, payload, u32 crc of payload
//! index     a row per block: u16 group, u64 offset, u32 entries
//! footer    u64 offset of the index, u32 crc of the index, u32 version, magic "SNRP"
//! ```
//!
//! Numbers are little endian, checksums CRC-32. A payload is entries without anything between them, each the
//! [`Record`](perennial_types::Record) of the key and that of the value. A key group with much state has several blocks, so
//! that no reader needs memory for more than a block. The index lets a subtask that takes over some key groups read no others;
//! what stands in front of a payload repeats its row, so every byte of the file is checked by somebody.
//!
//! A file may hold, of each state, only what has changed since the subtask wrote its file before: entries that are new or different,
//! and behind them the keys that are gone, in blocks of their own. Read in order from the last file that has all of a state, such
//! files are the state.

mod read;
#[cfg(test)]
mod tests;
mod write;

use std::io;

use perennial_types::{
    CheckpointId, DecodeError, JobId, KeyGroup, KeyGroupRange, MaxParallelism, OperatorId, VertexId,
};
use serde::{Deserialize, Serialize};

pub use read::{Block, StateFileReader};
pub use write::{KeyedState, WrittenFile, write_state_file};

/// Version that is written.
pub const STATE_FILE_VERSION: u32 = 1;

const MAGIC: [u8; 4] = *b"PRNS";
const END_MAGIC: [u8; 4] = *b"SNRP";

/// Magic, version, and the length of the header.
const HEAD_BYTES: u64 = 12;
/// A row of the index.
const ROW_BYTES: usize = 14;
/// What stands in front of a payload.
const BLOCK_HEAD_BYTES: usize = 10;
/// A block without its payload.
const BLOCK_FRAME_BYTES: u64 = 14;
const FOOTER_BYTES: u64 = 20;

/// What a state file says about itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateFileHeader {
    /// The job.
    pub job: JobId,
    /// Number of the checkpoint.
    pub checkpoint: CheckpointId,
    /// The vertex whose subtask wrote it.
    pub vertex: VertexId,
    /// Index of that subtask.
    pub subtask: u32,
    /// Key groups of the vertex.
    pub max_parallelism: MaxParallelism,
    /// Key groups of the subtask.
    pub key_groups: KeyGroupRange,
    /// The states of its operators, in the order of their blocks.
    pub states: Vec<StateHeader>,
}

/// What a state file says about one state: an operator has as many as it has given names to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateHeader {
    /// Id of the operator; it and the name are what the state is found by.
    pub operator: OperatorId,
    /// The uid the id was made of.
    pub uid: String,
    /// Name of the state among those of its operator.
    pub name: String,
    /// Version of the operator's schema: which types there were, as its writer counts them.
    pub version: u32,
    /// Name of the key's type. For messages: names of types change more often than their layout.
    pub key_type: String,
    /// Name of the value's type. For messages, too.
    pub value_type: String,
    /// Whether this is all of the state; else it is what has changed, on top of the file that was written before.
    pub base: bool,
    /// Number of entries.
    pub entries: u64,
    /// Number of keys that were removed; they are so before the entries are set.
    pub removed: u64,
    /// Bytes of the entries and of the removed keys.
    pub bytes: u64,
    /// Its first row in the index.
    pub rows_at: u32,
    /// Number of its rows for entries.
    pub rows: u32,
    /// Number of its rows for removed keys, behind the others.
    pub removed_rows: u32,
}

/// Why a state file cannot be used. None of it passes by itself, except what the system says.
#[derive(Debug, thiserror::Error)]
pub enum StateFileError {
    /// The storage did not give the bytes. Its error names the file.
    #[error(transparent)]
    Read(io::Error),
    /// Written by a newer build.
    #[error("{path} is a state file of version {version}; this build reads version {STATE_FILE_VERSION}")]
    Version {
        /// The file.
        path: String,
        /// The version it has.
        version: u32,
    },
    /// Not what was written.
    #[error("{path} is damaged at byte {offset}: {problem}")]
    Damaged {
        /// The file.
        path: String,
        /// Where.
        offset: u64,
        /// What is wrong there.
        problem: String,
    },
    /// Checksums are right, but the entries are not of the types they are read as.
    #[error("the entries at byte {offset} of {path} are not of type ({key_type}, {value_type})")]
    Entry {
        /// The file.
        path: String,
        /// Where the block begins.
        offset: u64,
        /// Type of the key that was asked for.
        key_type: &'static str,
        /// Type of the value that was asked for.
        value_type: &'static str,
        /// What does not fit.
        source: DecodeError,
    },
}

/// A row of the index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Row {
    group: KeyGroup,
    offset: u64,
    entries: u32,
}

impl StateFileHeader {
    /// What it says of a state of an operator, if it has it.
    pub fn state(&self, operator: OperatorId, name: &str) -> Option<&StateHeader> {
        self.states.iter().find(|state| state.operator == operator && state.name == name)
    }
}

impl Row {
    fn encode(self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.group.0.to_le_bytes());
        out.extend_from_slice(&self.offset.to_le_bytes());
        out.extend_from_slice(&self.entries.to_le_bytes());
    }
}
