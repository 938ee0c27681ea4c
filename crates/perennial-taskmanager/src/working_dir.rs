//! The directory a TaskManager keeps, and who may use it.
//!
//! ```text
//! <dir>/taskmanager.lock      held while the process lives; names it
//! <dir>/resource-id           the name given when none was configured
//! <dir>/followed.json         the highest epoch a leader of which was followed, and its cluster
//! <dir>/artifacts/<sha256>    executables of jobs, by their digest
//! <dir>/executors/<job>/      one per executor: spec.json, executor.json, socket, stdout
//! <dir>/output/<job>          output of the last ended jobs
//! ```

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};

use perennial_types::{ClusterId, JobId, LeaderEpoch, TaskManagerId};

use crate::settings::Settings;

const FOLLOWED: &str = "followed.json";

#[derive(serde::Serialize, serde::Deserialize)]
struct Followed {
    cluster: ClusterId,
    epoch: LeaderEpoch,
}

/// Why a working directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum WorkingDirError {
    /// It cannot be made, read or written.
    #[error("cannot use working directory {}: {source}; check its owner and mode, or set `process.working-dir`", path.display())]
    Unusable {
        /// The path that failed.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Another TaskManager has it.
    #[error(
        "working directory {} is in use by process {pid}; stop it, or give this TaskManager a `taskmanager.resource-id` or `process.working-dir` of its own",
        path.display()
    )]
    InUse {
        /// The directory.
        path: PathBuf,
        /// Who holds it, as it says itself.
        pid: String,
    },
}

/// A working directory that belongs to this process until it is dropped.
#[derive(Debug)]
pub(crate) struct WorkingDir {
    path: PathBuf,
    id: TaskManagerId,
    /// Nobody named it, so no later process will look for it.
    is_temporary: bool,
    _lock: File,
}

impl WorkingDir {
    /// Makes what is missing, takes the lock and settles the TaskManager's name.
    pub(crate) fn open(settings: &Settings) -> Result<Self, WorkingDirError> {
        let generated = || format!("{}-{}", settings.host.replace(['[', ']', ':'], "_"), std::process::id());
        let wanted = settings.resource_id.clone().unwrap_or_else(generated);
        let path = match &settings.working_dir {
            Some(path) => path.clone(),
            None => settings.tmp_dir.join("perennial").join(format!("tm_{}", file_name(&wanted))),
        };
        let unusable = |path: &Path| {
            let path = path.to_owned();
            move |source| WorkingDirError::Unusable { path, source }
        };
        for dir in [path.clone(), path.join("artifacts"), path.join("executors"), path.join("output")] {
            fs::create_dir_all(&dir).map_err(unusable(&dir))?;
        }
        let path = path.canonicalize().map_err(unusable(&path))?;
        let lock = lock(&path)?;
        let id_file = path.join("resource-id");
        let id = match (&settings.resource_id, fs::read_to_string(&id_file)) {
            (None, Ok(kept)) if !kept.trim().is_empty() => kept.trim().to_owned(),
            _ => {
                fs::write(&id_file, &wanted).map_err(unusable(&id_file))?;
                wanted
            }
        };
        let is_temporary = settings.working_dir.is_none() && settings.resource_id.is_none();
        Ok(Self { path, id: TaskManagerId(id), is_temporary, _lock: lock })
    }

    /// Whether it is of no use to anybody after an orderly end: neither name nor place were configured.
    pub(crate) fn is_temporary(&self) -> bool {
        self.is_temporary
    }

    /// The TaskManager's name.
    pub(crate) fn id(&self) -> &TaskManagerId {
        &self.id
    }

    /// The directory itself.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The highest epoch that a TaskManager in this directory has followed in this cluster, if one has.
    pub(crate) fn epoch_followed(&self, cluster: ClusterId) -> Option<LeaderEpoch> {
        let followed: Followed = serde_json::from_slice(&fs::read(self.path.join(FOLLOWED)).ok()?).ok()?;
        (followed.cluster == cluster).then_some(followed.epoch)
    }

    /// Remembers the leader that is followed, for a TaskManager that adopts this one's executors.
    pub(crate) fn follow(&self, cluster: ClusterId, epoch: LeaderEpoch) -> io::Result<()> {
        let partial = self.path.join("followed.json.partial");
        fs::write(&partial, serde_json::to_vec(&Followed { cluster, epoch })?)?;
        fs::rename(partial, self.path.join(FOLLOWED))
    }

    /// Where artifacts are kept.
    pub(crate) fn artifacts(&self) -> PathBuf {
        self.path.join("artifacts")
    }

