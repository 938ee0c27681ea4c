//! Tables of events, then any events in any order.

use std::time::Duration;

use proptest::prelude::*;

use perennial_types::{AllocationId, ExecutionAttemptId, ExecutionState, JobStatus, SlotIndex, TaskManagerId};

use super::testing::graph;
use super::*;
use crate::execution_graph::Assignment;

const PATIENCE: Patience = Patience { slots: Duration::from_secs(300), reconciliation: Duration::from_secs(5) };

fn tm(name: &str) -> TaskManagerId {
    TaskManagerId(name.to_owned())
}

fn at(name: &str, slot: u32) -> Assignment {
    Assignment { taskmanager: tm(name), slot: SlotIndex(slot), allocation: AllocationId::from_bytes([slot as u8; 16]) }
}

/// `map` with two subtasks: subtask 0 on `a`, subtask 1 on `b`.
fn slots() -> Vec<Assignment> {
    vec![at("a", 0), at("b", 0)]
}

fn update(attempt: ExecutionAttemptId, state: ExecutionState) -> ExecutionUpdate {
    let failure = (state == ExecutionState::Failed).then(|| "out of luck".to_owned());
    ExecutionUpdate { attempt, state, failure, counters: None }
}

/// One line for each effect, short enough for tables.
fn text(effect: &Effect) -> String {
    match effect {
        Effect::Record(Intent::Placement(placements)) => format!("record {} placements", placements.len()),
        Effect::Record(Intent::Deployment) => "record CREATED".to_owned(),
        Effect::Record(Intent::Running) => "record RUNNING".to_owned(),
        Effect::Record(Intent::Failing { .. }) => "record FAILING".to_owned(),
        Effect::Record(Intent::FinishExecutions { attempts }) => format!("record {} finished", attempts.len()),
        Effect::Record(Intent::End { status, .. }) => format!("record {status}"),
        Effect::RequestSlots(count) => format!("want {count}"),
        Effect::ReleaseSlotsOn(at) => format!("release {at}"),
        Effect::ReleaseSlots => "release".to_owned(),
        Effect::Send { taskmanager, index, command } => {
            let what = match command {
                Command::StartExecutor => "start".to_owned(),
                Command::Deploy { tasks, .. } => format!("deploy {}", tasks.len()),
                Command::Cancel { attempts } => format!("cancel {}", attempts.len()),
                Command::StopExecutor => "stop".to_owned(),
            };
            format!("{taskmanager}@{index}: {what}")
        }
        Effect::SetTimer(timer, _) => format!("timer {timer:?}"),
        Effect::Close => "close".to_owned(),
    }
}

/// A job and the events that came to it.
struct Fixture {
    job: Job,
}

impl Fixture {
    fn new() -> Self {
        Self { job: Job::new(graph(&[("map", 2, "default")]), PATIENCE, 10) }
    }

    /// A job whose placement is committed at 20 and whose executors were asked for.
    fn placed() -> Self {
        let mut this = Self::new();
        this.job.apply(1, Event::Start);
        this.job.apply(2, Event::SlotsGranted(slots()));
        this.job.apply(3, Event::Recorded { kind: IntentKind::Placement, index: 20 });
        this
    }

    fn deployed() -> Self {
        let mut this = Self::placed();
        this.recorded(IntentKind::Deployment, 20);
        this.ready("a");
        this.ready("b");
        this
    }

    fn running() -> Self {
        let mut this = Self::deployed();
        this.report("a", 0, ExecutionState::Running);
        this.report("b", 1, ExecutionState::Running);
        assert_eq!(this.job.status(), JobStatus::Running);
        this
    }

    fn recovered(status: JobStatus, finished: &[u32]) -> Self {
        let executions = [("a", 0), ("b", 1)]
            .into_iter()
            .map(|(name, subtask)| Recovered {
                attempt: Self::attempt(subtask, 3),
                assignment: at(name, 0),
                finished: finished.contains(&subtask),
            })
            .collect();
        let record =
            Record { status, failure: None, cancel_requested: false, executions, deployed_ms: Some(777), index: 50 };
        let mut job = Job::recover(graph(&[("map", 2, "default")]), PATIENCE, record);
        let effects = job.apply(1, Event::Start);
        assert!(!effects.iter().any(Effect::starts_something), "{effects:?}");
        Self { job }
    }

