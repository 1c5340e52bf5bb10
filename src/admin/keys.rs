//! Keys: listed, rotated, retired (T6).

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use http::{HeaderMap, StatusCode, Uri};
use serde::Deserialize;
use serde_json::{Value, json};

use super::auth::{Actor, Change, Changes};
use super::operations::changed;
use super::problem::Problem;
use super::revoke::{self, idempotency_key};
use super::subjects::decoded;
use super::{Api, KeyInfo, RotateError, view};
use crate::intake::{Request, RevokeError};
use crate::revocation::{Form, OWN_ISSUER, Reason, Source, Target, TargetKind, UnknownReason};

/// Bytes of a thumbprint (RFC 7638 with SHA-256), as base64url.
const THUMBPRINT_CHARACTERS: usize = 43;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RotateQuery {
    #[serde(default)]
    immediately: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RetireQuery {
    reason: Option<String>,
    note: Option<String>,
}

/// `GET /v1/keys`.
pub(super) async fn list(State(api): State<Api>) -> Json<Value> {
    Json(json!({ "keys": api.0.gateway.keys() }))
}

/// `POST /v1/keys:rotate`.
pub(super) async fn rotate(
    State(api): State<Api>,
    query: Result<Query<RotateQuery>, QueryRejection>,
) -> Result<Response, Problem> {
    let Query(query) = query.map_err(|error| Problem::bad_request("invalid_query", error.body_text()))?;
    Ok(match api.0.gateway.rotate_key(query.immediately).await {
        Ok(key) => {
            let id = Some(key.thumbprint.clone());
            changed((StatusCode::CREATED, Json(json!(key))).into_response(), "rotate_key", OWN_ISSUER, "ok", id)
        }
        Err(error) => {
            let problem = rotate_problem(&error);
            let reason = problem.reason();
            changed(problem.into_response(), "rotate_key", OWN_ISSUER, reason, None)
        }
    })
}

/// `POST /v1/keys/{issuer}/{kid}:retire`: nothing that the key signed is honoured any more, nor anything that
/// descends from it. `kid` may be a thumbprint, also of a key that is published no more.
pub(super) async fn retire(
    State(api): State<Api>,
    Extension(actor): Extension<Actor>,
    uri: Uri,
    headers: HeaderMap,
    query: Result<Query<RetireQuery>, QueryRejection>,
) -> Result<Response, Problem> {
    let (issuer, kid) = named(&uri)?;
    let Query(query) = query.map_err(|error| Problem::bad_request("invalid_query", error.body_text()))?;
    let id = idempotency_key(&headers)?;
    let reason = query.reason.map_or(Ok(Reason::KeyCompromised), |reason| reason.parse());
    let reason = reason.map_err(|error: UnknownReason| Problem::bad_request("invalid_query", error.to_string()))?;
    let (own, thumbprints) = api.thumbprints(&issuer, &kid)?;
    if id.is_some() && thumbprints.len() > 1 {
        let detail = "several keys have this `kid`, and one Idempotency-Key: name them by thumbprint";
        return Err(Problem::new(StatusCode::CONFLICT, "ambiguous_key", detail));
    }
    let mut changes = Vec::new();
    let mut retired = Vec::new();
    let mut failed = None;
    for thumbprint in thumbprints {
        // A new key first, so that no login between the two is signed with the one that goes.
        let withdrawn = if own { api.0.gateway.withdraw_key(&thumbprint).await } else { Ok(true) };
        let target = Target::new(TargetKind::Key, "", thumbprint.as_str());
        let request = Request {
            block: Some(true),
            note: query.note.clone(),
            id: id.clone(),
            ..Request::new(target, reason, actor.name.clone(), Source::Admin)
        };
        let outcome = api.block_once(&request).await;
        let (result, record) = match &outcome {
            Ok((_, record)) => ("ok", record["id"].as_str().map(ToOwned::to_owned)),
            Err(RevokeError::NotDurable { accepted, .. }) => ("store_not_durable", Some(accepted.id.to_string())),
            Err(error) => (revoke::problem(error).reason(), None),
        };
        let target = format!("key {thumbprint} of {issuer}");
        changes.push(Change { action: "retire_key", target, reason: Some(reason.name()), result, id: record });
        match (outcome, withdrawn) {
            (Ok((existing, mut record)), Ok(_)) => {
                record["thumbprint"] = json!(thumbprint);
                retired.push((existing, record));
            }
            (Err(error), _) => failed = Some(revoke::problem(&error)),
            (Ok((_, record)), Err(error)) => {
                failed = Some(rotate_problem(&error).with("in_force", json!(true)).with("revocation", record));
            }
        }
    }
    let mut response = match failed {
        Some(problem) => problem.into_response(),
        None => {
            let before = retired.iter().all(|(existing, _)| *existing);
            let said: Vec<_> = retired.into_iter().map(|(_, said)| said).collect();
            let status = if before { StatusCode::OK } else { StatusCode::CREATED };
            (status, Json(json!({ "issuer": issuer, "retired": said }))).into_response()
        }
    };
    response.extensions_mut().insert(Changes(changes));
    Ok(response)
}

impl Api {
    /// Whether an issuer is the gateway itself, and its keys that go by this `kid` or thumbprint.
    fn thumbprints(&self, issuer: &str, kid: &str) -> Result<(bool, Vec<String>), Problem> {
        let gateway = &self.0.gateway;
        let Some(url) = gateway.issuer_url(issuer) else {
            let detail = "no issuer of the configuration has this name or URL";
            return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "unknown_issuer", detail));
        };
        let own = gateway.issuer_url(OWN_ISSUER).is_some_and(|it| it == url);
        let is_of = |key: &KeyInfo| gateway.issuer_url(&key.issuer).is_some_and(|it| it == url);
        let keys: Vec<KeyInfo> = gateway.keys().into_iter().filter(is_of).collect();
        let mut found: Vec<String> = Vec::new();
        for key in &keys {
            let named = key.kid.as_deref() == Some(kid) || key.thumbprint == kid;
            // One RSA key may be there once an algorithm.
            if named && !found.contains(&key.thumbprint) {
                found.push(key.thumbprint.clone());
            }
        }
        if !found.is_empty() {
            return Ok((own, found));
        }
        if kid.len() == THUMBPRINT_CHARACTERS && kid.bytes().all(|it| it.is_ascii_alphanumeric() || b"-_".contains(&it))
        {
            return Ok((own, vec![kid.to_owned()]));
        }
        let known: Vec<_> = keys.iter().filter_map(|key| key.kid.as_deref()).collect();
        let detail = "no key of this issuer has this `kid`; one that is published no more is named by its thumbprint";
        Err(Problem::new(StatusCode::NOT_FOUND, "unknown_key", detail).with("known", json!(known)))
    }

    /// Blocks a key; whether it was blocked already, and the record.
    async fn block_once(&self, request: &Request) -> Result<(bool, Value), RevokeError> {
        if request.id.is_none() {
            // A store that cannot be read keeps nobody from blocking once more.
            let records = self.0.ledger.of_targets(std::slice::from_ref(&request.target)).await.unwrap_or_default();
            if let Some(record) = records.iter().find(|record| record.form == Form::Block) {
                return Ok((true, view::revocation(record)));
            }
        }
        let outcome = self.0.ledger.revoke(request.clone()).await;
        self.count(request, &outcome);
        outcome.map(|accepted| (accepted.existing, view::accepted(&accepted)))
    }
}

/// Reads `/v1/keys/{issuer}/{kid}:retire`: the issuer's config name, and the key.
fn named(uri: &Uri) -> Result<(String, String), Problem> {
    let mut segments = uri.path().split('/').skip(3);
    let issuer = segments.next().and_then(decoded).filter(|issuer| !issuer.is_empty());
    let Some(order) = segments.next().and_then(|order| order.strip_suffix(":retire")) else {
        return Err(Problem::new(StatusCode::NOT_FOUND, "not_found", "there is nothing at this path"));
    };
    match (issuer, decoded(order).filter(|kid| !kid.is_empty())) {
        (Some(issuer), Some(kid)) => Ok((issuer, kid)),
        (_, _) => Err(Problem::bad_request(
            "invalid_path",
            "the issuer and the `kid` are path segments: UTF-8, percent-encoded (RFC 3986 §2.1)",
        )),
    }
}

fn rotate_problem(error: &RotateError) -> Problem {
    let (status, reason) = match error {
        RotateError::NoSessions => (StatusCode::CONFLICT, "no_sessions"),
        RotateError::Failed(_) => (StatusCode::INTERNAL_SERVER_ERROR, "rotate_failed"),
    };
    Problem::new(status, reason, error.to_string())
}
