//! TLS on the traffic listeners: whom the gateway shows itself as, and what it asks of clients.
//!
//! Certificates and keys are judged when the configuration is read, never at a handshake. A handshake has
//! a bounded time, waiting for its turn included, and a worker does a bounded number at once; clients
//! beyond it wait, so that a burst is served and a flood of silent ones is dropped as their time runs out.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use aws_lc_rs::digest::{SHA256, digest};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::config::{ClientAuth, Listener, ListenerTls};
use crate::time::Timestamp;

/// The protocol spoken inside (RFC 7301). A client that wants another one is refused at the handshake.
const ALPN: &[u8] = b"http/1.1";

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
    /// The authorities that may vouch for clients cannot be used.
    #[error("the authorities in `client_ca` cannot be used")]
    Authorities(#[source] Option<rustls::server::VerifierBuilderError>),
    /// The library does not do what it is asked for.
    #[error("TLS 1.2 and 1.3 are not both there")]
    Versions(#[source] rustls::Error),
}

/// What one listener shows itself as.
#[derive(Debug)]
pub struct Identity {
    spec: ListenerTls,
    config: Arc<ServerConfig>,
    expires: Timestamp,
}

impl Identity {
    /// Judges certificate and key at `now`, and prepares handshakes.
    ///
    /// # Errors
    ///
    /// See [`CertificateError`].
    pub fn new(spec: &ListenerTls, now: Timestamp) -> Result<Self, CertificateError> {
        let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(spec.certificate.as_bytes())
            .collect::<Result<_, _>>()
            .map_err(|_| CertificateError::Certificate)?;
        let (from, expires) = chain.first().and_then(validity).ok_or(CertificateError::Certificate)?;
        if now >= expires {
            return Err(CertificateError::Expired(expires));
        }
        if now < from {
            return Err(CertificateError::NotYetValid(from));
        }
        let key = PrivateKeyDer::from_pem_slice(spec.key.expose()).map_err(|_| CertificateError::Key)?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
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
        let mut config = builder.with_single_cert(chain, key).map_err(CertificateError::Mismatch)?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        Ok(Self { spec: spec.clone(), config: Arc::new(config), expires })
    }

    /// The first instant at which the certificate is not valid any more.
    #[must_use]
    pub const fn expires(&self) -> Timestamp {
        self.expires
    }
}

fn roots(pem: &str) -> Option<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        roots.add(certificate.ok()?).ok()?;
    }
    Some(roots)
}

/// `notBefore`, and the second after `notAfter`, which is still valid (RFC 5280 §4.1.2.5).
fn validity(certificate: &CertificateDer<'_>) -> Option<(Timestamp, Timestamp)> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let validity = certificate.validity();
    let from = Timestamp::from_secs(validity.not_before.timestamp());
    Some((from, Timestamp::from_secs(validity.not_after.timestamp().saturating_add(1))))
}

/// What each listener shows itself as, in the order of the configuration: swapped whole at a reload, for
/// the connections that come from then on.
#[derive(Debug, Default)]
pub struct Identities(ArcSwap<Vec<Option<Arc<Identity>>>>);

impl Identities {
    /// The identities that `listeners` ask for. One that is in force already is taken as it is, whatever
    /// its age: what has expired in use must not keep other changes from being taken up.
    ///
    /// # Errors
    ///
    /// The address of the first listener whose certificate cannot be used, and why.
    pub fn prepare(
        &self,
        listeners: &[Listener],
        now: Timestamp,
    ) -> Result<Vec<Option<Arc<Identity>>>, (String, CertificateError)> {
        let in_force = self.0.load();
        let prepare = |listener: &Listener| {
            let Some(spec) = &listener.tls else { return Ok(None) };
            if let Some(same) = in_force.iter().flatten().find(|it| it.spec == *spec) {
                return Ok(Some(Arc::clone(same)));
            }
            let made = Identity::new(spec, now).map_err(|error| (listener.address.to_string(), error))?;
            Ok(Some(Arc::new(made)))
        };
        listeners.iter().map(prepare).collect()
    }

    /// Puts them in force.
    pub fn put(&self, identities: Vec<Option<Arc<Identity>>>) {
        self.0.store(Arc::new(identities));
    }

    /// All of them.
    #[must_use]
    pub fn all(&self) -> Arc<Vec<Option<Arc<Identity>>>> {
        self.0.load_full()
    }

    /// How the listener at `place` does handshakes; `None` when it speaks in clear.
    pub(super) fn of(&self, place: usize) -> Option<Arc<ServerConfig>> {
        self.0.load().get(place)?.as_ref().map(|identity| Arc::clone(&identity.config))
    }
}

/// The handshakes of a worker.
#[derive(Debug)]
pub(super) struct Handshakes {
    turns: Semaphore,
}

