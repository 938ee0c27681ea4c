//! What the core decides, as TaskManagers are told it.

use perennial_coordination::execution_graph::Placement;
use perennial_coordination::job::Command;
use perennial_rpc::taskmanager::{Action, Deploy, ExecutorAddress, StartExecutor, TaskDeployment, TaskPlacement};

use super::About;

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
        Command::Deploy { restore: Some(stored), .. } => {
            // A task that started without it would do again what it has done.
            return Err(format!("TaskManagers cannot be told to start from checkpoint {}", stored.checkpoint()));
        }
        Command::Deploy { tasks, placement, executors, restore: None } => Action::Deploy(Deploy {
            tasks: tasks.into_iter().map(deployment).collect(),
            placement: placement.into_iter().map(|(attempt, executor)| TaskPlacement { attempt, executor }).collect(),
            executors: executors
                .into_iter()
                .map(|(taskmanager, data_address)| ExecutorAddress { taskmanager, data_address })
                .collect(),
        }),
        Command::Cancel { attempts } => Action::Cancel { attempts },
        Command::TriggerCheckpoint { .. } | Command::NotifyCheckpoint { .. } => {
            return Err("TaskManagers cannot be told of checkpoints".to_owned());
        }
        Command::StopExecutor => Action::StopExecutor,
    })
}

fn deployment(Placement { attempt, assignment }: Placement) -> TaskDeployment {
    TaskDeployment { attempt, slot: assignment.slot, allocation: assignment.allocation, restore: None }
}
