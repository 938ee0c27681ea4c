//! The newest placement of a subtask.
//!
//! Key: `15`, job (16 bytes), vertex (16 bytes), subtask (4 bytes). Value: `01`, then [`PlacedExecution`].

use crate::record::PlacedExecution;
use perennial_types::{JobId, VertexId};

use super::Kind;

/// See the module.
pub(crate) struct Execution;

impl Kind for Execution {
    const PREFIX: u8 = 0x15;
    const NAME: &'static str = "execution";
    type Key = (JobId, VertexId, u32);
    type Value = PlacedExecution;

    fn layout((job, vertex, subtask): &(JobId, VertexId, u32), bytes: &mut Vec<u8>) {
        bytes.extend_from_slice(job.as_bytes());
        bytes.extend_from_slice(vertex.as_bytes());
        bytes.extend_from_slice(&subtask.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use perennial_types::{AllocationId, ExecutionAttemptId, Incarnation, SlotIndex, TaskManagerId};

    use super::*;
    use crate::ExecutionRecord;
    use crate::kv::testing::check_golden;

    #[test]
    fn layout_is_frozen() {
        let (job, vertex) = (JobId::from_bytes([1; 16]), VertexId::from_bytes([5; 16]));
        let record = ExecutionRecord {
            attempt: ExecutionAttemptId { vertex, subtask: 258, attempt: 1 },
            taskmanager: TaskManagerId("tm".to_owned()),
            incarnation: Incarnation::from_bytes([6; 16]),
            slot: SlotIndex(2),
            allocation: AllocationId::from_bytes([7; 16]),
        };
        let placed = PlacedExecution { record, finished: true };
        check_golden::<Execution>(
            &(job, vertex, 258),
            &placed,
            "15010101010101010101010101010101010505050505050505050505050505050500000102",
            "010505050505050505050505050505050582020102746d06060606060606060606060606060606020707070707070707070707070707070701",
        );
    }
}
