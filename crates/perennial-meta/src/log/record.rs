//! Bytes of the log's records.
//!
//! A record is a head of 24 bytes and a body, filled up with zeros to a multiple of eight bytes. Numbers are big-endian.
//!
//! | Head | Bytes |
//! | --- | --- |
//! | length of the body | 4 |
//! | kind | 1, then three zeros |
//! | place up to which the log was durable when this was written | 8 |
//! | CRC-32 of the body | 4 |
//! | CRC-32 of the record's own place and all of the above | 4 |
//!
//! The place is in the checksum but not in the record: a record that is found where it was not written is none. The durable
//! place is what tells a record that a crash has torn, and nobody was promised, from one that was damaged later: see
//! [`super::recover`].
//!
//! | Body | Layout |
//! | --- | --- |
//! | segment | version (2 bytes), end of the segment before (4), vote, and ids of the last, purged and committed entry, each after a byte that says whether it is there |
//! | vote | term (8), member (8), granted by a quorum (1) |
//! | entry | term (8), index (8), kind (1), then nothing (blank), an encoded command, or a membership in postcard |
//! | truncation | id of the entry that is the last one now, after a byte that says whether there is one |
//! | purge, commit | id: term (8), index (8) |
//! | mark | nothing: it says only what is durable |

use std::cmp::Ordering;
use std::io;

use bytes::{Buf, BufMut, Bytes};
use openraft::impls::leader_id_std::LeaderId;

use super::disk::Positions;
use crate::command::COMMAND_BYTES_MAX;
use crate::raft::{LogId, Payload, Proposal, Vote, term_of};

/// Bytes of a record's head. Records begin at multiples of [`ALIGNMENT`].
pub(super) const HEAD_BYTES: usize = 24;
pub(super) const ALIGNMENT: usize = 8;

/// Longest body: an entry with the largest command. A length above it is damage whatever its checksum says.
const BODY_BYTES_MAX: usize = COMMAND_BYTES_MAX + 1024;

/// Version of the files. Another one is refused.
const VERSION: u16 = 1;

const SEGMENT: u8 = 1;
const VOTE: u8 = 2;
const ENTRY: u8 = 3;
const TRUNCATION: u8 = 4;
const PURGE: u8 = 5;
const COMMIT: u8 = 6;
const MARK: u8 = 7;

const BLANK: u8 = 0;
const COMMAND: u8 = 1;
const MEMBERSHIP: u8 = 2;

/// Where a byte of the log is. Later in the log is greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    /// Number of the file. Numbers rise by one from file to file.
    pub(super) segment: u32,
    /// Byte in that file.
    pub(super) offset: u32,
}

impl Place {
    /// In one number, in the same order.
    pub(super) fn to_u64(self) -> u64 {
        u64::from(self.segment) << 32 | u64::from(self.offset)
    }

    pub(super) fn from_u64(place: u64) -> Self {
        Self { segment: (place >> 32) as u32, offset: place as u32 }
    }

    /// The place after a record at this one. Records are far shorter than a file can be long.
    pub(super) fn after(self, bytes: usize) -> Self {
        Self { offset: self.offset + bytes as u32, ..self }
    }
}

/// One record.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Record {
    /// The first one of every file: where the log stood, so that the files before it can go.
    Segment {
        before: u32,
        positions: Positions,
    },
    Vote(StoredVote),
    Entry(StoredLogId, StoredPayload),
    /// Later entries than this are gone.
    Truncation(Option<StoredLogId>),
    Purge(StoredLogId),
    Commit(StoredLogId),
    Mark,
}

/// A record's head that has the right checksum for its place.
#[derive(Debug, Clone, Copy)]
pub(super) struct Head {
    kind: u8,
    body_bytes: usize,
    body_crc: u32,
    /// The log was durable up to here.
    pub(super) durable: Place,
}

impl Head {
    /// The head at the beginning of `bytes`, which were read at `place`.
    pub(super) fn parse(bytes: &[u8], place: Place) -> Option<Self> {
        let mut head = bytes.get(..HEAD_BYTES)?;
        if head.iter().all(|byte| *byte == 0) {
            return None;
        }
        let crc = crc_of_head(head.split_at(HEAD_BYTES - 4).0, place);
        let body_bytes = head.get_u32() as usize;
        let kind = head.get_u8();
        head.advance(3);
        let (durable, body_crc) = (Place::from_u64(head.get_u64()), head.get_u32());
        let is_sound = body_bytes <= BODY_BYTES_MAX && head.get_u32() == crc;
        is_sound.then_some(Self { kind, body_bytes, body_crc, durable })
    }

