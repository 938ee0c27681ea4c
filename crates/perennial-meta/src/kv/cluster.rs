//! The cluster's name, made once at bootstrap.
//!
//! Key: `01`. Value: `01`, then its 16 bytes.

use perennial_types::ClusterId;

use super::Kind;

/// See the module.
pub(crate) struct Cluster;

impl Kind for Cluster {
    const PREFIX: u8 = 0x01;
    const NAME: &'static str = "cluster name";
    type Key = ();
    type Value = ClusterId;

    fn layout((): &(), _: &mut Vec<u8>) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::testing::check_golden;

    #[test]
    fn layout_is_frozen() {
        check_golden::<Cluster>(&(), &ClusterId::from_bytes([7; 16]), "01", "0107070707070707070707070707070707");
    }
}
