//! A table from key to value that is asked for whole batches of records.
//!
//! **The problem.** With more keys than the caches hold, a hash map spends its time waiting for memory, one record after the other.
//! Batches allow better: the memory of many records can be on its way at the same time.
//!
//! **The shape.** Entries lie in open-addressing slots, so that a key costs one cache line. A mini-batch goes
//! through short loops: the first asks for the cache lines where the keys should be, the second compares, the last updates in
//! order. In the first two, records do not depend on each other and nothing branches on what is found. The few records whose
//! key is not where it should be are noted, again without a branch, and looked for in between, all of them one slot further
//! at a time. An index beside dense entries was measured too: twice the waiting at a million keys, for the index is as far
//! away as the entries are.
//!
//! **Shards, not key groups.** A table is divided by the upper bits of the in-memory hash into shards of bounded size, which
//! split one at a time as extendible hashing does: growing never stops a task for longer than it takes to
//! split one shard, whatever the number of key groups. Key groups exist where they mean something: in routing, and in files, whose
//! writer asks each key for its group. One table per key group, the obvious way, costs a second hash per record (the
//! group's bits must not choose the slot too) and makes its units too large or too many, as max-parallelism happens to be.

use std::borrow::Borrow;
use std::hash::BuildHasher;
use std::vec::Drain;

use foldhash::fast::RandomState;
use perennial_types::Key;

use crate::KeySelector;
use crate::prefetch::prefetch;

/// Most records [`KeyedTable::locate`] takes at once: enough memory accesses in flight, little enough for the innermost cache.
pub const MINI_BATCH: usize = 128;

/// Slots of a new table. More than twice [`MINI_BATCH`], so that a mini-batch of new keys fits above the load limit.
const SLOTS_MIN: usize = 4 * MINI_BATCH;

/// Slots at which a shard splits instead of growing. Bounds the longest stop of a task for growing to a millisecond or two.
const SLOTS_MAX: usize = 1 << 16;

/// Most slots of a shard of which three quarters stay free.
const SPARSE_SLOTS_MAX: usize = 1 << 10;

/// Number of splits after which a shard only grows: reached by none but a broken hash.
const DEPTH_MAX: u32 = 24;

/// Set in the place of a record that made its entry.
const FRESH: u32 = 1 << 31;

/// Where the entries of one mini-batch are.
pub struct Found {
    shards: [u32; MINI_BATCH],
    /// Number of the slot, with [`FRESH`] when the record at hand made the entry.
    slots: [u32; MINI_BATCH],
    /// Records whose key was not in the slot looked at.
    misses: [u8; MINI_BATCH],
    /// Records whose key was in none.
    news: [u8; MINI_BATCH],
}

impl Default for Found {
    fn default() -> Self {
        Self { shards: [0; MINI_BATCH], slots: [0; MINI_BATCH], misses: [0; MINI_BATCH], news: [0; MINI_BATCH] }
    }
}

