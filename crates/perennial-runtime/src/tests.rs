//! Checkpoints of a whole job in this process: taken while it runs, and gone on from.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use perennial_exchange::{Barrier, Counters, Guarantee, Room};
use perennial_state::EntryBuffer;
use perennial_types::config::Configuration;
use perennial_types::{
    CheckpointId, DEFAULT_SLOT_SHARING_GROUP, ExecutionAttemptId, ExecutionState, JobEdge, JobGraph, JobId, JobVertex,
    KeyGroupRange, MaxParallelism, OperatorId, OperatorInfo, OperatorRestore, Record, ShipStrategy, SnapshotKind,
    TaskRestore, TaskSnapshot, VertexId,
};

use crate::mailbox::{Mailbox, TaskCommand};
use crate::operators::{Prepared, Reopened, TwoPhaseOperator, TwoPhaseSink};
use crate::settings::TaskSettings;
use crate::slot::{NewTask, Slot, TaskEvent};
use crate::upload::{SnapshotOf, Taken, upload};
use crate::wiring::{Place, Placement, Wiring};
use crate::{
    ByOwned, ChainEvent, ExecutableJob, HashBy, Head, InputHead, KeyedFold, Output, Route, SnapshotWriter, SourceHead,
    SourceReader, SourceStatus, StateContext, TaskBuilder, TaskContext, TaskError, UserError, VertexFactory,
};

mod incremental;

const PATIENCE: Duration = Duration::from_secs(20);
const PARALLELISM: u32 = 2;
/// Enough for tables whose snapshots take several turns.
const KEYS: u64 = 5000;

/// Numbers from 0 to an end; where it is, is its position.
struct Numbers {
    next: u64,
    end: u64,
}

impl SourceReader<u64> for Numbers {
    fn poll(&mut self, out: &mut Vec<u64>, max: usize) -> Result<SourceStatus, UserError> {
        let until = self.end.min(self.next + max as u64);
        out.extend(self.next..until);
        self.next = until;
        Ok(if self.next == self.end { SourceStatus::Finished } else { SourceStatus::More })
    }

    fn snapshot(&mut self) -> Result<Vec<Vec<u8>>, UserError> {
        Ok(vec![self.next.to_le_bytes().to_vec()])
    }

    fn restore(&mut self, splits: Vec<Vec<u8>>) -> Result<(), UserError> {
        self.next = u64::decode(&mut splits[0].as_slice())?;
        Ok(())
    }
}

/// Notes the count of each key, and that none is left out or comes twice.
struct Counts(Arc<Mutex<HashMap<u64, u64>>>);

impl Output<(u64, u64)> for Counts {
    fn push(&mut self, batch: &mut Vec<(u64, u64)>) -> Result<(), TaskError> {
        let mut counts = self.0.lock().unwrap();
        for (key, count) in batch.drain(..) {
            if let Some(before) = counts.insert(key, count) {
                assert_eq!(count, before + 1);
            }
        }
        Ok(())
    }

    fn control(&mut self, _event: &mut ChainEvent<'_>) -> Result<(), TaskError> {
        Ok(())
    }

    fn finish(&mut self) -> Result<(), TaskError> {
        Ok(())
    }
}

struct Factory<F>(F);

impl<F> VertexFactory for Factory<F>
where
    F: Fn(&mut TaskBuilder) -> Result<Box<dyn Head>, TaskError> + Send + Sync,
{
    fn build(&self, builder: &mut TaskBuilder) -> Result<Box<dyn Head>, TaskError> {
        (self.0)(builder)
    }
}

fn operator(uid: &str) -> OperatorInfo {
    OperatorInfo { id: OperatorId::of_uid(uid), uid: uid.to_owned(), name: uid.to_owned(), state_version: 0 }
}

