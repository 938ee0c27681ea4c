//! Writers that remember what was acknowledged to them.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::group::Client;

/// Pause between two writes of a writer: load enough for every moment to have writes under way, and few enough records
/// that a run of minutes can be compared in the end.
const PAUSE: Duration = Duration::from_millis(10);

/// Pause before another member is tried.
const RETRY_PAUSE: Duration = Duration::from_millis(5);

/// Running writers. Each record has a number of its own: the writer's in the upper half, ascending in the lower.
pub(crate) struct Load {
    shared: Arc<Shared>,
    writers: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    acknowledged: Mutex<Vec<u64>>,
    /// Writes whose outcome nobody knows.
    unknown: AtomicU64,
    stop: AtomicBool,
}

impl Load {
    /// Starts `count` writers to the members at these addresses.
    pub(crate) fn start(count: u64, addresses: &[SocketAddr]) -> Result<Self> {
        let shared = Arc::new(Shared::default());
        let spawn = |number| {
            let (shared, addresses) = (Arc::clone(&shared), addresses.to_vec());
            let writer = std::thread::Builder::new().name(format!("writer-{number}"));
            writer.spawn(move || shared.write_on(number, &addresses)).context("no thread for a writer")
        };
        let writers = (1..=count).map(spawn).collect::<Result<Vec<_>>>()?;
        Ok(Self { shared, writers })
    }

    /// Numbers of all records acknowledged so far, in the order of their acknowledgements.
    pub(crate) fn acknowledged(&self) -> Vec<u64> {
        self.shared.acknowledged.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How many records are acknowledged.
    pub(crate) fn count(&self) -> usize {
        self.shared.acknowledged.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// The newest acknowledged records.
    pub(crate) fn newest(&self, count: usize) -> Vec<u64> {
        let all = self.shared.acknowledged.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().rev().take(count).copied().collect()
    }

    /// Writes whose outcome is not known: they may be there or not.
    pub(crate) fn unknown(&self) -> u64 {
        self.shared.unknown.load(Ordering::Relaxed)
    }

    /// Ends the writers.
    pub(crate) fn stop(&mut self) -> Result<()> {
        self.shared.stop.store(true, Ordering::Relaxed);
        for writer in self.writers.drain(..) {
            if writer.join().is_err() {
                bail!("a writer has panicked");
            }
        }
        Ok(())
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }
}

impl Shared {
    fn write_on(&self, writer: u64, addresses: &[SocketAddr]) {
        let mut clients: Vec<Option<Client>> = addresses.iter().map(|_| None).collect();
        let (mut number, mut target) = (writer << 32, 0);
        while !self.stop.load(Ordering::Relaxed) {
            let (Some(client), Some(address)) = (clients.get_mut(target), addresses.get(target)) else { return };
            if client.is_none() {
                *client = Client::connect(*address).ok();
            }
            let answer = client.as_mut().map(|connected| connected.ask(&format!("write {number}")));
            match answer {
                Some(Ok(answer)) if answer == "ok" => {
                    self.acknowledged.lock().unwrap_or_else(PoisonError::into_inner).push(number);
                    number += 1;
                    std::thread::sleep(PAUSE);
                    continue;
                }
                // Not written: the same record goes to the next member.
                None => {}
                Some(Ok(answer)) if answer.starts_with("no ") => {}
                Some(answer) => {
                    self.unknown.fetch_add(1, Ordering::Relaxed);
                    number += 1;
                    if answer.is_err() {
                        *client = None;
                    }
                }
            }
            target = (target + 1) % addresses.len().max(1);
            std::thread::sleep(RETRY_PAUSE);
        }
    }
}
