//! Credentials from a service that knows them: one `POST` a subject.
//!
//! The subject is in the body, so that it is nobody's path, query or log line. Only a 200 is an answer:
//! a 404 is what a service says that was moved, and would sign everybody out.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, StatusCode};
use serde::Deserialize;
use tokio::sync::Semaphore;

use super::derive::{COLUMN_BYTES_MAX, COLUMNS_MAX, Columns, ColumnsError};
use crate::keys::Endpoint;
use crate::keys::fetch::{Bounds, Client, FetchError, Trust, TrustError};
use crate::secret::Secret;

/// The largest answer: every column at its longest, with room for escapes.
const BODY_BYTES_MAX: usize = 2 * COLUMNS_MAX * COLUMN_BYTES_MAX;

/// A service that knows credentials.
#[derive(Clone, Debug, PartialEq)]
pub struct HttpSource {
    /// What is posted to.
    pub endpoint: Endpoint,
    /// The PEM authorities that may vouch for it; absent, those of the system.
    pub authority: Option<String>,
    /// Sent as a bearer token (RFC 6750 §2.1); see [`HttpSource::is_token`].
    pub token: Option<Secret>,
    /// Requests at the same time. Further look-ups wait for one of them within their time.
    pub connections: usize,
    /// What a look-up may take, waiting included.
    pub timeout: Duration,
}

impl HttpSource {
    /// Whether this can be sent as a bearer token: `b64token` of RFC 6750 §2.1.
    #[must_use]
    pub fn is_token(secret: &Secret) -> bool {
        let text = secret.expose();
        !text.is_empty() && text.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-._~+/=".contains(byte))
    }
}

/// Why the service did not say. Read as "failed to ask for a credential: {self}".
#[derive(Debug, thiserror::Error)]
pub(super) enum HttpError {
    /// There is no answer.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// It said something else.
    #[error("the service answered with status {}, and 200 is the only answer", .0.as_u16())]
    Status(StatusCode),
    /// What it said is none of the two that it may.
    #[error("the answer is neither {{\"columns\": […]}} nor {{\"columns\": null}}")]
    Malformed,
    /// The columns cannot be a credential.
    #[error("the answer is no credential: {0}")]
    Columns(#[from] ColumnsError),
}

/// The service, ready to be asked.
pub(super) struct Http {
    client: Client,
    endpoint: Endpoint,
    authorization: Option<HeaderValue>,
    permits: Semaphore,
    pub(super) timeout: Duration,
}

/// What is asked.
#[derive(serde::Serialize)]
struct Question<'q> {
    issuer: &'q str,
    subject: &'q str,
}

/// What is answered.
#[derive(Deserialize)]
struct Said {
    /// Absent is not null: that would be the answer of some other service.
    #[serde(deserialize_with = "Option::deserialize")]
    columns: Option<Vec<Option<String>>>,
}

impl Http {
    /// Prepares, and connects to nothing yet.
    pub(super) fn new(source: &HttpSource) -> Result<Self, TrustError> {
        let trust = match &source.authority {
            Some(pem) => Trust::only(pem)?,
            None if source.endpoint.is_https() => Trust::system()?,
            None => Trust::nobody(),
        };
        let bounds =
            Bounds { timeout: source.timeout, body_bytes: BODY_BYTES_MAX, idle_connections: source.connections };
        let authorization = source.token.as_ref().and_then(|token| {
            let mut field = HeaderValue::from_bytes(&[b"Bearer ", token.expose()].concat()).ok()?;
            field.set_sensitive(true);
            Some(field)
        });
        Ok(Self {
            client: Client::new(&trust, bounds),
            endpoint: source.endpoint.clone(),
            authorization,
            permits: Semaphore::new(source.connections),
            timeout: source.timeout,
        })
    }

    /// The columns of a subject of the issuer whose `iss` is `issuer`; `None` when there is nobody of that
    /// name. The caller bounds the time.
    pub(super) async fn ask(&self, issuer: &str, subject: &str) -> Result<Option<Columns>, HttpError> {
        // The semaphore is never closed.
        let _permit = self.permits.acquire().await.map_err(|_| FetchError::Timeout(self.timeout))?;
        let question = serde_json::to_vec(&Question { issuer, subject }).map_err(|_| HttpError::Malformed)?;
        let answer = self.client.post_json(&self.endpoint, self.authorization.as_ref(), Bytes::from(question)).await?;
        if answer.status != StatusCode::OK {
            return Err(HttpError::Status(answer.status));
        }
        // The parser's own message may repeat a column.
        let said: Said = serde_json::from_slice(&answer.body).map_err(|_| HttpError::Malformed)?;
        Ok(said.columns.map(Columns::of_texts).transpose()?)
    }
}

impl fmt::Debug for Http {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Http").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(json: &str) -> Result<Option<usize>, String> {
        let said: Said = serde_json::from_str(json).map_err(|_| "malformed".to_owned())?;
        let columns = said.columns.map(Columns::of_texts).transpose().map_err(|error| error.to_string())?;
        Ok(columns.map(|columns| columns.count()))
    }

    #[test]
    fn two_answers_mean_something_and_all_others_nothing() {
        assert_eq!(said(r#"{"columns": ["hash", null]}"#), Ok(Some(2)));
        assert_eq!(said(r#"{"columns": null}"#), Ok(None));
        for none in ["{}", "null", "[]", "", "<html>", r#"{"columns": "hash"}"#, r#"{"columns": [1]}"#] {
            assert_eq!(said(none), Err("malformed".to_owned()), "{none}");
        }
        assert_eq!(said(r#"{"columns": ["a"], "columns": null}"#), Err("malformed".to_owned()));
        assert!(said(r#"{"columns": []}"#).is_err());
    }

    #[test]
    fn a_token_is_one_word() {
        for (text, good) in [("abc-._~+/9=", true), ("", false), ("a b", false), ("a\n", false), ("é", false)] {
            assert_eq!(HttpSource::is_token(&Secret::new(text.as_bytes().to_vec())), good, "{text:?}");
        }
    }
}
