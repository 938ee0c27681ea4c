//! Measures from inside the tasks how long records stand still: `--probes DIR [--rate R] [--keys N]`.
//!
//! Generated numbers at 50,000 records/s go through map, keyed count and sink, each a task of its own, and each task has a
//! [`Probe`] that writes what it saw to a file of its own in `DIR`. Runs until it is cancelled.
//!
//! A pause is the time between two records of a subtask, whatever happens between them: with batches, that is mostly the
//! time between two batches. A source that keeps a rate sends what it has before it waits, so records of this job wait for no
//! buffer timeout, and an ordinary pause is some ten microseconds; what is longer stood still.

use std::fmt;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use perennial::prelude::*;

/// Time that one line of a probe's file is about.
const LINE_EVERY: Duration = Duration::from_millis(10);

/// Time between two writes to the file: some lines at once, so that the disk is asked for little.
const WRITE_EVERY: Duration = Duration::from_millis(250);

/// Builds the job.
pub fn build(env: &StreamExecutionEnvironment, args: &Args) -> Result<(), JobError> {
    let probes = PathBuf::from(args.require("probes")?);
    let keys: u64 = args.parse_or("keys", 1000)?;
    if keys == 0 {
        return Err(JobError::Argument {
            name: "keys".to_owned(),
            problem: "is 0; at least 1 key is needed".to_owned(),
        });
    }
    let rate = args.parse_or("rate", 50_000.0)?;
    env.generate(|index| index)
        .rate(rate)
        .try_map(probe(&probes, "source"))
        .map(move |index| (index % keys, index))
        .start_new_chain()
        .try_map(probe(&probes, "map"))
        .key_by(|record| record.0)
        .count()
        .try_map(probe(&probes, "count"))
        .try_map(probe(&probes, "sink"))
        .start_new_chain()
        .discard();
    Ok(())
}

/// Passes records on, seen by a probe that each subtask opens at its first record.
fn probe<T>(directory: &Path, stage: &'static str) -> impl FnMut(T) -> io::Result<T> + Clone + Send + Sync + 'static {
    let mut lazy = Lazy { directory: directory.to_owned(), stage, probe: None };
    move |record| lazy.see().map(|()| record)
}

/// A probe whose file is made where the subtask runs, not where the job is built.
struct Lazy {
    directory: PathBuf,
    stage: &'static str,
    probe: Option<Probe>,
}

impl Lazy {
    #[inline]
    fn see(&mut self) -> io::Result<()> {
        match &mut self.probe {
            Some(probe) => probe.see(Instant::now()),
            None => {
                self.probe = Some(Probe::create(&self.directory, self.stage)?);
                Ok(())
            }
        }
    }
}

/// Every subtask gets a probe of its own.
impl Clone for Lazy {
    fn clone(&self) -> Self {
        Self { directory: self.directory.clone(), stage: self.stage, probe: None }
    }
}

/// What a probe saw between the line before and this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Line {
    /// When the line ends: microseconds of the Unix epoch.
    pub unix_us: u64,
    /// Records since the probe was opened.
    pub records: u64,
    /// Longest time between two records, in microseconds. It may have begun before the line.
    pub pause_us: u64,
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.unix_us, self.records, self.pause_us)
    }
}

/// A line that is no line of a probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadLine(String);

impl fmt::Display for BadLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` is not a line of a probe: expected three numbers", self.0)
    }
}

impl std::error::Error for BadLine {}

impl FromStr for Line {
    type Err = BadLine;

    fn from_str(text: &str) -> Result<Self, BadLine> {
        let bad = || BadLine(text.to_owned());
        let mut numbers = text.split(' ').map(|number| number.parse().map_err(|_| bad()));
        let mut next = || numbers.next().unwrap_or_else(|| Err(bad()));
        let line = Self { unix_us: next()?, records: next()?, pause_us: next()? };
        if numbers.next().is_some() { Err(bad()) } else { Ok(line) }
    }
}

/// Watches the records of one subtask: writes a [`Line`] about every 10 ms, a few at once, and the last ones when dropped.
///
/// Nothing is written while no record comes. The first record after a pause ends the pause and its line.
pub struct Probe {
    file: File,
    /// Lines not written yet.
    lines: Vec<u8>,
    written: Instant,
    began: Instant,
    seen: Instant,
    records: u64,
    pause: Duration,
}

impl Probe {
    /// Opens a file in `directory` whose name begins with `stage`, and counts the first record.
    pub fn create(directory: &Path, stage: &str) -> io::Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let file = File::create_new(directory.join(format!("{stage}-{}-{number}", std::process::id())))?;
        let now = Instant::now();
        Ok(Self { file, lines: Vec::new(), written: now, began: now, seen: now, records: 1, pause: Duration::ZERO })
    }

    /// Counts a record that came now.
    #[inline]
    pub fn see(&mut self, now: Instant) -> io::Result<()> {
        self.records += 1;
        self.pause = self.pause.max(now.saturating_duration_since(self.seen));
        self.seen = now;
        if now.saturating_duration_since(self.began) >= LINE_EVERY { self.end_line(now) } else { Ok(()) }
    }

    #[cold]
    fn end_line(&mut self, now: Instant) -> io::Result<()> {
        let unix_us = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as u64);
        let line = Line { unix_us, records: self.records, pause_us: self.pause.as_micros() as u64 };
        writeln!(self.lines, "{line}")?;
        (self.began, self.pause) = (now, Duration::ZERO);
        if now.saturating_duration_since(self.written) >= WRITE_EVERY {
            self.written = now;
            self.write()?;
        }
        Ok(())
    }

    fn write(&mut self) -> io::Result<()> {
        self.file.write_all(&self.lines)?;
        self.lines.clear();
        Ok(())
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        // Nobody is left to tell; a file that lacks its end is noticed by who reads it.
        _ = self.write();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_round_trip_and_others_are_refused() {
        let line = Line { unix_us: 1_764_000_000_000_000, records: 12, pause_us: 345 };
        assert_eq!(line.to_string().parse(), Ok(line));
        for text in ["", "1 2", "1 2 3 4", "1 2 x", "1  2 3"] {
            assert_eq!(text.parse::<Line>(), Err(BadLine(text.to_owned())), "{text}");
        }
    }

    #[test]
    fn a_pause_is_in_the_line_it_ends() -> Result<(), Box<dyn std::error::Error>> {
        let directory = tempfile::tempdir()?;
        let mut probe = Probe::create(directory.path(), "map")?;
        let start = probe.seen;
        for ms in [1, 4, 10, 11, 311, 312, 322] {
            probe.see(start + Duration::from_millis(ms))?;
        }
        drop(probe);
        let file = std::fs::read_dir(directory.path())?.next().ok_or("no file")??.path();
        let lines: Vec<Line> = std::fs::read_to_string(file)?.lines().map(str::parse).collect::<Result<_, _>>()?;
        let seen: Vec<(u64, u64)> = lines.iter().map(|line| (line.records, line.pause_us)).collect();
        assert_eq!(seen, [(4, 6000), (6, 300_000), (8, 10_000)]);
        Ok(())
    }
}
