//! Revocations shown, and lifted.

use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use super::auth::{Actor, Change, Changes};
use super::problem::Problem;
use super::revoke::{follow_up, reason_of, status_of};
use super::{Api, view};
use crate::intake::{Cursor, Filter, LiftError};
use crate::revocation::{RecordId, TargetKind};
use crate::telemetry::StoreOperation;

/// Items on a page unless asked for otherwise, and at most.
const PAGE: (usize, usize) = (100, 1000);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ListQuery {
    kind: Option<String>,
    issuer: Option<String>,
    value: Option<String>,
    cursor: Option<String>,
    limit: Option<usize>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LiftQuery {
    restore: Option<bool>,
    note: Option<String>,
}

/// `GET /v1/revocations`.
pub(super) async fn list(
    State(api): State<Api>,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Result<Json<Value>, Problem> {
    let Query(query) = query.map_err(|error| invalid(&error.body_text()))?;
    let kind = query.kind.map(|kind| kind.parse::<TargetKind>()).transpose();
    let filter =
        Filter { kind: kind.map_err(|error| invalid(&error.to_string()))?, issuer: query.issuer, value: query.value };
    let cursor = query.cursor.map(|cursor| cursor.parse::<Cursor>()).transpose();
    let cursor = cursor.map_err(|error| invalid(&error.to_string()))?;
    let limit = query.limit.unwrap_or(PAGE.0);
    if !(1..=PAGE.1).contains(&limit) {
        return Err(invalid("`limit` is 1 to 1000"));
    }
    let page = api.0.ledger.list(filter, cursor, limit).await.map_err(|error| api.unreadable(&error))?;
    let items: Vec<_> = page.items.iter().map(view::kept).collect();
    Ok(Json(json!({ "items": items, "next": page.next.map(|next| next.to_string()) })))
}

/// `GET /v1/revocations/{id}`.
pub(super) async fn find(
    State(api): State<Api>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Json<Value>, Problem> {
    let id = record_id(id)?;
    let kept = api.0.ledger.find(id).await.map_err(|error| api.unreadable(&error))?;
    kept.map(|kept| Json(view::kept(&kept))).ok_or_else(unknown)
}

/// `DELETE /v1/revocations/{id}`.
pub(super) async fn lift(
    State(api): State<Api>,
    Extension(actor): Extension<Actor>,
    id: Result<Path<String>, PathRejection>,
    query: Result<Query<LiftQuery>, QueryRejection>,
) -> Result<Response, Problem> {
    let id = record_id(id)?;
    let Query(query) = query.map_err(|error| invalid(&error.body_text()))?;
    // What loosens is not done unseen; what tightens is.
    if !api.0.audit.is_healthy() {
        let detail = "the audit log cannot be written, and nothing is lifted without it";
        return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "audit_unavailable", detail));
    }
    let restore = query.restore.unwrap_or(false);
    let outcome = api.0.ledger.lift(id.clone(), restore, actor.name, query.note).await;
    let (mut response, change) = match outcome {
        Ok(lifted) => {
            let mut body = view::lift(&lifted.lift);
            body["existing"] = json!(lifted.existing);
            body["reached"] = json!(lifted.reached.level.name());
            let action = if restore { "restore" } else { "lift" };
            let target = format!("{} ({id})", view::line(&lifted.lift.target));
            let status = if lifted.reached.enough { StatusCode::OK } else { StatusCode::ACCEPTED };
            let mut response = (status, Json(body)).into_response();
            follow_up(&mut response, lifted.reached);
            (response, Change { action, target, reason: None, result: "ok", id: Some(lifted.lift.id.to_string()) })
        }
        Err(error) => {
            if matches!(error, LiftError::Store(_)) {
                api.0.metrics.store_failed(StoreOperation::Append);
            }
            let problem = problem(&error);
            let change =
                Change { action: "lift", target: id.to_string(), reason: None, result: problem.reason(), id: None };
            (problem.into_response(), change)
        }
    };
    response.extensions_mut().insert(Changes(vec![change]));
    Ok(response)
}

fn problem(error: &LiftError) -> Problem {
    let (status, reason) = match error {
        LiftError::Invalid(error) => (status_of(error), reason_of(error)),
        LiftError::LiftOfLift => (StatusCode::UNPROCESSABLE_ENTITY, "is_a_lift"),
        LiftError::Store(_) => (StatusCode::SERVICE_UNAVAILABLE, "store_not_durable"),
        LiftError::Unknown => return unknown(),
    };
    Problem::new(status, reason, error.to_string())
}

fn unknown() -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "unknown_revocation", "no revocation has this id")
}

/// Ids are visible ASCII; a path that decodes to anything else is refused, never mended.
fn record_id(id: Result<Path<String>, PathRejection>) -> Result<RecordId, Problem> {
    let Path(id) = id.map_err(|error| invalid(&error.body_text()))?;
    id.parse().map_err(|error: crate::revocation::InvalidRecordId| invalid(&error.to_string()))
}

fn invalid(detail: &str) -> Problem {
    Problem::bad_request("invalid_query", detail)
}
