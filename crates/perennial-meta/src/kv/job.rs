//! What changes of a job while it lives.
//!
//! Key: `10`, job (16 bytes). Value: `01`, then [`JobHead`].

use crate::record::JobHead;
use perennial_types::JobId;

use super::Kind;

/// See the module.
pub(crate) struct Job;

impl Kind for Job {
    const PREFIX: u8 = 0x10;
    const NAME: &'static str = "job";
    type Key = JobId;
    type Value = JobHead;

    fn layout(job: &JobId, bytes: &mut Vec<u8>) {
        bytes.extend_from_slice(job.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use perennial_types::{ArtifactDigest, JobStatus, RequestId};

    use super::*;
    use crate::DesiredState;
    use crate::kv::testing::check_golden;

    #[test]
    fn layout_is_frozen() {
        let head = JobHead {
            job: JobId::from_bytes([1; 16]),
            request: RequestId::from_bytes([2; 16]),
            name: "count".to_owned(),
            artifact: ArtifactDigest::from_bytes([3; 32]),
            status: JobStatus::Failed,
            desired: DesiredState::Running,
            cancel_request: Some(RequestId::from_bytes([4; 16])),
            submitted_ms: 1,
            ended_ms: Some(300),
            status_times: vec![(JobStatus::Initializing, 1), (JobStatus::Failed, 300)],
            failure: Some("why".to_owned()),
            restarts: 2,
        };
        check_golden::<Job>(
            &head.job.clone(),
            &head,
            "1001010101010101010101010101010101",
            "01010101010101010101010101010101010202020202020202020202020202020205636f756e740303030303030303030303030303030303030303030303030303030303030303040001040404040404040404040404040404040101ac0202000104ac02010377687902",
        );
    }
}
