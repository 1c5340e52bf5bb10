//! TLS on the listeners.

use schemars::JsonSchema;
use serde::Deserialize;

/// TLS on a listener: `certificate` and `key`, `certificates`, or all of them, the pair first. The files are
/// read again at a reload.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct ListenerTls {
    /// The PEM certificate, followed by those between it and its authority.
    #[schemars(length(min = 1))]
    pub(in crate::config) certificate: Option<String>,
    /// Its PEM private key, not encrypted.
    #[schemars(length(min = 1))]
    pub(in crate::config) key: Option<String>,
    /// Certificates that are chosen by the server name a client asks for (SNI). The first of all is for clients
    /// that name none, or one that no certificate is for.
    #[schemars(length(min = 1))]
    pub(in crate::config) certificates: Option<Vec<ListenerCertificate>>,
    /// Refuse those clients instead, and answer 421 to a request for a host that the certificate of its connection
    /// is not for. Absent: `false`.
    pub(in crate::config) strict_sni: Option<bool>,
    /// The oldest version spoken. Absent: `1.2`.
    pub(in crate::config) min_version: Option<TlsVersion>,
    /// PEM authorities that vouch for clients. Absent: clients are asked for no certificate.
    #[schemars(length(min = 1))]
    pub(in crate::config) client_ca: Option<String>,
    /// With `client_ca`: whether a client must have a certificate. Absent: `optional`.
    pub(in crate::config) client_auth: Option<ClientAuth>,
    /// Whether clients may choose HTTP/2. Absent: `true`.
    pub(in crate::config) http2: Option<bool>,
}

/// One certificate of a listener.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct ListenerCertificate {
    /// The PEM certificate, followed by those between it and its authority.
    #[schemars(with = "String", length(min = 1))]
    pub(in crate::config) certificate: Option<String>,
    /// Its PEM private key, not encrypted.
    #[schemars(with = "String", length(min = 1))]
    pub(in crate::config) key: Option<String>,
    /// The server names it is shown for, `*.` for any one label. Absent: every DNS name in the certificate.
    #[schemars(length(min = 1))]
    pub(in crate::config) names: Option<Vec<String>>,
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
pub(in crate::config) enum TlsVersion {
    #[serde(rename = "1.2")]
    Tls12,
    #[serde(rename = "1.3")]
    Tls13,
}

/// Whether a client may come without a certificate. One that cannot be verified is always refused.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(in crate::config) enum ClientAuth {
    Optional,
    Required,
}
