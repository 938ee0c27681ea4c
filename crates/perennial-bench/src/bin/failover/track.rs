//! What the probes in the tasks wrote, and how long records stood still.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use perennial_examples::gap_probe::Line;

/// The file of one probe: one subtask of one stage.
#[derive(Debug)]
pub(crate) struct Track {
    /// Name of the file, which begins with the stage.
    name: String,
    /// In order of time.
    lines: Vec<Line>,
}

/// All probes of a job.
#[derive(Debug)]
pub(crate) struct Tracks(Vec<Track>);

/// A stretch of time in microseconds of the Unix epoch, its end not included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stretch {
    /// Its beginning.
    pub(crate) from_us: u64,
    /// Its end.
    pub(crate) to_us: u64,
}

impl Tracks {
    /// Reads every file of a directory. The job has ended, so every file is complete.
    pub(crate) fn read(directory: &Path) -> Result<Self> {
        let mut tracks = Vec::new();
        for entry in fs::read_dir(directory).with_context(|| directory.display().to_string())? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
            let lines: Vec<Line> = text.lines().map(str::parse).collect::<Result<_, _>>().context(name.clone())?;
            ensure!(lines.is_sorted_by_key(|line| line.unix_us), "the clock went back while {name} was written");
            tracks.push(Track { name, lines });
        }
        ensure!(!tracks.is_empty(), "the job's tasks wrote nothing to {}", directory.display());
        Ok(Self(tracks))
    }

    /// Number of probes.
    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }

    /// Longest time that the records of any subtask stood still, and whose.
    pub(crate) fn standstill(&self, stretch: Stretch) -> (Duration, &str) {
        let each = self.0.iter().map(|track| (track.standstill(stretch), track.name.as_str()));
        each.max_by_key(|(pause, _)| *pause).unwrap_or_default()
    }

    /// The longest pause of each line of each probe.
    pub(crate) fn pauses(&self, stretch: Stretch) -> impl Iterator<Item = Duration> {
        let lines = self.0.iter().flat_map(move |track| track.within(stretch));
        lines.map(|line| Duration::from_micros(line.pause_us))
    }

    /// Records per second over all subtasks of a stage.
    pub(crate) fn rate(&self, stage: &str, stretch: Stretch) -> f64 {
        let of_stage = self.0.iter().filter(|track| track.name.starts_with(stage));
        of_stage.map(|track| track.rate(stretch)).sum()
    }
}

impl Track {
    fn within(&self, stretch: Stretch) -> &[Line] {
        let at = |time: u64| self.lines.partition_point(|line| line.unix_us < time);
        self.lines.get(at(stretch.from_us)..at(stretch.to_us)).unwrap_or_default()
    }

    /// The longest pause that ended within the stretch, or what one that goes on at its end has lasted.
    fn standstill(&self, stretch: Stretch) -> Duration {
        let ended = self.within(stretch).iter().map(|line| line.pause_us).max().unwrap_or_default();
        let next = self.lines.partition_point(|line| line.unix_us < stretch.to_us);
        let last = next.checked_sub(1).and_then(|last| self.lines.get(last));
        // A subtask that has not begun does not stand still.
        let since_last = last.map_or(0, |last| stretch.to_us - last.unix_us);
        let open = self.lines.get(next).map_or(since_last, |next| since_last.min(next.pause_us));
        Duration::from_micros(ended.max(open))
    }

    fn rate(&self, stretch: Stretch) -> f64 {
        let lines = self.within(stretch);
        let (Some(first), Some(last)) = (lines.first(), lines.last()) else { return 0.0 };
        let seconds = (last.unix_us - first.unix_us) as f64 / 1e6;
        if seconds > 0.0 { (last.records - first.records) as f64 / seconds } else { 0.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tracks(files: &[(&str, &str)]) -> Result<Tracks> {
        let directory = tempfile::tempdir()?;
        for (name, text) in files {
            fs::write(directory.path().join(name), text)?;
        }
        Tracks::read(directory.path())
    }

    fn standstill(tracks: &Tracks, from_us: u64, to_us: u64) -> u64 {
        tracks.standstill(Stretch { from_us, to_us }).0.as_micros() as u64
    }

    #[test]
    fn a_pause_counts_where_it_ends() -> Result<()> {
        let tracks = tracks(&[("map-1-0", "10000 5 90\n20000 9 80\n320000 10 300000\n330000 14 70\n")])?;
        assert_eq!(standstill(&tracks, 0, 20_000), 90);
        assert_eq!(standstill(&tracks, 300_000, 331_000), 300_000);
        assert_eq!(standstill(&tracks, 325_000, 330_001), 70, "it was over before");
        Ok(())
    }

    #[test]
    fn a_pause_that_goes_on_counts_up_to_the_end_of_the_stretch() -> Result<()> {
        let tracks = tracks(&[("map-1-0", "10000 5 90\n20000 9 80\n320000 10 300000\n")])?;
        assert_eq!(standstill(&tracks, 0, 120_000), 100_000);
        assert_eq!(standstill(&tracks, 0, 20_001), 90, "only just begun");
        assert_eq!(standstill(&tracks, 400_000, 920_000), 600_000, "it never went on");
        Ok(())
    }

    #[test]
    fn an_ordinary_line_across_the_end_is_no_pause() -> Result<()> {
        let tracks = tracks(&[("map-1-0", "10000 5 90\n20000 9 80\n30000 12 85\n")])?;
        assert_eq!(standstill(&tracks, 15_000, 29_999), 85);
        assert_eq!(standstill(&tracks, 0, 5_000), 0, "it has not begun");
        Ok(())
    }

    #[test]
    fn the_longest_of_any_subtask_counts_and_rates_add_up() -> Result<()> {
        let tracks = tracks(&[
            ("map-1-0", "0 0 1\n1000000 1000 20\n"),
            ("map-1-1", "0 0 1\n1000000 3000 10\n"),
            ("sink-2-0", "0 0 1\n1000000 4000 70\n"),
        ])?;
        let all = Stretch { from_us: 0, to_us: 1_000_001 };
        assert_eq!(tracks.standstill(all), (Duration::from_micros(70), "sink-2-0"));
        assert_eq!((tracks.rate("map", all), tracks.rate("sink", all)), (4000.0, 4000.0));
        assert_eq!((tracks.pauses(all).max(), tracks.count()), (Some(Duration::from_micros(70)), 3));
        Ok(())
    }

    #[test]
    fn what_is_no_track_is_refused() {
        assert!(tracks(&[]).is_err());
        assert!(tracks(&[("map-1-0", "10000 5\n")]).is_err());
        assert!(tracks(&[("map-1-0", "10000 5 1\n9000 6 1\n")]).is_err());
    }
}
