//! The story of the demonstration: a job whose output proves itself, the leader killed, and what the job noticed.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context;
use perennial_client::DispatcherGateway;
use perennial_types::JobId;

use super::kill::{Before, Phases, Verdict};
use super::progress::{ask_to_stop, unix_ms};
use super::steps::{self, Seen};
use super::{SHOW_INTERVAL, Stage, finished};
use crate::failure::{Exit, Failure};
use crate::output;

/// Records per second.
const RATE: u64 = 50_000;

/// Time of undisturbed running before a kill, to compare with: the first second after a start or kill is left out.
const QUIET: Duration = Duration::from_secs(3);

/// The same between the kills of `failover`.
const QUIET_BETWEEN: Duration = Duration::from_secs(1);

/// How long records may take until the first arrive, and the job to end once it was asked to.
const LIMIT: Duration = Duration::from_secs(60);

/// Fewest JobManagers of which one can be missing.
const GROUP_MIN: u16 = 3;

/// Where the tasks report their progress.
pub(super) fn progress_dir(dir: &Path) -> PathBuf {
    dir.join("progress")
}

/// Runs the job, kills the leader once and says what came of it; then ends, or goes on until interrupted.
pub(super) async fn tell(stage: &mut Stage<'_>, once: bool) -> Result<Exit, Failure> {
    let (job, mut live) = begin(stage, once).await?;
    live.show_for(stage, QUIET + SHOW_INTERVAL).await?;
    let mut clean = true;
    if stage.jobmanagers < GROUP_MIN {
        output::line(format_args!("nobody is killed: {} JobManagers cannot do without one", stage.jobmanagers))?;
    } else {
        clean = act(stage, job, &mut live).await?.is_clean();
        live.show_for(stage, SHOW_INTERVAL * 2).await?;
    }
    if !once {
        loop {
            live.show_for(stage, SHOW_INTERVAL).await?;
        }
    }
    verify(stage, job).await?;
    if clean { Ok(Exit::Done) } else { Err(noticed(1)) }
}

/// Runs the job, kills the leader so often, and shows what each time cost.
pub(super) async fn repeat(stage: &mut Stage<'_>, times: u32) -> Result<Exit, Failure> {
    if stage.jobmanagers < GROUP_MIN {
        let error = anyhow::anyhow!("{} JobManagers cannot do without one", stage.jobmanagers);
        return Err(Failure::new(Exit::Usage, error).hint("start more with --jobmanagers 3"));
    }
    let (job, mut live) = begin(stage, true).await?;
    live.show_for(stage, QUIET).await?;
    let (mut columns, mut noticed_in) = (Columns::default(), 0);
    for number in 1..=times {
        tokio::time::sleep(QUIET_BETWEEN).await;
        let from_ms = unix_ms().saturating_sub(QUIET_BETWEEN.as_millis() as u64);
        let mut before = Before::look(stage, job, from_ms).await?;
        let (_, phases) = before.kill(stage, job).await?;
        stage.cluster.start_again(&before.leader.name)?;
        let verdict = before.judge(stage, job).await?;
        noticed_in += usize::from(!verdict.is_clean());
        let said = if verdict.is_clean() { "nobody noticed".to_owned() } else { sentence(&verdict) };
        output::line(format_args!(
            "{number:4}  {} -> {}  leader {}  write {}  attached {}  RUNNING {}  pause {} (before {})  {said}",
            before.leader.name,
            phases.next.name,
            ms(phases.known),
            ms(phases.written),
            ms(phases.attached),
            ms(phases.running),
            ms(verdict.gap),
            ms(verdict.gap_before),
        ))?;
        columns.add(&phases, &verdict);
    }
    output::line(format_args!("\n{}", columns.table()))?;
    verify(stage, job).await?;
    if noticed_in == 0 { Ok(Exit::Done) } else { Err(noticed(noticed_in)) }
}

fn noticed(kills: usize) -> Failure {
    let error = anyhow::anyhow!("the job noticed {kills} of the leader's deaths");
    Failure::new(Exit::Failed, error).hint("--keep DIR keeps the logs of all processes")
}

