//! The JobGraph: what a user asks for, after chaining and before it is spread over slots.

use std::collections::BTreeMap;
use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::{MaxParallelism, OperatorId, VertexId};

/// The slot-sharing group of everything that names no other.
pub const DEFAULT_SLOT_SHARING_GROUP: &str = "default";

/// A job as vertices (chains of operators) and the exchanges between them.
///
/// Made by the artifact in its role `plan`, recorded in the metadata log, and rebuilt by the same artifact in its role
/// `exec`, which refuses to run when its `structural_hash` differs. Travels as JSON: readable, and open to new fields.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobGraph {
    /// Name of the job, for people.
    pub name: String,
    /// Vertices in topological order: an edge leads from a lower to a higher index.
    pub vertices: Vec<JobVertex>,
    /// Exchanges, in the order their consumers declared them.
    pub edges: Vec<JobEdge>,
    /// Hash of uids, record types, edges and parallelism: equal for equal builders with equal arguments.
    pub structural_hash: u64,
    /// Options the job set for itself, under Flink's keys; they win over the cluster's.
    #[serde(default)]
    pub config: BTreeMap<String, String>,
}

/// A chain of operators that runs as one task per subtask.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobVertex {
    /// Named after the operator at the head of the chain.
    pub id: VertexId,
    /// Operator names joined with ` -> `, sources prefixed `Source: `, sinks `Sink: `, as in Flink.
    pub name: String,
    /// Number of subtasks, at least 1.
    pub parallelism: u32,
    /// Number of key groups.
    pub max_parallelism: MaxParallelism,
    /// Whether the user chose that number. One that was derived gives way to that of a savepoint.
    #[serde(default)]
    pub max_parallelism_is_set: bool,
    /// Subtasks of different vertices of one group may share a slot.
    pub slot_sharing_group: String,
    /// The chain, head first.
    pub operators: Vec<OperatorInfo>,
}

/// One operator of a chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperatorInfo {
    /// Hash of the uid.
    pub id: OperatorId,
    /// What the user called it, else derived from its name; unique in the job.
    pub uid: String,
    /// For people.
    pub name: String,
    /// Version of the schema of its keyed state. State of another version is not restored.
    #[serde(default)]
    pub state_version: u32,
}

/// One exchange between two vertices.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobEdge {
    /// Index of the producing vertex in [`JobGraph::vertices`].
    pub source: usize,
    /// Index of the consuming vertex.
    pub target: usize,
    /// How records find their subtask.
    pub ship: ShipStrategy,
}

/// How records travel from the subtasks of one vertex to those of the next. The names are Flink's partitioners.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum ShipStrategy {
    /// To the subtask of the same index; both sides have the same parallelism.
    Forward,
    /// Round robin over all subtasks.
    Rebalance,
    /// Round robin over a local group of subtasks.
    Rescale,
    /// To a random subtask.
    Shuffle,
    /// To every subtask.
    Broadcast,
    /// To subtask 0.
    Global,
    /// By key group of the record's key.
    Hash,
    /// Where the user's function says.
    Custom,
}

impl ShipStrategy {
    /// Subtasks of the consumer that subtask `producer` is connected to.
    ///
    /// All of them, but for the pointwise strategies: FORWARD connects equal indexes, RESCALE splits the larger side
    /// into contiguous groups as Flink's `EdgeManagerBuildUtil.connectPointwise` does.
    pub fn targets(self, producer: u32, producers: u32, consumers: u32) -> Range<u32> {
        match self {
            Self::Forward => producer..producer + 1,
            Self::Rescale if producers >= consumers => {
                // Consumer c reads producers [c*P/C, (c+1)*P/C).
                let (p, producers, consumers) = (u64::from(producer), u64::from(producers), u64::from(consumers));
                let consumer = (((p + 1) * consumers - 1) / producers) as u32;
                consumer..consumer + 1
            }
            Self::Rescale => {
                let (p, producers, consumers) = (u64::from(producer), u64::from(producers), u64::from(consumers));
                (p * consumers).div_ceil(producers) as u32..((p + 1) * consumers).div_ceil(producers) as u32
            }
            _ => 0..consumers,
        }
    }

    /// Whether a failure stays within a slice of both sides: pointwise exchanges split pipelined regions.
    pub const fn is_pointwise(self) -> bool {
        matches!(self, Self::Forward | Self::Rescale)
    }
}

impl JobGraph {
    /// Slots the job needs: the sum over slot-sharing groups of the largest parallelism in the group (FACTS §1.5).
    pub fn slots_needed(&self) -> u32 {
        let mut groups = BTreeMap::<&str, u32>::new();
        for vertex in &self.vertices {
            let most = groups.entry(&vertex.slot_sharing_group).or_default();
            *most = vertex.parallelism.max(*most);
        }
        groups.values().sum()
    }

    /// Number of subtasks over all vertices.
    pub fn task_count(&self) -> u32 {
        self.vertices.iter().map(|vertex| vertex.parallelism).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rescale_connects_every_subtask_of_the_larger_side_once() {
        for (producers, consumers) in [(1, 4), (4, 1), (2, 4), (4, 2), (3, 5), (5, 3), (7, 7), (6, 4)] {
            let mut seen = vec![0; consumers as usize];
            for p in 0..producers {
                let targets = ShipStrategy::Rescale.targets(p, producers, consumers);
                assert!(!targets.is_empty(), "{producers}->{consumers}: producer {p} has no target");
                targets.for_each(|c| seen[c as usize] += 1);
            }
            assert!(seen.iter().all(|n| *n >= 1), "{producers}->{consumers}: {seen:?}");
            if producers <= consumers {
                assert!(seen.iter().all(|n| *n == 1), "{producers}->{consumers}: {seen:?}");
            } else {
                // Flink: consumer c reads producers [c*P/C, (c+1)*P/C).
                for c in 0..consumers {
                    let expect = c * producers / consumers..(c + 1) * producers / consumers;
                    let got: Vec<u32> = (0..producers)
                        .filter(|p| ShipStrategy::Rescale.targets(*p, producers, consumers).contains(&c))
                        .collect();
                    assert_eq!(got, expect.collect::<Vec<_>>(), "{producers}->{consumers}: consumer {c}");
                }
            }
        }
    }

    fn vertex(parallelism: u32, group: &str) -> JobVertex {
        JobVertex {
            id: VertexId::from_bytes([parallelism as u8; 16]),
            name: String::new(),
            parallelism,
            max_parallelism: MaxParallelism::default_for(parallelism),
            max_parallelism_is_set: false,
            slot_sharing_group: group.to_owned(),
            operators: Vec::new(),
        }
    }

    #[test]
    fn slots_needed_is_the_sum_over_groups_of_the_largest_parallelism() {
        let graph = JobGraph {
            name: "job".to_owned(),
            vertices: vec![vertex(2, "default"), vertex(4, "default"), vertex(3, "heavy")],
            edges: Vec::new(),
            structural_hash: 0,
            config: BTreeMap::new(),
        };
        assert_eq!(graph.slots_needed(), 7);
        assert_eq!(graph.task_count(), 9);
    }
}