/// Sources of the numbers below `end`, and a running count by key.
fn job(end: u64, counts: &Arc<Mutex<HashMap<u64, u64>>>) -> ExecutableJob {
    let source = Factory(move |builder: &mut TaskBuilder| {
        let of = builder.state_of(&operator("numbers"), "numbers")?;
        let out = builder.exchange::<u64>(0, Route::Hash(Box::new(HashBy(ByOwned::new(|n: &u64| n % KEYS)))))?;
        Ok(Box::new(SourceHead::new(of, Numbers { next: 0, end }, out)?) as Box<dyn Head>)
    });
    let counts = Arc::clone(counts);
    let consumer = Factory(move |builder: &mut TaskBuilder| {
        let of = builder.state_of(&operator("count"), "count")?;
        let functions = (|_: &u64| 1u64, |count: &mut u64, _| *count += 1, |key: &u64, count: &u64| (*key, *count));
        let end = Box::new(Counts(Arc::clone(&counts)));
        let count = KeyedFold::new(of, ByOwned::new(|n: &u64| n % KEYS), functions, end)?;
        Ok(Box::new(InputHead::new(Box::new(count))) as Box<dyn Head>)
    });
    let vertex = |number: u8| JobVertex {
        id: VertexId::from_bytes([number; 16]),
        name: format!("vertex {number}"),
        parallelism: PARALLELISM,
        max_parallelism: MaxParallelism::default_for(PARALLELISM),
        max_parallelism_is_set: false,
        slot_sharing_group: DEFAULT_SLOT_SHARING_GROUP.to_owned(),
        operators: Vec::new(),
    };
    let graph = JobGraph {
        name: "test".to_owned(),
        vertices: vec![vertex(1), vertex(2)],
        edges: vec![JobEdge { source: 0, target: 1, ship: ShipStrategy::Hash }],
        structural_hash: 0,
        config: BTreeMap::new(),
    };
    ExecutableJob { graph: Arc::new(graph), vertices: vec![Arc::new(source), Arc::new(consumer)] }
}

enum Heard {
    Task(TaskEvent),
    Taken(Box<Taken>),
}

impl From<TaskEvent> for Heard {
    fn from(event: TaskEvent) -> Self {
        Self::Task(event)
    }
}

impl From<Taken> for Heard {
    fn from(taken: Taken) -> Self {
        Self::Taken(Box::new(taken))
    }
}

/// A job that runs on a slot per subtask.
struct Running {
    slots: Vec<Slot>,
    mailboxes: BTreeMap<ExecutionAttemptId, Arc<Mailbox>>,
    cancelled: Arc<AtomicBool>,
    heard: Receiver<Heard>,
}

/// Nobody completes checkpoints: its tasks do not wait for one when their input has ended.
fn start(job: &ExecutableJob, restore: &BTreeMap<ExecutionAttemptId, TaskRestore>) -> Running {
    start_with(job, restore, false)
}

fn start_with(
    job: &ExecutableJob,
    restore: &BTreeMap<ExecutionAttemptId, TaskRestore>,
    last_checkpoint: bool,
) -> Running {
    let settings = TaskSettings::new(&Configuration::new());
    let wiring = Wiring::new(Arc::clone(&job.graph), settings.writer, None);
    let attempt = |vertex: &JobVertex, subtask| ExecutionAttemptId { vertex: vertex.id, subtask, attempt: 0 };
    let place = |vertex: &JobVertex, subtask| Place { attempt: attempt(vertex, subtask), executor: 0 };
    let places = job.graph.vertices.iter().map(|vertex| (0..PARALLELISM).map(|n| place(vertex, n)).collect());
    let placement = Placement { places: places.collect(), executors: Vec::new(), here: 0 };
    let (events, heard) = channel();
    let slots: Vec<Slot> =
        (0..PARALLELISM).map(|slot| Slot::start(&format!("slot-{slot}"), settings, events.clone()).unwrap()).collect();
    let cancelled = Arc::new(AtomicBool::new(false));
    let mut tasks = Vec::new();
    let mut mailboxes = BTreeMap::new();
    for (index, (vertex, factory)) in job.graph.vertices.iter().zip(&job.vertices).enumerate() {
        for (subtask, slot) in (0..).zip(&slots) {
            let attempt = attempt(vertex, subtask);
            let room = Arc::new(Room::new(Arc::clone(slot.signal())));
            let input = wiring.input(index, attempt, &placement);
            input.attach(slot.signal());
            let outputs = wiring.outputs(index, attempt, &placement, &room).unwrap();
            let context = TaskContext {
                job: JobId::from_bytes([7; 16]),
                vertex_name: vertex.name.clone(),
                attempt,
                parallelism: PARALLELISM,
                max_parallelism: vertex.max_parallelism,
                config: Arc::default(),
            };
            let restore = restore.get(&attempt).cloned().map(Arc::new);
            let builder = TaskBuilder::new(context, outputs, settings.writer, Arc::default(), restore);
            let (factory, cancelled, mailbox) = (Arc::clone(factory), Arc::clone(&cancelled), Arc::default());
            mailboxes.insert(attempt, Arc::clone(&mailbox));
            let task = NewTask { attempt, builder, factory, input, room, cancelled, mailbox, last_checkpoint };
            tasks.push((slot, task));
        }
    }
    tasks.into_iter().for_each(|(slot, task)| slot.run(task));
    Running { slots, mailboxes, cancelled, heard }
}

