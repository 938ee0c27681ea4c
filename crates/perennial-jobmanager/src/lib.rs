//! The JobManager: Dispatcher, ResourceManager and JobMasters on the leader; a standby on every other member.
//!
//! [`JobManager::start`] binds the RPC port, opens the metadata store and serves. It waits for no election: until there
//! is a leader, requests wait a moment and are then refused with the reason.
//!
//! ```text
//!  clients, REST ──> DispatcherHandle ──┬─ this member leads ──> Leader ──> MetaStore (one entry, then the answer)
//!                                       └─ another one leads ──> DispatcherClient to it
//!  TaskManagers  ──> Conversation (one per stream) ──> ResourceManager   who is there, who holds which slot
//!                                                  └─> JobMaster         one per job; the core is coordination::job
//!  JobMaster ──> Session of a TaskManager: commands, fenced with the epoch and the index of a committed entry
//! ```
//! Waiting goes one way, so nothing can wait for itself: conversations wait for JobMasters and the ResourceManager,
//! JobMasters for the ResourceManager, and the ResourceManager for nobody. What goes the other way is a state that is
//! replaced (a `watch`) or is dropped when its receiver does not read.
//!
//! Losing the leadership drops the `Leader` with its tasks and tells no TaskManager anything: their
//! tasks go on, and the next leader adopts them.
//!
//! A leader that does not hear its TaskManagers hands over to a member that does (`attendance.rs`).
//!
//! Start reading in `job_manager.rs`, then `leader.rs` and `job_master.rs`.

mod artifacts;
mod attendance;
mod checkpoints;
mod conversation;
mod dispatcher;
mod group;
mod job_manager;
mod job_master;
mod leader;
mod masters;
mod resource_manager;
mod retention;
mod role;
mod room;
mod session;
mod settings;

pub use artifacts::ArtifactHandle;
pub use dispatcher::DispatcherHandle;
pub use group::GroupHandle;
pub use job_manager::{JobManager, JobManagerHandle, StartError};

/// The wall clock in milliseconds of the Unix epoch. For people and records; it decides nothing but the age of ended jobs.
fn unix_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| since.as_millis() as u64)
}
