//! A checkpoint that does not exist any more, or never did, and whose files may still be there.
//!
//! Key: `1b`, job (16 bytes), checkpoint (8 bytes). Value: `01`, then [`DiscardedCheckpoint`].

use perennial_types::{CheckpointId, JobId};

use super::Kind;
use crate::record::DiscardedCheckpoint;

/// See the module.
pub(crate) struct Discarded;

impl Kind for Discarded {
    const PREFIX: u8 = 0x1b;
    const NAME: &'static str = "discarded checkpoint";
    type Key = (JobId, CheckpointId);
    type Value = DiscardedCheckpoint;

    fn layout((job, checkpoint): &(JobId, CheckpointId), bytes: &mut Vec<u8>) {
        bytes.extend_from_slice(job.as_bytes());
        bytes.extend_from_slice(&checkpoint.0.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::testing::check_golden;

    #[test]
    fn layout_is_frozen() {
        check_golden::<Discarded>(
            &(JobId::from_bytes([1; 16]), CheckpointId(258)),
            &DiscardedCheckpoint { id: CheckpointId(258), location: "l".to_owned() },
            "1b010101010101010101010101010101010000000000000102",
            "018202016c",
        );
    }
}
