//! SIGKILL of the leader, again and again, while a job runs at full rate.
//!
//! What a kill costs the tasks is measured inside them, in a window around each kill: from half a second before to three seconds
//! after, or to half a second before the next kill if that comes sooner. So no moment between the first kill and the last
//! window's end is left out. It is held against stretches without a kill before and after.
//!
//! etcd is killed in the same way by the same clients, while our cluster and its job go on beside it: the same load for both.

use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use perennial_tests::Report;
use tokio::runtime::Runtime;

use crate::busy::BusyLoops;
use crate::etcd::{self, Etcd, Timers};
use crate::group::{self, Group, LIMIT, Victim, agreed_leader, kill_leader, restore, unix_us};
use crate::job::{PARALLELISM, ProbedJob, RATE};
use crate::product::{Product, take_over};
use crate::stats::{Samples, ms, ratio};
use crate::track::{Stretch, Tracks};
use crate::write::{accepted_through, first_accepted};

/// From all tasks running to the first stretch without a kill.
const WARM_UP: Duration = Duration::from_secs(2);
/// Each of the two stretches without a kill.
const BASELINE: Duration = Duration::from_secs(10);
/// Part of a window before its kill, and so the time from a member that has caught up to the next kill.
const BEFORE: Duration = Duration::from_millis(500);
/// Part of a window after its kill.
const AFTER: Duration = Duration::from_secs(3);

#[derive(Args)]
pub(crate) struct Options {
    /// How many times the leader is killed.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    kills: u32,
    /// Keeps every core busy beside it.
    #[arg(long)]
    busy: bool,
    /// Which etcd is killed too.
    #[arg(long, value_enum, default_value_t = Beside::Both)]
    etcd: Beside,
    /// How many times etcd's leader is killed; by default half as often, at least once.
    #[arg(long)]
    etcd_kills: Option<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Beside {
    /// One after the other.
    Both,
    /// With etcd's default timers.
    Default,
    /// With timers as ours.
    Tuned,
    /// No etcd.
    None,
}

impl Beside {
    fn has(self, one: Self) -> bool {
        self == Self::Both || self == one
    }
}

/// What was measured of one group.
#[derive(Debug, Default)]
struct Seen {
    /// Kill to first accepted write, tried everywhere.
    first: Vec<Duration>,
    /// The same through one survivor, one request after the other.
    through_one: Vec<Duration>,
    /// Process start to caught up.
    caught_up: Vec<Duration>,
}

/// What else was measured of ours.
#[derive(Debug, Default)]
struct Ours {
    writes: Seen,
    /// When the kills were, in microseconds of the Unix epoch.
    kills_us: Vec<u64>,
    /// Kill to election.
    elected: Vec<Duration>,
    /// Election to all TaskManagers registered.
    attached: Vec<Duration>,
    /// Stretches without a kill.
    baseline: Vec<Stretch>,
}

pub(crate) fn run(binary: &Path, runtime: &Runtime, options: &Options) -> Result<Report> {
    let _entered = runtime.enter();
    let mut product = Product::start(binary, PARALLELISM as usize)?;
    group::ensure_on_disk(product.cluster().dir())?;
    let (leader, _) = agreed_leader(runtime, &mut product)?;
    let mut job = ProbedJob::start(runtime, &mut product, leader)?;
    let busy = options.busy.then(|| BusyLoops::start(product.cluster().dir())).transpose()?;
    sleep(WARM_UP);

    let mut ours = Ours::default();
    ours.baseline.push(watch(BASELINE));
    for number in 1..=options.kills {
        ours.kill(runtime, &mut product, &mut job, number, options.kills).with_context(|| format!("kill {number}"))?;
    }
    sleep(AFTER);
    ours.baseline.push(watch(BASELINE));

    let mut beside = Vec::new();
    for (which, timers) in [(Beside::Tuned, Timers::TUNED), (Beside::Default, Timers::DEFAULT)] {
        if options.etcd.has(which) {
            let kills = options.etcd_kills.unwrap_or(options.kills / 2).max(1);
            beside.push((which, timers, kill_etcd(runtime, timers, kills)?));
        }
    }
    drop(busy);
    let (changes, tracks) = job.finish(&mut product)?;

    let mut report = Report::default();
    ours.report(&mut report);
    changes.report(&mut report);
    ours.report_standstill(&tracks, &mut report);
    for (which, timers, seen) in beside {
        compare(which, timers, &ours.writes, seen, &mut report);
    }
    Ok(report)
}

/// Lets time pass and says which.
fn watch(time: Duration) -> Stretch {
    let from_us = unix_us();
    sleep(time);
    Stretch { from_us, to_us: unix_us() }
}

impl Seen {
    /// What happens after every kill, of ours and of etcd: writes, then the member comes back.
    fn after_kill(&mut self, runtime: &Runtime, group: &mut dyn Group, victim: &Victim) -> Result<()> {
        let survivors: Vec<_> = victim.survivors(group).into_iter().map(|(_, member)| member).collect();
        let one = survivors.first().context("there is a survivor")?;
        let (first, through_one) = runtime
            .block_on(async { tokio::join!(first_accepted(&survivors, victim.at), accepted_through(one, victim.at)) });
        self.first.push(first?);
        self.through_one.push(through_one?);
        // Its process is a zombie until it is waited for.
        group.process(victim.member)?.kill()?;
        self.caught_up.push(restore(runtime, group, victim.member)?);
        Ok(())
    }
}

impl Ours {
    fn kill(
        &mut self,
        runtime: &Runtime,
        product: &mut Product,
        job: &mut ProbedJob,
        number: u32,
        of: u32,
    ) -> Result<()> {
        agreed_leader(runtime, product)?;
        sleep(BEFORE);
        let victim = kill_leader(runtime, product)?;
        self.kills_us.push(victim.unix_us);
        let survivors = victim.survivors(product).into_iter().map(|(survivor, _)| product.client(survivor));
        let watched = take_over(survivors.collect::<Result<_>>()?, victim.term, PARALLELISM as usize);
        let watched = runtime.spawn(tokio::time::timeout(LIMIT, watched));
        self.writes.after_kill(runtime, product, &victim)?;
        let seen = runtime.block_on(watched)?.context("the TaskManagers did not attach to a new leader")?;
        self.elected.push(seen.elected - victim.at);
        self.attached.push(seen.attached - seen.elected);
        let (leader, _) = agreed_leader(runtime, product)?;
        job.look(runtime, product, leader)?;
        let last = |durations: &[Duration]| ms(durations.last().copied().unwrap_or_default());
        eprintln!(
            "kill {number} of {of}: jm-{}; first write {} ms, through one {} ms, elected {} ms, attached +{} ms, caught up in {} ms",
            victim.member + 1,
            last(&self.writes.first),
            last(&self.writes.through_one),
            last(&self.elected),
            last(&self.attached),
            last(&self.writes.caught_up),
        );
        Ok(())
    }

