//! Whether a JobGraph makes sense, before anything is recorded of it.

use std::collections::BTreeSet;

use perennial_types::{JobGraph, ShipStrategy};

/// Tasks a job may have: what the metadata log takes as one placement.
pub const TASKS_MAX: u64 = 50_000;

/// What is wrong with a JobGraph.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GraphError {
    /// There is nothing to run.
    #[error("it has no operators")]
    Empty,
    /// Two vertices have one id.
    #[error("two vertices have the id {0}")]
    DuplicateVertex(perennial_types::VertexId),
    /// Two operators have one uid: their state could not be told apart.
    #[error("two operators have the uid `{uid}`; give each its own")]
    DuplicateUid {
        /// The uid.
        uid: String,
    },
    /// A parallelism that cannot be.
    #[error("`{vertex}` has parallelism {parallelism}, it must be from 1 to its max parallelism {max}")]
    Parallelism {
        /// Name of the vertex.
        vertex: String,
        /// Its parallelism.
        parallelism: u32,
        /// Its max parallelism.
        max: u32,
    },
    /// An edge from or to nowhere, or backwards.
    #[error(
        "edge {edge} leads from vertex {from} to vertex {to}, but there are {vertices} vertices in topological order"
    )]
    Edge {
        /// Its position.
        edge: usize,
        /// Where it begins.
        from: usize,
        /// Where it ends.
        to: usize,
        /// Number of vertices.
        vertices: usize,
    },
    /// A forward edge connects each subtask with the one of the same index.
    #[error("`{from}` forwards to `{to}`, but their parallelism differs: {producers} and {consumers}")]
    Forward {
        /// The producing vertex.
        from: String,
        /// The consuming vertex.
        to: String,
        /// Its subtasks.
        producers: u32,
        /// Its subtasks.
        consumers: u32,
    },
    /// More tasks than a job may have.
    #[error("it has {tasks} tasks, at most {TASKS_MAX} are possible")]
    TooManyTasks {
        /// Number of tasks.
        tasks: u64,
    },
}

/// Refuses a JobGraph that could not be run.
pub fn validate(graph: &JobGraph) -> Result<(), GraphError> {
    if graph.vertices.is_empty() {
        return Err(GraphError::Empty);
    }
    let tasks: u64 = graph.vertices.iter().map(|vertex| u64::from(vertex.parallelism)).sum();
    if tasks > TASKS_MAX {
        return Err(GraphError::TooManyTasks { tasks });
    }
    let (mut vertices, mut operators) = (BTreeSet::new(), BTreeSet::new());
    for vertex in &graph.vertices {
        if !vertices.insert(vertex.id) {
            return Err(GraphError::DuplicateVertex(vertex.id));
        }
        let (parallelism, max) = (vertex.parallelism, vertex.max_parallelism.get());
        if parallelism == 0 || parallelism > max {
            return Err(GraphError::Parallelism { vertex: vertex.name.clone(), parallelism, max });
        }
        for operator in &vertex.operators {
            if !operators.insert(operator.id) {
                return Err(GraphError::DuplicateUid { uid: operator.uid.clone() });
            }
        }
    }
    for (position, edge) in graph.edges.iter().enumerate() {
        let ends = (graph.vertices.get(edge.source), graph.vertices.get(edge.target));
        let (Some(from), Some(to), true) = (ends.0, ends.1, edge.source < edge.target) else {
            let vertices = graph.vertices.len();
            return Err(GraphError::Edge { edge: position, from: edge.source, to: edge.target, vertices });
        };
        if edge.ship == ShipStrategy::Forward && from.parallelism != to.parallelism {
            return Err(GraphError::Forward {
                from: from.name.clone(),
                to: to.name.clone(),
                producers: from.parallelism,
                consumers: to.parallelism,
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use perennial_types::{JobEdge, OperatorId, OperatorInfo};

    use super::*;
    use crate::job::testing::graph;

    #[test]
    fn graphs_that_cannot_run_are_refused_with_the_reason() {
        let good = graph(&[("map", 2, "default"), ("sink", 1, "default")]);
        assert_eq!(validate(&good), Ok(()));
        let refused = |change: fn(&mut JobGraph)| {
            let mut graph = good.clone();
            change(&mut graph);
            validate(&graph).unwrap_err().to_string()
        };
        assert_eq!(refused(|graph| graph.vertices.clear()), "it has no operators");
        assert_eq!(
            refused(|graph| graph.vertices[0].parallelism = 0),
            "`map` has parallelism 0, it must be from 1 to its max parallelism 128"
        );
        assert_eq!(
            refused(|graph| graph.vertices[1].id = graph.vertices[0].id),
            "two vertices have the id 01010101010101010101010101010101"
        );
        assert_eq!(
            refused(|graph| graph.edges.push(JobEdge { source: 1, target: 0, ship: ShipStrategy::Hash })),
            "edge 0 leads from vertex 1 to vertex 0, but there are 2 vertices in topological order"
        );
        assert_eq!(
            refused(|graph| graph.edges.push(JobEdge { source: 0, target: 7, ship: ShipStrategy::Hash })),
            "edge 0 leads from vertex 0 to vertex 7, but there are 2 vertices in topological order"
        );
        assert_eq!(
            refused(|graph| graph.edges.push(JobEdge { source: 0, target: 1, ship: ShipStrategy::Forward })),
            "`map` forwards to `sink`, but their parallelism differs: 2 and 1"
        );
        assert_eq!(
            refused(|graph| {
                let (id, name) = (OperatorId::of_uid("x"), "x".to_owned());
                let operator = OperatorInfo { id, uid: name.clone(), name, state_version: 0 };
                graph.vertices.iter_mut().for_each(|vertex| vertex.operators.push(operator.clone()));
            }),
            "two operators have the uid `x`; give each its own"
        );
    }
}
