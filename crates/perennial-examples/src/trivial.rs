//! A hundred numbers, and done: measures what a cluster needs around a job.

use perennial::prelude::*;

/// Builds the job.
pub fn build(env: &StreamExecutionEnvironment, _: &Args) -> Result<(), JobError> {
    env.from_sequence(0..100).discard();
    Ok(())
}
