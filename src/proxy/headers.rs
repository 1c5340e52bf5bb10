//! What goes upstream, and what comes back, besides the bodies.
//!
//! The rule is: strip first, then set. Hop-by-hop fields (RFC 9110 §7.6.1), whatever `Connection`
//! names, and every spelling of every field that upstreams may take for the gateway's word are
//! removed; only then are the gateway's own put in.

use std::borrow::Cow;
use std::net::IpAddr;
use std::rc::Rc;

use http::header::{Entry, OccupiedEntry};
use http::{HeaderMap, HeaderName, HeaderValue, header};
use ipnet::IpNet;
use serde_json::Value;

use super::sender::DPOP;
use crate::config::{Identity, TokenPlace};
use crate::gate::{Gate, Verified};

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
pub(super) const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
pub(super) const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
const VIA: HeaderValue = HeaderValue::from_static("1.1 portcullis");
const HTTP: HeaderValue = HeaderValue::from_static("http");
const HTTPS: HeaderValue = HeaderValue::from_static("https");

/// Fields that end at the gateway in both directions. Their places are the bits of [`HopByHop`].
static HOP_BY_HOP: [HeaderName; 9] = [
    header::CONNECTION,
    header::TRANSFER_ENCODING,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::UPGRADE,
    KEEP_ALIVE,
    PROXY_CONNECTION,
];
const CONNECTION: usize = 0;
const TRANSFER_ENCODING: usize = 1;

/// Fields by which a proxy says whom it speaks for; believed from trusted proxies only.
const FORWARDING: [&str; 7] = [
    "client-cert",
    "client-cert-chain",
    "forwarded",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-real-ip",
];

/// Fields with which a client could make an upstream see another request than the one judged, or another
/// user: what oauth2-proxy passes by default, for which many an upstream looks unasked. The last five are
/// the gateway's own words to clients and from login services.
const MISLEADING: [&str; 18] = [
    "x-forwarded-port",
    "x-forwarded-prefix",
    "x-forwarded-server",
    "x-forwarded-uri",
    "x-forwarded-method",
    "x-original-url",
    "x-original-uri",
    "x-rewrite-url",
    "x-http-method-override",
    "x-forwarded-user",
    "x-forwarded-email",
    "x-forwarded-groups",
    "x-forwarded-preferred-username",
    "x-session-token",
    "x-session-expires",
    "x-session-refresh",
    "x-session-grant",
    "x-auth-request-account",
];

/// Removes what must not reach an upstream. Built once for a configuration.
#[derive(Debug)]
pub(super) struct Cleaner {
    /// First bytes of names that need a closer look, so that most are passed over at once.
    suspect: [bool; 256],
    /// Names never let through.
    refused: Names,
    /// Names let through from trusted proxies in their exact spelling.
    forwarding: Names,
}

/// Folded names, in order.
#[derive(Debug)]
struct Names(Vec<Vec<u8>>);

impl Names {
    fn new<'a>(names: impl IntoIterator<Item = &'a str>) -> Self {
        let mut folded: Vec<Vec<u8>> = names.into_iter().map(|name| fold(name).collect()).collect();
        folded.sort_unstable();
        Self(folded)
    }

    /// Whether it has `name`, in whatever spelling.
    fn has(&self, name: &str) -> bool {
        self.0.binary_search_by(|known| known.iter().copied().cmp(fold(name))).is_ok()
    }
}

/// A name as the sloppiest upstream reads it: letters and digits alone (`X_User_Id` is `X-User-Id` to
/// whoever turns names into environment variables).
fn fold(name: &str) -> impl Iterator<Item = u8> {
    name.bytes().filter(u8::is_ascii_alphanumeric).map(|byte| byte.to_ascii_lowercase())
}

/// Which fields that the gateway adds to are left after a cleaning: what is not there need not be looked
/// for when its own are put in.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Kept {
    /// Some of [`FORWARDING`].
    forwarding: bool,
    via: bool,
    /// `traceparent` or `tracestate`.
    trace: bool,
    /// `DPoP`.
    pub(super) proof: bool,
}

