//! Tumbling and sliding windows.

use std::collections::BTreeMap;

use perennial_types::{DecodeError, Record};
use proptest::prelude::*;

use super::{Event, Notes, context, event_time, restored};
use crate::operators::{Collector, OutputTag, SideOutputs};
use crate::windows::{
    AllOf, CountOf, EventTimeTrigger, PaneOperator, Panes, TimeWindow, WindowContext, WindowOperator, WindowSetup,
    Windows,
};
use crate::{ByOwned, ChainEvent, Output, StateContext, TaskClock, UserError};

/// A window that fired: the window, its key, numbers of its records.
pub(super) type Fired = (TimeWindow, u8, Vec<u32>);

#[derive(Debug, Clone)]
pub(super) enum Step {
    /// Keys and times.
    Records(Vec<(u8, i64)>),
    Watermark(i64),
    /// The task ends, and another goes on from its snapshot.
    Restore,
}

/// What windows are, in few words: Flink's `WindowOperator` with the trigger of event time.
struct Model {
    panes: Panes,
    lateness: i64,
    watermark: i64,
    open: BTreeMap<(i64, i64, u8), Vec<u32>>,
    late: Vec<u32>,
    fired: Vec<Fired>,
}

impl Model {
    fn record(&mut self, (key, time, number): Event) {
        let windows: Vec<TimeWindow> = self.panes.windows(time).collect();
        let kept = |window: &&TimeWindow| window.max_timestamp() + self.lateness > self.watermark;
        let open: Vec<TimeWindow> = windows.iter().filter(kept).copied().collect();
        if open.is_empty() && !windows.is_empty() {
            self.late.push(number);
        }
        for window in open {
            let numbers = self.open.entry((window.end, window.start, key)).or_default();
            numbers.push(number);
            if window.max_timestamp() <= self.watermark {
                self.fired.push((window, key, numbers.clone()));
            }
        }
    }

    fn watermark(&mut self, time: i64) {
        for ((end, start, key), numbers) in &self.open {
            let window = TimeWindow { start: *start, end: *end };
            if self.watermark < window.max_timestamp() && window.max_timestamp() <= time {
                self.fired.push((window, *key, numbers.clone()));
            }
        }
        self.watermark = self.watermark.max(time);
        let (lateness, watermark) = (self.lateness, self.watermark);
        self.open.retain(|(end, _, _), _| end - 1 + lateness > watermark);
    }
}

fn operator(
    of: StateContext,
    panes: Panes,
    allowed_lateness: i64,
    fired: &Notes<Fired>,
    late: &Notes<Event>,
    by_trigger: bool,
) -> Box<dyn Output<Event>> {
    let tag = OutputTag::new("late");
    let mut sides = SideOutputs::default();
    sides.add("late", Box::new(late.clone()));
    let setup = WindowSetup { allowed_lateness, late: Some(tag), ..event_time(of) };
    let selector = ByOwned::new(|event: &Event| event.0);
    let next = Box::new(fired.clone());
    if by_trigger {
        let windows = Windows::Aligned(panes);
        let functions = (AllOf::default(), EventTimeTrigger, emit);
        return Box::new(WindowOperator::new(setup, windows, selector, functions, sides, next).unwrap());
    }
    Box::new(PaneOperator::new(setup, panes, selector, (AllOf::default(), emit), sides, next).unwrap())
}

/// Emits all that is in a window.
#[expect(clippy::ptr_arg, reason = "it is what the operator calls")]
pub(super) fn emit(
    key: &u8,
    context: &WindowContext,
    records: &Vec<Event>,
    out: &mut Collector<'_, Fired>,
) -> Result<(), UserError> {
    out.collect((context.window, *key, records.iter().map(|event| event.2).collect()));
    Ok(())
}

/// A value of any type.
#[derive(Clone)]
struct Rest(Vec<u8>);

impl Record for Rest {
    const FIXED_BYTES: Option<usize> = None;

    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.0);
    }

    fn decode(input: &mut &[u8]) -> Result<Self, DecodeError> {
        Ok(Self(std::mem::take(input).to_vec()))
    }
}

/// Windows fire in the order of their ends; within a window keys come in no order, and panes out of it.
pub(super) fn settled(mut fired: Vec<Fired>) -> Vec<Fired> {
    fired.iter_mut().for_each(|(_, _, numbers)| numbers.sort_unstable());
    for together in fired.chunk_by_mut(|one, other| one.0 == other.0) {
        together.sort();
    }
    fired
}

pub(super) fn steps() -> impl Strategy<Value = Vec<Step>> {
    let records = prop::collection::vec((0u8..4, -20i64..200), 1..12);
    let step = prop_oneof![
        4 => records.prop_map(Step::Records),
        3 => (-20i64..200).prop_map(Step::Watermark),
        1 => Just(Step::Restore),
    ];
    prop::collection::vec(step, 1..40)
}

