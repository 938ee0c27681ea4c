//! Where the files of checkpoints lie.

use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Small pieces are gathered to writes of this size; a disk that is shared with a log should not get more at once.
const WRITE_BYTES: usize = 1 << 20;

/// A place for files, such as the directory of one checkpoint. Paths are relative to it, with `/` between names.
///
/// Every method blocks until it is done. Errors name the file.
pub trait Storage: Send + Sync {
    /// Writes a file of these pieces. When it returns without error the file is durable and whole under this path; with an error
    /// there is no file under it, or the one of before.
    fn put(&self, path: &str, pieces: &mut dyn Iterator<Item = Vec<u8>>) -> io::Result<()>;

    /// The bytes of a file, or those of a range of it. A range that goes beyond the end is an error of kind `UnexpectedEof`.
    fn get(&self, path: &str, range: Option<Range<u64>>) -> io::Result<Vec<u8>>;

    /// Names of the files and directories right below a path, in no order; the empty path is everything. None where nothing is.
    fn list(&self, path: &str) -> io::Result<Vec<String>>;

    /// Removes a file, or a directory with all that is in it; the empty path is everything. What is not there needs no removal.
    fn delete_all(&self, path: &str) -> io::Result<()>;
}

/// The storage at a URI: `file:///absolute/path`, or an absolute path.
///
/// Fails with `Unsupported` for other schemes and with `InvalidInput` for relative paths, which would be other places in other
/// processes. Touches no disk.
pub fn open(uri: &str) -> io::Result<Arc<dyn Storage>> {
    let path = match uri.split_once("://") {
        None => uri,
        Some(("file", path)) => path,
        Some((scheme, _)) => {
            let text = format!("`{uri}`: no storage of scheme `{scheme}`; use `file:///path`");
            return Err(io::Error::new(io::ErrorKind::Unsupported, text));
        }
    };
    if !Path::new(path).is_absolute() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("`{uri}` is not an absolute path")));
    }
    Ok(Arc::new(LocalDirectory::new(path)))
}

/// A directory of this machine, or one that is mounted on it.
pub struct LocalDirectory {
    root: PathBuf,
    /// Whether the directories above are known to be durable.
    rooted: AtomicBool,
}

/// What failed, on which file.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}", path.display())]
struct Failed {
    action: &'static str,
    path: PathBuf,
    source: io::Error,
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> io::Error {
    let path = path.to_owned();
    move |source| io::Error::new(source.kind(), Failed { action, path, source })
}

impl LocalDirectory {
    /// The directory of this path; it is made with the first file.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into(), rooted: AtomicBool::new(false) }
    }

    /// The place of a file, for paths that cannot lead out of the directory.
    fn place(&self, path: &str) -> io::Result<PathBuf> {
        if Path::new(path).components().all(|part| matches!(part, Component::Normal(_))) {
            Ok(self.root.join(path))
        } else {
            Err(io::Error::new(io::ErrorKind::InvalidInput, format!("`{path}` is not a path below a directory")))
        }
    }

    /// Makes a name in `directory` durable, and the directories above.
    ///
    /// They may have been made a moment ago by another process that has not synced them yet, so this one does, all of them,
    /// with its first file.
    fn sync_directories(&self, directory: &Path) -> io::Result<()> {
        let rooted = self.rooted.load(Ordering::Relaxed);
        for above in directory.ancestors() {
            match sync_directory(above) {
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied && !above.starts_with(&self.root) => {
                    break; // Who may not read it did not make what is in it either.
                }
                synced => synced?,
            }
            if rooted && above == self.root {
                break;
            }
        }
        self.rooted.store(true, Ordering::Relaxed);
        Ok(())
    }
}

fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path).and_then(|directory| directory.sync_all()).map_err(failed("sync", path))
}