struct Shard<K, V> {
    /// Its length is a power of two.
    slots: Vec<Option<(K, V)>>,
    len: usize,
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
    /// Shards above their load limit. They grow or split before the next mini-batch, never during one, for entries stay where
    /// they were found.
    overfull: Vec<usize>,
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
            shards: vec![Shard::new(SLOTS_MIN, 0)],
            directory: vec![0],
            depth: 0,
            overfull: Vec::new(),
        }
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.len).sum()
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.shards.iter().all(|shard| shard.len == 0)
    }

    /// All entries, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.shards.iter().flat_map(|shard| shard.slots.iter().flatten().map(|(key, value)| (key, value)))
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
        let slot = shard.find(hash, key).ok()?;
        shard.slots.get(slot)?.as_ref().map(|(_, value)| value)
    }

    /// Sets the value of a key and returns the one it had.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        self.make_room();
        let hash = self.hasher.hash_one(&key);
        let at = self.shard_of(hash);
        let shard = self.shards.get_mut(at)?;
        match shard.find(hash, &key) {
            Ok(slot) => shard.slots.get_mut(slot)?.replace((key, value)).map(|(_, old)| old),
            Err(slot) => {
                shard.put(slot, key, value);
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
        let slot = shard.find(hash, key).ok()?;
        shard.take(slot, &self.hasher)
    }

    fn note_growth(&mut self, at: usize) {
        if self.shards.get(at).is_some_and(Shard::is_overfull) && !self.overfull.contains(&at) {
            self.overfull.push(at);
        }
    }

    fn make_room(&mut self) {
        while let Some(at) = self.overfull.pop() {
            self.grow(at);
        }
    }

    /// Finds the entries of up to [`MINI_BATCH`] records and makes those that are missing with `init`.
    ///
    /// `found` is valid until the next call of a method that takes the table mutably, except [`KeyedTable::update`] and
    /// [`KeyedTable::at`].
    #[inline]
    #[expect(clippy::indexing_slicing, reason = "measured loops; arrays are MINI_BATCH long, slots are masked")]
    pub fn locate<T, S: KeySelector<T, Key = K>>(
        &mut self,
        records: &[T],
        selector: &S,
        mut init: impl FnMut(&T) -> V,
        found: &mut Found,
    ) {
        if !self.overfull.is_empty() {
            self.make_room();
        }
        let records = &records[..records.len().min(MINI_BATCH)];
        let single = self.shards.len() == 1;
        let mut misses = 0;
        if let [shard] = self.shards.as_slice() {
            let slots = shard.slots.as_slice();
            for (i, record) in records.iter().enumerate() {
                let key = selector.key(record);
                let slot = self.hasher.hash_one(key.borrow()) as usize & (slots.len() - 1);
                let hit = slots[slot].as_ref().is_some_and(|(other, _)| other == key.borrow());
                found.slots[i] = slot as u32;
                found.misses[misses & (MINI_BATCH - 1)] = i as u8;
                misses += usize::from(!hit);
            }
        } else {
            for (i, record) in records.iter().enumerate() {
                let hash = self.hasher.hash_one(selector.key(record).borrow());
                let at = self.shard_of(hash);
                let slots = self.shards[at].slots.as_slice();
                let slot = hash as usize & (slots.len() - 1);
                prefetch(&slots[slot]);
                found.shards[i] = at as u32;
                found.slots[i] = slot as u32;
            }
            for (i, record) in records.iter().enumerate() {
                let slots = self.shards[found.shards[i] as usize].slots.as_slice();
                let key = selector.key(record);
                let hit = slots[found.slots[i] as usize].as_ref().is_some_and(|(other, _)| other == key.borrow());
                found.misses[misses & (MINI_BATCH - 1)] = i as u8;
                misses += usize::from(!hit);
            }
        }
        // One step further along the run for all of them at once, until few are left.
        let mut news = 0;
        while misses > 0 {
            let mut left = 0;
            for miss in 0..misses {
                let i = usize::from(found.misses[miss]);
                let key = selector.key(&records[i]);
                let slots = self.shards[if single { 0 } else { found.shards[i] as usize }].slots.as_slice();
                let empty = slots[found.slots[i] as usize].is_none();
                let slot = (found.slots[i] as usize + usize::from(!empty)) & (slots.len() - 1);
                let hit = slots[slot].as_ref().is_some_and(|(other, _)| other == key.borrow());
                found.slots[i] = slot as u32;
                found.misses[left] = i as u8;
                left += usize::from(!hit & !empty);
                found.news[news & (MINI_BATCH - 1)] = i as u8;
                news += usize::from(empty);
            }
            misses = left;
        }
        for new in 0..news {
            let i = usize::from(found.news[new]);
            let key = selector.key(&records[i]);
            let at = if single { 0 } else { found.shards[i] as usize };
            let shard = &mut self.shards[at];
            // An earlier record of the mini-batch may have made it.
            found.slots[i] = match shard.find_from(found.slots[i] as usize, key.borrow()) {
                Ok(slot) => slot as u32,
                Err(slot) => {
                    shard.put(slot, S::into_key(key), init(&records[i]));
                    self.note_growth(at);
                    slot as u32 | FRESH
                }
            };
        }
    }

    /// Calls `update` with the entry of each of the first `count` records of the mini-batch last located, in their order, and
    /// appends what it returns to `out`. Its arguments are key, value, whether the record made the entry, and the record.
    #[inline]
    #[expect(clippy::indexing_slicing, reason = "measured loops; `found` comes from `locate`")]
    pub fn update<T, O>(
        &mut self,
        found: &Found,
        count: usize,
        records: &mut Drain<'_, T>,
        out: &mut Vec<O>,
        mut update: impl FnMut(&K, &mut V, bool, T) -> O,
    ) {
        const HERE: &str = "located entries and records are there until the next mini-batch";
        let places = &found.slots[..count];
        // Iterators of known length: the vector's length is written once.
        if let [shard] = self.shards.as_mut_slice() {
            let slots = shard.slots.as_mut_slice();
            out.extend(places.iter().map(|place| {
                let (key, value) = slots[(place & !FRESH) as usize].as_mut().expect(HERE);
                update(key, value, place & FRESH != 0, records.next().expect(HERE))
            }));
        } else {
            let shards = self.shards.as_mut_slice();
            out.extend(places.iter().zip(&found.shards[..count]).map(|(place, shard)| {
                let slots = shards[*shard as usize].slots.as_mut_slice();
                let (key, value) = slots[(place & !FRESH) as usize].as_mut().expect(HERE);
                update(key, value, place & FRESH != 0, records.next().expect(HERE))
            }));
        }
    }

    /// The entry of record `i` of the mini-batch last located.
    #[inline(always)]
    pub fn at(&mut self, found: &Found, i: usize) -> Option<(&K, &mut V)> {
        let at = if self.shards.len() == 1 { 0 } else { *found.shards.get(i)? as usize };
        let slot = found.slots.get(i)? & !FRESH;
        let (key, value) = self.shards.get_mut(at)?.slots.get_mut(slot as usize)?.as_mut()?;
        Some((key, value))
    }

    /// Doubles a small shard, divides a large one by one more bit of the hash.
    #[cold]
    fn grow(&mut self, at: usize) {
        let Some(shard) = self.shards.get_mut(at) else { return };
        let (slots, depth) = (shard.slots.len(), shard.depth + 1);
        let old = std::mem::take(&mut shard.slots);
        if slots < SLOTS_MAX || depth > DEPTH_MAX {
            *shard = Shard::new(slots * 2, depth - 1);
            for (key, value) in old.into_iter().flatten() {
                shard.add(self.hasher.hash_one(&key), key, value);
            }
            return;
        }
        let bit = 1u64 << (64 - depth);
        let (mut low, mut high) = (Shard::new(slots, depth), Shard::new(slots, depth));
        for (key, value) in old.into_iter().flatten() {
            let hash = self.hasher.hash_one(&key);
            if hash & bit == 0 { &mut low } else { &mut high }.add(hash, key, value);
        }
        *shard = low;
        let new = self.shards.len() as u32;
        self.shards.push(high);
        if depth > self.depth {
            self.directory = self.directory.iter().flat_map(|shard| [*shard, *shard]).collect();
            self.depth += 1;
        }
        // The places of a shard lie side by side; the second half of them is now the new shard's.
        let mine: Vec<&mut u32> = self.directory.iter_mut().filter(|shard| **shard as usize == at).collect();
        let half = mine.len() / 2;
        mine.into_iter().skip(half).for_each(|shard| *shard = new);
    }
}

