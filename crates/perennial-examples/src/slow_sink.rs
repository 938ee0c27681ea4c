//! A source at full speed before a sink that takes `--rate` records per second over all its subtasks (20 000 by default), for
//! `--count` records (one million by default): what back-pressure is for.

use std::thread::sleep;
use std::time::{Duration, Instant};

use perennial::prelude::*;

/// Builds the job.
pub fn build(env: &StreamExecutionEnvironment, args: &Args) -> Result<(), JobError> {
    let rate: f64 = args.parse_or("rate", 20_000.0)?;
    if !(rate > 0.0 && rate.is_finite()) {
        return Err(JobError::Argument {
            name: "rate".to_owned(),
            problem: format!("is {rate}; more than 0 is needed"),
        });
    }
    env.generate(|index| index)
        .count(args.parse_or("count", 1_000_000)?)
        .rebalance()
        .sink_to(move |context| SlowSink { per_second: rate / f64::from(context.parallelism), free_at: Instant::now() })
        .name("Slow");
    Ok(())
}

/// Takes so many records per second and sleeps in between, as a slow database would.
struct SlowSink {
    per_second: f64,
    /// When it is done with what it took.
    free_at: Instant,
}

impl Sink<u64> for SlowSink {
    fn write(&mut self, batch: &mut Vec<u64>) -> Result<(), UserError> {
        self.free_at = self.free_at.max(Instant::now()) + Duration::from_secs_f64(batch.len() as f64 / self.per_second);
        batch.clear();
        sleep(self.free_at.saturating_duration_since(Instant::now()));
        Ok(())
    }
}
