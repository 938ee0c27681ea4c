//! One member of a group under test, as a client sees it.

use anyhow::{Result, bail};
use perennial_rpc::dispatcher::{CancelJobError, DispatcherClient, DispatcherGateway};
use perennial_types::{JobId, RequestId};

use crate::etcd::EtcdClient;

/// A connection to one member. Clones share the connection.
#[derive(Debug, Clone)]
pub(crate) enum Member {
    Perennial(DispatcherClient),
    Etcd(EtcdClient),
}

/// The group as one member sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct View {
    /// Raft term.
    pub(crate) term: u64,
    /// Whether it knows who leads.
    pub(crate) led: bool,
    /// Whether it leads itself.
    pub(crate) leads: bool,
    /// Index of the last entry it has applied.
    pub(crate) applied: u64,
}

impl Member {
    /// One write. Resolves when it is committed.
    pub(crate) async fn write(&self) -> Result<()> {
        match self {
            // Of no job: it is recorded as any other and changes nothing.
            Self::Perennial(client) => match client.cancel_job(JobId::random(), RequestId::random()).await {
                Err(CancelJobError::UnknownJob { .. }) => Ok(()),
                Err(error) => Err(error.into()),
                Ok(()) => bail!("a job of a random id was cancelled"),
            },
            Self::Etcd(client) => client.put().await,
        }
    }

    /// What it knows of the group.
    pub(crate) async fn view(&self) -> Result<View> {
        match self {
            Self::Perennial(client) => {
                let status = client.cluster_status().await?;
                Ok(View {
                    term: status.epoch.0,
                    led: status.leader.is_some(),
                    leads: status.leader == Some(status.from),
                    applied: status.applied,
                })
            }
            Self::Etcd(client) => client.view().await,
        }
    }
}
