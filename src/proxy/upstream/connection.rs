//! How connections to a server are made, and one exchange over HTTP/1.1.

use std::error::Error;
use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, ready};
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout};
use tokio_rustls::client::TlsStream;

use super::ForwardError;
use super::http2::Http2;
use super::lease::Unanswered;
use super::resolve::{Addresses, System};
use super::slots::Slot;
use super::tls::UpstreamTls;
use crate::alarm::Alarm;
use crate::config::{Protocol, Server, Upstream};
use crate::proxy::body::{Progress, RequestBody};
use crate::telemetry::UpstreamMetrics;

/// An open connection to a server over which one request goes at a time. Kept in a box: it goes from request to
/// request.
#[derive(Debug)]
pub(super) struct Connection {
    sender: SendRequest<RequestBody>,
    task: AbortHandle,
    address: SocketAddr,
    born: Instant,
    /// Until when the response head has to be there.
    late: Alarm,
    /// Given back when it ends.
    _slot: Slot,
}

/// A new connection.
#[derive(Debug)]
pub(super) enum Opened {
    /// For one request at a time.
    Http1(Box<Connection>),
    /// For many.
    Http2(Rc<Http2>),
}

/// How long the head of a response may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// From then on.
    pub(super) from: Instant,
    /// For so long; counted anew from the end of the request.
    pub(super) span: Duration,
}

/// Where connections go.
#[derive(Debug)]
pub(super) struct Place {
    addresses: Rc<Addresses>,
    protocol: Protocol,
    tls: bool,
    /// How it is spoken to, and whom to expect there; `None`: in clear.
    secured: Option<(Arc<UpstreamTls>, ServerName<'static>)>,
    connect_timeout: Duration,
    response_timeout: Duration,
    ping_interval: Option<Duration>,
}

impl Place {
    /// `tls` is that of the group; what it has prepared for every `https` server.
    pub(super) fn new(
        server: &Server,
        upstream: &Upstream,
        tls: Option<&Arc<UpstreamTls>>,
        metrics: &Arc<UpstreamMetrics>,
    ) -> Self {
        let secured = tls.filter(|_| server.tls).and_then(|tls| Some((Arc::clone(tls), tls.name_of(server)?)));
        Self {
            addresses: Addresses::new(server, upstream, metrics, Box::new(System)),
            protocol: upstream.protocol,
            tls: server.tls,
            secured,
            connect_timeout: upstream.connect_timeout,
            response_timeout: upstream.response_timeout,
            ping_interval: upstream.ping_interval,
        }
    }

    /// Its addresses.
    pub(super) const fn addresses(&self) -> &Rc<Addresses> {
        &self.addresses
    }

    /// Whether a connection to it may be one for many requests.
    pub(super) const fn may_share(&self) -> bool {
        match self.protocol {
            Protocol::Http1 => false,
            Protocol::Http2 => true,
            Protocol::Auto => self.tls,
        }
    }

    /// A new connection, for one request at a time if `alone`.
    ///
    /// # Errors
    ///
    /// Why there is none within `connect_timeout`.
    pub(super) async fn open(&self, slot: Slot, alone: bool) -> Result<Opened, ForwardError> {
        let now = Instant::now();
        let opening = timeout(self.connect_timeout, self.connect(now, slot, alone));
        let opened = opening.await.unwrap_or(Err(ForwardError::ConnectTimedOut));
        if matches!(opened, Err(ForwardError::Refused | ForwardError::ConnectTimedOut)) {
            self.addresses.unreachable(Instant::now());
        }
        opened
    }

    async fn connect(&self, now: Instant, slot: Slot, alone: bool) -> Result<Opened, ForwardError> {
        let (stream, address) = self.dial(now).await?;
        let Some((tls, name)) = &self.secured else {
            if self.tls {
                return Err(ForwardError::TlsFailed);
            }
            let shared = self.protocol == Protocol::Http2 && !alone;
            return self.greet(stream, address, slot, shared).await;
        };
        match tls.connect(stream, name.clone(), alone).await {
            Ok(stream) => {
                let shared = is_http2(&stream);
                if !shared && !alone && self.protocol == Protocol::Http2 {
                    tracing::warn!(server = self.addresses.name(), "an upstream server does not offer HTTP/2");
                    return Err(ForwardError::TlsFailed);
                }
                self.greet(stream, address, slot, shared).await
            }
            Err(error) => {
                tracing::warn!(server = self.addresses.name(), %error, "a TLS handshake with an upstream server failed");
                Err(ForwardError::TlsFailed)
            }
        }
    }

    /// A connection to the first of its addresses that takes one. Each gets its share of the time.
    async fn dial(&self, now: Instant) -> Result<(TcpStream, SocketAddr), ForwardError> {
        let addresses = self.addresses.in_turn(now).await?;
        let until = now + self.connect_timeout;
        let mut failure = ForwardError::Refused;
        let mut left = u32::try_from(addresses.len()).unwrap_or(u32::MAX);
        for address in addresses {
            let share = until.saturating_duration_since(Instant::now()) / left.max(1);
            left = left.saturating_sub(1);
            match timeout(share, TcpStream::connect(address)).await {
                // Without it a request in two writes waits for a delayed acknowledgement.
                Ok(Ok(stream)) if stream.set_nodelay(true).is_ok() => return Ok((stream, address)),
                Ok(Ok(_)) => failure = ForwardError::Refused,
                Ok(Err(error)) => {
                    tracing::debug!(%address, %error, "an upstream server cannot be connected to");
                    failure = ForwardError::Refused;
                }
                Err(_) => failure = ForwardError::ConnectTimedOut,
            }
        }
        Err(failure)
    }

