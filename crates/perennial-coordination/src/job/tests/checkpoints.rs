//! Checkpoints of a job: which tasks take part, and from which one a region restarts.

use perennial_types::{CheckpointId, ExecutionState, JobStatus, TaskSnapshot};

use super::fixture::Shape::{Apart, Joined};
use super::fixture::*;
use crate::checkpoint::{CheckpointRecord, Settings, Timer as CheckpointTimer};
use crate::job::*;

impl Fixture {
    /// A job that has just reserved checkpoint 1.
    fn reserving(shape: Shape) -> Self {
        let mut this = Self::with(shape, losses_only(), every_second());
        this.start();
        this
    }

    fn start(&mut self) {
        let this = self;
        this.apply(Event::Start);
        this.apply(Event::SlotsGranted(slots()));
        this.recorded(IntentKind::Placement, 20);
        this.recorded(IntentKind::Deployment, 21);
        this.ready("a");
        this.ready("b");
        this.report("a", 0, ExecutionState::Running);
        assert_eq!(
            this.report("b", 1, ExecutionState::Running),
            ["record RUNNING", "reserve 1", "timer Checkpoint"],
            "the first is taken as soon as all run"
        );
    }

    /// A task waits for its last checkpoint.
    fn end_input(&mut self, name: &str, task: u32) -> Vec<String> {
        let update = ExecutionUpdate { input_ended: true, ..update(self.current(task), ExecutionState::Running) };
        self.apply(Event::Execution { taskmanager: tm(name), update })
    }

    fn acked(&mut self, name: &str, task: u32, checkpoint: u64) -> Vec<String> {
        let (taskmanager, attempt) = (tm(name), self.current(task));
        let (checkpoint, result) = (CheckpointId(checkpoint), Ok(TaskSnapshot::default()));
        self.apply(Event::Snapshot { taskmanager, attempt, checkpoint, result })
    }

    fn written(&mut self, checkpoint: u64) -> Vec<String> {
        let checkpoint = CheckpointId(checkpoint);
        self.apply(Event::MetadataWritten { checkpoint, result: Ok(stored(checkpoint)) })
    }

    /// The same with checkpoint 1 on its way to be completed.
    fn completing(shape: Shape) -> Self {
        let mut this = Self::reserving(shape);
        this.recorded(IntentKind::ReserveCheckpoint(CheckpointId(1)), 30);
        this.acked("a", 0, 1);
        assert_eq!(this.acked("b", 1, 1), ["write 1"]);
        assert_eq!(this.written(1), ["complete 1"]);
        this
    }

    fn completed(&mut self, checkpoint: u64, index: u64) -> Vec<String> {
        self.recorded(IntentKind::CompleteCheckpoint(CheckpointId(checkpoint)), index)
    }
}

#[test]
fn every_task_that_has_not_finished_takes_part() {
    let reserved = IntentKind::ReserveCheckpoint(CheckpointId(1));
    for shape in [Joined, Apart] {
        let mut f = Fixture::reserving(shape);
        assert_eq!(f.recorded(reserved, 30), ["a@30: trigger 1", "b@30: trigger 1", "timer Checkpoint"]);
    }
    let mut f = Fixture::reserving(Joined);
    f.report("a", 0, ExecutionState::Finished);
    assert_eq!(f.recorded(reserved, 30), ["b@30: trigger 1", "timer Checkpoint"]);
    assert_eq!(f.acked("b", 1, 1), ["write 1"]);
}

#[test]
fn the_last_checkpoint_is_taken_as_soon_as_the_inputs_of_all_tasks_have_ended() {
    let mut f = Fixture::completing(Joined);
    f.completed(1, 40);
    assert!(f.end_input("a", 0).is_empty(), "the other one still works");
    assert_eq!(f.end_input("b", 1), ["reserve 2", "timer Checkpoint"]);
    assert!(f.end_input("b", 1).is_empty());
    // Told again to a new leader.
    let record = CheckpointRecord { counter: 1, in_flight: Vec::new(), completed: Some(stored(CheckpointId(1))) };
    let (mut f, _) = Fixture::recovered_with(Joined, JobStatus::Running, &[], every_second(), record);
    f.here("a", Some(&[(0, ExecutionState::Running)]));
    f.here("b", Some(&[(1, ExecutionState::Running)]));
    f.end_input("a", 0);
    assert!(f.end_input("b", 1).is_empty(), "the first one of a new leader is on its way");
    f.recorded(IntentKind::ReserveCheckpoint(CheckpointId(2)), 60);
    f.acked("a", 0, 2);
    f.acked("b", 1, 2);
    f.written(2);
    let taken = f.completed(2, 61);
    assert!(taken.contains(&"reserve 3".to_owned()), "it was taken before they had ended: {taken:?}");
}

