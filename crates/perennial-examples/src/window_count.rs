//! Counts generated numbers by key in windows of three kinds: `--count N --out DIR [--keys N] [--rate R]`.
//!
//! Number `i` happens at `i` ms; a key is silent in every third stretch of 700 ms, so that it has sessions. Each line is
//! `kind,key,start,count`, once for each window that has numbers in it: the lines are the same in whichever order records come, at any
//! parallelism and through any restore.

use std::collections::BTreeMap;
use std::time::Duration;

use perennial::prelude::*;
use perennial_connectors::prelude::*;

use crate::event_timers::OUT_OF_ORDERNESS;
use crate::keyed_count::{keys, limited};

/// Length of a tumbling window, and how long a sliding one waits for the next.
const SECOND_MS: i64 = 1_000;
/// Length of a sliding window: no whole number of seconds, so that it has panes of its own.
const SLIDING_MS: i64 = 2_500;
/// Pause after which a session has ended.
const GAP_MS: i64 = 300;
/// Stretches of which every key is silent in each third.
const STRETCH_MS: u64 = 700;

/// A line: kind, key, start of the window, numbers in it.
type Line = (String, u64, i64, u64);

/// Builds the job.
pub fn build(env: &StreamExecutionEnvironment, args: &Args) -> Result<(), JobError> {
    let (keys, out) = (keys(args)?, args.require("out")?);
    let strategy = WatermarkStrategy::for_bounded_out_of_orderness(OUT_OF_ORDERNESS)
        .with_timestamp_assigner(|index: &u64| *index as i64);
    let ms = |ms: i64| Duration::from_millis(ms.unsigned_abs());
    let numbers = limited(env.generate(|index| index), args)?
        .uid("numbers")
        .filter(move |index| is_heard(*index, *index % keys))
        .assign_timestamps_and_watermarks(strategy)
        .key_by(move |index| index % keys);
    let tumbling = numbers.window(TumblingEventTimeWindows::of(ms(SECOND_MS)));
    let tumbling =
        tumbling.aggregate_with(Count, |key, context, count, out| line("tumbling", *key, context, count, out));
    let sliding = numbers.window(SlidingEventTimeWindows::of(ms(SLIDING_MS), ms(SECOND_MS)));
    let sliding = sliding.aggregate_with(Count, |key, context, count, out| line("sliding", *key, context, count, out));
    let sessions = numbers.window(EventTimeSessionWindows::with_gap(ms(GAP_MS)));
    let sessions = sessions
        .process(|key, context, numbers, out| line("session", *key, context, numbers.len() as u64, out))
        .uid("sessions");
    tumbling.uid("tumbling").union([&sliding.uid("sliding"), &sessions]).write_as_csv(out).uid("files");
    Ok(())
}

fn line(
    kind: &str,
    key: u64,
    context: &WindowContext,
    count: u64,
    out: &mut Collector<'_, Line>,
) -> Result<(), UserError> {
    out.collect((kind.to_owned(), key, context.window.start, count));
    Ok(())
}

/// Whether a number is there at all.
fn is_heard(index: u64, key: u64) -> bool {
    (index / STRETCH_MS) % 3 != key % 3
}

/// The number of records.
#[derive(Clone)]
struct Count;

impl AggregateFunction<u64> for Count {
    type Accumulator = u64;
    type Output = u64;

    fn create_accumulator(&self) -> u64 {
        0
    }

    fn add(&self, count: &mut u64, _: u64) {
        *count += 1;
    }

    fn get_result(&self, count: &u64) -> u64 {
        *count
    }

    fn merge(&self, count: &mut u64, other: &u64) {
        *count += other;
    }
}

/// The lines of the job, in order.
pub fn expected(count: u64, keys: u64) -> Vec<String> {
    let mut windows = BTreeMap::<(&str, u64, i64), u64>::new();
    // Start and latest number of the session of each key.
    let mut sessions = BTreeMap::<u64, (i64, i64)>::new();
    for index in (0..count).filter(|index| is_heard(*index, index % keys)) {
        let (key, time) = (index % keys, index as i64);
        let latest = time - time.rem_euclid(SECOND_MS);
        *windows.entry(("tumbling", key, latest)).or_default() += 1;
        let starts = (0..).map(|back| latest - back * SECOND_MS).take_while(|start| start + SLIDING_MS > time);
        starts.for_each(|start| *windows.entry(("sliding", key, start)).or_default() += 1);
        let session = sessions.entry(key).or_insert((time, time));
        if time - session.1 > GAP_MS {
            session.0 = time;
        }
        session.1 = time;
        *windows.entry(("session", key, session.0)).or_default() += 1;
    }
    let mut lines: Vec<String> =
        windows.into_iter().map(|((kind, key, start), count)| format!("{kind},{key},{start},{count}")).collect();
    lines.sort();
    lines
}
