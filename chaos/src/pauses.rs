//! What the probes of the job `gap_probe` have written: how long its subtasks stood still.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};

/// Time until what a probe has seen is certainly in its file: it writes every 250 ms.
const WRITTEN_AFTER: Duration = Duration::from_millis(500);

/// A line of a probe: when it ended, records so far, longest pause between two records, the times in microseconds.
type Line = (u64, u64, u64);

/// The longest pause of a window and where it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Longest {
    /// Name of the subtask's file.
    pub(crate) subtask: String,
    pub(crate) pause: Duration,
}

/// Every subtask that has ever run, by the name of its file, up to a moment.
#[derive(Debug)]
pub(crate) struct Pauses {
    subtasks: BTreeMap<String, Vec<Line>>,
    until_us: u64,
}

/// Microseconds of the Unix epoch, now.
pub(crate) fn now_us() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as u64)
}

impl Pauses {
    /// Reads all that happened until now; waits a moment for it to be written.
    pub(crate) fn read(directory: &Path) -> Result<Self> {
        let until_us = now_us();
        std::thread::sleep(WRITTEN_AFTER);
        Ok(Self { until_us, ..Self::so_far(directory)? })
    }

    /// Reads what is written now; of the last moment some is missing.
    pub(crate) fn so_far(directory: &Path) -> Result<Self> {
        let until_us = now_us();
        let mut subtasks = BTreeMap::new();
        for entry in fs::read_dir(directory).with_context(|| directory.display().to_string())? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let text = fs::read_to_string(&path)?;
            // A line without its end is still being written.
            let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
            let lines = whole.lines().map(line).collect::<Result<_>>().with_context(|| name.clone())?;
            subtasks.insert(name, lines);
        }
        Ok(Self { subtasks, until_us })
    }

    /// Whether a subtask in this process has seen records in so much time before what was read ends.
    pub(crate) fn writes(&self, pid: u32, within: Duration) -> bool {
        let of_process = self.subtasks.iter().filter(|(name, _)| name.split('-').nth(1) == Some(&pid.to_string()));
        let mut last = of_process.filter_map(|(_, lines)| lines.last());
        last.any(|last| u128::from(self.until_us.saturating_sub(last.0)) < within.as_micros())
    }

    /// When the first line ended of each subtask of a stage that has had its first record after a moment.
    pub(crate) fn begun_after(&self, stage: &str, from_us: u64) -> Vec<u64> {
        let of_stage = self.subtasks.iter().filter(|(name, _)| name.split('-').next() == Some(stage));
        of_stage.filter_map(|(_, lines)| lines.first()).map(|first| first.0).filter(|first| *first > from_us).collect()
    }

    /// The longest pause that ended in a window or goes on at the end of what was read.
    pub(crate) fn longest(&self, from_us: u64, to_us: u64) -> Result<Longest> {
        let to_us = to_us.min(self.until_us);
        let mut longest: Option<Longest> = None;
        for (subtask, lines) in &self.subtasks {
            let ended = lines.iter().filter(|line| (from_us..=to_us).contains(&line.0)).map(|line| line.2).max();
            let open = lines.last().map(|last| to_us.saturating_sub(last.0.max(from_us)));
            let Some(pause_us) = ended.max(open) else { continue };
            if longest.as_ref().is_none_or(|longest| longest.pause.as_micros() < u128::from(pause_us)) {
                longest = Some(Longest { subtask: subtask.clone(), pause: Duration::from_micros(pause_us) });
            }
        }
        longest.context("no probe has written anything")
    }

    /// The pause that all but a thousandth of the lines of a window stay below: what is ordinary here.
    pub(crate) fn ordinary(&self, from_us: u64, to_us: u64) -> Result<Duration> {
        let lines = self.subtasks.values().flatten().filter(|line| (from_us..=to_us).contains(&line.0));
        let mut pauses: Vec<u64> = lines.map(|line| line.2).collect();
        pauses.sort_unstable();
        ensure!(!pauses.is_empty(), "no probe has written anything");
        let at = pauses.len() - 1 - pauses.len() / 1000;
        Ok(Duration::from_micros(pauses.get(at).copied().unwrap_or_default()))
    }

    /// Records per second that the sources made in a window.
    pub(crate) fn rate(&self, from_us: u64, to_us: u64) -> f64 {
        let to_us = to_us.min(self.until_us);
        let sources = self.subtasks.iter().filter(|(name, _)| name.starts_with("source"));
        let made = sources.map(|(_, lines)| {
            let records_at = |time: u64| lines.iter().rev().find(|line| line.0 <= time).map_or(0, |line| line.1);
            records_at(to_us).saturating_sub(records_at(from_us))
        });
        made.sum::<u64>() as f64 / (to_us.saturating_sub(from_us).max(1) as f64 / 1e6)
    }
}

fn line(text: &str) -> Result<Line> {
    let mut numbers = text.split(' ').map(str::parse::<u64>);
    let mut next = || Ok::<u64, anyhow::Error>(numbers.next().context("a number is missing")??);
    let line = (next()?, next()?, next()?);
    ensure!(numbers.next().is_none(), "`{text}` has more than three numbers");
    Ok(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pauses(lines: &[Line], until_us: u64) -> Pauses {
        Pauses { subtasks: BTreeMap::from([("source-1-0".to_owned(), lines.to_vec())]), until_us }
    }

    #[test]
    fn a_pause_counts_where_it_ended_or_while_it_goes_on() {
        let pauses = pauses(&[(1000, 10, 50), (2000, 20, 700), (3000, 30, 60)], 3100);
        let us = |from, to| pauses.longest(from, to).unwrap().pause.as_micros();
        assert_eq!(us(0, 3100), 700);
        assert_eq!(us(2001, 3050), 60);
        assert_eq!(us(2001, 9999), 100, "it is silent since 3000");
    }

    #[test]
    fn rate_and_ordinary_pause_are_of_the_window() {
        let lines: Vec<Line> = (1..=2000).map(|n| (n * 1000, n * 10, if n == 7 { 9000 } else { n % 5 })).collect();
        let pauses = pauses(&lines, 2_000_000);
        assert_eq!(pauses.ordinary(0, 2_000_000).unwrap().as_micros(), 4);
        assert!((pauses.rate(1_000_000, 2_000_000) - 10_000.0).abs() < 1.0);
    }

    #[test]
    fn subtasks_that_begin_after_a_moment_are_found() {
        let pauses = pauses(&[(1000, 10, 50), (2000, 20, 700)], 3100);
        assert_eq!(pauses.begun_after("source", 999), [1000]);
        assert_eq!(pauses.begun_after("source", 1000), [0; 0]);
        assert_eq!(pauses.begun_after("sink", 0), [0; 0]);
    }

    #[test]
    fn lines_have_three_numbers() {
        assert_eq!(line("1 2 3").unwrap(), (1, 2, 3));
        for text in ["", "1 2", "1 2 x", "1 2 3 4"] {
            assert!(line(text).is_err(), "{text}");
        }
    }
}
