//! HTTP/2 to a server (RFC 9113): one connection, many requests.
//!
//! A new connection is not used before its server has answered a ping, which comes after its settings: so
//! it is known to speak HTTP/2, and how many requests it takes at once. A request that the server says it
//! has not looked at (§8.7) goes out again, over another connection, with its body as long as no more of
//! that went out than is kept for it.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use h2::client::{Builder, SendRequest};
use h2::{Ping, PingPong, Reason, SendStream};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Method, Request, Response, Uri, Version, header};
use http_body::Body;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, timeout};

use super::ForwardError;
use super::connection::{Patience, wait};
use super::content::Content;
use super::lease::Unanswered;
use super::slots::Slot;
use crate::alarm::Alarm;
use crate::proxy::body::{BodyFailure, Progress, RequestBody};

/// What a server may send of one answer before it is read.
const STREAM_WINDOW: u32 = 256 * 1024;
/// What it may send of all answers of a connection.
const CONNECTION_WINDOW: u32 = 4 * 1024 * 1024;
/// What is held of a request body that the server does not take.
const SEND_BUFFER: usize = 64 * 1024;
/// The head of a response, and its trailers.
const HEAD_BYTES_MAX: u32 = 64 * 1024;
/// What is kept of a request body until its answer begins, in case that it has to go out again.
const KEPT_MAX: usize = 64 * 1024;

/// An open connection to a server.
#[derive(Debug)]
pub(super) struct Http2 {
    sender: RefCell<SendRequest<Bytes>>,
    /// Requests on it.
    streams: Cell<usize>,
    /// Since when there are none.
    idle_since: Cell<Instant>,
    born: Instant,
    closed: Rc<Cell<bool>>,
    /// What drives it, and what pings.
    tasks: [Option<AbortHandle>; 2],
    /// Whether it is counted.
    greeted: bool,
    address: SocketAddr,
    secured: bool,
    slot: Slot,
}

impl Http2 {
    /// Greets the server at the other end of `stream`, and pings it every `ping_interval` from then on; one
    /// that does not answer within `patience` is given up.
    ///
    /// # Errors
    ///
    /// When it does not speak HTTP/2.
    pub(super) async fn greet<S>(
        stream: S,
        address: SocketAddr,
        secured: bool,
        slot: Slot,
        ping_interval: Option<Duration>,
        patience: Duration,
    ) -> Result<Rc<Self>, ForwardError>
    where
        S: AsyncRead + AsyncWrite + Unpin + 'static,
    {
        let mut builder = Builder::new();
        builder
            .enable_push(false)
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_send_buffer_size(SEND_BUFFER)
            .max_header_list_size(HEAD_BYTES_MAX);
        let broken = |error: h2::Error| {
            tracing::debug!(%error, "an upstream server does not speak HTTP/2");
            ForwardError::Broken
        };
        let (sender, mut connection) = builder.handshake::<_, Bytes>(stream).await.map_err(broken)?;
        let Some(mut pings) = connection.ping_pong() else { return Err(ForwardError::Broken) };
        let closed = Rc::new(Cell::new(false));
        let ending = Rc::clone(&closed);
        let driving = tokio::task::spawn_local(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "an upstream connection ended");
            }
            ending.set(true);
        });
        let mut this = Self {
            sender: RefCell::new(sender),
            streams: Cell::new(0),
            idle_since: Cell::new(Instant::now()),
            born: Instant::now(),
            closed,
            tasks: [Some(driving.abort_handle()), None],
            greeted: false,
            address,
            secured,
            slot,
        };
        pings.ping(Ping::opaque()).await.map_err(broken)?;
        this.greeted = true;
        this.slot.slots().metrics().idle.inc();
        if let Some(interval) = ping_interval {
            let closed = Rc::clone(&this.closed);
            let keeping = tokio::task::spawn_local(async move {
                keep_pinging(pings, interval, patience).await;
                closed.set(true);
                driving.abort();
            });
            this.tasks[1] = Some(keeping.abort_handle());
        }
        Ok(Rc::new(this))
    }

    /// How many requests the server takes at once.
    pub(super) fn capacity(&self) -> usize {
        self.sender.borrow().current_max_send_streams()
    }

    /// Whether a request can go over it now.
    pub(super) fn has_room(&self) -> bool {
        !self.is_closed() && self.streams.get() < self.capacity()
    }

    /// Whether no request can begin on it any more: it has ended, or the server has said that it will.
    pub(super) fn is_closed(&self) -> bool {
        if self.closed.get() {
            return true;
        }
        let mut cx = Context::from_waker(std::task::Waker::noop());
        matches!(self.sender.borrow_mut().poll_ready(&mut cx), Poll::Ready(Err(_)))
    }

    /// When it was made.
    pub(super) const fn born(&self) -> Instant {
        self.born
    }

    /// Where it goes.
    pub(super) const fn address(&self) -> SocketAddr {
        self.address
    }

    /// For how long nothing has been on it, if nothing is.
    pub(super) fn idle(&self, now: Instant) -> Option<Duration> {
        (self.streams.get() == 0).then(|| now.saturating_duration_since(self.idle_since.get()))
    }

    /// A place for one request.
    pub(super) fn stream(self: &Rc<Self>) -> Stream {
        if self.streams.replace(self.streams.get() + 1) == 0 {
            let metrics = self.slot.slots().metrics();
            metrics.idle.dec();
            metrics.active.inc();
        }
        Stream { connection: Rc::clone(self), sending: None }
    }

    /// The head of `request` as it goes out, without what only HTTP/1.1 knows.
    fn head(&self, parts: &http::request::Parts) -> Option<Request<()>> {
        let mut head = Request::new(());
        *head.method_mut() = parts.method.clone();
        *head.version_mut() = Version::HTTP_2;
        let fields = head.headers_mut();
        fields.clone_from(&parts.headers);
        for gone in [header::TRANSFER_ENCODING, header::CONNECTION, header::UPGRADE] {
            fields.remove(gone);
        }
        let host = fields.remove(header::HOST)?;
        let mut uri = http::uri::Parts::default();
        uri.scheme = Some(if self.secured { Scheme::HTTPS } else { Scheme::HTTP });
        uri.authority = Some(Authority::try_from(host.as_bytes()).ok()?);
        uri.path_and_query = Some(match parts.uri.path_and_query() {
            // `OPTIONS *` is the same in both.
            Some(path) => path.clone(),
            None => PathAndQuery::from_static("/"),
        });
        *head.uri_mut() = Uri::from_parts(uri).ok()?;
        Some(head)
    }
}

