//! StreamGraph to JobGraph: which operators are chained, and what becomes a vertex and an exchange.

use std::collections::BTreeMap;

use perennial_types::{JobEdge, JobGraph, JobVertex, OperatorId, OperatorInfo, ShipStrategy, VertexId};
use xxhash_rust::xxh3::Xxh3;

use super::resolve::{Resolution, Resolved, resolve};
use super::{Chaining, NodeId, StreamEdge, StreamGraph, StreamNode};
use crate::JobError;

/// A planned job: the JobGraph, and what its code has to follow.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) graph: JobGraph,
    /// Node at the head of each vertex.
    pub(crate) heads: Vec<NodeId>,
    /// For every node, where each of its consumers is, in their order.
    pub(crate) links: Vec<Vec<Link>>,
    /// Id and full name of every node.
    pub(crate) operators: Vec<OperatorInfo>,
}

/// One consumer of a node's output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Link {
    /// Which output.
    pub(crate) output: usize,
    pub(crate) to: LinkTarget,
}

/// Where a consumer is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum LinkTarget {
    /// In the same chain.
    Chained(NodeId),
    /// Behind an exchange.
    Exchange {
        /// Index into [`JobGraph::edges`].
        edge: usize,
        /// Index into [`StreamGraph::edges`].
        stream_edge: usize,
        ship: ShipStrategy,
    },
}

/// Plans a job. Pure: equal graphs give equal plans.
pub(crate) fn plan(graph: &StreamGraph, config: BTreeMap<String, String>) -> Result<Plan, JobError> {
    let Resolution { nodes, ships } = resolve(graph)?;
    let chained = chained_edges(graph, &nodes, &ships);
    let heads = heads(graph, &chained);
    let vertex_of = vertex_of(graph, &chained, &heads);

    let mut edges = Vec::new();
    let mut exchange_of = BTreeMap::new();
    for head in &heads {
        for (index, edge) in graph.edges.iter().enumerate().filter(|(_, edge)| edge.target == *head) {
            let (Some(source), Some(target), Some(ship)) =
                (vertex_of.get(edge.source), vertex_of.get(edge.target), ships.get(index))
            else {
                continue;
            };
            exchange_of.insert(index, edges.len());
            edges.push(JobEdge { source: *source, target: *target, ship: *ship });
        }
    }
    let links = (0..graph.nodes.len()).map(|node| links_of(graph, node, &exchange_of, &ships)).collect::<Vec<_>>();
    let vertices = heads.iter().filter_map(|head| vertex(*head, graph, &nodes, &links)).collect();
    let graph = JobGraph {
        name: graph.job_name.clone(),
        vertices,
        edges,
        structural_hash: structural_hash(graph, &nodes, &ships, &chained),
        config,
    };
    Ok(Plan { graph, heads, links, operators: nodes.iter().map(Resolved::info).collect() })
}

/// For every edge, whether its two nodes are chained: Flink's `StreamingJobGraphGenerator.isChainable`.
fn chained_edges(graph: &StreamGraph, nodes: &[Resolved], ships: &[ShipStrategy]) -> Vec<bool> {
    let mut inputs = vec![0usize; graph.nodes.len()];
    for edge in &graph.edges {
        if let Some(count) = inputs.get_mut(edge.target) {
            *count += 1;
        }
    }
    let is_chained = |(edge, ship): (&StreamEdge, &ShipStrategy)| {
        let up = graph.nodes.get(edge.source).zip(nodes.get(edge.source))?;
        let down = graph.nodes.get(edge.target).zip(nodes.get(edge.target))?;
        let single_input = inputs.get(edge.target) == Some(&1);
        Some(graph.chaining && single_input && *ship == ShipStrategy::Forward && may_chain(up, down))
    };
    graph.edges.iter().zip(ships).map(|pair| is_chained(pair).unwrap_or(false)).collect()
}

/// The part of the rule that looks at the two nodes only.
fn may_chain(up: (&StreamNode, &Resolved), down: (&StreamNode, &Resolved)) -> bool {
    up.1.slot_sharing_group == down.1.slot_sharing_group
        && up.0.chaining != Chaining::Never
        && down.0.chaining == Chaining::Always
        && up.0.parallelism == down.0.parallelism
}

/// Nodes no chain leads to, in order.
fn heads(graph: &StreamGraph, chained: &[bool]) -> Vec<NodeId> {
    let led_to = |node: NodeId| graph.edges.iter().zip(chained).any(|(edge, chained)| *chained && edge.target == node);
    (0..graph.nodes.len()).filter(|node| !led_to(*node)).collect()
}

