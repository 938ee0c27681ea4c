//! What is done to files while no JobManager uses them: look into a snapshot, restore one, recover a lost quorum.
//!
//! A restored directory is of a **new** cluster, so that it can never mix with the one the snapshot is of. A recovered one
//! keeps its cluster, so that running jobs are adopted; its membership becomes the one member that is left, in an epoch far
//! above any that the lost members can have reached.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use openraft::RaftLogReader;
use openraft::storage::{IOFlushed, RaftLogStorage};
use openraft::type_config::TypeConfigExt;
use perennial_types::{ClusterId, Incarnation, JobManagerId, JobStatus};

use crate::config::{MetaConfig, Peer, peer_list};
use crate::error::OpenError;
use crate::files;
use crate::identity::group_hash;
use crate::kv::{self, Kind, StateError};
use crate::log::LogStore;
use crate::marker::{Floor, Marker, MarkerFile};
use crate::members::{Members, Node, stored_node};
use crate::raft::{Entry, Payload, SnapshotMeta, StoredMembership, TypeConfig, Vote, log_id, term_of};
use crate::snapshot::{SnapshotDir, SnapshotFile};
use crate::storage::Storage;

/// Terms a recovered group is ahead: TaskManagers refuse whatever the lost members may still order.
const TERMS_AHEAD: u64 = 1 << 20;

/// A member as a file has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FiledMember {
    /// Its number.
    pub id: JobManagerId,
    /// Its name.
    pub name: String,
    /// RPC address, `host:port`.
    pub address: String,
    /// Whether it votes.
    pub voter: bool,
}

/// What is in a snapshot file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotSummary {
    /// Index of its last entry.
    pub index: u64,
    /// Term of that entry.
    pub term: u64,
    /// The cluster it is of.
    pub cluster: Option<ClusterId>,
    /// The members as of that entry.
    pub members: Vec<FiledMember>,
    /// Jobs by state, those that occur.
    pub jobs: Vec<(JobStatus, usize)>,
    /// Number of artifacts that are named.
    pub artifacts: usize,
    /// Their bytes, which are not in the file.
    pub artifact_bytes: u64,
    /// Size of the file.
    pub bytes: u64,
}

/// A directory made from a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    /// Its new cluster.
    pub cluster: ClusterId,
    /// What was in the snapshot.
    pub snapshot: SnapshotSummary,
    /// The members of the new group.
    pub members: Vec<FiledMember>,
}

/// What recovering a quorum finds and changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovery {
    /// The member whose directory it is.
    pub this: FiledMember,
    /// The cluster.
    pub cluster: Option<ClusterId>,
    /// Term of its vote.
    pub term: u64,
    /// Index of the last entry of its log.
    pub last: u64,
    /// Index of the last entry it knows to be committed.
    pub committed: u64,
    /// The members until now.
    pub members: Vec<FiledMember>,
    /// The term the group goes on in.
    pub new_term: u64,
}

fn filed(members: Members) -> Vec<FiledMember> {
    let member = |(id, node): (u64, Node)| {
        let Node { name, address, voter } = node;
        FiledMember { id: JobManagerId(id), name, address, voter }
    };
    members.nodes.into_iter().map(member).collect()
}

fn damaged(path: &Path) -> impl Fn(std::io::Error) -> OpenError {
    move |error| match error.kind() {
        std::io::ErrorKind::InvalidData => {
            OpenError::Refused(format!("{} is no whole snapshot: {error}", path.display()))
        }
        _ => OpenError::io("read", path, error),
    }
}

fn unreadable(path: &Path) -> impl Fn(StateError) -> OpenError {
    move |error| OpenError::Refused(format!("{} cannot be read: {error}", path.display()))
}

/// Looks into a snapshot file and checks all of it. Blocks.
pub fn inspect_snapshot(path: &Path) -> Result<SnapshotSummary, OpenError> {
    summary(path, &SnapshotFile::open(path.to_owned()).map_err(damaged(path))?)
}

