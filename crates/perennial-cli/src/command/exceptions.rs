//! `perennial exceptions`: what has failed of a job, and when.

use perennial_client::DispatcherGateway;
use perennial_types::{Configuration, ExceptionEntry, JobException, JobId};

use crate::args::{Format, Global};
use crate::failure::{Exit, Failure};
use crate::{output, settings};

pub(crate) async fn run(job: JobId, format: Format, global: &Global, config: &Configuration) -> Result<Exit, Failure> {
    let client = settings::client(global, config)?;
    let Some(entries) = client.exceptions(job).await? else {
        let unknown = Failure::new(Exit::NotFound, anyhow::anyhow!("no job {job}"));
        return Err(unknown.hint("perennial list -a shows the jobs there are"));
    };
    match format {
        Format::Json => output::json(&entries)?,
        Format::Table if entries.is_empty() => output::line(format_args!("Nothing has failed of job {job}."))?,
        Format::Table => output::line(lines(&entries).join("\n"))?,
    }
    Ok(Exit::Done)
}

/// Newest first: when, what and where, then the text; below it what came with it.
fn lines(entries: &[ExceptionEntry]) -> Vec<String> {
    let mut lines = Vec::new();
    for entry in entries {
        lines.push(format!("{} {}", output::date(entry.root.at_ms), headline(&entry.root)));
        lines.extend(entry.root.text.lines().map(|line| format!("    {line}")));
        for more in &entry.concurrent {
            lines.push(format!("    with it: {}", headline(more)));
            if more.text != entry.root.text {
                lines.extend(more.text.lines().map(|line| format!("        {line}")));
            }
        }
    }
    lines
}

fn headline(exception: &JobException) -> String {
    let task = exception.task.as_ref().map_or("the job", |task| task.name.as_str());
    let at = exception.task.as_ref().and_then(|task| task.taskmanager.as_ref());
    let at = at.map_or_else(String::new, |at| format!(" on {at}"));
    format!("{}: {task}{at}", exception.kind.as_str())
}

#[cfg(test)]
mod tests {
    use perennial_types::{ExceptionKind, ExecutionAttemptId, FailedTask, TaskManagerId, VertexId};

    use super::*;

    #[test]
    fn a_failure_is_told_with_what_came_with_it() {
        let exception = |subtask: u32, text: &str| JobException {
            at_ms: 1_606_752_149_000,
            kind: ExceptionKind::TaskFailed,
            text: text.to_owned(),
            task: Some(FailedTask {
                attempt: ExecutionAttemptId { vertex: VertexId::from_bytes([1; 16]), subtask, attempt: 0 },
                name: format!("map ({}/3) - execution #0", subtask + 1),
                taskmanager: Some(TaskManagerId("tm-1".to_owned())),
                endpoint: None,
            }),
        };
        let mut entry = ExceptionEntry::new(0, exception(0, "oops\nat src/main.rs:7"));
        entry.add(exception(1, "oops\nat src/main.rs:7"));
        entry.add(exception(2, "other"));
        let whole = JobException { kind: ExceptionKind::JobFailed, task: None, ..exception(0, "no slots") };
        assert_eq!(
            lines(&[ExceptionEntry::new(1, whole), entry]),
            [
                "30.11.2020 16:02:29 JobFailed: the job",
                "    no slots",
                "30.11.2020 16:02:29 TaskFailed: map (1/3) - execution #0 on tm-1",
                "    oops",
                "    at src/main.rs:7",
                "    with it: TaskFailed: map (2/3) - execution #0 on tm-1",
                "    with it: TaskFailed: map (3/3) - execution #0 on tm-1",
                "        other",
            ]
        );
    }
}
