//! Starts and stops members, and waits for what they should come to.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use perennial_meta::{Command, MetaConfig, MetaStore, OpenError, Outcome, Peer, Written};
use perennial_rpc::dispatcher::Unavailable;
use perennial_rpc::group::{
    ChangedMember, GroupError, GroupGateway, GroupServer, LeaderTransfer, MemberChange, Place, SnapshotContent,
};
use perennial_types::{ArtifactDigest, JobManagerId};
use tokio::net::{TcpListener, TcpSocket};
use tokio_util::sync::CancellationToken;

/// Time a condition has to come true; far more than it takes.
const PATIENCE: Duration = Duration::from_secs(20);

/// Waits until `condition` gives a value.
pub(crate) async fn eventually<T>(what: &str, mut condition: impl AsyncFnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = condition().await {
            return value;
        }
        assert!(start.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A running member.
pub(crate) struct Member {
    pub(crate) store: MetaStore,
    stop: CancellationToken,
    /// Threads of its own, so that the server can end with all its connections at once.
    server: Option<tokio::runtime::Runtime>,
    served: tokio::task::JoinHandle<()>,
}

impl Drop for Member {
    fn drop(&mut self) {
        if let Some(server) = self.server.take() {
            server.shutdown_background();
        }
    }
}

/// What a JobManager offers to processes that join; the rest is asked of the store itself.
#[derive(Clone)]
struct Served(MetaStore);

impl GroupGateway for Served {
    async fn find_place(&self, name: String) -> Result<Option<Place>, GroupError> {
        self.0.find_place(&name)
    }

    async fn transfer_leader(&self, _: Option<String>) -> Result<LeaderTransfer, GroupError> {
        Err(not_here())
    }

    async fn change_member(&self, _: MemberChange) -> Result<ChangedMember, GroupError> {
        Err(not_here())
    }

    async fn save_snapshot(&self) -> Result<SnapshotContent, GroupError> {
        Err(not_here())
    }
}

fn not_here() -> GroupError {
    Unavailable::Store { reason: "not served here".to_owned() }.into()
}

/// A port that is this test's for as long as the socket lives: it is bound, and does not listen. A member, or a proxy, can listen there, since
/// both allow to share it; to anybody else who asks for some port, or connects from one, the system gives another, even while the member is
/// away. Who connects then is refused, as by any port at which nobody listens.
fn reserve_port() -> (TcpSocket, String) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_reuseaddr(true).unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = socket.local_addr().unwrap().to_string();
    (socket, address)
}

/// A group, its directories and addresses; members come and go.
pub(crate) struct Group {
    root: tempfile::TempDir,
    peers: Vec<Peer>,
    /// Where each member listens: at its address, unless a proxy does.
    listen: Vec<String>,
    /// Keep the ports of members that do not run.
    reserved: Vec<TcpSocket>,
    /// Where a member reaches another one, unless at its address.
    ways: BTreeMap<(usize, usize), String>,
    /// How many of them found the group; the others join it.
    founders: usize,
    pub(crate) snapshot_entries: u64,
    pub(crate) log_entries_kept: u64,
    /// Shortest and longest silence of a leader after which members elect, in milliseconds.
    pub(crate) election_timeout_ms: (u64, u64),
    pub(crate) members: Vec<Option<Member>>,
}

impl Group {
    /// A group of `count` members with free ports, none of which runs.
    pub(crate) async fn new(count: usize) -> Self {
        // `RUST_LOG=debug cargo test -- --nocapture` shows what the members do.
        let filter = tracing_subscriber::EnvFilter::from_default_env();
        let _set_before = tracing_subscriber::fmt().with_env_filter(filter).with_test_writer().try_init();
        let (reserved, addresses): (_, Vec<_>) = (0..count).map(|_| reserve_port()).unzip();
        let peers: Vec<Peer> = (1..)
            .zip(addresses)
            .map(|(id, address)| Peer { id: JobManagerId(id), name: format!("jm-{id}"), address })
            .collect();
        Self {
            root: tempfile::tempdir().unwrap(),
            listen: peers.iter().map(|peer| peer.address.clone()).collect(),
            peers,
            reserved,
            ways: BTreeMap::new(),
            founders: count,
            snapshot_entries: 10_000,
            log_entries_kept: 50_000,
            election_timeout_ms: (150, 300),
            members: (0..count).map(|_| None).collect(),
        }
    }

    /// The same with all members running and one of them serving.
    pub(crate) async fn started(count: usize) -> Self {
        let mut group = Self::new(count).await;
        group.start_all().await;
        group.leader().await;
        group
    }

    /// Lets a member listen elsewhere than at its address. Returns both.
    pub(crate) async fn behind_proxy(&mut self, n: usize) -> (String, String) {
        let (reserved, address) = reserve_port();
        self.reserved.push(reserved);
        self.listen[n] = address;
        (self.peers[n].address.clone(), self.listen[n].clone())
    }

    pub(crate) fn dir(&self, n: usize) -> PathBuf {
        self.root.path().join(n.to_string())
    }

    pub(crate) fn address(&self, n: usize) -> String {
        self.peers[n].address.clone()
    }

    /// Lets a member reach another one at another address.
    pub(crate) fn reaches_at(&mut self, from: usize, to: usize, address: String) {
        self.ways.insert((from, to), address);
    }

    pub(crate) fn config(&self, n: usize) -> MetaConfig {
        let mut peers = self.peers.clone();
        for ((_, to), address) in self.ways.iter().filter(|((from, _), _)| *from == n) {
            peers[*to].address.clone_from(address);
        }
        // One that joins may ask anybody.
        peers.truncate(if n < self.founders { self.founders } else { peers.len() });
        MetaConfig {
            data_dir: self.dir(n),
            name: self.name(n),
            address: self.peers[n].address.clone(),
            peers,
            join: n >= self.founders,
            heartbeat_interval: Duration::from_millis(50),
            election_timeout_min: Duration::from_millis(self.election_timeout_ms.0),
            election_timeout_max: Duration::from_millis(self.election_timeout_ms.1),
            snapshot_entries: self.snapshot_entries,
            log_entries_kept: self.log_entries_kept,
        }
    }

    pub(crate) fn name(&self, n: usize) -> String {
        self.peers[n].name.clone()
    }

    /// A process that joins with the next name and a free port; it is not started. Gives its place in the list.
    pub(crate) async fn newcomer(&mut self) -> usize {
        let n = self.peers.len();
        let (reserved, address) = reserve_port();
        self.reserved.push(reserved);
        self.listen.push(address.clone());
        self.peers.push(Peer { id: JobManagerId(n as u64 + 1), name: format!("jm-{}", n + 1), address });
        self.members.push(None);
        n
    }

    /// Asks whoever leads, again while the leadership changes.
    pub(crate) async fn ask_leader<T>(
        &self,
        ask: impl AsyncFn(&MetaStore) -> Result<T, GroupError>,
    ) -> Result<T, GroupError> {
        eventually("a leader answers", async || {
            let leader = self.leader().await;
            match ask(self.store(leader)).await {
                Err(GroupError::Unavailable(_)) => None,
                answer => Some(answer),
            }
        })
        .await
    }

    /// Adds, starts and promotes a newcomer.
    pub(crate) async fn take_in(&mut self) -> usize {
        let n = self.newcomer().await;
        self.take_in_newcomer(n).await;
        n
    }

    /// Adds, starts and promotes a newcomer that there is.
    pub(crate) async fn take_in_newcomer(&mut self, n: usize) {
        self.add(n).await;
        self.start(n).await;
        self.promote(n).await;
    }

    pub(crate) async fn add(&self, n: usize) -> ChangedMember {
        let peer = self.peers[n].clone();
        self.ask_leader(async |store| store.add_member(&peer.name, &peer.address).await).await.unwrap()
    }

    /// Promotes a member as soon as it may be.
    pub(crate) async fn promote(&self, n: usize) {
        eventually("a learner may be promoted", async || {
            self.ask_leader(async |store| store.promote_member(&self.name(n)).await).await.ok()
        })
        .await;
    }

    pub(crate) async fn remove(&self, n: usize) -> Result<ChangedMember, GroupError> {
        self.ask_leader(async |store| store.remove_member(&self.name(n)).await).await
    }

    pub(crate) async fn try_start(&mut self, n: usize) -> Result<(), OpenError> {
        self.try_start_with(n, self.config(n)).await
    }

    pub(crate) async fn try_start_with(&mut self, n: usize, config: MetaConfig) -> Result<(), OpenError> {
        let store = MetaStore::open(config).await?;
        let address = self.listen[n].clone();
        let listener = eventually("the port is free again", async || std::net::TcpListener::bind(&address).ok()).await;
        listener.set_nonblocking(true).unwrap();
        let stop = CancellationToken::new();
        let (service, stopped) = (store.raft_service(), stop.clone());
        let mut routes = tonic::service::Routes::builder();
        routes.add_service(service);
        GroupServer::new(Served(store.clone())).add_to(&mut routes);
        let server = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let served = server.spawn(async move {
            let listener = TcpListener::from_std(listener).unwrap();
            let incoming = tonic::transport::server::TcpIncoming::from(listener).with_nodelay(Some(true));
            let server = tonic::transport::Server::builder().add_routes(routes.routes());
            server.serve_with_incoming_shutdown(incoming, stopped.cancelled()).await.unwrap();
        });
        self.members[n] = Some(Member { store, stop, server: Some(server), served });
        Ok(())
    }

    pub(crate) async fn start(&mut self, n: usize) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.try_start(n).await {
                // What was killed a moment ago is still closing its files.
                Err(OpenError::InUse { .. }) if Instant::now() < deadline => {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                started => return started.unwrap(),
            }
        }
    }

    pub(crate) async fn start_all(&mut self) {
        for n in 0..self.members.len() {
            self.start(n).await;
        }
    }

    /// Stops a member in an orderly way.
    pub(crate) async fn stop(&mut self, n: usize) {
        let mut member = self.members[n].take().unwrap();
        member.store.shutdown().await;
        member.stop.cancel();
        (&mut member.served).await.unwrap();
    }

    /// Ends a member as `SIGKILL` does: nobody is told, and all its sockets are closed.
    pub(crate) fn kill(&mut self, n: usize) {
        drop(self.members[n].take().unwrap());
    }

    pub(crate) async fn stop_all(&mut self) {
        for n in 0..self.members.len() {
            if self.members[n].is_some() {
                self.stop(n).await;
            }
        }
    }

    pub(crate) fn store(&self, n: usize) -> &MetaStore {
        &self.members[n].as_ref().unwrap().store
    }

    pub(crate) fn running(&self) -> impl Iterator<Item = usize> {
        (0..self.members.len()).filter(|n| self.members[*n].is_some())
    }

    /// The member that serves.
    pub(crate) async fn leader(&self) -> usize {
        eventually("a member serves", async || {
            self.running().find(|n| self.store(*n).leadership().borrow().serving.is_some())
        })
        .await
    }

    /// A running member that does not serve.
    pub(crate) async fn follower(&self) -> usize {
        let leader = self.leader().await;
        self.running().find(|n| *n != leader).unwrap()
    }

    /// Writes an artifact record with this number through whoever leads.
    pub(crate) async fn write(&self, number: u64) -> Written {
        let command = artifact(number);
        eventually("a write succeeds", async || {
            let leader = self.leader().await;
            self.store(leader).write(command.clone()).await.ok()
        })
        .await
    }

    /// Writes many at once.
    pub(crate) async fn write_many(&self, numbers: std::ops::Range<u64>) {
        let leader = self.leader().await;
        let store = self.store(leader);
        let writes = numbers.map(|number| store.write(artifact(number)));
        for written in futures_util::future::join_all(writes).await {
            assert_eq!(written.unwrap().outcome, Outcome::Done);
        }
    }

    /// Waits until a member has applied the artifact record with this number.
    pub(crate) async fn await_artifact(&self, n: usize, number: u64) {
        eventually(&format!("member {n} applies artifact {number}"), async || {
            self.store(n).state().artifact(digest(number)).unwrap()
        })
        .await;
    }
}

pub(crate) fn digest(number: u64) -> ArtifactDigest {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&number.to_be_bytes());
    ArtifactDigest::from_bytes(bytes)
}

pub(crate) fn artifact(number: u64) -> Command {
    Command::AddArtifact { digest: digest(number), name: "x".repeat(180), size: number, holders: vec![JobManagerId(1)] }
}

/// Copies a directory and all below it.
pub(crate) fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_dir(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}
