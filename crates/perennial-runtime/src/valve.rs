//! Makes the event time of a task out of that of its channels. Flink's `StatusWatermarkValve`. Pure: channels are numbers.
//!
//! ```text
//! time of the task = the smallest watermark of the channels that are neither idle nor ended, once it rises
//! ```
//! A channel that comes back from idleness with less than the task has told already is left out until it has caught up. When
//! the last channels become idle the task goes to the largest of their watermarks, since nothing is known to hold it back. The time
//! after the last record, `i64::MAX`, is not told here: the task tells it when all its channels have ended.

use perennial_exchange::EventTime;

/// Before any watermark.
const NONE: i64 = i64::MIN;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Status {
    Active,
    Idle,
    Ended,
}

#[derive(Debug, Clone)]
struct Channel {
    watermark: i64,
    status: Status,
}

/// Knows how far each channel of a task is.
#[derive(Debug, Clone)]
pub(crate) struct Valve {
    channels: Vec<Channel>,
    /// What was told last.
    watermark: i64,
    idle: bool,
}

impl Valve {
    /// For a task with so many channels.
    pub(crate) fn new(channels: usize) -> Self {
        let channel = Channel { watermark: NONE, status: Status::Active };
        Self { channels: vec![channel; channels], watermark: NONE, idle: false }
    }

    /// A channel has said how far it is. Returns what the task has to tell: a watermark, idleness, or both, in this order.
    pub(crate) fn time(&mut self, channel: usize, time: EventTime) -> [Option<EventTime>; 2] {
        if let Some(channel) = self.channels.get_mut(channel).filter(|channel| channel.status != Status::Ended) {
            match time {
                EventTime::Watermark(watermark) => {
                    channel.watermark = watermark.max(channel.watermark);
                    channel.status = Status::Active;
                }
                EventTime::Idle => channel.status = Status::Idle,
            }
        }
        self.told()
    }

    /// A channel has ended. It holds nothing back any more.
    pub(crate) fn ended(&mut self, channel: usize) -> [Option<EventTime>; 2] {
        if let Some(channel) = self.channels.get_mut(channel) {
            channel.status = Status::Ended;
        }
        self.told()
    }

    fn with(&self, status: Status) -> impl Iterator<Item = i64> {
        self.channels.iter().filter(move |channel| channel.status == status).map(|channel| channel.watermark)
    }

    fn told(&mut self) -> [Option<EventTime>; 2] {
        let told = self.watermark;
        let (idle, target) = if self.with(Status::Active).next().is_some() {
            (false, self.with(Status::Active).filter(|watermark| *watermark >= told).min())
        } else {
            // Nobody is left of whom a watermark would come. If all have ended, it is not for here to say so.
            (self.with(Status::Idle).next().is_some(), self.with(Status::Idle).max())
        };
        let risen = target.filter(|target| *target > told);
        self.watermark = risen.unwrap_or(told);
        let was_idle = std::mem::replace(&mut self.idle, idle);
        // A watermark ends idleness, be it the one that was told before.
        let watermark = risen.or((was_idle && !idle && self.with(Status::Active).next().is_some()).then_some(told));
        [watermark.map(EventTime::Watermark), (idle && (!was_idle || risen.is_some())).then_some(EventTime::Idle)]
    }
}

