//! What a request shows of who sends it: its method and URL as its client saw them, its proof of
//! possession, the certificate of its connection. Read only when a token is bound to its holder.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::request::Parts;
use http::{HeaderMap, HeaderName, Method};

use super::headers::{Peer, X_FORWARDED_HOST, X_FORWARDED_PROTO};
use super::path;
use crate::gate::{ProofFault, Sender};
use crate::session::origin;

/// The field that holds a proof of possession (RFC 9449 §4.1).
pub(super) const DPOP: HeaderName = HeaderName::from_static("dpop");

/// The field in which a proxy hands on the certificate of its client (RFC 9440 §2.2).
pub(super) const CLIENT_CERT: HeaderName = HeaderName::from_static("client-cert");

/// A request and its connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct RequestSender<'r> {
    headers: &'r HeaderMap,
    method: &'r Method,
    path: &'r str,
    /// The authority in its target; without one there is `Host`.
    authority: Option<&'r str>,
    /// `http` or `https`; nothing where either will do.
    scheme: Option<&'r str>,
    peer: Option<&'r Peer>,
    /// Whether a proxy is believed that says what its client sent.
    trusted: bool,
}

impl<'r> RequestSender<'r> {
    /// The sender of a request that came from `peer`.
    pub(super) fn new(head: &'r Parts, peer: &'r Peer, trusted: bool) -> Self {
        Self {
            headers: &head.headers,
            method: &head.method,
            path: head.uri.path(),
            authority: head.uri.authority().map(http::uri::Authority::as_str),
            scheme: Some(peer.scheme()),
            peer: Some(peer),
            trusted,
        }
    }

    /// The sender of a request that is only talked about: whoever asks is believed about its connection.
    pub(super) const fn told(
        headers: &'r HeaderMap,
        method: &'r Method,
        path: &'r str,
        authority: Option<&'r str>,
    ) -> Self {
        Self { headers, method, path, authority, scheme: None, peer: None, trusted: true }
    }

    /// What a trusted proxy says in a field; `Err` when it says several things.
    fn forwarded(&self, name: &HeaderName) -> Result<Option<&'r str>, ()> {
        if !self.trusted {
            return Ok(None);
        }
        let mut values = self.headers.get_all(name).iter();
        match (values.next(), values.next()) {
            (None, _) => Ok(None),
            (Some(value), None) if !value.as_bytes().contains(&b',') => {
                value.to_str().map(|text| Some(text.trim())).map_err(|_| ())
            }
            (Some(_), _) => Err(()),
        }
    }
}

impl Sender for RequestSender<'_> {
    fn proof(&self) -> Result<&str, ProofFault> {
        let mut values = self.headers.get_all(&DPOP).iter();
        match (values.next(), values.next()) {
            (None, _) => Err(ProofFault::Missing),
            (Some(value), None) => value.to_str().map_err(|_| ProofFault::Malformed),
            (Some(_), Some(_)) => Err(ProofFault::Several),
        }
    }

    fn is_method(&self, htm: &str) -> bool {
        htm == self.method.as_str()
    }

    fn is_safe(&self) -> bool {
        self.method.is_safe()
    }

    /// Compared as RFC 3986 §6.2.2 and §6.2.3 normalise both: by the gateway's own normal form of paths,
    /// which is what goes upstream.
    fn is_target(&self, htu: &str) -> bool {
        let (Ok(proto), Ok(host)) = (self.forwarded(&X_FORWARDED_PROTO), self.forwarded(&X_FORWARDED_HOST)) else {
            return false;
        };
        let Some((scheme, rest)) = htu.split_once("://") else { return false };
        let scheme = match scheme {
            scheme if scheme.eq_ignore_ascii_case("https") => "https",
            scheme if scheme.eq_ignore_ascii_case("http") => "http",
            _ => return false,
        };
        if proto.or(self.scheme).is_some_and(|own| !own.eq_ignore_ascii_case(scheme)) {
            return false;
        }
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, rest) = rest.split_at(end);
        let wanted = rest.find(['?', '#']).map_or(rest, |end| &rest[..end]);
        let own = host.or(self.authority).unwrap_or_else(|| origin::host(self.headers));
        if authority.is_empty() || !is_same_authority(authority, own, scheme) {
            return false;
        }
        let normal = |path| path::normalise(if str::is_empty(path) { "/" } else { path });
        match (normal(wanted), normal(self.path)) {
            (Ok(wanted), Ok(own)) => wanted.forwarded == own.forwarded,
            (Err(_), _) | (_, Err(_)) => false,
        }
    }

    fn certificate(&self) -> Option<[u8; 32]> {
        match self.forwarded(&CLIENT_CERT) {
            // The connection is the proxy's; what it says of its client counts.
            Ok(Some(field)) => certificate_of(field),
            Ok(None) => self.peer.and_then(Peer::certificate),
            Err(()) => None,
        }
    }
}

/// Host and port, ignoring case, a final dot and the default port of the scheme.
pub(super) fn is_same_authority(one: &str, other: &str, scheme: &str) -> bool {
    let bare = |authority: &'_ str| {
        let default = if scheme == "https" { ":443" } else { ":80" };
        let authority = authority.strip_suffix(default).or_else(|| authority.strip_suffix(':')).unwrap_or(authority);
        let colon = match authority.rfind(']') {
            Some(end) => authority[end..].find(':').map(|at| end + at),
            None => authority.find(':'),
        };
        let (host, port) = authority.split_at(colon.unwrap_or(authority.len()));
        (host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase(), port.to_owned())
    };
    !one.contains('@') && bare(one) == bare(other)
}

