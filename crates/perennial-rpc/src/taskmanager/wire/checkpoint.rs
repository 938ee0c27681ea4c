//! What is said about checkpoints, to and from the wire.

use perennial_types::{
    CheckpointId, KeyGroupRange, OperatorRestore, OperatorSnapshot, SnapshotKind, StateFile, TaskRestore, TaskSnapshot,
};

use super::{all, each, raw, required, text};
use crate::taskmanager::{CheckpointReport, NotifyCheckpoint, TriggerCheckpoint};
use crate::wire::{WireError, id, pb};

/// A checkpoint's number, which is never 0.
fn number(number: u64, field: &'static str) -> Result<CheckpointId, WireError> {
    if number == 0 { Err(WireError::missing(field)) } else { Ok(CheckpointId(number)) }
}

fn elements(list: Vec<bytes::Bytes>) -> Vec<Vec<u8>> {
    list.into_iter().map(Into::into).collect()
}

impl From<SnapshotKind> for pb::SnapshotKind {
    fn from(kind: SnapshotKind) -> Self {
        match kind {
            SnapshotKind::Checkpoint => Self::Checkpoint,
            SnapshotKind::Savepoint => Self::Savepoint,
            SnapshotKind::Suspend { drain: false } => Self::Suspend,
            SnapshotKind::Suspend { drain: true } => Self::Drain,
        }
    }
}

fn snapshot_kind(number: i32, field: &'static str) -> Result<SnapshotKind, WireError> {
    match pb::SnapshotKind::try_from(number) {
        Ok(pb::SnapshotKind::Checkpoint) => Ok(SnapshotKind::Checkpoint),
        Ok(pb::SnapshotKind::Savepoint) => Ok(SnapshotKind::Savepoint),
        Ok(pb::SnapshotKind::Suspend) => Ok(SnapshotKind::Suspend { drain: false }),
        Ok(pb::SnapshotKind::Drain) => Ok(SnapshotKind::Suspend { drain: true }),
        Ok(pb::SnapshotKind::Unspecified) => Err(WireError::missing(field)),
        Err(_) => Err(WireError::invalid(field, format_args!("{number} is no kind of snapshot"))),
    }
}

impl From<TriggerCheckpoint> for pb::TriggerCheckpoint {
    fn from(trigger: TriggerCheckpoint) -> Self {
        Self {
            checkpoint: trigger.checkpoint.0,
            kind: pb::SnapshotKind::from(trigger.kind).into(),
            exactly_once: trigger.exactly_once,
            directory: trigger.directory,
            at_ms: trigger.at_ms,
        }
    }
}

impl TryFrom<pb::TriggerCheckpoint> for TriggerCheckpoint {
    type Error = WireError;

    fn try_from(trigger: pb::TriggerCheckpoint) -> Result<Self, WireError> {
        Ok(Self {
            checkpoint: number(trigger.checkpoint, "trigger_checkpoint.checkpoint")?,
            kind: snapshot_kind(trigger.kind, "trigger_checkpoint.kind")?,
            exactly_once: trigger.exactly_once,
            directory: text(trigger.directory, "trigger_checkpoint.directory")?,
            at_ms: trigger.at_ms,
        })
    }
}

impl From<NotifyCheckpoint> for pb::NotifyCheckpoint {
    fn from(notice: NotifyCheckpoint) -> Self {
        Self {
            completed: notice.completed.map_or(0, |completed| completed.0),
            aborted: notice.aborted.into_iter().map(|aborted| aborted.0).collect(),
        }
    }
}

impl TryFrom<pb::NotifyCheckpoint> for NotifyCheckpoint {
    type Error = WireError;

    fn try_from(notice: pb::NotifyCheckpoint) -> Result<Self, WireError> {
        let aborted = notice.aborted.into_iter().map(|aborted| number(aborted, "notify_checkpoint.aborted"));
        Ok(Self {
            completed: Some(CheckpointId(notice.completed)).filter(|completed| completed.0 != 0),
            aborted: aborted.collect::<Result<_, _>>()?,
        })
    }
}

impl From<CheckpointReport> for pb::CheckpointReport {
    fn from(report: CheckpointReport) -> Self {
        use pb::checkpoint_report::Result as Wire;
        Self {
            job: raw(report.job.as_bytes()),
            attempt: Some(report.attempt.into()),
            checkpoint: report.checkpoint.0,
            result: Some(match report.result {
                Ok(snapshot) => Wire::Acked(snapshot.into()),
                Err(reason) => Wire::Declined(reason),
            }),
        }
    }
}

impl TryFrom<pb::CheckpointReport> for CheckpointReport {
    type Error = WireError;

    fn try_from(report: pb::CheckpointReport) -> Result<Self, WireError> {
        use pb::checkpoint_report::Result as Wire;
        Ok(Self {
            job: id(&report.job, "checkpoint.job")?,
            attempt: required(report.attempt, "checkpoint.attempt")?.try_into()?,
            checkpoint: number(report.checkpoint, "checkpoint.checkpoint")?,
            result: match required(report.result, "checkpoint.result")? {
                Wire::Acked(snapshot) => Ok(snapshot.try_into()?),
                Wire::Declined(reason) => Err(reason),
            },
        })
    }
}

