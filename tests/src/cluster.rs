//! A cluster of real processes in one directory.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::{Process, Proxy, wait_for};

/// Longest wait for a cluster to be ready, on a busy machine.
const START_LIMIT: Duration = Duration::from_secs(30);
/// Longest wait for one REST answer.
const REST_LIMIT: Duration = Duration::from_secs(5);

/// The `perennial` binary a program measures: the one named, else the one beside the program.
pub fn binary_under_test(named: Option<PathBuf>) -> Result<PathBuf> {
    let binary = match named {
        Some(path) => path,
        None => std::env::current_exe()?.with_file_name("perennial"),
    };
    binary.canonicalize().with_context(|| {
        format!("{} does not exist; build it first: cargo build --release -p perennial-cli", binary.display())
    })
}

/// What a cluster is made of.
pub struct ClusterBuilder {
    binary: PathBuf,
    jobmanagers: usize,
    taskmanagers: usize,
    slots: u32,
    config: BTreeMap<String, String>,
    environment: Vec<(String, PathBuf)>,
    proxied: bool,
    application: Vec<String>,
}

impl ClusterBuilder {
    /// A cluster of one JobManager and one TaskManager with one slot, run from this `perennial` binary.
    pub fn new(binary: impl Into<PathBuf>) -> Self {
        Self {
            binary: binary.into(),
            jobmanagers: 1,
            taskmanagers: 1,
            slots: 1,
            config: BTreeMap::new(),
            environment: Vec::new(),
            proxied: false,
            application: Vec::new(),
        }
    }

    /// Number of JobManagers.
    pub fn jobmanagers(mut self, count: usize) -> Self {
        self.jobmanagers = count;
        self
    }

    /// Number of TaskManagers and the slots of each.
    pub fn taskmanagers(mut self, count: usize, slots: u32) -> Self {
        self.taskmanagers = count;
        self.slots = slots;
        self
    }

    /// An option for every process.
    pub fn config(mut self, key: &str, value: &str) -> Self {
        self.config.insert(key.to_owned(), value.to_owned());
        self
    }

    /// A variable in the environment of every process, whose value is a path.
    pub fn environment(mut self, name: &str, path: &Path) -> Self {
        self.environment.push((name.to_owned(), path.to_owned()));
        self
    }

    /// Puts a [`Proxy`] before the RPC ports, so that the network between the processes can be broken.
    pub fn proxied(mut self) -> Self {
        self.proxied = true;
        self
    }

    /// Makes it the cluster of one job: JobManagers are started as `standalone-job` with these words.
    pub fn application(mut self, words: &[&str]) -> Self {
        self.application = words.iter().map(|word| (*word).to_owned()).collect();
        self
    }

    /// Starts all processes and waits until every TaskManager is registered.
    pub fn start(self) -> Result<Cluster> {
        let mut cluster = self.prepare()?;
        for index in 0..cluster.jobmanagers.len() {
            cluster.start_jobmanager(index)?;
        }
        for index in 0..cluster.taskmanagers.len() {
            cluster.start_taskmanager(index)?;
        }
        cluster.wait_ready()?;
        Ok(cluster)
    }

    /// Makes the directory and picks the ports; starts nothing.
    pub fn prepare(self) -> Result<Cluster> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("perennial-test-{}-{number}", std::process::id()));
        fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
        let ports = free_ports(2 * self.jobmanagers)?;
        let (rpc_ports, rest_ports) = ports.split_at(self.jobmanagers);
        let named = rpc_ports.iter().enumerate().map(|(index, port)| (format!("jm-{}", index + 1), *port));
        let proxy = if self.proxied { Some(Proxy::start(&named.collect::<Vec<_>>())?) } else { None };
        Ok(Cluster {
            binary: self.binary,
            dir,
            rpc_ports: rpc_ports.to_vec(),
            rest_ports: rest_ports.to_vec(),
            slots: self.slots,
            config: self.config,
            environment: self.environment,
            jobmanagers: (0..self.jobmanagers).map(|_| None).collect(),
            taskmanagers: (0..self.taskmanagers).map(|_| None).collect(),
            keep: false,
            proxy,
            application: self.application,
        })
    }
}

/// Ports of 127.0.0.1 that were free a moment ago, all different.
pub fn free_ports(count: usize) -> Result<Vec<u16>> {
    let listeners = (0..count).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<std::io::Result<Vec<_>>>()?;
    listeners.iter().map(|listener| Ok(listener.local_addr()?.port())).collect()
}