    fn report(&self, report: &mut Report) {
        let first: Samples = self.writes.first.iter().copied().collect();
        let what = "leader SIGKILL to first accepted write";
        report.row(what, "p50 ≤ 200 ms (aim 40)", first.to_string(), first.p50() <= Duration::from_millis(200));
        report.row(what, "p99 ≤ 1 s", format!("{} ms", ms(first.p99())), first.p99() <= Duration::from_secs(1));
        report.information("the same through one survivor, one request at a time", shown(&self.writes.through_one));
        report.information("leader SIGKILL to election", shown(&self.elected));
        let attached: Samples = self.attached.iter().copied().collect();
        let holds = attached.p99() <= Duration::from_secs(1);
        report.row("election to all TaskManagers registered", "p99 ≤ 1 s", attached.to_string(), holds);
        report.information("start of the killed JobManager to caught up", shown(&self.writes.caught_up));
    }

    fn report_standstill(&self, tracks: &Tracks, report: &mut Report) {
        let quiet: Samples = self.baseline.iter().flat_map(|stretch| tracks.pauses(*stretch)).collect();
        let usual = quiet.quantile(0.999);
        let windows: Vec<_> = windows(&self.kills_us).into_iter().map(|window| tracks.standstill(window)).collect();
        let (longest, whose) = windows.iter().max_by_key(|(pause, _)| *pause).copied().unwrap_or_default();
        let beyond = longest.saturating_sub(usual);
        let seen = format!("{} ms beyond {} ms (in {whose})", ms(beyond), ms(usual));
        let what = "longest standstill of any subtask around a kill, beyond the baseline's p99.9";
        report.row(what, "≤ 200 ms", seen, beyond <= Duration::from_millis(200));
        report.information("longest standstill around each kill", shown(windows.iter().map(|(pause, _)| pause)));
        let seen = format!("p50 {} / p99.9 {} / longest {} ms", ms(quiet.p50()), ms(usual), ms(quiet.longest()));
        report.information(format!("baseline: longest pause in each 10 ms of {} subtasks", tracks.count()), seen);
        let ends = self.baseline.first().zip(self.baseline.last());
        let whole = ends.map(|(first, last)| Stretch { from_us: first.from_us, to_us: last.to_us });
        let rate = whole.map_or(0.0, |whole| tracks.rate("sink", whole));
        let holds = (rate / RATE as f64 - 1.0).abs() <= 0.02;
        report.row(
            "records at the sinks, kills and all",
            format!("{RATE}/s within 2 %"),
            format!("{rate:.0}/s"),
            holds,
        );
    }
}

fn shown<'a>(durations: impl IntoIterator<Item = &'a Duration>) -> String {
    durations.into_iter().copied().collect::<Samples>().to_string()
}