impl From<TaskSnapshot> for pb::TaskSnapshot {
    fn from(snapshot: TaskSnapshot) -> Self {
        Self {
            operators: all(snapshot.operators),
            finished: snapshot.finished,
            bytes: snapshot.bytes,
            sync_us: snapshot.sync_us,
            async_ms: snapshot.async_ms,
            align_us: snapshot.align_us,
        }
    }
}

impl TryFrom<pb::TaskSnapshot> for TaskSnapshot {
    type Error = WireError;

    fn try_from(snapshot: pb::TaskSnapshot) -> Result<Self, WireError> {
        Ok(Self {
            operators: each(snapshot.operators)?,
            finished: snapshot.finished,
            bytes: snapshot.bytes,
            sync_us: snapshot.sync_us,
            async_ms: snapshot.async_ms,
            align_us: snapshot.align_us,
        })
    }
}

impl From<OperatorSnapshot> for pb::OperatorSnapshot {
    fn from(snapshot: OperatorSnapshot) -> Self {
        Self {
            operator: raw(snapshot.operator.as_bytes()),
            keyed: all(snapshot.keyed),
            list: all(snapshot.list),
            union_list: all(snapshot.union_list),
            broadcast: snapshot.broadcast.map(Into::into),
        }
    }
}

impl TryFrom<pb::OperatorSnapshot> for OperatorSnapshot {
    type Error = WireError;

    fn try_from(snapshot: pb::OperatorSnapshot) -> Result<Self, WireError> {
        Ok(Self {
            operator: id(&snapshot.operator, "snapshot.operator")?,
            keyed: each(snapshot.keyed)?,
            list: elements(snapshot.list),
            union_list: elements(snapshot.union_list),
            broadcast: snapshot.broadcast.map(Into::into),
        })
    }
}

impl From<StateFile> for pb::StateFile {
    fn from(file: StateFile) -> Self {
        let key_groups = file
            .key_groups
            .map(|range| pb::KeyGroupRange { first: u32::from(range.first), last: u32::from(range.last) });
        Self { name: file.name, bytes: file.bytes, crc: file.crc, key_groups, shared: file.shared }
    }
}

impl TryFrom<pb::StateFile> for StateFile {
    type Error = WireError;

    fn try_from(file: pb::StateFile) -> Result<Self, WireError> {
        Ok(Self {
            name: text(file.name, "state_file.name")?,
            shared: file.shared,
            bytes: file.bytes,
            crc: file.crc,
            key_groups: file.key_groups.map(key_groups).transpose()?,
        })
    }
}

fn key_groups(range: pb::KeyGroupRange) -> Result<KeyGroupRange, WireError> {
    let pb::KeyGroupRange { first, last } = range;
    match (u16::try_from(first), u16::try_from(last)) {
        (Ok(first), Ok(last)) if first <= last => Ok(KeyGroupRange { first, last }),
        _ => Err(WireError::invalid("state_file.key_groups", format_args!("{first} to {last}"))),
    }
}

impl From<TaskRestore> for pb::TaskRestore {
    fn from(restore: TaskRestore) -> Self {
        Self { checkpoint: restore.checkpoint.0, finished: restore.finished, operators: all(restore.operators) }
    }
}

impl TryFrom<pb::TaskRestore> for TaskRestore {
    type Error = WireError;

    fn try_from(restore: pb::TaskRestore) -> Result<Self, WireError> {
        Ok(Self {
            checkpoint: number(restore.checkpoint, "restore.checkpoint")?,
            operators: each(restore.operators)?,
            finished: restore.finished,
        })
    }
}

impl From<OperatorRestore> for pb::OperatorRestore {
    fn from(restore: OperatorRestore) -> Self {
        let located =
            |(location, file): (String, StateFile)| pb::LocatedStateFile { location, file: Some(file.into()) };
        Self {
            operator: raw(restore.operator.as_bytes()),
            keyed: restore.keyed.into_iter().map(located).collect(),
            list: all(restore.list),
            union_list: all(restore.union_list),
            broadcast: restore.broadcast.map(Into::into),
        }
    }
}

impl TryFrom<pb::OperatorRestore> for OperatorRestore {
    type Error = WireError;

    fn try_from(restore: pb::OperatorRestore) -> Result<Self, WireError> {
        let located = |located: pb::LocatedStateFile| {
            let file = required(located.file, "restore.keyed.file")?.try_into()?;
            Ok::<_, WireError>((text(located.location, "restore.keyed.location")?, file))
        };
        Ok(Self {
            operator: id(&restore.operator, "restore.operator")?,
            keyed: restore.keyed.into_iter().map(located).collect::<Result<_, _>>()?,
            list: elements(restore.list),
            union_list: elements(restore.union_list),
            broadcast: restore.broadcast.map(Into::into),
        })
    }
}
