//! What a request is addressed to, read once and strictly: method, host, path, framing.
//!
//! hyper has parsed the message; what it lets through and two servers could read differently is
//! refused here, before any route is looked for.

use std::borrow::Cow;

use http::{HeaderMap, HeaderValue, Method, Uri, Version, header};

use super::answer::Refusal;
use super::path::{self, Path};

/// A request target that has one meaning.
#[derive(Debug)]
pub(super) struct Target<'r> {
    /// The host in lower case, without port or final dot: what routes match. Empty for HTTP/1.0
    /// without `Host`.
    pub(super) host: Cow<'r, str>,
    /// The `Host` field to go upstream when it is not the one that came: the authority of an
    /// absolute-form target (RFC 9112 §3.2.2).
    pub(super) authority: Option<HeaderValue>,
    /// The path in normal form.
    pub(super) path: Path<'r>,
    /// The query, without `?`.
    pub(super) query: Option<&'r str>,
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
    check_framing(headers)?;
    let named = host_field(headers, version)?;
    let (host, authority) = match uri.authority() {
        None => (named, None),
        Some(authority) => {
            if !matches!(uri.scheme_str(), Some("http" | "https")) {
                return Err(Refusal::BadRequest("the request target is not a path"));
            }
            check_host(authority.as_str())?;
            let value = HeaderValue::from_str(authority.as_str());
            (Some(authority.as_str()), Some(value.map_err(|_| Refusal::BadRequest("the host is malformed"))?))
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
    Ok(Target { host: canonical_host(host.unwrap_or_default()), authority, path, query })
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

/// hyper refuses most broken framing; these spellings it accepts (RFC 9112 §6.1).
fn check_framing(headers: &HeaderMap) -> Result<(), Refusal> {
    if headers.contains_key(header::TRANSFER_ENCODING) {
        let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
        let only = codings.next().is_some_and(|coding| coding.as_bytes().eq_ignore_ascii_case(b"chunked"));
        if !only || codings.next().is_some() {
            return Err(Refusal::BadRequest("the only transfer coding is chunked"));
        }
    }
    let mut expectations = headers.get_all(header::EXPECT).iter();
    if expectations.all(|expect| expect.as_bytes().eq_ignore_ascii_case(b"100-continue")) {
        Ok(())
    } else {
        Err(Refusal::ExpectationFailed)
    }
}

/// The one `Host` field: RFC 9112 §3.2 wants exactly one from HTTP/1.1 on.
fn host_field(headers: &HeaderMap, version: Version) -> Result<Option<&str>, Refusal> {
    let mut fields = headers.get_all(header::HOST).iter();
    match (fields.next(), fields.next()) {
        (None, _) if version == Version::HTTP_10 => Ok(None),
        (None, _) => Err(Refusal::BadRequest("the Host field is missing")),
        (Some(_), Some(_)) => Err(Refusal::BadRequest("there are several Host fields")),
        (Some(host), None) => {
            let host = host.to_str().map_err(|_| Refusal::BadRequest("the host is malformed"))?;
            check_host(host)?;
            Ok(Some(host))
        }
    }
}

/// `uri-host [":" port]` (RFC 9110 §7.2), a name or address and nothing else.
fn check_host(host: &str) -> Result<(), Refusal> {
    let malformed = Err(Refusal::BadRequest("the host is malformed"));
    let (name, port) = match host.strip_prefix('[') {
        Some(rest) => {
            let Some((address, port)) = rest.split_once(']') else { return malformed };
            if address.parse::<std::net::Ipv6Addr>().is_err() {
                return malformed;
            }
            ("v6", port)
        }
        None => match host.find(':') {
            Some(colon) => host.split_at(colon),
            None => (host, ""),
        },
    };
    let port_fits = match port.strip_prefix(':') {
        None => port.is_empty(),
        Some(digits) => {
            digits.is_empty() || (digits.bytes().all(|byte| byte.is_ascii_digit()) && digits.parse::<u16>().is_ok())
        }
    };
    let name_fits = !name.is_empty()
        && name.len() <= 255
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_'));
    if port_fits && name_fits { Ok(()) } else { malformed }
}

/// Lower case, without port and final dot, so that one host has one name.
fn canonical_host(host: &str) -> Cow<'_, str> {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or(rest),
        None => host.split(':').next().unwrap_or(host),
    };
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
        assert_eq!(target.authority.unwrap(), "inner.test");
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
            assert_eq!(check_framing(&headers(&[(field, value)])).is_ok(), fits, "{field}: {value}");
        }
        let twice = headers(&[("transfer-encoding", "identity"), ("transfer-encoding", "chunked")]);
        assert!(check_framing(&twice).is_err());
        assert!(check_framing(&headers(&[("expect", "100-continue"), ("expect", "nonsense")])).is_err());
    }
}
