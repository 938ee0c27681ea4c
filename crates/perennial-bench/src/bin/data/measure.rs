//! Watches a running program from outside: records by its counters, processor time and memory by `/proc`.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use perennial_tests::{usage_of, wait_for};

use crate::counter;

/// Longest time from a program's start to its first records.
const START_LIMIT: Duration = Duration::from_secs(30);

/// A program under measurement, made of one process or several. Dropped, it ends.
pub(crate) trait Subject {
    /// Every process it is made of now.
    fn pids(&self) -> Vec<u32>;

    /// Where its threads keep their totals.
    fn counters(&self) -> &Path;

    /// Fails, with what the program said last, when it has ended.
    fn check_alive(&mut self) -> Result<()>;
}

/// How long to look.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Schedule {
    /// From the first records to the beginning of the window.
    pub(crate) warm_up: Duration,
    /// The window.
    pub(crate) window: Duration,
}

/// What was seen in one window.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Window {
    /// Million records per second.
    pub(crate) million_per_second: f64,
    /// Seconds of processor time, of all processes, per million records.
    pub(crate) cpu_per_million: f64,
    /// Cores in use on average.
    pub(crate) cores: f64,
    /// Cores in use by everything else on this machine: above [`QUIET_CORES`] the throughput says little.
    pub(crate) other_cores: f64,
    /// Sum of the highest resident memory of each process so far, in MiB.
    pub(crate) peak_mib: f64,
}

/// Cores that other processes may use while something is measured.
pub(crate) const QUIET_CORES: f64 = 0.15;

struct Sample {
    at: Instant,
    records: u64,
    cpu_seconds: f64,
    machine_seconds: f64,
    peak_kib: u64,
}

/// Waits for the first records, warms up, and watches one window.
pub(crate) fn watch(subject: &mut dyn Subject, schedule: Schedule) -> Result<Window> {
    wait_for("the first records", START_LIMIT, || {
        subject.check_alive()?;
        ensure!(counter::sum(subject.counters())? > 0, "none were counted");
        Ok(())
    })?;
    std::thread::sleep(schedule.warm_up);
    let before = sample(subject)?;
    std::thread::sleep(schedule.window);
    let after = sample(subject)?;
    subject.check_alive()?;
    let seconds = (after.at - before.at).as_secs_f64();
    let million = after.records.saturating_sub(before.records) as f64 / 1e6;
    ensure!(million > 0.0, "no records were counted in {seconds:.1} s");
    let cpu_seconds = after.cpu_seconds - before.cpu_seconds;
    let machine_seconds = after.machine_seconds - before.machine_seconds;
    Ok(Window {
        million_per_second: million / seconds,
        cpu_per_million: cpu_seconds / million,
        cores: cpu_seconds / seconds,
        other_cores: ((machine_seconds - cpu_seconds) / seconds).max(0.0),
        peak_mib: after.peak_kib as f64 / 1024.0,
    })
}

fn sample(subject: &dyn Subject) -> Result<Sample> {
    let (mut cpu_seconds, mut peak_kib) = (0.0, 0);
    for pid in subject.pids() {
        let usage = usage_of(pid).context("a process of the program ended while it was measured")?;
        cpu_seconds += usage.cpu_seconds;
        peak_kib += usage.peak_rss_kib;
    }
    let machine_seconds = machine_seconds()?;
    // Last, so that records and time are of the same moment.
    let records = counter::sum(subject.counters())?;
    Ok(Sample { at: Instant::now(), records, cpu_seconds, machine_seconds, peak_kib })
}

/// Seconds of processor time that all processors together have spent on anything, or were refused by the host.
fn machine_seconds() -> Result<f64> {
    let stat = std::fs::read_to_string("/proc/stat").context("/proc/stat")?;
    let all = stat
        .lines()
        .next()
        .and_then(|line| line.strip_prefix("cpu "))
        .context("/proc/stat does not begin with `cpu`")?;
    let ticks: Vec<u64> = all.split_whitespace().filter_map(|field| field.parse().ok()).collect();
    // user nice system idle iowait irq softirq steal; guests are in user.
    let busy: u64 = [0, 1, 2, 5, 6, 7].iter().filter_map(|field| ticks.get(*field)).sum();
    Ok(busy as f64 / rustix::param::clock_ticks_per_second() as f64)
}

/// The middle one of all windows, each figure by itself.
pub(crate) fn median(windows: &[Window]) -> Option<Window> {
    let middle = |figure: fn(&Window) -> f64| {
        let mut figures: Vec<f64> = windows.iter().map(figure).collect();
        figures.sort_by(f64::total_cmp);
        figures.get(figures.len() / 2).copied()
    };
    Some(Window {
        million_per_second: middle(|window| window.million_per_second)?,
        cpu_per_million: middle(|window| window.cpu_per_million)?,
        cores: middle(|window| window.cores)?,
        other_cores: middle(|window| window.other_cores)?,
        peak_mib: middle(|window| window.peak_mib)?,
    })
}
