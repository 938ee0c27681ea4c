//! What a simulated member stands on. Outside a simulation, in the other tests of this crate, the real thing.

use std::cell::RefCell;
use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use openraft::impls::TokioRuntime;
use openraft::{AsyncRuntime, OptionalSend};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use tokio::task::JoinHandle;

use super::disk::Disk;
use super::lock;
use super::network::{Net, Node};
use crate::error::OpenError;
use crate::log::{self, LogDisk};
use crate::state::{self, Tree};

pub(crate) use super::network::RaftClient;

/// The simulated process whose code this thread runs now.
#[derive(Clone)]
pub(crate) struct Here {
    pub(super) node: Node,
    pub(super) net: Net,
    pub(super) disk: Disk,
    pub(super) rng: Arc<Mutex<SmallRng>>,
}

thread_local! {
    static HERE: RefCell<Option<Here>> = const { RefCell::new(None) };
}

impl Here {
    /// Runs code as this process.
    pub(super) fn run<T>(&self, code: impl FnOnce() -> T) -> T {
        HERE.with(|here| here.replace(Some(self.clone())));
        let result = code();
        HERE.with(|here| here.replace(None));
        result
    }

    /// The process whose code runs now, if it is a simulated one.
    pub(super) fn current() -> Option<Self> {
        HERE.with(|here| here.borrow().clone())
    }
}

/// Connects to a process, only to see whether it listens.
pub(crate) async fn connect(address: &str) -> std::io::Result<()> {
    match (Here::current(), super::member::at(address)) {
        (Some(here), Some(to)) => here.net.connect(here.node, to).await,
        _ => tokio::net::TcpStream::connect(address).await.map(drop),
    }
}

/// Opens what the log is written to.
pub(crate) fn open_log(dir: &Path) -> Result<Box<dyn LogDisk>, OpenError> {
    match Here::current() {
        Some(here) => Ok(here.disk.open_log()),
        None => log::open_files(dir),
    }
}

/// Opens what the state is kept in. The model is as old as its directory: who removes that has an empty one.
pub(crate) fn open_tree(dir: &Path) -> Result<Box<dyn Tree>, String> {
    let Some(here) = Here::current() else { return state::open_sled(dir) };
    let existed = dir.exists();
    std::fs::create_dir_all(dir).map_err(|error| error.to_string())?;
    Ok(here.disk.open_tree(existed))
}

/// Work that waits for a disk takes as long as the disk does, and does not happen when the process crashes before.
pub(crate) fn spawn_blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    let Some(here) = Here::current() else { return tokio::task::spawn_blocking(work) };
    let delay = here.disk.delay();
    tokio::spawn(async move {
        tokio::time::sleep(delay).await;
        work()
    })
}

/// tokio, but nothing in it is left to chance except by the seed of the simulation.
pub(crate) struct Runtime(TokioRuntime);

impl fmt::Debug for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl AsyncRuntime for Runtime {
    type JoinError = <TokioRuntime as AsyncRuntime>::JoinError;
    type JoinHandle<T: OptionalSend + 'static> = <TokioRuntime as AsyncRuntime>::JoinHandle<T>;
    type Sleep = <TokioRuntime as AsyncRuntime>::Sleep;
    type Instant = <TokioRuntime as AsyncRuntime>::Instant;
    type TimeoutError = <TokioRuntime as AsyncRuntime>::TimeoutError;
    type Timeout<R, T: Future<Output = R> + OptionalSend> = <TokioRuntime as AsyncRuntime>::Timeout<R, T>;
    type ThreadLocalRng = SmallRng;
    type Mpsc = <TokioRuntime as AsyncRuntime>::Mpsc;
    type Watch = super::watch::Watch;
    type Oneshot = <TokioRuntime as AsyncRuntime>::Oneshot;
    type Mutex<T: OptionalSend + 'static> = <TokioRuntime as AsyncRuntime>::Mutex<T>;

    fn spawn<T>(future: T) -> Self::JoinHandle<T::Output>
    where
        T: Future + OptionalSend + 'static,
        T::Output: OptionalSend + 'static,
    {
        TokioRuntime::spawn(future)
    }

    fn sleep(duration: Duration) -> Self::Sleep {
        TokioRuntime::sleep(duration)
    }

    fn sleep_until(deadline: Self::Instant) -> Self::Sleep {
        TokioRuntime::sleep_until(deadline)
    }

    fn timeout<R, F: Future<Output = R> + OptionalSend>(duration: Duration, future: F) -> Self::Timeout<R, F> {
        TokioRuntime::timeout(duration, future)
    }

    fn timeout_at<R, F: Future<Output = R> + OptionalSend>(deadline: Self::Instant, future: F) -> Self::Timeout<R, F> {
        TokioRuntime::timeout_at(deadline, future)
    }

    fn is_panic(join_error: &Self::JoinError) -> bool {
        TokioRuntime::is_panic(join_error)
    }

    fn thread_rng() -> SmallRng {
        match Here::current() {
            Some(here) => SmallRng::seed_from_u64(lock(&here.rng).random()),
            None => SmallRng::from_rng(&mut rand::rng()),
        }
    }

    fn new(threads: usize) -> Self {
        Self(TokioRuntime::new(threads))
    }

    fn block_on<F: Future<Output = T>, T>(&mut self, future: F) -> T {
        self.0.block_on(future)
    }
}
