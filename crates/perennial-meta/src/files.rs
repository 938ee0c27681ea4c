//! Files that are either whole or not there, and directories whose names are durable.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

/// Writes a file so that after a crash at any moment the path holds the old or the new content: a file beside it is
/// written and synced, takes its place, and the directory is synced.
pub(crate) fn replace(path: &Path, write: impl FnOnce(&mut io::BufWriter<File>) -> io::Result<()>) -> io::Result<()> {
    let temporary = path.with_extension("tmp");
    let mut out = io::BufWriter::new(File::create(&temporary)?);
    write(&mut out)?;
    out.flush()?;
    out.get_ref().sync_all()?;
    fs::rename(&temporary, path)?;
    sync_parent(path)
}

/// Makes the entry of a path in its directory durable.
pub(crate) fn sync_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => File::open(".")?.sync_all(),
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

/// Makes a directory and what is missing above it. The names are durable when it returns.
pub(crate) fn create_dir_all(dir: &Path) -> io::Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    if let Some(parent) = dir.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        create_dir_all(parent)?;
    }
    fs::create_dir(dir)?;
    sync_parent(dir)
}

/// Makes everything durable that is in a directory now, names included.
///
/// A process that was killed may have left what it wrote in the kernel's memory only. Whoever reads that and builds upon it
/// says more than the disk knows, so it is synced before it is read.
pub(crate) fn settle(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        match entry.file_type()?.is_dir() {
            true => settle(&entry.path())?,
            false => File::open(entry.path())?.sync_all()?,
        }
    }
    File::open(dir)?.sync_all()
}