/// Submits the job and waits for its first records.
async fn begin(stage: &mut Stage<'_>, ends: bool) -> Result<(JobId, Live), Failure> {
    let started = Instant::now();
    let progress = progress_dir(stage.dir);
    std::fs::create_dir_all(&progress).with_context(|| format!("cannot create {}", progress.display()))?;
    let what = format!(
        "counting {} records a second by key and checking that the count of every key goes up by one",
        output::thousands(RATE)
    );
    let job = stage.begin(steps::NAME, steps::arguments(&progress, RATE), &what, ends).await?;
    let live = Live { started, progress, parallelism: stage.parallelism(), shown: None };
    while live.seen()?.arrived() == 0 {
        if let Some(ended) = stage.cluster.newly_ended().into_iter().next() {
            return Err(anyhow::anyhow!("{ended}").into());
        }
        if started.elapsed() > LIMIT {
            let waits = stage.client.job(job).await?.map(|details| details.summary.waiting_for).unwrap_or_default();
            return Err(anyhow::anyhow!("no record arrived within {} s; {waits}", LIMIT.as_secs()).into());
        }
        tokio::time::sleep(SHOW_INTERVAL / 10).await;
    }
    Ok((job, live))
}

/// Kills the leader, starts it again, and tells all about it.
async fn act(stage: &mut Stage<'_>, job: JobId, live: &mut Live) -> Result<Verdict, Failure> {
    let from_ms = unix_ms().saturating_sub(QUIET.as_millis() as u64);
    let mut before = Before::look(stage, job, from_ms).await?;
    let old = before.leader.name.clone();
    output::line(format_args!("{}  killing {old}, which leads, with SIGKILL", live.clock()))?;
    let (pid, phases) = before.kill(stage, job).await?;
    let attached = format!("{} TaskManagers attached to it", stage.cluster.taskmanager_count());
    let next = format!("{} leads in epoch {}", phases.next.name, phases.next.epoch);
    let lines = [
        (format!("process {pid} is dead"), Duration::ZERO),
        (next, phases.known),
        ("first write accepted".to_owned(), phases.written),
        (attached, phases.attached),
        ("job RUNNING under it, all tasks adopted".to_owned(), phases.running),
    ];
    for (what, after) in lines {
        output::line(format_args!("         {:>7} ms  {what}", after.as_millis()))?;
    }
    live.show_for(stage, SHOW_INTERVAL * 2).await?;
    output::line(format_args!("{}  starting {old} again", live.clock()))?;
    stage.cluster.start_again(&old)?;
    let verdict = before.judge(stage, job).await?;
    output::line(format_args!(
        "{}  {old} has caught up. What the job noticed: {}\n         {}\n         longest pause of any task {}, before the kill {}",
        live.clock(),
        if verdict.is_clean() { "nothing" } else { "this" },
        sentence(&verdict),
        ms(verdict.gap),
        ms(verdict.gap_before),
    ))?;
    Ok(verdict)
}

fn sentence(verdict: &Verdict) -> String {
    let Verdict { restarts, attempts_changed, executors_restarted, lost, doubled, miscounted, .. } = verdict;
    let wrong = if *miscounted > 0 { format!(", {miscounted} counts wrong") } else { String::new() };
    format!(
        "{restarts} task restarts, {attempts_changed} attempts changed, {executors_restarted} executors restarted, \
         {lost} records lost, {doubled} doubled{wrong}"
    )
}

/// Has the job end, and compares what was made with what arrived.
async fn verify(stage: &mut Stage<'_>, job: JobId) -> Result<(), Failure> {
    let progress = progress_dir(stage.dir);
    ask_to_stop(&progress).context("cannot ask the job to end")?;
    let end = async {
        loop {
            if let Ok(Some(details)) = stage.client.job(job).await
                && details.summary.status.is_globally_terminal()
            {
                return details.summary;
            }
            tokio::time::sleep(SHOW_INTERVAL / 10).await;
        }
    };
    let late = || anyhow::anyhow!("job {job} did not end within {} s", LIMIT.as_secs());
    finished(&tokio::time::timeout(LIMIT, end).await.map_err(|_| late())?)?;
    let seen = Seen::read(&progress, stage.parallelism())?;
    let (made, arrived, lost, doubled) = (seen.made(), seen.arrived(), seen.lost(), seen.doubled());
    if made != arrived || (lost, doubled, seen.miscounted()) != (0, 0, 0) {
        let error = anyhow::anyhow!(
            "{made} records were made, {arrived} arrived; {lost} were lost, {doubled} came twice, {} counts are wrong",
            seen.miscounted()
        );
        return Err(error.into());
    }
    let made = output::thousands(made);
    output::line(format_args!("verified: {made} records made, {made} counted, every count is right; 0 lost, 0 doubled"))
}

