//! What the core decides, as TaskManagers are told it.

use perennial_coordination::checkpoint::{StoredCheckpoint, assign};
use perennial_coordination::execution_graph::Placement;
use perennial_coordination::job::Command;
use perennial_rpc::taskmanager::{
    Action, Deploy, ExecutorAddress, NotifyCheckpoint, StartExecutor, TaskDeployment, TaskPlacement, TriggerCheckpoint,
    VertexShape,
};
use perennial_types::config::CheckpointingMode;
use perennial_types::{JobVertex, SnapshotKind};

use super::About;
use crate::checkpoints;
use crate::unix_ms;

/// A decision with what it needs besides; or why nobody can be told.
pub(super) fn action(about: &About, command: Command) -> Result<Action, String> {
    Ok(match command {
        Command::StartExecutor => Action::StartExecutor(StartExecutor {
            artifact: about.artifact.digest,
            artifact_size: about.artifact.size,
            artifact_name: about.artifact.name.clone(),
            request: about.plan.clone(),
            structural_hash: about.graph.structural_hash,
            config: about.config.clone(),
        }),
        Command::Deploy { tasks, placement, executors, restore } => Action::Deploy(Deploy {
            tasks: tasks
                .into_iter()
                .map(|placement| deployment(about, restore.as_deref(), placement))
                .collect::<Result<_, _>>()?,
            placement: placement.into_iter().map(|(attempt, executor)| TaskPlacement { attempt, executor }).collect(),
            executors: executors
                .into_iter()
                .map(|(taskmanager, data_address)| ExecutorAddress { taskmanager, data_address })
                .collect(),
            vertices: about.graph.vertices.iter().map(shape).collect(),
        }),
        Command::Cancel { attempts } => Action::Cancel { attempts },
        Command::TriggerCheckpoint { checkpoint } => Action::TriggerCheckpoint(TriggerCheckpoint {
            checkpoint,
            kind: SnapshotKind::Checkpoint,
            exactly_once: about.checkpointing.mode == CheckpointingMode::ExactlyOnce,
            directory: checkpoints::location(&about.checkpointing.directory, about.job, checkpoint),
            at_ms: unix_ms(),
        }),
        Command::NotifyCheckpoint { completed, aborted } => {
            Action::NotifyCheckpoint(NotifyCheckpoint { completed, aborted })
        }
        Command::StopExecutor => Action::StopExecutor,
    })
}

fn shape(vertex: &JobVertex) -> VertexShape {
    let JobVertex { id, parallelism, max_parallelism, .. } = vertex;
    VertexShape { vertex: *id, parallelism: *parallelism, max_parallelism: *max_parallelism }
}

fn deployment(
    about: &About,
    restore: Option<&StoredCheckpoint>,
    Placement { attempt, assignment }: Placement,
) -> Result<TaskDeployment, String> {
    let restore = restore.map(|stored| assign(stored, &about.graph, attempt)).transpose();
    let restore = restore.map_err(|error| error.to_string())?;
    Ok(TaskDeployment { attempt, slot: assignment.slot, allocation: assignment.allocation, restore })
}
