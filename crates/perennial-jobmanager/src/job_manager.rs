//! One member of the JobManager group, from start to end.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use perennial_base::{OnError, TaskGroup};
use perennial_meta::{ConfigError, LeadershipView, MetaConfig, MetaStore, OpenError};
use perennial_rpc::artifact::ArtifactServer;
use perennial_rpc::attendance::AttendanceServer;
use perennial_rpc::dispatcher::DispatcherServer;
use perennial_rpc::group::GroupServer;
use perennial_rpc::taskmanager::TaskManagerServer;
use perennial_types::config::options;
use perennial_types::{Configuration, JobManagerId};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::task::TaskTracker;
use tonic::service::{Routes, RoutesBuilder};
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tracing::{error, info};

use crate::artifacts::{self, ArtifactHandle, ArtifactStore};
use crate::attendance::{self, Attendance};
use crate::conversation::Attachments;
use crate::dispatcher::{DispatcherHandle, LeaderOnly, Local};
use crate::group::GroupHandle;
use crate::leader::Leader;
use crate::role::{Role, Standby};
use crate::room::Room;
use crate::settings::Settings;

/// Time streams and requests have to end at a shutdown.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(2);

/// Silence of a connection after which a ping is sent, and time the answer has.
const KEEP_ALIVE: Duration = Duration::from_secs(2);

/// Streams one connection may have open: a member's forwarded requests and watches.
const STREAMS_MAX: u32 = 4096;

