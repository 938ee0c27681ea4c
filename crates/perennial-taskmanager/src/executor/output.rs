//! What a job prints, line by line into the TaskManager's log.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use perennial_types::JobId;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::{info, warn};

/// How often the file is looked at.
const POLL: Duration = Duration::from_millis(100);

/// Longest line that is shown; the rest of a longer one is left out.
const LINE_BYTES_MAX: usize = 4096;

/// Lines shown at each look, 1,000 a second; more are counted. The file has all of them.
const LINES_MAX: usize = 100;

/// Bytes read at each look, 40 MiB a second; when more are behind, the reader skips towards the end.
const READ_BYTES_MAX: u64 = 4 << 20;

/// Follows one file until told to finish.
#[derive(Debug)]
pub(crate) struct Output {
    finish: CancellationToken,
    task: AbortOnDropHandle<()>,
}

impl Output {
    /// Shows what is appended to the file from now on, or also what it holds already.
    pub(crate) fn follow(job: JobId, path: PathBuf, begin: Begin) -> Self {
        let finish = CancellationToken::new();
        let mut tail = Tail::new(path, begin);
        let finishing = finish.clone();
        let task = AbortOnDropHandle::new(tokio::spawn(async move {
            loop {
                let last = tokio::select! {
                    () = tokio::time::sleep(POLL) => false,
                    () = finishing.cancelled() => true,
                };
                if !last && !tail.has_news() {
                    continue;
                }
                let (returned, lines) = match tokio::task::spawn_blocking(move || tail.read(last)).await {
                    Ok(read) => read,
                    Err(_) => return,
                };
                tail = returned;
                match lines {
                    Ok(lines) => show(job, &lines),
                    Err(error) => warn!(%job, %error, path = %tail.path.display(), "output of a job cannot be read"),
                }
                if last {
                    return;
                }
            }
        }));
        Self { finish, task }
    }

    /// Shows what is left, and ends.
    pub(crate) async fn finish(self) {
        self.finish.cancel();
        // Fails only when the runtime is shutting down.
        _ = self.task.await;
    }
}

/// Where to begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Begin {
    /// With what is there.
    Start,
    /// With what comes: an earlier TaskManager has shown the rest.
    End,
}

/// Lines of one look, and how many were left out.
#[derive(Debug, Default, PartialEq, Eq)]
struct Lines {
    shown: Vec<String>,
    omitted: usize,
    skipped_bytes: u64,
}

fn show(job: JobId, lines: &Lines) {
    for line in &lines.shown {
        info!(target: "perennial::output", %job, "{line}");
    }
    if lines.omitted > 0 || lines.skipped_bytes > 0 {
        let (lines, bytes) = (lines.omitted, lines.skipped_bytes);
        info!(target: "perennial::output", %job, lines, bytes, "more was printed than is shown here, the job's file has it");
    }
}

/// Reads a growing file. Finds its way when the file is rolled: replaced by another, or emptied.
#[derive(Debug)]
struct Tail {
    path: PathBuf,
    file: Option<(File, u64)>,
    offset: u64,
    begin: Begin,
    /// The beginning of a line whose end is not written yet.
    rest: Vec<u8>,
}

impl Tail {
    fn new(path: PathBuf, begin: Begin) -> Self {
        Self { path, file: None, offset: 0, begin, rest: Vec::new() }
    }

    /// Whether the file is another one, or of another length, than at the last look. Reads nothing.
    fn has_news(&self) -> bool {
        let Ok(now) = std::fs::metadata(&self.path) else { return false };
        self.file.as_ref().is_none_or(|(_, open)| *open != now.ino() || self.offset != now.len())
    }

    /// The lines written since the last look. At the last look also an unfinished one.
    fn read(mut self, last: bool) -> (Self, io::Result<Lines>) {
        let lines = self.read_new(last);
        (self, lines)
    }

    fn read_new(&mut self, last: bool) -> io::Result<Lines> {
        let mut lines = Lines::default();
        let inode = match inode(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(lines),
            inode => inode?,
        };
        if self.file.as_ref().is_none_or(|(_, open)| *open != inode) {
            // What was appended to the old file before it was replaced.
            self.drain(&mut lines)?;
            let mut file = File::open(&self.path)?;
            self.offset = match self.begin {
                Begin::Start => 0,
                Begin::End => file.seek(SeekFrom::End(0))?,
            };
            self.begin = Begin::Start;
            self.file = Some((file, inode));
        }
        self.drain(&mut lines)?;
        if last && !self.rest.is_empty() {
            let rest = std::mem::take(&mut self.rest);
            push(&mut lines, &rest);
        }
        Ok(lines)
    }

