//! `perennial status`: is the cluster well?

use std::io::IsTerminal;
use std::time::Duration;

use perennial_client::{
    Client, ClusterStatus, DispatcherGateway, JobSummary, StateAge, TaskManagerSummary, Unavailable,
};
use perennial_types::{Configuration, JobStatus, format_duration};
use serde_json::json;

use super::signals::StopSignals;
use super::survey::{self, age_of, reason};
use crate::args::{Format, Global, Status};
use crate::failure::{Exit, Failure};
use crate::{output, settings};

/// How often `--watch` looks again.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);

/// How often `--wait-healthy` does.
const WAIT_INTERVAL: Duration = Duration::from_millis(200);

/// Entries a member may be behind without being named: some are always under way.
const LAG_MAX: u64 = 1000;

pub(crate) async fn run(options: Status, global: &Global, config: &Configuration) -> Result<Exit, Failure> {
    let client = settings::client(global, config)?;
    let format = options.output.format;
    if options.watch {
        return watch(&client, options.stale, format).await;
    }
    let seen = match options.wait_healthy {
        Some(limit) => wait_healthy(&client, options.stale, limit).await?,
        None => Seen::look(&client, options.stale).await?,
    };
    seen.print(format)?;
    Ok(if seen.verdict().0 { Exit::Done } else { Exit::Degraded })
}

/// Shows the cluster until Ctrl-C: as a whole on a terminal, else a line each time.
async fn watch(client: &Client, stale: bool, format: Format) -> Result<Exit, Failure> {
    let mut signals = StopSignals::listen()?;
    let is_terminal = std::io::stdout().is_terminal();
    let show = async {
        loop {
            let seen = Seen::look(client, stale).await;
            match seen {
                Ok(seen) if is_terminal || format == Format::Json => {
                    if is_terminal {
                        // Home, and nothing below.
                        output::line("\x1b[H\x1b[2J")?;
                    }
                    seen.print(format)?;
                }
                Ok(seen) => output::line(seen.verdict().1)?,
                Err(error) => output::line(format_args!("degraded: {error}"))?,
            }
            tokio::time::sleep(WATCH_INTERVAL).await;
        }
    };
    tokio::select! {
        ended = show => ended,
        _ = signals.next() => Ok(Exit::Interrupted),
    }
}

/// Waits until the cluster is well.
async fn wait_healthy(client: &Client, stale: bool, limit: Duration) -> Result<Seen, Failure> {
    let deadline = tokio::time::Instant::now() + limit;
    let mut last = "nothing was heard yet".to_owned();
    loop {
        match tokio::time::timeout_at(deadline, Seen::look(client, stale)).await {
            Ok(Ok(seen)) => match seen.verdict() {
                (true, _) => return Ok(seen),
                (false, verdict) => last = verdict,
            },
            Ok(Err(error)) => last = error.to_string(),
            Err(_) => {}
        }
        let next = tokio::time::Instant::now() + WAIT_INTERVAL;
        if next >= deadline {
            let text = format!("the cluster was not well within {}: {last}", format_duration(limit));
            return Err(Failure::new(Exit::TimedOut, anyhow::anyhow!(text)));
        }
        tokio::time::sleep_until(next).await;
    }
}

/// The cluster at one time.
struct Seen {
    cluster: ClusterStatus,
    /// Endpoints that were not reached, each with its reason.
    missing: Vec<String>,
    taskmanagers: Vec<TaskManagerSummary>,
    jobs: Vec<JobSummary>,
    /// How old the jobs may be, if that was accepted.
    age: Option<StateAge>,
}

impl Seen {
    async fn look(client: &Client, stale: bool) -> Result<Self, Unavailable> {
        let answers = client.survey().await;
        let missing = answers.iter().filter_map(|(endpoint, answer)| {
            let error = answer.as_ref().err()?;
            Some(format!("{endpoint}: {}", reason(endpoint, error)))
        });
        let missing: Vec<String> = missing.collect();
        let Some(cluster) = survey::best(&answers).cloned() else {
            return Err(Unavailable::Unreachable { reason: missing.join("; ") });
        };
        let mut seen = Self { cluster, missing, taskmanagers: Vec::new(), jobs: Vec::new(), age: None };
        if stale {
            let jobs = client.list_jobs_stale().await?;
            (seen.jobs, seen.age) = (jobs.value, Some(jobs.age));
        } else if seen.cluster.leader.is_some() {
            // Without a leader these would only be waited for.
            let (taskmanagers, jobs) = tokio::join!(client.taskmanagers(), client.list_jobs());
            (seen.taskmanagers, seen.jobs) = (taskmanagers?, jobs?);
        }
        Ok(seen)
    }