    fn attempt(subtask: u32, attempt: u32) -> ExecutionAttemptId {
        ExecutionAttemptId { vertex: perennial_types::VertexId::from_bytes([1; 16]), subtask, attempt }
    }

    fn current(&self, subtask: u32) -> ExecutionAttemptId {
        self.job.executions.attempt_at(0, subtask).expect("the subtask exists")
    }

    fn apply(&mut self, event: Event) -> Vec<String> {
        self.job.apply(9, event).iter().map(text).collect()
    }

    fn ready(&mut self, name: &str) -> Vec<String> {
        self.apply(Event::ExecutorReady { taskmanager: tm(name), data_address: format!("{name}:1") })
    }

    fn report(&mut self, name: &str, subtask: u32, state: ExecutionState) -> Vec<String> {
        let update = update(self.current(subtask), state);
        self.apply(Event::Execution { taskmanager: tm(name), update })
    }

    fn recorded(&mut self, kind: IntentKind, index: u64) -> Vec<String> {
        self.apply(Event::Recorded { kind, index })
    }

    fn done(&mut self, name: &str, command: CommandKind) -> Vec<String> {
        self.apply(Event::CommandDone { taskmanager: tm(name), command })
    }

    /// A TaskManager comes with an executor that has these executions, or with none.
    fn here(&mut self, name: &str, executions: Option<&[(u32, ExecutionState)]>) -> Vec<String> {
        let executor = executions.map(|executions| ExecutorState {
            data_address: format!("{name}:1"),
            executions: executions.iter().map(|(subtask, state)| update(self.current(*subtask), *state)).collect(),
        });
        self.apply(Event::TaskManagerHere { taskmanager: tm(name), executor })
    }
}

