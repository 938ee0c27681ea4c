//! The power of members is cut while they are written to: what their disks had not made durable is gone.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Args;
use perennial_tests::{Cluster, ClusterBuilder, Report, Submission};

use crate::disk::{Disk, stand_still};
use crate::group::{Group, LIMIT};
use crate::interrupt::{self, wait_for};
use crate::kills::converged;
use crate::load::Load;
use crate::random::{Random, fresh_seed};

/// Members of the group.
const MEMBERS: usize = 3;

/// Size of a member's disk, and of a JobManager's, which has artifacts. The images are sparse.
const MEMBER_DISK_MB: u64 = 256;
const JOBMANAGER_DISK_MB: u64 = 2048;

/// Acknowledged records read back linearizably after each cut.
const SAMPLE: usize = 20;

const MEMBERS_BAR: &str = "0 acknowledged writes lost, 0 members that do not start";
const JOBS_BAR: &str = "every accepted job is there, every artifact readable";

#[derive(Args)]
pub(crate) struct Options {
    /// How many times the power of one, two or all members of a metadata group is cut.
    #[arg(long, default_value_t = 50)]
    cuts: u64,
    /// How many times the power of a real JobManager is cut while jobs are submitted.
    #[arg(long, default_value_t = 5)]
    jobmanager_cuts: u64,
    /// Writers.
    #[arg(long, default_value_t = 4)]
    writers: u64,
    /// Choices of an earlier run.
    #[arg(long)]
    seed: Option<u64>,
}

/// Runs and reports. `binary` gives the `perennial` under test.
pub(crate) fn run(binary: impl FnOnce() -> Result<PathBuf>, options: &Options) -> Result<Report> {
    interrupt::listen()?;
    let seed = options.seed.unwrap_or_else(fresh_seed);
    println!("seed {seed}");
    let root = std::env::temp_dir().join(format!("perennial-power-{}", std::process::id()));
    std::fs::create_dir_all(&root).with_context(|| format!("cannot create {}", root.display()))?;
    let outcome = cut_on(binary, &root, options, &mut Random::new(seed));
    match &outcome {
        Err(_) => eprintln!("logs are kept: {}", root.display()),
        Ok(_) => _ = std::fs::remove_dir_all(&root),
    }
    outcome
}

fn cut_on(
    binary: impl FnOnce() -> Result<PathBuf>,
    root: &Path,
    options: &Options,
    random: &mut Random,
) -> Result<Report> {
    let mut report = Report::default();
    if let Some(why) = Disk::unavailable(root) {
        report.unmeasured(format!("{} power cuts of members", options.cuts), MEMBERS_BAR, &why);
        report.unmeasured(format!("{} power cuts of a JobManager", options.jobmanager_cuts), JOBS_BAR, why);
        return Ok(report);
    }
    if options.cuts > 0 {
        cut_members(root, options, random, &mut report)?;
    }
    if options.jobmanager_cuts > 0 {
        cut_jobmanager(&binary()?, root, options.jobmanager_cuts, random, &mut report)?;
    }
    Ok(report)
}

fn cut_members(root: &Path, options: &Options, random: &mut Random, report: &mut Report) -> Result<()> {
    let disks: Result<Vec<Disk>> =
        (1..=MEMBERS).map(|n| Disk::create(root, &format!("member-{n}"), MEMBER_DISK_MB)).collect();
    let mut disks = disks?;
    // Declared after the disks: the processes are gone before these are unmounted.
    let mut group = Group::new(disks.iter().map(|disk| disk.path().join("data")).collect(), root)?;
    for n in group.all() {
        group.start(n)?;
    }
    group.wait_leader()?;
    let mut load = Load::start(options.writers, &group.addresses())?;
    let (begun, mut missing, mut read) = (Instant::now(), 0, 0);
    let mut sizes = [0_u64; MEMBERS];
    for cut in 0..options.cuts {
        let before = load.count();
        wait_for("the group to take writes", LIMIT, || {
            group.check_alive()?;
            ensure!(load.count() > before, "none was acknowledged since {before}");
            Ok(())
        })?;
        std::thread::sleep(Duration::from_millis(random.within(0..500)));
        // One, a majority, all, in turn; which ones by chance.
        let size = cut as usize % MEMBERS;
        let mut victims: Vec<usize> = group.all().collect();
        while victims.len() > size + 1 {
            victims.remove(random.within(0..victims.len() as u64) as usize);
        }
        cut_power(&mut group, &mut disks, &victims)?;
        let sample = load.newest(SAMPLE);
        for n in &victims {
            group.start(*n)?;
        }
        for number in sample {
            read += 1;
            missing += u64::from(!group.read(number)?);
        }
        if let Some(count) = sizes.get_mut(size) {
            *count += 1;
        }
    }
    let seconds = begun.elapsed().as_secs_f64();
    load.stop()?;
    let dumps = converged(&mut group)?;
    let acknowledged = load.acknowledged();
    let lost: Vec<usize> =
        dumps.iter().map(|dump| acknowledged.iter().filter(|number| !dump.contain(**number)).count()).collect();
    let [one, majority, all] = sizes;
    let what = format!(
        "{} power cuts in {seconds:.0} s ({one} of one member, {majority} of a majority, {all} of all {MEMBERS})",
        options.cuts
    );
    let seen = format!(
        "{} acknowledged, {} unknown; lost on the members: {lost:?}; missing in linearizable reads: {missing} of {read}",
        acknowledged.len(),
        load.unknown()
    );
    let enough = acknowledged.len() as u64 > options.cuts;
    report.row(what, MEMBERS_BAR, seen, enough && missing == 0 && lost.iter().all(|lost| *lost == 0));
    Ok(())
}

