//! The replicated metadata store: what the JobManagers agree on.

mod command;
mod config;
mod error;
mod leadership;
mod reader;
mod record;
mod store;

pub use command::{COMMAND_BYTES_MAX, Command, DecodeCommandError, Outcome};
pub use config::{ConfigError, MetaConfig, Peer};
pub use error::{OpenError, WriteError};
pub use leadership::{Leader, LeadershipView};
pub use reader::{ReadError, StateReader};
pub use record::{
    ArtifactRecord, DesiredState, ExecutionRecord, JobHead, JobRecord, LeadershipRecord, PlacedExecution,
};
pub use store::{Member, MetaStore, Written};
