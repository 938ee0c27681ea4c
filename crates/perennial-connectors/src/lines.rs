//! Lines out of bytes.

use std::io::{self, BufRead};

/// Longest line that is read. Without a limit a file that is no text would be taken into memory as a whole.
pub const LINE_BYTES_MAX: usize = 64 << 20;

/// A line above [`LINE_BYTES_MAX`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a line is longer than {LINE_BYTES_MAX} bytes; this is not a file of lines")]
pub struct LineTooLong;

/// Why the next line cannot be had.
#[derive(Debug)]
pub(crate) enum NextLineError {
    Read(io::Error),
    TooLong,
}

/// Appends the next line without its newline to `line`. Returns the bytes it takes in the input, newline and all; 0 is the end.
///
/// What was read of a line stays in `line` when reading fails: with the same `line` the next call goes on.
pub(crate) fn next_line(input: &mut impl BufRead, line: &mut Vec<u8>) -> Result<usize, NextLineError> {
    loop {
        let available = match input.fill_buf() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            other => other.map_err(NextLineError::Read)?,
        };
        if available.is_empty() {
            return Ok(line.len());
        }
        let (found, taken) = match available.iter().position(|byte| *byte == b'\n') {
            Some(at) => (true, at + 1),
            None => (false, available.len()),
        };
        line.extend_from_slice(available.get(..taken).unwrap_or_default());
        input.consume(taken);
        if found {
            let bytes = line.len();
            line.pop();
            return Ok(bytes);
        }
        if line.len() > LINE_BYTES_MAX {
            return Err(NextLineError::TooLong);
        }
    }
}
