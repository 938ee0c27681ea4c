//! Bytes of the log's records.
//!
//! `raft-log` frames a record as type, fields, CRC-32 over all of it. It takes a record that ends with the file for one
//! that was torn by a crash, and drops it. A damaged length inside a whole record must not look like that, so a payload's
//! length has a checksum of its own and a wrong one is an error of another kind.
//!
//! | Record field | Layout, numbers big-endian |
//! | --- | --- |
//! | log id | term (8 bytes), index (8 bytes) |
//! | vote | term (8 bytes), member (8 bytes), granted by a quorum (1 byte) |
//! | payload | kind (1 byte), length (4 bytes), CRC-32 of these five bytes (4 bytes), body |
//!
//! The body of kind 0 (blank) is empty, of kind 1 an encoded command, of kind 2 a membership in postcard.

use std::cmp::Ordering;
use std::io;

use bytes::Bytes;
use openraft::impls::leader_id_std::LeaderId;
use raft_log::codeq::{Decode, Encode};

use super::Flush;
use crate::command::COMMAND_BYTES_MAX;
use crate::raft::{LogId, Payload, Proposal, Vote, term_of};

const BLANK: u8 = 0;
const COMMAND: u8 = 1;
const MEMBERSHIP: u8 = 2;

/// Longest body: the largest command. A length above it is damage whatever its checksum says.
const BODY_BYTES_MAX: usize = COMMAND_BYTES_MAX + 1024;

/// The types `raft-log` is used with.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Wal;

impl raft_log::Types for Wal {
    type LogId = StoredLogId;
    type LogPayload = StoredPayload;
    type Vote = StoredVote;
    type Callback = Flush;
    type UserData = ();

    fn log_index(log_id: &StoredLogId) -> u64 {
        log_id.index
    }

    fn payload_size(payload: &StoredPayload) -> u64 {
        payload.size() as u64
    }
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

/// `raft-log` replaces a vote only by a higher one, as openraft does: one of a later term, or of the same term the leader whom a
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

impl Encode for StoredLogId {
    fn encode<W: io::Write>(&self, mut w: W) -> Result<usize, io::Error> {
        w.write_all(&self.term.to_be_bytes())?;
        w.write_all(&self.index.to_be_bytes())?;
        Ok(16)
    }
}

impl Decode for StoredLogId {
    fn decode<R: io::Read>(mut r: R) -> Result<Self, io::Error> {
        Ok(Self { term: number(&mut r)?, index: number(&mut r)? })
    }
}

impl Encode for StoredVote {
    fn encode<W: io::Write>(&self, mut w: W) -> Result<usize, io::Error> {
        w.write_all(&self.term.to_be_bytes())?;
        w.write_all(&self.member.to_be_bytes())?;
        w.write_all(&[u8::from(self.committed)])?;
        Ok(17)
    }
}

impl Decode for StoredVote {
    fn decode<R: io::Read>(mut r: R) -> Result<Self, io::Error> {
        let (term, member) = (number(&mut r)?, number(&mut r)?);
        let [committed] = bytes(&mut r)?;
        Ok(Self { term, member, committed: committed != 0 })
    }
}

impl Encode for StoredPayload {
    fn encode<W: io::Write>(&self, mut w: W) -> Result<usize, io::Error> {
        let membership;
        let (kind, body): (u8, &[u8]) = match &self.0 {
            Payload::Blank => (BLANK, &[]),
            Payload::Normal(proposal) => (COMMAND, &proposal.0),
            Payload::Membership(members) => {
                membership = postcard::to_stdvec(members).map_err(invalid)?;
                (MEMBERSHIP, &membership)
            }
        };
        let length = u32::try_from(body.len()).map_err(invalid)?;
        let [a, b, c, d] = length.to_be_bytes();
        let head = [kind, a, b, c, d];
        w.write_all(&head)?;
        w.write_all(&crc32fast::hash(&head).to_be_bytes())?;
        w.write_all(body)?;
        Ok(9 + body.len())
    }
}

impl Decode for StoredPayload {
    fn decode<R: io::Read>(mut r: R) -> Result<Self, io::Error> {
        let head: [u8; 5] = bytes(&mut r)?;
        if crc32fast::hash(&head) != u32::from_be_bytes(bytes(&mut r)?) {
            return Err(invalid("the length of an entry has a wrong checksum"));
        }
        let [kind, length @ ..] = head;
        let length = u32::from_be_bytes(length) as usize;
        if length > BODY_BYTES_MAX {
            return Err(invalid(format!("an entry of {length} bytes")));
        }
        let mut body = vec![0; length];
        r.read_exact(&mut body)?;
        match kind {
            BLANK => Ok(Self(Payload::Blank)),
            COMMAND => Ok(Self(Payload::Normal(Proposal(Bytes::from(body))))),
            MEMBERSHIP => {
                postcard::from_bytes(&body).map(|members| Self(Payload::Membership(members))).map_err(invalid)
            }
            kind => Err(invalid(format!("an entry of unknown kind {kind}"))),
        }
    }
}

fn bytes<const N: usize>(r: &mut impl io::Read) -> Result<[u8; N], io::Error> {
    let mut bytes = [0; N];
    r.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn number(r: &mut impl io::Read) -> Result<u64, io::Error> {
    bytes(r).map(u64::from_be_bytes)
}

fn invalid(error: impl ToString) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error.to_string())
}
