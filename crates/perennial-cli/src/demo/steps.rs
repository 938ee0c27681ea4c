//! The job of the demonstration, whose output proves itself.
//!
//! A source numbers the records of every key: 0, 1, 2 and so on, at a rate. They are counted by key, in keyed state, in
//! another task, and the sink looks at each result: the step of a key has to go up by exactly one, and so has its count. A
//! record that was lost or came twice anywhere on the way is seen there, and a state that was forgotten too.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use perennial::prelude::*;

use super::progress::{Progress, Reported};
use crate::failure::Failure;

/// What `--job-classname` calls it.
pub(crate) const NAME: &str = "steps";

/// Keys, or a few more: each belongs to one subtask of the source.
const KEYS: u64 = 1000;

/// How often the source makes records: the pause between two batches that is no fault.
const POLL: Duration = Duration::from_millis(2);

/// The job's arguments for a directory of its progress and a rate.
pub(crate) fn arguments(directory: &Path, records_per_second: u64) -> Vec<String> {
    let directory = directory.display().to_string();
    ["--progress", &directory, "--rate", &records_per_second.to_string()].map(str::to_owned).to_vec()
}

/// Builds the job.
pub(crate) fn build(env: &StreamExecutionEnvironment, args: &Args) -> Result<(), JobError> {
    let directory = PathBuf::from(args.require("progress")?);
    let (rate, sources) = (args.parse_or("rate", 1000.0)?, directory.clone());
    env.from_source("Steps", move |context| Steps::open(&sources, rate, context))
        .key_by(|step: &(u64, u64)| step.0)
        .aggregate(
            |first: &(u64, u64)| (first.1, 1),
            |so_far: &mut (u64, u64), next| *so_far = (next.1, so_far.1 + 1),
            |key: &u64, (step, count): &(u64, u64)| (*key, *step, *count),
        )
        .name("Count")
        .try_sink_to(move |context| Check::open(&directory, context))
        .name("Check");
    Ok(())
}

/// What all sources and all sinks of a job have seen.
#[derive(Debug, Clone, Default)]
pub(crate) struct Seen {
    sources: Vec<Progress>,
    sinks: Vec<Progress>,
}

impl Seen {
    /// Reads what the tasks have written so far.
    pub(crate) fn read(directory: &Path, parallelism: u16) -> Result<Self, Failure> {
        let read = |role: &str| -> std::io::Result<Vec<Progress>> {
            let paths = (0..parallelism).map(|subtask| directory.join(format!("{role}-{subtask}")));
            Ok(paths
                .map(|path| Progress::read(&path))
                .collect::<std::io::Result<Vec<_>>>()?
                .into_iter()
                .flatten()
                .collect())
        };
        let both = || Ok::<_, std::io::Error>(Self { sources: read("source")?, sinks: read("sink")? });
        Ok(both().map_err(anyhow::Error::from)?)
    }

    fn sum(progress: &[Progress], of: fn(&Progress) -> u64) -> u64 {
        progress.iter().map(of).sum()
    }

    /// Records the sources have made.
    pub(crate) fn made(&self) -> u64 {
        Self::sum(&self.sources, |one| one.records)
    }

    /// Records that have come to the sinks.
    pub(crate) fn arrived(&self) -> u64 {
        Self::sum(&self.sinks, |one| one.records)
    }

    /// Records lost on the way.
    pub(crate) fn lost(&self) -> u64 {
        Self::sum(&self.sinks, |one| one.lost)
    }

    /// Records that came twice.
    pub(crate) fn doubled(&self) -> u64 {
        Self::sum(&self.sinks, |one| one.doubled)
    }

    /// Counts that did not go up by one.
    pub(crate) fn miscounted(&self) -> u64 {
        Self::sum(&self.sinks, |one| one.miscounted)
    }

    /// Longest pause in any task that ended in this time, in milliseconds of the Unix epoch.
    pub(crate) fn longest_pause(&self, from_ms: u64, to_ms: u64) -> Duration {
        let all = self.sources.iter().chain(&self.sinks);
        all.map(|one| one.longest_pause(from_ms, to_ms)).max().unwrap_or_default()
    }
}

/// Makes the steps of every `parallelism`-th key.
struct Steps {
    keys: u64,
    rate: f64,
    since: Instant,
    /// Number of the next record over all keys, and the distance to the one after it.
    index: u64,
    distance: u64,
    made: u64,
    reported: Reported,
}

impl Steps {
    fn open(directory: &Path, rate: f64, context: &TaskContext) -> std::io::Result<Self> {
        let (subtask, distance) = (u64::from(context.attempt.subtask), u64::from(context.parallelism));
        Ok(Self {
            keys: KEYS.next_multiple_of(distance),
            rate: rate / distance as f64,
            since: Instant::now(),
            index: subtask,
            distance,
            made: 0,
            reported: Reported::start(directory, &format!("source-{subtask}"))?,
        })
    }
}