fn write_durably(path: &Path, pieces: &mut dyn Iterator<Item = Vec<u8>>) -> io::Result<()> {
    let mut file = BufWriter::with_capacity(WRITE_BYTES, File::create(path).map_err(failed("make", path))?);
    for piece in pieces {
        for part in piece.chunks(WRITE_BYTES) {
            file.write_all(part).map_err(failed("write", path))?;
        }
    }
    let file = file.into_inner().map_err(|error| failed("write", path)(error.into_error()))?;
    file.sync_all().map_err(failed("sync", path))
}

impl Storage for LocalDirectory {
    fn put(&self, path: &str, pieces: &mut dyn Iterator<Item = Vec<u8>>) -> io::Result<()> {
        let path = self.place(path)?;
        let directory = path.parent().unwrap_or(&self.root);
        fs::create_dir_all(directory).map_err(failed("make", directory))?;
        let mut unfinished = path.clone().into_os_string();
        unfinished.push(".tmp");
        let unfinished = PathBuf::from(unfinished);
        let renamed = write_durably(&unfinished, pieces)
            .and_then(|()| fs::rename(&unfinished, &path).map_err(failed("rename", &unfinished)));
        if let Err(error) = renamed {
            // The room it took is more than a disk that is full has; the error is the news.
            let _ = fs::remove_file(&unfinished);
            return Err(error);
        }
        self.sync_directories(directory)
    }

    fn get(&self, path: &str, range: Option<Range<u64>>) -> io::Result<Vec<u8>> {
        let path = self.place(path)?;
        let mut file = File::open(&path).map_err(failed("open", &path))?;
        let length = file.metadata().map_err(failed("read", &path))?.len();
        let range = range.unwrap_or(0..length);
        // Looked at before memory is taken for it.
        if range.start > range.end || range.end > length {
            let text = format!("bytes {}..{} of {length}", range.start, range.end);
            return Err(failed("read", &path)(io::Error::new(io::ErrorKind::UnexpectedEof, text)));
        }
        let mut bytes = Vec::new();
        file.seek(SeekFrom::Start(range.start)).map_err(failed("read", &path))?;
        file.take(range.end - range.start).read_to_end(&mut bytes).map_err(failed("read", &path))?;
        if bytes.len() as u64 != range.end - range.start {
            let text = format!("{} bytes are there from {} on", bytes.len(), range.start);
            return Err(failed("read", &path)(io::Error::new(io::ErrorKind::UnexpectedEof, text)));
        }
        Ok(bytes)
    }

    fn list(&self, path: &str) -> io::Result<Vec<String>> {
        let path = if path.is_empty() { self.root.clone() } else { self.place(path)? };
        let entries = match fs::read_dir(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(failed("read", &path))?,
        };
        let names = entries.map(|entry| entry.map(|entry| entry.file_name().into_string().ok()));
        // A name that is not text is none of ours.
        names.filter_map(Result::transpose).collect::<io::Result<_>>().map_err(failed("read", &path))
    }

