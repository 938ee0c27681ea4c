//! Records per second with checkpoints and without, in turns.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use perennial_tests::{Report, Submission, wait_for};
use serde_json::Value;

use crate::{Bench, LIMIT, SLOTS, median};

/// What checkpoints may cost.
const LOSS_MAX: f64 = 0.03;

/// Records of each key before the window: its state is there then, and the tables have grown.
const WARM_UP_RECORDS: u64 = 10;

pub(super) fn measure(bench: &mut Bench, report: &mut Report) -> Result<()> {
    let (mut without, mut with, mut kept) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..bench.options.rounds {
        // Neither is always the first.
        let first = round % 2 == 1;
        let mut rates = [0.0, 0.0];
        for checkpoints in [first, !first] {
            let rate = rate(bench, checkpoints)?;
            eprintln!("round {}, {}: {:.1} M/s", round + 1, if checkpoints { "with" } else { "without" }, rate / 1e6);
            if checkpoints {
                rates[1] = rate;
            } else {
                rates[0] = rate;
            }
        }
        let [alone, beside] = rates;
        without.push(alone);
        with.push(beside);
        kept.push(beside / alone);
    }
    let keys = bench.options.keys;
    report.information(
        format!("keyed count, {keys} keys in each of {SLOTS} slots: without, with checkpoints"),
        format!("{:.1}, {:.1} M records/s", median(&mut without) / 1e6, median(&mut with) / 1e6),
    );
    let loss = 1.0 - median(&mut kept);
    let seen = format!("{:.1} %", loss * 100.0);
    report.row("loss of throughput, median of the rounds", format!("≤ {} %", LOSS_MAX * 100.0), seen, loss <= LOSS_MAX);
    Ok(())
}

fn rate(bench: &mut Bench, checkpoints: bool) -> Result<f64> {
    let keys = bench.options.keys * u64::from(SLOTS);
    let job = bench.start("keyed_count", checkpoints, &["--keys", &keys.to_string()])?;
    wait_for("every key to be counted some times", LIMIT, || {
        let counted = counted(bench, &job)?;
        ensure!(counted >= keys * WARM_UP_RECORDS, "{counted} records were counted");
        Ok(())
    })?;
    // The counters come about once a second, so a window begins and ends when one has come.
    let begun = next_change(bench, &job)?;
    std::thread::sleep(bench.window());
    let ended = next_change(bench, &job)?;
    bench.end(&job)?;
    Ok((ended.1 - begun.1) as f64 / (ended.0 - begun.0).as_secs_f64())
}

/// Waits for the next news of the counters.
fn next_change(bench: &Bench, job: &Submission) -> Result<(Instant, u64)> {
    let before = counted(bench, job)?;
    wait_for("news of the counters", LIMIT, || {
        let now = counted(bench, job)?;
        ensure!(now != before, "they stand at {now}");
        std::thread::sleep(Duration::from_millis(5));
        Ok((Instant::now(), now))
    })
}

/// Records that the counting vertex, the last of the job, has read.
fn counted(bench: &Bench, job: &Submission) -> Result<u64> {
    let job = bench.cluster.job(job)?;
    let vertices = job.get("vertices").and_then(Value::as_array).context("a job has vertices")?;
    let last = vertices.last().context("a job has a vertex")?;
    last.pointer("/metrics/read-records").and_then(Value::as_u64).context("a vertex counts its records")
}
