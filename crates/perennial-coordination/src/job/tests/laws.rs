//! Any events in any order: what must hold after each.

use perennial_types::{CheckpointId, ExecutionState, JobStatus, TaskSnapshot};
use proptest::prelude::*;

use super::fixture::*;
use crate::checkpoint::{self, CheckpointRecord};
use crate::execution_graph::Recovered;
use crate::job::*;
use crate::restart_strategy::RestartStrategy;

/// Any event, sensible or not.
fn event(shape: Shape) -> impl Strategy<Value = Event> {
    let name = || prop_oneof![Just("a"), Just("b"), Just("c")].prop_map(tm);
    let attempt = move || (0u32..2, 0u32..3).prop_map(move |(task, attempt)| shape.attempt(task, attempt));
    let state = || proptest::sample::select(ExecutionState::ALL.to_vec());
    let report = move || {
        (attempt(), state(), any::<bool>())
            .prop_map(|(attempt, state, peer_lost)| ExecutionUpdate { peer_lost, ..update(attempt, state) })
    };
    let command = proptest::sample::select(vec![
        CommandKind::StartExecutor,
        CommandKind::Deploy,
        CommandKind::Cancel,
        CommandKind::TriggerCheckpoint(CheckpointId(1)),
        CommandKind::NotifyCheckpoint,
        CommandKind::StopExecutor,
    ]);
    let kind = proptest::sample::select(vec![
        IntentKind::Placement,
        IntentKind::Deployment,
        IntentKind::Status,
        IntentKind::FinishExecutions,
        IntentKind::ReserveCheckpoint(CheckpointId(1)),
        IntentKind::CompleteCheckpoint(CheckpointId(1)),
        IntentKind::AbortCheckpoint(CheckpointId(1)),
        IntentKind::End,
    ]);
    let executor = proptest::option::of(proptest::collection::vec(report(), 0..3)).prop_map(|executions| {
        executions.map(|executions| ExecutorState { data_address: "x:1".to_owned(), executions })
    });
    let liveness = proptest::sample::select(vec![Liveness::Alive, Liveness::Gone, Liveness::Unknown]);
    prop_oneof![
        1 => Just(Event::Start),
        3 => Just(Event::SlotsGranted(slots())),
        1 => (0u32..3).prop_map(|slot| Event::SlotsGranted(vec![at("c", slot)])),
        1 => Just(Event::SlotsMissing("few".to_owned())),
        6 => (kind.clone(), 20u64..40).prop_map(|(kind, index)| Event::Recorded { kind, index }),
        1 => kind.prop_map(|kind| Event::NotRecorded { kind, reason: "no".to_owned() }),
        4 => name().prop_map(|taskmanager| Event::ExecutorReady { taskmanager, data_address: "x:1".to_owned() }),
        2 => (name(), command.clone()).prop_map(|(taskmanager, command)| Event::CommandDone { taskmanager, command }),
        1 => (name(), command).prop_map(|(taskmanager, command)| {
            Event::CommandFailed { taskmanager, command, reason: "no".to_owned() }
        }),
        8 => (name(), report()).prop_map(|(taskmanager, update)| Event::Execution { taskmanager, update }),
        1 => (name(), any::<bool>()).prop_map(|(taskmanager, own_doing)| {
            Event::ExecutorLost { taskmanager, cause: "signal".to_owned(), own_doing }
        }),
        1 => name().prop_map(|taskmanager| Event::TaskManagerLost { taskmanager, reason: "silent".to_owned() }),
        1 => name().prop_map(|taskmanager| Event::TaskManagerDetached { taskmanager }),
        1 => (name(), liveness).prop_map(|(taskmanager, liveness)| {
            Event::Probed { taskmanager, data_address: "x:1".to_owned(), liveness }
        }),
        2 => (name(), executor).prop_map(|(taskmanager, executor)| {
            Event::TaskManagerHere { taskmanager, executor }
        }),
        1 => (20u64..40).prop_map(|index| Event::CancelRequested { index }),
        1 => (0u32..3).prop_map(|wait| Event::TimerFired(Timer::Slots(wait))),
        2 => (0u32..4).prop_map(|wait| Event::TimerFired(Timer::Restart(wait))),
        1 => Just(Event::TimerFired(Timer::Reconciliation)),
        3 => (name(), attempt(), any::<bool>()).prop_map(|(taskmanager, attempt, ok)| {
            let result = if ok { Ok(TaskSnapshot::default()) } else { Err("no space".to_owned()) };
            Event::Snapshot { taskmanager, attempt, checkpoint: CheckpointId(1), result }
        }),
        1 => any::<bool>().prop_map(|ok| {
            let checkpoint = CheckpointId(1);
            let result = if ok { Ok(stored(checkpoint)) } else { Err("no space".to_owned()) };
            Event::MetadataWritten { checkpoint, result }
        }),
        1 => Just(Event::TimerFired(Timer::Checkpoint(checkpoint::Timer::Interval(1)))),
        1 => Just(Event::TimerFired(Timer::Checkpoint(checkpoint::Timer::Timeout(CheckpointId(1))))),
    ]
}

fn shape() -> impl Strategy<Value = Shape> {
    proptest::sample::select(vec![Shape::Joined, Shape::Apart])
}

