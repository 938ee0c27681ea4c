//! Interval joins.

use proptest::prelude::*;

use super::{Event, Notes, context, restored};
use crate::operators::{Collector, OutputTag, SideOutputs};
use crate::windows::{IntervalJoin, IntervalJoinSetup, JoinContext, Side, Sided};
use crate::{ByOwned, ChainEvent, Output, StateContext};

#[derive(Debug, Clone)]
enum Step {
    /// Keys, times, and whether they are of the left.
    Records(Vec<(u8, i64, bool)>),
    Watermark(i64),
    Restore,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let records = prop::collection::vec((0u8..3, -20i64..120, any::<bool>()), 1..12);
    let step = prop_oneof![
        4 => records.prop_map(Step::Records),
        2 => (-20i64..120).prop_map(Step::Watermark),
        1 => Just(Step::Restore),
    ];
    prop::collection::vec(step, 1..40)
}

proptest! {
    // Each restore writes a file.
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// Every pair within the interval of which neither was late comes once, and nothing is kept for ever.
    #[test]
    fn pairs_are_all_those_within_the_interval(steps in steps(), lower in -30i64..30, length in 0i64..40) {
        let upper = lower + length;
        let pairs = Notes::<(u32, u32)>::default();
        let (left_late, right_late) = (Notes::<Event>::default(), Notes::<Event>::default());
        let build = |of: StateContext| {
            let (left, right) = (OutputTag::<Event>::new("left"), OutputTag::<Event>::new("right"));
            let mut sides = SideOutputs::default();
            sides.add("left", Box::new(left_late.clone()));
            sides.add("right", Box::new(right_late.clone()));
            let setup = IntervalJoinSetup { of, lower, upper, left_late: Some(left), right_late: Some(right) };
            let selector = ByOwned::new(|record: &Sided<Event, Event>| match &record.side {
                Side::Left(event) | Side::Right(event) => event.0,
            });
            let function = |left: &Event, right: &Event, context: &JoinContext, out: &mut Collector<'_, _>| {
                assert_eq!((context.left_timestamp, context.right_timestamp), (left.1, right.1));
                out.collect((left.2, right.2));
                Ok(())
            };
            IntervalJoin::new(setup, selector, function, sides, Box::new(pairs.clone())).unwrap()
        };
        let mut join = build(context());
        let (mut numbers, mut watermark) = (0.., i64::MIN);
        let (mut lefts, mut rights, mut late) = (Vec::new(), Vec::new(), Vec::new());
        for step in steps.into_iter().chain([Step::Watermark(i64::MAX)]) {
            match step {
                Step::Records(records) => {
                    let mut batch = Vec::new();
                    for (key, time, is_left) in records {
                        let event: Event = (key, time, numbers.next().unwrap());
                        let list = if is_left { &mut lefts } else { &mut rights };
                        if time <= watermark { late.push(event.2) } else { list.push(event) }
                        let side = if is_left { Side::Left(event) } else { Side::Right(event) };
                        batch.push(Sided { time, side });
                    }
                    join.push(&mut batch).unwrap();
                }
                Step::Watermark(time) => {
                    join.control(&mut ChainEvent::Watermark(time)).unwrap();
                    watermark = watermark.max(time);
                }
                Step::Restore => join = restored(&mut join, build),
            }
        }
        let mut expect = Vec::new();
        for left in &lefts {
            let with = rights.iter().filter(|right| right.0 == left.0 && (lower..=upper).contains(&(right.1 - left.1)));
            expect.extend(with.map(|right| (left.2, right.2)));
        }
        let mut pairs = pairs.take();
        pairs.sort_unstable();
        expect.sort_unstable();
        prop_assert_eq!(pairs, expect);
        let mut told: Vec<u32> = left_late.take().into_iter().chain(right_late.take()).map(|event| event.2).collect();
        told.sort_unstable();
        prop_assert_eq!(told, late);
        let mut kept = 0;
        type Kept = (Vec<(i64, Event)>, Vec<(i64, Event)>);
        restored(&mut join, |mut of| of.take_entries("records", |_: u8, _: Kept| kept += 1).unwrap());
        prop_assert_eq!(kept, 0);
    }
}
