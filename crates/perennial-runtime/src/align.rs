//! Aligns the barriers of a task's channels. Pure: channels are numbers, what has to be done comes back as a [`Step`].

use std::collections::{BTreeMap, BTreeSet};

use perennial_exchange::{Barrier, Guarantee};
use perennial_types::CheckpointId;

/// Aborted checkpoints that are remembered. Their late barriers are few; of older ones none is on its way any more.
const ABORTED_MAX: usize = 64;

/// What an event means for the task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// What comes behind the barrier on this channel has to wait.
    Block(usize),
    /// Read from all channels again.
    Unblock,
    /// Take the snapshot, and pass the barrier on.
    Cut(Barrier),
}

/// A checkpoint of which not all barriers have come.
#[derive(Debug)]
struct Alignment {
    barrier: Barrier,
    arrived: BTreeSet<usize>,
}

impl Alignment {
    fn blocks(&self) -> bool {
        self.barrier.guarantee == Guarantee::ExactlyOnce
    }
}

/// Knows which barriers of a task have come.
///
/// A channel that has ended counts as one whose barrier has come, and when all have, the task begins by itself what it was told of,
/// as a source does. A barrier says that those of earlier checkpoints do not come any more on its channel.
#[derive(Debug)]
pub(crate) struct Aligner {
    channels: usize,
    ended: BTreeSet<usize>,
    pending: BTreeMap<CheckpointId, Alignment>,
    /// What the task was told of and no barrier has come of.
    told: BTreeMap<CheckpointId, Barrier>,
    /// The newest checkpoint that is over here, one way or the other; so are all before it that are not pending.
    settled: CheckpointId,
    /// Aborted ones above `settled`.
    aborted: BTreeSet<CheckpointId>,
}

impl Aligner {
    /// For a task with so many channels; none for a source.
    pub(crate) fn new(channels: usize) -> Self {
        Self {
            channels,
            ended: BTreeSet::new(),
            pending: BTreeMap::new(),
            told: BTreeMap::new(),
            settled: CheckpointId(0),
            aborted: BTreeSet::new(),
        }
    }

    /// Whether a checkpoint waits for barriers.
    pub(crate) fn is_aligning(&self) -> bool {
        !self.pending.is_empty()
    }

    /// A barrier has come on a channel.
    pub(crate) fn barrier(&mut self, channel: usize, barrier: Barrier) -> Vec<Step> {
        let mut steps = Vec::new();
        let id = barrier.checkpoint;
        if self.is_over(id) {
            return steps;
        }
        let missed = self.pending.range(..id).filter(|(_, older)| !older.arrived.contains(&channel));
        for older in missed.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.give_up(older, &mut steps);
        }
        self.told.remove(&id);
        if !self.pending.contains_key(&id) && self.pending.range(id..).next().is_some() {
            // Where the newer one has come, this one has been missed.
            self.give_up(id, &mut steps);
            return steps;
        }
        let pending = self.pending.entry(id).or_insert_with(|| Alignment { barrier, arrived: BTreeSet::new() });
        pending.arrived.insert(channel);
        self.cut_complete(&mut steps);
        if self.pending.get(&id).is_some_and(Alignment::blocks) {
            steps.push(Step::Block(channel));
        }
        steps
    }

    /// A channel has ended.
    pub(crate) fn ended(&mut self, channel: usize) -> Vec<Step> {
        self.ended.insert(channel);
        let mut steps = Vec::new();
        self.cut_complete(&mut steps);
        self.cut_told(&mut steps);
        steps
    }

    /// A checkpoint was triggered. A task that has no channels, or none any more, begins it.
    pub(crate) fn trigger(&mut self, barrier: Barrier) -> Vec<Step> {
        let mut steps = Vec::new();
        if !self.is_over(barrier.checkpoint) && !self.pending.contains_key(&barrier.checkpoint) {
            self.told.insert(barrier.checkpoint, barrier);
            self.cut_told(&mut steps);
        }
        steps
    }

    /// A checkpoint is given up everywhere.
    pub(crate) fn abort(&mut self, checkpoint: CheckpointId) -> Vec<Step> {
        let mut steps = Vec::new();
        if self.is_over(checkpoint) {
            return steps;
        }
        self.told.remove(&checkpoint);
        self.give_up(checkpoint, &mut steps);
        steps
    }

    fn is_over(&self, checkpoint: CheckpointId) -> bool {
        let settled = checkpoint <= self.settled && !self.pending.contains_key(&checkpoint);
        settled || self.aborted.contains(&checkpoint)
    }

    /// There will be no cut for this checkpoint.
    fn give_up(&mut self, checkpoint: CheckpointId, steps: &mut Vec<Step>) {
        if self.pending.remove(&checkpoint).is_some_and(|pending| pending.blocks()) {
            steps.push(Step::Unblock);
        }
        self.aborted.insert(checkpoint);
        if self.aborted.len() > ABORTED_MAX
            && let Some(oldest) = self.aborted.pop_first()
        {
            self.settle(oldest);
        }
    }

    /// Cuts for every checkpoint of which nothing is missing, oldest first.
    fn cut_complete(&mut self, steps: &mut Vec<Step>) {
        let is_complete = |at: &Alignment| at.arrived.union(&self.ended).count() >= self.channels;
        let complete = self.pending.iter().filter(|(_, pending)| is_complete(pending));
        for checkpoint in complete.map(|(id, _)| *id).collect::<Vec<_>>() {
            let Some(pending) = self.pending.remove(&checkpoint) else { continue };
            if pending.blocks() {
                steps.push(Step::Unblock);
            }
            steps.push(Step::Cut(pending.barrier));
            self.settle(checkpoint);
        }
    }

    /// Cuts for every checkpoint that the task was told of, oldest first, when no barrier will come.
    fn cut_told(&mut self, steps: &mut Vec<Step>) {
        if self.ended.len() >= self.channels {
            for (checkpoint, barrier) in std::mem::take(&mut self.told) {
                steps.push(Step::Cut(barrier));
                self.settle(checkpoint);
            }
        }
    }

    /// Nothing begins any more of this checkpoint and those before it.
    fn settle(&mut self, checkpoint: CheckpointId) {
        self.settled = self.settled.max(checkpoint);
        self.aborted.retain(|aborted| *aborted > self.settled);
        self.told.retain(|told, _| *told > self.settled);
    }
}

