//! No role: the job runs in this process, without any server.

use std::collections::BTreeMap;
use std::time::Duration;

use perennial_runtime::ExecutableJob;
use perennial_runtime::local::{self, LocalOptions, LocalOutcome};
use perennial_types::PlanRequest;
use perennial_types::config::options;

use super::RoleError;
use crate::{JobError, JobRegistry};

/// How a job that ran in this process went.
#[derive(Debug, Clone)]
pub struct JobResult {
    /// From the start of the first task to the end of the last.
    pub duration: Duration,
    outcome: LocalOutcome,
}

impl JobResult {
    /// Records the tasks read from exchanges, all subtasks together, by name of the task, in the order of the plan.
    pub fn records_in(&self) -> Vec<(String, u64)> {
        let mut totals: Vec<(String, u64)> = Vec::new();
        for task in &self.outcome.tasks {
            let count = task.counters.records_in.load(std::sync::atomic::Ordering::Relaxed);
            match totals.last_mut() {
                Some((name, total)) if *name == task.vertex_name && task.subtask > 0 => *total += count,
                _ => totals.push((task.vertex_name.clone(), count)),
            }
        }
        totals
    }

    /// Records the sources and operators handed on between tasks and to sinks, all tasks together.
    pub fn records_out(&self) -> u64 {
        let counters = self.outcome.tasks.iter().map(|task| &task.counters.records_out);
        counters.map(|counter| counter.load(std::sync::atomic::Ordering::Relaxed)).sum()
    }
}

/// Runs a job in this process.
pub(crate) fn run(job: ExecutableJob, config: BTreeMap<String, String>) -> Result<JobResult, JobError> {
    let options = LocalOptions { config, ..LocalOptions::default() };
    let outcome = local::run(&job, &options)?;
    Ok(JobResult { duration: outcome.duration, outcome })
}

/// Runs one of the registry's jobs and says how it went, on standard error.
pub(super) fn play(registry: &JobRegistry, mut request: PlanRequest) -> Result<(), RoleError> {
    let processors = std::thread::available_parallelism().map_or(1, |count| count.get());
    let parallelism = options::PARALLELISM_DEFAULT.key.to_owned();
    request.config.entry(parallelism).or_insert_with(|| processors.to_string());
    let env = registry.build(&request)?;
    let job = env.executable().map_err(RoleError::Job)?;
    let name = job.graph.name.clone();
    let result = run(job, env.effective_options()).map_err(RoleError::Job)?;
    eprintln!("job `{name}` finished in {:.3?}: {} records", result.duration, result.records_out());
    Ok(())
}
