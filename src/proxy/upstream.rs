//! The servers of an upstream, and a worker's own connections to them.
//!
//! Each worker keeps its connections to itself, so a request takes no lock. The server with the fewest
//! requests of this worker on it is chosen; a server that cannot be connected to is passed over for
//! the next. A request is sent again only if no byte of it had been written.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, ready};
use std::time::Duration;

use http::{HeaderValue, Request, Response, header};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout};

use super::body::{BodyFailure, Progress, RequestBody};
use crate::alarm::Alarm;
use crate::config::{Server, Upstream};
use crate::telemetry::{UpstreamMetrics, UpstreamResult};

/// A worker's side of one upstream group.
#[derive(Debug)]
pub(super) struct Pool {
    servers: Vec<Rc<ServerPool>>,
    turn: Cell<usize>,
    connect_timeout: Duration,
    response_timeout: Duration,
}

/// A worker's connections to one server.
#[derive(Debug)]
struct ServerPool {
    server: Server,
    /// The address, when the server is named by one.
    address: Option<SocketAddr>,
    /// `Host` for requests that do not keep the client's.
    authority: HeaderValue,
    running: Cell<usize>,
    idle: RefCell<Vec<Idle>>,
    idle_timeout: Duration,
    max_idle: usize,
    metrics: Arc<UpstreamMetrics>,
}

#[derive(Debug)]
struct Connection {
    sender: SendRequest<RequestBody>,
    task: AbortHandle,
    /// Until when the response head has to be there.
    late: Alarm,
}

#[derive(Debug)]
struct Idle {
    connection: Connection,
    since: Instant,
}

/// Why an upstream gave no response.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum ForwardError {
    /// No server could be connected to.
    #[error("no server could be connected to")]
    Unreachable,
    /// The server took too long to connect or to answer.
    #[error("the server took too long")]
    Slow,
    /// The connection broke before a response came, or it was not a response to forward.
    #[error("the server gave no valid response")]
    Broken,
    /// The request body failed, by the client's fault.
    #[error(transparent)]
    Body(#[from] BodyFailure),
}

/// A connection with one request on it. It goes back to the pool once request and response are
/// complete, and is closed otherwise.
#[derive(Debug)]
pub(super) struct Lease {
    server: Rc<ServerPool>,
    connection: Option<Connection>,
    request: Option<Rc<Progress>>,
    /// When the connection was last heard of.
    heard: Instant,
    complete: bool,
    result: UpstreamResult,
}

impl Lease {
    /// The head of the response came then.
    pub(super) const fn answered_at(&mut self, at: Instant) {
        self.heard = at;
    }

    /// When the connection was last heard of.
    pub(super) const fn heard(&self) -> Instant {
        self.heard
    }

    /// The connection has changed its protocol: no request will go over it again.
    pub(super) const fn switched(&mut self) {
        self.complete = false;
        self.result = UpstreamResult::Answered;
    }

    /// The response was read to its end.
    pub(super) fn response_complete(&mut self) {
        self.complete = true;
        self.result = UpstreamResult::Answered;
    }

    /// The response broke off.
    pub(super) const fn failed_broken(&mut self) {
        self.result = UpstreamResult::Broken;
    }

    /// The response took too long.
    pub(super) const fn failed_slow(&mut self) {
        self.result = UpstreamResult::TimedOut;
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let server = &self.server;
        server.running.set(server.running.get() - 1);
        server.metrics.active.dec();
        server.metrics.ended(self.result);
        let Some(connection) = self.connection.take() else { return };
        let sent = self.request.as_ref().is_none_or(|request| request.is_complete());
        if self.complete && sent && !connection.sender.is_closed() {
            server.put(connection, self.heard);
        } else {
            connection.task.abort();
        }
    }
}

impl Pool {
    /// An empty pool for `upstream`.
    #[must_use]
    pub(super) fn new(upstream: &Upstream, metrics: &Arc<UpstreamMetrics>) -> Self {
        let servers = upstream.servers.iter().map(|server| Rc::new(ServerPool::new(server, upstream, metrics)));
        Self {
            servers: servers.collect(),
            turn: Cell::new(0),
            connect_timeout: upstream.connect_timeout,
            response_timeout: upstream.response_timeout,
        }
    }