    fn delete_all(&self, path: &str) -> io::Result<()> {
        let path = if path.is_empty() { self.root.clone() } else { self.place(path)? };
        let removed = match fs::symlink_metadata(&path) {
            Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(&path),
            Ok(_) => fs::remove_file(&path),
            Err(error) => Err(error),
        };
        match removed {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            removed => removed.map_err(failed("remove", &path))?,
        }
        match path.parent().map(sync_directory) {
            // Somebody removed that one as well.
            Some(Err(error)) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Some(synced) => synced,
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error;

    use super::*;

    fn pieces(pieces: &[&str]) -> impl Iterator<Item = Vec<u8>> {
        pieces.iter().map(|piece| piece.as_bytes().to_vec()).collect::<Vec<_>>().into_iter()
    }

    #[test]
    fn what_is_put_is_read_whole_and_in_ranges() {
        let directory = tempfile::tempdir().unwrap();
        let uri = format!("file://{}/not/there/yet", directory.path().display());
        let storage = open(&uri).unwrap();
        storage.put("a", &mut pieces(&["one ", "", "two"])).unwrap();
        storage.put("below/b", &mut pieces(&[])).unwrap();
        storage.put("a", &mut pieces(&["one ", "three"])).unwrap();
        assert_eq!(storage.get("a", None).unwrap(), b"one three");
        assert_eq!(storage.get("a", Some(4..9)).unwrap(), b"three");
        assert_eq!(storage.get("a", Some(9..9)).unwrap(), b"");
        assert_eq!(storage.get("below/b", None).unwrap(), b"");
        let names: Vec<_> = fs::read_dir(directory.path().join("not/there/yet")).unwrap().collect();
        assert_eq!(names.len(), 2, "nothing unfinished is left: {names:?}");
    }

    #[test]
    fn errors_name_the_file_and_keep_their_kind() {
        let directory = tempfile::tempdir().unwrap();
        let storage = LocalDirectory::new(directory.path());
        storage.put("a", &mut pieces(&["123"])).unwrap();
        for (path, range, kind) in [
            ("a", Some(1..4), io::ErrorKind::UnexpectedEof),
            ("a", Some(0..u64::MAX), io::ErrorKind::UnexpectedEof),
            #[allow(clippy::reversed_empty_ranges, reason = "a caller's mistake is an error, too")]
            ("a", Some(2..1), io::ErrorKind::UnexpectedEof),
            ("b", None, io::ErrorKind::NotFound),
            ("../a", None, io::ErrorKind::InvalidInput),
            ("/a", None, io::ErrorKind::InvalidInput),
        ] {
            let error = storage.get(path, range).unwrap_err();
            assert_eq!(error.kind(), kind, "{path}: {error}");
            assert!(error.to_string().contains(path), "{error}");
        }
        assert!(storage.get("b", None).unwrap_err().source().is_some());
    }

    /// A write that fails in the middle leaves neither a part under the name nor the unfinished file.
    #[test]
    fn a_put_that_fails_leaves_what_was_there() {
        let directory = tempfile::tempdir().unwrap();
        let storage = LocalDirectory::new(directory.path());
        storage.put("a/b", &mut pieces(&["old"])).unwrap();
        // A directory where the file should go: the rename fails.
        assert!(storage.put("a", &mut pieces(&["new"])).is_err());
        assert_eq!(storage.get("a/b", None).unwrap(), b"old");
        assert!(!directory.path().join("a.tmp").exists());
    }

    #[test]
    fn deleting_is_for_files_and_trees_and_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let storage = LocalDirectory::new(directory.path().join("job"));
        storage.delete_all("").unwrap();
        for path in ["chk-1/a", "chk-1/below/b", "chk-2/a"] {
            storage.put(path, &mut pieces(&["x"])).unwrap();
        }
        let listed = |path| {
            let mut names = storage.list(path).unwrap();
            names.sort();
            names
        };
        assert_eq!(listed(""), ["chk-1", "chk-2"]);
        assert_eq!(listed("chk-1"), ["a", "below"]);
        storage.delete_all("chk-1").unwrap();
        storage.delete_all("chk-1").unwrap();
        assert!(listed("chk-1").is_empty() && storage.list("../job").is_err());
        storage.delete_all("chk-2/a").unwrap();
        assert!(!directory.path().join("job/chk-1").exists());
        assert!(directory.path().join("job/chk-2").exists());
        assert_eq!(storage.delete_all("..").unwrap_err().kind(), io::ErrorKind::InvalidInput);
        storage.delete_all("").unwrap();
        assert!(!directory.path().join("job").exists());
    }

    #[test]
    fn only_absolute_paths_and_known_schemes_are_opened() {
        for (uri, kind) in [
            ("relative", io::ErrorKind::InvalidInput),
            ("file://relative", io::ErrorKind::InvalidInput),
            ("", io::ErrorKind::InvalidInput),
            ("s3://bucket/path", io::ErrorKind::Unsupported),
        ] {
            assert_eq!(open(uri).err().map(|error| error.kind()), Some(kind), "{uri}");
        }
        assert!(open("/absolute").is_ok());
    }
}
