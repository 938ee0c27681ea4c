//! What the records of a log amount to: the positions, and where each entry is. The same for a log that is written and one
//! that is read again.

use std::collections::VecDeque;
use std::io;

use super::disk::Positions;
use super::record::{Place, Record, StoredLogId};

/// Where the record of an entry is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stored {
    pub(super) term: u64,
    pub(super) place: Place,
    pub(super) bytes: u32,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Index {
    pub(super) positions: Positions,
    /// Index of the first of `entries`, or of the next entry when there is none.
    first: u64,
    entries: VecDeque<Stored>,
}

impl Index {
    /// Why a record cannot follow. A log that was written by this never has such a record.
    pub(super) fn check(&self, record: &Record) -> io::Result<()> {
        let at = &self.positions;
        let is_sound = match record {
            Record::Segment { positions, .. } => positions == at,
            Record::Vote(vote) => at.vote.as_ref().is_none_or(|current| vote >= current),
            Record::Entry(id, _) => at.last.is_none_or(|last| *id > last && id.index == last.index + 1),
            Record::Truncation(last) => {
                at.committed.is_none_or(|committed| Some(committed.index) <= last.map(|id| id.index))
            }
            Record::Commit(id) => Some(*id) >= at.committed && Some(*id) <= at.last,
            Record::Purge(_) | Record::Mark => true,
        };
        match is_sound {
            true => Ok(()),
            false => Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{record:?} cannot follow {at:?}"))),
        }
    }

    /// Takes a record in that is, or will be, at `place`.
    pub(super) fn apply(&mut self, record: &Record, place: Place, bytes: usize) {
        let at = &mut self.positions;
        match record {
            Record::Segment { .. } | Record::Mark => {}
            Record::Vote(vote) => at.vote = Some(vote.clone()),
            Record::Entry(id, _) => {
                if self.entries.is_empty() {
                    self.first = id.index;
                }
                at.last = Some(*id);
                self.entries.push_back(Stored { term: id.term, place, bytes: bytes as u32 });
            }
            Record::Truncation(last) => {
                let next = next_after(*last);
                self.entries.truncate(next.saturating_sub(self.first) as usize);
                self.first = self.first.min(next);
                at.last = *last;
            }
            Record::Purge(upto) => {
                let purged = self.entries.len().min((upto.index + 1).saturating_sub(self.first) as usize);
                self.entries.drain(..purged);
                self.first += purged as u64;
                at.purged = at.purged.max(Some(*upto));
                at.last = at.last.max(at.purged);
                if self.entries.is_empty() {
                    self.first = self.first.max(upto.index + 1);
                }
            }
            Record::Commit(id) => at.committed = Some(*id),
        }
    }

    /// Begins with the first record of the oldest file. Entries before it are not here; a purge has to follow that says so.
    pub(super) fn begin(&mut self, positions: Positions) {
        self.first = next_after(positions.last);
        self.positions = positions;
    }

    /// Entries that have to be here and are not: the first and the one after the last.
    pub(super) fn missing(&self) -> Option<(u64, u64)> {
        let (needed, next) = (next_after(self.positions.purged), next_after(self.positions.last));
        let first = if self.entries.is_empty() { next } else { self.first };
        (needed < first).then_some((needed, first))
    }

    /// Id of the entry at an index, if it is here or was the last one purged.
    pub(super) fn id(&self, index: u64) -> Option<StoredLogId> {
        let here = self.get(index).map(|stored| StoredLogId { term: stored.term, index });
        here.or(self.positions.purged.filter(|purged| purged.index == index))
    }

    /// Where an entry is.
    pub(super) fn get(&self, index: u64) -> Option<Stored> {
        self.entries.get(usize::try_from(index.checked_sub(self.first)?).ok()?).copied()
    }

    /// Indexes of the entries that are here.
    pub(super) fn range(&self) -> std::ops::Range<u64> {
        self.first..self.first + self.entries.len() as u64
    }
}

fn next_after(last: Option<StoredLogId>) -> u64 {
    last.map_or(0, |id| id.index + 1)
}
