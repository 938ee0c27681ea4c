//! Which channel each record of a batch goes to.

use perennial_types::{KeyGroup, MaxParallelism, murmur, subtask_of};

use crate::payload::ChooseSubtask;
use crate::{KeyHash, Route, WriteError};

/// A [`Route`] over a known number of channels.
pub(crate) enum Partitioner<T> {
    /// All to one channel.
    One(usize),
    /// Equal shares of each batch to all, starting where the last share ended.
    Shares(usize),
    /// Each record to all channels.
    All,
    /// Each record to the channel that is computed for it.
    Each(Box<dyn Targets<T>>),
}

/// Computes a channel per record. The virtual call is per batch.
pub(crate) trait Targets<T>: Send {
    /// Appends the channel of each record; each is below the number of channels.
    fn targets(&mut self, batch: &[T], targets: &mut Vec<u32>) -> Result<(), WriteError>;
}

impl<T: 'static> Partitioner<T> {
    pub(crate) fn new(route: Route<T>, channels: usize, max_parallelism: MaxParallelism) -> Self {
        let count = channels.max(1) as u32;
        match route {
            Route::Broadcast if count > 1 => Self::All,
            Route::Custom(choose) => Self::Each(Box::new(ByFunction { choose, count })),
            _ if count == 1 => Self::One(0),
            Route::Forward | Route::Global | Route::Broadcast => Self::One(0),
            Route::RoundRobin => Self::Shares(0),
            Route::Shuffle => Self::Each(Box::new(AtRandom { state: 0x9e37_79b9_7f4a_7c15, count })),
            Route::Hash(hash) => Self::Each(Box::new(ByKeyGroup::new(hash, count, max_parallelism))),
        }
    }
}

/// Channel of the key group of the record's key.
struct ByKeyGroup<T> {
    hash: Box<dyn KeyHash<T>>,
    hashes: Vec<u32>,
    max_parallelism: u32,
    channels: u32,
    /// Channel of each key group.
    channel_of: Vec<u32>,
}

impl<T> ByKeyGroup<T> {
    fn new(hash: Box<dyn KeyHash<T>>, channels: u32, max_parallelism: MaxParallelism) -> Self {
        let groups = max_parallelism.get();
        let channel_of =
            (0..groups).map(|group| subtask_of(KeyGroup(group as u16), max_parallelism, channels)).collect();
        Self { hash, hashes: Vec::new(), max_parallelism: groups, channels, channel_of }
    }
}

impl<T> Targets<T> for ByKeyGroup<T> {
    fn targets(&mut self, batch: &[T], targets: &mut Vec<u32>) -> Result<(), WriteError> {
        self.hashes.clear();
        self.hash.hash_batch(batch, &mut self.hashes);
        if self.max_parallelism.is_power_of_two() {
            crate::simd::subtasks_of(&self.hashes, self.max_parallelism.trailing_zeros(), self.channels, targets);
        } else {
            let (groups, table) = (self.max_parallelism, self.channel_of.as_slice());
            #[expect(clippy::indexing_slicing, reason = "measured loop; the table has an entry per group")]
            targets.extend(self.hashes.iter().map(|hash| table[(murmur(*hash) % groups) as usize]));
        }
        Ok(())
    }
}

struct AtRandom {
    state: u64,
    count: u32,
}

impl<T> Targets<T> for AtRandom {
    fn targets(&mut self, batch: &[T], targets: &mut Vec<u32>) -> Result<(), WriteError> {
        targets.extend(batch.iter().map(|_| {
            // xorshift64*, its upper half scaled to the number of channels.
            self.state ^= self.state >> 12;
            self.state ^= self.state << 25;
            self.state ^= self.state >> 27;
            let upper = self.state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32;
            ((upper * u64::from(self.count)) >> 32) as u32
        }));
        Ok(())
    }
}

struct ByFunction<T> {
    choose: ChooseSubtask<T>,
    count: u32,
}

impl<T> Targets<T> for ByFunction<T> {
    fn targets(&mut self, batch: &[T], targets: &mut Vec<u32>) -> Result<(), WriteError> {
        for record in batch {
            let chosen = (self.choose)(record, self.count);
            if chosen >= self.count {
                return Err(WriteError::NoSuchSubtask { chosen, subtasks: self.count });
            }
            targets.push(chosen);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use perennial_types::{Key, key_group};

    use super::*;

    struct Itself;

    impl KeyHash<u64> for Itself {
        fn hash_batch(&mut self, batch: &[u64], hashes: &mut Vec<u32>) {
            hashes.extend(batch.iter().map(Key::key_hash));
        }
    }

    #[test]
    fn channels_are_those_of_flinks_arithmetic() {
        for (groups, channels) in [(128, 2), (128, 3), (200, 7), (1, 1), (32_768, 5)] {
            let max = MaxParallelism::new(groups).unwrap();
            let batch: Vec<u64> = (0..10_000).map(|i: u64| i.wrapping_mul(0x9e37_79b9_7f4a_7c15)).collect();
            let mut targets = Vec::new();
            ByKeyGroup::new(Box::new(Itself), channels, max).targets(&batch, &mut targets).unwrap();
            for (key, target) in batch.iter().zip(&targets) {
                assert_eq!(*target, subtask_of(key_group(key.key_hash(), max), max, channels));
            }
        }
    }

    #[test]
    fn a_partitioner_that_names_no_subtask_is_refused() {
        let mut targets = Vec::new();
        let mut by = ByFunction { choose: Box::new(|record: &u32, _| *record), count: 3 };
        assert!(by.targets(&[0, 2], &mut targets).is_ok());
        assert_eq!(by.targets(&[3], &mut targets), Err(WriteError::NoSuchSubtask { chosen: 3, subtasks: 3 }));
    }
}
