//! Latency and throughput of commits: ours and etcd's in turns, both durable on the same disk.
//!
//! Both groups stand beside each other all the time; the one that is not measured only tells its members that it lives. All
//! clients write through the leader, over the same number of connections.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::Args;
use perennial_tests::Report;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use crate::etcd::{self, Etcd, Timers};
use crate::group::{Group, agreed_leader, ensure_on_disk};
use crate::member::Member;
use crate::product::Product;
use crate::stats::{Samples, ms, ratio};

/// Clients of the throughput rows.
const CLIENTS: usize = 64;
/// Connections that they share.
const CONNECTIONS: usize = 8;
/// Before the first round of each load.
const WARM_UP: Duration = Duration::from_secs(1);

#[derive(Args)]
pub(crate) struct Options {
    /// How often each is measured.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds of one measurement.
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
}

/// What was measured of one group.
#[derive(Debug, Default)]
struct Seen {
    /// Of one client, in order of time.
    latencies: Vec<Duration>,
    /// Of all clients, one for each round.
    per_second: Vec<f64>,
}

pub(crate) fn run(binary: &Path, runtime: &Runtime, options: &Options) -> Result<Report> {
    let _entered = runtime.enter();
    let window = Duration::try_from_secs_f64(options.seconds)?;
    let mut product = Product::start(binary, 0)?;
    ensure_on_disk(product.cluster().dir())?;
    let mut etcd = if etcd::is_installed() { Some(Etcd::start(Timers::DEFAULT)?) } else { None };
    let theirs = etcd.as_mut().map(|etcd| etcd as &mut dyn Group);
    let mut groups: Vec<&mut dyn Group> =
        [Some(&mut product as &mut dyn Group), theirs].into_iter().flatten().collect();
    let mut seen: Vec<Seen> = groups.iter().map(|_| Seen::default()).collect();
    for clients in [1, CLIENTS] {
        let connections = groups.iter_mut().map(|group| connections(runtime, *group, clients.min(CONNECTIONS)));
        let connections: Vec<Vec<Member>> = connections.collect::<Result<_>>()?;
        for members in &connections {
            runtime.block_on(load(members, clients, WARM_UP))?;
        }
        for round in 1..=options.rounds {
            for (members, seen) in connections.iter().zip(&mut seen) {
                let latencies = runtime.block_on(load(members, clients, window))?;
                eprintln!("round {round}, {clients} clients: {} commits", latencies.len());
                match clients {
                    1 => seen.latencies.extend(latencies),
                    _ => seen.per_second.push(latencies.len() as f64 / window.as_secs_f64()),
                }
            }
        }
    }
    let mut seen = seen.into_iter();
    Ok(report(&seen.next().unwrap_or_default(), seen.next().as_ref()))
}

/// Connections to the leader.
fn connections(runtime: &Runtime, group: &mut dyn Group, count: usize) -> Result<Vec<Member>> {
    let (leader, _) = agreed_leader(runtime, group)?;
    (0..count).map(|_| group.connect(leader)).collect()
}

/// Writes from so many clients, one request after the other each, for so long. Returns how long each commit took.
async fn load(members: &[Member], clients: usize, window: Duration) -> Result<Vec<Duration>> {
    let end = Instant::now() + window;
    let mut writers = JoinSet::new();
    for member in members.iter().cycle().take(clients) {
        let member = member.clone();
        writers.spawn(async move {
            let mut latencies = Vec::new();
            loop {
                let start = Instant::now();
                if start >= end {
                    return Ok::<_, anyhow::Error>(latencies);
                }
                member.write().await?;
                latencies.push(start.elapsed());
            }
        });
    }
    let mut all = Vec::new();
    while let Some(latencies) = writers.join_next().await {
        all.extend(latencies??);
    }
    Ok(all)
}

fn report(ours: &Seen, theirs: Option<&Seen>) -> Report {
    let mut report = Report::default();
    let (one, many) = ("1 client, 32 bytes, latency of a commit", "64 clients, 32 bytes each, commits per second");
    let (one_bar, many_bar) = ("p50 no longer than etcd's", "at least 1.5 times etcd's");
    let samples: Samples = ours.latencies.iter().copied().collect();
    let latency = |samples: &Samples| format!("p50 {} / p99 {} ms", ms(samples.p50()), ms(samples.p99()));
    let rate = median(&ours.per_second);
    match theirs {
        Some(theirs) => {
            let other: Samples = theirs.latencies.iter().copied().collect();
            let times = ratio(other.p50(), samples.p50());
            let seen = format!("{times:.2} times as fast: {}, etcd {}", latency(&samples), latency(&other));
            report.row(one, one_bar, seen, times >= 1.0);
            let other = median(&theirs.per_second);
            let times = rate / other.max(1e-9);
            let seen = format!("{times:.2} times: {rate:.0}, etcd {other:.0}");
            report.row(many, many_bar, seen, times >= 1.5);
        }
        None => {
            report.information(one, latency(&samples));
            report.information(many, format!("{rate:.0}"));
            report.unmeasured(one, one_bar, etcd::INSTALL);
            report.unmeasured(many, many_bar, etcd::INSTALL);
        }
    }
    report
}

/// The middle round.
fn median(rounds: &[f64]) -> f64 {
    let mut sorted = rounds.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(us: u64, per_second: f64) -> Seen {
        Seen { latencies: vec![Duration::from_micros(us)], per_second: vec![1.0, per_second, 1e9] }
    }

    #[test]
    fn both_ratios_have_to_hold_and_need_an_etcd() {
        assert!(report(&seen(500, 1500.0), Some(&seen(500, 1000.0))).holds());
        assert!(!report(&seen(501, 1500.0), Some(&seen(500, 1000.0))).holds());
        assert!(!report(&seen(500, 1499.0), Some(&seen(500, 1000.0))).holds());
        assert!(!report(&seen(500, 1500.0), None).holds());
    }
}
