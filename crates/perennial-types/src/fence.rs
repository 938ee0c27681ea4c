//! Who may command whom.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The number of a leadership: Raft's term of the leader, as everything outside `meta` calls it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct LeaderEpoch(pub u64);

impl fmt::Display for LeaderEpoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// The fencing token of a command: the epoch of the leader that sends it and the log index of the *committed* entry
/// that ordered it.
///
/// Tokens are ordered. A receiver keeps the highest it has seen, refuses lower ones, and accepts equal or higher ones
/// without stopping anything: that is the line where Flink fails the tasks of a job.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Fence {
    /// Leadership of the sender.
    pub epoch: LeaderEpoch,
    /// Log index of the entry that holds the intent.
    pub index: u64,
}

impl fmt::Display for Fence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.epoch, self.index)
    }
}

impl Fence {
    /// Raises `self` to `command` and returns true, or returns false when `command` is stale.
    ///
    /// A command of the same epoch may carry a lower index than the highest seen: one leader sends the commands of
    /// different jobs over different channels, in no order among each other. Only the epoch decides staleness.
    pub fn admit(&mut self, command: Fence) -> bool {
        if command.epoch < self.epoch {
            return false;
        }
        *self = (*self).max(command);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lower_epochs_are_refused_and_higher_ones_admitted() {
        let fence = |epoch, index| Fence { epoch: LeaderEpoch(epoch), index };
        let mut seen = Fence::default();
        assert!(seen.admit(fence(3, 10)));
        assert!(!seen.admit(fence(2, 99)));
        assert!(seen.admit(fence(3, 9)));
        assert_eq!(seen, fence(3, 10));
        assert!(seen.admit(fence(4, 1)));
        assert_eq!(seen, fence(4, 1));
    }
}
