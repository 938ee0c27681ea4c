//! The log's files.
//!
//! Records go one after the other through files of [`SEGMENT_BYTES`], each of which begins with where the log stood, so that
//! the files before the first entry that is still needed can go. One thread writes and syncs ([`super::writer`]); what is
//! added meanwhile gathers here and goes with the next flush. Entries that are not durable yet, and the newest ones, are
//! kept in memory; others are read from their file, by an index with a place per entry.
//!
//! ```text
//! 0000000007.wal  │segment│entry│entry│vote│entry│…│0000│
//! 0000000008.wal  │segment│entry│commit│entry│0000000000│   <- written
//! 0000000009.wal  │0000000000000000000000000000000000000│   <- being prepared
//! ```

use std::collections::VecDeque;
use std::fs::{File, TryLockError};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::Flush;
use super::disk::{LogDisk, Positions};
use super::index::Index;
use super::record::{Head, Place, Record, StoredLogId, StoredPayload, StoredVote, invalid};
use super::recover::{Recovered, recover};
use super::writer::{Job, Piece, SEGMENT_BYTES, WriterHandle, path_of};
use crate::error::OpenError;
use crate::raft::Entry;

/// Newest entries kept in memory for followers that are a little behind, in number and bytes.
const CACHE_ENTRIES_MAX: usize = 1024;
const CACHE_BYTES_MAX: usize = 1 << 20;

/// The file that says that a process uses the log.
const LOCK: &str = "LOCK";

struct Wal {
    dir: PathBuf,
    index: Index,
    /// The newest entries.
    cache: VecDeque<StoredPayload>,
    cache_bytes: usize,
    /// Where the next record goes, and where the first one of its file that can be any went.
    end: Place,
    begin: u32,
    /// What waits for the next flush.
    pieces: Vec<Piece>,
    /// None once the log is closed.
    writer: Option<WriterHandle>,
    /// Locked as long as the log is open.
    _lock: File,
}

/// Opens the files of a log. A torn record at its end, never acknowledged, is dropped; any other damage is refused.
pub(crate) fn open(dir: &Path) -> Result<Box<dyn LogDisk>, OpenError> {
    let failed = |source| OpenError::io("open", dir, source);
    let lock = File::create(dir.join(LOCK)).map_err(failed)?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(OpenError::InUse { path: dir.to_owned() }),
        Err(TryLockError::Error(error)) => return Err(failed(error)),
    }
    let Recovered { index, end, file, oldest } = recover(dir)?;
    let writer = Some(WriterHandle::start(dir, file, end, oldest).map_err(failed)?);
    let (cache, pieces) = (VecDeque::new(), Vec::new());
    let mut wal = Wal { dir: dir.to_owned(), index, cache, cache_bytes: 0, end, begin: 0, pieces, writer, _lock: lock };
    if end.offset == 0 {
        wal.begin_segment(end.segment, 0).map_err(failed)?;
    }
    Ok(Box::new(wal))
}

impl Wal {
    fn writer(&self) -> io::Result<&WriterHandle> {
        self.writer.as_ref().ok_or_else(|| io::Error::other("the log is closed"))
    }

    /// Adds a record that can follow.
    fn write(&mut self, record: &Record) -> io::Result<()> {
        self.index.check(record)?;
        let durable = self.writer()?.progress.durable();
        let (mut place, mut bytes) = (self.end, self.put(record, self.end, durable)?);
        if self.end.offset as usize + bytes > SEGMENT_BYTES && self.end.offset > self.begin {
            self.take_back(bytes);
            self.begin_segment(self.end.segment + 1, self.end.offset)?;
            (place, bytes) = (self.end, self.put(record, self.end, durable)?);
        }
        self.end = place.after(bytes);
        self.index.apply(record, place, bytes);
        Ok(())
    }

    /// Goes on in a file that has no record yet.
    fn begin_segment(&mut self, segment: u32, before: u32) -> io::Result<()> {
        let (place, durable) = (Place { segment, offset: 0 }, self.writer()?.progress.durable());
        let bytes = self.put(&Record::Segment { before, positions: self.index.positions.clone() }, place, durable)?;
        self.end = place.after(bytes);
        self.begin = self.end.offset;
        Ok(())
    }

    /// Adds the bytes of a record to what is written next.
    fn put(&mut self, record: &Record, place: Place, durable: Place) -> io::Result<usize> {
        let follows = |piece: &Piece| piece.place.after(piece.bytes.len()) == place;
        if !self.pieces.last().is_some_and(follows) {
            self.pieces.push(Piece { place, bytes: Vec::new() });
        }
        match self.pieces.last_mut() {
            Some(piece) => record.encode(place, durable, &mut piece.bytes),
            None => Ok(0),
        }
    }

    /// Takes back what was put last.
    fn take_back(&mut self, bytes: usize) {
        if let Some(piece) = self.pieces.last_mut() {
            piece.bytes.truncate(piece.bytes.len() - bytes);
        }
        self.pieces.pop_if(|piece| piece.bytes.is_empty());
    }

