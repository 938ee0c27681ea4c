//! Who this member is, who the others are, and whether a caller is one of them. Checked in every call, on both sides.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use perennial_rpc::raft::{RaftIdentity, RaftRpcError};
use perennial_types::{Incarnation, JobManagerId};
use tokio::sync::watch;

use crate::config::{MetaConfig, Peer};
use crate::marker::MarkerFile;
use crate::members::{Members, Node};

/// Different complaints logged; each is logged once. Bounded because peers may be of any opinion.
const COMPLAINTS_MAX: usize = 64;

/// This member among its peers.
pub(crate) struct Identity {
    this: JobManagerId,
    group: u64,
    founders: Vec<Peer>,
    data_dir: PathBuf,
    incarnation: Incarnation,
    start: u64,
    marker: Arc<MarkerFile>,
    /// The members as this one's log has them.
    logged: Mutex<Arc<Members>>,
    /// The newest of that and of what others have said.
    members: watch::Sender<Arc<Members>>,
    /// Names of those that were removed, by number.
    removed: Mutex<BTreeMap<u64, String>>,
    speakers: Mutex<Speakers>,
    complaints: Mutex<BTreeSet<(u64, String)>>,
    /// Addresses by name, where the configuration knows better than the membership.
    addresses: BTreeMap<String, String>,
    fatal: watch::Sender<Option<String>>,
}

impl Identity {
    pub(crate) fn new(config: &MetaConfig, marker: Arc<MarkerFile>, fatal: watch::Sender<Option<String>>) -> Self {
        let held = marker.get();
        let own = (config.name.clone(), config.address.clone());
        let configured = config.peers.iter().map(|peer| (peer.name.clone(), peer.address.clone()));
        // Before the group is founded the peer list is all there is.
        let founding = match held.cluster {
            None => Members::founding(&config.peers),
            Some(_) => Members::default(),
        };
        Self {
            this: JobManagerId(held.member),
            group: held.group,
            founders: config.peers.clone(),
            data_dir: config.data_dir.clone(),
            incarnation: Incarnation::random(),
            start: held.start,
            marker,
            logged: Mutex::default(),
            members: watch::channel(Arc::new(founding)).0,
            removed: Mutex::default(),
            speakers: Mutex::default(),
            complaints: Mutex::default(),
            addresses: std::iter::once(own).chain(configured).collect(),
            fatal,
        }
    }

    /// This member's number.
    pub(crate) fn this(&self) -> JobManagerId {
        self.this
    }

    /// This life of this process.
    pub(crate) fn incarnation(&self) -> Incarnation {
        self.incarnation
    }

    /// Hash of the founding members' names.
    pub(crate) fn group(&self) -> u64 {
        self.group
    }

    /// The peer list of the configuration.
    pub(crate) fn founders(&self) -> &[Peer] {
        &self.founders
    }

    /// All members, as far as is known.
    pub(crate) fn members(&self) -> Arc<Members> {
        self.members.borrow().clone()
    }

    /// Follows them.
    pub(crate) fn watch_members(&self) -> watch::Receiver<Arc<Members>> {
        self.members.subscribe()
    }

    /// Takes what the log says now; it may also fall back behind an entry that was not committed.
    pub(crate) fn set_logged(&self, members: Members, removed: Vec<(u64, String)>) {
        *self.removed.lock().unwrap_or_else(PoisonError::into_inner) = removed.into_iter().collect();
        if members.nodes.is_empty() {
            return;
        }
        let members = Arc::new(members);
        let mut logged = self.logged.lock().unwrap_or_else(PoisonError::into_inner);
        self.members.send_if_modified(|current| {
            // What others have said is committed there, and stays until the log here has come so far.
            let heard = **current != **logged && current.index > members.index;
            let changed = !heard && *current != members;
            if changed {
                current.clone_from(&members);
            }
            changed
        });
        *logged = members;
    }

    /// Takes what another member has said of the members, if that is newer.
    pub(crate) fn hear_of(&self, members: Members) {
        self.members.send_if_modified(|current| {
            let newer = !members.nodes.is_empty() && (current.nodes.is_empty() || members.index > current.index);
            if newer {
                *current = Arc::new(members);
            }
            newer
        });
    }

