//! Streams: what the user chains calls on.

mod broadcast;
mod connected;
mod data_stream;
mod event_time;
mod join;
mod keyed_stream;
mod partition;
mod process_function;
mod settings;
mod sink;
mod windowed_stream;

pub use broadcast::{BroadcastConnectedStream, KeyedBroadcastConnectedStream};
pub use connected::{ConnectedStreams, KeyedConnectedStreams};
pub use data_stream::DataStream;
pub use join::{
    InGroups, InPairs, IntervalJoined, JoinedByKey, JoinedStreams, JoinedWhere, JoinedWindows, SideSelector,
};
pub use keyed_stream::{KeyedStream, Number};
pub use sink::DataStreamSink;
pub use windowed_stream::{AllWindowedStream, WindowedStream};

pub(crate) use partition::{Partition, Port};
