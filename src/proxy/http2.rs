//! What HTTP/2 says differently, so that the rest of the walk need not know of it.

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, Version, header, response};
use hyper::ext::Protocol;

use super::answer::Refusal;
use super::body::ResponseBody;

const WEBSOCKET: &str = "websocket";
/// What a server adds to the key (RFC 6455 §1.3).
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// Makes one field of a cookie that came in pieces (RFC 9113 §8.2.3): before anybody looks for a token in it,
/// and before it goes to a server that knows one field only.
pub(super) fn join_cookies(headers: &mut HeaderMap) {
    let mut crumbs = headers.get_all(header::COOKIE).iter();
    let (Some(first), Some(second)) = (crumbs.next(), crumbs.next()) else { return };
    let mut whole = first.as_bytes().to_vec();
    for crumb in [second].into_iter().chain(crumbs) {
        whole.extend_from_slice(b"; ");
        whole.extend_from_slice(crumb.as_bytes());
    }
    // Values joined by visible characters are a value.
    if let Ok(whole) = HeaderValue::from_bytes(&whole) {
        headers.insert(header::COOKIE, whole);
    }
}

/// A WebSocket handshake that came on a stream (RFC 8441), in the form that it has in HTTP/1.1.
#[derive(Debug)]
pub(super) struct Handshake {
    /// What `Sec-WebSocket-Accept` has to be.
    accept: String,
}

/// Turns an extended `CONNECT` for a WebSocket into the request that opens one in HTTP/1.1, so that it is
/// decided like one, the origin of its cookie included. Every other request stays as it is.
///
/// # Errors
///
/// [`Refusal::MethodNotImplemented`] for another protocol, as RFC 9220 §3 has it.
pub(super) fn handshake(head: &mut Parts) -> Result<Option<Handshake>, Refusal> {
    if head.method != Method::CONNECT {
        return Ok(None);
    }
    let Some(protocol) = head.extensions.remove::<Protocol>() else { return Ok(None) };
    if !protocol.as_str().eq_ignore_ascii_case(WEBSOCKET) {
        return Err(Refusal::MethodNotImplemented);
    }
    // Of no meaning on a stream; between here and the upstream there is a connection again.
    let key = BASE64.encode(rand::random::<[u8; 16]>());
    let accept = BASE64.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, [key.as_bytes(), GUID].concat().as_slice()));
    head.method = Method::GET;
    head.version = Version::HTTP_11;
    let fields = &mut head.headers;
    fields.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    fields.insert(header::UPGRADE, HeaderValue::from_static(WEBSOCKET));
    fields.insert(header::SEC_WEBSOCKET_KEY, HeaderValue::try_from(key).map_err(|_| Refusal::Internal)?);
    Ok(Some(Handshake { accept }))
}

impl Handshake {
    /// Whether the upstream has understood it (RFC 6455 §4.1).
    pub(super) fn is_accepted(&self, headers: &HeaderMap) -> bool {
        let mut accepts = headers.get_all(header::SEC_WEBSOCKET_ACCEPT).iter();
        accepts.next().is_some_and(|accept| accept.as_bytes() == self.accept.as_bytes()) && accepts.next().is_none()
    }

    /// Makes of the head of a 101 that of an answer on a stream.
    pub(super) fn answer(head: &mut response::Parts) {
        head.status = StatusCode::OK;
        head.headers.remove(header::SEC_WEBSOCKET_ACCEPT);
        head.headers.remove(header::CONNECTION);
        head.headers.remove(header::UPGRADE);
    }
}

/// Makes of an answer what may be sent on a stream: nothing about a connection, and to a HEAD no content,
/// which the library of HTTP/1.1 leaves out by itself.
pub(super) fn fit(mut response: Response<ResponseBody>, method: &Method) -> Response<ResponseBody> {
    response.headers_mut().remove(header::CONNECTION);
    if *method != Method::HEAD {
        return response;
    }
    let (mut head, body) = response.into_parts();
    let (body, length) = body.without_content();
    if let Some(length) = length {
        head.headers.entry(header::CONTENT_LENGTH).or_insert_with(|| HeaderValue::from(length));
    }
    Response::from_parts(head, body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_to_a_key_is_the_one_of_the_standard() {
        // RFC 6455 §1.3.
        let key = [b"dGhlIHNhbXBsZSBub25jZQ==".as_slice(), GUID].concat();
        assert_eq!(BASE64.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, &key)), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn a_cookie_in_pieces_is_one() {
        for (crumbs, whole) in
            [(&["a=1"][..], "a=1"), (&["a=1", "b=2"], "a=1; b=2"), (&["a=1; x=y", "b=2", "c="], "a=1; x=y; b=2; c=")]
        {
            let mut headers = HeaderMap::new();
            for crumb in crumbs {
                headers.append(header::COOKIE, HeaderValue::from_static(crumb));
            }
            join_cookies(&mut headers);
            let fields: Vec<_> = headers.get_all(header::COOKIE).iter().collect();
            assert_eq!(fields, [whole]);
        }
    }
}
