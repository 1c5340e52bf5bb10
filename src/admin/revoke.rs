//! Revocations in: one, or many at once.

use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::runtime::Handle;

use super::auth::{Actor, Change, Changes};
use super::problem::Problem;
use super::{Api, body, view};
use crate::gate::Denial;
use crate::intake::{Accepted, InvalidRequest, Level, Reached, Request, RevokeError};
use crate::revocation::{Reason, RecordId, Source, Target, TargetKind};
use crate::store::StoreError;
use crate::telemetry::StoreOperation;
use crate::time::Timestamp;

/// The largest batch, in bytes.
const BATCH: usize = 10 * 1024 * 1024;
/// The most lines in a batch.
const LINES: usize = 100_000;
/// Problems of a batch that are told at once.
const PROBLEMS: usize = 100;

/// A request as it is written. `token` is a whole token: this type has no `Debug`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    target: Option<RawTarget>,
    token: Option<String>,
    block: Option<bool>,
    issued_before: Option<Timestamp>,
    authenticated_before: Option<Timestamp>,
    expires_at: Option<Timestamp>,
    reason: String,
    note: Option<String>,
    /// In a batch, where there is no header for it.
    id: Option<String>,
    /// How far it is to have come before the answer.
    ack: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTarget {
    kind: String,
    issuer: Option<String>,
    value: Option<String>,
}

/// `POST /v1/revocations`.
pub(super) async fn one(
    State(api): State<Api>,
    Extension(actor): Extension<Actor>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let key = idempotency_key(&headers)?;
    let raw: Raw = body::json(&headers, body).await?;
    if raw.id.is_some() {
        return Err(Problem::bad_request(
            "invalid_body",
            "the id of a single revocation is the header Idempotency-Key",
        ));
    }
    let mut request = api.lower(raw, &actor).await?;
    request.id = key;
    let target = api.audited_target(&request.target);
    let outcome = api.0.ledger.revoke(request.clone()).await;
    api.count(&request, &outcome);
    let change = change(target, request.reason, &outcome);
    let mut response = match outcome {
        Ok(accepted) => {
            let mut response = (status(&accepted), Json(view::accepted(&accepted))).into_response();
            follow_up(&mut response, accepted.reached);
            response
        }
        Err(error) => problem(&error).into_response(),
    };
    response.extensions_mut().insert(Changes(vec![change]));
    Ok(response)
}

