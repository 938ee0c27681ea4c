//! A job whose code fails at record 100: with an error, or with `--panic` in a panic.

use perennial::prelude::*;

/// Builds the job.
pub fn build(env: &StreamExecutionEnvironment, args: &Args) -> Result<(), JobError> {
    let panics = args.has("panic");
    env.from_sequence(0..1000)
        .try_map(move |number| match number {
            100 if panics => panic!("record {number} is not welcome"),
            100 => Err(format!("record {number} is not welcome")),
            _ => Ok(number),
        })
        .discard();
    Ok(())
}
