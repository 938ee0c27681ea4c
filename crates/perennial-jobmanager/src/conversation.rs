//! One stream of a TaskManager: it hears who leads, and when this member does, it is listened to.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use perennial_meta::{MembershipWatch, MetaStore};
use perennial_rpc::taskmanager::{
    AttachError, FromTaskManager, Incoming, Leadership, Registration, STREAM_CAPACITY, TaskManagerGateway,
    ToTaskManager,
};
use perennial_types::JobManagerId;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use crate::attendance::{Attendance, Seat};
use crate::leader::{Leader, NotRegistered};
use crate::role::{Role, RoleWatch};
use crate::session::Session;

/// How often commands are looked through for overdue answers; their deadline is a minute and more.
const OVERDUE_CHECK: Duration = Duration::from_secs(1);

/// Answers TaskManagers that attach to this member.
pub(crate) struct Attachments {
    pub(crate) this: JobManagerId,
    pub(crate) address: String,
    pub(crate) meta: MetaStore,
    pub(crate) role: RoleWatch,
    pub(crate) attendance: Attendance,
    pub(crate) tracker: TaskTracker,
    pub(crate) token: CancellationToken,
}

impl TaskManagerGateway for Attachments {
    fn attach(&self, peer: Option<SocketAddr>, from: Incoming<FromTaskManager>) -> mpsc::Receiver<ToTaskManager> {
        let (to, receiver) = mpsc::channel(STREAM_CAPACITY);
        let conversation = Conversation {
            this: self.this,
            address: self.address.clone(),
            meta: self.meta.clone(),
            members: self.meta.membership(),
            role: self.role.clone(),
            seat: self.attendance.seat(),
            peer,
            to,
            listening: None,
        };
        let token = self.token.clone();
        self.tracker.spawn(async move { token.run_until_cancelled(conversation.run(from)).await });
        receiver
    }
}

/// A registration with the leadership it belongs to.
struct Listening {
    leader: Arc<Leader>,
    session: Arc<Session>,
}

struct Conversation {
    this: JobManagerId,
    address: String,
    meta: MetaStore,
    members: MembershipWatch,
    role: RoleWatch,
    seat: Seat,
    peer: Option<SocketAddr>,
    to: mpsc::Sender<ToTaskManager>,
    listening: Option<Listening>,
}

/// What a conversation goes on with.
#[expect(clippy::large_enum_variant, reason = "one at a time, on the stack of its task")]
enum Next {
    Message(Option<Result<FromTaskManager, AttachError>>),
    RoleChanged,
    MembersChanged,
    OverdueCheck,
    End,
}

impl Conversation {
    async fn run(mut self, mut from: Incoming<FromTaskManager>) {
        let mut check = tokio::time::interval(OVERDUE_CHECK);
        check.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut goes_on = self.tell_leadership();
        while goes_on {
            let broken = self.listening.as_ref().map(|listening| listening.session.broken.clone());
            let next = tokio::select! {
                message = from.next() => Next::Message(message),
                changed = self.role.changed() => if changed.is_ok() { Next::RoleChanged } else { Next::End },
                () = self.members.changed() => Next::MembersChanged,
                _ = check.tick() => Next::OverdueCheck,
                () = cancelled(broken) => Next::End,
            };
            goes_on = match next {
                Next::Message(Some(Ok(message))) => self.hear(message).await,
                Next::Message(Some(Err(error))) => {
                    debug!(peer = ?self.peer, %error, "stream of a TaskManager ended");
                    false
                }
                Next::Message(None) | Next::End => false,
                Next::RoleChanged => self.tell_leadership(),
                Next::MembersChanged => self.tell_members(),
                Next::OverdueCheck => {
                    if let Some(listening) = &self.listening {
                        listening.leader.fail_overdue(&listening.session).await;
                    }
                    true
                }
            };
        }
        self.stop_listening().await;
    }