    fn drain(&mut self, lines: &mut Lines) -> io::Result<()> {
        let Some((file, _)) = &mut self.file else { return Ok(()) };
        let length = file.metadata()?.len();
        if length < self.offset {
            self.offset = 0;
        }
        let behind = length - self.offset;
        if behind > READ_BYTES_MAX {
            lines.skipped_bytes += behind - READ_BYTES_MAX;
            self.offset = length - READ_BYTES_MAX;
            self.rest.clear();
        }
        if behind == 0 {
            return Ok(());
        }
        file.seek(SeekFrom::Start(self.offset))?;
        let mut bytes = std::mem::take(&mut self.rest);
        let kept = bytes.len();
        file.take(READ_BYTES_MAX).read_to_end(&mut bytes)?;
        self.offset += (bytes.len() - kept) as u64;
        let mut parts = bytes.split(|byte| *byte == b'\n').peekable();
        while let Some(line) = parts.next() {
            if parts.peek().is_some() {
                push(lines, line);
            } else {
                // Beyond what is shown of a line nothing has to be kept of it.
                self.rest = line.get(..LINE_BYTES_MAX + 1).unwrap_or(line).to_vec();
            }
        }
        Ok(())
    }
}

fn inode(path: &Path) -> io::Result<u64> {
    Ok(std::fs::metadata(path)?.ino())
}

fn push(lines: &mut Lines, line: &[u8]) {
    if lines.shown.len() >= LINES_MAX {
        lines.omitted += 1;
        return;
    }
    let mut text = String::from_utf8_lossy(line.get(..LINE_BYTES_MAX).unwrap_or(line)).into_owned();
    if line.len() > LINE_BYTES_MAX {
        text.push('…');
    }
    lines.shown.push(text);
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;

    use super::*;

    fn append(path: &Path, text: &str) {
        fs::OpenOptions::new().create(true).append(true).open(path).unwrap().write_all(text.as_bytes()).unwrap();
    }

    fn shown(tail: &mut Tail) -> Vec<String> {
        tail.read_new(false).unwrap().shown
    }

    #[test]
    fn lines_are_shown_once_they_are_whole_also_when_the_file_is_rolled() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("stdout");
        let mut tail = Tail::new(path.clone(), Begin::Start);
        assert!(!tail.has_news());
        append(&path, "one\ntw");
        assert!(tail.has_news());
        assert_eq!(shown(&mut tail), ["one"]);
        assert!(!tail.has_news());
        append(&path, "o\n");
        fs::rename(&path, tmp.path().join("stdout.1")).unwrap();
        append(&path, "three\n");
        assert_eq!(shown(&mut tail), ["two", "three"]);
        fs::File::create(&path).unwrap();
        append(&path, "4\n");
        assert_eq!(shown(&mut tail), ["4"]);
        append(&path, "unfinished");
        assert_eq!(tail.read_new(true).unwrap().shown, ["unfinished"]);
    }

    #[test]
    fn an_adopted_executor_is_shown_from_where_it_is() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("stdout");
        append(&path, "old\n");
        let mut tail = Tail::new(path.clone(), Begin::End);
        assert!(shown(&mut tail).is_empty());
        append(&path, "new\n");
        assert_eq!(shown(&mut tail), ["new"]);
    }

    #[test]
    fn floods_and_endless_lines_are_bounded() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("stdout");
        append(&path, &"x\n".repeat(LINES_MAX + 50));
        let mut tail = Tail::new(path.clone(), Begin::Start);
        let lines = tail.read_new(false).unwrap();
        assert_eq!((lines.shown.len(), lines.omitted), (LINES_MAX, 50));
        append(&path, &"y".repeat(READ_BYTES_MAX as usize + 10));
        assert_eq!(tail.read_new(false).unwrap().skipped_bytes, 10);
        assert!(tail.rest.len() <= LINE_BYTES_MAX + 1);
        append(&path, "\n");
        assert_eq!(shown(&mut tail)[0].len(), LINE_BYTES_MAX + '…'.len_utf8());
    }
}
