//! An executable and who holds its bytes.
//!
//! Key: `13`, digest (32 bytes). Value: `01`, then [`ArtifactRecord`].

use crate::record::ArtifactRecord;
use perennial_types::ArtifactDigest;

use super::Kind;

/// See the module.
pub(crate) struct Artifact;

impl Kind for Artifact {
    const PREFIX: u8 = 0x13;
    const NAME: &'static str = "artifact";
    type Key = ArtifactDigest;
    type Value = ArtifactRecord;

    fn layout(digest: &ArtifactDigest, bytes: &mut Vec<u8>) {
        bytes.extend_from_slice(digest.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use perennial_types::JobManagerId;

    use super::*;
    use crate::kv::testing::check_golden;

    #[test]
    fn layout_is_frozen() {
        let digest = ArtifactDigest::from_bytes([3; 32]);
        let holders = vec![JobManagerId(1), JobManagerId(3)];
        let record = ArtifactRecord { digest, name: "a".to_owned(), size: 300, holders };
        check_golden::<Artifact>(
            &digest,
            &record,
            "130303030303030303030303030303030303030303030303030303030303030303",
            "0103030303030303030303030303030303030303030303030303030303030303030161ac02020103",
        );
    }
}
