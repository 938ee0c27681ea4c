//! Generated numbers through map, filter and map, and away, in one chain: `[--count N] [--rate R]`.

use perennial::prelude::*;

use crate::keyed_count::limited;

/// Builds the job.
pub fn build(env: &StreamExecutionEnvironment, args: &Args) -> Result<(), JobError> {
    limited(env.generate(|index| index), args)?
        .map(|number| number.wrapping_mul(0x9e37_79b9_7f4a_7c15))
        .filter(|number| number & 1 == 0)
        .map(|number| number >> 7)
        .discard();
    Ok(())
}
