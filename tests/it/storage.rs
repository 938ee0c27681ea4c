//! What the disk has before anything is answered, and what happens when it fails or is full.
//!
//! System calls are watched with `strace`. Where that cannot trace, these tests fail, unless `PERENNIAL_TESTS_SKIP_STRACE` is
//! set; those that mount a small disk say that they are skipped when they are not run as root.

mod trace;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use perennial_tests::{Cluster, Process, Submission, wait_for};

use crate::{LIMIT, cluster};
use trace::{Call, Trace, can_trace};

/// A cluster of one JobManager without TaskManagers that has been given one job, so that the artifact is there.
fn with_one_job() -> Result<Cluster> {
    let mut cluster = cluster().taskmanagers(0, 1).prepare()?;
    cluster.start_jobmanager(0)?;
    cluster.wait_ready()?;
    cluster.submit("trivial", 1, &[])?;
    Ok(cluster)
}

/// Where a cluster's only JobManager keeps its data.
fn data_dir(cluster: &Cluster) -> Result<PathBuf> {
    let home = cluster.dir().join("jm-1");
    let entries = fs::read_dir(&home)?.flatten().map(|entry| entry.path());
    let found = entries.into_iter().find(|path| path.join("meta").is_dir());
    found.with_context(|| format!("no data directory in {}", home.display()))
}

/// Attaches strace to a process and waits until it traces.
fn attach(cluster: &Cluster, pid: u32, output: &Path, args: &[&str]) -> Result<Process> {
    let said = cluster.dir().join(format!("{}.said", output.display()));
    let mut command = Command::new("strace");
    command.args(["-f", "-yy", "-x", "-s", "4096", "-p", &pid.to_string(), "-o"]).arg(output).args(args);
    let strace = Process::start("strace", command, &said)?;
    let threads = fs::read_dir(format!("/proc/{pid}/task"))?.count();
    wait_for("strace to be attached", LIMIT, || {
        let attached = strace.log().matches("attached").count();
        // It names the threads in one line of its own.
        ensure!(attached >= 1, "{attached} of {threads} threads: {}", strace.log());
        Ok(())
    })?;
    Ok(strace)
}

/// A job's id is in the log, and the log is synced, before anything that names the job leaves the process.
#[test]
fn a_job_is_durable_before_its_submission_is_answered() -> Result<()> {
    if !can_trace()? {
        return Ok(());
    }
    let mut cluster = with_one_job()?;
    let output = cluster.dir().join("calls");
    let pid = cluster.jobmanager(0)?.pid();
    let traced = "trace=fdatasync,fsync,write,writev,pwrite64,pwritev,sendto,sendmsg";
    let mut strace = attach(&cluster, pid, &output, &["-e", traced])?;
    let job = cluster.submit("trivial", 1, &[])?;
    strace.terminate(LIMIT)?;

    let trace = Trace::read(&output)?;
    let id = trace::hex_of(&job.job)?;
    let is_log = |call: &&Call| call.path().is_some_and(|path| path.contains("/meta/log/"));
    let written = trace.calls.iter().filter(is_log).find(|call| call.writes() && call.text.contains(&id));
    let written = written.context("the job's entry was written to the log")?;
    let synced =
        trace.calls.iter().filter(is_log).find(|call| {
            call.syncs() && call.begun > written.ended && call.succeeded() && call.path() == written.path()
        });
    let synced = synced.context("the log was synced after the entry was written")?;
    let sent: Vec<&Call> =
        trace.calls.iter().filter(|call| call.is_socket() && call.writes() && call.text.contains(&id)).collect();
    let first = sent.first().context("the answer names the job")?;
    assert!(synced.ended < first.begun, "answered before it was durable:\n{synced:?}\n{first:?}");
    Ok(())
}