#[test]
fn a_checkpoint_that_fails_names_the_task_and_its_place() {
    let mut f = Fixture::reserving(Joined);
    f.recorded(IntentKind::ReserveCheckpoint(CheckpointId(1)), 30);
    f.acked("a", 0, 1);
    let timeout = Timer::Checkpoint(CheckpointTimer::Timeout(CheckpointId(1)));
    let effects = f.job.apply(9, Event::TimerFired(timeout));
    let [Effect::Record(Intent::AbortCheckpoint { reason, .. })] = effects.as_slice() else { panic!("{effects:?}") };
    assert_eq!(
        reason,
        "`sink` (1/1) attempt 0 on TaskManager b did not answer within 10 min (execution.checkpointing.timeout)"
    );
}

#[test]
fn a_job_whose_checkpoints_fail_too_often_restarts_whole_if_its_strategy_says_so() {
    for (strategy, expected) in [
        (always(), vec!["a@30: notify -/1", "b@30: notify -/1", "record RESTARTING", "timer Restart 1000 ms"]),
        (losses_only(), vec!["a@30: notify -/1", "b@30: notify -/1", "record FAILING"]),
    ] {
        let settings = Settings { failures_tolerated: 0, ..every_second() };
        let mut f = Fixture::with(Apart, strategy, settings);
        f.start();
        f.recorded(IntentKind::ReserveCheckpoint(CheckpointId(1)), 30);
        let (taskmanager, attempt) = (tm("b"), f.current(1));
        let (checkpoint, result) = (CheckpointId(1), Err("no space left on device".to_owned()));
        assert_eq!(f.apply(Event::Snapshot { taskmanager, attempt, checkpoint, result }), ["abort 1"]);
        let effects = f.recorded(IntentKind::AbortCheckpoint(CheckpointId(1)), 30);
        assert_eq!(effects[..expected.len()], expected);
        assert!(effects.contains(&"a@30: cancel #0".to_owned()), "also what had nothing to do with it: {effects:?}");
    }
}

#[test]
fn that_it_is_completed_is_told_with_the_index_of_its_entry() {
    let mut f = Fixture::completing(Joined);
    assert_eq!(f.completed(1, 40), ["a@40: notify 1/-", "b@40: notify 1/-"]);
    assert_eq!(f.job.checkpoints().completed().map(|stored| stored.checkpoint()), Some(CheckpointId(1)));
}

#[test]
fn an_answer_from_elsewhere_or_of_an_older_attempt_counts_for_nothing() {
    let mut f = Fixture::reserving(Joined);
    f.recorded(IntentKind::ReserveCheckpoint(CheckpointId(1)), 30);
    f.acked("b", 0, 1);
    assert!(f.acked("b", 1, 1).is_empty(), "task 0 runs on `a`");
    assert_eq!(f.acked("a", 0, 1), ["write 1"]);
}

#[test]
fn a_region_restarts_from_the_newest_checkpoint_and_the_next_is_taken_when_it_runs() {
    let mut f = Fixture::completing(Apart);
    f.completed(1, 40);
    assert_eq!(f.lose_executor("b"), ["record RESTARTING", "place b"]);
    assert_eq!(f.recorded(IntentKind::Placement, 50), ["b@50: start"]);
    assert_eq!(f.ready("b"), ["b@50: deploy #1 from 1"]);
    assert_eq!(f.report("b", 1, ExecutionState::Running), ["record RUNNING", "reserve 2", "timer Checkpoint"]);
}

