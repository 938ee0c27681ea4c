//! Windows over streams, run in this process, against what a few lines of plain Rust give.

use std::collections::BTreeMap;
use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use perennial::prelude::*;

const PARALLELISMS: [u32; 3] = [1, 2, 4];

/// A key, a time, a value.
type Reading = (u32, i64, u64);

/// Readings whose times jump back and forth by less than 100 ms.
fn readings() -> Vec<Reading> {
    (0..5_000u64).map(|n| ((n % 7) as u32, (n * 3 + (n * 37) % 89) as i64, n % 11)).collect()
}

fn env(parallelism: u32) -> StreamExecutionEnvironment {
    let env = StreamExecutionEnvironment::local();
    // Watermarks come often, so that windows fire while records come.
    env.set_parallelism(parallelism).set_auto_watermark_interval(Duration::from_millis(1));
    env
}

fn stream(env: &StreamExecutionEnvironment) -> DataStream<Reading> {
    let strategy = WatermarkStrategy::for_bounded_out_of_orderness(Duration::from_millis(100))
        .with_timestamp_assigner(|reading: &Reading| reading.1);
    env.from_collection(readings()).assign_timestamps_and_watermarks(strategy)
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn sorted<T: Ord>(mut records: Vec<T>) -> Vec<T> {
    records.sort();
    records
}

/// The values of each key in each window that begins at a multiple of `slide`.
fn expected(size: i64, slide: i64) -> BTreeMap<(i64, u32), Vec<u64>> {
    let mut windows = BTreeMap::<(i64, u32), Vec<u64>>::new();
    for (key, time, value) in readings() {
        let latest = time - time.rem_euclid(slide);
        for start in (0..).map(|n| latest - n * slide).take_while(|start| start + size > time) {
            windows.entry((start, key)).or_default().push(value);
        }
    }
    windows
}

#[test]
fn tumbling_windows_aggregate_each_record_once() {
    for parallelism in PARALLELISMS {
        let env = env(parallelism);
        let windows = stream(&env).key_by(|reading| reading.0).window(TumblingEventTimeWindows::of(ms(1_000)));
        let counts = windows.count().collect();
        let (sums, least, most) = (windows.sum(|r| r.2), windows.min(|r| r.2), windows.max(|r| r.2));
        let (sums, least, most) = (sums.collect(), least.collect(), most.collect());
        let latest = windows.reduce(|a, b| if a.1 >= b.1 { a } else { b }).collect();
        env.execute("tumbling").unwrap();
        let expect = expected(1_000, 1_000);
        let of = |f: &dyn Fn(&[u64]) -> u64| {
            sorted(expect.iter().map(|((_, key), values)| (*key, f(values))).collect::<Vec<_>>())
        };
        assert_eq!(sorted(counts.take()), of(&|values| values.len() as u64));
        assert_eq!(sorted(sums.take()), of(&|values| values.iter().sum()));
        assert_eq!(sorted(least.take()), of(&|values| *values.iter().min().unwrap()));
        assert_eq!(sorted(most.take()), of(&|values| *values.iter().max().unwrap()));
        assert_eq!(latest.take().len(), expect.len());
    }
}

/// The sum and the number of values.
#[derive(Clone)]
struct Totals;

impl AggregateFunction<Reading> for Totals {
    type Accumulator = (u64, u64);
    type Output = (u64, u64);

    fn create_accumulator(&self) -> (u64, u64) {
        (0, 0)
    }

    fn add(&self, totals: &mut (u64, u64), reading: Reading) {
        totals.0 += reading.2;
        totals.1 += 1;
    }

    fn get_result(&self, totals: &(u64, u64)) -> (u64, u64) {
        *totals
    }

    fn merge(&self, totals: &mut (u64, u64), other: &(u64, u64)) {
        totals.0 += other.0;
        totals.1 += other.1;
    }
}

#[test]
fn sliding_windows_have_each_record_as_often_as_they_overlap() {
    for parallelism in PARALLELISMS {
        let env = env(parallelism);
        let sliding = SlidingEventTimeWindows::of(ms(1_000), ms(300));
        let windows = stream(&env).key_by(|reading| reading.0).window(sliding);
        let totals = windows
            .aggregate_with(Totals, |key, context, totals, out| {
                assert!(context.watermark >= context.window.max_timestamp());
                out.collect((context.window.start, *key, totals));
                Ok::<_, UserError>(())
            })
            .collect();
        let all = windows
            .process(|key, context, readings, out| {
                out.collect((context.window.start, *key, sorted(readings.iter().map(|reading| reading.2).collect())));
                Ok::<_, UserError>(())
            })
            .collect();
        env.execute("sliding").unwrap();
        let expect = expected(1_000, 300);
        let sums = expect.iter().map(|((start, key), v)| (*start, *key, (v.iter().sum::<u64>(), v.len() as u64)));
        assert_eq!(sorted(totals.take()), sums.collect::<Vec<_>>());
        let values = expect.iter().map(|((start, key), values)| (*start, *key, sorted(values.clone())));
        assert_eq!(sorted(all.take()), values.collect::<Vec<_>>());
    }
}

/// Windows over results of windows: the results name their own time.
#[test]
fn windows_follow_on_windows() {
    let env = env(2);
    let counts = stream(&env)
        .key_by(|reading| reading.0)
        .window(TumblingEventTimeWindows::of(ms(100)))
        .aggregate_with(Totals, |_, context, totals: (u64, u64), out| {
            out.collect((context.window.max_timestamp(), totals.1));
            Ok::<_, UserError>(())
        })
        .with_timestamps(|result| result.0)
        .window_all(TumblingEventTimeWindows::of(ms(1_000)))
        .process(|context, results, out| {
            out.collect((context.window.start, results.iter().map(|result| result.1).sum()));
            Ok::<_, UserError>(())
        })
        .execute_and_collect()
        .unwrap();
    let mut expect = BTreeMap::new();
    for (_, time, _) in readings() {
        *expect.entry(time - time.rem_euclid(1_000)).or_insert(0) += 1;
    }
    assert_eq!(sorted(counts), expect.into_iter().collect::<Vec<(i64, u64)>>());
}

#[test]
fn processing_time_windows_lose_nothing_at_the_end() {
    let env = env(2);
    let windows = TumblingProcessingTimeWindows::of(ms(5));
    let counts = env.from_collection(readings()).rebalance().key_by(|reading| reading.0).window(windows).count();
    let counts = counts.execute_and_collect().unwrap();
    assert_eq!(counts.iter().map(|(_, count)| count).sum::<u64>(), 5_000);
}

/// Times in an order of its own: it goes on past the second when it has been told that its window fired.
struct OneLate {
    fired: Arc<AtomicBool>,
    at: usize,
}

impl SourceReader<Reading> for OneLate {
    fn poll(&mut self, out: &mut Vec<Reading>, _max: usize) -> Result<SourceStatus, UserError> {
        if self.at == 2 && !self.fired.load(Ordering::Acquire) {
            return Ok(SourceStatus::Wait(ms(1)));
        }
        let readings = [(1, 500, 0), (1, 10_500, 1), (1, 600, 2), (1, 10_100, 3)];
        out.extend(readings.get(self.at));
        self.at += 1;
        Ok(if self.at < readings.len() { SourceStatus::More } else { SourceStatus::Finished })
    }
}

fn one_late(env: &StreamExecutionEnvironment, fired: &Arc<AtomicBool>) -> DataStream<Reading> {
    let fired = fired.clone();
    let strategy =
        WatermarkStrategy::for_monotonous_timestamps().with_timestamp_assigner(|reading: &Reading| reading.1);
    env.from_single_source("Readings", move |_| Ok::<_, UserError>(OneLate { fired: fired.clone(), at: 0 }))
        .assign_timestamps_and_watermarks(strategy)
}

#[test]
fn late_records_go_to_their_side_output_or_fire_again() {
    for lateness in [0, 100_000] {
        let (env, fired) = (env(1), Arc::new(AtomicBool::new(false)));
        let late = OutputTag::<Reading>::new("late");
        let windows = one_late(&env, &fired).key_by(|reading| reading.0);
        let windows = windows.window(TumblingEventTimeWindows::of(ms(1_000))).allowed_lateness(ms(lateness));
        let tell = fired.clone();
        let counts = windows.side_output_late_data(&late).process(move |_, context, readings, out| {
            tell.store(true, Ordering::Release);
            out.collect((context.window.start, readings.len() as u64));
            Ok::<_, UserError>(())
        });
        let (counts, late) = (counts.collect(), counts.get_side_output(&late).collect());
        env.execute("late").unwrap();
        if lateness == 0 {
            // The third is late; the fourth is out of order, but its window has not ended.
            assert_eq!(late.take(), [(1, 600, 2)]);
            assert_eq!(counts.take(), [(0, 1), (10_000, 2)]);
        } else {
            assert!(late.take().is_empty());
            assert_eq!(counts.take(), [(0, 1), (0, 2), (10_000, 2)]);
        }
    }
}

#[test]
fn windows_that_cannot_be_are_refused_with_advice() {
    type Build = fn(&DataStream<Reading>) -> DataStream<(u32, u64)>;
    let refused = |build: Build| {
        let env = env(1);
        let error = build(&env.from_collection(readings())).execute_and_collect().unwrap_err();
        assert!(error.source().is_none());
        error.to_string()
    };
    let text = refused(|s| s.key_by(|r| r.0).window(TumblingEventTimeWindows::of(ms(10))).count());
    assert!(text.contains("TumblingEventTimeWindows") && text.contains("with_timestamps"), "{text}");
    let text = refused(|s| s.key_by(|r| r.0).window(TumblingProcessingTimeWindows::of(ms(0))).count());
    assert!(text.contains("size") && text.contains("less than a millisecond"), "{text}");
    let text = refused(|s| {
        let sliding = SlidingEventTimeWindows::of(ms(10), Duration::MAX);
        s.with_timestamps(|r| r.1).key_by(|r| r.0).window(sliding).count()
    });
    assert!(text.contains("slide") && text.contains("longer than all time"), "{text}");
}

/// Sessions of keys, by definition: sorted times cut where the gap is longer.
fn expected_sessions(gap: i64) -> Vec<(u32, i64, u64)> {
    let mut times = BTreeMap::<u32, Vec<i64>>::new();
    for (key, time, _) in readings() {
        // Without these there would be one session.
        if time % 1_000 < 700 {
            times.entry(key).or_default().push(time);
        }
    }
    let mut sessions = Vec::new();
    for (key, mut times) in times {
        times.sort_unstable();
        let session = |times: &[i64]| (key, times.first().copied().unwrap_or_default(), times.len() as u64);
        sessions.extend(times.chunk_by(|a, b| b - a <= gap).map(session));
    }
    sessions
}

#[test]
fn sessions_end_with_a_pause() {
    for parallelism in PARALLELISMS {
        for dynamic in [false, true] {
            let env = env(parallelism);
            let keyed = stream(&env).filter(|reading| reading.1 % 1_000 < 700).key_by(|reading| reading.0);
            let windows = match dynamic {
                false => keyed.window(EventTimeSessionWindows::with_gap(ms(200))),
                true => keyed.window(EventTimeSessionWindows::with_dynamic_gap(|_: &Reading| 200)),
            };
            let sessions = windows.aggregate_with(Totals, |key, context, totals: (u64, u64), out| {
                out.collect((*key, context.window.start, totals.1));
                Ok::<_, UserError>(())
            });
            let expect = expected_sessions(200);
            assert!(expect.len() > 50);
            assert_eq!(sorted(sessions.execute_and_collect().unwrap()), expect);
        }
    }
}

#[test]
fn global_windows_fire_by_their_trigger() {
    let env = env(2);
    let hundred = PurgingTrigger::of(CountTrigger::of(100));
    let windows = stream(&env).map(|reading| reading).key_by(|reading| reading.0).window(GlobalWindows::create());
    let counts = windows.clone().trigger(hundred.clone()).count().collect();
    let by_count = stream(&env).key_by(|reading| reading.0).count_window(100).count().collect();
    let never = windows.count().collect();
    let all = stream(&env).window_all(GlobalWindows::create()).trigger(hundred).count().collect();
    env.execute("global").unwrap();
    // 5000 records over 7 keys: 715 of the first two, 714 of the others.
    assert_eq!(sorted(counts.take()), (0..7).flat_map(|key| [(key, 100); 7]).collect::<Vec<_>>());
    assert_eq!(sorted(by_count.take()), (0..7).flat_map(|key| [(key, 100); 7]).collect::<Vec<_>>());
    assert_eq!(all.take(), [100; 50]);
    assert!(never.take().is_empty());
}

/// Fires once, with the third record. What a trigger of the user's looks like.
#[derive(Clone)]
struct Third;

impl Trigger<Reading> for Third {
    type State = u32;

    fn on_element(
        &self,
        _: &Reading,
        _: i64,
        _: &TimeWindow,
        seen: &mut u32,
        _: &mut TriggerContext<'_>,
    ) -> TriggerResult {
        *seen += 1;
        if *seen == 3 { TriggerResult::Fire } else { TriggerResult::Continue }
    }

    fn on_event_time(&self, _: i64, _: &TimeWindow, _: &mut u32, _: &mut TriggerContext<'_>) -> TriggerResult {
        TriggerResult::Continue
    }

    fn on_processing_time(&self, _: i64, _: &TimeWindow, _: &mut u32, _: &mut TriggerContext<'_>) -> TriggerResult {
        TriggerResult::Continue
    }

    fn on_merge(&self, _: &TimeWindow, seen: &mut u32, other: u32, _: &mut TriggerContext<'_>) {
        *seen += other;
    }
}

#[test]
fn a_trigger_can_be_the_users() {
    let env = env(2);
    let windows = stream(&env).key_by(|reading| reading.0).window(TumblingEventTimeWindows::of(ms(1_000)));
    let counts = windows.trigger(Third).count().execute_and_collect().unwrap();
    let windows = expected(1_000, 1_000).into_values().filter(|values| values.len() >= 3).count();
    assert_eq!(counts.len(), windows);
    assert!(counts.iter().all(|(_, count)| *count == 3));
}
