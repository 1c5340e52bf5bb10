//! One client connection, from its acceptance to the protocol that is spoken on it.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;

use super::ending::Ending;
use super::entrances::Entrance;
use super::http1::exchanges;
use super::tls::{self, Handshakes};
use crate::proxy::{Peer, Worker};

/// How long handshakes under way may still take once the drain has begun.
const LAST_HANDSHAKES: Duration = Duration::from_secs(1);

/// What the connections of one listener have in common.
pub(super) struct Door {
    pub(super) worker: Rc<Worker>,
    pub(super) ending: Ending,
    pub(super) entrance: Arc<Entrance>,
    pub(super) handshakes: Rc<Handshakes>,
}

pub(super) async fn connection(stream: TcpStream, address: SocketAddr, slot: OwnedSemaphorePermit, door: Rc<Door>) {
    // Without it an answer in two writes waits for a delayed acknowledgement.
    if stream.set_nodelay(true).is_err() {
        return;
    }
    match door.entrance.identity() {
        None => exchanges(stream, Peer::new(address.ip()), &door).await,
        Some(identity) => {
            let patience = door.worker.local().snapshot.config.limits.handshake_timeout;
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
                    exchanges(stream, peer, &door).await;
                }
            }
        }
    }
    drop(slot);
}

/// Over a moment after the drain has begun: a client that has not finished its handshake by then has sent
/// no request.
async fn hurry(ending: &Ending) {
    let mut listener = ending.listener();
    poll_fn(|cx| if listener.hears(cx) { Poll::Ready(()) } else { Poll::Pending }).await;
    tokio::time::sleep(LAST_HANDSHAKES).await;
}
