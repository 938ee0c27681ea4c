//! What a task of the demonstration's job knows of its records, measured inside the task and kept in a small file.
//!
//! A thread of its own replaces the file, so that a slow disk is not taken for a pause of the task.

use std::collections::VecDeque;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How often the file is replaced.
const WRITE_INTERVAL: Duration = Duration::from_millis(200);

/// Pauses are kept as the longest of each so many milliseconds.
const BUCKET_MS: u64 = 100;

/// Buckets kept: half a minute.
const BUCKETS_MAX: usize = 300;

/// File of a job's directory that asks its sources to end.
const STOP_FILE: &str = "stop";

/// What a task has seen so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    /// Records it made or took.
    pub(crate) records: u64,
    /// Steps that were left out.
    pub(crate) lost: u64,
    /// Records that came again, those of an earlier life of the task included.
    pub(crate) doubled: u64,
    /// Counts that did not go up by one.
    pub(crate) miscounted: u64,
    /// How often it was started.
    pub(crate) lives: u64,
    /// Longest pause between two records by the time it ended, in milliseconds of the Unix epoch; in microseconds.
    pauses: VecDeque<(u64, u64)>,
    /// When the last record came.
    last: Option<Instant>,
}

impl Progress {
    /// Takes records that come now.
    pub(crate) fn advance(&mut self, records: u64) {
        let now = Instant::now();
        self.records += records;
        if let Some(last) = self.last.replace(now) {
            self.note_pause(now - last, unix_ms());
        }
    }

    fn note_pause(&mut self, pause: Duration, now_ms: u64) {
        let (bucket, us) = (now_ms / BUCKET_MS * BUCKET_MS, pause.as_micros() as u64);
        match self.pauses.back_mut() {
            Some((last, longest)) if *last >= bucket => *longest = us.max(*longest),
            _ => self.pauses.push_back((bucket, us)),
        }
        if self.pauses.len() > BUCKETS_MAX {
            self.pauses.pop_front();
        }
    }

    /// Longest pause that ended in this time, in milliseconds of the Unix epoch.
    pub(crate) fn longest_pause(&self, from_ms: u64, to_ms: u64) -> Duration {
        let from_ms = from_ms / BUCKET_MS * BUCKET_MS;
        let within = self.pauses.iter().filter(|(at, _)| (from_ms..to_ms).contains(at));
        Duration::from_micros(within.map(|(_, us)| *us).max().unwrap_or_default())
    }

    fn to_text(&self) -> String {
        let Self { records, lost, doubled, miscounted, lives, pauses, last } = self;
        let mut text = format!("{records} {lost} {doubled} {miscounted} {lives}\n");
        // A pause that has not ended counts as far as it goes.
        let open = last.map(|last| (unix_ms(), last.elapsed().as_micros() as u64));
        for (at, us) in pauses.iter().copied().chain(open) {
            text.push_str(&format!("{at} {us}\n"));
        }
        text
    }

    fn from_text(text: &str) -> Option<Self> {
        let mut lines = text.lines().map(|line| line.split(' ').map(|number| number.parse::<u64>().ok()));
        let mut head = lines.next()?;
        let mut number = || head.next().flatten();
        let (records, lost, doubled) = (number()?, number()?, number()?);
        let (miscounted, lives) = (number()?, number()?);
        let pauses = lines.map(|mut pair| Some((pair.next()??, pair.next()??))).collect::<Option<_>>()?;
        Some(Self { records, lost, doubled, miscounted, lives, pauses, last: None })
    }

