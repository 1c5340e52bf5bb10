//! What is removed from a head: what ends here, what misleads, and what the gateway alone may say.

use http::header::{Entry, OccupiedEntry};
use http::{HeaderMap, HeaderName, HeaderValue, header};

use super::{TRACEPARENT, TRACESTATE};
use crate::config::{Identity, TokenPlace};
use crate::proxy::sender::DPOP;

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

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
const TE: usize = 4;
const TRAILER: usize = 5;

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
pub(in crate::proxy) struct Cleaner {
    /// By first byte of a name, the last bytes, each a bit, of those that need a closer look: most names are
    /// passed over at once.
    suspect: [u128; 128],
    /// Names never let through.
    refused: Names,
    /// Names let through from trusted proxies in their exact spelling.
    forwarding: Names,
    /// Names of fields that tokens are read from.
    tokens: Names,
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
pub(in crate::proxy) struct Kept {
    /// Some of [`FORWARDING`].
    pub(super) forwarding: bool,
    pub(super) via: bool,
    /// `traceparent` or `tracestate`.
    pub(super) trace: bool,
    /// `DPoP`.
    pub(in crate::proxy) proof: bool,
    /// Not kept, but said: that the client takes trailers (`TE`, RFC 9110 §10.1.4).
    pub(in crate::proxy) takes_trailers: bool,
    /// That it has said so to this connection, as HTTP/1.1 wants it.
    pub(in crate::proxy) names_te: bool,
}

impl Cleaner {
    /// A cleaner that knows every identity header any of `mappings` may set, and where `tokens` may be.
    #[must_use]
    pub(in crate::proxy) fn new<'a>(
        mappings: impl IntoIterator<Item = &'a Identity>,
        tokens: &'a [TokenPlace],
    ) -> Self {
        let identity = mappings.into_iter().flat_map(|mapping| {
            mapping.headers.iter().map(|(name, _)| name).chain(&mapping.account).map(HeaderName::as_str)
        });
        let refused = Names::new(identity.chain(MISLEADING));
        let forwarding = Names::new(FORWARDING);
        let unusual = (0..128_u8).filter(|byte| !byte.is_ascii_alphanumeric());
        let unusual = unusual.fold(0, |bits, byte| bits | 1_u128 << byte);
        // Whatever begins with what is left out when names are compared is looked at.
        let mut suspect = std::array::from_fn(|first| if unusual & 1 << first == 0 { 0 } else { u128::MAX });
        let noted = [DPOP, header::VIA, TRACEPARENT, TRACESTATE];
        let noted = HOP_BY_HOP.iter().chain(&noted).map(HeaderName::as_str);
        let known = refused.0.iter().chain(&forwarding.0).map(Vec::as_slice);
        for name in known.chain(noted.map(str::as_bytes)) {
            let (Some(first), Some(last)) = (name.first(), name.last()) else { continue };
            suspect[usize::from(*first)] |= unusual | 1 << last;
        }
        let tokens = Names::new(tokens.iter().filter_map(|place| match place {
            TokenPlace::Header(name) => Some(name.as_str()),
            TokenPlace::Cookie(_) => None,
        }));
        Self { suspect, refused, forwarding, tokens }
    }

