//! `ha.yml`: its JobManagers are killed, cut off and restarted, and the job does not notice.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use perennial_tests::{MemberView, Placed, Report, placed_in, verify_exactly_once};
use serde_json::Value;

use super::LIMIT;
use super::engine::{Container, Project};
use super::image::deploy;
use crate::interrupt::wait_for;
use crate::scene::ms;

/// `up` to the first record that is visible outside.
const FIRST_RECORD_MAX: Duration = Duration::from_secs(10);

/// Resident memory of all processes of an idle JobManager's container.
const IDLE_KIB_MAX: u64 = 40 * 1024;

/// Different keys of the job.
const KEYS: u64 = 500;

/// Lines of output after which the job is taken to go on.
const MORE_LINES: u64 = 5_000;

/// The JobManagers of `ha.yml`, in the order of their numbers.
const JOBMANAGERS: [&str; 3] = ["jm-1", "jm-2", "jm-3"];

/// Slots of all TaskManagers of `ha.yml`.
const PARALLELISM: &str = "4";

/// The cluster of `ha.yml` with its job.
struct Cluster {
    project: Project,
    /// Asks the others: it has no fault.
    observer: Container,
    job: String,
    before: Vec<Placed>,
}

pub(crate) fn run(image: &str, scratch: &Path, report: &mut Report) -> Result<()> {
    let project = Project::new("perennial-ha", deploy().join("compose/ha.yml"), image);
    let start = Instant::now();
    project.compose(&["up", "-d"])?;
    report.information("ha.yml: `up -d` returns", ms(start.elapsed()));
    let mut cluster =
        Cluster { observer: project.container("taskmanager")?, project, job: String::new(), before: Vec::new() };
    cluster.submit()?;
    report.information("ha.yml: `up` to the job's submission from inside a container", ms(start.elapsed()));
    wait_for("the first record", LIMIT, || {
        let lines = cluster.lines()?;
        ensure!(lines > 0, "there is none");
        Ok(())
    })?;
    let bar = format!("≤ {}", ms(FIRST_RECORD_MAX));
    let first = start.elapsed();
    report.row("ha.yml: `up` to the first record in a finished file", bar, ms(first), first <= FIRST_RECORD_MAX);
    cluster.wait_whole()?;
    cluster.before = placed_in(&cluster.rest(&format!("/v1/jobs/{}", cluster.job))?)?;
    cluster.wait_healthy()?;
    report.information("ha.yml: `up` to all health checks passed", ms(start.elapsed()));

    let (leader, _) = cluster.leader(&JOBMANAGERS)?;
    let fault = Instant::now();
    cluster.project.container(leader)?.docker(&["kill"])?;
    cluster.check_fault(report, "docker kill of the leader", leader, fault)?;
    cluster.project.container(leader)?.docker(&["start"])?;
    cluster.wait_whole()?;

    let (leader, _) = cluster.leader(&JOBMANAGERS)?;
    let (container, network) = (cluster.project.container(leader)?, cluster.project.network());
    let fault = Instant::now();
    container.docker(&["network", "disconnect", &network])?;
    cluster.check_fault(report, "docker network disconnect of the leader", leader, fault)?;
    container.docker(&["network", "connect", "--alias", leader, &network])?;
    cluster.wait_whole()?;

    for name in JOBMANAGERS {
        let container = cluster.project.container(name)?;
        let fault = Instant::now();
        container.docker(&["stop", "--time", "30"])?;
        let (code, stopped) = (container.inspect("{{.State.ExitCode}}")?, fault.elapsed());
        report.row(
            format!("rolling restart: {name} stopped, exit code"),
            "0",
            format!("{code} after {}", ms(stopped)),
            code == "0",
        );
        container.docker(&["start"])?;
        cluster.wait_whole()?;
    }
    cluster.check_untouched(report, "rolling restart of all JobManagers")?;
    cluster.judge(report, scratch)?;
    cluster.check_idle(report)
}

impl Cluster {
    /// Submits the job from inside a container, once a JobManager accepts it. It runs until it is cancelled.
    fn submit(&mut self) -> Result<()> {
        let keys = KEYS.to_string();
        let line = ["perennial", "run", "-d", "-p", PARALLELISM, "-D", "execution.checkpointing.interval=500ms"];
        let artifact = ["--job-classname", "exactly_once", "/opt/perennial/bin/perennial", "--"];
        let args = ["--keys", &keys, "--rate", "5000", "--out", "/shared/out"];
        let line: Vec<&str> = line.into_iter().chain(artifact).chain(args).collect();
        let submitter = self.project.container("jm-2")?;
        let output = wait_for("the job to be accepted", LIMIT, || submitter.exec(&line))?;
        let job = output.split_once("JobID ").and_then(|(_, rest)| rest.split_whitespace().next());
        self.job = job.with_context(|| format!("no JobID in: {output}"))?.to_owned();
        Ok(())
    }

    /// `GET` of a path at one JobManager, asked from inside the network.
    fn rest_of(&self, jobmanager: &str, path: &str) -> Result<Value> {
        let answer =
            self.observer.exec(&["timeout", "3", "wget", "-qO-", &format!("http://{jobmanager}:8081{path}")])?;
        serde_json::from_str(&answer).with_context(|| answer.clone())
    }

