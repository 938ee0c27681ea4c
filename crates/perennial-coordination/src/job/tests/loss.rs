//! Executors and TaskManagers that go, and some that come back.

use perennial_types::{ExecutionState, JobStatus};

use super::fixture::Shape::{Apart, Joined};
use super::fixture::*;
use crate::job::*;

#[test]
fn tasks_that_a_reconnecting_taskmanager_no_longer_runs_are_lost() {
    let mut f = Fixture::running(Joined, losses_only());
    assert_eq!(f.here("a", Some(&[])), ["record RESTARTING", "b@20: cancel #0"]);
    let mut f = Fixture::running(Joined, losses_only());
    assert_eq!(f.here("a", None), ["record RESTARTING", "b@20: cancel #0"]);
    assert_eq!(f.report("b", 1, ExecutionState::Canceled), ["place a b"]);
    assert_eq!(f.recorded(IntentKind::Placement, 40), ["a@40: start"]);
}

#[test]
fn an_executor_that_ends_after_its_job_is_no_loss() {
    let mut f = Fixture::running(Joined, losses_only());
    f.report("a", 0, ExecutionState::Finished);
    f.report("b", 1, ExecutionState::Finished);
    f.recorded(IntentKind::End, 30);
    assert_eq!(f.lose_executor("a"), ["release a"]);
    assert_eq!(f.job.status(), JobStatus::Finished);
}

/// Those connected to a dead process often tell first. The job's failure names what they saw and what it came from.
#[test]
fn a_loss_told_after_its_symptom_is_part_of_the_failure() {
    let mut f = Fixture::running(Joined, losses_only());
    f.report("b", 1, ExecutionState::Failed);
    assert_eq!(f.lose_executor("a"), ["record FAILED"]);
    assert!(f.job.failure().ends_with("; the executor on TaskManager a ended: killed by signal 9"));
    assert!(f.job.failure().starts_with("`sink` (1/1) attempt 0 on TaskManager b failed: out of luck; "));
}

/// An executor outlives its TaskManager's process: a broken connection says nothing about it, so it is asked.
#[test]
fn a_detached_taskmanager_with_a_living_executor_costs_nothing_when_it_comes_back() {
    let mut f = Fixture::running(Joined, losses_only());
    assert_eq!(f.detach("a"), ["probe a:1"]);
    assert!(f.probed("a", Liveness::Alive).is_empty());
    assert!(f.probed("a", Liveness::Unknown).is_empty());
    assert!(f.here("a", Some(&[(0, ExecutionState::Running)])).is_empty());
    assert_eq!((f.job.status(), f.job.restarts(), f.attempts()), (JobStatus::Running, 0, [0, 0]));
}

#[test]
fn a_detached_taskmanager_whose_executor_is_gone_is_lost_at_once() {
    let mut f = Fixture::running(Joined, losses_only());
    f.detach("a");
    assert_eq!(f.probed("a", Liveness::Gone), ["release a", "record RESTARTING", "b@20: cancel #0"]);
    assert_eq!(f.report("b", 1, ExecutionState::Canceled), ["want 1", "timer Slots"], "elsewhere, not there");
    assert!(f.here("a", None).is_empty(), "it may come back, and is no part of the job any more");
}

#[test]
fn an_answer_about_an_executor_that_has_been_heard_of_since_means_nothing() {
    let mut f = Fixture::running(Joined, losses_only());
    f.detach("a");
    f.here("a", Some(&[(0, ExecutionState::Running)]));
    assert!(f.probed("a", Liveness::Gone).is_empty());
    f.detach("a");
    let other = Event::Probed { taskmanager: tm("a"), data_address: "a:2".to_owned(), liveness: Liveness::Gone };
    assert!(f.apply(other).is_empty(), "that was another executor");
}

/// Nothing reaches a detached TaskManager, so a restart that needs its tasks to end asks about its executor again.
#[test]
fn a_restart_asks_again_whether_a_detached_executor_lives() {
    let mut f = Fixture::running(Joined, losses_only());
    f.detach("a");
    f.probed("a", Liveness::Alive);
    let symptom = ExecutionUpdate { peer_lost: true, ..update(f.current(1), ExecutionState::Failed) };
    let said = f.apply(Event::Execution { taskmanager: tm("b"), update: symptom });
    assert_eq!(said, ["record RESTARTING", "a@20: cancel #0", "probe a:1"]);
    assert_eq!(f.probed("a", Liveness::Gone), ["release a", "want 1", "timer Slots"]);
}

#[test]
fn a_cancel_that_did_not_reach_a_detached_taskmanager_is_repeated() {
    let mut f = Fixture::running(Joined, always());
    f.detach("a");
    f.report("b", 1, ExecutionState::Failed);
    f.apply(Event::TimerFired(Timer::Restart(1)));
    assert_eq!(f.here("a", Some(&[(0, ExecutionState::Running)])), ["a@20: cancel #0"]);
    assert_eq!(f.report("a", 0, ExecutionState::Canceled), ["place a b"]);
}

#[test]
fn an_empty_taskmanager_that_detaches_is_not_waited_for() {
    let mut f = Fixture::running(Joined, always());
    f.lose_executor("a");
    f.report("b", 1, ExecutionState::Canceled);
    assert_eq!(f.detach("a"), ["release a"]);
    assert_eq!(f.apply(Event::TimerFired(Timer::Restart(1))), ["want 1", "timer Slots"]);
}

/// The TaskManager was given up, its task runs elsewhere; then it comes back with the old one still running.
#[test]
fn a_taskmanager_that_returns_after_its_tasks_were_replaced_is_rid_of_them() {
    let mut f = Fixture::running(Apart, losses_only());
    f.lose("a");
    f.apply(Event::SlotsGranted(vec![at("c", 0)]));
    f.recorded(IntentKind::Placement, 40);
    f.ready("c");
    f.report("c", 0, ExecutionState::Running);
    let zombie = [(Apart.attempt(0, 0), ExecutionState::Running)];
    assert_eq!(f.here_with("a", Some(&zombie)), ["a@40: stop"]);
    let talks = update(Apart.attempt(0, 0), ExecutionState::Running);
    assert_eq!(f.apply(Event::Execution { taskmanager: tm("a"), update: talks }), ["a@40: cancel #0"]);
    assert_eq!((f.job.status(), f.attempts()), (JobStatus::Running, [1, 0]));
}

#[test]
fn word_of_an_earlier_executors_end_does_not_hurt_the_one_that_starts() {
    let mut f = Fixture::running(Apart, losses_only());
    f.lose_executor("a");
    f.recorded(IntentKind::Placement, 40);
    assert!(f.lose_executor("a").is_empty(), "told again after a reconnection");
    assert_eq!(f.ready("a"), ["a@40: deploy #1"]);
}