    /// Sends `request` at `began`, which is now, and waits for the head of the response.
    ///
    /// # Errors
    ///
    /// Why there is none. The request is lost with it.
    pub(super) async fn send(
        &self,
        mut request: Request<RequestBody>,
        preserve_host: bool,
        began: Instant,
    ) -> Result<(Response<Incoming>, Lease), ForwardError> {
        let progress = request.body().progress();
        let keeps_host = preserve_host && request.headers().contains_key(header::HOST);
        let mut failure = ForwardError::Unreachable;
        for server in self.by_load() {
            if !keeps_host {
                request.headers_mut().insert(header::HOST, server.authority.clone());
            }
            let mut lease = server.lease(progress.clone(), began);
            let mut idle = server.take(began);
            loop {
                let reused = idle.is_some();
                let connection = match idle.take() {
                    Some(connection) => Ok(connection),
                    None => server.connect(self.connect_timeout, self.response_timeout).await,
                };
                let connection = match connection {
                    Ok(connection) => connection,
                    Err(error) => {
                        lease.result = error.result();
                        tracing::warn!(server = %server.name(), %error, "failed to connect to an upstream server");
                        failure = error;
                        break;
                    }
                };
                let from = if reused { began } else { Instant::now() };
                // Held by the lease while the answer is awaited: if the client goes away, so does this.
                let connection = lease.connection.insert(connection);
                match self.exchange(connection, request, progress.as_deref(), from).await {
                    Ok(response) => return Ok((response, lease)),
                    // Nothing was written: an idle connection that the server had closed, or a server that
                    // hangs up on new ones and is passed over for the next.
                    Err((error, Some(unsent))) => {
                        request = *unsent;
                        if !reused {
                            lease.result = error.result();
                            failure = error;
                            break;
                        }
                    }
                    Err((error, None)) => {
                        lease.result = error.result();
                        return Err(error);
                    }
                }
            }
        }
        Err(failure)
    }

    /// Closes connections that have been idle for too long. Asked now and then by the worker.
    pub(super) fn reap(&self) {
        self.servers.iter().for_each(|server| server.reap());
    }

    /// The servers, the one with the fewest running requests first; equals take turns.
    fn by_load(&self) -> impl Iterator<Item = &Rc<ServerPool>> {
        let count = self.servers.len();
        let first = self.turn.get();
        self.turn.set(if first + 1 >= count { 0 } else { first + 1 });
        let mut order: Vec<usize> = Vec::new();
        let only = (count == 1).then_some(0);
        if only.is_none() {
            order.extend((0..count).map(|step| (first + step) % count));
            order.sort_by_key(|index| self.servers.get(*index).map_or(usize::MAX, |server| server.running.get()));
        }
        only.into_iter().chain(order).filter_map(|index| self.servers.get(index))
    }

    /// One exchange over one connection. The error gives the request back if none of it was written.
    async fn exchange(
        &self,
        connection: &mut Connection,
        request: Request<RequestBody>,
        progress: Option<&Progress>,
        now: Instant,
    ) -> Result<Response<Incoming>, (ForwardError, Option<Box<Request<RequestBody>>>)> {
        let Connection { sender, late, .. } = connection;
        let mut sending = pin!(sender.try_send_request(request));
        let received = || progress.map_or(0, Progress::received);
        let mut seen = received();
        late.set(Some(now + self.response_timeout));
        let outcome = poll_fn(|cx| {
            loop {
                if let Poll::Ready(outcome) = sending.as_mut().poll(cx) {
                    return Poll::Ready(Some(outcome));
                }
                ready!(late.poll_due(cx));
                // The time runs from the end of the request: while its body moves, nobody is late.
                if progress.is_none_or(Progress::is_complete) || received() == seen {
                    return Poll::Ready(None);
                }
                seen = received();
                late.set(Some(Instant::now() + self.response_timeout));
            }
        });
        let outcome = outcome.await;
        late.set(None);
        match outcome {
            Some(Ok(response)) => Ok(response),
            Some(Err(mut error)) => {
                let unsent = error.take_message().map(Box::new);
                let failure = progress.and_then(Progress::failure);
                Err((failure.map_or(ForwardError::Broken, ForwardError::Body), unsent))
            }
            None => Err((ForwardError::Slow, None)),
        }
    }
}

