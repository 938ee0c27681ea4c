//! Who led in an epoch.
//!
//! Key: `16`, epoch (8 bytes). Value: `01`, then [`LeadershipRecord`].

use crate::record::LeadershipRecord;
use perennial_types::LeaderEpoch;

use super::Kind;

/// See the module.
pub(crate) struct Leadership;

impl Kind for Leadership {
    const PREFIX: u8 = 0x16;
    const NAME: &'static str = "leadership";
    type Key = LeaderEpoch;
    type Value = LeadershipRecord;

    fn layout(epoch: &LeaderEpoch, bytes: &mut Vec<u8>) {
        bytes.extend_from_slice(&epoch.0.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use perennial_types::JobManagerId;

    use super::*;
    use crate::kv::testing::check_golden;

    #[test]
    fn layout_is_frozen() {
        let epoch = LeaderEpoch(258);
        let record = LeadershipRecord { epoch, leader: JobManagerId(2), at_ms: 5, index: 9 };
        check_golden::<Leadership>(&epoch, &record, "160000000000000102", "018202020509");
    }
}
