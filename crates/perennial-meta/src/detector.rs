//! Notices within milliseconds that the leader's process has ended, and lets the survivors elect without waiting for
//! timers.
//!
//! While another member leads, this one holds a stream to it. When a process ends, however it ends, its kernel closes its
//! connections and its listener. So the leader's process is **gone** when the stream broke and then, at its address, either
//! a connection is *refused* twice, or another process answers. Nothing else counts: a connection that times out, a host
//! that is not reached, a stream that merely broke, a leader that is slow or stopped. There the timers of openraft decide, as
//! they would without this.
//!
//! What follows is agreed with the other survivors ([`crate::succession`]). Who stands does so the way openraft hands over a
//! leadership, which other members grant although they have heard of the old leader a moment ago. (That is why a read
//! here asks a quorum, and never relies on a leader's lease.)
//!
//! An election may come to nothing, and the leader is still gone: a death that was seen counts until another leader is known or this
//! member leads. Meanwhile the survivors agree again after each election.
//!
//! A leader that is heard again after its death was seen lives: then this member was wrong, and says so no more.

use std::collections::BTreeSet;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::raft::TransferLeaderRequest;
use perennial_rpc::raft::RaftCall;
use perennial_types::JobManagerId;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::contact::{Contact, Gone};
use crate::ground;
use crate::identity::Identity;
use crate::log::LogStore;
use crate::network::Peers;
use crate::raft::Vote;
use crate::service::Raft;
use crate::succession::{Effect, Event, GoneAnswer, LogEnd, Succession};
use crate::wire;

/// Time a leader has to accept that it is watched.
const WATCH_DEADLINE: Duration = Duration::from_millis(400);

/// Pause before a leader is watched again whose stream broke without evidence of its death; it doubles. Short at first: the
/// kernel of a process that dies closes its connections a moment before its listener.
const WATCH_PAUSE_MIN: Duration = Duration::from_millis(1);
const WATCH_PAUSE_MAX: Duration = Duration::from_secs(1);

/// Connections that have to be refused, and the pause between them: a listener that is just being replaced is no death.
const REFUSALS: u32 = 2;
const REFUSAL_PAUSE: Duration = Duration::from_millis(2);

/// Time a connection attempt has. One that takes longer says nothing.
const PROBE_DEADLINE: Duration = Duration::from_millis(200);

/// Time another member has to answer.
const ASK_DEADLINE: Duration = Duration::from_millis(100);

/// Time from seeing a death to the first turn, when nobody was let stand at once: more than an election takes on a busy machine,
/// whose candidate would otherwise lose the vote of the one whose turn it is.
const FIRST_TURN: Duration = Duration::from_millis(500);

/// Time from a turn to the next one: an election takes less.
const TURN: Duration = Duration::from_millis(100);

/// When all had their turn, they begin anew after so long.
const DOUBT: Duration = Duration::from_millis(500);

/// Time an election has before the survivors agree on the next one, and at most: it doubles with each that comes to nothing, or a disk
/// that takes longer than that would see one given up after the other.
const ELECTION_MIN: Duration = FIRST_TURN;
const ELECTION_MAX: Duration = Duration::from_secs(4);

/// Time in which the vote of a member that stands is durable; after that its turn comes again.
const STAND_DEADLINE: Duration = Duration::from_millis(500);

/// Terms a member steps through when it stands and others have had elections it knows only by hearsay: each costs a durable vote.
const CATCH_UP_MAX: usize = 8;

/// What the leader had sent before it died is still read for so long.
const LAST_WORDS: Duration = Duration::from_millis(50);

/// Questions of other members that may wait. Each of a few members asks a few times.
const INBOX_MAX: usize = 32;

/// What a member tells the others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct GoneReport {
    /// The leader's vote.
    pub(crate) vote: Vote,
    /// The newest term the telling member knows of.
    pub(crate) round: u64,
    /// Where the log of the telling member ends.
    pub(crate) end: LogEnd,
}

/// How a death was seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Evidence {
    /// Nobody listens at the leader's address any more.
    Refused,
    /// Another process has taken its place.
    Replaced,
}

/// Asks the detector on behalf of another member.
#[derive(Clone)]
pub(crate) struct DetectorHandle {
    inbox: mpsc::Sender<Told>,
}

struct Told {
    from: u64,
    report: GoneReport,
    reply: oneshot::Sender<GoneAnswer>,
}

