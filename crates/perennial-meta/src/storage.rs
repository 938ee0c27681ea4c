//! The data directory: opens everything in it, and refuses what Raft must not build upon.
//!
//! ```text
//! <data-dir>/meta/lock         held while the process lives
//! <data-dir>/meta/marker       whose directory this is, and how far it has been (crate::marker)
//! <data-dir>/meta/log/         Raft log and vote (crate::log)
//! <data-dir>/meta/snapshot/    the newest RaftSnapshot (crate::snapshot)
//! <data-dir>/meta/state/       sled, rebuilt from the two above when in doubt (crate::state)
//! ```
//!
//! What is found there is made durable before it is read: a member that was killed between writing and syncing would
//! otherwise acknowledge, after its restart, what a power cut still takes away.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use perennial_rpc::group::Place;
use perennial_types::Incarnation;
use rustix::fs::FlockOperation;

use crate::admission::Directory;
use crate::config::{MetaConfig, peer_list};
use crate::error::OpenError;
use crate::files;
use crate::identity::group_hash;
use crate::kv::{self, read};
use crate::log::LogStore;
use crate::marker::{Floor, Marker, MarkerFile};
use crate::snapshot::SnapshotDir;
use crate::state::StateDb;

/// Everything in the directory, opened.
pub(crate) struct Storage {
    pub(crate) marker: Arc<MarkerFile>,
    pub(crate) log: LogStore,
    pub(crate) snapshots: SnapshotDir,
    pub(crate) state: StateDb,
    pub(crate) directory: Directory,
    /// Released when it is dropped.
    pub(crate) lock: File,
}

impl Storage {
    /// Whether the directory belongs to a member already.
    pub(crate) fn is_claimed(config: &MetaConfig) -> bool {
        config.data_dir.join("meta").join("marker").exists()
    }

    /// Opens or makes the directory; the place in a group is needed to make the one of a member that joins. Blocks.
    pub(crate) fn open(config: &MetaConfig, place: Option<&Place>) -> Result<Self, OpenError> {
        let dir = config.data_dir.join("meta");
        files::create_dir_all(&dir).map_err(|source| OpenError::io("create", &dir, source))?;
        let lock = lock(&dir)?;
        settle(&config.data_dir, &dir)?;
        let marker = open_marker(&dir, config, place)?;
        Self::open_with(dir, marker, lock)
    }

    /// Opens a directory that belongs to a member, whoever that is. Blocks.
    pub(crate) fn open_claimed(data_dir: &Path) -> Result<Self, OpenError> {
        let dir = data_dir.join("meta");
        let path = dir.join("marker");
        let nobodys = || {
            OpenError::Refused(format!(
                "{} is no JobManager's data directory: there is no {}",
                data_dir.display(),
                path.display()
            ))
        };
        if !path.exists() {
            return Err(nobodys());
        }
        let lock = lock(&dir)?;
        settle(data_dir, &dir)?;
        let marker = MarkerFile::open(&path)?.ok_or_else(nobodys)?;
        Self::open_with(dir, marker, lock)
    }

    fn open_with(dir: PathBuf, marker: MarkerFile, lock: File) -> Result<Self, OpenError> {
        let marker = Arc::new(marker);
        let directory = if marker.get().admitted { Directory::Returning } else { Directory::New };
        let log = LogStore::open(&dir.join("log"), marker.clone())?;
        let snapshots = open_snapshots(&dir.join("snapshot"), &log)?;
        let now = position(&log, &snapshots).map_err(|source| OpenError::io("read", &dir, source))?;
        let floor = marker.get().floor;
        if !floor.admits(now) {
            let what = format!(
                "it stands at term {} and index {}, its marker says it has been at term {} and index {}",
                now.term, now.index, floor.term, floor.index
            );
            return Err(OpenError::Behind { path: dir, what });
        }
        let state = open_state(&dir.join("state"), &marker, now)?;
        Ok(Self { marker, log, snapshots, state, directory, lock })
    }
}

/// Where the durable truth stands: term of the vote, last index of log or snapshot.
pub(crate) fn position(log: &LogStore, snapshots: &SnapshotDir) -> io::Result<Floor> {
    let logged = log.last()?.map_or(0, |id| id.index);
    Ok(Floor { term: log.term()?, index: logged.max(snapshots.last_index()?) })
}

/// Makes durable what is there: everything but the state, which need not be.
fn settle(data_dir: &Path, dir: &Path) -> Result<(), OpenError> {
    let sync = |path: &Path| match path.is_dir() {
        true => files::settle(path),
        false => File::open(path)?.sync_all(),
    };
    for path in [dir.join("log"), dir.join("snapshot"), dir.join("marker")] {
        match sync(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(OpenError::io("sync", &path, error)),
            _ => {}
        }
    }
    for path in [dir, data_dir] {
        File::open(path).and_then(|file| file.sync_all()).map_err(|source| OpenError::io("sync", path, source))?;
    }
    Ok(())
}

