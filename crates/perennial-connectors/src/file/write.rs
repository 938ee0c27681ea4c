//! Writes the part of one subtask.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use perennial::{Sink, TaskContext, UserError};

use super::FileError;
use super::lines::Lines;

/// Writes records as lines to `part-N`.
pub(super) struct PartSink<T> {
    lines: Lines<T>,
    path: PathBuf,
    file: File,
}

impl<T> PartSink<T> {
    pub(super) fn open(
        directory: &Path,
        context: &TaskContext,
        encode: fn(&T, &mut Vec<u8>),
    ) -> Result<Self, FileError> {
        fs::create_dir_all(directory).map_err(FileError::io("make", directory))?;
        let path = directory.join(part_name(context.attempt.subtask));
        let mut options = OpenOptions::new();
        options.write(true);
        if context.attempt.attempt == 0 {
            refuse_foreign_parts(directory, context.parallelism)?;
            options.create_new(true);
        } else {
            // An earlier attempt of this subtask wrote it, and starts over.
            options.create(true).truncate(true);
        }
        let file = options.open(&path).map_err(|source| match source.kind() {
            io::ErrorKind::AlreadyExists => FileError::Exists { path: path.clone() },
            _ => FileError::Io { action: "open", path: path.clone(), source },
        })?;
        Ok(Self { lines: Lines::new(encode), path, file })
    }
}

fn part_name(subtask: u32) -> String {
    format!("part-{subtask}")
}

/// Parts of an earlier job with more subtasks would look like this job's result.
fn refuse_foreign_parts(directory: &Path, parallelism: u32) -> Result<(), FileError> {
    for entry in fs::read_dir(directory).map_err(FileError::io("list", directory))? {
        let entry = entry.map_err(FileError::io("list", directory))?;
        let number = entry.file_name().to_str().and_then(|name| name.strip_prefix("part-")?.parse::<u32>().ok());
        if number.is_some_and(|number| number >= parallelism) {
            return Err(FileError::Exists { path: entry.path() });
        }
    }
    Ok(())
}

impl<T> Sink<T> for PartSink<T> {
    fn write(&mut self, batch: &mut Vec<T>) -> Result<(), UserError> {
        let Self { lines, path, file } = self;
        Ok(lines.write(batch, |bytes| file.write_all(bytes).map_err(FileError::io("write", path)))?)
    }
}
