//! A new leader and what it finds.

use perennial_types::{ExecutionState, JobStatus};

use super::fixture::Shape::{Apart, Joined};
use super::fixture::*;
use crate::checkpoint::{CheckpointRecord, Settings};
use crate::execution_graph::Recovered;
use crate::job::*;

/// The promise of the project: a new leader finds everything as it should be and tells nobody anything.
#[test]
fn a_running_job_is_adopted_without_a_command() {
    let mut f = Fixture::recovered(Joined, JobStatus::Running, &[]);
    assert_eq!(f.job.status(), JobStatus::Reconciling);
    assert!(f.here("a", Some(&[(0, ExecutionState::Running)])).is_empty());
    assert_eq!(f.job.status(), JobStatus::Reconciling);
    assert!(f.here("b", Some(&[(1, ExecutionState::Running)])).is_empty());
    assert_eq!((f.job.status(), f.job.waiting_for(), f.job.restarts()), (JobStatus::Running, "", 3));
    assert_eq!(f.attempts(), [3, 3], "no attempt changed");
    assert!(f.job.executions().executions().all(|(_, execution)| execution.start_ms() == Some(777)));
    assert!(f.apply(Event::TimerFired(Timer::Reconciliation)).is_empty());
}

/// What is shown of it before its JobMaster has begun must not look as if it had been compared: the take-over's history read that.
#[test]
fn a_job_that_was_taken_over_reconciles_from_the_first_moment() {
    let executions = vec![Recovered { attempt: Joined.attempt(0, 3), assignment: at("a", 0), finished: false }];
    let record = Record {
        status: JobStatus::Running,
        failure: None,
        cancel_requested: false,
        executions,
        deployed_ms: None,
        restarted_ms: None,
        restarts: 0,
        checkpoints: CheckpointRecord::default(),
        index: 50,
    };
    let job = Job::recover(Joined.graph(), PATIENCE, losses_only(), Settings::default(), record);
    assert_eq!(job.status(), JobStatus::Reconciling);
}

/// Whatever the log says of the job, a task started when its executor says so: the same to every leader.
#[test]
fn an_adopted_task_keeps_its_start_time() {
    let mut f = Fixture::recovered(Apart, JobStatus::Running, &[]);
    let attempt = f.current(0);
    let update = ExecutionUpdate { start_ms: Some(4242), ..update(attempt, ExecutionState::Running) };
    let executor = ExecutorState { data_address: "a:1".to_owned(), executions: vec![update] };
    f.apply(Event::TaskManagerHere { taskmanager: tm("a"), executor: Some(executor) });
    assert_eq!(f.job.executions().get(attempt).and_then(|execution| execution.start_ms()), Some(4242));
}

/// An executor died and the leader with it. Its TaskManager comes without it, and then tells what ran there and how it was lost: that
/// something ran is no news, and nobody would ever hear of its end.
#[test]
fn last_states_of_a_lost_executor_bring_nothing_back_to_life() {
    let mut f = Fixture::recovered(Joined, JobStatus::Running, &[]);
    assert!(f.here("b", None).is_empty());
    assert!(f.report("b", 1, ExecutionState::Running).is_empty());
    let cause = "killed by signal 9".to_owned();
    f.apply(Event::ExecutorLost { taskmanager: tm("b"), cause, own_doing: false });
    f.here("a", Some(&[(0, ExecutionState::Failed)]));
    let states = f.job.executions().executions().map(|(_, execution)| execution.state()).collect::<Vec<_>>();
    assert!(
        states.iter().all(|state| !matches!(state, ExecutionState::Running | ExecutionState::Canceling)),
        "{states:?}"
    );
}

/// SeaTunnel #10834, #12386.
#[test]
fn finished_subtasks_are_remembered_and_not_looked_for() {
    for shape in [Joined, Apart] {
        let mut f = Fixture::recovered(shape, JobStatus::Running, &[0]);
        assert!(f.here("b", Some(&[(1, ExecutionState::Running)])).is_empty());
        assert_eq!(f.job.status(), JobStatus::Running);
        assert_eq!(f.apply(Event::TimerFired(Timer::Reconciliation)), ["release a"], "it ran nothing any more");
        assert_eq!(f.report("b", 1, ExecutionState::Finished), ["record FINISHED"]);
    }
}

