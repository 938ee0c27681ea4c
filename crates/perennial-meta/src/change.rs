//! Changes of the group: who leads, and who is a member. One at a time, on the leader.
//!
//! Raft would carry out many a change that leaves the group without a quorum. What is refused, and why, is decided here from
//! how the leader sees the members now; the rules are pure.

use std::time::{Duration, Instant};

use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{ClientWriteError, RaftError};
use openraft::raft::ClientWriteResponse;
use openraft::{ChangeMembers, Instant as _, ServerState};
use perennial_rpc::dispatcher::Unavailable;
use perennial_rpc::group::{ChangedMember, GroupError, GroupMember, LeaderTransfer, Place};
use perennial_rpc::raft::RaftCall;
use perennial_types::{JobManagerId, LeaderEpoch};

use crate::error::WriteError;
use crate::follow::finish_change;
use crate::identity::removed_text;
use crate::kv::{self, list};
use crate::members::{Members, stored_node};
use crate::raft::TypeConfig;
use crate::state::Shared;
use crate::store::{MetaStore, WRITE_DEADLINE};
use crate::wire;

/// A member that acknowledged the leader within this time counts as reached: many heartbeats.
const REACHED_WITHIN: Duration = Duration::from_secs(2);

/// Entries a learner may lack when it gets a vote: replicated within a moment.
const PROMOTION_LAG_MAX: u64 = 1000;

/// Time a member has to take over.
const TAKE_OVER_DEADLINE: Duration = Duration::from_millis(1500);

/// Time the others have to elect, after the one that was asked did not take over.
const ELECTION_DEADLINE: Duration = Duration::from_secs(3);

/// Time a removed member has to hear of it; it finds out by itself later.
const FAREWELL_DEADLINE: Duration = Duration::from_secs(1);

/// A member as the leader sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    id: JobManagerId,
    name: String,
    address: String,
    voter: bool,
    /// Whether it is the leader itself.
    this: bool,
    /// Since its last acknowledgement; `None` when there was none in this leadership.
    silence: Option<Duration>,
    /// Entries it lacks; `None` before its first acknowledgement.
    lag: Option<u64>,
}

impl Seen {
    fn is_reached(&self) -> bool {
        self.this || self.silence.is_some_and(|silence| silence <= REACHED_WITHIN)
    }

    fn silent_for(&self) -> String {
        match self.silence {
            Some(silence) => format!("was last heard of {} ms ago", silence.as_millis()),
            None => "was not heard of by this leader".to_owned(),
        }
    }

    fn member(&self) -> GroupMember {
        GroupMember { id: self.id, name: self.name.clone(), address: self.address.clone(), voter: self.voter }
    }
}

/// The member that is meant by a number or a name.
fn find<'a>(members: &'a [Seen], who: &str) -> Result<&'a Seen, GroupError> {
    let number = who.strip_prefix("jm-").unwrap_or(who).parse::<u64>().ok();
    let named = members.iter().find(|member| member.name == who);
    let numbered = || members.iter().find(|member| Some(member.id.0) == number);
    named.or_else(numbered).ok_or_else(|| {
        let known: Vec<String> = members.iter().map(|member| format!("{} ({})", member.name, member.id.0)).collect();
        GroupError::UnknownMember(format!("no member {who}; there are {}", known.join(", ")))
    })
}

/// Whom to hand the leadership to.
fn may_lead(members: &[Seen], to: Option<&str>) -> Result<Seen, GroupError> {
    let Some(who) = to else {
        let others = members.iter().filter(|member| member.voter && !member.this && member.is_reached());
        // The one that is furthest, and the first of those.
        let best = others.min_by_key(|member| (member.lag.unwrap_or(u64::MAX), member.id));
        return best.cloned().ok_or_else(|| {
            GroupError::Refused("no other member that votes is reached; start one, or promote a learner".to_owned())
        });
    };
    let member = find(members, who)?;
    let refused = match member {
        Seen { this: true, name, .. } => format!("{name} leads already"),
        Seen { voter: false, name, .. } => {
            format!("{name} is a learner and cannot lead; promote it first: perennial member promote {name}")
        }
        member if !member.is_reached() => {
            format!("{} {}; start it, or name another member", member.name, member.silent_for())
        }
        member => return Ok(member.clone()),
    };
    Err(GroupError::Refused(refused))
}

