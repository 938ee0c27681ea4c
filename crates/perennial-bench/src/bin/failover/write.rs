//! Clients that write while a leader is lost.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use crate::group::LIMIT;
use crate::member::Member;

/// Time between two attempts at one member. An attempt is not waited for: one that got lost with the old leader would hide
/// for seconds that the next one is accepted.
const ATTEMPT_EVERY: Duration = Duration::from_millis(5);

/// Time after which an attempt is given up, which bounds how many are on their way.
const ATTEMPT_LIMIT: Duration = Duration::from_secs(1);

/// Time a client that makes one request after the other waits for an answer.
const ONE_LIMIT: Duration = Duration::from_millis(500);

/// Pause of such a client after a refusal.
const ONE_PAUSE: Duration = Duration::from_millis(1);

/// Tries at all these members at once until one attempt is committed. Returns the time since `since` to its answer.
pub(crate) async fn first_accepted(members: &[Member], since: Instant) -> Result<Duration> {
    let mut attempts = JoinSet::new();
    let mut every = interval(ATTEMPT_EVERY);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while since.elapsed() < LIMIT {
        tokio::select! {
            _ = every.tick() => for member in members {
                let member = member.clone();
                attempts.spawn(async move { (timeout(ATTEMPT_LIMIT, member.write()).await, Instant::now()) });
            },
            Some(attempt) = attempts.join_next() => if let (Ok(Ok(())), at) = attempt? {
                return Ok(at - since);
            },
        }
    }
    bail!("nothing was accepted within {} s", LIMIT.as_secs())
}

/// One request after the other through one member until one is committed. Returns the time since `since` to its answer.
pub(crate) async fn accepted_through(member: &Member, since: Instant) -> Result<Duration> {
    while since.elapsed() < LIMIT {
        if let Ok(Ok(())) = timeout(ONE_LIMIT, member.write()).await {
            return Ok(since.elapsed());
        }
        sleep(ONE_PAUSE).await;
    }
    bail!("nothing was accepted within {} s", LIMIT.as_secs())
}
