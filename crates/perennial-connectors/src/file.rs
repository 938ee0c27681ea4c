//! Files as sources and sinks.

mod error;
mod find;
mod lines;
mod read;
mod two_phase;
mod write;

use std::path::{Path, PathBuf};

use perennial::{DataStream, DataStreamSink, Record, StreamExecutionEnvironment};

use crate::csv::{CsvReader, CsvRow, CsvWriter};
use crate::text::TextRecord;

pub use error::FileError;

use read::{Decode, LineReader};
use two_phase::TwoPhaseParts;
use write::PartSink;

/// Sources that read files.
///
/// A path is a file, a directory (all files in it and below, but those whose names begin with `.` or `_`), or has `*` and
/// `?` in its names. It is looked up where the tasks run, so every TaskManager must see the same files under it. The
/// files together are divided by bytes among the subtasks, a large file among several; they must not change
/// while the job runs.
pub trait FileSources {
    /// The lines of text files, without `\n` or `\r\n`. Bytes that are not UTF-8 fail the task with their place.
    fn read_text_file(&self, path: impl AsRef<Path>) -> DataStream<String>;

    /// The lines of files as the bytes they are, without `\n`.
    fn read_lines_as_bytes(&self, path: impl AsRef<Path>) -> DataStream<Vec<u8>>;

    /// The rows of CSV files without header. A line that is not a row of this type fails the task with its place.
    fn read_csv_file<T: Record + CsvRow>(&self, path: impl AsRef<Path>) -> DataStream<T>;
}

impl FileSources for StreamExecutionEnvironment {
    fn read_text_file(&self, path: impl AsRef<Path>) -> DataStream<String> {
        source(self, path.as_ref(), |line| {
            let line = without_return(line);
            std::str::from_utf8(line)
                .map(str::to_owned)
                .map_err(|_| "is not UTF-8 text; `read_lines_as_bytes` reads any bytes".to_owned())
        })
    }

    fn read_lines_as_bytes(&self, path: impl AsRef<Path>) -> DataStream<Vec<u8>> {
        source(self, path.as_ref(), |line| Ok(line.to_vec()))
    }

    fn read_csv_file<T: Record + CsvRow>(&self, path: impl AsRef<Path>) -> DataStream<T> {
        source(self, path.as_ref(), |line| {
            let text = std::str::from_utf8(without_return(line)).map_err(|_| "is not UTF-8 text".to_owned())?;
            CsvReader::row(text).map_err(|error| format!("is not a row: {error}"))
        })
    }
}

fn without_return(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\r").unwrap_or(line)
}

fn source<T: Record>(env: &StreamExecutionEnvironment, path: &Path, decode: Decode<T>) -> DataStream<T> {
    let path = plain_path(path);
    env.from_source("File Source", move |context| {
        let splits = find::splits(&path, context.attempt.subtask, context.parallelism)?;
        Ok::<_, FileError>(LineReader::new(splits, decode))
    })
}

/// Sinks that write files: each subtask writes `part-N` in a directory, `N` its number from 0.
///
/// In a job with checkpoints it is `part-N-C` for each checkpoint `C`, which appears once that checkpoint is complete; taken
/// together these hold each record once, whatever failed meanwhile. Files whose names begin with `.` are not finished. All
/// TaskManagers must then see the same directory.
///
/// The directory is made when it is not there. A part that is already there is not written over, nor are parts that
/// the job would not write: the task fails and says so.
pub trait FileSinks<T: Record> {
    /// One line per record.
    fn write_as_text(&self, directory: impl AsRef<Path>) -> DataStreamSink
    where
        T: TextRecord;

    /// One CSV row per record.
    fn write_as_csv(&self, directory: impl AsRef<Path>) -> DataStreamSink
    where
        T: CsvRow;
}

impl<T: Record> FileSinks<T> for DataStream<T> {
    fn write_as_text(&self, directory: impl AsRef<Path>) -> DataStreamSink
    where
        T: TextRecord,
    {
        sink(self, directory.as_ref(), T::write_text)
    }

    fn write_as_csv(&self, directory: impl AsRef<Path>) -> DataStreamSink
    where
        T: CsvRow,
    {
        sink(self, directory.as_ref(), |record: &T, line| record.write_row(&mut CsvWriter::new(line)))
    }
}

fn sink<T: Record>(stream: &DataStream<T>, directory: &Path, encode: fn(&T, &mut Vec<u8>)) -> DataStreamSink {
    let directory = plain_path(directory);
    if stream.environment().checkpointing_interval().is_some() {
        let open = move |context: &_| Ok::<_, FileError>(TwoPhaseParts::new(&directory, context, encode));
        return stream.two_phase_sink_to(open).name("File Sink");
    }
    stream.try_sink_to(move |context| PartSink::open(&directory, context, encode)).name("File Sink")
}

/// `file:///a` is `/a`.
fn plain_path(path: &Path) -> PathBuf {
    path.to_str().and_then(|text| text.strip_prefix("file://")).map_or_else(|| path.to_owned(), PathBuf::from)
}