/// What a start finds is synced before it is built upon, and the name of everything it makes is synced by its directory.
#[test]
fn what_a_start_finds_or_makes_is_durable_before_it_serves() -> Result<()> {
    if !can_trace()? {
        return Ok(());
    }
    let mut cluster = cluster().taskmanagers(0, 1).prepare()?;
    for start in 1..=2 {
        let output = cluster.dir().join(format!("calls-{start}"));
        let traced = "trace=fdatasync,fsync,write,writev,sendto,mkdir,mkdirat,rename,renameat,renameat2,openat";
        let line = format!("strace -f -yy -x -s 512 -e {traced} -o {}", output.display());
        let wrapper: Vec<String> = line.split(' ').map(str::to_owned).collect();
        cluster.start_jobmanager_under(0, &wrapper)?;
        cluster.wait_ready()?;
        // The child of strace: killed like that it leaves what a crash leaves.
        let strace = cluster.jobmanager(0)?;
        for pid in perennial_tests::descendants(strace.pid()) {
            perennial_tests::send_signal(pid, rustix::process::Signal::KILL)?;
        }
        cluster.jobmanager(0)?.wait(LIMIT)?;

        let trace = Trace::read(&output)?;
        let data = data_dir(&cluster)?;
        let synced = |path: &Path, from: usize, what: &str| {
            let found = trace
                .calls
                .iter()
                .find(|call| call.syncs() && call.succeeded() && call.begun > from && call.path() == path.to_str());
            found
                .map(|call| call.ended)
                .with_context(|| format!("start {start}: {what}: {} is not synced", path.display()))
        };
        // sled's own files need not survive.
        let matters = |path: &Path| path.starts_with(&data) && !path.starts_with(data.join("meta/state"));
        let mut made = 0;
        for call in trace.calls.iter().filter(|call| call.succeeded()) {
            let Some(path) = call.makes().filter(|path| matters(path)) else { continue };
            made += 1;
            // Files that only hold a lock, and files beside their place, which the rename names.
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if !["lock", "LOCK"].contains(&name) && !name.ends_with(".tmp") {
                synced(path.parent().context("it has a parent")?, call.ended, &format!("made {name}"))?;
            }
        }
        ensure!(made > 0, "start {start} made nothing; is the trace whole?");
        if start == 2 {
            let first_write = trace.calls.iter().find(|call| {
                call.writes() && call.path().is_some_and(|path| path.contains("/meta/log/")) && !call.is_socket()
            });
            let first_write = first_write.context("the second start votes")?;
            for entry in fs::read_dir(data.join("meta/log"))? {
                let path = entry?.path();
                let found = path.extension().is_some_and(|end| end == "wal")
                    && !trace.calls.iter().any(|call| call.makes() == Some(path.clone()));
                if found {
                    let ended = synced(&path, 0, "found")?;
                    ensure!(ended < first_write.begun, "{} was written to before it was synced", path.display());
                }
            }
        }
    }
    Ok(())
}

/// A sync that fails ends the process at once with a line that names the directory and the cause. The submission that was
/// under way is not accepted; started again, the member has what it had acknowledged.
#[test]
fn a_failed_sync_ends_the_process_and_acknowledges_nothing() -> Result<()> {
    if !can_trace()? {
        return Ok(());
    }
    let mut cluster = with_one_job()?;
    let before = jobs(&cluster)?;
    let pid = cluster.jobmanager(0)?.pid();
    let output = cluster.dir().join("calls");
    let inject = ["-e", "trace=fdatasync", "-e", "inject=fdatasync:error=EIO"];
    let mut strace = attach(&cluster, pid, &output, &inject)?;
    let artifact = cluster.binary().display().to_string();
    let refused =
        cluster.cli(&["run", "-d", "-D", "client.timeout=3s", "--job-classname", "trivial", &artifact]).output()?;
    assert!(!refused.status.success(), "accepted: {}", String::from_utf8_lossy(&refused.stdout));
    let status = cluster.jobmanager(0)?.wait(LIMIT)?;
    assert_eq!(status.code(), Some(1), "it is a failure, not a crash: {status}");
    strace.wait(LIMIT)?;
    let log = cluster.jobmanager(0)?.log();
    let dir = data_dir(&cluster)?.join("meta/log");
    let expected = format!("cannot write the log in {}: Input/output error (os error 5)", dir.display());
    assert!(log.lines().any(|line| line.contains(&expected)), "no line `{expected}` in:\n{log}");

    cluster.start_jobmanager(0)?;
    cluster.wait_ready()?;
    let after = jobs(&cluster)?;
    assert!(before.iter().all(|job| after.contains(job)), "{before:?} became {after:?}");
    cluster.submit("trivial", 1, &[])?;
    Ok(())
}

