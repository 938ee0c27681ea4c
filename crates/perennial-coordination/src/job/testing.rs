//! Job graphs for the tests of this crate.

use std::collections::BTreeMap;

use perennial_types::{JobGraph, JobVertex, MaxParallelism, VertexId};

/// A graph with one vertex per (name, parallelism, slot-sharing group) and no edges.
pub(crate) fn graph(vertices: &[(&str, u32, &str)]) -> JobGraph {
    JobGraph {
        name: "job".to_owned(),
        vertices: vertices
            .iter()
            .enumerate()
            .map(|(position, (name, parallelism, group))| JobVertex {
                id: VertexId::from_bytes([position as u8 + 1; 16]),
                name: (*name).to_owned(),
                parallelism: *parallelism,
                max_parallelism: MaxParallelism::default_for(*parallelism),
                max_parallelism_is_set: false,
                slot_sharing_group: (*group).to_owned(),
                operators: Vec::new(),
            })
            .collect(),
        edges: Vec::new(),
        structural_hash: 7,
        config: BTreeMap::new(),
    }
}
