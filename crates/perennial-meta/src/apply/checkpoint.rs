//! Commands about checkpoints.
//!
//! ```text
//! Reserve ──> in flight ── Complete ──> completed ── a later Complete, EndJob ──> discarded ── a later Reserve ──> gone
//!                 └── Abort, a later Complete, EndJob ────────────────────────────────^
//! ```
//! A number is used once. Only what is in flight can be completed, so the completion of a checkpoint that was aborted comes to
//! nothing, whoever wrote it and however late. What is discarded is remembered until its files are known to be gone,
//! or its job is forgotten.

use perennial_types::{CheckpointId, JobId, SnapshotKind};

use super::Applied;
use crate::command::Outcome;
use crate::kv::{self, Change, StateError, View, delete, list, put, read};
use crate::record::{CheckpointHead, CompletedCheckpoint, DiscardedCheckpoint, ReservedCheckpoint, RestoredFrom};

/// A job goes on from what another has left, and with its numbers.
pub(super) fn start_from(job: JobId, from: CompletedCheckpoint) -> [Change; 2] {
    let restored = RestoredFrom { checkpoint: from.id, location: from.location.clone() };
    let head = CheckpointHead { counter: from.id, restored: Some(restored), ..CheckpointHead::default() };
    [put::<kv::checkpoint::Checkpoints>(&(job, from.id), &from), put_head(job, &head)]
}

pub(super) fn reserve(view: &impl View, job: JobId, new: ReservedCheckpoint, deleted: &[CheckpointId]) -> Applied {
    let mut head = read::<kv::checkpoint_head::CheckpointHeads>(view, &job)?.unwrap_or_default();
    if head.in_flight.iter().any(|reserved| reserved.id == new.id) {
        return Ok((Outcome::Ignored, Vec::new()));
    }
    let next = CheckpointId(head.counter.0 + 1);
    if new.id != next {
        return Ok((Outcome::CheckpointIdTaken { next }, Vec::new()));
    }
    head.counter = next;
    if new.kind == SnapshotKind::Checkpoint && head.directory.is_empty() {
        head.directory = new.directory.clone();
    }
    head.in_flight.push(new);
    let gone = deleted.iter().map(|id| delete::<kv::discarded::Discarded>(&(job, *id)));
    Ok((Outcome::Done, gone.chain([put_head(job, &head)]).collect()))
}

pub(super) fn complete(view: &impl View, job: JobId, completed: CompletedCheckpoint, retained: u32) -> Applied {
    let id = completed.id;
    if read::<kv::checkpoint::Checkpoints>(view, &(job, id))?.is_some() {
        return Ok((Outcome::Ignored, Vec::new()));
    }
    let Some((mut head, _)) = take(view, job, |reserved| reserved.id == id)? else {
        return Ok((Outcome::CheckpointUnknown(id), Vec::new()));
    };
    let subsumed = |reserved: &mut ReservedCheckpoint| reserved.kind == SnapshotKind::Checkpoint && reserved.id < id;
    let mut changes: Vec<_> =
        head.in_flight.extract_if(.., subsumed).map(|reserved| discard_reserved(job, &reserved)).collect();
    let mut kept = list::<kv::checkpoint::Checkpoints>(view, job.as_bytes())?;
    kept.push(completed.clone());
    kept.retain(|checkpoint| checkpoint.kind == SnapshotKind::Checkpoint);
    kept.sort_by_key(|checkpoint| checkpoint.id);
    changes.push(put::<kv::checkpoint::Checkpoints>(&(job, id), &completed));
    // The newest one stays, whatever was asked for: it is what the job goes on from.
    let surplus = kept.len().saturating_sub(retained.max(1) as usize);
    changes.extend(kept.iter().take(surplus).flat_map(|checkpoint| discard_completed(job, checkpoint)));
    changes.push(put_head(job, &head));
    Ok((Outcome::Done, changes))
}

pub(super) fn abort(view: &impl View, job: JobId, checkpoints: &[CheckpointId]) -> Applied {
    let Some((head, aborted)) = take(view, job, |reserved| checkpoints.contains(&reserved.id))? else {
        return Ok((Outcome::Ignored, Vec::new()));
    };
    let discarded = aborted.iter().map(|reserved| discard_reserved(job, reserved));
    Ok((Outcome::Done, discarded.chain([put_head(job, &head)]).collect()))
}

/// What the end of a job does: nothing is in flight any more, and of what was completed the savepoints stay.
pub(super) fn end(view: &impl View, job: JobId) -> Result<Vec<Change>, StateError> {
    let mut changes = Vec::new();
    if let Some((head, in_flight)) = take(view, job, |_| true)? {
        changes.push(put_head(job, &head));
        changes.extend(in_flight.iter().map(|reserved| discard_reserved(job, reserved)));
    }
    let completed = list::<kv::checkpoint::Checkpoints>(view, job.as_bytes())?;
    let of_the_system = completed.iter().filter(|checkpoint| checkpoint.kind == SnapshotKind::Checkpoint);
    changes.extend(of_the_system.flat_map(|checkpoint| discard_completed(job, checkpoint)));
    Ok(changes)
}

/// Forgets all of a job, with its savepoints, whose files belong to who asked for them.
pub(super) fn forget(view: &impl View, job: JobId) -> Result<Vec<Change>, StateError> {
    let completed = list::<kv::checkpoint::Checkpoints>(view, job.as_bytes())?;
    let completed = completed.iter().map(|checkpoint| delete::<kv::checkpoint::Checkpoints>(&(job, checkpoint.id)));
    let discarded = list::<kv::discarded::Discarded>(view, job.as_bytes())?;
    let discarded = discarded.iter().map(|discarded| delete::<kv::discarded::Discarded>(&(job, discarded.id)));
    Ok(completed.chain(discarded).chain([delete::<kv::checkpoint_head::CheckpointHeads>(&job)]).collect())
}

/// Takes what is in flight and meant out of the head; `None` when nothing is.
fn take(
    view: &impl View,
    job: JobId,
    meant: impl Fn(&ReservedCheckpoint) -> bool,
) -> Result<Option<(CheckpointHead, Vec<ReservedCheckpoint>)>, StateError> {
    let Some(mut head) = read::<kv::checkpoint_head::CheckpointHeads>(view, &job)? else { return Ok(None) };
    let (taken, left) = head.in_flight.into_iter().partition::<Vec<_>, _>(meant);
    head.in_flight = left;
    Ok((!taken.is_empty()).then_some((head, taken)))
}

fn put_head(job: JobId, head: &CheckpointHead) -> Change {
    put::<kv::checkpoint_head::CheckpointHeads>(&job, head)
}

fn discard_completed(job: JobId, checkpoint: &CompletedCheckpoint) -> [Change; 2] {
    let discarded = DiscardedCheckpoint { id: checkpoint.id, location: checkpoint.location.clone() };
    [delete::<kv::checkpoint::Checkpoints>(&(job, checkpoint.id)), discard(job, &discarded)]
}

fn discard_reserved(job: JobId, reserved: &ReservedCheckpoint) -> Change {
    discard(job, &DiscardedCheckpoint { id: reserved.id, location: reserved.location() })
}

fn discard(job: JobId, discarded: &DiscardedCheckpoint) -> Change {
    put::<kv::discarded::Discarded>(&(job, discarded.id), discarded)
}
