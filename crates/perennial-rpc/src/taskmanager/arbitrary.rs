//! Any message of the TaskManager and executor conversations, for property tests.

use perennial_types::{
    AllocationId, ArtifactDigest, CheckpointId, ClusterId, ExecutionAttemptId, ExecutionState, Fence, Incarnation,
    JobId, JobManagerId, KeyGroupRange, LeaderEpoch, MaxParallelism, OperatorId, OperatorRestore, OperatorSnapshot,
    PlanRequest, SlotIndex, SnapshotKind, StateFile, TaskManagerId, TaskRestore, TaskSnapshot, VertexId,
};
use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;

use super::*;

/// Lengths of lists: enough to find what mixes up elements.
const FEW: std::ops::Range<usize> = 0..4;

pub(crate) fn job() -> impl Strategy<Value = JobId> {
    any::<[u8; 16]>().prop_map(JobId::from_bytes)
}

fn cluster() -> impl Strategy<Value = ClusterId> {
    any::<[u8; 16]>().prop_map(ClusterId::from_bytes)
}

pub(crate) fn fence() -> impl Strategy<Value = Fence> {
    any::<(u64, u64)>().prop_map(|(epoch, index)| Fence { epoch: LeaderEpoch(epoch), index })
}

pub(crate) fn attempt() -> impl Strategy<Value = ExecutionAttemptId> {
    any::<([u8; 16], u32, u32)>().prop_map(|(vertex, subtask, attempt)| ExecutionAttemptId {
        vertex: VertexId::from_bytes(vertex),
        subtask,
        attempt,
    })
}

fn address() -> impl Strategy<Value = String> {
    "[a-z0-9.:]{1,20}"
}

pub(crate) fn progress() -> impl Strategy<Value = TaskProgress> {
    (job(), attempt(), any::<[u64; 6]>()).prop_map(|(job, attempt, counters)| {
        let [records_in, records_out, bytes_in, bytes_out, busy_ms, back_pressured_ms] = counters;
        TaskProgress { job, attempt, records_in, records_out, bytes_in, bytes_out, busy_ms, back_pressured_ms }
    })
}

pub(crate) fn execution() -> impl Strategy<Value = ExecutionReport> {
    let state = proptest::sample::select(&ExecutionState::ALL[..]);
    let told = (option::of(any::<String>()), option::of(progress()), any::<bool>(), option::of(any::<u64>()));
    (job(), attempt(), state, told, vec(checkpoint(), FEW), any::<bool>()).prop_map(
        |(job, attempt, state, (failure, progress, peer_lost, start_ms), checkpoints, ended)| ExecutionReport {
            job,
            attempt,
            state,
            failure,
            progress,
            peer_lost,
            start_ms,
            checkpoints,
            ended,
        },
    )
}

fn checkpoint_id() -> impl Strategy<Value = CheckpointId> {
    (1..=u64::MAX).prop_map(CheckpointId)
}

fn operator() -> impl Strategy<Value = OperatorId> {
    any::<[u8; 16]>().prop_map(OperatorId::from_bytes)
}

fn list() -> impl Strategy<Value = Vec<Vec<u8>>> {
    vec(bytes(), FEW)
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), FEW)
}

fn state_file() -> impl Strategy<Value = StateFile> {
    let range = any::<(u16, u16)>().prop_map(|(a, b)| KeyGroupRange { first: a.min(b), last: a.max(b) });
    (address(), any::<bool>(), any::<u64>(), any::<u32>(), option::of(range))
        .prop_map(|(name, shared, bytes, crc, key_groups)| StateFile { name, shared, bytes, crc, key_groups })
}

