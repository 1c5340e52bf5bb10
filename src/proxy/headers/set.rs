//! What is put into a head: whom the request comes from, who its user is, how long its body is.

use std::borrow::Cow;
use std::rc::Rc;

use http::{HeaderMap, HeaderName, HeaderValue, Version, header};
use serde_json::Value;

use super::{Kept, Peer, TRACEPARENT, TRACESTATE, X_FORWARDED_FOR, X_FORWARDED_HOST, X_FORWARDED_PROTO};
use crate::config::Identity;
use crate::gate::{Gate, Verified};

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const VIA: HeaderValue = HeaderValue::from_static("1.1 portcullis");
const VIA_HTTP2: HeaderValue = HeaderValue::from_static("2.0 portcullis");
const HTTP: HeaderValue = HeaderValue::from_static("http");
const HTTPS: HeaderValue = HeaderValue::from_static("https");

/// Whom a request comes from. It is said last, and anew in a head that is sent once more: what can be said again
/// need not be kept.
#[derive(Debug)]
pub(in crate::proxy) struct Forwarding {
    /// The version it came in.
    pub(in crate::proxy) version: Version,
    /// The host that it names.
    pub(in crate::proxy) host: Option<HeaderValue>,
    /// What the cleaning has left of these fields: it came from a trusted proxy, and is added to.
    pub(in crate::proxy) kept: Kept,
}

impl Forwarding {
    /// Says it in a head that was cleaned.
    pub(in crate::proxy) fn set(&self, headers: &mut HeaderMap, peer: &Peer, request_id: &HeaderValue) {
        let Self { version, host, kept } = self;
        if kept.forwarding {
            append(headers, &X_FORWARDED_FOR, &peer.text);
        } else {
            headers.insert(X_FORWARDED_FOR, peer.text.clone());
        }
        if !(kept.forwarding && headers.contains_key(&X_FORWARDED_PROTO)) {
            headers.insert(X_FORWARDED_PROTO, if peer.secured { HTTPS } else { HTTP });
        }
        if let Some(host) = host
            && !(kept.forwarding && headers.contains_key(&X_FORWARDED_HOST))
        {
            headers.insert(X_FORWARDED_HOST, host.clone());
        }
        let via = if *version == Version::HTTP_2 { VIA_HTTP2 } else { VIA };
        if kept.via {
            append(headers, &header::VIA, &via);
        } else {
            headers.insert(header::VIA, via);
        }
        if kept.trace && !is_traceparent(headers) {
            headers.remove(&TRACEPARENT);
            headers.remove(&TRACESTATE);
        }
        headers.insert(X_REQUEST_ID, request_id.clone());
    }
}

/// Says that trailers are taken (RFC 9110 §10.1.4), to this connection, as HTTP/1.1 wants it.
pub(in crate::proxy) fn take_trailers(headers: &mut HeaderMap) {
    headers.insert(header::TE, HeaderValue::from_static("trailers"));
    headers.insert(header::CONNECTION, HeaderValue::from_static("TE"));
}

/// A trusted proxy's request id, if it is a sensible one.
#[must_use]
pub(in crate::proxy) fn request_id(headers: &HeaderMap, trusted: bool) -> Option<HeaderValue> {
    let id = if trusted { headers.get(&X_REQUEST_ID) } else { None }?;
    let fits = (1..=128).contains(&id.len()) && id.as_bytes().iter().all(u8::is_ascii_graphic);
    fits.then(|| id.clone())
}

/// Whether there is one well-formed `traceparent` (W3C Trace Context §3.2).
fn is_traceparent(headers: &HeaderMap) -> bool {
    let mut fields = headers.get_all(&TRACEPARENT).iter();
    let (Some(value), None) = (fields.next(), fields.next()) else { return false };
    let mut parts = value.as_bytes().split(|byte| *byte == b'-');
    let mut part = |length: usize| {
        parts.next().is_some_and(|part| {
            part.len() == length && part.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
        })
    };
    part(2) && part(32) && part(16) && part(2) && parts.next().is_none() && !value.as_bytes().starts_with(b"ff")
}

