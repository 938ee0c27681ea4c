//! The workloads as a user would write them.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use perennial::prelude::*;

use crate::counter::Counter;
use crate::workload::{self, Checksum, Generator, Rec, Timed, WINDOW_MS, now_ms};

/// The jobs of this binary as an artifact.
pub(crate) fn registry() -> JobRegistry {
    JobRegistry::new()
        .job("pass_through", pass_through)
        .job("keyed_count", keyed_count)
        .job("window_count", window_count)
}

/// Generator, map, filter, map, discard: one chain. Counts what is generated, for the filter drops records.
fn pass_through(env: &StreamExecutionEnvironment, args: &Args) -> Result<(), JobError> {
    let counters = PathBuf::from(args.require("counters")?);
    generated(env, args, Some(counters))?
        .map(workload::first_map)
        .filter(workload::filter)
        .map(workload::second_map)
        .sink_to(|_| Discard { checksum: Checksum::default(), counter: None });
    Ok(())
}

/// Running count per key. Counts what comes out, at the sink.
fn keyed_count(env: &StreamExecutionEnvironment, args: &Args) -> Result<(), JobError> {
    let counters = PathBuf::from(args.require("counters")?);
    generated(env, args, None)?.key_by(|record: &Rec| record.0).count().try_sink_to(move |_| {
        Ok::<_, io::Error>(Discard { checksum: Checksum::default(), counter: Some(Counter::create(&counters)?) })
    });
    Ok(())
}

/// Count per key in windows of one second; event time is the wall clock. Counts what is generated, for windows emit once a second.
fn window_count(env: &StreamExecutionEnvironment, args: &Args) -> Result<(), JobError> {
    let counters = PathBuf::from(args.require("counters")?);
    let keys = args.parse_or("keys", 1000)?;
    let records = env.from_source("Generator", move |context| {
        let generator = Generator::new(u64::from(context.attempt.subtask), keys);
        Ok::<_, io::Error>(TimedSource { generator, counter: Counter::create(&counters)? })
    });
    let strategy = WatermarkStrategy::for_monotonous_timestamps().with_timestamp_assigner(|record: &Timed| record.1);
    let seconds = TumblingEventTimeWindows::of(Duration::from_millis(WINDOW_MS as u64));
    records
        .assign_timestamps_and_watermarks(strategy)
        .key_by(|record| record.0)
        .window(seconds)
        .count()
        .sink_to(|_| Discard { checksum: Checksum::default(), counter: None });
    Ok(())
}

struct TimedSource {
    generator: Generator,
    counter: Counter,
}

impl SourceReader<Timed> for TimedSource {
    fn poll(&mut self, out: &mut Vec<Timed>, max: usize) -> Result<SourceStatus, UserError> {
        let now = now_ms();
        out.extend((0..max).map(|_| (self.generator.next().0, now)));
        self.counter.add(max)?;
        Ok(SourceStatus::More)
    }
}

/// Records over `--keys` different keys, as fast as they are taken, counted in `counters` if there are some.
fn generated(
    env: &StreamExecutionEnvironment,
    args: &Args,
    counters: Option<PathBuf>,
) -> Result<DataStream<Rec>, JobError> {
    let keys = args.parse_or("keys", 1000)?;
    Ok(env.from_source("Generator", move |context| {
        let counter = counters.as_deref().map(Counter::create).transpose()?;
        Ok::<_, io::Error>(Source { generator: Generator::new(u64::from(context.attempt.subtask), keys), counter })
    }))
}

struct Source {
    generator: Generator,
    counter: Option<Counter>,
}

impl SourceReader<Rec> for Source {
    fn poll(&mut self, out: &mut Vec<Rec>, max: usize) -> Result<SourceStatus, UserError> {
        self.generator.fill(out, max);
        if let Some(counter) = &mut self.counter {
            counter.add(max)?;
        }
        Ok(SourceStatus::More)
    }
}

/// Folds what it gets into a checksum, as the limits do.
struct Discard {
    checksum: Checksum,
    counter: Option<Counter>,
}

impl Sink<Rec> for Discard {
    fn write(&mut self, batch: &mut Vec<Rec>) -> Result<(), UserError> {
        batch.iter().for_each(|record| self.checksum.add(*record));
        self.checksum.observe();
        if let Some(counter) = &mut self.counter {
            counter.add(batch.len())?;
        }
        Ok(())
    }
}
