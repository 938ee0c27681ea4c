//! The processes of the demonstration.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context;
use perennial_client::{Client, ClusterStatus, DispatcherGateway};
use rustix::process::{Pid, Signal, kill_process};

use crate::command::PARENT_VARIABLE;
use crate::failure::{Exit, Failure};
use crate::output;

/// Slots of each TaskManager: the job takes one, and there is room for another.
const SLOTS: u32 = 2;

/// How long the cluster may take to be ready.
const READY_LIMIT: Duration = Duration::from_secs(30);

/// How often it is asked whether it is.
const READY_POLL: Duration = Duration::from_millis(20);

/// Time a process has to end by itself.
const STOP_LIMIT: Duration = Duration::from_secs(8);

/// Lines of each log that are shown after a failure.
const LOG_LINES: usize = 5;

/// Without a TaskManager for so long executors end by themselves, should the demonstration be killed.
const ORPHAN_TIMEOUT: &str = "executor.orphan-timeout=10 s";

/// Variables that would change what the processes do.
const VARIABLES: [&str; 5] = [
    "FLINK_PROPERTIES",
    "JOB_MANAGER_RPC_ADDRESS",
    "TASK_MANAGER_NUMBER_OF_TASK_SLOTS",
    "PERENNIAL_CONFIG",
    "PERENNIAL_CONF_DIR",
];

/// Real processes. Dropped, it ends them all.
pub(crate) struct Cluster {
    jobmanagers: Vec<Process>,
    taskmanagers: Vec<Process>,
}

struct Process {
    name: String,
    role: &'static str,
    /// Its own directory.
    home: PathBuf,
    options: Vec<String>,
    child: Child,
    log: PathBuf,
    /// Ports of a JobManager: RPC and REST.
    ports: Option<(u16, u16)>,
    /// It has ended and the user has been told.
    told: bool,
}

impl Cluster {
    /// Starts all processes, each with a directory below `dir`. Those already started end if one cannot be.
    pub(crate) fn start(dir: &Path, jobmanagers: u16, taskmanagers: u16) -> Result<Self, Failure> {
        let ports = free_ports(2 * usize::from(jobmanagers)).context("cannot find free ports")?;
        let pairs: Vec<(u16, u16)> =
            ports.chunks_exact(2).filter_map(|pair| pair.first().copied().zip(pair.last().copied())).collect();
        let peers: Vec<String> =
            (1..).zip(&pairs).map(|(number, (rpc, _))| format!("jm-{number}=127.0.0.1:{rpc}")).collect();
        let peers = format!("jobmanager.raft.peers={}", peers.join(","));
        let mut cluster = Self { jobmanagers: Vec::new(), taskmanagers: Vec::new() };
        for (number, (rpc, rest)) in (1..).zip(pairs) {
            let name = format!("jm-{number}");
            let options = vec![
                peers.clone(),
                format!("jobmanager.resource-id={name}"),
                format!("jobmanager.rpc.port={rpc}"),
                format!("rest.port={rest}"),
                "jobmanager.rpc.address=127.0.0.1".to_owned(),
                "jobmanager.bind-host=127.0.0.1".to_owned(),
                "rest.bind-address=127.0.0.1".to_owned(),
            ];
            cluster.jobmanagers.push(Process::start("jobmanager", &name, dir, options, Some((rpc, rest)))?);
        }
        for number in 1..=taskmanagers {
            let name = format!("tm-{number}");
            let options = vec![
                peers.clone(),
                ORPHAN_TIMEOUT.to_owned(),
                format!("taskmanager.resource-id={name}"),
                format!("taskmanager.numberOfTaskSlots={SLOTS}"),
                "taskmanager.host=127.0.0.1".to_owned(),
                "taskmanager.bind-host=127.0.0.1".to_owned(),
            ];
            cluster.taskmanagers.push(Process::start("taskmanager", &name, dir, options, None)?);
        }
        Ok(cluster)
    }

    fn processes(&mut self) -> impl Iterator<Item = &mut Process> {
        self.jobmanagers.iter_mut().chain(&mut self.taskmanagers)
    }

    /// Number of processes that were started.
    pub(crate) fn process_count(&self) -> usize {
        self.jobmanagers.len() + self.taskmanagers.len()
    }

    /// REST addresses of the JobManagers.
    pub(crate) fn endpoints(&self) -> Vec<String> {
        self.jobmanagers.iter().map(Process::rest).collect()
    }

    /// Number of TaskManagers.
    pub(crate) fn taskmanager_count(&self) -> usize {
        self.taskmanagers.len()
    }

