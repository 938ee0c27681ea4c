//! A job whose code does not return, and so does not hear that it is cancelled: what `task.cancellation.timeout` is for.

use std::thread::sleep;
use std::time::Duration;

use perennial::prelude::*;

/// Builds the job.
pub fn build(env: &StreamExecutionEnvironment, _: &Args) -> Result<(), JobError> {
    env.generate(|index| index).rate(10.0).key_by(|index| *index).count().map(|_| forever()).discard();
    Ok(())
}

fn forever() -> u64 {
    println!("this does not return");
    loop {
        sleep(Duration::from_secs(1));
    }
}