/// In a group, the failure of one disk costs one member: another one leads, and jobs are taken.
#[test]
fn a_group_goes_on_when_the_leaders_disk_fails() -> Result<()> {
    if !can_trace()? {
        return Ok(());
    }
    let mut cluster = cluster().jobmanagers(3).taskmanagers(1, 1).start()?;
    let accepted = cluster.submit("trivial", 1, &[])?;
    let leader = crate::group::leader(&cluster, 0)?;
    let pid = cluster.jobmanager(leader)?.pid();
    let output = cluster.dir().join("calls");
    let _strace = attach(&cluster, pid, &output, &["-e", "trace=fdatasync", "-e", "inject=fdatasync:error=EIO"])?;
    // Whatever it appends next is its last.
    let second = cluster.submit("trivial", 1, &[]).ok();
    let status = cluster.jobmanager(leader)?.wait(LIMIT)?;
    assert_eq!(status.code(), Some(1), "{status}");
    let asked = (leader + 1) % 3;
    wait_for("another leader", LIMIT, || {
        let next = crate::group::leader(&cluster, asked)?;
        ensure!(next != leader, "it still names the dead one");
        Ok(())
    })?;
    cluster.start_jobmanager(leader)?;
    cluster.wait_ready()?;
    for job in [Some(accepted), second].into_iter().flatten() {
        cluster.wait_state(&job, "FINISHED", LIMIT)?;
    }
    Ok(())
}

/// Ids of all jobs.
fn jobs(cluster: &Cluster) -> Result<Vec<String>> {
    let listed = cluster.rest("/v1/jobs")?;
    let jobs = listed.get("jobs").and_then(|jobs| jobs.as_array()).context("no jobs")?;
    Ok(jobs.iter().filter_map(|job| Some(job.get("id")?.as_str()?.to_owned())).collect())
}

/// A small disk in memory. Dropped, it is unmounted.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Mounts one of so many megabytes; says so and gives none without the right to.
    fn mount(name: &str, megabytes: u64) -> Result<Option<Self>> {
        if !rustix::process::geteuid().is_root() {
            eprintln!("SKIPPED: a disk of a few megabytes can only be mounted by root");
            return Ok(None);
        }
        let path = std::env::temp_dir().join(format!("perennial-test-disk-{}-{name}", std::process::id()));
        fs::create_dir_all(&path)?;
        let size = format!("size={megabytes}m");
        let status = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(&path).status()?;
        ensure!(status.success(), "tmpfs cannot be mounted at {}", path.display());
        Ok(Some(Self(path)))
    }

    fn free(&self) -> Result<u64> {
        let space = rustix::fs::statvfs(&self.0)?;
        Ok(space.f_bavail * space.f_frsize)
    }

    /// Fills the disk until so many bytes are free.
    fn fill(&self, leave: u64) -> Result<PathBuf> {
        let path = self.0.join("ballast");
        let size = self.free()?.saturating_sub(leave);
        fs::write(&path, vec![1; usize::try_from(size)?])?;
        Ok(path)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
        let _ = fs::remove_dir(&self.0);
    }
}

/// Size of a disk with room for the sample artifact and little else.
fn megabytes_for_the_artifact(beyond: u64) -> Result<u64> {
    Ok((fs::metadata(env!("CARGO_BIN_EXE_perennial"))?.len() >> 20) + beyond)
}

