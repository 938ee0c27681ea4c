//! RaftSnapshot files: with the log the durable truth.
//!
//! A file holds every pair of the state as of one entry. It is written beside its place, synced and renamed, and the log
//! is purged only past a file that is there. One file is kept: the newest.
//!
//! | Part | Layout, numbers big-endian |
//! | --- | --- |
//! | magic | `PSNP`, version byte |
//! | header | length (4 bytes), postcard of openraft's `SnapshotMeta` |
//! | pair, repeated | key length + 1 (4 bytes), value length (4 bytes), key, value |
//! | end | 0 (4 bytes), CRC-32 of everything before it (4 bytes) |

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use crate::error::OpenError;
use crate::files;
use crate::kv::StateError;
use crate::raft::{SnapshotMeta, term_of};
use crate::state::StateDb;

const MAGIC: [u8; 5] = *b"PSNP\x01";

/// Longest header, key or value that is believed: the largest command with room to spare.
const PART_BYTES_MAX: usize = 16 << 20;

/// A whole snapshot file, checked when it was opened.
#[derive(Debug)]
pub(crate) struct SnapshotFile {
    /// Where it is, or was: a newer one may have replaced it, the open file stays readable.
    pub(crate) path: PathBuf,
    /// The open file.
    pub(crate) file: File,
    /// What it says of itself.
    pub(crate) meta: SnapshotMeta,
}

/// The directory of snapshot files.
#[derive(Debug, Clone)]
pub(crate) struct SnapshotDir {
    dir: PathBuf,
}

/// A snapshot whose bytes are written but neither durable nor in place.
#[derive(Debug)]
pub(crate) struct Unfinished {
    temporary: PathBuf,
    file: File,
    meta: SnapshotMeta,
}

impl SnapshotDir {
    /// Makes the directory, and removes what a crash has left in it.
    pub(crate) fn open(dir: &Path) -> Result<Self, OpenError> {
        let created = std::fs::create_dir_all(dir);
        created.map_err(|source| OpenError::io("create", dir, source))?;
        let snapshots = Self { dir: dir.to_owned() };
        let cleaned = snapshots.remove_but(&snapshots.newest().map_err(|source| OpenError::io("read", dir, source))?);
        cleaned.map_err(|source| OpenError::io("clean", dir, source))?;
        Ok(snapshots)
    }

    /// The newest file, checked from end to end.
    pub(crate) fn current(&self) -> io::Result<Option<SnapshotFile>> {
        match self.newest()? {
            Some(path) => SnapshotFile::open(path).map(Some),
            None => Ok(None),
        }
    }

    /// Path of the newest file.
    pub(crate) fn newest(&self) -> io::Result<Option<PathBuf>> {
        // Names are the log id in hexadecimal of fixed width, so their order is the order of the ids.
        let files = self.files()?;
        Ok(files.into_iter().filter(|path| path.extension().is_some_and(|extension| extension == "snapshot")).max())
    }

    /// Index of the last entry in the newest file, by its name; 0 without a file.
    pub(crate) fn last_index(&self) -> io::Result<u64> {
        let newest = self.newest()?;
        let stem = newest.as_ref().and_then(|path| path.file_stem()).and_then(|stem| stem.to_str());
        let index = stem.and_then(|stem| stem.split_once('-')).map(|(_, index)| u64::from_str_radix(index, 16));
        index.unwrap_or(Ok(0)).map_err(|_| damaged("its name is not a log id"))
    }

    /// Writes the whole state beside its place. The state must not change meanwhile.
    pub(crate) fn write(&self, state: &StateDb, meta: SnapshotMeta) -> io::Result<Unfinished> {
        self.write_pairs(meta, |put| state.each(put))
    }

    /// Writes what `pairs` gives, in order of key.
    pub(crate) fn write_pairs(
        &self,
        meta: SnapshotMeta,
        pairs: impl FnOnce(&mut dyn FnMut(&[u8], &[u8]) -> io::Result<()>) -> io::Result<()>,
    ) -> io::Result<Unfinished> {
        let temporary = self.path_of(&meta).with_extension("writing");
        let mut out = Checked::new(BufWriter::new(File::create(&temporary)?));
        out.write_all(&MAGIC)?;
        let header = postcard::to_stdvec(&meta).map_err(io::Error::other)?;
        out.write_all(&length(header.len())?)?;
        out.write_all(&header)?;
        pairs(&mut |key, value| {
            out.write_all(&length(key.len() + 1)?)?;
            out.write_all(&length(value.len())?)?;
            out.write_all(key)?;
            out.write_all(value)
        })?;
        out.write_all(&length(0)?)?;
        let checksum = out.crc.clone().finalize();
        out.inner.write_all(&checksum.to_be_bytes())?;
        let file = out.inner.into_inner().map_err(io::IntoInnerError::into_error)?;
        Ok(Unfinished { temporary, file, meta })
    }

    /// Makes a written snapshot durable and the current one.
    pub(crate) fn finish(&self, unfinished: &Unfinished) -> io::Result<SnapshotFile> {
        unfinished.file.sync_all()?;
        self.adopt(&unfinished.temporary, &unfinished.meta)
    }

    /// A file to receive a snapshot into. A new one each time, for transfers can overlap.
    pub(crate) fn incoming(&self) -> io::Result<(PathBuf, File)> {
        for number in 0_u32.. {
            let path = self.dir.join(format!("{number}.incoming"));
            match File::create_new(&path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                created => return created.map(|file| (path, file)),
            }
        }
        Err(io::Error::other("no free name for an incoming snapshot"))
    }

