//! A whole job in this process: what `cargo run` of a job does, and what tests use.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use perennial_exchange::{Counters, Room};
use perennial_types::config::SetError;
use perennial_types::{ExecutionAttemptId, ExecutionState, JobId};

use crate::builder::TaskBuilder;
use crate::settings::{TaskSettings, configuration};
use crate::slot::{NewTask, Slot, TaskEvent};
use crate::upload::Taken;
use crate::wiring::{Place, Placement, Wiring};
use crate::{ExecutableJob, TaskContext, TaskError};

/// How to run a job in this process.
#[derive(Debug, Clone, Default)]
pub struct LocalOptions {
    /// Effective options of the job, under Flink's keys.
    pub config: BTreeMap<String, String>,
    /// Ends the job from outside.
    pub cancel: CancelHandle,
}

/// Ends a job that runs in this process. Cheap to clone; all clones end the same job.
#[derive(Clone, Default)]
pub struct CancelHandle {
    shared: Arc<CancelShared>,
}

#[derive(Default)]
struct CancelShared {
    asked: AtomicBool,
    /// The running job, once it does.
    job: Mutex<Option<Sender<LocalEvent>>>,
}

impl std::fmt::Debug for CancelHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CancelHandle").field("asked", &self.shared.asked).finish_non_exhaustive()
    }
}

impl CancelHandle {
    /// Cancels the job: its tasks stop at the next batch. Before the job has started, it will be cancelled at once.
    pub fn cancel(&self) {
        let job = self.shared.job.lock().unwrap_or_else(PoisonError::into_inner);
        self.shared.asked.store(true, Ordering::SeqCst);
        if let Some(job) = &*job {
            // A job that has ended needs no cancelling.
            let _ = job.send(LocalEvent::Cancel);
        }
    }

    fn connect(&self, events: Option<Sender<LocalEvent>>) {
        let mut job = self.shared.job.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(events) = &events
            && self.shared.asked.load(Ordering::SeqCst)
        {
            let _ = events.send(LocalEvent::Cancel);
        }
        *job = events;
    }
}

enum LocalEvent {
    Task(TaskEvent),
    /// Nobody keeps snapshots here: a job in one process takes no checkpoints.
    Snapshot,
    Cancel,
}

impl From<Taken> for LocalEvent {
    fn from(_taken: Taken) -> Self {
        Self::Snapshot
    }
}

impl From<TaskEvent> for LocalEvent {
    fn from(event: TaskEvent) -> Self {
        Self::Task(event)
    }
}

/// How a job in this process ended.
#[derive(Debug, Clone)]
pub struct LocalOutcome {
    /// FINISHED, or CANCELED.
    pub state: ExecutionState,
    /// From the start of the first task to the end of the last.
    pub duration: Duration,
    /// What each subtask did, in the order of the vertices.
    pub tasks: Vec<LocalTask>,
}

/// What a subtask did.
#[derive(Debug, Clone)]
pub struct LocalTask {
    /// Name of the vertex.
    pub vertex_name: String,
    /// Which copy of it.
    pub subtask: u32,
    /// Its counters.
    pub counters: Arc<Counters>,
}

