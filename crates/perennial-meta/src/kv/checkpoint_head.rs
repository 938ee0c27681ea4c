//! Which numbers of checkpoints a job has used, and which it is taking.
//!
//! Key: `19`, job (16 bytes). Value: `01`, then [`CheckpointHead`].

use perennial_types::JobId;

use super::Kind;
use crate::record::CheckpointHead;

/// See the module.
pub(crate) struct CheckpointHeads;

impl Kind for CheckpointHeads {
    const PREFIX: u8 = 0x19;
    const NAME: &'static str = "checkpoint head";
    type Key = JobId;
    type Value = CheckpointHead;

    fn layout(job: &JobId, bytes: &mut Vec<u8>) {
        bytes.extend_from_slice(job.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use perennial_types::{CheckpointId, RequestId, SnapshotKind};

    use super::*;
    use crate::kv::testing::check_golden;
    use crate::record::{ReservedCheckpoint, RestoredFrom};

    #[test]
    fn layout_is_frozen() {
        let head = CheckpointHead {
            counter: CheckpointId(300),
            in_flight: vec![
                ReservedCheckpoint {
                    id: CheckpointId(299),
                    kind: SnapshotKind::Checkpoint,
                    directory: "d".to_owned(),
                    request: None,
                    at_ms: 5,
                },
                ReservedCheckpoint {
                    id: CheckpointId(300),
                    kind: SnapshotKind::Suspend { drain: true },
                    directory: "s".to_owned(),
                    request: Some(RequestId::from_bytes([2; 16])),
                    at_ms: 6,
                },
            ],
            directory: "d".to_owned(),
            restored: Some(RestoredFrom { checkpoint: CheckpointId(298), location: "r".to_owned() }),
        };
        check_golden::<CheckpointHeads>(
            &JobId::from_bytes([1; 16]),
            &head,
            "1901010101010101010101010101010101",
            "01ac0202ab020001640005ac0202010173010202020202020202020202020202020206016401aa020172",
        );
    }
}
