//! Encoded entries of a keyed table, on their way into a file.

use std::any::type_name;

use perennial_types::{DecodeError, Key, KeyGroup, MaxParallelism, Record, key_group};

/// Entries of one table, encoded one after the other: key, then value, in the layout of [`Record`].
///
/// Types are known when it is made and forgotten afterwards, so that it can be handed to a thread that writes files; only
/// the way from an entry to its key group is kept, since key groups are computed there.
pub struct EntryBuffer {
    key_type: &'static str,
    value_type: &'static str,
    /// Bytes of every entry, when they are all the same.
    fixed: Option<usize>,
    bytes: Vec<u8>,
    /// Where each entry ends. Empty when all have the same size.
    ends: Vec<usize>,
    count: usize,
    key_hash: fn(&[u8]) -> Result<u32, DecodeError>,
}

impl EntryBuffer {
    /// A buffer for entries of these types.
    pub fn new<K: Key, V: Record>() -> Self {
        let fixed = match (K::FIXED_BYTES, V::FIXED_BYTES) {
            (Some(key), Some(value)) => Some(key + value),
            _ => None,
        };
        Self {
            key_type: type_name::<K>(),
            value_type: type_name::<V>(),
            fixed,
            bytes: Vec::new(),
            ends: Vec::new(),
            count: 0,
            key_hash: |mut entry| K::decode(&mut entry).map(|key| key.key_hash()),
        }
    }

    /// Makes room for so many more entries, as far as their size is known.
    pub fn reserve(&mut self, entries: usize) {
        match self.fixed {
            Some(size) => self.bytes.reserve(entries.saturating_mul(size)),
            None => self.ends.reserve(entries),
        }
    }

    /// Appends an entry of the types the buffer was made for.
    #[inline]
    pub fn push<K: Key, V: Record>(&mut self, key: &K, value: &V) {
        debug_assert_eq!((type_name::<K>(), type_name::<V>()), (self.key_type, self.value_type));
        self.push_with(key, |out| value.encode(out));
    }

    /// Appends an entry whose value is not there as a whole: `encode` appends what a value of the type the buffer was made for would.
    #[inline]
    pub fn push_with<K: Key>(&mut self, key: &K, encode: impl FnOnce(&mut Vec<u8>)) {
        key.encode(&mut self.bytes);
        encode(&mut self.bytes);
        if self.fixed.is_none() {
            self.ends.push(self.bytes.len());
        }
        self.count += 1;
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Bytes of all entries.
    pub fn bytes(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// Name of the key's type, as the compiler gives it.
    pub fn key_type(&self) -> &'static str {
        self.key_type
    }

    /// Name of the value's type, as the compiler gives it.
    pub fn value_type(&self) -> &'static str {
        self.value_type
    }

    /// Entry `index`; empty beyond the last.
    pub(crate) fn entry(&self, index: usize) -> &[u8] {
        let (start, end) = match self.fixed {
            Some(size) => (index * size, (index + 1) * size),
            None => {
                let end = |index: usize| self.ends.get(index).copied().unwrap_or(0);
                (index.checked_sub(1).map_or(0, end), end(index))
            }
        };
        self.bytes.get(start..end).unwrap_or_default()
    }

    /// The key group of each entry, in order.
    pub(crate) fn key_groups(
        &self,
        max_parallelism: MaxParallelism,
    ) -> impl Iterator<Item = Result<KeyGroup, DecodeError>> {
        (0..self.count).map(move |index| Ok(key_group((self.key_hash)(self.entry(index))?, max_parallelism)))
    }
}
