//! State: keyed tables in memory, and the files that checkpoints keep of them.
//!
//! Start with [`KeyedTable`], then [`write_state_file`] and [`StateFileReader`]; [`Storage`] is where files lie. Everything here
//! blocks and starts nothing: files are written and read by threads that may wait for a disk.

mod entries;
mod format;
mod metadata;
mod selector;
mod storage;
mod sweep;
mod table;

pub use entries::{Entries, EntryBuffer};
pub use format::{
    Block, KeyedState, STATE_FILE_VERSION, StateFileError, StateFileHeader, StateFileReader, StateHeader, WrittenFile,
    write_state_file,
};
pub use metadata::{
    EncodedMetadata, METADATA_FILE, METADATA_VERSION, MetadataError, check_files, read_metadata, write_metadata,
};
pub use selector::{ByOwned, ByRef, KeySelector};
pub use storage::{LocalDirectory, Storage, open};
pub use sweep::{Freeze, Frozen};
pub use table::KeyedTable;