impl Running {
    fn post(&self, command: TaskCommand) {
        self.mailboxes.values().for_each(|mailbox| mailbox.post(command));
        self.slots.iter().for_each(|slot| slot.signal().wake());
    }

    /// Waits until every task waits for its last checkpoint.
    fn inputs_end(&self) {
        let mut left = self.mailboxes.len();
        while left > 0 {
            if let Heard::Task(event) = self.heard.recv_timeout(PATIENCE).expect("every input ends") {
                assert!(event.error.is_none() && !event.state.is_terminal(), "{:?} {:?}", event.state, event.error);
                left -= usize::from(event.input_ended);
            }
        }
    }

    /// Triggers a checkpoint at the sources and waits for the snapshots of all tasks.
    fn checkpoint(&self, checkpoint: u64) -> Vec<Taken> {
        let (kind, guarantee) = (SnapshotKind::Checkpoint, Guarantee::ExactlyOnce);
        let barrier = Barrier { checkpoint: CheckpointId(checkpoint), kind, guarantee, triggered_ms: 0 };
        self.post(TaskCommand::Trigger(barrier));
        let mut taken = Vec::new();
        while taken.len() < self.mailboxes.len() {
            match self.heard.recv_timeout(PATIENCE).expect("every task takes a snapshot") {
                Heard::Taken(one) => {
                    assert_eq!(one.writer.checkpoint(), barrier.checkpoint);
                    taken.push(*one);
                }
                Heard::Task(event) => assert!(event.error.is_none(), "{:?}", event.error),
            }
        }
        taken
    }

    /// Waits for the end of all tasks.
    fn end(self, expect: ExecutionState) {
        let mut left = self.mailboxes.len();
        while left > 0 {
            if let Heard::Task(event) = self.heard.recv_timeout(PATIENCE).expect("every task ends") {
                assert!(event.error.is_none(), "{:?}", event.error);
                if event.state.is_terminal() {
                    assert_eq!(event.state, expect);
                    left -= 1;
                }
            }
        }
        self.slots.into_iter().for_each(Slot::join);
    }

    fn cancel(self) {
        self.cancelled.store(true, Ordering::Relaxed);
        self.slots.iter().for_each(|slot| slot.signal().wake());
        self.end(ExecutionState::Canceled);
    }
}

/// What the leader makes of a snapshot for the next attempt of the same subtask.
fn restore_of(snapshot: &TaskSnapshot, directory: &str) -> TaskRestore {
    let operators = snapshot.operators.iter().map(|one| OperatorRestore {
        operator: one.operator,
        keyed: one.keyed.iter().map(|file| (file.location(directory), file.clone())).collect(),
        list: one.list.clone(),
        union_list: one.union_list.clone(),
        broadcast: one.broadcast.clone(),
    });
    TaskRestore { checkpoint: CheckpointId(1), operators: operators.collect(), finished: false }
}

