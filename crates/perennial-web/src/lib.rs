//! REST in Flink's paths and JSON, at the root and under `/v1`, so that Flink's own tools can look and cancel.
//!
//! Reaches the cluster only through a [`DispatcherGateway`], so every JobManager can serve it; it never redirects. What
//! Flink does not have lies under `/v1/cluster/` or has a name of ours beside Flink's fields. Times are milliseconds of
//! the Unix epoch, durations milliseconds, -1 where there is nothing to say: all as in Flink.
//!
//! Reads are linearizable whichever member is asked, and refused when there is no leader. With `?stale=true` those of jobs
//! and members are answered by the asked member from what it has applied, which says how old it may be.

mod answer;
mod cluster;
mod exceptions;
mod job;

use std::sync::Arc;

use axum::Router;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use axum::routing::{get, patch};
use perennial_client::DispatcherGateway;
use perennial_types::Configuration;

use answer::Refusal;

/// What every request may use.
#[derive(Debug)]
struct Web<G> {
    gateway: G,
    /// Effective options of the JobManager that serves this, secrets masked.
    config: Vec<(&'static str, String)>,
}

type Shared<G> = axum::extract::State<Arc<Web<G>>>;

/// All routes, for a JobManager with this configuration.
pub fn router<G: DispatcherGateway>(gateway: G, config: &Configuration) -> Router {
    let config = config.effective().map(|(option, text, _)| (option.key, cluster::masked(option.key, text))).collect();
    let web = Arc::new(Web { gateway, config });
    let api = Router::new()
        .route("/overview", get(cluster::overview::<G>))
        .route("/config", get(cluster::dashboard::<G>))
        .route("/taskmanagers", get(cluster::taskmanagers::<G>))
        .route("/taskmanagers/{id}", get(cluster::taskmanager::<G>))
        .route("/jobmanager/config", get(cluster::jobmanager_config::<G>))
        .route("/jobs", get(job::ids::<G>))
        .route("/jobs/overview", get(job::overview::<G>))
        .route("/jobs/{id}", get(job::details::<G>).merge(patch(job::cancel::<G>)))
        .route("/jobs/{id}/status", get(job::status::<G>))
        .route("/jobs/{id}/exceptions", get(exceptions::exceptions::<G>))
        .route("/jobs/{id}/plan", get(job::plan::<G>))
        .route("/cluster/members", get(cluster::members::<G>))
        .route("/cluster/leaderships", get(cluster::leaderships::<G>));
    Router::new()
        .route("/livez", get(cluster::alive))
        .route("/readyz", get(cluster::ready::<G>))
        .nest("/v1", api.clone())
        .merge(api)
        .fallback(|uri: axum::http::Uri| async move {
            Refusal::new(StatusCode::NOT_FOUND, format!("Not found: {}", uri.path()))
        })
        .method_not_allowed_fallback(|method: axum::http::Method, uri: axum::http::Uri| async move {
            Refusal::new(StatusCode::METHOD_NOT_ALLOWED, format!("{} does not take {method}", uri.path()))
        })
        .layer(axum::middleware::map_response(allow_any_origin))
        .with_state(web)
}

/// As Flink does (`web.access-control-allow-origin`).
async fn allow_any_origin(mut response: Response) -> Response {
    response.headers_mut().insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    response
}

#[cfg(test)]
mod tests;
