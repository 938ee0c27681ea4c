//! Event time of streams.

use std::sync::Arc;

use perennial_runtime::{AssignWatermarks, WatermarkSettings};
use perennial_types::Record;

use super::DataStream;
use crate::graph::code::erased;
use crate::{JobError, WatermarkStrategy};

impl<T: Record> DataStream<T> {
    /// Gives the stream event time: says where the timestamps of its records lie, and makes watermarks of them.
    ///
    /// The stream that comes out knows where its timestamps lie. So do `filter`, the partitioners, `key_by`, and a union of
    /// streams that have it from one strategy, cloned. Calls that change the records forget it; say it again with
    /// [`with_timestamps`](Self::with_timestamps). Watermarks made before this call end here.
    ///
    /// Best called right behind the source: the closer to where the records come in order, the less has to be waited for.
    pub fn assign_timestamps_and_watermarks(&self, strategy: WatermarkStrategy<T>) -> DataStream<T> {
        let WatermarkStrategy { out_of_orderness, timestamps, idleness } = strategy;
        let Some(timestamps) = timestamps.or_else(|| self.timestamps().cloned()) else {
            let problem = "a watermark strategy for records without timestamps";
            let remedy = "say where they lie: `.with_timestamp_assigner(|record| record.time_ms)`";
            self.environment().fail(JobError::operator("Timestamps/Watermarks", problem, remedy));
            return self.clone();
        };
        let interval = self.environment().auto_watermark_interval();
        let settings = WatermarkSettings { out_of_orderness, idleness, interval };
        let of_records = Arc::clone(&timestamps);
        let stream = self.transform("Timestamps/Watermarks", move |context, outputs| {
            let (timestamps, clock) = (Arc::clone(&timestamps), context.builder.clock());
            Ok(erased::<T>(AssignWatermarks::new(timestamps, settings, clock, outputs.main()?)))
        });
        stream.timed(Some(of_records))
    }

    /// Says where the event time of the records lies, in ms since 1970, for what comes behind: windows, timers. Watermarks
    /// still come from upstream.
    pub fn with_timestamps(&self, timestamp: impl Fn(&T) -> i64 + Send + Sync + 'static) -> DataStream<T> {
        self.clone().timed(Some(Arc::new(timestamp)))
    }
}
