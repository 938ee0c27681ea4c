//! Aligns the barriers of a task's channels. Pure: channels are numbers, what has to be done comes back as a [`Step`].

use std::collections::BTreeSet;

use perennial_exchange::{Barrier, Guarantee};
use perennial_types::CheckpointId;

/// Aborted checkpoints that are remembered. Their late barriers are few; of older ones none is on its way any more.
const ABORTED_MAX: usize = 64;

/// What an event means for the task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// Nothing.
    Nothing,
    /// What comes behind the barrier on this channel has to wait.
    Block(usize),
    /// Take the snapshot, pass the barrier on, and read from all channels again.
    Aligned(Barrier),
    /// This checkpoint will not come about here. Read from all channels again; then tell the aligner once more of a barrier
    /// that led to this.
    GivenUp(CheckpointId),
}

/// A checkpoint of which not all barriers have come.
#[derive(Debug)]
struct Alignment {
    barrier: Barrier,
    arrived: BTreeSet<usize>,
}

/// Knows which barriers of a task have come.
///
/// One checkpoint is aligned at a time: the barrier of a newer one ends the alignment of an older one. A channel that has
/// ended counts as one whose barrier has come.
#[derive(Debug)]
pub(crate) struct Aligner {
    channels: usize,
    ended: BTreeSet<usize>,
    pending: Option<Alignment>,
    /// The newest checkpoint that is over here, one way or the other; so are all before it.
    settled: CheckpointId,
    /// Aborted ones above `settled`.
    aborted: BTreeSet<CheckpointId>,
}

impl Aligner {
    /// For a task with so many channels; none for a source.
    pub(crate) fn new(channels: usize) -> Self {
        Self { channels, ended: BTreeSet::new(), pending: None, settled: CheckpointId(0), aborted: BTreeSet::new() }
    }

    /// Whether a checkpoint waits for barriers.
    pub(crate) fn is_aligning(&self) -> bool {
        self.pending.is_some()
    }

    /// A barrier has come on a channel.
    pub(crate) fn barrier(&mut self, channel: usize, barrier: Barrier) -> Step {
        if self.is_over(barrier.checkpoint) {
            return Step::Nothing;
        }
        match &self.pending {
            Some(pending) if pending.barrier.checkpoint > barrier.checkpoint => return Step::Nothing,
            Some(pending) if pending.barrier.checkpoint < barrier.checkpoint => {
                let older = pending.barrier.checkpoint;
                self.settle(older);
                return Step::GivenUp(older);
            }
            _ => {}
        }
        let pending = self.pending.get_or_insert_with(|| Alignment { barrier, arrived: BTreeSet::new() });
        pending.arrived.insert(channel);
        match (self.complete(), barrier.guarantee) {
            (Some(barrier), _) => Step::Aligned(barrier),
            (None, Guarantee::ExactlyOnce) => Step::Block(channel),
            (None, Guarantee::AtLeastOnce) => Step::Nothing,
        }
    }

    /// A channel has ended.
    pub(crate) fn ended(&mut self, channel: usize) -> Step {
        self.ended.insert(channel);
        self.complete().map_or(Step::Nothing, Step::Aligned)
    }

    /// A task whose barriers come from nowhere is told to make one.
    pub(crate) fn trigger(&mut self, barrier: Barrier) -> Step {
        if self.is_over(barrier.checkpoint) {
            return Step::Nothing;
        }
        self.settle(barrier.checkpoint);
        Step::Aligned(barrier)
    }

    /// A checkpoint is given up everywhere.
    pub(crate) fn abort(&mut self, checkpoint: CheckpointId) -> Step {
        if self.is_over(checkpoint) {
            return Step::Nothing;
        }
        self.aborted.insert(checkpoint);
        if self.aborted.len() > ABORTED_MAX
            && let Some(oldest) = self.aborted.pop_first()
        {
            self.settled = oldest;
        }
        match &self.pending {
            Some(pending) if pending.barrier.checkpoint == checkpoint => {
                self.pending = None;
                Step::GivenUp(checkpoint)
            }
            _ => Step::Nothing,
        }
    }

    fn is_over(&self, checkpoint: CheckpointId) -> bool {
        checkpoint <= self.settled || self.aborted.contains(&checkpoint)
    }

    /// Ends the alignment if nothing is missing.
    fn complete(&mut self) -> Option<Barrier> {
        let Alignment { barrier, arrived } = self.pending.as_ref()?;
        let barrier = *barrier;
        if arrived.union(&self.ended).count() < self.channels {
            return None;
        }
        self.settle(barrier.checkpoint);
        Some(barrier)
    }

    fn settle(&mut self, checkpoint: CheckpointId) {
        self.settled = checkpoint;
        self.aborted.retain(|aborted| *aborted > checkpoint);
        self.pending = None;
    }
}

