//! Tables of events.

use super::*;
use perennial_types::{CheckpointMetadata, JobId, SnapshotKind, TaskSnapshot, VertexId};

const SETTINGS: Settings =
    Settings { interval: Some(Duration::from_secs(1)), timeout: Duration::from_secs(600), min_pause: Duration::ZERO };

fn attempt(subtask: u32) -> ExecutionAttemptId {
    ExecutionAttemptId { vertex: VertexId::from_bytes([1; 16]), subtask, attempt: 0 }
}

/// Task 0 on `a`, a root, task 1 on `b`.
fn participants() -> Vec<Participant> {
    let at = |subtask, name: &str| Participant {
        attempt: attempt(subtask),
        taskmanager: TaskManagerId(name.to_owned()),
        is_root: subtask == 0,
    };
    vec![at(0, "a"), at(1, "b")]
}

fn stored(checkpoint: u64) -> Arc<StoredCheckpoint> {
    let checkpoint = CheckpointId(checkpoint);
    let (job, kind) = (JobId::from_bytes([7; 16]), SnapshotKind::Checkpoint);
    let metadata = CheckpointMetadata { job, checkpoint, kind, at_ms: 9, vertices: Vec::new() };
    let (encoded, location) = (Arc::from([]), "file:///c".to_owned());
    Arc::new(StoredCheckpoint { metadata, started_ms: 5, encoded, crc: 0, location })
}

fn text(effect: &Effect) -> String {
    let id = |id: &Option<CheckpointId>| id.map_or_else(|| "-".to_owned(), |id| id.0.to_string());
    match effect {
        Effect::Reserve(checkpoint) => format!("reserve {}", checkpoint.0),
        Effect::Trigger { to, checkpoint, roots } => format!("trigger {} {to} roots {}", checkpoint.0, roots.len()),
        Effect::Write { checkpoint, snapshots, .. } => format!("write {} of {}", checkpoint.0, snapshots.len()),
        Effect::Complete(stored) => format!("complete {}", stored.checkpoint().0),
        Effect::Abort { checkpoint, .. } => format!("abort {}", checkpoint.0),
        Effect::Notify { to, completed, aborted } => {
            let to = to.as_ref().map_or("all", |to| &to.0);
            format!("notify {to} {}/{}", id(completed), id(aborted))
        }
        Effect::SetTimer(Timer::Interval(number), _) => format!("interval {number}"),
        Effect::SetTimer(Timer::Pause(number), _) => format!("pause {number}"),
        Effect::SetTimer(Timer::Timeout(checkpoint), _) => format!("timeout {}", checkpoint.0),
    }
}

/// A coordinator, and what comes of events.
struct Table(Coordinator);

impl Table {
    fn new(settings: Settings) -> Self {
        Self(Coordinator::new(settings, CheckpointRecord::default()))
    }

    /// The same with checkpoint 1 on its way to both tasks.
    fn triggered(settings: Settings) -> Self {
        let mut this = Self::new(settings);
        this.may_trigger(&["reserve 1", "interval 1"]);
        this.reserved(1, &["trigger 1 a roots 1", "trigger 1 b roots 0", "timeout 1"]);
        this
    }

    #[track_caller]
    fn check(&mut self, event: Event, expected: &[&str]) {
        let effects: Vec<String> = self.0.apply(event.clone()).iter().map(text).collect();
        assert_eq!(effects, expected, "{event:?}");
    }

    #[track_caller]
    fn may_trigger(&mut self, expected: &[&str]) {
        self.check(Event::MayTrigger { now_ms: 5 }, expected);
    }

    #[track_caller]
    fn reserved(&mut self, checkpoint: u64, expected: &[&str]) {
        let checkpoint = CheckpointId(checkpoint);
        self.check(Event::Reserved { checkpoint, participants: participants() }, expected);
    }

    #[track_caller]
    fn acked(&mut self, subtask: u32, checkpoint: u64, expected: &[&str]) {
        let (attempt, checkpoint) = (attempt(subtask), CheckpointId(checkpoint));
        self.check(Event::Acked { attempt, checkpoint, snapshot: TaskSnapshot::default() }, expected);
    }

