//! The artifact store: bytes on a majority of the JobManagers before the entry that names them.
//!
//! An upload goes to the leader, whichever member it was sent to. The leader stores the bytes, copies them to the other
//! members, and when a majority has them durably it records who does. Every member serves every recorded artifact: one
//! that has not the bytes passes them on from one that has.

mod inspect;
mod store;

use std::sync::Arc;
use std::time::Duration;

use perennial_base::TaskGroup;
use perennial_meta::{Command, Member, MetaStore};
use perennial_rpc::artifact::{
    ArtifactBytes, ArtifactClient, ArtifactContent, ArtifactGateway, GetArtifactError, PutArtifact, PutArtifactError,
    PutScope,
};
use perennial_rpc::dispatcher::Unavailable;
use perennial_rpc::transport;
use perennial_types::{ArtifactDigest, JobManagerId};
use tokio::task::JoinSet;
use tracing::{debug, info, warn};

use crate::leader::{unreadable, unwritten};
use crate::role::{RoleWatch, Route, lead_here, route};
use crate::room::Room;

pub(crate) use store::ArtifactStore;

/// How often bytes that no record names are looked for.
const SWEEP_PERIOD: Duration = Duration::from_secs(600);

/// Age below which a file without a record is left alone: its upload may still be under way.
const SWEEP_AGE: Duration = Duration::from_secs(600);

/// The artifact store as one member offers it. Cheap to clone.
#[derive(Clone)]
pub struct ArtifactHandle {
    this: JobManagerId,
    meta: MetaStore,
    role: RoleWatch,
    store: Arc<ArtifactStore>,
    room: Room,
    /// Whether an upload that belongs to the leader is passed on to it.
    forwards: bool,
}

impl std::fmt::Debug for ArtifactHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ArtifactHandle").field("this", &self.this).finish_non_exhaustive()
    }
}

fn client(address: &str) -> Result<ArtifactClient, Unavailable> {
    let unreachable = |error: transport::AddressError| Unavailable::Unreachable { reason: error.to_string() };
    Ok(ArtifactClient::new(transport::channel(address).map_err(unreachable)?, address))
}

impl ArtifactHandle {
    /// The store for clients and REST.
    pub(crate) fn new(
        this: JobManagerId,
        meta: MetaStore,
        role: RoleWatch,
        store: Arc<ArtifactStore>,
        room: Room,
    ) -> Self {
        Self { this, meta, role, store, room, forwards: true }
    }

    /// The same for other members: what is not for this one is refused, so that nothing travels in circles.
    pub(crate) fn without_forwarding(&self) -> Self {
        Self { forwards: false, ..self.clone() }
    }

    /// Stores an artifact here and on a majority, then records it. This member leads.
    async fn put_replicated(&self, artifact: PutArtifact, bytes: ArtifactBytes) -> Result<(), PutArtifactError> {
        let digest = artifact.digest;
        if self.meta.state().artifact(digest).map_err(unreadable)?.is_some() && self.store.contains(digest) {
            return Ok(());
        }
        self.room.check()?;
        self.store.write(&artifact, bytes).await?;
        let this = self.clone();
        // From here on the work goes on without the client.
        crate::leader::to_the_end(async move { this.replicate(artifact).await }).await
    }

    async fn replicate(self, artifact: PutArtifact) -> Result<(), PutArtifactError> {
        let members = self.meta.members();
        let needed = members.iter().filter(|member| member.voter).count() / 2 + 1;
        let mut copies: JoinSet<Result<JobManagerId, String>> = JoinSet::new();
        for member in members.into_iter().filter(|member| member.voter && member.id != self.this) {
            let (this, artifact) = (self.clone(), artifact.clone());
            copies.spawn(async move {
                let copied = this.copy_to(&member.address, artifact).await;
                copied.map(|()| member.id).map_err(|error| format!("{}: {error}", member.name))
            });
        }
        let (mut holders, mut failures) = (vec![self.this], Vec::new());
        while holders.len() < needed {
            match copies.join_next().await {
                Some(Ok(Ok(holder))) => holders.push(holder),
                Some(Ok(Err(failure))) => failures.push(failure),
                Some(Err(error)) => failures.push(error.to_string()),
                None => {
                    let reason = format!(
                        "the artifact reached {} of the {needed} JobManagers it has to be on: {}",
                        holders.len(),
                        failures.join("; ")
                    );
                    return Err(Unavailable::Store { reason }.into());
                }
            }
        }
        let PutArtifact { digest, name, size, .. } = artifact;
        let record = |holders| Command::AddArtifact { digest, name: name.clone(), size, holders };
        self.meta.write(record(holders.clone())).await.map_err(unwritten)?;
        info!(%digest, name, size, ?holders, "artifact stored");
        let late = record(Vec::new());
        let meta = self.meta.clone();
        tokio::spawn(async move { record_late_copies(meta, copies, late).await });
        Ok(())
    }

    async fn copy_to(&self, address: &str, artifact: PutArtifact) -> Result<(), String> {
        let bytes = self.store.read(artifact.digest).await.map_err(|error| error.to_string())?;
        let copy = PutArtifact { scope: PutScope::LocalOnly, ..artifact };
        client(address).map_err(|error| error.to_string())?.put(copy, bytes).await.map_err(|error| error.to_string())
    }

