//! A job's executable as a file: what can be said of it without running it.

use std::fs::{File, Metadata};
use std::io::{self, Read, Seek};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use perennial_rpc::artifact::{ArtifactBytes, CHUNK_BYTES_MAX};
use perennial_types::{ArtifactDigest, MANIFEST_MAGIC};
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

/// Bytes of the file read at once.
const READ_BYTES: usize = 256 << 10;

/// Chunks read ahead of the network.
const CHUNKS_AHEAD: usize = 4;

/// Where an ELF header holds the machine.
const ELF_MACHINE_AT: usize = 18;

/// Machines of ELF headers, by number, as Rust names them.
const MACHINES: [(u16, &str); 5] =
    [(0x03, "x86"), (0x3e, "x86_64"), (0x28, "arm"), (0xb7, "aarch64"), (0xf3, "riscv64")];

/// Why a file cannot be a job artifact. Each names the file.
#[derive(Debug, thiserror::Error)]
pub enum ArtifactFileError {
    /// There is no such file.
    #[error("artifact {} does not exist", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// It is a directory or something stranger.
    #[error("artifact {} is not a file", path.display())]
    NotAFile {
        /// The file.
        path: PathBuf,
    },
    /// Its mode has no execute bit.
    #[error("artifact {} is not executable", path.display())]
    NotExecutable {
        /// The file.
        path: PathBuf,
    },
    /// It is no program of this operating system.
    #[error("artifact {} is not a Linux executable (ELF)", path.display())]
    NotAProgram {
        /// The file.
        path: PathBuf,
    },
    /// It was built for another machine.
    #[error("artifact {} was built for {machine}, this machine is {}", path.display(), std::env::consts::ARCH)]
    WrongMachine {
        /// The file.
        path: PathBuf,
        /// What it was built for.
        machine: String,
    },
    /// It is a program, but not linked with our library.
    #[error("{} is a program, but not a job artifact: it does not link the library perennial", path.display())]
    NotAnArtifact {
        /// The file.
        path: PathBuf,
    },
    /// It cannot be read.
    #[error("cannot read artifact {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// A file that was seen to be an artifact for this machine.
#[derive(Debug)]
pub(crate) struct ArtifactFile {
    path: PathBuf,
    size: u64,
}

/// An artifact and its digest.
#[derive(Debug)]
pub struct Artifact {
    file: ArtifactFile,
    digest: ArtifactDigest,
}

impl ArtifactFile {
    /// Looks at a file without running it: it exists, is executable, an ELF program of this machine, and links our
    /// library. Reads the file; blocks.
    pub(crate) fn inspect(path: &Path) -> Result<Self, ArtifactFileError> {
        let path = path.to_owned();
        let metadata = match path.metadata() {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(ArtifactFileError::Missing { path }),
            Err(source) => return Err(ArtifactFileError::Read { path, source }),
        };
        if !metadata.is_file() {
            return Err(ArtifactFileError::NotAFile { path });
        }
        match examine(&path, &metadata) {
            Ok(Ok(())) => Ok(Self { size: metadata.len(), path }),
            Ok(Err(refusal)) => Err(refusal),
            Err(source) => Err(ArtifactFileError::Read { path, source }),
        }
    }

    /// The file, absolute or with a directory, so that it can be run without a search.
    pub(crate) fn program(&self) -> PathBuf {
        if self.path.is_absolute() { self.path.clone() } else { Path::new(".").join(&self.path) }
    }

    /// The file as it was given.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Reads the file for its digest; blocks.
    pub(crate) fn digest(self) -> Result<Artifact, ArtifactFileError> {
        let hash = || -> io::Result<ArtifactDigest> {
            let mut file = File::open(&self.path)?;
            let mut hasher = Sha256::new();
            let mut buffer = vec![0; READ_BYTES];
            loop {
                let read = file.read(&mut buffer)?;
                let Some(part) = buffer.get(..read).filter(|part| !part.is_empty()) else { break };
                hasher.update(part);
            }
            Ok(ArtifactDigest::from_bytes(hasher.finalize().into()))
        };
        match hash() {
            Ok(digest) => Ok(Artifact { file: self, digest }),
            Err(source) => Err(ArtifactFileError::Read { path: self.path, source }),
        }
    }
}

impl Artifact {
    /// SHA-256 of the file when it was read.
    pub fn digest(&self) -> ArtifactDigest {
        self.digest
    }

    /// Size of the file in bytes.
    pub fn size(&self) -> u64 {
        self.file.size
    }

    /// The file as it was given.
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// The file's name, for people.
    pub fn name(&self) -> &str {
        self.file.path.file_name().and_then(|name| name.to_str()).unwrap_or("artifact")
    }

