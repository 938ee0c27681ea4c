//! The marker: a small file that remembers what this member must never forget, apart from log and state.
//!
//! When log or state are lost, emptied or replaced by an older copy, Raft's promises break silently: the member would
//! vote twice in a term, or let entries be lost that it has acknowledged. The marker says whose directory this is and how
//! far it has been, so that such a directory is refused. It is written after what it vouches for, so it is never ahead
//! of an honest directory.
//!
//! It also keeps what this member was told by the others: the directory each of them uses and how far that has been.
//! That way a member whose whole directory was emptied or rolled back, marker included, is found out by its peers.
//!
//! File: the four bytes `PMRK`, a version byte, postcard of [`Marker`], CRC-32 of all before (4 bytes, big-endian).

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use perennial_types::ClusterId;
use serde::{Deserialize, Serialize};

use crate::error::OpenError;
use crate::files;

const MAGIC: &[u8; 4] = b"PMRK";
const VERSION: u8 = 3;

/// How far a directory has been.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Floor {
    /// Highest term voted in.
    pub(crate) term: u64,
    /// A committed entry that was durable here.
    pub(crate) index: u64,
}

impl Floor {
    /// The higher of both in each respect.
    pub(crate) fn max(self, other: Self) -> Self {
        Self { term: self.term.max(other.term), index: self.index.max(other.index) }
    }

    /// Whether a directory that has been here may stand where `now` says.
    pub(crate) fn admits(self, now: Self) -> bool {
        now.term >= self.term && now.index >= self.index
    }
}

/// What is known of another member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct KnownMember {
    /// The directory it uses.
    pub(crate) directory: [u8; 16],
    /// How far that directory has been.
    pub(crate) floor: Floor,
}

/// Content of the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Marker {
    /// The cluster, once it is known.
    pub(crate) cluster: Option<ClusterId>,
    /// Which member's directory this is.
    pub(crate) member: u64,
    /// Hash of the founding members' names.
    pub(crate) group: u64,
    /// Name of this directory, made with it.
    pub(crate) directory: [u8; 16],
    /// Whether this member has been admitted to its group; before that it takes no part in it.
    pub(crate) admitted: bool,
    /// How far this directory has been.
    pub(crate) floor: Floor,
    /// The other members.
    pub(crate) members: BTreeMap<u64, KnownMember>,
    /// Name of the member; empty when the marker was written before it had one.
    pub(crate) name: String,
    /// Number of the member's newest process, greater than those before. 0 when none has counted yet.
    pub(crate) start: u64,
}

/// Content of version 2: without the start.
#[derive(Deserialize)]
struct MarkerV2 {
    cluster: Option<ClusterId>,
    member: u64,
    group: u64,
    directory: [u8; 16],
    admitted: bool,
    floor: Floor,
    members: BTreeMap<u64, KnownMember>,
    name: String,
}

impl From<MarkerV2> for Marker {
    fn from(old: MarkerV2) -> Self {
        let MarkerV2 { cluster, member, group, directory, admitted, floor, members, name } = old;
        Self { cluster, member, group, directory, admitted, floor, members, name, start: 0 }
    }
}

/// Content of version 1: without the name, too.
#[derive(Deserialize)]
struct MarkerV1 {
    cluster: Option<ClusterId>,
    member: u64,
    group: u64,
    directory: [u8; 16],
    admitted: bool,
    floor: Floor,
    members: BTreeMap<u64, KnownMember>,
}

impl From<MarkerV1> for Marker {
    fn from(old: MarkerV1) -> Self {
        let MarkerV1 { cluster, member, group, directory, admitted, floor, members } = old;
        Self { cluster, member, group, directory, admitted, floor, members, name: String::new(), start: 0 }
    }
}

impl Marker {
    fn encode(&self) -> Vec<u8> {
        let mut bytes = postcard::to_extend(self, [MAGIC.as_slice(), &[VERSION]].concat())
            .expect("a Vec grows, and no field of a marker refuses to serialize");
        bytes.extend_from_slice(&crc32fast::hash(&bytes).to_be_bytes());
        bytes
    }

    fn decode(bytes: &[u8]) -> Result<Self, String> {
        let (body, checksum) = bytes.split_last_chunk::<4>().ok_or("it is too short")?;
        if crc32fast::hash(body) != u32::from_be_bytes(*checksum) {
            return Err("its checksum is wrong".to_owned());
        }
        let body = body.strip_prefix(MAGIC).ok_or("it is no marker")?;
        match body {
            [VERSION, body @ ..] => postcard::from_bytes(body).map_err(|error| error.to_string()),
            [2, body @ ..] => postcard::from_bytes::<MarkerV2>(body).map(Self::from).map_err(|error| error.to_string()),
            [1, body @ ..] => postcard::from_bytes::<MarkerV1>(body).map(Self::from).map_err(|error| error.to_string()),
            [version, ..] => Err(format!("it has version {version}, this build reads 1 to {VERSION}")),
            [] => Err("it is too short".to_owned()),
        }
    }
}

/// The marker on disk. Who reads it never waits for the disk: every call to a peer reads it, on the thread of Raft.
#[derive(Debug)]
pub(crate) struct MarkerFile {
    path: PathBuf,
    marker: Mutex<Marker>,
    /// Held while the file is written: changes are made one after the other.
    writer: Mutex<()>,
}

