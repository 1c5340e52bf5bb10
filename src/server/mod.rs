//! Sockets, connections and their limits; knows no tokens.
//!
//! One worker a core, each a thread with its own runtime, its own listening sockets (`SO_REUSEPORT`:
//! the kernel spreads connections), its own upstream connections and its own caches, so that requests
//! of two workers meet only at read-mostly state.

mod ending;
mod guard;
mod tls;

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::thread::JoinHandle;
use std::time::Duration;

use http::Request;
use http_body::Body;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::ending::{Ending, HeadTimer};
use self::guard::{Framing, Guarded, Violation, Watch};
use self::tls::Handshakes;
pub use self::tls::{CertificateError, Identities, Identity};
use crate::alarm::Alarm;
use crate::config::{Limits, Listener};
use crate::proxy::{Handover, Peer, Refusal, Shared, Worker, serve};

/// Connections the kernel holds before they are accepted.
const BACKLOG: i32 = 4096;
/// How often idle upstream connections are looked through.
const REAP: Duration = Duration::from_secs(5);
/// How long accepting rests when the process has no file descriptors left.
const EXHAUSTED: Duration = Duration::from_millis(50);
/// How long handshakes under way may still take once the drain has begun.
const LAST_HANDSHAKES: Duration = Duration::from_secs(1);

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
    of_workers: Vec<Vec<StdListener>>,
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

/// The end of all workers, in two steps.
#[derive(Clone, Debug, Default)]
pub struct Drain {
    /// No new connections and requests; running ones go on.
    stop: CancellationToken,
    /// Nothing goes on.
    end: CancellationToken,
}

/// The running workers.
#[derive(Debug)]
pub struct Workers {
    threads: Vec<JoinHandle<()>>,
    drain: Drain,
    ended: tokio::sync::mpsc::Receiver<()>,
}

/// Why the workers could not be started. Read as "failed to start: {self}".
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A thread or its runtime could not be made.
    #[error("a worker thread cannot be started")]
    Thread(#[source] io::Error),
}

impl Workers {
    /// Starts a worker for each set of sockets, whose listeners show themselves as `identities` say.
    ///
    /// # Errors
    ///
    /// When a thread cannot be made.
    pub fn start(sockets: Sockets, shared: &Arc<Shared>, identities: &Arc<Identities>) -> Result<Self, StartError> {
        let drain = Drain::default();
        let (alive, ended) = tokio::sync::mpsc::channel(1);
        let mut threads = Vec::new();
        for (number, listeners) in sockets.of_workers.into_iter().enumerate() {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_io()
                .enable_time()
                .build()
                .map_err(StartError::Thread)?;
            let (shared, drain, alive) = (Arc::clone(shared), drain.clone(), alive.clone());
            let identities = Arc::clone(identities);
            let work = move || {
                tokio::task::LocalSet::new().block_on(&runtime, work(listeners, shared, identities, drain));
                drop(alive);
            };
            let thread = std::thread::Builder::new().name(format!("worker-{number}")).spawn(work);
            threads.push(thread.map_err(StartError::Thread)?);
        }
        Ok(Self { threads, drain, ended })
    }

    /// Stops accepting, lets running requests finish for at most `patience`, and ends the workers.
    /// Whether all requests had finished by then.
    pub async fn drain(mut self, patience: Duration) -> bool {
        self.drain.stop.cancel();
        let finished = tokio::time::timeout(patience, self.ended.recv()).await.is_ok();
        self.drain.end.cancel();
        for thread in self.threads {
            // A worker that panicked has nothing left to finish.
            drop(tokio::task::spawn_blocking(move || thread.join()).await);
        }
        finished
    }
}

async fn work(listeners: Vec<StdListener>, shared: Arc<Shared>, identities: Arc<Identities>, drain: Drain) {
    let worker = Rc::new(Worker::new(Arc::clone(&shared)));
    let limits = shared.snapshot.load().config.limits.clone();
    let slots = Arc::new(Semaphore::new(limits.connections_per_worker));
    let connections = TaskTracker::new();
    let ending = Rc::new(Ending::default());
    let handshakes = Rc::new(Handshakes::new(limits.handshakes_per_worker));
    for (place, listener) in listeners.into_iter().enumerate() {
        let serving = Serving {
            door: Rc::new(Door {
                worker: Rc::clone(&worker),
                ending: Rc::clone(&ending),
                identities: Arc::clone(&identities),
                handshakes: Rc::clone(&handshakes),
                place,
            }),
            slots: Arc::clone(&slots),
            connections: connections.clone(),
        };
        connections.spawn_local(accept(listener, serving, drain.stop.clone()));
    }
    let reaping = Rc::clone(&worker);
    tokio::task::spawn_local(async move {
        let mut ticks = tokio::time::interval(REAP);
        loop {
            ticks.tick().await;
            reaping.reap();
        }
    });
    drain.stop.cancelled().await;
    ending.begin();
    connections.close();
    tokio::select! {
        () = connections.wait() => {}
        () = drain.end.cancelled() => {}
    }
}

/// What a worker accepts a listener's connections with.
struct Serving {
    door: Rc<Door>,
    slots: Arc<Semaphore>,
    connections: TaskTracker,
}

