//! Payloads of the Raft conversation: a version byte, then postcard.

use perennial_rpc::raft::RaftRpcError;
use serde::Serialize;
use serde::de::DeserializeOwned;

const VERSION: u8 = 1;

/// The bytes of a payload.
pub(crate) fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    postcard::to_extend(value, vec![VERSION]).expect("a Vec grows, and no message refuses to serialize")
}

/// Reads a payload; anything but exactly one value of the version spoken here is refused.
pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, RaftRpcError> {
    let malformed = |what: String| RaftRpcError::Malformed(format!("a Raft message {what}"));
    match bytes {
        [VERSION, body @ ..] => match postcard::take_from_bytes(body) {
            Ok((value, [])) => Ok(value),
            Ok((_, rest)) => Err(malformed(format!("has {} bytes after its end", rest.len()))),
            Err(error) => Err(malformed(format!("is not readable: {error}"))),
        },
        [version, ..] => Err(malformed(format!("has version {version}, this build speaks {VERSION}"))),
        [] => Err(malformed("has no bytes".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use openraft::raft::{AppendEntriesRequest, TransferLeaderRequest, VoteRequest};
    use proptest::prelude::*;

    use super::*;
    use crate::admission::Greeting;
    use crate::network::SnapshotHeader;
    use crate::raft::{Entry, Payload, Proposal, TypeConfig, Vote, log_id};
    use crate::service::check_entries;

    fn append(indexes: &[u64]) -> AppendEntriesRequest<TypeConfig> {
        let entry = |index: &u64| Entry {
            log_id: log_id(2, *index),
            payload: Payload::Normal(Proposal(b"command".as_slice().into())),
        };
        AppendEntriesRequest {
            vote: Vote::new_committed(2, 1),
            prev_log_id: Some(log_id(1, 4)),
            entries: indexes.iter().map(entry).collect(),
            leader_commit: None,
        }
    }

    #[test]
    fn requests_are_read_as_they_were_written() {
        let bytes = encode(&append(&[5, 6]));
        let read: AppendEntriesRequest<TypeConfig> = decode(&bytes).unwrap();
        assert_eq!(read.entries, append(&[5, 6]).entries);
        for cut in 0..bytes.len() {
            assert!(decode::<AppendEntriesRequest<TypeConfig>>(&bytes[..cut]).is_err(), "cut at {cut}");
        }
    }

    #[test]
    fn entries_that_do_not_follow_each_other_are_refused() {
        assert!(check_entries(&append(&[5, 6])).is_ok());
        for indexes in [[6, 7].as_slice(), &[5, 7], &[5, 5], &[0], &[u64::MAX]] {
            assert!(matches!(check_entries(&append(indexes)), Err(RaftRpcError::Malformed(_))), "{indexes:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(mut bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            for version in [None, Some(VERSION)] {
                if let (Some(version), Some(first)) = (version, bytes.first_mut()) {
                    *first = version;
                }
                // Most are refused, some small messages happen to be read; none may panic.
                _ = decode::<AppendEntriesRequest<TypeConfig>>(&bytes);
                _ = decode::<VoteRequest<TypeConfig>>(&bytes);
                _ = decode::<TransferLeaderRequest<TypeConfig>>(&bytes);
                _ = decode::<SnapshotHeader>(&bytes);
                _ = decode::<Greeting>(&bytes);
                _ = crate::Command::decode(&bytes);
            }
        }
    }
}
