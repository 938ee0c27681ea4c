//! Event time, timers and connected streams, in jobs that run in this process.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use perennial::prelude::*;

const PARALLELISMS: [u32; 3] = [1, 2, 3];

fn env(parallelism: u32) -> StreamExecutionEnvironment {
    let env = StreamExecutionEnvironment::local();
    env.set_parallelism(parallelism).set_auto_watermark_interval(Duration::from_millis(1));
    env
}

fn sorted<T: Ord>(mut records: Vec<T>) -> Vec<T> {
    records.sort();
    records
}

fn by_time() -> WatermarkStrategy<u64> {
    WatermarkStrategy::for_monotonous_timestamps().with_timestamp_assigner(|time: &u64| *time as i64)
}

/// Counts the records of a key in each hundred ms of event time, and fails for one that comes when its hundred is over.
#[derive(Clone)]
struct CountHundreds;

impl KeyedProcessFunction<u64, u64, MapState<i64, u64>, (u64, i64, u64)> for CountHundreds {
    fn process_element(
        &mut self,
        ctx: &mut KeyContext<'_, u64>,
        _: u64,
        state: &mut KeyState<'_, MapState<i64, u64>>,
        _: &mut Collector<'_, (u64, i64, u64)>,
    ) -> Result<(), UserError> {
        let time = ctx.timestamp().ok_or("no timestamp")?;
        if time <= ctx.current_watermark() {
            return Err(format!("{time} is behind the watermark {}", ctx.current_watermark()).into());
        }
        let hundred = time / 100 * 100;
        *state.get_or_insert_with(hundred, || 0) += 1;
        ctx.register_event_time_timer(hundred + 99);
        Ok(())
    }

    fn on_timer(
        &mut self,
        timer: Timer,
        ctx: &mut KeyContext<'_, u64>,
        state: &mut KeyState<'_, MapState<i64, u64>>,
        out: &mut Collector<'_, (u64, i64, u64)>,
    ) -> Result<(), UserError> {
        let hundred = timer.timestamp - 99;
        let count = state.remove(&hundred).ok_or("a timer without a count")?;
        out.collect((*ctx.key(), hundred, count));
        if state.is_empty() {
            state.clear();
        }
        Ok(())
    }
}

#[test]
fn event_time_timers_fire_once_for_each_key_and_time_at_every_parallelism() {
    const END: u64 = 5_000;
    for parallelism in PARALLELISMS {
        let env = env(parallelism);
        // The timestamps are known behind filters, partitioners, unions and keys.
        let numbers = env.from_sequence(0..END).assign_timestamps_and_watermarks(by_time());
        let (low, high) = (numbers.filter(|n| *n < 3_000), numbers.filter(|n| *n >= 3_000));
        let counted = low.rebalance().union([&high]).key_by(|n| n % 7).process_with(CountHundreds);
        let counted = sorted(counted.execute_and_collect().unwrap());
        let mut expect = Vec::new();
        for hundred in (0..END).step_by(100) {
            for key in 0..7 {
                let count = (hundred..hundred + 100).filter(|n| n % 7 == key).count() as u64;
                expect.push((key, hundred as i64, count));
            }
        }
        assert_eq!(counted, sorted(expect), "parallelism {parallelism}");
    }
}

#[test]
fn timestamps_are_forgotten_by_calls_that_change_the_records() {
    let env = env(1);
    let numbers = env.from_sequence(0..10).assign_timestamps_and_watermarks(by_time());
    let changed = numbers.map(|n| n + 1);
    let error = changed.key_by(|n| *n).process_with(CountHundreds).execute_and_collect().err().unwrap();
    assert!(format!("{error:?}").contains("no timestamp"), "{error:?}");
    let env = self::env(1);
    let numbers = env.from_sequence(0..10).assign_timestamps_and_watermarks(by_time());
    let named_again = numbers.map(|n| n + 1).with_timestamps(|n| *n as i64);
    let counted = named_again.key_by(|_| 1).process_with(CountHundreds).execute_and_collect().unwrap();
    assert_eq!(counted, [(1, 0, 10)]);

    let env = self::env(1);
    env.from_sequence(0..10).assign_timestamps_and_watermarks(WatermarkStrategy::for_monotonous_timestamps()).discard();
    let error = env.execute("job").err().unwrap().to_string();
    assert!(error.contains("with_timestamp_assigner"), "{error}");
}

/// Answers every record 5 ms later.
#[derive(Clone)]
struct Later(Arc<AtomicU32>);

impl KeyedProcessFunction<u64, u64, ValueState<u64>, u64> for Later {
    fn process_element(
        &mut self,
        ctx: &mut KeyContext<'_, u64>,
        record: u64,
        state: &mut KeyState<'_, ValueState<u64>>,
        _: &mut Collector<'_, u64>,
    ) -> Result<(), UserError> {
        state.update(record);
        ctx.register_processing_time_timer(ctx.current_processing_time() + 5);
        Ok(())
    }

