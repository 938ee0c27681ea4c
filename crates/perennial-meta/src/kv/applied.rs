//! Id of the last entry applied, written in the same batch as the entry's changes.
//!
//! Key: `02`. Value: `01`, then its term and index.

use super::Kind;

/// See the module.
pub(crate) struct Applied;

impl Kind for Applied {
    const PREFIX: u8 = 0x02;
    const NAME: &'static str = "last applied entry";
    type Key = ();
    type Value = (u64, u64);

    fn layout((): &(), _: &mut Vec<u8>) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::testing::check_golden;

    #[test]
    fn layout_is_frozen() {
        check_golden::<Applied>(&(), &(3, 300), "02", "0103ac02");
    }
}
