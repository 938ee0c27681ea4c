//! What an executor has on disk: what it was told, who it is, what it printed.

use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use perennial_rpc::executor::ExecutorSpec;
use perennial_types::{ArtifactDigest, ClusterId, JobId};
use serde::{Deserialize, Serialize};
use tracing::warn;

/// Longest path of a Unix socket on Linux, less the terminating zero.
const SOCKET_PATH_BYTES_MAX: usize = 107;

/// Files with the output of ended jobs that are kept.
const OUTPUT_FILES_KEPT: usize = 16;

/// How much of the end of its output is looked through for why an executor ended: more than a backtrace.
const LAST_LINES_BYTES: u64 = 64 << 10;

/// How much of it is told.
const LAST_LINES_TOLD_BYTES: usize = 4096;
const LAST_LINES: usize = 10;

/// How a later TaskManager process finds an executor again: `executor.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    /// The job it runs.
    pub(crate) job: JobId,
    /// Its process id, and the leader of its process group.
    pub(crate) pid: i32,
    /// When that process started, in clock ticks since boot: tells it from a later one with the same id.
    pub(crate) start_ticks: u64,
    /// Where it listens.
    pub(crate) socket: PathBuf,
    /// What it runs.
    pub(crate) artifact: ArtifactDigest,
    /// Hash of the JobGraph it was told to expect.
    pub(crate) structural_hash: u64,
    /// The cluster it works for.
    pub(crate) cluster: Option<ClusterId>,
    /// Time its cancelled tasks have to end, zero for any; none in the record of an older TaskManager.
    #[serde(default)]
    pub(crate) cancellation_timeout: Option<Duration>,
}

/// The directory of one executor.
#[derive(Debug, Clone)]
pub(crate) struct ExecutorFiles {
    dir: PathBuf,
    output_dir: PathBuf,
}

impl ExecutorFiles {
    /// The files in `dir`; output moves to `output_dir` in the end.
    pub(crate) fn new(dir: PathBuf, output_dir: PathBuf) -> Self {
        Self { dir, output_dir }
    }

    /// What `exec --spec` names.
    pub(crate) fn spec(&self) -> PathBuf {
        self.dir.join("spec.json")
    }

    /// Where standard output and error go.
    pub(crate) fn stdout(&self) -> PathBuf {
        self.dir.join("stdout")
    }

    /// Where the executor listens: in its directory, or for a directory with too long a path, in the system's
    /// temporary directory under a name made from that path.
    pub(crate) fn socket(&self) -> PathBuf {
        let path = self.dir.join("socket");
        if path.as_os_str().len() <= SOCKET_PATH_BYTES_MAX {
            return path;
        }
        let mut hash = DefaultHasher::new();
        path.hash(&mut hash);
        std::env::temp_dir().join(format!("perennial-{:016x}.socket", hash.finish()))
    }

    /// Makes the directory anew and writes the spec into it.
    pub(crate) fn prepare(&self, spec: &ExecutorSpec) -> io::Result<()> {
        self.remove();
        fs::create_dir_all(&self.dir)?;
        fs::write(self.spec(), serde_json::to_vec_pretty(spec)?)
    }

    /// Says who the executor is, atomically.
    pub(crate) fn write_record(&self, record: &Record) -> io::Result<()> {
        let partial = self.dir.join("executor.json.partial");
        let mut file = File::create(&partial)?;
        file.write_all(&serde_json::to_vec_pretty(record)?)?;
        fs::rename(partial, self.dir.join("executor.json"))
    }

    /// Who the executor is.
    pub(crate) fn read_record(&self) -> io::Result<Record> {
        Ok(serde_json::from_slice(&fs::read(self.dir.join("executor.json"))?)?)
    }

    /// The end of what it printed, on one line.
    pub(crate) fn last_lines(&self) -> String {
        let read = || -> io::Result<Vec<u8>> {
            let mut file = File::open(self.stdout())?;
            let length = file.metadata()?.len();
            file.seek(SeekFrom::Start(length.saturating_sub(LAST_LINES_BYTES)))?;
            let mut end = Vec::new();
            file.take(LAST_LINES_BYTES).read_to_end(&mut end)?;
            Ok(end)
        };
        let end = read().unwrap_or_default();
        let end = String::from_utf8_lossy(&end);
        let says_something = |line: &&str| !line.is_empty() && !is_of_backtrace(line);
        let lines: Vec<&str> = end.lines().map(str::trim_end).filter(says_something).collect();
        let last = lines.get(lines.len().saturating_sub(LAST_LINES)..).unwrap_or_default().join(" | ");
        let told = last.ceil_char_boundary(last.len().saturating_sub(LAST_LINES_TOLD_BYTES));
        last.get(told..).unwrap_or_default().to_owned()
    }

    /// Removes everything but the output, which is kept until enough later jobs have ended.
    pub(crate) fn clean(&self) {
        let kept = self.dir.file_name().map(|job| self.output_dir.join(job));
        if let Some(kept) = kept
            && fs::metadata(self.stdout()).is_ok_and(|file| file.len() > 0)
        {
            // By the time of the job's end, not of its last word.
            let moved = File::open(self.stdout())
                .and_then(|file| file.set_modified(SystemTime::now()))
                .and_then(|()| fs::rename(self.stdout(), &kept));
            if let Err(error) = moved {
                warn!(path = %kept.display(), %error, "output of an ended job cannot be kept");
            }
            keep_newest(&self.output_dir, OUTPUT_FILES_KEPT);
        }
        self.remove();
    }

