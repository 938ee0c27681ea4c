//! How a leadership began.
//!
//! Key: `17`, epoch (8 bytes). Value: `01`, then [`TakeOver`].

use perennial_types::{LeaderEpoch, TakeOver};

use super::Kind;

/// See the module.
pub(crate) struct TakeOvers;

impl Kind for TakeOvers {
    const PREFIX: u8 = 0x17;
    const NAME: &'static str = "take-over";
    type Key = LeaderEpoch;
    type Value = TakeOver;

    fn layout(epoch: &LeaderEpoch, bytes: &mut Vec<u8>) {
        bytes.extend_from_slice(&epoch.0.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use perennial_types::ElectionCause;

    use super::*;
    use crate::kv::testing::check_golden;

    #[test]
    fn layout_is_frozen() {
        let take_over = TakeOver {
            cause: ElectionCause::ProcessGone,
            lost_ms: 5,
            elected_us: 6,
            first_commit_us: 7,
            attached_us: Some(8),
            adopted_us: Some(9),
            first_checkpoint_us: None,
            taskmanagers: 2,
            jobs_adopted: 3,
            jobs_restarted: 1,
        };
        check_golden::<TakeOvers>(&LeaderEpoch(258), &take_over, "170000000000000102", "01010506070108010900020301");
    }
}
