//! Writes a state file.

use std::collections::VecDeque;
use std::io;

use perennial_types::{DecodeError, KeyGroup, OperatorId};

use super::{END_MAGIC, MAGIC, Row, STATE_FILE_VERSION, StateFileHeader, StateHeader};
use crate::entries::Entries;
use crate::{Frozen, Storage};

/// Payload after which a block ends and the next of its key group begins.
const BLOCK_BYTES: usize = 1 << 20;

/// One keyed state of one operator, as it is written.
pub struct KeyedState {
    /// Id of the operator.
    pub operator: OperatorId,
    /// The uid the id was made of.
    pub uid: String,
    /// Name of the state among those of the operator.
    pub name: String,
    /// Version of the operator's schema.
    pub version: u32,
    /// What there is of it.
    pub frozen: Frozen,
}

/// A file that is there now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WrittenFile {
    /// Its size.
    pub bytes: u64,
    /// CRC-32 of all its bytes.
    pub crc: u32,
}

/// Writes the state of a subtask to `path`: durable when it returns. Waits for the sweeps of its tables.
///
/// Sorts the entries by key group, which decodes every key; so this is nothing for a slot's thread. `header` comes with an empty list of
/// states. An entry outside of `header.key_groups` is an error: another subtask would have to read it, and would not.
pub fn write_state_file(
    storage: &dyn Storage,
    path: &str,
    mut header: StateFileHeader,
    states: Vec<KeyedState>,
) -> io::Result<WrittenFile> {
    let mut blocks = VecDeque::new();
    for KeyedState { operator, uid, name, version, frozen: Frozen { base, entries, removed } } in states {
        let layout = entries.layout();
        let entries = Grouped::new(entries, &header, &uid)?;
        let removed = removed.map(|removed| Grouped::new(removed, &header, &uid)).transpose()?.unwrap_or_default();
        let rows_at = u32::try_from(blocks.len()).map_err(io::Error::other)?;
        header.states.push(StateHeader {
            operator,
            uid,
            name,
            version,
            key_type: layout.key_type.to_owned(),
            value_type: layout.value_type.to_owned(),
            base,
            entries: entries.count,
            removed: removed.count,
            bytes: entries.bytes + removed.bytes,
            rows_at,
            rows: u32::try_from(entries.blocks.len()).map_err(io::Error::other)?,
            removed_rows: u32::try_from(removed.blocks.len()).map_err(io::Error::other)?,
        });
        blocks.extend(entries.blocks);
        blocks.extend(removed.blocks);
    }
    let mut file = Pieces { bytes: 0, crc: crc32fast::Hasher::new(), index: Vec::new() };
    let mut head = Some(encode_header(&header)?);
    let mut ended = false;
    let mut pieces = std::iter::from_fn(|| {
        let piece = match head.take() {
            Some(head) => head,
            None => match blocks.pop_front() {
                Some(block) => file.block(&block),
                None if !ended => {
                    ended = true;
                    file.end()
                }
                None => return None,
            },
        };
        file.bytes += piece.len() as u64;
        file.crc.update(&piece);
        Some(piece)
    });
    storage.put(path, &mut pieces)?;
    Ok(WrittenFile { bytes: file.bytes, crc: file.crc.finalize() })
}

fn encode_header(header: &StateFileHeader) -> io::Result<Vec<u8>> {
    let json = serde_json::to_vec(header).map_err(io::Error::other)?;
    let length = u32::try_from(json.len()).map_err(io::Error::other)?;
    let mut head = [MAGIC, STATE_FILE_VERSION.to_le_bytes(), length.to_le_bytes()].concat();
    head.extend_from_slice(&json);
    let crc = crc32fast::hash(head.get(8..).unwrap_or_default());
    head.extend_from_slice(&crc.to_le_bytes());
    Ok(head)
}

/// What was written so far.
struct Pieces {
    bytes: u64,
    crc: crc32fast::Hasher,
    index: Vec<u8>,
}

impl Pieces {
    fn block(&mut self, block: &GroupBlock) -> Vec<u8> {
        let GroupBlock { group, entries, payload } = block;
        Row { group: *group, offset: self.bytes, entries: *entries }.encode(&mut self.index);
        let bytes = payload.len() as u32;
        let crc = crc32fast::hash(payload);
        let numbers = [&group.0.to_le_bytes()[..], &entries.to_le_bytes(), &bytes.to_le_bytes()].concat();
        [&numbers, payload, &crc.to_le_bytes()[..]].concat()
    }

    fn end(&mut self) -> Vec<u8> {
        let mut piece = std::mem::take(&mut self.index);
        let crc = crc32fast::hash(&piece);
        piece.extend_from_slice(&self.bytes.to_le_bytes());
        piece.extend_from_slice(&crc.to_le_bytes());
        piece.extend_from_slice(&STATE_FILE_VERSION.to_le_bytes());
        piece.extend_from_slice(&END_MAGIC);
        piece
    }
}

/// Entries in order of key group, cut into blocks.
#[derive(Default)]
struct Grouped {
    blocks: Vec<GroupBlock>,
    count: u64,
    bytes: u64,
}

struct GroupBlock {
    group: KeyGroup,
    entries: u32,
    payload: Vec<u8>,
}

/// Why entries cannot be written.
#[derive(Debug, thiserror::Error)]
enum CannotWrite {
    #[error("a key in a table cannot be read back; its `Record` does not read what it writes")]
    Key(#[from] DecodeError),
    #[error("operator {uid} has state of key group {group}, which is another subtask's")]
    NotOurs { uid: String, group: u16 },
    #[error("an entry of operator {uid} has {bytes} bytes; a block of state holds less than 4 GiB")]
    TooLarge { uid: String, bytes: usize },
}

impl Grouped {
    /// Each entry goes to the end of the last block of its key group: one pass, in the order of the entries.
    fn new(entries: Entries, header: &StateFileHeader, uid: &str) -> io::Result<Self> {
        let first = header.key_groups.first;
        let mut groups: Vec<Vec<GroupBlock>> = Vec::new();
        groups.resize_with(header.key_groups.count(), Vec::new);
        let layout = entries.layout();
        let (mut count, mut bytes) = (0, 0);
        entries.for_each(|entry| {
            let group = layout.key_group(entry, header.max_parallelism).map_err(|error| other(error.into()))?;
            let blocks = group.0.checked_sub(first).and_then(|at| groups.get_mut(usize::from(at)));
            let Some(blocks) = blocks else {
                return Err(other(CannotWrite::NotOurs { uid: uid.to_owned(), group: group.0 }));
            };
            if u32::try_from(entry.len()).is_err() {
                return Err(other(CannotWrite::TooLarge { uid: uid.to_owned(), bytes: entry.len() }));
            }
            count += 1;
            bytes += entry.len() as u64;
            match blocks.last_mut() {
                Some(block) if block.payload.len() + entry.len() <= BLOCK_BYTES => {
                    block.entries += 1;
                    block.payload.extend_from_slice(entry);
                }
                _ => blocks.push(GroupBlock { group, entries: 1, payload: entry.to_vec() }),
            }
            Ok(())
        })?;
        Ok(Self { blocks: groups.into_iter().flatten().collect(), count, bytes })
    }
}

fn other(error: CannotWrite) -> io::Error {
    io::Error::other(error)
}