impl<K: Key, V> Shard<K, V> {
    fn new(slots: usize, depth: u32) -> Self {
        Self { slots: std::iter::repeat_with(|| None).take(slots).collect(), len: 0, depth }
    }

    fn mask(&self) -> usize {
        self.slots.len() - 1
    }

    /// Whether more than half of the slots are taken, or a quarter of few slots: those cost little, and nearly every key is
    /// then in its first one.
    fn is_overfull(&self) -> bool {
        let slots = self.slots.len();
        self.len > if slots <= SPARSE_SLOTS_MAX { slots / 4 } else { slots / 2 }
    }

    /// The slot of the key, or the one where it would go.
    fn find(&self, hash: u64, key: &K) -> Result<usize, usize> {
        self.find_from(hash as usize & self.mask(), key)
    }

    #[inline]
    fn find_from(&self, home: usize, key: &K) -> Result<usize, usize> {
        let mut slot = home;
        loop {
            match self.slots.get(slot) {
                Some(Some((other, _))) if other == key => return Ok(slot),
                Some(Some(_)) => slot = (slot + 1) & self.mask(),
                _ => return Err(slot),
            }
        }
    }

    /// Fills a free slot. A mini-batch of new keys fits above the load limit, so one is always free.
    fn put(&mut self, slot: usize, key: K, value: V) {
        if let Some(free) = self.slots.get_mut(slot) {
            *free = Some((key, value));
            self.len += 1;
        }
    }

    /// Adds an entry whose key is not there.
    fn add(&mut self, hash: u64, key: K, value: V) {
        let mut slot = hash as usize & self.mask();
        while self.slots.get(slot).is_some_and(Option::is_some) {
            slot = (slot + 1) & self.mask();
        }
        self.put(slot, key, value);
    }

