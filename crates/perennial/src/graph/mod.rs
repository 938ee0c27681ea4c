//! From what the user wrote to what runs: StreamGraph, chaining, JobGraph, and the code behind each vertex.
//!
//! ```text
//! DataStream calls --> StreamGraph --(resolve, chain)--> Plan { JobGraph, links } --(code)--> ExecutableJob
//!                      one node per                      one vertex per chain                 one factory per vertex
//!                      transformation
//! ```
//! Planning is pure and sees no code: nodes and edges are plain data, and the closures lie beside them under the same
//! indexes (`code`). The same builder with the same arguments gives the same plan, which the structural hash witnesses.

pub(crate) mod code;
mod executable;
mod plan;
mod resolve;
pub(crate) mod stream_graph;

#[cfg(test)]
mod tests;

pub(crate) use executable::{GraphCode, executable};
pub(crate) use plan::{Link, Plan, plan};
pub(crate) use stream_graph::{Chaining, NodeId, NodeKind, OutputType, StreamEdge, StreamGraph, StreamNode};
