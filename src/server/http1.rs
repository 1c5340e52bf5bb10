//! The requests of an HTTP/1.1 connection, one after the other, and the tunnel it may become.

use std::cell::{Cell, RefCell};
use std::error::Error;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, ready};
use std::time::Duration;

use http::Request;
use http_body::Body;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, timeout};

use super::connection::Door;
use super::ending::{HEAD, HeadTimer};
use super::guard::{Framing, Guarded, Violation, Watch};
use super::patient::Patient;
use crate::alarm::Alarm;
use crate::config::Limits;
use crate::proxy::{Handover, Peer, Refusal, head_too_slow, serve};
use crate::telemetry::Limit;

/// Serves the requests that come on a stream until it ends.
pub(super) async fn exchanges<S>(stream: Patient<S>, peer: Peer, door: &Door)
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let worker = Rc::clone(&door.worker);
    let limits = worker.local().snapshot.config.limits.clone();
    let watch = Rc::new(RefCell::new(Watch::new(limits.uri_bytes)));
    let io = TokioIo::new(Guarded::new(stream, Rc::clone(&watch)));
    let peer = Rc::new(peer);
    let handover = Rc::<Handover>::default();
    let metrics = Arc::clone(&worker.local().shared.metrics);
    let asked = Rc::new(Cell::new(0));
    let service = {
        let (watch, handover, asked) = (Rc::clone(&watch), Rc::clone(&handover), Rc::clone(&asked));
        let (metrics, most) = (Arc::clone(&metrics), limits.requests_per_connection);
        service_fn(move |request| {
            let violation = watch.borrow_mut().head_read(framing(&request));
            asked.set(asked.get() + 1);
            if asked.get() >= most {
                metrics.limits.hit(Limit::RequestsPerConnection);
                // Its answer says so; the parser sees that, too, and reads no further request.
                handover.leave();
            }
            serve(Rc::clone(&worker), Rc::clone(&peer), Rc::clone(&handover), violation.map(refusal), request)
        })
    };
    let head = HeadTimer::new();
    let mut late = Alarm::new(limits.header_timeout);
    let mut connection = builder(&limits, head.clone()).serve_connection(io, service);
    let mut listener = door.ending.listener();
    let mut leaving = Leaving::default();
    let served = poll_fn(|cx| {
        if !leaving.has_begun() && listener.hears(cx) {
            leaving.begin();
            handover.leave();
        }
        if handover.is_cut() {
            return Poll::Ready(Err(Ended::Dishonoured));
        }
        loop {
            if let Poll::Ready(served) = Pin::new(&mut connection).poll(cx) {
                return Poll::Ready(served.map_err(Ended::Hyper));
            }
            let (awaited, begun, first) = (head.awaited(), watch.borrow().begun(), asked.get() == 0);
            let due = awaited.map(|since| match begun {
                Some(begun) => begun + limits.header_timeout,
                None if first => since + limits.header_timeout,
                None => since + limits.idle_timeout,
            });
            let due = leaving.due(awaited, due);
            // An answer that its client does not read would not find out by itself that its token is revoked.
            let hold = if due.is_none() && watch.borrow().is_stalled() { handover.hold_due() } else { None };
            late.set(due.or(hold));
            ready!(late.poll_due(cx));
            if due.is_none() {
                handover.hold(cx);
                if handover.is_cut() {
                    return Poll::Ready(Err(Ended::Dishonoured));
                }
                continue;
            }
            if !leaving.is_silent() {
                return Poll::Ready(Err(if begun.is_some() || first { Ended::HeadTooLate } else { Ended::Idle }));
            }
            Pin::new(&mut connection).graceful_shutdown();
        }
    })
    .await;
    match (served, handover.take_tunnel()) {
        (Err(error), _) => {
            if let Some(limit) = error.limit(&watch.borrow(), limits.header_count) {
                metrics.limits.hit(limit);
            }
            tracing::debug!(%error, "a client connection ended early");
            let has_begun = watch.borrow().begun().is_some() && !watch.borrow().is_stalled();
            if matches!(error, Ended::HeadTooLate) && has_begun {
                let mut stream = connection.into_parts().io.into_inner();
                let answer = head_too_slow(&door.worker);
                let answering = async {
                    stream.write_all(&answer).await?;
                    stream.shutdown().await
                };
                drop(timeout(FAREWELL, answering).await);
            }
        }
        (Ok(()), Some(tunnel)) if !watch.borrow().is_cut_short() => {
            let parts = connection.into_parts();
            let leaving = poll_fn(|cx| if listener.hears(cx) { Poll::Ready(()) } else { Poll::Pending });
            // In a box: it is rare, and must not make every connection's task larger.
            let stream = parts.io.into_inner().into_inner();
            Box::pin(tunnel.run(stream, &parts.read_buf, leaving)).await;
        }
        // Where an upgrade was asked for and is not, the library leaves the end to others.
        (Ok(()), _) => drop(connection.into_parts().io.into_inner().shutdown().await),
    }
}

