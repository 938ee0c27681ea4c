//! Which job a submission made, so that a retried one finds it.
//!
//! Key: `12`, request (16 bytes). Value: `01`, then the job's 16 bytes.

use perennial_types::{JobId, RequestId};

use super::Kind;

/// See the module.
pub(crate) struct Request;

impl Kind for Request {
    const PREFIX: u8 = 0x12;
    const NAME: &'static str = "request";
    type Key = RequestId;
    type Value = JobId;

    fn layout(request: &RequestId, bytes: &mut Vec<u8>) {
        bytes.extend_from_slice(request.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::testing::check_golden;

    #[test]
    fn layout_is_frozen() {
        check_golden::<Request>(
            &RequestId::from_bytes([2; 16]),
            &JobId::from_bytes([1; 16]),
            "1202020202020202020202020202020202",
            "0101010101010101010101010101010101",
        );
    }
}
