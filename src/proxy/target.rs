//! What a request is addressed to, read once and strictly: method, host, path, framing.
//!
//! hyper has parsed the message; what it lets through and two servers could read differently is
//! refused here, before any route is looked for.

use std::borrow::Cow;

use http::{HeaderMap, HeaderValue, Method, Uri, Version, header};

use super::answer::Refusal;
use super::path::{self, Path};
use super::sender::is_same_authority;

/// A request target that has one meaning.
#[derive(Debug)]
pub(super) struct Target<'r> {
    /// The host in lower case, without port or final dot: what routes match. Empty for HTTP/1.0
    /// without `Host`.
    pub(super) host: Cow<'r, str>,
    /// The `Host` field to go upstream: the one that came, or the authority of an absolute-form target,
    /// which overrides it (RFC 9112 §3.2.2).
    pub(super) named: Option<HeaderValue>,
    /// The same as text.
    pub(super) authority: Option<&'r str>,
    /// Whether the target is in absolute form.
    pub(super) absolute: bool,
    /// The path in normal form.
    pub(super) path: Path<'r>,
    /// The query, without `?`.
    pub(super) query: Option<&'r str>,
    /// Whether there is an `Expect` field.
    pub(super) expects: bool,
    /// Whether there is a `Content-Length` field.
    pub(super) states_length: bool,
}

/// Methods that are forwarded: those of RFC 9110 and RFC 5789, and the registered extensions that
/// `http` does not name. `CONNECT` and `TRACE` address the gateway itself, which offers neither.
const EXTENSIONS: [&str; 31] = [
    "ACL",
    "BASELINE-CONTROL",
    "BIND",
    "CHECKIN",
    "CHECKOUT",
    "COPY",
    "LABEL",
    "LINK",
    "LOCK",
    "MERGE",
    "MKACTIVITY",
    "MKCALENDAR",
    "MKCOL",
    "MKREDIRECTREF",
    "MKWORKSPACE",
    "MOVE",
    "ORDERPATCH",
    "PROPFIND",
    "PROPPATCH",
    "PURGE",
    "QUERY",
    "REBIND",
    "REPORT",
    "SEARCH",
    "UNBIND",
    "UNCHECKOUT",
    "UNLINK",
    "UNLOCK",
    "UPDATE",
    "UPDATEREDIRECTREF",
    "VERSION-CONTROL",
];

/// Reads the target of a request.
///
/// # Errors
///
/// The refusal to answer with when it is ambiguous or not served.
pub(super) fn read<'r>(
    method: &Method,
    uri: &'r Uri,
    version: Version,
    headers: &'r HeaderMap,
) -> Result<Target<'r>, Refusal> {
    check_method(method)?;
    let said = survey(headers)?;
    let (host, named, text, absolute) = match uri.authority() {
        None => match said.host(version == Version::HTTP_10)? {
            None => ("", None, None, false),
            Some((host, text, field)) => (host, Some(field.clone()), Some(text), false),
        },
        Some(authority) => {
            let field = said.host(matches!(version, Version::HTTP_10 | Version::HTTP_2))?;
            let scheme = uri.scheme_str().unwrap_or_default();
            // In HTTP/2 the authority stands in the place of Host, and must not differ from it (RFC 9113 §8.3.1).
            if version == Version::HTTP_2
                && let Some((_, text, _)) = field
                && !is_same_authority(text, authority.as_str(), scheme)
            {
                return Err(Refusal::BadRequest("the Host field differs from the authority"));
            }
            if !matches!(uri.scheme_str(), Some("http" | "https")) {
                return Err(Refusal::BadRequest("the request target is not a path"));
            }
            let host = bare_host(authority.as_str())?;
            let value = HeaderValue::from_str(authority.as_str());
            let value = value.map_err(|_| Refusal::BadRequest("the host is malformed"))?;
            (host, Some(value), Some(authority.as_str()), true)
        }
    };
    let query = uri.query();
    if query.is_some_and(|query| !query.bytes().all(|byte| byte > 0x20 && byte < 0x7f)) {
        return Err(Refusal::BadRequest("the query has a byte that is not visible ASCII"));
    }
    let path = match uri.path() {
        "" => "/",
        path => path,
    };
    let path = path::normalise(path).map_err(Refusal::BadPath)?;
    let Survey { expects, states_length, .. } = said;
    let host = canonical_host(host);
    Ok(Target { host, named, authority: text, absolute, path, query, expects, states_length })
}

fn check_method(method: &Method) -> Result<(), Refusal> {
    match *method {
        Method::GET | Method::HEAD | Method::POST | Method::PUT | Method::DELETE | Method::OPTIONS | Method::PATCH => {
            Ok(())
        }
        Method::CONNECT | Method::TRACE => Err(Refusal::MethodNotAllowed("")),
        _ if EXTENSIONS.contains(&method.as_str()) => Ok(()),
        _ => Err(Refusal::MethodNotImplemented),
    }
}

/// What a head says about the message itself, gathered in one pass over its fields.
#[derive(Debug, Default)]
struct Survey<'r> {
    host: Option<&'r HeaderValue>,
    several_hosts: bool,
    expects: bool,
    states_length: bool,
}