/// Adds to a list field, keeping what is there.
fn append(headers: &mut HeaderMap, name: &HeaderName, value: &HeaderValue) {
    let joined = {
        let mut fields = headers.get_all(name).iter();
        match fields.next() {
            None => None,
            Some(first) => {
                let mut text = first.as_bytes().to_vec();
                for field in fields.chain([value]) {
                    text.extend_from_slice(b", ");
                    text.extend_from_slice(field.as_bytes());
                }
                HeaderValue::from_bytes(&text).ok()
            }
        }
    };
    headers.insert(name.clone(), joined.unwrap_or_else(|| value.clone()));
}

/// The identity fields of a token under one mapping. A missing or null claim gives no field.
#[must_use]
pub(in crate::proxy) fn identity(
    mapping: &Identity,
    gate: &Gate,
    verified: &Verified,
) -> Rc<[(HeaderName, HeaderValue)]> {
    let fields = mapping.headers.iter();
    let claims = fields.filter_map(|(name, claim)| Some((name.clone(), claim_value(verified.claims.find(claim)?)?)));
    let account = mapping.account.as_ref().and_then(|name| Some((name.clone(), text_value(&gate.account(verified)?)?)));
    claims.chain(account).collect()
}

/// A claim as a field value: text as it is, numbers and booleans as JSON, lists joined by commas,
/// objects as JSON.
pub(super) fn claim_value(claim: &Value) -> Option<HeaderValue> {
    let mut field = Vec::new();
    match claim {
        Value::Null => return None,
        Value::Array(members) => {
            for (place, member) in members.iter().enumerate() {
                if place > 0 {
                    field.push(b',');
                }
                write(&mut field, member, true);
            }
        }
        single => write(&mut field, single, false),
    }
    HeaderValue::from_bytes(&field).ok()
}

/// A text as a field value.
fn text_value(text: &str) -> Option<HeaderValue> {
    let mut field = Vec::new();
    write_text(&mut field, text, false);
    HeaderValue::from_bytes(&field).ok()
}

/// Appends one value. Percent-encoded is what a field may not carry, what its readers would trim or,
/// in a list, split at, and `%` itself: no two values look alike to an upstream.
fn write(field: &mut Vec<u8>, value: &Value, in_list: bool) {
    let text: Cow<'_, str> = match value {
        Value::String(text) => text.into(),
        other => other.to_string().into(),
    };
    write_text(field, &text, in_list);
}

fn write_text(field: &mut Vec<u8>, text: &str, in_list: bool) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    for (place, byte) in text.bytes().enumerate() {
        let plain = match byte {
            b' ' => place != 0 && place + 1 != text.len(),
            b',' => !in_list,
            b'%' => false,
            other => other.is_ascii_graphic(),
        };
        if plain {
            field.push(byte);
        } else {
            field.extend_from_slice(&[b'%', DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
        }
    }
}

/// Writes `length`, as it was understood, where a head says what length its body has: once, and without
/// zeros before it. A head that says none is left alone.
pub(in crate::proxy) fn spell_length(headers: &mut HeaderMap, length: u64) {
    let mut said = headers.get_all(header::CONTENT_LENGTH).iter();
    match (said.next(), said.next()) {
        (None, _) => {}
        (Some(field), None) if is_plain_length(field) => {}
        (Some(_), _) => drop(headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length))),
    }
}

/// Whether a length, in which the parser has read a number, is written in the one way there is in plain digits.
pub(in crate::proxy) fn is_plain_length(field: &HeaderValue) -> bool {
    let digits = field.as_bytes();
    digits.iter().all(u8::is_ascii_digit) && (!digits.starts_with(b"0") || digits.len() == 1)
}
