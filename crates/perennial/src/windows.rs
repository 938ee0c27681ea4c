//! Which windows the records of a stream are in, under Flink's names.

use std::time::Duration;

use perennial_runtime::windows::Panes;

/// Says which windows a record is in: one of the types of this module, for [`KeyedStream::window`](crate::KeyedStream::window).
pub trait WindowAssigner<T> {
    /// What it comes to, or what is wrong with it.
    #[doc(hidden)]
    fn assigned(self) -> Result<Assigned, String>;
}

/// An assigner, its type forgotten.
#[doc(hidden)]
#[derive(Clone)]
pub struct Assigned {
    pub(crate) name: &'static str,
    pub(crate) is_event_time: bool,
    pub(crate) panes: Panes,
}

impl Assigned {
    /// Takes the place of one that cannot be: the job is refused, and nothing of it runs.
    pub(crate) fn any() -> Self {
        Self { name: "Window", is_event_time: false, panes: Panes::new(1, 1, 0) }
    }
}

/// Defines windows that lie at equal distances, their bounds the same for all keys.
macro_rules! aligned {
    ($(#[$doc:meta])* $name:ident($($field:ident),*), slide $slide:ident, event time $is_event_time:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy)]
        pub struct $name {
            $($field: Duration,)*
            offset: Duration,
        }

        impl $name {
            /// Windows of these times, each at least a millisecond.
            pub fn of($($field: Duration),*) -> Self {
                Self { $($field,)* offset: Duration::ZERO }
            }

            /// Has all windows begin so much later than they would.
            #[must_use]
            pub fn offset(self, offset: Duration) -> Self {
                Self { offset, ..self }
            }
        }

        impl<T> WindowAssigner<T> for $name {
            fn assigned(self) -> Result<Assigned, String> {
                $(millis(stringify!($field), self.$field)?;)*
                let (size, slide) = (millis("size", self.size)?, millis("slide", self.$slide)?);
                let offset = i64::try_from(self.offset.as_millis() % self.$slide.as_millis()).unwrap_or_default();
                let panes = Panes::new(size, slide, offset);
                Ok(Assigned { name: stringify!($name), is_event_time: $is_event_time, panes })
            }
        }
    };
}

aligned! {
    /// Windows of event time side by side: each record is in one. Flink's `TumblingEventTimeWindows`.
    ///
    /// One of them begins at 1970-01-01 00:00 UTC, plus the offset.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use perennial::prelude::*;
    /// # fn visits(pages: &DataStream<(String, i64)>) -> DataStream<(String, u64)> {
    /// const HOUR: Duration = Duration::from_secs(3600);
    /// // Days that begin at midnight in Beijing.
    /// let days = TumblingEventTimeWindows::of(24 * HOUR).offset(16 * HOUR);
    /// pages.key_by_ref(|page| &page.0).window(days).count()
    /// # }
    /// ```
    TumblingEventTimeWindows(size), slide size, event time true
}
aligned! {
    /// Windows of event time that overlap: one begins every `slide`, and a record is in `size / slide` of them. Flink's
    /// `SlidingEventTimeWindows`.
    ///
    /// A record costs the same however many windows it is in: windows are made of panes when they fire.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use perennial::prelude::*;
    /// # fn visits(pages: &DataStream<(String, i64)>) -> DataStream<(String, u64)> {
    /// // Every minute, the visits of the last hour.
    /// let hours = SlidingEventTimeWindows::of(Duration::from_secs(3600), Duration::from_secs(60));
    /// pages.key_by_ref(|page| &page.0).window(hours).count()
    /// # }
    /// ```
    SlidingEventTimeWindows(size, slide), slide slide, event time true
}
aligned! {
    /// Windows of processing time side by side. Flink's `TumblingProcessingTimeWindows`.
    ///
    /// What is open when the input ends fires then (Flink drops it).
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use perennial::prelude::*;
    /// # fn visits(pages: &DataStream<String>) -> DataStream<(String, u64)> {
    /// pages.key_by_ref(|page| page).window(TumblingProcessingTimeWindows::of(Duration::from_secs(1))).count()
    /// # }
    /// ```
    TumblingProcessingTimeWindows(size), slide size, event time false
}
aligned! {
    /// Windows of processing time that overlap: one begins every `slide`. Flink's `SlidingProcessingTimeWindows`.
    ///
    /// What is open when the input ends fires then (Flink drops it).
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use perennial::prelude::*;
    /// # fn visits(pages: &DataStream<String>) -> DataStream<(String, u64)> {
    /// let minutes = SlidingProcessingTimeWindows::of(Duration::from_secs(60), Duration::from_secs(1));
    /// pages.key_by_ref(|page| page).window(minutes).count()
    /// # }
    /// ```
    SlidingProcessingTimeWindows(size, slide), slide slide, event time false
}

fn millis(what: &str, time: Duration) -> Result<i64, String> {
    match i64::try_from(time.as_millis()) {
        Ok(0) => Err(format!("its {what} of {time:?} is less than a millisecond")),
        Ok(ms) => Ok(ms),
        Err(_) => Err(format!("its {what} of {time:?} is longer than all time")),
    }
}
