//! How a member of the JobManager group is set up.

use std::path::PathBuf;
use std::time::Duration;

use perennial_types::config::options;
use perennial_types::{Configuration, JobManagerId};

/// A member of the group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Its number, if it founds the group: 1 + its position in the list sorted by name.
    pub id: JobManagerId,
    /// Its name in the peer list.
    pub name: String,
    /// RPC address, `host:port`.
    pub address: String,
}

/// What a metadata store needs to know.
#[derive(Debug, Clone)]
pub struct MetaConfig {
    /// Directory of log, state machine, snapshots and marker.
    pub data_dir: PathBuf,
    /// Name of the member this process is.
    pub name: String,
    /// RPC address of this process, `host:port`.
    pub address: String,
    /// Members that found the group, ascending by id. For one that joins they are those it asks, and their numbers mean
    /// nothing.
    pub peers: Vec<Peer>,
    /// Whether this process joins a group that exists, unless its directory belongs to one already.
    pub join: bool,
    /// How often a leader tells the others that it leads.
    pub heartbeat_interval: Duration,
    /// Shortest silence of the leader after which a member stands for election.
    pub election_timeout_min: Duration,
    /// Longest such silence.
    pub election_timeout_max: Duration,
    /// Log entries after which a snapshot is written.
    pub snapshot_entries: u64,
    /// Log entries kept behind a snapshot.
    pub log_entries_kept: u64,
}

/// Why a configuration does not say who the members are.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// No peer is this process.
    #[error(
        "this JobManager is none of the members in `jobmanager.raft.peers` ({peers}): no member has the address {address}; \
         set `jobmanager.resource-id` to one of the names"
    )]
    NotAPeer {
        /// The members, `name=host:port`.
        peers: String,
        /// `jobmanager.rpc.address` with the port really listened on.
        address: String,
    },
    /// It is to join, and does not know whom to ask.
    #[error(
        "`jobmanager.raft.join` is set, but `jobmanager.raft.peers` names no JobManager of the group to join; set it to some of \
         their addresses"
    )]
    NobodyToJoin,
    /// An entry of the peer list has not the form of one.
    #[error("`{entry}` in `jobmanager.raft.peers` is not a member: expected `name=host:port` or `host:port`")]
    BadPeer {
        /// The entry.
        entry: String,
    },
    /// Two entries of the peer list have the same name or address.
    #[error("`jobmanager.raft.peers` has `{what}` twice")]
    DuplicatePeer {
        /// The name or address.
        what: String,
    },
    /// The timers cannot work together.
    #[error(
        "`jobmanager.raft.heartbeat-interval` must be less than half of `jobmanager.raft.election-timeout.min`, and that less \
         than `jobmanager.raft.election-timeout.max`: they are {heartbeat:?}, {min:?} and {max:?}"
    )]
    Timers {
        /// Heartbeat interval.
        heartbeat: Duration,
        /// Shortest election timeout.
        min: Duration,
        /// Longest election timeout.
        max: Duration,
    },
}

impl MetaConfig {
    /// Reads the options of the group. `rpc_port` is the port this process really listens on.
    ///
    /// With an empty peer list the group has one member, this process, with id 1.
    pub fn from_configuration(config: &Configuration, rpc_port: u16) -> Result<Self, ConfigError> {
        let address = format!("{}:{rpc_port}", config.get(&options::JOBMANAGER_RPC_ADDRESS));
        let resource_id = config.get(&options::JOBMANAGER_RESOURCE_ID);
        let entries = config.get(&options::JOBMANAGER_RAFT_PEERS);
        let join = config.get(&options::JOBMANAGER_RAFT_JOIN);
        let (name, address, peers) = if entries.is_empty() {
            if join {
                return Err(ConfigError::NobodyToJoin);
            }
            // Not its address: a container that comes back under another one finds its own directory again.
            let name = resource_id.unwrap_or_else(|| "jm-1".to_owned());
            (name.clone(), address.clone(), vec![Peer { id: JobManagerId(1), name, address }])
        } else {
            let peers = parse_peers(&entries)?;
            let (name, address) = find_this(&peers, resource_id, address)?;
            (name, address, peers)
        };
        let heartbeat_interval = config.get(&options::JOBMANAGER_RAFT_HEARTBEAT_INTERVAL);
        let election_timeout_min = config.get(&options::JOBMANAGER_RAFT_ELECTION_TIMEOUT_MIN);
        let election_timeout_max = config.get(&options::JOBMANAGER_RAFT_ELECTION_TIMEOUT_MAX);
        let timers_fit = heartbeat_interval >= Duration::from_millis(1)
            && heartbeat_interval * 2 < election_timeout_min
            && election_timeout_min < election_timeout_max;
        if !timers_fit {
            let (heartbeat, min, max) = (heartbeat_interval, election_timeout_min, election_timeout_max);
            return Err(ConfigError::Timers { heartbeat, min, max });
        }
        Ok(Self {
            data_dir: data_dir(config, rpc_port),
            name,
            address,
            peers,
            join,
            heartbeat_interval,
            election_timeout_min,
            election_timeout_max,
            snapshot_entries: config.get(&options::JOBMANAGER_RAFT_SNAPSHOT_ENTRIES).max(1),
            log_entries_kept: config.get(&options::JOBMANAGER_RAFT_LOG_ENTRIES_KEPT),
        })
    }

