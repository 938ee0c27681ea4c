//! The state's key space: one ordered map, one module per kind of key with its layout.
//!
//! A key begins with the byte of its kind; ids follow as their bytes and numbers big-endian, so that order of bytes is
//! order of meaning. A value begins with a version byte, then postcard. Kinds and versions are never used again for
//! something else.
//!
//! | Byte | Kind | Key | Value |
//! | --- | --- | --- | --- |
//! | `01` | [`cluster`] | – | the cluster's name |
//! | `02` | [`applied`] | – | id of the last entry applied |
//! | `03` | [`membership`] | – | Raft's membership as of an entry |
//! | `04` | [`removed_member`] | number | a member that was removed |
//! | `10` | [`job`] | job | what changes of a job |
//! | `11` | [`job_graph`] | job | plan and graph |
//! | `12` | [`request`] | request | the job it made |
//! | `13` | [`artifact`] | digest | name, size, holders |
//! | `14` | [`artifact_use`] | digest, job | that the job uses the artifact |
//! | `15` | [`execution`] | job, vertex, subtask | newest placement |
//! | `16` | [`leadership`] | epoch | who led, since when |
//! | `17` | [`take_over`] | epoch | how that began |
//! | `18` | [`cancel`] | job | requests that cancelled it, besides the first |
//! | `19` | [`checkpoint_head`] | job | numbers of checkpoints used, and those in flight |
//! | `1a` | [`checkpoint`] | job, checkpoint | a completed checkpoint |
//! | `1b` | [`discarded`] | job, checkpoint | a checkpoint whose files are to be deleted |
//! | `1c` | [`exceptions`] | job | what failed of it last |

pub(crate) mod applied;
pub(crate) mod artifact;
pub(crate) mod artifact_use;
pub(crate) mod cancel;
pub(crate) mod checkpoint;
pub(crate) mod checkpoint_head;
pub(crate) mod cluster;
pub(crate) mod discarded;
pub(crate) mod exceptions;
pub(crate) mod execution;
pub(crate) mod job;
pub(crate) mod job_graph;
pub(crate) mod leadership;
pub(crate) mod membership;
pub(crate) mod removed_member;
pub(crate) mod request;
pub(crate) mod take_over;

use serde::Serialize;
use serde::de::DeserializeOwned;

/// The state is not what this build has written, or cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct StateError(pub(crate) String);

/// A kind of key.
pub(crate) trait Kind {
    /// First byte of its keys.
    const PREFIX: u8;
    /// First byte of its values.
    const VERSION: u8 = 1;
    /// What it is called in errors.
    const NAME: &'static str;
    /// What follows the first byte of a key.
    type Key;
    /// What follows the first byte of a value.
    type Value: Serialize + DeserializeOwned;

    /// Appends the key's layout after its first byte.
    fn layout(key: &Self::Key, bytes: &mut Vec<u8>);

    /// The stored key.
    fn key(key: &Self::Key) -> Vec<u8> {
        let mut bytes = vec![Self::PREFIX];
        Self::layout(key, &mut bytes);
        bytes
    }

    /// The stored value.
    fn encode(value: &Self::Value) -> Vec<u8> {
        postcard::to_extend(value, vec![Self::VERSION]).expect("a Vec grows, and no stored value refuses to serialize")
    }

    /// Reads a stored value.
    fn decode(bytes: &[u8]) -> Result<Self::Value, StateError> {
        match bytes {
            [version, body @ ..] if *version == Self::VERSION => postcard::from_bytes(body)
                .map_err(|error| StateError(format!("a stored {} is not readable: {error}", Self::NAME))),
            [version, ..] => Err(StateError(format!(
                "a stored {} has version {version}, this build reads {}",
                Self::NAME,
                Self::VERSION
            ))),
            [] => Err(StateError(format!("a stored {} has no bytes", Self::NAME))),
        }
    }
}

/// A stored key and its value.
pub(crate) type Pair = (Vec<u8>, Vec<u8>);

/// Reads of the map.
pub(crate) trait View {
    /// The value of a key.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StateError>;

    /// All pairs whose key begins with `prefix`, in order of key.
    fn scan(&self, prefix: &[u8]) -> Result<Vec<Pair>, StateError>;
}

/// A change to the map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Change {
    /// Sets a key.
    Put(Vec<u8>, Vec<u8>),
    /// Removes a key.
    Delete(Vec<u8>),
}

/// Reads one value.
pub(crate) fn read<K: Kind>(view: &impl View, key: &K::Key) -> Result<Option<K::Value>, StateError> {
    view.get(&K::key(key))?.map(|bytes| K::decode(&bytes)).transpose()
}

/// Reads the values of all keys of a kind whose layout begins with `prefix`.
pub(crate) fn list<K: Kind>(view: &impl View, prefix: &[u8]) -> Result<Vec<K::Value>, StateError> {
    let prefix = [&[K::PREFIX], prefix].concat();
    view.scan(&prefix)?.iter().map(|(_, bytes)| K::decode(bytes)).collect()
}

/// Sets a value.
pub(crate) fn put<K: Kind>(key: &K::Key, value: &K::Value) -> Change {
    Change::Put(K::key(key), K::encode(value))
}

/// Removes a value.
pub(crate) fn delete<K: Kind>(key: &K::Key) -> Change {
    Change::Delete(K::key(key))
}

#[cfg(test)]
pub(crate) mod testing {
    use std::fmt::Debug;

    use super::*;

    /// Asserts a kind's bytes, which later versions must go on reading, and that they are read as they were written.
    pub(crate) fn check_golden<K: Kind>(key: &K::Key, value: &K::Value, key_hex: &str, value_hex: &str)
    where
        K::Value: PartialEq + Debug,
    {
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        assert_eq!(hex(&K::key(key)), key_hex, "key of {}", K::NAME);
        let bytes = K::encode(value);
        assert_eq!(hex(&bytes), value_hex, "value of {}", K::NAME);
        assert_eq!(&K::decode(&bytes).unwrap(), value);
        assert!(K::decode(&[]).is_err());
        assert!(K::decode(&[99]).unwrap_err().to_string().contains("version 99"));
    }
}