    #[track_caller]
    fn timer(&mut self, timer: Timer, expected: &[&str]) {
        self.check(Event::TimerFired(timer), expected);
    }
}

#[test]
fn it_is_reserved_then_triggered_then_written_then_completed_then_told() {
    let mut t = Table::triggered(SETTINGS);
    t.acked(0, 1, &[]);
    t.acked(0, 1, &[]);
    t.acked(1, 1, &["write 1 of 2"]);
    t.acked(1, 1, &[]);
    t.check(Event::Written(stored(1)), &["complete 1"]);
    assert_eq!(t.0.completed(), None, "not before the log says so");
    t.check(Event::Completed(CheckpointId(1)), &["notify all 1/-"]);
    assert_eq!(t.0.completed().map(|newest| newest.checkpoint().0), Some(1));
    t.may_trigger(&[]);
    t.timer(Timer::Interval(1), &[]);
    t.may_trigger(&["reserve 2", "interval 2"]);
}

#[test]
fn nothing_is_taken_without_an_interval() {
    let mut t = Table::new(Settings { interval: None, ..SETTINGS });
    t.may_trigger(&[]);
    assert!(!t.0.is_due());
}

#[test]
fn one_that_takes_longer_than_the_interval_is_followed_at_once_or_after_the_pause() {
    let mut t = Table::triggered(SETTINGS);
    t.timer(Timer::Interval(1), &[]);
    t.may_trigger(&[]);
    t.acked(0, 1, &[]);
    t.acked(1, 1, &["write 1 of 2"]);
    t.check(Event::Written(stored(1)), &["complete 1"]);
    t.check(Event::Completed(CheckpointId(1)), &["notify all 1/-"]);
    t.may_trigger(&["reserve 2", "interval 2"]);

    let mut t = Table::triggered(Settings { min_pause: Duration::from_secs(5), ..SETTINGS });
    t.timer(Timer::Interval(1), &[]);
    t.acked(0, 1, &[]);
    t.acked(1, 1, &["write 1 of 2"]);
    t.check(Event::Written(stored(1)), &["complete 1"]);
    t.check(Event::Completed(CheckpointId(1)), &["notify all 1/-", "pause 1"]);
    t.may_trigger(&[]);
    t.timer(Timer::Pause(1), &[]);
    t.may_trigger(&["reserve 2", "interval 2"]);
}

#[test]
fn one_that_is_not_taken_in_time_is_aborted_in_the_log_and_then_told() {
    let mut t = Table::triggered(SETTINGS);
    t.acked(0, 1, &[]);
    t.timer(Timer::Timeout(CheckpointId(1)), &["abort 1"]);
    t.acked(1, 1, &[]);
    t.timer(Timer::Timeout(CheckpointId(1)), &[]);
    t.timer(Timer::Interval(1), &[]);
    t.may_trigger(&[]);
    t.check(Event::Aborted(CheckpointId(1)), &["notify all -/1"]);
    t.may_trigger(&["reserve 2", "interval 2"]);
}

#[test]
fn one_that_a_task_declines_or_that_is_not_written_is_aborted() {
    let mut t = Table::triggered(SETTINGS);
    let (attempt, checkpoint) = (attempt(1), CheckpointId(1));
    t.check(Event::Declined { attempt, checkpoint: CheckpointId(7), reason: String::new() }, &[]);
    t.check(Event::Declined { attempt, checkpoint, reason: "disk full".to_owned() }, &["abort 1"]);

    let mut t = Table::triggered(SETTINGS);
    t.acked(0, 1, &[]);
    t.acked(1, 1, &["write 1 of 2"]);
    t.check(Event::NotWritten { checkpoint, reason: "disk full".to_owned() }, &["abort 1"]);
    t.check(Event::Written(stored(1)), &[]);
}