    /// REST addresses of the JobManagers but one.
    pub(crate) fn endpoints_without(&self, name: &str) -> Vec<String> {
        self.jobmanagers.iter().filter(|process| process.name != name).map(Process::rest).collect()
    }

    /// REST address of a JobManager.
    pub(crate) fn endpoint(&self, name: &str) -> Result<String, Failure> {
        Ok(self.jobmanager(name)?.rest())
    }

    fn jobmanager(&self, name: &str) -> Result<&Process, Failure> {
        let found = self.jobmanagers.iter().find(|process| process.name == name);
        found.ok_or_else(|| anyhow::anyhow!("there is no JobManager {name}").into())
    }

    /// Kills a JobManager with SIGKILL and gives its pid. It is gone when this returns.
    pub(crate) fn kill(&mut self, name: &str) -> Result<u32, Failure> {
        let found = self.jobmanagers.iter_mut().find(|process| process.name == name);
        let process = found.ok_or_else(|| anyhow::anyhow!("there is no JobManager {name}"))?;
        // This end is no news.
        process.told = true;
        process.child.kill().and_then(|()| process.child.wait()).with_context(|| format!("cannot kill {name}"))?;
        Ok(process.child.id())
    }

    /// Starts a JobManager again that was killed, with its data.
    pub(crate) fn start_again(&mut self, name: &str) -> Result<(), Failure> {
        let found = self.jobmanagers.iter_mut().find(|process| process.name == name);
        let process = found.ok_or_else(|| anyhow::anyhow!("there is no JobManager {name}"))?;
        let started = Process::spawn(process.role, &process.home, &process.options, &process.log);
        process.child = started.with_context(|| format!("cannot start {name} again"))?;
        process.told = false;
        Ok(())
    }

    /// Pids of all executors.
    pub(crate) fn executors(&self) -> Vec<i32> {
        let mut pids: Vec<i32> = self
            .taskmanagers
            .iter()
            .flat_map(|process| children_of(process.child.id()))
            .map(|pid| pid.as_raw_nonzero().get())
            .collect();
        pids.sort_unstable();
        pids
    }

    /// REST address of the leader, else of the first JobManager.
    pub(crate) fn rest_of_leader(&self, status: &ClusterStatus) -> String {
        let leads = |process: &&Process| leader_name(status) == Some(process.name.as_str());
        self.jobmanagers.iter().find(leads).or(self.jobmanagers.first()).map(Process::rest).unwrap_or_default()
    }

    /// Waits until a leader knows every TaskManager.
    pub(crate) async fn wait_ready(&mut self, client: &Client) -> Result<ClusterStatus, Failure> {
        let deadline = Instant::now() + READY_LIMIT;
        loop {
            if let Some(ended) = self.newly_ended().into_iter().next() {
                return Err(Failure::new(Exit::Failed, anyhow::anyhow!("{ended}")));
            }
            let missing = match client.cluster_status().await {
                Err(error) => error.to_string(),
                Ok(status) if status.leader.is_none() => "no leader is elected".to_owned(),
                Ok(status) => match client.taskmanagers().await {
                    Ok(known) if known.len() == self.taskmanagers.len() => return Ok(status),
                    Ok(known) => format!("{} of {} TaskManagers are registered", known.len(), self.taskmanagers.len()),
                    Err(error) => error.to_string(),
                },
            };
            if Instant::now() > deadline {
                let text = format!("the cluster was not ready within {} s: {missing}", READY_LIMIT.as_secs());
                return Err(Failure::new(Exit::Unavailable, anyhow::anyhow!(text)));
            }
            tokio::time::sleep(READY_POLL).await;
        }
    }

    /// Who is who.
    pub(crate) fn table(&self, status: &ClusterStatus) -> String {
        let jobmanagers = self.jobmanagers.iter().map(|process| {
            let leads = leader_name(status) == Some(process.name.as_str());
            let rpc = process.ports.map_or_else(String::new, |(rpc, _)| format!("127.0.0.1:{rpc}"));
            let role = if leads { "JobManager, leads" } else { "JobManager" };
            [
                process.name.clone(),
                role.to_owned(),
                process.child.id().to_string(),
                rpc,
                format!("http://{}", process.rest()),
            ]
        });
        let taskmanagers = self.taskmanagers.iter().map(|process| {
            let role = format!("TaskManager, {SLOTS} slots");
            [process.name.clone(), role, process.child.id().to_string(), "-".to_owned(), "-".to_owned()]
        });
        output::table(["ID", "ROLE", "PID", "RPC", "REST"], jobmanagers.chain(taskmanagers))
    }

