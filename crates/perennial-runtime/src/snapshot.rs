//! What operators put into a checkpoint, and what they are given back of one.

use std::collections::BTreeMap;
use std::io;

use perennial_state::{EntryBuffer, Freeze, Frozen, KeyedTable, StateFileError, StateFileReader, StateHeader};
use perennial_types::{
    CheckpointId, Key, KeyGroupRange, OperatorId, OperatorInfo, OperatorRestore, Record, SnapshotKind,
};

use crate::TaskError;

/// Work of a snapshot that waits for a disk: done by another thread than the slot's, before the task says that it has its
/// part of the checkpoint.
pub type Durable = Box<dyn FnOnce() -> io::Result<()> + Send>;

/// Collects the state of a chain, from its head to its ends.
pub struct SnapshotWriter {
    checkpoint: CheckpointId,
    kind: SnapshotKind,
    /// What tables are frozen for.
    freeze: Freeze,
    finished: bool,
    pub(crate) parts: BTreeMap<OperatorId, SnapshotPart>,
    pub(crate) durable: Vec<Durable>,
}

/// State of one operator.
#[derive(Default)]
pub(crate) struct SnapshotPart {
    pub(crate) uid: String,
    pub(crate) version: u32,
    /// Its keyed states, by name.
    pub(crate) keyed: BTreeMap<String, Frozen>,
    pub(crate) list: Vec<Vec<u8>>,
    pub(crate) union_list: Vec<Vec<u8>>,
    pub(crate) broadcast: Option<Vec<u8>>,
}

impl SnapshotWriter {
    /// An empty snapshot that will have all state.
    pub fn new(checkpoint: CheckpointId, kind: SnapshotKind) -> Self {
        Self::frozen_for(checkpoint, kind, Freeze::Whole)
    }

    /// An empty snapshot, for whose sake tables are frozen so.
    pub(crate) fn frozen_for(checkpoint: CheckpointId, kind: SnapshotKind, freeze: Freeze) -> Self {
        Self { checkpoint, kind, freeze, finished: false, parts: BTreeMap::new(), durable: Vec::new() }
    }

    /// An empty snapshot of a finished chain: nothing will be done again, so no state is kept but what waits to be committed.
    pub(crate) fn of_finished(checkpoint: CheckpointId, kind: SnapshotKind) -> Self {
        Self { finished: true, ..Self::new(checkpoint, kind) }
    }

    /// Whether the chain is finished.
    pub fn is_finished(&self) -> bool {
        self.finished
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
        if !self.finished {
            self.part(of).list.extend(elements);
        }
    }

    /// Adds names of what is to be committed with this checkpoint: state that is a list, and that a chain has also when it is
    /// finished.
    pub fn uncommitted(&mut self, of: &StateContext, transactions: Vec<Vec<u8>>) {
        if !self.finished || !transactions.is_empty() {
            self.part(of).list.extend(transactions);
        }
    }

    /// Adds state that is a list of which every subtask gets back all elements, those of the other subtasks too.
    pub fn union_list(&mut self, of: &StateContext, elements: Vec<Vec<u8>>) {
        if !self.finished {
            self.part(of).union_list.extend(elements);
        }
    }

    /// Adds state that all subtasks have alike: each gets back that of one of them.
    pub fn broadcast(&mut self, of: &StateContext, state: Vec<u8>) {
        if !self.finished {
            self.part(of).broadcast = Some(state);
        }
    }

    /// Adds a table under a name that the operator has for it alone, as it is now. It is encoded later, piece by piece, with the
    /// operator's help: [`ChainEvent::keyed`](crate::ChainEvent::keyed) does both, and is the way here.
    pub fn keyed<K: Key, V: Record>(&mut self, of: &StateContext, name: &str, table: &mut KeyedTable<K, V>) {
        if !self.finished {
            self.frozen(of, name, table.freeze(self.freeze));
        }
    }