    /// Forgets the payloads of entries that are durable, as far as there are too many.
    fn trim_cache(&mut self) {
        let Some(durable) = self.writer.as_ref().map(|writer| writer.progress.durable()) else { return };
        while self.cache.len() > CACHE_ENTRIES_MAX || self.cache_bytes > CACHE_BYTES_MAX {
            let oldest = self.index.get(self.cached().start);
            let is_durable = oldest.is_some_and(|stored| stored.place.after(stored.bytes as usize) <= durable);
            match self.cache.pop_front_if(|_| is_durable) {
                Some(payload) => self.cache_bytes -= payload.size(),
                None => return,
            }
        }
    }

    /// Indexes of the entries in memory.
    fn cached(&self) -> std::ops::Range<u64> {
        let end = self.index.range().end;
        end - self.cache.len() as u64..end
    }

    /// What is to be written now.
    fn job(&mut self, flush: Option<Flush>) -> Job {
        let first = self.index.get(self.index.range().start);
        let keep_from = first.map_or(self.end.segment, |stored| stored.place.segment);
        Job { pieces: std::mem::take(&mut self.pieces), end: self.end, keep_from, flush }
    }

    /// Reads an entry from its file.
    fn read_stored(&self, index: u64, open: &mut Option<(u32, File)>) -> io::Result<Option<StoredPayload>> {
        let Some(stored) = self.index.get(index) else { return Ok(None) };
        let path = path_of(&self.dir, stored.place.segment);
        let file = match open {
            Some((segment, file)) if *segment == stored.place.segment => file,
            open => &mut open.insert((stored.place.segment, File::open(&path)?)).1,
        };
        let mut bytes = vec![0; stored.bytes as usize];
        file.read_exact_at(&mut bytes, u64::from(stored.place.offset))?;
        let record = Head::parse(&bytes, stored.place).and_then(|head| Some(head.decode(head.body(&bytes)?)));
        match record.transpose()? {
            Some(Record::Entry(id, payload)) if id.index == index => Ok(Some(payload)),
            _ => Err(invalid(format!("entry {index} is damaged in {}", path.display()))),
        }
    }
}

impl LogDisk for Wal {
    fn positions(&self) -> Positions {
        self.index.positions.clone()
    }

    fn read(&self, from: u64, to: u64, bytes_max: usize) -> io::Result<Vec<Entry>> {
        let (here, cached) = (self.index.range(), self.cached());
        let (mut entries, mut bytes, mut open) = (Vec::new(), 0, None);
        for index in from.max(here.start)..to.min(here.end) {
            let payload = match index.checked_sub(cached.start).and_then(|at| self.cache.get(at as usize)) {
                Some(payload) => Some(payload.clone()),
                None => self.read_stored(index, &mut open)?,
            };
            let (Some(payload), Some(id)) = (payload, self.index.id(index)) else { break };
            bytes += payload.size();
            if bytes > bytes_max && !entries.is_empty() {
                break;
            }
            entries.push(Entry { log_id: id.into(), payload: payload.into() });
        }
        Ok(entries)
    }

    fn save_vote(&mut self, vote: StoredVote) -> io::Result<()> {
        self.write(&Record::Vote(vote))
    }

    fn append(&mut self, entries: Vec<(StoredLogId, StoredPayload)>) -> io::Result<()> {
        for (id, payload) in entries {
            self.write(&Record::Entry(id, payload.clone()))?;
            self.cache_bytes += payload.size();
            self.cache.push_back(payload);
        }
        self.trim_cache();
        Ok(())
    }

    fn truncate(&mut self, from: u64) -> io::Result<()> {
        let last = from.checked_sub(1).and_then(|last| self.index.id(last));
        let removed = self.index.range().end.saturating_sub(from);
        self.write(&Record::Truncation(last))?;
        for _ in 0..removed {
            self.cache_bytes -= self.cache.pop_back().map_or(0, |payload| payload.size());
        }
        Ok(())
    }

    fn purge(&mut self, upto: StoredLogId) -> io::Result<()> {
        self.write(&Record::Purge(upto))?;
        let left = self.index.range();
        while self.cache.len() as u64 > left.end - left.start {
            self.cache_bytes -= self.cache.pop_front().map_or(0, |payload| payload.size());
        }
        Ok(())
    }

    fn commit(&mut self, id: StoredLogId) -> io::Result<()> {
        self.write(&Record::Commit(id))
    }

    fn flush(&mut self, flush: Flush) -> io::Result<()> {
        let job = self.job(Some(flush));
        self.writer()?.submit(job);
        self.trim_cache();
        Ok(())
    }

    #[cfg(test)]
    fn syncs(&self) -> u64 {
        self.writer.as_ref().map_or(0, |writer| writer.progress.syncs())
    }
}

impl Drop for Wal {
    /// Writes what is left, and after it a record that says that all of it is durable. Blocks.
    fn drop(&mut self) {
        let Some(writer) = self.writer.take() else { return };
        writer.submit(self.job(None));
        // The writer takes the second job when the first one is durable.
        let end = self.end;
        if let Ok(bytes) = self.put(&Record::Mark, end, end) {
            self.end = end.after(bytes);
            writer.submit(self.job(None));
        }
        writer.finish();
    }
}