impl DetectorHandle {
    /// Another member says that the leader is gone.
    pub(crate) async fn told(&self, from: JobManagerId, report: GoneReport) -> GoneAnswer {
        let (reply, answer) = oneshot::channel();
        // Nobody waits for a busy detector: the other one asks again.
        match self.inbox.try_send(Told { from: from.0, report, reply }) {
            Ok(()) => answer.await.unwrap_or(GoneAnswer::UNAWARE),
            Err(_) => GoneAnswer::UNAWARE,
        }
    }
}

/// What the task works with.
pub(crate) struct Context {
    pub(crate) raft: Raft,
    pub(crate) identity: Arc<Identity>,
    pub(crate) peers: Arc<Peers>,
    pub(crate) log: LogStore,
    pub(crate) contact: Arc<Contact>,
    /// Told of a leader whose process is gone, as long as no newer leader is known.
    pub(crate) gone: watch::Sender<Option<Gone>>,
    pub(crate) stop: CancellationToken,
}

/// The task.
pub(crate) struct Detector {
    context: Context,
    inbox: mpsc::Receiver<Told>,
    /// The vote this process began with. The leader of any other one has spoken to it.
    begun_with: Option<Vote>,
    case: Option<Case>,
    work: JoinSet<Done>,
}

/// One leader, as long as no newer one is known.
struct Case {
    vote: Vote,
    leader: JobManagerId,
    succession: Succession,
    /// Resolves with its death. None when that was seen.
    watching: Option<Pin<Box<dyn Future<Output = Evidence> + Send>>>,
    /// When its death was seen.
    seen: Option<Instant>,
    /// Turns taken, and when the next one is due, or when an election has had its time.
    turn: usize,
    due: Option<Instant>,
    /// Time the next election has.
    election: Duration,
}

/// What a task beside this one has come to, in the case of a leader's vote.
struct Done {
    vote: Vote,
    what: What,
}

enum What {
    Answered {
        from: u64,
        answer: GoneAnswer,
    },
    /// This member has stood after a round, or not.
    Stood {
        round: u64,
        stood: bool,
    },
}

enum Woken {
    Stopped,
    Leadership,
    Gone(Evidence),
    Told(Told),
    Done(Done),
    Due,
}

impl Detector {
    /// Prepares the task and what reaches it.
    pub(crate) fn new(context: Context) -> (Self, DetectorHandle) {
        let (sender, inbox) = mpsc::channel(INBOX_MAX);
        (Self { context, inbox, begun_with: None, case: None, work: JoinSet::new() }, DetectorHandle { inbox: sender })
    }

    /// Runs until the store stops.
    pub(crate) async fn run(mut self) {
        self.begun_with = self.context.raft.with_raft_state(|state| *state.vote_ref()).await.ok();
        let mut metrics = self.context.raft.server_metrics();
        loop {
            let (vote, voters) = {
                let now = metrics.borrow_watched();
                let voters: BTreeSet<u64> = now.membership_config.membership().voter_ids().collect();
                (now.vote, voters)
            };
            self.follow(vote, voters);
            let woken = {
                let Self { context, inbox, case, work, .. } = &mut self;
                let due = case.as_ref().and_then(|case| case.due);
                let watching = case.as_mut().and_then(|case| case.watching.as_mut());
                tokio::select! {
                    // The order decides nothing, a case is looked at again after each; a simulation needs one.
                    biased;
                    () = context.stop.cancelled() => Woken::Stopped,
                    changed = metrics.changed() => if changed.is_ok() { Woken::Leadership } else { Woken::Stopped },
                    evidence = or_never(watching) => Woken::Gone(evidence),
                    Some(told) = inbox.recv() => Woken::Told(told),
                    Some(Ok(done)) = work.join_next() => Woken::Done(done),
                    () = at(due) => Woken::Due,
                }
            };
            match woken {
                Woken::Stopped => return,
                Woken::Leadership => {}
                Woken::Gone(evidence) => self.seen(evidence),
                Woken::Told(told) => self.told(told),
                Woken::Done(done) => self.done(done),
                Woken::Due => self.due(),
            }
        }
    }