/// Why a JobManager did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The RPC port cannot be listened on.
    #[error(
        "cannot listen on {address} (jobmanager.bind-host, jobmanager.rpc.port): {reason}; free the port or set another one"
    )]
    Bind {
        /// What was tried, `host:port`.
        address: String,
        /// Why it failed.
        reason: std::io::Error,
    },
    /// The options of the group make no sense.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The metadata store did not open.
    #[error(transparent)]
    Meta(#[from] OpenError),
    /// The artifact directory cannot be used.
    #[error("cannot use the artifact directory {}", path.display())]
    Artifacts {
        /// The directory.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
}

/// One member of the JobManager group.
#[derive(Debug)]
pub struct JobManager;

impl JobManager {
    /// Binds the RPC port, opens the metadata store and serves. Waits for no election; but one that joins a group waits until
    /// it was added to it.
    ///
    /// Must be called inside a tokio runtime.
    pub async fn start(config: &Configuration) -> Result<JobManagerHandle, StartError> {
        let listener = bind(config).await?;
        let rpc_address =
            listener.local_addr().map_err(|reason| StartError::Bind { address: String::new(), reason })?;
        let meta_config = MetaConfig::from_configuration(config, rpc_address.port())?;
        let started = Instant::now();
        let (name, data_dir) = (meta_config.name.clone(), meta_config.data_dir.clone());
        let meta = MetaStore::open(meta_config).await?;
        let (this, address) = (meta.this(), meta.address());
        let settings = Arc::new(Settings::new(config, &data_dir));
        let artifact_dir = data_dir.join("artifacts");
        let store = ArtifactStore::open(artifact_dir.clone(), settings.artifact_bytes_max)
            .map_err(|source| StartError::Artifacts { path: artifact_dir, source })?;
        let store = Arc::new(store);

        let tasks = TaskGroup::new();
        let view = meta.leadership().borrow().clone();
        let (role, watched) = watch::channel(standby(this, &view));
        let min_free = config.get(&options::JOBMANAGER_DATA_DIR_MIN_FREE_SPACE);
        let room = Room::watch(&tasks, data_dir.clone(), min_free, meta.clone());
        let local = Local { this, meta: meta.clone(), started, room: room.clone() };
        let artifacts = ArtifactHandle::new(this, meta.clone(), watched.clone(), Arc::clone(&store), room);
        let attendance = Attendance::default();
        let attachments = Attachments {
            this,
            address: address.clone(),
            meta: meta.clone(),
            role: watched.clone(),
            attendance: attendance.clone(),
            tracker: TaskTracker::new(),
            token: tasks.token().clone(),
        };
        let group = GroupHandle::new(meta.clone(), artifacts.clone(), watched.clone());
        let mut routes = RoutesBuilder::default();
        routes.add_service(meta.raft_service());
        TaskManagerServer::new(attachments).add_to(&mut routes);
        DispatcherServer::new(LeaderOnly { local: local.clone(), role: watched.clone() }).add_to(&mut routes);
        ArtifactServer::new(artifacts.without_forwarding()).add_to(&mut routes);
        GroupServer::new(group.without_forwarding()).add_to(&mut routes);
        AttendanceServer::new(attendance.clone()).add_to(&mut routes);
        serve(&tasks, listener, routes.routes());
        artifacts::spawn_sweep(&tasks, meta.clone(), store);
        attendance::spawn_watch(&tasks, attendance, settings.heartbeat_timeout, watched.clone(), meta.clone());
        let roles = play_roles(this, role, meta.clone(), settings, tasks.clone());
        tasks.spawn("roles", OnError::StopProcess, roles);
        info!(jobmanager = %this, name, %rpc_address, data_dir = %data_dir.display(), "JobManager started");
        let dispatcher = DispatcherHandle::new(local, watched);
        Ok(JobManagerHandle { id: this, name, rpc_address, address, meta, dispatcher, group, artifacts, tasks })
    }
}

async fn bind(config: &Configuration) -> Result<TcpListener, StartError> {
    let host = config.get(&options::JOBMANAGER_BIND_HOST);
    let port = config.get(&options::JOBMANAGER_RPC_PORT);
    let refused = |reason| StartError::Bind { address: format!("{host}:{port}"), reason };
    TcpListener::bind((host.as_str(), port)).await.map_err(refused)
}

fn serve(tasks: &TaskGroup, listener: TcpListener, routes: Routes) {
    let token = tasks.token().clone();
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let server = Server::builder()
        .http2_keepalive_interval(Some(KEEP_ALIVE))
        .http2_keepalive_timeout(Some(KEEP_ALIVE))
        .max_concurrent_streams(STREAMS_MAX)
        .add_routes(routes)
        .serve_with_incoming_shutdown(incoming, token.cancelled_owned());
    tasks.spawn("rpc-server", OnError::StopProcess, server);
}

/// Follows the leadership: makes a [`Leader`] when this member may command, drops it when it may not any more.
async fn play_roles(
    this: JobManagerId,
    role: watch::Sender<Role>,
    meta: MetaStore,
    settings: Arc<Settings>,
    tasks: TaskGroup,
) -> Result<(), Infallible> {
    let mut leadership = meta.leadership();
    let mut leading: Option<Arc<Leader>> = None;
    let follow = async {
        loop {
            let view = leadership.borrow_and_update().clone();
            if leading.as_ref().is_none_or(|leader| Some(leader.epoch) != view.serving) {
                role.send_replace(standby(this, &view));
                if let Some(leader) = leading.take() {
                    leader.stop().await;
                }
                if let Some(epoch) = view.serving {
                    match Leader::start(epoch, meta.clone(), Arc::clone(&settings)).await {
                        Ok(leader) => {
                            role.send_replace(Role::Leader(Arc::clone(&leader)));
                            leading = Some(leader);
                        }
                        // The store says itself that it has failed, and the process ends.
                        Err(error) => error!(%error, "this member cannot lead"),
                    }
                }
            }
            if leadership.changed().await.is_err() {
                return;
            }
        }
    };
    tasks.token().run_until_cancelled(follow).await;
    if let Some(leader) = leading {
        leader.stop().await;
    }
    Ok(())
}

/// The role of a member that does not lead, or not yet.
fn standby(this: JobManagerId, view: &LeadershipView) -> Role {
    let rising = view.leader.as_ref().is_some_and(|leader| leader.id == this);
    Role::Standby(Standby { rising, view: view.clone() })
}

/// A running JobManager.
pub struct JobManagerHandle {
    id: JobManagerId,
    name: String,
    rpc_address: SocketAddr,
    address: String,
    meta: MetaStore,
    dispatcher: DispatcherHandle,
    group: GroupHandle,
    artifacts: ArtifactHandle,
    tasks: TaskGroup,
}

impl std::fmt::Debug for JobManagerHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JobManagerHandle")
            .field("id", &self.id)
            .field("rpc_address", &self.rpc_address)
            .finish_non_exhaustive()
    }
}

impl JobManagerHandle {
    /// Its number in the group.
    pub fn id(&self) -> JobManagerId {
        self.id
    }

    /// Its name in the group.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What the RPC port really listens on.
    pub fn rpc_address(&self) -> SocketAddr {
        self.rpc_address
    }

    /// `host:port` under which other processes reach the RPC port.
    pub fn advertised_address(&self) -> &str {
        &self.address
    }

    /// The Dispatcher, wherever the leader is: for REST and the services of `rest.port`.
    pub fn dispatcher(&self) -> DispatcherHandle {
        self.dispatcher.clone()
    }

    /// The group, for the same.
    pub fn group(&self) -> GroupHandle {
        self.group.clone()
    }

    /// The artifact store, for the same.
    pub fn artifacts(&self) -> ArtifactHandle {
        self.artifacts.clone()
    }

    /// Resolves when the process has to exit, with the reason and what to do.
    pub async fn fatal(&self) -> String {
        tokio::select! {
            reason = self.meta.fatal() => reason,
            failure = self.tasks.failed() => failure.to_string(),
        }
    }

    /// Stops. A leader hands over first, so that the group has the next one within milliseconds; tasks go on.
    pub async fn shutdown(&self) {
        self.meta.shutdown().await;
        self.tasks.shutdown(SHUTDOWN_GRACE).await;
        info!(jobmanager = %self.id, "JobManager stopped");
    }
}
