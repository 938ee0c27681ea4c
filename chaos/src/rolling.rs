//! All JobManagers are restarted, one after the other, while clients go on.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Args;
use perennial_client::{CancelJobError, SubmitJob, SubmitJobError, Unavailable};
use perennial_tests::{Report, wait_for};
use perennial_types::{JobId, RequestId};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::pauses::now_us;
use crate::requests::{self, Member};
use crate::scene::{ALL, LIMIT, Scene, ms};

/// Time without a leader that a restart may cost.
const LEADERLESS_MAX: Duration = Duration::from_millis(200);

/// Time between the restarts, with everybody there.
const BETWEEN: Duration = Duration::from_secs(2);

/// Pause of a client between two jobs.
const CLIENT_PAUSE: Duration = Duration::from_millis(50);

/// Slots that the clients' jobs want, which are never there: the clients measure requests and not tasks.
const SLOTS_WANTED: u32 = 1000;

#[derive(Args)]
pub(crate) struct Options {
    /// How often all of them are restarted.
    #[arg(long, default_value_t = 1)]
    times: u32,
    /// Clients that submit, read and cancel.
    #[arg(long, default_value_t = 4)]
    clients: usize,
}

/// What one client has seen.
#[derive(Debug, Default)]
struct Seen {
    requests: u64,
    retried: u64,
    /// Requests that failed twice, each with its errors.
    failed: Vec<String>,
    /// Jobs that were accepted and then not found.
    lost: u64,
}

pub(crate) fn run(binary: &Path, options: &Options) -> Result<Report> {
    let mut scene = Scene::plain(binary, 2)?;
    let mut report = Report::default();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let stop = CancellationToken::new();
    let mut clients = runtime.block_on(async {
        let members = Arc::new(requests::members(&scene.cluster)?);
        let job = waiting_job(requests::prepared(&scene.cluster, "idle").await?);
        let mut clients = JoinSet::new();
        for number in 0..options.clients {
            clients.spawn(client(number, members.clone(), job.clone(), stop.clone()));
        }
        Ok::<_, anyhow::Error>(clients)
    })?;
    let start_us = now_us();
    for round in 1..=options.times {
        for member in ALL {
            std::thread::sleep(BETWEEN);
            restart(&mut scene, member, &format!("restart {round} of jm-{}", member + 1), &mut report)?;
        }
    }
    std::thread::sleep(BETWEEN);
    stop.cancel();
    let mut sum = Seen::default();
    runtime.block_on(async {
        while let Some(seen) = clients.join_next().await {
            let seen = seen.context("a client ended badly")?;
            sum.requests += seen.requests;
            sum.retried += seen.retried;
            sum.lost += seen.lost;
            sum.failed.extend(seen.failed);
        }
        Ok::<_, anyhow::Error>(())
    })?;
    let requests = format!("{} requests, {} tried a second time", sum.requests, sum.retried);
    report.information("clients", requests);
    let first = sum.failed.first().map_or_else(String::new, |first| format!(", the first: {first}"));
    let seen = format!("{}{first}", sum.failed.len());
    report.row("requests that failed twice", "0", seen, sum.failed.is_empty() && sum.requests > 0);
    report.row("jobs accepted and not found", "0", sum.lost.to_string(), sum.lost == 0);
    scene.check_gap(&mut report, "all restarts", start_us)?;
    scene.check_untouched(&mut report, "all restarts", &ALL);
    scene.check_one_leader(&mut report, "all restarts");
    Ok(report)
}