/// Real processes in one directory. Dropped, it ends them all and removes the directory, unless the thread panics.
pub struct Cluster {
    binary: PathBuf,
    dir: PathBuf,
    rpc_ports: Vec<u16>,
    rest_ports: Vec<u16>,
    slots: u32,
    config: BTreeMap<String, String>,
    environment: Vec<(String, PathBuf)>,
    jobmanagers: Vec<Option<Process>>,
    taskmanagers: Vec<Option<Process>>,
    keep: bool,
    proxy: Option<Proxy>,
    application: Vec<String>,
}

impl Cluster {
    /// Directory with everything the processes write.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Leaves the directory when the cluster is dropped.
    pub fn keep(&mut self) {
        self.keep = true;
    }

    /// The binary every process runs, which is an artifact too: the sample jobs.
    pub fn binary(&self) -> &Path {
        &self.binary
    }

    /// REST addresses of all JobManagers, as `--endpoints` takes them.
    pub fn endpoints(&self) -> String {
        self.rest_ports.iter().map(|port| format!("127.0.0.1:{port}")).collect::<Vec<_>>().join(",")
    }

    /// RPC addresses of all JobManagers, where they really listen.
    pub fn rpc_addresses(&self) -> Vec<String> {
        self.rpc_ports.iter().map(|port| format!("127.0.0.1:{port}")).collect()
    }

    /// REST addresses of some JobManagers.
    pub fn endpoints_of(&self, jobmanagers: &[usize]) -> Result<String> {
        let all = jobmanagers.iter().map(|index| Ok(self.endpoint(*index)?.to_string()));
        Ok(all.collect::<Result<Vec<_>>>()?.join(","))
    }

    /// A JobManager's process; an error when it is not started.
    pub fn jobmanager(&mut self, index: usize) -> Result<&mut Process> {
        self.jobmanagers
            .get_mut(index)
            .and_then(Option::as_mut)
            .with_context(|| format!("jobmanager {index} is not up"))
    }

    /// A TaskManager's process; an error when it is not started.
    pub fn taskmanager(&mut self, index: usize) -> Result<&mut Process> {
        let process = self.taskmanagers.get_mut(index).and_then(Option::as_mut);
        process.with_context(|| format!("taskmanager {index} is not up"))
    }

    /// Every started process.
    pub fn processes(&self) -> impl Iterator<Item = &Process> {
        self.jobmanagers.iter().chain(&self.taskmanagers).flatten()
    }

    /// The command line of a role, without starting it.
    pub fn command(&self, role: &str, name: &str) -> Result<Command> {
        let home = self.dir.join(name);
        fs::create_dir_all(&home)?;
        let mut command = Command::new(&self.binary);
        command.current_dir(&home).envs(self.environment.iter().cloned()).arg(role);
        let peers: Vec<String> = (1..=self.rpc_ports.len())
            .zip(&self.rpc_ports)
            .map(|(number, port)| {
                let front = self.proxy.as_ref().and_then(|proxy| proxy.front(&format!("jm-{number}")));
                format!("jm-{number}=127.0.0.1:{}", front.unwrap_or(*port))
            })
            .collect();
        let mut options = vec![
            ("jobmanager.raft.peers".to_owned(), peers.join(",")),
            ("process.working-dir".to_owned(), home.display().to_string()),
            ("taskmanager.numberOfTaskSlots".to_owned(), self.slots.to_string()),
            ("taskmanager.resource-id".to_owned(), name.to_owned()),
            ("taskmanager.host".to_owned(), "127.0.0.1".to_owned()),
            ("jobmanager.resource-id".to_owned(), name.to_owned()),
        ];
        for key in ["jobmanager.bind-host", "taskmanager.bind-host", "rest.bind-address", "jobmanager.rpc.address"] {
            options.push((key.to_owned(), "127.0.0.1".to_owned()));
        }
        options.extend(self.config.clone());
        for (key, value) in options {
            command.arg("-D").arg(format!("{key}={value}"));
        }
        Ok(command)
    }

    /// Starts a JobManager on its ports and its data.
    pub fn start_jobmanager(&mut self, index: usize) -> Result<()> {
        self.start_jobmanager_with(index, &[], &[])
    }

    /// The same as a child of another program, such as `strace`, whose process then stands for it.
    pub fn start_jobmanager_under(&mut self, index: usize, wrapper: &[String]) -> Result<()> {
        self.start_jobmanager_with(index, &[], wrapper)
    }

