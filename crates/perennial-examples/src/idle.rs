//! Runs until it is cancelled and does next to nothing: one record per second through an exchange.

use perennial::prelude::*;

/// Builds the job.
pub fn build(env: &StreamExecutionEnvironment, _: &Args) -> Result<(), JobError> {
    env.generate(|index| index).rate(1.0).key_by(|index| *index).count().discard();
    Ok(())
}