/// The window of each kill. They do not overlap.
fn windows(kills_us: &[u64]) -> Vec<Stretch> {
    let (before, after) = (BEFORE.as_micros() as u64, AFTER.as_micros() as u64);
    let next = kills_us.iter().skip(1).copied().map(Some).chain([None]);
    let window = |(kill, next): (&u64, Option<u64>)| {
        let to_us = kill + after;
        Stretch { from_us: kill - before, to_us: next.map_or(to_us, |next| to_us.min(next - before)) }
    };
    kills_us.iter().zip(next).map(window).collect()
}

/// The same test on etcd; nothing when it is not installed.
fn kill_etcd(runtime: &Runtime, timers: Timers, kills: u32) -> Result<Option<Seen>> {
    if !etcd::is_installed() {
        return Ok(None);
    }
    let mut etcd = Etcd::start(timers)?;
    let mut seen = Seen::default();
    for number in 1..=kills {
        agreed_leader(runtime, &mut etcd)?;
        sleep(BEFORE);
        let victim = kill_leader(runtime, &mut etcd)?;
        let measured = seen.after_kill(runtime, &mut etcd, &victim);
        measured.with_context(|| format!("etcd {timers}, kill {number}"))?;
        let first = seen.first.last().copied().unwrap_or_default();
        eprintln!("etcd {timers}, kill {number} of {kills}: first write {} ms", ms(first));
    }
    Ok(Some(seen))
}

fn compare(which: Beside, timers: Timers, ours: &Seen, theirs: Option<Seen>, report: &mut Report) {
    let alike = if which == Beside::Tuned { ", as ours: 50/150–300 ms" } else { ", its defaults" };
    let what = format!("etcd {timers}{alike}: leader SIGKILL to first accepted write");
    let (bars, least) = match which {
        Beside::Default => (&[("p50", 0.5)][..], 4.0),
        _ => (&[("p50", 0.5), ("p99", 0.99)][..], 1.0),
    };
    let ours: Samples = ours.first.iter().copied().collect();
    for (name, part) in bars {
        let bar = match which {
            Beside::Default => format!("ours at least {least:.0} times as fast ({name})"),
            _ => format!("ours no slower ({name})"),
        };
        let Some(theirs) = &theirs else {
            report.unmeasured(&what, bar, etcd::INSTALL);
            continue;
        };
        let theirs: Samples = theirs.first.iter().copied().collect();
        let times = ratio(theirs.quantile(*part), ours.quantile(*part));
        let seen = format!("{times:.2} times as fast; etcd: {theirs}");
        report.row(&what, bar, seen, times >= least);
    }
    if let Some(theirs) = &theirs {
        report.information(format!("etcd {timers}: the same through one survivor"), shown(&theirs.through_one));
        report.information(format!("etcd {timers}: start of the killed member to caught up"), shown(&theirs.caught_up));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_around_kills_leave_out_nothing_and_do_not_overlap() {
        let seconds = |from: f64, to: f64| Stretch { from_us: (from * 1e6) as u64, to_us: (to * 1e6) as u64 };
        let kills = [10_000_000, 12_000_000, 20_000_000];
        assert_eq!(windows(&kills), [seconds(9.5, 11.5), seconds(11.5, 15.0), seconds(19.5, 23.0)]);
        assert!(windows(&[]).is_empty());
    }
}