    /// Whether the cluster can run jobs, and a sentence for it.
    fn verdict(&self) -> (bool, String) {
        let (well, mut text) = verdict(&self.cluster, &self.taskmanagers, self.age.is_some());
        let behind = self.cluster.members.iter().filter_map(|member| {
            let lag = member.lag.filter(|lag| *lag > LAG_MAX)?;
            Some(format!("{} by {lag} entries", member.name))
        });
        for (what, which) in [("not reached", self.missing.clone()), ("behind", behind.collect())] {
            if !which.is_empty() {
                text.push_str(&format!("; {what}: {}", which.join(", ")));
            }
        }
        (well, text)
    }

    fn print(&self, format: Format) -> Result<(), Failure> {
        let (well, verdict) = self.verdict();
        match format {
            Format::Json => print_json(self, well, &verdict),
            Format::Table => print_tables(self, &verdict),
        }
    }
}

fn verdict(cluster: &ClusterStatus, taskmanagers: &[TaskManagerSummary], stale: bool) -> (bool, String) {
    let Some(leader) = cluster.leader else {
        let members = cluster.members.iter().filter(|member| member.voter).count();
        let quorum = members / 2 + 1;
        return (false, format!("degraded: no leader; {quorum} of {members} JobManagers have to run"));
    };
    let leads = format!("{leader} leads in epoch {}", cluster.epoch);
    if taskmanagers.is_empty() && !stale {
        return (
            false,
            format!("degraded: {leads}, but no TaskManager is registered; start one: perennial taskmanager"),
        );
    }
    (true, format!("healthy: {leads}"))
}

fn print_json(seen: &Seen, well: bool, verdict: &str) -> Result<(), Failure> {
    let Seen { cluster, missing, taskmanagers, jobs, age } = seen;
    let members = cluster.members.iter().map(|member| {
        json!({
            "id": member.id,
            "name": member.name,
            "address": member.address,
            "voter": member.voter,
            "leader": cluster.leader == Some(member.id),
            "lag": member.lag,
        })
    });
    let taskmanagers = taskmanagers.iter().map(|taskmanager| {
        json!({
            "id": taskmanager.id,
            "host": taskmanager.host,
            "pid": taskmanager.pid,
            "slots": taskmanager.slots,
            "free-slots": taskmanager.free_slots,
            "heartbeat-age-ms": taskmanager.heartbeat_age_ms,
            "stale-commands-rejected": taskmanager.stale_commands,
        })
    });
    let mut answer = json!({
        "healthy": well,
        "verdict": verdict,
        "cluster": cluster.cluster,
        "from": cluster.from,
        "epoch": cluster.epoch,
        "leader": cluster.leader,
        "applied": cluster.applied,
        "not-reached": missing,
        "members": members.collect::<Vec<_>>(),
        "taskmanagers": taskmanagers.collect::<Vec<_>>(),
        "jobs": counts(jobs).into_iter().collect::<std::collections::BTreeMap<_, _>>(),
    });
    if let (Some(StateAge { applied, age_ms, .. }), Some(fields)) = (age, answer.as_object_mut()) {
        let age = [("stale", json!(true)), ("applied-index", json!(applied)), ("age-ms", json!(age_ms))];
        fields.extend(age.map(|(name, value)| (name.to_owned(), value)));
    }
    output::json(&answer)
}

/// The first line of a stale answer.
pub(super) fn stale_line(StateAge { from, applied, age_ms }: &StateAge) -> String {
    match age_ms {
        Some(age_ms) => {
            format!(
                "stale: as {from} has applied it, log index {applied}; it last heard from a leader {} ago",
                age_of(*age_ms)
            )
        }
        None => format!("stale: as {from} has applied it, log index {applied}; it has not heard from a leader yet"),
    }
}

