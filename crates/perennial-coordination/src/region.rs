//! Failover regions: which tasks have to restart together.
//!
//! Exchanges are pipelined: a consumer reads while its producer writes and nothing is kept in between, so when one of the
//! two fails the other has read or written what nobody can repeat. A *region* is a connected component of subtasks over
//! the job's exchanges; a failure restarts one region and no other notices. FORWARD and RESCALE connect slices, every
//! other strategy connects all with all, so a job with a `key_by` is usually one region, and one of forward edges
//! only has a region for each slice. Flink: `PipelinedRegionUtil`, `RestartPipelinedRegionFailoverStrategy`.

use perennial_types::JobGraph;

/// A subtask: position of its vertex in the JobGraph, and its index.
pub type Task = (usize, u32);

/// The regions of a job, in the order of their first subtasks; each lists its subtasks in order.
///
/// Every subtask is in exactly one. Takes time nearly linear in subtasks and pointwise connections: what is connected all
/// with all is joined through one representative. An edge from or to nowhere is ignored.
pub fn pipelined_regions(graph: &JobGraph) -> Vec<Vec<Task>> {
    let mut first = Vec::with_capacity(graph.vertices.len());
    let mut count = 0;
    for vertex in &graph.vertices {
        first.push(count);
        count += vertex.parallelism as usize;
    }
    let mut sets = DisjointSets::new(count);
    for edge in &graph.edges {
        let ends = (graph.vertices.get(edge.source), graph.vertices.get(edge.target));
        let starts = (first.get(edge.source), first.get(edge.target));
        let ((Some(from), Some(to)), (Some(from_first), Some(to_first))) = (ends, starts) else { continue };
        let (producers, consumers) = (from.parallelism, to.parallelism);
        if edge.ship.is_pointwise() {
            for producer in 0..producers {
                for consumer in edge.ship.targets(producer, producers, consumers).filter(|at| *at < consumers) {
                    sets.join(from_first + producer as usize, to_first + consumer as usize);
                }
            }
        } else {
            let producers = (0..producers as usize).map(|producer| from_first + producer);
            let consumers = (0..consumers as usize).map(|consumer| to_first + consumer);
            producers.chain(consumers).for_each(|task| sets.join(*from_first, task));
        }
    }
    let mut region_of_root = vec![None; count];
    let mut regions: Vec<Vec<Task>> = Vec::new();
    let tasks = graph.vertices.iter().enumerate();
    let tasks = tasks.flat_map(|(vertex, at)| (0..at.parallelism).map(move |subtask| (vertex, subtask)));
    for (number, task) in tasks.enumerate() {
        let Some(region) = region_of_root.get_mut(sets.root(number)) else { continue };
        let region = *region.get_or_insert_with(|| {
            regions.push(Vec::new());
            regions.len() - 1
        });
        if let Some(members) = regions.get_mut(region) {
            members.push(task);
        }
    }
    regions
}

/// Union-find with path halving and union by size.
struct DisjointSets {
    parents: Vec<usize>,
    sizes: Vec<u32>,
}

impl DisjointSets {
    fn new(count: usize) -> Self {
        Self { parents: (0..count).collect(), sizes: vec![1; count] }
    }

    fn parent(&self, of: usize) -> usize {
        self.parents.get(of).copied().unwrap_or(of)
    }

    fn root(&mut self, mut of: usize) -> usize {
        while self.parent(of) != of {
            let above = self.parent(self.parent(of));
            if let Some(parent) = self.parents.get_mut(of) {
                *parent = above;
            }
            of = above;
        }
        of
    }

