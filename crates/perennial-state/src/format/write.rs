//! Writes a state file.

use std::io;
use std::ops::Range;

use perennial_types::{DecodeError, KeyGroup, MaxParallelism, OperatorId};

use super::{BLOCK_FRAME_BYTES, END_MAGIC, MAGIC, Row, STATE_FILE_VERSION, StateFileHeader, StateHeader};
use crate::{EntryBuffer, Storage};

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
    /// Its entries, in any order.
    pub entries: EntryBuffer,
}

/// A file that is there now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WrittenFile {
    /// Its size.
    pub bytes: u64,
    /// CRC-32 of all its bytes.
    pub crc: u32,
}

/// Writes the state of a subtask to `path`: durable when it returns.
///
/// Sorts the entries by key group, which decodes every key; so this is nothing for a slot's thread. `header` comes with an empty list of
/// states. An entry outside of `header.key_groups` is an error: another subtask would have to read it, and would not.
pub fn write_state_file(
    storage: &dyn Storage,
    path: &str,
    mut header: StateFileHeader,
    states: &[KeyedState],
) -> io::Result<WrittenFile> {
    let mut sorted = Vec::new();
    let mut row = 0;
    for state in states {
        let entries = Sorted::new(&state.entries, header.max_parallelism).map_err(io::Error::other)?;
        if let Some(block) = entries.blocks.iter().find(|block| !header.key_groups.contains(block.group)) {
            let (uid, group) = (&state.uid, block.group.0);
            let text = format!("operator {uid} has state of key group {group}, which is another subtask's");
            return Err(io::Error::other(text));
        }
        let rows = u32::try_from(entries.blocks.len()).map_err(io::Error::other)?;
        header.states.push(StateHeader {
            operator: state.operator,
            uid: state.uid.clone(),
            name: state.name.clone(),
            version: state.version,
            key_type: state.entries.key_type().to_owned(),
            value_type: state.entries.value_type().to_owned(),
            entries: state.entries.len() as u64,
            bytes: state.entries.bytes(),
            rows_at: row,
            rows,
        });
        row += rows;
        sorted.push(entries);
    }
    let mut file = Pieces { bytes: 0, crc: crc32fast::Hasher::new(), index: Vec::new() };
    let head = encode_header(&header)?;
    let file_ref = &mut file;
    let mut blocks = sorted.iter().flat_map(|entries| entries.blocks.iter().map(move |block| (entries, block)));
    let mut step = Step::Head(head);
    let mut pieces = std::iter::from_fn(|| {
        let piece = match std::mem::replace(&mut step, Step::Blocks) {
            Step::Head(head) => head,
            Step::Blocks => match blocks.next() {
                Some((entries, block)) => file_ref.block(entries, block),
                None => {
                    step = Step::Done;
                    file_ref.end()
                }
            },
            Step::Done => {
                step = Step::Done;
                return None;
            }
        };
        file_ref.bytes += piece.len() as u64;
        file_ref.crc.update(&piece);
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

/// What comes next.
enum Step {
    Head(Vec<u8>),
    Blocks,
    Done,
}

/// What was written so far.
struct Pieces {
    bytes: u64,
    crc: crc32fast::Hasher,
    index: Vec<u8>,
}

impl Pieces {
    fn block(&mut self, entries: &Sorted<'_>, block: &PlannedBlock) -> Vec<u8> {
        let count = block.entries.len() as u32;
        Row { group: block.group, offset: self.bytes, entries: count }.encode(&mut self.index);
        let mut piece = Vec::with_capacity(block.bytes as usize + BLOCK_FRAME_BYTES as usize);
        piece.extend_from_slice(&block.group.0.to_le_bytes());
        piece.extend_from_slice(&count.to_le_bytes());
        piece.extend_from_slice(&block.bytes.to_le_bytes());
        let payload = piece.len();
        for index in entries.order.get(block.entries.clone()).unwrap_or_default() {
            piece.extend_from_slice(entries.buffer.entry(*index as usize));
        }
        let crc = crc32fast::hash(piece.get(payload..).unwrap_or_default());
        piece.extend_from_slice(&crc.to_le_bytes());
        piece
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
struct Sorted<'a> {
    buffer: &'a EntryBuffer,
    /// Indices of entries.
    order: Vec<u32>,
    blocks: Vec<PlannedBlock>,
}

struct PlannedBlock {
    group: KeyGroup,
    /// Its part of the order.
    entries: Range<usize>,
    bytes: u32,
}

/// Why entries cannot be written.
#[derive(Debug, thiserror::Error)]
enum SortError {
    #[error("a key in a table cannot be read back; its `Record` does not read what it writes")]
    Key(#[from] DecodeError),
    #[error("{0} entries are more than a file of state holds")]
    TooMany(usize),
    #[error("an entry of {0} bytes is larger than a block of state")]
    TooLarge(usize),
}

impl<'a> Sorted<'a> {
    /// A counting sort: as many steps as there are entries and key groups.
    fn new(buffer: &'a EntryBuffer, max_parallelism: MaxParallelism) -> Result<Self, SortError> {
        let count = u32::try_from(buffer.len()).map_err(|_| SortError::TooMany(buffer.len()))?;
        let groups = buffer.key_groups(max_parallelism).collect::<Result<Vec<_>, _>>()?;
        let mut next = vec![0u32; max_parallelism.get() as usize + 1];
        for group in &groups {
            if let Some(count) = next.get_mut(usize::from(group.0) + 1) {
                *count += 1;
            }
        }
        for at in 1..next.len() {
            let before = next.get(at - 1).copied().unwrap_or(0);
            if let Some(count) = next.get_mut(at) {
                *count += before;
            }
        }
        let mut order = vec![0u32; buffer.len()];
        for (index, group) in (0..count).zip(&groups) {
            if let Some(at) = next.get_mut(usize::from(group.0)) {
                if let Some(place) = order.get_mut(*at as usize) {
                    *place = index;
                }
                *at += 1;
            }
        }
        let blocks = Self::plan(buffer, &groups, &order)?;
        Ok(Self { buffer, order, blocks })
    }

    fn plan(buffer: &EntryBuffer, groups: &[KeyGroup], order: &[u32]) -> Result<Vec<PlannedBlock>, SortError> {
        let mut blocks: Vec<PlannedBlock> = Vec::new();
        for (at, index) in order.iter().enumerate() {
            let Some(group) = groups.get(*index as usize).copied() else { continue };
            let size = buffer.entry(*index as usize).len();
            let fits = |block: &PlannedBlock| block.group == group && block.bytes as usize + size <= BLOCK_BYTES;
            match blocks.last_mut().filter(|block| fits(block)) {
                Some(block) => {
                    block.entries.end += 1;
                    block.bytes += size as u32;
                }
                None => {
                    let bytes = u32::try_from(size).map_err(|_| SortError::TooLarge(size))?;
                    blocks.push(PlannedBlock { group, entries: at..at + 1, bytes });
                }
            }
        }
        Ok(blocks)
    }
}
