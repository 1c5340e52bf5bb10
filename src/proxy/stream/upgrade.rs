//! Which requests become tunnels (RFC 9110 §7.8).
//!
//! A route names the protocols it lets through. Anything else that asks for an upgrade is a request like
//! any other, and goes on without: within a tunnel the gateway judges nothing, so that it is opened only
//! where somebody has said what for.

use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Version, header};

use crate::config::Route;
use crate::proxy::http2::Handshake;

const UPGRADE: HeaderValue = HeaderValue::from_static("Upgrade");
const WEBSOCKET: &str = "websocket";

/// An upgrade that a request asks for and its route allows.
#[derive(Debug)]
pub(in crate::proxy) struct Upgrade {
    protocol: HeaderValue,
    /// The handshake of a WebSocket that opens on an HTTP/2 stream.
    handshake: Option<Handshake>,
}

impl Upgrade {
    /// What a request without a body asks for, if `route` allows it. Of several protocols it is the first
    /// that is allowed.
    pub(in crate::proxy) fn asked(route: &Route, head: &Parts) -> Option<Self> {
        if route.upgrades.is_empty() || head.version != Version::HTTP_11 || head.method != Method::GET {
            return None;
        }
        if !list(&head.headers, header::CONNECTION).any(|option| option.eq_ignore_ascii_case(b"upgrade")) {
            return None;
        }
        let is_allowed = |wanted: &&[u8]| route.upgrades.iter().any(|it| wanted.eq_ignore_ascii_case(it.as_bytes()));
        let wanted = list(&head.headers, header::UPGRADE).find(is_allowed)?;
        Some(Self { protocol: HeaderValue::from_bytes(wanted).ok()?, handshake: None })
    }

    /// The same, on a stream if there is a `handshake` for it.
    pub(in crate::proxy) fn on_stream(self, handshake: Option<Handshake>) -> Self {
        Self { handshake, ..self }
    }

    /// Whether it is on a stream.
    pub(in crate::proxy) const fn is_on_stream(&self) -> bool {
        self.handshake.is_some()
    }

    /// Whether the tunnel is to be of WebSocket frames.
    pub(in crate::proxy) fn is_websocket(&self) -> bool {
        self.protocol.as_bytes().eq_ignore_ascii_case(WEBSOCKET.as_bytes())
    }

    /// Whether a 101 with these fields grants just that.
    pub(in crate::proxy) fn is_granted(&self, headers: &HeaderMap) -> bool {
        let mut granted = list(headers, header::UPGRADE);
        granted.next().is_some_and(|it| it.eq_ignore_ascii_case(self.protocol.as_bytes()))
            && granted.next().is_none()
            && self.handshake.as_ref().is_none_or(|handshake| handshake.is_accepted(headers))
    }

    /// Says in a cleaned head, of either direction, that the connection changes.
    pub(in crate::proxy) fn announce(&self, headers: &mut HeaderMap) {
        headers.insert(header::CONNECTION, UPGRADE);
        headers.insert(header::UPGRADE, self.protocol.clone());
    }
}

/// The members of a list field.
fn list(headers: &HeaderMap, name: header::HeaderName) -> impl Iterator<Item = &[u8]> {
    let fields = headers.get_all(name).into_iter();
    let members = fields.flat_map(|field| field.as_bytes().split(|byte| *byte == b','));
    members.map(<[u8]>::trim_ascii).filter(|member| !member.is_empty())
}