impl ForwardError {
    const fn result(&self) -> UpstreamResult {
        match self {
            Self::Unreachable => UpstreamResult::Refused,
            Self::Slow => UpstreamResult::TimedOut,
            Self::Broken => UpstreamResult::Broken,
            Self::Body(_) => UpstreamResult::ClientGone,
        }
    }
}

impl ServerPool {
    fn new(server: &Server, upstream: &Upstream, metrics: &Arc<UpstreamMetrics>) -> Self {
        let address = server.host.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, server.port));
        let name = match address {
            Some(address) => address.to_string(),
            None => format!("{}:{}", server.host, server.port),
        };
        Self {
            server: server.clone(),
            address,
            authority: HeaderValue::from_str(&name).unwrap_or(HeaderValue::from_static("upstream")),
            running: Cell::new(0),
            idle: RefCell::default(),
            idle_timeout: upstream.idle_timeout,
            max_idle: upstream.max_idle,
            metrics: Arc::clone(metrics),
        }
    }

    fn name(&self) -> &str {
        self.authority.to_str().unwrap_or_default()
    }

    fn lease(self: &Rc<Self>, request: Option<Rc<Progress>>, now: Instant) -> Lease {
        self.running.set(self.running.get() + 1);
        self.metrics.active.inc();
        Lease {
            server: Rc::clone(self),
            connection: None,
            request,
            heard: now,
            complete: false,
            result: UpstreamResult::ClientGone,
        }
    }

    /// The connection used last, if one is idle and open at `now`. Older ones beyond their time are closed.
    fn take(&self, now: Instant) -> Option<Connection> {
        let mut idle = self.idle.borrow_mut();
        while let Some(last) = idle.pop() {
            self.metrics.idle.dec();
            if now.saturating_duration_since(last.since) > self.idle_timeout {
                // Whatever lies below has been idle for longer still.
                self.metrics.idle.sub(i64::try_from(idle.len()).unwrap_or(0));
                idle.clear();
                return None;
            }
            if !last.connection.sender.is_closed() {
                return Some(last.connection);
            }
        }
        None
    }

    /// Keeps `connection`, idle as if since it was last heard of: after an answer that took longer than
    /// idle connections are kept, it will not be used again.
    fn put(&self, connection: Connection, since: Instant) {
        let mut idle = self.idle.borrow_mut();
        if idle.len() < self.max_idle {
            idle.push(Idle { connection, since });
            self.metrics.idle.inc();
        }
    }

    /// Closes connections that have been idle for too long.
    fn reap(&self) {
        let mut idle = self.idle.borrow_mut();
        let before = idle.len();
        idle.retain(|idle| idle.since.elapsed() <= self.idle_timeout && !idle.connection.sender.is_closed());
        self.metrics.idle.sub(i64::try_from(before - idle.len()).unwrap_or(0));
    }

    /// A new connection, made within `patience`, to a server that usually has `response_timeout` to answer.
    async fn connect(&self, patience: Duration, response_timeout: Duration) -> Result<Connection, ForwardError> {
        let stream = match timeout(patience, self.dial()).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(_)) => return Err(ForwardError::Unreachable),
            Err(_) => return Err(ForwardError::Slow),
        };
        // Without it a request in two writes waits for a delayed acknowledgement.
        if stream.set_nodelay(true).is_err() {
            return Err(ForwardError::Unreachable);
        }
        let handshake = http1::Builder::new().max_buf_size(64 * 1024).handshake(TokioIo::new(stream)).await;
        let Ok((sender, connection)) = handshake else { return Err(ForwardError::Unreachable) };
        let task = tokio::task::spawn_local(async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "an upstream connection ended");
            }
        });
        Ok(Connection { sender, task: task.abort_handle(), late: Alarm::new(response_timeout) })
    }

    async fn dial(&self) -> std::io::Result<TcpStream> {
        match self.address {
            Some(address) => TcpStream::connect(address).await,
            None => TcpStream::connect((self.server.host.as_str(), self.server.port)).await,
        }
    }
}

impl Drop for ServerPool {
    fn drop(&mut self) {
        self.metrics.idle.sub(i64::try_from(self.idle.get_mut().len()).unwrap_or(0));
    }
}
