//! A table from key to value: the keyed state of one operator in one subtask.
//!
//! A Swiss table (hashbrown) with a quick hash (foldhash), asked once per record. Three other shapes were built and measured
//! against it, in the operator and alone, at a thousand and at a million keys: an index beside dense entries, open
//! addressing in shards that split one at a time, and both with whole batches looked up in stages and their cache
//! lines asked for ahead. Each was slower at both sizes, by a quarter to a half: one probe of a Swiss table touches one
//! line of control bytes and one of entries, the processor overlaps the probes of neighbouring records by itself, and stages
//! cost more than they hide. One table per key group was not built: it costs a second hash per record. Key groups exist
//! where they mean something, in routing and in files, whose writer asks each key for its group. How a table is written to a file
//! while it changes is in `sweep.rs`.
//!
//! The hash that places a key here is not the one that chose its subtask: within a subtask that one's bits are no longer
//! even.

use std::borrow::Borrow;
use std::hash::BuildHasher;
use std::time::Instant;

use foldhash::fast::RandomState;
use hashbrown::HashTable;
use hashbrown::hash_table::{Entry, OccupiedEntry};
use perennial_types::{Key, Record};

use crate::sweep::Marks;
use crate::{Freeze, Frozen, KeySelector};

/// Keyed state of one operator in one subtask: a value per key.
pub struct KeyedTable<K, V> {
    hasher: RandomState,
    entries: HashTable<(K, V)>,
    /// While a sweep runs, and as long as a delta may follow.
    marks: Option<Box<Marks>>,
}

impl<K: Key, V: Record> Default for KeyedTable<K, V> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K: Key, V: Record> KeyedTable<K, V> {
    /// An empty table.
    pub fn new() -> Self {
        Self { hasher: RandomState::default(), entries: HashTable::new(), marks: None }
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

    /// Makes room for so many more entries.
    pub fn reserve(&mut self, entries: usize) {
        if self.entries.capacity() - self.entries.len() < entries {
            self.forget_buckets();
        }
        let Self { hasher, entries: table, .. } = self;
        table.reserve(entries, |(key, _)| hasher.hash_one(key));
    }

    /// Removes all entries and keeps their room.
    pub fn clear(&mut self) {
        self.forget_buckets();
        self.entries.clear();
    }

    /// The value of a key.
    pub fn get(&self, key: &K) -> Option<&V> {
        self.entries.find(self.hasher.hash_one(key), |(other, _)| other == key).map(|(_, value)| value)
    }

    /// The value of a key, to be changed in place.
    pub fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        let Self { hasher, entries, marks } = self;
        let entry = entries.find_entry(hasher.hash_one(key), |(other, _)| other == key).ok()?;
        mark(marks, &entry, false);
        Some(&mut entry.into_mut().1)
    }

    /// The value of a key, made with `init` when there is none.
    pub fn get_or_insert_with(&mut self, key: &K, init: impl FnOnce() -> V) -> &mut V {
        self.before_entry();
        let Self { hasher, entries, marks } = self;
        let rehash = |(key, _): &(K, V)| hasher.hash_one(key);
        let (entry, fresh) = match entries.entry(hasher.hash_one(key), |(other, _)| other == key, rehash) {
            Entry::Occupied(entry) => (entry, false),
            Entry::Vacant(vacant) => (vacant.insert((key.clone(), init())), true),
        };
        mark(marks, &entry, fresh);
        &mut entry.into_mut().1
    }

    /// Sets the value of a key.
    pub fn insert(&mut self, key: K, value: V) {
        self.before_entry();
        let Self { hasher, entries, marks } = self;
        let hash = hasher.hash_one(&key);
        match entries.entry(hash, |(other, _)| *other == key, |(key, _)| hasher.hash_one(key)) {
            Entry::Occupied(mut entry) => {
                mark(marks, &entry, false);
                entry.get_mut().1 = value;
            }
            Entry::Vacant(vacant) => mark(marks, &vacant.insert((key, value)), true),
        }
    }