    async fn greet<S>(&self, stream: S, address: SocketAddr, slot: Slot, shared: bool) -> Result<Opened, ForwardError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        if shared {
            let greeting = Http2::greet(stream, address, self.tls, slot, self.ping_interval, self.connect_timeout);
            return greeting.await.map(Opened::Http2);
        }
        let handshake = http1::Builder::new().max_buf_size(64 * 1024).handshake(TokioIo::new(stream)).await;
        let Ok((sender, connection)) = handshake else { return Err(ForwardError::Refused) };
        let task = tokio::task::spawn_local(async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "an upstream connection ended");
            }
        });
        let (task, late) = (task.abort_handle(), Alarm::new(self.response_timeout));
        let connection = Connection { sender, task, address, born: Instant::now(), late, _slot: slot };
        Ok(Opened::Http1(Box::new(connection)))
    }
}

impl Connection {
    /// Whether no request can be sent over it any more.
    pub(super) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    /// Closes it, whatever is going on over it.
    pub(super) fn abort(&self) {
        self.task.abort();
    }

    /// When it was made.
    pub(super) const fn born(&self) -> Instant {
        self.born
    }

    /// Where it goes.
    pub(super) const fn address(&self) -> SocketAddr {
        self.address
    }

    /// One exchange.
    ///
    /// # Errors
    ///
    /// Why there is no response; with the request if none of it was written.
    pub(super) async fn exchange(
        &mut self,
        request: Box<Request<RequestBody>>,
        progress: Option<&Progress>,
        patience: Patience,
    ) -> Result<Response<Incoming>, Unanswered> {
        let Self { sender, late, .. } = self;
        let sending = pin!(sender.try_send_request(*request));
        match wait(sending, progress, patience, late).await {
            Some(Ok(response)) => Ok(response),
            Some(Err(mut error)) => {
                let unsent = error.take_message().map(Box::new);
                let broken = if is_tls_failure(error.error()) { ForwardError::TlsFailed } else { ForwardError::Broken };
                let failure = progress.and_then(Progress::failure);
                Err(Unanswered { error: failure.map_or(broken, ForwardError::Body), unsent, kept: false })
            }
            None => Err(Unanswered { error: ForwardError::TimedOut, unsent: None, kept: false }),
        }
    }
}

/// Waits until `sending` is done; `None` when that takes too long.
pub(super) fn wait<F: Future + Unpin>(
    mut sending: F,
    progress: Option<&Progress>,
    patience: Patience,
    late: &mut Alarm,
) -> impl Future<Output = Option<F::Output>> {
    let received = move || progress.map_or(0, Progress::received);
    let mut seen = received();
    late.set(Some(patience.from + patience.span));
    poll_fn(move |cx| {
        loop {
            if let Poll::Ready(outcome) = Pin::new(&mut sending).poll(cx) {
                late.set(None);
                return Poll::Ready(Some(outcome));
            }
            ready!(late.poll_due(cx));
            // The time runs from the end of the request: while its body moves, nobody is late.
            if progress.is_none_or(Progress::is_complete) || received() == seen {
                late.set(None);
                return Poll::Ready(None);
            }
            seen = received();
            late.set(Some(Instant::now() + patience.span));
        }
    })
}

/// Whether a connection broke because TLS did. With TLS 1.3, a server that is not content with the
/// gateway's certificate says so after the handshake.
fn is_tls_failure(error: &hyper::Error) -> bool {
    let mut cause = error.source();
    while let Some(error) = cause {
        if error.downcast_ref::<io::Error>().is_some_and(is_of_tls) {
            return true;
        }
        cause = error.source();
    }
    false
}

/// Whether TLS is what failed.
pub(super) fn is_of_tls(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<rustls::Error>())
}

/// A way to a server, over which nothing was said yet.
#[derive(Debug)]
pub(super) enum Reached {
    Clear(TcpStream),
    Secured(Box<TlsStream<TcpStream>>),
}

/// A way to `server` for whoever keeps no connections, TLS included where it is wanted.
///
/// # Errors
///
/// Why there is none.
pub(super) async fn reach(server: &Server, tls: Option<&Arc<UpstreamTls>>) -> Result<Reached, ForwardError> {
    let stream = TcpStream::connect((server.host.as_str(), server.port)).await.map_err(|_| ForwardError::Refused)?;
    if !server.tls {
        return Ok(Reached::Clear(stream));
    }
    let (Some(tls), Some(name)) = (tls, tls.and_then(|tls| tls.name_of(server))) else {
        return Err(ForwardError::TlsFailed);
    };
    let secured = tls.connect(stream, name, false).await.map_err(|_| ForwardError::TlsFailed)?;
    Ok(Reached::Secured(Box::new(secured)))
}

/// Whether HTTP/2 was agreed on.
pub(super) fn is_http2(stream: &TlsStream<TcpStream>) -> bool {
    stream.get_ref().1.alpn_protocol() == Some(b"h2")
}
