//! Keyed state in memory: tables from key to value, made for whole batches of records.
//!
//! Start with [`KeyedTable`].

mod prefetch;
mod selector;
mod table;

pub use selector::{ByOwned, ByRef, KeySelector};
pub use table::{Found, KeyedTable, MINI_BATCH};
