//! Where a TaskManager registers: with the leader of the highest epoch, once for each epoch. Pure.

use std::collections::BTreeMap;

use perennial_types::{ClusterId, JobManagerId, LeaderEpoch};

use super::Leadership;

/// One attachment to a JobManager; a new one after each reconnect, never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamId(pub u64);

/// What to do after something was heard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Nothing.
    Stay,
    /// Send a registration on this stream, whose JobManager leads that epoch.
    Register(StreamId, LeaderEpoch),
    /// The leader is a JobManager that no stream reaches: dial it here.
    Dial(String),
    /// The JobManager on this stream is of another cluster. Nothing it says counts.
    Foreign(StreamId, ClusterId),
}

/// Where the TaskManager stands with its leader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    Unregistered,
    Asked(StreamId, LeaderEpoch),
    Registered(StreamId, LeaderEpoch),
}

/// Follows who leads.
///
/// A JobManager counts as leader when it says so itself on its own stream, and only for the highest epoch of which
/// anyone has named a leader. An epoch without a leader is an election under way: the old leader keeps its place.
#[derive(Debug)]
pub struct Registrar {
    cluster: Option<ClusterId>,
    heard: BTreeMap<StreamId, Leadership>,
    /// Highest epoch with a leader, and that leader's address.
    highest: Option<(LeaderEpoch, JobManagerId, String)>,
    standing: Standing,
}

impl Registrar {
    /// Knows nothing yet, except perhaps the cluster.
    pub fn new(cluster: Option<ClusterId>) -> Self {
        Self { cluster, heard: BTreeMap::new(), highest: None, standing: Standing::Unregistered }
    }

    /// A JobManager has said who leads.
    pub fn heard(&mut self, stream: StreamId, leadership: Leadership) -> Decision {
        if let (Some(ours), Some(theirs)) = (self.cluster, leadership.cluster)
            && ours != theirs
        {
            self.heard.remove(&stream);
            return Decision::Foreign(stream, theirs);
        }
        if let Some(leader) = leadership.leader
            && self.highest.as_ref().is_none_or(|(epoch, ..)| leadership.epoch >= *epoch)
        {
            self.highest = Some((leadership.epoch, leader, leadership.leader_address.clone()));
        }
        // A leader that steps back forgets who registered; when it serves again, if only in the same epoch, it has to be told.
        if self.expecting() == Some(stream) && leadership.leader != Some(leadership.from) {
            self.standing = Standing::Unregistered;
        }
        self.heard.insert(stream, leadership);
        self.decide()
    }

    /// A stream has ended.
    pub fn lost(&mut self, stream: StreamId) -> Decision {
        self.heard.remove(&stream);
        match self.standing {
            Standing::Asked(at, _) | Standing::Registered(at, _) if at == stream => {
                self.standing = Standing::Unregistered;
            }
            _ => {}
        }
        self.decide()
    }

    /// A registration was accepted. False, and not registered, when it was by another cluster or was not asked for.
    pub fn accepted(&mut self, stream: StreamId, cluster: ClusterId) -> bool {
        match self.standing {
            Standing::Asked(at, epoch) if at == stream => {
                if self.cluster.is_some_and(|ours| ours != cluster) {
                    self.standing = Standing::Unregistered;
                    self.heard.remove(&stream);
                    return false;
                }
                self.cluster = Some(cluster);
                self.standing = Standing::Registered(at, epoch);
                true
            }
            Standing::Registered(at, _) => at == stream,
            _ => false,
        }
    }

    /// The stream to the leader that has accepted this TaskManager.
    pub fn leader(&self) -> Option<(StreamId, LeaderEpoch)> {
        match self.standing {
            Standing::Registered(stream, epoch) => Some((stream, epoch)),
            _ => None,
        }
    }

    /// The stream from which messages are expected: of the leader, registered at or asked.
    pub fn expecting(&self) -> Option<StreamId> {
        match self.standing {
            Standing::Registered(stream, _) | Standing::Asked(stream, _) => Some(stream),
            Standing::Unregistered => None,
        }
    }

    /// Who leads on a stream, as it says itself.
    pub fn jobmanager(&self, stream: StreamId) -> Option<JobManagerId> {
        self.heard.get(&stream).map(|leadership| leadership.from)
    }

    /// The cluster, once known.
    pub fn cluster(&self) -> Option<ClusterId> {
        self.cluster
    }

