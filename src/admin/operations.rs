//! Questions and orders that concern the gateway as a whole.

use std::fmt;

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use serde::Deserialize;
use serde::de::{Error as _, MapAccess, Visitor};
use serde_json::{Map, Value, json};

use super::auth::{Change, Changes};
use super::body;
use super::problem::Problem;
use super::view;
use super::{Api, Question, ReloadError};
use crate::revocation::TargetKind;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawQuestion {
    token: Option<String>,
    headers: Option<Fields>,
    method: Option<String>,
    host: Option<String>,
    path: Option<String>,
}

/// Header fields as members of an object; the same field twice is written as a list of values.
struct Fields(HeaderMap);

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;

        impl<'de> Visitor<'de> for Members {
            type Value = Fields;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of header fields, each a text or a list of texts")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
                let mut headers = HeaderMap::new();
                while let Some((name, value)) = map.next_entry::<String, Value>()? {
                    let name: HeaderName = name.parse().map_err(|_| A::Error::custom("not a header field name"))?;
                    if headers.contains_key(&name) {
                        return Err(A::Error::custom("a header field is there twice; give it a list of values"));
                    }
                    let values = match value {
                        Value::Array(values) => values,
                        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Object(_) => {
                            vec![value]
                        }
                    };
                    for value in values {
                        let value = value.as_str().and_then(|text| HeaderValue::from_str(text).ok());
                        let value = value.ok_or_else(|| A::Error::custom("not a header field value"))?;
                        headers.try_append(&name, value).map_err(|_| A::Error::custom("too many header fields"))?;
                    }
                }
                Ok(Fields(headers))
            }
        }

        deserializer.deserialize_map(Members)
    }
}

impl TryFrom<RawQuestion> for Question {
    type Error = Problem;

    fn try_from(raw: RawQuestion) -> Result<Self, Problem> {
        let invalid = |detail: &str| Problem::bad_request("invalid_body", detail);
        let mut headers = raw.headers.map_or_else(HeaderMap::new, |fields| fields.0);
        if let Some(token) = raw.token {
            if headers.contains_key(header::AUTHORIZATION) {
                return Err(invalid("give `token` or an `authorization` header, not both"));
            }
            let value = HeaderValue::from_str(&format!("Bearer {token}"));
            headers.insert(header::AUTHORIZATION, value.map_err(|_| invalid("`token` has characters no token has"))?);
        }
        let method = raw.method.map_or(Ok(Method::GET), |name| Method::from_bytes(name.as_bytes()));
        let path = raw.path.unwrap_or_else(|| "/".to_owned());
        if !path.starts_with('/') {
            return Err(invalid("`path` starts with a slash"));
        }
        Ok(Self { headers, method: method.map_err(|_| invalid("`method` is not a method"))?, host: raw.host, path })
    }
}

/// `POST /v1/explain`.
pub(super) async fn explain(State(api): State<Api>, headers: HeaderMap, body: Body) -> Result<Json<Value>, Problem> {
    let raw: RawQuestion = body::json(&headers, body).await?;
    let mut explanation = api.0.gateway.explain(raw.try_into()?).await;
    let mut targets = std::mem::take(&mut explanation.targets);
    let mut chains = Vec::new();
    for subject in targets.clone().iter().filter(|target| target.kind == TargetKind::Subject) {
        let replacements = api.0.map.replacements();
        chains.extend(replacements.chain(&subject.issuer, &subject.value));
        targets.extend(replacements.earlier(&subject.issuer, &subject.value));
    }
    let records = api.0.ledger.of_targets(&targets).await.map_err(|error| api.unreadable(&error))?;
    let mut document = json!(explanation);
    document["targets"] = targets.iter().map(view::target).collect();
    document["replacements"] = chains.iter().map(|link| view::replacement(link)).collect();
    document["revocations"] = records.iter().map(view::revocation).collect();
    Ok(Json(document))
}

/// `GET /v1/status`.
pub(super) async fn status(State(api): State<Api>) -> Json<Value> {
    let status = api.0.gateway.status();
    let readiness = api.readiness();
    let counts = api.0.map.counts();
    let revocations: Map<String, Value> = counts.iter().map(|(kind, n)| (kind.name().to_owned(), json!(n))).collect();
    Json(json!({
        "version": env!("CARGO_PKG_VERSION"),
        "uptime_seconds": status.now.since(status.started_at).as_secs(),
        "ready": readiness.is_ok(),
        "not_ready": readiness.err().unwrap_or_default(),
        "gateway": status,
        "store": view::store(&api.0.ledger.status()),
        "revocations": revocations,
        "cluster": api.0.gateway.cluster().as_ref().map(view::cluster),
    }))
}

/// `GET /v1/replication/{sequence}`: how far a record of this node has come.
pub(super) async fn replication(State(api): State<Api>, Path(sequence): Path<String>) -> Result<Json<Value>, Problem> {
    let unknown =
        || Problem::new(StatusCode::NOT_FOUND, "unknown_record", "this node has made no record of this number");
    let sequence: u64 = sequence.parse().map_err(|_| unknown())?;
    let reached = api.0.gateway.reached(sequence).ok_or_else(unknown)?;
    Ok(Json(json!({ "sequence": sequence, "reached": reached.name() })))
}

/// `GET /v1/config`.
pub(super) async fn config(State(api): State<Api>) -> Json<Value> {
    Json(api.0.gateway.config())
}

/// `POST /v1/reload`.
pub(super) async fn reload(State(api): State<Api>) -> Response {
    let outcome = api.0.gateway.reload().await;
    let (result, response) = match outcome {
        Ok(reloaded) => ("ok", Json(json!(reloaded)).into_response()),
        Err(error) => {
            let reason = match &error {
                ReloadError::Invalid(_) => "config_invalid",
                ReloadError::NeedsRestart(_) => "needs_restart",
                ReloadError::Failed(_) => "reload_failed",
            };
            let status = match &error {
                ReloadError::Invalid(_) => StatusCode::UNPROCESSABLE_ENTITY,
                ReloadError::NeedsRestart(_) => StatusCode::CONFLICT,
                ReloadError::Failed(_) => StatusCode::INTERNAL_SERVER_ERROR,
            };
            (reason, Problem::new(status, reason, error.to_string()).into_response())
        }
    };
    changed(response, "reload", "configuration", result, None)
}

pub(super) fn changed(
    mut response: Response,
    action: &'static str,
    target: &str,
    result: &'static str,
    id: Option<String>,
) -> Response {
    let change = Change { action, target: target.to_owned(), reason: None, result, id };
    response.extensions_mut().insert(Changes(vec![change]));
    response
}
