//! Reads a log's files again after any end of the process or of the machine.
//!
//! Records are read one after the other until there is none with the right checksum where the next one should be. There
//! the log ends, if that is what a crash can leave: nothing from there on was known to be durable, so nobody was promised
//! it. It is damage, and refused, if
//! - a record further on says that the log was durable beyond that place when it was written, or
//! - what is there was not torn. A disk writes whole sectors, and of a file prepared in zeros a sector that was not written
//!   is zeros. So of a torn record one sector at least is zeros as far as the record reaches; of a record with a flipped bit
//!   none is, unless the body has zeros of that length.
//!
//! Behind this stands the marker, which refuses a log that ends before what this member knew to be committed
//! ([`crate::marker`]).

use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use super::index::Index;
use super::record::{ALIGNMENT, HEAD_BYTES, Head, Place, Record};
use super::writer::{self, SEGMENT_BYTES, path_of};
use crate::error::OpenError;

/// What a disk writes as a whole.
const SECTOR_BYTES: usize = 512;

/// A log that was read.
pub(super) struct Recovered {
    pub(super) index: Index,
    /// Where the next record goes; 0 in a file that has none.
    pub(super) end: Place,
    /// The file of the end, writable, with zeros from there on.
    pub(super) file: File,
    /// The first file.
    pub(super) oldest: u32,
}

/// Reads the files in a directory, and makes them ready to be written.
pub(super) fn recover(dir: &Path) -> Result<Recovered, OpenError> {
    let failed = |source| OpenError::io("open", dir, source);
    let found = list(dir).map_err(failed)?;
    // Old files are removed from the oldest on, but a crash may leave one and take one after it.
    let gap = found.windows(2).rposition(|pair| matches!(pair, [a, b] if a + 1 != *b)).map_or(0, |at| at + 1);
    let (left_over, segments) = found.split_at(gap);
    let Some(oldest) = segments.first().copied() else {
        let file = writer::prepare(dir, 1).map_err(failed)?;
        return Ok(Recovered { index: Index::default(), end: Place { segment: 1, offset: 0 }, file, oldest: 1 });
    };
    let mut reading = Reading { dir, segments, index: Index::default() };
    let (end, bytes) = reading.replay(oldest)?;
    if let Some((from, to)) = reading.index.missing() {
        return Err(reading.damaged(format!("the entries from {from} to before {to} are missing")));
    }
    let index = reading.index;
    let unwritten = segments.iter().filter(|segment| **segment > end.segment);
    for segment in left_over.iter().chain(unwritten) {
        std::fs::remove_file(path_of(dir, *segment)).map_err(failed)?;
    }
    let file = make_ready(dir, end, &bytes).map_err(failed)?;
    Ok(Recovered { index, end, file, oldest })
}

/// Numbers of the files, in order.
fn list(dir: &Path) -> io::Result<Vec<u32>> {
    let mut segments = Vec::new();
    for file in std::fs::read_dir(dir)? {
        let path = PathBuf::from(file?.file_name());
        let is_ours = path.extension().is_some_and(|extension| extension == "wal");
        segments.extend(path.file_stem().filter(|_| is_ours).and_then(|stem| stem.to_str()?.parse::<u32>().ok()));
    }
    segments.sort_unstable();
    Ok(segments)
}

/// Opens the file of the end for writing, with zeros after it: a record that is left there must not be taken for one that
/// follows what is written next. `bytes` is what the file has.
fn make_ready(dir: &Path, end: Place, bytes: &[u8]) -> io::Result<File> {
    let file = OpenOptions::new().read(true).write(true).open(path_of(dir, end.segment))?;
    let is_clean = bytes.iter().skip(end.offset as usize).all(|byte| *byte == 0);
    if !is_clean || bytes.len() < SEGMENT_BYTES {
        writer::write_zeros(&file, end.offset as usize, bytes.len().max(SEGMENT_BYTES))?;
        file.sync_all()?;
    }
    Ok(file)
}

struct Reading<'a> {
    dir: &'a Path,
    segments: &'a [u32],
    index: Index,
}

