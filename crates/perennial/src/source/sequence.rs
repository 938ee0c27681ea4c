//! Numbers in a range.

use std::ops::Range;

use perennial_runtime::{SourceReader, SourceStatus, UserError};

use crate::{DataStream, StreamExecutionEnvironment};

impl StreamExecutionEnvironment {
    /// The numbers of a range; each subtask emits a contiguous share in order. Flink's `fromSequence`, but the end of the
    /// range is not part of it, as everywhere in Rust.
    pub fn from_sequence(&self, range: Range<u64>) -> DataStream<u64> {
        self.from_source("Sequence Source", move |context| {
            Ok::<_, UserError>(Sequence { left: share(&range, context.attempt.subtask, context.parallelism) })
        })
    }
}

/// The share of one subtask: all shares together are the range, and differ by one number at most.
fn share(range: &Range<u64>, subtask: u32, parallelism: u32) -> Range<u64> {
    let count = u128::from(range.end.saturating_sub(range.start));
    let cut = |index: u32| range.start + (count * u128::from(index) / u128::from(parallelism)) as u64;
    cut(subtask)..cut(subtask + 1)
}

struct Sequence {
    left: Range<u64>,
}

impl SourceReader<u64> for Sequence {
    fn poll(&mut self, out: &mut Vec<u64>, max: usize) -> Result<SourceStatus, UserError> {
        let end = self.left.start.saturating_add(max as u64).min(self.left.end);
        out.extend(self.left.start..end);
        self.left.start = end;
        Ok(if self.left.is_empty() { SourceStatus::Finished } else { SourceStatus::More })
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
}
