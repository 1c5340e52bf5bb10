//! What monitoring reads, without a credential.

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use serde_json::json;

use super::Api;
use super::problem::Problem;

/// Prometheus text format 0.0.4.
pub(super) async fn metrics(State(api): State<Api>) -> Response {
    api.0.gateway.observe();
    for (kind, count) in api.0.map.counts() {
        api.0.metrics.set_revocations(kind, count);
    }
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
    /// Ready when the gateway says so and the store still acknowledges.
    pub(super) fn readiness(&self) -> Result<(), Vec<String>> {
        let mut reasons = self.0.gateway.readiness().err().unwrap_or_default();
        let store = "store_not_durable";
        if !self.0.ledger.status().is_ready() && !reasons.iter().any(|reason| reason == store) {
            reasons.push(store.to_owned());
        }
        if reasons.is_empty() { Ok(()) } else { Err(reasons) }
    }
}
