//! Forgetting ended jobs, so that a cluster that runs a thousand jobs a day is as small as on its first.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use perennial_meta::{Command, JobHead, Outcome};
use perennial_types::JobId;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::leader::Leader;
use crate::unix_ms;

/// How often ended jobs are looked through when none has ended. The age of a job is not a matter of seconds.
const PERIOD: Duration = Duration::from_secs(10);

/// After the end of a job, others that end within this time are forgotten with it in one entry.
const GATHER: Duration = Duration::from_secs(1);

/// Jobs forgotten in one entry.
const BATCH_MAX: usize = 1000;

/// Forgets ended jobs over the number or age to keep, and looks after writes of unknown outcome.
pub(crate) async fn run(leader: Arc<Leader>, token: CancellationToken) -> Result<(), Infallible> {
    let work = async {
        loop {
            tokio::select! {
                () = leader.job_ended.notified() => tokio::time::sleep(GATHER).await,
                () = tokio::time::sleep(if leader.is_unsure() { GATHER } else { PERIOD }) => {}
            }
            if leader.is_unsure() {
                leader.catch_up_all().await;
            }
            forget(&leader).await;
        }
    };
    token.run_until_cancelled(work).await;
    Ok(())
}

async fn forget(leader: &Leader) {
    let heads = match leader.meta.state().job_heads() {
        Ok(heads) => heads,
        Err(error) => return warn!(%error, "jobs cannot be read"),
    };
    let expiration_ms = leader.settings.job_expiration.as_millis() as u64;
    let jobs = to_forget(heads, leader.settings.jobs_kept, expiration_ms, unix_ms());
    // A job whose executors are still being stopped is not forgotten yet.
    let jobs: Vec<JobId> = jobs.into_iter().filter(|job| leader.masters.get(*job).is_none()).take(BATCH_MAX).collect();
    if jobs.is_empty() {
        return;
    }
    match leader.meta.write(Command::ForgetJobs { jobs }).await {
        Ok(written) => {
            if let Outcome::Forgotten { jobs, artifacts } = written.outcome {
                debug!(jobs = jobs.len(), artifacts = artifacts.len(), "ended jobs forgotten");
                leader.masters.forget(&jobs);
            }
        }
        Err(error) => debug!(%error, "ended jobs not forgotten yet"),
    }
}

/// The oldest ended jobs over `kept`, and all that ended longer ago than the expiration.
fn to_forget(heads: Vec<JobHead>, kept: usize, expiration_ms: u64, now_ms: u64) -> Vec<JobId> {
    let mut ended: Vec<(u64, JobId)> = heads.into_iter().filter_map(|head| Some((head.ended_ms?, head.job))).collect();
    ended.sort_unstable();
    let surplus = ended.len().saturating_sub(kept);
    ended
        .into_iter()
        .enumerate()
        .filter(|(position, (at_ms, _))| *position < surplus || at_ms.saturating_add(expiration_ms) <= now_ms)
        .map(|(_, (_, job))| job)
        .collect()
}

#[cfg(test)]
mod tests {
    use perennial_meta::DesiredState;
    use perennial_types::{ArtifactDigest, JobStatus, RequestId};

    use super::*;

    fn head(number: u8, ended_ms: Option<u64>) -> JobHead {
        JobHead {
            job: JobId::from_bytes([number; 16]),
            request: RequestId::from_bytes([number; 16]),
            name: String::new(),
            artifact: ArtifactDigest::from_bytes([0; 32]),
            status: if ended_ms.is_some() { JobStatus::Finished } else { JobStatus::Running },
            desired: DesiredState::Running,
            cancel_request: None,
            submitted_ms: 0,
            ended_ms,
            status_times: Vec::new(),
            failure: None,
            restarts: 0,
        }
    }

    #[test]
    fn the_oldest_over_the_number_and_all_over_the_age_are_forgotten() {
        let heads = || vec![head(1, Some(50)), head(2, None), head(3, Some(10)), head(4, Some(90))];
        let forgotten = |kept, expiration, now| -> Vec<u8> {
            to_forget(heads(), kept, expiration, now).iter().map(|job| job.as_bytes()[0]).collect()
        };
        assert_eq!(forgotten(3, 1000, 100), [] as [u8; 0]);
        assert_eq!(forgotten(2, 1000, 100), [3]);
        assert_eq!(forgotten(0, 1000, 100), [3, 1, 4], "running jobs are never forgotten");
        assert_eq!(forgotten(3, 50, 100), [3, 1]);
    }
}
