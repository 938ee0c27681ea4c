//! What restarts, when, and what does not.

use std::time::Duration;

use perennial_types::{ExecutionState, JobStatus, RestartMemory};

use super::fixture::Shape::{Apart, Joined};
use super::fixture::*;
use crate::job::*;
use crate::restart_strategy::{Policy, RestartStrategy};

/// The whole way: cancel, wait, new attempts in the same slots, executors reused, RUNNING.
#[test]
fn a_failed_task_restarts_its_region_in_place_after_the_strategys_delay() {
    let mut f = Fixture::running(Joined, always());
    assert_eq!(
        f.report("a", 0, ExecutionState::Failed),
        ["record RESTARTING", "timer Restart 1000 ms", "b@20: cancel #0"]
    );
    assert_eq!((f.job.status(), f.job.restarts()), (JobStatus::Restarting, 1));
    assert!(f.job.waiting_for().starts_with("its restart, 1 s after: `source` (1/1) attempt 0 on TaskManager a"));
    assert!(f.report("b", 1, ExecutionState::Canceled).is_empty(), "the delay is not over");
    assert_eq!(f.apply(Event::TimerFired(Timer::Restart(1))), ["place a b"]);
    assert_eq!(f.attempts(), [1, 1]);
    assert_eq!(f.recorded(IntentKind::Placement, 40), ["a@40: deploy #1", "b@40: deploy #1"]);
    f.report("a", 0, ExecutionState::Running);
    assert_eq!(f.job.status(), JobStatus::Restarting);
    assert_eq!(f.report("b", 1, ExecutionState::Running), ["record RUNNING"]);
    assert_eq!((f.job.status(), f.job.restarts()), (JobStatus::Running, 1));
    let history = f.job.executions().vertices()[0].subtasks()[0].history().next().unwrap();
    assert_eq!(history.failure(), Some("out of luck"), "the failed attempt is remembered");
}

#[test]
fn the_region_waits_for_its_last_task_even_when_the_delay_is_over() {
    let mut f = Fixture::running(Joined, always());
    f.report("a", 0, ExecutionState::Failed);
    assert!(f.apply(Event::TimerFired(Timer::Restart(1))).is_empty());
    assert!(f.report("b", 1, ExecutionState::Canceling).is_empty());
    assert_eq!(f.report("b", 1, ExecutionState::Canceled), ["place a b"]);
}

#[test]
fn other_regions_are_told_nothing() {
    let mut f = Fixture::running(Apart, losses_only());
    let mut said = f.lose_executor("a");
    assert_eq!(said, ["record RESTARTING", "place a"]);
    said.extend(f.recorded(IntentKind::Placement, 40));
    said.extend(f.ready("a"));
    said.extend(f.report("a", 0, ExecutionState::Running));
    assert_eq!(said[2..], ["a@40: start", "a@40: deploy #1", "record RUNNING"]);
    assert_eq!(f.attempts(), [1, 0]);
}

#[test]
fn a_lost_executor_is_started_again_where_it_was() {
    let mut f = Fixture::running(Joined, losses_only());
    assert_eq!(f.lose_executor("a"), ["record RESTARTING", "b@20: cancel #0"]);
    assert_eq!(f.report("b", 1, ExecutionState::Canceled), ["place a b"]);
    assert_eq!(f.recorded(IntentKind::Placement, 40), ["a@40: start"], "the one on b is used again");
    assert_eq!(f.ready("a"), ["a@40: deploy #1", "b@40: deploy #1"]);
}

#[test]
fn a_lost_taskmanager_is_replaced_and_the_slots_that_are_there_are_kept() {
    let mut f = Fixture::running(Joined, losses_only());
    assert_eq!(f.lose("a"), ["release a", "record RESTARTING", "b@20: cancel #0"]);
    assert_eq!(f.report("b", 1, ExecutionState::Canceled), ["want 1", "timer Slots"]);
    f.apply(Event::SlotsMissing("needs 1 slot, 0 are free: b 0 of 1".to_owned()));
    assert_eq!(f.job.status(), JobStatus::Restarting);
    assert_eq!(f.job.waiting_for(), "needs 1 slot, 0 are free: b 0 of 1");
    assert_eq!(f.apply(Event::SlotsGranted(vec![at("c", 2)])), ["place c b"]);
    assert_eq!(f.job.waiting_for(), "");
    assert_eq!(f.recorded(IntentKind::Placement, 40), ["c@40: start"]);
    assert_eq!(f.ready("c"), ["b@40: deploy #1", "c@40: deploy #1"]);
}