/// What the connections of one listener have in common.
struct Door {
    worker: Rc<Worker>,
    ending: Rc<Ending>,
    identities: Arc<Identities>,
    handshakes: Rc<Handshakes>,
    /// Its place in the configuration.
    place: usize,
}

impl Serving {
    fn serve(&self, stream: TcpStream, address: SocketAddr, slot: OwnedSemaphorePermit) {
        self.connections.spawn_local(connection(stream, address, slot, Rc::clone(&self.door)));
    }
}

async fn accept(listener: StdListener, serving: Serving, stop: CancellationToken) {
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

async fn connection(stream: TcpStream, address: SocketAddr, slot: OwnedSemaphorePermit, door: Rc<Door>) {
    // Without it an answer in two writes waits for a delayed acknowledgement.
    if stream.set_nodelay(true).is_err() {
        return;
    }
    match door.identities.of(door.place) {
        None => exchanges(stream, Peer::new(address.ip()), &door).await,
        Some(identity) => {
            let patience = door.worker.local().snapshot.config.limits.handshake_timeout;
            // Boxed: it is over soon, and must not make the connection larger for as long as that lasts.
            let shaking = Box::pin(door.handshakes.accept(identity, stream, patience));
            let shaken = tokio::select! {
                shaken = shaking => shaken,
                () = hurry(&door.ending) => None,
            };
            if let Some(stream) = shaken {
                let peer = Peer::secured(address.ip(), tls::certificate_of(&stream));
                exchanges(stream, peer, &door).await;
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

/// Serves the requests that come on a stream until it ends.
async fn exchanges<S>(stream: S, peer: Peer, door: &Door)
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let worker = Rc::clone(&door.worker);
    let limits = worker.local().snapshot.config.limits.clone();
    let watch = Rc::new(RefCell::new(Watch::new(limits.uri_bytes)));
    let io = TokioIo::new(Guarded::new(stream, Rc::clone(&watch), limits.write_timeout));
    let peer = Rc::new(peer);
    let handover = Rc::<Handover>::default();
    let service = {
        let (watch, handover) = (Rc::clone(&watch), Rc::clone(&handover));
        service_fn(move |request| {
            let violation = watch.borrow_mut().head_read(framing(&request));
            serve(Rc::clone(&worker), Rc::clone(&peer), Rc::clone(&handover), violation.map(refusal), request)
        })
    };
    let head = HeadTimer::new();
    let mut late = Alarm::new(limits.header_timeout);
    let mut connection = builder(&limits, head.clone()).serve_connection(io, service);
    let mut listener = door.ending.listener();
    let mut leaving = false;
    let served = poll_fn(|cx| {
        if !leaving && listener.hears(cx) {
            leaving = true;
            Pin::new(&mut connection).graceful_shutdown();
        }
        if handover.is_cut() {
            return Poll::Ready(Err(Ended::Dishonoured));
        }
        if let Poll::Ready(served) = Pin::new(&mut connection).poll(cx) {
            return Poll::Ready(served.map_err(Ended::Hyper));
        }
        late.set(head.due());
        late.poll_due(cx).map(|()| Err(Ended::HeadTooLate))
    })
    .await;
    match (served, handover.take_tunnel()) {
        (Err(error), _) => tracing::debug!(%error, "a client connection ended early"),
        (Ok(()), Some(tunnel)) if !watch.borrow().is_cut_short() => {
            let parts = connection.into_parts();
            let leaving = poll_fn(|cx| if listener.hears(cx) { Poll::Ready(()) } else { Poll::Pending });
            // In a box: it is rare, and must not make every connection's task larger.
            let stream = parts.io.into_inner().into_inner();
            Box::pin(tunnel.run(stream, &parts.read_buf, leaving)).await;
        }
        (Ok(()), _) => {}
    }
}

/// Why a connection ended early.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("the token of its request is no longer honoured")]
    Dishonoured,
    #[error("no request head came in time")]
    HeadTooLate,
    #[error(transparent)]
    Hyper(hyper::Error),
}

fn builder(limits: &Limits, head: HeadTimer) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .timer(head)
        .header_read_timeout(limits.header_timeout)
        .max_buf_size(limits.header_bytes.max(8192))
        .max_header_size(limits.header_bytes);
    // The parser's own default lies on the stack; another number costs an allocation a request.
    if limits.header_count != 100 {
        builder.max_headers(limits.header_count);
    }
    builder
}

/// What follows the head of `request`, as hyper has understood it.
fn framing(request: &Request<Incoming>) -> Framing {
    request.body().size_hint().exact().map_or(Framing::Chunked, |length| match length {
        0 => Framing::Nothing,
        length => Framing::Length(length),
    })
}

const fn refusal(violation: Violation) -> Refusal {
    match violation {
        Violation::BareLineFeed => Refusal::BadRequest("a line of the head ends without CR"),
        Violation::Fragment => Refusal::BadRequest("the request target has a fragment"),
        Violation::TwoFramings => Refusal::BadRequest("the head frames the body twice"),
        Violation::TargetTooLong => Refusal::UriTooLong,
    }
}
