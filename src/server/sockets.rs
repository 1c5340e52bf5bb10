//! The listening sockets, and the connections that are accepted from them.

use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::capacity::Capacity;
use super::census::{Census, Counted, Full};
use super::connection::{Door, connection};
use crate::telemetry::Limit;

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

/// Binds an address once for each of `workers`, and where that is. Port 0 takes a free one, the same for all.
///
/// # Errors
///
/// When it cannot be bound, or another program has it, unless the port is known to be `ours`.
pub(super) fn bind(
    address: SocketAddr,
    workers: usize,
    ours: bool,
) -> Result<(SocketAddr, Vec<StdListener>), BindError> {
    let failed = |source| BindError { address, source };
    if address.port() != 0 && !ours {
        // Without SO_REUSEPORT this notices another program on the port; with it, the two would share its
        // connections.
        drop(bound(address, false).map_err(failed)?);
    }
    let mut found = address;
    let mut sockets = Vec::with_capacity(workers);
    for _ in 0..workers {
        let socket = bound(found, true).map_err(failed)?;
        socket.listen(BACKLOG).map_err(failed)?;
        let socket = StdListener::from(socket);
        found = socket.local_addr().map_err(failed)?;
        sockets.push(socket);
    }
    Ok((found, sockets))
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
    pub(super) slots: Rc<Capacity>,
    pub(super) census: Arc<Census>,
    pub(super) connections: TaskTracker,
}

/// The place that a connection takes up, until this is dropped.
#[derive(Debug)]
pub(super) struct Slot {
    _of_worker: OwnedSemaphorePermit,
    _of_process: Counted,
}

impl Serving {
    fn serve(&self, stream: TcpStream, address: SocketAddr, slot: Slot) {
        self.connections.spawn_local(connection(stream, address, slot, Rc::clone(&self.door)));
    }

    fn hit(&self, limit: Limit) {
        self.door.worker.local().shared.metrics.limits.hit(limit);
    }

    /// A place among the connections of this worker.
    async fn of_worker(&self) -> Option<OwnedSemaphorePermit> {
        if let Some(slot) = self.slots.try_take() {
            return Some(slot);
        }
        self.hit(Limit::ConnectionsPerWorker);
        self.slots.take().await
    }

    /// A place among the connections of the process and of the client at `address`.
    fn enter(&self, address: SocketAddr) -> Result<Counted, Full> {
        let local = self.door.worker.local();
        let config = &local.snapshot.config;
        let address = address.ip().to_canonical();
        let speaks_for_others = config.trusted_proxies.iter().any(|net| net.contains(&address));
        let client = if speaks_for_others { None } else { Some(address) };
        self.census.enter(config.limits.connections, client, config.limits.connections_per_client)
    }

    /// The same, waited for where the process is full. `None`: its client has enough of them.
    async fn await_place(&self, address: SocketAddr) -> Option<Counted> {
        let mut waits = false;
        loop {
            let left = self.census.left().notified();
            match self.enter(address) {
                Ok(counted) => return Some(counted),
                Err(Full::Client) => {
                    self.hit(Limit::ConnectionsPerClient);
                    return None;
                }
                Err(Full::Process) => {
                    if !std::mem::replace(&mut waits, true) {
                        self.hit(Limit::Connections);
                    }
                    left.await;
                }
            }
        }
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
            slot = serving.of_worker() => slot,
            () = stop.cancelled() => break,
        };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => break,
        };
        match (accepted, slot) {
            (Ok((stream, address)), Some(of_worker)) => {
                // While it waits, those behind it wait in the kernel.
                let place = tokio::select! {
                    place = serving.await_place(address) => place,
                    () = stop.cancelled() => serving.enter(address).ok(),
                };
                if let Some(of_process) = place {
                    serving.serve(stream, address, Slot { _of_worker: of_worker, _of_process: of_process });
                }
            }
            (Err(error), _) if is_about_the_peer(&error) => {}
            (Err(error), _) => {
                tracing::error!(%error, "failed to accept a connection");
                tokio::time::sleep(EXHAUSTED).await;
            }
            (Ok(_), None) => break,
        }
    }
    // What waits in one that goes on without this process is for the next.
    if serving.door.entrance.inherited {
        return;
    }
    // Who had connected before the end was announced is still served.
    let Ok(listener) = listener.into_std() else { return };
    while let Some((stream, address)) = accepted_already(&listener) {
        let Some(of_worker) = serving.slots.try_take() else { break };
        let Ok(of_process) = serving.enter(address) else { continue };
        serving.serve(stream, address, Slot { _of_worker: of_worker, _of_process: of_process });
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