    /// Bytes of the whole record.
    pub(super) fn record_bytes(&self) -> usize {
        HEAD_BYTES + self.body_bytes.next_multiple_of(ALIGNMENT)
    }

    /// The body, if its checksum is right and what fills it up is zeros.
    pub(super) fn body<'a>(&self, record: &'a [u8]) -> Option<&'a [u8]> {
        let (body, filling) = record.get(HEAD_BYTES..self.record_bytes())?.split_at_checked(self.body_bytes)?;
        (filling.iter().all(|byte| *byte == 0) && crc32fast::hash(body) == self.body_crc).then_some(body)
    }

    /// The record with this head. An error is a body of another version, or a bug.
    pub(super) fn decode(&self, body: &[u8]) -> io::Result<Record> {
        let mut body = body;
        match self.kind {
            SEGMENT => {
                let version = body.try_get_u16().map_err(invalid)?;
                if version != VERSION {
                    return Err(invalid(format!("its files have version {version}, this program writes {VERSION}")));
                }
                let before = body.try_get_u32().map_err(invalid)?;
                let vote = optional(&mut body, get_vote)?;
                let last = optional(&mut body, get_id)?;
                let purged = optional(&mut body, get_id)?;
                let committed = optional(&mut body, get_id)?;
                Ok(Record::Segment { before, positions: Positions { vote, last, purged, committed } })
            }
            VOTE => get_vote(&mut body).map(Record::Vote),
            ENTRY => {
                let id = get_id(&mut body)?;
                Ok(Record::Entry(id, StoredPayload::decode(body)?))
            }
            TRUNCATION => optional(&mut body, get_id).map(Record::Truncation),
            PURGE => get_id(&mut body).map(Record::Purge),
            COMMIT => get_id(&mut body).map(Record::Commit),
            MARK => Ok(Record::Mark),
            kind => Err(invalid(format!("a record of unknown kind {kind}"))),
        }
    }
}

impl Record {
    /// Adds the record's bytes to `out`, for this place in the log. Returns how many.
    pub(super) fn encode(&self, place: Place, durable: Place, out: &mut Vec<u8>) -> io::Result<usize> {
        let start = out.len();
        out.put_bytes(0, HEAD_BYTES);
        let kind = match self {
            Self::Segment { before, positions } => {
                out.put_u16(VERSION);
                out.put_u32(*before);
                put_optional(out, positions.vote.as_ref(), put_vote);
                put_optional(out, positions.last.as_ref(), put_id);
                put_optional(out, positions.purged.as_ref(), put_id);
                put_optional(out, positions.committed.as_ref(), put_id);
                SEGMENT
            }
            Self::Vote(vote) => {
                put_vote(out, vote);
                VOTE
            }
            Self::Entry(id, payload) => {
                put_id(out, id);
                payload.encode(out)?;
                ENTRY
            }
            Self::Truncation(last) => {
                put_optional(out, last.as_ref(), put_id);
                TRUNCATION
            }
            Self::Purge(upto) => {
                put_id(out, upto);
                PURGE
            }
            Self::Commit(id) => {
                put_id(out, id);
                COMMIT
            }
            Self::Mark => MARK,
        };
        let body_bytes = out.len() - start - HEAD_BYTES;
        let (_, record) = out.split_at_mut(start);
        let (head, body) = record.split_at_mut(HEAD_BYTES);
        let mut fields = &mut *head;
        fields.put_u32(u32::try_from(body_bytes).map_err(invalid)?);
        fields.put_u32(u32::from_be_bytes([kind, 0, 0, 0]));
        fields.put_u64(durable.to_u64());
        fields.put_u32(crc32fast::hash(body));
        let (fields, mut crc) = head.split_at_mut(HEAD_BYTES - 4);
        crc.put_u32(crc_of_head(fields, place));
        out.resize(start + HEAD_BYTES + body_bytes.next_multiple_of(ALIGNMENT), 0);
        Ok(out.len() - start)
    }
}

fn crc_of_head(head: &[u8], place: Place) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&place.to_u64().to_be_bytes());
    crc.update(head);
    crc.finalize()
}

/// Id of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct StoredLogId {
    pub(crate) term: u64,
    pub(crate) index: u64,
}

/// A vote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StoredVote {
    pub(crate) term: u64,
    pub(crate) member: u64,
    pub(crate) committed: bool,
}