/// `POST /v1/revocations:batch`: a document a line. A batch with an invalid line is refused whole.
pub(super) async fn batch(
    State(api): State<Api>,
    Extension(actor): Extension<Actor>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    if headers.contains_key("idempotency-key") {
        return Err(Problem::bad_request("invalid_body", "in a batch each line has its own `id`"));
    }
    let bytes = body::read(&headers, body, &["application/x-ndjson", "application/ndjson"], BATCH).await?;
    let reader = api.clone();
    // Lines with tokens are verified one by one, which would hold everybody else up.
    let runtime = Handle::current();
    let requests = tokio::task::spawn_blocking(move || reader.lines(&bytes, &actor, &runtime))
        .await
        .map_err(|_| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal_error", "the batch broke off"))??;
    let outcomes = api.0.ledger.revoke_all(requests.clone()).await;
    let mut changes = Vec::with_capacity(requests.len());
    let mut results = Vec::with_capacity(requests.len());
    let mut failed: Option<Problem> = None;
    for (number, (request, outcome)) in (1..).zip(requests.iter().zip(outcomes)) {
        api.count(request, &outcome);
        changes.push(change(api.audited_target(&request.target), request.reason, &outcome));
        let mut result = match &outcome {
            Ok(accepted) => view::accepted(accepted),
            Err(error) => {
                let problem = problem(error);
                let result = problem.document();
                failed.get_or_insert(problem);
                result
            }
        };
        result["number"] = json!(number);
        results.push(result);
    }
    let results = Value::Array(results);
    let mut response = match failed {
        None => Json(json!({ "results": results })).into_response(),
        // A 2xx says that everything is in force and durable. This is not.
        Some(first) => first.with("results", results).into_response(),
    };
    response.extensions_mut().insert(Changes(changes));
    Ok(response)
}

impl Api {
    /// What a request means, as far as its shape says. A token in it is verified and named.
    async fn lower(&self, raw: Raw, actor: &Actor) -> Result<Request, Problem> {
        let target = match (raw.target, raw.token) {
            (Some(target), None) => lower_target(target)?,
            (None, Some(token)) => self.identify(&token).await?,
            (Some(_), Some(_)) | (None, None) => {
                return Err(Problem::bad_request("invalid_body", "give `target` or `token`, one of them"));
            }
        };
        let reason: Reason = raw.reason.parse().map_err(|error| invalid(&error))?;
        let level = raw.ack.map(|level| level.parse::<Level>()).transpose().map_err(|error| invalid(&error))?;
        let id = raw.id.map(|id| id.parse::<RecordId>()).transpose().map_err(|error| invalid(&error))?;
        let request = Request {
            block: raw.block,
            issued_before: raw.issued_before,
            authenticated_before: raw.authenticated_before,
            expires_at: raw.expires_at,
            note: raw.note,
            id,
            level,
            ..Request::new(target, reason, actor.name.clone(), Source::Admin)
        };
        self.0.ledger.check(&request).map_err(|error| problem(&RevokeError::Invalid(error)))?;
        Ok(request)
    }

    async fn identify(&self, token: &str) -> Result<Target, Problem> {
        self.0.gateway.identify(token).await.map_err(|denial| {
            if denial == Denial::KeysUnavailable {
                let detail = "the keys of the token's issuer cannot be had now, so it cannot be told what it names";
                return Problem::new(StatusCode::SERVICE_UNAVAILABLE, denial.reason(), detail);
            }
            let detail = "the token is not an authentic token of a configured issuer, so it names nothing";
            Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "token_not_identified", detail)
                .with("denial", json!(denial.reason()))
        })
    }

    /// Every line of a batch, or what is wrong with them.
    fn lines(&self, bytes: &Bytes, actor: &Actor, runtime: &Handle) -> Result<Vec<Request>, Problem> {
        let lines = || (1_u64..).zip(bytes.split(|byte| *byte == b'\n')).filter(|line| !line.1.trim_ascii().is_empty());
        if lines().nth(LINES).is_some() {
            let detail = format!("a batch may have {LINES} lines");
            return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", detail));
        }
        let mut requests = Vec::new();
        let mut problems = Vec::new();
        for (number, line) in lines() {
            let request = serde_json::from_slice::<Raw>(line)
                .map_err(|error| Problem::bad_request("invalid_body", body::describe(&error)))
                .and_then(|raw| runtime.block_on(self.lower(raw, actor)));
            match request {
                Ok(request) => requests.push(request),
                Err(problem) => {
                    let mut problem = problem.document();
                    problem["line"] = json!(number);
                    problems.push(problem);
                    if problems.len() == PROBLEMS {
                        break;
                    }
                }
            }
        }
        if !problems.is_empty() {
            let detail = "the batch has invalid lines; nothing was revoked";
            return Err(Problem::bad_request("invalid_batch", detail).with("problems", Value::Array(problems)));
        }
        if requests.is_empty() {
            return Err(Problem::bad_request("invalid_body", "the batch has no lines"));
        }
        Ok(requests)
    }

    pub(super) fn count(&self, request: &Request, outcome: &Result<Accepted, RevokeError>) {
        let metrics = &self.0.metrics;
        match outcome {
            Ok(accepted) if accepted.existing => {}
            Ok(_) => metrics.revoked(request.target.kind, request.reason, request.source),
            Err(RevokeError::NotDurable { .. }) => {
                metrics.revoked(request.target.kind, request.reason, request.source);
                metrics.store_failed(StoreOperation::Append);
            }
            Err(RevokeError::Store(_)) => metrics.store_failed(StoreOperation::Read),
            Err(RevokeError::Busy | RevokeError::Conflict | RevokeError::Full(_) | RevokeError::Invalid(_)) => {}
        }
    }

    /// The target for the audit line: the issuer by URL, as it is stored.
    fn audited_target(&self, target: &Target) -> String {
        let issuer = self.0.ledger.resolve(&target.issuer).unwrap_or_else(|_| target.issuer.clone());
        view::line(&Target { issuer, ..target.clone() })
    }

    /// A store that cannot be read: 503.
    pub(super) fn unreadable(&self, error: &StoreError) -> Problem {
        self.0.metrics.store_failed(StoreOperation::Read);
        tracing::error!(error = error as &dyn std::error::Error, "the store cannot be read");
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, "store_unavailable", "the store cannot be read")
    }
}

/// 202 says that it is durable here, in force here, and on its way.
const fn status(accepted: &Accepted) -> StatusCode {
    match (accepted.reached.enough, accepted.existing) {
        (false, _) => StatusCode::ACCEPTED,
        (true, true) => StatusCode::OK,
        (true, false) => StatusCode::CREATED,
    }
}

