//! Tasks whose code does not return: they read nothing, take no part in checkpoints and do not hear that they are cancelled.
//!
//! Nobody but their user can tell an endless loop from long work, so nothing is done about them before they are cancelled: then
//! the TaskManager ends the executor after `task.cancellation.timeout`. But it is said, again and again.

use std::collections::BTreeMap;
use std::fs;

use perennial_types::{ExecutionAttemptId, ExecutionState, SlotIndex};

use super::{Executor, TICK, slot_name};

/// After so many looks it is said for the first time: well above what a batch or a full disk takes.
const LOOKS: u32 = 10;

/// What is known of a task at one look.
#[derive(Debug, Clone, Copy)]
pub(super) struct Look {
    pub(super) attempt: ExecutionAttemptId,
    /// A number for its present stay in the job's code, if it is in there.
    pub(super) stay: Option<u64>,
    /// Whether it was asked to end.
    pub(super) cancelled: bool,
}

#[derive(Debug, Default)]
struct Stay {
    number: u64,
    looks: u32,
    told: u32,
    told_cancelled: bool,
}

/// Compares each look with the ones before.
#[derive(Debug, Default)]
pub(super) struct Watch {
    stays: BTreeMap<ExecutionAttemptId, Stay>,
}

impl Watch {
    /// Tasks to speak of now, each with the number of looks it has been in the job's code for: after some time and then after
    /// twice as long each time, and once when it was asked to end.
    pub(super) fn look(&mut self, tasks: impl Iterator<Item = Look>) -> Vec<(ExecutionAttemptId, u32)> {
        let (mut stays, mut news) = (BTreeMap::new(), Vec::new());
        for Look { attempt, stay, cancelled } in tasks {
            let Some(number) = stay else { continue };
            let mut stay = self.stays.remove(&attempt).filter(|known| known.number == number).unwrap_or_default();
            if stay.number == number {
                stay.looks += 1;
            }
            stay.number = number;
            let long = stay.looks >= LOOKS && stay.looks >= 2 * stay.told;
            if long || (cancelled && stay.looks > 0 && !stay.told_cancelled) {
                stay.told = stay.looks;
                stay.told_cancelled |= cancelled;
                news.push((attempt, stay.looks));
            }
            stays.insert(attempt, stay);
        }
        self.stays = stays;
        news
    }
}

impl Executor<'_> {
    /// Says which tasks do not come back from the job's code. The last lines of this process are in the cause when it is killed.
    pub(super) fn tell_of_stuck_tasks(&mut self) {
        let looks = self.executions.alive().map(|(attempt, execution)| Look {
            attempt,
            stay: execution.mailbox.presence.stay(),
            cancelled: execution.state == ExecutionState::Canceling,
        });
        for (attempt, looks) in self.watch.look(looks) {
            let vertex = self.job.graph.vertices.iter().find(|vertex| vertex.id == attempt.vertex);
            let name = vertex.map_or("", |vertex| &vertex.name);
            let slot = self.executions.get_mut(attempt).map_or(SlotIndex(0), |execution| execution.slot);
            eprintln!(
                "WARN `{name}` ({}) has not returned from the job's code for {} s, and hears neither checkpoints nor a cancel; {}",
                attempt.subtask + 1,
                u64::from(looks) * TICK.as_secs(),
                doing(&slot_name(slot))
            );
        }
    }
}

/// What a thread of this process does, by its name.
fn doing(thread: &str) -> &'static str {
    let threads = fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let read = |at: &fs::DirEntry, file: &str| fs::read_to_string(at.path().join(file)).unwrap_or_default();
    let stat = threads.into_iter().find(|at| read(at, "comm").trim_end() == thread).map(|at| read(&at, "stat"));
    // The state follows the name, which may hold anything.
    match stat.as_deref().and_then(|stat| stat.rsplit_once(") ")?.1.chars().next()) {
        Some('R') => "it uses the processor",
        Some('D') => "it waits for a disk or a file system",
        Some('S') => "it sleeps, or waits for something else",
        _ => "it is not known what it does",
    }
}

#[cfg(test)]
mod tests {
    use perennial_types::VertexId;

    use super::*;

    fn attempt(subtask: u32) -> ExecutionAttemptId {
        ExecutionAttemptId { vertex: VertexId::from_bytes([1; 16]), subtask, attempt: 0 }
    }

    /// Numbers of looks at which a task is spoken of; its stay and whether it was cancelled by then come from `at`.
    fn spoken(looks: u32, at: impl Fn(u32) -> (Option<u64>, bool)) -> Vec<u32> {
        let mut watch = Watch::default();
        let look = |number| {
            let (stay, cancelled) = at(number);
            watch.look([Look { attempt: attempt(0), stay, cancelled }].into_iter()).len()
        };
        let said: Vec<usize> = (0..looks).map(look).collect();
        (0..looks).zip(said).filter(|(_, said)| *said > 0).map(|(number, _)| number).collect()
    }

    #[test]
    fn a_task_that_does_not_return_is_spoken_of_less_and_less_often() {
        assert_eq!(spoken(100, |_| (Some(7), false)), [10, 20, 40, 80]);
        assert_eq!(spoken(100, |number| (Some(u64::from(number)), false)), Vec::<u32>::new(), "it returns each time");
        assert_eq!(spoken(100, |_| (None, true)), Vec::<u32>::new(), "it is not in the job's code");
        assert_eq!(spoken(30, |number| (Some(if number < 15 { 1 } else { 3 }), false)), [10, 25]);
    }

    #[test]
    fn a_cancelled_task_is_spoken_of_at_once_and_once() {
        assert_eq!(spoken(9, |_| (Some(7), true)), [1]);
        assert_eq!(spoken(19, |number| (Some(7), number >= 14)), [10, 14]);
    }

    #[test]
    fn what_a_thread_does_is_told_by_its_name() {
        let (sender, receiver) = std::sync::mpsc::channel::<()>();
        let named = std::thread::Builder::new().name("slot-4711".to_owned());
        let thread = named.spawn(move || receiver.recv().is_err()).unwrap();
        while doing("slot-4711") != "it sleeps, or waits for something else" {
            std::thread::yield_now();
        }
        drop(sender);
        assert!(thread.join().unwrap());
        assert_eq!(doing("nobody"), "it is not known what it does");
    }
}
