//! Where the fault runs play: three JobManagers, two TaskManagers, and a job at a fixed rate that measures itself.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use perennial_tests::{Cluster, ClusterBuilder, Placed, Report, Submission, wait_for};
use serde_json::Value;

use crate::pauses::{Pauses, now_us};
use crate::witness::Witness;

/// Records per second of the job, over both TaskManagers.
pub(crate) const RATE: u32 = 50_000;

/// Longest wait for what takes milliseconds on a quiet machine.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);

/// Longest wait for an answer of one member.
const ANSWER_LIMIT: Duration = Duration::from_secs(3);

/// Time the job runs before anything is done to it: what is ordinary.
const BASELINE: Duration = Duration::from_secs(5);

/// Time a new job has to come to its pace, which is not part of the baseline.
const WARM_UP: Duration = Duration::from_secs(2);

/// A standstill of tasks beyond the ordinary that a fault of JobManagers may cause.
const GAP_MAX: Duration = Duration::from_millis(200);

/// Every JobManager.
pub(crate) const ALL: [usize; 3] = [0, 1, 2];

/// See the [module](self).
pub(crate) struct Scene {
    pub(crate) cluster: Cluster,
    pub(crate) witness: Witness,
    pub(crate) job: Submission,
    probes: PathBuf,
    baseline_us: (u64, u64),
    before: Untouched,
}

/// What faults of JobManagers must not change.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Untouched {
    restarts: u64,
    placed: Vec<Placed>,
    executors: Vec<u32>,
}

impl Scene {
    /// Starts all processes with `slots` slots on each TaskManager, and the job, and lets it run for a few seconds.
    pub(crate) fn start(builder: ClusterBuilder, slots: u32) -> Result<Self> {
        let mut cluster = builder.jobmanagers(ALL.len()).taskmanagers(2, slots).start()?;
        let probes = cluster.dir().join("probes");
        std::fs::create_dir(&probes)?;
        let args = ["--probes", &probes.display().to_string(), "--rate", &RATE.to_string()];
        let job = cluster.submit("gap_probe", 2, &args)?;
        cluster.wait_state(&job, "RUNNING", LIMIT)?;
        std::thread::sleep(WARM_UP);
        let witness = Witness::start(&cluster)?;
        let before = Untouched { restarts: 0, placed: Vec::new(), executors: Vec::new() };
        let mut scene = Self { witness, probes, baseline_us: (0, 0), before, job, cluster };
        scene.take_baseline()?;
        Ok(scene)
    }

    /// Looks for a few seconds at what is ordinary, and at what must not change from now on.
    pub(crate) fn take_baseline(&mut self) -> Result<()> {
        self.baseline_us.0 = now_us();
        std::thread::sleep(BASELINE);
        self.baseline_us.1 = now_us();
        self.before = self.untouched(&ALL)?;
        ensure!(self.before.executors.len() == 2, "the job runs on {:?}", self.before.executors);
        Ok(())
    }

    /// The scene of most runs: JobManagers reach each other directly.
    pub(crate) fn plain(binary: &Path, slots: u32) -> Result<Self> {
        Self::start(ClusterBuilder::new(binary), slots)
    }