/// What is shown while the job runs.
struct Live {
    started: Instant,
    progress: PathBuf,
    parallelism: u16,
    /// Records shown last, and when.
    shown: Option<(u64, Instant)>,
}

impl Live {
    fn seen(&self) -> Result<Seen, Failure> {
        Seen::read(&self.progress, self.parallelism)
    }

    /// Time since the beginning.
    fn clock(&self) -> String {
        format!("{:5.1} s", self.started.elapsed().as_secs_f64())
    }

    /// Shows the records once a second for so long, and which process has ended unasked.
    async fn show_for(&mut self, stage: &mut Stage<'_>, time: Duration) -> Result<(), Failure> {
        let until = Instant::now() + time;
        while Instant::now() < until {
            tokio::time::sleep(SHOW_INTERVAL.min(until - Instant::now())).await;
            for ended in stage.cluster.newly_ended() {
                output::line(ended)?;
            }
            let (seen, now) = (self.seen()?, Instant::now());
            let arrived = seen.arrived();
            let rate = self.shown.map_or_else(String::new, |(before, at)| {
                let rate = arrived.saturating_sub(before) as f64 / (now - at).as_secs_f64();
                format!(" ({}/s)", output::thousands(rate as u64))
            });
            self.shown = Some((arrived, now));
            let pause = seen.longest_pause(unix_ms().saturating_sub(SHOW_INTERVAL.as_millis() as u64), u64::MAX);
            output::line(format_args!(
                "{}  {} records{rate}, {} lost, {} doubled, longest pause {}",
                self.clock(),
                output::thousands(arrived),
                seen.lost(),
                seen.doubled(),
                ms(pause)
            ))?;
        }
        Ok(())
    }
}

/// A time for people.
fn ms(time: Duration) -> String {
    if time < Duration::from_millis(100) {
        format!("{:.1} ms", time.as_secs_f64() * 1000.0)
    } else {
        format!("{} ms", time.as_millis())
    }
}

/// Every measured time of many kills.
#[derive(Debug, Default)]
struct Columns {
    times: [Vec<Duration>; 6],
}

/// What is measured, in this order.
const MEASURED: [&str; 6] = [
    "next leader known",
    "first write accepted",
    "TaskManagers attached",
    "job RUNNING",
    "longest pause of a task",
    "the same before the kill",
];

impl Columns {
    fn add(&mut self, phases: &Phases, verdict: &Verdict) {
        let Phases { next: _, known, written, attached, running } = *phases;
        let times = [known, written, attached, running, verdict.gap, verdict.gap_before];
        for (column, time) in self.times.iter_mut().zip(times) {
            column.push(time);
        }
    }

    /// Least, middle, 99 of 100, most.
    fn table(&self) -> String {
        let rows = MEASURED.iter().zip(&self.times).map(|(what, times)| {
            let mut times = times.clone();
            times.sort_unstable();
            let at = |part: f64| {
                let rank = (part * times.len() as f64).ceil() as usize;
                times.get(rank.saturating_sub(1)).copied().map_or_else(|| "-".to_owned(), ms)
            };
            [(*what).to_owned(), at(0.0), at(0.5), at(0.99), at(1.0)]
        });
        output::table(["", "MIN", "P50", "P99", "MAX"], rows)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_of_times_has_the_nearest_ranks() {
        let mut columns = Columns::default();
        for column in &mut columns.times {
            column.extend((1..=200).map(Duration::from_millis));
        }
        let table = columns.table();
        let line = table.lines().find(|line| line.starts_with("first write")).unwrap();
        assert_eq!(
            line.split_whitespace().collect::<Vec<_>>().join(" "),
            "first write accepted 1.0 ms 100 ms 198 ms 200 ms"
        );
    }
}
