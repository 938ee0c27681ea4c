//! A network between the processes of a cluster that can be broken, one direction at a time.
//!
//! ```text
//!   jm-1 ──┐                ┌── way jm-1 → jm-2 ──▶
//!   tm-1 ──┼──▶ front of jm-2                        jm-2
//!   jm-3 ──┘                └── way jm-2 → jm-1 ◀──
//! ```
//! Each JobManager has one front, and the front is the only address of it that anybody is told, the JobManager itself
//! included. A port for each pair of processes would be simpler, and would leak: a TaskManager dials the leader's address
//! as any JobManager names it, and so would leave its own port for one that belongs to another process. Who has dialled is
//! found out instead: the system says which process holds the other end of a local connection.
//!
//! A [`Flow`] belongs to the way from one process to another, whichever of the two has dialled. Bytes are never dropped:
//! a TCP stream with a hole in it is no fault that a network has. One-way loss is [`Flow::Hold`]: nothing passes, and
//! connections stay open, as with a network that has gone silent.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::{Semaphore, watch};

/// Bytes under way in one direction of a connection, besides the system's buffers.
const PIECE_BYTES: usize = 64 << 10;

/// Connections through all fronts at once. A cluster makes one for each pair of processes and a few more.
const CONNECTIONS_MAX: usize = 4096;

/// Time to find out who has dialled. A process may dial before the proxy was told its name.
const IDENTIFY_LIMIT: Duration = Duration::from_secs(2);

/// What happens to bytes on the way from one process to another.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Flow {
    /// They arrive.
    #[default]
    Pass,
    /// They wait, in order, until the way is open again. New connections are accepted and wait too.
    Hold,
    /// Each piece of at most 64 KB waits for so long.
    Delay(Duration),
    /// Connections are reset, and new ones at once.
    Cut,
}

/// What becomes of connections that were held, when the network is whole again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Held {
    /// What waited arrives: a short silence.
    Arrives,
    /// They are reset: TCP has given up, as after a long silence.
    IsReset,
}

/// One way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Way {
    flow: Flow,
    /// Connections from before the last reset end.
    resets: u64,
}

/// All ways that are, or were, not as they should be, by sender and receiver.
type Ways = BTreeMap<(String, String), Way>;

struct Shared {
    ways: watch::Sender<Ways>,
    /// Names of processes by pid.
    names: Mutex<BTreeMap<u32, String>>,
    /// Connections made so far, by who dialled and who was dialled.
    carried: Mutex<BTreeMap<(String, String), u64>>,
    places: Arc<Semaphore>,
}

/// A network between processes that can be broken, one way at a time. Dropped, it ends all connections.
pub struct Proxy {
    shared: Arc<Shared>,
    fronts: BTreeMap<String, u16>,
    /// Taken when the proxy is dropped.
    runtime: Option<Runtime>,
}

impl Proxy {
    /// Fronts for these processes, each with the port it listens on itself.
    pub fn start(targets: &[(String, u16)]) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("proxy")
            .enable_all()
            .build()
            .context("cannot start the proxy")?;
        let shared = Arc::new(Shared {
            ways: watch::Sender::new(Ways::new()),
            names: Mutex::default(),
            carried: Mutex::default(),
            places: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
        });
        let mut fronts = BTreeMap::new();
        for (name, port) in targets {
            let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0"))?;
            let front = listener.local_addr()?.port();
            fronts.insert(name.clone(), front);
            runtime.spawn(serve(listener, front, name.clone(), *port, shared.clone()));
        }
        Ok(Self { shared, fronts, runtime: Some(runtime) })
    }

    /// The port under which everybody knows a process.
    pub fn front(&self, name: &str) -> Option<u16> {
        self.fronts.get(name).copied()
    }

    /// Says whose process a pid is. Connections of processes without a name are refused.
    pub fn know(&self, pid: u32, name: &str) {
        let mut names = self.shared.names.lock().unwrap_or_else(PoisonError::into_inner);
        // A process that starts again under its name has another pid, and an old pid may be anybody's.
        names.retain(|_, known| known != name);
        names.insert(pid, name.to_owned());
    }

    /// Sets what happens to bytes from one process to another.
    pub fn set(&self, from: &str, to: &str, flow: Flow) {
        self.shared.ways.send_modify(|ways| ways.entry((from.to_owned(), to.to_owned())).or_default().flow = flow);
    }

    /// Sets what happens to bytes between two processes, both ways.
    pub fn between(&self, one: &str, other: &str, flow: Flow) {
        self.set(one, other, flow);
        self.set(other, one, flow);
    }

    /// Makes the network whole again.
    pub fn heal(&self, held: Held) {
        self.shared.ways.send_modify(|ways| {
            for way in ways.values_mut() {
                if way.flow == Flow::Hold && held == Held::IsReset {
                    way.resets += 1;
                }
                way.flow = Flow::Pass;
            }
        });
    }

    /// Connections that one process has made to another so far.
    pub fn carried(&self, from: &str, to: &str) -> u64 {
        let carried = self.shared.carried.lock().unwrap_or_else(PoisonError::into_inner);
        carried.get(&(from.to_owned(), to.to_owned())).copied().unwrap_or_default()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Accepts at one front.
async fn serve(listener: TcpListener, front: u16, target: String, port: u16, shared: Arc<Shared>) {
    loop {
        let Ok(place) = shared.places.clone().acquire_owned().await else { return };
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(_) => {
                tokio::time::sleep(Duration::from_millis(10)).await;
                continue;
            }
        };
        let (target, shared) = (target.clone(), shared.clone());
        tokio::spawn(async move {
            carry(stream, peer, front, target, port, &shared).await;
            drop(place);
        });
    }
}

