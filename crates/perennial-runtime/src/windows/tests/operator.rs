//! Sessions, global windows, triggers.

use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;

use super::panes::{Fired, Step, emit, settled, steps};
use super::{Event, Notes, context, event_time, restored};
use crate::operators::{OutputTag, SideOutputs};
use crate::windows::{
    AllOf, ContinuousEventTimeTrigger, ContinuousProcessingTimeTrigger, CountTrigger, EventTimeTrigger,
    ProcessingTimeTrigger, PurgingTrigger, TimeWindow, Trigger, WindowOperator, WindowSetup, Windows,
};
use crate::{ByOwned, ChainEvent, Output, StateContext, TaskClock};

/// Sessions with a gap that each record says: its time modulo 3, plus a base.
fn gap(base: i64) -> impl Fn(&Event) -> i64 {
    move |event| base + event.1.rem_euclid(3)
}

/// What sessions are, in few words.
struct Model {
    gap: i64,
    lateness: i64,
    watermark: i64,
    open: Vec<(u8, TimeWindow, Vec<u32>)>,
    late: Vec<u32>,
    fired: Vec<Fired>,
}

impl Model {
    fn record(&mut self, event: Event) {
        let (key, time, number) = event;
        let window = TimeWindow { start: time, end: time + gap(self.gap)(&event) };
        let touches = |open: &(u8, TimeWindow, Vec<u32>)| open.0 == key && open.1.intersects(&window);
        let whole = self.open.iter().filter(|open| touches(open)).fold(window, |whole, open| whole.cover(&open.1));
        if whole.max_timestamp() + self.lateness <= self.watermark {
            return self.late.push(number);
        }
        let mut numbers: Vec<u32> =
            self.open.iter().filter(|open| touches(open)).flat_map(|open| open.2.clone()).collect();
        self.open.retain(|open| !touches(open));
        numbers.push(number);
        self.open.push((key, whole, numbers.clone()));
        if whole.max_timestamp() <= self.watermark {
            self.fired.push((whole, key, numbers));
        }
    }

    fn watermark(&mut self, time: i64) {
        self.open.sort_by_key(|open| open.1.end);
        for (key, window, numbers) in &self.open {
            if self.watermark < window.max_timestamp() && window.max_timestamp() <= time {
                self.fired.push((*window, *key, numbers.clone()));
            }
        }
        self.watermark = self.watermark.max(time);
        self.open.retain(|open| open.1.max_timestamp() + self.lateness > self.watermark);
    }
}

fn windows<Tr: Trigger<Event>>(
    setup: WindowSetup<Event>,
    windows: Windows<Event>,
    trigger: Tr,
    fired: &Notes<Fired>,
    late: &Notes<Event>,
) -> Box<dyn Output<Event>> {
    let mut sides = SideOutputs::default();
    sides.add("late", Box::new(late.clone()));
    let setup = WindowSetup { late: Some(OutputTag::new("late")), ..setup };
    let selector = ByOwned::new(|event: &Event| event.0);
    let functions = (AllOf::default(), trigger, emit);
    Box::new(WindowOperator::new(setup, windows, selector, functions, sides, Box::new(fired.clone())).unwrap())
}

/// Windows of one step, in an order that does not depend on that of keys and of panes.
fn together(fired: Vec<Fired>) -> Vec<Fired> {
    let mut fired = settled(fired);
    fired.sort();
    fired
}

proptest! {
    // Each restore writes a file.
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// Sessions grow, join, fire and fire again as in the model, whatever comes in whatever order and is gone on from.
    #[test]
    fn sessions_fire_as_in_the_model(steps in steps(), base in 1i64..30, lateness in 0i64..40) {
        let (fired, late) = (Notes::default(), Notes::default());
        let mut model = Model {
            gap: base, lateness, watermark: i64::MIN, open: Vec::new(), late: Vec::new(), fired: Vec::new(),
        };
        let build = |of: StateContext| {
            let setup = WindowSetup { allowed_lateness: lateness, ..event_time(of) };
            windows(setup, Windows::Sessions(Arc::new(gap(base))), EventTimeTrigger, &fired, &late)
        };
        let mut sessions = build(context());
        let mut numbers = 0..;
        for step in steps.into_iter().chain([Step::Watermark(i64::MAX)]) {
            match step {
                Step::Records(records) => {
                    let mut batch: Vec<Event> =
                        records.into_iter().map(|(key, time)| (key, time, numbers.next().unwrap())).collect();
                    batch.iter().for_each(|event| model.record(*event));
                    sessions.push(&mut batch).unwrap();
                    prop_assert_eq!(
                        fired.take().into_iter().map(|one| settled(vec![one])).collect::<Vec<_>>(),
                        model.fired.drain(..).map(|one| settled(vec![one])).collect::<Vec<_>>(),
                    );
                }
                Step::Watermark(time) => {
                    model.watermark(time);
                    sessions.control(&mut ChainEvent::Watermark(time)).unwrap();
                    let fired = fired.take();
                    prop_assert!(fired.is_sorted_by_key(|one| one.0.end), "those that end first fire first: {fired:?}");
                    prop_assert_eq!(together(fired), together(model.fired.drain(..).collect()));
                }
                Step::Restore => sessions = restored(&mut *sessions, build),
            }
            let late: Vec<u32> = late.take().into_iter().map(|event| event.2).collect();
            prop_assert_eq!(late, std::mem::take(&mut model.late));
        }
    }
}