/// Reads the fields that say how to read the message. hyper refuses most broken framing; some spellings
/// it accepts are refused here (RFC 9112 §6.1).
fn survey(headers: &HeaderMap) -> Result<Survey<'_>, Refusal> {
    let mut said = Survey::default();
    let (mut coded, mut unmet) = (false, false);
    for (name, value) in headers {
        match *name {
            header::HOST => said.several_hosts |= said.host.replace(value).is_some(),
            header::CONTENT_LENGTH => said.states_length = true,
            header::TRANSFER_ENCODING => {
                if coded || !value.as_bytes().eq_ignore_ascii_case(b"chunked") {
                    return Err(Refusal::BadRequest("the only transfer coding is chunked"));
                }
                coded = true;
            }
            header::EXPECT => {
                said.expects = true;
                unmet |= !value.as_bytes().eq_ignore_ascii_case(b"100-continue");
            }
            _ => {}
        }
    }
    if unmet { Err(Refusal::ExpectationFailed) } else { Ok(said) }
}

impl<'r> Survey<'r> {
    /// The one `Host` field, bare, as text and as it came: RFC 9112 §3.2 wants exactly one from HTTP/1.1 on.
    fn host(&self, optional: bool) -> Result<Option<(&'r str, &'r str, &'r HeaderValue)>, Refusal> {
        if self.several_hosts {
            return Err(Refusal::BadRequest("there are several Host fields"));
        }
        let Some(field) = self.host else {
            return if optional { Ok(None) } else { Err(Refusal::BadRequest("the Host field is missing")) };
        };
        let text = field.to_str().map_err(|_| Refusal::BadRequest("the host is malformed"))?;
        Ok(Some((bare_host(text)?, text, field)))
    }
}

/// The name or address in `uri-host [":" port]` (RFC 9110 §7.2), and nothing else may be in it.
fn bare_host(host: &str) -> Result<&str, Refusal> {
    let malformed = Err(Refusal::BadRequest("the host is malformed"));
    let (bare, name, port) = match host.strip_prefix('[') {
        Some(rest) => {
            let Some((address, port)) = rest.split_once(']') else { return malformed };
            if address.parse::<std::net::Ipv6Addr>().is_err() {
                return malformed;
            }
            (address, "v6", port)
        }
        None => {
            let of_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
            let end = host.bytes().position(|byte| !of_name(byte)).unwrap_or(host.len());
            let (name, port) = host.split_at(end);
            (name, name, port)
        }
    };
    let port_fits = match port.strip_prefix(':') {
        None => port.is_empty(),
        Some(digits) => {
            digits.is_empty() || (digits.bytes().all(|byte| byte.is_ascii_digit()) && digits.parse::<u16>().is_ok())
        }
    };
    let name_fits = (1..=255).contains(&name.len());
    if port_fits && name_fits { Ok(bare) } else { malformed }
}

/// A bare host in lower case and without final dot, so that one host has one name.
fn canonical_host(name: &str) -> Cow<'_, str> {
    let name = name.strip_suffix('.').unwrap_or(name);
    if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
        Cow::Owned(name.to_ascii_lowercase())
    } else {
        Cow::Borrowed(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(fields: &[(&'static str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in fields {
            map.append(*name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        map
    }

    fn host_of(uri: &str, fields: &[(&'static str, &str)]) -> Option<String> {
        let (uri, headers) = (uri.parse::<Uri>().unwrap(), headers(fields));
        read(&Method::GET, &uri, Version::HTTP_11, &headers).ok().map(|target| target.host.into_owned())
    }

    #[test]
    fn a_host_has_one_name() {
        for (host, name) in [
            ("example.com", Some("example.com")),
            ("Example.COM:8080", Some("example.com")),
            ("example.com.", Some("example.com")),
            ("[::1]:80", Some("::1")),
            ("127.0.0.1", Some("127.0.0.1")),
            ("", None),
            ("user@example.com", None),
            ("example.com/path", None),
            ("a, b", None),
            ("a b", None),
            ("a:b", None),
            ("a:99999", None),
            ("[zz]", None),
        ] {
            assert_eq!(host_of("/", &[("host", host)]).as_deref(), name, "{host}");
        }
        assert_eq!(host_of("/", &[]), None, "HTTP/1.1 without Host");
        assert_eq!(host_of("/", &[("host", "a"), ("host", "a")]), None, "two Host fields");
    }

    #[test]
    fn the_authority_of_an_absolute_target_wins() {
        let (uri, headers) = ("http://inner.test/x".parse::<Uri>().unwrap(), headers(&[("host", "outer.test")]));
        let target = read(&Method::GET, &uri, Version::HTTP_11, &headers).unwrap();
        assert_eq!(target.host, "inner.test");
        assert_eq!((target.named.unwrap().as_bytes(), target.absolute), (&b"inner.test"[..], true));
        assert_eq!(host_of("http://user@inner.test/", &[("host", "a")]), None);
        assert_eq!(host_of("ftp://inner.test/", &[("host", "a")]), None);
    }

    #[test]
    fn only_known_methods_and_framings_pass() {
        let check = |method: &str| check_method(&Method::from_bytes(method.as_bytes()).unwrap()).is_ok();
        assert!(check("GET") && check("PROPFIND") && check("PATCH"));
        for method in ["get", "PRI", "CONNECT", "TRACE", "GE'T"] {
            assert!(!check(method), "{method}");
        }
        for (field, value, fits) in [
            ("transfer-encoding", "chunked", true),
            ("transfer-encoding", "gzip, chunked", false),
            ("expect", "100-continue", true),
            ("expect", "nonsense", false),
        ] {
            assert_eq!(survey(&headers(&[(field, value)])).is_ok(), fits, "{field}: {value}");
        }
        let twice = headers(&[("transfer-encoding", "identity"), ("transfer-encoding", "chunked")]);
        assert!(survey(&twice).is_err());
        assert!(survey(&headers(&[("expect", "100-continue"), ("expect", "nonsense")])).is_err());
    }
}