#[test]
fn a_restart_without_slots_fails_the_job_with_the_shortage() {
    let mut f = Fixture::running(Joined, losses_only());
    f.lose("a");
    f.report("b", 1, ExecutionState::Canceled);
    f.apply(Event::SlotsMissing("needs 1 slot, 0 are free: b 0 of 1".to_owned()));
    assert!(f.apply(Event::TimerFired(Timer::Slots(1))).is_empty(), "that was the wait of the start");
    assert_eq!(f.apply(Event::TimerFired(Timer::Slots(2))), ["record FAILING", "record FAILED"]);
    assert_eq!(f.job.failure(), "needs 1 slot, 0 are free: b 0 of 1 (waited 5 min, slot.request.timeout)");
}

/// However many regions it hits, one loss is one failure.
#[test]
fn two_regions_that_one_loss_hits_restart_together_and_count_once() {
    let mut f = Fixture::new(Apart, losses_only());
    f.apply(Event::Start);
    f.apply(Event::SlotsGranted(vec![at("a", 0), at("a", 1)]));
    f.recorded(IntentKind::Placement, 20);
    f.recorded(IntentKind::Deployment, 21);
    f.ready("a");
    f.report("a", 0, ExecutionState::Running);
    f.report("a", 1, ExecutionState::Running);
    assert_eq!(f.lose_executor("a"), ["record RESTARTING", "place a a"], "at once: the second would wait");
    assert_eq!(f.job.restarts(), 1);
}

#[test]
fn regions_restart_side_by_side() {
    let mut f = Fixture::running(Apart, losses_only());
    assert_eq!(f.lose_executor("a"), ["record RESTARTING", "place a"]);
    assert_eq!(f.lose_executor("b"), ["record failures", "timer Restart 1000 ms"]);
    assert_eq!(f.recorded(IntentKind::Placement, 40), ["a@40: start"]);
    assert_eq!(f.apply(Event::TimerFired(Timer::Restart(1))), ["place b"]);
    assert_eq!(f.recorded(IntentKind::Placement, 41), ["b@41: start"]);
    assert_eq!(f.ready("b"), ["b@41: deploy #1"]);
    assert!(f.report("b", 1, ExecutionState::Running).is_empty());
    assert_eq!(f.job.status(), JobStatus::Restarting);
    f.ready("a");
    assert_eq!(f.report("a", 0, ExecutionState::Running), ["record RUNNING"]);
    assert_eq!(f.job.restarts(), 1, "the log counts ways from RUNNING to RESTARTING");
}

#[test]
fn what_is_lost_on_its_way_back_starts_over() {
    let mut f = Fixture::running(Joined, losses_only());
    f.lose("a");
    f.report("b", 1, ExecutionState::Canceled);
    f.apply(Event::SlotsGranted(vec![at("c", 2)]));
    assert_eq!(
        f.lose("c"),
        ["release c", "record failures", "timer Restart 1000 ms"],
        "before its placement was committed"
    );
    assert!(f.recorded(IntentKind::Placement, 40).is_empty(), "nobody is told to run what has no place any more");
    assert_eq!(f.apply(Event::TimerFired(Timer::Restart(1))), ["want 1", "timer Slots"]);
    assert_eq!(f.attempts(), [2, 2]);
    assert_eq!(f.apply(Event::SlotsGranted(vec![at("d", 0)])), ["place d b"]);
    f.recorded(IntentKind::Placement, 41);
    f.now_ms += 1000;
    assert_eq!(f.refused("d", CommandKind::StartExecutor), ["record failures", "timer Restart 1500 ms"]);
    assert_eq!(f.job.status(), JobStatus::Restarting);
}

/// A grant that was on its way when another TaskManager was lost is used, and the rest is asked for.
#[test]
fn slots_granted_for_an_earlier_wish_are_taken_for_the_present_one() {
    let mut f = Fixture::running(Apart, always());
    f.lose("a");
    assert_eq!(f.apply(Event::TimerFired(Timer::Restart(1))), ["want 1", "timer Slots"]);
    f.lose("b");
    assert_eq!(f.apply(Event::TimerFired(Timer::Restart(2))), ["want 2"]);
    assert_eq!(f.apply(Event::SlotsGranted(vec![at("c", 0)])), ["want 1", "place c"]);
    let more = f.apply(Event::SlotsGranted(vec![at("d", 0), at("d", 1)]));
    assert_eq!(more, ["release 1 on d", "place d"]);
}

