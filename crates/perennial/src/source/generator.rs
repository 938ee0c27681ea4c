//! Records that are computed, as fast as possible or at a rate.

use std::collections::VecDeque;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use perennial_runtime::{SourceReader, SourceStatus, TaskContext, UserError};
use perennial_types::Record;

use super::{decoded, encoded};
use crate::{DataStream, JobError, StreamExecutionEnvironment};

/// How far a source catches up after it could not keep its rate. What is beyond is given up, so that a pause downstream is
/// not followed by a flood.
const LONGEST_BACKLOG: Duration = Duration::from_secs(1);

/// A generated stream. It is a [`DataStream`] that can still be given a rate and an end.
pub struct Generated<T> {
    stream: DataStream<T>,
    settings: Arc<Settings>,
}

/// What readers look at when they are opened, after the builder is done.
struct Settings {
    /// Number of records over all subtasks.
    count: AtomicU64,
    /// Records per second over all subtasks, as bits of an `f64`; zero is no limit.
    rate: AtomicU64,
}

impl StreamExecutionEnvironment {
    /// Computes records from their index, from 0, without end and as fast as possible. Flink's `DataGeneratorSource`.
    ///
    /// Subtask `s` of `p` makes the indices `s`, `s + p`, `s + 2p` and so on, each once. Set the rate and the number of records before
    /// anything else:
    ///
    /// ```
    /// # use perennial::prelude::*;
    /// # fn numbers(env: &StreamExecutionEnvironment) -> DataStream<u64> {
    /// env.generate(|index| index % 1000).count(1_000_000).rate(50_000.0).filter(|n| n % 2 == 0)
    /// # }
    /// ```
    pub fn generate<T, F>(&self, function: F) -> Generated<T>
    where
        T: Record,
        F: FnMut(u64) -> T + Clone + Send + Sync + 'static,
    {
        let settings = Arc::new(Settings { count: AtomicU64::new(u64::MAX), rate: AtomicU64::new(0) });
        let at_open = settings.clone();
        let stream = self.from_source("Data Generator", move |context| {
            Ok::<_, UserError>(Generator::new(function.clone(), &at_open, context))
        });
        Generated { stream, settings }
    }
}

impl<T: Record> Generated<T> {
    /// Ends the stream after `count` records over all subtasks.
    pub fn count(self, count: u64) -> Self {
        self.settings.count.store(count, Ordering::Relaxed);
        self
    }

    /// Makes so many records per second over all subtasks, evenly. More than zero.
    pub fn rate(self, records_per_second: f64) -> Self {
        if records_per_second > 0.0 && records_per_second.is_finite() {
            self.settings.rate.store(records_per_second.to_bits(), Ordering::Relaxed);
        } else {
            let problem = format!("{records_per_second} records per second is no rate");
            let error = JobError::operator("Data Generator", problem, "give a rate above zero, or none for full speed");
            self.stream.environment().fail(error);
        }
        self
    }
}

impl<T> Deref for Generated<T> {
    type Target = DataStream<T>;

    fn deref(&self) -> &DataStream<T> {
        &self.stream
    }
}

/// Some indices, at equal distances.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Split {
    /// Index of the next record, and the distance to the one after it.
    index: u64,
    step: u64,
    /// Records still to be made.
    left: u64,
}

struct Generator<F> {
    function: F,
    /// What this subtask still makes, the first of them now. There are several after a change of the parallelism.
    splits: VecDeque<Split>,
    pace: Option<Pace>,
}

impl<F> Generator<F> {
    fn new(function: F, settings: &Settings, context: &TaskContext) -> Self {
        let (subtask, step) = (u64::from(context.attempt.subtask), u64::from(context.parallelism));
        let left = settings.count.load(Ordering::Relaxed).saturating_sub(subtask).div_ceil(step);
        let rate = f64::from_bits(settings.rate.load(Ordering::Relaxed)) / step as f64;
        let pace = (rate > 0.0).then(|| Pace::new(rate, Instant::now()));
        Self { function, splits: VecDeque::from([Split { index: subtask, step, left }]), pace }
    }
}

impl<T, F: FnMut(u64) -> T + Send> SourceReader<T> for Generator<F> {
    fn poll(&mut self, out: &mut Vec<T>, max: usize) -> Result<SourceStatus, UserError> {
        let due = match &mut self.pace {
            None => max as u64,
            Some(pace) => pace.due(Instant::now()).min(max as u64),
        };
        let Some(split) = self.splits.front_mut() else { return Ok(SourceStatus::Finished) };
        let count = due.min(split.left);
        let (index, step, function) = (split.index, split.step, &mut self.function);
        if step == 1 {
            out.extend((index..index + count).map(function));
        } else {
            out.extend((0..count).map(|n| function(index + n * step)));
        }
        split.index = index.wrapping_add(count * step);
        split.left -= count;
        let split_is_over = split.left == 0;
        if split_is_over {
            self.splits.pop_front();
        } else {
            // In turn, so that none falls behind: of an endless split nobody sees the end.
            self.splits.rotate_left(1);
        }
        if let Some(pace) = &mut self.pace {
            pace.made += count;
        }
        Ok(match &self.pace {
            _ if self.splits.is_empty() => SourceStatus::Finished,
            _ if split_is_over => SourceStatus::More,
            Some(pace) if count < max as u64 => SourceStatus::Wait(pace.until_next(Instant::now())),
            _ => SourceStatus::More,
        })
    }

