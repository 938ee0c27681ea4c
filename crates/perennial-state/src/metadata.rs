//! The file that says what a checkpoint or savepoint consists of.
//!
//! ```text
//! {directory of the checkpoint}/_metadata
//! ```
//! One line of JSON says what the file is and the CRC-32 of the rest, which is [`CheckpointMetadata`] as JSON. The files of its
//! tasks are named relative to the directory, so that it can be moved; those of an incremental checkpoint relative to the one above.

use std::io;

use perennial_types::{CheckpointMetadata, StateFile};
use serde::{Deserialize, Serialize};

use crate::{StateFileError, StateFileReader, StateHeader, open};

/// Name of the file.
pub const METADATA_FILE: &str = "_metadata";

/// Version that is written.
pub const METADATA_VERSION: u32 = 1;

const FORMAT: &str = "perennial-checkpoint";

/// First line of the file.
#[derive(Serialize, Deserialize)]
struct Header {
    format: String,
    version: u32,
    crc: u32,
}

/// Why a directory is no checkpoint to start from.
#[derive(Debug, thiserror::Error)]
pub enum MetadataError {
    /// There is none.
    #[error("there is no checkpoint or savepoint at {location}: it has no file {METADATA_FILE}")]
    Missing {
        /// The directory.
        location: String,
    },
    /// The storage did not give it.
    #[error("the metadata at {location} cannot be read: {source}")]
    Read {
        /// The directory.
        location: String,
        /// Why.
        source: io::Error,
    },
    /// Something else has this name.
    #[error("{location}/{METADATA_FILE} was not written by Perennial: it does not begin as it should")]
    NotOurs {
        /// The directory.
        location: String,
    },
    /// Written by a newer build.
    #[error(
        "the metadata at {location} has version {version}, and this build reads version {METADATA_VERSION}; use the newer \
         release that wrote it"
    )]
    Version {
        /// The directory.
        location: String,
        /// The version it has.
        version: u32,
    },
    /// Not what was written.
    #[error("the metadata at {location} is damaged: {problem}")]
    Damaged {
        /// The directory.
        location: String,
        /// What is wrong.
        problem: String,
    },
    /// A file it names is missing, cut short or damaged.
    #[error("the files at {location} are not whole: {source}")]
    Partial {
        /// The directory.
        location: String,
        /// Which file, and what is wrong with it.
        source: StateFileError,
    },
}

/// The metadata of a checkpoint with its encoded form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncodedMetadata {
    /// What it says.
    pub metadata: CheckpointMetadata,
    /// As JSON.
    pub encoded: Vec<u8>,
    /// CRC-32 of that.
    pub crc: u32,
}

/// Writes the metadata of a checkpoint into its directory. When it returns without error it is durable. Writing it again does no
/// harm. Blocks.
pub fn write_metadata(location: &str, metadata: CheckpointMetadata) -> io::Result<EncodedMetadata> {
    let encoded = serde_json::to_vec(&metadata)?;
    let crc = crc32fast::hash(&encoded);
    let mut header = serde_json::to_vec(&Header { format: FORMAT.to_owned(), version: METADATA_VERSION, crc })?;
    header.push(b'\n');
    open(location)?.put(METADATA_FILE, &mut [header, encoded.clone()].into_iter())?;
    Ok(EncodedMetadata { metadata, encoded, crc })
}

/// Reads the metadata of the checkpoint in this directory. Blocks.
pub fn read_metadata(location: &str) -> Result<EncodedMetadata, MetadataError> {
    let at = || location.to_owned();
    let storage = open(location).map_err(|source| MetadataError::Read { location: at(), source })?;
    let bytes = storage.get(METADATA_FILE, None).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => MetadataError::Missing { location: at() },
        _ => MetadataError::Read { location: at(), source },
    })?;
    let end = bytes.iter().position(|byte| *byte == b'\n');
    let (header, rest) = end.and_then(|end| bytes.split_at_checked(end + 1)).unwrap_or((&bytes, &[]));
    let header: Header = serde_json::from_slice(header).map_err(|_| MetadataError::NotOurs { location: at() })?;
    if header.format != FORMAT {
        return Err(MetadataError::NotOurs { location: at() });
    }
    if header.version != METADATA_VERSION {
        return Err(MetadataError::Version { location: at(), version: header.version });
    }
    let damaged = |problem: String| MetadataError::Damaged { location: at(), problem };
    if crc32fast::hash(rest) != header.crc {
        return Err(damaged(format!("its checksum is wrong, over {} bytes", rest.len())));
    }
    let metadata = serde_json::from_slice(rest).map_err(|error| damaged(error.to_string()))?;
    Ok(EncodedMetadata { metadata, encoded: rest.to_vec(), crc: header.crc })
}

/// Makes sure that the files of a checkpoint are there and whole, as far as that shows without reading all of them: each has its
/// beginning and its end. What lies between is checked by who reads it. Returns what they say of the states in them. Blocks.
pub fn check_files(location: &str, metadata: &CheckpointMetadata) -> Result<Vec<StateHeader>, MetadataError> {
    let read = |source| MetadataError::Read { location: location.to_owned(), source };
    let mut states = Vec::new();
    for file in files(metadata) {
        let at = file.location(location);
        let (directory, name) = at.rsplit_once('/').unwrap_or((location, &file.name));
        let opened = StateFileReader::open(open(directory).map_err(read)?, name, file.bytes);
        let opened = opened.map_err(|source| MetadataError::Partial { location: location.to_owned(), source })?;
        states.extend(opened.header().states.iter().cloned());
    }
    Ok(states)
}

