//! Reads the lines of a subtask's share.

use std::fs::File;
use std::io::{BufReader, Seek, SeekFrom};
use std::path::PathBuf;

use perennial::{Record, SourceReader, SourceStatus, UserError};

use super::FileError;
use super::find::Split;
use crate::lines::{LineTooLong, NextLineError, next_line};

/// Size of the read buffer: large enough that reads are few, small enough for the cache.
const BUFFER_BYTES: usize = 128 << 10;

/// Bytes after which a poll ends, however few lines they are: a slot thread has other work too.
const POLL_BYTES: usize = 256 << 10;

/// Makes a record of a line without its newline, or says what is wrong with it.
pub(super) type Decode<T> = fn(&[u8]) -> Result<T, String>;

/// Reads parts of files, one after the other.
pub(super) struct LineReader<T> {
    decode: Decode<T>,
    /// What is left, the next one last.
    splits: Vec<Split>,
    open: Option<OpenSplit>,
    line: Vec<u8>,
}

struct OpenSplit {
    path: PathBuf,
    input: BufReader<File>,
    /// Where the next line begins, and where a line that begins is of the next part.
    at: u64,
    end: u64,
}

impl<T> LineReader<T> {
    pub(super) fn new(mut splits: Vec<Split>, decode: Decode<T>) -> Self {
        splits.reverse();
        Self { decode, splits, open: None, line: Vec::new() }
    }
}

impl OpenSplit {
    /// Opens a part at its first line. The line that is under way where a part begins is of the part before it.
    fn open(split: Split) -> Result<Self, FileError> {
        let Split { path, bytes } = split;
        let mut file = File::open(&path).map_err(FileError::io("open", &path))?;
        // One byte back: a newline there says that a line begins exactly here.
        let start = bytes.start.saturating_sub(1);
        file.seek(SeekFrom::Start(start)).map_err(FileError::io("read", &path))?;
        let mut open = Self { path, input: BufReader::with_capacity(BUFFER_BYTES, file), at: start, end: bytes.end };
        if bytes.start > 0 {
            open.next_line(&mut Vec::new())?;
        }
        Ok(open)
    }

    /// Reads a line and returns its bytes in the file, 0 at its end.
    fn next_line(&mut self, line: &mut Vec<u8>) -> Result<usize, FileError> {
        let bytes = next_line(&mut self.input, line).map_err(|error| match error {
            NextLineError::Read(source) => FileError::Io { action: "read", path: self.path.clone(), source },
            NextLineError::TooLong => self.bad_line(LineTooLong.to_string()),
        })?;
        self.at += bytes as u64;
        Ok(bytes)
    }

    fn bad_line(&self, problem: String) -> FileError {
        FileError::Line { path: self.path.clone(), offset: self.at, problem }
    }
}

impl<T> SourceReader<T> for LineReader<T> {
    fn poll(&mut self, out: &mut Vec<T>, max: usize) -> Result<SourceStatus, UserError> {
        let (mut lines, mut bytes) = (0, 0);
        while lines < max && bytes < POLL_BYTES {
            let open = match &mut self.open {
                Some(open) => open,
                None => match self.splits.pop() {
                    Some(split) => self.open.insert(OpenSplit::open(split)?),
                    None => return Ok(SourceStatus::Finished),
                },
            };
            if open.at >= open.end {
                self.open = None;
                continue;
            }
            self.line.clear();
            let begins = open.at;
            let taken = open.next_line(&mut self.line)?;
            if taken == 0 {
                self.open = None;
                continue;
            }
            let record = (self.decode)(&self.line).map_err(|problem| FileError::Line {
                path: open.path.clone(),
                offset: begins,
                problem,
            })?;
            out.push(record);
            lines += 1;
            bytes += taken;
        }
        Ok(SourceStatus::More)
    }

    /// What is left: the rest of the part that is open, then the others.
    fn snapshot(&mut self) -> Result<Vec<Vec<u8>>, UserError> {
        let rest = self.open.iter().filter(|open| open.at < open.end);
        let rest = rest.map(|open| (open.path.as_path(), open.at, open.end));
        let others = self.splits.iter().rev().map(|split| (split.path.as_path(), split.bytes.start, split.bytes.end));
        rest.chain(others)
            .map(|(path, start, end)| {
                let path = path.to_str().ok_or_else(|| FileError::Io {
                    action: "remember",
                    path: path.to_owned(),
                    source: std::io::Error::other("its name is not UTF-8"),
                })?;
                let mut split = Vec::new();
                (path.to_owned(), start, end).encode(&mut split);
                Ok(split)
            })
            .collect()
    }

    fn restore(&mut self, splits: Vec<Vec<u8>>) -> Result<(), UserError> {
        self.open = None;
        self.splits.clear();
        for split in splits.iter().rev() {
            let mut rest = split.as_slice();
            let (path, start, end) = <(String, u64, u64)>::decode(&mut rest)?;
            self.splits.push(Split { path: path.into(), bytes: start..end });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reader(splits: Vec<Split>) -> LineReader<String> {
        LineReader::new(splits, |line| Ok(String::from_utf8_lossy(line).into_owned()))
    }

    /// Wherever a reader is stopped, another one goes on with the very next line.
    #[test]
    fn a_reader_goes_on_where_the_one_before_was() {
        let directory = tempfile::tempdir().unwrap();
        let (a, b) = (directory.path().join("a"), directory.path().join("b"));
        std::fs::write(&a, "one\n\nthree\nfour\nfive").unwrap();
        std::fs::write(&b, "six\nseven\n").unwrap();
        // The first part ends in the middle of a line, the second begins there.
        let splits = vec![
            Split { path: a.clone(), bytes: 0..7 },
            Split { path: a.clone(), bytes: 7..20 },
            Split { path: b.clone(), bytes: 0..10 },
        ];
        let expect = ["one", "", "three", "four", "five", "six", "seven"];
        for step in 1..=expect.len() {
            let mut lines = Vec::new();
            let mut reading = reader(splits.clone());
            loop {
                let status = reading.poll(&mut lines, step).unwrap();
                let position = reading.snapshot().unwrap();
                if status == SourceStatus::Finished {
                    assert!(position.is_empty());
                    break;
                }
                // Opened as any other, and then told where it is.
                reading = reader(splits.clone());
                reading.restore(position).unwrap();
            }
            assert_eq!(lines, expect, "{step} lines at a time");
        }
    }

    #[test]
    fn a_position_that_cannot_be_read_is_an_error() {
        assert!(reader(Vec::new()).restore(vec![vec![1, 2, 3]]).is_err());
    }
}
