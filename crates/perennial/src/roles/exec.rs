//! `exec`: runs the job's subtasks for a TaskManager.

use std::path::Path;

use perennial_rpc::executor::ExecutorSpec;

use super::{RoleError, read_json};
use crate::JobRegistry;

/// Rebuilds the job and serves its TaskManager until it is told to stop.
pub(super) fn exec(registry: &JobRegistry, spec: &Path) -> Result<(), RoleError> {
    let spec: ExecutorSpec = read_json(spec, "an executor's specification")?;
    let job = registry.build(&spec.request)?.executable().map_err(RoleError::Job)?;
    let (built, planned) = (job.graph.structural_hash, spec.structural_hash);
    if built != planned {
        return Err(RoleError::OtherJob { built, planned });
    }
    perennial_runtime::executor::run(&spec, &job).map_err(RoleError::Executor)
}
