//! TLS to upstream servers: whom the gateway believes, and what it shows of itself.
//!
//! Everything is judged when the configuration is read. A server that cannot be verified gets no request:
//! there is no way to look away from it, and none back to clear text.

use std::io;
use std::sync::Arc;

use rustls::client::{VerifierBuilderError, WebPkiServerVerifier};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, InvalidDnsNameError, PrivateKeyDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::config::{Protocol, Server, Upstream};

/// Protocols spoken inside (RFC 7301).
const HTTP_1: &[u8] = b"http/1.1";
const HTTP_2: &[u8] = b"h2";

/// Why an upstream cannot be reached over TLS. Read as "the TLS of the upstream cannot be set up: {self}".
#[derive(Debug, thiserror::Error)]
pub enum UpstreamTlsError {
    /// `ca_file` has no usable authority.
    #[error("the authorities in `ca_file` cannot be used")]
    Authorities(#[source] Option<VerifierBuilderError>),
    /// There is no `ca_file`, and the system knows no authorities either.
    #[error("the system has no certificate authorities, and `ca_file` names none")]
    NoSystemRoots,
    /// The certificate file has no PEM certificate, or something that is none.
    #[error("the certificate file has no PEM certificate")]
    Certificate,
    /// The key file has no private key.
    #[error("the key file has no unencrypted PEM private key")]
    Key,
    /// The two do not belong together, or are of a kind that is not supported.
    #[error("the key does not belong to the certificate, or is of no use with it")]
    Mismatch(#[source] rustls::Error),
    /// No certificate can be for this name.
    #[error("no certificate can be for `{name}`: give `server_name`")]
    Name {
        /// The name.
        name: String,
        /// Why.
        #[source]
        source: InvalidDnsNameError,
    },
    /// The library does not do what it is asked for.
    #[error("TLS 1.2 and 1.3 are not both there")]
    Versions(#[source] rustls::Error),
}

/// How an upstream group's `https` servers are spoken to.
#[derive(Debug)]
pub struct UpstreamTls {
    /// Offers what the group speaks.
    config: Arc<ClientConfig>,
    /// Offers HTTP/1.1 alone.
    alone: Arc<ClientConfig>,
    /// Whom to expect, where it is not the host of the server.
    server_name: Option<ServerName<'static>>,
}

impl UpstreamTls {
    /// Prepares connections to the `https` servers of `upstream`; `None` when it has none.
    ///
    /// # Errors
    ///
    /// See [`UpstreamTlsError`].
    pub fn prepare(upstream: &Upstream) -> Result<Option<Arc<Self>>, UpstreamTlsError> {
        let mut secured = upstream.servers.iter().filter(|server| server.tls).peekable();
        if secured.peek().is_none() {
            return Ok(None);
        }
        let spec = &upstream.tls;
        let server_name = spec.server_name.as_deref().map(name).transpose()?;
        if server_name.is_none() {
            secured.try_for_each(|server| name(&server.host).map(drop))?;
        }
        let roots = Arc::new(match &spec.authorities {
            Some(pem) => only(pem).ok_or(UpstreamTlsError::Authorities(None))?,
            None => system().ok_or(UpstreamTlsError::NoSystemRoots)?,
        });
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier = WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(&provider))
            .build()
            .map_err(|error| UpstreamTlsError::Authorities(Some(error)))?;
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
            .map_err(UpstreamTlsError::Versions)?
            .with_webpki_verifier(verifier);
        let mut alone = match &spec.client {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => {
                let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(certificate.as_bytes())
                    .collect::<Result<_, _>>()
                    .map_err(|_| UpstreamTlsError::Certificate)?;
                if chain.is_empty() {
                    return Err(UpstreamTlsError::Certificate);
                }
                let key = PrivateKeyDer::from_pem_slice(key.expose()).map_err(|_| UpstreamTlsError::Key)?;
                builder.with_client_auth_cert(chain, key).map_err(UpstreamTlsError::Mismatch)?
            }
        };
        let mut config = alone.clone();
        let offered: &[&[u8]] = match upstream.protocol {
            Protocol::Http1 => &[HTTP_1],
            Protocol::Http2 => &[HTTP_2],
            Protocol::Auto => &[HTTP_2, HTTP_1],
        };
        config.alpn_protocols = offered.iter().map(|protocol| protocol.to_vec()).collect();
        alone.alpn_protocols = vec![HTTP_1.to_vec()];
        Ok(Some(Arc::new(Self { config: Arc::new(config), alone: Arc::new(alone), server_name })))
    }
}

impl UpstreamTls {
    /// Whom a certificate of `server` must be for.
    pub(super) fn name_of(&self, server: &Server) -> Option<ServerName<'static>> {
        self.server_name.clone().or_else(|| name(&server.host).ok())
    }

    /// Shakes hands with the server called `name` over `stream`; `alone`: for HTTP/1.1 whatever the group speaks.
    ///
    /// # Errors
    ///
    /// When it cannot be verified, or anything else goes wrong.
    pub(super) async fn connect(
        &self,
        stream: TcpStream,
        name: ServerName<'static>,
        alone: bool,
    ) -> io::Result<TlsStream<TcpStream>> {
        let config = if alone { &self.alone } else { &self.config };
        TlsConnector::from(Arc::clone(config)).connect(name, stream).await
    }
}

fn name(text: &str) -> Result<ServerName<'static>, UpstreamTlsError> {
    ServerName::try_from(text.to_owned()).map_err(|source| UpstreamTlsError::Name { name: text.to_owned(), source })
}

/// The authorities that the system believes.
fn system() -> Option<RootCertStore> {
    let mut roots = RootCertStore::empty();
    // Some systems carry a certificate or two that cannot be read; the others still count.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    (!roots.is_empty()).then_some(roots)
}

/// These authorities alone.
fn only(pem: &str) -> Option<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        roots.add(certificate.ok()?).ok()?;
    }
    (!roots.is_empty()).then_some(roots)
}
