//! Sources and sinks that reach outside: files and sockets.
//!
//! `use perennial_connectors::prelude::*` gives the environment `read_text_file` and `socket_text_stream`, and streams
//! `write_as_text` and `write_as_csv`. Readers of sockets have a thread of their own; files are read and written on the slot's
//! thread, through the page cache.

mod csv;
mod file;
mod lines;
mod socket;
mod text;

pub use csv::{CsvError, CsvField, CsvReader, CsvRow, CsvWriter};
pub use file::{FileError, FileSinks, FileSources};
pub use lines::{LINE_BYTES_MAX, LineTooLong};
pub use socket::{SocketError, SocketSources};
pub use text::TextRecord;

/// What a job usually needs: `use perennial_connectors::prelude::*`.
pub mod prelude {
    pub use crate::{CsvRow, FileSinks, FileSources, SocketSources, TextRecord};
}
