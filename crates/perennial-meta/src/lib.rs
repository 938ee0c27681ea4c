//! The replicated metadata store: what the JobManagers of a cluster agree on, and who of them leads.
//!
//! One Raft group per cluster; a single JobManager is a group of one. A [`Command`] is written by the leader, is durable
//! on a quorum, and is then applied by every member in the same order to the same state. Heartbeats, metrics, state and
//! artifact bytes do not go through here.
//!
//! ```text
//!            MetaStore ── write ──> openraft ──────────> log (files, fdatasync) ─────┐
//!               │                     │  ▲                                           │ committed
//!   leadership, │ state               │  └── peers: network.rs calls, service.rs answers
//!               │                     ▼                                              ▼
//!               └────────── follow.rs (metrics)     state (sled) <── apply.rs (pure) ┘
//! ```
//!
//! What counts on disk is *snapshot file + log*; the state in sled can be thrown away and is rebuilt from them. A member
//! takes part only after its peers agree that its directory has forgotten nothing (`admission.rs`, `marker.rs`): Raft
//! is only safe among members that remember.
//!
//! The peer list of the configuration founds the group; afterwards its members are those of the log (`members.rs`), and are
//! changed one at a time (`change.rs`).
//!
//! Architecture invariants: only this crate names openraft and sled, and none of their types leaves it. Outside,
//! Raft's term is the `LeaderEpoch`. `apply.rs` reads no clock and has no randomness.
//!
//! Start with [`MetaStore`] and [`Command`]; inside, with `storage.rs` (what is on disk) and `store.rs` (what runs).

mod admission;
mod apply;
mod change;
mod command;
mod config;
mod contact;
mod detector;
mod error;
mod files;
mod follow;
mod ground;
mod identity;
mod join;
mod kv;
mod leadership;
mod log;
mod machine;
mod marker;
mod members;
mod network;
mod offline;
mod raft;
mod reader;
mod record;
mod save;
mod service;
mod silence;
#[cfg(test)]
mod sim;
mod snapshot;
mod state;
mod storage;
mod store;
mod succession;
mod wire;

pub use command::{COMMAND_BYTES_MAX, Command, DecodeCommandError, Outcome};
pub use config::{ConfigError, MetaConfig, Peer};
pub use error::{OpenError, WriteError};
pub use leadership::{Beginning, Leader, LeadershipView};
pub use offline::{
    FiledMember, RecoverMode, Recovery, Restored, SnapshotSummary, inspect_snapshot, recover_quorum, restore_snapshot,
};
pub use reader::{ReadError, StateReader};
pub use record::{
    ArtifactRecord, CheckpointHead, CompletedCheckpoint, DesiredState, DiscardedCheckpoint, ExecutionRecord, JobHead,
    JobRecord, LeadershipRecord, PlacedExecution, ReservedCheckpoint, RestoredFrom,
};
pub use store::{Member, MembershipWatch, MetaStore, RaftRole, Standing, Written};
