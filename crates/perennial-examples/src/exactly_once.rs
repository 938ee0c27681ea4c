//! Counts generated numbers by key and writes each count to files, once: `--keys N --out DIR [--rate R] [--count N]`.
//!
//! Each line is `key,count,index`: the how many-th record of its key the number of this index was. With checkpoints
//! (`-D execution.checkpointing.interval=1s`) the lines of the finished parts have, for each key, every count from 1 on exactly
//! once, whatever fails; without them a restart begins again at 1. Without `--count` it runs until it is cancelled. With `--apart`
//! the counts come from the indices, so that no subtask has anything to do with another: each is a failover region of its own.

use perennial::prelude::*;
use perennial_connectors::prelude::*;

use crate::keyed_count::{keys, limited};

/// Builds the job.
pub fn build(env: &StreamExecutionEnvironment, args: &Args) -> Result<(), JobError> {
    let keys = keys(args)?;
    let out = args.require("out")?;
    // Every index is made once, in order per subtask.
    let numbers = limited(env.generate(|index| index), args)?.uid("numbers");
    if args.has("apart") {
        let counted = numbers.map(move |index| (index % keys, index / keys + 1, index)).uid("counts");
        counted.write_as_csv(out).uid("files");
        return Ok(());
    }
    numbers
        .key_by(move |index| index % keys)
        .process(|key: &u64, index: u64, count: &mut u64, out: &mut Collector<'_, (u64, u64, u64)>| {
            *count += 1;
            out.collect((*key, *count, index));
            Ok::<_, UserError>(())
        })
        .uid("counts")
        .write_as_csv(out)
        .uid("files");
    Ok(())
}
