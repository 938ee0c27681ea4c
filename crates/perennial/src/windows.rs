//! Which windows the records of a stream are in, under Flink's names.

mod firing;

use std::sync::Arc;
use std::time::Duration;

use perennial_runtime::windows::{Panes, Windows};
use perennial_types::Record;

pub use firing::{ByDefault, Firing, OwnTrigger};
pub use perennial_runtime::windows::{
    ContinuousEventTimeTrigger, ContinuousProcessingTimeTrigger, CountTrigger, EventTimeTrigger, NeverTrigger,
    ProcessingTimeTrigger, PurgingTrigger, Trigger, TriggerContext, TriggerResult,
};

/// Says which windows a record is in: one of the types of this module, for [`KeyedStream::window`](crate::KeyedStream::window).
pub trait WindowAssigner<T> {
    /// What it comes to, or what is wrong with it.
    #[doc(hidden)]
    fn assigned(self) -> Result<Assigned<T>, String>;
}

/// An assigner, its type forgotten.
#[doc(hidden)]
pub struct Assigned<T> {
    pub(crate) name: &'static str,
    pub(crate) is_event_time: bool,
    pub(crate) windows: Windows<T>,
}

impl<T> Clone for Assigned<T> {
    fn clone(&self) -> Self {
        Self { windows: self.windows.clone(), ..*self }
    }
}

impl<T> Assigned<T> {
    /// Takes the place of one that cannot be: the job is refused, and nothing of it runs.
    pub(crate) fn any() -> Self {
        Self { name: "Window", is_event_time: false, windows: Windows::Global }
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
            fn assigned(self) -> Result<Assigned<T>, String> {
                $(millis(stringify!($field), self.$field)?;)*
                let (size, slide) = (millis("size", self.size)?, millis("slide", self.$slide)?);
                let offset = i64::try_from(self.offset.as_millis() % self.$slide.as_millis()).unwrap_or_default();
                let windows = Windows::Aligned(Panes::new(size, slide, offset));
                Ok(Assigned { name: stringify!($name), is_event_time: $is_event_time, windows })
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

/// Defines windows that end with a pause in the records of a key.
macro_rules! sessions {
    ($(#[$doc:meta])* $name:ident, $(#[$dynamic_doc:meta])* $dynamic:ident, event time $is_event_time:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy)]
        pub struct $name {
            gap: Duration,
        }

        impl $name {
            /// Sessions that end when no record came for so long, at least a millisecond.
            pub fn with_gap(gap: Duration) -> Self {
                Self { gap }
            }

            /// Sessions whose gap each record says for itself, in ms; less than one counts as one.
            pub fn with_dynamic_gap<T>(gap_ms: impl Fn(&T) -> i64 + Send + Sync + 'static) -> $dynamic<T> {
                $dynamic { gap_ms: Arc::new(gap_ms) }
            }
        }

        impl<T: Record> WindowAssigner<T> for $name {
            fn assigned(self) -> Result<Assigned<T>, String> {
                let gap_ms = millis("gap", self.gap)?;
                let windows = Windows::Sessions(Arc::new(move |_: &T| gap_ms));
                Ok(Assigned { name: stringify!($name), is_event_time: $is_event_time, windows })
            }
        }

        $(#[$dynamic_doc])*
        pub struct $dynamic<T> {
            gap_ms: Arc<dyn Fn(&T) -> i64 + Send + Sync>,
        }

        impl<T> WindowAssigner<T> for $dynamic<T> {
            fn assigned(self) -> Result<Assigned<T>, String> {
                let windows = Windows::Sessions(self.gap_ms);
                Ok(Assigned { name: stringify!($dynamic), is_event_time: $is_event_time, windows })
            }
        }
    };
}

sessions! {
    /// Windows of event time that end with a pause: records of a key with no longer gap between them are one session. Flink's
    /// `EventTimeSessionWindows`.
    ///
    /// A session ends one gap after its last record. Records out of order may join two sessions, also ones that have fired and are
    /// kept for their allowed lateness: the joined one fires again.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use perennial::prelude::*;
    /// # fn visits(pages: &DataStream<(String, i64)>) -> DataStream<(String, u64)> {
    /// pages.key_by_ref(|page| &page.0).window(EventTimeSessionWindows::with_gap(Duration::from_secs(1800))).count()
    /// # }
    /// # fn by_user(pages: &DataStream<(String, i64)>) -> DataStream<(String, u64)> {
    /// // Those of robots are shorter.
    /// let gap = |page: &(String, i64)| if page.0 == "robot" { 1_000 } else { 1_800_000 };
    /// pages.key_by_ref(|page| &page.0).window(EventTimeSessionWindows::with_dynamic_gap(gap)).count()
    /// # }
    /// ```
    EventTimeSessionWindows,
    /// Made by [`EventTimeSessionWindows::with_dynamic_gap`].
    DynamicEventTimeSessionWindows, event time true
}
sessions! {
    /// Windows of processing time that end with a pause. Flink's `ProcessingTimeSessionWindows`.
    ///
    /// What is open when the input ends fires then (Flink drops it).
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use perennial::prelude::*;
    /// # fn visits(pages: &DataStream<String>) -> DataStream<(String, u64)> {
    /// pages.key_by_ref(|page| page).window(ProcessingTimeSessionWindows::with_gap(Duration::from_secs(60))).count()
    /// # }
    /// ```
    ProcessingTimeSessionWindows,
    /// Made by [`ProcessingTimeSessionWindows::with_dynamic_gap`].
    DynamicProcessingTimeSessionWindows, event time false
}

/// One window for all records of a key. Flink's `GlobalWindows`.
///
/// It never ends, so it needs a [trigger](crate::WindowedStream::trigger) to fire. Triggers of event time see the watermarks, and if
/// the stream knows timestamps, those of its records.
///
/// ```
/// # use perennial::prelude::*;
/// # fn every_hundred(clicks: &DataStream<(u32, i64)>) -> DataStream<(u32, u64)> {
/// let hundred = PurgingTrigger::of(CountTrigger::of(100));
/// clicks.key_by(|click| click.0).window(GlobalWindows::create()).trigger(hundred).count()
/// # }
/// ```
#[derive(Debug, Clone, Copy)]
pub struct GlobalWindows(());

impl GlobalWindows {
    /// The assigner.
    pub fn create() -> Self {
        Self(())
    }
}

impl<T> WindowAssigner<T> for GlobalWindows {
    fn assigned(self) -> Result<Assigned<T>, String> {
        Ok(Assigned { name: "GlobalWindows", is_event_time: false, windows: Windows::Global })
    }
}

fn millis(what: &str, time: Duration) -> Result<i64, String> {
    match i64::try_from(time.as_millis()) {
        Ok(0) => Err(format!("its {what} of {time:?} is less than a millisecond")),
        Ok(ms) => Ok(ms),
        Err(_) => Err(format!("its {what} of {time:?} is longer than all time")),
    }
}