impl Handshakes {
    /// At most `max` at once.
    pub(super) fn new(max: usize) -> Self {
        Self { turns: Semaphore::new(max) }
    }

    /// Does one within `patience`; `None` when it fails or takes longer.
    pub(super) async fn accept(
        &self,
        config: Arc<ServerConfig>,
        stream: TcpStream,
        patience: Duration,
    ) -> Option<TlsStream<TcpStream>> {
        let accepting = async {
            let _turn = self.turns.acquire().await.ok()?;
            match TlsAcceptor::from(config).accept(stream).await {
                Ok(stream) => Some(stream),
                Err(error) => {
                    tracing::debug!(%error, "a TLS handshake failed");
                    None
                }
            }
        };
        timeout(patience, accepting).await.unwrap_or_else(|_| {
            tracing::debug!("a TLS handshake took too long");
            None
        })
    }
}

/// The SHA-256 of the certificate that a client has shown and proven to hold (RFC 8705 §3.1).
pub(super) fn certificate_of(stream: &TlsStream<TcpStream>) -> Option<[u8; 32]> {
    let (_, connection) = stream.get_ref();
    let certificate = connection.peer_certificates()?.first()?;
    digest(&SHA256, certificate).as_ref().try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::Secret;

    /// A certificate that is valid in the seconds between two instants.
    fn made(from: i64, to: i64) -> (String, Secret) {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut certificate = rcgen::CertificateParams::new(vec!["shop.example".to_owned()]).unwrap();
        let at = |secs| std::time::UNIX_EPOCH + Duration::from_secs(u64::try_from(secs).unwrap());
        certificate.not_before = at(from).into();
        certificate.not_after = at(to).into();
        (certificate.self_signed(&key).unwrap().pem(), Secret::new(key.serialize_pem().into_bytes()))
    }

    fn spec((certificate, key): (String, Secret)) -> ListenerTls {
        ListenerTls { certificate, key, clients: None }
    }

    fn judged(spec: &ListenerTls, secs: i64) -> String {
        Identity::new(spec, Timestamp::from_secs(secs)).map_or_else(|error| error.to_string(), |_| "good".to_owned())
    }

    #[test]
    fn a_certificate_is_good_from_its_first_second_to_its_last() {
        let spec = spec(made(1_000_000, 2_000_000));
        for (secs, wanted) in [
            (999_999, "it is not valid before 1970-01-12T13:46:40Z"),
            (1_000_000, "good"),
            (2_000_000, "good"),
            (2_000_001, "it expired at 1970-01-24T03:33:21Z"),
        ] {
            assert_eq!(judged(&spec, secs), wanted, "{secs}");
        }
    }

    #[test]
    fn what_does_not_belong_together_is_refused() {
        let (one, other) = (made(1, 100), made(1, 100));
        let text = |text: &str| Secret::new(text.as_bytes().to_vec());
        let mismatch = "the key does not belong to the certificate, or is of no use with it";
        let clients = |pem: &str| Some((pem.to_owned(), ClientAuth::Required));
        let authorities = "the authorities in `client_ca` cannot be used";
        for (spec, wanted) in [
            (spec((one.0.clone(), other.1.clone())), mismatch),
            (spec((String::new(), one.1.clone())), "the certificate file has no PEM certificate"),
            (
                spec(("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".to_owned(), one.1.clone())),
                "the certificate file has no PEM certificate",
            ),
            (spec((one.0.clone(), text(&one.0))), "the key file has no unencrypted PEM private key"),
            (ListenerTls { clients: clients(""), ..spec(one.clone()) }, authorities),
            (ListenerTls { clients: clients(&other.0), ..spec(one.clone()) }, "good"),
        ] {
            assert_eq!(judged(&spec, 50), wanted);
        }
    }

    #[test]
    fn what_is_in_force_is_taken_over_whatever_its_age() {
        let listener = |tls| Listener { address: "127.0.0.1:0".parse().unwrap(), tls };
        let (first, second) = (spec(made(1, 100)), spec(made(1, 100)));
        let identities = Identities::default();
        let at = Timestamp::from_secs;
        let made = identities.prepare(&[listener(None), listener(Some(first.clone()))], at(50)).unwrap();
        identities.put(made);
        assert!(identities.of(0).is_none() && identities.of(1).is_some() && identities.of(2).is_none());
        let kept = identities.prepare(&[listener(Some(first.clone()))], at(500)).unwrap();
        assert!(Arc::ptr_eq(kept[0].as_ref().unwrap(), identities.all()[1].as_ref().unwrap()));
        let refused = identities.prepare(&[listener(Some(first)), listener(Some(second))], at(500)).unwrap_err();
        assert!(matches!(refused.1, CertificateError::Expired(_)));
    }
}
