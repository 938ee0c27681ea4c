//! What a [`VertexFactory`](crate::VertexFactory) builds its chain with.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use perennial_exchange::{Counters, EventTime, OutChannel, Route, WriteError, Writer, WriterControl, WriterSettings};
use perennial_types::{KeyGroupRange, MaxParallelism, OperatorInfo, Record, TaskRestore};

use crate::snapshot::OperatorState;
use crate::{ChainEvent, Output, Restored, StateContext, TaskClock, TaskContext, TaskError};

/// An exchange as the task holds it.
pub(crate) type SharedWriter = Arc<Mutex<dyn WriterControl>>;

/// The channels of one out-edge of a subtask.
pub(crate) struct OutEdge {
    /// One per connected subtask of the consumer, in their order.
    pub(crate) channels: Vec<OutChannel>,
    /// Key groups of the consumer.
    pub(crate) max_parallelism: MaxParallelism,
}

/// Gives the chain of one subtask what it needs of its surroundings.
pub struct TaskBuilder {
    /// Which subtask is built.
    pub context: TaskContext,
    edges: BTreeMap<usize, OutEdge>,
    settings: WriterSettings,
    counters: Arc<Counters>,
    /// The checkpoint to go on from.
    restore: Option<Arc<TaskRestore>>,
    clock: TaskClock,
    writers: Vec<SharedWriter>,
}

impl TaskBuilder {
    pub(crate) fn new(
        context: TaskContext,
        edges: BTreeMap<usize, OutEdge>,
        settings: WriterSettings,
        counters: Arc<Counters>,
        restore: Option<Arc<TaskRestore>>,
    ) -> Self {
        let (clock, writers) = (TaskClock::new(), Vec::new());
        Self { context, edges, settings, counters, restore, clock, writers }
    }

    /// The end of the chain that writes to an exchange: `edge` is its index in
    /// [`JobGraph::edges`](perennial_types::JobGraph::edges).
    ///
    /// Called once for each out-edge of the vertex; a second time, or for an edge of another vertex, is
    /// [`TaskError::WrongJob`].
    pub fn exchange<T: Record>(&mut self, edge: usize, route: Route<T>) -> Result<Box<dyn Output<T>>, TaskError> {
        let Some(OutEdge { channels, max_parallelism }) = self.edges.remove(&edge) else {
            let reason = format!("`{}` writes to edge {edge}, which is not one of its own", self.context.vertex_name);
            return Err(TaskError::WrongJob { reason });
        };
        let writer = Writer::new(channels, route, max_parallelism, self.settings, Arc::clone(&self.counters));
        let writer = Arc::new(Mutex::new(writer));
        self.writers.push(Arc::clone(&writer) as SharedWriter);
        Ok(Box::new(ExchangeOutput { writer, vertex_name: self.context.vertex_name.clone() }))
    }

    /// What an operator with state is built with. `name` is for errors.
    ///
    /// Opens the files of its state, if there are any: to be called where the chain is built.
    pub fn state_of(&self, operator: &OperatorInfo, name: &str) -> Result<StateContext, TaskError> {
        let mut of = StateContext::of(operator, name);
        let restore = self.restore.as_ref().and_then(|all| {
            let of = all.operators.iter().find(|one| one.operator == operator.id)?;
            Some((all.checkpoint, of))
        });
        if let Some((checkpoint, restore)) = restore {
            let TaskContext { attempt, parallelism, max_parallelism, .. } = &self.context;
            let groups = KeyGroupRange::of_subtask(attempt.subtask, *max_parallelism, *parallelism);
            let state = OperatorState::open(restore, checkpoint, groups);
            of.restored = Restored::From(state.map_err(|error| of.error(error))?);
        }
        Ok(of)
    }

    /// Counters of the subtask. A sink adds what it wrote to `records_out`, once per batch; exchanges count by themselves.
    pub fn counters(&self) -> Arc<Counters> {
        Arc::clone(&self.counters)
    }

    /// Processing time of the subtask.
    pub fn clock(&self) -> TaskClock {
        self.clock.clone()
    }

    /// Whether the chain was finished in the checkpoint that it goes on from.
    pub(crate) fn was_finished(&self) -> bool {
        self.restore.as_ref().is_some_and(|restore| restore.finished)
    }

    /// Whether it also had nothing to commit: then it need not be built.
    pub(crate) fn has_nothing_to_do(&self) -> bool {
        let restored = self.restore.iter().flat_map(|restore| &restore.operators);
        self.was_finished() && restored.map(|one| &one.list).all(Vec::is_empty)
    }

    /// Tells the consumers of a chain that is not built that nothing comes.
    pub(crate) fn end_outputs(self) {
        self.edges.into_values().flat_map(|edge| edge.channels).for_each(OutChannel::end);
    }

    /// The exchanges of the chain, once all of them were asked for.
    pub(crate) fn into_writers(self) -> Result<Vec<SharedWriter>, TaskError> {
        match self.edges.keys().next() {
            None => Ok(self.writers),
            Some(edge) => {
                let reason = format!("`{}` does not write to its edge {edge}", self.context.vertex_name);
                Err(TaskError::WrongJob { reason })
            }
        }
    }
}

/// An exchange as the chain holds it. The lock is only ever taken by the thread of the slot.
struct ExchangeOutput<T> {
    writer: Arc<Mutex<Writer<T>>>,
    vertex_name: String,
}

/// An exchange's error as the task's.
pub(crate) fn write_error(vertex_name: &str, error: WriteError) -> TaskError {
    match error {
        WriteError::Exchange(error) => error.into(),
        WriteError::NoSuchSubtask { .. } => TaskError::user(vertex_name, error),
    }
}

impl<T: Record> Output<T> for ExchangeOutput<T> {
    fn push(&mut self, batch: &mut Vec<T>) -> Result<(), TaskError> {
        if batch.is_empty() {
            return Ok(());
        }
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        writer.push(batch).map_err(|error| write_error(&self.vertex_name, error))
    }

    fn control(&mut self, event: &mut ChainEvent<'_>) -> Result<(), TaskError> {
        let time = match event {
            ChainEvent::Watermark(time) => EventTime::Watermark(*time),
            ChainEvent::Idle => EventTime::Idle,
            // The task sends barriers itself, once the whole chain has taken its snapshot.
            _ => return Ok(()),
        };
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        writer.watermark(time).map_err(|error| write_error(&self.vertex_name, error))
    }

    fn finish(&mut self) -> Result<(), TaskError> {
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        writer.finish().map_err(|error| write_error(&self.vertex_name, error))
    }
}
