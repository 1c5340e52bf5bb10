//! Subjects in the place of others: replaced, undone, shown.

use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use http::{HeaderMap, StatusCode, Uri};
use serde::Deserialize;
use serde_json::{Value, json};

use super::auth::{Actor, Change, Changes};
use super::problem::Problem;
use super::revoke::{self, idempotency_key, reason_of, status_of};
use super::{Api, body, view};
use crate::intake::{Accepted, ReplaceError, ReplaceRequest, UndoError, UndoRequest};
use crate::revocation::{InvalidReplacement, InvalidUndo, Reason, Source, Target, TargetKind};
use crate::telemetry::StoreOperation;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    by: String,
    reason: Option<String>,
    note: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct UndoQuery {
    reason: Option<String>,
    note: Option<String>,
}

/// The issuer and the subject that a path names.
struct Named {
    issuer: String,
    subject: String,
}

impl Named {
    /// Reads `/v1/subjects/{issuer}/{subject}` and what may follow. Both are any text at all, so they are
    /// decoded strictly: an escape that is none is refused, never taken for itself.
    fn of(uri: &Uri) -> Result<Self, Problem> {
        let mut segments = uri.path().split('/').skip(3).map(decoded);
        let mut next = || segments.next().flatten().filter(|segment| !segment.is_empty());
        match (next(), next()) {
            (Some(issuer), Some(subject)) => Ok(Self { issuer, subject }),
            (_, _) => Err(Problem::bad_request(
                "invalid_path",
                "the issuer and the subject are path segments: UTF-8, percent-encoded (RFC 3986 §2.1)",
            )),
        }
    }
}

/// A path segment, decoded; `None` when an escape is malformed or the bytes are not UTF-8.
pub(super) fn decoded(segment: &str) -> Option<String> {
    let bytes = segment.as_bytes();
    let escaped = |(place, byte): (usize, &u8)| {
        *byte != b'%' || bytes.get(place + 1..place + 3).is_some_and(|it| it.iter().all(u8::is_ascii_hexdigit))
    };
    let well_formed = bytes.iter().enumerate().all(escaped);
    let text = percent_encoding::percent_decode(bytes).decode_utf8().ok()?;
    well_formed.then(|| text.into_owned())
}

/// `POST /v1/subjects/{issuer}/{subject}/replace`.
pub(super) async fn replace(
    State(api): State<Api>,
    Extension(actor): Extension<Actor>,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let id = idempotency_key(&headers)?;
    let Named { issuer, subject: old } = Named::of(&uri)?;
    let raw: Raw = body::json(&headers, body).await?;
    let reason = raw.reason.map_or(Ok(Reason::CredentialCompromised), |reason| parse_reason(&reason))?;
    let target = format!("{} -> {}", api.audited_subject(&issuer, &old), raw.by);
    let request = ReplaceRequest { issuer, old, new: raw.by, reason, actor: actor.name, note: raw.note, id };
    let outcome = api.0.ledger.replace(request).await;
    let (result, id) = match &outcome {
        Ok(replaced) => ("ok", Some(replaced.replacement.id.to_string())),
        Err(ReplaceError::NotDurable { replaced, .. }) => {
            ("store_not_durable", Some(replaced.replacement.id.to_string()))
        }
        Err(error) => (replace_problem(error).reason(), None),
    };
    let mut response = match &outcome {
        Ok(replaced) => {
            let status = if replaced.existing { StatusCode::OK } else { StatusCode::CREATED };
            api.count_cutoffs(&replaced.cutoff, reason);
            (status, Json(view::replaced(replaced))).into_response()
        }
        Err(error) => {
            if let ReplaceError::NotDurable { replaced, .. } = error {
                api.count_cutoffs(&replaced.cutoff, reason);
                api.0.metrics.store_failed(StoreOperation::Append);
            }
            replace_problem(error).into_response()
        }
    };
    let change = Change { action: "replace_subject", target, reason: Some(reason.name()), result, id };
    response.extensions_mut().insert(Changes(vec![change]));
    Ok(response)
}

