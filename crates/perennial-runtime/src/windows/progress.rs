//! How far the time of a window operator was, kept in its snapshots.
//!
//! All subtasks of a keyed operator read the same channels, so at an aligned barrier they have got the same watermarks: one number
//! says for all of them, and at any parallelism, what has fired. Barriers that are not aligned may find subtasks at different times; then the earliest counts,
//! and some windows fire again, as at-least-once allows.

use perennial_types::Record;

use crate::{SnapshotWriter, StateContext, TaskError};

/// Keeps it in a snapshot.
pub(super) fn save(writer: &mut SnapshotWriter, of: &StateContext, progress: i64) {
    let mut element = Vec::new();
    progress.encode(&mut element);
    writer.union_list(of, vec![element]);
}

/// What the snapshot says; before all time without one.
pub(super) fn restore(of: &mut StateContext) -> Result<i64, TaskError> {
    let elements = of.take_union_list().unwrap_or_default();
    let times = elements.iter().map(|element| i64::decode(&mut element.as_slice()));
    let times = times.collect::<Result<Vec<_>, _>>().map_err(|error| of.error(error))?;
    Ok(times.into_iter().min().unwrap_or(i64::MIN))
}
