//! A JobManager with a script: it leads when it is told to and keeps what it hears.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use perennial_rpc::artifact::{
    ArtifactBytes, ArtifactContent, ArtifactGateway, ArtifactServer, GetArtifactError, PutArtifact, PutArtifactError,
};
use perennial_rpc::dispatcher::Unavailable;
use perennial_rpc::taskmanager::{
    Action, Command, CommandDone, CommandError, FromTaskManager, Incoming, Leadership, Registration,
    TaskManagerGateway, TaskManagerServer, ToTaskManager,
};
use perennial_types::{ArtifactDigest, ClusterId, Fence, JobId, JobManagerId, LeaderEpoch};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

pub(crate) const CLUSTER: ClusterId = ClusterId::from_bytes([7; 16]);

/// Longest wait for anything in these tests. Reached only when something is wrong.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Default)]
struct State {
    leadership: Option<Leadership>,
    streams: Vec<mpsc::Sender<ToTaskManager>>,
    heard: Vec<FromTaskManager>,
    artifacts: HashMap<ArtifactDigest, Vec<u8>>,
    fetches: u32,
    next_command: u64,
    /// Registrations are heard and not answered.
    hesitates: bool,
}

#[derive(Clone)]
pub(crate) struct JobManager {
    pub(crate) id: JobManagerId,
    pub(crate) cluster: ClusterId,
    pub(crate) address: String,
    state: Arc<Mutex<State>>,
    stop: CancellationToken,
}

impl JobManager {
    pub(crate) async fn start(id: u64) -> Self {
        Self::start_at(id, CLUSTER, "127.0.0.1:0").await
    }

    pub(crate) async fn start_at(id: u64, cluster: ClusterId, address: &str) -> Self {
        // The listener before this one at the same address may take a moment to go.
        let listener = wait_for("a free port", || std::net::TcpListener::bind(address).ok()).await;
        listener.set_nonblocking(true).unwrap();
        let listener = tokio::net::TcpListener::from_std(listener).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let jobmanager =
            Self { id: JobManagerId(id), cluster, address, state: Arc::default(), stop: CancellationToken::new() };
        jobmanager.says(0, None, "");
        let mut routes = tonic::service::RoutesBuilder::default();
        TaskManagerServer::new(jobmanager.clone()).add_to(&mut routes);
        ArtifactServer::new(jobmanager.clone()).add_to(&mut routes);
        let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
        let server = tonic::transport::Server::builder().add_routes(routes.routes());
        let stop = jobmanager.stop.clone();
        tokio::spawn(async move {
            tokio::select! {
                served = server.serve_with_incoming(incoming) => served.unwrap(),
                () = stop.cancelled() => {}
            }
        });
        jobmanager
    }

    /// Tells every TaskManager who leads, now and when it attaches.
    pub(crate) fn says(&self, epoch: u64, leader: Option<u64>, leader_address: &str) {
        let leadership = Leadership {
            cluster: Some(self.cluster),
            from: self.id,
            epoch: LeaderEpoch(epoch),
            leader: leader.map(JobManagerId),
            leader_address: leader_address.to_owned(),
            jobmanagers: Vec::new(),
        };
        let mut state = self.state.lock().unwrap();
        state.leadership = Some(leadership.clone());
        for stream in &state.streams {
            _ = stream.try_send(ToTaskManager::Leadership(leadership.clone()));
        }
    }

    /// From now on registrations are heard and not answered.
    pub(crate) fn hesitate(&self) {
        self.state.lock().unwrap().hesitates = true;
    }

    /// Accepts the registration it has heard.
    pub(crate) fn accept(&self) {
        for stream in &self.state.lock().unwrap().streams {
            _ = stream.try_send(ToTaskManager::Registered { cluster: self.cluster });
        }
    }

    pub(crate) fn lead(&self, epoch: u64) {
        self.says(epoch, Some(self.id.0), &self.address.clone());
    }

    /// Ends its streams and its listener, as the end of its process would.
    pub(crate) fn die(&self) {
        self.stop.cancel();
        self.state.lock().unwrap().streams.clear();
    }

    pub(crate) fn store(&self, bytes: &[u8]) -> ArtifactDigest {
        use sha2::Digest;
        let digest = ArtifactDigest::from_bytes(sha2::Sha256::digest(bytes).into());
        self.store_as(digest, bytes);
        digest
    }

