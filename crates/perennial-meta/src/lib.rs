//! The replicated metadata store: what the JobManagers agree on.

mod admission;
mod apply;
mod command;
mod config;
mod error;
mod files;
mod follow;
mod identity;
mod kv;
mod leadership;
mod log;
mod machine;
mod marker;
mod network;
mod raft;
mod reader;
mod record;
mod snapshot;
mod service;
mod state;
mod storage;
mod store;
mod wire;

pub use command::{COMMAND_BYTES_MAX, Command, DecodeCommandError, Outcome};
pub use config::{ConfigError, MetaConfig, Peer};
pub use error::{OpenError, WriteError};
pub use leadership::{Leader, LeadershipView};
pub use reader::{ReadError, StateReader};
pub use record::{
    ArtifactRecord, DesiredState, ExecutionRecord, JobHead, JobRecord, LeadershipRecord, PlacedExecution,
};
pub use store::{Member, MetaStore, Written};