    /// Where a member is reached: hosts may see different addresses, so the own configuration goes first.
    pub(crate) fn address_of(&self, node: &Node) -> String {
        self.addresses.get(&node.name).unwrap_or(&node.address).clone()
    }

    /// The same by number.
    pub(crate) fn address(&self, id: JobManagerId) -> Option<String> {
        self.members().nodes.get(&id.0).map(|node| self.address_of(node))
    }

    /// What a call to a member says of its sender.
    pub(crate) fn toward(&self, to: JobManagerId) -> RaftIdentity {
        let (group, incarnation, start) = (self.group, self.incarnation, self.start);
        RaftIdentity { cluster: self.marker.cluster(), group, from: self.this, to, incarnation, start }
    }

    /// Notes which process of a member speaks from now on, unless a later one has spoken.
    pub(crate) fn greet(&self, from: &RaftIdentity) {
        self.speakers.lock().unwrap_or_else(PoisonError::into_inner).greets(from.from.0, from.start, from.incarnation);
    }

    /// Whether the caller is a member of this group and means this member.
    pub(crate) fn check(&self, from: &RaftIdentity) -> Result<(), RaftRpcError> {
        let checked = self.mismatch(from).map_or(Ok(()), |reason| Err(RaftRpcError::Refused(reason)));
        let checked = checked.and_then(|()| self.check_removed(from.from));
        if let Err(RaftRpcError::Refused(reason) | RaftRpcError::Removed(reason)) = &checked {
            self.complain(from.from, &format!("a call of {} was refused: {reason}", from.from));
        }
        checked
    }

    /// The same, and that no newer process has taken the caller's place.
    pub(crate) fn check_current(&self, from: &RaftIdentity) -> Result<(), RaftRpcError> {
        self.check(from)?;
        let mut speakers = self.speakers.lock().unwrap_or_else(PoisonError::into_inner);
        match speakers.speaks(from.from.0, from.start, from.incarnation) {
            true => Ok(()),
            false => Err(RaftRpcError::Refused(format!("another process has started as {}", from.from))),
        }
    }

    fn mismatch(&self, from: &RaftIdentity) -> Option<String> {
        let this = self.this;
        let known = match (self.marker.cluster(), from.cluster) {
            (Some(ours), Some(theirs)) if ours != theirs => {
                return Some(format!(
                    "{this} belongs to cluster {ours}, {} to cluster {theirs}; correct `jobmanager.raft.peers`, or give one of \
                     them another `jobmanager.data-dir`",
                    from.from
                ));
            }
            // A member of this cluster that is not known here was added after what this log has.
            (Some(_), Some(_)) => true,
            _ if from.group != self.group => {
                return Some(format!(
                    "{this} and {} have different lists of members; make `jobmanager.raft.peers` equal",
                    from.from
                ));
            }
            _ => self.members().nodes.contains_key(&from.from.0) || self.is_removed(from.from).is_some(),
        };
        if from.to != this {
            return Some(format!(
                "this is {this}, {} is meant; check the addresses in `jobmanager.raft.peers`",
                from.to
            ));
        }
        if from.from == this || !known {
            return Some(format!("{} is no other member of this group; check `jobmanager.resource-id`", from.from));
        }
        None
    }

    /// The name of a member that was removed.
    fn is_removed(&self, id: JobManagerId) -> Option<String> {
        self.removed.lock().unwrap_or_else(PoisonError::into_inner).get(&id.0).cloned()
    }

    fn check_removed(&self, id: JobManagerId) -> Result<(), RaftRpcError> {
        match self.is_removed(id) {
            Some(name) => Err(RaftRpcError::Removed(removed_text(&name, id))),
            None => Ok(()),
        }
    }

    /// This member was told that it is none any more. The process has to end.
    pub(crate) fn farewell(&self, reason: &str) {
        let reason = format!("{reason}; its data directory is {}", self.data_dir.display());
        self.fatal.send_if_modified(|fatal| {
            let first = fatal.is_none();
            fatal.get_or_insert(reason);
            first
        });
    }

    /// Logs something about a peer that a person has to mend, once.
    pub(crate) fn complain(&self, about: JobManagerId, what: &str) {
        let mut complaints = self.complaints.lock().unwrap_or_else(PoisonError::into_inner);
        if complaints.len() < COMPLAINTS_MAX && complaints.insert((about.0, what.to_owned())) {
            tracing::error!(peer = %about, "{what}");
        }
    }
}

