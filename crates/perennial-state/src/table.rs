//! A table from key to value that is asked for whole batches of records.
//!
//! **The problem.** With more keys than the caches hold, a hash map spends its time waiting for memory, one record after the other:
//! 25 ns each at a million keys. Batches allow better: the memory of many records can be on its way at the same time.
//!
//! **The shape.** Entries lie dense in a `Vec`, and an open-addressing index of `u32` points into it. A mini-batch goes through
//! stages, each a short loop over its records without dependencies between them, so that the processor runs ahead and
//! has many cache lines in flight: hash all keys, read all index slots, compare all entries, and only then update in order.
//! The few records that do not find their key in its first slot are noted without a branch and looked for again afterwards;
//! so nothing is mispredicted per record, which matters as much when everything is in the cache. All of it is safe code.
//!
//! **Shards, not key groups.** A table is divided by the upper bits of the in-memory hash into shards of bounded size, which
//! split one at a time as extendible hashing does: growing never stops a task for longer than it takes to
//! split one shard, whatever the number of key groups. Key groups exist where they mean something: in routing, and in files, whose
//! writer asks each key for its group. One table per key group, the obvious way, costs a second hash per record (the
//! group's bits must not choose the slot too) and makes its units too large or too many, as max-parallelism happens to be.

use std::hash::BuildHasher;

use foldhash::fast::RandomState;
use perennial_types::Key;

use crate::KeySelector;

/// Most records [`KeyedTable::locate`] takes at once: enough memory accesses in flight, little enough for the innermost cache.
pub const MINI_BATCH: usize = 128;

/// Entries at which a shard splits. Bounds the longest stop of a task for growing to about a millisecond.
const SHARD_ENTRIES_MAX: usize = 1 << 15;

/// Number of splits after which a shard only grows: reached by none but a broken hash.
const DEPTH_MAX: u32 = 24;

/// Smallest index.
const INDEX_MIN: usize = 64;

/// Slots up to which an index keeps three quarters of them empty instead of half: it costs little memory and nearly every key
/// is then in its first slot.
const SPARSE_SLOTS_MAX: usize = 1 << 14;

const FRESH: u32 = 1 << 31;

/// Where the entries of one mini-batch are.
pub struct Found {
    hashes: [u64; MINI_BATCH],
    shards: [u32; MINI_BATCH],
    /// Number of the entry, with [`FRESH`] when the record at hand made it.
    entries: [u32; MINI_BATCH],
    misses: [u8; MINI_BATCH],
}

impl Default for Found {
    fn default() -> Self {
        Self { hashes: [0; MINI_BATCH], shards: [0; MINI_BATCH], entries: [0; MINI_BATCH], misses: [0; MINI_BATCH] }
    }
}

struct Shard<K, V> {
    /// Number of an entry plus one, or 0. Its length is a power of two.
    index: Vec<u32>,
    entries: Vec<(K, V)>,
    /// How many upper bits of the hash all its entries have in common.
    depth: u32,
}

/// Keyed state of one operator in one subtask: a value per key.
pub struct KeyedTable<K, V> {
    hasher: RandomState,
    shards: Vec<Shard<K, V>>,
    /// Shard of each value of the upper `depth` bits of a hash.
    directory: Vec<u32>,
    depth: u32,
    /// A shard that has grown past its size and splits before the next mini-batch.
    overfull: Option<usize>,
}