#[cfg(test)]
mod tests {
    use perennial_types::SnapshotKind;

    use super::Step::{Block, GivenUp, Nothing};
    use super::*;

    fn barrier(checkpoint: u64) -> Barrier {
        let (kind, guarantee) = (SnapshotKind::Checkpoint, Guarantee::ExactlyOnce);
        Barrier { checkpoint: CheckpointId(checkpoint), kind, guarantee, triggered_ms: checkpoint * 10 }
    }

    fn aligned(checkpoint: u64) -> Step {
        Step::Aligned(barrier(checkpoint))
    }

    enum On {
        Barrier(usize, u64),
        Ended(usize),
        Abort(u64),
        Trigger(u64),
    }

    /// Applies each event and compares what comes of it.
    fn check(name: &str, channels: usize, events: &[(On, Step)]) {
        let mut aligner = Aligner::new(channels);
        for (at, (event, expect)) in events.iter().enumerate() {
            let step = match event {
                On::Barrier(channel, checkpoint) => aligner.barrier(*channel, barrier(*checkpoint)),
                On::Ended(channel) => aligner.ended(*channel),
                On::Abort(checkpoint) => aligner.abort(CheckpointId(*checkpoint)),
                On::Trigger(checkpoint) => aligner.trigger(barrier(*checkpoint)),
            };
            assert_eq!(step, *expect, "{name}, event {at}");
            assert!(aligner.pending.as_ref().is_none_or(|pending| pending.barrier.checkpoint > aligner.settled));
            assert!(aligner.aborted.len() <= ABORTED_MAX);
        }
    }

    #[test]
    fn a_checkpoint_is_aligned_by_its_last_barrier() {
        use On::*;
        check("one channel", 1, &[(Barrier(0, 1), aligned(1)), (Barrier(0, 2), aligned(2))]);
        check(
            "three channels",
            3,
            &[
                (Barrier(2, 5), Block(2)),
                (Barrier(0, 5), Block(0)),
                (Barrier(1, 5), aligned(5)),
                (Barrier(1, 6), Block(1)),
            ],
        );
        check(
            "ended channels count",
            3,
            &[(Ended(0), Nothing), (Barrier(1, 1), Block(1)), (Ended(2), aligned(1)), (Ended(1), Nothing)],
        );
        check("a source", 0, &[(Trigger(1), aligned(1)), (Trigger(1), Nothing), (Trigger(3), aligned(3))]);
    }

    #[test]
    fn a_newer_checkpoint_ends_an_older_one() {
        use On::*;
        check(
            "superseded",
            2,
            &[
                (Barrier(0, 1), Block(0)),
                (Barrier(1, 2), GivenUp(CheckpointId(1))),
                // Told again.
                (Barrier(1, 2), Block(1)),
                (Barrier(1, 1), Nothing),
                (Barrier(0, 2), aligned(2)),
                (Barrier(0, 2), Nothing),
            ],
        );
    }

    #[test]
    fn an_aborted_checkpoint_is_forgotten_and_its_late_barriers_too() {
        use On::*;
        check(
            "while aligning",
            2,
            &[
                (Barrier(0, 1), Block(0)),
                (Abort(1), GivenUp(CheckpointId(1))),
                (Barrier(1, 1), Nothing),
                (Abort(1), Nothing),
                (Barrier(1, 2), Block(1)),
                (Barrier(0, 2), aligned(2)),
            ],
        );
        check(
            "before its barriers",
            2,
            &[
                (Abort(2), Nothing),
                (Barrier(0, 2), Nothing),
                (Barrier(0, 1), Block(0)),
                (Barrier(1, 1), aligned(1)),
                (Barrier(1, 2), Nothing),
            ],
        );
        check("another one than the one at hand", 2, &[(Barrier(0, 2), Block(0)), (Abort(1), Nothing)]);
        check("a trigger that is late", 0, &[(Abort(4), Nothing), (Trigger(4), Nothing), (Trigger(5), aligned(5))]);
    }

    #[test]
    fn many_aborts_take_no_memory() {
        let mut aligner = Aligner::new(2);
        for checkpoint in 1..1000 {
            aligner.abort(CheckpointId(checkpoint));
        }
        assert_eq!(aligner.aborted.len(), ABORTED_MAX);
        assert_eq!(aligner.barrier(0, barrier(3)), Nothing);
        assert_eq!(aligner.barrier(0, barrier(1000)), Block(0));
    }

    #[test]
    fn at_least_once_blocks_nothing() {
        let mut aligner = Aligner::new(2);
        let barrier = Barrier { guarantee: Guarantee::AtLeastOnce, ..barrier(1) };
        assert_eq!((aligner.barrier(0, barrier), aligner.is_aligning()), (Nothing, true));
        assert_eq!((aligner.barrier(1, barrier), aligner.is_aligning()), (Step::Aligned(barrier), false));
    }
}
