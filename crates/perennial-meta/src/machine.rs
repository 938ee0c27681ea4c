//! openraft's view of the state: apply entries, make snapshots and install them.

use std::io;
use std::sync::Arc;

use futures_util::{Stream, StreamExt};
use openraft::storage::{EntryResponder, RaftStateMachine};
use openraft::{EntryPayload, OptionalSend, RaftSnapshotBuilder};
use perennial_types::{JobManagerId, LeaderEpoch};
use tokio::sync::watch;

use crate::apply::{EntryId, apply};
use crate::command::{Command, Outcome};
use crate::ground;
use crate::kv::{self, StateError, list, put, read};
use crate::marker::MarkerFile;
use crate::members::note_removed;
use crate::raft::{Entry, LogId, SnapshotMeta, StoredMembership, TypeConfig, term_of};
use crate::snapshot::{SnapshotDir, SnapshotFile, Unfinished};
use crate::state::StateDb;

/// Entries written to the state in one batch: sled pays by the batch.
const APPLY_ENTRIES_MAX: usize = 128;

/// What the rest of the store follows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    /// Index of the last entry applied.
    pub(crate) applied: u64,
    /// The newest leadership whose first entry is applied.
    pub(crate) lead: Option<(LeaderEpoch, JobManagerId)>,
}

/// The state machine.
pub(crate) struct Machine {
    state: StateDb,
    snapshots: SnapshotDir,
    marker: Arc<MarkerFile>,
    applied: Option<LogId>,
    membership: StoredMembership,
    progress: watch::Sender<Progress>,
    /// The same as a plain number, for those who follow only that.
    index: watch::Sender<u64>,
}

impl Machine {
    /// Wraps an opened state.
    pub(crate) fn new(
        state: StateDb,
        snapshots: SnapshotDir,
        marker: Arc<MarkerFile>,
        progress: watch::Sender<Progress>,
        index: watch::Sender<u64>,
    ) -> Result<Self, StateError> {
        let (applied, membership) = (state.applied()?, state.membership()?);
        let machine = Self { state, snapshots, marker, applied, membership, progress, index };
        machine.tell()?;
        Ok(machine)
    }

    /// Applies entries that are committed together, and writes them in one batch. Gives the outcome of each.
    fn apply_entries(&mut self, entries: Vec<Entry>) -> Result<Vec<Outcome>, io::Error> {
        let mut pending = self.state.pending();
        let mut outcomes = Vec::with_capacity(entries.len());
        let (mut last, mut lead, mut named) = (None, None, false);
        let mut membership = self.membership.clone();
        for entry in entries {
            let id = entry.log_id;
            last = Some(id);
            let (outcome, changes) = match entry.payload {
                EntryPayload::Blank => (Outcome::Ignored, Vec::new()),
                EntryPayload::Membership(members) => {
                    let old = std::mem::replace(&mut membership, StoredMembership::new(Some(id), members));
                    let mut changes = note_removed(&old, &membership);
                    changes.push(put::<kv::membership::Membership>(&(), &membership));
                    (Outcome::Ignored, changes)
                }
                EntryPayload::Normal(proposal) => {
                    // Bytes of a version this build does not know: it must not guess, and cannot go on without them.
                    let command = Command::decode(&proposal.0).map_err(io::Error::other)?;
                    let entry = EntryId { epoch: LeaderEpoch(term_of(&id)), index: id.index };
                    match &command {
                        Command::Lead { leader, .. } => lead = Some((entry.epoch, *leader)),
                        Command::Bootstrap { .. } => named = true,
                        _ => {}
                    }
                    apply(&pending, entry, command)?
                }
            };
            pending.add(changes);
            outcomes.push(outcome);
        }
        let Some(last) = last else { return Ok(outcomes) };
        pending.write(&last)?;
        if named && self.marker.cluster().is_none() {
            let cluster = read::<kv::cluster::Cluster>(&self.state, &())?;
            self.marker.update(|marker| marker.cluster = cluster)?;
        }
        let rare = lead.is_some() || named || membership != self.membership;
        (self.applied, self.membership) = (Some(last), membership);
        self.index.send_replace(last.index);
        // Who follows it is woken by what is rare, and reads the index when it looks anyway.
        self.progress.send_if_modified(|progress| {
            progress.applied = last.index;
            progress.lead = lead.or(progress.lead);
            rare
        });
        Ok(outcomes)
    }