impl Drop for Http2 {
    fn drop(&mut self) {
        if self.greeted {
            self.slot.slots().metrics().idle.dec();
        }
        // The connection ends by itself once everything is out.
        if let [_, Some(keeping)] = &self.tasks {
            keeping.abort();
        }
        if self.closed.get()
            && let [Some(driving), _] = &self.tasks
        {
            driving.abort();
        }
    }
}

/// Pings until there is no answer.
async fn keep_pinging(mut pings: PingPong, interval: Duration, patience: Duration) {
    loop {
        sleep(interval).await;
        if !matches!(timeout(patience, pings.ping(Ping::opaque())).await, Ok(Ok(_))) {
            tracing::debug!("an upstream server does not answer a ping");
            return;
        }
    }
}

/// One request on a connection. Dropped before its answer is whole, it is cancelled.
#[derive(Debug)]
pub(super) struct Stream {
    connection: Rc<Http2>,
    /// The task that sends the body.
    sending: Option<AbortHandle>,
}

impl Stream {
    /// Sends `request` and waits for the head of the response, as [`super::connection::Connection::exchange`].
    ///
    /// # Errors
    ///
    /// Why there is none. The request comes back if the server has not looked at it.
    pub(super) async fn exchange(
        &mut self,
        request: Box<Request<RequestBody>>,
        progress: Option<&Progress>,
        patience: Patience,
    ) -> Result<Response<Content>, Unanswered> {
        let (parts, body) = request.into_parts();
        let no_more = |error| Unanswered { error, unsent: None, kept: false };
        let Some(head) = self.connection.head(&parts) else { return Err(no_more(ForwardError::Broken)) };
        let ended = body.is_end_stream();
        let (response, stream) = match self.connection.sender.borrow().clone().send_request(head, ended) {
            Ok(begun) => begun,
            // The connection has ended meanwhile, or is about to.
            Err(error) if error.is_go_away() || error.is_io() || error.is_reset() => {
                let unsent = Some(Box::new(Request::from_parts(parts, body)));
                return Err(Unanswered { error: ForwardError::Broken, unsent, kept: false });
            }
            Err(error) => {
                tracing::debug!(%error, "a request cannot be sent over HTTP/2");
                return Err(no_more(ForwardError::Broken));
            }
        };
        let outgoing =
            Rc::new(RefCell::new(Outgoing { body, stream: (!ended).then_some(stream), kept: Vec::new(), all: true }));
        if !ended {
            let sending = tokio::task::spawn_local(Sending(Rc::clone(&outgoing)));
            self.sending = Some(sending.abort_handle());
        }
        let mut late = Alarm::new(patience.span);
        let outcome = wait(response, progress, patience, &mut late).await;
        match outcome {
            Some(Ok(response)) => {
                let mut outgoing = outgoing.borrow_mut();
                outgoing.all = false;
                outgoing.kept = Vec::new();
                Ok(Content::http2(response, parts.method == Method::HEAD))
            }
            Some(Err(error)) => {
                if let Some(sending) = self.sending.take() {
                    sending.abort();
                }
                let failure = progress.and_then(Progress::failure);
                let failure = failure.map_or(ForwardError::Broken, ForwardError::Body);
                let unsent = if is_refused(&error) { outgoing.borrow_mut().recover() } else { None };
                let unsent = unsent.map(|body| Box::new(Request::from_parts(parts, body)));
                tracing::debug!(%error, again = unsent.is_some(), "an upstream server refused a request");
                Err(Unanswered { error: failure, unsent, kept: false })
            }
            None => Err(no_more(ForwardError::TimedOut)),
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if let Some(sending) = &self.sending {
            sending.abort();
        }
        let connection = &self.connection;
        connection.streams.set(connection.streams.get() - 1);
        let slots = connection.slot.slots();
        if connection.streams.get() == 0 {
            connection.idle_since.set(Instant::now());
            slots.metrics().idle.inc();
            slots.metrics().active.dec();
        }
        slots.freed();
    }
}

/// Whether the server says that it has not looked at the request (RFC 9113 §8.7): it refused the stream, or is
/// going away and will not come to it.
fn is_refused(error: &h2::Error) -> bool {
    error.is_remote() && (error.is_go_away() || error.reason() == Some(Reason::REFUSED_STREAM))
}

/// A request body on its way out.
struct Outgoing {
    body: RequestBody,
    /// `None` once it is out, or has failed.
    stream: Option<SendStream<Bytes>>,
    /// What went out so far, if it is `all`.
    kept: Vec<Bytes>,
    all: bool,
}

impl Outgoing {
    /// The body as it was, if that can be.
    fn recover(&mut self) -> Option<RequestBody> {
        if !self.all || self.body.has_failed() {
            return None;
        }
        self.stream = None;
        let mut body = std::mem::take(&mut self.body);
        body.put_back(std::mem::take(&mut self.kept));
        Some(body)
    }

