//! Lives of jobs to which nothing bad happens, or that end because of it.

use perennial_types::{ExecutionState, JobStatus};

use super::fixture::Shape::{Apart, Joined};
use super::fixture::*;
use crate::job::*;

/// The whole life of a job that ends by itself: nothing is told before it is committed, and nothing twice.
#[test]
fn a_job_runs_from_slots_to_its_end() {
    let mut f = Fixture::new(Joined, losses_only());
    assert_eq!(f.apply(Event::Start), ["want 2", "timer Slots"]);
    assert_eq!(f.apply(Event::SlotsGranted(slots())), ["place a b"]);
    assert_eq!(f.recorded(IntentKind::Placement, 20), ["record CREATED", "a@20: start", "b@20: start"]);
    assert!(f.ready("a").is_empty(), "not every address is known");
    assert!(f.ready("b").is_empty(), "the intent is not committed");
    assert_eq!(f.recorded(IntentKind::Deployment, 21), ["a@21: deploy #0", "b@21: deploy #0"]);
    assert_eq!(f.job.status(), JobStatus::Created);
    assert!(f.report("a", 0, ExecutionState::Running).is_empty());
    assert_eq!(f.report("b", 1, ExecutionState::Running), ["record RUNNING"]);
    assert_eq!(f.job.status(), JobStatus::Running);
    assert_eq!(f.report("a", 0, ExecutionState::Finished), ["record 1 finished"]);
    assert_eq!(f.report("b", 1, ExecutionState::Finished), ["record FINISHED"]);
    assert_eq!(f.recorded(IntentKind::End, 30), ["a@30: stop", "b@30: stop"]);
    assert_eq!(f.job.status(), JobStatus::Finished);
    assert_eq!(f.done("a", CommandKind::StopExecutor), ["release a"]);
    assert_eq!(f.done("b", CommandKind::StopExecutor), ["release b", "release", "close"]);
}

#[test]
fn every_executor_learns_where_all_the_others_are() {
    let mut f = Fixture::placed(Joined, losses_only());
    f.recorded(IntentKind::Deployment, 20);
    f.ready("a");
    let effects = f.job.apply(1, Event::ExecutorReady { taskmanager: tm("b"), data_address: "b:1".to_owned() });
    let everywhere = vec![(tm("a"), "a:1".to_owned()), (tm("b"), "b:1".to_owned())];
    for (name, effect) in ["a", "b"].into_iter().zip(effects) {
        let Effect::Send { taskmanager, command: Command::Deploy { placement, executors, .. }, .. } = effect else {
            panic!("{effect:?}")
        };
        assert_eq!(taskmanager, tm(name));
        assert_eq!(executors, everywhere);
        assert_eq!(placement, [(f.current(0), 0), (f.current(1), 1)]);
    }
}

/// No channel leads to the other region, so its executor need not be waited for.
#[test]
fn a_region_is_deployed_when_its_own_executors_are_there() {
    let mut f = Fixture::placed(Apart, losses_only());
    f.recorded(IntentKind::Deployment, 20);
    assert_eq!(f.ready("b"), ["b@20: deploy #0"]);
    assert_eq!(f.ready("a"), ["a@20: deploy #0"]);
}

#[test]
fn the_first_failure_cancels_the_others_and_is_the_cause() {
    let mut f = Fixture::running(Joined, losses_only());
    assert_eq!(f.report("a", 0, ExecutionState::Failed), ["record FAILING", "b@20: cancel #0"]);
    assert_eq!(f.job.status(), JobStatus::Failing);
    assert_eq!(f.report("b", 1, ExecutionState::Failed), ["record FAILED"]);
    assert_eq!(
        f.job.failure(),
        "`source` (1/1) attempt 0 on TaskManager a failed: out of luck; \
         Recovery is suppressed by NoRestartBackoffTimeStrategy"
    );
    assert_eq!(f.recorded(IntentKind::End, 30), ["a@30: stop", "b@30: stop"]);
    assert_eq!(f.job.status(), JobStatus::Failed);
}

#[test]
fn a_cancelled_job_ends_when_its_tasks_have() {
    let mut f = Fixture::running(Apart, losses_only());
    assert_eq!(f.apply(Event::CancelRequested { index: 25 }), ["a@25: cancel #0", "b@25: cancel #0"]);
    assert!(f.apply(Event::CancelRequested { index: 26 }).is_empty(), "once is enough");
    assert_eq!(f.job.status(), JobStatus::Cancelling);
    assert!(f.report("a", 0, ExecutionState::Canceled).is_empty());
    assert_eq!(f.report("b", 1, ExecutionState::Finished), ["record CANCELED"]);
    f.recorded(IntentKind::End, 30);
    assert_eq!(f.job.status(), JobStatus::Canceled);
}

