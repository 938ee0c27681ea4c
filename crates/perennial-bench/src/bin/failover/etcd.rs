//! etcd under test: its processes, and as much of its gRPC interface as is needed.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result};
use perennial_rpc::transport;
use perennial_tests::{Process, free_ports};
use tempfile::TempDir;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Channel;

use crate::group::{Group, MEMBERS};
use crate::member::{Member, View};

/// What to do when there is no etcd.
pub(crate) const INSTALL: &str = "etcd is not installed (Debian: apt install etcd-server)";

/// etcd's timers, in milliseconds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Timers {
    heartbeat_ms: u32,
    election_ms: u32,
}

impl Timers {
    /// etcd's defaults.
    pub(crate) const DEFAULT: Self = Self { heartbeat_ms: 100, election_ms: 1000 };

    /// Tuned as our defaults are, 50 and 150 to 300: etcd wants at least five heartbeats for an election, draws the
    /// time from once to twice what is given, and so stands after 250 to 500 ms of silence.
    pub(crate) const TUNED: Self = Self { heartbeat_ms: 50, election_ms: 250 };
}

impl std::fmt::Display for Timers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{} ms", self.heartbeat_ms, self.election_ms)
    }
}

/// Whether there is an etcd to start.
pub(crate) fn is_installed() -> bool {
    let version = Command::new("etcd").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    version.is_ok_and(|status| status.success())
}

/// Three etcd processes in a temporary directory.
pub(crate) struct Etcd {
    processes: Vec<Option<Process>>,
    members: Vec<Member>,
    client_ports: Vec<u16>,
    peer_ports: Vec<u16>,
    timers: Timers,
    // After the processes, which write there until they are gone.
    directory: TempDir,
}

impl Etcd {
    /// Starts all three. Call inside the clients' runtime.
    pub(crate) fn start(timers: Timers) -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("perennial-bench-etcd-").tempdir()?;
        let ports = free_ports(2 * MEMBERS)?;
        let (client_ports, peer_ports) = ports.split_at(MEMBERS);
        let members = client_ports.iter().map(|port| connect(*port)).collect::<Result<_>>()?;
        let mut this = Self {
            processes: (0..MEMBERS).map(|_| None).collect(),
            members,
            client_ports: client_ports.to_vec(),
            peer_ports: peer_ports.to_vec(),
            timers,
            directory,
        };
        for member in 0..MEMBERS {
            Group::start(&mut this, member)?;
        }
        Ok(this)
    }

    fn data_dir(&self, member: usize) -> PathBuf {
        self.directory.path().join(format!("etcd-{member}"))
    }
}

fn connect(port: u16) -> Result<Member> {
    Ok(Member::Etcd(EtcdClient { channel: transport::channel(&format!("127.0.0.1:{port}"))? }))
}

impl Group for Etcd {
    fn members(&self) -> &[Member] {
        &self.members
    }

    fn connect(&self, member: usize) -> Result<Member> {
        connect(*self.client_ports.get(member).context("there is no such member")?)
    }

    fn process(&mut self, member: usize) -> Result<&mut Process> {
        self.processes.get_mut(member).and_then(Option::as_mut).with_context(|| format!("etcd {member} is not up"))
    }

    fn start(&mut self, member: usize) -> Result<()> {
        let url = |ports: &[u16], member: usize| {
            ports.get(member).map(|port| format!("http://127.0.0.1:{port}")).context("there is no such member")
        };
        let (client, peer) = (url(&self.client_ports, member)?, url(&self.peer_ports, member)?);
        let peers = (0..MEMBERS).map(|other| Ok(format!("etcd-{other}={}", url(&self.peer_ports, other)?)));
        let mut command = Command::new("etcd");
        command.args(["--name", &format!("etcd-{member}"), "--initial-cluster-state", "new"]);
        command.arg("--data-dir").arg(self.data_dir(member));
        command.args(["--initial-cluster", &peers.collect::<Result<Vec<_>>>()?.join(",")]);
        command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
        command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
        command.args(["--heartbeat-interval", &self.timers.heartbeat_ms.to_string()]);
        command.args(["--election-timeout", &self.timers.election_ms.to_string()]);
        let log = self.directory.path().join(format!("etcd-{member}.log"));
        let process = Process::start(&format!("etcd-{member}"), command, &log)?;
        *self.processes.get_mut(member).context("there is no such member")? = Some(process);
        Ok(())
    }
}

/// A client of one member.
#[derive(Debug, Clone)]
pub(crate) struct EtcdClient {
    channel: Channel,
}

impl EtcdClient {
    /// Writes a key of its own, 16 bytes, with a value of 16: as many bytes as a cancellation has.
    pub(crate) async fn put(&self) -> Result<()> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = u128::from(NUMBER.fetch_add(1, Ordering::Relaxed)).to_be_bytes().to_vec();
        let request = api::PutRequest { key: number.clone(), value: number };
        self.call::<_, api::PutResponse>(request, "/etcdserverpb.KV/Put").await.map(drop)
    }

    /// What it knows of the group.
    pub(crate) async fn view(&self) -> Result<View> {
        let status: api::StatusResponse = self.call(api::StatusRequest {}, "/etcdserverpb.Maintenance/Status").await?;
        let this = status.header.context("a status without header")?.member_id;
        Ok(View {
            term: status.raft_term,
            led: status.leader != 0,
            leads: status.leader == this,
            applied: status.raft_applied_index,
        })
    }

    async fn call<Q, A>(&self, request: Q, path: &'static str) -> Result<A>
    where
        Q: prost::Message + Send + Sync + 'static,
        A: prost::Message + Default + Send + Sync + 'static,
    {
        let mut grpc = Grpc::new(self.channel.clone());
        grpc.ready().await?;
        let codec = tonic_prost::ProstCodec::<Q, A>::default();
        Ok(grpc.unary(tonic::Request::new(request), PathAndQuery::from_static(path), codec).await?.into_inner())
    }
}

/// Parts of etcd 3.4's `rpc.proto`.
mod api {
    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct ResponseHeader {
        #[prost(uint64, tag = "2")]
        pub(super) member_id: u64,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct PutRequest {
        #[prost(bytes = "vec", tag = "1")]
        pub(super) key: Vec<u8>,
        #[prost(bytes = "vec", tag = "2")]
        pub(super) value: Vec<u8>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct PutResponse {}

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct StatusRequest {}

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct StatusResponse {
        #[prost(message, optional, tag = "1")]
        pub(super) header: Option<ResponseHeader>,
        /// Zero when there is none.
        #[prost(uint64, tag = "4")]
        pub(super) leader: u64,
        #[prost(uint64, tag = "6")]
        pub(super) raft_term: u64,
        #[prost(uint64, tag = "7")]
        pub(super) raft_applied_index: u64,
    }
}