#[test]
fn a_job_goes_on_from_a_checkpoint_as_if_nothing_had_happened() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path().to_str().unwrap();
    let counts = Arc::default();
    let running = start(&job(u64::MAX, &counts), &BTreeMap::new());
    running.checkpoint(1);
    let taken = running.checkpoint(2);
    // It goes on, also while a snapshot is being written.
    running.checkpoint(3);
    let mut restore = BTreeMap::new();
    let mut furthest = 0;
    for one in taken {
        let attempt = one.of.attempt;
        let snapshot = upload(one, directory).unwrap();
        assert_eq!(snapshot.operators.len(), 1);
        for position in snapshot.operators.iter().flat_map(|one| &one.list) {
            furthest = furthest.max(u64::decode(&mut position.as_slice()).unwrap());
        }
        restore.insert(attempt, restore_of(&snapshot, directory));
    }
    running.cancel();
    assert!(furthest > 0, "the checkpoint was taken in the middle");
    let rounds = furthest / KEYS + 100;
    let counts = Arc::default();
    start(&job(rounds * KEYS, &counts), &restore).end(ExecutionState::Finished);
    let counts = counts.lock().unwrap();
    assert_eq!(counts.len() as u64, KEYS);
    assert!(counts.values().all(|count| *count == rounds * u64::from(PARALLELISM)), "nothing twice, nothing lost");
}

const SOURCES: VertexId = VertexId::from_bytes([1; 16]);

#[test]
fn a_task_whose_input_has_ended_ends_with_a_checkpoint_that_it_has_taken_since() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path().to_str().unwrap();
    let counts = Arc::default();
    let running = start_with(&job(100 * KEYS, &counts), &BTreeMap::new(), true);
    running.inputs_end();
    assert!(counts.lock().unwrap().values().all(|count| *count == 200), "all is emitted before");
    // Taken before, so it says nothing of what was written last.
    running.post(TaskCommand::Completed(CheckpointId(1)));
    let mut restore = BTreeMap::new();
    for one in running.checkpoint(2) {
        let attempt = one.of.attempt;
        let snapshot = upload(one, directory).unwrap();
        assert!(snapshot.finished && snapshot.operators.is_empty(), "a finished chain has no state: {snapshot:?}");
        restore.insert(attempt, TaskRestore { finished: true, ..restore_of(&snapshot, directory) });
    }
    assert!(running.heard.try_recv().is_err(), "nobody has ended");
    // Nor does somebody whose place others have taken.
    running.post(TaskCommand::Completed(CheckpointId(9)));
    running.checkpoint(3);
    // Of what comes later than the first one it need not wait.
    running.post(TaskCommand::Completed(CheckpointId(2)));
    running.end(ExecutionState::Finished);

    // Restored from that, nobody does anything, be the sources endless.
    let counts = Arc::default();
    start_with(&job(u64::MAX, &counts), &restore, true).end(ExecutionState::Finished);
    assert!(counts.lock().unwrap().is_empty());
    // One of the sources had finished, and nobody else.
    restore.retain(|attempt, _| attempt.vertex == SOURCES && attempt.subtask == 0);
    start(&job(10 * KEYS, &counts), &restore).end(ExecutionState::Finished);
    assert!(counts.lock().unwrap().values().all(|count| *count == 10), "what comes is of the other one");
}

#[test]
fn a_state_file_that_is_gone_fails_the_task() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path().to_str().unwrap();
    let running = start(&job(u64::MAX, &Arc::default()), &BTreeMap::new());
    let taken = running.checkpoint(1);
    running.cancel();
    let of_consumer = taken.into_iter().find(|one| one.of.attempt.vertex == VertexId::from_bytes([2; 16])).unwrap();
    let attempt = of_consumer.of.attempt;
    let restore = restore_of(&upload(of_consumer, directory).unwrap(), "/nowhere");
    let running = start(&job(u64::MAX, &Arc::default()), &BTreeMap::from([(attempt, restore)]));
    let error = loop {
        if let Heard::Task(TaskEvent { error: Some(error), .. }) = running.heard.recv_timeout(PATIENCE).unwrap() {
            break error;
        }
    };
    assert!(matches!(&error, TaskError::Restore { operator, .. } if operator == "count"), "{error}");
    running.cancelled.store(true, Ordering::Relaxed);
}

