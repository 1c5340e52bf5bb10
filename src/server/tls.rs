//! TLS on the traffic listeners: whom the gateway shows itself as, and what it asks of clients.
//!
//! Certificates and keys are judged when the configuration is read, never at a handshake. A handshake has
//! a bounded time, waiting for its turn included, and a worker does a bounded number at once; clients
//! beyond it wait, so that a burst is served and a flood of silent ones is dropped as their time runs out.

mod identity;
mod names;
#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use rustls::HandshakeKind;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

pub use self::identity::{CertificateError, Identity, Shown};
use super::capacity::Capacity;
use super::connection::Spoken;
use crate::config::Listener;
use crate::proxy::Peer;
use crate::telemetry::{Limit, Metrics};
use crate::time::Timestamp;

/// Why a listener cannot show itself as it should.
#[derive(Debug)]
pub struct Unusable {
    /// Where it listens.
    pub listener: String,
    /// Which of its certificates, counted from one; `None` when it has one, or it is not about one.
    pub certificate: Option<usize>,
    /// Why.
    pub error: CertificateError,
}

/// What `listeners` are to show themselves as, in their order; `None` for one in clear. A certificate that is
/// `in_force` already is taken as it is, whatever its age: what has expired in use must not keep other
/// changes from being taken up.
///
/// # Errors
///
/// The first listener whose certificates cannot be used.
pub(super) fn prepare(
    in_force: &[Arc<Identity>],
    listeners: &[Listener],
    now: Timestamp,
) -> Result<Vec<Option<Arc<Identity>>>, Unusable> {
    let prepare = |listener: &Listener| {
        let Some(spec) = &listener.tls else { return Ok(None) };
        let listener = listener.address;
        let of_listener = in_force.iter().find(|it| it.listener() == listener);
        if let Some(same) = of_listener.filter(|it| it.spec() == spec) {
            return Ok(Some(Arc::clone(same)));
        }
        let unusable = |certificate, error| Unusable { listener: listener.to_string(), certificate, error };
        let mut shown = Vec::with_capacity(spec.certificates.len());
        for (index, certificate) in spec.certificates.iter().enumerate() {
            let mut all = in_force.iter().flat_map(|identity| identity.certificates());
            shown.push(match all.find(|it| it.is_of(certificate)) {
                Some(same) => Arc::clone(same),
                None => {
                    let which = (spec.certificates.len() > 1).then_some(index + 1);
                    Arc::new(Shown::new(certificate, now).map_err(|error| unusable(which, error))?)
                }
            });
        }
        let made = Identity::new(listener, spec, shown, of_listener.map(AsRef::as_ref));
        Ok(Some(Arc::new(made.map_err(|error| unusable(None, error))?)))
    };
    listeners.iter().map(prepare).collect()
}

/// The handshakes of a worker.
#[derive(Debug)]
pub(super) struct Handshakes {
    turns: Capacity,
    metrics: Arc<Metrics>,
}

impl Handshakes {
    /// At most `max` at once; those that take too long are counted.
    pub(super) fn new(max: usize, metrics: &Arc<Metrics>) -> Self {
        Self { turns: Capacity::new(max), metrics: Arc::clone(metrics) }
    }

    /// How many at once from now on.
    pub(super) fn set_max(&self, max: usize) {
        self.turns.set(max);
    }

    /// Does one within `patience`; `None` when it fails or takes longer.
    pub(super) async fn accept(
        &self,
        identity: &Identity,
        stream: TcpStream,
        patience: Duration,
    ) -> Option<TlsStream<TcpStream>> {
        let accepting = async {
            let _turn = match self.turns.try_take() {
                Some(turn) => turn,
                None => {
                    self.metrics.limits.hit(Limit::HandshakesPerWorker);
                    self.turns.take().await?
                }
            };
            match TlsAcceptor::from(identity.config()).accept(stream).await {
                Ok(stream) => Some(stream),
                Err(error) => {
                    tracing::debug!(%error, "a TLS handshake failed");
                    None
                }
            }
        };
        timeout(patience, accepting).await.unwrap_or_else(|_| {
            tracing::debug!("a TLS handshake took too long");
            self.metrics.limits.hit(Limit::HandshakeTimeout);
            None
        })
    }
}

/// What the client has chosen to speak.
pub(super) fn protocol_of(stream: &TlsStream<TcpStream>) -> Spoken {
    let chosen = stream.get_ref().1.alpn_protocol();
    if chosen == Some(identity::HTTP2) { Spoken::Http2 } else { Spoken::Http1 }
}

/// Who is at the other end of a connection. `None`: its certificate was good when it was shown, and is not
/// any more, which a resumed session does not look at.
pub(super) fn peer_of(
    address: IpAddr,
    identity: &Identity,
    stream: &TlsStream<TcpStream>,
    now: Timestamp,
) -> Option<Peer> {
    let (_, connection) = stream.get_ref();
    let certificate = connection.peer_certificates().and_then(<[_]>::first);
    let resumed = connection.handshake_kind() == Some(HandshakeKind::Resumed);
    if let Some(certificate) = certificate.filter(|_| resumed)
        && identity::validity(certificate).is_none_or(|(_, expires)| now >= expires)
    {
        tracing::debug!("a client resumed a session after its certificate had expired");
        return None;
    }
    // RFC 8705 §3.1.
    let thumbprint = certificate.and_then(|it| digest(&SHA256, it).as_ref().try_into().ok());
    let peer = Peer::secured(address, thumbprint);
    Some(match identity.coverage(connection.server_name()) {
        Some(coverage) => peer.limited_to(coverage),
        None => peer,
    })
}
