//! Reads a state file.

use std::any::type_name;
use std::ops::Range;
use std::sync::Arc;

use perennial_types::{DecodeError, KeyGroup, KeyGroupRange, Record};

use super::{
    BLOCK_FRAME_BYTES, BLOCK_HEAD_BYTES, END_MAGIC, FOOTER_BYTES, HEAD_BYTES, MAGIC, ROW_BYTES, Row,
    STATE_FILE_VERSION, StateFileError, StateFileHeader, StateHeader,
};
use crate::Storage;

/// A state file whose header and index were read and found whole. Blocks are read, and checked, when they are asked for.
pub struct StateFileReader {
    storage: Arc<dyn Storage>,
    path: String,
    header: StateFileHeader,
    index: Vec<Row>,
    index_at: u64,
}

/// Entries of one key group, as they were written.
pub struct Block {
    path: String,
    offset: u64,
    group: KeyGroup,
    entries: u32,
    payload: Vec<u8>,
}

impl StateFileReader {
    /// Opens the file of this path and this size; the size is what its writer said, since a file that was cut off has lost its end.
    pub fn open(storage: Arc<dyn Storage>, path: &str, bytes: u64) -> Result<Self, StateFileError> {
        let file = Raw { storage: &*storage, path };
        if bytes < HEAD_BYTES + 4 + FOOTER_BYTES {
            return Err(file.damaged(0, format!("{bytes} bytes are no state file")));
        }
        let head = file.get(0..HEAD_BYTES)?;
        let mut rest = head.as_slice();
        if take::<4>(&mut rest) != MAGIC {
            return Err(file.damaged(0, "it does not begin as a state file does"));
        }
        let version = u32::from_le_bytes(take(&mut rest));
        if version != STATE_FILE_VERSION {
            return Err(StateFileError::Version { path: path.to_owned(), version });
        }
        let length = u32::from_le_bytes(take(&mut rest));
        let footer_at = bytes - FOOTER_BYTES;
        let header_end = HEAD_BYTES + u64::from(length) + 4;
        if header_end > footer_at {
            return Err(file.damaged(8, "the header is longer than the file"));
        }
        let header = file.header(length, header_end)?;

        let footer = file.get(footer_at..bytes)?;
        let mut rest = footer.as_slice();
        let index_at = u64::from_le_bytes(take(&mut rest));
        let index_crc = u32::from_le_bytes(take(&mut rest));
        let (end_version, end_magic) = (u32::from_le_bytes(take(&mut rest)), take::<4>(&mut rest));
        if end_magic != END_MAGIC || end_version != version {
            return Err(file.damaged(footer_at, "it does not end as a state file does"));
        }
        if !(header_end..=footer_at).contains(&index_at) {
            return Err(file.damaged(footer_at, format!("the index cannot be at byte {index_at}")));
        }
        let index = file.index(index_at..footer_at, index_crc)?;
        file.check(&header, &index, header_end, index_at)?;
        let path = path.to_owned();
        Ok(Self { storage, path, header, index, index_at })
    }

    /// What the file says about itself.
    pub fn header(&self) -> &StateFileHeader {
        &self.header
    }

    /// The blocks of a state of its header that are of these key groups, in order of key group, each read when it is its turn.
    ///
    /// A key group may have several blocks, or none.
    pub fn blocks(
        &self,
        state: &StateHeader,
        groups: KeyGroupRange,
    ) -> impl Iterator<Item = Result<Block, StateFileError>> {
        self.rows(state.rows_at as usize, state.rows, groups)
    }

    /// The blocks of its removed keys, likewise.
    pub fn removed(
        &self,
        state: &StateHeader,
        groups: KeyGroupRange,
    ) -> impl Iterator<Item = Result<Block, StateFileError>> {
        self.rows((state.rows_at as usize).saturating_add(state.rows as usize), state.removed_rows, groups)
    }

    fn rows(
        &self,
        first: usize,
        count: u32,
        groups: KeyGroupRange,
    ) -> impl Iterator<Item = Result<Block, StateFileError>> {
        let rows = first..first.saturating_add(count as usize);
        let wanted = move |at: &usize| self.index.get(*at).is_some_and(|row| groups.contains(row.group));
        rows.filter(wanted).map(|at| self.block(at))
    }

    /// Entries of a state of its header in these key groups, as the index has it: to make room for them.
    pub fn entries(&self, state: &StateHeader, groups: KeyGroupRange) -> u64 {
        let rows = self.index.get(state.rows_at as usize..).and_then(|rows| rows.get(..state.rows as usize));
        let rows = rows.unwrap_or_default().iter().filter(|row| groups.contains(row.group));
        rows.map(|row| u64::from(row.entries)).sum()
    }

    fn block(&self, at: usize) -> Result<Block, StateFileError> {
        let file = Raw { storage: &*self.storage, path: &self.path };
        let end = self.index.get(at + 1).map_or(self.index_at, |next| next.offset);
        let Some(row) = self.index.get(at).copied() else {
            return Err(file.damaged(self.index_at, format!("there is no row {at}")));
        };
        let mut bytes = file.get(row.offset..end)?;
        let mut rest = bytes.as_slice();
        let (group, entries, size) = (
            KeyGroup(u16::from_le_bytes(take(&mut rest))),
            u32::from_le_bytes(take(&mut rest)),
            u32::from_le_bytes(take(&mut rest)),
        );
        if (group, entries) != (row.group, row.entries) || u64::from(size) + BLOCK_FRAME_BYTES != end - row.offset {
            return Err(file.damaged(row.offset, "the block is not the one of the index"));
        }
        let payload = take_slice(&mut rest, size as usize);
        if crc32fast::hash(payload) != u32::from_le_bytes(take(&mut rest)) {
            return Err(file.damaged(row.offset, "the checksum of the block is wrong"));
        }
        bytes.truncate(BLOCK_HEAD_BYTES + size as usize);
        bytes.drain(..BLOCK_HEAD_BYTES);
        Ok(Block { path: self.path.clone(), offset: row.offset, group, entries, payload: bytes })
    }
}