#[cfg(test)]
mod tests {
    use perennial_types::SnapshotKind;

    use super::Step::{Block, Unblock};
    use super::*;

    fn barrier(checkpoint: u64) -> Barrier {
        let (kind, guarantee) = (SnapshotKind::Checkpoint, Guarantee::ExactlyOnce);
        Barrier { checkpoint: CheckpointId(checkpoint), kind, guarantee, triggered_ms: checkpoint * 10 }
    }

    fn at_least_once(checkpoint: u64) -> Barrier {
        Barrier { guarantee: Guarantee::AtLeastOnce, ..barrier(checkpoint) }
    }

    fn cut(checkpoint: u64) -> Step {
        Step::Cut(barrier(checkpoint))
    }

    enum On {
        Barrier(usize, u64),
        /// That does not block.
        Loose(usize, u64),
        Ended(usize),
        Abort(u64),
        Trigger(u64),
    }

    /// Applies each event and compares what comes of it.
    fn check(name: &str, channels: usize, events: &[(On, &[Step])]) {
        let mut aligner = Aligner::new(channels);
        for (at, (event, expect)) in events.iter().enumerate() {
            let steps = match event {
                On::Barrier(channel, checkpoint) => aligner.barrier(*channel, barrier(*checkpoint)),
                On::Loose(channel, checkpoint) => aligner.barrier(*channel, at_least_once(*checkpoint)),
                On::Ended(channel) => aligner.ended(*channel),
                On::Abort(checkpoint) => aligner.abort(CheckpointId(*checkpoint)),
                On::Trigger(checkpoint) => aligner.trigger(barrier(*checkpoint)),
            };
            assert_eq!(steps, *expect, "{name}, event {at}");
            assert!(aligner.pending.values().filter(|pending| pending.blocks()).count() <= 1, "{name}, event {at}");
            assert!(aligner.aborted.len() <= ABORTED_MAX);
        }
    }

    #[test]
    fn a_checkpoint_is_aligned_by_its_last_barrier() {
        use On::*;
        check("one channel", 1, &[(Barrier(0, 1), &[Unblock, cut(1)]), (Barrier(0, 2), &[Unblock, cut(2)])]);
        check(
            "three channels",
            3,
            &[
                (Barrier(2, 5), &[Block(2)]),
                (Barrier(0, 5), &[Block(0)]),
                (Barrier(1, 5), &[Unblock, cut(5)]),
                (Barrier(1, 6), &[Block(1)]),
            ],
        );
        check(
            "ended channels count",
            3,
            &[(Ended(0), &[]), (Barrier(1, 1), &[Block(1)]), (Ended(2), &[Unblock, cut(1)]), (Ended(1), &[])],
        );
    }

