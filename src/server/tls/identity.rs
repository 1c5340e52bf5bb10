//! Certificates, judged; and how a listener shakes hands with them.

use std::net::SocketAddr;
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::Ticketer;
use rustls::server::{NoServerSessionStorage, ProducesTickets, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::names::{ByName, is_covered};
use crate::config::{ClientAuth, ListenerCertificate, ListenerTls, TlsVersion};
use crate::proxy::Coverage;
use crate::time::Timestamp;

/// The protocols spoken inside (RFC 7301, RFC 9113 §3.2). A client that wants another one is refused at the
/// handshake; one that says nothing speaks HTTP/1.1.
const HTTP1: &[u8] = b"http/1.1";
pub(super) const HTTP2: &[u8] = b"h2";

/// Why a listener's certificate cannot be used. Read as "the certificate cannot be used: {self}".
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// The file has no PEM certificate, or something that is none.
    #[error("the certificate file has no PEM certificate")]
    Certificate,
    /// The file has no private key.
    #[error("the key file has no unencrypted PEM private key")]
    Key,
    /// The two do not belong together, or are of a kind that is not supported.
    #[error("the key does not belong to the certificate, or is of no use with it")]
    Mismatch(#[source] rustls::Error),
    /// Its time is over.
    #[error("it expired at {0}")]
    Expired(Timestamp),
    /// Its time has not come.
    #[error("it is not valid before {0}")]
    NotYetValid(Timestamp),
    /// It is to be shown for a name that clients would not accept it for.
    #[error("it is not for `{0}`, which is in `names`")]
    NotFor(String),
    /// The authorities that may vouch for clients cannot be used.
    #[error("the authorities in `client_ca` cannot be used")]
    Authorities(#[source] Option<rustls::server::VerifierBuilderError>),
    /// The library does not do what it is asked for.
    #[error("TLS 1.2 and 1.3 are not both there")]
    Versions(#[source] rustls::Error),
    /// There is no randomness to protect sessions with.
    #[error("no key for the resumption of sessions can be made")]
    Tickets(#[source] rustls::Error),
}

/// A certificate that was good when it was judged.
#[derive(Debug)]
pub struct Shown {
    spec: ListenerCertificate,
    pub(super) key: Arc<CertifiedKey>,
    /// The server names it is shown for, in lower case.
    pub(super) names: Vec<String>,
    expires: Timestamp,
}

impl Shown {
    /// Judges certificate and key at `now`.
    ///
    /// # Errors
    ///
    /// See [`CertificateError`].
    pub fn new(spec: &ListenerCertificate, now: Timestamp) -> Result<Self, CertificateError> {
        let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(spec.chain.as_bytes())
            .collect::<Result<_, _>>()
            .map_err(|_| CertificateError::Certificate)?;
        let leaf = chain.first().ok_or(CertificateError::Certificate)?;
        let (from, expires) = validity(leaf).ok_or(CertificateError::Certificate)?;
        if now >= expires {
            return Err(CertificateError::Expired(expires));
        }
        if now < from {
            return Err(CertificateError::NotYetValid(from));
        }
        let own = dns_names(leaf).ok_or(CertificateError::Certificate)?;
        if let Some(other) = spec.names.iter().flatten().find(|name| !is_covered(name, &own)) {
            return Err(CertificateError::NotFor(other.clone()));
        }
        let names = spec.names.clone().unwrap_or(own);
        let key = PrivateKeyDer::from_pem_slice(spec.key.expose()).map_err(|_| CertificateError::Key)?;
        let key = CertifiedKey::from_der(chain, key, &provider()).map_err(CertificateError::Mismatch)?;
        Ok(Self { spec: spec.clone(), key: Arc::new(key), names, expires })
    }

    /// The first instant at which it is not valid any more.
    #[must_use]
    pub const fn expires(&self) -> Timestamp {
        self.expires
    }

    /// The first name it is shown for; empty when it has none.
    #[must_use]
    pub fn name(&self) -> &str {
        self.names.first().map_or("", String::as_str)
    }

    pub(super) fn is_of(&self, spec: &ListenerCertificate) -> bool {
        self.spec == *spec
    }
}

/// What one listener shows itself as.
#[derive(Debug)]
pub struct Identity {
    listener: SocketAddr,
    spec: ListenerTls,
    by_name: Arc<ByName>,
    config: Arc<ServerConfig>,
}

impl Identity {
    /// Prepares the handshakes of the listener at an address with these certificates.
    ///
    /// What `before` was asked of clients decides whether sessions begun then may be resumed: one that was
    /// begun without a certificate, or with one of an authority that is gone, would get around what is
    /// asked now.
    ///
    /// # Errors
    ///
    /// See [`CertificateError`].
    pub fn new(
        listener: SocketAddr,
        spec: &ListenerTls,
        certificates: Vec<Arc<Shown>>,
        before: Option<&Self>,
    ) -> Result<Self, CertificateError> {
        let provider = Arc::new(provider());
        let versions: &[_] = match spec.min_version {
            TlsVersion::Tls12 => &[&rustls::version::TLS13, &rustls::version::TLS12],
            TlsVersion::Tls13 => &[&rustls::version::TLS13],
        };
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(versions)
            .map_err(CertificateError::Versions)?;
        let builder = match &spec.clients {
            None => builder.with_no_client_auth(),
            Some((authorities, auth)) => {
                let roots = Arc::new(roots(authorities).ok_or(CertificateError::Authorities(None))?);
                let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider);
                let verifier = match auth {
                    ClientAuth::Optional => verifier.allow_unauthenticated(),
                    ClientAuth::Required => verifier,
                };
                let verifier = verifier.build().map_err(|error| CertificateError::Authorities(Some(error)))?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        let by_name = Arc::new(ByName::new(certificates, spec.strict_sni));
        let mut config = builder.with_cert_resolver(Arc::clone(&by_name) as Arc<_>);
        let protocols = if spec.http2 { [HTTP2, HTTP1].as_slice() } else { &[HTTP1] };
        config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
        // Sessions are in the hands of clients, under keys of this listener that live for hours; nothing here
        // grows with them.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 1;
        config.ticketer = match before.filter(|before| before.spec.clients == spec.clients) {
            Some(before) => Arc::clone(before.tickets()),
            None => Ticketer::new().map_err(CertificateError::Tickets)?,
        };
        Ok(Self { listener, spec: spec.clone(), by_name, config: Arc::new(config) })
    }

    /// What it can show.
    pub fn certificates(&self) -> impl Iterator<Item = &Arc<Shown>> {
        self.by_name.certificates().iter()
    }

    pub(super) const fn listener(&self) -> SocketAddr {
        self.listener
    }

    pub(super) const fn spec(&self) -> &ListenerTls {
        &self.spec
    }

    pub(super) fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.config)
    }

    /// The hosts that a connection for a server name is good for; `None`: all.
    pub(super) fn coverage(&self, server_name: Option<&str>) -> Option<Arc<dyn Coverage>> {
        self.spec.strict_sni.then(|| self.by_name.coverage(server_name.unwrap_or_default()))
    }

    fn tickets(&self) -> &Arc<dyn ProducesTickets> {
        &self.config.ticketer
    }
}

fn provider() -> CryptoProvider {
    rustls::crypto::aws_lc_rs::default_provider()
}

fn roots(pem: &str) -> Option<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        roots.add(certificate.ok()?).ok()?;
    }
    Some(roots)
}

/// `notBefore`, and the second after `notAfter`, which is still valid (RFC 5280 §4.1.2.5).
pub(super) fn validity(certificate: &CertificateDer<'_>) -> Option<(Timestamp, Timestamp)> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let validity = certificate.validity();
    let from = Timestamp::from_secs(validity.not_before.timestamp());
    Some((from, Timestamp::from_secs(validity.not_after.timestamp().saturating_add(1))))
}

/// The DNS names of a certificate (RFC 5280 §4.2.1.6), in lower case.
fn dns_names(certificate: &CertificateDer<'_>) -> Option<Vec<String>> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let names = certificate.subject_alternative_name().ok()?;
    let names = names.iter().flat_map(|names| &names.value.general_names);
    let names = names.filter_map(|name| match name {
        GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
        _ => None,
    });
    Some(names.collect())
}
