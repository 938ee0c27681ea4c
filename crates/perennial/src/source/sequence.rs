//! Numbers in a range.

use std::collections::VecDeque;
use std::ops::Range;

use perennial_runtime::{SourceReader, SourceStatus, UserError};

use super::{decoded, encoded};
use crate::{DataStream, StreamExecutionEnvironment};

impl StreamExecutionEnvironment {
    /// The numbers of a range; each subtask emits a contiguous share in order. Flink's `fromSequence`, but the end of the
    /// range is not part of it, as everywhere in Rust.
    pub fn from_sequence(&self, range: Range<u64>) -> DataStream<u64> {
        self.from_source("Sequence Source", move |context| {
            let share = share(&range, context.attempt.subtask, context.parallelism);
            Ok::<_, UserError>(Sequence { left: VecDeque::from([share]) })
        })
    }
}

/// The share of one subtask: all shares together are the range, and differ by one number at most.
fn share(range: &Range<u64>, subtask: u32, parallelism: u32) -> Range<u64> {
    let count = u128::from(range.end.saturating_sub(range.start));
    let cut = |index: u32| range.start + (count * u128::from(index) / u128::from(parallelism)) as u64;
    cut(subtask)..cut(subtask + 1)
}

/// A split is a range: the first of them up to its end.
struct Sequence {
    left: VecDeque<Range<u64>>,
}

impl SourceReader<u64> for Sequence {
    fn poll(&mut self, out: &mut Vec<u64>, max: usize) -> Result<SourceStatus, UserError> {
        if let Some(first) = self.left.front_mut() {
            let end = first.start.saturating_add(max as u64).min(first.end);
            out.extend(first.start..end);
            first.start = end;
            if first.is_empty() {
                self.left.pop_front();
            }
        }
        Ok(if self.left.is_empty() { SourceStatus::Finished } else { SourceStatus::More })
    }

    fn snapshot(&mut self) -> Result<Vec<Vec<u8>>, UserError> {
        Ok(self.left.iter().map(|range| encoded(&(range.start, range.end))).collect())
    }

    fn restore(&mut self, splits: Vec<Vec<u8>>) -> Result<(), UserError> {
        let ranges = splits.iter().map(|split| decoded(split).map(|(start, end): (u64, u64)| start..end));
        self.left = ranges.collect::<Result<_, _>>()?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_make_up_the_range() {
        for (range, parallelism) in
            [(0..10, 3), (5..6, 4), (7..7, 2), (0..u64::MAX, 7), (Range { start: 9, end: 1 }, 2)]
        {
            let shares: Vec<_> = (0..parallelism).map(|subtask| share(&range, subtask, parallelism)).collect();
            assert_eq!(shares[0].start, range.start);
            shares.windows(2).for_each(|pair| assert_eq!(pair[0].end, pair[1].start));
            assert_eq!(shares[shares.len() - 1].end, range.end.max(range.start));
        }
    }

    fn sequence() -> Sequence {
        Sequence { left: std::iter::once(10..20).collect() }
    }

    /// Emits up to so many numbers, in one go.
    fn poll(reader: &mut Sequence, max: usize) -> Vec<u64> {
        let mut out = Vec::new();
        reader.poll(&mut out, max).unwrap();
        out
    }

    #[test]
    fn a_sequence_goes_on_where_its_snapshot_was_taken() {
        let mut reader = sequence();
        assert_eq!(poll(&mut reader, 3), [10, 11, 12]);
        let splits = reader.snapshot().unwrap();
        assert_eq!(poll(&mut reader, 100), [13, 14, 15, 16, 17, 18, 19]);
        let mut other = sequence();
        // Splits of another subtask as well.
        other.restore([splits, vec![encoded(&(5u64, 6u64))]].concat()).unwrap();
        assert_eq!([poll(&mut other, 100), poll(&mut other, 100)].concat(), [13, 14, 15, 16, 17, 18, 19, 5]);
        // At its end it has nothing to keep, and nothing to do after a restore.
        let splits = reader.snapshot().unwrap();
        assert!(splits.is_empty());
        let mut other = sequence();
        other.restore(splits).unwrap();
        assert!(poll(&mut other, 100).is_empty());
        assert!(other.restore(vec![vec![1]]).is_err());
    }
}