impl Cleaner {
    /// A cleaner that knows every identity header any of `mappings` may set.
    #[must_use]
    pub(super) fn new<'a>(mappings: impl IntoIterator<Item = &'a Identity>) -> Self {
        let identity = mappings.into_iter().flat_map(|mapping| {
            mapping.headers.iter().map(|(name, _)| name).chain(&mapping.account).map(HeaderName::as_str)
        });
        let refused = Names::new(identity.chain(MISLEADING));
        let forwarding = Names::new(FORWARDING);
        let known = refused.0.iter().chain(&forwarding.0).filter_map(|name| name.first().copied());
        // `DPoP`, `Via`, `traceparent` and `tracestate` are looked for as well.
        let hop = HOP_BY_HOP.iter().filter_map(|name| name.as_str().bytes().next());
        let mut suspect = [false; 256];
        for first in known.chain(hop).chain(*b"dvt") {
            suspect[usize::from(first)] = true;
        }
        for other in 0..=255_u8 {
            suspect[usize::from(other)] |= !other.is_ascii_alphanumeric();
        }
        Self { suspect, refused, forwarding }
    }

    /// Removes hop-by-hop fields, what `Connection` names (but not `Host`: no upstream is asked without
    /// it), identity fields in every spelling, and forwarding fields unless the peer is `trusted`.
    pub(super) fn clean(&self, headers: &mut HeaderMap, trusted: bool) -> Kept {
        let mut kept = Kept::default();
        let mut hop = HopByHop::default();
        let mut gone = Vec::new();
        for name in headers.keys() {
            let Some(first) = name.as_str().as_bytes().first() else { continue };
            if !self.suspect[usize::from(*first)] || hop.notes(name) {
                continue;
            }
            let forwarding = self.forwarding.has(name.as_str());
            if self.refused.has(name.as_str()) || forwarding && !(trusted && FORWARDING.contains(&name.as_str())) {
                gone.push(name.clone());
                continue;
            }
            kept.forwarding |= forwarding;
            kept.proof |= *name == DPOP;
            kept.via |= *name == header::VIA;
            kept.trace |= *name == TRACEPARENT || *name == TRACESTATE;
        }
        for name in gone {
            headers.remove(name);
        }
        hop.remove(headers);
        kept
    }
}

/// The hop-by-hop fields that a head has (RFC 9110 §7.6.1), found while its names are gone through.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct HopByHop {
    /// A bit for each of [`HOP_BY_HOP`].
    found: u16,
}

impl HopByHop {
    /// Those of `headers`.
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let mut found = Self::default();
        for name in headers.keys() {
            found.notes(name);
        }
        found
    }

    /// Takes note of `name` if it is one of them.
    fn notes(&mut self, name: &HeaderName) -> bool {
        let place = match *name {
            header::CONNECTION => CONNECTION,
            header::TRANSFER_ENCODING => TRANSFER_ENCODING,
            header::PROXY_AUTHENTICATE => 2,
            header::PROXY_AUTHORIZATION => 3,
            header::TE => 4,
            header::TRAILER => 5,
            header::UPGRADE => 6,
            _ if *name == KEEP_ALIVE => 7,
            _ if *name == PROXY_CONNECTION => 8,
            _ => return false,
        };
        self.found |= 1 << place;
        true
    }

    /// Whether `Transfer-Encoding` is one of them.
    pub(super) const fn has_transfer_encoding(self) -> bool {
        self.found & 1 << TRANSFER_ENCODING != 0
    }

    /// Removes them, and what `Connection` names.
    pub(super) fn remove(self, headers: &mut HeaderMap) {
        let mut left = self.found;
        if left & 1 << CONNECTION != 0 {
            left &= !(1 << CONNECTION);
            let Entry::Occupied(field) = headers.entry(header::CONNECTION) else { return };
            let named = connection_options(&field);
            field.remove();
            for name in named {
                headers.remove(name);
            }
        }
        while left != 0 {
            if let Some(name) = HOP_BY_HOP.get(left.trailing_zeros() as usize) {
                headers.remove(name);
            }
            left &= left - 1;
        }
    }
}

/// The field names that `Connection` lists (RFC 9110 §7.6.1), besides those that go or stay anyway.
fn connection_options(field: &OccupiedEntry<'_, HeaderValue>) -> Vec<HeaderName> {
    let mut values = field.iter();
    if let (Some(only), None) = (values.next(), values.next())
        && (only == "keep-alive" || only == "close")
    {
        // What nearly every server says.
        return Vec::new();
    }
    let options = field.iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    let named = options.map(<[u8]>::trim_ascii).filter(|option| {
        let is = |known: &&str| option.eq_ignore_ascii_case(known.as_bytes());
        !["keep-alive", "close", "upgrade", "host"].iter().any(is)
    });
    named.filter_map(|option| HeaderName::from_bytes(option).ok()).collect()
}