fn numbers(fired: &Notes<Fired>) -> Vec<Vec<u32>> {
    fired.take().into_iter().map(|one| one.2).collect()
}

#[test]
fn a_global_window_fires_by_count_and_may_forget() {
    for purging in [false, true] {
        let (fired, late) = (Notes::default(), Notes::default());
        let build = |of: StateContext| match purging {
            true => {
                let trigger = PurgingTrigger::of(CountTrigger::of(2));
                windows(event_time(of), Windows::Global, trigger, &fired, &late)
            }
            false => windows(event_time(of), Windows::Global, CountTrigger::of(2), &fired, &late),
        };
        let mut global = build(context());
        global.push(&mut vec![(1, 5, 0), (2, 0, 1), (1, -7, 2), (1, 9, 3)]).unwrap();
        assert_eq!(numbers(&fired), [[0, 2]]);
        global.control(&mut ChainEvent::Watermark(1_000_000)).unwrap();
        let mut global = restored(&mut *global, build);
        global.push(&mut vec![(1, 0, 4), (2, 0, 5)]).unwrap();
        let expect = if purging { [vec![3, 4], vec![1, 5]] } else { [vec![0, 2, 3, 4], vec![1, 5]] };
        assert_eq!(numbers(&fired), expect);
        global.control(&mut ChainEvent::Watermark(i64::MAX)).unwrap();
        assert!(fired.take().is_empty() && late.take().is_empty());
    }
}

/// Fires at each whole interval and at the end; at the end of the input, when no time is left, just once.
#[test]
fn a_continuous_trigger_fires_while_event_time_goes_on() {
    let (fired, late) = (Notes::default(), Notes::default());
    let build = |of: StateContext| {
        let trigger = ContinuousEventTimeTrigger::of(Duration::from_millis(10));
        windows(event_time(of), Windows::Global, trigger, &fired, &late)
    };
    let mut global = build(context());
    global.push(&mut vec![(1, 3, 0)]).unwrap();
    global.control(&mut ChainEvent::Watermark(9)).unwrap();
    assert!(fired.take().is_empty());
    global = restored(&mut *global, build);
    global.control(&mut ChainEvent::Watermark(10)).unwrap();
    assert_eq!(numbers(&fired), [[0]]);
    global.push(&mut vec![(1, 12, 1)]).unwrap();
    global.control(&mut ChainEvent::Watermark(35)).unwrap();
    assert_eq!(numbers(&fired), [[0, 1], [0, 1]], "at 20 and at 30");
    global.control(&mut ChainEvent::Watermark(i64::MAX)).unwrap();
    assert_eq!(numbers(&fired), [[0, 1], [0, 1]], "at 40 and at the end");
}

#[test]
fn sessions_of_processing_time_end_with_a_pause() {
    let (fired, late) = (Notes::default(), Notes::default());
    let clock = TaskClock::standing(1_000);
    let build = |of: StateContext| {
        let setup = WindowSetup { timestamps: None, clock: clock.clone(), ..event_time(of) };
        windows(setup, Windows::Sessions(Arc::new(|_: &Event| 10)), ProcessingTimeTrigger, &fired, &late)
    };
    let mut sessions = build(context());
    let tick = |sessions: &mut Box<dyn Output<Event>>, now: i64| {
        clock.set(now);
        if let Some(now) = clock.take_due() {
            sessions.control(&mut ChainEvent::Time(now)).unwrap();
        }
        numbers(&fired)
    };
    sessions.push(&mut vec![(1, 0, 0)]).unwrap();
    assert!(tick(&mut sessions, 1_008).is_empty());
    sessions.push(&mut vec![(1, 0, 1)]).unwrap();
    assert!(tick(&mut sessions, 1_012).is_empty(), "it has grown");
    sessions = restored(&mut *sessions, build);
    assert_eq!(tick(&mut sessions, 1_018), [[0, 1]]);
    sessions.push(&mut vec![(1, 0, 2)]).unwrap();
    sessions.control(&mut ChainEvent::Watermark(i64::MAX)).unwrap();
    assert_eq!(numbers(&fired), [[2]], "the end of the input completes it");
}

#[test]
fn a_continuous_trigger_fires_while_the_clock_goes_on() {
    let (fired, late) = (Notes::default(), Notes::default());
    let clock = TaskClock::standing(3);
    let setup = WindowSetup { timestamps: None, clock: clock.clone(), ..event_time(context()) };
    let trigger = PurgingTrigger::of(ContinuousProcessingTimeTrigger::of(Duration::from_millis(10)));
    let mut global = windows(setup, Windows::Global, trigger, &fired, &late);
    global.push(&mut vec![(1, 0, 0)]).unwrap();
    clock.set(10);
    assert_eq!(clock.take_due(), Some(10));
    global.control(&mut ChainEvent::Time(10)).unwrap();
    assert_eq!(numbers(&fired), [[0]]);
    global.push(&mut vec![(1, 0, 1)]).unwrap();
    global.control(&mut ChainEvent::Watermark(i64::MAX)).unwrap();
    assert_eq!(numbers(&fired), [[1]]);
}
