//! The network: delays, holds and drops what processes say to each other, and breaks what has been cut for too long.
//!
//! Members reach each other through [`RaftClient`], which has the methods of `perennial-rpc`'s client and ends at the
//! other member's [`RaftGateway`](perennial_rpc::raft::RaftGateway): encoding, identity checks and openraft above it are the product's. Calls may overtake each
//! other. What goes through a connection arrives in order, or the connection breaks: as over TCP, something that was cut
//! off for a while arrives late.

mod client;

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use perennial_rpc::raft::{RaftCall, RaftIdentity, RaftRpcError};
use perennial_rpc::taskmanager::{FromTaskManager, ToTaskManager};
use perennial_types::JobManagerId;
use rand::RngExt;
use rand::rngs::SmallRng;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::lock;
pub(crate) use client::RaftClient;

/// A process in the network: members first, from 0, then TaskManagers.
pub(crate) type Node = usize;

/// A connection; never reused.
pub(crate) type ConnId = u64;

/// Ordinary time on the way in milliseconds, and what one message in a hundred takes longer.
const DELAY_MS: std::ops::Range<u64> = 1..4;
const STRAGGLER_MS: std::ops::Range<u64> = 20..300;

/// A connection whose next message has waited so long breaks: keep-alive and its time-out between members, a
/// TaskManager's patience.
const BREAK_MS: u64 = 1000;
const ATTACHED_BREAK_MS: u64 = 3000;

/// Pause before a held message tries again.
const HOLD_MS: u64 = 20;

/// The network. Clones share it.
#[derive(Clone)]
pub(crate) struct Net(Arc<Mutex<State>>);

struct State {
    now: u64,
    number: u64,
    rng: SmallRng,
    /// Which way nothing passes.
    cut: Vec<Vec<bool>>,
    /// Milliseconds that are added at most.
    slow: Vec<Vec<u64>>,
    /// Who hears nothing now, but will.
    frozen: Vec<bool>,
    /// Whose process takes connections.
    listening: Vec<bool>,
    /// What nobody hears.
    lost: Option<RaftCall>,
    queue: BTreeMap<(u64, u64), Event>,
    calls: BTreeMap<u64, oneshot::Sender<Result<Bytes, RaftRpcError>>>,
    conns: BTreeMap<ConnId, Conn>,
    held: u64,
    dropped: u64,
}

/// What is on its way.
enum Event {
    Request(Request),
    Reply {
        id: u64,
        from: Node,
        to: Node,
        result: Result<Bytes, RaftRpcError>,
    },
    /// The next frame of a connection may be due.
    Pump {
        conn: ConnId,
        way: Way,
    },
    /// One end of a connection learns that it is gone.
    Broken {
        conn: ConnId,
    },
}

/// A question to a member.
pub(super) struct Request {
    pub(super) id: u64,
    pub(super) from: Node,
    pub(super) to: Node,
    pub(super) call: RaftCall,
    pub(super) identity: RaftIdentity,
    pub(super) payload: Bytes,
}

/// Direction within a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// From the end that opened it.
    Up,
    /// Towards that end.
    Down,
}

/// One message of a connection.
pub(super) enum Frame {
    /// Opens a pipeline of appends, or the transfer of a snapshot.
    Open(RaftIdentity, Transfer),
    Payload(Bytes),
    /// The called side takes it.
    Accepted,
    Answer(Result<Bytes, RaftRpcError>),
    End,
    /// The calling side is not interested any more.
    HangUp,
    /// A TaskManager connects.
    Attach,
    FromTaskManager(FromTaskManager),
    ToTaskManager(ToTaskManager),
}

/// What is streamed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Transfer {
    Appends,
    Snapshot,
    /// Nothing: it ends with the process.
    Watch,
}

struct Conn {
    /// Who opened it, and to whom.
    ends: (Node, Node),
    queues: [VecDeque<(u64, Frame)>; 2],
    stuck_since: [Option<u64>; 2],
    /// One end has crashed: nothing passes any more.
    dead: bool,
    /// Raft's ends; a TaskManager's connection has none.
    caller: Option<mpsc::UnboundedSender<Frame>>,
    called: Option<mpsc::UnboundedSender<Result<Bytes, RaftRpcError>>>,
    gone: CancellationToken,
}