    /// Watches the leader of a newer vote. A newer vote without a leader is an election, which may come to nothing.
    fn follow(&mut self, vote: Vote, voters: BTreeSet<u64>) {
        if let Some(case) = self.case.as_mut().filter(|case| case.vote == vote || !vote.is_committed()) {
            // Members that came or went since count, but not in the middle of a succession.
            if case.seen.is_none() {
                case.succession.set_voters(voters);
            }
            if vote.leader_id().term > case.succession.round() {
                self.apply(Event::Round(vote.leader_id().term), None);
            }
            return;
        }
        self.case = None;
        self.context.gone.send_if_modified(|gone| gone.take().is_some());
        let this = self.context.identity.this();
        let (term, leader) = (vote.leader_id().term, vote.leader_id().voted_for);
        if !vote.is_committed() || leader == this.0 {
            return;
        }
        let leader = JobManagerId(leader);
        let Some(address) = self.context.identity.address(leader) else { return };
        // Noted when it is answered, and it may die before that: whoever makes this member vote for it as the leader was there.
        if self.begun_with.is_some_and(|begun_with| begun_with != vote) {
            self.context.contact.heard(leader.0);
        }
        let watching = until_gone(self.context.peers.clone(), self.context.contact.clone(), leader, address);
        self.context.contact.leads(term, leader.0);
        self.case = Some(Case {
            vote,
            leader,
            succession: Succession::new(this.0, leader.0, term, voters),
            watching: Some(Box::pin(watching)),
            seen: None,
            turn: 0,
            due: None,
            election: ELECTION_MIN,
        });
    }

    fn seen(&mut self, evidence: Evidence) {
        let Some(case) = &mut self.case else { return };
        let (term, leader) = (case.vote.leader_id().term, case.leader);
        tracing::info!(epoch = term, %leader, ?evidence, "the leader's process is gone");
        case.watching = None;
        let now = Instant::now();
        case.seen = Some(now);
        if !case.succession.is_paused() {
            case.take_turns();
        }
        let gone = Some(Gone { term, leader: leader.0, at: now });
        self.context.contact.gone(gone);
        self.context.gone.send_replace(gone);
        let own = self.log_end();
        self.apply(Event::Seen { own }, None);
    }

    fn told(&mut self, told: Told) {
        let Told { from, report, reply } = told;
        match &self.case {
            Some(case) if case.vote == report.vote => {
                let own = self.log_end();
                self.apply(Event::Told { from, round: report.round, end: report.end, own }, Some(reply));
            }
            // It follows another leader.
            _ => _ = reply.send(GoneAnswer::UNAWARE),
        }
    }

    fn done(&mut self, done: Done) {
        let Some(case) = self.case.as_ref().filter(|case| case.vote == done.vote) else { return };
        match done.what {
            What::Answered { from, answer } => {
                let own = self.log_end();
                self.apply(Event::Answered { from, answer, own }, None);
            }
            What::Stood { round, stood } if !stood && round == case.succession.round() => {
                self.apply(Event::NotStood, None);
            }
            What::Stood { .. } => {}
        }
    }

    fn due(&mut self) {
        let own = self.log_end();
        let Some(case) = &mut self.case else { return };
        case.due = None;
        let heard = self.context.contact.last_word(case.leader.0);
        if case.seen.is_some_and(|seen| heard.is_some_and(|word| word > seen + LAST_WORDS)) {
            tracing::info!(leader = %case.leader, "the leader is there after all");
            case.seen = None;
            if let Some(address) = self.context.identity.address(case.leader) {
                let watching =
                    until_gone(self.context.peers.clone(), self.context.contact.clone(), case.leader, address);
                case.watching = Some(Box::pin(watching));
            }
            self.context.contact.gone(None);
            self.context.gone.send_replace(None);
            self.apply(Event::Retracted, None);
        }
        let Some(case) = &mut self.case else { return };
        if case.succession.is_paused() {
            self.apply(Event::Waited { own }, None);
            return;
        }
        if case.seen.is_none() {
            return;
        }
        let turn = case.turn;
        case.turn += 1;
        let mut pause = TURN;
        if case.turn >= case.succession.turns() {
            (case.turn, pause) = (0, DOUBT);
        }
        case.due = Some(Instant::now() + pause);
        self.apply(Event::Turn(turn), None);
    }

    fn log_end(&self) -> LogEnd {
        // A log that has failed ends the process.
        self.context.log.last().unwrap_or_default().into()
    }

    /// Decides, and does what was decided.
    fn apply(&mut self, event: Event, mut reply: Option<oneshot::Sender<GoneAnswer>>) {
        let Some(case) = &mut self.case else { return };
        let (vote, leader, paused) = (case.vote, case.leader, case.succession.is_paused());
        let effects = case.succession.apply(event);
        let round = case.succession.round();
        if paused && !case.succession.is_paused() {
            case.take_turns();
        }
        for effect in effects {
            tracing::debug!(%leader, ?event, ?effect, "succession");
            match effect {
                Effect::Answer(answer) => {
                    if let Some(reply) = reply.take() {
                        // Whoever asked may have gone meanwhile.
                        _ = reply.send(answer);
                    }
                }
                Effect::Ask(members) => members.into_iter().for_each(|member| self.ask(vote, round, member)),
                Effect::Stand => self.stand(vote, round),
                Effect::Pause => self.pause(),
            }
        }
    }