/// `DELETE /v1/subjects/{issuer}/{subject}/replace`.
pub(super) async fn undo(
    State(api): State<Api>,
    Extension(actor): Extension<Actor>,
    uri: Uri,
    query: Result<Query<UndoQuery>, QueryRejection>,
) -> Result<Response, Problem> {
    let Named { issuer, subject: old } = Named::of(&uri)?;
    let Query(query) = query.map_err(|error| Problem::bad_request("invalid_query", error.body_text()))?;
    let reason = query.reason.map(|reason| parse_reason(&reason)).transpose()?;
    // What loosens is not done unseen.
    if !api.0.audit.is_healthy() {
        let detail = "the audit log cannot be written, and nothing is undone without it";
        return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "audit_unavailable", detail));
    }
    let mut target = api.audited_subject(&issuer, &old);
    let outcome =
        api.0.ledger.undo_replacement(UndoRequest { issuer, old, reason, actor: actor.name, note: query.note });
    let (mut response, result, id, reason) = match outcome.await {
        Ok(undone) => {
            let reason = reason.unwrap_or(undone.replacement.reason);
            api.count_cutoffs(&undone.cutoffs, reason);
            target = format!("{target} -> {}", undone.replacement.new);
            let id = Some(undone.replacement.id.to_string());
            (Json(view::undone(&undone)).into_response(), "ok", id, Some(reason))
        }
        Err(error) => {
            if matches!(error, UndoError::Store(_)) {
                api.0.metrics.store_failed(StoreOperation::Append);
            }
            let problem = undo_problem(&error);
            let result = problem.reason();
            (problem.into_response(), result, None, reason)
        }
    };
    let change = Change { action: "undo_replacement", target, reason: reason.map(Reason::name), result, id };
    response.extensions_mut().insert(Changes(vec![change]));
    Ok(response)
}

/// `GET /v1/subjects/{issuer}/{subject}`: its chain, and what is in force for it.
pub(super) async fn show(State(api): State<Api>, uri: Uri) -> Result<Json<Value>, Problem> {
    let Named { issuer, subject } = Named::of(&uri)?;
    let issuer = api
        .0
        .ledger
        .resolve(&issuer)
        .map_err(|error| Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "unknown_issuer", error.to_string()))?;
    let replacements = api.0.map.replacements();
    let chain = replacements.chain(&issuer, &subject);
    let mut targets = vec![Target::new(TargetKind::Subject, issuer.as_str(), subject.as_str())];
    targets.extend(replacements.earlier(&issuer, &subject));
    let records = api.0.ledger.of_targets(&targets).await.map_err(|error| api.unreadable(&error))?;
    let replaced_by = chain.iter().find(|link| link.old == subject).map(|link| link.new.as_str());
    Ok(Json(json!({
        "issuer": issuer,
        "subject": subject,
        "account": chain.first().map_or(subject.as_str(), |link| link.old.as_str()),
        "replaced_by": replaced_by,
        "chain": chain.iter().map(|link| view::replacement(link)).collect::<Vec<_>>(),
        "revocations": records.iter().map(view::revocation).collect::<Vec<_>>(),
    })))
}

impl Api {
    fn audited_subject(&self, issuer: &str, subject: &str) -> String {
        let issuer = self.0.ledger.resolve(issuer).unwrap_or_else(|_| issuer.to_owned());
        view::line(&Target::new(TargetKind::Subject, issuer, subject))
    }

    fn count_cutoffs<'a>(&self, cutoffs: impl IntoIterator<Item = &'a Accepted>, reason: Reason) {
        for cutoff in cutoffs {
            self.0.metrics.revoked(cutoff.target.kind, reason, Source::Admin);
        }
    }
}