/// What the simulation has to act upon.
pub(super) enum Delivery {
    Request(Request),
    Open {
        conn: ConnId,
        from: Node,
        to: Node,
        identity: RaftIdentity,
        transfer: Transfer,
    },
    Attached {
        conn: ConnId,
        from: Node,
        to: Node,
        frame: Frame,
    },
    /// A TaskManager's connection is gone.
    Detached {
        conn: ConnId,
        from: Node,
        to: Node,
    },
}

impl Net {
    pub(super) fn new(nodes: usize, rng: SmallRng) -> Self {
        Self(Arc::new(Mutex::new(State {
            now: 0,
            number: 0,
            rng,
            cut: vec![vec![false; nodes]; nodes],
            slow: vec![vec![0; nodes]; nodes],
            frozen: vec![false; nodes],
            listening: vec![false; nodes],
            lost: None,
            queue: BTreeMap::new(),
            calls: BTreeMap::new(),
            conns: BTreeMap::new(),
            held: 0,
            dropped: 0,
        })))
    }

    pub(super) fn set_now(&self, now: u64) {
        self.lock().now = now;
    }

    /// Lets nothing pass one way, or everything again.
    pub(super) fn cut(&self, from: Node, to: Node, cut: bool) {
        self.lock().cut[from][to] = cut;
    }

    pub(super) fn slow(&self, from: Node, to: Node, extra_ms: u64) {
        self.lock().slow[from][to] = extra_ms;
    }

    /// Loses all questions of a kind, or none.
    pub(super) fn lose(&self, call: Option<RaftCall>) {
        self.lock().lost = call;
    }

    pub(super) fn freeze(&self, node: Node, frozen: bool) {
        self.lock().frozen[node] = frozen;
    }

    pub(super) fn listens(&self, node: Node, listens: bool) {
        self.lock().listening[node] = listens;
    }

    /// Connects, for as long as it takes to see whether somebody listens.
    pub(super) async fn connect(&self, from: Node, to: Node) -> std::io::Result<()> {
        let delay = self.lock().delay(from, to);
        tokio::time::sleep(std::time::Duration::from_millis(delay)).await;
        let (cut, listens) = {
            let state = self.lock();
            // A frozen process's kernel takes connections for it.
            (state.cut[from][to] || state.cut[to][from], state.listening[to])
        };
        match (cut, listens) {
            (true, _) => std::future::pending().await,
            (false, true) => Ok(()),
            (false, false) => Err(std::io::ErrorKind::ConnectionRefused.into()),
        }
    }

    /// Everything passes again.
    pub(super) fn heal(&self) {
        let mut state = self.lock();
        let State { cut, slow, .. } = &mut *state;
        cut.iter_mut().flatten().for_each(|cut| *cut = false);
        slow.iter_mut().flatten().for_each(|slow| *slow = 0);
    }

    /// Messages that were held because of a cut, and those that were dropped.
    pub(super) fn disturbed(&self) -> (u64, u64) {
        let state = self.lock();
        (state.held, state.dropped)
    }

    /// A process is gone: its connections are, too, and those at their other ends will notice.
    pub(super) fn crashed(&self, node: Node) {
        let mut state = self.lock();
        let State { conns, cut, .. } = &mut *state;
        let mut broken = Vec::new();
        for (id, conn) in conns.iter_mut().filter(|(_, conn)| conn.ends.0 == node || conn.ends.1 == node) {
            conn.dead = true;
            conn.gone.cancel();
            let other = if conn.ends.0 == node { conn.ends.1 } else { conn.ends.0 };
            broken.push((*id, if cut[node][other] { BREAK_MS } else { 2 }));
        }
        for (conn, after) in broken {
            state.schedule(after, Event::Broken { conn });
        }
    }

