//! The requests of an HTTP/2 connection, many at once, each a stream with a task of its own.
//!
//! The library frames, and bounds what it holds. What it leaves out is here: a connection without requests
//! ends in time, a stream whose client takes nothing of its answer ends, and one whose token dies ends alone.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::{Method, Request};
use hyper::body::Incoming;
use hyper::rt::Executor;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::spawn_local;
use tokio::time::{Instant, Sleep, sleep_until};

use super::connection::Door;
use super::frames::{Ledger, Metered};
use super::patient::Patient;
use crate::alarm::Alarm;
use crate::config::Limits;
use crate::proxy::{Handover, Peer, Refusal, Tunnel, serve};
use crate::telemetry::Limit;

/// How long a client may take to leave once it was told that the connection ends.
const FAREWELL: Duration = Duration::from_secs(1);
/// Requests that may be under way while a client is told that there are to be no more.
const UNHEARD: u64 = 1000;
/// Streams that a client has reset before anybody looked at them.
const UNSEEN_RESETS: usize = 20;

/// Serves the requests that come on a stream until it ends.
pub(super) async fn exchanges<S>(stream: Patient<S>, peer: Peer, door: &Rc<Door>)
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let local = door.worker.local();
    let config = &local.snapshot.config;
    let limits = config.limits.clone();
    let refused = local.shared.metrics.limits.counter(Limit::Http2Streams);
    let ledger = Rc::new(RefCell::new(Ledger::new(&limits.http2, Instant::now(), refused)));
    let io = TokioIo::new(Metered::new(stream, Rc::clone(&ledger)));
    let streams = Rc::new(Streams::new(door, limits.write_timeout));
    let mut builder = builder(&limits, Rc::clone(&streams));
    if config.routes.iter().any(|route| route.upgrades.iter().any(|it| it.eq_ignore_ascii_case("websocket"))) {
        builder.enable_connect_protocol();
    }
    let peer = Rc::new(peer);
    let service = {
        let (streams, door, limits) = (Rc::clone(&streams), Rc::clone(door), limits.clone());
        service_fn(move |mut request: Request<Incoming>| {
            // What a tunnel goes over, should it come to one.
            let stream = (*request.method() == Method::CONNECT).then(|| hyper::upgrade::on(&mut request));
            let handover = Rc::new(Handover::of_stream());
            // The library asks for a task for this request next, before anything else.
            streams.next.set(Some(Rc::clone(&handover)));
            streams.asked.set(streams.asked.get().saturating_add(1));
            let objection = objection(&request, &limits, &door);
            let answering = serve(Rc::clone(&door.worker), Rc::clone(&peer), Rc::clone(&handover), objection, request);
            let streams = Rc::clone(&streams);
            async move {
                let answer = answering.await;
                if let (Some(stream), Some(tunnel)) = (stream, handover.take_tunnel()) {
                    spawn_local(tunnelled(tunnel, stream, handover, streams));
                }
                answer
            }
        })
    };
    drop(local);
    let mut connection = builder.serve_connection(io, service);
    let mut listener = door.ending.listener();
    let mut idle = Idle::new(&limits);
    let (mut leaving, mut spent) = (false, false);
    let served = poll_fn(|cx| {
        loop {
            let is_spent = streams.asked.get() >= limits.requests_per_connection;
            if is_spent && !std::mem::replace(&mut spent, true) {
                door.worker.local().shared.metrics.limits.hit(Limit::RequestsPerConnection);
            }
            if !leaving && idle.is_over {
                let limit = if streams.asked.get() == 0 { Limit::HeaderTimeout } else { Limit::IdleTimeout };
                door.worker.local().shared.metrics.limits.hit(limit);
            }
            if !leaving && (idle.is_over || is_spent || listener.hears(cx)) {
                leaving = true;
                idle.leave();
                Pin::new(&mut connection).graceful_shutdown();
            }
            if let Poll::Ready(served) = Pin::new(&mut connection).poll(cx) {
                return Poll::Ready(served.map_err(Ended::Hyper));
            }
            let asked = streams.asked.get();
            if asked >= limits.requests_per_connection && !leaving {
                continue;
            }
            // One that goes on asking was told, and does not listen.
            if asked >= limits.requests_per_connection.saturating_mul(2).saturating_add(UNHEARD) {
                return Poll::Ready(Err(Ended::Spent));
            }
            ready!(idle.poll_over(&streams, cx));
            if leaving {
                return Poll::Ready(Err(Ended::Idle));
            }
        }
    })
    .await;
    if let Some(limit) = ledger.borrow().overdrawn() {
        door.worker.local().shared.metrics.limits.hit(limit);
    }
    if let Err(error) = served {
        tracing::debug!(%error, "a client connection ended early");
    }
}