/// Whether a learner may get a vote: one that lags or is not there would count for the quorum and not help to make it.
fn may_promote(member: &Seen) -> Result<(), GroupError> {
    let name = &member.name;
    if !member.is_reached() {
        return Err(GroupError::Refused(format!(
            "{name} {}; start it, and promote it when perennial member list shows no lag",
            member.silent_for()
        )));
    }
    match member.lag {
        Some(lag) if lag <= PROMOTION_LAG_MAX => Ok(()),
        lag => {
            let lag = lag.map_or_else(|| "all".to_owned(), |lag| lag.to_string());
            Err(GroupError::Refused(format!(
                "{name} lacks {lag} entries of the log, {PROMOTION_LAG_MAX} are allowed; promote it when perennial member list \
                 shows less"
            )))
        }
    }
}

/// Whether the group has a quorum of reached members after one is gone.
fn may_remove(members: &[Seen], member: &Seen) -> Result<(), GroupError> {
    if !member.voter {
        return Ok(());
    }
    let left: Vec<&Seen> = members.iter().filter(|other| other.voter && other.id != member.id).collect();
    if left.is_empty() {
        return Err(GroupError::Refused(format!(
            "{} is the only member that votes; add and promote another one before it is removed",
            member.name
        )));
    }
    let quorum = left.len() / 2 + 1;
    let away: Vec<String> = left
        .iter()
        .filter(|other| !other.is_reached())
        .map(|other| format!("{} {}", other.name, other.silent_for()))
        .collect();
    let reached = left.len() - away.len();
    if reached < quorum {
        return Err(GroupError::Refused(format!(
            "without {} the group would have no quorum: {reached} of its {} members would be reached, and {quorum} are needed; \
             {}; start it, or remove it first",
            member.name,
            left.len(),
            away.join("; ")
        )));
    }
    Ok(())
}

/// Whether a new member may have this name and address. `Some` when it is there already.
fn may_add(
    members: &[Seen],
    removed: &[(u64, String)],
    name: &str,
    address: &str,
) -> Result<Option<GroupMember>, GroupError> {
    let bad = |character: char| character.is_whitespace() || "=,".contains(character);
    if name.is_empty() || name.contains(bad) {
        return Err(GroupError::Refused(format!(
            "`{name}` is no name: it must not be empty, nor have spaces, `=` or `,`"
        )));
    }
    let port = address.rsplit_once(':').filter(|(host, _)| !host.is_empty() && !host.contains(bad));
    if port.is_none_or(|(_, port)| port.parse::<u16>().is_err()) {
        return Err(GroupError::Refused(format!("`{address}` is no address: expected host:port of its RPC port")));
    }
    if let Some(member) = members.iter().find(|member| member.name == name) {
        return match member.address == address {
            true => Ok(Some(member.member())),
            false => Err(GroupError::Refused(format!(
                "{name} is a member already, at {}; give the new one another name",
                member.address
            ))),
        };
    }
    if let Some(member) = members.iter().find(|member| member.address == address) {
        return Err(GroupError::Refused(format!("{address} is the address of {}; correct it", member.name)));
    }
    if removed.iter().any(|(_, gone)| gone == name) {
        return Err(GroupError::Refused(format!(
            "a member {name} was removed before, and a name is used once, so that its old directory cannot come back as the new \
             one; choose another name"
        )));
    }
    Ok(None)
}

/// A number nobody has had.
fn fresh_id(members: &[Seen], removed: &[(u64, String)]) -> u64 {
    let used = members.iter().map(|member| member.id.0).chain(removed.iter().map(|(id, _)| *id));
    used.max().unwrap_or(0) + 1
}

impl MetaStore {
    /// Hands the leadership to a member, by number or name, or to the one that is furthest. Resolves when it leads.
    pub async fn transfer_leader(&self, to: Option<&str>) -> Result<LeaderTransfer, GroupError> {
        let seen = self.seen()?;
        let to = may_lead(&seen, to)?;
        let from = seen.iter().find(|member| member.this).map(Seen::member);
        let from = from.ok_or_else(|| GroupError::Refused("the leader was removed from the group".to_owned()))?;
        let old_epoch = self.leadership().borrow().epoch;
        let begun = Instant::now();
        let (leader, epoch) = self.hand_over_to(to.id).await?;
        let gap_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        if leader != to.id {
            let leads = seen.iter().find(|member| member.id == leader).map_or("another member", |it| &it.name);
            return Err(GroupError::Refused(format!("{} did not take over in time; {leads} leads now", to.name)));
        }
        Ok(LeaderTransfer { from, to: to.member(), old_epoch, new_epoch: epoch, gap_ms })
    }

