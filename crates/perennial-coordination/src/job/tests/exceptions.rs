//! What is remembered of failures, as people read it and as the log and the next leader get it.

use std::time::Duration;

use perennial_types::{ExecutionState, JobStatus, RestartMemory};

use super::fixture::Shape::{Apart, Joined};
use super::fixture::*;
use crate::checkpoint::{CheckpointRecord, Settings};
use crate::execution_graph::Recovered;
use crate::job::*;
use crate::restart_strategy::{Policy, RestartStrategy};

/// An entry a line: kind, task and place of each failure, those that came with the first behind a plus.
fn history(job: &Job) -> Vec<String> {
    let one = |exception: &perennial_types::JobException| match &exception.task {
        None => exception.kind.as_str().to_owned(),
        Some(task) => {
            let at = task.taskmanager.as_ref().map_or("nowhere", |at| at.0.as_str());
            let endpoint = task.endpoint.as_deref().unwrap_or("?");
            format!("{} {} on {at} at {endpoint}", exception.kind.as_str(), task.name)
        }
    };
    let line = |entry: &perennial_types::ExceptionEntry| {
        let all: Vec<String> = std::iter::once(&entry.root).chain(&entry.concurrent).map(one).collect();
        format!("{}: {}", entry.number, all.join(" + "))
    };
    job.exceptions().iter().map(line).collect()
}

#[test]
fn a_failure_is_an_entry_and_what_fails_while_its_region_restarts_comes_with_it() {
    let mut f = Fixture::running(Joined, always());
    f.report("a", 0, ExecutionState::Failed);
    f.report("b", 1, ExecutionState::Failed);
    let expect =
        "0: TaskFailed source (1/1) - execution #0 on a at a:1 + TaskFailed sink (1/1) - execution #0 on b at b:1";
    assert_eq!(history(&f.job), [expect]);
    let root = f.job.exceptions()[0].root.clone();
    assert_eq!((root.at_ms, root.text.as_str()), (9, "`source` (1/1) attempt 0 on TaskManager a failed: out of luck"));
    f.apply(Event::TimerFired(Timer::Restart(1)));
    f.recorded(IntentKind::Placement, 40);
    f.report("a", 0, ExecutionState::Running);
    f.report("b", 1, ExecutionState::Running);
    f.lose_executor("b");
    assert_eq!(history(&f.job), [expect, "1: ExecutorLost sink (1/1) - execution #1 on b at b:1"]);
}

#[test]
fn regions_that_restart_side_by_side_have_an_entry_each() {
    let mut f = Fixture::running(Apart, always());
    f.report("a", 0, ExecutionState::Failed);
    f.lose("b");
    assert_eq!(
        history(&f.job),
        [
            "0: TaskFailed map (1/2) - execution #0 on a at a:1",
            "1: TaskManagerLost map (2/2) - execution #0 on b at b:1"
        ]
    );
}

/// One loss that hits several tasks is one failure, and names them.
#[test]
fn a_loss_names_every_task_it_hit() {
    let mut f = Fixture::new(Apart, losses_only());
    f.apply(Event::Start);
    f.apply(Event::SlotsGranted(vec![at("a", 0), at("a", 1)]));
    f.recorded(IntentKind::Placement, 20);
    f.recorded(IntentKind::Deployment, 21);
    f.ready("a");
    f.lose_executor("a");
    let expect =
        "0: ExecutorLost map (1/2) - execution #0 on a at a:1 + ExecutorLost map (2/2) - execution #0 on a at a:1";
    assert_eq!(history(&f.job), [expect]);
}

/// An abort is a failure of the code like a panic, and decides like one; a kill from outside is a loss.
#[test]
fn an_executor_that_ends_itself_fails_its_tasks() {
    for (own_doing, kind) in [(true, "ExecutorFailed"), (false, "ExecutorLost")] {
        let mut f = Fixture::running(Apart, losses_only());
        let cause = "killed by signal 6 (SIGABRT)".to_owned();
        f.apply(Event::ExecutorLost { taskmanager: tm("a"), cause, own_doing });
        assert_eq!(history(&f.job), [format!("0: {kind} map (1/2) - execution #0 on a at a:1")]);
        match own_doing {
            true => assert!(f.job.failure().contains("(SIGABRT); Recovery is suppressed by"), "{}", f.job.failure()),
            false => assert_eq!(f.job.status(), JobStatus::Restarting),
        }
    }
}

#[test]
fn the_end_of_a_job_is_an_entry_and_what_else_fails_on_the_way_comes_with_it() {
    let mut f = Fixture::running(Joined, losses_only());
    f.report("a", 0, ExecutionState::Failed);
    f.report("b", 1, ExecutionState::Failed);
    let expect =
        "0: TaskFailed source (1/1) - execution #0 on a at a:1 + TaskFailed sink (1/1) - execution #0 on b at b:1";
    assert_eq!(history(&f.job), [expect]);
    assert_eq!(f.job.exceptions()[0].root.text, f.job.failure(), "with the strategy's sentence");

    let mut f = Fixture::new(Joined, losses_only());
    f.apply(Event::Start);
    f.apply(Event::TimerFired(Timer::Slots(1)));
    assert_eq!(history(&f.job), ["0: JobFailed"]);
}

