//! Who this member is, and whether a caller belongs to its group. Checked in every call, on both sides.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use perennial_rpc::raft::{RaftIdentity, RaftRpcError};
use perennial_types::{Incarnation, JobManagerId};

use crate::config::{MetaConfig, Peer};
use crate::marker::MarkerFile;

/// Different complaints logged; each is logged once. Bounded because peers may be of any opinion.
const COMPLAINTS_MAX: usize = 64;

/// This member among its peers.
pub(crate) struct Identity {
    this: JobManagerId,
    peers: BTreeMap<u64, Peer>,
    group: u64,
    incarnation: Incarnation,
    marker: Arc<MarkerFile>,
    /// Newest process of each member that has greeted this one.
    greeted: Mutex<BTreeMap<u64, Incarnation>>,
    complaints: Mutex<BTreeSet<(u64, String)>>,
}

impl Identity {
    pub(crate) fn new(config: &MetaConfig, marker: Arc<MarkerFile>) -> Self {
        Self {
            this: config.this,
            peers: config.peers.iter().map(|peer| (peer.id.0, peer.clone())).collect(),
            group: group_hash(&config.peers),
            incarnation: Incarnation::random(),
            marker,
            greeted: Mutex::default(),
            complaints: Mutex::default(),
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

    /// A member of the static list.
    pub(crate) fn peer(&self, id: u64) -> Option<&Peer> {
        self.peers.get(&id)
    }

    /// All members but this one.
    pub(crate) fn others(&self) -> impl Iterator<Item = &Peer> {
        self.peers.values().filter(|peer| peer.id != self.this)
    }

    /// What a call to a member says of its sender.
    pub(crate) fn toward(&self, to: JobManagerId) -> RaftIdentity {
        let (group, incarnation) = (self.group, self.incarnation);
        RaftIdentity { cluster: self.marker.cluster(), group, from: self.this, to, incarnation }
    }

    /// Notes which process of a member speaks from now on.
    pub(crate) fn greet(&self, from: &RaftIdentity) {
        self.greeted.lock().unwrap_or_else(PoisonError::into_inner).insert(from.from.0, from.incarnation);
    }

    /// Whether the caller is a member of this group and means this member.
    pub(crate) fn check(&self, from: &RaftIdentity) -> Result<(), RaftRpcError> {
        let checked = self.mismatch(from).map_or(Ok(()), Err);
        if let Err(reason) = &checked {
            self.complain(from.from, &format!("a call of {} was refused: {reason}", from.from));
        }
        checked.map_err(RaftRpcError::Refused)
    }

    /// The same, and that no newer process has taken the caller's place.
    pub(crate) fn check_current(&self, from: &RaftIdentity) -> Result<(), RaftRpcError> {
        self.check(from)?;
        let greeted = self.greeted.lock().unwrap_or_else(PoisonError::into_inner);
        match greeted.get(&from.from.0) {
            Some(newest) if *newest != from.incarnation => {
                Err(RaftRpcError::Refused(format!("another process has started as {}", from.from)))
            }
            _ => Ok(()),
        }
    }

    fn mismatch(&self, from: &RaftIdentity) -> Option<String> {
        let this = self.this;
        if from.group != self.group {
            return Some(format!(
                "{this} and {} have different lists of members; make `jobmanager.raft.peers` equal",
                from.from
            ));
        }
        if let (Some(ours), Some(theirs)) = (self.marker.cluster(), from.cluster)
            && ours != theirs
        {
            return Some(format!(
                "{this} belongs to cluster {ours}, {} to cluster {theirs}; correct `jobmanager.raft.peers`, or give one of them \
                 another `jobmanager.data-dir`",
                from.from
            ));
        }
        if from.to != this {
            return Some(format!(
                "this is {this}, {} is meant; check the addresses in `jobmanager.raft.peers`",
                from.to
            ));
        }
        if from.from == this || !self.peers.contains_key(&from.from.0) {
            return Some(format!("{} is no other member of this group; check `jobmanager.resource-id`", from.from));
        }
        None
    }

    /// Logs something about a peer that a person has to mend, once.
    pub(crate) fn complain(&self, about: JobManagerId, what: &str) {
        let mut complaints = self.complaints.lock().unwrap_or_else(PoisonError::into_inner);
        if complaints.len() < COMPLAINTS_MAX && complaints.insert((about.0, what.to_owned())) {
            tracing::error!(peer = %about, "{what}");
        }
    }
}

/// Hash of the names of all members, in order: FNV-1a, 64 bits. Addresses may change, names may not.
pub(crate) fn group_hash(peers: &[Peer]) -> u64 {
    let names = peers.iter().flat_map(|peer| peer.name.bytes().chain([0]));
    names.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3))
}