fn summary(path: &Path, file: &SnapshotFile) -> Result<SnapshotSummary, OpenError> {
    let mut reader = file.reader().map_err(damaged(path))?;
    let (mut cluster, mut states) = (None, BTreeMap::<usize, usize>::new());
    let (mut artifacts, mut artifact_bytes) = (0, 0);
    let unreadable = unreadable(path);
    while let Some((key, value)) = reader.next_pair().map_err(damaged(path))? {
        match key.first() {
            Some(&kv::cluster::Cluster::PREFIX) => {
                cluster = Some(kv::cluster::Cluster::decode(&value).map_err(&unreadable)?);
            }
            Some(&kv::job::Job::PREFIX) => {
                let status = kv::job::Job::decode(&value).map_err(&unreadable)?.status;
                let place = JobStatus::ALL.iter().position(|known| *known == status).unwrap_or(0);
                *states.entry(place).or_default() += 1;
            }
            Some(&kv::artifact::Artifact::PREFIX) => {
                artifacts += 1;
                artifact_bytes += kv::artifact::Artifact::decode(&value).map_err(&unreadable)?.size;
            }
            _ => {}
        }
    }
    let jobs = states.into_iter().filter_map(|(place, count)| Some((*JobStatus::ALL.get(place)?, count)));
    let (term, index) = file.meta.last_log_id.as_ref().map_or((0, 0), |id| (term_of(id), id.index));
    Ok(SnapshotSummary {
        index,
        term,
        cluster,
        members: filed(Members::read(&file.meta.last_membership, &[])),
        jobs: jobs.collect(),
        artifacts,
        artifact_bytes,
        bytes: file.file.metadata().map_err(|source| OpenError::io("read", path, source))?.len(),
    })
}

/// Makes a data directory of a new cluster from a snapshot, for the group and the member that `config` describes.
///
/// Every founding member restores the same file with the same peer list, and so finds the same new cluster; a group of one
/// has a random name. Refuses a directory that is not empty.
pub async fn restore_snapshot(path: &Path, config: &MetaConfig) -> Result<Restored, OpenError> {
    let dir = config.data_dir.join("meta");
    let used = std::fs::read_dir(&config.data_dir).is_ok_and(|mut entries| entries.next().is_some());
    if used {
        let what = format!("{} is not empty; name a new directory", config.data_dir.display());
        return Err(OpenError::Refused(what));
    }
    let Some(this) = config.founder() else {
        let peers = peer_list(&config.peers);
        return Err(OpenError::Refused(format!("{} is none of the members {peers}", config.name)));
    };
    let source = SnapshotFile::open(path.to_owned()).map_err(damaged(path))?;
    let snapshot = summary(path, &source)?;
    let cluster = new_cluster(&snapshot, &config.peers);
    let founding = Members::founding(&config.peers);
    let nodes: BTreeMap<u64, _> = config.peers.iter().map(|it| (it.id.0, stored_node(&it.name, &it.address))).collect();
    let voters = nodes.keys().copied().collect();
    let membership = openraft::Membership::new(vec![voters], nodes);
    let membership = membership.map_err(|error| OpenError::Refused(error.to_string()))?;
    // The entry that set it is the last one there is: the group begins with it.
    let meta = SnapshotMeta {
        last_log_id: source.meta.last_log_id,
        last_membership: StoredMembership::new(source.meta.last_log_id, membership),
    };

    std::fs::create_dir_all(&dir).map_err(|source| OpenError::io("create", &dir, source))?;
    let marker = Marker {
        cluster: Some(cluster),
        member: this.id.0,
        group: group_hash(&config.peers),
        directory: *Incarnation::random().as_bytes(),
        admitted: config.peers.len() <= 1,
        floor: Floor { term: snapshot.term, index: snapshot.index },
        members: BTreeMap::new(),
        name: config.name.clone(),
        start: 0,
    };
    // Last of all is the snapshot: a directory without it is behind its marker, and is refused.
    let marker = std::sync::Arc::new(MarkerFile::create(&dir.join("marker"), marker)?);
    files::sync_parent(&dir).map_err(|source| OpenError::io("sync", &dir, source))?;
    let mut log = LogStore::open(&dir.join("log"), marker)?;
    // An election begins above this term, and so above the terms of the entries.
    let voted = log.save_vote(&Vote::new(snapshot.term, this.id.0)).await;
    voted.map_err(|source| OpenError::io("write", &dir, source))?;
    log.close().map_err(|source| OpenError::io("close", &dir, source))?;
    let snapshots = SnapshotDir::open(&dir.join("snapshot"))?;
    let mut reader = source.reader().map_err(damaged(path))?;
    let written = snapshots.write_pairs(meta.clone(), |put| {
        while let Some((key, value)) = reader.next_pair()? {
            if let Some(value) = renewed(&key, value, cluster, &meta)? {
                put(&key, &value)?;
            }
        }
        Ok(())
    });
    let finished = written.and_then(|unfinished| snapshots.finish(&unfinished));
    finished.map_err(|source| OpenError::io("write", &dir, source))?;
    Ok(Restored { cluster, snapshot, members: filed(founding) })
}

