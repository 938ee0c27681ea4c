//! Refusals in Flink's form: `{"errors": ["…"]}` and its status codes.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::Query;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use perennial_client::{CancelJobError, Unavailable};
use perennial_types::JobId;
use serde_json::{Value, json};

/// A request that was not carried out.
#[derive(Debug)]
pub(crate) struct Refusal {
    status: StatusCode,
    text: String,
    /// What else to do.
    next: Option<&'static str>,
}

impl Refusal {
    pub(crate) fn new(status: StatusCode, text: String) -> Self {
        Self { status, text, next: None }
    }

    pub(crate) fn no_such_job(job: JobId) -> Self {
        Self::new(StatusCode::NOT_FOUND, format!("Job {job} not found"))
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let errors: Vec<&str> = std::iter::once(self.text.as_str()).chain(self.next).collect();
        (self.status, Json(json!({ "errors": errors }))).into_response()
    }
}

/// What can be done while there is no leader.
const WITHOUT_LEADER: &str = "jobs and members as this JobManager last heard of them: add ?stale=true, or perennial list --stale, perennial \
                              status --stale";

/// Of a read.
impl From<Unavailable> for Refusal {
    fn from(error: Unavailable) -> Self {
        let Self { status, text, .. } = unavailable(&error);
        Self { status, text, next: Some(WITHOUT_LEADER) }
    }
}

fn unavailable(error: &Unavailable) -> Refusal {
    Refusal::new(StatusCode::SERVICE_UNAVAILABLE, error.to_string())
}

impl From<CancelJobError> for Refusal {
    fn from(error: CancelJobError) -> Self {
        match error {
            CancelJobError::UnknownJob { job } => Self::no_such_job(job),
            CancelJobError::AlreadyEnded { .. } => Self::new(StatusCode::CONFLICT, error.to_string()),
            CancelJobError::Unavailable(error) => unavailable(&error),
        }
    }
}

/// Parameters of a request.
pub(crate) type Parameters = Query<BTreeMap<String, String>>;

/// Whether a read asks for what this member has applied, however old: `?stale=true`.
pub(crate) fn wants_stale(parameters: &BTreeMap<String, String>) -> Result<bool, Refusal> {
    match parameters.get("stale").map_or("false", String::as_str) {
        "true" | "" => Ok(true),
        "false" => Ok(false),
        other => {
            let text = format!("stale `{other}` is not possible: expected true or false");
            Err(Refusal::new(StatusCode::BAD_REQUEST, text))
        }
    }
}

/// Adds to an answer how old it may be.
pub(crate) fn aged(mut answer: Value, applied: u64, age_ms: Option<u64>) -> Value {
    if let Value::Object(fields) = &mut answer {
        fields.insert("stale".to_owned(), json!(true));
        fields.insert("applied-index".to_owned(), json!(applied));
        fields.insert("age-ms".to_owned(), json!(age_ms));
    }
    answer
}

/// Reads the id of a path.
pub(crate) fn job_id(text: &str) -> Result<JobId, Refusal> {
    text.parse()
        .map_err(|error| Refusal::new(StatusCode::BAD_REQUEST, format!("Cannot resolve path parameter: {error}")))
}
