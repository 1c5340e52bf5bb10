//! One client connection, from its acceptance to the protocol that is spoken on it.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::ending::Ending;
use super::entrances::Entrance;
use super::frames::PREFACE;
use super::patient::Patient;
use super::sockets::Slot;
use super::tls::{self, Handshakes};
use super::{http1, http2};
use crate::config::Limits;
use crate::proxy::{Peer, Worker};
use crate::telemetry::Limit;

/// How long handshakes under way may still take once the drain has begun.
const LAST_HANDSHAKES: Duration = Duration::from_secs(1);

/// What the connections of one listener have in common.
pub(super) struct Door {
    pub(super) worker: Rc<Worker>,
    pub(super) ending: Ending,
    pub(super) entrance: Arc<Entrance>,
    pub(super) handshakes: Rc<Handshakes>,
}

impl Door {
    fn limits(&self) -> Limits {
        self.worker.local().snapshot.config.limits.clone()
    }

    /// Whether a client in clear may begin with HTTP/2.
    fn is_h2c(&self) -> bool {
        let listeners = &self.worker.local().snapshot.config.listeners;
        listeners.iter().any(|listener| listener.address == self.entrance.configured() && listener.h2c)
    }
}

/// What is spoken on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spoken {
    Http1,
    Http2,
}

/// Serves a connection until it ends, or is ended.
pub(super) async fn connection(stream: TcpStream, address: SocketAddr, slot: Slot, door: Rc<Door>) {
    door.ending.bound(served(stream, address, &door)).await;
    drop(slot);
}

async fn served(stream: TcpStream, address: SocketAddr, door: &Rc<Door>) {
    // Without it an answer in two writes waits for a delayed acknowledgement.
    if stream.set_nodelay(true).is_err() {
        return;
    }
    match door.entrance.identity() {
        None => in_clear(stream, Peer::new(address.ip()), door).await,
        Some(identity) => {
            let patience = door.limits().handshake_timeout;
            // Boxed: it is over soon, and must not make the connection larger for as long as that lasts.
            let shaking = Box::pin(door.handshakes.accept(&identity, stream, patience));
            let shaken = tokio::select! {
                shaken = shaking => shaken,
                () = hurry(&door.ending) => None,
            };
            if let Some(stream) = shaken {
                let now = door.worker.local().shared.clock.now();
                if let Some(peer) = tls::peer_of(address.ip(), &identity, &stream, now) {
                    // By a reload it may be gone while the connection goes on.
                    drop(identity);
                    let chosen = tls::protocol_of(&stream);
                    let stream = Patient::new(stream, Vec::new(), door.limits().write_timeout);
                    match chosen {
                        Spoken::Http1 => http1::exchanges(stream, peer, door).await,
                        Spoken::Http2 => http2::exchanges(stream, peer, door).await,
                    }
                }
            }
        }
    }
}

/// Serves a connection without TLS: HTTP/1.1, or HTTP/2 where the listener says so and the client begins it.
async fn in_clear(mut stream: TcpStream, peer: Peer, door: &Rc<Door>) {
    let (limits, chooses) = (door.limits(), door.is_h2c());
    let opening = if chooses {
        let opening = Box::pin(timeout(limits.header_timeout, opening(&mut stream)));
        let opening = tokio::select! {
            opening = opening => opening.unwrap_or_else(|_| {
                door.worker.local().shared.metrics.limits.hit(Limit::HeaderTimeout);
                None
            }),
            () = hurry(&door.ending) => None,
        };
        let Some(opening) = opening else { return };
        opening
    } else {
        (Spoken::Http1, Vec::new())
    };
    let (spoken, early) = opening;
    let stream = Patient::new(stream, early, limits.write_timeout);
    match spoken {
        Spoken::Http1 => http1::exchanges(stream, peer, door).await,
        Spoken::Http2 => http2::exchanges(stream, peer, door).await,
    }
}

/// Reads as much as it takes to know what a client speaks: that, and what was read.
async fn opening(stream: &mut (impl AsyncRead + Unpin)) -> Option<(Spoken, Vec<u8>)> {
    let mut seen = Vec::new();
    let mut space = [0; PREFACE.len()];
    while PREFACE.starts_with(&seen) {
        if seen.len() == PREFACE.len() {
            return Some((Spoken::Http2, seen));
        }
        let count = stream.read(space.get_mut(seen.len()..)?).await.ok().filter(|count| *count > 0)?;
        seen.extend_from_slice(space.get(seen.len()..seen.len() + count)?);
    }
    Some((Spoken::Http1, seen))
}

/// Over a moment after the drain has begun: a client that has not finished its handshake by then has sent
/// no request.
async fn hurry(ending: &Ending) {
    let mut listener = ending.listener();
    poll_fn(|cx| if listener.hears(cx) { Poll::Ready(()) } else { Poll::Pending }).await;
    tokio::time::sleep(LAST_HANDSHAKES).await;
}