/// The SHA-256 of the certificate in a `Client-Cert` field: a byte sequence, `:base64:` (RFC 8941 §3.3.5).
fn certificate_of(field: &str) -> Option<[u8; 32]> {
    let der = STANDARD.decode(field.strip_prefix(':')?.strip_suffix(':')?).ok()?;
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &der);
    digest.as_ref().try_into().ok()
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use http::Request;

    use super::*;

    fn head(target: &str, fields: &[(&str, &str)]) -> Parts {
        let mut request = Request::builder().method("POST").uri(target);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    fn peer() -> Peer {
        Peer::new(IpAddr::from([127, 0, 0, 1]))
    }

    #[test]
    fn a_url_is_the_one_that_the_client_saw() {
        let host = [("host", "Shop.Example:8080")];
        for (htu, target, same) in [
            ("http://shop.example:8080/a/b", "/a/b", true),
            ("HTTP://SHOP.example.:8080/a/b", "/a/b?query=1", true),
            ("http://shop.example:8080/a/b?other#part", "/a/b", true),
            ("http://shop.example:8080/%61/x/../b", "/a/b", true),
            ("http://shop.example:8080/a%2db", "/a-b", true),
            ("http://shop.example:8080", "/", true),
            ("http://shop.example:8080?x", "/", true),
            ("https://shop.example:8080/a/b", "/a/b", false),
            ("http://shop.example/a/b", "/a/b", false),
            ("http://shop.example:80/a/b", "/a/b", false),
            ("http://shop.example:8080/a/B", "/a/b", false),
            ("http://shop.example:8080/a/b/", "/a/b", false),
            ("http://shop.example:8080/a", "/a/b", false),
            ("http://evil@shop.example:8080/a/b", "/a/b", false),
            ("http://shop.example:8080@evil/a/b", "/a/b", false),
            ("http:///a/b", "/a/b", false),
            ("//shop.example:8080/a/b", "/a/b", false),
            ("/a/b", "/a/b", false),
            ("ftp://shop.example:8080/a/b", "/a/b", false),
            ("http://shop.example:8080/a%2fb", "/a%2fb", false),
            ("", "/", false),
        ] {
            let (head, peer) = (head(target, &host), peer());
            assert_eq!(RequestSender::new(&head, &peer, false).is_target(htu), same, "{htu} for {target}");
        }
        let (absolute, peer) = (head("http://inner.test:80/a", &host), peer());
        let sender = RequestSender::new(&absolute, &peer, false);
        assert!(sender.is_target("http://inner.test/a") && !sender.is_target("http://shop.example:8080/a"));
        let (v6, nameless) = (head("/", &[("host", "[::1]:80")]), head("/", &[]));
        assert!(RequestSender::new(&v6, &peer, false).is_target("http://[::1]/"));
        assert!(!RequestSender::new(&v6, &peer, false).is_target("http://[::1]:8/"));
        assert!(!RequestSender::new(&nameless, &peer, false).is_target("http:///"));
    }

    #[test]
    fn a_trusted_proxy_says_what_its_client_saw() {
        let fields = [("host", "inner"), ("x-forwarded-proto", "HTTPS"), ("x-forwarded-host", "shop.example:443")];
        let (told, peer) = (head("/a", &fields), peer());
        let ask = |trusted, htu: &str| RequestSender::new(&told, &peer, trusted).is_target(htu);
        assert!(ask(true, "https://shop.example/a"));
        assert!(!ask(true, "http://shop.example/a") && !ask(true, "https://inner/a") && !ask(true, "http://inner/a"));
        assert!(ask(false, "http://inner/a") && !ask(false, "https://shop.example/a"));
        for doubt in [
            &[("host", "shop.example"), ("x-forwarded-proto", "https, http")][..],
            &[("host", "shop.example"), ("x-forwarded-proto", "https"), ("x-forwarded-proto", "https")],
            &[("host", "shop.example"), ("x-forwarded-proto", "https"), ("x-forwarded-host", "shop.example, b")],
        ] {
            let head = head("/a", doubt);
            assert!(!RequestSender::new(&head, &peer, true).is_target("https://shop.example/a"), "{doubt:?}");
        }
    }

    #[test]
    fn a_certificate_is_what_a_trusted_proxy_hands_on() {
        // RFC 9440 §2.1: the digest is that of the bytes between the colons.
        let wanted: [u8; 32] =
            aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, b"hello").as_ref().try_into().unwrap();
        for (field, found) in [
            (":aGVsbG8=:", Some(wanted)),
            (":aGVsbG8:", None),
            ("aGVsbG8=", None),
            (":aGVsbG8=", None),
            (":aGVsbG8=:, :aGVsbG8=:", None),
            (":aGVsbG8=:;a=1", None),
            ("", None),
        ] {
            let (head, peer) = (head("/", &[("client-cert", field)]), peer());
            assert_eq!(RequestSender::new(&head, &peer, true).certificate(), found, "{field}");
            assert_eq!(RequestSender::new(&head, &peer, false).certificate(), None, "{field}");
        }
    }

    #[test]
    fn there_is_one_proof() {
        for (fields, expected) in [
            (&[("dpop", "a")][..], Ok("a")),
            (&[], Err(ProofFault::Missing)),
            (&[("dpop", "a"), ("dpop", "a")], Err(ProofFault::Several)),
            (&[("dpop", "\u{fc}")], Err(ProofFault::Malformed)),
        ] {
            let (head, peer) = (head("/", fields), peer());
            assert_eq!(RequestSender::new(&head, &peer, false).proof(), expected, "{fields:?}");
        }
    }
}
