//! What monitoring reads, without a credential.

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use serde_json::json;

use super::Api;
use super::problem::Problem;

/// Prometheus text format 0.0.4.
pub(super) async fn metrics(State(api): State<Api>) -> Response {
    let mut response = api.0.metrics.render().into_response();
    let text = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, text);
    response
}

/// The process runs.
pub(super) async fn healthz() -> &'static str {
    "ok\n"
}

/// Traffic should come here, or every reason why not.
pub(super) async fn readyz(State(api): State<Api>) -> Response {
    match api.readiness() {
        Ok(()) => "ready\n".into_response(),
        Err(reasons) => Problem::new(StatusCode::SERVICE_UNAVAILABLE, "not_ready", reasons.join(", "))
            .with("reasons", json!(reasons))
            .into_response(),
    }
}

impl Api {
    /// What the gateway says.
    pub(super) fn readiness(&self) -> Result<(), Vec<String>> {
        self.0.gateway.readiness()
    }
}
