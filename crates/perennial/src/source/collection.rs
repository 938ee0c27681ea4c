//! Records that are given.

use std::sync::Arc;

use perennial_runtime::{SourceReader, SourceStatus, UserError};
use perennial_types::Record;

use super::{decoded, encoded};
use crate::{DataStream, StreamExecutionEnvironment};

impl StreamExecutionEnvironment {
    /// The records of a collection, in order, from one subtask.
    pub fn from_collection<T: Record>(&self, records: impl IntoIterator<Item = T>) -> DataStream<T> {
        let records: Arc<[T]> = records.into_iter().collect();
        self.from_single_source("Collection Source", move |_| {
            Ok::<_, UserError>(Collection { records: records.clone(), next: 0 })
        })
    }
}

struct Collection<T> {
    records: Arc<[T]>,
    next: usize,
}

impl<T: Record> SourceReader<T> for Collection<T> {
    fn poll(&mut self, out: &mut Vec<T>, max: usize) -> Result<SourceStatus, UserError> {
        let left = self.records.get(self.next..).unwrap_or_default();
        let share = left.get(..max).unwrap_or(left);
        out.extend_from_slice(share);
        self.next += share.len();
        Ok(if self.next < self.records.len() { SourceStatus::More } else { SourceStatus::Finished })
    }

    fn snapshot(&mut self) -> Result<Vec<Vec<u8>>, UserError> {
        Ok(vec![encoded(&(self.next as u64))])
    }

    fn restore(&mut self, splits: Vec<Vec<u8>>) -> Result<(), UserError> {
        // One subtask has one split.
        let next = splits.first().map(|split| decoded::<u64>(split)).transpose()?;
        self.next = next.map_or(self.records.len(), |next| usize::try_from(next).unwrap_or(usize::MAX));
        Ok(())
    }
}
