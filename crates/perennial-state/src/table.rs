//! A table from key to value: the keyed state of one operator in one subtask.
//!
//! A Swiss table (hashbrown) with a quick hash (foldhash), asked once per record. Three other shapes were built and measured
//! against it, in the operator and alone, at a thousand and at a million keys: an index beside dense entries, open
//! addressing in shards that split one at a time, and both with whole batches looked up in stages and their cache
//! lines asked for ahead. Each was slower at both sizes, by a quarter to a half: one probe of a Swiss table touches one
//! line of control bytes and one of entries, the processor overlaps the probes of neighbouring records by itself, and stages
//! cost more than they hide. One table per key group was not built: it costs a second hash per record. Key groups exist
//! where they mean something, in routing and in files, whose writer asks each key for its group.
//!
//! The hash that places a key here is not the one that chose its subtask: within a subtask that one's bits are no longer
//! even.

use std::borrow::Borrow;
use std::hash::BuildHasher;

use foldhash::fast::RandomState;
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;
use perennial_types::{Key, Record};

use crate::{EntryBuffer, KeySelector};

/// Keyed state of one operator in one subtask: a value per key.
pub struct KeyedTable<K, V> {
    hasher: RandomState,
    entries: HashTable<(K, V)>,
}

impl<K: Key, V> Default for KeyedTable<K, V> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K: Key, V> KeyedTable<K, V> {
    /// An empty table.
    pub fn new() -> Self {
        Self { hasher: RandomState::default(), entries: HashTable::new() }
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Number of entries for which there is room.
    pub fn capacity(&self) -> usize {
        self.entries.capacity()
    }

    /// Removes all entries and keeps their room.
    pub fn clear(&mut self) {
        self.entries.clear();
    }

    /// The value of a key.
    pub fn get(&self, key: &K) -> Option<&V> {
        self.entries.find(self.hasher.hash_one(key), |(other, _)| other == key).map(|(_, value)| value)
    }

    /// The value of a key, to be changed in place.
    pub fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        self.entries.find_mut(self.hasher.hash_one(key), |(other, _)| other == key).map(|(_, value)| value)
    }

    /// The value of a key, made with `init` when there is none.
    pub fn get_or_insert_with(&mut self, key: &K, init: impl FnOnce() -> V) -> &mut V {
        let Self { hasher, entries } = self;
        let rehash = |(key, _): &(K, V)| hasher.hash_one(key);
        let entry = match entries.entry(hasher.hash_one(key), |(other, _)| other == key, rehash) {
            Entry::Occupied(entry) => entry,
            Entry::Vacant(vacant) => vacant.insert((key.clone(), init())),
        };
        &mut entry.into_mut().1
    }

    /// Removes a key and gives its value.
    pub fn remove(&mut self, key: &K) -> Option<V> {
        let entry = self.entries.find_entry(self.hasher.hash_one(key), |(other, _)| other == key).ok()?;
        Some(entry.remove().0.1)
    }

    /// All entries, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.entries.iter().map(|(key, value)| (key, value))
    }

    /// The entry of a record's key, made with `init` when there is none: key, value, and whether it was made.
    ///
    /// The key is cloned out of the record only when it is new.
    #[inline(always)]
    pub fn entry<T, S: KeySelector<T, Key = K>>(
        &mut self,
        record: &T,
        selector: &S,
        init: impl FnOnce(&T) -> V,
    ) -> (&K, &mut V, bool) {
        let Self { hasher, entries } = self;
        let key = selector.key(record);
        let hash = hasher.hash_one(key.borrow());
        let (entry, fresh) =
            match entries.entry(hash, |(other, _)| other == key.borrow(), |(key, _)| hasher.hash_one(key)) {
                Entry::Occupied(entry) => (entry, false),
                Entry::Vacant(vacant) => (vacant.insert((S::into_key(key), init(record))), true),
            };
        let (key, value) = entry.into_mut();
        (key, value, fresh)
    }
}

impl<K: Key, V: Record> KeyedTable<K, V> {
    /// What the table holds now; what is written afterwards is not in it.
    ///
    /// Encodes every entry before it returns: 2 to 5 ms for a million pairs of numbers.
    pub fn snapshot(&self) -> EntryBuffer {
        let mut buffer = EntryBuffer::new::<K, V>();
        buffer.reserve(self.entries.len());
        self.entries.iter().for_each(|(key, value)| buffer.push(key, value));
        buffer
    }

