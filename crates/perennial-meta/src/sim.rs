//! A deterministic simulation: three or five members and two TaskManagers in one thread, from one seed.
//!
//! What is real: openraft, and everything of this crate from [`MetaStore`](crate::MetaStore) down to
//! `ground.rs` — admission, identity, following, the death detector, the state machine, snapshots, the log's group commit — as well as the
//! rules by which TaskManagers follow leaders and obey them. What is modelled: the network, the disk under log and state, time, and
//! random numbers.
//!
//! ```text
//!   clients ──> member: MetaStore … openraft          │ one tokio runtime for each process, its clock paused,
//!                  │ log, state   │ RaftClient        │ run for a millisecond at a time; dropping it is a crash
//!                  ▼              ▼
//!               disk.rs        network.rs <──> TaskManagers: Registrar, Fence
//!                  └─────┬────────┘
//!                   checker.rs
//! ```
//!
//! Each seed runs a *safety phase* with faults of all kinds, several at once; then everything is healed, and the group has
//! to *converge* (one leader, one state, all TaskManagers registered) and to *serve*. The checker watches throughout. A checker is worth
//! what it catches: [`Bug`]s can be planted, each of which has to be caught.
//!
//! The same seed gives the same trace, message by message; where a run differs from itself, something below depends
//! on what `ground.rs` does not hand out. The road not taken: `turmoil` simulates TCP, so that tonic and hyper run in
//! it too. It takes about ten times as long for a seed, tonic needs a fixed seed for tokio itself and so another flag for
//! the compiler, and what is above the sockets is not ours.

mod checker;
mod clients;
mod disk;
mod faults;
pub(crate) mod ground;
mod member;
mod network;
mod taskmanager;
mod tests;
mod watch;
mod world;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// A mistake that can be planted, to see whether it is caught.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bug {
    /// The disk says that it has synced before it has.
    AckBeforeSync,
    /// A vote is synced only with the next entry.
    VoteNotSynced,
    /// The same, and the marker knows no better, so that the member does not find out by itself.
    VoteForgotten,
    /// A member that restarts has forgotten entries it had synced.
    ForgetsSynced,
    /// The state of a member loses a change now and then.
    LosesAChange,
    /// A TaskManager obeys a deposed leader.
    IgnoresTheFence,
    /// A leader commands before the entry is committed.
    CommandsBeforeCommit,
    /// A member answers reads without making sure that it still leads.
    ReadsWithoutBarrier,
}

/// How often what happened: a run in which nothing happens proves nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Coverage {
    pub(crate) crashes: u64,
    pub(crate) crashes_after_a_vote: u64,
    pub(crate) lost_records: u64,
    pub(crate) lost_batches: u64,
    pub(crate) failed_disks: u64,
    pub(crate) cuts: u64,
    pub(crate) freezes: u64,
    pub(crate) stops: u64,
    pub(crate) held: u64,
    pub(crate) dropped: u64,
    pub(crate) leaderships: u64,
    pub(crate) snapshots: u64,
    pub(crate) acknowledged: u64,
    pub(crate) unknown: u64,
    pub(crate) reads: u64,
    pub(crate) commanded: u64,
    pub(crate) refused: u64,
}

impl Coverage {
    /// Adds what another run has covered.
    pub(crate) fn add(&mut self, other: &Self) {
        let Self { crashes, crashes_after_a_vote, lost_records, lost_batches, failed_disks, cuts, freezes, .. } = other;
        self.crashes += crashes;
        self.crashes_after_a_vote += crashes_after_a_vote;
        self.lost_records += lost_records;
        self.lost_batches += lost_batches;
        self.failed_disks += failed_disks;
        self.cuts += cuts;
        self.freezes += freezes;
        let Self { stops, held, dropped, leaderships, snapshots, acknowledged, unknown, .. } = other;
        self.stops += stops;
        self.held += held;
        self.dropped += dropped;
        self.leaderships += leaderships;
        self.snapshots += snapshots;
        self.acknowledged += acknowledged;
        self.unknown += unknown;
        let Self { reads, commanded, refused, .. } = other;
        self.reads += reads;
        self.commanded += commanded;
        self.refused += refused;
    }

    /// Whether everything that can happen has.
    pub(crate) fn is_complete(&self) -> bool {
        let Self { crashes, crashes_after_a_vote, lost_records, lost_batches, failed_disks, cuts, freezes, .. } = *self;
        let Self { stops, held, dropped, leaderships, snapshots, acknowledged, unknown, .. } = *self;
        let Self { reads, commanded, refused, .. } = *self;
        let happened = [crashes, crashes_after_a_vote, lost_records, lost_batches, failed_disks, cuts, freezes, stops];
        let seen = [held, dropped, leaderships, snapshots, acknowledged, unknown, reads, commanded, refused];
        happened.iter().chain(&seen).all(|count| *count > 0)
    }
}

/// What became of a seed.
pub(crate) struct Report {
    /// What should not have happened; the first is what matters.
    pub(crate) violations: Vec<String>,
    pub(crate) coverage: Coverage,
    /// What happened, in order.
    pub(crate) trace: Vec<String>,
}

/// Runs a seed.
pub(crate) fn run(seed: u64, bug: Option<Bug>) -> Report {
    world::World::new(seed, bug).run()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
