//! What the state is kept in, and sled as such.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use crate::kv::{Change, Pair, StateError};

/// Memory sled may use to cache pages: well below the 30 MB an idle JobManager may use.
const CACHE_BYTES: u64 = 8 << 20;

/// Changed keys that wait in memory for sled; above it, whoever applies more writes them at once.
const UNWRITTEN_MAX: usize = 10_000;

/// An ordered map that writes a batch as a whole or not at all, one after the other. It may lose the newest batches in a
/// crash, never one before another.
///
/// Two implementations: sled, and the simulation's model.
pub(crate) trait Tree: Send + Sync {
    /// How many changed keys may wait in memory to be written together.
    fn unwritten_max(&self) -> usize;

    /// The value of a key.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StateError>;

    /// All pairs whose key begins with `prefix`, in order of key.
    fn scan(&self, prefix: &[u8]) -> Result<Vec<Pair>, StateError>;

    /// Gives every pair to `visit`, in order of key, until it returns false.
    fn each(&self, visit: &mut dyn FnMut(&[u8], &[u8]) -> bool) -> Result<(), StateError>;

    /// Writes a batch.
    fn write(&self, batch: Vec<Change>) -> Result<(), StateError>;

    /// Removes everything, not necessarily as a whole.
    fn clear(&self) -> Result<(), StateError>;

    /// Makes what was written durable. Blocks.
    fn flush(&self) -> Result<(), StateError>;
}

impl Tree for sled::Db {
    fn unwritten_max(&self) -> usize {
        UNWRITTEN_MAX
    }

    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StateError> {
        guarded(|| sled::Tree::get(self, key)).map(|value| value.map(|value| value.to_vec()))
    }

    fn scan(&self, prefix: &[u8]) -> Result<Vec<Pair>, StateError> {
        let pairs = || self.scan_prefix(prefix).map(|pair| pair.map(|(key, value)| (key.to_vec(), value.to_vec())));
        guarded(|| pairs().collect())
    }

    fn each(&self, visit: &mut dyn FnMut(&[u8], &[u8]) -> bool) -> Result<(), StateError> {
        let mut pairs = self.iter();
        while let Some((key, value)) = guarded(|| pairs.next().transpose())? {
            if !visit(&key, &value) {
                break;
            }
        }
        Ok(())
    }

    fn write(&self, batch: Vec<Change>) -> Result<(), StateError> {
        let mut changes = sled::Batch::default();
        for change in batch {
            match change {
                Change::Put(key, value) => changes.insert(key, value),
                Change::Delete(key) => changes.remove(key),
            }
        }
        guarded(|| self.apply_batch(changes))
    }

    fn clear(&self) -> Result<(), StateError> {
        guarded(|| sled::Tree::clear(self))
    }

    fn flush(&self) -> Result<(), StateError> {
        guarded(|| sled::Tree::flush(self).map(drop))
    }
}

/// Opens sled. The error is for people.
pub(crate) fn open(dir: &Path) -> Result<Box<dyn Tree>, String> {
    let config = sled::Config::new().path(dir).cache_capacity(CACHE_BYTES).flush_every_ms(None).use_compression(false);
    let db = guarded(|| config.open()).map_err(|error| error.to_string())?;
    Ok(Box::new(db))
}

/// Calls sled, which may panic on damage.
fn guarded<T>(call: impl FnOnce() -> sled::Result<T>) -> Result<T, StateError> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(StateError(format!("sled: {error}"))),
        Err(panic) => {
            let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
            let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
            Err(StateError(format!("sled: {}", text.unwrap_or_else(|| "it panicked".to_owned()))))
        }
    }
}