    #[test]
    fn a_task_without_channels_or_whose_channels_have_all_ended_begins_by_itself() {
        use On::*;
        check("a source", 0, &[(Trigger(1), &[cut(1)]), (Trigger(1), &[]), (Trigger(3), &[cut(3)])]);
        check(
            "told first",
            2,
            &[
                (Ended(0), &[]),
                (Trigger(1), &[]),
                (Trigger(2), &[]),
                (Ended(1), &[cut(1), cut(2)]),
                (Trigger(2), &[]),
                (Trigger(3), &[cut(3)]),
            ],
        );
        check(
            "barriers come",
            2,
            &[
                (Trigger(1), &[]),
                (Barrier(0, 1), &[Block(0)]),
                (Trigger(1), &[]),
                (Barrier(1, 1), &[Unblock, cut(1)]),
                (Ended(0), &[]),
                (Ended(1), &[]),
            ],
        );
        check(
            "aborted meanwhile",
            1,
            &[(Trigger(1), &[]), (Abort(1), &[]), (Trigger(1), &[]), (Trigger(2), &[]), (Ended(0), &[cut(2)])],
        );
    }

    #[test]
    fn a_newer_checkpoint_ends_an_older_one() {
        use On::*;
        check(
            "superseded",
            2,
            &[
                (Barrier(0, 1), &[Block(0)]),
                (Barrier(1, 2), &[Unblock, Block(1)]),
                (Barrier(1, 1), &[]),
                (Barrier(0, 2), &[Unblock, cut(2)]),
                (Barrier(0, 2), &[]),
            ],
        );
        check(
            "missed before it was heard of",
            2,
            &[(Barrier(0, 2), &[Block(0)]), (Barrier(1, 1), &[]), (Barrier(1, 2), &[Unblock, cut(2)])],
        );
    }

    #[test]
    fn an_aborted_checkpoint_is_forgotten_and_its_late_barriers_too() {
        use On::*;
        check(
            "while aligning",
            2,
            &[
                (Barrier(0, 1), &[Block(0)]),
                (Abort(1), &[Unblock]),
                (Barrier(1, 1), &[]),
                (Abort(1), &[]),
                (Barrier(1, 2), &[Block(1)]),
                (Barrier(0, 2), &[Unblock, cut(2)]),
            ],
        );
        check(
            "before its barriers",
            2,
            &[
                (Abort(2), &[]),
                (Barrier(0, 2), &[]),
                (Barrier(0, 1), &[Block(0)]),
                (Barrier(1, 1), &[Unblock, cut(1)]),
                (Barrier(1, 2), &[]),
            ],
        );
        check("another one than the one at hand", 2, &[(Barrier(0, 2), &[Block(0)]), (Abort(1), &[])]);
        check("a trigger that is late", 0, &[(Abort(4), &[]), (Trigger(4), &[]), (Trigger(5), &[cut(5)])]);
    }

    #[test]
    fn many_aborts_take_no_memory() {
        let mut aligner = Aligner::new(2);
        for checkpoint in 1..1000 {
            aligner.abort(CheckpointId(checkpoint));
        }
        assert_eq!(aligner.aborted.len(), ABORTED_MAX);
        assert_eq!(aligner.barrier(0, barrier(3)), []);
        assert_eq!(aligner.barrier(0, barrier(1000)), [Block(0)]);
    }

    #[test]
    fn at_least_once_blocks_nothing_and_several_are_under_way() {
        use On::*;
        let cut = |checkpoint| Step::Cut(at_least_once(checkpoint));
        check(
            "two at a time",
            2,
            &[
                (Loose(0, 1), &[]),
                (Loose(0, 2), &[]),
                (Loose(1, 1), &[cut(1)]),
                (Loose(0, 3), &[]),
                (Loose(1, 2), &[cut(2)]),
                (Loose(0, 4), &[]),
                (Ended(1), &[cut(3), cut(4)]),
            ],
        );
        check("one is missed", 2, &[(Loose(0, 1), &[]), (Loose(1, 2), &[]), (Loose(0, 2), &[cut(2)])]);
        check(
            "beside a savepoint",
            2,
            &[
                (Loose(0, 1), &[]),
                (Barrier(0, 2), &[Block(0)]),
                (Loose(1, 1), &[cut(1)]),
                (Barrier(1, 2), &[Unblock, self::cut(2)]),
            ],
        );
    }
}
