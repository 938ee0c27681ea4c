//! Identifiers. Each is a newtype with `Display` and `FromStr`; made at an edge, then trusted.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A text that is not the identifier it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a {what}: expected {expected}")]
pub struct ParseIdError {
    /// What was given.
    pub text: String,
    /// The kind of identifier wanted.
    pub what: &'static str,
    /// The form it has.
    pub expected: &'static str,
}

/// 16 bytes printed as 32 hexadecimal digits, the form Flink gives its ids.
macro_rules! hex_id {
    ($(#[$doc:meta])* $name:ident, $len:literal, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name([u8; $len]);

        impl $name {
            /// The id made of these bytes.
            pub const fn from_bytes(bytes: [u8; $len]) -> Self {
                Self(bytes)
            }

            /// The bytes of the id.
            pub const fn as_bytes(&self) -> &[u8; $len] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{self}")
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                let error = || ParseIdError {
                    text: text.to_owned(),
                    what: $what,
                    expected: concat!(stringify!($len), " bytes in hexadecimal"),
                };
                if text.len() != 2 * $len || !text.is_ascii() {
                    return Err(error());
                }
                let mut bytes = [0u8; $len];
                for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
                    let digits = std::str::from_utf8(digits).map_err(|_| error())?;
                    *byte = u8::from_str_radix(digits, 16).map_err(|_| error())?;
                }
                Ok(Self(bytes))
            }
        }

        impl TryFrom<&[u8]> for $name {
            type Error = ParseIdError;

            fn try_from(bytes: &[u8]) -> Result<Self, ParseIdError> {
                <[u8; $len]>::try_from(bytes).map(Self).map_err(|_| ParseIdError {
                    text: format!("{} bytes", bytes.len()),
                    what: $what,
                    expected: concat!(stringify!($len), " bytes"),
                })
            }
        }

        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                if serializer.is_human_readable() {
                    serializer.collect_str(self)
                } else {
                    self.0.serialize(serializer)
                }
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                if deserializer.is_human_readable() {
                    String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
                } else {
                    <[u8; $len]>::deserialize(deserializer).map(Self)
                }
            }
        }
    };
}

/// Random ids: 16 bytes from the operating system.
macro_rules! random_id {
    ($($name:ident),*) => { $(
        impl $name {
            /// A fresh random id.
            ///
            /// # Panics
            /// When the operating system has no randomness to give, which Linux does not do after boot.
            pub fn random() -> Self {
                let mut bytes = [0u8; 16];
                getrandom::fill(&mut bytes).expect("the operating system gives random bytes");
                Self(bytes)
            }
        }
    )* };
}

hex_id!(
    /// A job. Given once, at submission.
    JobId, 16, "job id"
);
hex_id!(
    /// A vertex of a [`JobGraph`](crate::JobGraph): a chain of operators.
    VertexId, 16, "vertex id"
);
hex_id!(
    /// An operator, stable across versions of a job: the hash of its uid.
    OperatorId, 16, "operator id"
);
hex_id!(
    /// One promise of one slot to one job.
    AllocationId, 16, "allocation id"
);
hex_id!(
    /// The cluster, made once at bootstrap and checked at every handshake.
    ClusterId, 16, "cluster id"
);
hex_id!(
    /// A client's name for one request. The same id again finds the first answer.
    RequestId, 16, "request id"
);
hex_id!(
    /// One life of a process: a restart under the same name has another incarnation.
    Incarnation, 16, "incarnation"
);
random_id!(JobId, AllocationId, ClusterId, RequestId, Incarnation);

hex_id!(
    /// SHA-256 of an artifact's bytes, printed as 64 hexadecimal digits.
    ArtifactDigest, 32, "artifact digest"
);

impl OperatorId {
    /// The id of the operator with this uid: XXH3-128 of the text, frozen because state is stored under it.
    pub fn of_uid(uid: &str) -> Self {
        Self(xxhash_rust::xxh3::xxh3_128(uid.as_bytes()).to_be_bytes())
    }
}

impl From<OperatorId> for VertexId {
    /// A vertex is named after the operator at the head of its chain, as in Flink.
    fn from(head: OperatorId) -> Self {
        Self(head.0)
    }
}

/// Number of a checkpoint or savepoint of a job, from 1, rising, never used twice.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct CheckpointId(pub u64);

impl fmt::Display for CheckpointId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A member of the JobManager group: its number in the Raft configuration, never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct JobManagerId(pub u64);

impl fmt::Display for JobManagerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "jm-{}", self.0)
    }
}

/// The name of a TaskManager (`taskmanager.resource-id`), stable across restarts of its process.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct TaskManagerId(pub String);

impl fmt::Display for TaskManagerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Position of a slot on its TaskManager, from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SlotIndex(pub u32);

impl fmt::Display for SlotIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// One attempt to run one subtask: Flink's `ExecutionAttemptID`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ExecutionAttemptId {
    /// The vertex the subtask belongs to.
    pub vertex: VertexId,
    /// Which copy of the vertex, from 0.
    pub subtask: u32,
    /// Which attempt, from 0; never reused within a job.
    pub attempt: u32,
}

impl fmt::Display for ExecutionAttemptId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}_{}_{}", self.vertex, self.subtask, self.attempt)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_ids_round_trip_and_refuse_other_text() {
        let id = JobId::random();
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(id.to_string().len(), 32);
        assert!("12".parse::<JobId>().is_err());
        assert!("zz".repeat(16).parse::<JobId>().is_err());
        assert!("é".repeat(16).parse::<JobId>().is_err());
    }

    #[test]
    fn operator_ids_are_frozen() {
        assert_eq!(OperatorId::of_uid("source").to_string(), OperatorId::of_uid("source").to_string());
        assert_eq!(OperatorId::of_uid("").to_string(), "99aa06d3014798d86001c324468d497f");
    }
}