    fn start_jobmanager_with(&mut self, index: usize, options: &[&str], wrapper: &[String]) -> Result<()> {
        let name = format!("jm-{}", index + 1);
        let role = if self.application.is_empty() { "jobmanager" } else { "standalone-job" };
        let mut command = self.command(role, &name)?;
        for (key, ports) in [("jobmanager.rpc.port", &self.rpc_ports), ("rest.port", &self.rest_ports)] {
            let port = ports.get(index).with_context(|| format!("there is no jobmanager {index}"))?;
            command.arg("-D").arg(format!("{key}={port}"));
        }
        for option in options {
            command.arg("-D").arg(option);
        }
        command.args(&self.application);
        let command = crate::wrap::wrapped(&command, wrapper).unwrap_or(command);
        let process = Process::start(&name, command, &self.dir.join(format!("{name}.log")))?;
        self.introduce(&process);
        *self.jobmanagers.get_mut(index).with_context(|| format!("there is no jobmanager {index}"))? = Some(process);
        Ok(())
    }

    /// Name and free ports of a JobManager that joins the group; it is not started. Gives its index.
    pub fn newcomer(&mut self) -> Result<usize> {
        let ports = free_ports(2)?;
        let (Some(rpc), Some(rest)) = (ports.first(), ports.last()) else { bail!("no free ports") };
        self.rpc_ports.push(*rpc);
        self.rest_ports.push(*rest);
        self.jobmanagers.push(None);
        Ok(self.jobmanagers.len() - 1)
    }

    /// Counts a JobManager that was killed no longer as one that should run.
    pub fn forget_jobmanager(&mut self, index: usize) -> Result<()> {
        *self.jobmanagers.get_mut(index).with_context(|| format!("there is no jobmanager {index}"))? = None;
        Ok(())
    }

    /// RPC address of a JobManager.
    pub fn rpc_address(&self, index: usize) -> Result<String> {
        let port = self.rpc_ports.get(index).with_context(|| format!("there is no jobmanager {index}"))?;
        Ok(format!("127.0.0.1:{port}"))
    }

    /// Starts a JobManager that joins the group, on its ports and its data.
    pub fn start_joining(&mut self, index: usize) -> Result<()> {
        self.start_jobmanager_with(index, &["jobmanager.raft.join=true"], &[])
    }

    /// Starts a TaskManager under its name.
    pub fn start_taskmanager(&mut self, index: usize) -> Result<()> {
        let name = format!("tm-{}", index + 1);
        let command = self.command("taskmanager", &name)?;
        let process = Process::start(&name, command, &self.dir.join(format!("{name}.log")))?;
        self.introduce(&process);
        *self.taskmanagers.get_mut(index).with_context(|| format!("there is no taskmanager {index}"))? = Some(process);
        Ok(())
    }

    /// Tells the proxy whose process this is.
    fn introduce(&self, process: &Process) {
        if let Some(proxy) = &self.proxy {
            proxy.know(process.pid(), process.name());
        }
    }

    /// The network between the processes; an error unless the cluster was built with one.
    pub fn proxy(&self) -> Result<&Proxy> {
        self.proxy.as_ref().context("this cluster has no proxy")
    }

    /// Number of JobManagers, started or not.
    pub fn jobmanager_count(&self) -> usize {
        self.jobmanagers.len()
    }

    /// Number of TaskManagers, started or not.
    pub fn taskmanager_count(&self) -> usize {
        self.taskmanagers.len()
    }

    /// Takes a JobManager's process out, to be killed or dropped: it counts as not started.
    pub fn take_jobmanager(&mut self, index: usize) -> Result<Process> {
        let process = self.jobmanagers.get_mut(index).and_then(Option::take);
        process.with_context(|| format!("jobmanager {index} is not up"))
    }

    /// Takes a TaskManager's process out. Dropping it ends its executors too, killing it does not.
    pub fn take_taskmanager(&mut self, index: usize) -> Result<Process> {
        let process = self.taskmanagers.get_mut(index).and_then(Option::take);
        process.with_context(|| format!("taskmanager {index} is not up"))
    }

    /// Waits until a leader serves and knows every started TaskManager.
    pub fn wait_ready(&mut self) -> Result<()> {
        let expect = self.taskmanagers.iter().flatten().count();
        wait_for(&format!("{expect} taskmanagers to be registered"), START_LIMIT, || {
            self.check_alive()?;
            let overview = self.rest("/v1/taskmanagers")?;
            let known = overview.get("taskmanagers").and_then(Value::as_array).map_or(0, Vec::len);
            ensure!(known >= expect, "{known} are");
            Ok(())
        })
    }