fn shape_and_events() -> impl Strategy<Value = (Shape, Vec<Event>)> {
    shape().prop_flat_map(|shape| (Just(shape), proptest::collection::vec(event(shape), 0..60)))
}

fn strategy() -> impl Strategy<Value = RestartStrategy> {
    any::<bool>().prop_map(|patient| if patient { always() } else { losses_only() })
}

/// Applies events and checks what must hold after each.
fn check_laws(mut job: Job, events: Vec<Event>) -> Result<(), TestCaseError> {
    let (mut ends, mut closed) = (0, 0);
    let mut deployment_committed = job.is_told;
    let mut status = job.status();
    let mut restarts = job.restarts();
    for event in std::iter::once(Event::Start).chain(events) {
        if matches!(event, Event::Recorded { kind: IntentKind::Deployment, .. }) {
            deployment_committed = true;
        }
        let over = job.is_over();
        let attempts: Vec<u32> = job.executions().executions().map(|(attempt, _)| attempt.attempt).collect();
        for effect in job.apply(1, event.clone()) {
            prop_assert!(!(over && effect.starts_something()), "{:?} after the end", effect);
            if let Effect::Send { taskmanager, command: Command::Deploy { tasks, .. }, .. } = &effect {
                prop_assert!(deployment_committed, "deployed before it was committed");
                for task in tasks {
                    prop_assert_eq!(&task.assignment.taskmanager, taskmanager);
                    let current = job.executions().get(task.attempt).map(|execution| execution.state());
                    prop_assert_eq!(current, Some(ExecutionState::Deploying));
                }
            }
            restarts += u32::from(matches!(effect, Effect::Record(Intent::Restarting { .. })));
            ends += usize::from(matches!(effect, Effect::Record(Intent::End { .. })));
            closed += usize::from(effect == Effect::Close);
        }
        prop_assert_eq!(job.restarts(), restarts, "the count is what the log is told");
        for ((attempt, execution), before) in job.executions().executions().zip(attempts) {
            prop_assert!(attempt.attempt == before || attempt.attempt == before + 1);
            let new = attempt.attempt != before;
            prop_assert!(!new || execution.state() <= ExecutionState::Scheduled, "told before it was placed");
        }
        let next = job.status();
        let created_to_finished =
            [JobStatus::Created, JobStatus::Reconciling].contains(&status) && next == JobStatus::Finished;
        // A job of which the last leader saw everything finish has only its end to record.
        let found_finished = event == Event::Start && next == JobStatus::Running;
        prop_assert!(
            next == status || status.may_become(next) || created_to_finished || found_finished,
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
    fn no_order_of_events_breaks_a_job((shape, events) in shape_and_events(), strategy in strategy()) {
        check_laws(Job::new(shape.graph(), PATIENCE, strategy, every_second(), 10), events)?;
    }

    #[test]
    fn no_order_of_events_breaks_a_recovered_job(
        (shape, events) in shape_and_events(),
        strategy in strategy(),
        finished in 0u32..4,
        status in proptest::sample::select(vec![
            JobStatus::Initializing, JobStatus::Created, JobStatus::Running, JobStatus::Restarting, JobStatus::Failing,
            JobStatus::Cancelling,
        ]),
    ) {
        let executions = [("a", 0), ("b", 1)].map(|(name, task)| Recovered {
            attempt: shape.attempt(task, 0),
            assignment: at(name, 0),
            finished: status != JobStatus::Initializing && finished & (1 << task) != 0,
        });
        let record = Record {
            status,
            failure: None,
            cancel_requested: false,
            executions: executions.to_vec(),
            deployed_ms: None,
            restarted_ms: None,
            restarts: 2,
            checkpoints: CheckpointRecord::default(),
            index: 5,
        };
        check_laws(Job::recover(shape.graph(), PATIENCE, strategy, every_second(), record), events)?;
    }

    /// Wherever a job is, once its TaskManagers answer again and a user cancels it, it ends and is cleaned up.
    #[test]
    fn a_cancelled_job_always_ends((shape, events) in shape_and_events(), strategy in strategy()) {
        let mut job = Job::new(shape.graph(), PATIENCE, strategy, every_second(), 10);
        let mut effects = job.apply(1, Event::Start);
        for event in events {
            effects = job.apply(1, event);
        }
        effects.extend(job.apply(1, Event::CancelRequested { index: 90 }));
        serve(&mut job, effects);
        for name in ["a", "b", "c"] {
            let nothing = Event::TaskManagerHere { taskmanager: tm(name), executor: None };
            let effects = job.apply(1, nothing);
            serve(&mut job, effects);
        }
        for kind in [IntentKind::Placement, IntentKind::End] {
            let effects = job.apply(1, Event::Recorded { kind, index: 2_000 });
            serve(&mut job, effects);
        }
        for name in ["a", "b", "c"] {
            let stopped = Event::CommandDone { taskmanager: tm(name), command: CommandKind::StopExecutor };
            let effects = job.apply(1, stopped);
            serve(&mut job, effects);
        }
        prop_assert!(matches!(job.phase, Phase::Ended { .. }), "{:?} {:?}", job.phase, job.hosts);
    }
}