    fn on_timer(
        &mut self,
        timer: Timer,
        ctx: &mut KeyContext<'_, u64>,
        state: &mut KeyState<'_, ValueState<u64>>,
        out: &mut Collector<'_, u64>,
    ) -> Result<(), UserError> {
        assert!(timer.domain == TimeDomain::ProcessingTime && timer.timestamp <= ctx.current_processing_time());
        out.extend(state.value().copied());
        state.clear();
        self.0.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
}

/// Ten numbers, and the end once they have been answered.
struct UntilAnswered {
    next: u64,
    answered: Arc<AtomicU32>,
}

impl SourceReader<u64> for UntilAnswered {
    fn poll(&mut self, out: &mut Vec<u64>, _max: usize) -> Result<SourceStatus, UserError> {
        if self.next < 10 {
            out.push(self.next);
            self.next += 1;
            return Ok(SourceStatus::More);
        }
        let all = self.answered.load(Ordering::SeqCst) == 10;
        Ok(if all { SourceStatus::Finished } else { SourceStatus::Wait(Duration::from_millis(1)) })
    }
}

#[test]
fn processing_time_timers_fire_while_nothing_else_happens() {
    let answered = Arc::new(AtomicU32::new(0));
    let (env, seen) = (env(1), answered.clone());
    let source = env
        .from_single_source("numbers", move |_| Ok::<_, UserError>(UntilAnswered { next: 0, answered: seen.clone() }));
    let answers = source.key_by(|n| *n).process_with(Later(answered)).execute_and_collect().unwrap();
    assert_eq!(sorted(answers), (0..10).collect::<Vec<u64>>());
}

/// Pairs each record of one stream with the sum of the other stream's of its key, once both are known to be complete.
#[derive(Clone)]
struct Pair;

type Both = (ListState<u64>, ValueState<u64>);

impl KeyedCoProcessFunction<u64, u64, (u64, String), Both, String> for Pair {
    fn process_element1(
        &mut self,
        ctx: &mut KeyContext<'_, u64>,
        record: u64,
        state: &mut KeyState<'_, Both>,
        _: &mut Collector<'_, String>,
    ) -> Result<(), UserError> {
        state.0.add(record);
        ctx.register_event_time_timer(i64::MAX);
        Ok(())
    }

    fn process_element2(
        &mut self,
        _: &mut KeyContext<'_, u64>,
        (_, text): (u64, String),
        state: &mut KeyState<'_, Both>,
        _: &mut Collector<'_, String>,
    ) -> Result<(), UserError> {
        let sum = state.1.value().copied().unwrap_or(0) + text.len() as u64;
        state.1.update(sum);
        Ok(())
    }

    fn on_timer(
        &mut self,
        _: Timer,
        ctx: &mut KeyContext<'_, u64>,
        state: &mut KeyState<'_, Both>,
        out: &mut Collector<'_, String>,
    ) -> Result<(), UserError> {
        let sum = state.1.value().copied().unwrap_or(0);
        out.extend(state.0.get().iter().map(|record| format!("{record} of {}: {sum}", ctx.key())));
        Ok(())
    }
}

#[test]
fn two_streams_share_the_state_of_their_keys() {
    for parallelism in PARALLELISMS {
        let env = env(parallelism);
        let numbers = env.from_sequence(0..100);
        let more = env.from_sequence(100..110);
        let texts = env.from_collection((0..30u64).map(|n| (n % 5, "x".repeat(n as usize))));
        let first = numbers.union([&more]).key_by(|n| n % 10);
        let paired = first.connect(&texts.key_by(|text| text.0)).process_with(Pair).execute_and_collect().unwrap();
        let sum = |key: u64| (0..30).filter(|n| n % 5 == key).sum::<u64>();
        let expect = (0..110).map(|n| (n, n % 10)).map(|(n, key)| format!("{n} of {key}: {}", sum(key)));
        assert_eq!(sorted(paired), sorted(expect.collect()), "parallelism {parallelism}");
    }
}

#[test]
fn two_streams_of_different_types_become_one() {
    for parallelism in PARALLELISMS {
        let env = env(parallelism);
        let numbers = env.from_sequence(0..50);
        let texts = env.from_collection((0..50).map(|n| n.to_string())).rebalance();
        let mapped = numbers.connect(&texts).map(|n| n, |text| text.len() as u64).collect();
        let flat = texts.connect(&numbers).flat_map(|_, _| {}, |n, out| out.extend([n, n])).collect();
        env.execute("job").unwrap();
        let lengths = (0..50).map(|n: u64| n.to_string().len() as u64);
        assert_eq!(sorted(mapped.take()), sorted((0..50).chain(lengths).collect()));
        assert_eq!(sorted(flat.take()), (0..50).flat_map(|n| [n, n]).collect::<Vec<u64>>());
    }
}

#[test]
fn streams_of_two_environments_cannot_be_connected() {
    let (one, other) = (env(1), env(1));
    one.from_sequence(0..1).connect(&other.from_sequence(0..1)).map(|n| n, |n| n).discard();
    let error = one.execute("job").err().unwrap().to_string();
    assert!(error.contains("different environments"), "{error}");
}

#[test]
fn state_that_is_to_expire_is_for_process_functions() {
    let env = env(1);
    let hour = StateTtlConfig::new(Duration::from_secs(3600));
    let by_digit = env.from_sequence(0..100).key_by(|n| n % 10).with_state_ttl(hour);
    let first = by_digit.process(|digit, n, met: &mut ValueState<u64>, out| {
        if met.value().is_none() {
            out.collect(*digit);
        }
        met.update(n);
        Ok::<_, UserError>(())
    });
    assert_eq!(sorted(first.execute_and_collect().unwrap()), (0..10).collect::<Vec<u64>>());
    by_digit.count().discard();
    let error = env.execute("job").err().unwrap().to_string();
    assert!(error.contains("process_with"), "{error}");
}
