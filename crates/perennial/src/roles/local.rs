//! No role: the job runs in this process, without any server.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use perennial_runtime::ExecutableJob;
use perennial_runtime::local::{self, LocalOptions, LocalOutcome};
use perennial_types::PlanRequest;
use perennial_types::config::options;

use super::RoleError;
use crate::{JobError, JobRegistry};

/// How a job that ran in this process went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobResult {
    /// From the start of the first task to the end of the last.
    pub duration: Duration,
    /// Records its sources read.
    pub records_in: u64,
    /// Records its sinks wrote.
    pub records_out: u64,
}

/// Runs a job in this process.
pub(crate) fn run(job: &ExecutableJob, config: BTreeMap<String, String>) -> Result<JobResult, JobError> {
    let options = LocalOptions { config, ..LocalOptions::default() };
    let LocalOutcome { duration, tasks, .. } = local::run(job, &options)?;
    let graph = &job.graph;
    let mut result = JobResult { duration, records_in: 0, records_out: 0 };
    let mut tasks = tasks.iter();
    for (index, vertex) in graph.vertices.iter().enumerate() {
        for task in tasks.by_ref().take(vertex.parallelism as usize) {
            if graph.edges.iter().all(|edge| edge.target != index) {
                result.records_in += task.counters.records_in.load(Ordering::Relaxed);
            }
            if graph.edges.iter().all(|edge| edge.source != index) {
                result.records_out += task.counters.records_out.load(Ordering::Relaxed);
            }
        }
    }
    Ok(result)
}

/// Runs one of the registry's jobs and says how it went, on standard error.
pub(super) fn play(registry: &JobRegistry, mut request: PlanRequest) -> Result<(), RoleError> {
    let processors = std::thread::available_parallelism().map_or(1, |count| count.get());
    let parallelism = options::PARALLELISM_DEFAULT.key.to_owned();
    request.config.entry(parallelism).or_insert_with(|| processors.to_string());
    let env = registry.build(&request)?;
    let job = env.executable().map_err(RoleError::Job)?;
    let JobResult { duration, records_in, records_out } = run(&job, env.effective_options()).map_err(RoleError::Job)?;
    eprintln!("job `{}` finished in {duration:.3?}: {records_in} records in, {records_out} out", job.graph.name);
    Ok(())
}