/// One end of a connection as seen from one direction.
struct Direction {
    ways: watch::Receiver<Ways>,
    key: (String, String),
    /// Resets of the way when the connection began.
    resets: u64,
}

/// Why a connection is reset.
struct Reset;

impl From<io::Error> for Reset {
    fn from(_: io::Error) -> Self {
        Self
    }
}

impl Direction {
    fn new(shared: &Shared, from: &str, to: &str) -> Self {
        let key = (from.to_owned(), to.to_owned());
        let ways = shared.ways.subscribe();
        let resets = ways.borrow().get(&key).map_or(0, |way| way.resets);
        Self { ways, key, resets }
    }

    /// What holds now; an error when the connection is over.
    fn now(&mut self) -> Result<Flow, Reset> {
        let way = self.ways.borrow_and_update().get(&self.key).copied().unwrap_or_default();
        if way.flow == Flow::Cut || way.resets != self.resets { Err(Reset) } else { Ok(way.flow) }
    }

    /// Waits until bytes pass.
    async fn open(&mut self) -> Result<(), Reset> {
        loop {
            match self.now()? {
                Flow::Pass => return Ok(()),
                Flow::Delay(time) => {
                    tokio::time::sleep(time).await;
                    return self.now().map(drop);
                }
                Flow::Hold | Flow::Cut => self.ways.changed().await.map_err(|_| Reset)?,
            }
        }
    }

    /// Resolves when the connection is over by a change of the way.
    async fn reset(&mut self) -> Reset {
        while self.now().is_ok() {
            if self.ways.changed().await.is_err() {
                break;
            }
        }
        Reset
    }

    /// Carries bytes until the end of the stream.
    async fn carry(&mut self, mut from: ReadHalf<'_>, mut to: WriteHalf<'_>) -> Result<(), Reset> {
        let mut piece = vec![0; PIECE_BYTES];
        loop {
            self.open().await?;
            let read = tokio::select! {
                read = from.read(&mut piece) => read?,
                reset = self.reset() => return Err(reset),
            };
            // The way may have been closed while nothing was there to read; an end waits like any byte.
            self.open().await?;
            let Some(bytes) = piece.get(..read).filter(|bytes| !bytes.is_empty()) else {
                return Ok(to.shutdown().await?);
            };
            tokio::select! {
                written = to.write_all(bytes) => written?,
                reset = self.reset() => return Err(reset),
            }
        }
    }
}