proptest! {
    // Each restore writes a file.
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// Whatever comes in whatever order, and wherever a snapshot is gone on from: the same windows fire at the same steps, and the
    /// same records are late.
    #[test]
    fn windows_fire_as_in_the_model(
        steps in steps(), size in 1i64..30, slide in 1i64..30, offset in -5i64..5, lateness in 0i64..40, tumbling: bool,
        by_trigger: bool,
    ) {
        let panes = Panes::new(size, if tumbling { size } else { slide }, offset);
        let (open, late, fired) = (BTreeMap::new(), Vec::new(), Vec::new());
        let mut model = Model { panes, lateness, watermark: i64::MIN, open, late, fired };
        let (fired, late) = (Notes::default(), Notes::default());
        let mut windows = operator(context(), panes, lateness, &fired, &late, by_trigger);
        let mut numbers = 0..;
        for step in steps.into_iter().chain([Step::Watermark(i64::MAX)]) {
            match step {
                Step::Records(records) => {
                    let mut batch: Vec<Event> =
                        records.into_iter().map(|(key, time)| (key, time, numbers.next().unwrap())).collect();
                    batch.iter().for_each(|event| model.record(*event));
                    windows.push(&mut batch).unwrap();
                    prop_assert!(batch.is_empty());
                    // Late windows fire record by record.
                    prop_assert_eq!(
                        fired.take().into_iter().map(|one| settled(vec![one])).collect::<Vec<_>>(),
                        model.fired.drain(..).map(|one| settled(vec![one])).collect::<Vec<_>>(),
                    );
                }
                Step::Watermark(time) => {
                    model.watermark(time);
                    windows.control(&mut ChainEvent::Watermark(time)).unwrap();
                    prop_assert_eq!(settled(fired.take()), settled(model.fired.drain(..).collect()));
                }
                Step::Restore => {
                    windows = restored(&mut *windows, |of| operator(of, panes, lateness, &fired, &late, by_trigger));
                }
            }
            let late: Vec<u32> = late.take().into_iter().map(|event| event.2).collect();
            prop_assert_eq!(late, std::mem::take(&mut model.late));
        }
        let mut left = 0;
        restored(&mut *windows, |mut of| {
            of.take_entries("panes", |_: u8, _: (i64, Vec<Event>)| left += 1).unwrap();
            of.take_entries("windows", |_: u8, Rest(_)| left += 1).unwrap();
        });
        prop_assert_eq!(left, 0, "windows that are over are forgotten");
    }
}

/// In processing time a window fires when the clock has left it, and the last ones at the end of the input.
#[test]
fn processing_time_windows_follow_the_clock() {
    let (clock, counts) = (TaskClock::standing(1_005), Notes::<(u8, i64, u64)>::default());
    let build = |of: StateContext| {
        let emit = |key: &u8, context: &WindowContext, count: &u64, out: &mut Collector<'_, _>| {
            out.collect((*key, context.window.start, *count));
            Ok(())
        };
        let setup = WindowSetup { timestamps: None, clock: clock.clone(), ..event_time(of) };
        let next = Box::new(counts.clone());
        let selector = ByOwned::new(|event: &Event| event.0);
        PaneOperator::new(setup, Panes::new(100, 100, 0), selector, (CountOf, emit), SideOutputs::default(), next)
            .unwrap()
    };
    let mut windows = build(context());
    windows.push(&mut vec![(1, 0, 0), (1, 0, 1), (2, 0, 2)]).unwrap();
    assert_eq!(clock.due(), Some(1_100));
    windows.control(&mut ChainEvent::Time(1_099)).unwrap();
    windows.control(&mut ChainEvent::Watermark(50_000)).unwrap();
    assert!(counts.take().is_empty(), "watermarks say nothing of processing time");
    windows = restored(&mut windows, build);
    clock.set(1_100);
    assert_eq!(clock.take_due(), Some(1_100));
    windows.control(&mut ChainEvent::Time(1_100)).unwrap();
    let mut fired = counts.take();
    fired.sort_unstable();
    assert_eq!(fired, [(1, 1_000, 2), (2, 1_000, 1)]);
    // A clock that is set back takes nothing from anybody.
    clock.set(900);
    windows.push(&mut vec![(3, 0, 3)]).unwrap();
    assert_eq!(clock.due(), Some(1_200));
    windows.control(&mut ChainEvent::Watermark(i64::MAX)).unwrap();
    assert_eq!(counts.take(), [(3, 1_100, 1)]);
}

/// What a user's function says of a window ends the task under the operator's name.
#[test]
fn an_error_of_a_window_function_ends_the_task() {
    let emit = |_: &u8, _: &WindowContext, _: &u64, _: &mut Collector<'_, u64>| Err("too many".into());
    let setup = event_time(context());
    let selector = ByOwned::new(|event: &Event| event.0);
    let (sides, next) = (SideOutputs::default(), Box::new(Notes::default()));
    let mut windows = PaneOperator::new(setup, Panes::new(10, 10, 0), selector, (CountOf, emit), sides, next).unwrap();
    windows.push(&mut vec![(1, 5, 0)]).unwrap();
    let error = windows.control(&mut ChainEvent::Watermark(9)).unwrap_err();
    assert!(error.to_string().contains("`windows`"), "{error}");
}
