//! What was planned of a job: written once.
//!
//! Key: `11`, job (16 bytes). Value: `01`, then [`PlannedGraph`]: two JSON texts, because these types gain fields.

use crate::command::json;
use perennial_types::{JobGraph, JobId, PlanRequest};
use serde::{Deserialize, Serialize};

use super::Kind;

/// What was planned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PlannedGraph {
    /// What the graph was planned from.
    #[serde(with = "json")]
    pub(crate) plan: PlanRequest,
    /// The plan.
    #[serde(with = "json")]
    pub(crate) graph: JobGraph,
}

/// See the module.
pub(crate) struct JobGraphs;

impl Kind for JobGraphs {
    const PREFIX: u8 = 0x11;
    const NAME: &'static str = "job graph";
    type Key = JobId;
    type Value = PlannedGraph;

    fn layout(job: &JobId, bytes: &mut Vec<u8>) {
        bytes.extend_from_slice(job.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::kv::testing::check_golden;

    #[test]
    fn layout_is_frozen() {
        let graph = JobGraph {
            name: "n".to_owned(),
            vertices: Vec::new(),
            edges: Vec::new(),
            structural_hash: 9,
            config: BTreeMap::new(),
        };
        let plan = PlanRequest { job: Some("j".to_owned()), ..PlanRequest::default() };
        check_golden::<JobGraphs>(
            &JobId::from_bytes([1; 16]),
            &PlannedGraph { plan, graph },
            "1101010101010101010101010101010101",
            "01217b226a6f62223a226a222c2261726773223a5b5d2c22636f6e666967223a7b7d7d457b226e616d65223a226e222c227665727469636573223a5b5d2c226564676573223a5b5d2c227374727563747572616c5f68617368223a392c22636f6e666967223a7b7d7d",
        );
    }
}
