//! A group of [`node`](crate::node) processes, and how they are talked to.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use perennial_tests::Process;

use crate::interrupt::wait_for;

/// Time for anything that takes milliseconds on a quiet machine.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// Time an answer has: more than the store takes to give up a write.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// Ports below those the system gives to outgoing connections, which could take the port of a member that is down.
const PORTS: std::ops::Range<u16> = 20_000..32_000;

/// Members, their directories and their ports. Dropped, it ends them.
pub(crate) struct Group {
    program: PathBuf,
    logs: PathBuf,
    dirs: Vec<PathBuf>,
    peers: Vec<SocketAddr>,
    lines: Vec<SocketAddr>,
    members: Vec<Option<Process>>,
}

impl Group {
    /// A group of this program's `node`s with these directories; none of them runs. Logs go to `logs`.
    pub(crate) fn new(dirs: Vec<PathBuf>, logs: &Path) -> Result<Self> {
        let mut ports = free_ports(2 * dirs.len())?;
        let lines = ports.split_off(dirs.len());
        Ok(Self {
            program: std::env::current_exe()?,
            logs: logs.to_owned(),
            members: dirs.iter().map(|_| None).collect(),
            dirs,
            peers: ports,
            lines,
        })
    }

    /// Numbers of all members.
    pub(crate) fn all(&self) -> std::ops::Range<usize> {
        0..self.dirs.len()
    }

    /// Where members take lines.
    pub(crate) fn addresses(&self) -> Vec<SocketAddr> {
        self.lines.clone()
    }

    /// Starts a member on what its directory holds.
    pub(crate) fn start(&mut self, n: usize) -> Result<()> {
        let name = format!("member-{}", n + 1);
        let (dir, lines) = (self.dirs.get(n), self.lines.get(n));
        let (dir, lines) = dir.zip(lines).with_context(|| format!("there is no {name}"))?;
        let peers: Vec<String> = self.peers.iter().map(SocketAddr::to_string).collect();
        let mut command = Command::new(&self.program);
        command.arg("node").arg("--dir").arg(dir).args(["--id", &(n + 1).to_string(), "--peers", &peers.join(",")]);
        command.args(["--listen", &lines.to_string()]).env("RUST_BACKTRACE", "0");
        let process = Process::start(&name, command, &self.logs.join(format!("{name}.log")))?;
        *self.members.get_mut(n).context("there are as many members as directories")? = Some(process);
        Ok(())
    }

    /// A member's process.
    pub(crate) fn process(&mut self, n: usize) -> Result<&mut Process> {
        let member = self.members.get_mut(n).and_then(Option::as_mut);
        member.with_context(|| format!("member-{} is not up", n + 1))
    }

    /// Fails with the end of the log of a member that has ended by itself.
    pub(crate) fn check_alive(&mut self) -> Result<()> {
        self.members.iter_mut().flatten().try_for_each(Process::check_alive)
    }

    /// The member that serves and its epoch, if one says so.
    pub(crate) fn leader(&self) -> Option<(usize, u64)> {
        let states = self.lines.iter().map(|address| ask(*address, "state").ok());
        let serving = states.enumerate().filter_map(|(n, state)| {
            let (epoch, role) = state.as_deref()?.split_once(' ')?;
            (role == "serving").then_some((n, epoch.parse().ok()?))
        });
        serving.max_by_key(|(_, epoch)| *epoch)
    }

    /// Waits until a member serves.
    pub(crate) fn wait_leader(&mut self) -> Result<(usize, u64)> {
        wait_for("a member to serve", LIMIT, || {
            self.check_alive()?;
            self.leader().context("nobody does")
        })
    }

    /// Whether a record is there, asked of whoever serves.
    pub(crate) fn read(&mut self, number: u64) -> Result<bool> {
        wait_for(&format!("record {number} to be read"), LIMIT, || {
            self.check_alive()?;
            let (leader, _) = self.leader().context("nobody serves")?;
            let address = self.lines.get(leader).context("a leader is a member")?;
            match ask(*address, &format!("read {number}"))?.as_str() {
                "yes" => Ok(true),
                "absent" => Ok(false),
                other => bail!("{other}"),
            }
        })
    }

    /// Everything a member has applied, as ranges.
    pub(crate) fn dump(&self, n: usize) -> Result<Ranges> {
        let answer = ask(*self.lines.get(n).context("there is no such member")?, "dump")?;
        let ranges = answer.strip_prefix("have").with_context(|| answer.clone())?;
        let range = |text: &str| -> Option<(u64, u64)> {
            let (from, to) = text.split_once('-')?;
            Some((from.parse().ok()?, to.parse().ok()?))
        };
        let parsed: Option<Vec<(u64, u64)>> = ranges.split_whitespace().map(range).collect();
        parsed.map(Ranges).with_context(|| format!("no ranges: {answer}"))
    }
}

/// Numbers as ascending ranges, both ends inside.
#[derive(PartialEq)]
pub(crate) struct Ranges(Vec<(u64, u64)>);

impl Ranges {
    /// Whether a number is inside.
    pub(crate) fn contain(&self, number: u64) -> bool {
        let after = self.0.partition_point(|(from, _)| *from <= number);
        after.checked_sub(1).and_then(|at| self.0.get(at)).is_some_and(|(_, to)| number <= *to)
    }

    /// How many numbers there are.
    pub(crate) fn count(&self) -> u64 {
        self.0.iter().map(|(from, to)| to - from + 1).sum()
    }
}

/// A connection to a member.
pub(crate) struct Client {
    stream: BufReader<TcpStream>,
}

impl Client {
    /// Connects to where a member takes lines.
    pub(crate) fn connect(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect_timeout(&address, ANSWER_LIMIT)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(ANSWER_LIMIT))?;
        Ok(Self { stream: BufReader::new(stream) })
    }

    /// Sends a line and waits for its answer.
    pub(crate) fn ask(&mut self, line: &str) -> Result<String> {
        self.stream.get_mut().write_all(format!("{line}\n").as_bytes())?;
        let mut answer = String::new();
        self.stream.read_line(&mut answer)?;
        ensure!(answer.ends_with('\n'), "the connection was closed");
        Ok(answer.trim_end().to_owned())
    }
}

fn ask(address: SocketAddr, line: &str) -> Result<String> {
    Client::connect(address)?.ask(line)
}

/// Ports of 127.0.0.1 nobody listens on now, different ones for runs side by side.
fn free_ports(count: usize) -> Result<Vec<SocketAddr>> {
    let from = PORTS.start + (std::process::id() % u32::from(PORTS.end - PORTS.start)) as u16;
    let candidates = (from..PORTS.end).chain(PORTS.start..from).map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
    let free: Vec<SocketAddr> = candidates.filter(|address| TcpListener::bind(address).is_ok()).take(count).collect();
    ensure!(free.len() == count, "no {count} free ports in {PORTS:?}");
    Ok(free)
}
