//! `perennial raft history`: past leaderships and how they began.

use perennial_client::{DispatcherGateway, LeadershipSummary};
use perennial_types::{Configuration, TakeOver};
use serde_json::{Map, Value, json};

use crate::args::{Format, Global};
use crate::failure::{Exit, Failure};
use crate::{output, settings};

pub(crate) async fn run(format: Format, global: &Global, config: &Configuration) -> Result<Exit, Failure> {
    let leaderships = settings::client(global, config)?.leaderships().await?;
    match format {
        Format::Json => output::json(&leaderships.iter().map(to_json).collect::<Vec<_>>())?,
        Format::Table => output::line(table(&leaderships).join("\n"))?,
    }
    Ok(Exit::Done)
}

fn to_json(leadership: &LeadershipSummary) -> Value {
    let LeadershipSummary { epoch, leader, at_ms, take_over } = *leadership;
    let phases = |take_over: TakeOver| {
        let phases = take_over.phases().map(|(name, us)| (name.to_owned(), json!(us.map(|us| us as f64 / 1e3))));
        Value::Object(Map::from_iter(phases))
    };
    json!({
        "epoch": epoch,
        "leader": leader,
        "start-time": at_ms,
        "cause": take_over.map(|take_over| take_over.cause.as_str()),
        "lost-contact-time": take_over.map(|take_over| take_over.lost_ms),
        "phases-ms": take_over.map(phases),
        "taskmanagers": take_over.map(|take_over| take_over.taskmanagers),
        "jobs-adopted": take_over.map(|take_over| take_over.jobs_adopted),
        "jobs-restarted": take_over.map(|take_over| take_over.jobs_restarted),
    })
}

/// One line a leadership. Phases are milliseconds since contact with the leader before was lost.
fn table(leaderships: &[LeadershipSummary]) -> Vec<String> {
    let mut lines = vec![format!(
        "{:>7} {:<6} {:<19} {:<12} {:>10} {:>10} {:>10} {:>10} {:>10}  {}",
        "EPOCH", "LEADER", "SINCE", "CAUSE", "ELECTED", "COMMIT", "ATTACHED", "ADOPTED", "CHECKPOINT", "JOBS"
    )];
    for LeadershipSummary { epoch, leader, at_ms, take_over } in leaderships {
        let phases = match take_over {
            Some(take_over) => take_over.phases().map(|(_, us)| us),
            None => [None; 5],
        };
        let phases = phases.map(|us| us.map_or_else(|| "-".to_owned(), |us| format!("{:.1} ms", us as f64 / 1e3)));
        let [elected, commit, attached, adopted, checkpoint] = phases;
        let (cause, jobs) = match take_over {
            Some(TakeOver { cause, jobs_adopted, jobs_restarted, .. }) => {
                (cause.as_str(), format!("{jobs_adopted} adopted, {jobs_restarted} restarted"))
            }
            None => ("-", "-".to_owned()),
        };
        lines.push(format!(
            "{:>7} {:<6} {:<19} {cause:<12} {elected:>10} {commit:>10} {attached:>10} {adopted:>10} {checkpoint:>10}  {jobs}",
            epoch.0,
            leader.to_string(),
            output::date(*at_ms)
        ));
    }
    lines
}

#[cfg(test)]
mod tests {
    use perennial_types::{ElectionCause, JobManagerId, LeaderEpoch};

    use super::*;

    #[test]
    fn a_leadership_is_a_line_with_its_phases_in_milliseconds() {
        let take_over = TakeOver {
            cause: ElectionCause::ProcessGone,
            lost_ms: 1,
            elected_us: 12_340,
            first_commit_us: 20_000,
            attached_us: Some(31_000),
            adopted_us: None,
            first_checkpoint_us: None,
            taskmanagers: 2,
            jobs_adopted: 1,
            jobs_restarted: 0,
        };
        let summary = |epoch, take_over| LeadershipSummary {
            epoch: LeaderEpoch(epoch),
            leader: JobManagerId(2),
            at_ms: 0,
            take_over,
        };
        let lines = table(&[summary(7, Some(take_over)), summary(6, None)]);
        let words = |line: usize| lines[line].split_whitespace().skip(1).collect::<Vec<_>>().join(" ");
        assert!(words(1).ends_with("process-gone 12.3 ms 20.0 ms 31.0 ms - - 1 adopted, 0 restarted"), "{}", lines[1]);
        assert!(words(2).ends_with("- - - - - - -"), "{}", lines[2]);
        assert_eq!(to_json(&summary(6, None))["cause"], Value::Null);
        assert_eq!(to_json(&summary(7, Some(take_over)))["phases-ms"]["elected"], 12.34);
    }
}
