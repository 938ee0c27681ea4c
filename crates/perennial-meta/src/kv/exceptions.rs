//! What failed of a job last, and what its restart strategy remembers of it.
//!
//! Key: `1c`, job (16 bytes). Value: `01`, then [`JobExceptions`]: some kilobytes, at most a few hundred.

use perennial_types::{JobExceptions, JobId};

use super::Kind;

/// See the module.
pub(crate) struct Exceptions;

impl Kind for Exceptions {
    const PREFIX: u8 = 0x1c;
    const NAME: &'static str = "exception history";
    type Key = JobId;
    type Value = JobExceptions;

    fn layout(job: &JobId, bytes: &mut Vec<u8>) {
        bytes.extend_from_slice(job.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use perennial_types::{
        ExceptionEntry, ExceptionKind, ExecutionAttemptId, FailedTask, JobException, RestartMemory, TaskManagerId,
        VertexId,
    };

    use super::*;
    use crate::kv::testing::check_golden;

    #[test]
    fn layout_is_frozen() {
        let attempt = ExecutionAttemptId { vertex: VertexId::from_bytes([2; 16]), subtask: 3, attempt: 4 };
        let root = JobException {
            at_ms: 300,
            kind: ExceptionKind::TaskManagerLost,
            text: "why".to_owned(),
            task: Some(FailedTask {
                attempt,
                name: "map".to_owned(),
                taskmanager: Some(TaskManagerId("tm".to_owned())),
                endpoint: Some("h:1".to_owned()),
            }),
        };
        let mut entry = ExceptionEntry::new(7, root);
        entry.add(JobException { at_ms: 301, kind: ExceptionKind::JobFailed, text: "x".to_owned(), task: None });
        let exceptions = JobExceptions {
            entries: vec![entry],
            memory: RestartMemory { restarts: 1, in_a_row: 2, last_ms: Some(3), restart_ms: None, recent_ms: vec![5] },
        };
        check_golden::<Exceptions>(
            &JobId::from_bytes([1; 16]),
            &exceptions,
            "1c01010101010101010101010101010101",
            "010107ac02030377687901020202020202020202020202020202020304036d61700102746d0103683a3101ad020601780001020103000105",
        );
    }
}
