//! The simulation's loop: each millisecond, what is due happens, then every process runs for as long.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use futures_util::StreamExt;
use openraft::raft::{VoteRequest, VoteResponse};
use perennial_rpc::raft::{PayloadStream, RaftCall, RaftGateway};
use perennial_rpc::taskmanager::{Action, Command as TaskCommand, FromTaskManager};
use perennial_types::{ExecutionAttemptId, Fence, JobId, LeaderEpoch};
use rand::rngs::SmallRng;
use rand::{Rng, RngExt, SeedableRng};

use super::checker::Checker;
use super::clients::{ATTEMPTS_MAX, Client, PATIENCE_MS, Wish};
use super::disk::Disk;
use super::faults::{self, Fault};
use super::member::{Member, Standing};
use super::network::{ConnId, Delivery, Frame, Net, Node, Request, Transfer, Way};
use super::taskmanager::{Conversations, TaskManager};
use super::{Bug, Coverage, Report, lock};
use crate::command::{Command, Outcome};
use crate::error::WriteError;
use crate::raft::TypeConfig;
use crate::store::Written;
use crate::wire;

const TASKMANAGERS: usize = 2;
const CLIENTS: u64 = 3;

/// Length of the safety phase, and how long healing may take.
const SAFETY_MS: u64 = 6000;
const HEAL_MS: u64 = 10_000;

/// Election timeouts that are never over.
const NEVER_MS: (u64, u64) = (600_000, 1_200_000);

/// Writes every client has to have acknowledged at the end, and how long that may take.
const SERVE_WRITES: u64 = 15;
const SERVE_MS: u64 = 5000;

/// Pauses of TaskManagers.
const HEARTBEAT_MS: u64 = 300;
const DIAL_MS: u64 = 100;

/// What happens at some time.
enum Plan {
    Start(Node),
    Fault,
    Undo(Fault),
    Attach(Node, Node),
    Heartbeat(Node),
    Wish(u64),
    Attempt(u64),
    Arrives { client: u64, attempt: u64, to: Node },
    Answered { client: u64, attempt: u64, answer: Answer },
    Impatient { client: u64, attempt: u64 },
}

/// What a JobMaster sends when it is due: the command that an entry orders.
struct Order {
    due: u64,
    /// Which process of the member sends it.
    life: u64,
    epoch: LeaderEpoch,
    to: Node,
    command: TaskCommand,
}

/// What a client hears.
enum Answer {
    Done,
    /// Nothing was done; ask this one.
    Elsewhere(Option<Node>),
    /// It is not known what was done.
    Unknown,
}

/// What a member's tasks have to tell.
#[expect(clippy::large_enum_variant, reason = "there are few at a time")]
enum Said {
    Wrote { client: u64, attempt: u64, command: Command, result: Result<Written, WriteError> },
    Read { client: u64, attempt: u64, result: Result<Option<String>, WriteError> },
    Voted { vote: VoteResponse<TypeConfig>, request: VoteRequest<TypeConfig> },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Safety,
    Converge,
    Serve,
}

pub(super) struct World {
    seed: u64,
    bug: Option<Bug>,
    now: u64,
    number: u64,
    rng: SmallRng,
    net: Net,
    checker: Arc<Mutex<Checker>>,
    members: Vec<Member>,
    taskmanagers: Vec<TaskManager>,
    clients: Vec<Client>,
    agenda: BTreeMap<(u64, u64), Plan>,
    said: Arc<Mutex<Vec<Said>>>,
    phase: Phase,
    /// The next member that grants a vote dies.
    armed: bool,
    /// What the JobMasters of each member have still to send, the oldest first. The commands of one process to one TaskManager leave
    /// through one stream in the order of their entries: were each planned for itself, those that wait while their process stands
    /// still could overtake each other.
    orders: Vec<VecDeque<Order>>,
    coverage: Coverage,
    trace: Vec<String>,
    dir: PathBuf,
}

