//! Where the control plane fetches something: an absolute `http` or `https` URL that is fit to be shown.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use http::Uri;

/// The longest URL, in bytes.
const BYTES_MAX: usize = 2048;

/// An absolute URL with the scheme `http` or `https`, without user, password or fragment.
///
/// `Display` and `Debug` leave the query out: some services take a key in it.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Endpoint(Uri);

/// Why a text is not an [`Endpoint`]. Read as "`…` is not a URL to fetch from: {self}".
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    /// Not an absolute URL with a host.
    #[error("write `https://host/path`")]
    NotAbsolute,
    /// A scheme other than `http` and `https`.
    #[error("the scheme must be `https`, or `http`")]
    Scheme,
    /// A user or a password, which would end up in logs.
    #[error("a user and a password cannot be part of it")]
    Credentials,
    /// A fragment, which is never sent.
    #[error("a fragment (`#…`) is never sent: leave it out")]
    Fragment,
    /// More than 2048 bytes.
    #[error("it is longer than {BYTES_MAX} bytes")]
    TooLong,
}

impl Endpoint {
    /// The URL as a request needs it.
    #[must_use]
    pub const fn uri(&self) -> &Uri {
        &self.0
    }

    /// Whether what comes from there is protected on its way.
    #[must_use]
    pub fn is_https(&self) -> bool {
        self.0.scheme() == Some(&http::uri::Scheme::HTTPS)
    }

    /// The host, without the brackets of an IPv6 address.
    #[must_use]
    pub fn host(&self) -> &str {
        let host = self.0.host().unwrap_or_default();
        host.strip_prefix('[').and_then(|inside| inside.strip_suffix(']')).unwrap_or(host)
    }

    /// Whether it is on this machine: nobody else can listen in.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        self.host().eq_ignore_ascii_case("localhost") || self.address().is_some_and(|it| it.is_loopback())
    }

    /// The host, when it is an address and not a name.
    #[must_use]
    pub fn address(&self) -> Option<IpAddr> {
        self.host().parse().ok()
    }

    /// Whether both are served by the same server: same scheme, host and port.
    #[must_use]
    pub fn is_same_origin(&self, other: &Self) -> bool {
        let port = |it: &Self| it.0.port_u16().unwrap_or_else(|| if it.is_https() { 443 } else { 80 });
        self.is_https() == other.is_https()
            && self.host().eq_ignore_ascii_case(other.host())
            && port(self) == port(other)
    }

    /// What a `Location` (RFC 9110 §10.2.2) seen here refers to; a whole URL or a path.
    ///
    /// # Errors
    ///
    /// When it is neither.
    pub fn join(&self, location: &str) -> Result<Self, EndpointError> {
        if location.starts_with('/') && !location.starts_with("//") {
            return self.at(location);
        }
        location.parse()
    }

    /// The same server, another path (and query).
    ///
    /// # Errors
    ///
    /// When `path` does not begin with a slash, or is none.
    pub fn at(&self, path: &str) -> Result<Self, EndpointError> {
        let scheme = if self.is_https() { "https" } else { "http" };
        let authority = self.0.authority().map_or("", http::uri::Authority::as_str);
        if !path.starts_with('/') {
            return Err(EndpointError::NotAbsolute);
        }
        format!("{scheme}://{authority}{path}").parse()
    }

    /// The path, `/` at least.
    #[must_use]
    pub fn path(&self) -> &str {
        self.0.path()
    }
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() > BYTES_MAX {
            return Err(EndpointError::TooLong);
        }
        if text.contains('#') {
            return Err(EndpointError::Fragment);
        }
        let uri: Uri = text.parse().map_err(|_| EndpointError::NotAbsolute)?;
        match uri.scheme_str() {
            None => return Err(EndpointError::NotAbsolute),
            Some("http" | "https") => {}
            Some(_) => return Err(EndpointError::Scheme),
        }
        let authority = uri.authority().ok_or(EndpointError::NotAbsolute)?;
        if authority.as_str().contains('@') {
            return Err(EndpointError::Credentials);
        }
        // A port is a number from 1 to 65535, or not there.
        let has_port = authority.as_str().len() > authority.host().len();
        if authority.host().is_empty() || (has_port && authority.port_u16().is_none_or(|port| port == 0)) {
            return Err(EndpointError::NotAbsolute);
        }
        Ok(Self(uri))
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.is_https() { "https" } else { "http" };
        let authority = self.0.authority().map_or("", http::uri::Authority::as_str);
        write!(f, "{scheme}://{authority}{}", self.0.path())
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Endpoint({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_absolute_url_without_secrets_is_an_endpoint() {
        for (text, wanted) in [
            ("https://a.example/jwks.json", Ok(())),
            ("http://127.0.0.1:8080/k?x=1", Ok(())),
            ("https://[::1]:8443/k", Ok(())),
            ("https://a.example", Ok(())),
            ("HTTPS://a.example/k", Ok(())),
            ("a.example/k", Err(EndpointError::NotAbsolute)),
            ("/k", Err(EndpointError::NotAbsolute)),
            ("https://", Err(EndpointError::NotAbsolute)),
            ("https:///k", Err(EndpointError::NotAbsolute)),
            ("https://a.example:0/", Err(EndpointError::NotAbsolute)),
            ("https://a.example:/", Err(EndpointError::NotAbsolute)),
            ("https://a.example:99999/", Err(EndpointError::NotAbsolute)),
            ("https://a example/", Err(EndpointError::NotAbsolute)),
            ("", Err(EndpointError::NotAbsolute)),
            ("file:///etc/passwd", Err(EndpointError::NotAbsolute)),
            ("ftp://a.example/k", Err(EndpointError::Scheme)),
            ("https://u:p@a.example/k", Err(EndpointError::Credentials)),
            ("https://a.example/k#f", Err(EndpointError::Fragment)),
        ] {
            assert_eq!(text.parse::<Endpoint>().map(drop), wanted, "{text}");
        }
        assert_eq!(format!("https://a.example/{}", "x".repeat(2048)).parse::<Endpoint>(), Err(EndpointError::TooLong));
    }

    #[test]
    fn a_query_is_sent_and_not_shown() {
        let endpoint: Endpoint = "https://a.example:8443/k?key=secret".parse().unwrap();
        assert_eq!(endpoint.uri().query(), Some("key=secret"));
        assert_eq!(format!("{endpoint} {endpoint:?}"), "https://a.example:8443/k Endpoint(https://a.example:8443/k)");
    }

    #[test]
    fn origins_and_this_machine_are_told_by_scheme_host_and_port() {
        let parse = |text: &str| text.parse::<Endpoint>().unwrap();
        let here = parse("https://a.example/k");
        for (other, same) in [
            ("https://A.example:443/other?x", true),
            ("http://a.example/k", false),
            ("https://a.example:444/k", false),
            ("https://b.example/k", false),
        ] {
            assert_eq!(here.is_same_origin(&parse(other)), same, "{other}");
        }
        for (text, loopback) in [
            ("http://localhost/", true),
            ("http://127.9.9.9/", true),
            ("http://[::1]/", true),
            ("http://10.0.0.1/", false),
            ("http://localhost.example/", false),
        ] {
            assert_eq!(parse(text).is_loopback(), loopback, "{text}");
        }
        assert_eq!(here.join("/x?y=1").unwrap().uri(), "https://a.example/x?y=1");
        assert_eq!(here.join("https://b.example/x").unwrap().uri(), "https://b.example/x");
        assert!(here.join("//b.example/x").is_err() && here.join("x").is_err());
    }
}
