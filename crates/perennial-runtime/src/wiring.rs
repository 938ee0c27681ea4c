//! Connects the subtasks of a job: which channels there are, and where their ends meet in this process.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use perennial_exchange::{ChannelKey, Credit, Gate, LocalChannel, Network, OutChannel, Peer, Room, WriterSettings};
use perennial_rpc::taskmanager::VertexShape;
use perennial_types::{ExecutionAttemptId, JobGraph, JobVertex};

use crate::TaskError;
use crate::builder::OutEdge;
use crate::task::Input;

/// Which attempt of a subtask runs where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) attempt: ExecutionAttemptId,
    /// Index among the job's executors.
    pub(crate) executor: usize,
}

/// Where every subtask of a job runs.
pub(crate) struct Placement {
    /// By index of the vertex, then by subtask.
    pub(crate) places: Vec<Vec<Place>>,
    /// The job's executors.
    pub(crate) executors: Vec<Peer>,
    /// Which of them this process is.
    pub(crate) here: usize,
}

impl Placement {
    fn of(&self, vertex: usize, subtask: u32) -> Option<&Place> {
        self.places.get(vertex)?.get(subtask as usize)
    }
}

/// The channels of one in-edge in a gate: one per producing subtask, which are neighbours.
struct GateEdge {
    edge: usize,
    first_channel: usize,
    first_producer: u32,
    producers: u32,
}

/// A gate and what its channels are.
struct WiredGate {
    gate: Arc<Gate>,
    edges: Vec<GateEdge>,
    channels: usize,
}

impl WiredGate {
    /// Every channel: its edge, its producing subtask and its number.
    fn channels(&self) -> impl Iterator<Item = (usize, u32, usize)> {
        self.edges.iter().flat_map(|at| {
            (0..at.producers).map(|offset| (at.edge, at.first_producer + offset, at.first_channel + offset as usize))
        })
    }

    /// Number of the channel from this producer over this edge.
    fn index_of(&self, edge: usize, producer: u32) -> Option<usize> {
        let at = self.edges.iter().find(|at| at.edge == edge)?;
        let offset = producer.checked_sub(at.first_producer).filter(|offset| *offset < at.producers)?;
        Some(at.first_channel + offset as usize)
    }
}

/// Where the ends of channels meet: the gates of consumers, by attempt, and the connections to other processes.
///
/// A gate is made by whichever side asks first.
pub(crate) struct Wiring {
    graph: Arc<JobGraph>,
    settings: WriterSettings,
    /// None in a job that runs in one process.
    network: Option<Network>,
    gates: Mutex<HashMap<ExecutionAttemptId, Arc<WiredGate>>>,
}

impl Wiring {
    pub(crate) fn new(graph: Arc<JobGraph>, settings: WriterSettings, network: Option<Network>) -> Self {
        Self { graph, settings, network, gates: Mutex::new(HashMap::new()) }
    }

    /// The plan, as finely divided as the last deployment said.
    pub(crate) fn graph(&self) -> &JobGraph {
        &self.graph
    }

    /// From now on vertices are divided like this. What is connected already stays as it is.
    pub(crate) fn reshape(&mut self, shapes: &[VertexShape]) {
        for shape in shapes {
            let at = self.graph.vertices.iter().position(|vertex| vertex.id == shape.vertex);
            let same = |vertex: &JobVertex| {
                (vertex.parallelism, vertex.max_parallelism) == (shape.parallelism, shape.max_parallelism)
            };
            let Some(at) = at.filter(|at| self.graph.vertices.get(*at).is_some_and(|vertex| !same(vertex))) else {
                continue;
            };
            if let Some(vertex) = Arc::make_mut(&mut self.graph).vertices.get_mut(at) {
                (vertex.parallelism, vertex.max_parallelism) = (shape.parallelism, shape.max_parallelism);
            }
        }
    }

    fn gate(&self, vertex: usize, attempt: ExecutionAttemptId) -> Arc<WiredGate> {
        let mut gates = self.gates.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(gates.entry(attempt).or_insert_with(|| {
            let mut edges = Vec::new();
            let mut channels = 0;
            for (edge, job_edge) in self.graph.edges.iter().enumerate().filter(|(_, edge)| edge.target == vertex) {
                let parallelism = |vertex: usize| self.graph.vertices.get(vertex).map_or(0, |v| v.parallelism);
                let (producers, consumers) = (parallelism(job_edge.source), parallelism(vertex));
                let mine = |p: &u32| job_edge.ship.targets(*p, producers, consumers).contains(&attempt.subtask);
                let first = (0..producers).find(mine).unwrap_or(0);
                let count = (first..producers).take_while(mine).count();
                edges.push(GateEdge { edge, first_channel: channels, first_producer: first, producers: count as u32 });
                channels += count;
            }
            Arc::new(WiredGate { gate: Arc::new(Gate::new(channels)), edges, channels })
        }))
    }