pub(crate) fn checkpoint() -> impl Strategy<Value = CheckpointReport> {
    let operator = (operator(), vec(state_file(), FEW), list(), list(), option::of(bytes())).prop_map(
        |(operator, keyed, list, union_list, broadcast)| OperatorSnapshot {
            operator,
            keyed,
            list,
            union_list,
            broadcast,
        },
    );
    let acked = (vec(operator, FEW), any::<bool>(), any::<[u64; 4]>()).prop_map(
        |(operators, finished, [bytes, sync_us, async_ms, align_us])| TaskSnapshot {
            operators,
            finished,
            bytes,
            sync_us,
            async_ms,
            align_us,
        },
    );
    let result = prop_oneof![acked.prop_map(Ok), any::<String>().prop_map(Err)];
    (job(), attempt(), checkpoint_id(), result).prop_map(|(job, attempt, checkpoint, result)| CheckpointReport {
        job,
        attempt,
        checkpoint,
        result,
    })
}

pub(crate) fn trigger() -> impl Strategy<Value = TriggerCheckpoint> {
    let kind = prop_oneof![
        Just(SnapshotKind::Checkpoint),
        Just(SnapshotKind::Savepoint),
        any::<bool>().prop_map(|drain| SnapshotKind::Suspend { drain }),
    ];
    (checkpoint_id(), kind, any::<bool>(), address(), any::<u64>()).prop_map(
        |(checkpoint, kind, exactly_once, directory, at_ms)| TriggerCheckpoint {
            checkpoint,
            kind,
            exactly_once,
            directory,
            at_ms,
        },
    )
}

pub(crate) fn notify() -> impl Strategy<Value = NotifyCheckpoint> {
    (option::of(checkpoint_id()), vec(checkpoint_id(), FEW))
        .prop_map(|(completed, aborted)| NotifyCheckpoint { completed, aborted })
}

fn restore() -> impl Strategy<Value = TaskRestore> {
    let operator = (operator(), vec((address(), state_file()), FEW), list(), list(), option::of(bytes())).prop_map(
        |(operator, keyed, list, union_list, broadcast)| OperatorRestore {
            operator,
            keyed,
            list,
            union_list,
            broadcast,
        },
    );
    (checkpoint_id(), vec(operator, FEW), any::<bool>()).prop_map(|(checkpoint, operators, finished)| TaskRestore {
        checkpoint,
        operators,
        finished,
    })
}

fn executor() -> impl Strategy<Value = ExecutorReport> {
    (job(), address(), vec(execution(), FEW)).prop_map(|(job, data_address, executions)| ExecutorReport {
        job,
        data_address,
        executions,
    })
}

pub(crate) fn command_error() -> impl Strategy<Value = CommandError> {
    prop_oneof![fence().prop_map(|seen| CommandError::Stale { seen }), any::<String>().prop_map(CommandError::Failed)]
}

fn registration() -> impl Strategy<Value = Registration> {
    let who = (option::of(cluster()), address(), any::<[u8; 16]>(), address());
    (who, 1..u32::MAX, any::<String>(), any::<u32>(), vec(executor(), FEW)).prop_map(
        |((cluster, id, incarnation, host), slots, target, pid, executors)| Registration {
            cluster,
            id: TaskManagerId(id),
            incarnation: Incarnation::from_bytes(incarnation),
            host,
            slots,
            target,
            pid,
            executors,
        },
    )
}

fn answer() -> impl Strategy<Value = CommandAnswer> {
    let result = prop_oneof![
        address().prop_map(|data_address| Ok(CommandDone::ExecutorReady { data_address })),
        Just(Ok(CommandDone::Done)),
        command_error().prop_map(Err),
    ];
    (any::<u64>(), result).prop_map(|(id, result)| CommandAnswer { id, result })
}

pub(crate) fn from_taskmanager() -> impl Strategy<Value = FromTaskManager> {
    prop_oneof![
        registration().prop_map(FromTaskManager::Register),
        (option::of(address()), any::<u64>()).prop_map(|(id, stale_commands)| FromTaskManager::Heartbeat {
            from: id.map(TaskManagerId),
            stale_commands
        }),
        answer().prop_map(FromTaskManager::Answer),
        execution().prop_map(FromTaskManager::Execution),
        vec(progress(), FEW).prop_map(FromTaskManager::Progress),
        (job(), any::<String>(), any::<bool>()).prop_map(|(job, cause, own_doing)| FromTaskManager::ExecutorLost {
            job,
            cause,
            own_doing
        }),
        checkpoint().prop_map(FromTaskManager::Checkpoint),
    ]
}

