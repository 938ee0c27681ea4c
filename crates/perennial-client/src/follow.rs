//! A job's summaries across losses of connections and leaders.

use perennial_base::Backoff;
use perennial_rpc::dispatcher::{JobSummaries, JobSummary, Unavailable};
use perennial_types::JobId;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tracing::debug;

use crate::Client;

/// Summaries not yet taken by the reader. Small: an unread summary is worth nothing once there is a newer one.
const UNREAD_MAX: usize = 4;

/// Shortest and longest wait before a lost watch is begun again.
const RETRY: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

/// Goes on with another watch whenever one breaks before the job has ended. Gives up when the client's calls do.
///
/// The task behind it ends with the job, with an error, or when the stream is dropped.
pub(crate) fn follow(client: Client, job: JobId, first: JobSummaries) -> JobSummaries {
    let (sender, receiver) = mpsc::channel(UNREAD_MAX);
    tokio::spawn(async move {
        tokio::select! {
            () = sender.closed() => {}
            () = relay(&client, job, first, &sender) => {}
        }
    });
    Box::pin(ReceiverStream::new(receiver))
}

async fn relay(
    client: &Client,
    job: JobId,
    first: JobSummaries,
    sender: &mpsc::Sender<Result<JobSummary, Unavailable>>,
) {
    let mut summaries = first;
    let mut last = None;
    let mut backoff = Backoff::new(RETRY.0, RETRY.1);
    loop {
        while let Some(message) = summaries.next().await {
            let summary = match message {
                Ok(summary) => summary,
                Err(reason) => {
                    debug!(%job, %reason, "lost the watch of a job, beginning another");
                    break;
                }
            };
            backoff.reset();
            let ended = summary.status.is_globally_terminal();
            // The first summary of another watch is often the last one of the watch before.
            if last.as_ref() != Some(&summary) {
                last = Some(summary.clone());
                if sender.send(Ok(summary)).await.is_err() {
                    return;
                }
            }
            if ended {
                return;
            }
        }
        tokio::time::sleep(backoff.next_wait()).await;
        summaries = match client.watch_once(job).await {
            Ok(Some(summaries)) => summaries,
            Ok(None) => {
                let reason = format!("job {job} is no longer listed");
                _ = sender.send(Err(Unavailable::Store { reason })).await;
                return;
            }
            Err(error) => {
                _ = sender.send(Err(error)).await;
                return;
            }
        };
    }
}
