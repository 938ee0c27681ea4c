//! Room on the disk of the data directory.
//!
//! A log that cannot be written ends the process. Long before that, a member whose disk is nearly full takes no new work:
//! jobs and artifacts are refused, while what is small and has to go on does — states of running jobs, cancels, reads.
//! It also leaves leading to others, one after the other in order of their numbers; when all of them have had their turn
//! within [`ROUND`] and the leadership comes back, everybody's disk is full, and it stays.

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use perennial_base::{OnError, TaskGroup};
use perennial_meta::MetaStore;
use perennial_rpc::dispatcher::Unavailable;
use perennial_types::{ByteSize, JobManagerId};
use tokio::sync::watch;
use tracing::{info, warn};

/// How often the disk is looked at.
const PERIOD: Duration = Duration::from_secs(1);

/// A member that has handed over for want of room does not do so again within this time.
const ROUND: Duration = Duration::from_secs(60);

/// Whether there is room for new work. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Room {
    /// Why there is none.
    shortage: watch::Receiver<Option<String>>,
}

impl Room {
    /// Looks at the disk now, and every second until the group of tasks stops.
    pub(crate) fn watch(tasks: &TaskGroup, dir: PathBuf, min_free: ByteSize, meta: MetaStore) -> Self {
        let (sender, shortage) = watch::channel(look(&dir, min_free));
        let token = tasks.token().clone();
        tasks.spawn("disk-space", OnError::Report, async move {
            let mut handed_over: Option<Instant> = None;
            let watching = async {
                loop {
                    let seen = look(&dir, min_free);
                    let changed = sender.send_if_modified(|shortage| {
                        let changed = shortage.is_some() != seen.is_some();
                        shortage.clone_from(&seen);
                        changed
                    });
                    match &seen {
                        Some(shortage) if changed => warn!(shortage, "new work is refused"),
                        None if changed => info!("there is room for new work again"),
                        _ => {}
                    }
                    let due = handed_over.is_none_or(|at| at.elapsed() >= ROUND);
                    if let Some(next) = successor(&meta).filter(|_| seen.is_some() && due) {
                        handed_over = Some(Instant::now());
                        info!(to = %next, "handing over the leadership for want of room");
                        if let Err(error) = meta.transfer_leader(Some(&next.0.to_string())).await {
                            info!(%error, "the leadership stays here");
                        }
                    }
                    tokio::time::sleep(PERIOD).await;
                }
            };
            token.run_until_cancelled(watching).await;
            Ok::<(), Infallible>(())
        });
        Self { shortage }
    }

    /// Refuses new work while there is no room for it.
    pub(crate) fn check(&self) -> Result<(), Unavailable> {
        match &*self.shortage.borrow() {
            Some(reason) => Err(Unavailable::NoRoom { reason: reason.clone() }),
            None => Ok(()),
        }
    }
}

/// Why there is no room on the directory's disk. A disk that cannot be asked is taken to have room: the first write finds
/// out what is wrong with it.
fn look(dir: &Path, min_free: ByteSize) -> Option<String> {
    let space = rustix::fs::statvfs(dir).ok()?;
    let free = space.f_bavail.saturating_mul(space.f_frsize);
    (free < min_free.0).then(|| {
        let free = ByteSize(free >> 10 << 10);
        format!(
            "the disk of {} has {free} free, less than {min_free} (jobmanager.data-dir.min-free-space)",
            dir.display()
        )
    })
}

/// The voter after this member in order of their numbers, if this member leads.
fn successor(meta: &MetaStore) -> Option<JobManagerId> {
    let leader = {
        let view = meta.leadership().borrow().clone();
        view.serving.and(view.leader)?.id
    };
    let voters = meta.members().into_iter().filter(|member| member.voter && member.id != leader);
    let ids: Vec<JobManagerId> = voters.map(|member| member.id).collect();
    ids.iter().find(|id| id.0 > leader.0).or(ids.first()).copied()
}
