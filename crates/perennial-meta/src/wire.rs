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
