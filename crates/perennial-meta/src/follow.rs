//! The task that follows openraft's metrics: tells who leads, opens a leadership, and notices when the member fails.

use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use openraft::async_runtime::watch::WatchReceiver;
use openraft::type_config::alias::InstantOf;
use openraft::{ChangeMembers, Instant, RaftMetrics, ServerState};
use perennial_types::{ClusterId, ElectionCause, JobManagerId, LeaderEpoch};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::command::Command;
use crate::contact::{Contact, Gone};
use crate::detector::or_never;
use crate::ground;
use crate::identity::Identity;
use crate::kv::{self, list};
use crate::leadership::{Beginning, Leader, LeadershipView};
use crate::log::LogStore;
use crate::machine::Progress;
use crate::marker::{Floor, MarkerFile};
use crate::members::Members;
use crate::network::Peers;
use crate::raft::{LogId, Proposal, TypeConfig};
use crate::service::Raft;
use crate::silence::Silence;
use crate::state::{Shared, StateDb};

/// Entries a follower may get ahead of what is remembered of it before that is written again, and time after which it
/// is written however few they are, with how far this member has come: one small write a second while the log grows.
const REMEMBER_ENTRIES: u64 = 1000;
const REMEMBER_PAUSE: Duration = Duration::from_secs(1);

/// The first entries of a leadership are proposed again after so long. openraft refuses them until a quorum has answered
/// the new leader once, which takes a few milliseconds.
const OPENING_PAUSE: Duration = Duration::from_millis(5);

/// What the task works with.
pub(crate) struct Follow {
    pub(crate) raft: Raft,
    pub(crate) log: LogStore,
    pub(crate) identity: Arc<Identity>,
    pub(crate) marker: Arc<MarkerFile>,
    pub(crate) progress: watch::Receiver<Progress>,
    pub(crate) contact: Arc<Contact>,
    pub(crate) peers: Arc<Peers>,
    /// When this member, leading, stops talking.
    pub(crate) silence: Silence<InstantOf<TypeConfig>>,
    /// The leader whose process is gone.
    pub(crate) gone: watch::Receiver<Option<Gone>>,
    pub(crate) state: StateDb,
    pub(crate) view: watch::Sender<LeadershipView>,
    /// How this member's newest leadership began; told before the view says that it serves.
    pub(crate) beginning: watch::Sender<Option<Beginning>>,
    pub(crate) fatal: watch::Sender<Option<String>>,
    /// A leader whom no quorum has acknowledged for so long stops serving.
    pub(crate) lease: Duration,
    /// How often the lease is looked at.
    pub(crate) tick: Duration,
    pub(crate) stop: CancellationToken,
}

/// A leadership of this member, from its election on.
#[derive(Clone, Copy)]
struct Begun {
    term: u64,
    cause: ElectionCause,
    lost: tokio::time::Instant,
    elected: tokio::time::Instant,
}

