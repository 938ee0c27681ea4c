//! Busy processors and a busy disk are no reason for an election.

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Args;
use perennial_tests::Report;

use crate::requests::{self, percentile};
use crate::scene::{ALL, LIMIT, Scene, ms};

/// Bytes the busy disk is given before each sync, and the size of its file.
const SYNC_BYTES: usize = 256 << 10;
const FILE_BYTES: u64 = 64 << 20;

/// Time between two writes to the metadata store.
const WRITE_EVERY: Duration = Duration::from_millis(50);

#[derive(Args)]
pub(crate) struct Options {
    /// How long.
    #[arg(long, default_value_t = 10.0)]
    minutes: f64,
}

pub(crate) fn run(binary: &Path, options: &Options) -> Result<Report> {
    let length = Duration::from_secs_f64(60.0 * options.minutes);
    let scene = Scene::plain(binary, 2)?;
    let (leader, epoch) = scene.cluster.leader(LIMIT)?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let noise = Noise::start(cores, scene.cluster.dir())?;
    let start = Instant::now();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (mut took, mut failures) = (Vec::new(), Vec::new());
    runtime.block_on(async {
        let members = requests::members(&scene.cluster)?;
        let leader = members.get(leader).context("the leader is a member")?;
        while start.elapsed() < length {
            match leader.write().await {
                Ok(time) => took.push(time),
                Err(error) => failures.push(error.to_string()),
            }
            tokio::time::sleep(WRITE_EVERY).await;
        }
        Ok::<_, anyhow::Error>(())
    })?;
    let syncs = noise.stop();
    let mut report = Report::default();
    let seconds = start.elapsed().as_secs_f64();
    report
        .information("noise", format!("{cores} busy loops, {:.0} syncs/s, for {seconds:.0} s", syncs as f64 / seconds));
    let leaders = scene.witness.leaders(start);
    let now = scene.cluster.leader(LIMIT)?;
    let seen = format!("{}, epoch {epoch} to {}", leaders.len(), now.1);
    report.row("leader changes", "0", seen, leaders.is_empty() && now == (leader, epoch));
    let seen = match failures.first() {
        None => format!("0 of {}", took.len()),
        Some(first) => format!("{} of {}: {first}", failures.len(), took.len() + failures.len()),
    };
    report.row("writes that failed", "0", seen, failures.is_empty() && !took.is_empty());
    let times = [0.5, 0.99, 1.0].map(|part| ms(percentile(&mut took, part)));
    report.information("writes: p50, p99, longest", times.join(", "));
    scene.check_untouched(&mut report, "afterwards", &ALL);
    Ok(report)
}

/// Threads that keep processors and a disk busy.
struct Noise {
    stop: Arc<AtomicBool>,
    syncs: Arc<AtomicU64>,
    threads: Vec<JoinHandle<()>>,
}

impl Noise {
    fn start(cores: usize, directory: &Path) -> Result<Self> {
        let (stop, syncs) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let mut threads = Vec::new();
        for _ in 0..cores {
            let stop = stop.clone();
            threads.push(std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            }));
        }
        let mut file = File::create(directory.join("noise"))?;
        let (stopped, synced) = (stop.clone(), syncs.clone());
        threads.push(std::thread::spawn(move || {
            let bytes = vec![7; SYNC_BYTES];
            while !stopped.load(Ordering::Relaxed) {
                let written = file.write_all(&bytes).and_then(|()| file.sync_data());
                let at = file.stream_position().unwrap_or_default();
                if written.is_err() || (at >= FILE_BYTES && file.seek(SeekFrom::Start(0)).is_err()) {
                    return;
                }
                synced.fetch_add(1, Ordering::Relaxed);
            }
        }));
        Ok(Self { stop, syncs, threads })
    }

    /// Ends the noise; returns how often the disk was synced.
    fn stop(mut self) -> u64 {
        self.end();
        self.syncs.load(Ordering::Relaxed)
    }

    fn end(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Drop for Noise {
    fn drop(&mut self) {
        self.end();
    }
}