    /// `GET` of a path at the first of these members that answers 200.
    pub(crate) fn ask(&self, members: &[usize], path: &str) -> Result<Value> {
        let mut last = anyhow::anyhow!("nobody was asked");
        for member in members {
            match self.cluster.request("GET", *member, path, ANSWER_LIMIT) {
                Ok((200, body)) => return serde_json::from_str(&body).with_context(|| body.clone()),
                Ok((status, body)) => last = anyhow::anyhow!("jm-{} answers {status}: {body}", member + 1),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// State of a job as these members see it.
    pub(crate) fn state(&self, members: &[usize], job: &Submission) -> Result<String> {
        let job = self.ask(members, &format!("/v1/jobs/{}", job.job))?;
        Ok(job.get("state").and_then(Value::as_str).context("a job has a state")?.to_owned())
    }

    /// Waits until these members show a job in a state; gives up when it ends in another.
    pub(crate) fn wait_state(&self, members: &[usize], job: &Submission, state: &str, limit: Duration) -> Result<()> {
        let reached = wait_for(&format!("job {} to be {state}", job.job), limit, || {
            let seen = self.state(members, job)?;
            ensure!(seen == state || ["FINISHED", "CANCELED", "FAILED"].contains(&seen.as_str()), "it is {seen}");
            Ok(seen)
        })?;
        ensure!(reached == state, "job {} is {reached}, not {state}", job.job);
        Ok(())
    }

    /// `perennial run -d` of a sample job through these members.
    pub(crate) fn submit(&self, members: &[usize], name: &str, parallelism: u32, args: &[&str]) -> Result<Submission> {
        let (endpoints, binary) = (self.cluster.endpoints_of(members)?, self.cluster.binary().display().to_string());
        let parallelism = parallelism.to_string();
        let mut line = vec!["--endpoints", &endpoints, "run", "-d", "-p", &parallelism, "--job-classname", name];
        line.extend([binary.as_str(), "--"]);
        line.extend(args);
        let output = self.cluster.run_cli(&line)?;
        let job = output.split_once("JobID ").and_then(|(_, rest)| rest.split_whitespace().next());
        Ok(Submission { job: job.with_context(|| format!("no JobID in: {output}"))?.to_owned() })
    }

    /// Number of TaskManagers registered at the leader that these members reach.
    pub(crate) fn taskmanagers(&self, members: &[usize]) -> Result<usize> {
        let all = self.ask(members, "/v1/taskmanagers")?;
        Ok(all.get("taskmanagers").and_then(Value::as_array).map_or(0, Vec::len))
    }

    /// Waits until these members agree on a leader, both TaskManagers are registered there and the job is RUNNING.
    /// Returns the leader and how long each took: an agreed leader, the TaskManagers, the job.
    pub(crate) fn wait_whole(&self, members: &[usize]) -> Result<(usize, [Duration; 3])> {
        let start = Instant::now();
        let leader = wait_for("one leader", LIMIT, || {
            let views = members.iter().map(|member| self.cluster.member_view(*member, ANSWER_LIMIT));
            let views = views.collect::<Result<Vec<_>>>()?;
            let first = views.first().context("nobody was asked")?;
            ensure!(views.iter().all(|view| view == first), "they say {views:?}");
            first.leader.context("nobody leads")
        })?;
        let led = start.elapsed();
        wait_for("both taskmanagers at the leader", LIMIT, || {
            let known = self.taskmanagers(members)?;
            ensure!(known == 2, "{known} are");
            Ok(())
        })?;
        let attached = start.elapsed();
        self.wait_state(members, &self.job, "RUNNING", LIMIT)?;
        Ok((leader, [led, attached, start.elapsed()]))
    }

    fn untouched(&self, members: &[usize]) -> Result<Untouched> {
        let job = self.ask(members, &format!("/v1/jobs/{}", self.job.job))?;
        Ok(Untouched {
            restarts: job.get("restarts").and_then(Value::as_u64).context("a job counts its restarts")?,
            placed: perennial_tests::placed_in(&job)?,
            executors: self.cluster.executors_of(&self.job),
        })
    }

    /// Adds rows: nothing about the job's tasks has changed since the start.
    pub(crate) fn check_untouched(&self, report: &mut Report, when: &str, members: &[usize]) {
        let what = format!("{when}: restarts, tasks with another attempt or place, executors replaced");
        let times = format!("{when}: tasks with another start time");
        let now = match self.untouched(members) {
            Ok(now) => now,
            Err(error) => return report.row(what, "0, 0, 0", format!("{error:#}"), false),
        };
        let before = &self.before;
        let pairs = || now.placed.iter().zip(&before.placed);
        let place =
            |placed: &Placed| (placed.vertex.clone(), placed.subtask, placed.attempt, placed.taskmanager.clone());
        let missing = before.placed.len().abs_diff(now.placed.len());
        let moved = pairs().filter(|(now, before)| place(now) != place(before)).count() + missing;
        let executors = before.executors.iter().filter(|pid| !now.executors.contains(pid)).count();
        let restarts = now.restarts.saturating_sub(before.restarts);
        let untouched = (restarts, moved, executors) == (0, 0, 0);
        report.row(what, "0, 0, 0", format!("{restarts}, {moved}, {executors}"), untouched);
        let retimed: Vec<i64> =
            pairs().map(|(now, before)| now.start_ms - before.start_ms).filter(|change| *change != 0).collect();
        let by =
            retimed.iter().max_by_key(|change| change.abs()).map_or_else(String::new, |by| format!(", by {by} ms"));
        report.row(times, "0", format!("{}{by}", retimed.len()), retimed.is_empty());
    }

    /// Adds rows: how long tasks stood still in a window that ends now, and whether they kept their rate.
    pub(crate) fn check_gap(&self, report: &mut Report, when: &str, from_us: u64) -> Result<()> {
        let to_us = now_us();
        let pauses = Pauses::read(&self.probes)?;
        let ordinary = pauses.ordinary(self.baseline_us.0, self.baseline_us.1)?;
        let longest = pauses.longest(from_us, to_us)?;
        let beyond = longest.pause.saturating_sub(ordinary);
        let seen = format!("{} ms ({} ms in all, {})", beyond.as_millis(), longest.pause.as_millis(), longest.subtask);
        let bar = format!(
            "≤ {} ms beyond the baseline's p99.9 ({:.1} ms)",
            GAP_MAX.as_millis(),
            ordinary.as_secs_f64() * 1e3
        );
        report.row(format!("{when}: longest standstill of a task"), bar, seen, beyond <= GAP_MAX);
        let rate = pauses.rate(from_us, to_us);
        let bar = format!("{RATE} records/s, within 5 %");
        report.row(
            format!("{when}: rate"),
            bar,
            format!("{rate:.0} records/s"),
            (rate / f64::from(RATE) - 1.0).abs() <= 0.05,
        );
        Ok(())
    }

    /// Reads what the probes have written so far.
    pub(crate) fn pauses(&self) -> Result<Pauses> {
        Pauses::read(&self.probes)
    }

    /// Adds a row: no member has answered as leader when a later one led.
    pub(crate) fn check_one_leader(&self, report: &mut Report, when: &str) {
        let outdated = self.witness.outdated();
        let seen = match outdated.first() {
            None => "0".to_owned(),
            Some(first) => format!("{}, the first by {first}", outdated.len()),
        };
        report.row(format!("{when}: reads answered by a deposed leader"), "0", seen, outdated.is_empty());
    }

    /// The members that are not this one.
    pub(crate) fn others(&self, member: usize) -> Vec<usize> {
        ALL.into_iter().filter(|other| *other != member).collect()
    }

    /// Submits a small job through these members while another is away; waits until it has FINISHED.
    pub(crate) fn run_small_job(&self, members: &[usize]) -> Result<Submission> {
        let job = self.submit(members, "trivial", 1, &[])?;
        self.wait_state(members, &job, "FINISHED", LIMIT)?;
        Ok(job)
    }
}

/// A duration for a table.
pub(crate) fn ms(duration: Duration) -> String {
    format!("{} ms", duration.as_millis())
}

/// The first success of a fallible step, with the time it took since `start`.
pub(crate) fn timed<T>(start: Instant, step: impl FnOnce() -> Result<T>) -> Result<(T, Duration)> {
    let value = step()?;
    Ok((value, start.elapsed()))
}

/// A sequence of numbers that a seed decides: SplitMix64.
#[derive(Debug, Clone)]
pub(crate) struct Random(u64);

impl Random {
    /// The sequence of this seed; of one that nobody chose when there is none. The seed is printed.
    pub(crate) fn new(seed: Option<u64>) -> Self {
        let seed = seed.unwrap_or_else(|| now_us() & 0xffff_ffff);
        eprintln!("seed {seed}");
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// These values in a random order.
    pub(crate) fn shuffled<T>(&mut self, values: impl IntoIterator<Item = T>) -> Vec<T> {
        let mut keyed: Vec<(u64, T)> = values.into_iter().map(|value| (self.next(), value)).collect();
        keyed.sort_by_key(|(key, _)| *key);
        keyed.into_iter().map(|(_, value)| value).collect()
    }
}