    /// Empties a slot and closes the hole in its run (Knuth 6.4, algorithm R).
    fn take(&mut self, slot: usize, hasher: &RandomState) -> Option<V> {
        let (_, value) = self.slots.get_mut(slot)?.take()?;
        self.len -= 1;
        let mask = self.mask();
        let (mut hole, mut slot) = (slot, slot);
        loop {
            slot = (slot + 1) & mask;
            let Some(Some((key, _))) = self.slots.get(slot) else { break };
            let home = hasher.hash_one(key) as usize & mask;
            if (slot.wrapping_sub(home) & mask) >= (slot.wrapping_sub(hole) & mask) {
                self.slots.swap(hole, slot);
                hole = slot;
            }
        }
        Some(value)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;
    use crate::{ByOwned, ByRef};

    #[derive(Debug, Clone)]
    enum Step {
        /// Counts these keys as one batch.
        Count(Vec<u32>),
        Insert(u32, u64),
        Remove(u32),
    }

    fn steps(keys: u32) -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            4 => prop::collection::vec(0..keys, 0..300).prop_map(Step::Count),
            2 => (0..keys, any::<u64>()).prop_map(|(key, value)| Step::Insert(key, value >> 32)),
            4 => (0..keys).prop_map(Step::Remove),
        ];
        prop::collection::vec(step, 1..60)
    }

    /// Counts a batch and returns key, count and whether the key was new, per record.
    fn count<T: Clone, S: KeySelector<T>>(
        table: &mut KeyedTable<S::Key, u64>,
        selector: &S,
        batch: &[T],
    ) -> Vec<(S::Key, u64, bool)> {
        let (mut found, mut out) = (Found::default(), Vec::new());
        let mut batch = batch.to_vec();
        let mut records = batch.drain(..);
        while !records.as_slice().is_empty() {
            let mini = records.as_slice();
            let mini = &mini[..mini.len().min(MINI_BATCH)];
            let size = mini.len();
            table.locate(mini, selector, |_| 0, &mut found);
            table.update(&found, size, &mut records, &mut out, |key, value, fresh, _| {
                *value += 1;
                (key.clone(), *value, fresh)
            });
        }
        drop(records);
        out
    }

    fn check(steps: Vec<Step>) {
        let mut table = KeyedTable::<u32, u64>::new();
        let mut model = HashMap::<u32, u64>::new();
        let selector = ByOwned::new(|key: &u32| *key);
        for step in steps {
            match step {
                Step::Count(keys) => {
                    let got = count(&mut table, &selector, &keys);
                    for (key, (got_key, got, fresh)) in keys.iter().zip(got) {
                        assert_eq!(fresh, !model.contains_key(key));
                        let value = model.entry(*key).or_default();
                        *value += 1;
                        assert_eq!((got_key, got), (*key, *value));
                    }
                }
                Step::Insert(key, value) => assert_eq!(table.insert(key, value), model.insert(key, value)),
                Step::Remove(key) => assert_eq!(table.remove(&key), model.remove(&key)),
            }
            assert_eq!(table.len(), model.len());
        }
        let all: HashMap<u32, u64> = table.iter().map(|(key, value)| (*key, *value)).collect();
        assert_eq!(all, model);
        assert!(model.iter().all(|(key, value)| table.get(key) == Some(value)));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn a_table_is_a_hash_map(steps in prop_oneof![steps(40), steps(5_000)]) {
            check(steps);
        }
    }

    /// Enough keys that shards split several times, some before others.
    #[test]
    fn shards_split_and_nothing_moves_away() {
        let mut table = KeyedTable::<u64, u64>::new();
        let selector = ByOwned::new(|key: &u64| *key);
        let keys: Vec<u64> = (0..200_000).map(|i: u64| i.wrapping_mul(0x9e37_79b9_7f4a_7c15)).collect();
        for round in 1..=2 {
            for batch in keys.chunks(1_000) {
                for (key, (got, value, fresh)) in batch.iter().zip(count(&mut table, &selector, batch)) {
                    assert_eq!((got, value, fresh), (*key, round, round == 1));
                }
            }
            assert_eq!(table.len(), keys.len());
        }
        assert!(table.shards.len() > 4);
        for key in keys.iter().step_by(3) {
            assert_eq!(table.remove(key), Some(2));
        }
        assert!(keys.iter().enumerate().all(|(i, key)| table.get(key).copied() == (i % 3 != 0).then_some(2)));
    }

    #[test]
    fn keys_can_lie_in_the_record() {
        let mut table = KeyedTable::<String, u64>::new();
        let selector = ByRef::new(|record: &(String, u8)| &record.0);
        let batch: Vec<(String, u8)> = (0..1_000).map(|i| (format!("word {}", i % 7), 0)).collect();
        let last = count(&mut table, &selector, &batch);
        assert_eq!(table.len(), 7);
        assert_eq!(last.last(), Some(&("word 5".to_owned(), 143, false)));
    }
}