    /// The same at the first one that answers.
    fn rest(&self, path: &str) -> Result<Value> {
        let mut last = anyhow::anyhow!("there is no jobmanager");
        for jobmanager in JOBMANAGERS {
            match self.rest_of(jobmanager, path) {
                Ok(answer) => return Ok(answer),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    fn view(&self, jobmanager: &str) -> Result<MemberView> {
        MemberView::read(&self.rest_of(jobmanager, "/v1/cluster/members")?)
    }

    /// Who says of itself that it leads, in the highest epoch, and that epoch.
    fn leader(&self, asked: &[&'static str]) -> Result<(&'static str, u64)> {
        wait_for("a leader", LIMIT, || {
            let views = asked.iter().filter_map(|name| {
                let view = self.view(name).ok()?;
                (view.leader.and_then(|leader| JOBMANAGERS.get(leader)) == Some(name)).then_some((*name, view.epoch))
            });
            views.max_by_key(|(_, epoch)| *epoch).context("none of them says that it leads")
        })
    }

    /// Waits until all JobManagers agree who leads, and it knows both TaskManagers.
    fn wait_whole(&self) -> Result<()> {
        wait_for("all JobManagers to agree", LIMIT, || {
            let views = JOBMANAGERS.iter().map(|name| self.view(name)).collect::<Result<Vec<_>>>()?;
            ensure!(views.iter().all(|view| view.leader.is_some() && Some(view) == views.first()), "{views:?}");
            let known = self.rest("/v1/taskmanagers")?;
            let known = known.get("taskmanagers").and_then(Value::as_array).map_or(0, Vec::len);
            ensure!(known == 2, "{known} TaskManagers");
            Ok(())
        })
    }

    fn wait_healthy(&self) -> Result<()> {
        let containers = JOBMANAGERS.iter().map(|name| self.project.container(name)).collect::<Result<Vec<_>>>()?;
        wait_for("the health checks to pass", LIMIT, || {
            for container in &containers {
                let health = container.inspect("{{.State.Health.Status}}")?;
                ensure!(health == "healthy", "{health}");
            }
            Ok(())
        })
    }

    /// Lines in finished files so far.
    fn lines(&self) -> Result<u64> {
        let count = self.observer.exec(&["sh", "-c", "cat /shared/out/* 2>/dev/null | wc -l"])?;
        Ok(count.trim().parse()?)
    }

    /// Waits until more output is finished, which takes a checkpoint under the leader of now.
    fn wait_output(&self) -> Result<()> {
        let before = self.lines()?;
        wait_for("more output to be finished", LIMIT, || {
            let lines = self.lines()?;
            ensure!(lines >= before + MORE_LINES, "{} lines more", lines - before);
            Ok(())
        })
    }

    /// A leader is away since `since`: another one leads, and the job did not notice.
    fn check_fault(&self, report: &mut Report, fault: &str, away: &str, since: Instant) -> Result<()> {
        let others: Vec<&str> = JOBMANAGERS.into_iter().filter(|name| *name != away).collect();
        self.leader(&others)?;
        report.information(format!("{fault}: another is seen to lead"), ms(since.elapsed()));
        self.check_untouched(report, fault)
    }

    /// The output goes on, and no task was started again.
    fn check_untouched(&self, report: &mut Report, fault: &str) -> Result<()> {
        self.wait_output()?;
        let job = self.rest(&format!("/v1/jobs/{}", self.job))?;
        let restarts = job.get("restarts").and_then(Value::as_u64).context("a job counts its restarts")?;
        report.row(format!("{fault}: restarts of the job"), "0", restarts.to_string(), restarts == 0);
        let same = placed_in(&job)? == self.before;
        let seen = if same { "the same" } else { "others" };
        report.row(format!("{fault}: tasks that run"), "the same", seen, same);
        Ok(())
    }

    /// Cancels the job and judges what it has finished.
    fn judge(&self, report: &mut Report, scratch: &Path) -> Result<()> {
        self.observer.exec(&["perennial", "cancel", &self.job])?;
        wait_for("the job to be cancelled", LIMIT, || {
            let job = self.rest(&format!("/v1/jobs/{}", self.job))?;
            let state = job.get("state").and_then(Value::as_str).unwrap_or_default();
            ensure!(state == "CANCELED", "it is {state}");
            Ok(())
        })?;
        let out = scratch.join("out");
        self.observer.copy_out("/shared/out", &out)?;
        let (seen, exact) = match verify_exactly_once(&out) {
            Ok(counted) => {
                let (records, keys) = (counted.indices.len(), counted.keys.len() as u64);
                (format!("{records} records of {keys} keys, each once"), keys == KEYS)
            }
            Err(error) => (format!("{error:#}"), false),
        };
        report.row("output after all of it", "exact", seen, exact);
        Ok(())
    }

    /// Memory of JobManagers that have nothing to do and have just started.
    fn check_idle(&self, report: &mut Report) -> Result<()> {
        for name in JOBMANAGERS {
            self.project.container(name)?.docker(&["restart"])?;
        }
        self.wait_whole()?;
        let mut kib = Vec::new();
        for name in JOBMANAGERS {
            // Health checks come and go beside them.
            let script = "for pid in 1 $(cat /proc/1/task/1/children); do grep VmRSS /proc/$pid/status; done";
            let status = self.project.container(name)?.exec(&["sh", "-c", script])?;
            let resident = status.lines().filter_map(|line| line.strip_prefix("VmRSS:")?.split_whitespace().next());
            kib.push(resident.map(|kib| kib.parse::<u64>()).sum::<Result<u64, _>>()?);
        }
        let most = kib.into_iter().max().unwrap_or_default();
        let mb = |kib: u64| format!("{:.1} MiB", kib as f64 / 1024.0);
        let what = "idle JobManager: resident memory of all processes in its container, the most of three";
        report.row(what, format!("≤ {}", mb(IDLE_KIB_MAX)), mb(most), most > 0 && most <= IDLE_KIB_MAX);
        Ok(())
    }
}
