//! Perennial under test.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use perennial_rpc::dispatcher::{DispatcherClient, DispatcherGateway};
use perennial_rpc::transport;
use perennial_tests::{Cluster, ClusterBuilder, Process};
use tokio::time::sleep;

use crate::group::{Group, MEMBERS};
use crate::member::Member;

/// Time between two looks at a new leader.
const LOOK_EVERY: Duration = Duration::from_millis(1);

/// Three JobManagers with shipped defaults, and TaskManagers of one slot.
pub(crate) struct Product {
    cluster: Cluster,
    clients: Vec<DispatcherClient>,
    members: Vec<Member>,
}

impl Product {
    /// Starts all and waits until every TaskManager is registered. Call inside the clients' runtime.
    pub(crate) fn start(binary: &Path, taskmanagers: usize) -> Result<Self> {
        let cluster = ClusterBuilder::new(binary).jobmanagers(MEMBERS).taskmanagers(taskmanagers, 1).start()?;
        let clients: Vec<DispatcherClient> =
            (0..MEMBERS).map(|member| client(&cluster, member)).collect::<Result<_>>()?;
        let members = clients.iter().cloned().map(Member::Perennial).collect();
        Ok(Self { cluster, clients, members })
    }

    /// The processes.
    pub(crate) fn cluster(&mut self) -> &mut Cluster {
        &mut self.cluster
    }

    /// The Dispatcher as one JobManager offers it.
    pub(crate) fn client(&self, member: usize) -> Result<DispatcherClient> {
        self.clients.get(member).cloned().context("there is no such jobmanager")
    }
}

fn client(cluster: &Cluster, member: usize) -> Result<DispatcherClient> {
    let endpoints = cluster.endpoints();
    let endpoint = endpoints.split(',').nth(member).context("there is no such jobmanager")?;
    Ok(DispatcherClient::new(transport::channel(endpoint)?, endpoint))
}

impl Group for Product {
    fn members(&self) -> &[Member] {
        &self.members
    }

    fn connect(&self, member: usize) -> Result<Member> {
        client(&self.cluster, member).map(Member::Perennial)
    }

    fn process(&mut self, member: usize) -> Result<&mut Process> {
        self.cluster.jobmanager(member)
    }

    fn start(&mut self, member: usize) -> Result<()> {
        self.cluster.start_jobmanager(member)
    }
}

/// A take-over, seen from outside.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TakeOver {
    /// When a member was first seen to lead a later term.
    pub(crate) elected: Instant,
    /// When all TaskManagers were registered with it.
    pub(crate) attached: Instant,
}

/// Watches JobManagers until one of them leads a later term and knows so many TaskManagers.
///
/// Ends only then: whoever waits for it has to set a limit.
pub(crate) async fn take_over(survivors: Vec<DispatcherClient>, term: u64, taskmanagers: usize) -> TakeOver {
    let (leader, elected) = 'elected: loop {
        for survivor in &survivors {
            if let Ok(status) = survivor.cluster_status().await
                && status.epoch.0 > term
                && status.leader == Some(status.from)
            {
                break 'elected (survivor.clone(), Instant::now());
            }
        }
        sleep(LOOK_EVERY).await;
    };
    loop {
        if leader.taskmanagers().await.is_ok_and(|known| known.len() >= taskmanagers) {
            return TakeOver { elected, attached: Instant::now() };
        }
        sleep(LOOK_EVERY).await;
    }
}
