//! That a job uses an artifact: while there is one, the artifact stays.
//!
//! Key: `14`, digest (32 bytes), job (16 bytes). Value: `01`, then the job's 16 bytes.

use perennial_types::{ArtifactDigest, JobId};

use super::Kind;

/// See the module.
pub(crate) struct ArtifactUse;

impl Kind for ArtifactUse {
    const PREFIX: u8 = 0x14;
    const NAME: &'static str = "use of an artifact";
    type Key = (ArtifactDigest, JobId);
    type Value = JobId;

    fn layout((digest, job): &(ArtifactDigest, JobId), bytes: &mut Vec<u8>) {
        bytes.extend_from_slice(digest.as_bytes());
        bytes.extend_from_slice(job.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::testing::check_golden;

    #[test]
    fn layout_is_frozen() {
        let job = JobId::from_bytes([1; 16]);
        check_golden::<ArtifactUse>(
            &(ArtifactDigest::from_bytes([3; 32]), job),
            &job,
            "14030303030303030303030303030303030303030303030303030303030303030301010101010101010101010101010101",
            "0101010101010101010101010101010101",
        );
    }
}
