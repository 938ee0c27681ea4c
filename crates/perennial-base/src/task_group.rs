//! The background tasks of a component: named, watched, stopped together.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{Instrument, error, info_span, warn};

/// What the failure of a task means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnError {
    /// The component cannot go on: [`TaskGroup::failed`] resolves and the owner ends the process.
    StopProcess,
    /// It is logged; the others go on.
    Report,
}

/// A task on which the process depends has failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("task `{task}` failed: {reason}")]
pub struct TaskFailure {
    /// Its name.
    pub task: &'static str,
    /// Its error with all causes, or its panic.
    pub reason: String,
}

/// The background tasks of one component. Cheap to clone; every clone is the same group.
///
/// Dropping a group stops nothing: its owner calls [`shutdown`](Self::shutdown).
#[derive(Debug, Clone)]
pub struct TaskGroup {
    shared: Arc<Shared>,
}

struct Shared {
    token: CancellationToken,
    tracker: TaskTracker,
    running: Mutex<HashMap<u64, (&'static str, AbortHandle)>>,
    next: AtomicU64,
    failure: watch::Sender<Option<TaskFailure>>,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("tasks", &self.tracker.len()).finish_non_exhaustive()
    }
}

impl Default for TaskGroup {
    fn default() -> Self {
        Self::new()
    }
}

impl TaskGroup {
    /// An empty group with a token of its own.
    pub fn new() -> Self {
        Self::with_token(CancellationToken::new())
    }

    /// An empty group that is also asked to stop by whoever holds `token`.
    pub fn with_token(token: CancellationToken) -> Self {
        let shared = Shared {
            token,
            tracker: TaskTracker::new(),
            running: Mutex::default(),
            next: AtomicU64::new(0),
            failure: watch::Sender::new(None),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Asks tasks to stop. Every long-lived task of the group watches it.
    pub fn token(&self) -> &CancellationToken {
        &self.shared.token
    }

    /// Starts a task inside a span with its name. An error or a panic of it is logged once, with all its causes.
    pub fn spawn<E>(
        &self,
        name: &'static str,
        on_error: OnError,
        task: impl Future<Output = Result<(), E>> + Send + 'static,
    ) where
        E: std::error::Error + Send + 'static,
    {
        let shared = Arc::clone(&self.shared);
        let number = shared.next.fetch_add(1, Ordering::Relaxed);
        let work = tokio::spawn(task.instrument(info_span!("task", name)));
        lock(&shared).insert(number, (name, work.abort_handle()));
        self.shared.tracker.spawn(async move {
            let reason = match work.await {
                Ok(Ok(())) => None,
                Ok(Err(error)) => Some(with_causes(&error)),
                Err(ended) if ended.is_cancelled() => None,
                Err(ended) => Some(ended.to_string()),
            };
            lock(&shared).remove(&number);
            let Some(reason) = reason else { return };
            match on_error {
                OnError::StopProcess => {
                    error!(task = name, reason, "task failed, the process cannot go on");
                    let failure = TaskFailure { task: name, reason };
                    shared.failure.send_modify(|first| _ = first.get_or_insert(failure));
                }
                OnError::Report => warn!(task = name, reason, "task failed"),
            }
        });
    }

    /// Resolves when a task with [`OnError::StopProcess`] has failed; never otherwise.
    pub async fn failed(&self) -> TaskFailure {
        let mut failure = self.shared.failure.subscribe();
        let failed = failure.wait_for(Option::is_some).await.ok().and_then(|failure| failure.clone());
        match failed {
            Some(failure) => failure,
            None => std::future::pending().await,
        }
    }

    /// Asks all tasks to stop and waits for them, at most `grace`; those that still run then are ended and logged.
    pub async fn shutdown(&self, grace: Duration) {
        self.shared.token.cancel();
        self.shared.tracker.close();
        if tokio::time::timeout(grace, self.shared.tracker.wait()).await.is_ok() {
            return;
        }
        for (name, task) in lock(&self.shared).values() {
            warn!(task = name, grace_ms = grace.as_millis() as u64, "task did not stop in time and is ended");
            task.abort();
        }
        self.shared.tracker.wait().await;
    }
}

fn lock(shared: &Shared) -> std::sync::MutexGuard<'_, HashMap<u64, (&'static str, AbortHandle)>> {
    shared.running.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An error and all its causes: `could not read it: no such file`.
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(deeper) = cause {
        text = format!("{text}: {deeper}");
        cause = deeper.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    const GRACE: Duration = Duration::from_secs(10);

    #[tokio::test]
    async fn tasks_that_watch_the_token_stop_on_shutdown() {
        let group = TaskGroup::new();
        let token = group.token().clone();
        group.spawn("patient", OnError::Report, async move {
            token.cancelled().await;
            Ok::<(), Infallible>(())
        });
        group.shutdown(GRACE).await;
        assert!(lock(&group.shared).is_empty());
    }

    #[tokio::test]
    async fn a_task_that_does_not_stop_is_ended() {
        let group = TaskGroup::new();
        group.spawn("stubborn", OnError::Report, async {
            std::future::pending::<()>().await;
            Ok::<(), Infallible>(())
        });
        group.shutdown(Duration::from_millis(1)).await;
        assert!(lock(&group.shared).is_empty());
    }

    #[tokio::test]
    async fn the_first_failure_that_stops_the_process_is_told_with_its_causes() {
        let group = TaskGroup::new();
        group.spawn("harmless", OnError::Report, async { Err(std::io::Error::other("whatever")) });
        group.spawn("vital", OnError::StopProcess, async { Err(std::io::Error::other("disk is gone")) });
        assert_eq!(group.failed().await.to_string(), "task `vital` failed: disk is gone");
    }

    #[tokio::test]
    async fn a_panic_counts_as_a_failure() {
        let group = TaskGroup::new();
        group.spawn("clumsy", OnError::StopProcess, async {
            let broken: Result<(), Infallible> = if std::hint::black_box(true) { panic!("oops") } else { Ok(()) };
            broken
        });
        let failure = group.failed().await;
        assert_eq!(failure.task, "clumsy");
        assert!(failure.reason.contains("oops"), "{}", failure.reason);
    }
}