    fn snapshot(&mut self) -> Result<Vec<Vec<u8>>, UserError> {
        Ok(self.splits.iter().map(|split| encoded(&(split.index, split.step, split.left))).collect())
    }

    fn restore(&mut self, splits: Vec<Vec<u8>>) -> Result<(), UserError> {
        let split = |bytes: &Vec<u8>| decoded(bytes).map(|(index, step, left)| Split { index, step, left });
        self.splits = splits.iter().map(split).collect::<Result<_, _>>()?;
        Ok(())
    }
}

/// When records are due: record `n` at `since + n / rate`.
struct Pace {
    rate: f64,
    since: Instant,
    made: u64,
}

impl Pace {
    fn new(rate: f64, since: Instant) -> Self {
        Self { rate, since, made: 0 }
    }

    /// Number of records that should have been made by `now` and are not.
    fn due(&mut self, now: Instant) -> u64 {
        let wanted = (now.saturating_duration_since(self.since).as_secs_f64() * self.rate) as u64 + 1;
        let most = (LONGEST_BACKLOG.as_secs_f64() * self.rate).max(1.0) as u64;
        if wanted.saturating_sub(self.made) > most {
            (self.since, self.made) = (now.checked_sub(LONGEST_BACKLOG).unwrap_or(now), 0);
            return most;
        }
        wanted.saturating_sub(self.made)
    }

    /// Time until the next record is due.
    fn until_next(&self, now: Instant) -> Duration {
        let at = Duration::try_from_secs_f64(self.made as f64 / self.rate).unwrap_or(Duration::MAX);
        at.saturating_sub(now.saturating_duration_since(self.since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pace_keeps_its_rate_and_forgets_a_long_backlog() {
        let start = Instant::now();
        let mut pace = Pace::new(100.0, start);
        let mut made = 0;
        for ms in 0..1000 {
            let due = pace.due(start + Duration::from_millis(ms));
            pace.made += due;
            made += due;
        }
        assert_eq!(made, 100);
        assert_eq!(pace.until_next(start + Duration::from_millis(995)), Duration::from_millis(5));
        assert_eq!(pace.due(start + Duration::from_secs(60)), 100);
        assert!(pace.due(start + Duration::from_secs(60)) <= 101);
    }

    #[test]
    fn a_generator_goes_on_where_its_snapshot_was_taken() {
        let generator = |splits: &[(u64, u64, u64)]| {
            let splits = splits.iter().map(|(index, step, left)| Split { index: *index, step: *step, left: *left });
            Generator { function: |index: u64| index, splits: splits.collect(), pace: None }
        };
        let mut reader = generator(&[(1, 3, 5)]);
        let mut out = Vec::new();
        assert_eq!(reader.poll(&mut out, 2).unwrap(), SourceStatus::More);
        let snapshot = reader.snapshot().unwrap();
        assert_eq!(reader.poll(&mut out, 100).unwrap(), SourceStatus::Finished);
        assert_eq!(out, [1, 4, 7, 10, 13]);
        assert!(reader.snapshot().unwrap().is_empty());
        let mut other = generator(&[(1, 3, 5)]);
        other.restore([snapshot, vec![encoded(&(2u64, 3u64, 1u64))]].concat()).unwrap();
        out.clear();
        assert_eq!(other.poll(&mut out, 100).unwrap(), SourceStatus::More);
        assert_eq!(other.poll(&mut out, 100).unwrap(), SourceStatus::Finished);
        assert_eq!(out, [7, 10, 13, 2]);
        // Several splits take turns.
        other.restore(vec![encoded(&(0u64, 3u64, 4u64)), encoded(&(100u64, 3u64, 4u64))]).unwrap();
        let mut turns = Vec::new();
        for _ in 0..3 {
            assert_eq!(other.poll(&mut turns, 2).unwrap(), SourceStatus::More);
        }
        assert_eq!(turns, [0, 3, 100, 103, 6, 9]);
        // Nothing left is not everything again.
        other.restore(Vec::new()).unwrap();
        assert_eq!(other.poll(&mut out, 100).unwrap(), SourceStatus::Finished);
        assert_eq!(out.len(), 4);
    }
}
