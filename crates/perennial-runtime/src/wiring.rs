//! Connects the subtasks of a job: which channels there are, and where their ends meet in this process.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use perennial_exchange::{Credit, Gate, LocalChannel, OutChannel, Room, WriterSettings};
use perennial_types::{ExecutionAttemptId, JobGraph};

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

/// Where every subtask of a job runs: by index of the vertex, then by subtask.
pub(crate) type Placement = Vec<Vec<Place>>;

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

/// Where the ends of channels within this process meet: the gates of consumers, by attempt.
///
/// A gate is made by whichever side asks first.
pub(crate) struct Wiring {
    graph: Arc<JobGraph>,
    settings: WriterSettings,
    gates: Mutex<HashMap<ExecutionAttemptId, Arc<WiredGate>>>,
}

impl Wiring {
    pub(crate) fn new(graph: Arc<JobGraph>, settings: WriterSettings) -> Self {
        Self { graph, settings, gates: Mutex::new(HashMap::new()) }
    }

    fn gate(&self, vertex: usize, attempt: ExecutionAttemptId) -> Arc<WiredGate> {
        let mut gates = self.gates.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(gates.entry(attempt).or_insert_with(|| {
            let mut edges = Vec::new();
            let mut channels = 0;
            for (edge, job_edge) in self.graph.edges.iter().enumerate().filter(|(_, edge)| edge.target == vertex) {
                let parallelism = |vertex: usize| self.graph.vertices.get(vertex).map_or(0, |v| v.parallelism);
                let (producers, consumers) = (parallelism(job_edge.source), parallelism(vertex));
                let mine =
                    |p: &u32| job_edge.ship.targets(*p, producers, consumers).contains(&attempt.subtask);
                let first = (0..producers).find(mine).unwrap_or(0);
                let count = (first..producers).take_while(mine).count();
                edges.push(GateEdge {
                    edge,
                    first_channel: channels,
                    first_producer: first,
                    producers: count as u32,
                });
                channels += count;
            }
            Arc::new(WiredGate { gate: Arc::new(Gate::new(channels)), edges, channels })
        }))
    }

    /// What the subtask reads: its gate, or nothing for a source.
    pub(crate) fn input(&self, vertex: usize, attempt: ExecutionAttemptId) -> Input {
        if self.graph.edges.iter().all(|edge| edge.target != vertex) {
            return Input::Source(None);
        }
        let wired = self.gate(vertex, attempt);
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
                let place = placement.get(edge.target).and_then(|places| places.get(consumer as usize)).ok_or_else(|| {
                    TaskError::WrongJob { reason: format!("subtask {consumer} of `{}` has no place", target.name) }
                })?;
                channels.push(self.local_channel(index, edge.target, attempt.subtask, place.attempt, room));
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
        let index = wired
            .edges
            .iter()
            .find(|gate_edge| gate_edge.edge == edge)
            .map_or(0, |gate_edge| gate_edge.first_channel + (producer - gate_edge.first_producer) as usize);
        let channel = Arc::new(LocalChannel::new(Credit::new(self.settings.credit, Arc::clone(room))));
        wired.gate.connect(index, Arc::clone(&channel) as Arc<dyn perennial_exchange::CreditReturn>);
        OutChannel::Local { gate: Arc::clone(&wired.gate), index, channel }
    }

    /// Forgets the gate of a consumer that has ended.
    pub(crate) fn forget(&self, consumer: ExecutionAttemptId) {
        self.gates.lock().unwrap_or_else(PoisonError::into_inner).remove(&consumer);
    }
}
