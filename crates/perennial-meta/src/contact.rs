//! When this member last heard of a leader, and how contact with it was lost.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use perennial_types::ElectionCause;
use tokio::time::Instant;

/// Contact with leaders. Noted by the service and the detector, read at an election.
pub(crate) struct Contact {
    started: Instant,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Last word of each member that led, this one included.
    heard: BTreeMap<u64, Instant>,
    /// The newest leader this member has followed, or has been: term and number.
    led: Option<(u64, u64)>,
    /// The leader whose process was seen to be gone.
    gone: Option<Gone>,
    /// The term in which a leader asked this member to take over, and when.
    asked: Option<(u64, Instant)>,
}

/// A leader whose process is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Gone {
    /// Its term.
    pub(crate) term: u64,
    /// Its number.
    pub(crate) leader: u64,
    /// When this member saw it.
    pub(crate) at: Instant,
}

impl Contact {
    pub(crate) fn new() -> Self {
        Self { started: Instant::now(), state: Mutex::default() }
    }

    /// A leader has spoken.
    pub(crate) fn heard(&self, leader: u64) {
        self.lock().heard.insert(leader, Instant::now());
    }

    /// When a leader spoke last.
    pub(crate) fn last_word(&self, leader: u64) -> Option<Instant> {
        self.lock().heard.get(&leader).copied()
    }

    /// How long ago any member but `this` last spoke as the leader.
    pub(crate) fn age(&self, this: u64) -> Option<Duration> {
        let state = self.lock();
        let others = state.heard.iter().filter(|(leader, _)| **leader != this);
        others.map(|(_, at)| *at).max().map(|at| at.elapsed())
    }

    /// A member leads in a term.
    pub(crate) fn leads(&self, term: u64, leader: u64) {
        self.lock().led = Some((term, leader));
    }

    /// A leader's process is gone, or it was a mistake.
    pub(crate) fn gone(&self, gone: Option<Gone>) {
        self.lock().gone = gone;
    }

    /// A leader asks this member to take over from its term.
    pub(crate) fn asked_to_lead(&self, term: u64) {
        self.lock().asked = Some((term, Instant::now()));
    }

    /// Why there is an election, and since when the group has no leader.
    pub(crate) fn lost(&self) -> (ElectionCause, Instant) {
        let state = self.lock();
        let Some((term, leader)) = state.led else { return (ElectionCause::FirstStart, self.started) };
        let last = state.heard.get(&leader).copied().unwrap_or(self.started);
        match (state.asked, state.gone) {
            (Some((asked, at)), _) if asked == term => (ElectionCause::HandedOver, at),
            (_, Some(gone)) if gone.term == term => (ElectionCause::ProcessGone, gone.at),
            _ => (ElectionCause::Silence, last),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