fn parse_reason(reason: &str) -> Result<Reason, Problem> {
    reason
        .parse()
        .map_err(|error: crate::revocation::UnknownReason| Problem::bad_request("invalid_body", error.to_string()))
}

/// What a caller is told. Exhaustive: a new error has to be given its status here.
fn replace_problem(error: &ReplaceError) -> Problem {
    let (status, reason) = match error {
        ReplaceError::Chain(InvalidReplacement::AlreadyReplaced) => (StatusCode::CONFLICT, "already_replaced"),
        ReplaceError::Chain(InvalidReplacement::ChainTooLong) => (StatusCode::CONFLICT, "chain_too_long"),
        ReplaceError::Chain(InvalidReplacement::Cycle) => (StatusCode::CONFLICT, "replacement_cycle"),
        ReplaceError::Chain(InvalidReplacement::InUse) => (StatusCode::CONFLICT, "subject_in_use"),
        ReplaceError::Chain(InvalidReplacement::TooMany) => (StatusCode::SERVICE_UNAVAILABLE, "replacements_full"),
        ReplaceError::Conflict => (StatusCode::CONFLICT, "idempotency_conflict"),
        ReplaceError::Cutoff(error) => return revoke::problem(error),
        ReplaceError::Invalid(error) => (status_of(error), reason_of(error)),
        ReplaceError::NotDurable { replaced, .. } => {
            let detail = "in force on this node until it restarts, but not stored: replace again once the store works";
            return Problem::new(StatusCode::SERVICE_UNAVAILABLE, "store_not_durable", detail)
                .with("in_force", json!(true))
                .with("replacement", view::replaced(replaced));
        }
        ReplaceError::Store(_) => (StatusCode::SERVICE_UNAVAILABLE, "store_unavailable"),
    };
    Problem::new(status, reason, error.to_string())
}

/// The same for undoing.
fn undo_problem(error: &UndoError) -> Problem {
    let (status, reason) = match error {
        UndoError::Chain(InvalidUndo::NotReplaced) => (StatusCode::NOT_FOUND, "not_replaced"),
        UndoError::Chain(InvalidUndo::NotTheLast) => (StatusCode::CONFLICT, "not_the_last"),
        UndoError::Cutoff(error) => return revoke::problem(error),
        UndoError::Invalid(error) => (status_of(error), reason_of(error)),
        UndoError::Store(_) => (StatusCode::SERVICE_UNAVAILABLE, "store_not_durable"),
    };
    Problem::new(status, reason, error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_names_any_text_and_no_other() {
        for (path, named) in [
            ("/v1/subjects/accounts/bob", Some(("accounts", "bob"))),
            ("/v1/subjects/accounts/bob/replace", Some(("accounts", "bob"))),
            ("/v1/subjects/https%3A%2F%2Fa.example%2F/a%2Fb%20c", Some(("https://a.example/", "a/b c"))),
            ("/v1/subjects/accounts/a+b", Some(("accounts", "a+b"))),
            ("/v1/subjects/accounts/%7e%C3%BC", Some(("accounts", "~\u{fc}"))),
            ("/v1/subjects/accounts/%2525", Some(("accounts", "%25"))),
            ("/v1/subjects/accounts/%2e%2e", Some(("accounts", ".."))),
            ("/v1/subjects/accounts/%zz", None),
            ("/v1/subjects/accounts/%2", None),
            ("/v1/subjects/accounts/%", None),
            ("/v1/subjects/accounts/%+f", None),
            ("/v1/subjects/accounts/%ff", None),
            ("/v1/subjects/accounts/%ed%a0%80", None),
            ("/v1/subjects/accounts//replace", None),
            ("/v1/subjects//bob", None),
            ("/v1/subjects/%ff/bob", None),
        ] {
            let read = Named::of(&Uri::from_static(path)).ok();
            let read = read.as_ref().map(|named| (named.issuer.as_str(), named.subject.as_str()));
            assert_eq!(read, named, "{path}");
        }
    }
}