/// Those connected to a dead process often tell before anybody who watches it.
#[test]
fn a_broken_exchange_restarts_its_region_and_the_loss_behind_it_counts_no_second_time() {
    let mut f = Fixture::running(Joined, losses_only());
    let symptom = ExecutionUpdate { peer_lost: true, ..update(f.current(1), ExecutionState::Failed) };
    let said = f.apply(Event::Execution { taskmanager: tm("b"), update: symptom });
    assert_eq!(said, ["record RESTARTING", "a@20: cancel #0"]);
    assert_eq!(f.lose_executor("a"), ["place a b"]);
    assert_eq!(f.job.restarts(), 1);
}

/// The echo of a failed task comes first: the failure still decides.
#[test]
fn a_failed_task_behind_a_broken_exchange_fails_the_job() {
    let mut f = Fixture::running(Joined, losses_only());
    let symptom = ExecutionUpdate { peer_lost: true, ..update(f.current(1), ExecutionState::Failed) };
    f.apply(Event::Execution { taskmanager: tm("b"), update: symptom });
    assert_eq!(f.report("a", 0, ExecutionState::Failed), ["record FAILING", "record FAILED"]);
    assert!(f.job.failure().contains("`source` (1/1) attempt 0 on TaskManager a failed: out of luck"));
}

#[test]
fn a_spent_strategy_fails_the_job_in_its_own_words() {
    let policy = Policy::FixedDelay { attempts: 1, delay: Duration::ZERO };
    let mut f = Fixture::running(Apart, RestartStrategy::new(policy, RestartMemory::default(), 1));
    assert_eq!(f.report("a", 0, ExecutionState::Failed), ["record RESTARTING", "place a"]);
    assert_eq!(f.report("b", 1, ExecutionState::Failed), ["record FAILING", "record FAILED"]);
    assert_eq!(
        f.job.failure(),
        "`map` (2/2) attempt 0 on TaskManager b failed: out of luck; Recovery is suppressed by \
         FixedDelayRestartBackoffTimeStrategy(maxNumberRestartAttempts=1, backoffTimeMS=0)"
    );
}

/// SeaTunnel #12386: a finished subtask is in nobody's way.
#[test]
fn a_finished_subtask_of_another_region_stays_finished_when_something_restarts() {
    let mut f = Fixture::running(Apart, losses_only());
    assert_eq!(f.report("a", 0, ExecutionState::Finished), ["record 1 finished"]);
    assert_eq!(f.lose("a"), ["release a"], "nobody needs it any more");
    assert_eq!(f.lose_executor("b"), ["record RESTARTING", "place b"]);
    f.recorded(IntentKind::Placement, 40);
    assert_eq!(f.ready("b"), ["b@40: deploy #1"]);
    assert_eq!(f.report("b", 1, ExecutionState::Running), ["record RUNNING"]);
    assert_eq!((f.attempts(), f.state(0)), ([0, 1], ExecutionState::Finished));
    assert_eq!(f.report("b", 1, ExecutionState::Finished), ["record FINISHED"]);
}

/// What a finished source sent to a sink that failed is lost with it, so both run again.
#[test]
fn a_finished_subtask_runs_again_with_its_region() {
    let mut f = Fixture::running(Joined, losses_only());
    f.report("a", 0, ExecutionState::Finished);
    assert_eq!(f.lose_executor("b"), ["record RESTARTING", "place a b"]);
    f.recorded(IntentKind::Placement, 40);
    assert_eq!(f.ready("b"), ["a@40: deploy #1", "b@40: deploy #1"]);
}

#[test]
fn a_task_that_cannot_be_cancelled_for_a_restart_ends_with_its_executor() {
    let mut f = Fixture::running(Joined, always());
    f.report("a", 0, ExecutionState::Failed);
    f.apply(Event::TimerFired(Timer::Restart(1)));
    assert_eq!(f.refused("b", CommandKind::Cancel), ["b@20: stop"]);
    assert_eq!(f.done("b", CommandKind::StopExecutor), ["place a b"]);
    assert_eq!(f.recorded(IntentKind::Placement, 40), ["b@40: start"]);
}

#[test]
fn a_restarting_job_can_be_cancelled() {
    let mut f = Fixture::running(Joined, always());
    f.report("a", 0, ExecutionState::Failed);
    assert!(f.apply(Event::CancelRequested { index: 30 }).is_empty(), "b was told already");
    assert_eq!(f.report("b", 1, ExecutionState::Canceled), ["record CANCELED"]);
    assert!(f.apply(Event::TimerFired(Timer::Restart(1))).is_empty());
}

#[test]
fn a_loss_before_anything_was_told_to_run_is_no_restart() {
    let mut f = Fixture::placed(Joined, losses_only());
    assert_eq!(f.lose("a"), ["release a", "want 1", "timer Slots"]);
    assert_eq!((f.job.status(), f.job.restarts(), f.attempts()), (JobStatus::Created, 0, [1, 1]));
}