    /// What the subtask reads: its gate, or nothing for a source.
    pub(crate) fn input(&self, vertex: usize, attempt: ExecutionAttemptId, placement: &Placement) -> Input {
        if self.graph.edges.iter().all(|edge| edge.target != vertex) {
            return Input::Source(None);
        }
        let wired = self.gate(vertex, attempt);
        if let Some(network) = &self.network {
            for (edge, producer, index) in wired.channels() {
                let Some(place) = self.graph.edges.get(edge).and_then(|at| placement.of(at.source, producer)) else {
                    continue;
                };
                if place.executor != placement.here {
                    network.register_input(key(edge, place.attempt, attempt), Arc::clone(&wired.gate), index);
                }
            }
        }
        let input_of = wired
            .edges
            .iter()
            .enumerate()
            .flat_map(|(input, edge)| std::iter::repeat_n(input, edge.producers as usize))
            .collect();
        Input::Gate { gate: Arc::clone(&wired.gate), input_of, open: wired.channels }
    }

    /// What the subtask writes: the channels of each out-edge, by the edge's index in the JobGraph.
    pub(crate) fn outputs(
        &self,
        vertex: usize,
        attempt: ExecutionAttemptId,
        placement: &Placement,
        room: &Arc<Room>,
    ) -> Result<BTreeMap<usize, OutEdge>, TaskError> {
        let mut outputs = BTreeMap::new();
        for (index, edge) in self.graph.edges.iter().enumerate().filter(|(_, edge)| edge.source == vertex) {
            let (Some(source), Some(target)) = (self.graph.vertices.get(vertex), self.graph.vertices.get(edge.target))
            else {
                return Err(TaskError::WrongJob { reason: format!("edge {index} leads nowhere") });
            };
            let mut channels = Vec::new();
            for consumer in edge.ship.targets(attempt.subtask, source.parallelism, target.parallelism) {
                let place = placement.of(edge.target, consumer).ok_or_else(|| TaskError::WrongJob {
                    reason: format!("subtask {consumer} of `{}` has no place", target.name),
                })?;
                channels.push(if place.executor == placement.here {
                    self.local_channel(index, edge.target, attempt.subtask, place.attempt, room)
                } else {
                    let key = key(index, attempt, place.attempt);
                    self.remote_channel(&key, placement.executors.get(place.executor), room)?
                });
            }
            outputs.insert(index, OutEdge { channels, max_parallelism: target.max_parallelism });
        }
        Ok(outputs)
    }

    fn local_channel(
        &self,
        edge: usize,
        target: usize,
        producer: u32,
        consumer: ExecutionAttemptId,
        room: &Arc<Room>,
    ) -> OutChannel {
        let wired = self.gate(target, consumer);
        // Both come from the same JobGraph, so the channel is one of the gate's.
        let index = wired.index_of(edge, producer).unwrap_or_default();
        let channel = Arc::new(LocalChannel::new(Credit::new(self.settings.credit, Arc::clone(room))));
        wired.gate.connect(index, Arc::clone(&channel) as Arc<dyn perennial_exchange::CreditReturn>);
        OutChannel::Local { gate: Arc::clone(&wired.gate), index, channel }
    }

    fn remote_channel(&self, key: &ChannelKey, peer: Option<&Peer>, room: &Arc<Room>) -> Result<OutChannel, TaskError> {
        let (Some(network), Some(peer)) = (&self.network, peer) else {
            return Err(TaskError::WrongJob { reason: format!("the consumer of channel {key:?} runs nowhere") });
        };
        let channel = network.open(peer, key, Arc::clone(room));
        channel.map(OutChannel::Remote).map_err(|error| TaskError::Exchange {
            peer: peer.name.clone(),
            reason: format!("no thread can be started: {error}"),
        })
    }

    /// Forgets the gate of a consumer that has ended.
    pub(crate) fn forget(&self, consumer: ExecutionAttemptId) {
        let gate = self.gates.lock().unwrap_or_else(PoisonError::into_inner).remove(&consumer);
        if let (Some(network), Some(wired)) = (&self.network, gate) {
            network.forget_inputs(&wired.gate);
        }
    }
}

/// Name of a channel, the same at both its ends.
fn key(edge: usize, producer: ExecutionAttemptId, consumer: ExecutionAttemptId) -> ChannelKey {
    let end = |attempt: ExecutionAttemptId| (attempt.subtask, attempt.attempt);
    ChannelKey { edge: edge as u32, producer: end(producer), consumer: end(consumer) }
}