impl Follow {
    pub(crate) async fn run(mut self) {
        // What changes with every entry is read when this wakes, and does not wake it: it runs beside every commit.
        let metrics = self.raft.metrics();
        let mut server = self.raft.server_metrics();
        let mut tick = tokio::time::interval(self.tick);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut remembered = tokio::time::Instant::now();
        let mut remembering: Option<tokio::task::JoinHandle<io::Result<()>>> = None;
        let mut begun: Option<Begun> = None;
        let mut opening: Option<(u64, tokio::task::JoinHandle<()>)> = None;
        let mut failed = None;
        let mut members_seen = None;
        loop {
            let now = metrics.borrow_watched().clone();
            if now.running_state.is_err() {
                break;
            }
            let progress = *self.progress.borrow_and_update();
            self.follow_members(&now, progress, &mut members_seen);
            let gone = *self.gone.borrow_and_update();
            if now.state == ServerState::Leader {
                if begun.is_none_or(|begun| begun.term != now.current_term) {
                    let (cause, lost) = self.contact.lost();
                    begun = Some(Begun { term: now.current_term, cause, lost, elected: tokio::time::Instant::now() });
                    self.contact.leads(now.current_term, self.identity.this().0);
                }
                self.contact.heard(self.identity.this().0);
            }
            let silent = self.is_silent(&now);
            self.peers.set_silent(silent);
            let view = self.view_of(&now, progress, gone);
            if let (Some(epoch), Some(begun)) = (view.serving, begun) {
                self.tell_beginning(epoch, begun);
            }
            let changed = self.view.send_if_modified(|current| {
                let changed = *current != view;
                current.clone_from(&view);
                changed
            });
            if changed {
                let leader = view.leader.as_ref().map(|leader| leader.id.0);
                tracing::info!(epoch = view.epoch.0, leader, serving = view.serving.is_some(), "leadership");
            }
            let opened = progress.lead == Some((LeaderEpoch(now.current_term), self.identity.this()));
            let must_open = now.state == ServerState::Leader && !opened;
            if must_open && opening.as_ref().is_none_or(|(term, _)| *term != now.current_term) {
                if let Some((_, older)) = opening.take() {
                    older.abort();
                }
                let task = open_leadership(self.raft.clone(), self.identity.this(), self.marker.cluster().is_none());
                opening = Some((now.current_term, tokio::spawn(task)));
            }
            // Who leads is told meanwhile: the disk may take seconds.
            if remembering.is_none() {
                remembering = self.remember(&now, remembered.elapsed() >= REMEMBER_PAUSE);
            }
            tokio::select! {
                // Each ends the loop or wakes it, so any order will do; a simulation needs one.
                biased;
                () = self.stop.cancelled() => break,
                reason = self.log.failed() => {
                    failed = Some(reason);
                    break;
                }
                written = or_never(remembering.as_mut()) => {
                    (remembering, remembered) = (None, tokio::time::Instant::now());
                    if let Ok(Err(error)) = written {
                        failed = Some(error.to_string());
                        break;
                    }
                }
                changed = server.changed() => if changed.is_err() { break },
                changed = self.progress.changed() => if changed.is_err() { break },
                changed = self.gone.changed() => if changed.is_err() { break },
                _ = tick.tick() => {}
            }
        }
        if let Some((_, task)) = opening {
            task.abort();
        }
        // The engine may also end without a last word here: its channels close when the state cannot be written.
        if !self.stop.is_cancelled() {
            let reason = match (failed, &metrics.borrow_watched().running_state) {
                (Some(reason), _) => reason,
                (None, Err(fatal)) => fatal.to_string(),
                (None, Ok(())) => "the Raft engine ended by itself; the log says why".to_owned(),
            };
            self.fatal.send_replace(Some(format!("the metadata store has failed: {reason}")));
        }
        self.view.send_modify(|view| view.serving = None);
    }

    /// Whether this member leads, and nobody answers it.
    fn is_silent(&mut self, now: &RaftMetrics<TypeConfig>) -> bool {
        let alone = self.identity.members().is_sole_voter(self.identity.this());
        if now.state != ServerState::Leader || alone {
            self.silence.rests();
            return false;
        }
        let acknowledged = now.last_quorum_acked.map(|at| *at);
        self.silence.leads(now.current_term, acknowledged, tokio::time::Instant::now())
    }

    /// Tells once how a leadership began.
    fn tell_beginning(&self, epoch: LeaderEpoch, begun: Begun) {
        let Begun { cause, lost, elected, .. } = begun;
        self.beginning.send_if_modified(|told| {
            let new = told.is_none_or(|told| told.epoch != epoch);
            if new {
                let (lost, elected) = (lost.into_std(), elected.into_std());
                let serving = tokio::time::Instant::now().into_std();
                *told = Some(Beginning { epoch, cause, lost, elected, serving });
            }
            new
        });
    }

    /// Takes over what the log says of the members, when it says something new or that is applied.
    fn follow_members(
        &self,
        now: &RaftMetrics<TypeConfig>,
        progress: Progress,
        seen: &mut Option<(Option<LogId>, bool)>,
    ) {
        let id = *now.membership_config.log_id();
        let applied = id.is_some_and(|id| id.index <= progress.applied);
        if *seen == Some((id, applied)) {
            return;
        }
        let members = Members::read(&now.membership_config, self.identity.founders());
        match list::<kv::removed_member::RemovedMember>(&Shared(&self.state), &[]) {
            Ok(removed) => {
                self.identity.set_logged(members, removed);
                *seen = Some((id, applied));
            }
            Err(error) => tracing::error!(%error, "the removed members cannot be read"),
        }
    }