/// The whole life of a job that ends by itself: nothing is told before it is committed, and nothing twice.
#[test]
fn a_job_runs_from_slots_to_its_end() {
    let mut f = Fixture::new();
    assert_eq!(f.apply(Event::Start), ["want 2", "timer Slots"]);
    assert_eq!(f.apply(Event::SlotsGranted(slots())), ["record 2 placements"]);
    assert_eq!(f.recorded(IntentKind::Placement, 20), ["record CREATED", "a@20: start", "b@20: start"]);
    assert!(f.ready("a").is_empty(), "not every address is known");
    assert!(f.ready("b").is_empty(), "the intent is not committed");
    assert_eq!(f.recorded(IntentKind::Deployment, 21), ["a@21: deploy 1", "b@21: deploy 1"]);
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
    let mut f = Fixture::placed();
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

#[test]
fn the_first_failure_cancels_the_others_and_is_the_cause() {
    let mut f = Fixture::running();
    assert_eq!(f.report("a", 0, ExecutionState::Failed), ["record FAILING", "b@20: cancel 1"]);
    assert_eq!(f.job.status(), JobStatus::Failing);
    assert_eq!(f.report("b", 1, ExecutionState::Failed), ["record FAILED"]);
    assert_eq!(f.job.failure(), "`map` (1/2) attempt 0 on TaskManager a failed: out of luck");
    assert_eq!(f.recorded(IntentKind::End, 30), ["a@30: stop", "b@30: stop"]);
    assert_eq!(f.job.status(), JobStatus::Failed);
}

#[test]
fn a_cancelled_job_ends_when_its_tasks_have() {
    let mut f = Fixture::running();
    assert_eq!(f.apply(Event::CancelRequested { index: 25 }), ["a@25: cancel 1", "b@25: cancel 1"]);
    assert!(f.apply(Event::CancelRequested { index: 26 }).is_empty(), "once is enough");
    assert_eq!(f.job.status(), JobStatus::Cancelling);
    assert!(f.report("a", 0, ExecutionState::Canceled).is_empty());
    assert_eq!(f.report("b", 1, ExecutionState::Finished), ["record CANCELED"]);
    f.recorded(IntentKind::End, 30);
    assert_eq!(f.job.status(), JobStatus::Canceled);
}

#[test]
fn a_job_cancelled_while_it_waits_for_slots_leaves_nothing_behind() {
    let mut f = Fixture::new();
    f.apply(Event::Start);
    assert_eq!(f.apply(Event::CancelRequested { index: 11 }), ["record CANCELED"]);
    assert_eq!(f.apply(Event::SlotsGranted(slots())), ["release"], "slots that come too late go back");
    assert_eq!(f.recorded(IntentKind::End, 12), ["release", "close"]);
}

#[test]
fn a_job_cancelled_while_executors_start_stops_them_after_its_end_is_committed() {
    let mut f = Fixture::placed();
    assert_eq!(f.apply(Event::CancelRequested { index: 21 }), ["record CANCELED"]);
    assert!(f.ready("a").is_empty());
    assert_eq!(f.recorded(IntentKind::End, 22), ["a@22: stop", "b@22: stop"]);
}

#[test]
fn missing_slots_are_told_at_once_and_are_the_cause_after_the_timeout() {
    let mut f = Fixture::new();
    f.apply(Event::Start);
    f.apply(Event::SlotsMissing("needs 2 slots, 1 is free: a 1 of 1".to_owned()));
    assert_eq!(f.job.waiting_for(), "needs 2 slots, 1 is free: a 1 of 1");
    assert_eq!(f.apply(Event::TimerFired(Timer::Slots)), ["record FAILING", "record FAILED"]);
    assert_eq!(f.job.failure(), "needs 2 slots, 1 is free: a 1 of 1 (waited 5 min, slot.request.timeout)");
    assert_eq!(f.job.waiting_for(), "");
}

#[test]
fn the_slot_timer_of_a_job_that_got_its_slots_does_nothing() {
    let mut f = Fixture::placed();
    assert!(f.apply(Event::TimerFired(Timer::Slots)).is_empty());
}

#[test]
fn losing_an_executor_or_a_taskmanager_fails_the_job_with_the_reason() {
    let mut f = Fixture::running();
    let lost = Event::ExecutorLost { taskmanager: tm("a"), cause: "killed by signal 9".to_owned() };
    assert_eq!(f.apply(lost), ["record FAILING", "b@20: cancel 1"]);
    assert_eq!(f.job.failure(), "the executor on TaskManager a ended: killed by signal 9");
    let lost = Event::TaskManagerLost { taskmanager: tm("b"), reason: "silent for 5 s".to_owned() };
    assert_eq!(f.apply(lost), ["record FAILED"]);
    assert_eq!(f.recorded(IntentKind::End, 30), ["release", "close"], "there is no executor left to stop");
}

/// Those connected to a dead process often tell first. The job's failure names what they saw and what it came from.
#[test]
fn a_loss_told_after_its_symptom_is_part_of_the_failure() {
    let mut f = Fixture::running();
    f.report("b", 1, ExecutionState::Failed);
    let lost = Event::ExecutorLost { taskmanager: tm("a"), cause: "killed by signal 9".to_owned() };
    assert_eq!(f.apply(lost), ["record FAILED"]);
    assert_eq!(
        f.job.failure(),
        "`map` (2/2) attempt 0 on TaskManager b failed: out of luck; the executor on TaskManager a ended: killed by signal 9"
    );
}

#[test]
fn an_executor_that_ends_after_its_job_is_no_loss() {
    let mut f = Fixture::running();
    f.report("a", 0, ExecutionState::Finished);
    f.report("b", 1, ExecutionState::Finished);
    f.recorded(IntentKind::End, 30);
    let gone = Event::ExecutorLost { taskmanager: tm("a"), cause: "exit code 0".to_owned() };
    assert_eq!(f.apply(gone), ["release a"]);
    assert_eq!(f.job.status(), JobStatus::Finished);
}

#[test]
fn refused_commands_fail_the_job() {
    let failed =
        |command| Event::CommandFailed { taskmanager: tm("a"), command, reason: "no space left on device".to_owned() };
    let mut f = Fixture::placed();
    assert_eq!(f.apply(failed(CommandKind::StartExecutor)), ["record FAILING", "record FAILED"]);
    assert_eq!(f.job.failure(), "TaskManager a could not start the job's executor: no space left on device");
    let mut f = Fixture::deployed();
    assert_eq!(f.apply(failed(CommandKind::Deploy)), ["record FAILING", "b@20: cancel 1"]);
    assert_eq!(f.job.failure(), "TaskManager a could not deploy the job's tasks: no space left on device");
}

/// A task that cannot be cancelled is ended with its process; if even that is not confirmed, the job still ends.
#[test]
fn a_cancel_that_fails_stops_the_executor() {
    let mut f = Fixture::running();
    f.apply(Event::CancelRequested { index: 25 });
    f.report("b", 1, ExecutionState::Canceled);
    let failed = |command| Event::CommandFailed { taskmanager: tm("a"), command, reason: "no answer".to_owned() };
    assert_eq!(f.apply(failed(CommandKind::Cancel)), ["a@25: stop"]);
    assert_eq!(f.apply(failed(CommandKind::StopExecutor)), ["record CANCELED"]);
}

#[test]
fn a_report_of_an_unknown_attempt_has_it_cancelled() {
    let mut f = Fixture::running();
    let stray = update(Fixture::attempt(0, 7), ExecutionState::Running);
    assert_eq!(f.apply(Event::Execution { taskmanager: tm("a"), update: stray }), ["a@20: cancel 1"]);
    let elsewhere = update(f.current(0), ExecutionState::Running);
    assert_eq!(f.apply(Event::Execution { taskmanager: tm("b"), update: elsewhere }), ["b@20: cancel 1"]);
    assert_eq!(f.job.status(), JobStatus::Running);
}

#[test]
fn a_command_lost_with_its_connection_is_repeated() {
    let mut f = Fixture::placed();
    f.recorded(IntentKind::Deployment, 20);
    assert_eq!(f.here("a", None), ["a@20: start"]);
    f.ready("b");
    assert_eq!(
        f.here("a", Some(&[])),
        ["a@20: deploy 1", "b@20: deploy 1"],
        "the executor is ready: same as an answer"
    );
    assert_eq!(f.here("a", Some(&[])), ["a@20: deploy 1"], "it never got its tasks");
    assert!(f.here("a", Some(&[(0, ExecutionState::Running)])).is_empty());
    assert_eq!(f.here("b", Some(&[(1, ExecutionState::Running)])), ["record RUNNING"]);
    assert!(f.here("a", Some(&[(0, ExecutionState::Running)])).is_empty(), "all is as it should be");
}

#[test]
fn tasks_that_a_reconnecting_taskmanager_no_longer_runs_are_lost() {
    let mut f = Fixture::running();
    assert_eq!(f.here("a", Some(&[])), ["record FAILING", "b@20: cancel 1"]);
    assert_eq!(f.job.failure(), "TaskManager a no longer runs `map` (1/2) attempt 0");
    let mut f = Fixture::running();
    assert_eq!(f.here("a", None), ["record FAILING", "b@20: cancel 1"]);
}

/// The promise of the project: a new leader finds everything as it should be and tells nobody anything.
#[test]
fn a_running_job_is_adopted_without_a_command() {
    let mut f = Fixture::recovered(JobStatus::Running, &[]);
    assert_eq!(f.job.status(), JobStatus::Reconciling);
    assert!(f.here("a", Some(&[(0, ExecutionState::Running)])).is_empty());
    assert_eq!(f.job.status(), JobStatus::Reconciling);
    assert!(f.here("b", Some(&[(1, ExecutionState::Running)])).is_empty());
    assert_eq!(f.job.status(), JobStatus::Running);
    assert_eq!(f.current(0).attempt, 3, "no attempt changed");
    assert!(f.job.executions().executions().all(|(_, execution)| execution.start_ms() == Some(777)));
    assert!(f.apply(Event::TimerFired(Timer::Reconciliation)).is_empty());
}

#[test]
fn finished_subtasks_are_remembered_and_not_looked_for() {
    let mut f = Fixture::recovered(JobStatus::Running, &[0]);
    assert!(f.here("b", Some(&[(1, ExecutionState::Running)])).is_empty());
    assert_eq!(f.job.status(), JobStatus::Running);
    assert_eq!(f.report("b", 1, ExecutionState::Finished), ["record FINISHED"]);
}

#[test]
fn a_job_that_finished_while_nobody_led_ends() {
    let mut f = Fixture::recovered(JobStatus::Running, &[]);
    f.here("a", Some(&[(0, ExecutionState::Finished)]));
    assert_eq!(f.here("b", Some(&[(1, ExecutionState::Finished)])), ["record FINISHED"]);
}

#[test]
fn tasks_missing_at_a_takeover_fail_the_job_with_their_names() {
    let mut f = Fixture::recovered(JobStatus::Running, &[]);
    f.here("a", Some(&[(0, ExecutionState::Running)]));
    assert_eq!(f.here("b", None), ["record FAILING", "a@50: cancel 1"]);
    assert_eq!(f.job.failure(), "tasks were lost: `map` (2/2) attempt 3 on b");

    let mut f = Fixture::recovered(JobStatus::Running, &[]);
    f.here("a", Some(&[(0, ExecutionState::Running)]));
    assert_eq!(f.apply(Event::TimerFired(Timer::Reconciliation)), ["record FAILING", "a@50: cancel 1"]);
    assert_eq!(f.job.failure(), "tasks were lost: TaskManager b did not come to the leader within 5 s");
}

/// The old leader died between committing the placement and telling it.
#[test]
fn a_placement_that_was_never_told_is_carried_out_by_the_next_leader() {
    let mut f = Fixture::recovered(JobStatus::Created, &[]);
    assert!(f.here("a", Some(&[])).is_empty());
    assert_eq!(f.here("b", None), ["b@50: start"]);
    assert_eq!(f.ready("b"), ["a@50: deploy 1", "b@50: deploy 1"]);
    assert_eq!(f.current(0).attempt, 3);
}

#[test]
fn the_next_leader_records_that_it_deploys_when_the_last_did_not() {
    let mut f = Fixture::recovered(JobStatus::Initializing, &[]);
    f.here("a", Some(&[]));
    assert_eq!(f.here("b", Some(&[])), ["record CREATED"]);
    assert_eq!(f.recorded(IntentKind::Deployment, 60), ["a@60: deploy 1", "b@60: deploy 1"]);
}

/// The same, and one TaskManager had heard of its tasks already.
#[test]
fn only_what_is_missing_is_deployed() {
    let mut f = Fixture::recovered(JobStatus::Created, &[]);
    f.here("a", Some(&[(0, ExecutionState::Initializing)]));
    assert_eq!(f.here("b", Some(&[])), ["b@50: deploy 1"]);
}

#[test]
fn a_placement_nobody_heard_of_is_made_again_when_its_taskmanagers_are_gone() {
    let mut f = Fixture::recovered(JobStatus::Initializing, &[]);
    f.here("a", Some(&[]));
    assert_eq!(f.apply(Event::TimerFired(Timer::Reconciliation)), ["a@50: stop", "release", "want 2", "timer Slots"]);
    assert_eq!(f.current(0).attempt, 4, "attempt numbers are not used again");
    assert_eq!(f.apply(Event::SlotsGranted(slots())), ["record 2 placements"]);
}

/// Nobody can say whether the absent TaskManager ran its tasks: starting again could run them twice.
#[test]
fn tasks_that_may_have_run_are_not_started_again() {
    let mut f = Fixture::recovered(JobStatus::Created, &[]);
    f.here("a", Some(&[]));
    assert_eq!(f.apply(Event::TimerFired(Timer::Reconciliation)), ["record FAILING", "record FAILED"]);
}

#[test]
fn a_cancel_committed_under_the_old_leader_is_carried_out_by_the_new_one() {
    let mut f = Fixture::recovered(JobStatus::Cancelling, &[]);
    assert_eq!(f.job.status(), JobStatus::Cancelling);
    assert_eq!(f.here("a", Some(&[(0, ExecutionState::Running)])), ["a@50: cancel 1"]);
    assert!(f.report("a", 0, ExecutionState::Canceled).is_empty());
    assert_eq!(f.apply(Event::TimerFired(Timer::Reconciliation)), ["record CANCELED"], "b does not come");
}

/// Any event, sensible or not.
fn event() -> impl Strategy<Value = Event> {
    let name = || prop_oneof![Just("a"), Just("b"), Just("c")].prop_map(tm);
    let attempt = || (0u32..3, 0u32..2).prop_map(|(subtask, attempt)| Fixture::attempt(subtask, attempt));
    let state = || proptest::sample::select(ExecutionState::ALL.to_vec());
    let report = move || (attempt(), state()).prop_map(|(attempt, state)| update(attempt, state));
    let command = proptest::sample::select(vec![
        CommandKind::StartExecutor,
        CommandKind::Deploy,
        CommandKind::Cancel,
        CommandKind::StopExecutor,
    ]);
    let kind = proptest::sample::select(vec![
        IntentKind::Placement,
        IntentKind::Deployment,
        IntentKind::Status,
        IntentKind::FinishExecutions,
        IntentKind::End,
    ]);
    let executor = proptest::option::of(proptest::collection::vec(report(), 0..3)).prop_map(|executions| {
        executions.map(|executions| ExecutorState { data_address: "x:1".to_owned(), executions })
    });
    prop_oneof![
        1 => Just(Event::Start),
        3 => Just(Event::SlotsGranted(slots())),
        1 => Just(Event::SlotsGranted(vec![])),
        1 => Just(Event::SlotsMissing("few".to_owned())),
        4 => (kind.clone(), 20u64..40).prop_map(|(kind, index)| Event::Recorded { kind, index }),
        1 => kind.prop_map(|kind| Event::NotRecorded { kind, reason: "no".to_owned() }),
        4 => name().prop_map(|taskmanager| Event::ExecutorReady { taskmanager, data_address: "x:1".to_owned() }),
        2 => (name(), command.clone()).prop_map(|(taskmanager, command)| Event::CommandDone { taskmanager, command }),
        1 => (name(), command).prop_map(|(taskmanager, command)| {
            Event::CommandFailed { taskmanager, command, reason: "no".to_owned() }
        }),
        8 => (name(), report()).prop_map(|(taskmanager, update)| Event::Execution { taskmanager, update }),
        1 => name().prop_map(|taskmanager| Event::ExecutorLost { taskmanager, cause: "signal".to_owned() }),
        1 => name().prop_map(|taskmanager| Event::TaskManagerLost { taskmanager, reason: "silent".to_owned() }),
        2 => (name(), executor).prop_map(|(taskmanager, executor)| {
            Event::TaskManagerHere { taskmanager, executor }
        }),
        1 => (20u64..40).prop_map(|index| Event::CancelRequested { index }),
        1 => Just(Event::TimerFired(Timer::Slots)),
        1 => Just(Event::TimerFired(Timer::Reconciliation)),
    ]
}

/// Applies events and checks what must hold after each.
fn check_laws(mut job: Job, events: Vec<Event>) -> Result<(), TestCaseError> {
    let (mut ends, mut closed) = (0, 0);
    let mut deployment_committed = job.is_told;
    let mut status = job.status();
    for event in std::iter::once(Event::Start).chain(events) {
        if matches!(event, Event::Recorded { kind: IntentKind::Deployment, .. }) {
            deployment_committed = true;
        }
        let over = job.is_over();
        for effect in job.apply(1, event.clone()) {
            prop_assert!(!(over && effect.starts_something()), "{:?} after the end", effect);
            prop_assert!(
                deployment_committed || !matches!(effect, Effect::Send { command: Command::Deploy { .. }, .. }),
                "deployed before it was committed"
            );
            ends += usize::from(matches!(effect, Effect::Record(Intent::End { .. })));
            closed += usize::from(effect == Effect::Close);
        }
        let next = job.status();
        let created_to_finished =
            [JobStatus::Created, JobStatus::Reconciling].contains(&status) && next == JobStatus::Finished;
        prop_assert!(
            next == status || status.may_become(next) || created_to_finished,
            "{status} -> {next} by {event:?}"
        );
        prop_assert_eq!(
            job.status() == JobStatus::Failed,
            job.is_over() && !job.failure().is_empty() && next == JobStatus::Failed
        );
        status = next;
    }
    prop_assert!(ends <= 1, "{ends} ends");
    prop_assert!(closed <= 1, "closed {closed} times");
    Ok(())
}

/// Carries out what the job asks for, faithfully and at once, until it asks for nothing more.
fn serve(job: &mut Job, mut effects: Vec<Effect>) {
    let mut index = 1_000;
    while !effects.is_empty() {
        let mut events = Vec::new();
        for effect in effects {
            match effect {
                Effect::Record(intent) => {
                    index += 1;
                    events.push(Event::Recorded { kind: intent.kind(), index });
                }
                Effect::Send { taskmanager, command: Command::StartExecutor, .. } => {
                    events.push(Event::ExecutorReady { taskmanager, data_address: "x:1".to_owned() });
                }
                Effect::Send { taskmanager, command: Command::Cancel { attempts }, .. } => {
                    events.extend(attempts.into_iter().map(|attempt| Event::Execution {
                        taskmanager: taskmanager.clone(),
                        update: update(attempt, ExecutionState::Canceled),
                    }));
                }
                Effect::Send { taskmanager, command: Command::StopExecutor, .. } => {
                    events.push(Event::CommandDone { taskmanager, command: CommandKind::StopExecutor });
                }
                _ => {}
            }
        }
        effects = events.into_iter().flat_map(|event| job.apply(1, event)).collect();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn no_order_of_events_breaks_a_job(events in proptest::collection::vec(event(), 0..60)) {
        check_laws(Job::new(graph(&[("map", 2, "default")]), PATIENCE, 10), events)?;
    }

    #[test]
    fn no_order_of_events_breaks_a_recovered_job(
        events in proptest::collection::vec(event(), 0..60),
        status in proptest::sample::select(vec![
            JobStatus::Initializing, JobStatus::Created, JobStatus::Running, JobStatus::Failing, JobStatus::Cancelling,
        ]),
    ) {
        let executions = [("a", 0), ("b", 1)].map(|(name, subtask)| Recovered {
            attempt: Fixture::attempt(subtask, 0), assignment: at(name, 0), finished: false,
        });
        let record =
            Record { status, failure: None, cancel_requested: false, executions: executions.to_vec(), deployed_ms: None, index: 5 };
        check_laws(Job::recover(graph(&[("map", 2, "default")]), PATIENCE, record), events)?;
    }

    /// Wherever a job is, once its TaskManagers answer again and a user cancels it, it ends and is cleaned up.
    #[test]
    fn a_cancelled_job_always_ends(events in proptest::collection::vec(event(), 0..60)) {
        let mut job = Job::new(graph(&[("map", 2, "default")]), PATIENCE, 10);
        let mut effects = job.apply(1, Event::Start);
        for event in events {
            effects = job.apply(1, event);
        }
        effects.extend(job.apply(1, Event::CancelRequested { index: 90 }));
        serve(&mut job, effects);
        for name in ["a", "b"] {
            let nothing = Event::TaskManagerHere { taskmanager: tm(name), executor: None };
            let effects = job.apply(1, nothing);
            serve(&mut job, effects);
        }
        for kind in [IntentKind::Placement, IntentKind::End] {
            let effects = job.apply(1, Event::Recorded { kind, index: 2_000 });
            serve(&mut job, effects);
        }
        for name in ["a", "b"] {
            let stopped = Event::CommandDone { taskmanager: tm(name), command: CommandKind::StopExecutor };
            let effects = job.apply(1, stopped);
            serve(&mut job, effects);
        }
        prop_assert!(matches!(job.phase, Phase::Ended { .. }), "{:?} {:?}", job.phase, job.stages);
    }
}