impl SourceReader<(u64, u64)> for Steps {
    fn poll(&mut self, out: &mut Vec<(u64, u64)>, max: usize) -> Result<SourceStatus, UserError> {
        if self.reported.is_asked_to_stop() {
            self.reported.finish()?;
            return Ok(SourceStatus::Finished);
        }
        let due = ((self.since.elapsed().as_secs_f64() * self.rate) as u64).saturating_sub(self.made);
        let count = due.min(max as u64);
        for _ in 0..count {
            out.push((self.index % self.keys, self.index / self.keys));
            self.index += self.distance;
        }
        self.made += count;
        if count > 0 {
            self.reported.update(|progress| progress.advance(count));
        }
        Ok(if count < due { SourceStatus::More } else { SourceStatus::Wait(POLL) })
    }
}

/// Looks at every result.
struct Check {
    /// Last step and count of each key.
    keys: Vec<Option<(u64, u64)>>,
    reported: Reported,
}

impl Check {
    fn open(directory: &Path, context: &TaskContext) -> std::io::Result<Self> {
        let keys = KEYS.next_multiple_of(u64::from(context.parallelism));
        let reported = Reported::start(directory, &format!("sink-{}", context.attempt.subtask))?;
        Ok(Self { keys: vec![None; keys as usize], reported })
    }
}

/// Compares a result with the one before it.
fn check(last: &mut Option<(u64, u64)>, step: u64, count: u64, progress: &mut Progress) {
    let (due, counted) = last.map_or((0, 0), |(step, count)| (step + 1, count));
    progress.miscounted += u64::from(count != counted + 1);
    if step < due {
        progress.doubled += 1;
    } else {
        progress.lost += step - due;
        *last = Some((step, count));
        return;
    }
    *last = last.map(|(step, _)| (step, count));
}

impl Sink<(u64, u64, u64)> for Check {
    fn write(&mut self, batch: &mut Vec<(u64, u64, u64)>) -> Result<(), UserError> {
        let Self { keys, reported } = self;
        reported.update(|progress| {
            progress.advance(batch.len() as u64);
            for (key, step, count) in batch.drain(..) {
                let last = keys.get_mut(key as usize).ok_or_else(|| format!("there is no key {key}"))?;
                check(last, step, count, progress);
            }
            Ok(())
        })
    }

    fn finish(&mut self) -> Result<(), UserError> {
        Ok(self.reported.finish()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_that_is_missing_or_comes_again_is_seen() {
        let seen = |results: &[(u64, u64)]| {
            let (mut last, mut progress) = (None, Progress::default());
            results.iter().for_each(|(step, count)| check(&mut last, *step, *count, &mut progress));
            (progress.lost, progress.doubled, progress.miscounted)
        };
        assert_eq!(seen(&[(0, 1), (1, 2), (2, 3)]), (0, 0, 0));
        assert_eq!(seen(&[(0, 1), (3, 2), (4, 3)]), (2, 0, 0), "two were lost before they were counted");
        assert_eq!(seen(&[(0, 1), (3, 4)]), (2, 0, 1), "two were lost after they were counted");
        assert_eq!(seen(&[(0, 1), (1, 2), (1, 3), (2, 4)]), (0, 1, 0), "one came twice");
        assert_eq!(seen(&[(0, 1), (1, 2), (2, 1)]), (0, 0, 1), "the count was forgotten");
    }

    /// The job in this process, without a cluster: it ends when asked to, and what was made has arrived.
    #[test]
    fn what_is_made_arrives() {
        let dir = std::env::temp_dir().join(format!("perennial-steps-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let args = arguments(&dir, 100_000);
        let running = std::thread::spawn(move || {
            let env = StreamExecutionEnvironment::local();
            env.set_parallelism(2);
            build(&env, &Args::new(args))
                .and_then(|()| env.execute("steps"))
                .map(drop)
                .map_err(|error| error.to_string())
        });
        while Seen::read(&dir, 2).unwrap().arrived() == 0 {
            std::thread::sleep(Duration::from_millis(5));
        }
        super::super::progress::ask_to_stop(&dir).unwrap();
        running.join().unwrap().unwrap();
        let seen = Seen::read(&dir, 2).unwrap();
        std::fs::remove_dir_all(&dir).unwrap();
        assert_eq!((seen.lost(), seen.doubled(), seen.miscounted()), (0, 0, 0));
        assert!(seen.made() > 0 && seen.made() == seen.arrived(), "{seen:?}");
    }
}
