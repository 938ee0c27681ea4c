//! How records are counted across processes: each counting thread keeps its total in a small file of its own.
//!
//! The files lie in one directory per measurement. A total is written a few hundred times a second, which no throughput
//! notices, and works the same in the limit programs, in the local mini-cluster and in executors of a real cluster.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};

use crate::workload::Due;

/// The total of one thread.
pub(crate) struct Counter {
    file: File,
    due: Due,
}

impl Counter {
    /// A new total of zero in `directory`.
    pub(crate) fn create(directory: &Path) -> io::Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let file = File::create_new(directory.join(format!("{}-{number}", std::process::id())))?;
        Ok(Self { file, due: Due::default() })
    }

    /// Counts records.
    #[inline(always)]
    pub(crate) fn add(&mut self, records: usize) -> io::Result<()> {
        match self.due.add(records) {
            Some(total) => self.file.write_all_at(&total.to_le_bytes(), 0),
            None => Ok(()),
        }
    }
}

/// Sum of all totals in `directory`.
pub(crate) fn sum(directory: &Path) -> Result<u64> {
    let mut sum = 0;
    for entry in fs::read_dir(directory).with_context(|| directory.display().to_string())? {
        let path = entry?.path();
        let bytes = fs::read(&path).with_context(|| path.display().to_string())?;
        // Empty until the first report.
        sum += bytes.first_chunk().map_or(0, |total| u64::from_le_bytes(*total));
    }
    Ok(sum)
}