/// SeaTunnel #12386: after the take-over the job with one finished subtask restarts like any other.
#[test]
fn a_job_with_a_finished_subtask_restarts_after_a_takeover() {
    let mut f = Fixture::recovered(Apart, JobStatus::Running, &[0]);
    assert_eq!(f.here("b", None), ["record RESTARTING", "place b"]);
    f.recorded(IntentKind::Placement, 60);
    f.ready("b");
    f.report("b", 1, ExecutionState::Running);
    assert_eq!((f.job.status(), f.attempts()), (JobStatus::Running, [3, 4]));
    assert_eq!(f.report("b", 1, ExecutionState::Finished), ["record FINISHED"]);
}

/// SeaTunnel #10506: the report is part of what its TaskManager registers with, so it cannot come too early.
#[test]
fn a_job_that_finished_while_nobody_led_ends() {
    let mut f = Fixture::recovered(Joined, JobStatus::Running, &[]);
    f.here("a", Some(&[(0, ExecutionState::Finished)]));
    assert_eq!(f.here("b", Some(&[(1, ExecutionState::Finished)])), ["record FINISHED"]);
}

/// SeaTunnel #10506: a terminal report that comes while other TaskManagers are still awaited counts.
#[test]
fn a_task_that_ends_while_its_job_is_being_reconciled_has_ended() {
    let mut f = Fixture::recovered(Joined, JobStatus::Running, &[]);
    f.here("a", Some(&[(0, ExecutionState::Running)]));
    assert_eq!(f.report("a", 0, ExecutionState::Finished), ["record 1 finished"]);
    assert_eq!(f.here("b", Some(&[(1, ExecutionState::Finished)])), ["record FINISHED"]);
}

#[test]
fn only_the_region_of_what_is_missing_restarts() {
    let mut f = Fixture::recovered(Apart, JobStatus::Running, &[]);
    assert!(f.here("a", Some(&[(0, ExecutionState::Running)])).is_empty());
    assert_eq!(f.here("b", None), ["record RESTARTING", "place b"], "at once: all have come");
    assert_eq!((f.attempts(), f.job.restarts()), ([3, 4], 4));

    let mut f = Fixture::recovered(Joined, JobStatus::Running, &[]);
    f.here("a", Some(&[(0, ExecutionState::Running)]));
    assert_eq!(f.here("b", Some(&[])), ["record RESTARTING", "a@50: cancel #3"]);
    assert_eq!(f.report("a", 0, ExecutionState::Canceled), ["place a b"]);
    assert_eq!(f.recorded(IntentKind::Placement, 60), ["a@60: deploy #4", "b@60: deploy #4"]);
}

#[test]
fn a_taskmanager_that_does_not_come_in_time_costs_a_restart_and_not_the_job() {
    let mut f = Fixture::recovered(Joined, JobStatus::Running, &[]);
    f.here("a", Some(&[(0, ExecutionState::Running)]));
    let over = f.apply(Event::TimerFired(Timer::Reconciliation));
    assert_eq!(over, ["release b", "record RESTARTING", "a@50: cancel #3"]);
    assert_eq!(f.report("a", 0, ExecutionState::Canceled), ["want 1", "timer Slots"]);
    assert_eq!(f.apply(Event::SlotsGranted(vec![at("c", 0)])), ["place a c"]);
    f.recorded(IntentKind::Placement, 60);
    assert_eq!(f.ready("c"), ["a@60: deploy #4", "c@60: deploy #4"]);
    // It comes after all, and runs what was given up.
    let late = f.here_with("b", Some(&[(Joined.attempt(1, 3), ExecutionState::Running)]));
    assert_eq!(late, ["b@60: stop"], "the job has nothing left there");
}

/// A TaskManager that comes late and has got a new part of the job keeps it, and loses the old.
#[test]
fn a_late_taskmanager_that_is_part_of_the_job_again_is_not_harmed() {
    let mut f = Fixture::recovered(Joined, JobStatus::Running, &[]);
    f.here("a", Some(&[(0, ExecutionState::Running)]));
    f.apply(Event::TimerFired(Timer::Reconciliation));
    f.report("a", 0, ExecutionState::Canceled);
    f.apply(Event::SlotsGranted(vec![at("b", 0)]));
    let old = Joined.attempt(1, 3);
    assert_eq!(f.here_with("b", Some(&[(old, ExecutionState::Running)])), ["b@50: cancel #3"]);
    let placed = f.recorded(IntentKind::Placement, 60);
    assert_eq!(placed, ["a@60: deploy #4", "b@60: deploy #4"], "its executor is used");
    let both = [(old, ExecutionState::Canceling), (Joined.attempt(1, 4), ExecutionState::Running)];
    assert_eq!(f.here_with("b", Some(&both)), ["b@60: cancel #3"]);
    assert_eq!(f.report("a", 0, ExecutionState::Running), ["record RUNNING"]);
}

