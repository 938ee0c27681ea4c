//! Counts by key: an ordinary hash map, and the flat table that shows what memory itself allows.

use foldhash::fast::RandomState;
use hashbrown::HashMap;

use crate::workload::{Checksum, Rec};

/// A running count per key.
pub(super) trait Table: Send + 'static {
    /// An empty table for about this many keys.
    fn new(keys: u64) -> Self;

    /// Adds the values of a batch to their keys' counts, and folds every (key, count) into the checksum.
    fn count(&mut self, batch: &[Rec], checksum: &mut Checksum);
}

/// hashbrown with foldhash, one look-up per record.
pub(crate) struct Hashed(HashMap<u64, u64, RandomState>);

impl Table for Hashed {
    fn new(_keys: u64) -> Self {
        Self(HashMap::default())
    }

    #[inline(always)]
    fn count(&mut self, batch: &[Rec], checksum: &mut Checksum) {
        for &(key, value) in batch {
            let count = self.0.entry(key).or_insert(0);
            *count += value;
            checksum.add((key, *count));
        }
        checksum.observe();
    }
}

/// Open addressing in one vector sized for the key space, the slots of a batch prefetched some records ahead.
pub(crate) struct Flat {
    slots: Vec<Rec>,
    /// The hash is shifted right by this to become a slot.
    shift: u32,
    hashed: Vec<usize>,
}

/// Records between the prefetch of a slot and its use.
const AHEAD: usize = 16;
/// Key of a free slot; the generator never makes it.
const FREE: u64 = u64::MAX;

impl Table for Flat {
    fn new(keys: u64) -> Self {
        let slots = (keys.max(8) * 2).next_power_of_two();
        Self { slots: vec![(FREE, 0); slots as usize], shift: 64 - slots.trailing_zeros(), hashed: Vec::new() }
    }

    #[inline(always)]
    #[expect(
        clippy::indexing_slicing,
        reason = "measured loop; slots are masked, positions are below the batch's length"
    )]
    fn count(&mut self, batch: &[Rec], checksum: &mut Checksum) {
        let mask = self.slots.len() - 1;
        self.hashed.clear();
        // Another constant than `target`'s: within one thread the top bits of that product are constant.
        self.hashed
            .extend(batch.iter().map(|record| (record.0.wrapping_mul(0xd6e8_feb8_6659_fd93) >> self.shift) as usize));
        for (at, &(key, value)) in batch.iter().enumerate() {
            if let Some(&slot) = self.hashed.get(at + AHEAD) {
                prefetch(&self.slots[slot & mask]);
            }
            let mut slot = self.hashed[at];
            loop {
                let entry = &mut self.slots[slot & mask];
                if entry.0 == FREE {
                    entry.0 = key;
                }
                if entry.0 == key {
                    entry.1 += value;
                    checksum.add((key, entry.1));
                    break;
                }
                slot += 1;
            }
        }
        checksum.observe();
    }
}

/// Asks the processor to bring a value into its first-level cache.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
#[expect(unsafe_code, reason = "there is no safe name for the prefetch instruction")]
fn prefetch<T>(value: &T) {
    use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
    // SAFETY: a prefetch reads nothing the program can see and faults on no address; the pointer is from a reference.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(value).cast()) }
}

/// Elsewhere the table is measured without prefetching.
#[cfg(not(target_arch = "x86_64"))]
#[inline(always)]
fn prefetch<T>(_value: &T) {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::Generator;

    #[test]
    fn both_tables_count_alike() {
        let (mut hashed, mut flat) = (Hashed::new(100), Flat::new(100));
        let (mut one, mut other) = (Checksum::default(), Checksum::default());
        let mut generator = Generator::new(0, 100);
        let mut batch = Vec::new();
        for _ in 0..20 {
            batch.clear();
            generator.fill(&mut batch, 333);
            hashed.count(&batch, &mut one);
            flat.count(&batch, &mut other);
        }
        assert_eq!(one, other);
        assert_eq!(hashed.0.values().sum::<u64>(), 20 * 333);
    }
}