    /// Fails with the end of the log of a process that has ended by itself.
    pub fn check_alive(&mut self) -> Result<()> {
        for process in self.jobmanagers.iter_mut().chain(&mut self.taskmanagers).flatten() {
            process.check_alive()?;
        }
        Ok(())
    }

    /// `GET` of a path at the first JobManager that answers 200, as JSON.
    pub fn rest(&self, path: &str) -> Result<Value> {
        let mut last = anyhow::anyhow!("there is no jobmanager");
        for (port, _) in self.rest_ports.iter().zip(&self.jobmanagers).filter(|(_, process)| process.is_some()) {
            match http("GET", *port, path, REST_LIMIT) {
                Ok((200, body)) => {
                    return serde_json::from_str(&body).with_context(|| format!("{path} is not JSON: {body}"));
                }
                Ok((status, body)) => last = anyhow::anyhow!("{path} answers {status}: {body}"),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// `GET` of a path at one JobManager: status code and body.
    pub fn rest_of(&self, jobmanager: usize, path: &str) -> Result<(u16, String)> {
        self.request("GET", jobmanager, path, REST_LIMIT)
    }

    /// A request to one JobManager, answered within `limit`: status code and body.
    pub fn request(&self, method: &str, jobmanager: usize, path: &str, limit: Duration) -> Result<(u16, String)> {
        self.endpoint(jobmanager)?.request(method, path, limit)
    }

    /// The REST port of one JobManager, started or not.
    pub fn endpoint(&self, jobmanager: usize) -> Result<Endpoint> {
        Ok(Endpoint { port: *self.rest_ports.get(jobmanager).context("there is no such jobmanager")? })
    }

    /// A client command of the CLI against this cluster.
    pub fn cli(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        command.current_dir(&self.dir).env("PERENNIAL_ENDPOINTS", self.endpoints()).args(args);
        command
    }

    /// Runs a client command that must succeed, and gives what it printed.
    pub fn run_cli(&self, args: &[&str]) -> Result<String> {
        let output = self.cli(args).output()?;
        let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        if !output.status.success() {
            bail!("perennial {} ended with {}\n{stdout}{stderr}", args.join(" "), output.status);
        }
        Ok(stdout.into_owned())
    }

    /// Pids of all executors, in order: those below the TaskManagers, and those that have outlived theirs.
    pub fn executors(&self) -> Vec<u32> {
        let below = self.taskmanagers.iter().flatten().flat_map(|process| crate::descendants(process.pid()));
        let mut all: Vec<u32> = below.chain(crate::faults::recorded(&self.dir)).collect();
        all.sort_unstable();
        all.dedup();
        all
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let executors = self.executors();
        self.taskmanagers.clear();
        self.jobmanagers.clear();
        executors.into_iter().for_each(crate::faults::end);
        if std::thread::panicking() || self.keep {
            eprintln!("the cluster's directory is kept: {}", self.dir.display());
        } else {
            let _ = fs::remove_dir_all(&self.dir);
        }
    }
}

/// The REST port of one JobManager, for threads that outlive no cluster but hold none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Endpoint {
    port: u16,
}

impl Endpoint {
    /// A request, answered within `limit`: status code and body.
    pub fn request(&self, method: &str, path: &str, limit: Duration) -> Result<(u16, String)> {
        http(method, self.port, path, limit)
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "127.0.0.1:{}", self.port)
    }
}

/// A plain HTTP/1.1 request without a body: status code and body of the answer.
fn http(method: &str, port: u16, path: &str, limit: Duration) -> Result<(u16, String)> {
    let mut stream = TcpStream::connect_timeout(&([127, 0, 0, 1], port).into(), limit)?;
    stream.set_read_timeout(Some(limit))?;
    write!(stream, "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no HTTP answer")?;
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).context("no HTTP status")?;
    let chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
    Ok((status, if chunked { dechunk(body) } else { body.to_owned() }))
}

/// Joins the chunks of a chunked body.
fn dechunk(mut body: &str) -> String {
    let mut whole = String::new();
    while let Some((size, rest)) = body.split_once("\r\n") {
        let Ok(size) = usize::from_str_radix(size.trim(), 16) else { break };
        let Some((chunk, rest)) = rest.split_at_checked(size) else { break };
        whole.push_str(chunk);
        body = rest.trim_start_matches("\r\n");
    }
    whole
}