/// The log knows attempt 3; who reports attempt 2 missed a restart.
#[test]
fn an_older_attempt_than_the_logs_is_cancelled_by_its_id() {
    let mut f = Fixture::recovered(Apart, JobStatus::Running, &[]);
    let told = f.here_with("a", Some(&[(Apart.attempt(0, 2), ExecutionState::Running)]));
    assert_eq!(told, ["a@50: cancel #2", "record RESTARTING", "place a"]);
}

#[test]
fn a_job_taken_over_while_it_restarts_goes_on_restarting_without_counting_again() {
    let mut f = Fixture::recovered(Joined, JobStatus::Restarting, &[]);
    f.here("a", Some(&[(0, ExecutionState::Canceled)]));
    let again = f.here("b", Some(&[(1, ExecutionState::Canceling)]));
    assert_eq!(again, ["b@50: cancel #3"], "whether the first one arrived is not known");
    assert_eq!((f.job.status(), f.job.restarts()), (JobStatus::Restarting, 3));
    assert_eq!(f.report("b", 1, ExecutionState::Canceled), ["place a b"]);
    f.recorded(IntentKind::Placement, 60);
    f.report("a", 0, ExecutionState::Running);
    assert_eq!(f.report("b", 1, ExecutionState::Running), ["record RUNNING"]);
    assert_eq!((f.attempts(), f.job.restarts()), ([4, 4], 3));
}

/// The last leader placed the new attempts, told them, and died before it saw them run.
#[test]
fn a_restart_that_came_through_while_nobody_led_is_adopted() {
    let mut f = Fixture::recovered(Joined, JobStatus::Restarting, &[]);
    f.here("a", Some(&[(0, ExecutionState::Running)]));
    assert!(f.here("b", Some(&[(1, ExecutionState::Initializing)])).is_empty());
    assert_eq!(f.job.status(), JobStatus::Restarting);
    assert_eq!(f.report("b", 1, ExecutionState::Running), ["record RUNNING"]);
    assert_eq!(f.attempts(), [3, 3]);
}

#[test]
fn a_new_leader_of_a_restart_finds_its_new_attempts_not_started() {
    let mut f = Fixture::recovered(Joined, JobStatus::Restarting, &[]);
    f.here("a", Some(&[]));
    assert_eq!(f.here("b", None), ["place a b"]);
    assert_eq!(f.job.restarts(), 3);
    assert_eq!(f.recorded(IntentKind::Placement, 60), ["b@60: start"]);
    assert_eq!(f.ready("b"), ["a@60: deploy #4", "b@60: deploy #4"]);
}

/// The old leader died between committing the placement and telling it.
#[test]
fn a_placement_that_was_never_told_is_carried_out_by_the_next_leader() {
    let mut f = Fixture::recovered(Joined, JobStatus::Created, &[]);
    assert!(f.here("a", Some(&[])).is_empty());
    assert_eq!(f.here("b", None), ["b@50: start"]);
    assert_eq!(f.ready("b"), ["a@50: deploy #3", "b@50: deploy #3"]);
}

#[test]
fn the_next_leader_records_that_it_deploys_when_the_last_did_not() {
    let mut f = Fixture::recovered(Joined, JobStatus::Initializing, &[]);
    f.here("a", Some(&[]));
    assert_eq!(f.here("b", Some(&[])), ["record CREATED"]);
    assert_eq!(f.recorded(IntentKind::Deployment, 60), ["a@60: deploy #3", "b@60: deploy #3"]);
}

/// The same, and one TaskManager had heard of its tasks already.
#[test]
fn only_what_is_missing_is_deployed() {
    let mut f = Fixture::recovered(Joined, JobStatus::Created, &[]);
    f.here("a", Some(&[(0, ExecutionState::Initializing)]));
    assert_eq!(f.here("b", Some(&[])), ["b@50: deploy #3"]);
}

