//! A new leader adopts many jobs at once. Their tasks only pretend to run: two TaskManagers of this program have the slots.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Args;
use perennial_client::{DispatcherGateway, JobSummary, SubmitJob};
use perennial_rpc::dispatcher::DispatcherClient;
use perennial_rpc::transport::channel;
use perennial_tests::fake_taskmanager::FakeTaskManager;
use perennial_tests::{Cluster, ClusterBuilder, Report};
use perennial_types::{ExecutionState, JobId, JobStatus, MaxParallelism, RequestId};
use tokio::task::JoinSet;

use crate::requests;
use crate::scene::{ALL, LIMIT, ms};

/// Names of the TaskManagers.
const NAMES: [&str; 2] = ["tm-a", "tm-b"];

/// Time from the leader's death until every job is adopted.
const ADOPTED_WITHIN: Duration = Duration::from_secs(3);

/// Submissions under way at once.
const AT_ONCE: usize = 16;

/// Time in which all jobs have to run, and in which adoption is still waited for.
const PATIENCE: Duration = Duration::from_secs(120);

#[derive(Args)]
pub(crate) struct Options {
    /// How many jobs.
    #[arg(long, default_value_t = 500)]
    jobs: usize,
    /// Tasks of each: one vertex of this parallelism, a slot for each task.
    #[arg(long, default_value_t = 4)]
    tasks: u32,
    /// How often the leader is killed.
    #[arg(long, default_value_t = 3)]
    times: u32,
}

pub(crate) fn run(binary: &Path, options: &Options) -> Result<Report> {
    let mut cluster = ClusterBuilder::new(binary).jobmanagers(ALL.len()).taskmanagers(0, 1).start()?;
    let mut report = Report::default();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    runtime.block_on(async {
        let slots = u32::try_from(options.jobs)?.saturating_mul(options.tasks).div_ceil(2);
        let taskmanagers = NAMES.map(|name| FakeTaskManager::new(name, slots).with_heartbeats());
        let addresses = cluster.rpc_addresses();
        let _attached: Vec<_> =
            taskmanagers.iter().flat_map(|tm| addresses.iter().map(|address| tm.attach(address.clone()))).collect();
        let jobs = submit_all(&cluster, options).await?;
        let (_, took) = all_running(&cluster, &ALL, &jobs, options.tasks).await.context("before any kill")?;
        report.information(format!("{} jobs of {} tasks: submitted to RUNNING", options.jobs, options.tasks), ms(took));
        for round in 1..=options.times {
            kill(&mut cluster, &taskmanagers, &jobs, options, round, &mut report).await?;
        }
        Ok::<_, anyhow::Error>(())
    })?;
    Ok(report)
}

