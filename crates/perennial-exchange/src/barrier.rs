//! What cuts a stream for a checkpoint.

use perennial_types::{CheckpointId, SnapshotKind};

/// Whether records behind a barrier wait until the barriers of all channels have come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Guarantee {
    /// They do not: after a restore they may be worked off a second time. Flink's `AT_LEAST_ONCE`.
    AtLeastOnce,
    /// They do. Flink's `EXACTLY_ONCE`.
    ExactlyOnce,
}

/// Cuts a channel: what came before it is in the checkpoint, what comes after it is not.
///
/// Travels in its channel among the batches and takes no credit: there are as many in a channel as a job has checkpoints under
/// way, which is one, and what is left of those given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Barrier {
    /// Of which checkpoint.
    pub checkpoint: CheckpointId,
    /// What it is taken for.
    pub kind: SnapshotKind,
    /// What its alignment has to guarantee.
    pub guarantee: Guarantee,
    /// When the checkpoint was triggered, in ms since 1970 by the clock of who did.
    pub triggered_ms: u64,
}

/// Bytes of a barrier between processes.
pub(crate) const BARRIER_BYTES: usize = 18;

impl Barrier {
    /// `u64 checkpoint, u8 kind, u8 guarantee, u64 triggered_ms`.
    pub(crate) fn encode(&self) -> [u8; BARRIER_BYTES] {
        let kind = match self.kind {
            SnapshotKind::Checkpoint => 0u8,
            SnapshotKind::Savepoint => 1,
            SnapshotKind::Suspend { drain: false } => 2,
            SnapshotKind::Suspend { drain: true } => 3,
        };
        let guarantee = match self.guarantee {
            Guarantee::AtLeastOnce => 0u8,
            Guarantee::ExactlyOnce => 1,
        };
        let mut bytes = [0; BARRIER_BYTES];
        let (id, ms) = (self.checkpoint.0.to_le_bytes(), self.triggered_ms.to_le_bytes());
        for (to, from) in bytes.iter_mut().zip(id.into_iter().chain([kind, guarantee]).chain(ms)) {
            *to = from;
        }
        bytes
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, String> {
        let Ok(bytes) = <[u8; BARRIER_BYTES]>::try_from(bytes) else {
            return Err(format!("a barrier is {BARRIER_BYTES} bytes, not {}", bytes.len()));
        };
        let [id @ .., _, _, _, _, _, _, _, _, _, _] = bytes;
        let [_, _, _, _, _, _, _, _, kind, guarantee, ms @ ..] = bytes;
        let kind = match kind {
            0 => SnapshotKind::Checkpoint,
            1 => SnapshotKind::Savepoint,
            2 => SnapshotKind::Suspend { drain: false },
            3 => SnapshotKind::Suspend { drain: true },
            other => return Err(format!("a barrier of unknown kind {other}")),
        };
        let guarantee = match guarantee {
            0 => Guarantee::AtLeastOnce,
            1 => Guarantee::ExactlyOnce,
            other => return Err(format!("a barrier of unknown guarantee {other}")),
        };
        let (checkpoint, triggered_ms) = (CheckpointId(u64::from_le_bytes(id)), u64::from_le_bytes(ms));
        Ok(Self { checkpoint, kind, guarantee, triggered_ms })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn barriers_round_trip_and_foreign_bytes_are_refused() {
        for kind in [
            SnapshotKind::Checkpoint,
            SnapshotKind::Savepoint,
            SnapshotKind::Suspend { drain: false },
            SnapshotKind::Suspend { drain: true },
        ] {
            for guarantee in [Guarantee::AtLeastOnce, Guarantee::ExactlyOnce] {
                let barrier =
                    Barrier { checkpoint: CheckpointId(1 << 40 | 7), kind, guarantee, triggered_ms: u64::MAX - 1 };
                assert_eq!(Barrier::decode(&barrier.encode()), Ok(barrier));
            }
        }
        assert!(Barrier::decode(&[0; BARRIER_BYTES - 1]).is_err());
        assert!(Barrier::decode(&[0; BARRIER_BYTES + 1]).is_err());
        for (at, value) in [(8, 4), (9, 2)] {
            let mut bytes = [0; BARRIER_BYTES];
            bytes[at] = value;
            assert!(Barrier::decode(&bytes).is_err(), "byte {at} = {value}");
        }
    }
}