    /// A line for each process that has ended since the last call.
    pub(crate) fn newly_ended(&mut self) -> Vec<String> {
        let mut lines = Vec::new();
        for process in self.processes().filter(|process| !process.told) {
            if let Ok(Some(status)) = process.child.try_wait() {
                process.told = true;
                lines.push(format!("{} ended: {status}", process.name));
            }
        }
        lines
    }

    /// The end of every log.
    pub(crate) fn ends_of_logs(&self) -> String {
        let mut text = String::new();
        for process in self.jobmanagers.iter().chain(&self.taskmanagers) {
            let log = fs::read_to_string(&process.log).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            _ = writeln!(text, "--- {}", process.log.display());
            for line in lines.iter().skip(lines.len().saturating_sub(LOG_LINES)) {
                _ = writeln!(text, "{line}");
            }
        }
        text
    }
}

impl Drop for Cluster {
    /// TaskManagers first: they end their executors, which otherwise go on without them.
    fn drop(&mut self) {
        let executors: Vec<Pid> =
            self.taskmanagers.iter().flat_map(|process| children_of(process.child.id())).collect();
        let deadline = Instant::now() + STOP_LIMIT;
        for group in [&mut self.taskmanagers, &mut self.jobmanagers] {
            group.iter().for_each(Process::terminate);
            group.iter_mut().for_each(|process| process.reap(deadline));
        }
        for executor in executors.into_iter().filter(|pid| is_ours(*pid)) {
            _ = kill_process(executor, Signal::KILL);
        }
    }
}

impl Process {
    fn start(
        role: &'static str,
        name: &str,
        dir: &Path,
        options: Vec<String>,
        ports: Option<(u16, u16)>,
    ) -> Result<Self, Failure> {
        let home = dir.join(name);
        let log = home.join("log");
        let start = || {
            fs::create_dir_all(&home)?;
            Self::spawn(role, &home, &options, &log)
        };
        let child = start().with_context(|| format!("cannot start {role} {name}"))?;
        Ok(Self { name: name.to_owned(), role, home, options, child, log, ports, told: false })
    }

    fn spawn(role: &str, home: &Path, options: &[String], log: &Path) -> std::io::Result<Child> {
        let output = File::options().create(true).append(true).open(log)?;
        let mut command = Command::new(std::env::current_exe()?);
        command.arg(role).arg("-D").arg(format!("process.working-dir={}", home.display()));
        for option in options {
            command.arg("-D").arg(option);
        }
        for (variable, _) in std::env::vars_os() {
            let ours = variable.to_str().is_some_and(|it| it.starts_with("PERENNIAL__") || VARIABLES.contains(&it));
            if ours {
                command.env_remove(variable);
            }
        }
        command.env(PARENT_VARIABLE, std::process::id().to_string());
        // A group of its own: Ctrl-C reaches the demonstration, which ends its processes in order.
        command.current_dir(home).process_group(0);
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        command.spawn()
    }

    fn rest(&self) -> String {
        self.ports.map_or_else(String::new, |(_, rest)| format!("127.0.0.1:{rest}"))
    }

    fn terminate(&self) {
        // A child that has ended is a zombie until it is reaped below, so its pid cannot be somebody else's.
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            _ = kill_process(pid, Signal::TERM);
        }
    }

    /// Waits until it is gone, and kills it when its time is over.
    fn reap(&mut self, deadline: Instant) {
        while Instant::now() < deadline {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

/// Name of the leader in the peer list.
pub(crate) fn leader_name(status: &ClusterStatus) -> Option<&str> {
    let leader = status.members.iter().find(|member| Some(member.id) == status.leader);
    leader.map(|member| member.name.as_str())
}

/// Ports of 127.0.0.1 that were free a moment ago, all different.
fn free_ports(count: usize) -> std::io::Result<Vec<u16>> {
    let listeners = (0..count).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<std::io::Result<Vec<_>>>()?;
    listeners.iter().map(|listener| Ok(listener.local_addr()?.port())).collect()
}

/// Processes that a process has started: the executors of a TaskManager.
fn children_of(pid: u32) -> Vec<Pid> {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    let lists = tasks.flatten().map(|task| fs::read_to_string(task.path().join("children")).unwrap_or_default());
    let pids: Vec<i32> =
        lists.flat_map(|list| list.split_whitespace().flat_map(str::parse).collect::<Vec<_>>()).collect();
    pids.into_iter().filter_map(Pid::from_raw).collect()
}

/// Whether a pid is still that of an executor: meanwhile it could have been given to another process.
fn is_ours(pid: Pid) -> bool {
    let line = fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero())).unwrap_or_default();
    line.split(|byte| *byte == 0).nth(1) == Some(b"exec")
}
