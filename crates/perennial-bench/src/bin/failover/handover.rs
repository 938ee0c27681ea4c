//! SIGTERM to the leader, then a rolling restart of all JobManagers, while a job runs and clients write.
//!
//! One client per JobManager writes in a tight loop; a request that is refused is tried once more, at the next JobManager. The time
//! without a leader is the longest time between two commits of any clients, so what a JobManager takes to find the next leader is
//! part of it; how long the election itself took is shown beside it.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Args;
use perennial_tests::Report;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::busy::BusyLoops;
use crate::group::{Group, LIMIT, MEMBERS, agreed_leader, restore};
use crate::job::{PARALLELISM, ProbedJob};
use crate::member::Member;
use crate::product::{Product, take_over};
use crate::stats::{Samples, ms};

/// Pause of a client between two writes: three clients without one would keep a small machine busy.
const WRITE_PAUSE: Duration = Duration::from_millis(1);
/// Time a JobManager has to end after SIGTERM.
const END_LIMIT: Duration = Duration::from_secs(30);
/// From a JobManager that is back to the next SIGTERM.
const BETWEEN: Duration = Duration::from_millis(300);
/// Longest time without a leader.
const BAR: Duration = Duration::from_millis(200);

#[derive(Args)]
pub(crate) struct Options {
    /// How often the leader gets SIGTERM, before the rolling restart.
    #[arg(long, default_value_t = 20)]
    times: usize,
    /// Keeps every core busy beside it.
    #[arg(long)]
    busy: bool,
}

/// What the clients saw.
#[derive(Debug, Default)]
struct Written {
    /// When commits were answered.
    accepted: Vec<Instant>,
    /// Requests refused twice, with both reasons.
    failed: Vec<String>,
    /// Requests accepted at the second try.
    retried: usize,
}

/// Clients that write until dropped.
struct Clients {
    written: Arc<Mutex<Written>>,
    _writers: JoinSet<()>,
}

impl Clients {
    /// Starts one client per member. Call inside the clients' runtime.
    fn start(members: &[Member]) -> Self {
        let written = Arc::new(Mutex::new(Written::default()));
        let mut writers = JoinSet::new();
        let next = members.iter().cycle().skip(1);
        for (first, second) in members.iter().zip(next) {
            writers.spawn(write_on(first.clone(), second.clone(), Arc::clone(&written)));
        }
        Self { written, _writers: writers }
    }