/// A vote is replaced only by a higher one, as in openraft: one of a later term, or of the same term the leader whom a
/// quorum has elected, whoever got this member's vote. Votes for two candidates of a term are not ordered.
impl PartialOrd for StoredVote {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        match (self.term.cmp(&other.term), self.committed.cmp(&other.committed)) {
            (Ordering::Equal, Ordering::Equal) => (self.member == other.member).then_some(Ordering::Equal),
            (Ordering::Equal, granted) => Some(granted),
            (later, _) => Some(later),
        }
    }
}

/// What an entry holds. Cheap to clone.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct StoredPayload(Payload);

impl StoredPayload {
    /// Bytes it takes, roughly.
    pub(crate) fn size(&self) -> usize {
        match &self.0 {
            Payload::Normal(proposal) => proposal.0.len(),
            Payload::Blank | Payload::Membership(_) => 64,
        }
    }

    fn encode(&self, out: &mut Vec<u8>) -> io::Result<()> {
        match &self.0 {
            Payload::Blank => out.put_u8(BLANK),
            Payload::Normal(proposal) => {
                out.put_u8(COMMAND);
                out.put_slice(&proposal.0);
            }
            Payload::Membership(members) => {
                out.put_u8(MEMBERSHIP);
                out.put_slice(&postcard::to_stdvec(members).map_err(invalid)?);
            }
        }
        Ok(())
    }

    fn decode(mut body: &[u8]) -> io::Result<Self> {
        match body.try_get_u8().map_err(invalid)? {
            BLANK => Ok(Self(Payload::Blank)),
            COMMAND => Ok(Self(Payload::Normal(Proposal(Bytes::copy_from_slice(body))))),
            MEMBERSHIP => postcard::from_bytes(body).map(|members| Self(Payload::Membership(members))).map_err(invalid),
            kind => Err(invalid(format!("an entry of unknown kind {kind}"))),
        }
    }
}

impl From<&LogId> for StoredLogId {
    fn from(id: &LogId) -> Self {
        Self { term: term_of(id), index: id.index }
    }
}

impl From<&Vote> for StoredVote {
    fn from(vote: &Vote) -> Self {
        Self { term: vote.leader_id.term, member: vote.leader_id.voted_for, committed: vote.committed }
    }
}

impl From<&StoredVote> for Vote {
    fn from(vote: &StoredVote) -> Self {
        Self { leader_id: LeaderId { term: vote.term, voted_for: vote.member }, committed: vote.committed }
    }
}

impl From<StoredPayload> for Payload {
    fn from(payload: StoredPayload) -> Self {
        payload.0
    }
}

impl TryFrom<Payload> for StoredPayload {
    type Error = io::Error;

    fn try_from(payload: Payload) -> Result<Self, io::Error> {
        match &payload {
            Payload::Normal(proposal) if proposal.0.len() > COMMAND_BYTES_MAX => {
                Err(io::Error::new(io::ErrorKind::InvalidInput, format!("an entry has {} bytes", proposal.0.len())))
            }
            _ => Ok(Self(payload)),
        }
    }
}

fn put_id(out: &mut Vec<u8>, id: &StoredLogId) {
    out.put_u64(id.term);
    out.put_u64(id.index);
}

fn get_id(from: &mut &[u8]) -> io::Result<StoredLogId> {
    let (term, index) = (from.try_get_u64().map_err(invalid)?, from.try_get_u64().map_err(invalid)?);
    Ok(StoredLogId { term, index })
}

fn put_vote(out: &mut Vec<u8>, vote: &StoredVote) {
    out.put_u64(vote.term);
    out.put_u64(vote.member);
    out.put_u8(u8::from(vote.committed));
}

fn get_vote(from: &mut &[u8]) -> io::Result<StoredVote> {
    let (term, member) = (from.try_get_u64().map_err(invalid)?, from.try_get_u64().map_err(invalid)?);
    Ok(StoredVote { term, member, committed: from.try_get_u8().map_err(invalid)? != 0 })
}

fn put_optional<T>(out: &mut Vec<u8>, value: Option<&T>, put: fn(&mut Vec<u8>, &T)) {
    out.put_u8(u8::from(value.is_some()));
    if let Some(value) = value {
        put(out, value);
    }
}

fn optional<T>(from: &mut &[u8], get: fn(&mut &[u8]) -> io::Result<T>) -> io::Result<Option<T>> {
    match from.try_get_u8().map_err(invalid)? {
        0 => Ok(None),
        _ => get(from).map(Some),
    }
}

pub(super) fn invalid(error: impl ToString) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error.to_string())
}