    /// Breaks all connections between two processes.
    pub(super) fn reset(&self, a: Node, b: Node) {
        let mut state = self.lock();
        let between = |conn: &Conn| conn.ends == (a, b) || conn.ends == (b, a);
        let broken: Vec<ConnId> = state.conns.iter().filter(|(_, conn)| between(conn)).map(|(id, _)| *id).collect();
        broken.into_iter().for_each(|conn| state.schedule(1, Event::Broken { conn }));
    }

    /// Answers a request.
    pub(super) fn reply(&self, id: u64, from: Node, to: Node, result: Result<Bytes, RaftRpcError>) {
        let mut state = self.lock();
        let delay = state.delay(from, to);
        state.schedule(delay, Event::Reply { id, from, to, result });
    }

    /// Opens a connection of a TaskManager.
    pub(super) fn attach(&self, from: Node, to: Node) -> ConnId {
        let mut state = self.lock();
        let conn = state.open((from, to), None);
        state.push(conn, Way::Up, Frame::Attach);
        conn
    }

    /// Sends a frame. Lost when the connection is gone.
    pub(super) fn push(&self, conn: ConnId, way: Way, frame: Frame) {
        self.lock().push(conn, way, frame);
    }

    /// Gives an end of a connection up; the other learns of it.
    pub(super) fn give_up(&self, conn: ConnId) {
        self.lock().schedule(1, Event::Broken { conn });
    }

    /// Where the called side of a connection hears what comes.
    pub(super) fn listen(&self, conn: ConnId) -> mpsc::UnboundedReceiver<Result<Bytes, RaftRpcError>> {
        let (sender, receiver) = mpsc::unbounded_channel();
        if let Some(conn) = self.lock().conns.get_mut(&conn) {
            conn.called = Some(sender);
        }
        receiver
    }

    /// The next thing that is due.
    pub(super) fn next(&self) -> Option<Delivery> {
        let mut state = self.lock();
        loop {
            let now = state.now;
            let event = state.queue.first_entry().filter(|entry| entry.key().0 <= now)?.remove();
            if let Some(delivery) = state.deliver(event) {
                return Some(delivery);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.0)
    }
}

impl State {
    fn schedule(&mut self, after: u64, event: Event) {
        self.number += 1;
        self.queue.insert((self.now + after, self.number), event);
    }

    fn delay(&mut self, from: Node, to: Node) -> u64 {
        let straggles = self.rng.random_ratio(1, 100);
        let straggling = if straggles { self.rng.random_range(STRAGGLER_MS) } else { 0 };
        self.rng.random_range(DELAY_MS) + straggling + self.rng.random_range(0..=self.slow[from][to])
    }

    fn open(&mut self, ends: (Node, Node), caller: Option<mpsc::UnboundedSender<Frame>>) -> ConnId {
        self.number += 1;
        let conn = Conn {
            ends,
            queues: Default::default(),
            stuck_since: [None; 2],
            dead: false,
            caller,
            called: None,
            gone: CancellationToken::new(),
        };
        self.conns.insert(self.number, conn);
        self.number
    }

    fn push(&mut self, id: ConnId, way: Way, frame: Frame) {
        let Some(ends) = self.conns.get(&id).filter(|conn| !conn.dead).map(|conn| conn.ends) else { return };
        let (from, to) = if way == Way::Up { ends } else { (ends.1, ends.0) };
        let delay = self.delay(from, to);
        let due = self.now + delay;
        let Some(conn) = self.conns.get_mut(&id) else { return };
        let queue = &mut conn.queues[way as usize];
        let due = due.max(queue.back().map_or(0, |(due, _)| *due));
        queue.push_back((due, frame));
        self.schedule(due - self.now, Event::Pump { conn: id, way });
    }