/// How long a client may take to take its last answer.
const FAREWELL: Duration = Duration::from_secs(2);
/// How long a client that says nothing is still listened to once its connection is to end.
const LAST_REQUESTS: Duration = Duration::from_secs(1);

/// The end of a connection whose client would go on. A client that has just sent a request when its idle
/// connection is closed cannot know what became of it; so it is told in the answer to its next request, and the
/// connection is only closed on one that has none.
#[derive(Debug, Default)]
struct Leaving {
    since: Option<Instant>,
    /// What the client had was time enough.
    silent: bool,
}

impl Leaving {
    fn begin(&mut self) {
        self.since = Some(Instant::now());
    }

    const fn has_begun(&self) -> bool {
        self.since.is_some()
    }

    /// Until when something has to happen, where a head is `awaited` since then and would be `due`.
    fn due(&self, awaited: Option<Instant>, due: Option<Instant>) -> Option<Instant> {
        let (Some(since), false) = (self.since, self.silent) else { return due };
        Some(due?.min(awaited?.max(since) + LAST_REQUESTS))
    }

    /// Whether the time that has passed was the client's last. True once.
    fn is_silent(&mut self) -> bool {
        self.has_begun() && !std::mem::replace(&mut self.silent, true)
    }
}

/// Why a connection ended early.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("the token of its request is no longer honoured")]
    Dishonoured,
    #[error("no request head came in time")]
    HeadTooLate,
    #[error("no further request came in time")]
    Idle,
    #[error(transparent)]
    Hyper(hyper::Error),
}

impl Ended {
    /// The limit that has ended it.
    fn limit(&self, watch: &Watch, header_count: usize) -> Option<Limit> {
        match self {
            Self::Dishonoured => None,
            Self::HeadTooLate => Some(Limit::HeaderTimeout),
            Self::Idle => Some(Limit::IdleTimeout),
            // A request line comes before the fields.
            Self::Hyper(error) if error.is_parse_too_large() => {
                Some(if watch.lines() > header_count + 1 { Limit::HeaderCount } else { Limit::HeaderBytes })
            }
            Self::Hyper(error) => {
                let cause = error.source().and_then(|cause| cause.downcast_ref::<io::Error>());
                cause.filter(|cause| cause.kind() == io::ErrorKind::TimedOut).map(|_| Limit::WriteTimeout)
            }
        }
    }
}

fn builder(limits: &Limits, head: HeadTimer) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .timer(head)
        .header_read_timeout(HEAD)
        .max_buf_size(limits.header_bytes.max(8192))
        .max_header_size(limits.header_bytes);
    // The parser's own default lies on the stack; another number costs an allocation a request.
    if limits.header_count != 100 {
        builder.max_headers(limits.header_count);
    }
    builder
}

/// What follows the head of `request`, as hyper has understood it.
pub(super) fn framing(request: &Request<Incoming>) -> Framing {
    request.body().size_hint().exact().map_or(Framing::Chunked, |length| match length {
        0 => Framing::Nothing,
        length => Framing::Length(length),
    })
}

const fn refusal(violation: Violation) -> Refusal {
    match violation {
        Violation::BareLineFeed => Refusal::BadRequest("a line of the head ends without CR"),
        Violation::Fragment => Refusal::BadRequest("the request target has a fragment"),
        Violation::OutOfStep => Refusal::BadRequest("the head cannot be told from what came before it"),
        Violation::TwoFramings => Refusal::BadRequest("the head frames the body twice"),
        Violation::TargetTooLong => Refusal::UriTooLong,
    }
}