    /// This process as a founding member, if it is one.
    pub fn founder(&self) -> Option<&Peer> {
        self.peers.iter().find(|peer| !self.join && peer.name == self.name)
    }
}

/// `jobmanager.data-dir`, else below `process.working-dir`, else below `io.tmp.dirs`; the latter two by port, so that
/// several JobManagers of one machine do not meet.
fn data_dir(config: &Configuration, rpc_port: u16) -> PathBuf {
    if let Some(dir) = config.get(&options::JOBMANAGER_DATA_DIR) {
        return PathBuf::from(dir);
    }
    let below = match config.get(&options::PROCESS_WORKING_DIR) {
        Some(dir) => PathBuf::from(dir),
        None => PathBuf::from(config.get(&options::IO_TMP_DIRS)).join("perennial"),
    };
    below.join(format!("jobmanager-{rpc_port}"))
}

/// Members in order of name, numbered from 1.
fn parse_peers(entries: &[String]) -> Result<Vec<Peer>, ConfigError> {
    let mut named = Vec::new();
    for entry in entries {
        let bad = || ConfigError::BadPeer { entry: entry.clone() };
        let (name, address) = entry.split_once('=').unwrap_or((entry, entry));
        let (name, address) = (name.trim(), address.trim());
        let (host, port) = address.rsplit_once(':').ok_or_else(bad)?;
        let port: u16 = port.parse().map_err(|_| bad())?;
        if name.is_empty() || host.is_empty() || port == 0 || host.contains(char::is_whitespace) {
            return Err(bad());
        }
        named.push((name.to_owned(), address.to_owned()));
    }
    named.sort();
    for (position, (name, address)) in named.iter().enumerate() {
        let later = named.iter().skip(position + 1);
        if let Some((other, _)) = later.clone().find(|(other, _)| other == name) {
            return Err(ConfigError::DuplicatePeer { what: other.clone() });
        }
        if let Some((_, other)) = later.clone().find(|(_, other)| other == address) {
            return Err(ConfigError::DuplicatePeer { what: other.clone() });
        }
    }
    let numbered = (1..).zip(named);
    Ok(numbered.map(|(id, (name, address))| Peer { id: JobManagerId(id), name, address }).collect())
}

/// Name and address of this process. A name that is not in the list is that of a member that was added later.
fn find_this(peers: &[Peer], resource_id: Option<String>, address: String) -> Result<(String, String), ConfigError> {
    let by_name = peers.iter().find(|peer| Some(&peer.name) == resource_id.as_ref());
    let by_address = || peers.iter().find(|peer| peer.address == address);
    match (by_name.or_else(by_address), resource_id) {
        (Some(peer), _) => Ok((peer.name.clone(), peer.address.clone())),
        (None, Some(name)) => Ok((name, address)),
        (None, None) => Err(ConfigError::NotAPeer { peers: peer_list(peers), address }),
    }
}

