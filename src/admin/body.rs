//! Request bodies, read strictly: the right type, bounded in size and time, no member twice, none unknown.

use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http::{HeaderMap, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use serde::de::DeserializeOwned;

use super::problem::Problem;

/// The largest single document, in bytes.
pub(super) const DOCUMENT: usize = 64 * 1024;
/// How long a body may take.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Reads one JSON document. Shapes deny unknown members; serde itself denies repeated ones.
pub(super) async fn json<T: DeserializeOwned>(headers: &HeaderMap, body: Body) -> Result<T, Problem> {
    let bytes = read(headers, body, &["application/json"], DOCUMENT).await?;
    serde_json::from_slice(&bytes).map_err(|error| Problem::bad_request("invalid_body", describe(&error)))
}

/// Reads a whole body of one of `types`.
pub(super) async fn read(
    headers: &HeaderMap,
    body: Body,
    types: &[&'static str],
    limit: usize,
) -> Result<Bytes, Problem> {
    // A page of another site can send forms and plain text without asking; these types it cannot.
    if !types.iter().any(|wanted| is_type(headers, wanted)) {
        let detail = format!("the content type must be {}", types.join(" or "));
        return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", detail));
    }
    let too_large = || {
        let detail = format!("the body may have {limit} bytes");
        Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", detail)
    };
    let said = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if said.is_some_and(|length| length > limit as u64) {
        return Err(too_large());
    }
    match tokio::time::timeout(TIMEOUT, Limited::new(body, limit).collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => Err(too_large()),
        Ok(Err(_)) => Err(Problem::bad_request("invalid_body", "the body broke off")),
        Err(_) => Err(Problem::new(StatusCode::REQUEST_TIMEOUT, "timeout", "the body took too long")),
    }
}

/// What is wrong with a document. An error names the members and types of our own shapes and what stands in
/// their place; a text in place of something else could be a token, so it is not repeated.
pub(super) fn describe(error: &serde_json::Error) -> String {
    let text = error.to_string();
    if text.starts_with("invalid type") || text.starts_with("invalid value") {
        let expected = text.rsplit_once("expected ").map_or("something else", |(_, expected)| expected);
        return format!("invalid type: expected {expected}");
    }
    text
}

fn is_type(headers: &HeaderMap, wanted: &str) -> bool {
    let mut fields = headers.get_all(header::CONTENT_TYPE).iter();
    let (Some(field), None) = (fields.next(), fields.next()) else { return false };
    let Ok(field) = field.to_str() else { return false };
    let essence = field.split(';').next().unwrap_or_default();
    essence.trim().eq_ignore_ascii_case(wanted)
}
