//! One task for each JobManager: keeps a stream open to it, whatever happens to the other side.

use std::time::Duration;

use perennial_base::Backoff;
use perennial_rpc::taskmanager::{AttachError, FromTaskManager, Incoming, StreamId, ToTaskManager, attach};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::owner::{Event, Events};

/// First and longest wait between two attempts to reach a JobManager. The first is short, because a restarted process
/// listens again within milliseconds; the longest bounds how late a TaskManager hears of a new leader.
const RETRY: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

/// A stream after which the next failure is again worth the shortest wait.
const STEADY_AFTER: Duration = Duration::from_secs(1);

/// How long a JobManager may be out of reach before that is a warning. Processes of a cluster start in any order.
const WARN_AFTER: Duration = Duration::from_secs(5);

/// The stream to one JobManager.
#[derive(Debug)]
pub(crate) struct Stream {
    /// What was dialled, `host:port`.
    pub(crate) address: String,
    /// Takes messages to the JobManager.
    pub(crate) to: mpsc::Sender<FromTaskManager>,
    /// Ends this stream; the attachment dials again.
    pub(crate) close: CancellationToken,
}

/// Keeps a stream to the JobManager at `address` until asked to stop. Everything heard goes to the owner.
pub(crate) async fn keep(address: String, number: u64, events: Events, stop: CancellationToken) {
    let mut backoff = Backoff::new(RETRY.0, RETRY.1);
    let mut absence = Absence::default();
    // Attachments draw from separate ranges, so that no two streams ever share an id.
    let mut next = number << 40;
    loop {
        let attached = tokio::select! {
            attached = attach(&address) => attached,
            () = stop.cancelled() => return,
        };
        match attached {
            Ok((to, from)) => {
                let since = Instant::now();
                info!(jobmanager = %address, "attached to JobManager");
                absence = Absence::default();
                let id = StreamId(next);
                next += 1;
                let close = CancellationToken::new();
                let stream = Stream { address: address.clone(), to, close: close.clone() };
                let end = tokio::select! {
                    end = listen(id, stream, from, &events) => end,
                    () = close.cancelled() => None,
                    () = stop.cancelled() => return,
                };
                events.tell(Event::Detached(id)).await;
                if since.elapsed() >= STEADY_AFTER {
                    backoff.reset();
                }
                match end {
                    Some(error) => warn!(jobmanager = %address, %error, "JobManager lost, dialling again"),
                    None => info!(jobmanager = %address, "stream to JobManager closed, dialling again"),
                }
            }
            Err(error) => absence.tell(&address, error.to_string()),
        }
        tokio::select! {
            () = tokio::time::sleep(backoff.next_wait()) => {}
            () = stop.cancelled() => return,
        }
    }
}

/// Since when a JobManager is out of reach, and what has been said about it.
#[derive(Debug, Default)]
struct Absence {
    since: Option<Instant>,
    told: Option<String>,
    warned: bool,
}

impl Absence {
    /// Logs the first failure and every other cause, and warns once when it lasts.
    fn tell(&mut self, jobmanager: &str, error: String) {
        let since = *self.since.get_or_insert_with(Instant::now);
        if !self.warned && since.elapsed() >= WARN_AFTER {
            self.warned = true;
            warn!(jobmanager, error, "JobManager is out of reach, trying again every second");
        } else if self.told.as_ref() != Some(&error) {
            info!(jobmanager, error, "JobManager not reached, trying again");
        } else {
            debug!(jobmanager, error, "JobManager still not reached");
        }
        self.told = Some(error);
    }
}

/// Passes on what a JobManager says, until its stream ends.
async fn listen(
    id: StreamId,
    stream: Stream,
    mut from: Incoming<ToTaskManager>,
    events: &Events,
) -> Option<AttachError> {
    events.tell(Event::Attached(id, stream)).await;
    loop {
        match from.next().await? {
            Ok(message) => events.tell(Event::Heard(id, message)).await,
            Err(error) => return Some(error),
        }
    }
}