    fn pause(&mut self) {
        if let Some(case) = &mut self.case {
            case.due = Some(Instant::now() + case.election);
            case.election = (case.election * 2).min(ELECTION_MAX);
        }
    }

    fn ask(&mut self, vote: Vote, round: u64, member: u64) {
        let report = GoneReport { vote, round, end: self.log_end() };
        let peers = self.context.peers.clone();
        self.work.spawn(async move {
            let payload = Bytes::from(wire::encode(&report));
            let answer = peers.call(JobManagerId(member), RaftCall::LeaderGone, payload, ASK_DEADLINE).await;
            let answer = answer.and_then(|bytes| wire::decode(&bytes)).unwrap_or(GoneAnswer::UNAWARE);
            Done { vote, what: What::Answered { from: member, answer } }
        });
    }

    fn stand(&mut self, vote: Vote, round: u64) {
        let (raft, this) = (self.context.raft.clone(), self.context.identity.this().0);
        tracing::info!(epoch = vote.leader_id().term, round, "standing for election");
        self.work.spawn(async move {
            let stood = stand(&raft, this, vote, round).await;
            Done { vote, what: What::Stood { round, stood } }
        });
    }
}

impl Case {
    /// Counts turns from now on.
    fn take_turns(&mut self) {
        (self.turn, self.due) = (0, Some(Instant::now() + FIRST_TURN));
    }
}

/// Stands for election as if a leader had handed over, in a term after `round`. Returns whether this member's vote is newer now,
/// its own or another's; it does nothing once there is a newer leader than that of `gone`.
async fn stand(raft: &Raft, this: u64, gone: Vote, round: u64) -> bool {
    let mut metrics = raft.server_metrics();
    // openraft goes one term further each time, whatever the others have seen.
    for _ in 0..CATCH_UP_MAX {
        let vote = metrics.borrow_and_update().vote;
        if vote.leader_id().term > round || (vote.is_committed() && vote != gone) {
            return true;
        }
        match raft.handle_transfer_leader(TransferLeaderRequest::new(vote, this, None)).await {
            Ok(Ok(())) => {}
            Ok(Err(reason)) => {
                tracing::info!(%reason, "this member could not stand for election");
                return false;
            }
            Err(stopped) => {
                tracing::debug!(%stopped, "the Raft engine has stopped");
                return false;
            }
        }
        let voted = async { while metrics.borrow_and_update().vote == vote && metrics.changed().await.is_ok() {} };
        if tokio::time::timeout(STAND_DEADLINE, voted).await.is_err() {
            tracing::info!(round, "the vote of this member is not durable in time");
            return false;
        }
    }
    false
}

/// A future that may not be there.
pub(crate) async fn or_never<F: Future + Unpin>(future: Option<F>) -> F::Output {
    match future {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}

/// Resolves at a time that may not come.
async fn at(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

/// Resolves when the leader's process is gone.
async fn until_gone(peers: Arc<Peers>, contact: Arc<Contact>, leader: JobManagerId, address: String) -> Evidence {
    let mut process = None;
    let mut pause = WATCH_PAUSE_MIN;
    loop {
        let begun = Instant::now();
        if let Ok((incarnation, mut words)) = peers.watch(leader, WATCH_DEADLINE).await {
            if process.is_some_and(|known| known != incarnation) {
                return Evidence::Replaced;
            }
            process = Some(incarnation);
            // It says nothing more; what counts is the end.
            while let Some(Ok(_)) = words.next().await {}
        }
        // Before it was reached or heard once, a refusal may mean that it does not listen yet.
        let was_there = process.is_some() || contact.last_word(leader.0).is_some();
        if was_there && is_refused(&address).await {
            return Evidence::Refused;
        }
        if begun.elapsed() > WATCH_PAUSE_MAX {
            pause = WATCH_PAUSE_MIN;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(WATCH_PAUSE_MAX);
    }
}

/// Whether nobody listens at an address on a host that answers.
async fn is_refused(address: &str) -> bool {
    for attempt in 0..REFUSALS {
        if attempt > 0 {
            tokio::time::sleep(REFUSAL_PAUSE).await;
        }
        let refused = match tokio::time::timeout(PROBE_DEADLINE, ground::connect(address)).await {
            Ok(Err(error)) => error.kind() == std::io::ErrorKind::ConnectionRefused,
            _ => false,
        };
        if !refused {
            return false;
        }
    }
    true
}
