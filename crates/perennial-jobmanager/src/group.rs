//! The group as this member offers it: who leads, who is a member, and the metadata as a file.
//!
//! [`GroupHandle`] is for clients and goes to the leader wherever that is; other members are offered the same without
//! forwarding, so no request can travel in circles.

use perennial_meta::MetaStore;
use perennial_rpc::dispatcher::Unavailable;
use perennial_rpc::group::{
    ChangedMember, GroupClient, GroupError, GroupGateway, LeaderTransfer, MemberChange, Place, SnapshotContent,
};
use perennial_rpc::transport;

use crate::artifacts::ArtifactHandle;
use crate::dispatcher::{ATTEMPTS, CHANGE_WAIT, OfLeader};
use crate::leader::to_the_end;
use crate::role::{RoleWatch, Route, lead_here, route};

/// The group, wherever the leader is. Cheap to clone.
#[derive(Clone)]
pub struct GroupHandle {
    meta: MetaStore,
    artifacts: ArtifactHandle,
    role: RoleWatch,
    /// Whether what belongs to the leader is passed on to it.
    forwards: bool,
}

impl std::fmt::Debug for GroupHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GroupHandle").field("this", &self.meta.this()).finish_non_exhaustive()
    }
}

impl OfLeader for GroupError {
    fn unavailable(&self) -> Option<&Unavailable> {
        if let Self::Unavailable(error) = self { Some(error) } else { None }
    }
}

impl GroupHandle {
    /// The group for clients.
    pub(crate) fn new(meta: MetaStore, artifacts: ArtifactHandle, role: RoleWatch) -> Self {
        Self { meta, artifacts, role, forwards: true }
    }

    /// The same for other members.
    pub(crate) fn without_forwarding(&self) -> Self {
        Self { forwards: false, ..self.clone() }
    }

    /// Who leads; for other members only this member counts.
    async fn route(&self) -> Result<Route, Unavailable> {
        match self.forwards {
            true => route(&self.role).await,
            false => lead_here(&self.role).await.map(Route::Here),
        }
    }

    /// Carries a request out here or at the leader, again when the leader changed meanwhile.
    async fn at_leader<T, F>(&self, ask: impl Fn(Option<GroupClient>) -> F) -> Result<T, GroupError>
    where
        F: Future<Output = Result<T, GroupError>>,
    {
        let attempts = if self.forwards { ATTEMPTS } else { 1 };
        let mut attempt = 1;
        loop {
            let route = self.route().await?;
            let result = match &route {
                Route::Here(_) => ask(None).await,
                // Not given up when the leader changes: that is what some of these requests are for.
                Route::There(address) => ask(Some(client(address)?)).await,
            };
            match result.map_err(OfLeader::seen_from_here) {
                Err(error) if error.may_pass() && attempt < attempts => {
                    attempt += 1;
                    _ = tokio::time::timeout(CHANGE_WAIT, route.over(&self.role)).await;
                }
                result => return result,
            }
        }
    }

    /// Changes a member. This member leads.
    async fn change_here(&self, change: MemberChange) -> Result<ChangedMember, GroupError> {
        match change {
            MemberChange::Add { name, address } => self.meta.add_member(&name, &address).await,
            MemberChange::Promote(who) => {
                self.bring_artifacts(&who).await?;
                self.meta.promote_member(&who).await
            }
            MemberChange::Remove(who) => self.meta.remove_member(&who).await,
        }
    }

    /// Copies to a learner what it will answer for as a voter: members that held an artifact may be removed afterwards.
    async fn bring_artifacts(&self, who: &str) -> Result<(), GroupError> {
        let number = who.strip_prefix("jm-").unwrap_or(who).parse::<u64>().ok();
        let members = self.meta.members();
        let named = members.iter().find(|member| member.name == who);
        let member = named.or_else(|| members.iter().find(|member| Some(member.id.0) == number));
        match member.filter(|member| !member.voter) {
            Some(member) => self.artifacts.bring_all(member).await.map_err(GroupError::Refused),
            // Whoever is meant, the store says what is wrong.
            None => Ok(()),
        }
    }
}

fn client(address: &str) -> Result<GroupClient, Unavailable> {
    let unreachable = |error: transport::AddressError| Unavailable::Unreachable { reason: error.to_string() };
    Ok(GroupClient::new(transport::channel(address).map_err(unreachable)?, address))
}

impl GroupGateway for GroupHandle {
    async fn transfer_leader(&self, to: Option<String>) -> Result<LeaderTransfer, GroupError> {
        self.at_leader(|leader| {
            let (this, to) = (self.clone(), to.clone());
            async move {
                match leader {
                    Some(leader) => leader.transfer_leader(to).await,
                    None => to_the_end(async move { this.meta.transfer_leader(to.as_deref()).await }).await,
                }
            }
        })
        .await
    }

    async fn change_member(&self, change: MemberChange) -> Result<ChangedMember, GroupError> {
        self.at_leader(|leader| {
            let (this, change) = (self.clone(), change.clone());
            async move {
                match leader {
                    Some(leader) => leader.change_member(change).await,
                    None => to_the_end(async move { this.change_here(change).await }).await,
                }
            }
        })
        .await
    }

    async fn find_place(&self, name: String) -> Result<Option<Place>, GroupError> {
        self.meta.find_place(&name)
    }

    async fn save_snapshot(&self) -> Result<SnapshotContent, GroupError> {
        self.at_leader(|leader| {
            let meta = self.meta.clone();
            async move {
                match leader {
                    Some(leader) => leader.save_snapshot().await,
                    None => meta.save_snapshot().await,
                }
            }
        })
        .await
    }
}
