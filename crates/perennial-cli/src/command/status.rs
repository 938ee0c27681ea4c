//! `perennial status`: is the cluster well?

use perennial_client::{ClusterStatus, DispatcherGateway, JobSummary, TaskManagerSummary};
use perennial_types::{Configuration, JobStatus};
use serde_json::json;

use crate::args::{Format, Global};
use crate::failure::{Exit, Failure};
use crate::{output, settings};

pub(crate) async fn run(format: Format, global: &Global, config: &Configuration) -> Result<Exit, Failure> {
    let client = settings::client(global, config)?;
    let cluster = client.cluster_status().await?;
    // Without a leader these would only be waited for.
    let (taskmanagers, jobs) = match cluster.leader {
        Some(_) => {
            let (taskmanagers, jobs) = tokio::join!(client.taskmanagers(), client.list_jobs());
            (taskmanagers?, jobs?)
        }
        None => (Vec::new(), Vec::new()),
    };
    let (well, verdict) = verdict(&cluster, &taskmanagers);
    match format {
        Format::Json => print_json(&cluster, &taskmanagers, &jobs, well, &verdict)?,
        Format::Table => print_tables(&cluster, &taskmanagers, &jobs, &verdict)?,
    }
    Ok(if well { Exit::Done } else { Exit::Degraded })
}

/// Whether the cluster can run jobs, and a sentence for it.
fn verdict(cluster: &ClusterStatus, taskmanagers: &[TaskManagerSummary]) -> (bool, String) {
    let Some(leader) = cluster.leader else {
        let members = cluster.members.iter().filter(|member| member.voter).count();
        let quorum = members / 2 + 1;
        return (false, format!("degraded: no leader; {quorum} of {members} JobManagers have to run"));
    };
    let leads = format!("{leader} leads in epoch {}", cluster.epoch);
    if taskmanagers.is_empty() {
        return (
            false,
            format!("degraded: {leads}, but no TaskManager is registered; start one: perennial taskmanager"),
        );
    }
    (true, format!("healthy: {leads}"))
}

fn print_json(
    cluster: &ClusterStatus,
    taskmanagers: &[TaskManagerSummary],
    jobs: &[JobSummary],
    well: bool,
    verdict: &str,
) -> Result<(), Failure> {
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
    output::json(&json!({
        "healthy": well,
        "verdict": verdict,
        "cluster": cluster.cluster,
        "from": cluster.from,
        "epoch": cluster.epoch,
        "leader": cluster.leader,
        "applied": cluster.applied,
        "members": members.collect::<Vec<_>>(),
        "taskmanagers": taskmanagers.collect::<Vec<_>>(),
        "jobs": counts(jobs).into_iter().collect::<std::collections::BTreeMap<_, _>>(),
    }))
}

fn print_tables(
    cluster: &ClusterStatus,
    taskmanagers: &[TaskManagerSummary],
    jobs: &[JobSummary],
    verdict: &str,
) -> Result<(), Failure> {
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
        };
        assert_eq!(verdict(&cluster, &[]), (false, "degraded: no leader; 2 of 3 JobManagers have to run".to_owned()));
        cluster.leader = Some(JobManagerId(2));
        assert!(!verdict(&cluster, &[]).0);
        let taskmanager = TaskManagerSummary {
            id: perennial_types::TaskManagerId("tm-1".to_owned()),
            host: String::new(),
            pid: 1,
            slots: 1,
            free_slots: 1,
            heartbeat_age_ms: 0,
            stale_commands: 0,
        };
        assert_eq!(verdict(&cluster, &[taskmanager]), (true, "healthy: jm-2 leads in epoch 4".to_owned()));
    }
}