    pub(crate) fn store_as(&self, digest: ArtifactDigest, bytes: &[u8]) {
        self.state.lock().unwrap().artifacts.insert(digest, bytes.to_vec());
    }

    pub(crate) fn fetches(&self) -> u32 {
        self.state.lock().unwrap().fetches
    }

    /// The first message heard for which `pick` gives something, now or later.
    pub(crate) async fn hears<T>(&self, what: &str, mut pick: impl FnMut(&FromTaskManager) -> Option<T>) -> T {
        wait_for(what, || self.state.lock().unwrap().heard.iter().find_map(&mut pick)).await
    }

    /// How many messages heard satisfy a condition.
    pub(crate) fn count(&self, condition: impl Fn(&FromTaskManager) -> bool) -> usize {
        self.state.lock().unwrap().heard.iter().filter(|message| condition(message)).count()
    }

    pub(crate) async fn registration(&self) -> Registration {
        self.hears("a registration", |message| match message {
            FromTaskManager::Register(registration) => Some(registration.clone()),
            _ => None,
        })
        .await
    }

    /// Sends a command without waiting for its answer.
    pub(crate) fn send(&self, epoch: u64, job: JobId, action: Action) -> u64 {
        let mut state = self.state.lock().unwrap();
        state.next_command += 1;
        let id = state.next_command;
        let fence = Fence { epoch: LeaderEpoch(epoch), index: id };
        for stream in &state.streams {
            let command = Command { fence, id, job, action: action.clone() };
            _ = stream.try_send(ToTaskManager::Command(command));
        }
        id
    }

    pub(crate) async fn command(&self, epoch: u64, job: JobId, action: Action) -> Result<CommandDone, CommandError> {
        let id = self.send(epoch, job, action);
        self.answer(id).await
    }

    pub(crate) async fn answer(&self, id: u64) -> Result<CommandDone, CommandError> {
        self.hears("an answer", |message| match message {
            FromTaskManager::Answer(answer) if answer.id == id => Some(answer.result.clone()),
            _ => None,
        })
        .await
    }
}

impl TaskManagerGateway for JobManager {
    fn attach(&self, _: Option<SocketAddr>, mut from: Incoming<FromTaskManager>) -> mpsc::Receiver<ToTaskManager> {
        let (to, answers) = mpsc::channel(1024);
        let mut state = self.state.lock().unwrap();
        if let Some(leadership) = state.leadership.clone() {
            _ = to.try_send(ToTaskManager::Leadership(leadership));
        }
        state.streams.push(to.clone());
        drop(state);
        let to = to.downgrade();
        let jobmanager = self.clone();
        tokio::spawn(async move {
            while let Some(Ok(message)) = from.next().await {
                let Some(to) = to.upgrade() else { return };
                match &message {
                    FromTaskManager::Heartbeat { .. } => _ = to.try_send(ToTaskManager::Heartbeat),
                    FromTaskManager::Register(_) if !jobmanager.state.lock().unwrap().hesitates => {
                        _ = to.try_send(ToTaskManager::Registered { cluster: jobmanager.cluster });
                    }
                    _ => {}
                }
                jobmanager.state.lock().unwrap().heard.push(message);
            }
        });
        answers
    }
}

impl ArtifactGateway for JobManager {
    async fn has(&self, digest: ArtifactDigest) -> Result<bool, Unavailable> {
        Ok(self.state.lock().unwrap().artifacts.contains_key(&digest))
    }

    async fn put(&self, _: PutArtifact, _: ArtifactBytes) -> Result<(), PutArtifactError> {
        unreachable!("a TaskManager stores no artifacts")
    }

    async fn get(&self, digest: ArtifactDigest) -> Result<ArtifactContent, GetArtifactError> {
        let mut state = self.state.lock().unwrap();
        let bytes = state.artifacts.get(&digest).cloned().ok_or(GetArtifactError::NotFound { digest })?;
        state.fetches += 1;
        let size = bytes.len() as u64;
        let bytes: ArtifactBytes = Box::pin(tokio_stream::once(Ok(bytes.into())));
        Ok(ArtifactContent { name: "job".to_owned(), size, bytes })
    }
}

/// Waits until `condition` gives something, and fails with what was waited for.
pub(crate) async fn wait_for<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = std::time::Instant::now() + PATIENCE;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(std::time::Instant::now() < deadline, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
