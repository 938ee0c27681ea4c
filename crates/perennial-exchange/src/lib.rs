//! The data plane: batches, credits, channels within a process and between processes. Knows no operators.
//!
//! A task reads from one [`Gate`], which holds a queue per channel, and writes through one [`Writer`] per exchange, which spreads
//! records over its channels by a [`Route`]. Within a process a batch is a `Vec<T>` moved by pointer and its memory comes
//! back with its credit. Between processes a batch is encoded once, by the producing thread, and decoded once, by the
//! consuming one. A producer has only so many batches on their way per channel ([`Credit`]); what finds no room
//! waits in the writer, and the task is not polled until it left. Nothing here blocks a slot thread.
//!
//! A [`Barrier`] travels in a channel among the batches, for a checkpoint. What has to wait behind one stays in its channel of the
//! gate: [`Gate::block`]. So does the progress of [`EventTime`], behind everything that was pushed before it.

mod barrier;
mod credit;
mod error;
mod event_time;
mod frame;
mod gate;
mod inbound;
mod network;
mod outbound;
mod partition;
mod payload;
mod signal;
mod simd;
mod writer;

pub use barrier::{Barrier, Guarantee};
pub use credit::{Counters, Credit, Room};
pub use error::{ExchangeError, WriteError};
pub use event_time::EventTime;
pub use frame::ChannelKey;
pub use gate::{CreditReturn, Element, Gate, LocalChannel};
pub use network::{Network, Peer};
pub use outbound::RemoteSender;
pub use payload::{ChooseSubtask, KeyHash, Payload, Route};
pub use signal::Signal;
pub use writer::{OutChannel, Writer, WriterControl, WriterSettings};
