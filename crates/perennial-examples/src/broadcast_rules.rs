//! Applies rules that change over time to generated numbers: `--count N --out DIR [--keys N] [--rate R]`.
//!
//! Number `i` happens at `i` ms. Every second a rule comes that says by how much numbers are multiplied from then on; rules go to
//! every subtask and are broadcast state. A number waits until event time is past it, for then all rules of its time are there.
//! Each line is `number,product`, once for each number, the same at any parallelism and through any restore.

use perennial::prelude::*;
use perennial_connectors::prelude::*;

use crate::event_timers::OUT_OF_ORDERNESS;
use crate::keyed_count::keys;

/// Builds the job.
pub fn build(env: &StreamExecutionEnvironment, args: &Args) -> Result<(), JobError> {
    let (keys, out) = (keys(args)?, args.require("out")?);
    let count: u64 = args.parse_or("count", 10_000)?;
    let (mut numbers, mut rules) = (
        env.generate(|index| index).count(count),
        env.generate(|second| (second as i64 * 1000, factor(second))).count(count.div_ceil(1000)),
    );
    if let Some(rate) = args.parse::<f64>("rate")? {
        (numbers, rules) = (numbers.rate(rate), rules.rate(rate / 1000.0));
    }
    let by_index = WatermarkStrategy::for_bounded_out_of_orderness(OUT_OF_ORDERNESS)
        .with_timestamp_assigner(|index: &u64| *index as i64);
    let by_time =
        WatermarkStrategy::for_bounded_out_of_orderness(OUT_OF_ORDERNESS).with_timestamp_assigner(|rule: &Rule| rule.0);
    let rules = rules.uid("rules").assign_timestamps_and_watermarks(by_time);
    numbers
        .uid("numbers")
        .assign_timestamps_and_watermarks(by_index)
        .key_by(move |index| index % keys)
        .connect_broadcast(&rules)
        .process_with(Multiply)
        .uid("multiplied")
        .write_as_csv(out)
        .uid("files");
    Ok(())
}

/// By how much the numbers of a second are multiplied.
fn factor(second: u64) -> u64 {
    second * 7 % 13
}

/// The lines of the job, in order.
pub fn expected(count: u64) -> Vec<String> {
    let mut lines: Vec<String> = (0..count).map(|index| format!("{index},{}", index * factor(index / 1000))).collect();
    lines.sort();
    lines
}

/// From when it holds, and the factor.
type Rule = (i64, u64);

/// Numbers that wait for event time.
type Waiting = ListState<u64>;

/// The factors, by the time from which they hold.
type Rules = MapState<i64, u64>;

/// Multiplies each number by the latest factor of its time.
#[derive(Clone)]
struct Multiply;

impl KeyedBroadcastProcessFunction<u64, u64, Rule, Waiting, Rules, (u64, u64)> for Multiply {
    fn process_element(
        &mut self,
        ctx: &mut KeyContext<'_, u64>,
        index: u64,
        waiting: &mut KeyState<'_, Waiting>,
        _rules: &Rules,
        _out: &mut Collector<'_, (u64, u64)>,
    ) -> Result<(), UserError> {
        waiting.add(index);
        ctx.register_event_time_timer(index as i64);
        Ok(())
    }

    fn process_broadcast_element(
        &mut self,
        (from, factor): Rule,
        rules: &mut Rules,
        _out: &mut Collector<'_, (u64, u64)>,
    ) -> Result<(), UserError> {
        rules.put(from, factor);
        Ok(())
    }

    fn on_timer(
        &mut self,
        timer: Timer,
        _ctx: &mut KeyContext<'_, u64>,
        waiting: &mut KeyState<'_, Waiting>,
        rules: &Rules,
        out: &mut Collector<'_, (u64, u64)>,
    ) -> Result<(), UserError> {
        let is_due = |index: &u64| *index as i64 <= timer.timestamp;
        let latest = rules.entries().take_while(|(from, _)| **from <= timer.timestamp).last();
        let (_, factor) = latest.ok_or("no rule of this time")?;
        out.extend(waiting.get().iter().filter(|index| is_due(index)).map(|index| (*index, index * factor)));
        waiting.get_mut().retain(|index| !is_due(index));
        if waiting.get().is_empty() {
            waiting.clear();
        }
        Ok(())
    }
}
