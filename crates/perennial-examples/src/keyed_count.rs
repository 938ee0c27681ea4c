//! Counts generated numbers by key and drops the counts: `[--keys N] [--count N] [--rate R]`.
//!
//! Without `--count` it runs until it is cancelled, without `--rate` as fast as it can.

use perennial::prelude::*;

/// Builds the job.
pub fn build(env: &StreamExecutionEnvironment, args: &Args) -> Result<(), JobError> {
    let keys = keys(args)?;
    let numbers = limited(env.generate(move |index| (key_of(index, keys), index)), args)?;
    numbers.key_by(|number| number.0).count().discard();
    Ok(())
}

/// Number of keys of the arguments.
pub(crate) fn keys(args: &Args) -> Result<u64, JobError> {
    match args.parse_or("keys", 1000)? {
        0 => Err(JobError::Argument { name: "keys".to_owned(), problem: "is 0; at least 1 key is needed".to_owned() }),
        keys => Ok(keys),
    }
}

/// Gives a generated stream the end and the rate of the arguments.
pub(crate) fn limited<T: Record>(
    mut stream: perennial::Generated<T>,
    args: &Args,
) -> Result<perennial::Generated<T>, JobError> {
    if let Some(count) = args.parse("count")? {
        stream = stream.count(count);
    }
    if let Some(rate) = args.parse("rate")? {
        stream = stream.rate(rate);
    }
    Ok(stream)
}

/// A key in `0..keys` for an index: the bits of the index are mixed (the finalizer of SplitMix64), so that neighbours get keys
/// far apart, and scaled down without a division.
fn key_of(index: u64, keys: u64) -> u64 {
    let mixed = (index ^ (index >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((u128::from(mixed ^ (mixed >> 31)) * u128::from(keys)) >> 64) as u64
}