impl Reading<'_> {
    /// Applies all records. Returns the end, and what its file has.
    fn replay(&mut self, oldest: u32) -> Result<(Place, Vec<u8>), OpenError> {
        let mut place = Place { segment: oldest, offset: 0 };
        let mut bytes = self.read(oldest)?;
        loop {
            let rest = bytes.get(place.offset as usize..).unwrap_or_default();
            if let Some((head, record)) = self.record_at(rest, place)? {
                self.take(&record, place, head.record_bytes())?;
                place = place.after(head.record_bytes());
                continue;
            }
            match self.follows(place)? {
                Some(next) => (place, bytes) = (Place { segment: place.segment + 1, offset: 0 }, next),
                None => {
                    self.check_end(rest, place)?;
                    return Ok((place, bytes));
                }
            }
        }
    }

    fn take(&mut self, record: &Record, place: Place, bytes: usize) -> Result<(), OpenError> {
        match record {
            Record::Segment { positions, .. } if self.segments.first() == Some(&place.segment) => {
                self.index.begin(positions.clone());
            }
            record => self.index.check(record).map_err(|error| self.damaged_at(place, &error.to_string()))?,
        }
        self.index.apply(record, place, bytes);
        Ok(())
    }

    /// The record at the beginning of some bytes.
    fn record_at(&self, bytes: &[u8], place: Place) -> Result<Option<(Head, Record)>, OpenError> {
        let Some(head) = Head::parse(bytes, place) else { return Ok(None) };
        let Some(body) = head.body(bytes) else { return Ok(None) };
        let record = head.decode(body).map_err(|error| self.damaged_at(place, &error.to_string()))?;
        // A file begins with the record that says so, and has no other of its kind.
        match matches!(record, Record::Segment { .. }) == (place.offset == 0) {
            true => Ok(Some((head, record))),
            false => Err(self.damaged_at(place, "a record of the wrong kind")),
        }
    }

    /// The next file, if the writer went on to it from exactly here.
    fn follows(&self, end: Place) -> Result<Option<Vec<u8>>, OpenError> {
        let next = Place { segment: end.segment + 1, offset: 0 };
        if end.offset == 0 || !self.segments.contains(&next.segment) {
            return Ok(None);
        }
        let bytes = self.read(next.segment)?;
        let first = self.record_at(&bytes, next)?;
        let is_next = matches!(first, Some((_, Record::Segment { before, .. })) if before == end.offset);
        Ok(is_next.then_some(bytes))
    }

    /// Refuses an end that no crash can have left. `rest` is what the file has from there on.
    fn check_end(&self, rest: &[u8], end: Place) -> Result<(), OpenError> {
        let later = self.segments.iter().copied().filter(|segment| *segment > end.segment);
        let mut beyond = durable_beyond(rest, end, end);
        for segment in later {
            beyond = beyond || durable_beyond(&self.read(segment)?, Place { segment, offset: 0 }, end);
        }
        match beyond || !is_torn(rest, end) {
            true => Err(self.damaged_at(end, "the record there is damaged")),
            false => Ok(()),
        }
    }

    fn read(&self, segment: u32) -> Result<Vec<u8>, OpenError> {
        let path = path_of(self.dir, segment);
        std::fs::read(&path).map_err(|source| OpenError::io("read", &path, source))
    }

    fn damaged_at(&self, place: Place, what: &str) -> OpenError {
        let file = path_of(Path::new(""), place.segment);
        self.damaged(format!("at byte {} of {}: {what}", place.offset, file.display()))
    }

    fn damaged(&self, what: String) -> OpenError {
        OpenError::Damaged { path: self.dir.to_owned(), what }
    }
}

/// Whether some record in `bytes`, which begin at `start`, says that the log was durable beyond `end`.
fn durable_beyond(bytes: &[u8], start: Place, end: Place) -> bool {
    let mut places = (0..bytes.len()).step_by(ALIGNMENT);
    places.any(|at| {
        let rest = bytes.get(at..).unwrap_or_default();
        let head = Head::parse(rest, start.after(at));
        head.is_some_and(|head| head.durable > end && head.body(rest).is_some())
    })
}

/// Whether what is at the end of the log is nothing, or a record that was not written whole. `rest` is what the file has from
/// there on.
fn is_torn(rest: &[u8], end: Place) -> bool {
    let record_bytes = Head::parse(rest, end).map_or(HEAD_BYTES, |head| head.record_bytes());
    let (mut at, mut rest) = (end.offset as usize, rest);
    let stop = at + record_bytes;
    while at < stop {
        let part = (SECTOR_BYTES - at % SECTOR_BYTES).min(stop - at);
        // What is beyond the file's end was not written.
        let Some((sector, after)) = rest.split_at_checked(part) else { return true };
        if sector.iter().all(|byte| *byte == 0) {
            return true;
        }
        (at, rest) = (at + part, after);
    }
    false
}