impl World {
    pub(super) fn new(seed: u64, bug: Option<Bug>) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed);
        let members = if seed % 5 == 4 { 5 } else { 3 };
        let checker: Arc<Mutex<Checker>> = Arc::default();
        let net = Net::new(members + TASKMANAGERS, SmallRng::seed_from_u64(rng.next_u64()));
        let dir = directory();
        let member = |node: Node| {
            // One member is enough for what a member can do wrong.
            let wrong = bug.filter(|bug| *bug != Bug::LosesAChange || node == 1);
            let disk = Disk::new(node, SmallRng::seed_from_u64(seed ^ (node as u64 + 7) << 40), wrong, checker.clone());
            Member::new(node, members, dir.join(node.to_string()), disk)
        };
        let mut world = Self {
            seed,
            bug,
            now: 0,
            number: 0,
            rng,
            net,
            members: (0..members).map(member).collect(),
            checker,
            taskmanagers: (members..members + TASKMANAGERS).map(|node| TaskManager::new(node, bug)).collect(),
            clients: (0..CLIENTS).map(Client::new).collect(),
            agenda: BTreeMap::new(),
            said: Arc::default(),
            phase: Phase::Safety,
            armed: false,
            orders: (0..members).map(|_| VecDeque::new()).collect(),
            coverage: Coverage::default(),
            trace: Vec::new(),
            dir,
        };
        for node in 0..members {
            world.plan(0, Plan::Start(node));
            for taskmanager in 0..TASKMANAGERS {
                world.plan(5, Plan::Attach(taskmanager, node));
            }
        }
        (0..TASKMANAGERS).for_each(|taskmanager| world.plan(HEARTBEAT_MS, Plan::Heartbeat(taskmanager)));
        (0..CLIENTS).for_each(|client| world.plan(500, Plan::Wish(client)));
        world.plan(1500, Plan::Fault);
        world
    }

    pub(super) fn run(mut self) -> Report {
        self.pass(SAFETY_MS, |_| false);
        self.heal();
        if !self.pass(HEAL_MS, Self::has_converged) {
            self.violated(format!("the group has not healed within {HEAL_MS} ms: {}", self.standing()));
        }
        self.serve();
        self.pass(HEAL_MS, Self::has_converged);
        self.check_end();
        self.end()
    }

    /// Ends all processes.
    fn end(mut self) -> Report {
        for member in &mut self.members {
            member.crash(&self.net);
        }
        // Nothing can be done about a directory in memory that is not removed.
        drop(std::fs::remove_dir_all(&self.dir));
        let violations = {
            let checker = lock(&self.checker);
            let coverage = &mut self.coverage;
            (coverage.leaderships, coverage.snapshots) = (checker.leaderships() as u64, checker.snapshots);
            (coverage.acknowledged, coverage.commanded) = (checker.acknowledged, checker.commanded);
            coverage.refused = self.taskmanagers.iter().map(|taskmanager| taskmanager.refused).sum();
            (coverage.held, coverage.dropped) = self.net.disturbed();
            checker.violations().to_vec()
        };
        Report { violations, coverage: self.coverage, trace: self.trace }
    }

    /// Lets a leader die in a group that elects by its detectors alone, and all votes get lost until somebody has stood so
    /// often. Returns what happened, and the terms of the leaders before and after.
    pub(super) fn fail_elections(mut self, elections: u64) -> (Report, u64, u64) {
        self.agenda.retain(|_, plan| matches!(plan, Plan::Start(_)));
        self.members.iter_mut().for_each(|member| member.election_timeout_ms = NEVER_MS);
        let leads = |world: &Self| world.members.iter().find_map(|member| Some((member.node, member.serving()?)));
        let followed = |world: &Self| {
            let epoch = leads(world).map(|(_, epoch)| epoch);
            epoch.is_some() && world.members.iter().all(|member| !member.runs() || member.follows() == epoch)
        };
        self.pass(HEAL_MS, followed);
        let Some((leader, before)) = leads(&self) else { return (self.end(), 0, 0) };
        self.net.lose(Some(RaftCall::Vote));
        self.members[leader].crash(&self.net);
        let votes = |world: &Self| world.members.iter().map(|member| member.disk.term()).max();
        self.pass(HEAL_MS, |world| votes(world) >= Some(before + elections));
        self.net.lose(None);
        self.pass(HEAL_MS, followed);
        let after = leads(&self).map_or(0, |(_, epoch)| epoch);
        (self.end(), before, after)
    }

    /// Lets a leader hear nothing more from the other members, though they hear it, and waits until another one serves. Returns what
    /// happened, and whether it does.
    pub(super) fn deafen_leader(mut self) -> (Report, bool) {
        self.agenda.retain(|_, plan| !matches!(plan, Plan::Fault));
        let leads = |world: &Self, not: Option<Node>| {
            world.members.iter().find(|member| Some(member.node) != not && member.serving().is_some()).map(|it| it.node)
        };
        self.pass(HEAL_MS, |world| leads(world, None).is_some());
        let leader = leads(&self, None);
        for (other, leader) in
            (0..self.members.len()).zip(leader.iter().cycle()).filter(|(other, leader)| other != *leader)
        {
            self.net.cut(other, *leader, true);
        }
        let replaced = self.pass(HEAL_MS, |world| leads(world, leader).is_some());
        (self.end(), leader.is_some() && replaced)
    }

    /// Lets a leader stand still while two commands for one job, to one TaskManager, become due one after the other. Returns what
    /// happened, and whether it was so.
    pub(super) fn freeze_with_orders(mut self) -> (Report, bool) {
        self.agenda.retain(|_, plan| !matches!(plan, Plan::Fault));
        let same = |a: &Order, b: &Order| a.to == b.to && a.command.job == b.command.job && a.due < b.due;
        let waiting = |world: &Self| {
            let two = |node: &Node| {
                let orders = &world.orders[*node];
                orders.iter().enumerate().any(|(at, first)| orders.range(at..).any(|second| same(first, second)))
            };
            (0..world.members.len()).find(two)
        };
        self.pass(SAFETY_MS, |world| waiting(world).is_some());
        let Some(node) = waiting(&self) else { return (self.end(), false) };
        let last = self.orders[node].back().map_or(0, |order| order.due.saturating_sub(self.now));
        self.strike(Fault::Freeze(node), last + 1);
        // Long enough for all of them to arrive.
        self.pass(last + 500, |_| false);
        (self.end(), true)
    }

    /// Lets time pass until something holds, or something is violated. Returns whether it holds.
    fn pass(&mut self, at_most_ms: u64, holds: impl Fn(&Self) -> bool) -> bool {
        let until = self.now + at_most_ms;
        while self.now < until {
            if !lock(&self.checker).violations().is_empty() {
                return true;
            }
            if self.now.is_multiple_of(10) && holds(self) {
                return true;
            }
            self.tick();
        }
        holds(self)
    }

    fn tick(&mut self) {
        self.now += 1;
        self.net.set_now(self.now);
        lock(&self.checker).set_now(self.now);
        while let Some(entry) = self.agenda.first_entry().filter(|entry| entry.key().0 <= self.now) {
            let plan = entry.remove();
            self.perform(plan);
        }
        (0..self.members.len()).for_each(|node| self.command(node));
        while let Some(delivery) = self.net.next() {
            self.deliver(delivery);
        }
        self.armed |= self.bug == Some(Bug::VoteForgotten) && self.phase == Phase::Safety;
        for node in 0..self.members.len() {
            let standing = self.members[node].run(self.now);
            let said = std::mem::take(&mut *lock(&self.said));
            said.into_iter().for_each(|said| self.hear(node, said));
            match standing {
                Standing::Runs => {}
                Standing::Stopped => self.crash(node, 100),
                Standing::Failed(reason) if self.members[node].may_fail => {
                    self.note(format!("member {node} fails: {reason}"));
                    self.coverage.failed_disks += 1;
                    self.crash(node, 200);
                }
                Standing::Failed(reason) => {
                    self.violated(format!("member {node} has failed: {reason}"));
                }
            }
            self.observe(node);
        }
    }

    /// Looks at what a member believes.
    fn observe(&mut self, node: Node) {
        if let Some(term) = self.members[node].leads() {
            lock(&self.checker).leads(node, term);
        }
        if let Some(view) = self.members[node].follow(&self.net) {
            if let Some(epoch) = view.serving {
                lock(&self.checker).leads(node, epoch.0);
            }
            let leader = view.leader.map(|leader| leader.id.0);
            self.note(format!(
                "member {node} follows {leader:?} in {}, serving: {}",
                view.epoch,
                view.serving.is_some()
            ));
        }
    }

    fn plan(&mut self, after: u64, plan: Plan) {
        self.number += 1;
        self.agenda.insert((self.now + after, self.number), plan);
    }

    fn note(&mut self, what: String) {
        // Where marker and snapshots are differs from run to run.
        let what = what.replace(&*self.dir.to_string_lossy(), "");
        self.trace.push(format!("{:6} {what}", self.now));
    }

    fn violated(&mut self, what: String) {
        self.note(what.clone());
        lock(&self.checker).violated(what);
    }

    fn perform(&mut self, plan: Plan) {
        match plan {
            Plan::Start(node) => self.start(node),
            Plan::Fault => {
                let leader = self.leader();
                let nodes = self.members.len() + TASKMANAGERS;
                let (fault, lasts) = faults::draw(&mut self.rng, self.members.len(), nodes, leader);
                self.note(format!("{fault:?} for {lasts} ms"));
                self.strike(fault, lasts);
                let pause = self.rng.random_range(faults::PAUSE_MS);
                self.plan(pause, Plan::Fault);
            }
            Plan::Undo(fault) => self.undo(&fault),
            Plan::Attach(taskmanager, to) => {
                let taskmanager = &mut self.taskmanagers[taskmanager];
                let conn = self.net.attach(taskmanager.node, to);
                taskmanager.conns.insert(to, conn);
            }
            Plan::Heartbeat(number) => {
                for conn in self.taskmanagers[number].conns.values() {
                    self.net.push(
                        *conn,
                        Way::Up,
                        Frame::FromTaskManager(FromTaskManager::Heartbeat { from: None, stale_commands: 0 }),
                    );
                }
                self.plan(HEARTBEAT_MS, Plan::Heartbeat(number));
            }
            Plan::Wish(_) if self.phase == Phase::Converge => {}
            Plan::Wish(number) => {
                let taskmanagers = self.members.len()..self.members.len() + TASKMANAGERS;
                let client = &mut self.clients[number as usize];
                client.wish(&mut self.rng, &lock(&self.checker), taskmanagers);
                self.attempt(number);
            }
            Plan::Attempt(client) => self.attempt(client),
            Plan::Arrives { client, attempt, to } => self.arrives(client, attempt, to),
            Plan::Answered { client, attempt, answer } => self.answered(client, attempt, answer),
            Plan::Impatient { client, attempt } => self.answered(client, attempt, Answer::Unknown),
        }
    }

    /// The JobMasters of a member send what is due. After their process stood still they go on where they were: before they have noticed
    /// anything.
    fn command(&mut self, node: Node) {
        let member = &mut self.members[node];
        while let Some(order) = self.orders[node].pop_front_if(|order| !member.frozen && order.due <= self.now) {
            let Order { life, epoch, to, command, .. } = order;
            // A JobMaster commands as long as its leadership has not been seen to end.
            let leads = |it: &&mut Conversations| it.serving() == Some(epoch);
            if member.starts == life
                && let Some(conversations) = member.conversations().filter(leads)
            {
                conversations.command(to, command, &self.net);
            }
        }
    }

    fn start(&mut self, node: Node) {
        if !self.members[node].runs() {
            self.note(format!("member {node} starts"));
            if self.bug == Some(Bug::VoteForgotten) {
                self.members[node].forget_terms();
            }
            let seed = self.seed;
            self.members[node].start(self.now, &self.net, seed);
        }
    }

    fn crash(&mut self, node: Node, down_ms: u64) {
        if let Some(lost) = self.members[node].crash(&self.net) {
            self.note(format!("member {node} is gone, with {} records and {} batches", lost.records, lost.batches));
            self.coverage.crashes += 1;
            self.coverage.lost_records += lost.records as u64;
            self.coverage.lost_batches += lost.batches as u64;
            self.plan(down_ms, Plan::Start(node));
        }
    }

    fn strike(&mut self, fault: Fault, lasts: u64) {
        match &fault {
            Fault::Crash(nodes) => {
                for node in nodes {
                    let down = self.rng.random_range(20..=lasts.max(21));
                    self.crash(*node, down);
                }
                return;
            }
            Fault::CrashAfterVote => self.armed = true,
            Fault::Stop(node) => {
                self.coverage.stops += 1;
                return self.members[*node].stop();
            }
            Fault::Cut(ways) => {
                self.coverage.cuts += 1;
                ways.iter().for_each(|(from, to)| self.net.cut(*from, *to, true));
            }
            Fault::Slow(ways, extra) => ways.iter().for_each(|(from, to)| self.net.slow(*from, *to, *extra)),
            Fault::Reset(a, b) => return self.net.reset(*a, *b),
            Fault::Freeze(node) if self.members[*node].runs() => {
                self.coverage.freezes += 1;
                self.members[*node].frozen = true;
                self.net.freeze(*node, true);
            }
            Fault::Freeze(_) => return,
            Fault::StallDisk(node) => self.members[*node].disk.set_stalled(true),
            Fault::BreakDisk(node) if !self.members[*node].runs() => return,
            Fault::BreakDisk(node) => {
                self.members[*node].may_fail = true;
                return self.members[*node].disk.break_sync();
            }
        }
        self.plan(lasts, Plan::Undo(fault));
    }

    fn undo(&mut self, fault: &Fault) {
        match fault {
            Fault::CrashAfterVote => self.armed = false,
            Fault::Cut(ways) => ways.iter().for_each(|(from, to)| self.net.cut(*from, *to, false)),
            Fault::Slow(ways, _) => ways.iter().for_each(|(from, to)| self.net.slow(*from, *to, 0)),
            Fault::Freeze(node) => {
                self.members[*node].frozen = false;
                self.net.freeze(*node, false);
            }
            Fault::StallDisk(node) => self.members[*node].disk.set_stalled(false),
            Fault::Crash(_) | Fault::Stop(_) | Fault::Reset(..) | Fault::BreakDisk(_) => {}
        }
    }

    /// Ends all faults. What was asked before still comes to its end; nothing new is asked.
    fn heal(&mut self) {
        self.note("heal".to_owned());
        self.phase = Phase::Converge;
        self.armed = false;
        self.agenda.retain(|_, plan| !matches!(plan, Plan::Fault | Plan::Undo(_)));
        self.net.heal();
        for node in 0..self.members.len() {
            self.undo(&Fault::Freeze(node));
            self.undo(&Fault::StallDisk(node));
            self.start(node);
        }
    }

    /// Fresh writes, and a command to a TaskManager.
    fn serve(&mut self) {
        self.note("serve".to_owned());
        self.phase = Phase::Serve;
        (0..CLIENTS).for_each(|client| self.plan(1, Plan::Wish(client)));
        let (written, commanded) = {
            let checker = lock(&self.checker);
            (checker.acknowledged, checker.commanded)
        };
        let served = move |world: &Self| {
            let checker = lock(&world.checker);
            let commandable = checker.jobs.is_empty() || checker.commanded > commanded;
            checker.acknowledged >= written + SERVE_WRITES && commandable
        };
        if !self.pass(SERVE_MS, served) {
            self.violated(format!("healed, the group does not serve: {}", self.standing()));
        }
        self.phase = Phase::Converge;
    }

    /// The member that serves, as far as the others know: where faults strike.
    fn leader(&self) -> Option<Node> {
        (0..self.members.len()).find(|node| self.members[*node].serving().is_some())
    }

    /// One leader, the same state everywhere, and everybody registered.
    fn has_converged(&self) -> bool {
        let serving: Vec<(Node, u64)> =
            self.members.iter().filter_map(|member| Some((member.node, member.serving()?))).collect();
        let [(leader, epoch)] = serving.as_slice() else { return false };
        let (committed, digest) = {
            let checker = lock(&self.checker);
            (checker.committed() as u64, checker.digest())
        };
        let follows = |member: &Member| {
            member.store().is_some_and(|store| {
                let view = store.leadership().borrow().clone();
                let known = view.leader.is_some_and(|known| known.id.0 as Node == leader + 1);
                known && view.epoch.0 == *epoch && *store.applied().borrow() + 1 == committed
            }) && member.disk.state_digest() == digest
        };
        let registered = |taskmanager: &TaskManager| {
            let conn = taskmanager.conns.get(leader).copied();
            conn.is_some() && taskmanager.leader() == conn.map(|conn| (conn, LeaderEpoch(*epoch)))
        };
        let idle = self.clients.iter().all(|client| client.wish.is_none()) || self.phase != Phase::Converge;
        idle && self.members.iter().all(follows) && self.taskmanagers.iter().all(registered)
    }

    fn standing(&self) -> String {
        let member = |member: &Member| {
            let store = member.store()?;
            Some(format!("{:?} at {}", store.leadership().borrow().clone(), *store.applied().borrow()))
        };
        let members: Vec<_> = self.members.iter().map(member).collect();
        let taskmanagers: Vec<_> = self.taskmanagers.iter().map(|it| (&it.conns, it.leader())).collect();
        let wishes: Vec<_> = self.clients.iter().map(|client| client.wish.is_some()).collect();
        format!("{members:?}, TaskManagers: {taskmanagers:?}, clients waiting: {wishes:?}")
    }

    /// Everything that was acknowledged can be read from every member.
    fn check_end(&mut self) {
        if !lock(&self.checker).violations().is_empty() {
            return;
        }
        let (artifacts, jobs) = {
            let checker = lock(&self.checker);
            (checker.artifacts.clone(), checker.jobs.clone())
        };
        let mut missing = Vec::new();
        for member in &self.members {
            let Some(store) = member.store() else {
                missing.push(format!("member {} does not run at the end", member.node));
                continue;
            };
            let state = store.state();
            let lost = artifacts.iter().filter(|digest| !matches!(state.artifact(**digest), Ok(Some(_)))).count();
            let lost = lost + jobs.iter().filter(|job| !matches!(state.job(**job), Ok(Some(_)))).count();
            if lost > 0 {
                missing.push(format!("member {} lacks {lost} things that were acknowledged", member.node));
            }
        }
        missing.into_iter().for_each(|what| self.violated(what));
    }

    fn deliver(&mut self, delivery: Delivery) {
        match delivery {
            Delivery::Request(request) => self.request(request),
            Delivery::Open { conn, from, to, identity, transfer } => {
                self.note(format!("{from} opens {conn} to {to} for {transfer:?}"));
                let Some(gateway) = self.members[to].store().map(|store| store.gateway()) else {
                    return self.net.give_up(conn);
                };
                let (net, heard) = (self.net.clone(), self.net.listen(conn));
                let payloads = Box::pin(futures_util::stream::unfold(heard, |mut heard| async move {
                    heard.recv().await.map(|payload| (payload, heard))
                }));
                self.members[to].spawn(async move {
                    let push = |frame| net.push(conn, Way::Down, frame);
                    match transfer {
                        Transfer::Snapshot => push(Frame::Answer(gateway.install_snapshot(identity, payloads).await)),
                        Transfer::Appends => match gateway.append_stream(identity, payloads).await {
                            Err(error) => push(Frame::Answer(Err(error))),
                            Ok(answers) => {
                                push(Frame::Accepted);
                                pass_on(answers, push).await;
                            }
                        },
                        Transfer::Watch => match gateway.watch(identity).await {
                            Err(error) => push(Frame::Answer(Err(error))),
                            Ok(words) => pass_on(words, push).await,
                        },
                    }
                });
            }
            Delivery::Attached { conn, from, to, frame } => self.attached(conn, from, to, frame),
            Delivery::Detached { conn, from, to } => self.detached(conn, from, to),
        }
    }

    fn request(&mut self, request: Request) {
        let Request { id, from, to, call, identity, payload } = request;
        self.note(format!("{from} asks {to}: {call:?}, {} bytes", payload.len()));
        let Some(gateway) = self.members[to].store().map(|store| store.gateway()) else {
            let refused = perennial_rpc::raft::RaftRpcError::Unreachable {
                peer: perennial_types::JobManagerId(to as u64 + 1),
                reason: "connection refused".to_owned(),
            };
            return self.net.reply(id, to, from, Err(refused));
        };
        let (net, said) = (self.net.clone(), self.said.clone());
        self.members[to].spawn(async move {
            let answer = gateway.call(call, identity, payload.clone()).await;
            if call == RaftCall::Vote
                && let Ok(answer) = &answer
                && let (Ok(vote), Ok(request)) = (wire::decode(answer), wire::decode(&payload))
            {
                lock(&said).push(Said::Voted { vote, request });
            }
            net.reply(id, to, from, answer);
        });
    }

    fn attached(&mut self, conn: ConnId, from: Node, to: Node, frame: Frame) {
        match frame {
            Frame::Attach => match self.members[to].conversations() {
                Some(conversations) => conversations.attached(conn, &self.net),
                None => self.net.give_up(conn),
            },
            Frame::FromTaskManager(message) => {
                if let Some(conversations) = self.members[to].conversations() {
                    conversations.hear(from, conn, message, &self.net);
                }
            }
            Frame::ToTaskManager(message) => {
                let taskmanager = &mut self.taskmanagers[from - self.members.len()];
                taskmanager.hear(conn, message, &self.net, &mut lock(&self.checker));
            }
            _ => {}
        }
    }

    fn detached(&mut self, conn: ConnId, from: Node, to: Node) {
        if let Some(conversations) = self.members[to].conversations() {
            conversations.detached(conn);
        }
        let number = from - self.members.len();
        self.taskmanagers[number].lost(conn, &self.net);
        self.plan(DIAL_MS, Plan::Attach(number, to));
    }

    fn attempt(&mut self, number: u64) {
        let client = &mut self.clients[number as usize];
        if client.wish.is_none() {
            return;
        }
        client.attempts += 1;
        if client.attempts > ATTEMPTS_MAX {
            client.wish = None;
            self.coverage.unknown += 1;
            return self.plan(1, Plan::Wish(number));
        }
        client.attempt += 1;
        let (attempt, to) = (client.attempt, client.asks);
        let way = self.rng.random_range(1..6);
        self.plan(way, Plan::Arrives { client: number, attempt, to });
        self.plan(PATIENCE_MS, Plan::Impatient { client: number, attempt });
    }

    fn arrives(&mut self, number: u64, attempt: u64, to: Node) {
        let client = &self.clients[number as usize];
        let Some(wish) = client.wish.clone().filter(|_| client.attempt == attempt) else { return };
        let Some(store) = self.members[to].store().cloned() else {
            return self.plan(3, Plan::Answered { client: number, attempt, answer: Answer::Elsewhere(None) });
        };
        let said = self.said.clone();
        match wish {
            Wish::Write(command) => {
                if self.bug == Some(Bug::CommandsBeforeCommit) {
                    self.order(to, &command, store.applied().borrow().wrapping_add(1), None);
                }
                self.members[to].spawn(async move {
                    let result = store.write(command.clone()).await;
                    lock(&said).push(Said::Wrote { client: number, attempt, command, result });
                });
            }
            Wish::Read(artifact, job) => {
                let barrier = self.bug != Some(Bug::ReadsWithoutBarrier);
                self.members[to].spawn(async move {
                    let ready = if barrier { store.read_barrier().await } else { Ok(()) };
                    let state = store.state();
                    let result = ready.map(|()| {
                        let no_artifact = artifact.filter(|digest| !matches!(state.artifact(*digest), Ok(Some(_))));
                        let no_job = job.filter(|job| !matches!(state.job_head(*job), Ok(Some(_))));
                        let artifact = no_artifact.map(|digest| format!("artifact {digest}"));
                        artifact.or(no_job.map(|job| format!("job {job}")))
                    });
                    lock(&said).push(Said::Read { client: number, attempt, result });
                });
            }
        }
    }

    /// A member's task has something to tell.
    fn hear(&mut self, node: Node, said: Said) {
        match said {
            Said::Voted { vote, request } => {
                let granted = vote.vote_granted && vote.vote == request.vote;
                lock(&self.checker).voted(node, &vote.vote, granted);
                if granted && self.armed {
                    self.armed = false;
                    self.coverage.crashes_after_a_vote += 1;
                    let down = self.rng.random_range(5..60);
                    self.crash(node, down);
                }
            }
            Said::Wrote { client, attempt, command, result } => {
                if let Ok(written) = &result {
                    self.note(format!("member {node} wrote {} at {}", command.name(), written.index));
                    lock(&self.checker).acknowledged(node, &command, written);
                    if written.outcome == Outcome::Done {
                        self.order(node, &command, written.index, Some(written.epoch));
                    }
                }
                self.reply(client, attempt, result.map(drop));
            }
            Said::Read { client, attempt, result } => {
                match &result {
                    Ok(None) => self.coverage.reads += 1,
                    Ok(Some(missing)) => {
                        self.violated(format!("member {node} was asked for the newest state, and lacks {missing}"));
                    }
                    Err(_) => {}
                }
                self.reply(client, attempt, result.map(drop));
            }
        }
    }

    /// A JobMaster on this member acts upon an entry, in a moment, and in order.
    fn order(&mut self, node: Node, command: &Command, index: u64, epoch: Option<LeaderEpoch>) {
        let Command::PlaceExecutions { job, executions, .. } = command else { return };
        let member = &self.members[node];
        let serving = member.serving().map(LeaderEpoch);
        let Some(epoch) = epoch.or(serving).filter(|epoch| serving == Some(*epoch)) else { return };
        let life = member.starts;
        for record in executions {
            let Ok(to) = record.taskmanager.0.parse() else { continue };
            let command = cancel(*job, Fence { epoch, index }, record.attempt);
            let before = self.orders[node].back().map_or(0, |order| order.due);
            let due = before.max(self.now + self.rng.random_range(1..60));
            self.orders[node].push_back(Order { due, life, epoch, to, command });
        }
    }

    fn reply(&mut self, client: u64, attempt: u64, result: Result<(), WriteError>) {
        let answer = match result {
            Ok(()) => Answer::Done,
            Err(WriteError::NotLeader { leader }) => Answer::Elsewhere(leader.map(|(id, _)| id.0 as Node - 1)),
            Err(WriteError::Unavailable(_)) => Answer::Unknown,
            Err(_) => Answer::Elsewhere(None),
        };
        let way = self.rng.random_range(1..6);
        self.plan(way, Plan::Answered { client, attempt, answer });
    }

    fn answered(&mut self, number: u64, attempt: u64, answer: Answer) {
        let members = self.members.len();
        let client = &mut self.clients[number as usize];
        if client.attempt != attempt || client.wish.is_none() {
            return;
        }
        // Nothing that comes later for this attempt counts.
        client.attempt += 1;
        match answer {
            Answer::Done => {
                client.wish = None;
                let pause = self.rng.random_range(1..40);
                self.plan(pause, Plan::Wish(number));
            }
            Answer::Elsewhere(leader) => {
                let anybody = self.rng.random_range(0..members);
                client.asks = leader.unwrap_or(anybody);
                self.plan(20, Plan::Attempt(number));
            }
            Answer::Unknown => {
                client.asks = self.rng.random_range(0..members);
                self.plan(20, Plan::Attempt(number));
            }
        }
    }
}

async fn pass_on(mut answers: PayloadStream, push: impl Fn(Frame)) {
    while let Some(answer) = answers.next().await {
        push(Frame::Answer(answer));
    }
    push(Frame::End);
}

/// What a placement orders, in the simplest of commands.
fn cancel(job: JobId, fence: Fence, attempt: ExecutionAttemptId) -> TaskCommand {
    TaskCommand { fence, id: fence.index, job, action: Action::Cancel { attempts: vec![attempt] } }
}

/// A directory for marker and snapshots, in memory where there is one: a sync of theirs is simulated, too.
fn directory() -> PathBuf {
    let memory = Path::new("/dev/shm");
    let made = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    made.expect("the system has room for a directory").keep()
}
