//! Clients: each does one thing after the other, and says it again, with the same ids, until somebody answers.

use perennial_types::{
    AllocationId, ArtifactDigest, ExecutionAttemptId, Incarnation, JobGraph, JobId, JobManagerId, JobStatus,
    PlanRequest, RequestId, SlotIndex, TaskManagerId, VertexId,
};
use rand::RngExt;
use rand::rngs::SmallRng;

use super::checker::Checker;
use super::network::Node;
use crate::command::Command;
use crate::record::ExecutionRecord;

/// Attempts after which a client leaves a request alone, whose outcome is then unknown for good.
pub(super) const ATTEMPTS_MAX: u32 = 8;

/// Time an answer has, in milliseconds. Shorter than what the store gives itself, so that clients do say things twice.
pub(super) const PATIENCE_MS: u64 = 800;

/// What a client wants.
#[derive(Debug, Clone)]
#[expect(clippy::large_enum_variant, reason = "made one at a time and taken apart at once")]
pub(super) enum Wish {
    Write(Command),
    /// What was acknowledged before has to be seen.
    Read(Option<ArtifactDigest>, Option<JobId>),
}

/// A client.
pub(super) struct Client {
    pub(super) number: u64,
    /// Whom it asks next.
    pub(super) asks: Node,
    pub(super) wish: Option<Wish>,
    /// Attempts at the wish.
    pub(super) attempts: u32,
    /// Number of the newest attempt at anything; only its answer counts.
    pub(super) attempt: u64,
    wishes: u64,
}

impl Client {
    pub(super) fn new(number: u64) -> Self {
        Self { number, asks: 0, wish: None, attempts: 0, attempt: 0, wishes: 0 }
    }

    /// Wishes for something new.
    pub(super) fn wish(&mut self, rng: &mut SmallRng, checker: &Checker, taskmanagers: std::ops::Range<Node>) {
        self.wishes += 1;
        self.attempts = 0;
        let unique = id16(self.number, self.wishes);
        let artifact = any(rng, &checker.artifacts).copied();
        let job = any(rng, &checker.jobs).copied();
        let wish = match (rng.random_range(0..20), artifact, job) {
            (0..=4, Some(artifact), _) => Wish::Write(Command::SubmitJob {
                request: RequestId::from_bytes(unique),
                job: JobId::from_bytes(unique),
                artifact,
                plan: PlanRequest::default(),
                graph: JobGraph {
                    name: format!("job-{}-{}", self.number, self.wishes),
                    vertices: Vec::new(),
                    edges: Vec::new(),
                    structural_hash: self.wishes,
                    config: Default::default(),
                },
                restored: None,
                at_ms: self.wishes,
            }),
            (5..=11, _, Some(job)) => {
                let taskmanager = rng.random_range(taskmanagers);
                let attempt = ExecutionAttemptId {
                    vertex: VertexId::from_bytes([1; 16]),
                    subtask: rng.random_range(0..2),
                    attempt: (self.number * 100_000 + self.wishes) as u32,
                };
                let record = ExecutionRecord {
                    attempt,
                    taskmanager: TaskManagerId(taskmanager.to_string()),
                    incarnation: Incarnation::from_bytes([0; 16]),
                    slot: SlotIndex(0),
                    allocation: AllocationId::from_bytes(unique),
                };
                Wish::Write(Command::PlaceExecutions { job, executions: vec![record], at_ms: self.wishes })
            }
            (12, _, Some(job)) => {
                Wish::Write(Command::EndJob { job, status: JobStatus::Finished, at_ms: self.wishes, failure: None })
            }
            (13 | 14, artifact, job) => {
                // The newest is the one that a stale answer lacks.
                let newest = rng.random_ratio(2, 3);
                let artifact = if newest { checker.artifacts.last().copied() } else { artifact };
                Wish::Read(artifact, job)
            }
            _ => {
                let mut digest = [0; 32];
                digest[..16].copy_from_slice(&unique);
                Wish::Write(Command::AddArtifact {
                    digest: ArtifactDigest::from_bytes(digest),
                    name: "artifact".to_owned(),
                    size: self.wishes,
                    holders: vec![JobManagerId(1)],
                })
            }
        };
        self.wish = Some(wish);
    }
}

fn any<'a, T>(rng: &mut SmallRng, of: &'a [T]) -> Option<&'a T> {
    let at = rng.random_range(0..of.len().max(1));
    of.get(at)
}

fn id16(client: u64, wish: u64) -> [u8; 16] {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&(client + 1).to_be_bytes());
    id[8..].copy_from_slice(&wish.to_be_bytes());
    id
}