/// Which process speaks for each member: start and incarnation of the newest one that was heard.
///
/// What a process said may arrive when it has died and another one has taken its place. The numbers of their starts say which is the
/// later one; without them, from a build that does not count, it is whoever greets last.
#[derive(Debug, Default)]
struct Speakers(BTreeMap<u64, (u64, Incarnation)>);

impl Speakers {
    /// A process greets.
    fn greets(&mut self, member: u64, start: u64, incarnation: Incarnation) {
        let newest = self.0.entry(member).or_insert((start, incarnation));
        if start == 0 || start >= newest.0 {
            *newest = (start, incarnation);
        }
    }

    /// Whether a process that says something is the newest. A later one need not have greeted.
    fn speaks(&mut self, member: u64, start: u64, incarnation: Incarnation) -> bool {
        let Some(newest) = self.0.get_mut(&member) else { return true };
        if start > newest.0 {
            *newest = (start, incarnation);
        }
        *newest == (start, incarnation)
    }
}

/// The number of a start, from that of the one before and the clock in milliseconds of the Unix epoch: the clock because a
/// directory that was restored knows of fewer starts than there were, and one more at least because clocks are set back.
pub(crate) fn next_start(before: u64, unix_ms: u64) -> u64 {
    unix_ms.max(before.saturating_add(1))
}

/// What a removed member is told.
pub(crate) fn removed_text(name: &str, id: JobManagerId) -> String {
    format!(
        "{name} ({id}) was removed from the group; to bring this JobManager back, remove its data directory and add it to the \
         group as a new member with another name: perennial member add NEWNAME=HOST:PORT"
    )
}

/// Hash of the names of the founding members, in order: FNV-1a, 64 bits. Addresses may change, names may not.
pub(crate) fn group_hash(peers: &[Peer]) -> u64 {
    let names = peers.iter().flat_map(|peer| peer.name.bytes().chain([0]));
    names.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A process, by its start and its incarnation, greets or says something else; the latter is heard or not.
    enum Said {
        Greets(u64, u8),
        Speaks(u64, u8, bool),
    }

    #[track_caller]
    fn check(table: &[Said]) {
        let mut speakers = Speakers::default();
        let incarnation = |number: u8| Incarnation::from_bytes([number; 16]);
        for (row, said) in table.iter().enumerate() {
            match *said {
                Said::Greets(start, number) => speakers.greets(1, start, incarnation(number)),
                Said::Speaks(start, number, heard) => {
                    assert_eq!(speakers.speaks(1, start, incarnation(number)), heard, "row {row}");
                }
            }
        }
    }

    /// It shut out the living one for good before.
    #[test]
    fn a_late_greeting_of_a_dead_process_changes_nothing() {
        use Said::{Greets, Speaks};
        check(&[
            Greets(5, 1),
            Speaks(5, 1, true),
            Greets(8, 2),
            Speaks(5, 1, false),
            Greets(5, 1),
            Speaks(5, 1, false),
            Speaks(8, 2, true),
        ]);
        // The listening member itself has restarted, and hears the dead one first.
        check(&[Greets(5, 1), Speaks(8, 2, true), Speaks(5, 1, false), Greets(5, 1), Speaks(8, 2, true)]);
    }

    #[test]
    fn of_processes_that_do_not_count_the_one_that_greeted_last_speaks() {
        use Said::{Greets, Speaks};
        check(&[Speaks(0, 1, true), Greets(0, 1), Greets(0, 2), Speaks(0, 1, false), Speaks(0, 2, true)]);
        check(&[Greets(7, 1), Greets(0, 2), Speaks(0, 2, true), Speaks(9, 3, true), Speaks(0, 2, false)]);
        check(&[Greets(7, 1), Greets(7, 2), Speaks(7, 1, false), Speaks(7, 2, true)]);
    }

    #[test]
    fn starts_are_counted_by_the_clock_and_never_back() {
        for (before, clock, expect) in [(0, 1000, 1000), (1000, 1000, 1001), (1000, 10, 1001), (u64::MAX, 10, u64::MAX)]
        {
            assert_eq!(next_start(before, clock), expect);
        }
    }
}