    /// Copies every recorded artifact that a member is not known to hold, and records that it does. This member leads. The
    /// error says what is missing and why.
    pub(crate) async fn bring_all(&self, member: &Member) -> Result<(), String> {
        let records = self.meta.state().artifacts().map_err(|error| error.to_string())?;
        for record in records.into_iter().filter(|record| !record.holders.contains(&member.id)) {
            let (digest, name, size) = (record.digest, record.name, record.size);
            let failed =
                |error: String| format!("artifact {digest} could not be copied to {}: {error}; try again", member.name);
            let artifact = PutArtifact { digest, name: name.clone(), size, scope: PutScope::LocalOnly };
            if !self.store.contains(digest) {
                let content = self.fetch(digest).await.map_err(|error| failed(error.to_string()))?;
                self.store.write(&artifact, content.bytes).await.map_err(|error| failed(error.to_string()))?;
            }
            self.copy_to(&member.address, artifact).await.map_err(failed)?;
            let held = Command::AddArtifact { digest, name, size, holders: vec![self.this, member.id] };
            self.meta.write(held).await.map_err(|error| failed(error.to_string()))?;
        }
        Ok(())
    }

    /// Reads an artifact from the members that hold it.
    async fn fetch(&self, digest: ArtifactDigest) -> Result<ArtifactContent, GetArtifactError> {
        let record = self.meta.state().artifact(digest).map_err(unreadable)?;
        let record = record.ok_or(GetArtifactError::NotFound { digest })?;
        let mut reasons = Vec::new();
        for member in self.meta.members() {
            // A holder that lost its file asks nobody, so that two of them do not ask each other.
            if record.holders.contains(&self.this) || !record.holders.contains(&member.id) {
                continue;
            }
            match client(&member.address)?.get(digest).await {
                Ok(content) => return Ok(content),
                Err(error) => reasons.push(format!("{}: {error}", member.name)),
            }
        }
        if reasons.is_empty() {
            return Err(GetArtifactError::NotFound { digest });
        }
        let reason = format!("no JobManager that holds it gives it: {}", reasons.join("; "));
        Err(Unavailable::Unreachable { reason }.into())
    }
}

/// Adds the members that got their copy after the majority.
async fn record_late_copies(meta: MetaStore, mut copies: JoinSet<Result<JobManagerId, String>>, late: Command) {
    let mut more = Vec::new();
    while let Some(copied) = copies.join_next().await {
        match copied {
            Ok(Ok(holder)) => more.push(holder),
            Ok(Err(failure)) => warn!(failure, "artifact not copied; a majority has it"),
            Err(error) => warn!(%error, "artifact not copied; a majority has it"),
        }
    }
    if let Command::AddArtifact { digest, name, size, .. } = late
        && !more.is_empty()
        && let Err(error) = meta.write(Command::AddArtifact { digest, name, size, holders: more }).await
    {
        debug!(%digest, %error, "late copies not recorded");
    }
}

impl ArtifactGateway for ArtifactHandle {
    async fn has(&self, digest: ArtifactDigest) -> Result<bool, Unavailable> {
        // What this member has applied stays true; what it has not, the leader may know.
        if self.meta.state().artifact(digest).map_err(unreadable)?.is_some() {
            return Ok(true);
        }
        match route(&self.role).await? {
            Route::Here(leader) => {
                leader.meta.read_barrier().await.map_err(unwritten)?;
                Ok(leader.meta.state().artifact(digest).map_err(unreadable)?.is_some())
            }
            Route::There(address) if self.forwards => client(&address)?.has(digest).await,
            Route::There(_) => Ok(false),
        }
    }

    async fn put(&self, artifact: PutArtifact, bytes: ArtifactBytes) -> Result<(), PutArtifactError> {
        match artifact.scope {
            PutScope::LocalOnly => {
                self.room.check()?;
                self.store.write(&artifact, bytes).await
            }
            PutScope::Replicated if self.forwards => match route(&self.role).await? {
                Route::Here(_) => self.put_replicated(artifact, bytes).await,
                Route::There(address) => client(&address)?.put(artifact, bytes).await,
            },
            PutScope::Replicated => {
                lead_here(&self.role).await?;
                self.put_replicated(artifact, bytes).await
            }
        }
    }

    async fn get(&self, digest: ArtifactDigest) -> Result<ArtifactContent, GetArtifactError> {
        let record = self.meta.state().artifact(digest).map_err(unreadable)?;
        match (record, self.store.size(digest)) {
            (Some(record), Some(size)) => {
                let lost = |error: std::io::Error| Unavailable::Store { reason: error.to_string() };
                let bytes = self.store.read(digest).await.map_err(lost)?;
                Ok(ArtifactContent { name: record.name, size, bytes })
            }
            _ => self.fetch(digest).await,
        }
    }
}

/// Removes bytes that no record names, until the group stops.
pub(crate) fn spawn_sweep(tasks: &TaskGroup, meta: MetaStore, store: Arc<ArtifactStore>) {
    let token = tasks.token().clone();
    tasks.spawn("artifact-sweep", perennial_base::OnError::Report, async move {
        let sweep = async {
            loop {
                tokio::time::sleep(SWEEP_PERIOD).await;
                match meta.state().artifacts() {
                    Ok(records) => {
                        let recorded = records.into_iter().map(|record| record.digest).collect();
                        store.sweep(&recorded, SWEEP_AGE);
                    }
                    Err(error) => warn!(%error, "artifacts cannot be read"),
                }
            }
        };
        token.run_until_cancelled(sweep).await;
        Ok::<(), std::convert::Infallible>(())
    });
}