#[test]
fn a_job_cancelled_while_it_waits_for_slots_leaves_nothing_behind() {
    let mut f = Fixture::new(Joined, losses_only());
    f.apply(Event::Start);
    assert_eq!(f.apply(Event::CancelRequested { index: 11 }), ["record CANCELED"]);
    let late = f.apply(Event::SlotsGranted(slots()));
    assert_eq!(late, ["release 0 on a", "release 0 on b"], "slots that come too late go back");
    assert_eq!(f.recorded(IntentKind::End, 12), ["release", "close"]);
}

#[test]
fn a_job_cancelled_while_executors_start_stops_them_after_its_end_is_committed() {
    let mut f = Fixture::placed(Joined, losses_only());
    assert_eq!(f.apply(Event::CancelRequested { index: 21 }), ["record CANCELED"]);
    assert!(f.ready("a").is_empty());
    assert_eq!(f.recorded(IntentKind::End, 22), ["a@22: stop", "b@22: stop"]);
}

#[test]
fn missing_slots_are_told_at_once_and_are_the_cause_after_the_timeout() {
    let mut f = Fixture::new(Joined, losses_only());
    f.apply(Event::Start);
    f.apply(Event::SlotsMissing("needs 2 slots, 1 is free: a 1 of 1".to_owned()));
    assert_eq!(f.job.waiting_for(), "needs 2 slots, 1 is free: a 1 of 1");
    assert_eq!(f.apply(Event::TimerFired(Timer::Slots(1))), ["record FAILING", "record FAILED"]);
    assert_eq!(f.job.failure(), "needs 2 slots, 1 is free: a 1 of 1 (waited 5 min, slot.request.timeout)");
    assert_eq!(f.job.waiting_for(), "");
}

#[test]
fn the_slot_timer_of_a_job_that_got_its_slots_does_nothing() {
    let mut f = Fixture::placed(Joined, losses_only());
    assert!(f.apply(Event::TimerFired(Timer::Slots(1))).is_empty());
}

#[test]
fn refused_commands_fail_a_job_that_has_never_run() {
    let mut f = Fixture::placed(Joined, losses_only());
    f.recorded(IntentKind::Deployment, 20);
    assert_eq!(f.refused("a", CommandKind::StartExecutor), ["record FAILING", "record FAILED"]);
    let text = "TaskManager a could not start the job's executor: no space left on device; Recovery";
    assert!(f.job.failure().starts_with(text), "{}", f.job.failure());
    let mut f = Fixture::deployed(Joined, losses_only());
    assert_eq!(f.refused("a", CommandKind::Deploy), ["record FAILING", "b@20: cancel #0"]);
    let text = "TaskManager a could not deploy the job's tasks: no space left on device; Recovery";
    assert!(f.job.failure().starts_with(text), "{}", f.job.failure());
}

/// A task that cannot be cancelled is ended with its process; if even that is not confirmed, the job still ends.
#[test]
fn a_cancel_that_fails_stops_the_executor() {
    let mut f = Fixture::running(Joined, losses_only());
    f.apply(Event::CancelRequested { index: 25 });
    f.report("b", 1, ExecutionState::Canceled);
    assert_eq!(f.refused("a", CommandKind::Cancel), ["a@25: stop"]);
    assert_eq!(f.refused("a", CommandKind::StopExecutor), ["record CANCELED"]);
}

#[test]
fn a_report_of_an_unknown_attempt_has_it_cancelled() {
    let mut f = Fixture::running(Joined, losses_only());
    let stray = update(Joined.attempt(0, 7), ExecutionState::Running);
    assert_eq!(f.apply(Event::Execution { taskmanager: tm("a"), update: stray }), ["a@20: cancel #7"]);
    let elsewhere = update(f.current(0), ExecutionState::Running);
    assert_eq!(f.apply(Event::Execution { taskmanager: tm("b"), update: elsewhere }), ["b@20: cancel #0"]);
    assert_eq!(f.job.status(), JobStatus::Running);
}

#[test]
fn a_command_lost_with_its_connection_is_repeated() {
    let mut f = Fixture::placed(Joined, losses_only());
    f.recorded(IntentKind::Deployment, 20);
    assert_eq!(f.here("a", None), ["a@20: start"]);
    f.ready("b");
    assert_eq!(f.here("a", Some(&[])), ["a@20: start"], "whether it is the one asked for is not known");
    assert_eq!(f.ready("a"), ["a@20: deploy #0", "b@20: deploy #0"]);
    assert_eq!(f.here("a", Some(&[])), ["a@20: deploy #0"], "it never got its tasks");
    assert!(f.here("a", Some(&[(0, ExecutionState::Running)])).is_empty());
    assert_eq!(f.here("b", Some(&[(1, ExecutionState::Running)])), ["record RUNNING"]);
    assert!(f.here("a", Some(&[(0, ExecutionState::Running)])).is_empty(), "all is as it should be");
}
