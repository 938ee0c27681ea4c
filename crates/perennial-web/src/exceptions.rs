//! `GET /jobs/:id/exceptions`: what has failed of a job, in the JSON of Flink 1.20.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use perennial_client::DispatcherGateway;
use perennial_types::{ExceptionEntry, FailedTask, JobException};
use serde_json::{Map, Value, json};

use crate::Shared;
use crate::answer::{Parameters, Refusal, job_id};

/// Entries shown when the request says no `maxExceptions`, as in Flink.
const ENTRIES_SHOWN: usize = 20;

pub(crate) async fn exceptions<G: DispatcherGateway>(
    State(web): Shared<G>,
    Path(id): Path<String>,
    Query(parameters): Parameters,
) -> Result<Json<Value>, Refusal> {
    let job = job_id(&id)?;
    let shown = entries_shown(&parameters)?;
    let mut entries = web.gateway.exceptions(job).await?.ok_or_else(|| Refusal::no_such_job(job))?;
    let root = entries.first().map(|newest| newest.root.clone());
    if filters_by_label(&parameters)? {
        // Failures have no labels here, so none has those asked for.
        entries.clear();
    }
    let truncated = entries.len() > shown;
    let shown: Vec<Value> = entries.iter().take(shown).map(entry_json).collect();
    Ok(Json(json!({
        "root-exception": root.as_ref().map(|root| &root.text),
        "timestamp": root.as_ref().map(|root| root.at_ms),
        "all-exceptions": entries.first().map(task_exceptions).unwrap_or_default(),
        "truncated": truncated,
        "exceptionHistory": { "entries": shown, "truncated": truncated },
    })))
}

fn entries_shown(parameters: &BTreeMap<String, String>) -> Result<usize, Refusal> {
    let Some(text) = parameters.get("maxExceptions") else { return Ok(ENTRIES_SHOWN) };
    // Flink declares a list of which it reads the first.
    text.split(',').next().unwrap_or_default().trim().parse().map_err(|_| {
        let text = format!("maxExceptions `{text}` is not possible: expected a number such as 10");
        Refusal::new(StatusCode::BAD_REQUEST, text)
    })
}

fn filters_by_label(parameters: &BTreeMap<String, String>) -> Result<bool, Refusal> {
    let Some(text) = parameters.get("failureLabelFilter").filter(|text| !text.is_empty()) else { return Ok(false) };
    if text.split(',').all(|label| label.split_once(':').is_some()) {
        return Ok(true);
    }
    let text = format!("failureLabelFilter `{text}` is not possible: expected key:value pairs joined by commas");
    Err(Refusal::new(StatusCode::BAD_REQUEST, text))
}

fn entry_json(entry: &ExceptionEntry) -> Value {
    let mut fields = exception_fields(&entry.root);
    let concurrent: Vec<Value> = entry.concurrent.iter().map(|more| Value::Object(exception_fields(more))).collect();
    fields.insert("concurrentExceptions".to_owned(), json!(concurrent));
    Value::Object(fields)
}

/// One failure. What is not known is left out, as in Flink.
fn exception_fields(exception: &JobException) -> Map<String, Value> {
    let mut fields = Map::new();
    let mut add = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            fields.insert(name.to_owned(), value);
        }
    };
    let task = exception.task.as_ref();
    let endpoint = task.and_then(|task| task.endpoint.as_ref()).map(|endpoint| json!(endpoint));
    add("exceptionName", Some(json!(exception.kind.as_str())));
    add("stacktrace", Some(json!(exception.text)));
    add("timestamp", Some(json!(exception.at_ms)));
    add("failureLabels", Some(json!({})));
    add("taskName", task.map(|task| json!(task.name)));
    add("endpoint", endpoint.clone());
    add("location", endpoint);
    add("taskManagerId", task.and_then(|task| task.taskmanager.as_ref()).map(|at| json!(at)));
    fields
}

/// Every task that failed with the newest entry: what Flink showed before it had a history.
fn task_exceptions(newest: &ExceptionEntry) -> Vec<Value> {
    let all = std::iter::once(&newest.root).chain(&newest.concurrent);
    let with_task = all.filter_map(|exception| Some((exception, exception.task.as_ref()?)));
    let unassigned = |text: &Option<String>| text.clone().unwrap_or_else(|| "(unassigned)".to_owned());
    with_task
        .map(|(exception, task): (&JobException, &FailedTask)| {
            json!({
                "exception": exception.text,
                "task": task.name,
                "location": unassigned(&task.endpoint),
                "endpoint": unassigned(&task.endpoint),
                "timestamp": exception.at_ms,
                "taskManagerId": task.taskmanager,
            })
        })
        .collect()
}