fn print_tables(seen: &Seen, verdict: &str) -> Result<(), Failure> {
    let Seen { cluster, missing: _, taskmanagers, jobs, age } = seen;
    if let Some(age) = age {
        output::line(stale_line(age))?;
    }
    let id = cluster.cluster.map_or_else(|| "not bootstrapped".to_owned(), |cluster| cluster.to_string());
    output::line(format_args!(
        "{verdict}\ncluster {id}, as {} sees it at log index {}\n",
        cluster.from, cluster.applied
    ))?;
    let members = cluster.members.iter().map(|member| {
        let role = match (cluster.leader == Some(member.id), member.voter) {
            (true, _) => "leader",
            (false, true) => "follower",
            (false, false) => "learner",
        };
        let lag = member.lag.map_or_else(|| "-".to_owned(), |lag| lag.to_string());
        [member.id.to_string(), member.name.clone(), member.address.clone(), role.to_owned(), lag]
    });
    output::line(output::table(["JOBMANAGER", "NAME", "ADDRESS", "ROLE", "LAG"], members))?;
    if !taskmanagers.is_empty() {
        let rows = taskmanagers.iter().map(|taskmanager| {
            [
                taskmanager.id.to_string(),
                taskmanager.host.clone(),
                taskmanager.pid.to_string(),
                format!("{}/{}", taskmanager.free_slots, taskmanager.slots),
                format!("{} ms", taskmanager.heartbeat_age_ms),
            ]
        });
        let table = output::table(["TASKMANAGER", "HOST", "PID", "FREE/SLOTS", "HEARTBEAT"], rows);
        output::line(format_args!("\n{table}"))?;
    }
    let refused = taskmanagers.iter().filter(|taskmanager| taskmanager.stale_commands > 0);
    let refused: Vec<String> = refused.map(|one| format!("{} by {}", one.stale_commands, one.id)).collect();
    if !refused.is_empty() {
        output::line(format_args!("\ncommands of deposed leaders refused: {}", refused.join(", ")))?;
    }
    let counts: Vec<String> = counts(jobs).iter().map(|(status, count)| format!("{count} {status}")).collect();
    if !counts.is_empty() {
        output::line(format_args!("\njobs: {}", counts.join(", ")))?;
    }
    Ok(())
}

/// Jobs by state, those that occur.
fn counts(jobs: &[JobSummary]) -> Vec<(&'static str, usize)> {
    let count = |status: JobStatus| (status.as_str(), jobs.iter().filter(|job| job.status == status).count());
    JobStatus::ALL.into_iter().map(count).filter(|(_, count)| *count > 0).collect()
}

#[cfg(test)]
mod tests {
    use perennial_types::{JobManagerId, LeaderEpoch};

    use super::*;

    #[test]
    fn a_cluster_without_leader_or_workers_is_degraded() {
        let member = |id| perennial_client::MemberSummary {
            id: JobManagerId(id),
            name: format!("jm-{id}"),
            address: String::new(),
            voter: true,
            lag: None,
        };
        let mut cluster = ClusterStatus {
            cluster: None,
            from: JobManagerId(1),
            epoch: LeaderEpoch(4),
            leader: None,
            applied: 0,
            members: (1..=3).map(member).collect(),
            own: Default::default(),
            age_ms: None,
        };
        assert_eq!(
            verdict(&cluster, &[], false),
            (false, "degraded: no leader; 2 of 3 JobManagers have to run".to_owned())
        );
        cluster.leader = Some(JobManagerId(2));
        assert!(!verdict(&cluster, &[], false).0);
        let taskmanager = TaskManagerSummary {
            id: perennial_types::TaskManagerId("tm-1".to_owned()),
            host: String::new(),
            pid: 1,
            slots: 1,
            free_slots: 1,
            heartbeat_age_ms: 0,
            stale_commands: 0,
        };
        assert_eq!(
            verdict(&cluster, std::slice::from_ref(&taskmanager), false),
            (true, "healthy: jm-2 leads in epoch 4".to_owned())
        );
        cluster.members.iter_mut().filter(|member| member.id.0 == 3).for_each(|member| member.lag = Some(5000));
        let missing = vec!["h1:8081: connection refused".to_owned()];
        let seen = Seen { cluster, missing, taskmanagers: vec![taskmanager], jobs: Vec::new(), age: None };
        let text =
            "healthy: jm-2 leads in epoch 4; not reached: h1:8081: connection refused; behind: jm-3 by 5000 entries";
        assert_eq!(seen.verdict(), (true, text.to_owned()));
    }
}