/// A checkpoint has several states of an operator by name; each goes back under its name and to no other version of the schema.
#[test]
fn states_are_found_by_name_and_by_version() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path().to_str().unwrap();
    let mut of = StateContext { version: 3, ..StateContext::fresh(OperatorId::of_uid("window"), "window") };
    let mut panes = of.take_table::<u64, u64>("panes").unwrap();
    (0..100).for_each(|key| panes.insert(key, key + 1));
    let mut timers = EntryBuffer::new::<u64, String>();
    timers.push(&7u64, &"seven".to_owned());
    let mut writer = SnapshotWriter::new(CheckpointId(1), SnapshotKind::Checkpoint);
    writer.entries(&of, "timers", timers);
    ChainEvent::Snapshot(&mut writer).keyed(&of, "panes", &mut panes);
    let attempt = ExecutionAttemptId { vertex: VertexId::from_bytes([2; 16]), subtask: 0, attempt: 0 };
    let max_parallelism = MaxParallelism::default_for(1);
    let job = JobId::from_bytes([3; 16]);
    let of_snapshot = SnapshotOf { job, attempt, parallelism: 1, max_parallelism };
    let taken = Taken { of: of_snapshot, writer, link: None, align: Duration::ZERO, sync: Duration::ZERO };
    let restore = restore_of(&upload(taken, directory).unwrap(), directory);

    let restored = |version| {
        let groups = KeyGroupRange { first: 0, last: 127 };
        let state = crate::snapshot::OperatorState::open(&restore.operators[0], restore.checkpoint, groups).unwrap();
        StateContext { version, restored: crate::Restored::From(state), ..StateContext::fresh(of.operator, "window") }
    };
    let mut same = restored(3);
    let panes: BTreeMap<u64, u64> =
        same.take_table("panes").unwrap().iter().map(|(key, value)| (*key, *value)).collect();
    assert_eq!(panes, (0..100).map(|key| (key, key + 1)).collect());
    let mut timers = Vec::new();
    same.take_entries("timers", |key: u64, value: String| timers.push((key, value))).unwrap();
    assert_eq!(timers, [(7, "seven".to_owned())]);
    assert!(same.take_table::<u64, u64>("new in this version").unwrap().is_empty());
    let error = restored(4).take_table::<u64, u64>("panes").err().map(|error| crate::operator::chain(&error)).unwrap();
    for part in ["`window`", "`panes`", "schema version 3", "version 4"] {
        assert!(error.contains(part), "{error}");
    }
}

/// A sink whose transactions are numbers of records.
#[derive(Default)]
struct Transactions {
    open: u64,
    log: Arc<Mutex<Vec<String>>>,
}

impl TwoPhaseSink<u64> for Transactions {
    type Transaction = (u64, u64);

    fn open(&mut self, restored: Option<Reopened<'_, (u64, u64)>>) -> Result<(), UserError> {
        let restored = restored.map(|Reopened { checkpoint, transactions }| (checkpoint.0, transactions));
        self.log.lock().unwrap().push(format!("open {restored:?}"));
        Ok(())
    }

    fn write(&mut self, batch: &mut Vec<u64>) -> Result<(), UserError> {
        self.open += batch.len() as u64;
        Ok(())
    }

    fn prepare(&mut self, checkpoint: CheckpointId) -> Result<Option<Prepared<(u64, u64)>>, UserError> {
        let count = std::mem::take(&mut self.open);
        let transaction = (checkpoint.0, count);
        Ok((count > 0).then(|| Prepared { transaction, durable: Box::new(|| Ok(())) }))
    }