#[test]
fn a_placement_nobody_heard_of_is_made_again_when_its_taskmanagers_are_gone() {
    let mut f = Fixture::recovered(Joined, JobStatus::Initializing, &[]);
    f.here("a", Some(&[]));
    assert_eq!(f.apply(Event::TimerFired(Timer::Reconciliation)), ["release b", "want 1", "timer Slots"]);
    assert_eq!((f.attempts(), f.job.restarts()), ([4, 4], 3), "attempt numbers are not used again");
    assert_eq!(f.apply(Event::SlotsGranted(vec![at("c", 0)])), ["place a c"]);
}

/// Nobody can say whether the absent TaskManager ran its task: the next attempt has another number, so the absent one is
/// cancelled by name should it come.
#[test]
fn tasks_that_may_have_run_are_started_under_new_attempts() {
    let mut f = Fixture::recovered(Joined, JobStatus::Created, &[]);
    f.here("a", Some(&[]));
    let over = f.apply(Event::TimerFired(Timer::Reconciliation));
    assert_eq!(over, ["release b", "record RESTARTING", "want 1", "timer Slots"]);
    assert_eq!(f.attempts(), [4, 4]);
}

#[test]
fn a_cancel_committed_under_the_old_leader_is_carried_out_by_the_new_one() {
    let mut f = Fixture::recovered(Joined, JobStatus::Cancelling, &[]);
    assert_eq!(f.job.status(), JobStatus::Cancelling);
    assert_eq!(f.here("a", Some(&[(0, ExecutionState::Running)])), ["a@50: cancel #3"]);
    assert!(f.report("a", 0, ExecutionState::Canceled).is_empty());
    let over = f.apply(Event::TimerFired(Timer::Reconciliation));
    assert_eq!(over, ["release b", "record CANCELED"], "b does not come");
}

/// FLINK-39704, FLINK-11813: at whatever step of its end the leadership changes, the job ends once more the same way, and
/// nothing of it is started. (A job whose end is committed is not taken over at all.)
#[test]
fn a_job_that_was_ending_is_never_brought_back_to_life() {
    for status in [JobStatus::Failing, JobStatus::Cancelling] {
        let mut f = Fixture::recovered(Joined, status, &[]);
        let mut said = f.here("a", Some(&[(0, ExecutionState::Failed)]));
        said.extend(f.here("b", None));
        let end = if status == JobStatus::Failing { "record FAILED" } else { "record CANCELED" };
        assert_eq!(said, [end]);
        assert_eq!(f.recorded(IntentKind::End, 60), ["a@60: stop"]);
        assert!(f.here("b", None).is_empty());
        assert_eq!(f.done("a", CommandKind::StopExecutor), ["release a", "release", "close"]);
        assert!(
            f.here("a", Some(&[(0, ExecutionState::Running)])).is_empty(),
            "its executor is stopped by who owns none"
        );
    }
    // The end was decided and not committed: all tasks were terminal, and one of them says so again.
    let mut f = Fixture::recovered(Joined, JobStatus::Running, &[0, 1]);
    assert_eq!(f.job.status(), JobStatus::Running, "recording its end");
    assert!(f.here("a", Some(&[(0, ExecutionState::Finished)])).is_empty());
    assert_eq!(f.recorded(IntentKind::End, 60), ["a@60: stop"]);
}

#[test]
fn a_failure_that_only_the_report_knows_of_is_decided_by_the_new_leader() {
    let mut f = Fixture::recovered(Joined, JobStatus::Running, &[]);
    f.here("a", Some(&[(0, ExecutionState::Failed)]));
    assert_eq!(f.job.status(), JobStatus::Failing);
    assert_eq!(f.here("b", Some(&[(1, ExecutionState::Running)])), ["b@50: cancel #3"]);
}

#[test]
fn subtasks_of_one_slot_keep_it_where_the_living_one_is() {
    let executions = |name: &str, subtask, finished| Recovered {
        attempt: Apart.attempt(subtask, 0),
        assignment: at(name, subtask),
        finished,
    };
    let record = Record {
        status: JobStatus::Running,
        failure: None,
        cancel_requested: false,
        executions: vec![executions("a", 0, true), executions("b", 1, false)],
        deployed_ms: None,
        restarted_ms: None,
        restarts: 0,
        checkpoints: CheckpointRecord::default(),
        index: 5,
    };
    let job = Job::recover(Apart.graph(), PATIENCE, losses_only(), Settings::default(), record);
    assert_eq!(job.held, [Some(at("a", 0)), Some(at("b", 1))]);
}