    fn keep(&mut self, data: &Bytes) {
        if self.all && self.kept.iter().map(Bytes::len).sum::<usize>() + data.len() <= KEPT_MAX {
            self.kept.push(data.clone());
        } else {
            self.all = false;
            self.kept = Vec::new();
        }
    }

    /// Ready once there is nothing more to do.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let Some(stream) = &mut self.stream else { return Poll::Ready(()) };
            // The server may have had enough of it.
            if stream.poll_reset(cx).is_ready() {
                self.stream = None;
                return Poll::Ready(());
            }
            if stream.capacity() == 0 {
                stream.reserve_capacity(1);
                match ready!(stream.poll_capacity(cx)) {
                    Some(Ok(0)) => continue,
                    Some(Ok(_)) => {}
                    Some(Err(_)) | None => {
                        self.stream = None;
                        return Poll::Ready(());
                    }
                }
            }
            let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
            self.put(frame);
        }
    }

    fn put(&mut self, frame: Option<Result<http_body::Frame<Bytes>, BodyFailure>>) {
        let Some(stream) = &mut self.stream else { return };
        let sent = match frame {
            None => stream.send_data(Bytes::new(), true).map(|()| true),
            Some(Err(_)) => {
                stream.send_reset(Reason::CANCEL);
                Ok(true)
            }
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => {
                    let last = self.body.is_end_stream();
                    let sent = stream.send_data(data.clone(), last).map(|()| last);
                    if data.has_remaining() {
                        self.keep(&data);
                    }
                    sent
                }
                Err(frame) => {
                    // A body with trailers is not kept: it is out.
                    self.all = false;
                    frame.into_trailers().map_or(Ok(false), |trailers| stream.send_trailers(trailers).map(|()| true))
                }
            },
        };
        if !matches!(sent, Ok(false)) {
            self.stream = None;
        }
    }
}

/// The task that sends a body.
struct Sending(Rc<RefCell<Outgoing>>);

impl Future for Sending {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.0.borrow_mut().poll(cx)
    }
}