/// Writes `length`, as it was understood, where a head says what length its body has: once, and without
/// zeros before it. A head that says none is left alone.
pub(super) fn spell_length(headers: &mut HeaderMap, length: u64) {
    let mut said = headers.get_all(header::CONTENT_LENGTH).iter();
    let plain = |field: &HeaderValue| {
        let digits = field.as_bytes();
        // The parser has read a number in it; in plain digits there is one way to write that.
        digits.iter().all(u8::is_ascii_digit) && (!digits.starts_with(b"0") || digits.len() == 1)
    };
    match (said.next(), said.next()) {
        (None, _) => {}
        (Some(field), None) if plain(field) => {}
        (Some(_), _) => drop(headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length))),
    }
}

/// Removes the token that is in `place`, and leaves the rest of that field: of cookies the others, of
/// `Authorization` another scheme.
pub(super) fn remove_token(headers: &mut HeaderMap, place: &TokenPlace) {
    match place {
        TokenPlace::Header(header::AUTHORIZATION) => {
            let Entry::Occupied(field) = headers.entry(header::AUTHORIZATION) else { return };
            let is = |scheme: &[u8]| {
                field.get().as_bytes().get(..scheme.len()).is_some_and(|it| it.eq_ignore_ascii_case(scheme))
            };
            if is(b"bearer ") || is(b"dpop ") {
                field.remove();
            }
        }
        TokenPlace::Header(name) => {
            headers.remove(name);
        }
        TokenPlace::Cookie(name) => remove_cookie(headers, name),
    }
}

/// Removes every cookie called `name`.
pub(super) fn remove_cookie(headers: &mut HeaderMap, name: &str) {
    let names_it = |pair: &[u8]| {
        let pair = pair.trim_ascii();
        let end = pair.iter().position(|byte| *byte == b'=').unwrap_or(pair.len());
        pair[..end].trim_ascii() == name.as_bytes()
    };
    let mut pairs = headers.get_all(header::COOKIE).iter().flat_map(|it| it.as_bytes().split(|byte| *byte == b';'));
    if !pairs.any(names_it) {
        return;
    }
    let fields: Vec<_> = headers.get_all(header::COOKIE).iter().cloned().collect();
    headers.remove(header::COOKIE);
    for field in fields {
        let kept: Vec<_> = field
            .as_bytes()
            .split(|byte| *byte == b';')
            .filter(|pair| !names_it(pair) && !pair.trim_ascii().is_empty())
            .map(<[u8]>::trim_ascii)
            .collect();
        if !kept.is_empty()
            && let Ok(value) = HeaderValue::from_bytes(&kept.join(&b"; "[..]))
        {
            headers.append(header::COOKIE, value);
        }
    }
}

/// Where a request came from, prepared once for a connection.
#[derive(Clone, Debug)]
pub struct Peer {
    /// The address the connection came from.
    pub address: IpAddr,
    /// The same as a field value.
    text: HeaderValue,
    /// Whether the connection is protected by TLS that ends here.
    secured: bool,
    /// The SHA-256 of the certificate, DER, that the client has proven to hold.
    certificate: Option<[u8; 32]>,
}

impl Peer {
    /// The peer at `address`.
    #[must_use]
    pub fn new(address: IpAddr) -> Self {
        let address = address.to_canonical();
        let text = HeaderValue::from_str(&address.to_string()).unwrap_or(HeaderValue::from_static("unknown"));
        Self { address, text, secured: false, certificate: None }
    }

    /// The peer at `address` of a TLS connection, and the SHA-256 of its certificate if it has shown one.
    #[must_use]
    pub fn secured(address: IpAddr, certificate: Option<[u8; 32]>) -> Self {
        Self { secured: true, certificate, ..Self::new(address) }
    }

    /// The scheme that its requests come by.
    #[must_use]
    pub(super) const fn scheme(&self) -> &'static str {
        if self.secured { "https" } else { "http" }
    }

    /// The SHA-256 of the certificate, DER, that it connected with.
    #[must_use]
    pub(super) const fn certificate(&self) -> Option<[u8; 32]> {
        self.certificate
    }

    /// Whether its forwarding fields are believed.
    #[must_use]
    pub(super) fn is_trusted(&self, proxies: &[IpNet]) -> bool {
        proxies.iter().any(|net| net.contains(&self.address))
    }

    /// The client: the last address in `X-Forwarded-For` that is not a trusted proxy's, or the peer.
    #[must_use]
    pub(super) fn client(&self, headers: &HeaderMap, proxies: &[IpNet]) -> IpAddr {
        if !self.is_trusted(proxies) {
            return self.address;
        }
        let fields: Vec<_> = headers.get_all(&X_FORWARDED_FOR).iter().filter_map(|field| field.to_str().ok()).collect();
        let mut client = self.address;
        for entry in fields.iter().rev().flat_map(|field| field.rsplit(',')) {
            let Ok(address) = entry.trim().parse::<IpAddr>() else { break };
            client = address.to_canonical();
            if !proxies.iter().any(|net| net.contains(&client)) {
                break;
            }
        }
        client
    }
}

