//! What a TaskManager is told by its configuration.

use std::collections::BTreeMap;
use std::net::{SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::time::Duration;

use perennial_types::Configuration;
use perennial_types::config::options;

/// Time a name server has to resolve a JobManager when the TaskManager starts.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(1);

/// Options of the TaskManager that its executors need too. What a job sets wins.
const EXECUTOR_KEYS: [&str; 4] = ["taskmanager.", "executor.", "execution.buffer-timeout.", "heartbeat."];

/// The options of one TaskManager, read once.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// `taskmanager.resource-id`, when it is set.
    pub(crate) resource_id: Option<String>,
    /// `process.working-dir`, when it is set.
    pub(crate) working_dir: Option<PathBuf>,
    /// `io.tmp.dirs`.
    pub(crate) tmp_dir: PathBuf,
    /// Number of slots.
    pub(crate) slots: u32,
    /// Name or address under which the executors are reached.
    pub(crate) host: String,
    /// Address their data ports listen on.
    pub(crate) bind_host: String,
    /// First data port; 0 takes free ones.
    pub(crate) data_port: u16,
    /// JobManagers to dial, `host:port`, without doubles.
    pub(crate) jobmanagers: Vec<String>,
    /// `heartbeat.interval`.
    pub(crate) heartbeat_interval: Duration,
    /// `heartbeat.timeout`.
    pub(crate) heartbeat_timeout: Duration,
    /// `taskmanager.registration.timeout`.
    pub(crate) registration_timeout: Duration,
    /// `task.cancellation.timeout`.
    pub(crate) cancellation_timeout: Duration,
    /// `executor.start-timeout`.
    pub(crate) start_timeout: Duration,
    /// `taskmanager.artifact-cache.max-size`, in bytes.
    pub(crate) artifact_cache_bytes_max: u64,
    /// Options that executors get below those of their job.
    pub(crate) executor_config: BTreeMap<String, String>,
}

impl Settings {
    /// Reads the options. Asks the system which of its addresses faces the JobManagers, unless `taskmanager.host` says.
    pub(crate) async fn read(config: &Configuration) -> Self {
        let jobmanagers = jobmanagers(config);
        let host = match config.get(&options::TASKMANAGER_HOST) {
            Some(host) => host,
            None => host_facing(&jobmanagers).await,
        };
        let ours = |key: &str| EXECUTOR_KEYS.iter().any(|prefix| key.starts_with(prefix));
        Self {
            resource_id: config.get(&options::TASKMANAGER_RESOURCE_ID),
            working_dir: config.get(&options::PROCESS_WORKING_DIR).map(PathBuf::from),
            tmp_dir: PathBuf::from(config.get(&options::IO_TMP_DIRS)),
            slots: config.get(&options::TASKMANAGER_SLOTS).get(),
            host,
            bind_host: config.get(&options::TASKMANAGER_BIND_HOST),
            data_port: config.get(&options::TASKMANAGER_DATA_PORT),
            jobmanagers,
            heartbeat_interval: config.get(&options::HEARTBEAT_INTERVAL).max(Duration::from_millis(1)),
            heartbeat_timeout: config.get(&options::HEARTBEAT_TIMEOUT),
            registration_timeout: config.get(&options::TASKMANAGER_REGISTRATION_TIMEOUT),
            cancellation_timeout: config.get(&options::TASK_CANCELLATION_TIMEOUT),
            start_timeout: config.get(&options::EXECUTOR_START_TIMEOUT),
            artifact_cache_bytes_max: config.get(&options::TASKMANAGER_ARTIFACT_CACHE_SIZE).0,
            executor_config: config.overrides().into_iter().filter(|(key, _)| ours(key)).collect(),
        }
    }
}

/// `taskmanager.jobmanagers`, else `jobmanager.raft.peers` without their names, else the one JobManager.
fn jobmanagers(config: &Configuration) -> Vec<String> {
    let mut addresses = config.get(&options::TASKMANAGER_JOBMANAGERS);
    if addresses.is_empty() {
        addresses = config.get(&options::JOBMANAGER_RAFT_PEERS);
    }
    if addresses.is_empty() {
        let host = config.get(&options::JOBMANAGER_RPC_ADDRESS);
        addresses.push(format!("{host}:{}", config.get(&options::JOBMANAGER_RPC_PORT)));
    }
    let mut distinct: Vec<String> = Vec::new();
    for address in addresses {
        let address = address.split_once('=').map_or(address.as_str(), |(_, address)| address.trim()).to_owned();
        if !distinct.contains(&address) {
            distinct.push(address);
        }
    }
    distinct
}

/// The address of this machine on the way to the first JobManager that resolves, else the machine's name.
async fn host_facing(jobmanagers: &[String]) -> String {
    for address in jobmanagers {
        let lookup = tokio::time::timeout(RESOLVE_TIMEOUT, tokio::net::lookup_host(address.as_str()));
        let Ok(Ok(mut resolved)) = lookup.await else { continue };
        if let Some(host) = resolved.find_map(local_address_to) {
            return host;
        }
    }
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// The local address the system would send from. Connecting a UDP socket sends nothing.
fn local_address_to(peer: SocketAddr) -> Option<String> {
    let any = if peer.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any).ok()?;
    socket.connect(peer).ok()?;
    match socket.local_addr().ok()? {
        SocketAddr::V4(local) => Some(local.ip().to_string()),
        SocketAddr::V6(local) => Some(format!("[{}]", local.ip())),
    }
}

#[cfg(test)]
mod tests {
    use perennial_types::config::Origin;

    use super::*;

    fn config(values: &[(&str, &str)]) -> Configuration {
        let mut config = Configuration::new();
        for (key, value) in values {
            config.set(key, value, Origin::Flag((*key).to_owned())).unwrap();
        }
        config
    }

    #[test]
    fn jobmanagers_come_from_the_most_specific_option() {
        let one = ("jobmanager.rpc.address", "jm");
        let peers = ("jobmanager.raft.peers", "a=jm-1:6123, jm-2:6123,b=jm-1:6123");
        let direct = ("taskmanager.jobmanagers", "x:1;y:2");
        assert_eq!(jobmanagers(&config(&[one])), ["jm:6123"]);
        assert_eq!(jobmanagers(&config(&[one, peers])), ["jm-1:6123", "jm-2:6123"]);
        assert_eq!(jobmanagers(&config(&[one, peers, direct])), ["x:1", "y:2"]);
    }

    #[tokio::test]
    async fn a_local_jobmanager_is_faced_from_the_loopback_address() {
        let settings = Settings::read(&config(&[("taskmanager.jobmanagers", "127.0.0.1:6123")])).await;
        assert_eq!(settings.host, "127.0.0.1");
    }

    #[tokio::test]
    async fn executors_get_the_options_that_concern_them() {
        let settings = Settings::read(&config(&[
            ("taskmanager.memory.segment-size", "32 kb"),
            ("taskmanager.host", "here"),
            ("parallelism.default", "4"),
        ]))
        .await;
        assert_eq!(settings.host, "here");
        assert!(settings.executor_config.contains_key("taskmanager.memory.segment-size"));
        assert!(!settings.executor_config.contains_key("parallelism.default"));
    }
}