/// Why a job in this process did not end well.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    /// An option of the job is wrong.
    #[error("the job's options are wrong")]
    Config(#[source] SetError),
    /// The system gave no thread.
    #[error("cannot start a slot thread")]
    Thread(#[source] std::io::Error),
    /// A task failed. The others were cancelled.
    #[error("subtask {subtask} of `{vertex_name}` failed")]
    Task {
        /// Name of the vertex.
        vertex_name: String,
        /// Which copy of it.
        subtask: u32,
        /// Why.
        source: TaskError,
    },
    /// The plan and the code do not fit.
    #[error("the job cannot be built")]
    Build(#[source] TaskError),
}

/// Runs a job in this process and waits for its end: a thread for each slot its slot-sharing groups ask for.
pub fn run(job: &ExecutableJob, options: &LocalOptions) -> Result<LocalOutcome, LocalError> {
    let config = configuration(&options.config).map_err(LocalError::Config)?;
    let settings = TaskSettings::new(&config);
    let graph = &job.graph;
    let wiring = Wiring::new(Arc::clone(graph), settings.writer, None);
    let places = graph
        .vertices
        .iter()
        .map(|vertex| {
            let place =
                |subtask| Place { attempt: ExecutionAttemptId { vertex: vertex.id, subtask, attempt: 0 }, executor: 0 };
            (0..vertex.parallelism).map(place).collect()
        })
        .collect();
    let placement = Placement { places, executors: Vec::new(), here: 0 };

    let (events, ended) = channel();
    let slots: Vec<Slot> = (0..graph.slots_needed())
        .map(|slot| Slot::start(&format!("slot-{slot}"), settings, events.clone()))
        .collect::<Result<_, _>>()
        .map_err(LocalError::Thread)?;
    let mut first_slot = BTreeMap::<&str, u32>::new();
    let mut next_slot = 0;
    for vertex in &graph.vertices {
        if !first_slot.contains_key(vertex.slot_sharing_group.as_str()) {
            let group = graph.vertices.iter().filter(|other| other.slot_sharing_group == vertex.slot_sharing_group);
            first_slot.insert(&vertex.slot_sharing_group, next_slot);
            next_slot += group.map(|other| other.parallelism).max().unwrap_or(0);
        }
    }

    let started = Instant::now();
    let job_id = JobId::random();
    let task_config = Arc::new(options.config.clone());
    let cancelled = Arc::new(AtomicBool::new(false));
    let mut tasks = Vec::new();
    let mut new_tasks = Vec::new();
    for (index, (vertex, factory)) in graph.vertices.iter().zip(&job.vertices).enumerate() {
        let first = first_slot.get(vertex.slot_sharing_group.as_str()).copied().unwrap_or(0);
        for place in placement.places.get(index).into_iter().flatten() {
            let attempt = place.attempt;
            let Some(slot) = slots.get((first + attempt.subtask) as usize) else { continue };
            let counters = Arc::new(Counters::default());
            let room = Arc::new(Room::new(Arc::clone(slot.signal())));
            let input = wiring.input(index, attempt, &placement);
            input.attach(slot.signal());
            let outputs = wiring.outputs(index, attempt, &placement, &room).map_err(LocalError::Build)?;
            let context = TaskContext {
                job: job_id,
                vertex_name: vertex.name.clone(),
                attempt,
                parallelism: vertex.parallelism,
                max_parallelism: vertex.max_parallelism,
                config: Arc::clone(&task_config),
            };
            let builder = TaskBuilder::new(context, outputs, settings.writer, Arc::clone(&counters), None);
            let (factory, cancelled, mailbox) = (Arc::clone(factory), Arc::clone(&cancelled), Arc::default());
            // Nobody takes checkpoints here.
            let last_checkpoint = false;
            let task = NewTask { attempt, builder, factory, input, room, cancelled, mailbox, last_checkpoint };
            new_tasks.push((slot, task));
            tasks.push(LocalTask { vertex_name: vertex.name.clone(), subtask: attempt.subtask, counters });
        }
    }
    let mut left = new_tasks.len();
    for (slot, task) in new_tasks {
        slot.run(task);
    }

    options.cancel.connect(Some(events));
    let mut failure = None;
    let mut state = ExecutionState::Finished;
    while left > 0 {
        // The cancel handle keeps a sender, so this ends only with a message.
        let Ok(event) = ended.recv() else { break };
        match event {
            LocalEvent::Task(event) => {
                left -= usize::from(event.state.is_terminal());
                if event.state == ExecutionState::Canceled {
                    state = ExecutionState::Canceled;
                }
                if let (Some(source), None) = (event.error, &failure) {
                    let at = graph.vertices.iter().find(|vertex| vertex.id == event.attempt.vertex);
                    let vertex_name = at.map(|vertex| vertex.name.clone()).unwrap_or_default();
                    failure = Some(LocalError::Task { vertex_name, subtask: event.attempt.subtask, source });
                }
            }
            LocalEvent::Snapshot | LocalEvent::Cancel => {}
        }
        if failure.is_some() || options.cancel.shared.asked.load(Ordering::SeqCst) {
            cancelled.store(true, Ordering::Relaxed);
            slots.iter().for_each(|slot| slot.signal().wake());
        }
    }
    options.cancel.connect(None);
    slots.into_iter().for_each(Slot::join);
    match failure {
        Some(error) => Err(error),
        None => Ok(LocalOutcome { state, duration: started.elapsed(), tasks }),
    }
}