/// The log decides about one on its way to be completed: its files are whole, and the restored tasks start from it.
#[test]
fn lost_tasks_abort_what_they_take_and_not_what_they_have_taken() {
    let mut t = Table::triggered(SETTINGS);
    t.check(Event::TasksLost, &["abort 1"]);
    t.check(Event::TasksLost, &[]);
    t.acked(0, 1, &[]);
    t.check(Event::Aborted(CheckpointId(1)), &["notify all -/1"]);
    t.may_trigger(&["reserve 2", "interval 2"]);
    t.timer(Timer::Interval(1), &[]);
    t.check(Event::TasksLost, &["abort 2"]);
    t.reserved(2, &[]);

    let mut t = Table::triggered(SETTINGS);
    t.acked(0, 1, &[]);
    t.acked(1, 1, &["write 1 of 2"]);
    t.check(Event::Written(stored(1)), &["complete 1"]);
    t.check(Event::TasksLost, &[]);
    t.check(Event::Completed(CheckpointId(1)), &["notify all 1/-"]);
    t.may_trigger(&["reserve 2", "interval 2"]);
}

/// A retry of an entry whose outcome was unknown may find that it must not be completed.
#[test]
fn one_that_the_log_refuses_to_complete_was_aborted() {
    let mut t = Table::triggered(SETTINGS);
    t.acked(0, 1, &[]);
    t.acked(1, 1, &["write 1 of 2"]);
    t.check(Event::Written(stored(1)), &["complete 1"]);
    t.check(Event::Aborted(CheckpointId(1)), &["notify all -/1"]);
    assert_eq!(t.0.completed(), None);
}

#[test]
fn a_task_that_finishes_meanwhile_has_no_share() {
    let mut t = Table::triggered(SETTINGS);
    t.check(Event::TaskFinished(attempt(0)), &[]);
    t.acked(1, 1, &["write 1 of 2"]);
}

#[test]
fn a_taskmanager_that_comes_back_is_told_what_it_may_have_missed() {
    let mut t = Table::triggered(SETTINGS);
    let here = |name: &str| Event::Here(TaskManagerId(name.to_owned()));
    t.check(here("a"), &["trigger 1 a roots 1"]);
    t.check(here("c"), &[]);
    t.acked(0, 1, &[]);
    t.check(here("a"), &[]);
    t.acked(1, 1, &["write 1 of 2"]);
    t.check(Event::Written(stored(1)), &["complete 1"]);
    t.check(here("a"), &[]);
    t.check(Event::Completed(CheckpointId(1)), &["notify all 1/-"]);
    t.check(here("a"), &["notify a 1/-"]);
}

/// SeaTunnel #10675: nobody asked for the next checkpoint after a change of leader.
#[test]
fn a_new_leader_aborts_what_is_in_flight_and_takes_another_at_once() {
    let record = CheckpointRecord { counter: 8, in_flight: vec![CheckpointId(8)], completed: Some(stored(7)) };
    let mut t = Table(Coordinator::new(SETTINGS, record));
    t.check(Event::Started, &["abort 8"]);
    t.check(Event::Here(TaskManagerId("a".to_owned())), &["notify a 7/-"]);
    t.check(Event::Aborted(CheckpointId(8)), &["notify all 7/8"]);
    t.check(Event::Here(TaskManagerId("b".to_owned())), &["notify b 7/8"]);
    t.may_trigger(&["reserve 9", "interval 1"]);
}

#[test]
fn a_job_that_ends_begins_nothing_and_lets_a_decided_one_be_told() {
    let mut t = Table::triggered(SETTINGS);
    t.check(Event::Ending, &[]);
    t.acked(0, 1, &[]);
    t.acked(1, 1, &[]);

    let mut t = Table::triggered(SETTINGS);
    t.acked(0, 1, &[]);
    t.acked(1, 1, &["write 1 of 2"]);
    t.check(Event::Written(stored(1)), &["complete 1"]);
    t.check(Event::Ending, &[]);
    t.check(Event::Completed(CheckpointId(1)), &["notify all 1/-"]);
}

#[test]
fn a_refused_number_is_tried_again_after_the_interval() {
    let mut t = Table::new(SETTINGS);
    t.may_trigger(&["reserve 1", "interval 1"]);
    t.check(Event::NotReserved(CheckpointId(1)), &[]);
    t.may_trigger(&[]);
    t.timer(Timer::Interval(1), &[]);
    t.may_trigger(&["reserve 1", "interval 2"]);
}
