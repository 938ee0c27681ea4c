//! Refusals in Flink's form: `{"errors": ["…"]}` and its status codes.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use perennial_client::{CancelJobError, Unavailable};
use perennial_types::JobId;
use serde_json::json;

/// A request that was not carried out.
#[derive(Debug)]
pub(crate) struct Refusal {
    status: StatusCode,
    text: String,
}

impl Refusal {
    pub(crate) fn new(status: StatusCode, text: String) -> Self {
        Self { status, text }
    }

    pub(crate) fn no_such_job(job: JobId) -> Self {
        Self::new(StatusCode::NOT_FOUND, format!("Job {job} not found"))
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.status, Json(json!({ "errors": [self.text] }))).into_response()
    }
}

impl From<Unavailable> for Refusal {
    fn from(error: Unavailable) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, error.to_string())
    }
}

impl From<CancelJobError> for Refusal {
    fn from(error: CancelJobError) -> Self {
        match error {
            CancelJobError::UnknownJob { job } => Self::no_such_job(job),
            CancelJobError::AlreadyEnded { .. } => Self::new(StatusCode::CONFLICT, error.to_string()),
            CancelJobError::Unavailable(error) => error.into(),
        }
    }
}

/// Reads the id of a path.
pub(crate) fn job_id(text: &str) -> Result<JobId, Refusal> {
    text.parse()
        .map_err(|error| Refusal::new(StatusCode::BAD_REQUEST, format!("Cannot resolve path parameter: {error}")))
}