    fn look<T>(&self, look: impl FnOnce(&mut Written) -> T) -> T {
        look(&mut self.written.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Writes through `first`, and again through `second` what was refused there.
async fn write_on(first: Member, second: Member, written: Arc<Mutex<Written>>) {
    loop {
        let refused = first.write().await.err();
        let failed = match &refused {
            Some(reason) => second.write().await.err().map(|again| format!("{reason:#}; then {again:#}")),
            None => None,
        };
        {
            let mut written = written.lock().unwrap_or_else(PoisonError::into_inner);
            match failed {
                None => {
                    // Taken under the lock, so that they are in order.
                    written.accepted.push(Instant::now());
                    written.retried += usize::from(refused.is_some());
                }
                Some(reasons) => written.failed.push(reasons),
            }
        }
        sleep(WRITE_PAUSE).await;
    }
}

pub(crate) fn run(binary: &Path, runtime: &Runtime, options: &Options) -> Result<Report> {
    let _entered = runtime.enter();
    let mut product = Product::start(binary, PARALLELISM as usize)?;
    let (leader, _) = agreed_leader(runtime, &mut product)?;
    let mut job = ProbedJob::start(runtime, &mut product, leader)?;
    let busy = options.busy.then(|| BusyLoops::start(product.cluster().dir())).transpose()?;
    let clients = Clients::start(product.members());

    let (mut leaders, mut rolling, mut elected, mut unclean) = (Vec::new(), Vec::new(), Vec::new(), 0);
    for number in 0..options.times + MEMBERS {
        let restart_of = number.checked_sub(options.times);
        let (leader, view) = agreed_leader(runtime, &mut product)?;
        let member = restart_of.unwrap_or(leader);
        std::thread::sleep(BETWEEN);
        let watch = (member == leader).then_some(view.term);
        let restarted = restart(runtime, &mut product, &clients, member, watch);
        let restarted = restarted.with_context(|| format!("restart {number}"))?;
        elected.extend(restarted.elected);
        unclean += usize::from(!restarted.clean);
        let (leader, _) = agreed_leader(runtime, &mut product)?;
        job.look(runtime, &mut product, leader)?;
        let name = format!("jm-{}", member + 1);
        let after =
            restarted.elected.map_or("no election".to_owned(), |after| format!("next leader after {} ms", ms(after)));
        let (gap, back) = (ms(restarted.gap), ms(restarted.back));
        eprintln!("SIGTERM to {name}: {gap} ms without a commit, {after}, caught up in {back} ms");
        match restart_of {
            None => leaders.push(restarted.gap),
            Some(_) => rolling.push(restarted.gap),
        }
    }
    let written = clients.look(std::mem::take);
    drop((clients, busy));
    let (changes, _) = job.finish(&mut product)?;

    let mut report = Report::default();
    for (what, gaps) in [("leader SIGTERM: time without a leader", leaders), ("rolling restart: the same", rolling)] {
        if !gaps.is_empty() {
            let gaps: Samples = gaps.into_iter().collect();
            report.row(what, "≤ 200 ms each", gaps.to_string(), gaps.longest() <= BAR);
        }
    }
    report
        .information("leader SIGTERM to the next leader elected", elected.into_iter().collect::<Samples>().to_string());
    report.row("JobManagers that did not end with exit code 0", "0", unclean.to_string(), unclean == 0);
    let requests = written.accepted.len() + written.failed.len();
    let seen = format!("{} of {requests} requests; {} needed their retry", written.failed.len(), written.retried);
    report.row("requests that failed after one retry", "0", seen, written.failed.is_empty());
    for reason in written.failed.iter().take(3) {
        eprintln!("a request failed: {reason}");
    }
    changes.report(&mut report);
    Ok(report)
}

/// A restart of one JobManager.
struct Restarted {
    /// Longest time without a commit, from SIGTERM to its return.
    gap: Duration,
    /// From SIGTERM to the election of the next leader, if it led.
    elected: Option<Duration>,
    /// Process start to caught up.
    back: Duration,
    /// Whether it ended with exit code 0.
    clean: bool,
}

/// Restarts a member; `led` is the term that it leads, if it does.
fn restart(
    runtime: &Runtime,
    product: &mut Product,
    clients: &Clients,
    member: usize,
    led: Option<u64>,
) -> Result<Restarted> {
    let others = (0..MEMBERS).filter(|other| *other != member).map(|other| product.client(other));
    let others = others.collect::<Result<Vec<_>>>()?;
    let watched = led.map(|term| runtime.spawn(tokio::time::timeout(LIMIT, take_over(others, term, 0))));
    let from = Instant::now();
    let status = product.process(member)?.terminate(END_LIMIT)?;
    let back = restore(runtime, product, member)?;
    let gap = clients.look(|written| longest_gap(&written.accepted, from, Instant::now()));
    let elected = match watched {
        Some(watched) => Some(runtime.block_on(watched)?.context("no next leader was elected")?.elected - from),
        None => None,
    };
    Ok(Restarted { gap, elected, back, clean: status.success() })
}

/// Longest time between two commits, of those that ended after `from`; what has no end yet ends at `to`.
fn longest_gap(accepted: &[Instant], from: Instant, to: Instant) -> Duration {
    let first = accepted.partition_point(|at| *at < from);
    // The last one before: what was accepted by the old leader.
    let before = first.checked_sub(1).and_then(|last| accepted.get(last)).copied().unwrap_or(from);
    let after = accepted.get(first..).unwrap_or_default().iter().copied().chain([to]);
    let mut last = before;
    after.map(|at| at.saturating_duration_since(std::mem::replace(&mut last, at))).max().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gap_is_between_the_last_commit_before_and_the_first_after() {
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let accepted = [at(0), at(500), at(510), at(520), at(640), at(650)];
        let gap = |from: u64, to: u64| longest_gap(&accepted, at(from), at(to)).as_millis();
        assert_eq!(gap(525, 655), 120);
        assert_eq!(gap(520, 655), 120);
        assert_eq!(gap(645, 655), 10);
        assert_eq!(gap(645, 1655), 1005, "nothing was accepted since");
        assert_eq!(longest_gap(&[], at(0), at(7)).as_millis(), 7);
    }
}
