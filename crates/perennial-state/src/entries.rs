//! Encoded entries of keyed state, on their way into a file.

use std::any::type_name;
use std::io;
use std::sync::mpsc::{Receiver, Sender, channel};

use perennial_types::{DecodeError, Key, KeyGroup, MaxParallelism, Record, key_group};

/// Bytes after which a piece of entries is handed on: small enough to be had from what was freed before, and much more than an entry.
const CHUNK_BYTES: usize = 256 << 10;

/// What is known of entries when their types are forgotten, so that they can be handed to a thread that writes files.
///
/// Only the way from an entry to its key group is kept, since key groups are computed there.
#[derive(Debug, Clone, Copy)]
pub(crate) struct EntryLayout {
    /// Name of the key's type, as the compiler gives it.
    pub(crate) key_type: &'static str,
    /// Name of the value's type, as the compiler gives it.
    pub(crate) value_type: &'static str,
    /// Bytes of every entry, when they are all the same.
    fixed: Option<usize>,
    key_hash: fn(&[u8]) -> Result<u32, DecodeError>,
}

impl EntryLayout {
    fn of<K: Key, V: Record>() -> Self {
        let fixed = match (K::FIXED_BYTES, V::FIXED_BYTES) {
            (Some(key), Some(value)) => Some(key + value).filter(|size| *size > 0),
            _ => None,
        };
        let key_hash = |mut entry: &[u8]| K::decode(&mut entry).map(|key| key.key_hash());
        Self { key_type: type_name::<K>(), value_type: type_name::<V>(), fixed, key_hash }
    }

    /// The key group of an encoded entry.
    pub(crate) fn key_group(&self, entry: &[u8], of: MaxParallelism) -> Result<KeyGroup, DecodeError> {
        Ok(key_group((self.key_hash)(entry)?, of))
    }
}

/// Some entries, one after the other: key, then value, in the layout of [`Record`].
#[derive(Default)]
struct Chunk {
    bytes: Vec<u8>,
    /// Where each entry ends; empty when all have the same size.
    ends: Vec<usize>,
}

impl Chunk {
    /// Appends an entry; returns whether it is full now.
    #[inline]
    fn push<K: Key>(&mut self, fixed: Option<usize>, key: &K, encode: impl FnOnce(&mut Vec<u8>)) -> bool {
        key.encode(&mut self.bytes);
        encode(&mut self.bytes);
        if fixed.is_none() {
            self.ends.push(self.bytes.len());
        }
        self.bytes.len() >= CHUNK_BYTES || self.ends.len() >= CHUNK_BYTES
    }

    /// Leaves an empty one that expects as much.
    fn take_full(&mut self) -> Self {
        let next = Self { bytes: Vec::with_capacity(self.bytes.len()), ends: Vec::with_capacity(self.ends.len()) };
        std::mem::replace(self, next)
    }

    fn for_each(&self, fixed: Option<usize>, each: &mut dyn FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
        if let Some(size) = fixed {
            return self.bytes.chunks_exact(size).try_for_each(each);
        }
        let mut start = 0;
        for end in &self.ends {
            each(self.bytes.get(start..*end).unwrap_or_default())?;
            start = *end;
        }
        Ok(())
    }
}

/// Entries that are all there.
pub struct EntryBuffer {
    layout: EntryLayout,
    full: Vec<Chunk>,
    open: Chunk,
    count: usize,
}

impl EntryBuffer {
    /// A buffer for entries of these types.
    pub fn new<K: Key, V: Record>() -> Self {
        Self { layout: EntryLayout::of::<K, V>(), full: Vec::new(), open: Chunk::default(), count: 0 }
    }

    /// Appends an entry of the types the buffer was made for.
    #[inline]
    pub fn push<K: Key, V: Record>(&mut self, key: &K, value: &V) {
        debug_assert_eq!((type_name::<K>(), type_name::<V>()), (self.layout.key_type, self.layout.value_type));
        self.push_with(key, |out| value.encode(out));
    }

    /// Appends an entry whose value is not there as a whole: `encode` appends what a value of the type the buffer was made for would.
    #[inline]
    pub fn push_with<K: Key>(&mut self, key: &K, encode: impl FnOnce(&mut Vec<u8>)) {
        self.count += 1;
        if self.open.push(self.layout.fixed, key, encode) {
            self.full.push(self.open.take_full());
        }
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }
}

/// Entries for a file: those of a buffer, or those that a table's sweep finds.
pub struct Entries {
    layout: EntryLayout,
    there: Vec<Chunk>,
    coming: Option<Receiver<Piece>>,
}

enum Piece {
    Chunk(Chunk),
    End,
}

/// Entries were promised and will not come.
#[derive(Debug, thiserror::Error)]
#[error("the task ended before its snapshot did")]
struct BrokenOff;

impl Entries {
    pub(crate) fn layout(&self) -> EntryLayout {
        self.layout
    }

    /// Hands out every encoded entry, in no order. Waits for those that are still to come; an error is that they never will.
    pub(crate) fn for_each(self, mut each: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
        let fixed = self.layout.fixed;
        for chunk in self.there {
            chunk.for_each(fixed, &mut each)?;
        }
        let Some(coming) = self.coming else { return Ok(()) };
        loop {
            match coming.recv() {
                Ok(Piece::Chunk(chunk)) => chunk.for_each(fixed, &mut each)?,
                Ok(Piece::End) => return Ok(()),
                Err(_) => return Err(io::Error::other(BrokenOff)),
            }
        }
    }
}

impl From<EntryBuffer> for Entries {
    fn from(buffer: EntryBuffer) -> Self {
        let EntryBuffer { layout, full: mut there, open, .. } = buffer;
        there.push(open);
        Self { layout, there, coming: None }
    }
}

/// Where a sweep puts the entries it finds.
pub(crate) struct Outlet {
    open: Chunk,
    fixed: Option<usize>,
    to: Sender<Piece>,
}

impl Outlet {
    /// An outlet, and where its entries come out.
    pub(crate) fn new<K: Key, V: Record>() -> (Self, Entries) {
        let layout = EntryLayout::of::<K, V>();
        let (to, coming) = channel();
        let outlet = Self { open: Chunk::default(), fixed: layout.fixed, to };
        (outlet, Entries { layout, there: Vec::new(), coming: Some(coming) })
    }

    /// Takes an entry of the types it was made for; returns how many bytes it has.
    #[inline]
    pub(crate) fn push<K: Key, V: Record>(&mut self, key: &K, value: &V) -> usize {
        let before = self.open.bytes.len();
        let is_full = self.open.push(self.fixed, key, |out| value.encode(out));
        let bytes = self.open.bytes.len() - before;
        if is_full {
            let full = self.open.take_full();
            self.send(Piece::Chunk(full));
        }
        bytes
    }

    /// There are no more.
    pub(crate) fn end(mut self) {
        let last = std::mem::take(&mut self.open);
        self.send(Piece::Chunk(last));
        self.send(Piece::End);
    }

    fn send(&self, piece: Piece) {
        // Nobody wants them any more: the checkpoint has been given up.
        let _ = self.to.send(piece);
    }
}
