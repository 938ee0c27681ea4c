//! Keyed state in memory: tables from key to value.
//!
//! Start with [`KeyedTable`].

mod selector;
mod table;

pub use selector::{ByOwned, ByRef, KeySelector};
pub use table::KeyedTable;