fn restart(scene: &mut Scene, member: usize, name: &str, report: &mut Report) -> Result<()> {
    let (leader, epoch) = scene.cluster.leader(LIMIT)?;
    let others = scene.others(member);
    let start = Instant::now();
    let mut process = scene.cluster.take_jobmanager(member)?;
    let ended = std::thread::spawn(move || {
        let status = process.terminate(LIMIT);
        (status, start.elapsed())
    });
    if leader == member {
        // Beside the witness, which looks every 10 ms only.
        let led = wait_for("another leader", LIMIT, || {
            let views =
                others.iter().filter_map(|other| scene.cluster.member_view(*other, LIMIT).ok().zip(Some(*other)));
            let led = views.filter(|(view, other)| view.epoch > epoch && view.leader == Some(*other)).count();
            ensure!(led > 0, "there is none");
            Ok(start.elapsed())
        })?;
        let bar = format!("≤ {}", ms(LEADERLESS_MAX));
        report.row(format!("{name}, which leads: SIGTERM to the next leader"), bar, ms(led), led <= LEADERLESS_MAX);
    }
    let (status, after) = ended.join().map_err(|_| anyhow::anyhow!("a thread panicked"))?;
    let status = status?;
    report.row(format!("{name}: exit code"), "0", format!("{status} after {}", ms(after)), status.success());
    scene.cluster.start_jobmanager(member)?;
    let back = Instant::now();
    scene.wait_whole(&ALL)?;
    report.information(format!("{name}: start to all agreed and attached"), ms(back.elapsed()));
    Ok(())
}

/// A job that waits for slots until it is cancelled.
fn waiting_job(mut job: SubmitJob) -> SubmitJob {
    for vertex in &mut job.graph.vertices {
        vertex.parallelism = SLOTS_WANTED;
        vertex.max_parallelism = perennial_types::MaxParallelism::default_for(SLOTS_WANTED);
    }
    job
}

/// Submits, reads and cancels one job after the other. A request that no member could carry out is tried once more, at another
/// member, under the same id.
async fn client(number: usize, members: Arc<Vec<Member>>, job: SubmitJob, stop: CancellationToken) -> Seen {
    let mut seen = Seen::default();
    let mut turn = number;
    while !stop.is_cancelled() {
        turn += 1;
        let job = SubmitJob { request: RequestId::random(), ..job.clone() };
        let submitted = twice(&mut seen, &members, turn, "submit", |member| {
            let job = job.clone();
            async move { member.submit(job).await }
        });
        let Some(id) = submitted.await else { continue };
        if let Some(None) = twice(&mut seen, &members, turn, "read", |member| async move { member.job(id).await }).await
        {
            seen.lost += 1;
        }
        let request = RequestId::random();
        cancel(&mut seen, &members, turn, id, request).await;
        tokio::time::sleep(CLIENT_PAUSE).await;
    }
    seen
}

async fn cancel(seen: &mut Seen, members: &[Member], turn: usize, job: JobId, request: RequestId) {
    let cancel = |member: Member| async move { member.cancel(job, request).await };
    twice(seen, members, turn, "cancel", cancel).await;
}

/// Errors after which a client tries again.
trait MayPass: std::fmt::Display {
    fn may_pass(&self) -> bool;
}

impl MayPass for Unavailable {
    fn may_pass(&self) -> bool {
        true
    }
}

impl MayPass for SubmitJobError {
    fn may_pass(&self) -> bool {
        matches!(self, Self::Unavailable(_))
    }
}

impl MayPass for CancelJobError {
    fn may_pass(&self) -> bool {
        matches!(self, Self::Unavailable(_))
    }
}

/// Asks one member, and once more the next one.
async fn twice<T, E: MayPass, F: Future<Output = Result<T, E>>>(
    seen: &mut Seen,
    members: &[Member],
    turn: usize,
    what: &str,
    ask: impl Fn(Member) -> F,
) -> Option<T> {
    let count = members.len().max(1);
    seen.requests += 1;
    let mut errors = Vec::new();
    for member in [turn, turn + 1].iter().filter_map(|turn| members.get(turn % count)) {
        let start = Instant::now();
        match ask(member.clone()).await {
            Ok(value) => return Some(value),
            Err(error) => {
                errors.push(format!("{error} after {}", ms(start.elapsed())));
                if !error.may_pass() {
                    break;
                }
                seen.retried += u64::from(errors.len() == 1);
            }
        }
    }
    seen.failed.push(format!("{what} at jm-{}: {}", turn % count + 1, errors.join("; then ")));
    None
}
