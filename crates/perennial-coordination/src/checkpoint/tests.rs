//! Tables of events.

use super::*;
use perennial_types::{CheckpointMetadata, JobId, SnapshotKind, TaskSnapshot, VertexId};

/// Every second, one at a time, and none may fail.
const SETTINGS: Settings = Settings {
    interval: Some(Duration::from_secs(1)),
    timeout: Duration::from_secs(600),
    min_pause: Duration::ZERO,
    concurrent_max: NonZeroU32::MIN,
    failures_tolerated: 0,
};

fn attempt(subtask: u32) -> ExecutionAttemptId {
    ExecutionAttemptId { vertex: VertexId::from_bytes([1; 16]), subtask, attempt: 0 }
}

/// Task 0 on `a`, task 1 on `b`.
fn participants() -> Vec<Participant> {
    let at =
        |subtask, name: &str| Participant { attempt: attempt(subtask), taskmanager: TaskManagerId(name.to_owned()) };
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
        Effect::Trigger { to, checkpoint } => format!("trigger {} {to}", checkpoint.0),
        Effect::Write { checkpoint, snapshots, .. } => format!("write {} of {}", checkpoint.0, snapshots.len()),
        Effect::Complete(stored) => format!("complete {}", stored.checkpoint().0),
        Effect::Abort { checkpoint, .. } => format!("abort {}", checkpoint.0),
        Effect::FailJob { checkpoint, tolerated, .. } => format!("fail with {}, {tolerated} tolerated", checkpoint.0),
        Effect::Notify { to, completed, aborted } => {
            let to = to.as_ref().map_or("all", |to| &to.0);
            let aborted: Vec<String> = aborted.iter().map(|id| id.0.to_string()).collect();
            let aborted = if aborted.is_empty() { "-".to_owned() } else { aborted.join(",") };
            format!("notify {to} {}/{aborted}", id(completed))
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
        this.reserved(1, &["trigger 1 a", "trigger 1 b", "timeout 1"]);
        this
    }

    #[track_caller]
    fn check(&mut self, event: Event, expected: &[&str]) {
        let effects: Vec<String> = self.0.apply(event.clone()).iter().map(text).collect();
        assert_eq!(effects, expected, "{event:?}");
    }

    #[track_caller]
    fn may_trigger(&mut self, expected: &[&str]) {
        self.check(Event::MayTrigger { now_ms: 5, inputs_ended: false }, expected);
    }

    /// All tasks wait for their last checkpoint.
    #[track_caller]
    fn inputs_ended(&mut self, expected: &[&str]) {
        self.check(Event::MayTrigger { now_ms: 5, inputs_ended: true }, expected);
    }

    #[track_caller]
    fn declined(&mut self, subtask: u32, checkpoint: u64, expected: &[&str]) {
        let (attempt, checkpoint, reason) = (attempt(subtask), CheckpointId(checkpoint), "disk full".to_owned());
        self.check(Event::Declined { attempt, checkpoint, reason }, expected);
    }

    #[track_caller]
    fn aborted(&mut self, checkpoint: u64, expected: &[&str]) {
        self.check(Event::Aborted(CheckpointId(checkpoint)), expected);
    }

    /// Both tasks answer, and it is completed.
    #[track_caller]
    fn complete(&mut self, stored: Arc<StoredCheckpoint>, expected: &[&str]) {
        let checkpoint = stored.checkpoint();
        self.acked(0, checkpoint.0, &[]);
        self.acked(1, checkpoint.0, &[&format!("write {} of 2", checkpoint.0)]);
        self.check(Event::Written(stored), &[&format!("complete {}", checkpoint.0)]);
        self.check(Event::Completed(checkpoint), expected);
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
    assert!(!t.0.is_due(false) && !t.0.is_due(true));
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
    t.aborted(1, &["notify all -/1", "fail with 1, 0 tolerated"]);
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
fn a_checkpoint_ends_with_the_connection_of_a_taskmanager_that_has_not_taken_it() {
    let name = |name: &str| TaskManagerId(name.to_owned());
    let mut t = Table::triggered(SETTINGS);
    t.check(Event::Away(name("c")), &[]);
    t.acked(0, 1, &[]);
    t.check(Event::Away(name("a")), &[]);
    t.check(Event::Here(name("a")), &[]);
    t.check(Event::Away(name("b")), &["abort 1"]);
    t.check(Event::Here(name("b")), &[]);
    t.aborted(1, &["notify all -/1"]);
    t.may_trigger(&["reserve 2", "interval 2"]);
    t.reserved(2, &["trigger 2 a", "trigger 2 b", "timeout 2"]);
    // It is back before anybody has noticed.
    t.check(Event::Here(name("b")), &["abort 2", "notify b -/1"]);
    t.aborted(2, &["notify all -/1,2"]);
    t.may_trigger(&["reserve 3", "interval 3"]);
    t.reserved(3, &["trigger 3 a", "trigger 3 b", "timeout 3"]);
    t.complete(stored(3), &["notify all 3/-"]);
    t.check(Event::Here(name("a")), &["notify a 3/-"]);
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

fn last(checkpoint: u64) -> Arc<StoredCheckpoint> {
    let graph = crate::job::testing::graph(&[("count", 2, "default")]);
    let mut stored = (*stored(checkpoint)).clone();
    stored.metadata.vertices = by_vertex(&graph, Vec::new());
    Arc::new(stored)
}

#[test]
fn the_last_one_is_taken_as_soon_as_every_input_has_ended_and_none_after_it() {
    let paused = Settings { min_pause: Duration::from_secs(9), ..SETTINGS };
    let mut t = Table::triggered(paused);
    t.inputs_ended(&[]);
    // Taken before some task had finished its operators.
    t.complete(stored(1), &["notify all 1/-", "pause 1"]);
    t.may_trigger(&[]);
    t.inputs_ended(&["reserve 2", "interval 2"]);
    t.inputs_ended(&[]);
    t.reserved(2, &["trigger 2 a", "trigger 2 b", "timeout 2"]);
    t.complete(last(2), &["notify all 2/-", "pause 2"]);
    t.inputs_ended(&[]);
}

#[test]
fn a_new_leader_takes_the_last_one_unless_it_is_there() {
    for (newest, expected) in [(stored(7), &["reserve 9", "interval 1"] as &[&str]), (last(7), &[])] {
        let record = CheckpointRecord { counter: 8, in_flight: Vec::new(), completed: Some(newest) };
        let mut t = Table(Coordinator::new(SETTINGS, record));
        t.check(Event::Started, &[]);
        // It is not time for another.
        t.0.interval.runs = true;
        t.inputs_ended(expected);
    }
}

#[test]
fn a_last_one_that_fails_is_not_repeated_at_once() {
    let mut t = Table::new(Settings { failures_tolerated: 9, ..SETTINGS });
    t.inputs_ended(&["reserve 1", "interval 1"]);
    t.reserved(1, &["trigger 1 a", "trigger 1 b", "timeout 1"]);
    t.declined(0, 1, &["abort 1"]);
    t.aborted(1, &["notify all -/1"]);
    t.inputs_ended(&[]);
    t.timer(Timer::Interval(1), &[]);
    t.inputs_ended(&["reserve 2", "interval 2"]);
    t.check(Event::NotReserved(CheckpointId(2)), &[]);
    t.inputs_ended(&[]);
    t.timer(Timer::Interval(2), &[]);
    t.inputs_ended(&["reserve 2", "interval 3"]);
}

#[test]
fn the_job_fails_with_one_failure_in_a_row_more_than_is_tolerated() {
    let mut t = Table::new(Settings { failures_tolerated: 2, ..SETTINGS });
    let mut interval = 0;
    let mut take = |t: &mut Table, checkpoint: u64| {
        interval += 1;
        t.may_trigger(&[&format!("reserve {checkpoint}"), &format!("interval {interval}")]);
        let trigger = |at| format!("trigger {checkpoint} {at}");
        t.reserved(checkpoint, &[&trigger("a"), &trigger("b"), &format!("timeout {checkpoint}")]);
        t.timer(Timer::Interval(interval), &[]);
    };
    for checkpoint in [1, 2] {
        take(&mut t, checkpoint);
        t.declined(0, checkpoint, &[&format!("abort {checkpoint}")]);
        let notice = if checkpoint == 1 { "notify all -/1" } else { "notify all -/1,2" };
        t.aborted(checkpoint, &[notice]);
    }
    take(&mut t, 3);
    t.complete(stored(3), &["notify all 3/-"]);
    take(&mut t, 4);
    t.timer(Timer::Timeout(CheckpointId(4)), &["abort 4"]);
    t.aborted(4, &["notify all 3/4"]);
    // Lost tasks are no fault of a checkpoint, and no success either.
    take(&mut t, 5);
    t.check(Event::TasksLost, &["abort 5"]);
    t.aborted(5, &["notify all 3/4,5"]);
    take(&mut t, 6);
    t.declined(1, 6, &["abort 6"]);
    t.aborted(6, &["notify all 3/4,5,6"]);
    take(&mut t, 7);
    t.declined(1, 7, &["abort 7"]);
    t.aborted(7, &["notify all 3/4,5,6,7", "fail with 7, 2 tolerated"]);
    take(&mut t, 8);
    t.declined(1, 8, &["abort 8"]);
    t.aborted(8, &["notify all 3/4,5,6,7,8"]);
}

#[test]
fn several_may_be_on_their_way_and_one_that_is_completed_ends_those_before_it() {
    let two = NonZeroU32::new(2).unwrap();
    let mut t = Table::triggered(Settings { concurrent_max: two, ..SETTINGS });
    t.may_trigger(&[]);
    t.timer(Timer::Interval(1), &[]);
    t.may_trigger(&["reserve 2", "interval 2"]);
    t.reserved(2, &["trigger 2 a", "trigger 2 b", "timeout 2"]);
    t.timer(Timer::Interval(2), &[]);
    t.may_trigger(&[]);
    t.acked(0, 1, &[]);
    t.complete(stored(2), &["notify all 2/-"]);
    t.acked(1, 1, &[]);
    t.timer(Timer::Timeout(CheckpointId(1)), &[]);
    assert_eq!(t.0.counts(), Counts { completed: 1, failed: 1 });
    t.may_trigger(&["reserve 3", "interval 3"]);
    t.reserved(3, &["trigger 3 a", "trigger 3 b", "timeout 3"]);
    t.timer(Timer::Interval(3), &[]);
    t.may_trigger(&["reserve 4", "interval 4"]);
    t.check(Event::TasksLost, &["abort 3", "abort 4"]);
    t.aborted(3, &["notify all 2/3"]);
    t.aborted(4, &["notify all 2/3,4"]);
}
