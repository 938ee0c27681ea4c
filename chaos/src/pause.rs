//! The leader is paused, replaced, and wakes.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Args;
use perennial_tests::{Endpoint, Report};
use rustix::process::Signal;

use crate::pauses::now_us;
use crate::scene::{ALL, LIMIT, Scene, ms, timed};

/// Time after the leader has woken in which nothing may happen.
const AFTERWARDS: Duration = Duration::from_secs(5);

#[derive(Args)]
pub(crate) struct Options {
    /// How often.
    #[arg(long, default_value_t = 3)]
    times: u32,
    /// How long the leader is paused.
    #[arg(long, default_value_t = 20)]
    seconds: u64,
}

pub(crate) fn run(binary: &Path, options: &Options) -> Result<Report> {
    let mut scene = Scene::plain(binary, 2)?;
    let mut report = Report::default();
    for round in 1..=options.times {
        let result = pause(&mut scene, &format!("pause {round}"), Duration::from_secs(options.seconds), &mut report);
        result.with_context(|| format!("pause {round}"))?;
    }
    scene.check_one_leader(&mut report, "all pauses");
    Ok(report)
}

fn pause(scene: &mut Scene, name: &str, length: Duration, report: &mut Report) -> Result<()> {
    let (paused, epoch) = scene.cluster.leader(LIMIT)?;
    let others = scene.others(paused);
    let (start, start_us) = (Instant::now(), now_us());
    scene.cluster.jobmanager(paused)?.signal(Signal::STOP)?;
    let ((_, next), led) = timed(start, || scene.cluster.leader_among(&others, LIMIT))?;
    report.information(format!("{name}: pause to another leader"), ms(led));
    scene.wait_whole(&others)?;
    report.information(format!("{name}: pause to TaskManagers and job there"), ms(start.elapsed()));
    // What the paused member cannot know of.
    let news = scene.run_small_job(&others)?;
    std::thread::sleep(length.saturating_sub(start.elapsed()));
    scene.check_gap(report, &format!("{name}: while paused"), start_us)?;
    scene.check_untouched(report, &format!("{name}: while paused"), &others);

    // Asked before it wakes, so that the first thing it does is to answer.
    let reads = Reads::start(scene.cluster.endpoint(paused)?, format!("/v1/jobs/{}", news.job));
    std::thread::sleep(Duration::from_millis(100));
    let (woken, woken_us) = (Instant::now(), now_us());
    scene.cluster.jobmanager(paused)?.signal(Signal::CONT)?;
    std::thread::sleep(AFTERWARDS);
    let (answered, stale, refused) = reads.stop();
    let deposed = scene.witness.deposed(paused, epoch, woken);
    let seen = deposed.as_ref().map_or_else(|error| format!("{error:#}"), |after| format!("after {}", ms(*after)));
    report.row(format!("{name}: the woken leader knows that it is deposed"), "yes", seen, deposed.is_ok());
    let seen = format!("{stale} ({answered} answered, {refused} refused)");
    report.row(format!("{name}: stale reads through the woken member"), "0", seen, stale == 0 && answered > 0);
    let later = scene.witness.leaders(woken).keys().filter(|epoch| **epoch > next).count();
    report.row(format!("{name}: elections when it wakes"), "0", later.to_string(), later == 0);
    scene.check_gap(report, &format!("{name}: after it woke"), woken_us)?;
    scene.check_untouched(report, &format!("{name}: after it woke"), &ALL);
    Ok(())
}

/// Reads of one path of one member, one after the other in several threads.
struct Reads {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<(u64, u64, u64)>>,
}

impl Reads {
    fn start(endpoint: Endpoint, path: String) -> Self {
        let stop = Arc::<AtomicBool>::default();
        let read = |_| {
            let (stop, path) = (stop.clone(), path.clone());
            std::thread::spawn(move || {
                let (mut answered, mut stale, mut refused) = (0, 0, 0);
                while !stop.load(Ordering::Relaxed) {
                    match endpoint.request("GET", &path, LIMIT) {
                        Ok((200, _)) => answered += 1,
                        // The job was recorded before the question was asked.
                        Ok((404, _)) => stale += 1,
                        _ => refused += 1,
                    }
                    std::thread::sleep(Duration::from_millis(2));
                }
                (answered, stale, refused)
            })
        };
        let threads = (0..4).map(read).collect();
        Self { stop, threads }
    }

    /// Answered with the job, answered that there is none, not answered.
    fn stop(self) -> (u64, u64, u64) {
        self.stop.store(true, Ordering::Relaxed);
        let counts = self.threads.into_iter().filter_map(|thread| thread.join().ok());
        counts.fold((0, 0, 0), |sum, count| (sum.0 + count.0, sum.1 + count.1, sum.2 + count.2))
    }
}