    /// Takes in a new member without a vote, under a number nobody has had.
    pub async fn add_member(&self, name: &str, address: &str) -> Result<ChangedMember, GroupError> {
        let _alone = self.change_alone().await?;
        let (seen, removed) = (self.seen()?, self.removed_members()?);
        if let Some(member) = may_add(&seen, &removed, name, address)? {
            return Ok(ChangedMember { member, was_so: true });
        }
        let id = fresh_id(&seen, &removed);
        let (name, address) = (name.to_owned(), address.to_owned());
        let change = ChangeMembers::AddNodes([(id, stored_node(&name, &address))].into());
        self.change(change).await?;
        tracing::info!(id, name, address, "member added as a learner");
        let member = GroupMember { id: JobManagerId(id), name, address, voter: false };
        Ok(ChangedMember { member, was_so: false })
    }

    /// Gives a learner a vote, if it is reached and lacks next to nothing.
    pub async fn promote_member(&self, who: &str) -> Result<ChangedMember, GroupError> {
        let _alone = self.change_alone().await?;
        let seen = self.seen()?;
        let member = find(&seen, who)?;
        if member.voter {
            return Ok(ChangedMember { member: member.member(), was_so: true });
        }
        may_promote(member)?;
        self.change(ChangeMembers::AddVoterIds([member.id.0].into())).await?;
        tracing::info!(id = member.id.0, name = member.name, "member promoted to a voter");
        Ok(ChangedMember { member: GroupMember { voter: true, ..member.member() }, was_so: false })
    }

    /// Takes a member out for good, if those that are left and reached make a quorum. A leader that is to be removed hands
    /// over and answers that it does not lead: the next leader removes it.
    pub async fn remove_member(&self, who: &str) -> Result<ChangedMember, GroupError> {
        let _alone = self.change_alone().await?;
        let (seen, removed) = (self.seen()?, self.removed_members()?);
        let member = match find(&seen, who) {
            Ok(member) => member.clone(),
            Err(unknown) => {
                let gone = removed.into_iter().find(|(id, name)| name == who || id.to_string() == who);
                let (id, name) = gone.ok_or(unknown)?;
                let member = GroupMember { id: JobManagerId(id), name, address: String::new(), voter: false };
                return Ok(ChangedMember { member, was_so: true });
            }
        };
        may_remove(&seen, &member)?;
        if member.this {
            let next = may_lead(&seen, None)?;
            let (leader, _) = self.hand_over_to(next.id).await?;
            return Err(Unavailable::NoLeader { reason: format!("it handed over to {leader}") }.into());
        }
        // Made before: afterwards its address is no longer known.
        let client = self.inner.peers.client(member.id).ok();
        let change = match member.voter {
            true => ChangeMembers::RemoveVoters([member.id.0].into()),
            false => ChangeMembers::RemoveNodes([member.id.0].into()),
        };
        self.change(change).await?;
        tracing::info!(id = member.id.0, name = member.name, "member removed");
        if let Some(client) = client {
            let payload = wire::encode(&removed_text(&member.name, member.id)).into();
            let identity = self.inner.identity.toward(member.id);
            if let Err(error) = client.call(RaftCall::Farewell, identity, payload, FAREWELL_DEADLINE).await {
                tracing::debug!(%error, "the removed member did not hear of it");
            }
        }
        Ok(ChangedMember { member: member.member(), was_so: false })
    }

    /// What a process of this name has to know to join; `None` when it was not added, as far as is applied here. Names and
    /// numbers are used once, so what was true stays true until the member is removed.
    pub fn find_place(&self, name: &str) -> Result<Option<Place>, GroupError> {
        let unreadable = |error: kv::StateError| Unavailable::Store { reason: error.to_string() };
        let stored = self.inner.state.membership().map_err(unreadable)?;
        let members = Members::read(&stored, &self.inner.config.peers);
        let Some(cluster) = self.inner.marker.cluster() else { return Ok(None) };
        let Some(id) = members.nodes.iter().find(|(_, node)| node.name == name).map(|(id, _)| *id) else {
            let removed = self.removed_members()?;
            return match removed.into_iter().find(|(_, gone)| gone == name) {
                Some((id, name)) => Err(GroupError::Refused(removed_text(&name, JobManagerId(id)))),
                None => Ok(None),
            };
        };
        let index = members.index;
        let member = |(id, node): (u64, crate::members::Node)| GroupMember {
            id: JobManagerId(id),
            name: node.name,
            address: node.address,
            voter: node.voter,
        };
        let members = members.nodes.into_iter().map(member).collect();
        Ok(Some(Place { cluster, group: self.inner.identity.group(), id: JobManagerId(id), index, members }))
    }

