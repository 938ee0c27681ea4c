//! Snapshots of a table while it goes on being written.
//!
//! At a barrier a table is frozen, not copied: a [`Sweep`] walks over its buckets, a piece at a time, between the batches of
//! the task that owns it. Whoever writes to an entry that the sweep has not reached yet encodes what it was first, and marks
//! its bucket, so that the sweep passes over it. So nothing is encoded twice, no entry is ever locked, and no pause is longer than a
//! piece:
//!
//! ```text
//! buckets   [ swept . . . . . | not yet . . m . . . m . m . ]      m: written since the barrier, its entry as it was at the
//!                             cursor                                 barrier is in the snapshot already, or it had none
//! ```
//! The same marks say what a delta has to hold: at the next barrier, the buckets that were written since this one. A bucket
//! keeps its number until the table grows or rehashes. Then the sweep ends first, and the marks are worth nothing any more:
//! the next snapshot holds everything. This is rare, and each time as many entries were inserted before as are written then, about.

use hashbrown::HashTable;
use perennial_types::{Key, Record};

use crate::EntryBuffer;
use crate::entries::{Entries, Outlet};

/// Words of marks that a step of a sweep looks at: 1024 buckets.
const STEP_WORDS: usize = 16;

/// Encoded bytes after which a step is over early.
const STEP_BYTES: usize = 64 << 10;

/// Removed keys that are remembered for a delta in any case.
const REMOVED_MIN: usize = 1 << 14;

/// What a table is frozen for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freeze {
    /// All entries; nothing will be built on it.
    Whole,
    /// All entries, and deltas to it may follow.
    Base,
    /// What has changed since the last `Base` or `Delta`; all entries when the table does not know.
    Delta,
}

/// What a table held at a barrier, or what had changed in it. Its entries come while the table is swept.
pub struct Frozen {
    /// Whether it is everything; else it goes on top of what was frozen before.
    pub(crate) base: bool,
    /// Entries.
    pub(crate) entries: Entries,
    /// Keys that are gone, and were not when the table was frozen before. One that came again is among the entries, too.
    pub(crate) removed: Option<Entries>,
}

impl Frozen {
    /// State that is all there.
    pub fn whole(entries: EntryBuffer) -> Self {
        Self { base: true, entries: entries.into(), removed: None }
    }

    /// Whether it is everything.
    pub fn is_base(&self) -> bool {
        self.base
    }
}

/// A bit per bucket.
#[derive(Default)]
struct Bits(Vec<u64>);

impl Bits {
    fn new(buckets: usize) -> Self {
        Self(vec![0; buckets.div_ceil(64)])
    }

    #[inline(always)]
    fn is_set(&self, bucket: usize) -> bool {
        self.word(bucket / 64) & (1 << (bucket % 64)) != 0
    }

    fn set(&mut self, bucket: usize) {
        if let Some(word) = self.0.get_mut(bucket / 64) {
            *word |= 1 << (bucket % 64);
        }
    }

    fn clear(&mut self, bucket: usize) {
        if let Some(word) = self.0.get_mut(bucket / 64) {
            *word &= !(1 << (bucket % 64));
        }
    }

    #[inline(always)]
    fn word(&self, at: usize) -> u64 {
        self.0.get(at).copied().unwrap_or(0)
    }
}

/// What is known of the buckets of a table since it was frozen. There is one as long as a sweep runs or a delta may follow.
pub(crate) struct Marks {
    /// Written since.
    written: Bits,
    /// Holds an entry that was made since. Empty when no delta will follow.
    born: Bits,
    /// Keys removed since that were there before.
    removed: EntryBuffer,
    /// Whether a delta may follow.
    deltas: bool,
    sweep: Option<Sweep>,
}

struct Sweep {
    /// Words of buckets that are done.
    cursor: usize,
    words: usize,
    /// The buckets it is about; none is all.
    wanted: Option<Bits>,
    outlet: Outlet,
}

impl Marks {
    /// Begins a sweep over a table of so many buckets; `before` is what was known of it.
    pub(crate) fn freeze<K: Key, V: Record>(buckets: usize, how: Freeze, before: Option<Self>) -> (Self, Frozen) {
        let delta = before.filter(|before| how == Freeze::Delta && before.deltas);
        let base = delta.is_none();
        let (wanted, removed) = delta.map(|before| (before.written, before.removed.into())).unzip();
        let (outlet, entries) = Outlet::new::<K, V>();
        let deltas = how != Freeze::Whole;
        let marks = Self {
            written: Bits::new(buckets),
            born: if deltas { Bits::new(buckets) } else { Bits::default() },
            removed: EntryBuffer::new::<K, ()>(),
            deltas,
            sweep: Some(Sweep { cursor: 0, words: buckets.div_ceil(64), wanted, outlet }),
        };
        (marks, Frozen { base, entries, removed })
    }

    /// Whether anybody needs the marks.
    pub(crate) fn needed(&self) -> bool {
        self.deltas || self.sweep.is_some()
    }

    /// The entry of a bucket is about to be written.
    #[inline(always)]
    pub(crate) fn writes<K: Key, V: Record>(&mut self, bucket: usize, (key, value): &(K, V)) {
        // Read first: a bucket that is written is written again, most of the time.
        if !self.written.is_set(bucket) {
            self.first_write(bucket, key, value);
        }
    }

    #[inline(never)]
    fn first_write<K: Key, V: Record>(&mut self, bucket: usize, key: &K, value: &V) {
        self.written.set(bucket);
        let Some(sweep) = &mut self.sweep else { return };
        if bucket / 64 >= sweep.cursor && sweep.wanted.as_ref().is_none_or(|wanted| wanted.is_set(bucket)) {
            sweep.outlet.push(key, value);
        }
    }

    /// A bucket that was free has an entry now.
    pub(crate) fn made(&mut self, bucket: usize) {
        self.written.set(bucket);
        self.born.set(bucket);
    }

    /// The entry of a bucket is about to be removed from a table of `len` entries.
    pub(crate) fn removes<K: Key, V: Record>(&mut self, bucket: usize, entry: &(K, V), len: usize) {
        self.writes(bucket, entry);
        if self.born.is_set(bucket) {
            self.born.clear(bucket);
        } else if self.deltas {
            self.removed.push(&entry.0, &());
            // A delta larger than all there is would be of no use.
            if self.removed.len() > len.max(REMOVED_MIN) {
                self.deltas = false;
                self.removed = EntryBuffer::new::<K, ()>();
            }
        }
    }

    /// Sweeps some buckets. Returns whether some are left.
    pub(crate) fn step<K: Key, V: Record>(&mut self, entries: &HashTable<(K, V)>) -> bool {
        let Some(sweep) = &mut self.sweep else { return false };
        let until = sweep.words.min(sweep.cursor + STEP_WORDS);
        let mut bytes = 0;
        while sweep.cursor < until && bytes < STEP_BYTES {
            let word = sweep.cursor;
            let wanted = sweep.wanted.as_ref().map_or(u64::MAX, |wanted| wanted.word(word));
            let mut left = wanted & !self.written.word(word);
            while left != 0 {
                if let Some((key, value)) = entries.get_bucket(word * 64 + left.trailing_zeros() as usize) {
                    bytes += sweep.outlet.push(key, value);
                }
                left &= left - 1;
            }
            sweep.cursor += 1;
        }
        if sweep.cursor < sweep.words {
            return true;
        }
        if let Some(sweep) = self.sweep.take() {
            sweep.outlet.end();
        }
        false
    }
}