/// One connection, from the moment it was accepted.
async fn carry(mut stream: TcpStream, peer: SocketAddr, front: u16, target: String, port: u16, shared: &Arc<Shared>) {
    let Some(dialler) = dialler(peer, front, shared).await else {
        _ = stream.set_zero_linger();
        return;
    };
    let mut there = Direction::new(shared, &dialler, &target);
    let mut back = Direction::new(shared, &target, &dialler);
    *shared
        .carried
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .entry((dialler.clone(), target.clone()))
        .or_default() += 1;
    // A process that is not there refuses at once only if the network carries the question and the answer.
    let reached = async {
        there.open().await?;
        back.open().await?;
        Ok::<_, Reset>(TcpStream::connect(("127.0.0.1", port)).await?)
    };
    let Ok(mut target) = reached.await else {
        _ = stream.set_zero_linger();
        return;
    };
    _ = stream.set_nodelay(true);
    _ = target.set_nodelay(true);
    let ended = {
        let ((from_dialler, to_dialler), (from_target, to_target)) = (stream.split(), target.split());
        tokio::try_join!(there.carry(from_dialler, to_target), back.carry(from_target, to_dialler))
    };
    if ended.is_err() {
        _ = stream.set_zero_linger();
        _ = target.set_zero_linger();
    }
}

