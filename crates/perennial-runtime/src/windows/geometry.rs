//! Windows in time: where they begin and end, and the panes they share.

use std::iter;

use perennial_types::{DecodeError, Record};

/// A span of time: from `start` on, up to and without `end`, in milliseconds since 1970. Flink's `TimeWindow`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TimeWindow {
    /// Its first millisecond.
    pub start: i64,
    /// The first millisecond after it.
    pub end: i64,
}

impl TimeWindow {
    /// The window of everything: it ends with the input.
    pub const GLOBAL: Self = Self { start: i64::MIN, end: i64::MAX };

    /// Its last millisecond: the window is complete when the watermark has reached it.
    pub fn max_timestamp(&self) -> i64 {
        self.end.saturating_sub(1)
    }

    /// Whether both have a millisecond in common, or one begins where the other ends: sessions that do are one session.
    pub fn intersects(&self, other: &Self) -> bool {
        self.start <= other.end && other.start <= self.end
    }

    /// The smallest window around both.
    #[must_use]
    pub fn cover(&self, other: &Self) -> Self {
        Self { start: self.start.min(other.start), end: self.end.max(other.end) }
    }
}

impl Record for TimeWindow {
    const FIXED_BYTES: Option<usize> = <(i64, i64)>::FIXED_BYTES;

    fn encode(&self, out: &mut Vec<u8>) {
        (self.start, self.end).encode(out);
    }

    fn decode(input: &mut &[u8]) -> Result<Self, DecodeError> {
        Record::decode(input).map(|(start, end)| Self { start, end })
    }
}

/// Windows of one size that begin at equal distances, and the panes they are made of.
///
/// A pane is the largest span of which every window is a whole number, so a record is added to one pane however many windows it
/// is in (the panes of Li et al., "No pane, no gain", 2005; Flink adds it to each window):
///
/// ```text
/// size 10, slide 4:   windows   [0        10)
///                                  [4        14)
///                                     [8        18)
///                     panes     |0|2|4|6|8|10...
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Panes {
    size: i64,
    slide: i64,
    offset: i64,
    pane: i64,
}

/// One of the spans that windows share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pane {
    /// Its first millisecond.
    pub(crate) start: i64,
    /// Its last millisecond.
    pub(crate) last: i64,
}

impl Pane {
    #[inline(always)]
    pub(crate) fn contains(&self, time: i64) -> bool {
        self.start <= time && time <= self.last
    }
}

impl Panes {
    /// Windows of `size` milliseconds that begin every `slide`, one of them at `offset`. Size and slide are at least 1; smaller
    /// ones count as 1.
    pub fn new(size: i64, slide: i64, offset: i64) -> Self {
        let (size, slide) = (size.max(1), slide.max(1));
        Self { size, slide, offset, pane: greatest_common_divisor(size, slide) }
    }

    /// The pane of a time.
    pub(crate) fn pane(&self, time: i64) -> Pane {
        let start = self.begin(time, self.pane);
        Pane { start: clamp(start), last: clamp(start + i128::from(self.pane) - 1) }
    }

    /// The windows a time is in, those that end first first. None when windows have gaps between them.
    pub(crate) fn windows(&self, time: i64) -> impl Iterator<Item = TimeWindow> + use<> {
        self.windows_after(time, i64::MIN)
    }

    /// Those of the windows a time is in whose last millisecond is after `after`, or is where all time ends. Finding the first costs
    /// the same however many there are.
    pub(crate) fn windows_after(&self, time: i64, after: i64) -> impl Iterator<Item = TimeWindow> + use<> {
        let (size, slide) = (i128::from(self.size), i128::from(self.slide));
        let latest = self.begin(time, self.slide);
        // The first to begin after `from` ends after `from + size`.
        let from = (i128::from(time) - size).max(i128::from(after) - size + 1);
        let earliest = latest - (latest - from - 1).div_euclid(slide) * slide;
        iter::successors(Some(earliest), move |start| Some(start + slide))
            .take_while(move |start| *start <= latest)
            .map(move |start| TimeWindow { start: clamp(start), end: clamp(start + size) })
    }