    /// Tells followers where the state stands after it was opened or replaced.
    fn tell(&self) -> Result<(), StateError> {
        let newest = list::<kv::leadership::Leadership>(&self.state, &[])?.pop();
        let lead = newest.map(|record| (record.epoch, record.leader));
        let applied = self.applied.map_or(0, |id| id.index);
        self.progress.send_replace(Progress { applied, lead });
        self.index.send_replace(applied);
        Ok(())
    }

    fn install(&mut self, meta: &SnapshotMeta, snapshot: SnapshotFile) -> Result<(), io::Error> {
        if snapshot.meta != *meta {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a snapshot is not the one that was announced"));
        }
        let snapshot = self.snapshots.adopt(&snapshot.path, meta)?;
        let mut reader = snapshot.reader()?;
        self.state.install(meta.last_log_id.as_ref(), || reader.next_pair())?;
        (self.applied, self.membership) = (self.state.applied()?, self.state.membership()?);
        if let Some(cluster) = read::<kv::cluster::Cluster>(&self.state, &())? {
            self.marker.update(|marker| marker.cluster = Some(cluster))?;
        }
        self.tell()?;
        Ok(())
    }

    /// Passes a result on; a failed state is rebuilt at the next start.
    fn or_rebuild<T>(&self, result: Result<T, io::Error>) -> Result<T, io::Error> {
        if let Err(error) = &result {
            tracing::error!(%error, "the metadata state failed");
            self.state.mark_for_rebuild();
        }
        result
    }
}

impl RaftStateMachine<TypeConfig> for Machine {
    type SnapshotData = SnapshotFile;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        Ok((self.applied, self.membership.clone()))
    }

    async fn apply<Strm>(&mut self, entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + OptionalSend,
    {
        let mut chunks = entries.ready_chunks(APPLY_ENTRIES_MAX);
        while let Some(chunk) = chunks.next().await {
            let chunk = chunk.into_iter().collect::<Result<Vec<_>, _>>()?;
            let (entries, responders): (Vec<_>, Vec<_>) = chunk.into_iter().unzip();
            let applied = self.apply_entries(entries);
            let outcomes = self.or_rebuild(applied)?;
            for (responder, outcome) in responders.into_iter().zip(outcomes) {
                if let Some(responder) = responder {
                    responder.send(outcome);
                }
            }
        }
        Ok(())
    }

    async fn try_create_snapshot_builder(&mut self, _force: bool) -> Option<Builder> {
        Some(self.get_snapshot_builder().await)
    }

    /// Writes the bytes here, where nothing is applied meanwhile; the slow part, making them durable, is the builder's.
    async fn get_snapshot_builder(&mut self) -> Builder {
        let meta = SnapshotMeta { last_log_id: self.applied, last_membership: self.membership.clone() };
        Builder { snapshots: self.snapshots.clone(), written: Some(self.snapshots.write(&self.state, meta)) }
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, snapshot: SnapshotFile) -> Result<(), io::Error> {
        let installed = self.install(meta, snapshot);
        self.or_rebuild(installed)
    }

    async fn get_current_snapshot(
        &mut self,
    ) -> Result<Option<openraft::type_config::alias::SnapshotOf<TypeConfig, SnapshotFile>>, io::Error> {
        let current = self.snapshots.current()?;
        Ok(current.map(|file| openraft::Snapshot { meta: file.meta.clone(), snapshot: file }))
    }
}

/// Makes a written snapshot durable.
pub(crate) struct Builder {
    snapshots: SnapshotDir,
    written: Option<io::Result<Unfinished>>,
}

impl RaftSnapshotBuilder<TypeConfig> for Builder {
    type SnapshotData = SnapshotFile;

    async fn build_snapshot(
        &mut self,
    ) -> Result<openraft::type_config::alias::SnapshotOf<TypeConfig, SnapshotFile>, io::Error> {
        let written = self.written.take().ok_or_else(|| io::Error::other("this snapshot was built before"))??;
        let snapshots = self.snapshots.clone();
        let finished = ground::spawn_blocking(move || snapshots.finish(&written)).await;
        let file = finished.map_err(io::Error::other)??;
        tracing::info!(index = file.meta.last_log_id.map_or(0, |id| id.index), "snapshot written");
        Ok(openraft::Snapshot { meta: file.meta.clone(), snapshot: file })
    }
}