    /// Removes a key and gives its value.
    pub fn remove(&mut self, key: &K) -> Option<V> {
        let Self { hasher, entries, marks } = self;
        let len = entries.len();
        let entry = entries.find_entry(hasher.hash_one(key), |(other, _)| other == key).ok()?;
        if let Some(marks) = marks {
            marks.removes(entry.bucket_index(), entry.get(), len);
        }
        let ((_, value), _) = entry.remove();
        self.drop_marks();
        Some(value)
    }

    /// Removes the entries for which `keep` is false.
    pub fn retain(&mut self, mut keep: impl FnMut(&K, &V) -> bool) {
        let Self { entries, marks, .. } = self;
        for bucket in 0..entries.num_buckets() {
            let len = entries.len();
            let Ok(entry) = entries.get_bucket_entry(bucket) else { continue };
            let (key, value) = entry.get();
            if !keep(key, value) {
                if let Some(marks) = marks {
                    marks.removes(bucket, entry.get(), len);
                }
                entry.remove();
            }
        }
        self.drop_marks();
    }

    /// All entries, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.entries.iter().map(|(key, value)| (key, value))
    }

    /// All entries, in no order, and an end to the table.
    pub fn into_entries(self) -> impl Iterator<Item = (K, V)> {
        self.entries.into_iter()
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
        self.before_entry();
        let Self { hasher, entries, marks } = self;
        let key = selector.key(record);
        let hash = hasher.hash_one(key.borrow());
        let (entry, fresh) =
            match entries.entry(hash, |(other, _)| other == key.borrow(), |(key, _)| hasher.hash_one(key)) {
                Entry::Occupied(entry) => (entry, false),
                Entry::Vacant(vacant) => (vacant.insert((S::into_key(key), init(record))), true),
            };
        mark(marks, &entry, fresh);
        let (key, value) = entry.into_mut();
        (key, value, fresh)
    }

    /// Freezes what the table holds now, or what has changed: what is written afterwards is not in it.
    ///
    /// The entries come out while the table is [swept](Self::sweep); a sweep that still runs is brought to its end first. Takes
    /// as long as a piece of a sweep, and a bit of memory per bucket.
    pub fn freeze(&mut self, how: Freeze) -> Frozen {
        while self.step() {}
        let before = self.marks.take().map(|marks| *marks);
        let (marks, frozen) = Marks::freeze::<K, V>(self.entries.num_buckets(), how, before);
        self.marks = Some(Box::new(marks));
        self.step();
        frozen
    }

    /// Goes on with what was frozen until there is nothing left, or this time has come. Returns whether there is something left.
    ///
    /// Looks at the clock every thousand buckets.
    pub fn sweep(&mut self, until: Instant) -> bool {
        while self.step() {
            if Instant::now() >= until {
                return true;
            }
        }
        false
    }

    fn step(&mut self) -> bool {
        let Some(marks) = &mut self.marks else { return false };
        let more = marks.step(&self.entries);
        self.drop_marks();
        more
    }

    fn drop_marks(&mut self) {
        if self.marks.as_ref().is_some_and(|marks| !marks.needed()) {
            self.marks = None;
        }
    }

    /// To be called before an entry is looked for that may be made: hashbrown makes room for it first.
    #[inline(always)]
    fn before_entry(&mut self) {
        if self.marks.is_some() && self.entries.len() == self.entries.capacity() {
            self.forget_buckets();
        }
    }

    /// Entries are about to get other buckets: what is known of buckets is used now or never.
    ///
    /// A sweep ends here, all of it at once. Growing a table takes longer than that.
    #[cold]
    fn forget_buckets(&mut self) {
        while self.step() {}
        self.marks = None;
    }
}