    /// Adds state that belongs to keys and lies in something else than a table, under a name that the operator has for it alone. An
    /// empty buffer is a state, too.
    pub fn entries(&mut self, of: &StateContext, name: &str, entries: EntryBuffer) {
        if !self.finished {
            self.frozen(of, name, Frozen::whole(entries));
        }
    }

    fn frozen(&mut self, of: &StateContext, name: &str, frozen: Frozen) {
        let before = self.part(of).keyed.insert(name.to_owned(), frozen);
        debug_assert!(before.is_none(), "operator {} has state `{name}` twice", of.name);
    }

    /// Adds work without which the snapshot is not safe.
    pub fn durable(&mut self, work: Durable) {
        self.durable.push(work);
    }

    fn part(&mut self, of: &StateContext) -> &mut SnapshotPart {
        let part = self.parts.entry(of.operator).or_default();
        part.uid.clone_from(&of.uid);
        part.version = of.version;
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
    /// Version of its schema. Keyed state of another version is not restored.
    pub version: u32,
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
    /// The checkpoint it is from.
    pub checkpoint: CheckpointId,
    /// Elements of its list state.
    pub list: Vec<Vec<u8>>,
    /// Elements of its union list state, those of all subtasks.
    pub union_list: Vec<Vec<u8>>,
    /// What all subtasks have alike.
    pub broadcast: Option<Vec<u8>>,
}

impl OperatorState {
    /// Opens the files that hold the state.
    pub(crate) fn open(
        of: &OperatorRestore,
        checkpoint: CheckpointId,
        groups: KeyGroupRange,
    ) -> Result<Self, StateFileError> {
        let mut files = Vec::new();
        for (location, file) in &of.keyed {
            let (directory, name) = location.rsplit_once('/').unwrap_or(("", location));
            let storage = perennial_state::open(directory).map_err(StateFileError::Read)?;
            files.push(StateFileReader::open(storage, name, file.bytes)?);
        }
        let (list, union_list, broadcast) = (of.list.clone(), of.union_list.clone(), of.broadcast.clone());
        Ok(Self { files, groups, checkpoint, list, union_list, broadcast })
    }
}

impl StateContext {
    /// An operator that begins with nothing.
    pub fn fresh(operator: OperatorId, name: &str) -> Self {
        Self { operator, uid: name.to_owned(), name: name.to_owned(), version: 0, restored: Restored::Fresh }
    }

    /// An operator of a job, named so in errors, that begins with nothing.
    pub(crate) fn of(operator: &OperatorInfo, name: &str) -> Self {
        let OperatorInfo { id, uid, state_version, .. } = operator;
        Self { uid: uid.clone(), version: *state_version, ..Self::fresh(*id, name) }
    }

    /// The elements of its list state, or none for an operator that begins with nothing.
    pub fn take_list(&mut self) -> Option<Vec<Vec<u8>>> {
        match &mut self.restored {
            Restored::Fresh => None,
            Restored::From(state) => Some(std::mem::take(&mut state.list)),
        }
    }

    /// The elements of its union list state, or none for an operator that begins with nothing.
    pub fn take_union_list(&mut self) -> Option<Vec<Vec<u8>>> {
        match &mut self.restored {
            Restored::Fresh => None,
            Restored::From(state) => Some(std::mem::take(&mut state.union_list)),
        }
    }

    /// What all subtasks have alike, if the checkpoint has it.
    pub fn take_broadcast(&mut self) -> Option<Vec<u8>> {
        match &mut self.restored {
            Restored::Fresh => None,
            Restored::From(state) => state.broadcast.take(),
        }
    }

    /// The checkpoint it goes on from, or none for an operator that begins with nothing.
    pub fn restored_checkpoint(&self) -> Option<CheckpointId> {
        match &self.restored {
            Restored::Fresh => None,
            Restored::From(state) => Some(state.checkpoint),
        }
    }