/// Cuts the power of members at one moment and gives each what its disk had.
fn cut_power(group: &mut Group, disks: &mut [Disk], victims: &[usize]) -> Result<()> {
    let mut copies = Vec::new();
    for n in victims {
        stand_still(&[group.process(*n)?])?;
    }
    for n in victims {
        copies.push(disks.get_mut(*n).context("every member has a disk")?.copy()?);
    }
    for (n, copy) in victims.iter().zip(copies) {
        group.process(*n)?.kill()?;
        disks.get_mut(*n).context("every member has a disk")?.replace(copy)?;
    }
    Ok(())
}

/// A real JobManager whose whole data directory is on the disk: accepted jobs are there after each cut, and in the end a
/// TaskManager gets the artifacts they name and runs them.
fn cut_jobmanager(binary: &Path, root: &Path, cuts: u64, random: &mut Random, report: &mut Report) -> Result<()> {
    let mut disk = Disk::create(root, "jobmanager", JOBMANAGER_DISK_MB)?;
    let data = disk.path().join("data").display().to_string();
    let mut cluster = ClusterBuilder::new(binary).taskmanagers(1, 4).config("jobmanager.data-dir", &data).prepare()?;
    cluster.start_jobmanager(0)?;
    let (mut accepted, mut lost) = (Vec::new(), Vec::new());
    for cut in 0..cuts {
        wait_ready(&mut cluster)?;
        // An artifact of its own for each cut: the sample jobs with a few more bytes at the end.
        let artifact = root.join(format!("artifact-{cut}"));
        let mut bytes = std::fs::read(binary)?;
        bytes.extend(cut.to_be_bytes());
        std::fs::write(&artifact, bytes)?;
        std::fs::set_permissions(&artifact, std::fs::metadata(binary)?.permissions())?;
        let moment = Duration::from_millis(random.within(0..400));
        std::thread::scope(|scope| {
            let cluster = &cluster;
            let submits = scope.spawn(|| submit_until_it_fails(cluster, &artifact));
            let first = wait_for("a job to be accepted", LIMIT, || {
                ensure!(!submits.is_finished(), "submitting has ended");
                let listed = cluster.rest("/v1/jobs")?;
                let count = listed.get("jobs").and_then(|jobs| jobs.as_array()).map_or(0, Vec::len);
                ensure!(count > accepted.len(), "{count} are");
                Ok(())
            });
            std::thread::sleep(moment);
            let jobmanager = cluster.processes().next().context("the jobmanager runs")?;
            let cut = first.and_then(|()| stand_still(&[jobmanager])).and_then(|()| disk.copy());
            // Ends what waits for an answer.
            jobmanager.signal(rustix::process::Signal::KILL)?;
            accepted.extend(submits.join().map_err(|_| anyhow::anyhow!("submitting has panicked"))?);
            cut.map(|copy| (copy, ()))
        })
        .and_then(|(copy, ())| {
            cluster.jobmanager(0)?.wait(LIMIT)?;
            disk.replace(copy)
        })?;
        std::fs::remove_file(&artifact)?;
        cluster.start_jobmanager(0)?;
        wait_ready(&mut cluster)?;
        lost.extend(accepted.iter().filter(|job| cluster.job_state(job).is_err()).cloned());
    }
    cluster.start_taskmanager(0)?;
    let mut unfinished = Vec::new();
    for job in &accepted {
        if let Err(error) = cluster.wait_state(job, "FINISHED", LIMIT) {
            unfinished.push(format!("{error:#}"));
        }
    }
    let seen = format!(
        "{} jobs accepted, {} lost, {} of them did not run{}",
        accepted.len(),
        lost.len(),
        unfinished.len(),
        unfinished.first().map(|error| format!(" ({error})")).unwrap_or_default()
    );
    let holds = lost.is_empty() && unfinished.is_empty() && accepted.len() as u64 >= cuts;
    report.row(format!("{cuts} power cuts of a JobManager"), JOBS_BAR, seen, holds);
    Ok(())
}

fn wait_ready(cluster: &mut Cluster) -> Result<()> {
    wait_for("the jobmanager to serve", LIMIT, || {
        cluster.check_alive()?;
        cluster.rest("/v1/jobs").map(drop)
    })
}

/// Submits one job after the other and gives those that were accepted.
fn submit_until_it_fails(cluster: &Cluster, artifact: &Path) -> Vec<Submission> {
    let mut accepted = Vec::new();
    while let Ok(job) = cluster.submit_artifact(artifact, "trivial", 1, &[]) {
        accepted.push(job);
    }
    accepted
}
