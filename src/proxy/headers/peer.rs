//! The connection a request came on, and who is behind it.

use std::net::IpAddr;
use std::sync::Arc;

use http::{HeaderMap, HeaderValue};
use ipnet::IpNet;

use super::X_FORWARDED_FOR;

/// Where a request came from, prepared once for a connection.
#[derive(Clone, Debug)]
pub struct Peer {
    /// The address the connection came from.
    pub address: IpAddr,
    /// The same as a field value.
    pub(super) text: HeaderValue,
    /// Whether the connection is protected by TLS that ends here.
    pub(super) secured: bool,
    /// The SHA-256 of the certificate, DER, that the client has proven to hold.
    certificate: Option<[u8; 32]>,
    /// The hosts that its connection is good for; `None`: all.
    coverage: Option<Arc<dyn Coverage>>,
}

/// The hosts that a connection is good for: a request for another one belongs on another connection
/// (RFC 9110 §7.4).
pub trait Coverage: std::fmt::Debug + Send + Sync {
    /// Whether it is good for a host, in lower case and without a port.
    fn covers(&self, host: &str) -> bool;
}

impl Peer {
    /// The peer at `address`.
    #[must_use]
    pub fn new(address: IpAddr) -> Self {
        let address = address.to_canonical();
        let text = HeaderValue::from_str(&address.to_string()).unwrap_or(HeaderValue::from_static("unknown"));
        Self { address, text, secured: false, certificate: None, coverage: None }
    }

    /// The peer at `address` of a TLS connection, and the SHA-256 of its certificate if it has shown one.
    #[must_use]
    pub fn secured(address: IpAddr, certificate: Option<[u8; 32]>) -> Self {
        Self { secured: true, certificate, ..Self::new(address) }
    }

    /// The same peer on a connection that is good for some hosts only.
    #[must_use]
    pub fn limited_to(self, coverage: Arc<dyn Coverage>) -> Self {
        Self { coverage: Some(coverage), ..self }
    }

    /// Whether requests for a host may come on its connection.
    pub(in crate::proxy) fn may_ask(&self, host: &str) -> bool {
        self.coverage.as_ref().is_none_or(|coverage| coverage.covers(host))
    }

    /// The scheme that its requests come by.
    #[must_use]
    pub(in crate::proxy) const fn scheme(&self) -> &'static str {
        if self.secured { "https" } else { "http" }
    }

    /// The SHA-256 of the certificate, DER, that it connected with.
    #[must_use]
    pub(in crate::proxy) const fn certificate(&self) -> Option<[u8; 32]> {
        self.certificate
    }

    /// Whether its forwarding fields are believed.
    #[must_use]
    pub(in crate::proxy) fn is_trusted(&self, proxies: &[IpNet]) -> bool {
        proxies.iter().any(|net| net.contains(&self.address))
    }

    /// The client: the last address in `X-Forwarded-For` that is not a trusted proxy's, or the peer.
    #[must_use]
    pub(in crate::proxy) fn client(&self, headers: &HeaderMap, proxies: &[IpNet]) -> IpAddr {
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