    fn deliver(&mut self, event: Event) -> Option<Delivery> {
        match event {
            Event::Request(request) => {
                let (from, to) = (request.from, request.to);
                if self.lost == Some(request.call) {
                    self.dropped += 1;
                    return None;
                }
                match self.passing(from, to, Event::Request(request))? {
                    Event::Request(request) => Some(Delivery::Request(request)),
                    _ => None,
                }
            }
            Event::Reply { id, from, to, result } => {
                if let Event::Reply { id, result, .. } =
                    self.passing(from, to, Event::Reply { id, from, to, result })?
                    && let Some(call) = self.calls.remove(&id)
                {
                    // Nobody waits any more when the caller's deadline is over.
                    drop(call.send(result));
                }
                None
            }
            Event::Pump { conn, way } => self.pump(conn, way),
            Event::Broken { conn: id } => {
                let conn = self.conns.remove(&id)?;
                let (from, to) = conn.ends;
                conn.gone.cancel();
                let broken = |peer: Node| RaftRpcError::Unreachable {
                    peer: JobManagerId(peer as u64 + 1),
                    reason: "the connection broke".to_owned(),
                };
                match conn.caller {
                    Some(caller) => {
                        drop(caller.send(Frame::Answer(Err(broken(to)))));
                        drop(conn.called.map(|called| called.send(Err(broken(from)))));
                        None
                    }
                    None => Some(Delivery::Detached { conn: id, from, to }),
                }
            }
        }
    }

    /// A call's message, if it arrives now. One that does not is held or dropped.
    fn passing(&mut self, from: Node, to: Node, event: Event) -> Option<Event> {
        if self.frozen[to] {
            self.schedule(HOLD_MS, event);
            return None;
        }
        if self.cut[from][to] {
            if self.rng.random_ratio(1, 20) {
                self.dropped += 1;
            } else {
                self.held += 1;
                self.schedule(HOLD_MS, event);
            }
            return None;
        }
        Some(event)
    }

    fn pump(&mut self, id: ConnId, way: Way) -> Option<Delivery> {
        let now = self.now;
        let conn = self.conns.get_mut(&id).filter(|conn| !conn.dead)?;
        let (from, to) = if way == Way::Up { conn.ends } else { (conn.ends.1, conn.ends.0) };
        let due = conn.queues[way as usize].front().map(|(due, _)| *due)?;
        if due > now {
            return None;
        }
        if self.cut[from][to] || self.frozen[to] {
            let since = *conn.stuck_since[way as usize].get_or_insert(now);
            let patience = if conn.caller.is_some() { BREAK_MS } else { ATTACHED_BREAK_MS };
            if now - since > patience && self.cut[from][to] {
                self.dropped += 1;
                self.schedule(0, Event::Broken { conn: id });
            } else {
                self.held += 1;
                self.schedule(HOLD_MS, Event::Pump { conn: id, way });
            }
            return None;
        }
        conn.stuck_since[way as usize] = None;
        let (_, frame) = conn.queues[way as usize].pop_front()?;
        if conn.queues[way as usize].front().is_some_and(|(due, _)| *due <= now) {
            // Its own event may have come while the connection was stuck.
            self.schedule(0, Event::Pump { conn: id, way });
        }
        let conn = self.conns.get_mut(&id)?;
        let (from, to) = conn.ends;
        match frame {
            Frame::Open(identity, transfer) => Some(Delivery::Open { conn: id, from, to, identity, transfer }),
            Frame::Payload(payload) => {
                drop(conn.called.as_ref().map(|called| called.send(Ok(payload))));
                None
            }
            Frame::End if way == Way::Up => {
                conn.called = None;
                None
            }
            Frame::HangUp => {
                self.schedule(0, Event::Broken { conn: id });
                None
            }
            frame @ (Frame::Accepted | Frame::Answer(_) | Frame::End) => {
                let last = matches!(frame, Frame::End | Frame::Answer(Err(_)));
                if let Some(caller) = &conn.caller {
                    // Nobody listens any more when the caller has just hung up.
                    drop(caller.send(frame));
                }
                if last && let Some(conn) = self.conns.remove(&id) {
                    conn.gone.cancel();
                }
                None
            }
            frame => Some(Delivery::Attached { conn: id, from, to, frame }),
        }
    }
}