/// Peers as the configuration has them.
pub(crate) fn peer_list(peers: &[Peer]) -> String {
    peers.iter().map(|peer| format!("{}={}", peer.name, peer.address)).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use perennial_types::config::Origin;

    use super::*;

    fn config(options: &[(&str, &str)]) -> Configuration {
        let mut config = Configuration::new();
        for (key, value) in options {
            config.set(key, value, Origin::Flag("test".to_owned())).unwrap();
        }
        config
    }

    #[test]
    fn without_peers_the_group_has_one_member() {
        let meta = MetaConfig::from_configuration(&config(&[]), 7001).unwrap();
        assert_eq!(meta.founder().unwrap().id, JobManagerId(1));
        assert_eq!(meta.peers.len(), 1);
        assert_eq!(meta.address, "localhost:7001");
        assert_eq!(meta.data_dir, PathBuf::from("/tmp/perennial/jobmanager-7001"));
    }

    /// The names of the members are what a data directory belongs to.
    #[test]
    fn a_group_of_one_has_the_same_name_under_any_address() {
        let name = |options: &[(&str, &str)], port| {
            MetaConfig::from_configuration(&config(options), port).unwrap().founder().unwrap().name.clone()
        };
        assert_eq!(name(&[], 7001), "jm-1");
        assert_eq!(name(&[("jobmanager.rpc.address", "other-host")], 7002), "jm-1");
        assert_eq!(name(&[("jobmanager.resource-id", "main")], 7002), "main");
    }

    #[test]
    fn ids_follow_the_names_whatever_the_order_of_the_list() {
        let peers = ("jobmanager.raft.peers", "jm-c=c:1,jm-a=a:1,jm-b=b:1");
        for name in ["jm-a", "jm-b", "jm-c"] {
            let meta = MetaConfig::from_configuration(&config(&[peers, ("jobmanager.resource-id", name)]), 1).unwrap();
            assert_eq!((meta.name.as_str(), meta.founder().unwrap().name.as_str()), (name, name));
            let ids: Vec<_> = meta.peers.iter().map(|peer| (peer.id.0, peer.name.as_str())).collect();
            assert_eq!(ids, [(1, "jm-a"), (2, "jm-b"), (3, "jm-c")]);
        }
    }

    #[test]
    fn a_process_finds_itself_by_its_address() {
        let options = [("jobmanager.raft.peers", "h:1,h:2"), ("jobmanager.rpc.address", "h")];
        assert_eq!(
            MetaConfig::from_configuration(&config(&options), 2).unwrap().founder().unwrap().id,
            JobManagerId(2)
        );
        let error = MetaConfig::from_configuration(&config(&options), 3).unwrap_err().to_string();
        assert!(error.contains("h:1=h:1,h:2=h:2") && error.contains("h:3"), "{error}");
    }

    #[test]
    fn a_process_that_joins_is_no_founder_whatever_the_list_says() {
        let list = ("jobmanager.raft.peers", "jm-a=a:1,jm-d=d:4");
        let joins = ("jobmanager.raft.join", "true");
        let named = ("jobmanager.resource-id", "jm-d");
        let meta = MetaConfig::from_configuration(&config(&[list, joins, named]), 9).unwrap();
        assert_eq!((meta.name.as_str(), meta.address.as_str(), meta.founder()), ("jm-d", "d:4", None));
        let unlisted = ("jobmanager.resource-id", "jm-e");
        let meta = MetaConfig::from_configuration(&config(&[list, unlisted]), 9).unwrap();
        assert_eq!((meta.name.as_str(), meta.address.as_str(), meta.founder()), ("jm-e", "localhost:9", None));
        let nobody = MetaConfig::from_configuration(&config(&[joins]), 9).unwrap_err();
        assert_eq!(nobody, ConfigError::NobodyToJoin);
    }

    #[test]
    fn bad_lists_and_timers_are_refused() {
        for (list, expect) in [
            ("a", "`a` in `jobmanager.raft.peers` is not a member: expected `name=host:port` or `host:port`"),
            ("a=b:x", "`a=b:x` in `jobmanager.raft.peers` is not a member: expected `name=host:port` or `host:port`"),
            ("a=b:1,a=b:2", "`jobmanager.raft.peers` has `a` twice"),
            ("a=b:1,c=b:1", "`jobmanager.raft.peers` has `b:1` twice"),
        ] {
            let error = MetaConfig::from_configuration(&config(&[("jobmanager.raft.peers", list)]), 1).unwrap_err();
            assert_eq!(error.to_string(), expect);
        }
        let timers = config(&[("jobmanager.raft.heartbeat-interval", "100 ms")]);
        assert!(matches!(MetaConfig::from_configuration(&timers, 1), Err(ConfigError::Timers { .. })));
    }
}