    /// The file's bytes, read while they are taken. Must be called inside a tokio runtime.
    pub(crate) fn bytes(&self) -> ArtifactBytes {
        let (sender, receiver) = mpsc::channel(CHUNKS_AHEAD);
        let path = self.file.path.clone();
        tokio::task::spawn_blocking(move || {
            let read = || -> io::Result<()> {
                let mut file = File::open(&path)?;
                loop {
                    let mut chunk = vec![0; CHUNK_BYTES_MAX];
                    let length = file.read(&mut chunk)?;
                    chunk.truncate(length);
                    if length == 0 || sender.blocking_send(Ok(Bytes::from(chunk))).is_err() {
                        return Ok(());
                    }
                }
            };
            if let Err(error) = read() {
                _ = sender.blocking_send(Err(error));
            }
        });
        Box::pin(ReceiverStream::new(receiver))
    }
}

fn examine(path: &Path, metadata: &Metadata) -> io::Result<Result<(), ArtifactFileError>> {
    let path = path.to_owned();
    if metadata.permissions().mode() & 0o111 == 0 {
        return Ok(Err(ArtifactFileError::NotExecutable { path }));
    }
    let mut file = File::open(&path)?;
    let mut header = [0_u8; ELF_MACHINE_AT + 2];
    if metadata.size() < header.len() as u64 {
        return Ok(Err(ArtifactFileError::NotAProgram { path }));
    }
    file.read_exact(&mut header)?;
    if !header.starts_with(b"\x7fELF") {
        // A script is a program too; what it lacks is our library.
        let script = header.starts_with(b"#!");
        return Ok(Err(match script {
            true => ArtifactFileError::NotAnArtifact { path },
            false => ArtifactFileError::NotAProgram { path },
        }));
    }
    let [.., low, high] = header;
    let machine = u16::from_le_bytes([low, high]);
    let name = MACHINES.iter().find(|(number, _)| *number == machine).map(|(_, name)| *name);
    if name != Some(std::env::consts::ARCH) {
        let machine = name.map_or_else(|| format!("machine {machine}"), str::to_owned);
        return Ok(Err(ArtifactFileError::WrongMachine { path, machine }));
    }
    file.rewind()?;
    Ok(if contains(&mut file, MANIFEST_MAGIC)? { Ok(()) } else { Err(ArtifactFileError::NotAnArtifact { path }) })
}

/// Whether the bytes of a reader contain these in a row.
fn contains(reader: &mut impl Read, wanted: &[u8]) -> io::Result<bool> {
    // The magic begins with a zero byte, of which programs are full; its second byte is a better thing to look for.
    let Some((_, [mark, ..])) = wanted.split_first() else { return Ok(true) };
    let mut buffer = vec![0; READ_BYTES];
    let mut kept = 0;
    loop {
        let read = reader.read(buffer.get_mut(kept..).unwrap_or_default())?;
        if read == 0 {
            return Ok(false);
        }
        let filled = kept + read;
        let part = buffer.get(..filled).unwrap_or_default();
        let mut from = 1;
        while let Some(found) = part.get(from..).and_then(|rest| rest.iter().position(|byte| byte == mark)) {
            let start = from + found - 1;
            if part.get(start..).is_some_and(|rest| rest.starts_with(wanted)) {
                return Ok(true);
            }
            from += found + 1;
        }
        kept = (wanted.len() - 1).min(filled);
        buffer.copy_within(filled - kept..filled, 0);
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// A file with these bytes and this mode, in a directory that lives as long as the first value.
    fn file(bytes: &[u8], mode: u32) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("job");
        fs::write(&path, bytes).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        (dir, path)
    }

    fn program(machine: u16) -> Vec<u8> {
        let mut bytes = b"\x7fELF\x02\x01\x01".to_vec();
        bytes.resize(ELF_MACHINE_AT, 0);
        bytes.extend(machine.to_le_bytes());
        bytes.resize(4096, 7);
        bytes
    }

    fn ours() -> u16 {
        MACHINES.iter().find(|(_, name)| *name == std::env::consts::ARCH).unwrap().0
    }

    #[test]
    fn files_that_are_no_artifacts_are_named_with_their_fault() {
        for (bytes, mode, expect) in [
            (&b"not a program"[..], 0o644, "is not executable"),
            (b"not a program", 0o755, "is not a Linux executable"),
            (b"", 0o755, "is not a Linux executable"),
            (b"#!/bin/sh\nexit 0 # a script that is long enough\n", 0o755, "does not link the library perennial"),
            (&program(0xb6), 0o755, "was built for machine 182"),
            (&program(if ours() == 0xb7 { 0x3e } else { 0xb7 }), 0o755, "was built for"),
            (&program(ours()), 0o755, "does not link the library perennial"),
        ] {
            let (_dir, path) = file(bytes, mode);
            let error = ArtifactFile::inspect(&path).unwrap_err().to_string();
            assert!(error.contains(expect) && error.contains(path.to_str().unwrap()), "{error}");
        }
        let dir = tempfile::tempdir().unwrap();
        assert!(ArtifactFile::inspect(dir.path()).unwrap_err().to_string().ends_with("is not a file"));
        let missing = dir.path().join("missing");
        assert!(ArtifactFile::inspect(&missing).unwrap_err().to_string().ends_with("missing does not exist"));
    }

    #[test]
    fn an_artifact_is_known_by_its_magic_wherever_it_stands() {
        for at in [4096, READ_BYTES - 5, READ_BYTES, 3 * READ_BYTES + 17] {
            let mut bytes = program(ours());
            bytes.resize(at, b'p');
            bytes.extend(MANIFEST_MAGIC);
            let (_dir, path) = file(&bytes, 0o755);
            let artifact = ArtifactFile::inspect(&path).unwrap().digest().unwrap();
            assert_eq!(artifact.digest().as_bytes()[..], Sha256::digest(&bytes)[..], "magic at {at}");
            assert_eq!((artifact.size(), artifact.name()), (bytes.len() as u64, "job"));
        }
    }
}