    fn commit(&mut self, (checkpoint, count): &(u64, u64)) -> Result<(), UserError> {
        self.log.lock().unwrap().push(format!("commit {count} of {checkpoint}"));
        Ok(())
    }
}

fn snapshot(sink: &mut dyn Output<u64>, checkpoint: u64) -> Vec<Vec<u8>> {
    let mut writer = SnapshotWriter::new(CheckpointId(checkpoint), SnapshotKind::Checkpoint);
    sink.control(&mut ChainEvent::Snapshot(&mut writer)).unwrap();
    writer.parts.into_values().next().unwrap().list
}

#[test]
fn transactions_are_committed_in_order_by_the_checkpoint_that_has_them() {
    let log = Arc::<Mutex<Vec<String>>>::default();
    let said = || std::mem::take(&mut *log.lock().unwrap());
    let sink = || Transactions { open: 0, log: Arc::clone(&log) };
    let fresh = || StateContext::fresh(OperatorId::of_uid("sink"), "sink");
    let mut operator = TwoPhaseOperator::new(fresh(), sink(), Arc::<Counters>::default()).unwrap();
    operator.push(&mut vec![1, 2]).unwrap();
    assert_eq!(snapshot(&mut operator, 1).len(), 1);
    operator.push(&mut vec![3]).unwrap();
    operator.control(&mut ChainEvent::Aborted(CheckpointId(1))).unwrap();
    assert_eq!(snapshot(&mut operator, 2).len(), 2, "what was aborted goes with the next");
    assert_eq!(snapshot(&mut operator, 3).len(), 2, "nothing new");
    assert_eq!(said(), ["open None"]);
    operator.control(&mut ChainEvent::Completed(CheckpointId(2))).unwrap();
    operator.control(&mut ChainEvent::Completed(CheckpointId(2))).unwrap();
    assert_eq!(said(), ["commit 2 of 1", "commit 1 of 2"]);
    assert!(snapshot(&mut operator, 4).is_empty());
    operator.push(&mut vec![4, 5, 6]).unwrap();
    let list = snapshot(&mut operator, 5);
    operator.push(&mut vec![7]).unwrap();
    operator.finish().unwrap();
    assert_eq!(said(), [] as [&str; 0], "that is for the last checkpoint to do");
    operator.control(&mut ChainEvent::End).unwrap();
    assert_eq!(said(), ["commit 3 of 5", "commit 1 of 0"]);

    let restore = OperatorRestore {
        operator: OperatorId::of_uid("sink"),
        keyed: Vec::new(),
        list,
        union_list: Vec::new(),
        broadcast: None,
    };
    let groups = perennial_types::KeyGroupRange { first: 0, last: 127 };
    let state = crate::snapshot::OperatorState::open(&restore, CheckpointId(5), groups).unwrap();
    let of = StateContext { restored: crate::Restored::From(state), ..fresh() };
    TwoPhaseOperator::new(of, sink(), Arc::<Counters>::default()).unwrap();
    assert_eq!(said(), ["open Some((5, [(5, 3)]))", "commit 3 of 5"], "a restored checkpoint was complete");
}

/// A paused machine comes back when its tasks have been replaced, and hears of a checkpoint of those that replaced them.
#[test]
fn an_attempt_commits_nothing_with_a_checkpoint_it_has_no_part_in() {
    let log = Arc::<Mutex<Vec<String>>>::default();
    let sink = Transactions { open: 0, log: Arc::clone(&log) };
    let of = StateContext::fresh(OperatorId::of_uid("sink"), "sink");
    let mut operator = TwoPhaseOperator::new(of, sink, Arc::<Counters>::default()).unwrap();
    operator.push(&mut vec![1, 2]).unwrap();
    snapshot(&mut operator, 3);
    operator.control(&mut ChainEvent::Completed(CheckpointId(4))).unwrap();
    assert_eq!(*log.lock().unwrap(), ["open None"]);
    operator.control(&mut ChainEvent::Completed(CheckpointId(3))).unwrap();
    assert_eq!(*log.lock().unwrap(), ["open None", "commit 2 of 3"]);
}
