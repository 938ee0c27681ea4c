//! Raft's membership and the entry that set it.
//!
//! Key: `03`. Value: `01`, then Raft's form.

use crate::raft::StoredMembership;

use super::Kind;

/// See the module.
pub(crate) struct Membership;

impl Kind for Membership {
    const PREFIX: u8 = 0x03;
    const NAME: &'static str = "membership";
    type Key = ();
    type Value = StoredMembership;

    fn layout((): &(), _: &mut Vec<u8>) {}
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use openraft::impls::BasicNode;

    use super::*;
    use crate::kv::testing::check_golden;
    use crate::raft::log_id;

    #[test]
    fn layout_is_frozen() {
        let nodes = BTreeMap::from([(1, BasicNode::new("a:1")), (2, BasicNode::new("b:2"))]);
        let members = openraft::Membership::new(vec![[1, 2].into()], nodes).unwrap();
        check_golden::<Membership>(
            &(),
            &StoredMembership::new(Some(log_id(1, 0)), members),
            "03",
            "0101010001020102020103613a310203623a32",
        );
    }
}