pub(crate) fn deploy() -> impl Strategy<Value = Deploy> {
    let task = (attempt(), any::<u32>(), any::<[u8; 16]>(), option::of(restore())).prop_map(
        |(attempt, slot, allocation, restore)| TaskDeployment {
            attempt,
            slot: SlotIndex(slot),
            allocation: AllocationId::from_bytes(allocation),
            restore,
        },
    );
    let executor = (address(), address()).prop_map(|(taskmanager, data_address)| ExecutorAddress {
        taskmanager: TaskManagerId(taskmanager),
        data_address,
    });
    (vec(task, FEW), vec(executor, FEW)).prop_flat_map(|(tasks, executors)| {
        let places = if executors.is_empty() { 0..1 } else { FEW };
        let count = executors.len().max(1) as u32;
        let place = (attempt(), 0..count).prop_map(|(attempt, executor)| TaskPlacement { attempt, executor });
        let shape = (any::<[u8; 16]>(), any::<u32>(), 1..=MaxParallelism::UPPER_BOUND).prop_map(
            |(vertex, parallelism, max_parallelism)| VertexShape {
                vertex: VertexId::from_bytes(vertex),
                parallelism,
                max_parallelism: MaxParallelism::new(max_parallelism).unwrap(),
            },
        );
        (vec(place, places), vec(shape, FEW)).prop_map(move |(placement, vertices)| Deploy {
            tasks: tasks.clone(),
            placement,
            executors: executors.clone(),
            vertices,
        })
    })
}

fn start_executor() -> impl Strategy<Value = StartExecutor> {
    let texts = || btree_map(any::<String>(), any::<String>(), FEW);
    let plan = (option::of(any::<String>()), vec(any::<String>(), FEW), texts())
        .prop_map(|(job, args, config)| PlanRequest { job, args, config });
    (any::<[u8; 32]>(), any::<u64>(), any::<String>(), plan, any::<u64>(), texts()).prop_map(
        |(artifact, artifact_size, artifact_name, request, structural_hash, config)| StartExecutor {
            artifact: ArtifactDigest::from_bytes(artifact),
            artifact_size,
            artifact_name,
            request,
            structural_hash,
            config,
        },
    )
}

fn command() -> impl Strategy<Value = Command> {
    let action = prop_oneof![
        start_executor().prop_map(Action::StartExecutor),
        deploy().prop_map(Action::Deploy),
        vec(attempt(), FEW).prop_map(|attempts| Action::Cancel { attempts }),
        Just(Action::StopExecutor),
        trigger().prop_map(Action::TriggerCheckpoint),
        notify().prop_map(Action::NotifyCheckpoint),
    ];
    (fence(), any::<u64>(), job(), action).prop_map(|(fence, id, job, action)| Command { fence, id, job, action })
}

pub(crate) fn to_taskmanager() -> impl Strategy<Value = ToTaskManager> {
    let leader = (option::of(any::<u64>()), any::<String>());
    let leadership = (option::of(cluster()), any::<u64>(), any::<u64>(), leader, vec(any::<String>(), FEW)).prop_map(
        |(cluster, from, epoch, (leader, leader_address), jobmanagers)| Leadership {
            cluster,
            from: JobManagerId(from),
            epoch: LeaderEpoch(epoch),
            leader: leader.map(JobManagerId),
            leader_address,
            jobmanagers,
        },
    );
    prop_oneof![
        leadership.prop_map(ToTaskManager::Leadership),
        cluster().prop_map(|cluster| ToTaskManager::Registered { cluster }),
        any::<String>().prop_map(|reason| ToTaskManager::Refused { reason }),
        Just(ToTaskManager::Heartbeat),
        command().prop_map(ToTaskManager::Command),
    ]
}
