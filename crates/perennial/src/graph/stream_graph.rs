//! The StreamGraph: one node per transformation, as the user wrote them.

use perennial_types::ShipStrategy;

/// Index of a node in [`StreamGraph::nodes`].
pub(crate) type NodeId = usize;

/// What the builder made, without its code.
#[derive(Debug, Clone, Default)]
pub(crate) struct StreamGraph {
    /// Name of the job.
    pub(crate) job_name: String,
    /// Whether operators may be chained at all.
    pub(crate) chaining: bool,
    /// Number of key groups of nodes that name none.
    pub(crate) max_parallelism: Option<u32>,
    /// In the order they were made: inputs before their consumers.
    pub(crate) nodes: Vec<StreamNode>,
    /// In the order their consumers were made, then of the consumer's inputs.
    pub(crate) edges: Vec<StreamEdge>,
}

/// One transformation.
#[derive(Debug, Clone)]
pub(crate) struct StreamNode {
    pub(crate) kind: NodeKind,
    /// What the user called it, else what Flink calls such an operator.
    pub(crate) name: String,
    /// What the user gave.
    pub(crate) uid: Option<String>,
    /// Version of the schema of its keyed state.
    pub(crate) state_version: u32,
    pub(crate) parallelism: u32,
    /// `false` for what reads one thing from one place and so has one subtask.
    pub(crate) parallel: bool,
    /// What the user gave.
    pub(crate) max_parallelism: Option<u32>,
    /// What the user gave.
    pub(crate) slot_sharing_group: Option<String>,
    pub(crate) chaining: Chaining,
    /// Type of the records it takes; `()` for sources.
    pub(crate) input_type: &'static str,
    /// Its main output, if it has one, then its side outputs.
    pub(crate) outputs: Vec<OutputType>,
}

/// One output of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OutputType {
    /// Name of a side output.
    pub(crate) tag: Option<String>,
    /// Type of its records.
    pub(crate) record_type: &'static str,
}

/// What prefix a node's name gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NodeKind {
    Source,
    Operator,
    Sink,
}

/// Flink's `ChainingStrategy`: whether a node may be chained to what is before it, and what is after it to the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Chaining {
    /// Both.
    Always,
    /// Not to what is before: `start_new_chain`.
    Head,
    /// Neither: `disable_chaining`.
    Never,
}

/// One stream between two nodes.
#[derive(Debug, Clone)]
pub(crate) struct StreamEdge {
    pub(crate) source: NodeId,
    /// Which output of the source, an index into [`StreamNode::outputs`].
    pub(crate) output: usize,
    pub(crate) target: NodeId,
    /// What the user gave; by default forward at equal parallelism, else rebalance.
    pub(crate) ship: Option<ShipStrategy>,
}