/// Name of the process at the other end of a connection that a front has accepted.
async fn dialler(peer: SocketAddr, front: u16, shared: &Shared) -> Option<String> {
    let deadline = tokio::time::Instant::now() + IDENTIFY_LIMIT;
    loop {
        let names = shared.names.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let found = tokio::task::spawn_blocking(move || {
            let socket = format!("socket:[{}]", inode(&fs::read_to_string("/proc/net/tcp").ok()?, peer.port(), front)?);
            names.into_iter().find(|(pid, _)| holds(*pid, &socket)).map(|(_, name)| name)
        });
        match found.await {
            Ok(Some(name)) => return Some(name),
            _ if tokio::time::Instant::now() >= deadline => return None,
            _ => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    }
}

/// Inode of the socket from one local port to another, in the text of `/proc/net/tcp`.
fn inode(table: &str, from: u16, to: u16) -> Option<&str> {
    let is = |address: &str, port: u16| {
        address.rsplit_once(':').is_some_and(|(_, text)| u16::from_str_radix(text, 16) == Ok(port))
    };
    table.lines().skip(1).find_map(|line| {
        let mut fields = line.split_whitespace();
        let (local, remote) = (fields.nth(1)?, fields.next()?);
        // Behind the addresses: state, queues, timer, retransmits, user, timeout.
        (is(local, from) && is(remote, to)).then(|| fields.nth(6)).flatten()
    })
}

/// Whether a process has this socket open.
fn holds(pid: u32, socket: &str) -> bool {
    let Ok(files) = fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    files.flatten().any(|file| fs::read_link(file.path()).is_ok_and(|to| to.as_os_str() == socket))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    use super::*;
    use crate::wait_for;

    const LIMIT: Duration = Duration::from_secs(20);
    /// Long enough for bytes that nothing holds, on any machine that is not asleep.
    const SILENCE: Duration = Duration::from_millis(100);

    /// A target that answers each byte with the next higher one, and this process as `here`.
    fn echo() -> (Proxy, u16) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { return };
                std::thread::spawn(move || {
                    let mut byte = [0];
                    while stream.read_exact(&mut byte).is_ok() {
                        if stream.write_all(&[byte[0] + 1]).is_err() {
                            return;
                        }
                    }
                });
            }
        });
        let proxy = Proxy::start(&[("there".to_owned(), port)]).unwrap();
        proxy.know(std::process::id(), "here");
        let front = proxy.front("there").unwrap();
        (proxy, front)
    }

    fn dial(front: u16) -> TcpStream {
        let stream = TcpStream::connect(("127.0.0.1", front)).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream
    }

    fn ask(stream: &mut TcpStream, byte: u8) -> io::Result<u8> {
        stream.write_all(&[byte])?;
        hear(stream)
    }

    fn hear(stream: &mut TcpStream) -> io::Result<u8> {
        let mut answer = [0];
        stream.read_exact(&mut answer)?;
        Ok(answer[0])
    }

    fn silent(stream: &mut TcpStream) -> bool {
        stream.set_read_timeout(Some(SILENCE)).unwrap();
        let heard = hear(stream);
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        matches!(heard, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }

    #[test]
    fn bytes_pass_and_connections_are_counted_by_who_dialled() {
        let (proxy, front) = echo();
        let mut stream = dial(front);
        assert_eq!(ask(&mut stream, 1).unwrap(), 2);
        assert_eq!(proxy.carried("here", "there"), 1);
        assert_eq!(proxy.carried("there", "here"), 0);
    }

    /// Each way alone: held bytes do not arrive, then arrive in order on the same connection.
    #[test]
    fn held_bytes_arrive_in_order_when_the_way_is_open_again() {
        for (from, to) in [("here", "there"), ("there", "here")] {
            let (proxy, front) = echo();
            let mut stream = dial(front);
            assert_eq!(ask(&mut stream, 1).unwrap(), 2);
            proxy.set(from, to, Flow::Hold);
            stream.write_all(&[10, 20]).unwrap();
            assert!(silent(&mut stream), "{from} to {to}");
            proxy.heal(Held::Arrives);
            assert_eq!([hear(&mut stream).unwrap(), hear(&mut stream).unwrap()], [11, 21]);
        }
    }

    #[test]
    fn a_connection_made_while_the_way_is_held_is_served_later() {
        let (proxy, front) = echo();
        proxy.between("here", "there", Flow::Hold);
        let mut stream = dial(front);
        stream.write_all(&[1]).unwrap();
        assert!(silent(&mut stream));
        proxy.set("here", "there", Flow::Pass);
        assert!(silent(&mut stream), "the way back is held");
        proxy.heal(Held::Arrives);
        assert_eq!(hear(&mut stream).unwrap(), 2);
    }

    #[test]
    fn held_connections_are_reset_when_the_silence_was_long() {
        let (proxy, front) = echo();
        let (mut held, mut other) = (dial(front), dial(front));
        assert_eq!(ask(&mut held, 1).unwrap(), 2);
        assert_eq!(ask(&mut other, 1).unwrap(), 2);
        proxy.set("there", "here", Flow::Hold);
        held.write_all(&[1]).unwrap();
        proxy.heal(Held::IsReset);
        assert!(hear(&mut held).is_err());
        assert_eq!(ask(&mut dial(front), 1).unwrap(), 2, "a new connection is not meant");
    }

    #[test]
    fn a_cut_resets_what_is_there_and_what_comes() {
        let (proxy, front) = echo();
        let mut stream = dial(front);
        assert_eq!(ask(&mut stream, 1).unwrap(), 2);
        proxy.set("here", "there", Flow::Cut);
        assert!(hear(&mut stream).is_err());
        assert!(ask(&mut dial(front), 1).is_err());
        proxy.heal(Held::Arrives);
        assert_eq!(ask(&mut dial(front), 1).unwrap(), 2);
    }

    #[test]
    fn ways_of_others_are_not_touched() {
        let (proxy, front) = echo();
        for flow in [Flow::Hold, Flow::Cut] {
            proxy.between("somebody", "there", flow);
            assert_eq!(ask(&mut dial(front), 1).unwrap(), 2);
        }
    }

    #[test]
    fn a_process_is_recognised_as_soon_as_its_name_is_known() {
        let (proxy, front) = echo();
        proxy.know(u32::MAX, "here");
        let mut stream = dial(front);
        stream.write_all(&[1]).unwrap();
        assert!(silent(&mut stream));
        proxy.know(std::process::id(), "here");
        assert_eq!(hear(&mut stream).unwrap(), 2);
    }

    #[test]
    fn a_target_that_is_not_there_is_a_reset_and_an_end_is_an_end() {
        let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let proxy = Proxy::start(&[("gone".to_owned(), gone)]).unwrap();
        proxy.know(std::process::id(), "here");
        assert!(ask(&mut dial(proxy.front("gone").unwrap()), 1).is_err());

        let (_proxy, front) = echo();
        let mut stream = dial(front);
        assert_eq!(ask(&mut stream, 1).unwrap(), 2);
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        wait_for("the end to come back", LIMIT, || match stream.read(&mut [0])? {
            0 => Ok(()),
            bytes => anyhow::bail!("{bytes} bytes came"),
        })
        .unwrap();
    }

    #[test]
    fn sockets_are_found_in_the_systems_table() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n   \
                     0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1 0 100 0\n   \
                     1: 0100007F:D431 0100007F:1F90 01 00000000:00000000 00:00000000 00000000     0        0 4711 1 0 20\n";
        assert_eq!(inode(table, 0xd431, 0x1f90), Some("4711"));
        assert_eq!(inode(table, 0x1f90, 0xd431), None);
    }
}