/// Says whom the request comes from. The request has been cleaned: what was `kept` of these fields came
/// from a trusted proxy, and is added to.
pub(super) fn set_forwarding(
    headers: &mut HeaderMap,
    peer: &Peer,
    host: Option<&HeaderValue>,
    request_id: &HeaderValue,
    kept: Kept,
) {
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
    if kept.via {
        append(headers, &header::VIA, &VIA);
    } else {
        headers.insert(header::VIA, VIA);
    }
    if kept.trace && !is_traceparent(headers) {
        headers.remove(&TRACEPARENT);
        headers.remove(&TRACESTATE);
    }
    headers.insert(X_REQUEST_ID, request_id.clone());
}

/// A trusted proxy's request id, if it is a sensible one.
#[must_use]
pub(super) fn request_id(headers: &HeaderMap, trusted: bool) -> Option<HeaderValue> {
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
pub(super) fn identity(mapping: &Identity, gate: &Gate, verified: &Verified) -> Rc<[(HeaderName, HeaderValue)]> {
    let fields = mapping.headers.iter();
    let claims = fields.filter_map(|(name, claim)| Some((name.clone(), claim_value(verified.claims.find(claim)?)?)));
    let account = mapping.account.as_ref().and_then(|name| Some((name.clone(), text_value(&gate.account(verified)?)?)));
    claims.chain(account).collect()
}

/// A claim as a field value: text as it is, numbers and booleans as JSON, lists joined by commas,
/// objects as JSON.
fn claim_value(claim: &Value) -> Option<HeaderValue> {
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn map(fields: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            headers.append(name, HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    fn cleaner() -> Cleaner {
        let header = HeaderName::from_static("x-auth-request-user");
        Cleaner::new([&Identity {
            headers: vec![(header, "sub".to_owned())],
            account: Some(HeaderName::from_static("remote-account")),
        }])
    }

    #[test]
    fn every_spelling_of_an_identity_field_is_removed() {
        let spellings = [
            "X-Auth-Request-User",
            "x_auth_request_user",
            "X.Auth.Request.User",
            "_x-auth!request#user",
            "Remote-Account",
            "remote_account",
            "X-Auth-Request-Account",
        ];
        for spelling in spellings {
            let mut headers = map(&[(spelling, "admin"), ("accept", "*/*")]);
            cleaner().clean(&mut headers, true);
            assert_eq!(headers.len(), 1, "{spelling}");
        }
    }

    #[test]
    fn no_two_claims_look_alike_in_a_field() {
        for (value, field) in [
            (json!("plain text"), "plain text"),
            (json!(" bob "), "%20bob%20"),
            (json!("a,b"), "a,b"),
            (json!(["a,b", " c", "d"]), "a%2Cb,%20c,d"),
            (json!("50%"), "50%25"),
            (json!("J\u{fc}rgen\n"), "J%C3%BCrgen%0A"),
            (json!(5), "5"),
            (json!([true, {"a": 1}]), "true,{\"a\":1}"),
        ] {
            assert_eq!(claim_value(&value).unwrap(), field, "{value}");
        }
        assert_eq!(claim_value(&Value::Null), None);
    }

    #[test]
    fn hop_by_hop_fields_and_what_connection_names_are_removed() {
        let mut headers = map(&[
            ("connection", "close, X-Secret"),
            ("connection", "keep-alive"),
            ("x-secret", "1"),
            ("keep-alive", "timeout=5"),
            ("te", "trailers"),
            ("upgrade", "h2c"),
            ("proxy-authorization", "Basic eA=="),
            ("proxy-authenticate", "Basic"),
            ("proxy-connection", "keep-alive"),
            ("trailer", "x"),
            ("transfer-encoding", "chunked"),
            ("cookie", "a=1"),
        ]);
        let mut response = headers.clone();
        cleaner().clean(&mut headers, false);
        assert_eq!(headers.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["cookie"]);
        let hop = HopByHop::of(&response);
        assert!(hop.has_transfer_encoding());
        hop.remove(&mut response);
        assert_eq!(response.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["cookie"]);
    }

    #[test]
    fn a_length_is_spelled_once_and_plainly() {
        for (fields, spelled) in [
            (&[][..], &[][..]),
            (&["5"], &["5"]),
            (&["0"], &["0"]),
            (&["05"], &["5"]),
            (&["5", "5"], &["5"]),
            (&["5, 5"], &["5"]),
            (&["+5"], &["5"]),
        ] {
            let mut headers = map(&fields.iter().map(|it| ("content-length", *it)).collect::<Vec<_>>());
            spell_length(&mut headers, if fields.contains(&"0") { 0 } else { 5 });
            let found: Vec<_> = headers.get_all("content-length").iter().map(|it| it.to_str().unwrap()).collect();
            assert_eq!(found, spelled, "{fields:?}");
        }
    }

    #[test]
    fn connection_does_not_take_the_host_away() {
        let mut headers = map(&[("host", "a.example"), ("connection", "host, Accept"), ("accept", "*/*")]);
        cleaner().clean(&mut headers, false);
        assert_eq!(headers.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["host"]);
    }

    #[test]
    fn forwarding_fields_are_believed_from_trusted_peers_only() {
        let given =
            || map(&[("x-forwarded-for", "1.2.3.4"), ("x_forwarded_for", "6.6.6.6"), ("forwarded", "for=1.2.3.4")]);
        let mut headers = given();
        cleaner().clean(&mut headers, false);
        assert!(headers.is_empty());
        let mut headers = given();
        let kept = cleaner().clean(&mut headers, true);
        assert_eq!(headers.len(), 2);
        let peer = Peer::new([10, 0, 0, 1].into());
        set_forwarding(&mut headers, &peer, None, &HeaderValue::from_static("id"), kept);
        assert_eq!(headers["x-forwarded-for"], "1.2.3.4, 10.0.0.1");
    }

    #[test]
    fn the_client_is_the_last_address_that_is_not_a_proxy() {
        let proxies = ["10.0.0.0/8".parse().unwrap()];
        let peer = Peer::new([10, 0, 0, 1].into());
        for (field, client) in [
            ("1.1.1.1, 2.2.2.2, 10.0.0.9", "2.2.2.2"),
            ("2.2.2.2", "2.2.2.2"),
            ("nonsense, 10.0.0.9", "10.0.0.9"),
            ("10.0.0.8", "10.0.0.8"),
        ] {
            let found = peer.client(&map(&[("x-forwarded-for", field)]), &proxies);
            assert_eq!(found.to_string(), client, "{field}");
        }
        let stranger = Peer::new([9, 9, 9, 9].into());
        assert_eq!(stranger.client(&map(&[("x-forwarded-for", "1.1.1.1")]), &proxies).to_string(), "9.9.9.9");
    }

    #[test]
    fn one_cookie_is_removed_and_the_others_stay() {
        for (cookies, left) in [
            ("a=1; __Host-session=x; b=2", Some("a=1; b=2")),
            ("__Host-session=x", None),
            ("__Host-session=x;__Host-session=y; c=3", Some("c=3")),
            ("a=__Host-session=x", Some("a=__Host-session=x")),
        ] {
            let mut headers = map(&[("cookie", cookies)]);
            remove_cookie(&mut headers, "__Host-session");
            assert_eq!(headers.get("cookie").map(|value| value.to_str().unwrap()), left, "{cookies}");
        }
    }

    #[test]
    fn broken_trace_context_is_dropped_and_a_good_one_kept() {
        let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        for (value, kept) in [(good, true), ("00-zz-00f067aa0ba902b7-01", false), ("nonsense", false)] {
            let mut headers = map(&[("traceparent", value), ("tracestate", "a=1"), ("via", "1.0 edge")]);
            let left = cleaner().clean(&mut headers, false);
            let peer = Peer::new([10, 0, 0, 1].into());
            set_forwarding(&mut headers, &peer, None, &HeaderValue::from_static("id"), left);
            assert_eq!(headers["via"], "1.0 edge, 1.1 portcullis");
            assert_eq!(headers.contains_key("traceparent"), kept, "{value}");
            assert_eq!(headers.contains_key("tracestate"), kept, "{value}");
        }
    }
}
