//! The thread that writes the log's files and syncs them.
//!
//! A file gets its whole length, in zeros, before the first record is written to it, and it gets it beside this thread while
//! the file before it fills. So an acknowledgement waits for the data alone: no block is allocated, no file grows, and no
//! directory changes under the sync. That is more than a matter of milliseconds. On a machine whose cores are all busy,
//! ext4 has a kernel worker note that newly allocated blocks were written, the sync waits for that worker, and the worker was
//! seen to wait for a core for up to nine seconds (Linux 6.18); a sync of blocks that were written before has no such wait,
//! and took 0.1 s at most beside it. PostgreSQL (`wal_init_zero`) does the same for its log.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;

use super::Flush;
use super::record::Place;
use crate::files;

/// Length of a file of the log. Larger records make theirs longer.
pub(super) const SEGMENT_BYTES: usize = 1 << 20;

/// Bytes that follow each other in the log.
pub(super) struct Piece {
    pub(super) place: Place,
    pub(super) bytes: Vec<u8>,
}

/// What is written and synced at once.
pub(super) struct Job {
    pub(super) pieces: Vec<Piece>,
    /// The log is durable up to here when this is done.
    pub(super) end: Place,
    /// Files before this one are not needed when this is done.
    pub(super) keep_from: u32,
    /// Who waits for it.
    pub(super) flush: Option<Flush>,
}

/// How far the thread has come.
pub(super) struct Progress {
    durable: AtomicU64,
    syncs: AtomicU64,
}

impl Progress {
    /// The log is durable up to here.
    pub(super) fn durable(&self) -> Place {
        Place::from_u64(self.durable.load(Ordering::Acquire))
    }

    /// How often the thread has synced.
    #[cfg(test)]
    pub(super) fn syncs(&self) -> u64 {
        self.syncs.load(Ordering::Relaxed)
    }
}

/// Gives the thread its jobs. It ends, when all are done, with the last handle.
pub(super) struct WriterHandle {
    jobs: mpsc::Sender<Job>,
    thread: JoinHandle<()>,
    pub(super) progress: Arc<Progress>,
}

impl WriterHandle {
    /// Starts the thread behind a log that is durable up to `end`, which is in `file`.
    pub(super) fn start(dir: &Path, file: File, end: Place, oldest: u32) -> io::Result<Self> {
        let progress = Arc::new(Progress { durable: AtomicU64::new(end.to_u64()), syncs: AtomicU64::new(0) });
        // Not bounded: there is one flush at a time, and two jobs at the end.
        let (jobs, inbox) = mpsc::channel();
        let (dir, segment) = (dir.to_owned(), end.segment);
        let next = Some(prepare_beside(&dir, segment + 1));
        let writer = Writer { dir, file, segment, next, oldest, progress: progress.clone() };
        let thread = std::thread::Builder::new().name("meta-log".to_owned()).spawn(move || writer.run(&inbox))?;
        Ok(Self { jobs, thread, progress })
    }

    /// Hands a job over. After an error of the thread it is dropped, and tells so who waits for it.
    pub(super) fn submit(&self, job: Job) {
        // The thread ends by itself only after an error, which it has told.
        _ = self.jobs.send(job);
    }

    /// Waits until everything is done.
    pub(super) fn finish(self) {
        drop(self.jobs);
        if self.thread.join().is_err() {
            tracing::error!("the log's writer has panicked");
        }
    }
}

struct Writer {
    dir: PathBuf,
    /// The file that is written, and its number.
    file: File,
    segment: u32,
    /// The file after it is being made.
    next: Option<JoinHandle<io::Result<File>>>,
    /// The first file that is there.
    oldest: u32,
    progress: Arc<Progress>,
}

impl Writer {
    fn run(mut self, jobs: &mpsc::Receiver<Job>) {
        while let Ok(job) = jobs.recv() {
            let result = self.write(&job.pieces);
            let failed = result.is_err();
            if !failed {
                self.progress.durable.store(job.end.to_u64(), Ordering::Release);
                self.remove_before(job.keep_from);
            }
            if let Some(flush) = job.flush {
                flush.done(result);
            }
            if failed {
                // A sync that has failed is never tried again: the kernel may have dropped what it could not write.
                break;
            }
        }
        if let Some(next) = self.next.take() {
            // It has no record and is made again at the next start.
            _ = next.join();
        }
    }

    fn write(&mut self, pieces: &[Piece]) -> io::Result<()> {
        for piece in pieces {
            if piece.place.segment != self.segment {
                self.sync()?;
                self.switch()?;
            }
            self.file.write_all_at(&piece.bytes, u64::from(piece.place.offset))?;
        }
        self.sync()
    }

    fn sync(&self) -> io::Result<()> {
        self.progress.syncs.fetch_add(1, Ordering::Relaxed);
        self.file.sync_data()
    }

    /// Goes on to the next file.
    fn switch(&mut self) -> io::Result<()> {
        self.segment += 1;
        let prepared = self.next.take().and_then(|next| next.join().ok()).and_then(Result::ok);
        self.file = match prepared {
            Some(file) => file,
            // There may be room by now.
            None => prepare(&self.dir, self.segment)?,
        };
        self.next = Some(prepare_beside(&self.dir, self.segment + 1));
        Ok(())
    }

    /// Removes files that nothing is read from any more, the oldest first.
    fn remove_before(&mut self, keep_from: u32) {
        while self.oldest < keep_from {
            let path = path_of(&self.dir, self.oldest);
            match std::fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    tracing::warn!(path = %path.display(), %error, "an old file of the log stays");
                    return;
                }
                _ => self.oldest += 1,
            }
        }
    }
}

/// The file with this number.
pub(super) fn path_of(dir: &Path, segment: u32) -> PathBuf {
    dir.join(format!("{segment:010}.wal"))
}

/// Makes a file of zeros whose name and blocks are durable.
pub(super) fn prepare(dir: &Path, segment: u32) -> io::Result<File> {
    let path = path_of(dir, segment);
    let file = OpenOptions::new().create(true).truncate(true).read(true).write(true).open(&path)?;
    write_zeros(&file, 0, SEGMENT_BYTES)?;
    file.sync_all()?;
    files::sync_parent(&path)?;
    Ok(file)
}

/// The same in a thread of its own.
fn prepare_beside(dir: &Path, segment: u32) -> JoinHandle<io::Result<File>> {
    let dir = dir.to_owned();
    std::thread::spawn(move || prepare(&dir, segment))
}

/// Writes zeros over `from..to`.
pub(super) fn write_zeros(mut file: &File, from: usize, to: usize) -> io::Result<()> {
    io::Seek::seek(&mut file, io::SeekFrom::Start(from as u64))?;
    let zeros = [0; 64 << 10];
    let mut left = to.saturating_sub(from);
    while left > 0 {
        let (some, _) = zeros.split_at(left.min(zeros.len()));
        file.write_all(some)?;
        left -= some.len();
    }
    Ok(())
}
