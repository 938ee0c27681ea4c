//! Measures how long a group of three has no leader when the leader's process is killed with SIGKILL, by phases.
//!
//! `cargo run --release -p perennial-meta --example failover_latency [-- KILLS [BUSY_THREADS]]`
//!
//! The members are processes of this program. It kills the leader, asks both survivors to write, and takes the time to the
//! first write that is acknowledged; then it starts the killed member again. Times are as this program reads them from the
//! members' pipes. It fails when a write that was acknowledged is lost.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a measurement that fails may panic")]

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command as Process, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use perennial_meta::{Command, LeadershipView, MetaConfig, MetaStore, Peer};
use perennial_types::{ArtifactDigest, JobManagerId};

/// Time a phase has; far more than it takes.
const PATIENCE: Duration = Duration::from_secs(20);

/// Time between a group that is whole and the next kill.
const QUIET: Duration = Duration::from_millis(300);

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.first().map(String::as_str) {
        Some("member") => member(&args[1..]),
        kills => {
            let kills = kills.map_or(20, |text| text.parse().unwrap());
            let busy = args.get(1).map_or(0, |text| text.parse().unwrap());
            drive(kills, busy);
        }
    }
}

/// One member: prints what it sees, and writes what it is told once it leads.
#[tokio::main(worker_threads = 2)]
async fn member(args: &[String]) {
    if std::env::var_os("RUST_LOG").is_some() {
        let filter = tracing_subscriber::EnvFilter::from_default_env();
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    }
    let this: u64 = args[0].parse().unwrap();
    let peers = (1..).zip(&args[2..]).map(|(id, address)| Peer {
        id: JobManagerId(id),
        name: format!("jm-{id}"),
        address: address.clone(),
    });
    let peers: Vec<Peer> = peers.collect();
    let Peer { name, address, .. } = peers[this as usize - 1].clone();
    let listener = tokio::net::TcpListener::bind(&address).await.unwrap();
    let config = MetaConfig {
        data_dir: Path::new(&args[1]).to_owned(),
        name,
        address,
        peers,
        join: false,
        heartbeat_interval: Duration::from_millis(50),
        election_timeout_min: Duration::from_millis(150),
        election_timeout_max: Duration::from_millis(300),
        snapshot_entries: 10_000,
        log_entries_kept: 50_000,
    };
    let store = MetaStore::open(config).await.unwrap();
    let incoming = tonic::transport::server::TcpIncoming::from(listener).with_nodelay(Some(true));
    tokio::spawn(tonic::transport::Server::builder().add_service(store.raft_service()).serve_with_incoming(incoming));
    let mut leadership = store.leadership();
    tokio::spawn(async move {
        loop {
            let LeadershipView { epoch, leader, serving } = leadership.borrow_and_update().clone();
            println!("view {} {} {}", epoch.0, leader.map_or(0, |leader| leader.id.0), u8::from(serving.is_some()));
            leadership.changed().await.unwrap();
        }
    });
    let (sender, mut numbers) = tokio::sync::watch::channel(0);
    std::thread::spawn(move || {
        for line in std::io::stdin().lines() {
            sender.send(line.unwrap().parse::<u64>().unwrap()).unwrap();
        }
    });
    while numbers.changed().await.is_ok() {
        let mut number;
        let mut leadership = store.leadership();
        loop {
            tokio::select! {
                serving = leadership.wait_for(|view| view.serving.is_some()) => drop(serving.unwrap()),
                newer = numbers.changed() => newer.unwrap(),
            }
            // Only the newest: an older one was written by another leader.
            number = *numbers.borrow_and_update();
            if leadership.borrow().serving.is_some() && store.write(artifact(number)).await.is_ok() {
                break;
            }
        }
        let cause = store.beginning().map(|beginning| beginning.cause);
        println!("written {number} {cause:?}");
        let lost = (1..=number).filter(|number| store.state().artifact(digest(*number)).unwrap().is_none()).count();
        println!("lost {lost}");
    }
}

fn digest(number: u64) -> ArtifactDigest {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&number.to_be_bytes());
    ArtifactDigest::from_bytes(bytes)
}

fn artifact(number: u64) -> Command {
    Command::AddArtifact { digest: digest(number), name: "x".repeat(180), size: number, holders: vec![JobManagerId(1)] }
}

/// A line of a member.
struct Line {
    member: usize,
    at: Instant,
    words: Vec<String>,
}

/// What a member said of the leadership last.
#[derive(Clone, Copy, Default, PartialEq)]
struct View {
    epoch: u64,
    leader: u64,
    serving: bool,
}

struct Group {
    root: tempfile::TempDir,
    addresses: Vec<String>,
    members: Vec<Option<(Child, ChildStdin)>>,
    views: Vec<View>,
    sender: mpsc::Sender<Line>,
    lines: mpsc::Receiver<Line>,
}

