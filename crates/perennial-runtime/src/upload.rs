//! Makes the snapshots of an executor's tasks durable, on a thread of its own.

use std::io;
use std::sync::mpsc::{Receiver, Sender, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant};

use perennial_state::{KeyedState, StateFileHeader, write_state_file};
use perennial_types::{
    CheckpointId, ExecutionAttemptId, JobId, KeyGroupRange, MaxParallelism, OperatorSnapshot, StateFile, TaskSnapshot,
};

use crate::TaskContext;
use crate::lineage::Link;
use crate::snapshot::{SnapshotPart, SnapshotWriter};

/// Snapshots that may wait for the disk: one of every task of a large executor. A checkpoint that finds no place here is
/// declined, the next one may find it.
const WAITING_MAX: usize = 1024;

/// Whose snapshot it is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SnapshotOf {
    pub(crate) job: JobId,
    pub(crate) attempt: ExecutionAttemptId,
    pub(crate) parallelism: u32,
    pub(crate) max_parallelism: MaxParallelism,
}

impl SnapshotOf {
    pub(crate) fn new(context: &TaskContext) -> Self {
        let TaskContext { job, attempt, parallelism, max_parallelism, .. } = context;
        Self { job: *job, attempt: *attempt, parallelism: *parallelism, max_parallelism: *max_parallelism }
    }
}

/// A snapshot that a task has taken.
pub(crate) struct Taken {
    pub(crate) of: SnapshotOf,
    pub(crate) writer: SnapshotWriter,
    /// Its place among incremental checkpoints.
    pub(crate) link: Option<Link>,
    /// From the first barrier to the last.
    pub(crate) align: Duration,
    /// How long the task did nothing else.
    pub(crate) sync: Duration,
}

/// What became of a checkpoint in one task.
pub(crate) struct Uploaded {
    pub(crate) attempt: ExecutionAttemptId,
    pub(crate) checkpoint: CheckpointId,
    /// The durable snapshot, or why there is none.
    pub(crate) result: Result<TaskSnapshot, String>,
}

/// The upload thread. It ends when this is dropped and what waits is written.
pub(crate) struct Uploads {
    waiting: SyncSender<(Taken, String)>,
}

impl Uploads {
    /// Starts the thread. Results go to `events`.
    pub(crate) fn start<E>(events: Sender<E>) -> io::Result<Self>
    where
        E: From<Uploaded> + Send + 'static,
    {
        let (waiting, taken) = sync_channel(WAITING_MAX);
        std::thread::Builder::new().name("upload".to_owned()).spawn(move || run(&taken, &events))?;
        Ok(Self { waiting })
    }

    /// Has a snapshot written below a directory. Never waits.
    pub(crate) fn submit(&self, taken: Taken, directory: String) -> Result<(), Uploaded> {
        let refused = |taken: Taken, reason: &str| Uploaded {
            attempt: taken.of.attempt,
            checkpoint: taken.writer.checkpoint(),
            result: Err(reason.to_owned()),
        };
        match self.waiting.try_send((taken, directory)) {
            Ok(()) => Ok(()),
            Err(TrySendError::Full((taken, _))) => Err(refused(taken, "too many snapshots wait for the storage")),
            Err(TrySendError::Disconnected((taken, _))) => Err(refused(taken, "the upload thread is gone")),
        }
    }
}

fn run<E: From<Uploaded>>(waiting: &Receiver<(Taken, String)>, events: &Sender<E>) {
    while let Ok((taken, directory)) = waiting.recv() {
        let (attempt, checkpoint) = (taken.of.attempt, taken.writer.checkpoint());
        // Code of sinks runs here, which may panic; that is a snapshot less, not a thread.
        let result = crate::panics::catch(|| Ok(upload(taken, &directory)));
        let result = match result {
            Ok(uploaded) => uploaded.map_err(|error| crate::operator::chain(&error)),
            Err(panic) => Err(panic.to_string()),
        };
        // The owner has gone: nobody wants to know.
        let _ = events.send(Uploaded { attempt, checkpoint, result }.into());
    }
}

/// Makes a snapshot durable.
pub(crate) fn upload(taken: Taken, directory: &str) -> io::Result<TaskSnapshot> {
    let started = Instant::now();
    let Taken { of, writer, link, align, sync } = taken;
    let (checkpoint, finished) = (writer.checkpoint(), writer.is_finished());
    writer.durable.into_iter().try_for_each(|work| work())?;
    let key_groups = KeyGroupRange::of_subtask(of.attempt.subtask, of.max_parallelism, of.parallelism);
    let (mut operators, mut keyed) = (Vec::new(), Vec::new());
    for (operator, part) in writer.parts {
        let SnapshotPart { uid, version, keyed: states, list, union_list, broadcast } = part;
        operators.push((operator, [list, union_list], broadcast, !states.is_empty()));
        keyed.extend(states.into_iter().map(|(name, frozen)| {
            let uid = uid.clone();
            KeyedState { operator, uid, name, version, frozen }
        }));
    }
    let elements = operators.iter().flat_map(|(_, lists, broadcast, _)| lists.iter().flatten().chain(broadcast));
    let mut bytes: u64 = elements.map(|element| element.len() as u64).sum();
    let mut files = Vec::new();
    if !keyed.is_empty() {
        let ExecutionAttemptId { vertex, subtask, attempt } = of.attempt;
        let is_base = keyed.iter().all(|state| state.frozen.is_base());
        link.as_ref().map_or(Ok(()), |link| link.check(is_base))?;
        let name = format!("{vertex}-{subtask}-{attempt}-{checkpoint}.state");
        let header = StateFileHeader {
            job: of.job,
            checkpoint,
            vertex,
            subtask,
            max_parallelism: of.max_parallelism,
            key_groups,
            states: Vec::new(),
        };
        let (shared, key_groups) = (link.is_some(), Some(key_groups));
        let mut file = StateFile { name, shared, bytes: 0, crc: 0, key_groups };
        let location = file.location(directory);
        let (place, name) = location.rsplit_once('/').unwrap_or((directory, &file.name));
        let written = write_state_file(&*perennial_state::open(place)?, name, header, keyed)?;
        (file.bytes, file.crc) = (written.bytes, written.crc);
        bytes += written.bytes;
        files = match link {
            Some(link) => link.written(is_base, file),
            None => vec![file],
        };
    }
    let operators = operators.into_iter().map(|(operator, [list, union_list], broadcast, is_keyed)| {
        let keyed = if is_keyed { files.clone() } else { Vec::new() };
        OperatorSnapshot { operator, keyed, list, union_list, broadcast }
    });
    Ok(TaskSnapshot {
        operators: operators.collect(),
        finished,
        bytes,
        sync_us: u64::try_from(sync.as_micros()).unwrap_or(u64::MAX),
        async_ms: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
        align_us: u64::try_from(align.as_micros()).unwrap_or(u64::MAX),
    })
}