    /// Where the directories of all executors are.
    pub(crate) fn executors(&self) -> PathBuf {
        self.path.join("executors")
    }

    /// The directory of one job's executor.
    pub(crate) fn executor(&self, job: JobId) -> PathBuf {
        self.executors().join(job.to_string())
    }

    /// Where the output of ended jobs is kept.
    pub(crate) fn output(&self) -> PathBuf {
        self.path.join("output")
    }
}

fn lock(dir: &Path) -> Result<File, WorkingDirError> {
    let path = dir.join("taskmanager.lock");
    let unusable = |source| WorkingDirError::Unusable { path: path.clone(), source };
    let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
    let file = file.as_mut().map_err(|error| unusable(io::Error::new(error.kind(), error.to_string())))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut pid = String::new();
            // Only for people: without it the error still says what is wrong.
            _ = file.read_to_string(&mut pid);
            let pid = if pid.trim().is_empty() { "(unknown)".to_owned() } else { pid.trim().to_owned() };
            return Err(WorkingDirError::InUse { path: dir.to_owned(), pid });
        }
        Err(TryLockError::Error(error)) => return Err(unusable(error)),
    }
    let write = |file: &mut File| {
        file.set_len(0)?;
        file.rewind()?;
        write!(file, "{}", std::process::id())
    };
    write(file).map_err(unusable)?;
    file.try_clone().map_err(unusable)
}

/// A name as part of a path: whatever is not a letter, a digit, `.`, `_` or `-` becomes `_`.
fn file_name(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '_' }).collect()
}

#[cfg(test)]
mod tests {
    use perennial_types::Configuration;
    use perennial_types::config::Origin;

    use super::*;

    async fn settings(values: &[(&str, &str)]) -> Settings {
        let mut config = Configuration::new();
        for (key, value) in values {
            config.set(key, value, Origin::Flag((*key).to_owned())).unwrap();
        }
        Settings::read(&config).await
    }

    #[tokio::test]
    async fn a_second_taskmanager_is_told_who_holds_the_directory() {
        let tmp = tempfile::tempdir().unwrap();
        let settings =
            settings(&[("io.tmp.dirs", tmp.path().to_str().unwrap()), ("taskmanager.resource-id", "a/b")]).await;
        let first = WorkingDir::open(&settings).unwrap();
        assert!(first.path().ends_with("perennial/tm_a_b"));
        let error = WorkingDir::open(&settings).unwrap_err().to_string();
        assert!(error.contains(&format!("in use by process {}", std::process::id())), "{error}");
        drop(first);
        assert_eq!(WorkingDir::open(&settings).unwrap().id().0, "a/b");
    }

    #[tokio::test]
    async fn a_generated_name_stays_with_its_directory() {
        let tmp = tempfile::tempdir().unwrap();
        let settings = settings(&[("process.working-dir", tmp.path().to_str().unwrap())]).await;
        let first = WorkingDir::open(&settings).unwrap().id().clone();
        fs::write(tmp.path().join("resource-id"), "earlier").unwrap();
        assert_ne!(first.0, "earlier");
        assert_eq!(WorkingDir::open(&settings).unwrap().id().0, "earlier");
    }

    #[tokio::test]
    async fn the_epoch_followed_counts_for_its_cluster_only() {
        let tmp = tempfile::tempdir().unwrap();
        let settings = settings(&[("process.working-dir", tmp.path().to_str().unwrap())]).await;
        let dir = WorkingDir::open(&settings).unwrap();
        let [ours, other] = [1, 2].map(|byte| ClusterId::from_bytes([byte; 16]));
        assert_eq!(dir.epoch_followed(ours), None);
        dir.follow(ours, LeaderEpoch(7)).unwrap();
        assert_eq!(dir.epoch_followed(ours), Some(LeaderEpoch(7)));
        assert_eq!(dir.epoch_followed(other), None);
        fs::write(dir.path().join(FOLLOWED), "{").unwrap();
        assert_eq!(dir.epoch_followed(ours), None);
    }

    #[tokio::test]
    async fn a_path_that_is_no_directory_is_named() {
        let tmp = tempfile::tempdir().unwrap();
        let file = tmp.path().join("file");
        fs::write(&file, "").unwrap();
        let settings = settings(&[("process.working-dir", file.to_str().unwrap())]).await;
        let error = WorkingDir::open(&settings).unwrap_err().to_string();
        assert!(error.contains(file.to_str().unwrap()) && error.contains("process.working-dir"), "{error}");
    }
}
