//! `plan`: from a request to a JobGraph.

use std::path::Path;

use perennial_types::PlanRequest;

use super::{RoleError, read_json};
use crate::JobRegistry;

/// Runs the builder and writes the JobGraph. No source is opened.
pub(super) fn plan(registry: &JobRegistry, request: &Path, output: &Path) -> Result<(), RoleError> {
    let request: PlanRequest = read_json(request, "a plan request")?;
    let graph = registry.build(&request)?.job_graph().map_err(RoleError::Job)?;
    let json = serde_json::to_vec(&graph).map_err(|source| RoleError::Malformed {
        path: output.to_owned(),
        what: "JSON",
        source,
    })?;
    std::fs::write(output, json).map_err(|source| RoleError::File { path: output.to_owned(), done: "written", source })
}