    /// Puts a checked and synced file into its place, as the only one.
    pub(crate) fn adopt(&self, path: &Path, meta: &SnapshotMeta) -> io::Result<SnapshotFile> {
        let place = self.path_of(meta);
        if path != place {
            std::fs::rename(path, &place)?;
            files::sync_parent(&place)?;
        }
        let newest = self.newest()?;
        for file in self.files()? {
            let older = file.extension().is_some_and(|extension| extension == "snapshot");
            if older && Some(&file) != newest.as_ref() {
                std::fs::remove_file(&file)?;
            }
        }
        Ok(SnapshotFile { file: File::open(&place)?, path: place, meta: meta.clone() })
    }

    fn path_of(&self, meta: &SnapshotMeta) -> PathBuf {
        let (term, index) = meta.last_log_id.as_ref().map_or((0, 0), |id| (term_of(id), id.index));
        self.dir.join(format!("{term:016x}-{index:016x}.snapshot"))
    }

    fn files(&self) -> io::Result<Vec<PathBuf>> {
        std::fs::read_dir(&self.dir)?.map(|entry| Ok(entry?.path())).collect()
    }

    fn remove_but(&self, keep: &Option<PathBuf>) -> io::Result<()> {
        for file in self.files()? {
            if Some(&file) != keep.as_ref() {
                std::fs::remove_file(file)?;
            }
        }
        Ok(())
    }
}

impl SnapshotFile {
    /// Opens a file and checks all of it.
    pub(crate) fn open(path: PathBuf) -> io::Result<Self> {
        let file = File::open(&path)?;
        let mut reader = SnapshotReader::new(file.try_clone()?)?;
        while reader.next_pair()?.is_some() {}
        let meta = reader.meta;
        Ok(Self { path, file, meta })
    }

    /// Reads it from its beginning.
    pub(crate) fn reader(&self) -> io::Result<SnapshotReader> {
        SnapshotReader::new(File::open(&self.path).or_else(|_| self.file.try_clone())?)
    }
}

/// Reads the pairs of a file.
pub(crate) struct SnapshotReader {
    input: Checked<BufReader<File>>,
    /// What the file says of itself.
    pub(crate) meta: SnapshotMeta,
}

impl SnapshotReader {
    fn new(mut file: File) -> io::Result<Self> {
        io::Seek::rewind(&mut file)?;
        let mut input = Checked::new(BufReader::new(file));
        if input.bytes::<5>()? != MAGIC {
            return Err(damaged("it is no snapshot of a version this build reads"));
        }
        let header = input.part()?.ok_or_else(|| damaged("its header is empty"))?;
        let meta = postcard::from_bytes(&header).map_err(|error| damaged(format!("its header: {error}")))?;
        Ok(Self { input, meta })
    }

    /// The next pair; `None` at the end, where the checksum was found right.
    pub(crate) fn next_pair(&mut self) -> io::Result<Option<(Vec<u8>, Vec<u8>)>> {
        let key_length = u32::from_be_bytes(self.input.bytes()?);
        let Some(key_length) = key_length.checked_sub(1) else {
            let expected = self.input.crc.clone().finalize();
            let checksum = u32::from_be_bytes(self.input.bytes()?);
            return if checksum == expected { Ok(None) } else { Err(damaged("its checksum is wrong")) };
        };
        let value_length = u32::from_be_bytes(self.input.bytes()?);
        Ok(Some((self.input.read_part(key_length)?, self.input.read_part(value_length)?)))
    }
}

/// Counts a checksum over what passes.
struct Checked<T> {
    inner: T,
    crc: crc32fast::Hasher,
}

impl<T> Checked<T> {
    fn new(inner: T) -> Self {
        Self { inner, crc: crc32fast::Hasher::new() }
    }
}

impl<W: Write> Checked<W> {
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.crc.update(bytes);
        self.inner.write_all(bytes)
    }
}

impl<R: Read> Checked<R> {
    fn bytes<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.inner.read_exact(&mut bytes).map_err(cut_short)?;
        self.crc.update(&bytes);
        Ok(bytes)
    }

    fn part(&mut self) -> io::Result<Option<Vec<u8>>> {
        let length = u32::from_be_bytes(self.bytes()?);
        if length == 0 { Ok(None) } else { self.read_part(length).map(Some) }
    }

    fn read_part(&mut self, length: u32) -> io::Result<Vec<u8>> {
        if length as usize > PART_BYTES_MAX {
            return Err(damaged(format!("it has a part of {length} bytes")));
        }
        let mut bytes = vec![0; length as usize];
        self.inner.read_exact(&mut bytes).map_err(cut_short)?;
        self.crc.update(&bytes);
        Ok(bytes)
    }
}

fn length(bytes: usize) -> io::Result<[u8; 4]> {
    u32::try_from(bytes).map(u32::to_be_bytes).map_err(io::Error::other)
}

fn damaged(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.into())
}

fn cut_short(error: io::Error) -> io::Error {
    if error.kind() == io::ErrorKind::UnexpectedEof { damaged("it ends early") } else { error }
}

impl From<StateError> for io::Error {
    fn from(error: StateError) -> Self {
        io::Error::other(error)
    }
}