/// An entry is new, or is about to be written.
#[inline(always)]
fn mark<K: Key, V: Record>(marks: &mut Option<Box<Marks>>, entry: &OccupiedEntry<'_, (K, V)>, fresh: bool) {
    match marks {
        None => {}
        Some(marks) if fresh => marks.made(entry.bucket_index()),
        Some(marks) => marks.writes(entry.bucket_index(), entry.get()),
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

    /// What a frozen table gives when its sweep is over: entries and removed keys.
    fn thaw(frozen: Frozen) -> (HashMap<u16, u64>, Vec<u16>) {
        let (mut entries, mut removed) = (HashMap::new(), Vec::new());
        let each = |mut entry: &[u8]| {
            let (key, value) = (u16::decode(&mut entry).unwrap(), u64::decode(&mut entry).unwrap());
            assert!(entry.is_empty() && entries.insert(key, value).is_none(), "key {key} comes once");
            Ok(())
        };
        frozen.entries.for_each(each).unwrap();
        let each = |mut key: &[u8]| {
            removed.push(u16::decode(&mut key).unwrap());
            Ok(())
        };
        frozen.removed.map(|keys| keys.for_each(each)).transpose().unwrap();
        (entries, removed)
    }

    #[derive(Debug, Clone)]
    enum Op {
        /// Writes keys from one to another, in steps.
        Write {
            from: u16,
            count: u16,
            step: u16,
        },
        Insert(u16, u64),
        Remove {
            from: u16,
            count: u16,
        },
        /// Removes all keys that leave this rest.
        Retain {
            modulus: u16,
        },
        Reserve(u16),
        Clear,
        Sweep,
        Freeze(Freeze),
    }

    fn ops() -> impl Strategy<Value = Vec<Op>> {
        let key = 0u16..20_000;
        let op = prop_oneof![
            8 => (key.clone(), 1u16..3_000, 1u16..4).prop_map(|(from, count, step)| Op::Write { from, count, step }),
            4 => (key.clone(), any::<u64>()).prop_map(|(key, value)| Op::Insert(key, value)),
            4 => (key, 1u16..2_000).prop_map(|(from, count)| Op::Remove { from, count }),
            1 => (2u16..50).prop_map(|modulus| Op::Retain { modulus }),
            1 => (0u16..30_000).prop_map(Op::Reserve),
            1 => Just(Op::Clear),
            8 => Just(Op::Sweep),
            3 => Just(Op::Freeze(Freeze::Delta)),
            2 => Just(Op::Freeze(Freeze::Base)),
            1 => Just(Op::Freeze(Freeze::Whole)),
        ];
        prop::collection::vec(op, 1..60)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        /// However writes, removals and growth meet a sweep: what comes out is what there was at the barrier, and a base with its
        /// deltas is the table, each time.
        #[test]
        fn what_is_frozen_is_what_there_was(ops in ops()) {
            let mut table = KeyedTable::<u16, u64>::new();
            let mut model = HashMap::<u16, u64>::new();
            let mut frozen: Vec<(Freeze, Frozen, HashMap<u16, u64>)> = Vec::new();
            let selector = ByOwned::new(|key: &u16| *key);
            for (n, op) in (0u64..).zip(ops) {
                match op {
                    Op::Write { from, count, step } => for i in 0..count {
                        let key = from.wrapping_add(i * step);
                        let value = table.entry(&key, &selector, |_| 0).1;
                        *value += n;
                        let expected = model.entry(key).or_insert(0);
                        *expected += n;
                        prop_assert_eq!(*value, *expected);
                    },
                    Op::Insert(key, value) => {
                        table.insert(key, value);
                        model.insert(key, value);
                        *table.get_or_insert_with(&key, || 0) += 1;
                        *table.get_mut(&key).unwrap() += 1;
                        *model.get_mut(&key).unwrap() += 2;
                    }
                    Op::Remove { from, count } => for key in from..from.saturating_add(count) {
                        prop_assert_eq!(table.remove(&key), model.remove(&key));
                    },
                    Op::Retain { modulus } => {
                        table.retain(|key, _| key % modulus != 0);
                        model.retain(|key, _| key % modulus != 0);
                    }
                    Op::Reserve(count) => table.reserve(count.into()),
                    Op::Clear => {
                        table.clear();
                        model.clear();
                    }
                    // A time that is over: one step.
                    Op::Sweep => drop(table.sweep(Instant::now())),
                    Op::Freeze(how) => frozen.push((how, table.freeze(how), model.clone())),
                }
            }
            let later = Instant::now() + std::time::Duration::from_secs(3600);
            prop_assert!(!table.sweep(later));
            let mut chain = HashMap::new();
            for (how, frozen, expected) in frozen {
                let base = frozen.is_base();
                prop_assert!(base || how == Freeze::Delta);
                let (entries, removed) = thaw(frozen);
                if base {
                    prop_assert!(removed.is_empty());
                    prop_assert_eq!(&entries, &expected);
                    chain = entries;
                } else {
                    chain.retain(|key, _| !removed.contains(key));
                    chain.extend(entries);
                    prop_assert_eq!(&chain, &expected);
                }
            }
            let all: HashMap<u16, u64> = table.iter().map(|(key, value)| (*key, *value)).collect();
            prop_assert_eq!(all, model);
        }
    }

    fn filled(keys: u16) -> KeyedTable<u16, u64> {
        let mut table = KeyedTable::new();
        table.reserve(30_000);
        (0..keys).for_each(|key| table.insert(key, 1));
        table
    }

    #[test]
    fn a_delta_has_what_changed_and_nothing_else() {
        let mut table = filled(10_000);
        let frozen = [
            table.freeze(Freeze::Delta),
            {
                (0..10).for_each(|key| *table.get_mut(&key).unwrap() += 1);
                (20_000..20_010).for_each(|key| table.insert(key, 1));
                // These were nowhere before and are nowhere after.
                (20_005..20_010).for_each(|key| assert!(table.remove(&key).is_some()));
                (5..8).for_each(|key| assert!(table.remove(&key).is_some()));
                table.insert(7, 9);
                assert!(table.get(&3).is_some() && table.get_mut(&30_000).is_none());
                table.freeze(Freeze::Delta)
            },
            table.freeze(Freeze::Delta),
        ];
        while table.sweep(Instant::now()) {}
        let [base, delta, nothing] = frozen;
        assert!(base.is_base() && !delta.is_base() && !nothing.is_base());
        assert_eq!(thaw(base).0.len(), 10_000);
        let (entries, mut removed) = thaw(delta);
        let expected = [0, 1, 2, 3, 4, 8, 9].map(|key| (key, 2)).into_iter().chain([(7, 9)]);
        assert_eq!(entries, expected.chain((20_000..20_005).map(|key| (key, 1))).collect());
        removed.sort_unstable();
        assert_eq!(removed, [5, 6, 7]);
        assert_eq!(thaw(nothing), (HashMap::new(), Vec::new()));
    }

    /// A savepoint is nobody's base, and what a checkpoint never said cannot be built upon.
    #[test]
    fn after_a_whole_snapshot_a_delta_is_a_base() {
        let mut table = filled(100);
        let hows = [Freeze::Base, Freeze::Whole, Freeze::Delta, Freeze::Delta, Freeze::Base];
        assert_eq!(hows.map(|how| table.freeze(how).is_base()), [true, true, true, false, true]);
    }

    /// Marks that would take more than the table are given up.
    #[test]
    fn a_table_that_loses_more_than_it_has_makes_a_base() {
        let mut table = filled(30_000);
        table.freeze(Freeze::Base);
        while table.sweep(Instant::now()) {}
        assert!((0..20_000).all(|key| table.remove(&key).is_some()));
        assert!(table.marks.is_none());
        assert!(table.freeze(Freeze::Delta).is_base());
    }

    #[test]
    fn a_table_that_is_dropped_in_a_sweep_leaves_an_error() {
        let mut table = filled(30_000);
        let frozen = table.freeze(Freeze::Whole);
        drop(table);
        assert!(frozen.entries.for_each(|_| Ok(())).is_err());
    }
}
