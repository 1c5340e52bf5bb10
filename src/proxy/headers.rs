//! What goes upstream, and what comes back, besides the bodies.
//!
//! The rule is: strip first, then set. Hop-by-hop fields (RFC 9110 §7.6.1), whatever `Connection`
//! names, and every spelling of every field that upstreams may take for the gateway's word are
//! removed; only then are the gateway's own put in.

mod peer;
mod set;
mod strip;
#[cfg(test)]
mod tests;

use http::HeaderName;

pub use self::peer::{Coverage, Peer};
pub(super) use self::set::{Forwarding, identity, is_plain_length, request_id, spell_length, take_trailers};
pub(super) use self::strip::{Cleaner, HopByHop, Kept, announced, clean_trailers, remove_cookie, remove_token};

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
pub(super) const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
pub(super) const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