/// What the cancel watchdog does is told too.
#[test]
fn a_cancelled_job_remembers_that_its_executor_had_to_be_killed() {
    let mut f = Fixture::running(Joined, losses_only());
    f.apply(Event::CancelRequested { index: 30 });
    f.lose_executor("a");
    f.report("b", 1, ExecutionState::Canceled);
    assert_eq!(f.job.failure(), "");
    assert_eq!(history(&f.job), ["0: ExecutorLost source (1/1) - execution #0 on a at a:1"]);
}

/// The echo of a lost process is part of the failure behind it, unless that failure decides otherwise.
#[test]
fn the_failure_behind_an_echo_has_an_entry_when_it_ends_the_job() {
    let mut f = Fixture::running(Joined, losses_only());
    let symptom = ExecutionUpdate { peer_lost: true, ..update(f.current(1), ExecutionState::Failed) };
    f.apply(Event::Execution { taskmanager: tm("b"), update: symptom });
    f.report("a", 0, ExecutionState::Failed);
    assert_eq!(
        history(&f.job),
        [
            "0: ConnectionLost sink (1/1) - execution #0 on b at b:1",
            "1: TaskFailed source (1/1) - execution #0 on a at a:1"
        ]
    );
}

/// The log is told what it does not have, once.
#[test]
fn only_news_go_into_the_log() {
    let mut f = Fixture::running(Joined, always());
    assert!(f.job.exceptions_since(0).entries.is_empty());
    f.report("a", 0, ExecutionState::Failed);
    let first = f.job.exceptions_revision();
    let news = f.job.exceptions_since(0);
    assert_eq!((news.entries.len(), news.memory.restarts), (1, 1));
    assert!(f.job.exceptions_since(first).entries.is_empty());
    f.report("b", 1, ExecutionState::Failed);
    let news = f.job.exceptions_since(first);
    assert_eq!((news.entries[0].number, news.entries[0].concurrent.len()), (0, 1), "it has grown");
    assert!(f.job.exceptions_since(f.job.exceptions_revision()).entries.is_empty());
}

/// A new leader goes on with the numbers, the attempts that are used up, and the wait that is not over.
#[test]
fn a_new_leader_forgets_neither_attempts_nor_the_wait() {
    let policy = Policy::FixedDelay { attempts: 1, delay: Duration::from_secs(10) };
    let strategy = |memory| RestartStrategy::new(policy.clone(), memory, 1);
    let mut f = Fixture::running(Joined, strategy(RestartMemory::default()));
    f.report("a", 0, ExecutionState::Failed);
    let known = f.job.exceptions_since(0);
    let record = Record {
        status: JobStatus::Restarting,
        failure: None,
        cancel_requested: false,
        executions: [("a", 0), ("b", 1)]
            .map(|(name, task)| Recovered {
                attempt: Joined.attempt(task, 0),
                assignment: at(name, 0),
                finished: false,
            })
            .to_vec(),
        deployed_ms: None,
        restarted_ms: None,
        restarts: 1,
        checkpoints: CheckpointRecord::default(),
        index: 50,
    };
    let job = Job::recover(Joined.graph(), PATIENCE, strategy(known.memory), Settings::default(), record);
    let mut f = Fixture { job: job.with_exceptions(known.entries, 16), shape: Joined, now_ms: 4009 };
    f.apply(Event::Start);
    f.here("a", Some(&[(0, ExecutionState::Failed)]));
    assert_eq!(f.here("b", Some(&[(1, ExecutionState::Canceled)])), Vec::<String>::new());
    assert_eq!(history(&f.job).len(), 1, "an earlier leader has told it");
    assert_eq!(f.apply(Event::TimerFired(Timer::Restart(1))), ["place a b"], "six seconds were left");
    f.recorded(IntentKind::Placement, 60);
    f.report("a", 0, ExecutionState::Failed);
    assert!(f.job.failure().contains("FixedDelayRestartBackoffTimeStrategy"), "the one attempt was used up");
    assert_eq!(f.job.exceptions().iter().map(|entry| entry.number).collect::<Vec<_>>(), [0, 1]);
}

/// Between two leaders the tasks that the old one had deployed again failed again: that is a failure of its own.
#[test]
fn a_failure_that_no_leader_has_seen_counts() {
    let (mut f, _) =
        Fixture::recovered_with(Joined, JobStatus::Restarting, &[], Settings::default(), CheckpointRecord::default());
    f.here("a", Some(&[(0, ExecutionState::Failed)]));
    assert_eq!(history(&f.job), ["0: TaskFailed source (1/1) - execution #3 on a at a:1"]);
    assert!(f.job.failure().contains("Recovery is suppressed"), "{}", f.job.failure());
}

#[test]
fn the_oldest_entries_go() {
    let mut f = Fixture::running(
        Apart,
        RestartStrategy::new(
            Policy::FixedDelay { attempts: u32::MAX, delay: Duration::ZERO },
            RestartMemory::default(),
            1,
        ),
    );
    for round in 0..20 {
        f.report("a", 0, ExecutionState::Failed);
        f.recorded(IntentKind::Placement, 40 + round);
        f.report("a", 0, ExecutionState::Running);
    }
    let numbers: Vec<u64> = f.job.exceptions().iter().map(|entry| entry.number).collect();
    assert_eq!(numbers, (4..20).collect::<Vec<_>>());
    assert_eq!(f.job.exceptions_since(0).entries.len(), 16);
}
