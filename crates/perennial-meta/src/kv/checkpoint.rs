//! A completed checkpoint: it exists while this is there.
//!
//! Key: `1a`, job (16 bytes), checkpoint (8 bytes). Value: `01`, then [`CompletedCheckpoint`].

use perennial_types::{CheckpointId, JobId};

use super::Kind;
use crate::record::CompletedCheckpoint;

/// See the module.
pub(crate) struct Checkpoints;

impl Kind for Checkpoints {
    const PREFIX: u8 = 0x1a;
    const NAME: &'static str = "checkpoint";
    type Key = (JobId, CheckpointId);
    type Value = CompletedCheckpoint;

    fn layout((job, checkpoint): &(JobId, CheckpointId), bytes: &mut Vec<u8>) {
        bytes.extend_from_slice(job.as_bytes());
        bytes.extend_from_slice(&checkpoint.0.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use perennial_types::SnapshotKind;

    use super::*;
    use crate::kv::testing::check_golden;

    #[test]
    fn layout_is_frozen() {
        let completed = CompletedCheckpoint {
            id: CheckpointId(258),
            kind: SnapshotKind::Savepoint,
            started_ms: 5,
            at_ms: 300,
            location: "l".to_owned(),
            bytes: 7,
            metadata_crc: 8,
            inline: Some(vec![9, 255]),
        };
        check_golden::<Checkpoints>(
            &(JobId::from_bytes([1; 16]), CheckpointId(258)),
            &completed,
            "1a010101010101010101010101010101010000000000000102",
            "0182020105ac02016c0708010209ff",
        );
    }
}
