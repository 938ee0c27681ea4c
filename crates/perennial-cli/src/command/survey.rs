//! Why nobody leads: every endpoint asked by itself, and what to do.

use std::collections::BTreeSet;

use perennial_client::{Client, ClusterStatus, Unavailable};
use perennial_types::JobManagerId;

use crate::failure::{Exit, Failure};
use crate::output;

/// An endpoint and its answer.
pub(crate) type Answer = (String, Result<ClusterStatus, Unavailable>);

/// The answer that knows most: of the leader, else of the newest epoch.
pub(crate) fn best(answers: &[Answer]) -> Option<&ClusterStatus> {
    let reached = answers.iter().filter_map(|(_, answer)| answer.as_ref().ok());
    reached.max_by_key(|status| {
        (status.epoch, status.leader == Some(status.from), status.leader.is_some(), status.applied)
    })
}

/// Why an endpoint was not reached.
pub(crate) fn reason(endpoint: &str, error: &Unavailable) -> String {
    let text = match error {
        Unavailable::NoLeader { reason }
        | Unavailable::Store { reason }
        | Unavailable::NoRoom { reason }
        | Unavailable::Unreachable { reason } => reason,
    };
    text.strip_prefix(endpoint).and_then(|rest| rest.strip_prefix(": ")).unwrap_or(text).to_owned()
}

/// Replaces the failure of a command that found no leader by one that says which JobManagers are there.
pub(crate) async fn explain(failure: Failure, client: &Client) -> Failure {
    explanation(&client.survey().await).unwrap_or(failure)
}

/// Nothing when nobody is reached, or when there is a leader after all: then the failure has its reason already.
fn explanation(answers: &[Answer]) -> Option<Failure> {
    let best = best(answers).filter(|status| status.leader.is_none())?;
    let up: BTreeSet<JobManagerId> =
        answers.iter().filter_map(|(_, answer)| Some(answer.as_ref().ok()?.from)).collect();
    let voters: Vec<_> = best.members.iter().filter(|member| member.voter).collect();
    let rows = answers.iter().map(|(endpoint, answer)| match answer {
        Err(error) => ["-".to_owned(), endpoint.clone(), reason(endpoint, error)],
        Ok(status) => {
            let name = status.members.iter().find(|member| member.id == status.from).map(|member| member.name.clone());
            let heard = status.age_ms.map_or_else(
                || "never heard from a leader".to_owned(),
                |age| format!("last heard from a leader {} ago", age_of(age)),
            );
            let state = format!("up, epoch {}, applied {}, {heard}", status.epoch, status.applied);
            [name.unwrap_or_else(|| status.from.to_string()), endpoint.clone(), state]
        }
    });
    let table = output::table(
        ["  JOBMANAGER", "ENDPOINT", "STATE"],
        rows.map(|[name, endpoint, state]| [format!("  {name}"), endpoint, state]),
    );
    let missing: Vec<&str> =
        voters.iter().filter(|member| !up.contains(&member.id)).map(|member| member.name.as_str()).collect();
    let text = format!(
        "no leader: {} of {} JobManagers reached, quorum is {}\n{table}",
        up.len(),
        voters.len(),
        voters.len() / 2 + 1
    );
    let start = match missing.as_slice() {
        [] => "all are reached: wait for the election, or look into their logs".to_owned(),
        [one] => format!("start {one}, or name its endpoint with --endpoints"),
        many => format!("start one of {}, or name its endpoint with --endpoints", many.join(", ")),
    };
    let hint = format!("{start}; read-only data: perennial list --stale, perennial status --stale");
    Some(Failure::new(Exit::Unavailable, anyhow::anyhow!(text)).hint(hint))
}

/// An age for people.
pub(crate) fn age_of(ms: u64) -> String {
    if ms < 1000 { format!("{ms} ms") } else { format!("{}.{} s", ms / 1000, ms % 1000 / 100) }
}

#[cfg(test)]
mod tests {
    use perennial_client::MemberSummary;
    use perennial_types::LeaderEpoch;

    use super::*;

    fn status(from: u64, leader: Option<u64>) -> ClusterStatus {
        let member = |id| MemberSummary {
            id: JobManagerId(id),
            name: format!("jm-{id}"),
            address: String::new(),
            voter: true,
            lag: None,
        };
        ClusterStatus {
            own: Default::default(),
            cluster: None,
            from: JobManagerId(from),
            epoch: LeaderEpoch(41),
            leader: leader.map(JobManagerId),
            applied: 33,
            members: (1..=3).map(member).collect(),
            age_ms: Some(4200),
        }
    }

    #[test]
    fn who_is_there_and_who_is_not_is_told() {
        let refused = Unavailable::Unreachable { reason: "h2:8081: connection refused".to_owned() };
        let answers = [("h1:8081".to_owned(), Ok(status(1, None))), ("h2:8081".to_owned(), Err(refused))];
        assert_eq!(
            explanation(&answers).unwrap().to_string(),
            "error: no leader: 1 of 3 JobManagers reached, quorum is 2\n  \
             JOBMANAGER  ENDPOINT  STATE\n  \
             jm-1        h1:8081   up, epoch 41, applied 33, last heard from a leader 4.2 s ago\n  \
             -           h2:8081   connection refused\n\
             hint: start one of jm-2, jm-3, or name its endpoint with --endpoints; \
             read-only data: perennial list --stale, perennial status --stale"
        );
        let led = [("h1:8081".to_owned(), Ok(status(1, None))), ("h3:8081".to_owned(), Ok(status(3, Some(3))))];
        assert!(explanation(&led).is_none());
        assert_eq!(best(&led).unwrap().from, JobManagerId(3));
        assert!(explanation(&answers[1..]).is_none());
    }
}
