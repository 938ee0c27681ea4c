//! What operators put into a checkpoint, and what they are given back of one.

use std::collections::BTreeMap;
use std::io;

use perennial_state::{EntryBuffer, KeySelector, KeyedTable, StateFileError, StateFileReader};
use perennial_types::{CheckpointId, KeyGroupRange, OperatorId, OperatorRestore, Record, SnapshotKind};

use crate::TaskError;

/// Work of a snapshot that waits for a disk: done by another thread than the slot's, before the task says that it has its
/// part of the checkpoint.
pub type Durable = Box<dyn FnOnce() -> io::Result<()> + Send>;

/// Collects the state of a chain, from its head to its ends.
pub struct SnapshotWriter {
    checkpoint: CheckpointId,
    kind: SnapshotKind,
    pub(crate) parts: BTreeMap<OperatorId, SnapshotPart>,
    pub(crate) durable: Vec<Durable>,
}

/// State of one operator.
#[derive(Default)]
pub(crate) struct SnapshotPart {
    pub(crate) uid: String,
    pub(crate) keyed: Option<EntryBuffer>,
    pub(crate) list: Vec<Vec<u8>>,
}

impl SnapshotWriter {
    /// An empty snapshot.
    pub fn new(checkpoint: CheckpointId, kind: SnapshotKind) -> Self {
        Self { checkpoint, kind, parts: BTreeMap::new(), durable: Vec::new() }
    }

    /// Which checkpoint it is a part of.
    pub fn checkpoint(&self) -> CheckpointId {
        self.checkpoint
    }

    /// What the checkpoint is taken for.
    pub fn kind(&self) -> SnapshotKind {
        self.kind
    }

    /// Adds state that is a list: a subtask gets back any of its elements, and of those of other subtasks, when the parallelism
    /// has changed. An empty list is a state, too.
    pub fn list(&mut self, of: &StateContext, elements: Vec<Vec<u8>>) {
        self.part(of).list.extend(elements);
    }

    /// Adds state that belongs to keys.
    pub fn keyed(&mut self, of: &StateContext, entries: EntryBuffer) {
        self.part(of).keyed = Some(entries);
    }

    /// Adds work without which the snapshot is not safe.
    pub fn durable(&mut self, work: Durable) {
        self.durable.push(work);
    }

    fn part(&mut self, of: &StateContext) -> &mut SnapshotPart {
        let part = self.parts.entry(of.operator).or_default();
        part.uid.clone_from(&of.uid);
        part
    }
}

/// Which operator a state belongs to, and what there is of it to go on from.
pub struct StateContext {
    /// Its id: state is found under it.
    pub operator: OperatorId,
    /// What the id was made of.
    pub uid: String,
    /// Its full name, for errors.
    pub name: String,
    /// What a checkpoint has of it.
    pub restored: Restored,
}

/// What an operator begins with.
#[derive(Default)]
pub enum Restored {
    /// Nothing: the job has just been started, or the checkpoint does not know the operator.
    #[default]
    Fresh,
    /// Its state in a checkpoint, be it empty.
    From(OperatorState),
}

/// State of one operator, for one subtask, out of a checkpoint.
pub struct OperatorState {
    files: Vec<StateFileReader>,
    groups: KeyGroupRange,
    /// Elements of its list state.
    pub list: Vec<Vec<u8>>,
}

impl OperatorState {
    /// Opens the files that hold the state.
    pub(crate) fn open(of: &OperatorRestore, groups: KeyGroupRange) -> Result<Self, StateFileError> {
        let mut files = Vec::new();
        for (location, file) in &of.keyed {
            let (directory, name) = location.rsplit_once('/').unwrap_or(("", location));
            let storage = perennial_state::open(directory).map_err(StateFileError::Read)?;
            files.push(StateFileReader::open(storage, name, file.bytes)?);
        }
        Ok(Self { files, groups, list: of.list.clone() })
    }
}

impl StateContext {
    /// An operator that begins with nothing.
    pub fn fresh(operator: OperatorId, name: &str) -> Self {
        Self { operator, uid: name.to_owned(), name: name.to_owned(), restored: Restored::Fresh }
    }

    /// The elements of its list state, or none for an operator that begins with nothing.
    pub fn take_list(&mut self) -> Option<Vec<Vec<u8>>> {
        match &mut self.restored {
            Restored::Fresh => None,
            Restored::From(state) => Some(std::mem::take(&mut state.list)),
        }
    }

    /// The table of its keyed state: what the checkpoint has of it, else empty.
    pub fn take_table<T, Sel: KeySelector<T>, S: Record>(&mut self) -> Result<KeyedTable<Sel::Key, S>, TaskError> {
        let mut table = KeyedTable::new();
        if let Restored::From(state) = &mut self.restored {
            let (files, groups) = (std::mem::take(&mut state.files), state.groups);
            for file in files {
                restore(&mut table, &file, self.operator, groups).map_err(|error| self.error(error))?;
            }
        }
        Ok(table)
    }

    /// What a task fails with when the state cannot be restored.
    pub fn error(&self, source: impl Into<crate::UserError>) -> TaskError {
        TaskError::Restore { operator: self.name.clone(), source: source.into() }
    }
}

fn restore<K: perennial_types::Key, S: Record>(
    table: &mut KeyedTable<K, S>,
    file: &StateFileReader,
    operator: OperatorId,
    groups: KeyGroupRange,
) -> Result<(), StateFileError> {
    table.reserve(usize::try_from(file.entries(operator, groups)).unwrap_or_default());
    for block in file.blocks(operator, groups)? {
        block?.read(|key: K, value: S| table.insert(key, value))?;
    }
    Ok(())
}
