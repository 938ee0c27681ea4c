//! Fills in what the user left open, and refuses what cannot be.

use std::collections::{BTreeMap, BTreeSet};

use perennial_types::{DEFAULT_SLOT_SHARING_GROUP, MaxParallelism, ShipStrategy};

use super::{NodeKind, StreamGraph, StreamNode};
use crate::JobError;

/// A node with nothing left open.
#[derive(Debug, Clone)]
pub(crate) struct Resolved {
    /// Unique in the job.
    pub(crate) uid: String,
    /// With the prefix of sources and sinks.
    pub(crate) name: String,
    pub(crate) state_version: u32,
    pub(crate) max_parallelism: MaxParallelism,
    /// Whether the user chose it.
    pub(crate) max_parallelism_is_set: bool,
    pub(crate) slot_sharing_group: String,
}

/// The nodes, and the strategy of each edge.
pub(crate) struct Resolution {
    pub(crate) nodes: Vec<Resolved>,
    pub(crate) ships: Vec<ShipStrategy>,
}

/// Resolves a whole graph.
pub(crate) fn resolve(graph: &StreamGraph) -> Result<Resolution, JobError> {
    if graph.nodes.is_empty() {
        return Err(JobError::NoOperators);
    }
    if !graph.nodes.iter().any(|node| node.kind == NodeKind::Sink) {
        return Err(JobError::NoSink);
    }
    let uids = uids(&graph.nodes)?;
    let groups = slot_sharing_groups(graph);
    let mut nodes = Vec::new();
    for ((node, uid), slot_sharing_group) in graph.nodes.iter().zip(uids).zip(groups) {
        let max_parallelism = max_parallelism(node, graph.max_parallelism)?;
        let (name, state_version) = (full_name(node), node.state_version);
        let max_parallelism_is_set = node.max_parallelism.or(graph.max_parallelism).is_some();
        nodes.push(Resolved { uid, name, state_version, max_parallelism, max_parallelism_is_set, slot_sharing_group });
    }
    let ships = ships(graph)?;
    Ok(Resolution { nodes, ships })
}

fn full_name(node: &StreamNode) -> String {
    match node.kind {
        NodeKind::Source => format!("Source: {}", node.name),
        NodeKind::Operator => node.name.clone(),
        NodeKind::Sink => format!("Sink: {}", node.name),
    }
}

/// The user's uids, which must differ; else the name, with a number from the second of a name on.
fn uids(nodes: &[StreamNode]) -> Result<Vec<String>, JobError> {
    let mut taken = BTreeSet::new();
    let mut twice = BTreeSet::new();
    for uid in nodes.iter().filter_map(|node| node.uid.as_ref()) {
        if !taken.insert(uid.clone()) {
            twice.insert(uid.clone());
        }
    }
    if !twice.is_empty() {
        return Err(JobError::DuplicateUids(twice.into_iter().collect()));
    }
    let mut uids = Vec::new();
    for node in nodes {
        uids.push(match &node.uid {
            Some(uid) => uid.clone(),
            None => {
                let mut candidates =
                    std::iter::once(node.name.clone()).chain((2u64..).map(|n| format!("{}-{n}", node.name)));
                let free = candidates.find(|uid| !taken.contains(uid)).expect("the numbers do not end");
                taken.insert(free.clone());
                free
            }
        });
    }
    Ok(uids)
}

/// Flink's `determineSlotSharingGroup`: the user's, else that of the inputs if they agree, else `default`.
fn slot_sharing_groups(graph: &StreamGraph) -> Vec<String> {
    let mut inputs = BTreeMap::<usize, Vec<usize>>::new();
    for edge in &graph.edges {
        inputs.entry(edge.target).or_default().push(edge.source);
    }
    let mut groups: Vec<String> = Vec::new();
    for (id, node) in graph.nodes.iter().enumerate() {
        let inherited = || {
            let mut of_inputs = inputs.get(&id).into_iter().flatten().filter_map(|input| groups.get(*input));
            let first = of_inputs.next()?;
            of_inputs.all(|group| group == first).then(|| first.clone())
        };
        let group = node.slot_sharing_group.clone().or_else(inherited);
        groups.push(group.unwrap_or_else(|| DEFAULT_SLOT_SHARING_GROUP.to_owned()));
    }
    groups
}

fn max_parallelism(node: &StreamNode, of_job: Option<u32>) -> Result<MaxParallelism, JobError> {
    let name = &node.name;
    if node.parallelism == 0 {
        return Err(JobError::operator(name, "parallelism 0", "`set_parallelism` takes 1 or more"));
    }
    if !node.parallel && node.parallelism != 1 {
        let problem = format!("parallelism {} for what only one subtask can read", node.parallelism);
        return Err(JobError::operator(name, problem, "spread its records with `rebalance` behind it"));
    }
    if node.parallelism > MaxParallelism::UPPER_BOUND {
        let problem = format!("parallelism {} is above {}", node.parallelism, MaxParallelism::UPPER_BOUND);
        return Err(JobError::operator(name, problem, "lower it with `set_parallelism`"));
    }
    let max_parallelism = match node.max_parallelism.or(of_job) {
        None => MaxParallelism::default_for(node.parallelism),
        Some(count) => MaxParallelism::new(count).ok_or_else(|| {
            let problem = format!("max parallelism {count} is outside 1..={}", MaxParallelism::UPPER_BOUND);
            JobError::operator(name, problem, "choose another with `set_max_parallelism`")
        })?,
    };
    if node.parallelism > max_parallelism.get() {
        let problem = format!("parallelism {} is above its max parallelism {max_parallelism}", node.parallelism);
        return Err(JobError::operator(name, problem, "lower the one or raise the other"));
    }
    Ok(max_parallelism)
}

fn ships(graph: &StreamGraph) -> Result<Vec<ShipStrategy>, JobError> {
    let mut ships = Vec::new();
    for edge in &graph.edges {
        let (Some(source), Some(target)) = (graph.nodes.get(edge.source), graph.nodes.get(edge.target)) else {
            return Err(JobError::job("an edge leads to no operator", "report this as a defect of the library"));
        };
        let same = source.parallelism == target.parallelism;
        let ship = edge.ship.unwrap_or(if same { ShipStrategy::Forward } else { ShipStrategy::Rebalance });
        if ship == ShipStrategy::Forward && !same {
            let problem = format!(
                "`forward` from `{}` with parallelism {} to parallelism {}",
                source.name, source.parallelism, target.parallelism
            );
            let remedy = "use `rebalance` or `rescale`, or give both the same parallelism";
            return Err(JobError::operator(&target.name, problem, remedy));
        }
        ships.push(ship);
    }
    Ok(ships)
}