    fn remove(&self) {
        for result in [fs::remove_file(self.socket()), fs::remove_dir_all(&self.dir)] {
            if let Err(error) = result
                && error.kind() != io::ErrorKind::NotFound
            {
                warn!(path = %self.dir.display(), %error, "directory of an executor cannot be removed");
            }
        }
    }
}

/// Whether a line is part of what the standard library prints with `RUST_BACKTRACE=1`. It comes after the message, and is
/// longer than what is told of it; the file has it.
fn is_of_backtrace(line: &str) -> bool {
    let line = line.trim_start();
    let is_frame = line.split_once(": ").is_some_and(|(number, _)| number.parse::<u32>().is_ok());
    is_frame
        || line.starts_with("at ")
        || line.starts_with("stack backtrace:")
        || line.starts_with("note: Some details")
}

/// Removes all but the newest files of a directory.
fn keep_newest(dir: &Path, count: usize) {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut files: Vec<_> =
        entries.filter_map(|file| Some((file.metadata().ok()?.modified().ok()?, file.path()))).collect();
    files.sort();
    for (_, path) in files.iter().take(files.len().saturating_sub(count)) {
        if let Err(error) = fs::remove_file(path) {
            warn!(path = %path.display(), %error, "old output cannot be removed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(tmp: &Path) -> ExecutorFiles {
        let output = tmp.join("output");
        fs::create_dir_all(&output).unwrap();
        ExecutorFiles::new(tmp.join("executors").join("job"), output)
    }

    #[test]
    fn a_record_reads_back_and_garbage_is_an_error() {
        let tmp = tempfile::tempdir().unwrap();
        let files = files(tmp.path());
        fs::create_dir_all(&files.dir).unwrap();
        let record = Record {
            job: JobId::from_bytes([1; 16]),
            pid: 7,
            start_ticks: 8,
            socket: files.socket(),
            artifact: ArtifactDigest::from_bytes([2; 32]),
            structural_hash: u64::MAX,
            cluster: Some(ClusterId::from_bytes([3; 16])),
            cancellation_timeout: Some(Duration::from_millis(1500)),
        };
        files.write_record(&record).unwrap();
        assert_eq!(files.read_record().unwrap(), record);
        let written = fs::read_to_string(files.dir.join("executor.json")).unwrap();
        let mut older: serde_json::Value = serde_json::from_str(&written).unwrap();
        older.as_object_mut().unwrap().remove("cancellation_timeout");
        fs::write(files.dir.join("executor.json"), older.to_string()).unwrap();
        assert_eq!(files.read_record().unwrap(), Record { cancellation_timeout: None, ..record });
        fs::write(files.dir.join("executor.json"), b"{\"job\":").unwrap();
        assert!(files.read_record().is_err());
    }

    #[test]
    fn output_survives_cleaning_and_old_output_goes() {
        let tmp = tempfile::tempdir().unwrap();
        let files = files(tmp.path());
        for old in 0..OUTPUT_FILES_KEPT {
            let file = File::create(files.output_dir.join(format!("old-{old}"))).unwrap();
            file.set_modified(SystemTime::UNIX_EPOCH).unwrap();
        }
        fs::create_dir_all(&files.dir).unwrap();
        fs::write(files.stdout(), "first\n\nlast words\n").unwrap();
        assert_eq!(files.last_lines(), "first | last words");
        let frames: String =
            (0..500).map(|at| format!("  {at:>3}: job::frame::{at}\n             at ./src/job.rs:{at}:5\n")).collect();
        let crash = format!(
            "memory allocation of 7 bytes failed\nstack backtrace:\n{frames}note: Some details are omitted, run with\n"
        );
        fs::write(files.stdout(), crash).unwrap();
        assert_eq!(files.last_lines(), "memory allocation of 7 bytes failed");
        fs::write(files.stdout(), "x".repeat(100_000)).unwrap();
        assert_eq!(files.last_lines().len(), LAST_LINES_TOLD_BYTES);
        fs::write(files.stdout(), "first\n\nlast words\n").unwrap();
        files.clean();
        assert!(!files.dir.exists());
        assert_eq!(fs::read_to_string(files.output_dir.join("job")).unwrap(), "first\n\nlast words\n");
        assert_eq!(fs::read_dir(&files.output_dir).unwrap().count(), OUTPUT_FILES_KEPT);
        files.clean();
    }

    #[test]
    fn a_long_path_gets_a_short_socket() {
        let short = ExecutorFiles::new(PathBuf::from("/tmp/x"), PathBuf::new());
        assert_eq!(short.socket(), Path::new("/tmp/x/socket"));
        let long = ExecutorFiles::new(PathBuf::from(format!("/tmp/{}", "x".repeat(100))), PathBuf::new());
        assert!(long.socket().as_os_str().len() <= SOCKET_PATH_BYTES_MAX);
        assert_eq!(long.socket(), long.socket());
    }
}