/// Why a connection ended early.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("no request came in time")]
    Idle,
    #[error("its client went on asking after it was told of the end")]
    Spent,
    #[error(transparent)]
    Hyper(hyper::Error),
}

fn builder(limits: &Limits, streams: Rc<Streams>) -> http2::Builder<Carrier> {
    let own = &limits.http2;
    let mut builder = http2::Builder::new(Carrier(streams));
    builder
        .max_concurrent_streams(own.streams)
        .max_header_list_size(u32::try_from(limits.header_bytes).unwrap_or(u32::MAX))
        .max_pending_accept_reset_streams(UNSEEN_RESETS)
        .max_local_error_reset_streams(own.resets as usize)
        .initial_stream_window_size(own.stream_window)
        .initial_connection_window_size(own.connection_window)
        .max_send_buf_size(own.send_buffer);
    if own.keep_alive.is_some() {
        builder.timer(TokioTimer::new()).keep_alive_interval(own.keep_alive).keep_alive_timeout(limits.header_timeout);
    }
    builder
}

/// What is wrong with the size of a head.
fn objection(request: &Request<Incoming>, limits: &Limits, door: &Door) -> Option<Refusal> {
    let target = request.uri().path_and_query().map_or(0, |target| target.as_str().len());
    if target > limits.uri_bytes {
        return Some(Refusal::UriTooLong);
    }
    let fields = request.headers();
    if fields.len() > limits.header_count {
        // A cookie may come in as many fields as it has pairs (RFC 9113 §8.2.3), and still is one.
        let crumbs = fields.get_all(http::header::COOKIE).iter().count();
        if fields.len() - crumbs.saturating_sub(1) > limits.header_count {
            door.worker.local().shared.metrics.limits.hit(Limit::HeaderCount);
            return Some(Refusal::TooManyFields);
        }
    }
    None
}

/// When a connection without requests is over.
struct Idle {
    alarm: Alarm,
    /// How long the first request may take, and how long the next.
    patience: (Duration, Duration),
    /// Requests so far, when that was last looked at; `None` at first.
    seen: Option<u64>,
    is_over: bool,
}

impl Idle {
    fn new(limits: &Limits) -> Self {
        let patience = (limits.header_timeout, limits.http2.idle_timeout);
        Self { alarm: Alarm::new(patience.0), patience, seen: None, is_over: false }
    }

    /// From now on only as long as a farewell takes.
    fn leave(&mut self) {
        (self.patience, self.seen) = ((FAREWELL, FAREWELL), None);
    }

    /// Ready once nothing is going on and nothing has come for too long.
    fn poll_over(&mut self, streams: &Streams, cx: &mut Context<'_>) -> Poll<()> {
        if streams.open.get() > 0 {
            self.alarm.set(None);
            self.seen = None;
        } else if self.seen != Some(streams.begun.get()) {
            let begun = streams.begun.get();
            self.seen = Some(begun);
            let patience = if begun == 0 { self.patience.0 } else { self.patience.1 };
            self.alarm.set(Some(Instant::now() + patience));
        }
        ready!(self.alarm.poll_due(cx));
        self.is_over = true;
        self.seen = None;
        Poll::Ready(())
    }
}

/// The streams of a connection.
struct Streams {
    door: Rc<Door>,
    write_timeout: Duration,
    /// Whose task is made next.
    next: Cell<Option<Rc<Handover>>>,
    open: Cell<usize>,
    begun: Cell<u64>,
    /// Requests so far.
    asked: Cell<u64>,
}

