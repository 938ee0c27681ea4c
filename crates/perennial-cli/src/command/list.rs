//! `perennial list`, with Flink's lines.

use perennial_client::{DispatcherGateway, JobSummary, StateAge};
use perennial_types::{Configuration, JobStatus};
use serde_json::{Value, json};

use super::status::stale_line;
use crate::args::{Format, Global, List};
use crate::failure::{Exit, Failure};
use crate::{output, settings};

/// The line below a section, as long as Flink's.
const RULE: &str = "--------------------------------------------------------------";

pub(crate) async fn run(options: List, global: &Global, config: &Configuration) -> Result<Exit, Failure> {
    let client = settings::client(global, config)?;
    if options.output.format == Format::Table {
        output::line("Waiting for response...")?;
    }
    let (mut jobs, age) = match options.stale {
        false => (client.list_jobs().await?, None),
        true => client.list_jobs_stale().await.map(|stale| (stale.value, Some(stale.age)))?,
    };
    jobs.sort_by(|a, b| (a.status.as_str(), a.start_ms, a.job).cmp(&(b.status.as_str(), b.start_ms, b.job)));
    let wanted = Wanted { running: !options.scheduled, scheduled: !options.running, ended: options.all };
    match options.output.format {
        Format::Json => {
            let jobs = jobs.iter().filter(|job| wanted.includes(section(job.status)));
            let jobs: Vec<Value> = jobs.map(json).collect();
            match age {
                None => output::json(&jobs)?,
                Some(StateAge { applied, age_ms, .. }) => {
                    output::json(&json!({ "stale": true, "applied-index": applied, "age-ms": age_ms, "jobs": jobs }))?
                }
            }
        }
        Format::Table => {
            if let Some(age) = age {
                output::line(stale_line(&age))?;
            }
            output::line(lines(&jobs, wanted).join("\n"))?;
        }
    }
    Ok(Exit::Done)
}

/// Which jobs are shown.
#[derive(Debug, Clone, Copy)]
struct Wanted {
    running: bool,
    scheduled: bool,
    ended: bool,
}

/// Parts of the listing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Section {
    Running,
    Scheduled,
    Ended,
}

impl Wanted {
    fn includes(self, section: Section) -> bool {
        match section {
            Section::Running => self.running,
            Section::Scheduled => self.scheduled,
            Section::Ended => self.ended,
        }
    }
}

/// As in Flink, a job that was not deployed yet is scheduled.
fn section(status: JobStatus) -> Section {
    match status {
        JobStatus::Created | JobStatus::Initializing => Section::Scheduled,
        status if status.is_globally_terminal() => Section::Ended,
        _ => Section::Running,
    }
}

fn json(job: &JobSummary) -> Value {
    json!({
        "jid": job.job,
        "name": job.name,
        "state": job.status,
        "start-time": job.start_ms,
        "end-time": job.end_ms.map_or(json!(-1), |ms| json!(ms)),
        "tasks": job.tasks.iter().map(|(state, count)| (state.as_str(), *count)).collect::<std::collections::BTreeMap<_, _>>(),
        "slots-needed": job.slots_needed,
        "waiting-for": job.waiting_for,
        "failure": job.failure,
        "restarts": job.restarts,
    })
}

fn lines(jobs: &[JobSummary], wanted: Wanted) -> Vec<String> {
    let mut lines = Vec::new();
    for (part, title, none) in [
        (Section::Running, "------------------ Running/Restarting Jobs -------------------", Some("No running jobs.")),
        (
            Section::Scheduled,
            "----------------------- Scheduled Jobs -----------------------",
            Some("No scheduled jobs."),
        ),
        (Section::Ended, "---------------------- Terminated Jobs -----------------------", None),
    ] {
        if !wanted.includes(part) {
            continue;
        }
        let of_part: Vec<&JobSummary> = jobs.iter().filter(|job| section(job.status) == part).collect();
        if of_part.is_empty() {
            lines.extend(none.map(str::to_owned));
            continue;
        }
        lines.push(title.to_owned());
        for job in of_part {
            lines.push(format!("{} : {} : {} ({})", output::date(job.start_ms), job.job, job.name, job.status));
            if job.restarts > 0 {
                let id = job.job;
                lines.push(format!("    restarted {} times: perennial exceptions {id} shows why", job.restarts));
            }
            for more in [("waits for", &job.waiting_for), ("failed", &job.failure)] {
                lines.extend(more.1.lines().next().map(|text| format!("    {}: {text}", more.0)));
            }
        }
        lines.push(RULE.to_owned());
    }
    lines
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use perennial_types::JobId;

    use super::*;

    fn job(number: u8, status: JobStatus) -> JobSummary {
        JobSummary {
            job: JobId::from_bytes([number; 16]),
            name: format!("job {number}"),
            status,
            start_ms: 1_606_752_149_000,
            end_ms: None,
            tasks: BTreeMap::new(),
            slots_needed: 8,
            waiting_for: if status == JobStatus::Created {
                "needs 8 slots, 4 are free".to_owned()
            } else {
                String::new()
            },
            failure: if status == JobStatus::Failed { "task failed: oops\nmore".to_owned() } else { String::new() },
            restarts: 0,
        }
    }

    #[test]
    fn the_lines_are_flinks() {
        let jobs = [job(1, JobStatus::Running), job(2, JobStatus::Failed)];
        let usual = Wanted { running: true, scheduled: true, ended: false };
        assert_eq!(
            lines(&jobs, usual),
            [
                "------------------ Running/Restarting Jobs -------------------",
                "30.11.2020 16:02:29 : 01010101010101010101010101010101 : job 1 (RUNNING)",
                "--------------------------------------------------------------",
                "No scheduled jobs.",
            ]
        );
        assert_eq!(lines(&[], usual), ["No running jobs.", "No scheduled jobs."]);
        assert_eq!(
            lines(&jobs, Wanted { running: false, scheduled: false, ended: true }),
            [
                "---------------------- Terminated Jobs -----------------------",
                "30.11.2020 16:02:29 : 02020202020202020202020202020202 : job 2 (FAILED)",
                "    failed: task failed: oops",
                "--------------------------------------------------------------",
            ]
        );
    }

    #[test]
    fn jobs_that_were_restarted_say_where_the_causes_are() {
        let job = JobSummary { restarts: 2, ..job(1, JobStatus::Running) };
        let lines = lines(&[job], Wanted { running: true, scheduled: false, ended: false });
        assert_eq!(lines[2], "    restarted 2 times: perennial exceptions 01010101010101010101010101010101 shows why");
    }

    #[test]
    fn jobs_that_wait_say_for_what() {
        let lines = lines(&[job(1, JobStatus::Created)], Wanted { running: false, scheduled: true, ended: false });
        assert_eq!(lines[2], "    waits for: needs 8 slots, 4 are free");
    }
}
