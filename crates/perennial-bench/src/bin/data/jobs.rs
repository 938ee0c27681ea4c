//! The workloads as a user would write them.

use std::io;
use std::path::PathBuf;

use perennial::prelude::*;

use crate::counter::Counter;
use crate::workload::{self, Checksum, Generator, Rec};

/// The jobs of this binary as an artifact.
pub(crate) fn registry() -> JobRegistry {
    JobRegistry::new().job("pass_through", pass_through).job("keyed_count", keyed_count)
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