/// A stored value as the new cluster has it; `None` for what it does not have.
fn renewed(key: &[u8], value: Vec<u8>, cluster: ClusterId, meta: &SnapshotMeta) -> Result<Option<Vec<u8>>, StateError> {
    Ok(match key.first() {
        Some(&kv::cluster::Cluster::PREFIX) => Some(kv::cluster::Cluster::encode(&cluster)),
        Some(&kv::membership::Membership::PREFIX) => Some(kv::membership::Membership::encode(&meta.last_membership)),
        // Numbers begin anew, and so does what they refer to.
        Some(&kv::removed_member::RemovedMember::PREFIX) => None,
        Some(&kv::artifact::Artifact::PREFIX) => {
            let mut record = kv::artifact::Artifact::decode(&value)?;
            record.holders.clear();
            Some(kv::artifact::Artifact::encode(&record))
        }
        _ => Some(value),
    })
}

/// The new cluster's name. The same for all members of a restored group, who make it apart from each other.
fn new_cluster(snapshot: &SnapshotSummary, peers: &[Peer]) -> ClusterId {
    if peers.len() <= 1 {
        return ClusterId::random();
    }
    let text = format!("{:?} {} {} {}", snapshot.cluster, snapshot.term, snapshot.index, peer_list(peers));
    let hash = |seed: u8| {
        let bytes = std::iter::once(seed).chain(text.bytes());
        bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
    };
    let mut name = [0; 16];
    for (place, byte) in name.iter_mut().zip(hash(1).to_be_bytes().into_iter().chain(hash(2).to_be_bytes())) {
        *place = byte;
    }
    ClusterId::from_bytes(name)
}

/// Whether a recovery is carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecoverMode {
    /// Only say what would be done.
    DryRun,
    /// Do it: what only the lost members knew is lost.
    AcceptDataLoss,
}

/// Makes the member of this data directory the only one of its group. Refuses a directory that is in use.
pub async fn recover_quorum(data_dir: &Path, mode: RecoverMode) -> Result<Recovery, OpenError> {
    let dir: PathBuf = data_dir.join("meta");
    let Storage { marker, mut log, snapshots, state, lock: _lock, .. } = Storage::open_claimed(data_dir)?;
    let io = |source| OpenError::io("read", &dir, source);
    let held = marker.get();
    let last = log.last().map_err(io)?;
    let snapshot = snapshots.current().map_err(io)?;
    let newest = last.max(snapshot.as_ref().and_then(|file| file.meta.last_log_id));
    let Some(newest) = newest else {
        return Err(OpenError::Refused(format!("{} has no entries: nothing can be recovered from it", dir.display())));
    };
    let committed = log.read_committed().await.map_err(io)?.max(state.applied().map_err(unreadable(&dir))?);
    let mut members = snapshot.map(|file| file.meta.last_membership).unwrap_or_default();
    for entry in log.try_get_log_entries(..).await.map_err(io)? {
        if let Payload::Membership(membership) = entry.payload
            && Some(entry.log_id) > *members.log_id()
        {
            members = StoredMembership::new(Some(entry.log_id), membership);
        }
    }
    let term = log.term().map_err(io)?;
    let members = filed(Members::read(&members, &[]));
    let this = members.iter().find(|member| member.id.0 == held.member).cloned().ok_or_else(|| {
        OpenError::Refused(format!("{} is of jm-{}, which is no member of its group", dir.display(), held.member))
    })?;
    let recovery = Recovery {
        this: this.clone(),
        cluster: held.cluster,
        term,
        last: newest.index,
        committed: committed.map_or(0, |id| id.index),
        members,
        new_term: term.max(term_of(&newest)) + TERMS_AHEAD,
    };
    if mode == RecoverMode::AcceptDataLoss {
        let io = |source| OpenError::io("write", &dir, source);
        log.save_vote(&Vote::new(recovery.new_term, this.id.0)).await.map_err(io)?;
        let nodes: BTreeMap<u64, _> = [(this.id.0, stored_node(&this.name, &this.address))].into();
        let alone = openraft::Membership::new(vec![[this.id.0].into()], nodes);
        let alone = alone.map_err(|error| OpenError::Refused(error.to_string()))?;
        let log_id = log_id(recovery.new_term, newest.index + 1);
        if last.is_none_or(|last| last.index < newest.index) {
            // The log was replaced by the snapshot and goes on behind it.
            log.purge(newest).await.map_err(io)?;
        }
        let (done, durable) = <TypeConfig as TypeConfigExt>::oneshot();
        let entry = Entry { log_id, payload: Payload::Membership(alone) };
        log.append([entry], IOFlushed::signal(done)).await.map_err(io)?;
        durable.await.map_err(|error| io(std::io::Error::other(error)))?.map_err(io)?;
    }
    log.close().map_err(io)?;
    Ok(recovery)
}
