//! How a stream gets its event time.

use std::sync::Arc;
use std::time::Duration;

use perennial_runtime::Timestamps;

/// Says where the timestamps of a stream's records lie and when watermarks are made of them. Flink's `WatermarkStrategy`.
///
/// Timestamps are ms since 1970. Watermarks are emitted every `pipeline.auto-watermark-interval`, and at the end of the input.
///
/// ```
/// # use std::time::Duration;
/// # use perennial::prelude::*;
/// # fn clicks(stream: &DataStream<(String, i64)>) -> DataStream<(String, i64)> {
/// let strategy = WatermarkStrategy::for_bounded_out_of_orderness(Duration::from_secs(5))
///     .with_timestamp_assigner(|click: &(String, i64)| click.1)
///     .with_idleness(Duration::from_secs(60));
/// stream.assign_timestamps_and_watermarks(strategy)
/// # }
/// ```
pub struct WatermarkStrategy<T> {
    pub(crate) out_of_orderness: Option<Duration>,
    pub(crate) timestamps: Option<Arc<dyn Timestamps<T>>>,
    pub(crate) idleness: Option<Duration>,
}

impl<T> Clone for WatermarkStrategy<T> {
    fn clone(&self) -> Self {
        Self { timestamps: self.timestamps.clone(), ..*self }
    }
}

impl<T> WatermarkStrategy<T> {
    fn new(out_of_orderness: Option<Duration>) -> Self {
        Self { out_of_orderness, timestamps: None, idleness: None }
    }

    /// For records whose timestamps never fall, as seen by one subtask.
    pub fn for_monotonous_timestamps() -> Self {
        Self::new(Some(Duration::ZERO))
    }

    /// For records that come at most so much later than the latest before them, as seen by one subtask.
    pub fn for_bounded_out_of_orderness(bound: Duration) -> Self {
        Self::new(Some(bound))
    }

    /// Makes no watermark before the end of the input.
    pub fn no_watermarks() -> Self {
        Self::new(None)
    }

    /// Says where the timestamp of a record lies. Without, it is where the stream's lies already.
    pub fn with_timestamp_assigner(self, timestamp: impl Fn(&T) -> i64 + Send + Sync + 'static) -> Self {
        Self { timestamps: Some(Arc::new(timestamp)), ..self }
    }

    /// A subtask without records for so long is not waited for until its next one. Without, it holds back the watermark of everything
    /// behind it.
    pub fn with_idleness(self, timeout: Duration) -> Self {
        Self { idleness: Some(timeout), ..self }
    }
}