impl Streams {
    fn new(door: &Rc<Door>, write_timeout: Duration) -> Self {
        let (next, open, begun, asked) = (Cell::default(), Cell::default(), Cell::default(), Cell::default());
        Self { door: Rc::clone(door), write_timeout, next, open, begun, asked }
    }
}

/// Has the tasks of a connection's streams run on this thread.
#[derive(Clone)]
struct Carrier(Rc<Streams>);

impl<F: Future<Output = ()> + 'static> Executor<F> for Carrier {
    fn execute(&self, future: F) {
        let streams = Rc::clone(&self.0);
        // Whatever is not asked for within a request is nobody's.
        let handover = streams.next.take().unwrap_or_default();
        let task = spawn_local(carried(future, Rc::clone(&handover), streams));
        handover.carry(task.abort_handle());
    }
}

/// One task of a stream.
async fn carried(future: impl Future<Output = ()>, handover: Rc<Handover>, streams: Rc<Streams>) {
    let _open = Open::begin(&streams);
    let mut future = pin!(future);
    let mut stall: Option<Stall> = None;
    poll_fn(|cx| {
        // What the task asks to be run besides carries the same stream.
        streams.next.set(Some(Rc::clone(&handover)));
        let polled = future.as_mut().poll(cx);
        streams.next.take();
        if polled.is_ready() {
            return polled;
        }
        let Some(pieces) = handover.waits_for_client() else {
            stall = None;
            return Poll::Pending;
        };
        if stall.as_ref().is_none_or(|stall| stall.pieces != pieces) {
            stall = Some(Stall::new(pieces, streams.write_timeout, &handover));
        }
        let Some(stall) = &mut stall else { return Poll::Pending };
        ready!(stall.poll_over(&handover, cx));
        streams.door.worker.local().shared.metrics.limits.hit(Limit::WriteTimeout);
        // Dropping what is left of the stream resets it.
        Poll::Ready(())
    })
    .await;
}

/// Runs a tunnel over a stream, once its answer is out.
async fn tunnelled(tunnel: Box<Tunnel>, stream: OnUpgrade, handover: Rc<Handover>, streams: Rc<Streams>) {
    let _open = Open::begin(&streams);
    let Ok(client) = stream.await else { return };
    let mut listener = streams.door.ending.listener();
    let leaving = poll_fn(|cx| if listener.hears(cx) { Poll::Ready(()) } else { Poll::Pending });
    tunnel.run(TokioIo::new(client), &[], leaving).await;
    // What its client has not taken by now is not waited for.
    handover.cut();
}

/// A client that does not take what is there for it.
struct Stall {
    /// The piece of the answer that it does not take.
    pieces: u64,
    until: Instant,
    /// Fires then, or when the answer's token begins to hold it.
    timer: Pin<Box<Sleep>>,
}

impl Stall {
    fn new(pieces: u64, patience: Duration, handover: &Handover) -> Self {
        let until = Instant::now() + patience;
        let first = handover.hold_due().map_or(until, |due| due.min(until));
        Self { pieces, until, timer: Box::pin(sleep_until(first)) }
    }

    fn poll_over(&mut self, handover: &Rc<Handover>, cx: &mut Context<'_>) -> Poll<()> {
        ready!(self.timer.as_mut().poll(cx));
        if self.timer.deadline() >= self.until {
            return Poll::Ready(());
        }
        // Nobody asks the answer for more, so it would not find out by itself.
        handover.hold(cx);
        self.timer.as_mut().reset(self.until);
        self.timer.as_mut().poll(cx)
    }
}

/// A task that counts as open until this is dropped.
struct Open(Rc<Streams>);

impl Open {
    fn begin(streams: &Rc<Streams>) -> Self {
        streams.open.set(streams.open.get() + 1);
        streams.begun.set(streams.begun.get() + 1);
        Self(Rc::clone(streams))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.set(self.0.open.get() - 1);
    }
}
