//! Steps of a checkpoint at which a JobManager can be made to die, to prove that the next leader goes on from each of them.
//!
//! Nothing of this is on unless the process finds a directory in [`DIRECTORY`] in its environment. A file in that directory then arms the
//! point it is named after and holds a number: the process that reaches the point so many times from then on removes the file and
//! aborts, as suddenly as if it were killed. Without the variable a point costs a look at a value that was read once.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};

use perennial_coordination::job::{CommandKind, Event, IntentKind};
use tracing::warn;

/// Names the directory, in the environment.
const DIRECTORY: &str = "PERENNIAL_CRASH_POINTS";

/// Points of this process, by the directory that arms them.
struct CrashPoints {
    directory: PathBuf,
    /// How often an armed point was reached.
    reached: Mutex<BTreeMap<String, u64>>,
}

/// An event is about to be applied: what it says has happened, and nothing yet follows from it.
pub(super) fn before(event: &Event) {
    let point = match event {
        Event::Recorded { kind: IntentKind::ReserveCheckpoint(_), .. } => "reserved",
        Event::CommandDone { command: CommandKind::TriggerCheckpoint(_), .. } => "triggered",
        Event::Snapshot { result: Ok(_), .. } => "acknowledged",
        Event::MetadataWritten { result: Ok(_), .. } => "written",
        Event::Recorded { kind: IntentKind::CompleteCheckpoint(_), .. } => "completed",
        Event::CommandDone { command: CommandKind::NotifyCheckpoint, .. } => "notified",
        _ => return,
    };
    reach(point);
}

/// A step is done.
pub(super) fn reach(point: &str) {
    static OF_THIS_PROCESS: OnceLock<Option<CrashPoints>> = OnceLock::new();
    let of_environment = || std::env::var_os(DIRECTORY).map(|directory| CrashPoints::new(directory.as_ref()));
    if let Some(points) = OF_THIS_PROCESS.get_or_init(of_environment)
        && points.is_due(point)
    {
        warn!(point, "a crash point was armed and is reached: this process aborts");
        std::process::abort();
    }
}

impl CrashPoints {
    fn new(directory: &Path) -> Self {
        Self { directory: directory.to_owned(), reached: Mutex::default() }
    }

    /// Counts that a point is reached. Whether that was the last time: its file is gone then, so that it hits one process.
    fn is_due(&self, point: &str) -> bool {
        let file = self.directory.join(point);
        let mut reached = self.reached.lock().unwrap_or_else(PoisonError::into_inner);
        let armed = std::fs::read_to_string(&file).ok().and_then(|text| text.trim().parse::<u64>().ok());
        let Some(times) = armed else {
            reached.remove(point);
            return false;
        };
        let count = reached.entry(point.to_owned()).or_default();
        *count += 1;
        *count >= times && std::fs::remove_file(&file).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_point_is_due_once_after_so_many_times_from_when_it_was_armed() {
        let directory = tempfile::tempdir().unwrap();
        let points = CrashPoints::new(directory.path());
        assert!(!points.is_due("written"));
        std::fs::write(directory.path().join("written"), "2\n").unwrap();
        let due: Vec<bool> = ["written", "completed", "written", "written"].map(|point| points.is_due(point)).into();
        assert_eq!(due, [false, false, true, false]);
        std::fs::write(directory.path().join("written"), "soon").unwrap();
        assert!(!points.is_due("written"));
        std::fs::write(directory.path().join("written"), "1").unwrap();
        assert!(points.is_due("written"), "earlier times do not count, and do not keep it from counting");
    }
}