impl MarkerFile {
    /// Reads the marker; `None` when there is none.
    pub(crate) fn open(path: &Path) -> Result<Option<Self>, OpenError> {
        let bytes = match std::fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(OpenError::io("read", path, source)),
        };
        let marker = Marker::decode(&bytes).map_err(|what| OpenError::Damaged { path: path.to_owned(), what })?;
        Ok(Some(Self { path: path.to_owned(), marker: Mutex::new(marker), writer: Mutex::new(()) }))
    }

    /// Makes the marker of a new directory.
    pub(crate) fn create(path: &Path, marker: Marker) -> Result<Self, OpenError> {
        let file = Self { path: path.to_owned(), marker: Mutex::new(marker), writer: Mutex::new(()) };
        file.write(&file.get()).map_err(|source| OpenError::io("create", path, source))?;
        Ok(file)
    }

    /// The content.
    pub(crate) fn get(&self) -> Marker {
        self.lock().clone()
    }

    /// The cluster, once it is known.
    pub(crate) fn cluster(&self) -> Option<ClusterId> {
        self.lock().cluster
    }

    /// The floor's term.
    pub(crate) fn term_floor(&self) -> u64 {
        self.lock().floor.term
    }

    /// The floor's index.
    pub(crate) fn index_floor(&self) -> u64 {
        self.lock().floor.index
    }

    /// Changes the content and makes it durable before returning. Nothing is written when nothing changed.
    pub(crate) fn update(&self, change: impl FnOnce(&mut Marker)) -> io::Result<()> {
        let _writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let marker = self.get();
        let mut changed = marker.clone();
        change(&mut changed);
        if changed != marker {
            self.write(&changed)?;
            *self.lock() = changed;
        }
        Ok(())
    }

    /// Raises the floor's term and index.
    pub(crate) fn raise(&self, floor: Floor) -> io::Result<()> {
        self.update(|marker| {
            marker.floor.term = marker.floor.term.max(floor.term);
            marker.floor.index = marker.floor.index.max(floor.index);
        })
    }

    fn write(&self, marker: &Marker) -> io::Result<()> {
        let written = files::replace(&self.path, |out| out.write_all(&marker.encode()));
        let path = self.path.display();
        written.map_err(|error| io::Error::new(error.kind(), format!("cannot write {path}: {error}")))
    }

    fn lock(&self) -> MutexGuard<'_, Marker> {
        self.marker.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marker() -> Marker {
        let known = KnownMember { directory: [4; 16], floor: Floor { term: 2, index: 300 } };
        Marker {
            cluster: Some(ClusterId::from_bytes([1; 16])),
            member: 2,
            group: 3,
            directory: [5; 16],
            admitted: true,
            floor: Floor { term: 7, index: 9 },
            members: BTreeMap::from([(1, known)]),
            name: "jm-2".to_owned(),
            start: 300,
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("marker");
        assert!(MarkerFile::open(&path).unwrap().is_none());
        let file = MarkerFile::create(&path, marker()).unwrap();
        file.raise(Floor { term: 8, index: 0 }).unwrap();
        file.raise(Floor { term: 0, index: 4 }).unwrap();
        let again = MarkerFile::open(&path).unwrap().unwrap().get();
        assert_eq!(again, Marker { floor: Floor { term: 8, index: 9 }, ..marker() });
    }

    /// Raft's thread froze for as long as the disk took, and others elected meanwhile.
    #[test]
    fn the_marker_is_read_while_it_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let file = MarkerFile::create(&dir.path().join("marker"), marker()).unwrap();
        let _writing = file.writer.lock().unwrap();
        assert_eq!((file.cluster(), file.get()), (marker().cluster, marker()));
    }

    #[test]
    fn damage_is_an_error_that_names_the_file() {
        let good = marker().encode();
        for position in 0..good.len() {
            let mut bad = good.clone();
            bad[position] ^= 1;
            assert!(Marker::decode(&bad).is_err(), "flip at {position}");
            assert!(Marker::decode(&good[..position]).is_err(), "cut at {position}");
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("marker");
        std::fs::write(&path, b"garbage").unwrap();
        let error = MarkerFile::open(&path).unwrap_err().to_string();
        assert!(error.contains("marker is damaged: its checksum is wrong"), "{error}");
    }

    #[test]
    fn the_versions_before_are_read() {
        let hex = "504d524b01010101010101010101010101010101010102030505050505050505050505050505050501070901010404040404040404040404040404040402ac0229fe0618";
        let read = |hex: &str| {
            let bytes = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
            Marker::decode(&(0..hex.len()).step_by(2).map(bytes).collect::<Vec<u8>>())
        };
        assert_eq!(read(hex), Ok(Marker { name: String::new(), start: 0, ..marker() }));
        let hex = "504d524b02010101010101010101010101010101010102030505050505050505050505050505050501070901010404040404040404040404040404040402ac02046a6d2d321b63a663";
        assert_eq!(read(hex), Ok(Marker { start: 0, ..marker() }));
    }

    #[test]
    fn layout_is_frozen() {
        let hex: String = marker().encode().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(
            hex,
            "504d524b03010101010101010101010101010101010102030505050505050505050505050505050501070901010404040404040404040404040404040402ac02046a6d2d32ac02514141b4"
        );
    }
}