/// Where it can be asked later how far it has come.
pub(super) fn follow_up(response: &mut Response, reached: Reached) {
    if reached.sequence > 0
        && let Ok(place) = HeaderValue::from_str(&format!("/v1/replication/{}", reached.sequence))
    {
        response.headers_mut().insert(header::LOCATION, place);
    }
}

fn lower_target(raw: RawTarget) -> Result<Target, Problem> {
    let kind: TargetKind = raw.kind.parse().map_err(|error| invalid(&error))?;
    let (needs_issuer, needs_value) = match kind {
        TargetKind::Token | TargetKind::Session | TargetKind::Subject | TargetKind::Client => (true, true),
        TargetKind::Key => (false, true),
        TargetKind::Issuer => (true, false),
        TargetKind::All => (false, false),
    };
    for (name, part, needed) in [("issuer", &raw.issuer, needs_issuer), ("value", &raw.value, needs_value)] {
        if part.as_ref().is_some_and(|part| !part.is_empty()) != needed || part.is_some() != needed {
            let has = if needed { "needs" } else { "has no" };
            return Err(Problem::bad_request("invalid_target", format!("a target of kind {kind} {has} `{name}`")));
        }
    }
    Ok(Target::new(kind, raw.issuer.unwrap_or_default(), raw.value.unwrap_or_default()))
}

pub(super) fn idempotency_key(headers: &HeaderMap) -> Result<Option<RecordId>, Problem> {
    let mut fields = headers.get_all("idempotency-key").iter();
    let Some(field) = fields.next() else { return Ok(None) };
    let key = field.to_str().ok().filter(|_| fields.next().is_none()).and_then(|key| key.parse().ok());
    let wrong =
        || Problem::bad_request("invalid_idempotency_key", "Idempotency-Key has 1 to 128 visible ASCII characters");
    key.map(Some).ok_or_else(wrong)
}

fn invalid(error: &dyn std::error::Error) -> Problem {
    Problem::bad_request("invalid_body", error.to_string())
}

fn change(target: String, reason: Reason, outcome: &Result<Accepted, RevokeError>) -> Change {
    let (result, id) = match outcome {
        Ok(accepted) => ("ok", Some(accepted.id.to_string())),
        Err(RevokeError::NotDurable { accepted, .. }) => ("store_not_durable", Some(accepted.id.to_string())),
        Err(error) => (problem(error).reason(), None),
    };
    Change { action: "revoke", target, reason: Some(reason.name()), result, id }
}

/// What a caller is told. Exhaustive: a new error has to be given its status here.
pub(super) fn problem(error: &RevokeError) -> Problem {
    let (status, reason) = match error {
        RevokeError::Busy => (StatusCode::SERVICE_UNAVAILABLE, "busy"),
        RevokeError::Conflict => (StatusCode::CONFLICT, "idempotency_conflict"),
        RevokeError::Full(_) => (StatusCode::SERVICE_UNAVAILABLE, "revocations_full"),
        RevokeError::Invalid(error) => (status_of(error), reason_of(error)),
        RevokeError::NotDurable { accepted, .. } => {
            let detail = "in force on this node until it restarts, but not stored: revoke again once the store works";
            return Problem::new(StatusCode::SERVICE_UNAVAILABLE, "store_not_durable", detail)
                .with("in_force", json!(true))
                .with("revocation", view::accepted(accepted));
        }
        RevokeError::Store(_) => (StatusCode::SERVICE_UNAVAILABLE, "store_unavailable"),
    };
    Problem::new(status, reason, error.to_string())
}

pub(super) const fn status_of(error: &InvalidRequest) -> StatusCode {
    match error {
        InvalidRequest::BlockOnly(_) | InvalidRequest::UnknownIssuer | InvalidRequest::Unsupported => {
            StatusCode::UNPROCESSABLE_ENTITY
        }
        InvalidRequest::BlockWithCutoff
        | InvalidRequest::FutureCutoff
        | InvalidRequest::MissingValue(_)
        | InvalidRequest::TooLong { .. } => StatusCode::BAD_REQUEST,
    }
}

pub(super) const fn reason_of(error: &InvalidRequest) -> &'static str {
    match error {
        InvalidRequest::BlockOnly(_) | InvalidRequest::BlockWithCutoff => "invalid_form",
        InvalidRequest::FutureCutoff => "future_cutoff",
        InvalidRequest::MissingValue(_) => "invalid_target",
        InvalidRequest::TooLong { .. } => "too_long",
        InvalidRequest::UnknownIssuer => "unknown_issuer",
        InvalidRequest::Unsupported => "authentication_time_not_stated",
    }
}
