//! Records as lines, gathered to large writes.

use super::FileError;

/// Bytes after which lines are written out in the middle of a batch.
const BUFFER_BYTES: usize = 256 << 10;

/// Encodes records and hands their bytes out. After each batch nothing is left here, so that a slow stream is seen too.
pub(super) struct Lines<T> {
    encode: fn(&T, &mut Vec<u8>),
    bytes: Vec<u8>,
}

impl<T> Lines<T> {
    /// `encode` appends a record's line without its newline.
    pub(super) fn new(encode: fn(&T, &mut Vec<u8>)) -> Self {
        Self { encode, bytes: Vec::new() }
    }

    /// Gives the lines of a batch to `out`, a large piece at a time; nothing for an empty batch.
    pub(super) fn write(
        &mut self,
        batch: &mut Vec<T>,
        mut out: impl FnMut(&[u8]) -> Result<(), FileError>,
    ) -> Result<(), FileError> {
        for record in batch.drain(..) {
            (self.encode)(&record, &mut self.bytes);
            self.bytes.push(b'\n');
            if self.bytes.len() >= BUFFER_BYTES {
                out(&self.bytes)?;
                self.bytes.clear();
            }
        }
        if !self.bytes.is_empty() {
            out(&self.bytes)?;
            self.bytes.clear();
        }
        Ok(())
    }
}
