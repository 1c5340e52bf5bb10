//! The listening sockets, and the connections that are accepted from them.

use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::connection::{Door, connection};
use crate::config::Listener;

/// Connections the kernel holds before they are accepted.
const BACKLOG: i32 = 4096;
/// How long accepting rests when the process has no file descriptors left.
const EXHAUSTED: Duration = Duration::from_millis(50);

/// Why a listener was not opened. Read as "failed to listen: {self}".
#[derive(Debug, thiserror::Error)]
#[error("{address} cannot be listened on")]
pub struct BindError {
    /// Where.
    pub address: SocketAddr,
    /// Why.
    #[source]
    pub source: io::Error,
}

/// Bound sockets: for each worker, one for each listener.
#[derive(Debug)]
pub struct Sockets {
    addresses: Vec<SocketAddr>,
    pub(super) of_workers: Vec<Vec<StdListener>>,
}

impl Sockets {
    /// Binds every listener once for each of `workers`. Port 0 takes a free one, the same for all.
    ///
    /// # Errors
    ///
    /// The first address that cannot be bound.
    pub fn bind(listeners: &[Listener], workers: usize) -> Result<Self, BindError> {
        let mut addresses: Vec<SocketAddr> = Vec::new();
        let mut of_workers: Vec<Vec<StdListener>> = Vec::new();
        for worker in 0..workers {
            let mut sockets = Vec::new();
            for (place, listener) in listeners.iter().enumerate() {
                let address = addresses.get(place).copied().unwrap_or(listener.address);
                let failed = |source| BindError { address, source };
                if worker == 0 && address.port() != 0 {
                    // Without SO_REUSEPORT this notices another program on the port; with it, the two
                    // would share its connections.
                    drop(bound(address, false).map_err(failed)?);
                }
                let socket = bound(address, true).map_err(failed)?;
                socket.listen(BACKLOG).map_err(failed)?;
                let socket = StdListener::from(socket);
                if worker == 0 {
                    addresses.push(socket.local_addr().map_err(failed)?);
                }
                sockets.push(socket);
            }
            of_workers.push(sockets);
        }
        Ok(Self { addresses, of_workers })
    }

    /// Where traffic comes in.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }
}

fn bound(address: SocketAddr, shared: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if shared {
        socket.set_reuse_port(true)?;
    }
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

/// What a worker accepts a listener's connections with.
pub(super) struct Serving {
    pub(super) door: Rc<Door>,
    pub(super) slots: Arc<Semaphore>,
    pub(super) connections: TaskTracker,
}

impl Serving {
    fn serve(&self, stream: TcpStream, address: SocketAddr, slot: OwnedSemaphorePermit) {
        self.connections.spawn_local(connection(stream, address, slot, Rc::clone(&self.door)));
    }
}

pub(super) async fn accept(listener: StdListener, serving: Serving, stop: CancellationToken) {
    let listener = match TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!(%error, "failed to accept on a listener"),
    };
    loop {
        // At the bound connections wait in the kernel: none is accepted that cannot be served.
        let slot = tokio::select! {
            slot = Arc::clone(&serving.slots).acquire_owned() => slot,
            () = stop.cancelled() => break,
        };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => break,
        };
        match (accepted, slot) {
            (Ok((stream, address)), Ok(slot)) => serving.serve(stream, address, slot),
            (Err(error), _) if is_about_the_peer(&error) => {}
            (Err(error), _) => {
                tracing::error!(%error, "failed to accept a connection");
                tokio::time::sleep(EXHAUSTED).await;
            }
            (Ok(_), Err(_)) => break,
        }
    }
    // Who had connected before the end was announced is still served.
    let Ok(listener) = listener.into_std() else { return };
    while let Some((stream, address)) = accepted_already(&listener) {
        let Ok(slot) = Arc::clone(&serving.slots).try_acquire_owned() else { break };
        serving.serve(stream, address, slot);
    }
}

/// A connection that was waiting to be accepted. The kernel is asked, for the runtime may not have
/// heard of it yet.
fn accepted_already(listener: &StdListener) -> Option<(TcpStream, SocketAddr)> {
    let (stream, address) = listener.accept().ok()?;
    stream.set_nonblocking(true).ok()?;
    Some((TcpStream::from_std(stream).ok()?, address))
}

fn is_about_the_peer(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted
    )
}