/// The files of a checkpoint, each once.
fn files(metadata: &CheckpointMetadata) -> impl Iterator<Item = &StateFile> {
    let subtasks = metadata.vertices.iter().flat_map(|vertex| &vertex.subtasks);
    subtasks.flat_map(|subtask| {
        let mut files: Vec<&StateFile> = Vec::new();
        // The operators of a subtask share theirs.
        for file in subtask.operators.iter().flat_map(|operator| &operator.keyed) {
            if files.iter().all(|other| other.name != file.name) {
                files.push(file);
            }
        }
        files
    })
}

#[cfg(test)]
mod tests {
    use perennial_types::{CheckpointId, JobId, OperatorId, OperatorSnapshot, SnapshotKind, TaskSnapshot};
    use perennial_types::{VertexId, VertexSnapshot};

    use super::*;

    fn metadata(files: &[(&str, u64)]) -> CheckpointMetadata {
        let operators = files.iter().map(|(name, bytes)| OperatorSnapshot {
            operator: OperatorId::of_uid(name),
            keyed: vec![StateFile { name: (*name).to_owned(), shared: false, bytes: *bytes, crc: 0, key_groups: None }],
            list: Vec::new(),
            union_list: Vec::new(),
            broadcast: None,
        });
        let subtask = TaskSnapshot { operators: operators.collect(), ..TaskSnapshot::default() };
        let (vertex, name) = (VertexId::from_bytes([1; 16]), "count".to_owned());
        let vertex =
            VertexSnapshot { vertex, name, operators: Vec::new(), max_parallelism: 128, subtasks: vec![subtask] };
        let (job, kind) = (JobId::from_bytes([7; 16]), SnapshotKind::Savepoint);
        CheckpointMetadata { job, checkpoint: CheckpointId(3), kind, at_ms: 9, vertices: vec![vertex] }
    }

    #[test]
    fn metadata_says_what_it_is_and_is_read_as_it_was_written_wherever_it_was_moved() {
        let directory = tempfile::tempdir().unwrap();
        let (old, new) = (directory.path().join("old/place"), directory.path().join("new"));
        let location = format!("file://{}", old.display());
        for _ in 0..2 {
            let written = write_metadata(&location, metadata(&[])).unwrap();
            assert_eq!(read_metadata(&location).unwrap(), written);
        }
        let text = std::fs::read_to_string(old.join("_metadata")).unwrap();
        let (header, rest) = text.split_once('\n').unwrap();
        let crc = crc32fast::hash(rest.as_bytes());
        assert_eq!(header, format!(r#"{{"format":"perennial-checkpoint","version":1,"crc":{crc}}}"#));
        std::fs::rename(old, &new).unwrap();
        assert_eq!(read_metadata(&new.display().to_string()).unwrap().metadata, metadata(&[]));
    }

    #[test]
    fn what_is_no_checkpoint_is_refused_with_the_reason() {
        let directory = tempfile::tempdir().unwrap();
        let location = directory.path().display().to_string();
        let refused = |bytes: &[u8]| {
            std::fs::write(directory.path().join("_metadata"), bytes).unwrap();
            read_metadata(&location).unwrap_err()
        };
        let missing = read_metadata(&location).unwrap_err();
        assert!(matches!(missing, MetadataError::Missing { .. }), "{missing}");
        for other in [&b""[..], b"{}", b"\xffFLINK", b"{\"format\":\"flink\",\"version\":4,\"crc\":0}\n"] {
            let error = refused(other);
            assert!(matches!(error, MetadataError::NotOurs { .. }), "{error}");
        }
        let error = refused(b"{\"format\":\"perennial-checkpoint\",\"version\":2,\"crc\":0}\n{}");
        assert!(error.to_string().contains("version 2") && error.to_string().contains("newer release"), "{error}");
        write_metadata(&location, metadata(&[])).unwrap();
        let whole = std::fs::read(directory.path().join("_metadata")).unwrap();
        for cut in [whole.len() - 1, whole.len() / 2] {
            let error = refused(&whole[..cut]);
            assert!(matches!(error, MetadataError::Damaged { .. } | MetadataError::NotOurs { .. }), "{error}");
        }
        let mut flipped = whole.clone();
        *flipped.last_mut().unwrap() ^= 1;
        assert!(refused(&flipped).to_string().contains("checksum"));
    }

    #[test]
    fn a_file_that_is_missing_or_cut_short_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let location = directory.path().display().to_string();
        let named = metadata(&[("count.state", 100)]);
        let error = check_files(&location, &named).unwrap_err().to_string();
        assert!(error.contains("count.state") && error.contains("not whole"), "{error}");
        std::fs::write(directory.path().join("count.state"), [0; 50]).unwrap();
        let error = check_files(&location, &named).unwrap_err().to_string();
        assert!(error.contains("count.state"), "{error}");
        assert!(check_files(&location, &metadata(&[])).is_ok());
    }
}