    /// Last millisecond of the last window a time is in.
    pub(crate) fn last_of_windows(&self, time: i64) -> i64 {
        clamp(self.begin(time, self.slide) + i128::from(self.size) - 1)
    }

    /// Where the span of this length begins that a time is in. As wide as the sum of any two times is.
    fn begin(&self, time: i64, length: i64) -> i128 {
        let (time, offset) = (i128::from(time), i128::from(self.offset));
        time - (time - offset).rem_euclid(i128::from(length))
    }
}

fn clamp(time: i128) -> i64 {
    time.clamp(i128::from(i64::MIN), i128::from(i64::MAX)) as i64
}

fn greatest_common_divisor(mut a: i64, mut b: i64) -> i64 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The windows a time is in, by definition: those of all windows around it that contain it.
    fn by_definition(size: i64, slide: i64, offset: i64, time: i64) -> Vec<TimeWindow> {
        let around = (time - offset).div_euclid(slide);
        let starts = (around - size / slide - 2..=around + 2).map(|n| offset + n * slide);
        starts
            .map(|start| TimeWindow { start, end: start + size })
            .filter(|w| w.start <= time && time < w.end)
            .collect()
    }

    proptest! {
        #[test]
        fn windows_are_those_that_contain_the_time(
            size in 1i64..50, slide in 1i64..50, offset in -60i64..60, time in -500i64..500,
            after_time in -600i64..600,
        ) {
            let panes = Panes::new(size, slide, offset);
            let windows: Vec<_> = panes.windows(time).collect();
            prop_assert_eq!(&windows, &by_definition(size, slide, offset, time));
            let after: Vec<_> = panes.windows_after(time, after_time).collect();
            prop_assert_eq!(after, windows.iter().filter(|w| w.max_timestamp() > after_time).copied().collect::<Vec<_>>());
            if let Some(last) = windows.last() {
                prop_assert_eq!(panes.last_of_windows(time), last.max_timestamp());
            }
        }

        /// All times of a pane are in the same windows, and panes lie side by side.
        #[test]
        fn a_pane_lies_in_its_windows_as_a_whole(
            size in 1i64..50, slide in 1i64..50, offset in -60i64..60, time in -500i64..500,
        ) {
            let panes = Panes::new(size, slide, offset);
            let pane = panes.pane(time);
            prop_assert!(pane.contains(time));
            prop_assert_eq!(panes.pane(pane.last + 1).start, pane.last + 1);
            let windows: Vec<_> = panes.windows(time).collect();
            for other in [pane.start, pane.last] {
                prop_assert_eq!(panes.pane(other), pane);
                prop_assert_eq!(panes.windows(other).collect::<Vec<_>>(), windows.clone());
            }
        }

        /// The ends of time are in windows, too, and nothing overflows there.
        #[test]
        fn no_time_is_too_far(size in 1i64.., slide in 1i64.., offset: i64, time: i64) {
            for time in [time, i64::MIN, i64::MAX] {
                let slide = slide.max(size / 8);
                let panes = Panes::new(size, slide, offset);
                prop_assert!(panes.pane(time).contains(time));
                prop_assert!(panes.windows(time).all(|window| window.start <= time && time <= window.end));
            }
        }
    }

    #[test]
    fn sessions_that_touch_are_one() {
        let window = |start, end| TimeWindow { start, end };
        assert!(window(0, 10).intersects(&window(10, 20)) && window(10, 20).intersects(&window(0, 10)));
        assert!(!window(0, 10).intersects(&window(11, 20)) && !window(11, 20).intersects(&window(0, 10)));
        assert_eq!(window(0, 10).cover(&window(5, 20)), window(0, 20));
    }
}
