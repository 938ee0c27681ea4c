//! Which role this member plays now, as a value everybody can watch.

use std::sync::Arc;
use std::time::Duration;

use perennial_meta::LeadershipView;
use perennial_rpc::dispatcher::Unavailable;
use tokio::sync::watch;

use crate::leader::Leader;

/// Time an election may take until a request is refused.
const ELECTION_WAIT: Duration = Duration::from_secs(2);

/// What this member is.
#[derive(Clone)]
pub(crate) enum Role {
    /// Another member leads, or nobody does.
    Standby(Standby),
    /// This member leads, and is ready to.
    Leader(Arc<Leader>),
}

/// A member that does not lead. It knows whom to ask, and has no means to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Standby {
    /// What the metadata store says of the leadership.
    pub(crate) view: LeadershipView,
    /// Whether this member is about to lead: elected, not ready.
    pub(crate) rising: bool,
}

impl Standby {
    /// Address of the leader, if another member leads.
    pub(crate) fn leader_address(&self) -> Option<&str> {
        match (&self.view.leader, self.rising) {
            (Some(leader), false) => Some(&leader.address),
            _ => None,
        }
    }
}

/// Watches the role.
pub(crate) type RoleWatch = watch::Receiver<Role>;

/// Where a request goes.
pub(crate) enum Route {
    /// This member leads.
    Here(Arc<Leader>),
    /// The member at this RPC address leads.
    There(String),
}

/// Finds the leader; waits a moment for an election to end.
pub(crate) async fn route(role: &RoleWatch) -> Result<Route, Unavailable> {
    let mut role = role.clone();
    let led = role.wait_for(|role| match role {
        Role::Leader(_) => true,
        Role::Standby(standby) => standby.leader_address().is_some(),
    });
    let reason = match tokio::time::timeout(ELECTION_WAIT, led).await {
        Ok(Ok(role)) => match &*role {
            Role::Leader(leader) => return Ok(Route::Here(Arc::clone(leader))),
            Role::Standby(standby) => match standby.leader_address() {
                Some(address) => return Ok(Route::There(address.to_owned())),
                None => "the leader has just gone".to_owned(),
            },
        },
        Ok(Err(_)) => "this JobManager is shutting down".to_owned(),
        Err(_) => format!(
            "no JobManager was elected within {} s; is a majority of them running and connected?",
            ELECTION_WAIT.as_secs()
        ),
    };
    Err(Unavailable::NoLeader { reason })
}

impl Route {
    /// Resolves when requests no longer go here.
    pub(crate) async fn over(&self, role: &RoleWatch) {
        match self {
            Self::Here(leader) => leader.token().cancelled().await,
            Self::There(address) => {
                let mut role = role.clone();
                let over = role.wait_for(|role| match role {
                    Role::Leader(_) => true,
                    Role::Standby(standby) => standby.leader_address() != Some(address),
                });
                // No role is played any more at a shutdown, and a request then ends as it may.
                if over.await.is_err() {
                    std::future::pending().await
                }
            }
        }
    }
}

/// This member as leader; waits a moment for an election to end. Never forwards, so two members that take each other
/// for the leader cannot send a request in circles.
pub(crate) async fn lead_here(role: &RoleWatch) -> Result<Arc<Leader>, Unavailable> {
    match route(role).await? {
        Route::Here(leader) => Ok(leader),
        Route::There(address) => Err(Unavailable::NoLeader { reason: format!("not here; {address} leads") }),
    }
}
