//! Measures commits of 256-byte entries in a group of three in one process, and a hand-over.
//!
//! `cargo run --release -p perennial-meta --example commit_latency [-- SECONDS]`

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a measurement that fails may panic")]
#![expect(dead_code, reason = "the tests use more of the harness")]

#[path = "../tests/group/harness.rs"]
mod harness;

use std::time::{Duration, Instant};

use harness::{Group, artifact};

#[tokio::main]
async fn main() {
    let seconds = std::env::args().nth(1).map_or(5, |text| text.parse().unwrap());
    let mut group = Group::started(3).await;
    println!("entry: {} bytes", artifact(u64::MAX).encode().len());
    for clients in [1, 16, 64, 256] {
        measure(&group, clients, Duration::from_secs(seconds)).await;
    }
    println!("{}", memory());
    for _ in 0..5 {
        let first = group.leader().await;
        let start = Instant::now();
        let stopping = group.stop(first);
        stopping.await;
        let stopped = start.elapsed();
        group.leader().await;
        println!("hand-over: leader stopped after {stopped:?}, next one serves after {:?}", start.elapsed());
        group.start(first).await;
    }
    group.stop_all().await;
}

async fn measure(group: &Group, clients: u64, duration: Duration) {
    let leader = group.leader().await;
    let store = group.store(leader);
    let start = Instant::now();
    let writers = (0..clients).map(|client| {
        let store = store.clone();
        tokio::spawn(async move {
            let mut times = Vec::new();
            while start.elapsed() < duration {
                // A few thousand keys, overwritten, so that the state stays small.
                let number = client * 10 + times.len() as u64 % 10;
                let began = Instant::now();
                store.write(artifact(number)).await.unwrap();
                times.push(began.elapsed());
            }
            times
        })
    });
    let mut times = Vec::new();
    for writer in writers.collect::<Vec<_>>() {
        times.extend(writer.await.unwrap());
    }
    let rate = times.len() as f64 / start.elapsed().as_secs_f64();
    times.sort();
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
    println!("{clients:>4} clients: {rate:>8.0}/s, p50 {:?}, p99 {:?}, max {:?}", at(0.5), at(0.99), at(1.0));
}

/// This process's memory, from `/proc`.
fn memory() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    status.lines().filter(|line| line.starts_with("VmRSS") || line.starts_with("VmHWM")).collect::<Vec<_>>().join(", ")
}