    /// The file of a task; nothing yet is no error.
    pub(crate) fn read(path: &Path) -> io::Result<Option<Self>> {
        match fs::read_to_string(path) {
            Ok(text) => Self::from_text(&text)
                .map(Some)
                .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("{} is damaged", path.display()))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Milliseconds of the Unix epoch: tasks and the demonstration run on one machine.
pub(crate) fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

/// Asks the sources of the job in this directory to end.
pub(crate) fn ask_to_stop(directory: &Path) -> io::Result<()> {
    fs::write(directory.join(STOP_FILE), "")
}

/// The progress of one task, and the thread that writes it down. Dropped, it ends the thread.
pub(crate) struct Reported {
    shared: Arc<Shared>,
    path: PathBuf,
    thread: Option<(Sender<()>, JoinHandle<()>)>,
}

struct Shared {
    progress: Mutex<Progress>,
    stop: AtomicBool,
}

impl Reported {
    /// Begins to report as `name` in a directory. An earlier life of the task is found by its file: all that it did is done
    /// again.
    pub(crate) fn start(directory: &Path, name: &str) -> io::Result<Self> {
        let path = directory.join(name);
        let earlier = Progress::read(&path)?.unwrap_or_default();
        let progress = Progress {
            doubled: earlier.doubled + earlier.records,
            lost: earlier.lost,
            lives: earlier.lives + 1,
            ..Progress::default()
        };
        let shared = Arc::new(Shared { progress: Mutex::new(progress), stop: AtomicBool::new(false) });
        let (end, ended) = channel();
        let (writes, file, stop_file) = (Arc::clone(&shared), path.clone(), directory.join(STOP_FILE));
        let write = move || report(&writes, &file, &stop_file, &ended);
        let thread = std::thread::Builder::new().name("progress".to_owned()).spawn(write)?;
        Ok(Self { shared, path, thread: Some((end, thread)) })
    }

    /// Changes what is reported.
    pub(crate) fn update<T>(&self, change: impl FnOnce(&mut Progress) -> T) -> T {
        change(&mut self.shared.progress.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether the sources were asked to end.
    pub(crate) fn is_asked_to_stop(&self) -> bool {
        self.shared.stop.load(Ordering::Relaxed)
    }

    /// Writes the last word.
    pub(crate) fn finish(&mut self) -> io::Result<()> {
        self.end_thread();
        write(&self.shared, &self.path)
    }

    fn end_thread(&mut self) {
        if let Some((end, thread)) = self.thread.take() {
            drop(end);
            // It ends at once, and a panic there has been printed.
            _ = thread.join();
        }
    }
}

impl Drop for Reported {
    fn drop(&mut self) {
        self.end_thread();
    }
}

fn report(shared: &Shared, path: &Path, stop_file: &Path, ended: &Receiver<()>) {
    while ended.recv_timeout(WRITE_INTERVAL) == Err(RecvTimeoutError::Timeout) {
        if let Err(error) = write(shared, path) {
            eprintln!("cannot write {}: {error}", path.display());
        }
        shared.stop.store(stop_file.exists(), Ordering::Relaxed);
    }
}

fn write(shared: &Shared, path: &Path) -> io::Result<()> {
    let progress = shared.progress.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let unfinished = path.with_extension("unfinished");
    fs::write(&unfinished, progress.to_text())?;
    fs::rename(&unfinished, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_pause_of_a_time_is_found_and_survives_the_file() {
        let mut progress = Progress { records: 7, lost: 1, doubled: 2, miscounted: 3, lives: 4, ..Progress::default() };
        for (at_ms, pause_ms) in [(1000, 5), (1010, 9), (1099, 2), (1230, 300), (1500, 4)] {
            progress.note_pause(Duration::from_millis(pause_ms), at_ms);
        }
        let progress = Progress::from_text(&progress.to_text()).unwrap();
        assert_eq!((progress.records, progress.lost, progress.doubled), (7, 1, 2));
        assert_eq!((progress.miscounted, progress.lives), (3, 4));
        let longest = |from, to| progress.longest_pause(from, to).as_millis();
        assert_eq!((longest(0, 1200), longest(1250, 1400), longest(1300, 2000)), (9, 300, 4));
        assert_eq!(Progress::from_text("7 1 2\n"), None);
    }

    #[test]
    fn a_second_life_has_done_everything_again() {
        let dir = std::env::temp_dir().join(format!("perennial-progress-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let mut first = Reported::start(&dir, "sink-0").unwrap();
        first.update(|progress| progress.advance(10));
        first.finish().unwrap();
        let mut second = Reported::start(&dir, "sink-0").unwrap();
        second.update(|progress| progress.advance(3));
        second.finish().unwrap();
        let read = Progress::read(&dir.join("sink-0")).unwrap().unwrap();
        fs::remove_dir_all(&dir).unwrap();
        assert_eq!((read.records, read.doubled, read.lives), (3, 10, 2));
    }
}
