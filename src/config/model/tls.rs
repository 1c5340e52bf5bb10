//! TLS on a listener, checked as far as it can be without a clock.

use crate::secret::Secret;

/// TLS on a listener; the texts are read when the config is loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerTls {
    /// What it may show itself as; at least one. The first is for clients that name no server, or one
    /// that no certificate is for.
    pub certificates: Vec<ListenerCertificate>,
    /// Such clients are refused instead, and so is a request for a host that the certificate of its
    /// connection is not for.
    pub strict_sni: bool,
    /// The oldest version spoken.
    pub min_version: TlsVersion,
    /// The PEM text of the authorities that vouch for clients, and whether they must.
    pub clients: Option<(String, ClientAuth)>,
    /// Whether clients may choose HTTP/2.
    pub http2: bool,
}

/// One certificate of a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerCertificate {
    /// The PEM text of the certificate and those between it and its authority.
    pub chain: String,
    /// The PEM text of its private key.
    pub key: Secret,
    /// The server names it is shown for, in lower case, `*.` first for one label more; `None`: all that
    /// it has.
    pub names: Option<Vec<String>>,
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsVersion {
    /// RFC 5246.
    Tls12,
    /// RFC 8446.
    Tls13,
}

/// Whether a client may come without a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientAuth {
    /// It may.
    Optional,
    /// It may not.
    Required,
}
