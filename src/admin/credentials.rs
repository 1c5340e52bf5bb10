//! Credentials of subjects, for those who change them: pushed, where the gateway has no way to look them up, and
//! dropped, where it has.
//!
//! What comes in is password hashes and the like: this module has no `Debug` for it, hands it on once, and
//! writes none of it anywhere.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, StatusCode};
use serde::Deserialize;
use serde_json::json;
use zeroize::Zeroizing;

use super::auth::{Change, Changes};
use super::problem::Problem;
use super::{Api, body, view};
use crate::keys::subject::{Columns, Credentials, PushError};
use crate::revocation::{Target, TargetKind};

/// A credential as it is written: the columns that the query of a user database would give.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    columns: Vec<Option<String>>,
}

/// `PUT /v1/subjects/{issuer}/{subject}/credential`.
pub(super) async fn put(
    State(api): State<Api>,
    Path((issuer, subject)): Path<(String, String)>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let (issuer, credentials) = api.credentials_of(&issuer)?;
    let raw: Raw = body::json(&headers, body).await?;
    let columns = raw.columns.into_iter().map(|column| column.map(Zeroizing::new)).collect();
    let outcome = Columns::new(columns)
        .map_err(|error| Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid_credential", error.to_string()))
        .and_then(|columns| credentials.push(&subject, &columns).map_err(|error| problem(&error)));
    let result = outcome.as_ref().map_or_else(Problem::reason, |_| "ok");
    let response = match outcome {
        Ok(fingerprint) => Json(json!({ "issuer": issuer, "subject": subject, "cfp": fingerprint })).into_response(),
        Err(problem) => problem.into_response(),
    };
    Ok(changed(response, "put_credential", &issuer, &subject, result))
}

/// `DELETE /v1/subjects/{issuer}/{subject}/credential`.
pub(super) async fn delete(
    State(api): State<Api>,
    Path((issuer, subject)): Path<(String, String)>,
) -> Result<Response, Problem> {
    let (issuer, credentials) = api.credentials_of(&issuer)?;
    let outcome = credentials.forget(&subject);
    let (result, response) = match outcome {
        Ok(()) => {
            api.0.gateway.credential_changed(&issuer, &subject);
            ("ok", StatusCode::NO_CONTENT.into_response())
        }
        Err(error) => {
            let problem = problem(&error);
            (problem.reason(), problem.into_response())
        }
    };
    Ok(changed(response, "drop_credential", &issuer, &subject, result))
}

impl Api {
    /// The credentials of an issuer's subjects, and its URL.
    fn credentials_of(&self, issuer: &str) -> Result<(String, Arc<Credentials>), Problem> {
        let url = self.0.gateway.issuer_url(issuer).ok_or_else(|| {
            let detail = "unknown issuer; give its config name or its URL";
            Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "unknown_issuer", detail)
        })?;
        let credentials = self.0.gateway.subject_credentials(&url).ok_or_else(|| {
            let detail = "the tokens of this issuer do not hang on credentials";
            Problem::new(StatusCode::CONFLICT, "no_credentials", detail)
        })?;
        Ok((url, credentials))
    }
}

fn problem(error: &PushError) -> Problem {
    let (status, reason) = match error {
        PushError::NotPushed => (StatusCode::CONFLICT, "not_pushed"),
        PushError::Full => (StatusCode::INSUFFICIENT_STORAGE, "too_many_credentials"),
        PushError::SubjectTooLong => (StatusCode::UNPROCESSABLE_ENTITY, "invalid_subject"),
        PushError::Derive(_) | PushError::Key(_) => (StatusCode::UNPROCESSABLE_ENTITY, "invalid_credential"),
    };
    Problem::new(status, reason, error.to_string())
}

fn changed(
    mut response: Response,
    action: &'static str,
    issuer: &str,
    subject: &str,
    result: &'static str,
) -> Response {
    let target = view::line(&Target::new(TargetKind::Subject, issuer, subject));
    let change = Change { action, target, reason: None, result, id: None };
    response.extensions_mut().insert(Changes(vec![change]));
    response
}
