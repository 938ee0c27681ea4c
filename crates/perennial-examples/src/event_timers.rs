//! Counts generated numbers by key in every second of event time, by timers: `--count N --out DIR [--keys N] [--rate R]`.
//!
//! Number `i` happens at `i` ms. Each line is `key,second,count`, once for each key and second: the lines are the same in
//! whichever order records come, at any parallelism and through any restore.

use std::time::Duration;

use perennial::prelude::*;
use perennial_connectors::prelude::*;

use crate::keyed_count::{keys, limited};

/// How much later than others a record may come. Subtasks of the source that go on from a checkpoint are not equally far.
pub(crate) const OUT_OF_ORDERNESS: Duration = Duration::from_secs(5);

/// Builds the job.
pub fn build(env: &StreamExecutionEnvironment, args: &Args) -> Result<(), JobError> {
    let (keys, out) = (keys(args)?, args.require("out")?);
    let strategy = WatermarkStrategy::for_bounded_out_of_orderness(OUT_OF_ORDERNESS)
        .with_timestamp_assigner(|index: &u64| *index as i64);
    limited(env.generate(|index| index), args)?
        .uid("numbers")
        .assign_timestamps_and_watermarks(strategy)
        .key_by(move |index| index % keys)
        .process_with(CountSeconds)
        .uid("seconds")
        .write_as_csv(out)
        .uid("files");
    Ok(())
}

/// The lines of the job, in order.
pub fn expected(count: u64, keys: u64) -> Vec<String> {
    let mut lines = Vec::new();
    for second in 0..count.div_ceil(1000) {
        let indices = second * 1000..count.min((second + 1) * 1000);
        for key in 0..keys {
            let of_key = indices.clone().filter(|index| index % keys == key).count();
            if of_key > 0 {
                lines.push(format!("{key},{second},{of_key}"));
            }
        }
    }
    lines.sort();
    lines
}

/// Counts the records of a key in each second; a timer at its end emits what there were.
#[derive(Clone)]
struct CountSeconds;

impl KeyedProcessFunction<u64, u64, MapState<i64, u64>, (u64, i64, u64)> for CountSeconds {
    fn process_element(
        &mut self,
        ctx: &mut KeyContext<'_, u64>,
        _index: u64,
        counts: &mut KeyState<'_, MapState<i64, u64>>,
        _out: &mut Collector<'_, (u64, i64, u64)>,
    ) -> Result<(), UserError> {
        let time = ctx.timestamp().ok_or("the numbers have no timestamps")?;
        if time <= ctx.current_watermark() {
            return Err(format!("number {time} comes behind the watermark {}", ctx.current_watermark()).into());
        }
        *counts.get_or_insert_with(time / 1000, || 0) += 1;
        ctx.register_event_time_timer(time / 1000 * 1000 + 999);
        Ok(())
    }

    fn on_timer(
        &mut self,
        timer: Timer,
        ctx: &mut KeyContext<'_, u64>,
        counts: &mut KeyState<'_, MapState<i64, u64>>,
        out: &mut Collector<'_, (u64, i64, u64)>,
    ) -> Result<(), UserError> {
        let second = timer.timestamp / 1000;
        let count = counts.remove(&second).ok_or("a timer of a second without records")?;
        out.collect((*ctx.key(), second, count));
        if counts.is_empty() {
            counts.clear();
        }
        Ok(())
    }
}
