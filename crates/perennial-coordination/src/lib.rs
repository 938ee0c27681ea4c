//! Decisions of the control plane: which slots a job gets, what runs where, what to do when something ends or is lost.
//!
//! Everything here is a value with one way in and one way out: an event is applied, effects come back for somebody else
//! to perform. Nothing here sleeps, reads a clock, opens a socket or knows who else exists: there is no tokio, no
//! randomness and no I/O in this crate, so every decision can be tested by a list of events.
//!
//! Start with [`job::Job`] (the core of a JobMaster), then [`execution_graph`] (what it knows of its tasks), [`region`] and
//! [`restart_strategy`] (what restarts together, and when), [`checkpoint`] (from what) and [`slot`] (how tasks share slots
//! and jobs share TaskManagers). Beside them stands [`attendance`]: who should lead when the leader does not hear every
//! TaskManager.

pub mod attendance;
pub mod checkpoint;
pub mod execution_graph;
pub mod job;
pub mod region;
pub mod restart_strategy;
pub mod slot;
mod validate;

pub use validate::{GraphError, TASKS_MAX, validate};
