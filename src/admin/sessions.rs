//! Open sessions: listed, and ended on an operator's word.
//!
//! The list is for people and bounded; a session that it has forgotten lives on. So everything of a subject
//! is ended by a cutoff, which needs no list, and one by one besides, each with the token that opened it.

use std::sync::Arc;

use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use super::auth::{Actor, Change, Changes};
use super::problem::Problem;
use super::{Api, revoke, view};
use crate::intake::{Accepted, Request, RevokeError};
use crate::revocation::{OWN_ISSUER, Reason, Source, Target, TargetKind};
use crate::session::{Open, PER_SUBJECT_MAX, Wanted};

/// Items on a page unless asked for otherwise, and at most.
const PAGE: (usize, usize) = (100, 1000);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ListQuery {
    subject: Option<String>,
    issuer: Option<String>,
    cursor: Option<String>,
    limit: Option<usize>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct EndAllQuery {
    subject: Option<String>,
    issuer: Option<String>,
    reason: Option<String>,
    note: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct EndQuery {
    reason: Option<String>,
    note: Option<String>,
}

/// Whose sessions are meant.
struct Whose {
    /// The URL of the issuer that names the subject.
    issuer: String,
    /// Whether that is the gateway itself.
    own: bool,
    subject: Option<String>,
}

impl Whose {
    fn wanted(&self) -> Wanted<'_> {
        let subject = self.subject.as_deref();
        if self.own {
            Wanted { subject, ..Wanted::default() }
        } else {
            Wanted { opened_with: Some(&self.issuer), parent: subject, ..Wanted::default() }
        }
    }
}

/// `GET /v1/sessions`: a page, by `sid`. It may be shorter than asked for although there are more.
pub(super) async fn list(
    State(api): State<Api>,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Result<Json<Value>, Problem> {
    let Query(query) = query.map_err(|error| invalid(&error.body_text()))?;
    let limit = query.limit.unwrap_or(PAGE.0);
    if !(1..=PAGE.1).contains(&limit) {
        return Err(invalid("`limit` is 1 to 1000"));
    }
    let whose = api.whose(query.issuer, query.subject)?;
    let (sessions, next) = api.0.gateway.sessions(whose.wanted(), query.cursor.as_deref(), limit);
    let items: Vec<_> = sessions.iter().map(|open| view::session(open)).collect();
    Ok(Json(json!({ "items": items, "next": next })))
}

/// `DELETE /v1/sessions?subject=…`: everything of a subject ends that was opened until now.
pub(super) async fn end_all(
    State(api): State<Api>,
    Extension(actor): Extension<Actor>,
    query: Result<Query<EndAllQuery>, QueryRejection>,
) -> Result<Response, Problem> {
    let Query(query) = query.map_err(|error| invalid(&error.body_text()))?;
    let reason = reason(query.reason.as_deref())?;
    let Some(subject) = query.subject.filter(|it| !it.is_empty()) else {
        return Err(invalid("give the `subject`: everybody's sessions end with a revocation of the issuer `session`"));
    };
    let whose = api.whose(query.issuer, Some(subject.clone()))?;
    let (known, _) = api.0.gateway.sessions(whose.wanted(), None, PER_SUBJECT_MAX);
    let target = Target::new(TargetKind::Subject, whose.issuer.as_str(), subject);
    let audited = view::line(&target);
    // Its sessions are to end, not its account: whatever the reason, it may log in again.
    let cutoff = Request {
        block: Some(false),
        note: query.note.clone(),
        ..Request::new(target, reason, actor.name.as_str(), Source::Admin)
    };
    let order = Order { action: "end_sessions", audited, reason, note: query.note, actor: actor.name };
    Ok(api.end(&known, Some(cutoff), order).await)
}

/// `DELETE /v1/sessions/{sid}`.
pub(super) async fn end_one(
    State(api): State<Api>,
    Extension(actor): Extension<Actor>,
    session: Result<Path<String>, PathRejection>,
    query: Result<Query<EndQuery>, QueryRejection>,
) -> Result<Response, Problem> {
    let Path(session) = session.map_err(|error| invalid(&error.body_text()))?;
    let Query(query) = query.map_err(|error| invalid(&error.body_text()))?;
    let reason = reason(query.reason.as_deref())?;
    let Some(open) = api.0.gateway.session(&session) else {
        let detail =
            "no open session is known by this sid; one that is not listed ends with a revocation of kind session";
        return Err(Problem::new(StatusCode::NOT_FOUND, "unknown_session", detail));
    };
    let audited = format!("{} {session}", TargetKind::Session);
    let order = Order { action: "end_session", audited, reason, note: query.note, actor: actor.name };
    Ok(api.end(&[open], None, order).await)
}

/// What is to be said of an end, beside what ends.
struct Order {
    action: &'static str,
    /// The target for the audit line.
    audited: String,
    reason: Reason,
    note: Option<String>,
    actor: String,
}

impl Api {
    fn whose(&self, issuer: Option<String>, subject: Option<String>) -> Result<Whose, Problem> {
        let resolve = |name: &str| self.0.ledger.resolve(name).ok();
        let own = resolve(OWN_ISSUER).ok_or_else(|| {
            Problem::new(StatusCode::CONFLICT, "no_sessions", "the configuration has no `session` section")
        })?;
        let issuer = match issuer {
            None => own.clone(),
            Some(name) => resolve(&name).ok_or_else(|| {
                let detail = "unknown issuer; give its config name or its URL";
                Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "unknown_issuer", detail)
            })?,
        };
        Ok(Whose { own: issuer == own, issuer, subject })
    }

    /// Ends sessions that are known, and what `cutoff` reaches: in force and durable when it answers 200.
    async fn end(&self, known: &[Arc<Open>], cutoff: Option<Request>, order: Order) -> Response {
        let Order { action, audited, reason, note, actor } = order;
        let targets = known.iter().flat_map(|open| self.0.gateway.logout_targets(open));
        let blocks = targets.filter(|target| !self.0.map.is_blocked(target)).map(|target| Request {
            note: note.clone(),
            ..Request::new(target, reason, actor.as_str(), Source::Admin)
        });
        // The cutoff first: it reaches what is not known, and it is what an error is about.
        let requests: Vec<_> = cutoff.into_iter().chain(blocks).collect();
        if requests.is_empty()
            && let Err(error) = self.0.ledger.settled().await
        {
            tracing::error!(error = &error as &dyn std::error::Error, "what is in force is not durable");
            let detail = "what was ended before is in force and not stored: end it again once the store works";
            let problem = Problem::new(StatusCode::SERVICE_UNAVAILABLE, "store_not_durable", detail);
            return problem.into_response();
        }
        let outcomes = self.0.ledger.revoke_all(requests.clone()).await;
        for (request, outcome) in requests.iter().zip(&outcomes) {
            self.count(request, outcome);
        }
        let id = outcomes.first().and_then(accepted).map(|it| it.id.to_string());
        let revocations: Vec<_> = outcomes.iter().filter_map(accepted).map(view::accepted).collect();
        let failure = outcomes.into_iter().find_map(Result::err);
        if failure.is_none() {
            known.iter().for_each(|open| self.0.gateway.forget_session(open));
        }
        let (result, mut response) = match failure {
            None => {
                let body = json!({ "ended": known.len(), "revocations": revocations });
                ("ok", Json(body).into_response())
            }
            Some(error) => {
                let problem = revoke::problem(&error);
                (problem.reason(), problem.into_response())
            }
        };
        let change = Change { action, target: audited, reason: Some(reason.name()), result, id };
        response.extensions_mut().insert(Changes(vec![change]));
        response
    }
}

/// What came of a request that is in force, durably or not.
fn accepted(outcome: &Result<Accepted, RevokeError>) -> Option<&Accepted> {
    match outcome {
        Ok(accepted) => Some(accepted),
        Err(RevokeError::NotDurable { accepted, .. }) => Some(accepted),
        Err(_) => None,
    }
}

fn reason(given: Option<&str>) -> Result<Reason, Problem> {
    let parse = |reason: &str| reason.parse();
    let unknown = |error: crate::revocation::UnknownReason| invalid(&error.to_string());
    given.map_or(Ok(Reason::Admin), parse).map_err(unknown)
}

fn invalid(detail: &str) -> Problem {
    Problem::bad_request("invalid_query", detail)
}
