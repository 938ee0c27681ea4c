//! A member that was removed. Its number and its name are never used again.
//!
//! Key: `04`, number (8 bytes). Value: `01`, then number and name.

use super::Kind;

/// See the module.
pub(crate) struct RemovedMember;

impl Kind for RemovedMember {
    const PREFIX: u8 = 0x04;
    const NAME: &'static str = "removed member";
    type Key = u64;
    type Value = (u64, String);

    fn layout(id: &u64, bytes: &mut Vec<u8>) {
        bytes.extend_from_slice(&id.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::testing::check_golden;

    #[test]
    fn layout_is_frozen() {
        check_golden::<RemovedMember>(&258, &(258, "jm".to_owned()), "040000000000000102", "018202026a6d");
    }
}