/// The entry that completes it is before the one that places the region anew, so it is known which one counts. Were the
/// checkpoint chosen when the task is lost, sinks would commit what the region then says again.
#[test]
fn one_that_is_completed_while_its_tasks_are_lost_is_the_one_to_restore() {
    let mut f = Fixture::completing(Apart);
    assert_eq!(f.lose_executor("b"), ["record RESTARTING", "place b"], "the log decides about it");
    assert_eq!(f.completed(1, 40), ["a@40: notify 1/-"]);
    assert_eq!(f.recorded(IntentKind::Placement, 50), ["b@50: start"]);
    assert_eq!(f.ready("b"), ["b@50: deploy #1 from 1"]);
}

#[test]
fn lost_tasks_abort_the_checkpoint_before_their_region_is_placed_again() {
    let mut f = Fixture::reserving(Apart);
    f.recorded(IntentKind::ReserveCheckpoint(CheckpointId(1)), 30);
    assert_eq!(f.lose_executor("b"), ["abort 1", "record RESTARTING", "place b"]);
    assert_eq!(f.recorded(IntentKind::AbortCheckpoint(CheckpointId(1)), 40), ["a@40: notify -/1"]);
}

/// The siblings of a task whose deployment was lost with the connection have started from the same checkpoint.
#[test]
fn a_task_that_is_deployed_again_starts_from_the_same_checkpoint() {
    let mut f = Fixture::completing(Apart);
    f.completed(1, 40);
    f.lose_executor("b");
    f.recorded(IntentKind::Placement, 50);
    f.ready("b");
    f.detach("b");
    assert_eq!(f.here("b", Some(&[])), ["b@50: notify 1/-", "b@50: deploy #1 from 1"]);
}

#[test]
fn nothing_is_taken_while_a_taskmanager_is_away_and_at_once_when_it_is_back() {
    let mut f = Fixture::completing(Apart);
    f.completed(1, 40);
    f.detach("b");
    assert!(f.apply(Event::TimerFired(Timer::Checkpoint(CheckpointTimer::Interval(1)))).is_empty());
    assert_eq!(
        f.here("b", Some(&[(1, ExecutionState::Running)])),
        ["b@40: notify 1/-", "reserve 2", "timer Checkpoint"]
    );
}

#[test]
fn a_taskmanager_that_cannot_pass_it_on_ends_the_checkpoint_and_nothing_else() {
    let mut f = Fixture::reserving(Joined);
    f.recorded(IntentKind::ReserveCheckpoint(CheckpointId(1)), 30);
    assert!(f.refused("a", CommandKind::TriggerCheckpoint(CheckpointId(7))).is_empty());
    assert_eq!(f.refused("a", CommandKind::TriggerCheckpoint(CheckpointId(1))), ["abort 1"]);
    assert_eq!(f.job.status(), JobStatus::Running);
}

/// SeaTunnel #10675. What counts is told again, what is in flight is over, and the next is taken when the last has come.
#[test]
fn a_new_leader_ends_what_is_in_flight_and_takes_the_next_at_once() {
    let record =
        CheckpointRecord { counter: 8, in_flight: vec![CheckpointId(8)], completed: Some(stored(CheckpointId(7))) };
    let (mut f, first) = Fixture::recovered_with(Joined, JobStatus::Running, &[], every_second(), record);
    assert_eq!(first, ["abort 8", "timer Reconciliation"]);
    assert_eq!(f.here("a", Some(&[(0, ExecutionState::Running)])), ["a@50: notify 7/-"]);
    assert_eq!(f.recorded(IntentKind::AbortCheckpoint(CheckpointId(8)), 60), ["a@60: notify 7/8"]);
    assert_eq!(
        f.here("b", Some(&[(1, ExecutionState::Running)])),
        ["b@60: notify 7/8", "reserve 9", "timer Checkpoint"]
    );
}

/// A new leader that does not find the tasks starts them from what the old one has completed.
#[test]
fn a_region_that_a_new_leader_restarts_starts_from_the_newest_checkpoint() {
    let record = CheckpointRecord { counter: 8, in_flight: Vec::new(), completed: Some(stored(CheckpointId(7))) };
    let (mut f, _) = Fixture::recovered_with(Apart, JobStatus::Running, &[], every_second(), record);
    f.here("a", Some(&[(0, ExecutionState::Running)]));
    assert_eq!(f.here("b", None), ["record RESTARTING", "place b"]);
    assert_eq!(f.recorded(IntentKind::Placement, 60), ["b@60: start"]);
    assert_eq!(f.ready("b"), ["b@60: deploy #4 from 7"]);
}