    /// Makes room for so many more entries.
    pub fn reserve(&mut self, entries: usize) {
        let Self { hasher, entries: table } = self;
        table.reserve(entries, |(key, _)| hasher.hash_one(key));
    }

    /// Sets the value of a key.
    pub fn insert(&mut self, key: K, value: V) {
        let Self { hasher, entries } = self;
        let hash = hasher.hash_one(&key);
        match entries.entry(hash, |(other, _)| *other == key, |(key, _)| hasher.hash_one(key)) {
            Entry::Occupied(mut entry) => entry.get_mut().1 = value,
            Entry::Vacant(vacant) => drop(vacant.insert((key, value))),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;
    use crate::{ByOwned, ByRef};

    proptest! {
        /// Counting keys in the table and in a map of the standard library gives the same, record by record.
        #[test]
        fn a_table_counts_as_a_hash_map_does(keys in prop::collection::vec(0u32..500, 0..5_000)) {
            let mut table = KeyedTable::<u32, u64>::new();
            let mut model = HashMap::<u32, u64>::new();
            let selector = ByOwned::new(|key: &u32| *key);
            for record in &keys {
                let (key, value, fresh) = table.entry(record, &selector, |_| 0);
                *value += 1;
                prop_assert_eq!(fresh, !model.contains_key(record));
                let count = model.entry(*record).or_default();
                *count += 1;
                prop_assert_eq!((*key, *value), (*record, *count));
            }
            prop_assert_eq!(table.len(), model.len());
            let all: HashMap<u32, u64> = table.iter().map(|(key, value)| (*key, *value)).collect();
            prop_assert_eq!(all, model);
        }
    }

    #[test]
    fn entries_are_found_changed_and_removed_by_key() {
        let mut table = KeyedTable::<String, u64>::new();
        let key = "a".to_owned();
        assert!(table.get(&key).is_none() && table.get_mut(&key).is_none() && table.remove(&key).is_none());
        *table.get_or_insert_with(&key, || 1) += 1;
        *table.get_or_insert_with(&key, || 1) += 1;
        *table.get_mut(&key).unwrap() += 1;
        assert_eq!((table.get(&key), table.len()), (Some(&4), 1));
        assert_eq!(table.remove(&key), Some(4));
        assert!(table.is_empty());
        table.insert(key.clone(), 5);
        let room = table.capacity();
        table.clear();
        assert!(table.is_empty() && table.get(&key).is_none() && room > 0);
        assert_eq!(table.capacity(), room);
    }

    #[test]
    fn keys_can_lie_in_the_record_and_are_cloned_once() {
        let mut table = KeyedTable::<String, u64>::new();
        assert!(table.is_empty());
        let selector = ByRef::new(|record: &(String, u8)| &record.0);
        let fresh = (0..1_000).filter(|i| {
            let (_, value, fresh) = table.entry(&(format!("word {}", i % 7), 0), &selector, |_| 0);
            *value += 1;
            fresh
        });
        assert_eq!(fresh.count(), 7);
        assert_eq!(table.len(), 7);
        assert_eq!(table.iter().map(|(_, count)| count).sum::<u64>(), 1_000);
    }

    #[test]
    fn a_snapshot_is_what_there_was_and_goes_back_into_a_table() {
        let mut table = KeyedTable::<u64, u64>::new();
        let selector = ByOwned::new(|key: &u64| *key);
        for key in 0..1_000u64 {
            *table.entry(&key, &selector, |_| 0).1 = key * 2;
        }
        let frozen = table.snapshot();
        for key in 500..2_000u64 {
            *table.entry(&key, &selector, |_| 0).1 = 7;
        }
        assert_eq!(frozen.len(), 1_000);
        let mut back = KeyedTable::<u64, u64>::new();
        back.reserve(1_000);
        for index in 0..frozen.len() {
            let mut entry = frozen.entry(index);
            let (key, value) = (u64::decode(&mut entry).unwrap(), u64::decode(&mut entry).unwrap());
            back.insert(key, 0);
            back.insert(key, value);
        }
        let all: HashMap<u64, u64> = back.iter().map(|(key, value)| (*key, *value)).collect();
        assert_eq!(all, (0..1_000).map(|key| (key, key * 2)).collect());
    }
}