    fn join(&mut self, a: usize, b: usize) {
        let (a, b) = (self.root(a), self.root(b));
        let size = |sets: &Self, of: usize| sets.sizes.get(of).copied().unwrap_or(0);
        let (small, large) = if size(self, a) < size(self, b) { (a, b) } else { (b, a) };
        let sum = size(self, a) + size(self, b);
        if small != large
            && let (Some(parent), Some(total)) = (self.parents.get_mut(small), self.sizes.get_mut(large))
        {
            *parent = large;
            *total = sum;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use perennial_types::{JobEdge, ShipStrategy};
    use proptest::prelude::*;

    use super::*;
    use crate::job::testing::graph;

    fn connected(vertices: &[(&str, u32, &str)], edges: &[(usize, usize, ShipStrategy)]) -> JobGraph {
        let edges =
            edges.iter().map(|(source, target, ship)| JobEdge { source: *source, target: *target, ship: *ship });
        JobGraph { edges: edges.collect(), ..graph(vertices) }
    }

    #[test]
    fn forward_edges_make_a_region_for_each_slice_and_a_key_by_joins_them() {
        let vertices = [("source", 3, "default"), ("map", 3, "default"), ("sink", 2, "default")];
        let slices = connected(&vertices, &[(0, 1, ShipStrategy::Forward)]);
        let regions = pipelined_regions(&slices);
        assert_eq!(
            regions,
            [vec![(0, 0), (1, 0)], vec![(0, 1), (1, 1)], vec![(0, 2), (1, 2)], vec![(2, 0)], vec![(2, 1)]]
        );
        let keyed = connected(&vertices, &[(0, 1, ShipStrategy::Forward), (1, 2, ShipStrategy::Hash)]);
        assert_eq!(pipelined_regions(&keyed).len(), 1);
    }

    #[test]
    fn rescale_joins_only_the_groups_it_connects() {
        let rescaled = connected(&[("a", 2, "d"), ("b", 4, "d")], &[(0, 1, ShipStrategy::Rescale)]);
        let regions = pipelined_regions(&rescaled);
        assert_eq!(regions, [vec![(0, 0), (1, 0), (1, 1)], vec![(0, 1), (1, 2), (1, 3)]]);
    }

    /// The largest job there is, connected all with all twice and in slices: would not end if it were quadratic.
    #[test]
    fn fifty_thousand_tasks_are_no_matter() {
        let vertices = [("a", 20_000, "d"), ("b", 20_000, "d"), ("c", 10_000, "d")];
        let edges = [(0, 1, ShipStrategy::Hash), (1, 2, ShipStrategy::Broadcast)];
        assert_eq!(pipelined_regions(&connected(&vertices, &edges)).len(), 1);
        let edges = [(0, 1, ShipStrategy::Forward), (1, 2, ShipStrategy::Rescale)];
        assert_eq!(pipelined_regions(&connected(&vertices, &edges)).len(), 10_000);
    }

    fn ship() -> impl Strategy<Value = ShipStrategy> {
        use ShipStrategy::*;
        proptest::sample::select(vec![Forward, Rebalance, Rescale, Shuffle, Broadcast, Global, Hash, Custom])
    }

    proptest! {
        /// The same partition as by walking every single connection.
        #[test]
        fn regions_are_the_connected_components(
            widths in proptest::collection::vec(1u32..6, 1..6),
            edges in proptest::collection::vec((0usize..6, 0usize..6, ship()), 0..8),
        ) {
            let vertices: Vec<_> = widths.iter().map(|width| ("v", *width, "default")).collect();
            let edges: Vec<_> = edges
                .into_iter()
                .filter(|(from, to, _)| from < to && *to < widths.len())
                .map(|(from, to, ship)| match ship {
                    ShipStrategy::Forward if widths[from] != widths[to] => (from, to, ShipStrategy::Hash),
                    _ => (from, to, ship),
                })
                .collect();
            let graph = connected(&vertices, &edges);

            let mut colour: BTreeMap<Task, usize> = BTreeMap::new();
            for (vertex, width) in widths.iter().enumerate() {
                for subtask in 0..*width {
                    colour.insert((vertex, subtask), colour.len());
                }
            }
            loop {
                let before = colour.clone();
                for (from, to, ship) in &edges {
                    for producer in 0..widths[*from] {
                        for consumer in ship.targets(producer, widths[*from], widths[*to]) {
                            let (a, b) = ((*from, producer), (*to, consumer));
                            let least = colour[&a].min(colour[&b]);
                            colour.insert(a, least);
                            colour.insert(b, least);
                        }
                    }
                }
                if before == colour {
                    break;
                }
            }
            let mut expected: BTreeMap<usize, BTreeSet<Task>> = BTreeMap::new();
            for (task, colour) in &colour {
                expected.entry(*colour).or_default().insert(*task);
            }
            let regions: BTreeSet<BTreeSet<Task>> =
                pipelined_regions(&graph).into_iter().map(|region| region.into_iter().collect()).collect();
            prop_assert_eq!(regions, expected.into_values().collect::<BTreeSet<_>>());
        }
    }
}
