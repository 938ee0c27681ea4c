//! What Perennial's processes say to each other. The only crate that knows prost.
//!
//! Each module holds the messages of one conversation as plain types, the gateway trait that its callers use, and the
//! tonic adapters on both sides; `proto/` holds the wire form. Conversions from the wire name the field that is wrong,
//! so malformed bytes are refused, never a panic. Conversions to the wire cannot fail.
//!
//! | Conversation | Who calls | Wire |
//! | --- | --- | --- |
//! | [`taskmanager`] | a TaskManager dials every JobManager and keeps one stream open | gRPC on `jobmanager.rpc.port` |
//! | [`executor`] | a TaskManager connects to an executor's Unix socket | length-delimited protobuf |
//! | [`dispatcher`] | clients, REST, a standby that forwards | gRPC on `rest.port` and `jobmanager.rpc.port` |
//! | [`artifact`] | clients, JobManagers among themselves, TaskManagers | gRPC on `rest.port` and `jobmanager.rpc.port` |
//! | [`group`] | operators, members that forward, processes that join | gRPC on `rest.port` and `jobmanager.rpc.port` |
//! | [`attendance`] | a JobManager that leads and does not hear a TaskManager | gRPC on `jobmanager.rpc.port` |
//! | [`raft`] | JobManagers among themselves | gRPC on `jobmanager.rpc.port`, payloads opaque here |

#[cfg(feature = "grpc")]
mod grpc;
mod wire;

#[cfg(feature = "grpc")]
pub mod artifact;
#[cfg(feature = "grpc")]
pub mod attendance;
#[cfg(feature = "grpc")]
pub mod dispatcher;
pub mod executor;
#[cfg(feature = "grpc")]
pub mod group;
#[cfg(feature = "grpc")]
pub mod raft;
pub mod taskmanager;
#[cfg(feature = "grpc")]
pub mod transport;

pub use wire::WireError;
