//! A job whose code fails at record 100, in the way `--how` names; with an error when it names none.

use std::hint::black_box;
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::time::Duration;

use perennial::prelude::*;
use perennial::{CheckpointId, Prepared, Reopened, TwoPhaseSink};

/// Builds the job.
pub fn build(env: &StreamExecutionEnvironment, args: &Args) -> Result<(), JobError> {
    let numbers = || env.from_sequence(0..1000);
    match args.get("how").unwrap_or("error") {
        "error" => at_100(&numbers(), |number| Err(format!("record {number} is not welcome"))),
        "panic" => at_100(&numbers(), |number| panic!("record {number} is not welcome")),
        "abort" => at_100(&numbers(), |_| std::process::abort()),
        "exit" => at_100(&numbers(), |_| std::process::exit(7)),
        "overflow" => at_100(&numbers(), |number| Ok(dive(number))),
        "allocate" => at_100(&numbers(), |_| Ok(black_box(Vec::<u8>::with_capacity(1 << 62)).capacity() as u64)),
        "open" => {
            numbers().sink_to(|_| -> Nowhere { panic!("there is nowhere to write to") });
        }
        "commit" => {
            numbers().two_phase_sink_to(|_| Ok::<_, UserError>(Nowhere));
        }
        "thread" => {
            env.from_source("Threaded", |_| Ok::<_, UserError>(Threaded::start())).discard();
        }
        other => {
            let problem =
                format!("is `{other}`: expected error, panic, abort, exit, overflow, allocate, open, commit or thread");
            return Err(JobError::Argument { name: "how".to_owned(), problem });
        }
    }
    Ok(())
}

fn at_100(numbers: &DataStream<u64>, fail: impl Fn(u64) -> Result<u64, String> + Clone + Send + Sync + 'static) {
    numbers.try_map(move |number| if number == 100 { fail(number) } else { Ok(number) }).discard();
}

/// Calls itself until its thread has no stack left.
fn dive(depth: u64) -> u64 {
    if depth == u64::MAX {
        return depth;
    }
    black_box([depth; 128]).iter().sum::<u64>().wrapping_add(dive(depth + 1))
}

/// A sink that takes everything and can make nothing visible.
struct Nowhere;

impl Sink<u64> for Nowhere {
    fn write(&mut self, batch: &mut Vec<u64>) -> Result<(), UserError> {
        batch.clear();
        Ok(())
    }
}

impl TwoPhaseSink<u64> for Nowhere {
    type Transaction = u64;

    fn open(&mut self, _: Option<Reopened<'_, u64>>) -> Result<(), UserError> {
        Ok(())
    }

    fn write(&mut self, batch: &mut Vec<u64>) -> Result<(), UserError> {
        batch.clear();
        Ok(())
    }

    fn prepare(&mut self, _: CheckpointId) -> Result<Option<Prepared<u64>>, UserError> {
        Ok(Some(Prepared { transaction: 1, durable: Box::new(|| Ok(())) }))
    }

    fn commit(&mut self, transaction: &u64) -> Result<(), UserError> {
        panic!("transaction {transaction} cannot be committed")
    }
}

/// A source that reads on a thread of its own, which panics.
struct Threaded {
    numbers: Receiver<u64>,
}

impl Threaded {
    fn start() -> Self {
        let (sender, numbers) = channel();
        std::thread::spawn(move || {
            for number in 0..100 {
                // The task may have been cancelled.
                let _ = sender.send(number);
            }
            panic!("nothing to read at number 100");
        });
        Self { numbers }
    }
}

impl SourceReader<u64> for Threaded {
    fn poll(&mut self, out: &mut Vec<u64>, max: usize) -> Result<SourceStatus, UserError> {
        out.extend(self.numbers.try_iter().take(max));
        match self.numbers.try_recv() {
            Ok(number) => {
                out.push(number);
                Ok(SourceStatus::More)
            }
            Err(TryRecvError::Empty) => Ok(SourceStatus::Wait(Duration::from_millis(1))),
            Err(TryRecvError::Disconnected) => Err("the reading thread is gone".into()),
        }
    }
}
