//! Sources and sinks that reach outside: files and sockets.
//!
//! `use perennial_connectors::prelude::*` gives the environment `read_text_file` and `socket_text_stream`, and streams
//! `write_as_text` and `write_as_csv`. Readers of sockets have a thread of their own; files are read and written on the slot's
//! thread, through the page cache.
//!
//! ```no_run
//! use std::process::ExitCode;
//!
//! use perennial::prelude::*;
//! use perennial_connectors::prelude::*;
//!
//! fn main() -> ExitCode {
//!     JobRegistry::new().job("wordcount", wordcount).run()
//! }
//!
//! fn wordcount(env: &StreamExecutionEnvironment, args: &Args) -> Result<(), JobError> {
//!     env.read_text_file(args.require("input")?)
//!         .flat_map(|line: String, out: &mut Vec<String>| out.extend(line.split_whitespace().map(str::to_owned)))
//!         .key_by_ref(|word: &String| word)
//!         .count()
//!         .print();
//!     Ok(())
//! }
//! ```

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