impl<K: Key, V> Default for KeyedTable<K, V> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K: Key, V> KeyedTable<K, V> {
    /// An empty table.
    pub fn new() -> Self {
        Self {
            hasher: RandomState::default(),
            shards: vec![Shard::new(INDEX_MIN, 0)],
            directory: vec![0],
            depth: 0,
            overfull: None,
        }
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.entries.len()).sum()
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.shards.iter().all(|shard| shard.entries.is_empty())
    }

    /// All entries, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.shards.iter().flat_map(|shard| shard.entries.iter().map(|(key, value)| (key, value)))
    }

    #[inline(always)]
    fn shard_of(&self, hash: u64) -> usize {
        // The upper `depth` bits.
        let upper = hash.rotate_left(self.depth) as usize & (self.directory.len() - 1);
        self.directory.get(upper).map_or(0, |shard| *shard as usize)
    }

    /// The value of a key.
    pub fn get(&self, key: &K) -> Option<&V> {
        let hash = self.hasher.hash_one(key);
        let shard = self.shards.get(self.shard_of(hash))?;
        let entry = shard.find(hash, key).ok()?;
        shard.entries.get(entry).map(|(_, value)| value)
    }

    /// Sets the value of a key and returns the one it had.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        self.split_overfull();
        let hash = self.hasher.hash_one(&key);
        let at = self.shard_of(hash);
        let shard = self.shards.get_mut(at)?;
        match shard.find(hash, &key) {
            Ok(entry) => shard.entries.get_mut(entry).map(|(_, old)| std::mem::replace(old, value)),
            Err(_) => {
                shard.add(hash, key, value, &self.hasher);
                self.note_growth(at);
                None
            }
        }
    }

    /// Removes a key and returns its value.
    pub fn remove(&mut self, key: &K) -> Option<V> {
        let hash = self.hasher.hash_one(key);
        let at = self.shard_of(hash);
        let shard = self.shards.get_mut(at)?;
        let entry = shard.find(hash, key).ok()?;
        Some(shard.take(entry, hash, &self.hasher))
    }

    fn note_growth(&mut self, at: usize) {
        if let Some(shard) = self.shards.get(at)
            && shard.entries.len() > SHARD_ENTRIES_MAX
            && shard.depth < DEPTH_MAX
        {
            self.overfull = Some(at);
        }
    }

    /// Finds the entries of up to [`MINI_BATCH`] records and makes those that are missing with `init`.
    ///
    /// `found` is valid until the next call of a method that takes the table mutably, except [`KeyedTable::at`].
    #[inline]
    #[expect(clippy::indexing_slicing, reason = "measured loops; arrays are MINI_BATCH long, slots are masked")]
    pub fn locate<T, S: KeySelector<T, Key = K>>(
        &mut self,
        records: &[T],
        selector: &S,
        mut init: impl FnMut(&T) -> V,
        found: &mut Found,
    ) {
        use std::borrow::Borrow;
        self.split_overfull();
        let records = &records[..records.len().min(MINI_BATCH)];
        for (hash, record) in found.hashes.iter_mut().zip(records) {
            *hash = self.hasher.hash_one(selector.key(record).borrow());
        }
        let mut misses = 0;
        if let [shard] = self.shards.as_slice() {
            found.shards[..records.len()].fill(0);
            let (index, entries) = (shard.index.as_slice(), shard.entries.as_slice());
            for (entry, hash) in found.entries.iter_mut().zip(&found.hashes[..records.len()]) {
                *entry = index[*hash as usize & (index.len() - 1)].wrapping_sub(1);
            }
            for (i, record) in records.iter().enumerate() {
                let hit =
                    entries.get(found.entries[i] as usize).is_some_and(|(key, _)| key == selector.key(record).borrow());
                found.misses[misses] = i as u8;
                misses += usize::from(!hit);
            }
        } else {
            for i in 0..records.len() {
                let hash = found.hashes[i];
                let at = self.shard_of(hash);
                let index = self.shards[at].index.as_slice();
                found.shards[i] = at as u32;
                found.entries[i] = index[hash as usize & (index.len() - 1)].wrapping_sub(1);
            }
            for (i, record) in records.iter().enumerate() {
                let entry = self.shards[found.shards[i] as usize].entries.get(found.entries[i] as usize);
                let hit = entry.is_some_and(|(key, _)| key == selector.key(record).borrow());
                found.misses[misses] = i as u8;
                misses += usize::from(!hit);
            }
        }
        for miss in 0..misses {
            let i = usize::from(found.misses[miss]);
            let (hash, at) = (found.hashes[i], found.shards[i] as usize);
            let key = selector.key(&records[i]);
            let shard = &mut self.shards[at];
            found.entries[i] = match shard.find(hash, key.borrow()) {
                Ok(entry) => entry as u32,
                Err(_) => {
                    let entry = shard.add(hash, S::into_key(key), init(&records[i]), &self.hasher);
                    self.note_growth(at);
                    entry as u32 | FRESH
                }
            };
        }
    }

    /// The entry of record `i` of the mini-batch last located: its key, its value, and whether the record made it.
    #[inline(always)]
    pub fn at(&mut self, found: &Found, i: usize) -> Option<(&K, &mut V, bool)> {
        let entry = *found.entries.get(i)?;
        let shard = self.shards.get_mut(*found.shards.get(i)? as usize)?;
        let (key, value) = shard.entries.get_mut((entry & !FRESH) as usize)?;
        Some((key, value, entry & FRESH != 0))
    }

    fn split_overfull(&mut self) {
        if let Some(at) = self.overfull.take() {
            self.split(at);
        }
    }

    /// Divides a shard by one more bit of the hash.
    #[cold]
    fn split(&mut self, at: usize) {
        if let Some(shard) = self.shards.get(at)
            && shard.depth == self.depth
        {
            self.directory = self.directory.iter().flat_map(|shard| [*shard, *shard]).collect();
            self.depth += 1;
        }
        let Some(shard) = self.shards.get_mut(at) else { return };
        let depth = shard.depth + 1;
        let bit = 1u64 << (64 - depth);
        let slots = shard.index.len();
        let mut low = Shard::new(slots, depth);
        let mut high = Shard::new(slots, depth);
        for (key, value) in std::mem::take(&mut shard.entries) {
            let hash = self.hasher.hash_one(&key);
            if hash & bit == 0 { &mut low } else { &mut high }.add(hash, key, value, &self.hasher);
        }
        *shard = low;
        let new = self.shards.len() as u32;
        self.shards.push(high);
        // The entries of a shard lie side by side; the second half of them is now the new shard's.
        let mine: Vec<&mut u32> = self.directory.iter_mut().filter(|shard| **shard as usize == at).collect();
        let half = mine.len() / 2;
        mine.into_iter().skip(half).for_each(|shard| *shard = new);
    }
}