fn lock(dir: &Path) -> Result<File, OpenError> {
    let path = dir.join("lock");
    let opened = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
    let file = opened.map_err(|source| OpenError::io("open", &path, source))?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(error) if error == rustix::io::Errno::WOULDBLOCK => Err(OpenError::InUse { path: dir.to_owned() }),
        Err(error) => Err(OpenError::io("lock", &path, error.into())),
    }
}

fn open_marker(dir: &Path, config: &MetaConfig, place: Option<&Place>) -> Result<MarkerFile, OpenError> {
    let path = dir.join("marker");
    let Some(file) = MarkerFile::open(&path)? else {
        for part in ["log", "snapshot"] {
            if dir.join(part).exists() {
                return Err(OpenError::Damaged {
                    path,
                    what: format!("it is missing, but there is a {part} beside it"),
                });
            }
        }
        let (cluster, member, group) = match (place, config.founder()) {
            (Some(place), _) => (Some(place.cluster), place.id, place.group),
            (None, Some(founder)) => (None, founder.id, group_hash(&config.peers)),
            (None, None) => {
                return Err(OpenError::NotAMember { name: config.name.clone(), peers: peer_list(&config.peers) });
            }
        };
        let marker = Marker {
            cluster,
            member: member.0,
            group,
            directory: *Incarnation::random().as_bytes(),
            admitted: cluster.is_none() && config.peers.len() <= 1,
            floor: Floor::default(),
            members: Default::default(),
            name: config.name.clone(),
            start: 0,
        };
        let file = MarkerFile::create(&path, marker)?;
        files::sync_parent(dir).map_err(|source| OpenError::io("sync", dir, source))?;
        return Ok(file);
    };
    let marker = file.get();
    let foreign = |found: String, this: String| OpenError::Foreign { path: dir.to_owned(), found, this };
    let unnamed = marker.name.is_empty();
    // Once the group is founded, its log says who is in it; before that, and for markers without a name, the list does.
    if (unnamed || marker.cluster.is_none()) && marker.group != group_hash(&config.peers) {
        let names: Vec<&str> = config.peers.iter().map(|peer| peer.name.as_str()).collect();
        return Err(foreign("a group with other members".to_owned(), format!("in a group of {}", names.join(", "))));
    }
    if unnamed {
        let this = config.founder().map(|founder| founder.id);
        if this.is_none_or(|id| id.0 != marker.member) {
            return Err(foreign(format!("jm-{}", marker.member), config.name.clone()));
        }
        let named = file.update(|marker| marker.name.clone_from(&config.name));
        named.map_err(|source| OpenError::io("write", &path, source))?;
    } else if marker.name != config.name {
        return Err(foreign(marker.name, config.name.clone()));
    }
    Ok(file)
}

/// A damaged snapshot is only needed when the log no longer reaches back to its first entry.
fn open_snapshots(dir: &Path, log: &LogStore) -> Result<SnapshotDir, OpenError> {
    let snapshots = SnapshotDir::open(dir)?;
    let error = match snapshots.current() {
        Ok(_) => return Ok(snapshots),
        Err(error) => error,
    };
    let path = snapshots.newest().ok().flatten().unwrap_or_else(|| PathBuf::from(dir));
    let damaged = error.kind() == io::ErrorKind::InvalidData;
    if !damaged {
        return Err(OpenError::io("read", &path, error));
    }
    if log.is_purged() {
        return Err(OpenError::Damaged { path, what: error.to_string() });
    }
    tracing::warn!(path = %path.display(), %error, "a damaged snapshot is dropped; the log holds all of it");
    std::fs::remove_file(&path).map_err(|source| OpenError::io("remove", &path, source))?;
    Ok(snapshots)
}

/// A state of another cluster, or ahead of log and snapshot, is not theirs.
///
/// In a group that may be so after a power cut: what the others have made durable is committed and applied, though it was
/// not yet durable here. A member that is alone commits nothing before its own disk has it, so there its log has lost entries.
fn open_state(dir: &Path, marker: &MarkerFile, now: Floor) -> Result<StateDb, OpenError> {
    let state = StateDb::open(dir)?;
    let damaged = |error: kv::StateError| OpenError::Damaged { path: dir.to_owned(), what: error.to_string() };
    let cluster = read::<kv::cluster::Cluster>(&state, &()).map_err(damaged)?;
    let applied = state.applied().map_err(damaged)?.map_or(0, |id| id.index);
    let alone = state.membership().map_err(damaged)?.membership().voter_ids().count() <= 1;
    let foreign = cluster.is_some() && marker.cluster().is_some() && cluster != marker.cluster();
    if alone && !foreign && applied > now.index {
        let what = format!("the log ends at index {}, but entry {applied} was committed and applied", now.index);
        return Err(OpenError::Behind { path: dir.with_file_name("log"), what });
    }
    if foreign || applied > now.index {
        tracing::warn!(dir = %dir.display(), applied, "the state is not that of this log; it is rebuilt");
        return state.reset();
    }
    if cluster.is_some() && marker.cluster().is_none() {
        let named = marker.update(|marker| marker.cluster = cluster);
        named.map_err(|source| OpenError::io("write", dir, source))?;
    }
    Ok(state)
}

#[cfg(test)]
mod tests;
