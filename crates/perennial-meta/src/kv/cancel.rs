//! Requests that cancelled a job besides the first, which its head names: each finds its answer again.
//!
//! Key: `18`, job (16 bytes). Value: `01`, then the requests, oldest first, at most [`CANCELS_MAX`].

use perennial_types::{JobId, RequestId};

use super::Kind;

/// Requests remembered for one job. More than one is somebody's second try under a new name, or two people at once.
pub(crate) const CANCELS_MAX: usize = 16;

/// See the module.
pub(crate) struct Cancels;

impl Kind for Cancels {
    const PREFIX: u8 = 0x18;
    const NAME: &'static str = "list of cancels";
    type Key = JobId;
    type Value = Vec<RequestId>;

    fn layout(job: &JobId, bytes: &mut Vec<u8>) {
        bytes.extend_from_slice(job.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::testing::check_golden;

    #[test]
    fn layout_is_frozen() {
        check_golden::<Cancels>(
            &JobId::from_bytes([1; 16]),
            &vec![RequestId::from_bytes([4; 16])],
            "1801010101010101010101010101010101",
            "010104040404040404040404040404040404",
        );
    }
}
