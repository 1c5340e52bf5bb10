//! A refusal in the words of gRPC: no body, and a status of its own behind the head, which says all there is.
//!
//! The status of HTTP stays what it is for everybody else, so that whatever stands between, logs and counts sees a
//! refusal and not a success. Clients look at `grpc-status`; those that insist on a 200 first map the other to
//! the same meaning by the table of the gRPC project, which says less, but nothing else.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, Version, header};

const CONTENT_TYPE: &str = "application/grpc";
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// Whether a request is a call of gRPC, which is at home in HTTP/2 alone.
pub(in crate::proxy) fn is_call<B>(request: &Request<B>) -> bool {
    if request.version() != Version::HTTP_2 {
        return false;
    }
    let Some(value) = request.headers().get(header::CONTENT_TYPE) else { return false };
    let rest = value.as_bytes().strip_prefix(CONTENT_TYPE.as_bytes());
    rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';' | b' ')))
}

/// The answer.
pub(super) fn response(status: StatusCode, reason: &str, detail: &str, headers: HeaderMap) -> Response<Bytes> {
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = status;
    let fields = response.headers_mut();
    *fields = headers;
    fields.insert(header::CONTENT_TYPE, HeaderValue::from_static(CONTENT_TYPE));
    fields.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    fields.insert(GRPC_STATUS, HeaderValue::from(code(status)));
    if let Ok(message) = HeaderValue::try_from(encoded(&format!("{reason}: {detail}"))) {
        fields.insert(GRPC_MESSAGE, message);
    }
    response
}

/// The status of gRPC that says the same.
const fn code(status: StatusCode) -> u16 {
    match status.as_u16() {
        // INVALID_ARGUMENT
        400 | 414 | 417 => 3,
        // UNAUTHENTICATED
        401 => 16,
        // PERMISSION_DENIED
        403 => 7,
        // UNIMPLEMENTED
        404 | 405 | 501 => 12,
        // DEADLINE_EXCEEDED
        408 => 4,
        // RESOURCE_EXHAUSTED
        413 | 429 | 431 => 8,
        // UNAVAILABLE
        421 | 502..=504 => 14,
        // INTERNAL
        500 => 13,
        // UNKNOWN
        _ => 2,
    }
}

/// A message as `grpc-message` carries it: what is not printable ASCII, and `%`, percent-encoded.
fn encoded(message: &str) -> String {
    let mut text = String::with_capacity(message.len());
    for byte in message.bytes() {
        match byte {
            b' '..=b'~' if byte != b'%' => text.push(char::from(byte)),
            other => text.push_str(&format!("%{other:02X}")),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_calls_of_grpc_are_answered_so() {
        for (version, content_type, is) in [
            (Version::HTTP_2, "application/grpc", true),
            (Version::HTTP_2, "application/grpc+proto", true),
            (Version::HTTP_2, "application/grpc; x=y", true),
            (Version::HTTP_2, "application/grpc-web", false),
            (Version::HTTP_2, "application/json", false),
            (Version::HTTP_11, "application/grpc", false),
        ] {
            let request = Request::builder().version(version).header("content-type", content_type).body(()).unwrap();
            assert_eq!(is_call(&request), is, "{version:?} {content_type}");
        }
        assert!(!is_call(&Request::builder().version(Version::HTTP_2).body(()).unwrap()));
    }

    #[test]
    fn a_message_is_encoded_as_the_protocol_says() {
        assert_eq!(encoded("revoked: 100% of them\n\u{fc}"), "revoked: 100%25 of them%0A%C3%BC");
    }
}