    /// Takes back nothing, but may find that there is somewhere better to be.
    fn decide(&mut self) -> Decision {
        let Some((epoch, leader, address)) = &self.highest else { return Decision::Stay };
        let (epoch, leader) = (*epoch, *leader);
        let says_so = |heard: &Leadership| heard.from == leader && heard.leader == Some(leader) && heard.epoch == epoch;
        match self.standing {
            Standing::Asked(_, at) | Standing::Registered(_, at) if at >= epoch => return Decision::Stay,
            _ => {}
        }
        if let Some((stream, _)) = self.heard.iter().find(|(_, heard)| says_so(heard)) {
            self.standing = Standing::Asked(*stream, epoch);
            return Decision::Register(*stream, epoch);
        }
        if self.heard.values().all(|heard| heard.from != leader) && !address.is_empty() {
            return Decision::Dial(address.clone());
        }
        Decision::Stay
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: StreamId = StreamId(1);
    const B: StreamId = StreamId(2);
    const CLUSTER: ClusterId = ClusterId::from_bytes([7; 16]);

    fn says(from: u64, epoch: u64, leader: Option<u64>) -> Leadership {
        Leadership {
            cluster: Some(CLUSTER),
            from: JobManagerId(from),
            epoch: LeaderEpoch(epoch),
            leader: leader.map(JobManagerId),
            leader_address: leader.map_or_else(String::new, |leader| format!("jm-{leader}:6123")),
            jobmanagers: Vec::new(),
        }
    }

    fn register(stream: StreamId, epoch: u64) -> Decision {
        Decision::Register(stream, LeaderEpoch(epoch))
    }

    enum Step {
        Heard(StreamId, Leadership),
        Lost(StreamId),
        Accepted(StreamId),
    }
    use Step::*;

    fn check(steps: Vec<(Step, Decision)>) {
        let mut registrar = Registrar::new(None);
        for (number, (step, expected)) in steps.into_iter().enumerate() {
            let decision = match step {
                Heard(stream, leadership) => registrar.heard(stream, leadership),
                Lost(stream) => registrar.lost(stream),
                Accepted(stream) => {
                    assert!(registrar.accepted(stream, CLUSTER), "step {number}");
                    Decision::Stay
                }
            };
            assert_eq!(decision, expected, "step {number}");
        }
    }

    /// A leader that lost touch with its quorum for a moment and serves again in the same epoch has forgotten everybody.
    #[test]
    fn registers_again_with_a_leader_that_stepped_back_and_returned_in_its_epoch() {
        check(vec![
            (Heard(A, says(1, 5, Some(1))), register(A, 5)),
            (Accepted(A), Decision::Stay),
            (Heard(A, says(1, 5, None)), Decision::Stay),
            (Heard(A, says(1, 5, Some(1))), register(A, 5)),
        ]);
    }

    #[test]
    fn registers_once_an_epoch_and_only_where_the_leader_says_so_itself() {
        check(vec![
            (Heard(A, says(1, 5, Some(2))), Decision::Dial("jm-2:6123".to_owned())),
            (Heard(B, says(2, 4, None)), Decision::Stay),
            (Heard(B, says(2, 5, Some(2))), register(B, 5)),
            (Heard(B, says(2, 5, Some(2))), Decision::Stay),
            (Accepted(B), Decision::Stay),
            (Heard(A, says(1, 5, Some(2))), Decision::Stay),
        ]);
    }

    #[test]
    fn follows_a_higher_epoch_and_never_returns_to_a_lower_one() {
        check(vec![
            (Heard(A, says(1, 5, Some(1))), register(A, 5)),
            (Accepted(A), Decision::Stay),
            (Heard(B, says(2, 6, Some(2))), register(B, 6)),
            (Accepted(B), Decision::Stay),
            (Heard(A, says(1, 5, Some(1))), Decision::Stay),
            (Lost(B), Decision::Dial("jm-2:6123".to_owned())),
            (Heard(A, says(1, 7, Some(1))), register(A, 7)),
        ]);
    }

    #[test]
    fn an_election_under_way_changes_nothing() {
        check(vec![
            (Heard(A, says(1, 5, Some(1))), register(A, 5)),
            (Accepted(A), Decision::Stay),
            (Heard(B, says(2, 9, None)), Decision::Stay),
            (Heard(A, says(1, 9, None)), Decision::Stay),
            (Heard(A, says(1, 9, Some(1))), register(A, 9)),
        ]);
    }

    #[test]
    fn registers_again_on_a_new_stream_to_the_same_leader() {
        check(vec![
            (Heard(A, says(1, 5, Some(1))), register(A, 5)),
            (Accepted(A), Decision::Stay),
            (Lost(A), Decision::Dial("jm-1:6123".to_owned())),
            (Heard(B, says(1, 5, Some(1))), register(B, 5)),
        ]);
    }

    #[test]
    fn another_clusters_leader_is_refused() {
        let mut registrar = Registrar::new(Some(CLUSTER));
        let other = ClusterId::from_bytes([8; 16]);
        let foreign = Leadership { cluster: Some(other), ..says(1, 50, Some(1)) };
        assert_eq!(registrar.heard(A, foreign), Decision::Foreign(A, other));
        assert_eq!(registrar.heard(B, says(2, 5, Some(2))), register(B, 5));
        assert!(!registrar.accepted(A, CLUSTER));
        assert!(!registrar.accepted(B, other));
        assert_eq!(registrar.leader(), None);
    }
}
