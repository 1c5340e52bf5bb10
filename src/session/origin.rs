//! Does a request come from the site's own pages?
//!
//! A browser sends a cookie with whatever any page makes it send, so a token in one proves who, not
//! what for. `SameSite=Lax` keeps other sites out, but not a sibling host of the same site, nor a
//! browser that does not know the attribute.

use http::header::{HOST, ORIGIN, UPGRADE};
use http::{HeaderMap, HeaderName, Method};

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Whether a request with its token in a cookie may have an effect.
///
/// Always, for a method that is safe (RFC 9110 §9.2.1), unless it asks for an upgrade: a WebSocket is
/// opened with GET and has effects all the same. Otherwise `Sec-Fetch-Site` must say `same-origin`, or
/// `none` (the person did it, no page). From a browser that does not send it, `Origin` must name
/// `host`, the authority of the request: host and port alike, the default port of the origin's scheme
/// being the same as none. The scheme itself is not compared, because TLS may end before the gateway.
/// With neither field, or with one twice, the answer is no.
#[must_use]
pub fn same_origin(method: &Method, headers: &HeaderMap, host: &str) -> bool {
    let is_safe = matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE);
    if is_safe && !headers.contains_key(UPGRADE) {
        return true;
    }
    match only(headers, &SEC_FETCH_SITE) {
        Only::One(site) => site == b"same-origin" || site == b"none",
        Only::Several => false,
        Only::Absent => match only(headers, &ORIGIN) {
            Only::One(origin) => std::str::from_utf8(origin).is_ok_and(|origin| is_origin_of(origin, host)),
            Only::Absent | Only::Several => false,
        },
    }
}

/// Whether a browser says that a page of another site made it send this, by whatever method: for what has an
/// effect without a token, too. `SameSite` keeps the cookies of such a request back, and not the request.
#[must_use]
pub fn is_cross_site(headers: &HeaderMap, host: &str) -> bool {
    match only(headers, &SEC_FETCH_SITE) {
        Only::One(site) => site != b"same-origin" && site != b"none",
        Only::Several => true,
        Only::Absent => match only(headers, &ORIGIN) {
            Only::One(origin) => !std::str::from_utf8(origin).is_ok_and(|origin| is_origin_of(origin, host)),
            Only::Several => true,
            Only::Absent => false,
        },
    }
}

/// The authority of a request as its `Host` says it; empty when there is not exactly one.
#[must_use]
pub fn host(headers: &HeaderMap) -> &str {
    match only(headers, &HOST) {
        Only::One(host) => std::str::from_utf8(host).unwrap_or_default(),
        Only::Absent | Only::Several => "",
    }
}

fn is_origin_of(origin: &str, host: &str) -> bool {
    // `null`, and schemes that no page of ours has, fall out here.
    let (authority, port) = match (origin.strip_prefix("https://"), origin.strip_prefix("http://")) {
        (Some(authority), _) => (authority, ":443"),
        (None, Some(authority)) => (authority, ":80"),
        (None, None) => return false,
    };
    let without_default = |authority: &'_ str| authority.len() - if authority.ends_with(port) { port.len() } else { 0 };
    let authority = &authority[..without_default(authority)];
    let host = &host[..without_default(host)];
    !host.is_empty() && authority.eq_ignore_ascii_case(host)
}

enum Only<'a> {
    Absent,
    One(&'a [u8]),
    Several,
}

fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Only<'a> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (None, _) => Only::Absent,
        (Some(value), None) => Only::One(value.as_bytes()),
        (Some(_), Some(_)) => Only::Several,
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(HeaderName::from_static(name), HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    #[test]
    fn what_another_site_sends_is_told_whatever_the_method_and_what_no_browser_sends_is_not() {
        for (lines, foreign) in [
            (&[][..], false),
            (&[("sec-fetch-site", "same-origin")], false),
            (&[("sec-fetch-site", "none")], false),
            (&[("sec-fetch-site", "same-site")], true),
            (&[("sec-fetch-site", "cross-site"), ("origin", "https://shop.example")], true),
            (&[("sec-fetch-site", "none"), ("sec-fetch-site", "none")], true),
            (&[("origin", "https://shop.example")], false),
            (&[("origin", "https://evil.example")], true),
            (&[("origin", "null")], true),
        ] {
            assert_eq!(is_cross_site(&headers(lines), "shop.example"), foreign, "{lines:?}");
        }
    }

    #[test]
    fn a_safe_method_needs_no_proof_unless_it_upgrades() {
        let cross = [("sec-fetch-site", "cross-site"), ("origin", "https://evil.example")];
        for method in [Method::GET, Method::HEAD, Method::OPTIONS, Method::TRACE] {
            assert!(same_origin(&method, &headers(&cross), "shop.example.com"), "{method}");
        }
        let mut socket = headers(&cross);
        socket.insert(UPGRADE, HeaderValue::from_static("websocket"));
        assert!(!same_origin(&Method::GET, &socket, "shop.example.com"));
        let own = headers(&[("upgrade", "websocket"), ("origin", "https://shop.example.com")]);
        assert!(same_origin(&Method::GET, &own, "shop.example.com"));
    }

    #[test]
    fn an_unsafe_method_needs_proof() {
        type Row = (&'static [(&'static str, &'static str)], &'static str, bool);
        let rows: &[Row] = &[
            (&[], "shop.example.com", false),
            (&[("sec-fetch-site", "same-origin")], "shop.example.com", true),
            (&[("sec-fetch-site", "none")], "shop.example.com", true),
            (&[("sec-fetch-site", "same-site")], "shop.example.com", false),
            (&[("sec-fetch-site", "cross-site")], "shop.example.com", false),
            (&[("sec-fetch-site", "Same-Origin")], "shop.example.com", false),
            (&[("sec-fetch-site", "")], "shop.example.com", false),
            (&[("sec-fetch-site", "same-origin"), ("sec-fetch-site", "same-origin")], "shop.example.com", false),
            (&[("sec-fetch-site", "cross-site"), ("origin", "https://shop.example.com")], "shop.example.com", false),
            (&[("sec-fetch-site", "same-origin"), ("origin", "https://evil.example")], "shop.example.com", true),
            (&[("origin", "https://shop.example.com")], "shop.example.com", true),
            (&[("origin", "http://shop.example.com")], "shop.example.com", true),
            (&[("origin", "https://SHOP.example.com")], "shop.Example.com", true),
            (&[("origin", "https://shop.example.com")], "shop.example.com:443", true),
            (&[("origin", "http://shop.example.com")], "shop.example.com:80", true),
            (&[("origin", "http://shop.example.com:80")], "shop.example.com", true),
            (&[("origin", "https://shop.example.com:8443")], "shop.example.com:8443", true),
            (&[("origin", "http://[::1]:8080")], "[::1]:8080", true),
            (&[("origin", "http://shop.example.com")], "shop.example.com:443", false),
            (&[("origin", "https://shop.example.com:8443")], "shop.example.com", false),
            (&[("origin", "https://shop.example.com")], "shop.example.com:8443", false),
            (&[("origin", "https://shop.example.com.evil.example")], "shop.example.com", false),
            (&[("origin", "https://evil.example")], "shop.example.com", false),
            (&[("origin", "https://shop.example.com/")], "shop.example.com", false),
            (&[("origin", "https://a@shop.example.com")], "shop.example.com", false),
            (&[("origin", "ftp://shop.example.com")], "shop.example.com", false),
            (&[("origin", "shop.example.com")], "shop.example.com", false),
            (&[("origin", "null")], "shop.example.com", false),
            (&[("origin", "null")], "null", false),
            (&[("origin", "")], "", false),
            (&[("origin", "https://")], "", false),
            (&[("origin", "https://:443")], "", false),
            (&[("origin", "https://:443")], ":443", false),
            (
                &[("origin", "https://shop.example.com"), ("origin", "https://shop.example.com")],
                "shop.example.com",
                false,
            ),
        ];
        for method in [Method::POST, Method::PUT, Method::PATCH, Method::DELETE, Method::CONNECT] {
            for (lines, host, proven) in rows {
                assert_eq!(same_origin(&method, &headers(lines), host), *proven, "{method} {lines:?} at {host:?}");
            }
        }
        let mut bytes = HeaderMap::new();
        bytes.insert(ORIGIN, HeaderValue::from_bytes(b"https://\xff").unwrap());
        assert!(!same_origin(&Method::POST, &bytes, "\u{fffd}"));
    }

    #[test]
    fn the_host_is_the_only_one_there_is() {
        assert_eq!(host(&headers(&[("host", "a:1")])), "a:1");
        assert_eq!(host(&headers(&[("host", "a"), ("host", "a")])), "");
        assert_eq!(host(&HeaderMap::new()), "");
    }
}
