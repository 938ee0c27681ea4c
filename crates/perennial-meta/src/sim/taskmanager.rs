//! Stand-ins for TaskManagers, and for the part of a JobManager that talks to them.
//!
//! Whom a TaskManager follows and what it obeys are decided by the product's [`Registrar`] and [`Fence`].

use std::collections::{BTreeMap, BTreeSet};

use perennial_rpc::taskmanager::{
    Action, Command, Decision, FromTaskManager, Leadership, Registrar, Registration, StreamId, ToTaskManager,
};
use perennial_types::{ClusterId, Fence, Incarnation, JobManagerId, LeaderEpoch, TaskManagerId};

use super::Bug;
use super::checker::Checker;
use super::network::{ConnId, Frame, Net, Node, Way};
use crate::leadership::LeadershipView;

/// A TaskManager.
pub(super) struct TaskManager {
    pub(super) node: Node,
    /// Connections to members.
    pub(super) conns: BTreeMap<Node, ConnId>,
    registrar: Registrar,
    fence: Fence,
    /// Commands of deposed leaders that were refused.
    pub(super) refused: u64,
    bug: Option<Bug>,
}

impl TaskManager {
    pub(super) fn new(node: Node, bug: Option<Bug>) -> Self {
        let registrar = Registrar::new(None);
        Self { node, conns: BTreeMap::new(), registrar, fence: Fence::default(), refused: 0, bug }
    }

    pub(super) fn id(&self) -> TaskManagerId {
        TaskManagerId(format!("tm-{}", self.node))
    }

    /// Where it is registered.
    pub(super) fn leader(&self) -> Option<(ConnId, LeaderEpoch)> {
        self.registrar.leader().map(|(stream, epoch)| (stream.0, epoch))
    }

    /// A JobManager says something.
    pub(super) fn hear(&mut self, conn: ConnId, message: ToTaskManager, net: &Net, checker: &mut Checker) {
        if !self.conns.values().any(|open| *open == conn) {
            return;
        }
        match message {
            ToTaskManager::Leadership(leadership) => {
                let decision = self.registrar.heard(StreamId(conn), leadership);
                self.decided(decision, net);
            }
            ToTaskManager::Registered { cluster } => {
                self.registrar.accepted(StreamId(conn), cluster);
            }
            ToTaskManager::Command(command) => {
                if !self.fence.admit(command.fence) && self.bug != Some(Bug::IgnoresTheFence) {
                    self.refused += 1;
                } else if let Action::Cancel { attempts } = &command.action {
                    checker.commanded(self.node, command.fence, command.job, attempts);
                }
            }
            ToTaskManager::Refused { .. } | ToTaskManager::Heartbeat => {}
        }
    }

    /// A connection is gone.
    pub(super) fn lost(&mut self, conn: ConnId, net: &Net) {
        self.conns.retain(|_, open| *open != conn);
        let decision = self.registrar.lost(StreamId(conn));
        self.decided(decision, net);
    }

    fn decided(&mut self, decision: Decision, net: &Net) {
        // Every member is dialled anyway, and all are of one cluster.
        let Decision::Register(StreamId(conn), epoch) = decision else { return };
        self.fence.admit(Fence { epoch, index: 0 });
        let registration = Registration {
            cluster: self.registrar.cluster(),
            id: self.id(),
            incarnation: Incarnation::from_bytes([self.node as u8; 16]),
            host: String::new(),
            slots: 1,
            target: String::new(),
            pid: 0,
            executors: Vec::new(),
        };
        net.push(conn, Way::Up, Frame::FromTaskManager(FromTaskManager::Register(registration)));
    }
}

/// A JobManager's conversations with TaskManagers.
pub(super) struct Conversations {
    node: Node,
    cluster: Option<ClusterId>,
    /// As told last.
    view: LeadershipView,
    conns: BTreeSet<ConnId>,
    /// TaskManagers that registered in the epoch served now.
    registered: BTreeMap<Node, ConnId>,
}

impl Conversations {
    pub(super) fn new(node: Node) -> Self {
        let (conns, registered) = (BTreeSet::new(), BTreeMap::new());
        Self { node, cluster: None, view: LeadershipView::default(), conns, registered }
    }

    /// The epoch in which it believes to lead.
    pub(super) fn serving(&self) -> Option<LeaderEpoch> {
        self.view.serving
    }

    /// Whether all is as it was told last.
    pub(super) fn knows(&self, view: &LeadershipView) -> bool {
        self.view == *view && self.cluster.is_some()
    }

    /// Who leads may have changed. Returns whether it has.
    pub(super) fn turned(&mut self, view: LeadershipView, cluster: Option<ClusterId>, net: &Net) -> bool {
        if self.view == view && self.cluster == cluster {
            return false;
        }
        let goes_on = view.serving.is_some() && self.view.serving == view.serving;
        (self.view, self.cluster) = (view, cluster);
        if goes_on {
            return true;
        }
        let forgotten = std::mem::take(&mut self.registered);
        for conn in self.conns.clone() {
            if self.view.serving.is_some() && forgotten.values().any(|known| *known == conn) {
                // It stepped back and serves again: a TaskManager registers again only after it has heard of a pause.
                let pause = Leadership { leader: None, leader_address: String::new(), ..self.leadership() };
                net.push(conn, Way::Down, Frame::ToTaskManager(ToTaskManager::Leadership(pause)));
            }
            self.tell(conn, net);
        }
        true
    }

    pub(super) fn attached(&mut self, conn: ConnId, net: &Net) {
        self.conns.insert(conn);
        self.tell(conn, net);
    }

    pub(super) fn detached(&mut self, conn: ConnId) {
        self.conns.remove(&conn);
        self.registered.retain(|_, known| *known != conn);
    }

    pub(super) fn hear(&mut self, from: Node, conn: ConnId, message: FromTaskManager, net: &Net) {
        match (message, self.cluster) {
            (FromTaskManager::Register(_), Some(cluster)) if self.view.serving.is_some() => {
                self.registered.insert(from, conn);
                net.push(conn, Way::Down, Frame::ToTaskManager(ToTaskManager::Registered { cluster }));
            }
            (FromTaskManager::Heartbeat { .. }, _) => {
                net.push(conn, Way::Down, Frame::ToTaskManager(ToTaskManager::Heartbeat))
            }
            // A registration where nobody leads: it was told who does, and is again when that changes.
            _ => {}
        }
    }

    /// Sends a command to a TaskManager that has registered here.
    pub(super) fn command(&self, to: Node, command: Command, net: &Net) {
        if let Some(conn) = self.registered.get(&to) {
            net.push(*conn, Way::Down, Frame::ToTaskManager(ToTaskManager::Command(command)));
        }
    }

    fn tell(&self, conn: ConnId, net: &Net) {
        net.push(conn, Way::Down, Frame::ToTaskManager(ToTaskManager::Leadership(self.leadership())));
    }

    /// What a JobManager says: itself only while it serves.
    fn leadership(&self) -> Leadership {
        let this = JobManagerId(self.node as u64 + 1);
        let rising = self.view.leader.as_ref().is_some_and(|leader| leader.id == this) && self.view.serving.is_none();
        let leader = self.view.leader.as_ref().filter(|_| !rising);
        Leadership {
            cluster: self.cluster,
            from: this,
            epoch: self.view.serving.unwrap_or(self.view.epoch),
            leader: leader.map(|leader| leader.id),
            leader_address: leader.map_or_else(String::new, |leader| leader.address.clone()),
            jobmanagers: Vec::new(),
        }
    }
}
