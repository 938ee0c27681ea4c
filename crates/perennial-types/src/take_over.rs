//! How a leadership began, step by step: the timing history of elections and take-overs.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Why there was an election.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ElectionCause {
    /// The next leader had heard of none since it started: the first election of a group, or of one that was down.
    FirstStart,
    /// The leader's process has ended.
    ProcessGone,
    /// The leader was not heard of: it is paused, cut off or overloaded, or its host is gone.
    Silence,
    /// The leader handed over.
    HandedOver,
}

impl ElectionCause {
    /// Every cause.
    pub const ALL: [Self; 4] = [Self::FirstStart, Self::ProcessGone, Self::Silence, Self::HandedOver];

    /// Its name in listings and JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::FirstStart => "first-start",
            Self::ProcessGone => "process-gone",
            Self::Silence => "silence",
            Self::HandedOver => "handed-over",
        }
    }
}

impl fmt::Display for ElectionCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Phases of one take-over, measured by the leader that took over with its monotonic clock.
///
/// Times ending in `_us` are microseconds since contact with the leader before was lost: since its last word, or since its
/// end was seen. What has not happened yet, or was not seen before the record was written, is `None`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TakeOver {
    /// Why there was an election.
    pub cause: ElectionCause,
    /// When contact was lost, by the leader's clock, in milliseconds of the Unix epoch.
    pub lost_ms: u64,
    /// This member was elected.
    pub elected_us: u64,
    /// Its first entry was committed and applied: from here on it serves.
    pub first_commit_us: u64,
    /// Every TaskManager that runs something by the log has registered.
    pub attached_us: Option<u64>,
    /// No job waits any more for what its TaskManagers report.
    pub adopted_us: Option<u64>,
    /// The first checkpoint has completed.
    pub first_checkpoint_us: Option<u64>,
    /// TaskManagers that were waited for.
    pub taskmanagers: u32,
    /// Jobs whose running tasks were taken over as they were.
    pub jobs_adopted: u32,
    /// Jobs that lost tasks, and were restarted or ended.
    pub jobs_restarted: u32,
}

impl TakeOver {
    /// Phases in their order with their names in listings and JSON, in microseconds.
    pub fn phases(&self) -> [(&'static str, Option<u64>); 5] {
        [
            ("elected", Some(self.elected_us)),
            ("first-commit", Some(self.first_commit_us)),
            ("taskmanagers-attached", self.attached_us),
            ("jobs-adopted", self.adopted_us),
            ("first-checkpoint", self.first_checkpoint_us),
        ]
    }
}