    /// Removes hop-by-hop fields, what `Connection` names (but not `Host`: no upstream is asked without
    /// it), identity fields in every spelling, and forwarding fields unless the peer is `trusted`.
    pub(in crate::proxy) fn clean(&self, headers: &mut HeaderMap, trusted: bool) -> Kept {
        let mut kept = Kept::default();
        let mut hop = HopByHop::default();
        let mut gone = Vec::new();
        for (name, value) in &*headers {
            if !self.suspects(name.as_str().as_bytes()) || hop.notes(name, value) {
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
        kept.takes_trailers = hop.found & 1 << TE != 0 && takes_trailers(headers);
        kept.names_te = kept.takes_trailers && names_te(headers);
        hop.remove(headers);
        kept
    }

    /// Removes from the trailers of a request what an upstream that puts them into the head must not take for it.
    pub(in crate::proxy) fn clean_trailers(&self, trailers: &mut HeaderMap) {
        let gone: Vec<_> = trailers.keys().filter(|name| self.is_refused_behind(name)).cloned().collect();
        for name in gone {
            trailers.remove(name);
        }
        clean_trailers(trailers);
    }

    /// What `Trailer` may announce of a request, as [`announced`].
    pub(in crate::proxy) fn announced(&self, headers: &HeaderMap) -> Option<HeaderValue> {
        announced(headers, |name| self.is_refused_behind(name))
    }

    /// Whether a field of this name does not go upstream behind a body, whoever sends it.
    fn is_refused_behind(&self, name: &HeaderName) -> bool {
        let name = name.as_str();
        self.refused.has(name) || self.forwarding.has(name) || self.tokens.has(name)
    }

    /// Whether a name needs a closer look. It is ASCII.
    fn suspects(&self, name: &[u8]) -> bool {
        let (Some(first), Some(last)) = (name.first(), name.last()) else { return false };
        self.suspect.get(usize::from(*first)).is_none_or(|lasts| lasts >> (last & 127) & 1 != 0)
    }
}

/// Whether a client says that it takes trailers.
fn takes_trailers(headers: &HeaderMap) -> bool {
    let codings = headers.get_all(header::TE).iter().flat_map(|field| field.as_bytes().split(|byte| *byte == b','));
    codings.map(<[u8]>::trim_ascii).any(|coding| coding.eq_ignore_ascii_case(b"trailers"))
}

/// Whether `Connection` names `TE`.
fn names_te(headers: &HeaderMap) -> bool {
    let options = headers.get_all(header::CONNECTION).iter();
    let mut options = options.flat_map(|field| field.as_bytes().split(|byte| *byte == b','));
    options.any(|option| option.trim_ascii().eq_ignore_ascii_case(b"te"))
}

/// Fields that mean nothing, or something else, behind a body (RFC 9110 §6.5.1): whoever puts trailers into the
/// head must not be told by them how to read it, whom to believe, or what to store.
const NO_TRAILERS: [HeaderName; 22] = [
    header::AGE,
    header::AUTHORIZATION,
    header::CACHE_CONTROL,
    header::COOKIE,
    header::DATE,
    header::EXPECT,
    header::EXPIRES,
    header::FROM,
    header::HOST,
    header::LOCATION,
    header::MAX_FORWARDS,
    header::ORIGIN,
    header::PRAGMA,
    header::RANGE,
    header::RETRY_AFTER,
    header::SERVER,
    header::SET_COOKIE,
    header::STRICT_TRANSPORT_SECURITY,
    header::VARY,
    header::VIA,
    header::WARNING,
    header::WWW_AUTHENTICATE,
];

/// Removes from trailers what only a head may say, and what is the gateway's own word.
pub(in crate::proxy) fn clean_trailers(trailers: &mut HeaderMap) {
    HopByHop::of(trailers).remove(trailers);
    let gone: Vec<_> = trailers.keys().filter(|name| is_of_head(name)).cloned().collect();
    for name in gone {
        trailers.remove(name);
    }
}

/// Whether a field of this name is for a head alone.
fn is_of_head(name: &HeaderName) -> bool {
    const PREFIXES: [&str; 6] = ["access-control-", "content-", "if-", "proxy-", "sec-", "x-session-"];
    const NAMES: [&str; 5] = ["clear-site-data", "dpop", "traceparent", "tracestate", "x-request-id"];
    let text = name.as_str();
    PREFIXES.iter().any(|prefix| text.starts_with(prefix)) || NAMES.contains(&text) || NO_TRAILERS.contains(name)
}

/// What `Trailer` says will come behind the body (RFC 9110 §6.6.2), of what may: but for that HTTP/1.1 would
/// carry none of it. `None`: nothing.
pub(in crate::proxy) fn announced(
    headers: &HeaderMap,
    is_refused: impl Fn(&HeaderName) -> bool,
) -> Option<HeaderValue> {
    let fields = headers.get_all(header::TRAILER).iter();
    let names = fields.flat_map(|field| field.as_bytes().split(|byte| *byte == b','));
    let names = names.filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok());
    let may_come = |name: &HeaderName| !HOP_BY_HOP.contains(name) && !is_of_head(name) && !is_refused(name);
    let names: Vec<_> = names.filter(may_come).collect();
    let names: Vec<_> = names.iter().map(HeaderName::as_str).collect();
    if names.is_empty() { None } else { HeaderValue::try_from(names.join(", ")).ok() }
}

/// The hop-by-hop fields that a head has (RFC 9110 §7.6.1), found while its names are gone through.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::proxy) struct HopByHop {
    /// A bit for each of [`HOP_BY_HOP`].
    found: u16,
    /// Whether `Connection` says more than nearly everybody does, and may name others.
    names: bool,
}

impl HopByHop {
    /// Those of `headers`.
    pub(in crate::proxy) fn of(headers: &HeaderMap) -> Self {
        let mut found = Self::default();
        for (name, value) in headers {
            found.notes(name, value);
        }
        found
    }

    /// Takes note of a field if it is one of them.
    pub(in crate::proxy) fn notes(&mut self, name: &HeaderName, value: &HeaderValue) -> bool {
        let place = match *name {
            header::CONNECTION => {
                self.names |= value != "keep-alive" && value != "close";
                CONNECTION
            }
            header::TRANSFER_ENCODING => TRANSFER_ENCODING,
            header::PROXY_AUTHENTICATE => 2,
            header::PROXY_AUTHORIZATION => 3,
            header::TE => TE,
            header::TRAILER => TRAILER,
            header::UPGRADE => 6,
            _ if *name == KEEP_ALIVE => 7,
            _ if *name == PROXY_CONNECTION => 8,
            _ => return false,
        };
        self.found |= 1 << place;
        true
    }

    /// Whether `Transfer-Encoding` is one of them.
    pub(in crate::proxy) const fn has_transfer_encoding(self) -> bool {
        self.found & 1 << TRANSFER_ENCODING != 0
    }

    /// Whether `Trailer` is one of them.
    pub(in crate::proxy) const fn has_trailer(self) -> bool {
        self.found & 1 << TRAILER != 0
    }

    /// Removes them, and what `Connection` names.
    pub(in crate::proxy) fn remove(self, headers: &mut HeaderMap) {
        let mut left = self.found;
        if self.names {
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
    let options = field.iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    let named = options.map(<[u8]>::trim_ascii).filter(|option| {
        let is = |known: &&str| option.eq_ignore_ascii_case(known.as_bytes());
        !["keep-alive", "close", "upgrade", "host"].iter().any(is)
    });
    named.filter_map(|option| HeaderName::from_bytes(option).ok()).collect()
}

/// Removes the token that is in `place`, and leaves the rest of that field: of cookies the others, of
/// `Authorization` another scheme.
pub(in crate::proxy) fn remove_token(headers: &mut HeaderMap, place: &TokenPlace) {
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
pub(in crate::proxy) fn remove_cookie(headers: &mut HeaderMap, name: &str) {
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
