//! Everything is killed at random while a job counts and sums, and each record is in the output exactly once.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use clap::Args;
use perennial_tests::{Cluster, ClusterBuilder, Report, Submission};

use crate::interrupt;
use crate::random::fresh_seed;
use crate::scene::LIMIT;
use crate::strikes::Strikes;
use crate::sums::{Asked, Found, Judge};

/// Subtasks of the job. There are two slots more.
const PARALLELISM: u32 = 4;

/// A restart is tried at once and for ever: the strikes are closer than the back-off of the default would let them be.
const RESTARTS: [&str; 3] = [
    "restart-strategy.type=fixed-delay",
    "restart-strategy.fixed-delay.attempts=1000000",
    "restart-strategy.fixed-delay.delay=50ms",
];

/// Output that has not grown for so long will not: longer than any recovery, and than a cluster that is struck again and again.
const STANDSTILL: Duration = Duration::from_secs(120);

/// Time between two looks at the output.
const LOOK_EVERY: Duration = Duration::from_millis(500);

#[derive(Args)]
pub(crate) struct Options {
    /// Number of records; rounded up so that each key has as many.
    #[arg(long, default_value_t = 100_000_000)]
    records: u64,
    /// Records per second; 0 is as fast as they can be counted.
    #[arg(long, default_value_t = 500_000)]
    rate: u64,
    /// Number of keys; rounded up to a multiple of the parallelism.
    #[arg(long, default_value_t = 100_000)]
    keys: u64,
    /// Records of a key from one line of the output to the next. Each line proves all before it.
    #[arg(long, default_value_t = 20)]
    every: u64,
    /// Time between checkpoints, in milliseconds.
    #[arg(long, default_value_t = 1000)]
    interval_ms: u64,
    /// Also kill all JobManagers at once, pause processes, and leave some away for longer than `heartbeat.timeout`.
    #[arg(long)]
    hostile: bool,
    /// Choices of an earlier run.
    #[arg(long)]
    seed: Option<u64>,
    /// Leave the directory with all logs and the output, also when everything holds.
    #[arg(long)]
    keep: bool,
}

/// Runs and reports.
pub(crate) fn run(binary: &Path, options: &Options) -> Result<Report> {
    ensure!(options.every > 0 && options.keys > 0, "--keys and --every are at least 1");
    interrupt::listen()?;
    let seed = options.seed.unwrap_or_else(fresh_seed);
    println!("seed {seed}");
    let keys = options.keys.next_multiple_of(u64::from(PARALLELISM));
    let of_each = options.records.div_ceil(keys).next_multiple_of(options.every);
    let asked = Asked { keys, of_each, every: options.every };
    let mut cluster = ClusterBuilder::new(binary).jobmanagers(3).taskmanagers(3, 2).start()?;
    let outcome = strike_on(&mut cluster, options, asked, seed);
    if options.keep || !outcome.as_ref().is_ok_and(Report::holds) {
        cluster.keep();
    }
    outcome
}

fn submit(cluster: &Cluster, options: &Options, asked: Asked) -> Result<Submission> {
    let interval = format!("execution.checkpointing.interval={}ms", options.interval_ms);
    let flags: Vec<&str> =
        RESTARTS.iter().copied().chain([interval.as_str()]).flat_map(|option| ["-D", option]).collect();
    let numbers = [("--keys", asked.keys), ("--count", asked.keys * asked.of_each), ("--every", asked.every)];
    let mut args: Vec<String> =
        numbers.iter().flat_map(|(name, number)| [(*name).to_owned(), number.to_string()]).collect();
    if options.rate > 0 {
        args.extend(["--rate".to_owned(), options.rate.to_string()]);
    }
    args.extend(["--out".to_owned(), cluster.dir().join("out").display().to_string()]);
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    cluster.submit_with("running_sums", PARALLELISM, &flags, &args)
}

fn strike_on(cluster: &mut Cluster, options: &Options, asked: Asked, seed: u64) -> Result<Report> {
    let job = submit(cluster, options, asked)?;
    cluster.wait_state(&job, "RUNNING", LIMIT)?;
    let mut judge = Judge::new(&cluster.dir().join("out"), asked)?;
    let mut strikes = Strikes::new(seed, options.hostile);
    let (begun, mut looked, mut grown, mut longest) = (Instant::now(), Instant::now(), Instant::now(), Duration::ZERO);
    let mut state = String::new();
    while !["FINISHED", "FAILED", "CANCELED"].contains(&state.as_str()) {
        interrupt::check()?;
        strikes.strike_if_due(cluster, &job)?;
        std::thread::sleep(Duration::from_millis(10));
        if looked.elapsed() < LOOK_EVERY {
            continue;
        }
        looked = Instant::now();
        let before = judge.proven();
        if !judge.read_on()?.is_exact() {
            break;
        }
        longest = longest.max(grown.elapsed());
        if judge.proven() > before {
            grown = Instant::now();
        } else if grown.elapsed() > STANDSTILL {
            bail!("the output has not grown for {} s; the job is {:?}", STANDSTILL.as_secs(), cluster.job(&job));
        }
        // Nobody may lead just now.
        state = cluster.job_state(&job).unwrap_or_default();
    }
    let seconds = begun.elapsed().as_secs_f64();
    strikes.end(cluster)?;
    cluster.wait_ready()?;
    let restarts = cluster.restarts(&job)?;

    let mut report = Report::default();
    judge.read_on()?;
    let (complete, proven) = (judge.complete_keys(), judge.proven());
    let found = judge.finish()?;
    for (victim, count) in strikes.killed() {
        report.information(format!("struck: {victim}"), count.to_string());
    }
    let checkpoints = cluster.completed_checkpoints()?;
    let seen = format!("{restarts} restarts, {} checkpoints, {seconds:.0} s", checkpoints.len());
    report.information("job", seen);
    report.information("longest time without new output", format!("{:.1} s", longest.as_secs_f64()));
    report.row("state of the job", "FINISHED", &state, state == "FINISHED");
    let records = asked.keys * asked.of_each;
    report.row("records the output proves", records.to_string(), proven.to_string(), proven == records);
    let seen = format!("{complete}, over {} lines", found.lines);
    report.row("keys that step by one to their end", asked.keys.to_string(), seen, complete as u64 == asked.keys);
    let Found { missing, doubled, phantom, wrong_sums, first, .. } = found;
    for (what, count) in
        [("missing", missing), ("doubled", doubled), ("phantom", phantom), ("with a wrong sum", wrong_sums)]
    {
        report.row(format!("steps {what}"), "0", count.to_string(), count == 0);
    }
    if let Some(first) = first {
        report.information("first of them", first);
    }
    let rising = checkpoints.windows(2).all(|pair| pair.first() < pair.last());
    let seen = if rising { "yes".to_owned() } else { format!("{checkpoints:?}") };
    report.row("numbers of checkpoints rise over all leaders", "yes", seen, rising);
    Ok(report)
}