/// For every node, the index of its vertex. Inputs come before their consumers, so one pass is enough.
fn vertex_of(graph: &StreamGraph, chained: &[bool], heads: &[NodeId]) -> Vec<usize> {
    let mut vertex_of = vec![0; graph.nodes.len()];
    for node in 0..graph.nodes.len() {
        let before = graph.edges.iter().zip(chained).find(|(edge, chained)| **chained && edge.target == node);
        let vertex = match before {
            Some((edge, _)) => vertex_of.get(edge.source).copied(),
            None => heads.iter().position(|head| *head == node),
        };
        if let (Some(slot), Some(vertex)) = (vertex_of.get_mut(node), vertex) {
            *slot = vertex;
        }
    }
    vertex_of
}

fn links_of(
    graph: &StreamGraph,
    node: NodeId,
    exchange_of: &BTreeMap<usize, usize>,
    ships: &[ShipStrategy],
) -> Vec<Link> {
    let leaving = graph.edges.iter().zip(ships).enumerate().filter(|(_, (edge, _))| edge.source == node);
    leaving
        .map(|(index, (edge, ship))| Link {
            output: edge.output,
            to: match exchange_of.get(&index) {
                Some(exchange) => LinkTarget::Exchange { edge: *exchange, stream_edge: index, ship: *ship },
                None => LinkTarget::Chained(edge.target),
            },
        })
        .collect()
}

fn vertex(head: NodeId, graph: &StreamGraph, nodes: &[Resolved], links: &[Vec<Link>]) -> Option<JobVertex> {
    let (node, resolved) = (graph.nodes.get(head)?, nodes.get(head)?);
    let mut operators = Vec::new();
    collect_operators(head, nodes, links, &mut operators);
    Some(JobVertex {
        id: VertexId::from(OperatorId::of_uid(&resolved.uid)),
        name: chain_name(head, nodes, links),
        parallelism: node.parallelism,
        max_parallelism: resolved.max_parallelism,
        max_parallelism_is_set: resolved.max_parallelism_is_set,
        slot_sharing_group: resolved.slot_sharing_group.clone(),
        operators,
    })
}

fn chained_after(node: NodeId, links: &[Vec<Link>]) -> impl Iterator<Item = NodeId> {
    links.get(node).into_iter().flatten().filter_map(|link| match link.to {
        LinkTarget::Chained(next) => Some(next),
        LinkTarget::Exchange { .. } => None,
    })
}

impl Resolved {
    fn info(&self) -> OperatorInfo {
        let Self { uid, name, state_version, .. } = self;
        OperatorInfo {
            id: OperatorId::of_uid(uid),
            uid: uid.clone(),
            name: name.clone(),
            state_version: *state_version,
        }
    }
}

fn collect_operators(node: NodeId, nodes: &[Resolved], links: &[Vec<Link>], operators: &mut Vec<OperatorInfo>) {
    operators.extend(nodes.get(node).map(Resolved::info));
    for next in chained_after(node, links) {
        collect_operators(next, nodes, links, operators);
    }
}

/// Flink's `createChainedName`: `A -> B`, and `A -> (B, C)` when several are chained to A.
fn chain_name(node: NodeId, nodes: &[Resolved], links: &[Vec<Link>]) -> String {
    let name = nodes.get(node).map_or("", |node| node.name.as_str());
    let after: Vec<String> = chained_after(node, links).map(|next| chain_name(next, nodes, links)).collect();
    match after.as_slice() {
        [] => name.to_owned(),
        [one] => format!("{name} -> {one}"),
        several => format!("{name} -> ({})", several.join(", ")),
    }
}

/// XXH3 over everything that decides which code runs where: uids, record types, parallelism, edges and chains.
fn structural_hash(graph: &StreamGraph, nodes: &[Resolved], ships: &[ShipStrategy], chained: &[bool]) -> u64 {
    let mut hash = Xxh3::new();
    let mut text = |part: &str| {
        hash.update(&(part.len() as u64).to_le_bytes());
        hash.update(part.as_bytes());
    };
    for (node, resolved) in graph.nodes.iter().zip(nodes) {
        text(&resolved.uid);
        text(node.input_type);
        for output in &node.outputs {
            text(output.tag.as_deref().unwrap_or_default());
            text(output.record_type);
        }
        text(&format!("{}/{}/{}", node.parallelism, resolved.max_parallelism, resolved.slot_sharing_group));
        text(&node.state_version.to_string());
    }
    for ((edge, ship), chained) in graph.edges.iter().zip(ships).zip(chained) {
        text(&format!("{}.{} {ship:?} {} {chained}", edge.source, edge.output, edge.target));
    }
    hash.digest()
}