async fn kill(
    cluster: &mut Cluster,
    taskmanagers: &[FakeTaskManager],
    jobs: &[JobId],
    options: &Options,
    round: u32,
    report: &mut Report,
) -> Result<()> {
    let name = format!("kill {round}");
    let before = attempts(cluster, &ALL, jobs).await?;
    let commands: usize = taskmanagers.iter().map(|tm| tm.commands().len()).sum();
    let (leader, _) = cluster.leader(LIMIT)?;
    let others: Vec<usize> = ALL.into_iter().filter(|member| *member != leader).collect();
    let start = Instant::now();
    cluster.take_jobmanager(leader)?.kill()?;
    let adopted = all_running(cluster, &others, jobs, options.tasks).await;
    let took = start.elapsed();
    let seen =
        adopted.as_ref().map_or_else(|error| format!("{error:#}"), |(restarts, _)| format!("{}, {restarts}", ms(took)));
    let holds = took <= ADOPTED_WITHIN && adopted.as_ref().is_ok_and(|(restarts, _)| *restarts == 0);
    let bar = format!("≤ {}, 0", ms(ADOPTED_WITHIN));
    report.row(format!("{name}: to all {} jobs RUNNING at the next leader; restarts", jobs.len()), bar, seen, holds);
    let after = attempts(cluster, &others, jobs).await?;
    let changed = before.iter().zip(&after).filter(|(before, after)| before != after).count();
    report.row(format!("{name}: jobs with changed attempts"), "0", changed.to_string(), changed == 0);
    let sent = taskmanagers.iter().map(|tm| tm.commands().len()).sum::<usize>() - commands;
    report.row(format!("{name}: commands the TaskManagers got"), "0", sent.to_string(), sent == 0);
    let back = Instant::now();
    cluster.start_jobmanager(leader)?;
    let mut view = None;
    while back.elapsed() < LIMIT {
        view = cluster.member_view(leader, LIMIT).ok().filter(|view| view.leader.is_some());
        if view.is_some() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    ensure!(view.is_some(), "the killed member did not come back");
    report.information(format!("{name}: started again to following"), ms(back.elapsed()));
    Ok(())
}

/// One member, by index.
fn member(cluster: &Cluster, index: usize) -> Result<DispatcherClient> {
    let address = cluster.endpoint(index)?.to_string();
    Ok(DispatcherClient::new(channel(&address)?, &address))
}

/// Submits all jobs, some at once.
async fn submit_all(cluster: &Cluster, options: &Options) -> Result<Vec<JobId>> {
    let mut job = requests::prepared(cluster, "trivial").await?;
    job.graph.edges.clear();
    job.graph.vertices.truncate(1);
    for vertex in &mut job.graph.vertices {
        vertex.parallelism = options.tasks;
        vertex.max_parallelism = MaxParallelism::default_for(options.tasks);
    }
    let (leader, _) = cluster.leader(LIMIT)?;
    let dispatcher = member(cluster, leader)?;
    let (mut jobs, mut under_way) = (Vec::new(), JoinSet::new());
    for _ in 0..options.jobs {
        if under_way.len() >= AT_ONCE {
            jobs.extend(under_way.join_next().await.transpose()?.transpose()?);
        }
        let (dispatcher, job) = (dispatcher.clone(), SubmitJob { request: RequestId::random(), ..job.clone() });
        under_way.spawn(async move { dispatcher.submit_job(job).await });
    }
    while let Some(submitted) = under_way.join_next().await {
        jobs.push(submitted??);
    }
    Ok(jobs)
}

/// Waits until one of these members shows all jobs RUNNING with all their tasks. Returns the restarts of all jobs.
async fn all_running(cluster: &Cluster, asked: &[usize], jobs: &[JobId], tasks: u32) -> Result<(u64, Duration)> {
    let start = Instant::now();
    let members = asked.iter().map(|index| member(cluster, *index)).collect::<Result<Vec<_>>>()?;
    let mut last = "nobody has answered".to_owned();
    while start.elapsed() < PATIENCE {
        for member in &members {
            let listed = match member.list_jobs().await {
                Ok(listed) => listed,
                Err(error) => {
                    last = error.to_string();
                    continue;
                }
            };
            let running = |job: &&JobSummary| {
                let tasks_running = job.tasks.get(&ExecutionState::Running).copied().unwrap_or_default();
                job.status == JobStatus::Running && tasks_running == tasks
            };
            let running: Vec<&JobSummary> = listed.iter().filter(running).collect();
            if running.len() == jobs.len() {
                return Ok((running.iter().map(|job| u64::from(job.restarts)).sum(), start.elapsed()));
            }
            let other = listed.iter().find(|job| job.status != JobStatus::Running);
            last = format!("{} of {} are, another is {:?}", running.len(), jobs.len(), other.map(|job| job.status));
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    anyhow::bail!("not all jobs are RUNNING: {last}")
}

/// Attempts of all tasks of each job.
async fn attempts(cluster: &Cluster, asked: &[usize], jobs: &[JobId]) -> Result<Vec<Vec<u32>>> {
    let member = member(cluster, *asked.first().context("nobody is asked")?)?;
    let mut all = Vec::new();
    for job in jobs {
        let details = member.job(*job).await?.with_context(|| format!("job {job} is gone"))?;
        all.push(details.executions.iter().map(|execution| execution.attempt).collect());
    }
    Ok(all)
}