impl Block {
    /// The key group.
    pub fn group(&self) -> KeyGroup {
        self.group
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.entries as usize
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.entries == 0
    }

    /// Hands out each entry. Bytes that are not entries of these types, or more than them, are an error.
    pub fn read<K: Record, V: Record>(&self, mut each: impl FnMut(K, V)) -> Result<(), StateFileError> {
        let mut rest = self.payload.as_slice();
        let mut read = || {
            for _ in 0..self.entries {
                let key = K::decode(&mut rest)?;
                each(key, V::decode(&mut rest)?);
            }
            if rest.is_empty() { Ok(()) } else { Err(DecodeError::LeftOver(rest.len())) }
        };
        read().map_err(|source| StateFileError::Entry {
            path: self.path.clone(),
            offset: self.offset,
            key_type: type_name::<K>(),
            value_type: type_name::<V>(),
            source,
        })
    }
}

/// A file of which nothing is known yet.
struct Raw<'a> {
    storage: &'a dyn Storage,
    path: &'a str,
}

impl Raw<'_> {
    fn get(&self, range: Range<u64>) -> Result<Vec<u8>, StateFileError> {
        self.storage.get(self.path, Some(range)).map_err(StateFileError::Read)
    }

    fn damaged(&self, offset: u64, problem: impl Into<String>) -> StateFileError {
        StateFileError::Damaged { path: self.path.to_owned(), offset, problem: problem.into() }
    }

    fn header(&self, length: u32, end: u64) -> Result<StateFileHeader, StateFileError> {
        let bytes = self.get(8..end)?;
        let mut rest = bytes.as_slice();
        let checked = take_slice(&mut rest, 4 + length as usize);
        if crc32fast::hash(checked) != u32::from_le_bytes(take(&mut rest)) {
            return Err(self.damaged(8, "the checksum of the header is wrong"));
        }
        serde_json::from_slice(checked.get(4..).unwrap_or_default())
            .map_err(|error| self.damaged(HEAD_BYTES, format!("the header cannot be read: {error}")))
    }

    fn index(&self, range: Range<u64>, crc: u32) -> Result<Vec<Row>, StateFileError> {
        let bytes = self.get(range.clone())?;
        let rows = bytes.chunks_exact(ROW_BYTES);
        if !rows.remainder().is_empty() || crc32fast::hash(&bytes) != crc {
            return Err(self.damaged(range.start, "the checksum of the index is wrong"));
        }
        let row = |mut bytes: &[u8]| Row {
            group: KeyGroup(u16::from_le_bytes(take(&mut bytes))),
            offset: u64::from_le_bytes(take(&mut bytes)),
            entries: u32::from_le_bytes(take(&mut bytes)),
        };
        Ok(rows.map(row).collect())
    }

    /// That header and index fit together, so that whoever goes on needs to ask no more.
    fn check(
        &self,
        header: &StateFileHeader,
        index: &[Row],
        blocks_at: u64,
        index_at: u64,
    ) -> Result<(), StateFileError> {
        if header.key_groups.first > header.key_groups.last {
            return Err(self.damaged(HEAD_BYTES, "the header has no key groups"));
        }
        let mut rows = 0u32;
        for state in &header.states {
            let end = state.rows_at.checked_add(state.rows).and_then(|end| end.checked_add(state.removed_rows));
            let (true, Some(end)) = (state.rows_at == rows, end) else {
                return Err(self.damaged(HEAD_BYTES, "the states of the header do not follow each other"));
            };
            rows = end;
        }
        if rows as usize != index.len() {
            return Err(self.damaged(index_at, format!("the index has {} rows, the header {rows}", index.len())));
        }
        if index.first().map_or(index_at, |row| row.offset) != blocks_at {
            return Err(self.damaged(index_at, "the first block is not behind the header"));
        }
        let ends = index.iter().skip(1).map(|row| row.offset).chain([index_at]);
        for (row, end) in index.iter().zip(ends) {
            if end.checked_sub(row.offset).is_none_or(|bytes| bytes < BLOCK_FRAME_BYTES) {
                return Err(self.damaged(index_at, "the blocks do not follow each other"));
            }
        }
        Ok(())
    }
}

/// The next `N` bytes; zeros where there are none, which no caller meets: each has looked at the length before.
fn take<const N: usize>(rest: &mut &[u8]) -> [u8; N] {
    match rest.split_first_chunk() {
        Some((bytes, left)) => {
            *rest = left;
            *bytes
        }
        None => [0; N],
    }
}

fn take_slice<'a>(rest: &mut &'a [u8], count: usize) -> &'a [u8] {
    let (taken, left) = rest.split_at_checked(count).unwrap_or((&[], rest));
    *rest = left;
    taken
}