    async fn stop_listening(&mut self) {
        if let Some(Listening { leader, session }) = self.listening.take() {
            leader.resources.detached(session.taskmanager.clone(), session.number).await;
        }
    }

    /// Who leads, as far as this member knows.
    fn leadership(&self, role: &Role) -> Leadership {
        // A state that cannot be read ends the process; until then nobody is led from here.
        let cluster = self.meta.state().cluster_id().unwrap_or(None);
        let jobmanagers = self.meta.members().into_iter().map(|member| member.address).collect();
        match role {
            Role::Leader(leader) => Leadership {
                cluster: Some(leader.cluster),
                from: self.this,
                epoch: leader.epoch,
                leader: Some(self.this),
                leader_address: self.address.clone(),
                jobmanagers,
            },
            Role::Standby(standby) => {
                let leader = standby.view.leader.as_ref().filter(|_| !standby.rising);
                Leadership {
                    cluster,
                    from: self.this,
                    epoch: standby.view.epoch,
                    leader: leader.map(|leader| leader.id),
                    leader_address: leader.map_or_else(String::new, |leader| leader.address.clone()),
                    jobmanagers,
                }
            }
        }
    }

    /// Says who leads, as far as this member knows. Returns false when the TaskManager does not read.
    fn tell_leadership(&mut self) -> bool {
        let role = self.role.borrow_and_update().clone();
        let leadership = self.leadership(&role);
        let goes_on =
            |listening: &Listening| matches!(&role, Role::Leader(leader) if Arc::ptr_eq(leader, &listening.leader));
        if self.listening.as_ref().is_some_and(goes_on) {
            return true;
        }
        if self.listening.take().is_some() && leadership.leader == Some(self.this) {
            // A leader that stepped back and serves again knows nobody. The pause between may have gone unseen here, and a
            // TaskManager registers again only after it has heard of one.
            let pause = Leadership { leader: None, leader_address: String::new(), ..leadership.clone() };
            if self.to.try_send(ToTaskManager::Leadership(pause)).is_err() {
                return false;
            }
        }
        self.to.try_send(ToTaskManager::Leadership(leadership)).is_ok()
    }

    /// Says again who leads, with the members there are now. Returns false when the TaskManager does not read.
    fn tell_members(&self) -> bool {
        // A new role is told in its turn, with the same members.
        let new_role = self.role.has_changed().unwrap_or(false);
        let leadership = self.leadership(&self.role.borrow());
        new_role || self.to.try_send(ToTaskManager::Leadership(leadership)).is_ok()
    }

    /// Takes a message. Returns false when the conversation is over.
    async fn hear(&mut self, message: FromTaskManager) -> bool {
        if let FromTaskManager::Heartbeat { from: Some(id), .. } = &message {
            self.seat.heard(id.clone());
        }
        match (message, &self.listening) {
            (FromTaskManager::Register(registration), _) => self.register(registration).await,
            (message, Some(listening)) => {
                listening.leader.hear(&listening.session, message).await;
                true
            }
            // Meant for a leadership that is over; the next leader gets it with the registration.
            (_, None) => true,
        }
    }

    async fn register(&mut self, registration: Registration) -> bool {
        let role = self.role.borrow().clone();
        let Role::Leader(leader) = role else {
            // It was told who leads, and is again when that changes.
            debug!(taskmanager = %registration.id, "registration at a member that does not lead");
            return true;
        };
        let id = registration.id.clone();
        match leader.register(registration, self.to.clone()).await {
            Ok(session) => {
                self.listening = Some(Listening { leader, session });
                true
            }
            Err(NotRegistered::LeadershipOver) => true,
            Err(NotRegistered::Refused(reason)) => {
                warn!(taskmanager = %id, reason, "TaskManager refused");
                self.to.try_send(ToTaskManager::Refused { reason }).is_ok()
            }
        }
    }
}

/// Resolves when the token is cancelled; never without one.
async fn cancelled(token: Option<CancellationToken>) {
    match token {
        Some(token) => token.cancelled().await,
        None => std::future::pending().await,
    }
}