/// A nearly full disk: new jobs are refused with directory, free space and option; what is there is read and cancelled;
/// with room again, jobs are taken again. The process lives through all of it.
#[test]
fn a_nearly_full_disk_refuses_new_work_and_takes_it_again() -> Result<()> {
    let Some(disk) = SmallDisk::mount("nearly", megabytes_for_the_artifact(200)?)? else { return Ok(()) };
    let data = disk.0.join("data").display().to_string();
    let mut cluster = cluster().taskmanagers(1, 1).config("jobmanager.data-dir", &data).start()?;
    let job = cluster.submit("idle", 1, &[])?;
    cluster.wait_state(&job, "RUNNING", LIMIT)?;
    let ballast = disk.fill(20 << 20)?;

    let artifact = cluster.binary().display().to_string();
    let run = ["run", "-d", "--job-classname", "trivial", &artifact];
    let said = wait_for("a job to be refused", LIMIT, || {
        let output = cluster.cli(&run).output()?;
        ensure!(!output.status.success(), "it was accepted");
        assert_eq!(output.status.code(), Some(6));
        Ok(String::from_utf8_lossy(&output.stderr).into_owned())
    })?;
    assert!(said.contains("no room for new work: the disk of ") && said.contains(&data), "{said}");
    assert!(said.contains(" free, less than 64 mb (jobmanager.data-dir.min-free-space)"), "{said}");
    assert!(said.contains("hint: make room there"), "{said}");

    assert_eq!(cluster.job_state(&job)?, "RUNNING");
    cluster.run_cli(&["cancel", &job.job])?;
    cluster.wait_state(&job, "CANCELED", LIMIT)?;
    fs::remove_file(ballast)?;
    let next = wait_for("a job to be accepted", LIMIT, || cluster.submit("trivial", 1, &[]))?;
    cluster.wait_state(&next, "FINISHED", LIMIT)?;
    cluster.check_alive()
}

/// A disk that is full to the last byte: the process ends and says why; started with room, it has every job it accepted.
#[test]
fn a_full_disk_ends_the_process_and_loses_nothing() -> Result<()> {
    let Some(disk) = SmallDisk::mount("full", megabytes_for_the_artifact(40)?)? else { return Ok(()) };
    let data = disk.0.join("data").display().to_string();
    let config = cluster().taskmanagers(0, 1).config("jobmanager.data-dir", &data);
    let mut cluster = config.config("jobmanager.data-dir.min-free-space", "0").prepare()?;
    cluster.start_jobmanager(0)?;
    cluster.wait_ready()?;
    let mut accepted: Vec<Submission> = vec![cluster.submit("trivial", 1, &[])?];
    let ballast = disk.fill(16 << 10)?;
    let artifact = cluster.binary().display().to_string();
    let status = wait_for("the process to end", LIMIT, || {
        let output =
            cluster.cli(&["run", "-d", "-D", "client.timeout=3s", "--job-classname", "trivial", &artifact]).output()?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        if let Some((_, id)) = said.split_once("JobID ").filter(|_| output.status.success()) {
            accepted.push(Submission { job: id.split_whitespace().next().unwrap_or_default().to_owned() });
        }
        cluster.jobmanager(0)?.wait(Duration::ZERO)
    })?;
    assert_eq!(status.code(), Some(1), "{status}");
    let log = cluster.jobmanager(0)?.log();
    assert!(log.contains("No space left on device"), "{log}");
    assert!(log.lines().any(|line| line.starts_with("error: ") && line.contains("has failed")), "{log}");

    fs::remove_file(ballast)?;
    cluster.start_jobmanager(0)?;
    cluster.wait_ready()?;
    for job in &accepted {
        cluster.job_state(job).with_context(|| format!("of {} accepted jobs", accepted.len()))?;
    }
    cluster.submit("trivial", 1, &[]).map(drop)
}