    /// The table of its keyed state of this name: what the checkpoint has of it, else empty.
    pub fn take_table<K: Key, V: Record>(&mut self, name: &str) -> Result<KeyedTable<K, V>, TaskError> {
        let mut table = KeyedTable::new();
        for (files, groups) in self.files_of(name)? {
            for (file, header) in files {
                for block in file.removed(header, groups) {
                    let read = block.and_then(|block| block.read(|key, (): ()| drop(table.remove(&key))));
                    read.map_err(|error| self.error(error))?;
                }
                table.reserve(usize::try_from(file.entries(header, groups)).unwrap_or_default());
                for block in file.blocks(header, groups) {
                    let read = block.and_then(|block| block.read(|key, value| table.insert(key, value)));
                    read.map_err(|error| self.error(error))?;
                }
            }
        }
        Ok(table)
    }

    /// Hands out the entries of its keyed state of this name, for operators that keep it in something else than a table and add it by
    /// [`SnapshotWriter::entries`]: none when the checkpoint has none.
    pub fn take_entries<K: Key, V: Record>(&mut self, name: &str, mut each: impl FnMut(K, V)) -> Result<(), TaskError> {
        for (files, groups) in self.files_of(name)? {
            let [(file, header)] = files.as_slice() else {
                return Err(self.error(OfTable { name: name.to_owned() }));
            };
            for block in file.blocks(header, groups) {
                block.and_then(|block| block.read(&mut each)).map_err(|error| self.error(error))?;
            }
        }
        Ok(())
    }

    /// The files of a state, those of each subtask that wrote it by themselves: the newest that has all of it, and those after it.
    fn files_of(&self, name: &str) -> Result<Vec<(Vec<StateOfFile<'_>>, KeyGroupRange)>, TaskError> {
        let Restored::From(state) = &self.restored else { return Ok(Vec::new()) };
        let mut all = Vec::new();
        for subtask in state.files.chunk_by(|one, next| one.header().subtask == next.header().subtask) {
            let of_file = |file| Some((file, StateFileReader::header(file).state(self.operator, name)?));
            let mut files: Vec<StateOfFile<'_>> = subtask.iter().filter_map(of_file).collect();
            match files.iter().rposition(|(_, header)| header.base) {
                Some(base) => drop(files.drain(..base)),
                None if files.is_empty() => continue,
                None => return Err(self.error(NoBase { name: name.to_owned() })),
            }
            if let Some((_, header)) = files.iter().find(|(_, header)| header.version != self.version) {
                let (taken, now) = (header.version, self.version);
                return Err(self.error(OtherVersion { name: name.to_owned(), taken, now }));
            }
            all.push((files, state.groups));
        }
        Ok(all)
    }

    /// What a task fails with when the state cannot be restored.
    pub fn error(&self, source: impl Into<crate::UserError>) -> TaskError {
        TaskError::Restore { operator: self.name.clone(), source: source.into() }
    }
}

/// A file, and what it says of one state.
type StateOfFile<'a> = (&'a StateFileReader, &'a StateHeader);

/// A state was in a table when it was written.
#[derive(Debug, thiserror::Error)]
#[error(
    "the checkpoint has state `{name}` as changes of a table, the operator keeps it in something else; restore a savepoint"
)]
struct OfTable {
    name: String,
}

/// The files with what has changed of a state are there, the one they are built on is not.
#[derive(Debug, thiserror::Error)]
#[error("the checkpoint has changes of state `{name}`, and no file that has all of it")]
struct NoBase {
    name: String,
}

/// A state whose types are others than those of the operator, as both say.
#[derive(Debug, thiserror::Error)]
#[error(
    "the checkpoint has state `{name}` in schema version {taken}, the operator has version {now}; \
     start the job with an operator of `state_version({taken})`, or give the operator another uid to begin without the state"
)]
struct OtherVersion {
    name: String,
    taken: u32,
    now: u32,
}
