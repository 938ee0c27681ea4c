//! Who the members are: Raft's membership as the rest of the store reads it.
//!
//! The peer list of the configuration only founds the group; afterwards the membership in the log is the truth. Numbers and
//! names are used once: the state remembers every member that was removed, and a new one is given a number above all
//! of them.

use std::collections::BTreeMap;

use openraft::impls::BasicNode;
use perennial_rpc::group::{GroupMember, Place};
use perennial_types::JobManagerId;
use serde::{Deserialize, Serialize};

use crate::config::Peer;
use crate::kv::{self, Change, put};
use crate::raft::StoredMembership;

/// A member as the membership has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Node {
    /// Its name.
    pub(crate) name: String,
    /// RPC address, `host:port`.
    pub(crate) address: String,
    /// Whether it votes.
    pub(crate) voter: bool,
}

/// All members as of an entry of the log.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Members {
    /// Log index of the membership.
    pub(crate) index: u64,
    /// By number; empty while nothing is known.
    pub(crate) nodes: BTreeMap<u64, Node>,
}

impl From<Place> for Members {
    fn from(place: Place) -> Self {
        let node = |member: GroupMember| {
            let GroupMember { id, name, address, voter } = member;
            (id.0, Node { name, address, voter })
        };
        Self { index: place.index, nodes: place.members.into_iter().map(node).collect() }
    }
}

/// The stored form of a member's name and address: `name=host:port`, as in the peer list.
pub(crate) fn stored_node(name: &str, address: &str) -> BasicNode {
    BasicNode::new(format!("{name}={address}"))
}

/// Name and address of a stored member. Groups founded before members could be added have only the address, and the names
/// of the peer list.
fn read_node(id: u64, node: &BasicNode, founders: &[Peer]) -> (String, String) {
    match node.addr.split_once('=') {
        Some((name, address)) => (name.to_owned(), address.to_owned()),
        None => {
            let founder = founders.iter().find(|peer| peer.id.0 == id);
            let name = founder.map_or_else(|| JobManagerId(id).to_string(), |peer| peer.name.clone());
            (name, node.addr.clone())
        }
    }
}

impl Members {
    /// Reads Raft's membership.
    pub(crate) fn read(stored: &StoredMembership, founders: &[Peer]) -> Self {
        let voters: Vec<u64> = stored.voter_ids().collect();
        let node = |(id, node): (&u64, &BasicNode)| {
            let (name, address) = read_node(*id, node, founders);
            (*id, Node { name, address, voter: voters.contains(id) })
        };
        let index = stored.log_id().as_ref().map_or(0, |id| id.index);
        Self { index, nodes: stored.nodes().map(node).collect() }
    }

    /// The members that found the group.
    pub(crate) fn founding(peers: &[Peer]) -> Self {
        let node =
            |peer: &Peer| (peer.id.0, Node { name: peer.name.clone(), address: peer.address.clone(), voter: true });
        Self { index: 0, nodes: peers.iter().map(node).collect() }
    }

    /// Numbers of all but one.
    pub(crate) fn others(&self, this: JobManagerId) -> impl Iterator<Item = (JobManagerId, &Node)> {
        self.nodes.iter().filter(move |(id, _)| **id != this.0).map(|(id, node)| (JobManagerId(*id), node))
    }

    /// Whether this member is the only one that votes.
    pub(crate) fn is_sole_voter(&self, this: JobManagerId) -> bool {
        self.nodes.get(&this.0).is_some_and(|node| node.voter) && !self.others(this).any(|(_, node)| node.voter)
    }
}

/// Notes the members that a new membership no longer has.
pub(crate) fn note_removed(old: &StoredMembership, new: &StoredMembership) -> Vec<Change> {
    let gone = old.nodes().filter(|(id, _)| new.get_node(id).is_none());
    gone.map(|(id, node)| put::<kv::removed_member::RemovedMember>(id, &(*id, read_node(*id, node, &[]).0))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::log_id;

    fn membership(index: u64, voters: &[u64], nodes: &[(u64, &str)]) -> StoredMembership {
        let nodes: BTreeMap<u64, BasicNode> = nodes.iter().map(|(id, addr)| (*id, BasicNode::new(addr))).collect();
        let voters = voters.iter().copied().collect();
        StoredMembership::new(Some(log_id(1, index)), openraft::Membership::new(vec![voters], nodes).unwrap())
    }

    #[test]
    fn both_stored_forms_are_read() {
        let founders = [Peer { id: JobManagerId(1), name: "main".to_owned(), address: "x:9".to_owned() }];
        let members = Members::read(&membership(7, &[1, 2], &[(1, "a:1"), (2, "b:2"), (5, "jm-e=e:5")]), &founders);
        let read: Vec<_> = members.nodes.iter().map(|(id, it)| (*id, &*it.name, &*it.address, it.voter)).collect();
        assert_eq!(read, [(1, "main", "a:1", true), (2, "jm-2", "b:2", true), (5, "jm-e", "e:5", false)]);
        assert_eq!(members.index, 7);
        let node = stored_node("jm-e", "[::1]:5");
        assert_eq!(read_node(5, &node, &[]), ("jm-e".to_owned(), "[::1]:5".to_owned()));
    }

    #[test]
    fn only_members_that_are_gone_are_noted() {
        let old = membership(1, &[1], &[(1, "jm-a=a:1"), (2, "b:2"), (3, "jm-c=c:3")]);
        let new = membership(2, &[1], &[(1, "jm-a=a:1"), (4, "jm-d=d:4")]);
        let noted = |id: u64, name: &str| put::<kv::removed_member::RemovedMember>(&id, &(id, name.to_owned()));
        assert_eq!(note_removed(&old, &new), [noted(2, "jm-2"), noted(3, "jm-c")]);
        assert_eq!(note_removed(&StoredMembership::default(), &new), []);
    }

    #[test]
    fn a_learner_does_not_make_a_voter_less_alone() {
        let members = Members::read(&membership(1, &[1], &[(1, "jm-a=a:1"), (2, "jm-b=b:2")]), &[]);
        assert!(members.is_sole_voter(JobManagerId(1)) && !members.is_sole_voter(JobManagerId(2)));
    }
}
