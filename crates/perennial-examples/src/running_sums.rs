//! Counts and sums generated numbers by key, so that a judge can prove each step: `--keys N --out DIR [--every E] [--rate R] [--count N]`.
//!
//! Each line is `key,count,sum` after every `E`-th record of the key, of every record by default. Key `k` has the numbers of the indices
//! `k`, `k + N`, `k + 2N` and so on. When `N` is a multiple of the parallelism they all come from one subtask of the source, in
//! order: then the sum after any count is known beforehand, and a record that is lost, repeated or moved makes it wrong.

use perennial::prelude::*;
use perennial_connectors::prelude::*;

use crate::keyed_count::{keys, limited};

/// Builds the job.
pub fn build(env: &StreamExecutionEnvironment, args: &Args) -> Result<(), JobError> {
    let keys = keys(args)?;
    let out = args.require("out")?;
    let every = args.parse_or("every", 1_u64)?;
    if every == 0 {
        return Err(JobError::Argument {
            name: "every".to_owned(),
            problem: "is 0; give 1 for a line of every record".to_owned(),
        });
    }
    limited(env.generate(|index| index), args)?
        .uid("numbers")
        .key_by(move |index| index % keys)
        .process(move |key: &u64, index: u64, so_far: &mut (u64, u64), out: &mut Collector<'_, (u64, u64, u64)>| {
            let (count, sum) = so_far;
            *count += 1;
            *sum = sum.wrapping_add(number_of(index));
            if *count % every == 0 {
                out.collect((*key, *count, *sum));
            }
            Ok::<_, UserError>(())
        })
        .uid("sums")
        .write_as_csv(out)
        .uid("files");
    Ok(())
}

/// The number with an index: the finalizer of SplitMix64, so that no two sets of records that differ by a few have the same sum.
pub fn number_of(index: u64) -> u64 {
    let mixed = (index ^ (index >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}