    /// The members as this leader sees them.
    fn seen(&self) -> Result<Vec<Seen>, GroupError> {
        let this = self.inner.identity.this();
        let metrics = self.inner.raft.metrics();
        let metrics = metrics.borrow_watched();
        if metrics.state != ServerState::Leader {
            return Err(Unavailable::NoLeader { reason: format!("{this} does not lead") }.into());
        }
        let last = metrics.last_log_index.unwrap_or(0);
        let members = Members::read(&metrics.membership_config, &self.inner.config.peers);
        let seen = members.nodes.into_iter().map(|(id, node)| {
            let heard = metrics.heartbeat.as_ref().and_then(|heartbeat| heartbeat.get(&id)?.as_ref());
            let matched = metrics.replication.as_ref().and_then(|replication| *replication.get(&id)?);
            Seen {
                id: JobManagerId(id),
                name: node.name,
                address: node.address,
                voter: node.voter,
                this: id == this.0,
                silence: heard.map(|at| at.elapsed()),
                lag: matched.map(|matched| last.saturating_sub(matched.index)),
            }
        });
        Ok(seen.collect())
    }

    fn removed_members(&self) -> Result<Vec<(u64, String)>, GroupError> {
        let removed = list::<kv::removed_member::RemovedMember>(&Shared(&self.inner.state), &[]);
        removed.map_err(|error| Unavailable::Store { reason: error.to_string() }.into())
    }

    /// Waits for nothing: holds off other changes, on a leader that has completed those before.
    async fn change_alone(&self) -> Result<tokio::sync::MutexGuard<'_, ()>, GroupError> {
        let alone = self.inner.changing.try_lock().map_err(|_| under_way())?;
        self.read_barrier().await.map_err(unavailable)?;
        let finished = tokio::time::timeout(WRITE_DEADLINE, finish_change(&self.inner.raft)).await;
        match finished {
            Ok(Ok(())) => Ok(alone),
            Ok(Err(reason)) => Err(Unavailable::Store { reason }.into()),
            Err(_) => Err(under_way()),
        }
    }

    async fn change(
        &self,
        change: ChangeMembers<u64, openraft::impls::BasicNode>,
    ) -> Result<ClientWriteResponse<TypeConfig>, GroupError> {
        let changed = self.inner.raft.change_membership(change, false);
        match tokio::time::timeout(WRITE_DEADLINE, changed).await {
            Ok(Ok(changed)) => Ok(changed),
            Ok(Err(RaftError::APIError(ClientWriteError::ChangeMembershipError(error)))) => {
                Err(GroupError::Refused(format!("the members cannot be changed now: {error}; try again")))
            }
            Ok(Err(error)) => Err(Unavailable::NoLeader { reason: error.to_string() }.into()),
            Err(_) => Err(Unavailable::Store {
                reason: format!(
                    "no quorum took the change within {} s, it may still happen; say it again",
                    WRITE_DEADLINE.as_secs()
                ),
            }
            .into()),
        }
    }

    /// Has a member lead, and waits until somebody else does.
    async fn hand_over_to(&self, next: JobManagerId) -> Result<(JobManagerId, LeaderEpoch), GroupError> {
        let raft = &self.inner.raft;
        let stopped = || unavailable(WriteError::Stopped);
        raft.trigger().transfer_leader(next.0).await.map_err(|_| stopped())?;
        if let Ok(led) = tokio::time::timeout(TAKE_OVER_DEADLINE, self.other_leader()).await {
            return led.ok_or_else(stopped);
        }
        // openraft takes no writes any more and does not step back. Without heartbeats the others elect.
        raft.runtime_config().heartbeat(false);
        let led = tokio::time::timeout(ELECTION_DEADLINE, self.other_leader()).await;
        raft.runtime_config().heartbeat(true);
        let nobody = || Unavailable::NoLeader { reason: format!("{next} did not take over, and nobody else did") };
        led.map_err(|_| nobody())?.ok_or_else(stopped)
    }

    /// Who else leads, and in which epoch, once somebody does. `None` when the engine has ended.
    async fn other_leader(&self) -> Option<(JobManagerId, LeaderEpoch)> {
        let this = self.inner.identity.this().0;
        let mut metrics = self.inner.raft.metrics();
        loop {
            {
                let now = metrics.borrow_watched();
                if let Some(leader) = now.current_leader.filter(|leader| *leader != this) {
                    return Some((JobManagerId(leader), LeaderEpoch(now.current_term)));
                }
            }
            metrics.changed().await.ok()?;
        }
    }
}

fn under_way() -> GroupError {
    GroupError::Refused("another change of the group is under way; try again when it has ended".to_owned())
}

fn unavailable(error: WriteError) -> GroupError {
    let reason = error.to_string();
    match error {
        WriteError::NotLeader { .. } => Unavailable::NoLeader { reason }.into(),
        _ => Unavailable::Store { reason }.into(),
    }
}

#[cfg(test)]
mod tests;