impl Group {
    fn new() -> Self {
        let free: Vec<_> = (0..3).map(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let addresses = free.iter().map(|listener| listener.local_addr().unwrap().to_string()).collect();
        let (sender, lines) = mpsc::channel();
        let members = vec![None, None, None];
        Self { root: tempfile::tempdir().unwrap(), addresses, members, views: vec![View::default(); 3], sender, lines }
    }

    fn start(&mut self, n: usize) {
        let mut member = Process::new(std::env::current_exe().unwrap())
            .arg("member")
            .arg((n + 1).to_string())
            .arg(self.root.path().join(n.to_string()))
            .args(&self.addresses)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (stdin, stdout, sender) =
            (member.stdin.take().unwrap(), member.stdout.take().unwrap(), self.sender.clone());
        self.views[n] = View::default();
        self.members[n] = Some((member, stdin));
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines() {
                let (at, Ok(line)) = (Instant::now(), line) else { return };
                let words = line.split_whitespace().map(str::to_owned).collect();
                if sender.send(Line { member: n, at, words }).is_err() {
                    return;
                }
            }
        });
    }

    fn next(&mut self) -> Line {
        let line = self.lines.recv_timeout(PATIENCE).expect("a member says something in time");
        assert!(line.words[0] != "lost" || line.words[1] == "0", "acknowledged writes are lost: {:?}", line.words);
        if line.words[0] == "view" {
            let number = |at: usize| line.words[at].parse::<u64>().unwrap();
            self.views[line.member] = View { epoch: number(1), leader: number(2), serving: number(3) == 1 };
        }
        line
    }

    /// The leader, once all members follow it and it serves.
    fn settled(&mut self) -> usize {
        loop {
            let View { epoch, leader, .. } = self.views[0];
            let agreed = self.views.iter().all(|view| view.epoch == epoch && view.leader == leader);
            if leader > 0 && agreed && self.views[leader as usize - 1].serving {
                return leader as usize - 1;
            }
            self.next();
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        for (member, _) in self.members.iter_mut().flatten() {
            _ = member.kill();
            _ = member.wait();
        }
    }
}

fn drive(kills: u64, busy: usize) {
    for _ in 0..busy {
        std::thread::spawn(|| {
            loop {
                std::hint::spin_loop();
            }
        });
    }
    let mut group = Group::new();
    (0..3).for_each(|n| group.start(n));
    let phases = ["death seen by one", "by both", "elected", "serving", "write acknowledged"];
    let mut times: Vec<Vec<Duration>> = vec![Vec::new(); phases.len()];
    let (mut terms, mut causes) = (0, std::collections::BTreeMap::<String, u64>::new());
    for kill in 1..=kills {
        let leader = group.settled();
        std::thread::sleep(QUIET);
        while let Ok(line) = group.lines.try_recv() {
            assert!(line.words[0] != "view", "an election nobody asked for: {:?}", line.words);
        }
        let epoch = group.views[leader].epoch;
        let (mut killed, stdin) = group.members[leader].take().unwrap();
        let start = Instant::now();
        killed.kill().unwrap();
        for (_, stdin) in group.members.iter_mut().flatten() {
            writeln!(stdin, "{kill}").unwrap();
        }
        let mut reached: Vec<Option<Duration>> = vec![None; phases.len()];
        while reached[4].is_none() {
            let line = group.next();
            let (view, elapsed) = (group.views[line.member], line.at - start);
            let mut reach = |phase: usize| {
                reached[phase].get_or_insert(elapsed);
            };
            match line.words[0].as_str() {
                _ if line.member == leader => {}
                "view" if view.epoch == epoch && view.leader == 0 => {
                    let phase = usize::from(reached[0].is_some());
                    reached[phase].get_or_insert(elapsed);
                }
                "view" if view.epoch > epoch && view.leader > 0 => {
                    reach(2);
                    if view.serving {
                        reach(3);
                    }
                }
                "written" if line.words[1] == kill.to_string() => {
                    *causes.entry(line.words[2].clone()).or_default() += 1;
                    reach(4);
                }
                _ => {}
            }
        }
        for (times, reached) in times.iter_mut().zip(reached) {
            times.extend(reached);
        }
        drop(stdin);
        killed.wait().unwrap();
        group.start(leader);
        let next = group.settled();
        terms += group.views[next].epoch - epoch;
    }
    println!("{kills} kills, {busy} busy threads, {terms} terms, causes {causes:?}; milliseconds since the kill:");
    println!("{:<20} {:>5} {:>8} {:>8} {:>8} {:>8} {:>8}", "", "seen", "min", "p50", "p90", "p99", "max");
    for (phase, mut times) in phases.iter().zip(times) {
        times.sort();
        let at = |share: f64| {
            let time = times.get((times.len().saturating_sub(1) as f64 * share).round() as usize);
            time.map_or(f64::NAN, |time| time.as_secs_f64() * 1e3)
        };
        let row = [0.0, 0.5, 0.9, 0.99, 1.0].map(|share| format!("{:>8.1}", at(share))).join(" ");
        println!("{phase:<20} {:>5} {row}", times.len());
    }
}