    fn view_of(&self, now: &RaftMetrics<TypeConfig>, progress: Progress, gone: Option<Gone>) -> LeadershipView {
        let this = self.identity.this();
        let epoch = LeaderEpoch(now.current_term);
        let is_gone = |id: &u64| gone.is_some_and(|gone| gone.term == now.current_term && gone.leader == *id);
        let leader = now.current_leader.filter(|id| !is_gone(id)).map(JobManagerId);
        let leader = leader.and_then(|id| Some(Leader { id, address: self.identity.address(id)? }));
        let alone = self.identity.members().is_sole_voter(this);
        let acknowledged = now.last_quorum_acked.is_some_and(|at| at.elapsed() < self.lease);
        let leads = now.state == ServerState::Leader
            && now.current_leader == Some(this.0)
            && progress.lead == Some((epoch, this))
            && self.marker.cluster().is_some()
            && (alone || acknowledged);
        LeadershipView { epoch, leader, serving: leads.then_some(epoch) }
    }

    /// Remembers how far this member and each follower have come, so that it is found out when one of them comes back with
    /// less. Returns what writes it, if there is anything to write.
    fn remember(&self, now: &RaftMetrics<TypeConfig>, due: bool) -> Option<tokio::task::JoinHandle<io::Result<()>>> {
        let own = self.log.floor();
        let committed = now.local_committed.map_or(0, |id| id.index);
        let known = self.marker.get().members;
        let mut raised = Vec::new();
        for (id, matched) in now.replication.iter().flatten() {
            let (Some(matched), Some(member)) = (matched, known.get(id)) else { continue };
            let floor = Floor { term: now.current_term, index: matched.index.min(committed) };
            let entries_due = if due { 1 } else { REMEMBER_ENTRIES };
            if floor.term > member.floor.term || floor.index >= member.floor.index + entries_due {
                raised.push((*id, floor.max(member.floor)));
            }
        }
        if raised.is_empty() && !(due && own > self.marker.index_floor()) {
            return None;
        }
        let marker = self.marker.clone();
        Some(ground::spawn_blocking(move || {
            marker.update(|marker| {
                marker.floor.index = marker.floor.index.max(own);
                for (id, floor) in raised {
                    if let Some(member) = marker.members.get_mut(&id) {
                        member.floor = member.floor.max(floor);
                    }
                }
            })
        }))
    }
}

/// Proposes the first entries of a leadership until they are applied or it is over.
async fn open_leadership(raft: Raft, this: JobManagerId, unnamed: bool) {
    loop {
        let mut proposed = Ok(());
        if unnamed {
            proposed = propose(&raft, &Command::Bootstrap { cluster: ClusterId::random() }).await;
        }
        if proposed.is_ok() {
            let lead = Command::Lead { leader: this, at_ms: unix_ms() };
            proposed = propose(&raft, &lead).await;
        }
        if proposed.is_ok() {
            // The leader before may have died between the two entries of a change of the members.
            proposed = finish_change(&raft).await;
        }
        match proposed {
            Ok(()) => return,
            Err(error) => tracing::debug!(error, "the leadership could not be opened yet"),
        }
        if !raft.is_leader() {
            return;
        }
        tokio::time::sleep(OPENING_PAUSE).await;
    }
}

/// Completes a change of the members that was left half done.
pub(crate) async fn finish_change(raft: &Raft) -> Result<(), String> {
    let joint = raft.metrics().borrow_watched().membership_config.get_joint_config().len() > 1;
    if !joint {
        return Ok(());
    }
    let nobody = ChangeMembers::AddVoterIds(Default::default());
    raft.change_membership(nobody, false).await.map(drop).map_err(|error| error.to_string())
}

async fn propose(raft: &Raft, command: &Command) -> Result<(), String> {
    let written = raft.client_write(Proposal(command.encode().into())).await;
    written.map(drop).map_err(|error| error.to_string())
}

pub(crate) fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