impl<K: Key, V> Shard<K, V> {
    fn new(slots: usize, depth: u32) -> Self {
        Self { index: vec![0; slots], entries: Vec::new(), depth }
    }

    fn mask(&self) -> usize {
        self.index.len() - 1
    }

    /// The number of the key's entry, or the slot where it would go.
    fn find(&self, hash: u64, key: &K) -> Result<usize, usize> {
        let mut slot = hash as usize & self.mask();
        loop {
            let Some(entry) = self.index.get(slot).and_then(|entry| entry.checked_sub(1)) else { return Err(slot) };
            match self.entries.get(entry as usize) {
                Some((other, _)) if other == key => return Ok(entry as usize),
                _ => slot = (slot + 1) & self.mask(),
            }
        }
    }

    /// Adds an entry whose key is not there and returns its number.
    fn add(&mut self, hash: u64, key: K, value: V, hasher: &RandomState) -> usize {
        let dense = self.index.len() > SPARSE_SLOTS_MAX;
        let most = if dense { self.index.len() / 2 } else { self.index.len() / 4 };
        if self.entries.len() >= most {
            self.grow(hasher);
        }
        let entry = self.entries.len();
        self.entries.push((key, value));
        self.link(hash, entry);
        entry
    }

    /// Enters an entry into the first free slot for its hash.
    fn link(&mut self, hash: u64, entry: usize) {
        let mask = self.mask();
        let mut slot = hash as usize & mask;
        while let Some(taken) = self.index.get_mut(slot) {
            if *taken == 0 {
                *taken = entry as u32 + 1;
                return;
            }
            slot = (slot + 1) & mask;
        }
    }

    #[cold]
    fn grow(&mut self, hasher: &RandomState) {
        self.index = vec![0; self.index.len() * 2];
        for entry in 0..self.entries.len() {
            if let Some((key, _)) = self.entries.get(entry) {
                self.link(hasher.hash_one(key), entry);
            }
        }
    }

    /// The slot that holds this entry.
    fn slot_of(&self, hash: u64, entry: usize) -> usize {
        let mut slot = hash as usize & self.mask();
        while self.index.get(slot).is_some_and(|at| *at != entry as u32 + 1) {
            slot = (slot + 1) & self.mask();
        }
        slot
    }

    /// Removes an entry. The last one takes its number.
    fn take(&mut self, entry: usize, hash: u64, hasher: &RandomState) -> V {
        let mask = self.mask();
        let mut hole = self.slot_of(hash, entry);
        let last = self.entries.len() - 1;
        if let Some((key, _)) = self.entries.get(last)
            && last != entry
        {
            let slot = self.slot_of(hasher.hash_one(key), last);
            if let Some(at) = self.index.get_mut(slot) {
                *at = entry as u32 + 1;
            }
        }
        let (_, value) = self.entries.swap_remove(entry);
        // Close the hole: pull back every later entry of the run that may stand there (Knuth 6.4, algorithm R).
        let mut slot = hole;
        loop {
            slot = (slot + 1) & mask;
            let Some(number) = self.index.get(slot).and_then(|at| at.checked_sub(1)) else { break };
            let Some((key, _)) = self.entries.get(number as usize) else { break };
            let home = hasher.hash_one(key) as usize & mask;
            if (slot.wrapping_sub(home) & mask) >= (slot.wrapping_sub(hole) & mask) {
                if let Some(at) = self.index.get_mut(hole) {
                    *at = number + 1;
                }
                hole = slot;
            }
        }
        if let Some(at) = self.index.get_mut(hole) {
            *at = 0;
        }
        value
    }
}
