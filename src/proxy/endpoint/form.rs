//! The parameters of a request to one of the gateway's own endpoints: a form, or the same as JSON.

use std::time::Instant;

use http::header;
use http::request::Parts;
use http_body_util::BodyExt;
use hyper::body::Incoming;

use crate::proxy::answer::Refusal;
use crate::proxy::body::{BodyFailure, RequestBody};
use crate::proxy::pace::Pace;
use crate::proxy::snapshot::Local;
use crate::token::json;

/// Longest body that is read. A longer one is refused.
const FORM_BYTES_MAX: u64 = 16 * 1024;

/// Why a request's parameters cannot be told. Read as "failed to read the form: {self}".
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum FormError {
    /// The body did not come as it should.
    #[error("the body did not come through")]
    Body(BodyFailure),
    /// Neither a form nor one JSON object of texts.
    #[error("the body is not what its type says")]
    Malformed,
    /// A parameter came more than once (RFC 6749 §3.2).
    #[error("a parameter came more than once")]
    Repeated,
}

impl From<FormError> for Refusal {
    fn from(error: FormError) -> Self {
        match error {
            FormError::Body(BodyFailure::TooLarge) => Self::BodyTooLarge,
            FormError::Body(BodyFailure::Silent | BodyFailure::TooLate | BodyFailure::TooSlow) => Self::BodyTooSlow,
            FormError::Body(BodyFailure::Broken) | FormError::Malformed => Self::BodyBroken,
            FormError::Repeated => Self::BadRequest("a parameter came more than once"),
        }
    }
}

/// Names and values as they came.
#[derive(Debug, Default)]
pub(super) struct Form(Vec<(String, String)>);

impl Form {
    /// The value of a parameter; one without a value counts as left out (RFC 6749 §3.2).
    ///
    /// # Errors
    ///
    /// [`FormError::Repeated`].
    pub(super) fn get(&self, name: &str) -> Result<Option<&str>, FormError> {
        let mut found = self.0.iter().filter(|(key, _)| key == name).map(|(_, value)| value.as_str());
        let first = found.next().filter(|value| !value.is_empty());
        if found.next().is_some() { Err(FormError::Repeated) } else { Ok(first) }
    }
}

/// The parameters in a body; none when it is of another type, which is then not read.
///
/// # Errors
///
/// When the body does not come through, is too large or too slow, or is not what its type says.
pub(super) async fn read(local: &Local, head: &Parts, body: Incoming) -> Result<Form, FormError> {
    let kind = head.headers.get(header::CONTENT_TYPE).map(|value| value.as_bytes().to_ascii_lowercase());
    let kind = kind.as_deref().map(|kind| kind.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii());
    let parse = match kind {
        Some(b"application/x-www-form-urlencoded") => parse_form,
        Some(b"application/json") => parse_json,
        Some(_) | None => return Ok(Form::default()),
    };
    let pace = Pace::new(&local.snapshot.config.limits, Instant::now());
    let body = RequestBody::new(body, Some(FORM_BYTES_MAX), pace, None);
    let body = body.collect().await.map_err(FormError::Body)?;
    parse(&body.to_bytes())
}

/// The parameters in a query.
pub(super) fn parse_query(query: &str) -> Form {
    Form(pairs(query).collect())
}

fn parse_form(body: &[u8]) -> Result<Form, FormError> {
    let text = std::str::from_utf8(body).map_err(|_| FormError::Malformed)?;
    Ok(Form(pairs(text).collect()))
}

/// One object whose members are texts, or `null` for what is left out.
fn parse_json(body: &[u8]) -> Result<Form, FormError> {
    let members = json::object(body).map_err(|_| FormError::Malformed)?;
    let mut form = Form::default();
    for (name, value) in members {
        match value {
            serde_json::Value::String(text) => form.0.push((name, text)),
            serde_json::Value::Null => {}
            _ => return Err(FormError::Malformed),
        }
    }
    Ok(form)
}

/// Name and value pairs of a query or form.
fn pairs(text: &str) -> impl Iterator<Item = (String, String)> {
    let decode = |part: &str| {
        let spaced = part.replace('+', " ");
        percent_encoding::percent_decode_str(&spaced).decode_utf8_lossy().into_owned()
    };
    text.split('&').filter(|pair| !pair.is_empty()).map(move |pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decode(name), decode(value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_are_decoded() {
        let found: Vec<_> = pairs("a=1&b=x%2By+z&c&&=d").collect();
        let wanted = [("a", "1"), ("b", "x+y z"), ("c", ""), ("", "d")];
        assert_eq!(found, wanted.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }

    #[test]
    fn a_parameter_comes_once_or_not_at_all() {
        for (form, expected) in [
            ("a=1", Ok(Some("1"))),
            ("b=1", Ok(None)),
            ("a=", Ok(None)),
            ("a", Ok(None)),
            ("a=1&a=1", Err(FormError::Repeated)),
            ("a=1&b=2&a=", Err(FormError::Repeated)),
            ("b=1&b=2&a=1", Ok(Some("1"))),
        ] {
            assert_eq!(parse_form(form.as_bytes()).unwrap().get("a"), expected, "{form}");
        }
        assert!(parse_form(b"a=\xff").is_err());
    }

    #[test]
    fn json_says_the_same_as_a_form() {
        let form = parse_json(br#"{"a": "1", "b": null, "c": ""}"#).unwrap();
        assert_eq!([form.get("a"), form.get("b"), form.get("c")], [Ok(Some("1")), Ok(None), Ok(None)]);
        for body in [&b""[..], b"[]", b"\"a\"", b"{", b"{\"a\":1}", b"{\"a\":[\"1\"]}", b"{\"a\":\"1\",\"a\":\"2\"}"] {
            assert_eq!(parse_json(body).map(|_| ()), Err(FormError::Malformed), "{body:?}");
        }
    }
}