#[cfg(test)]
mod tests {
    use EventTime::{Idle, Watermark};
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone, Copy)]
    enum On {
        Mark(usize, i64),
        Idle(usize),
        Ended(usize),
    }

    fn apply(valve: &mut Valve, on: On) -> Vec<EventTime> {
        let told = match on {
            On::Mark(channel, watermark) => valve.time(channel, Watermark(watermark)),
            On::Idle(channel) => valve.time(channel, Idle),
            On::Ended(channel) => valve.ended(channel),
        };
        told.into_iter().flatten().collect()
    }

    /// Applies each event and compares what is told.
    fn check(name: &str, channels: usize, events: &[(On, &[EventTime])]) {
        let mut valve = Valve::new(channels);
        for (at, (on, expect)) in events.iter().enumerate() {
            assert_eq!(apply(&mut valve, *on), *expect, "{name}, event {at}: {on:?}");
        }
    }

    #[test]
    fn the_slowest_channel_decides() {
        use On::{Ended, Mark};
        check("one", 1, &[(Mark(0, 5), &[Watermark(5)]), (Mark(0, 5), &[]), (Mark(0, 9), &[Watermark(9)])]);
        check(
            "three",
            3,
            &[
                (Mark(0, 10), &[]),
                (Mark(2, 30), &[]),
                (Mark(1, 20), &[Watermark(10)]),
                (Mark(0, 25), &[Watermark(20)]),
                (Mark(0, 7), &[]),
                // What has ended holds nothing back.
                (Ended(1), &[Watermark(25)]),
                (Ended(0), &[Watermark(30)]),
                (Ended(2), &[]),
            ],
        );
        check("one that never said anything", 2, &[(Mark(0, 10), &[]), (Ended(1), &[Watermark(10)])]);
    }

    #[test]
    fn an_idle_channel_is_not_waited_for() {
        use On::{Ended, Mark};
        check(
            "one of two",
            2,
            &[
                (Mark(0, 10), &[]),
                (On::Idle(1), &[Watermark(10)]),
                (Mark(0, 20), &[Watermark(20)]),
                // It is back, but late: left out until it has caught up.
                (Mark(1, 15), &[]),
                (Mark(0, 30), &[Watermark(30)]),
                (Mark(1, 40), &[]),
                (Mark(0, 50), &[Watermark(40)]),
            ],
        );
        check(
            "all",
            2,
            &[
                (Mark(0, 10), &[]),
                (Mark(1, 20), &[Watermark(10)]),
                (On::Idle(1), &[]),
                (On::Idle(0), &[Watermark(20), Idle]),
                (On::Idle(0), &[]),
                // Somebody is to be waited for again.
                (Mark(1, 20), &[Watermark(20)]),
                (On::Idle(1), &[Idle]),
                (Mark(0, 25), &[Watermark(25)]),
                (Ended(0), &[Idle]),
                (Ended(1), &[]),
            ],
        );
        check("idle from the start", 1, &[(On::Idle(0), &[Idle]), (Mark(0, 3), &[Watermark(3)])]);
    }

    fn events(channels: usize) -> impl Strategy<Value = Vec<On>> {
        let one = prop_oneof![
            6 => (0..channels, -20i64..20).prop_map(|(channel, step)| On::Mark(channel, step)),
            2 => (0..channels).prop_map(On::Idle),
            1 => (0..channels).prop_map(On::Ended),
        ];
        prop::collection::vec(one, 0..200)
    }

    proptest! {
        /// Against channels that are looked at one by one: nothing is told too early, nothing that could be told is kept back, and
        /// whoever only hears what is told knows whether to wait.
        #[test]
        fn a_watermark_is_never_ahead_of_a_channel_that_counts(mut events in events(4)) {
            let mut valve = Valve::new(4);
            let mut at = [NONE; 4];
            let mut status = [Status::Active; 4];
            let (mut watermark, mut idle) = (NONE, false);
            for on in &mut events {
                match on {
                    On::Mark(channel, step) => {
                        // Channels keep their grammar: watermarks do not fall.
                        let next = if at[*channel] == NONE { *step } else { at[*channel] + (*step).max(0) };
                        *step = next;
                        if status[*channel] != Status::Ended {
                            (at[*channel], status[*channel]) = (next, Status::Active);
                        }
                    }
                    On::Idle(channel) if status[*channel] != Status::Ended => status[*channel] = Status::Idle,
                    On::Idle(_) => {}
                    On::Ended(channel) => status[*channel] = Status::Ended,
                }
                let before = watermark;
                for told in apply(&mut valve, *on) {
                    match told {
                        Watermark(time) => {
                            prop_assert!(time >= watermark, "it never falls");
                            (watermark, idle) = (time, false);
                        }
                        Idle => idle = true,
                    }
                }
                let having = |wanted| (0..4).filter(|c| status[*c] == wanted).map(|c| at[c]).collect::<Vec<_>>();
                let (active, resting) = (having(Status::Active), having(Status::Idle));
                if active.is_empty() {
                    if let Some(most) = resting.iter().max() {
                        prop_assert_eq!((watermark, idle), ((*most).max(before), true));
                    }
                } else {
                    prop_assert!(!idle);
                    let caught_up = active.iter().filter(|time| **time >= before).min();
                    prop_assert_eq!(watermark, caught_up.copied().unwrap_or(before));
                }
            }
        }
    }
}
