//! Bodies on their way through: counted, bounded, timed, and never gathered.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep};

use super::headers;
use super::journal::Journal;
use super::pace::{Pace, Wait};
use super::record::Record;
use super::stream::GRACE;
use super::upstream::{Content as Answered, ContentError, Lease};

/// How the sending of a request body stands; shared by the body and whoever waits for the answer.
#[derive(Debug, Default)]
pub(super) struct Progress {
    received: Cell<u64>,
    complete: Cell<bool>,
    failure: Cell<Option<BodyFailure>>,
}

/// What went wrong with a request body, by the client's fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum BodyFailure {
    /// Its framing is broken, or the client went away.
    #[error("the request body broke off")]
    Broken,
    /// It is larger than the route allows.
    #[error("the request body is too large")]
    TooLarge,
    /// Nothing of it came for too long.
    #[error("nothing of the request body came")]
    Silent,
    /// It took too long as a whole.
    #[error("the request body took too long")]
    TooLate,
    /// It came too slowly.
    #[error("the request body came too slowly")]
    TooSlow,
}

impl Progress {
    /// Bytes of the body that came so far.
    #[must_use]
    pub(super) fn received(&self) -> u64 {
        self.received.get()
    }

    /// Whether all of it came.
    #[must_use]
    pub(super) fn is_complete(&self) -> bool {
        self.complete.get()
    }

    /// What went wrong with it.
    #[must_use]
    pub(super) fn failure(&self) -> Option<BodyFailure> {
        self.failure.get()
    }
}

/// A request body on its way to an upstream; nothing for one that is empty from the start, as most are, so that
/// a request without one is small where it goes from hand to hand.
#[derive(Debug, Default)]
pub(super) struct RequestBody(Option<Box<Upload>>);

/// One that comes in. Trailers are cleaned as a head is, for an upstream may take them for one; where nobody
/// can tell what must go, they are dropped.
#[derive(Debug)]
struct Upload {
    incoming: Option<Incoming>,
    /// What came already and goes out again, the last of it first.
    again: Vec<Bytes>,
    /// Shared with whoever watches.
    progress: Rc<Progress>,
    limit: u64,
    /// How fast it must come.
    pace: Pace,
    /// From when the client was first waited for.
    wait: Option<Wait>,
    /// What knows how trailers are cleaned.
    trailers: Option<Rc<Journal>>,
}

impl RequestBody {
    /// A body of at most `limit` bytes, which must come at this `pace`. Trailers are passed on, cleaned as
    /// `trailers` says, or else dropped.
    #[must_use]
    pub(super) fn new(incoming: Incoming, limit: Option<u64>, pace: Pace, trailers: Option<Rc<Journal>>) -> Self {
        Self(Some(Box::new(Upload {
            incoming: Some(incoming),
            again: Vec::new(),
            progress: Rc::default(),
            limit: limit.unwrap_or(u64::MAX),
            pace,
            wait: None,
            trailers,
        })))
    }

    /// No body.
    #[must_use]
    pub(super) const fn empty() -> Self {
        Self(None)
    }

    /// Whether it was empty from the start.
    #[must_use]
    pub(super) const fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Its progress, to be watched from outside; `None` for a body that is empty from the start.
    #[must_use]
    pub(super) fn progress(&self) -> Option<Rc<Progress>> {
        self.0.as_ref().map(|upload| Rc::clone(&upload.progress))
    }

    /// Whether the client has failed to bring it.
    pub(super) fn has_failed(&self) -> bool {
        self.0.as_ref().is_some_and(|upload| upload.progress.failure().is_some())
    }

    /// Puts back what was taken out of it, all of it and in order, to go out again.
    pub(super) fn put_back(&mut self, mut taken: Vec<Bytes>) {
        if let Some(upload) = &mut self.0 {
            taken.reverse();
            upload.again = taken;
        }
    }
}

impl Upload {
    fn fail(&mut self, failure: BodyFailure) -> Poll<Option<Result<Frame<Bytes>, BodyFailure>>> {
        self.incoming = None;
        self.progress.failure.set(Some(failure));
        Poll::Ready(Some(Err(failure)))
    }

    /// What the client fails in. Asked only while nothing comes.
    fn poll_failure(&mut self, cx: &mut Context<'_>) -> Poll<BodyFailure> {
        let pace = self.pace;
        self.wait.get_or_insert_with(|| pace.wait()).poll_failure(cx, self.progress.received())
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyFailure>>> {
        if let Some(data) = self.again.pop() {
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        loop {
            let Some(incoming) = &mut self.incoming else { return Poll::Ready(None) };
            let frame = match Pin::new(&mut *incoming).poll_frame(cx) {
                Poll::Ready(frame) => frame,
                Poll::Pending => {
                    let failure = ready!(self.poll_failure(cx));
                    return self.fail(failure);
                }
            };
            if let Some(wait) = &mut self.wait {
                wait.is_over();
            }
            match frame {
                None => {
                    self.progress.complete.set(true);
                    self.incoming = None;
                    return Poll::Ready(None);
                }
                Some(Err(_)) => return self.fail(BodyFailure::Broken),
                Some(Ok(frame)) => {
                    let data = match frame.into_data() {
                        Ok(data) => data,
                        Err(frame) => {
                            let (Some(journal), Ok(mut trailers)) = (&self.trailers, frame.into_trailers()) else {
                                continue;
                            };
                            journal.cleaner.clean_trailers(&mut trailers);
                            self.progress.complete.set(true);
                            self.incoming = None;
                            return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
                        }
                    };
                    let received = self.progress.received() + data.len() as u64;
                    self.progress.received.set(received);
                    if received > self.limit {
                        return self.fail(BodyFailure::TooLarge);
                    }
                    if incoming.is_end_stream() {
                        self.progress.complete.set(true);
                    }
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.as_ref().is_none_or(Body::is_end_stream)
            && self.again.is_empty()
            && self.progress.failure().is_none()
    }

    fn size_hint(&self) -> SizeHint {
        let mut hint = self.incoming.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint);
        if !self.again.is_empty() {
            let again = self.again.iter().map(|data| data.len() as u64).sum::<u64>();
            match hint.exact() {
                Some(exact) => hint.set_exact(exact + again),
                None => hint.set_lower(hint.lower() + again),
            }
        }
        hint
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyFailure;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        self.get_mut().0.as_mut().map_or(Poll::Ready(None), |upload| upload.poll_frame(cx))
    }

    fn is_end_stream(&self) -> bool {
        self.0.as_ref().is_none_or(|upload| upload.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        self.0.as_ref().map_or_else(|| SizeHint::with_exact(0), |upload| upload.size_hint())
    }
}

/// A response body on its way to the client.
pub struct ResponseBody {
    content: Content,
    record: Option<Box<Record>>,
}

enum Content {
    Empty,
    Whole(Bytes),
    Upstream(Box<UpstreamBody>),
}

/// A response body that still comes in, with the connection it comes in on.
struct UpstreamBody {
    incoming: Answered,
    lease: Lease,
    patience: Duration,
    /// The end of the time the route gives to the whole exchange.
    until: Option<Instant>,
    silence: Option<Silence>,
    /// When the watch over it has to begin; `None` where nobody's token is asked for, and once it has.
    watch_due: Option<Instant>,
    /// Whether anybody has asked for any of it.
    begun: bool,
    /// Whether the connection knows that it goes on.
    known: bool,
}

/// A wait for more.
struct Silence {
    /// Until then at the latest.
    until: Instant,
    /// Fires then, or when the watch has to begin.
    timer: Pin<Box<Sleep>>,
}

/// Why a response body ended early. The client's connection is closed, so that half a body is not
/// taken for a whole one.
#[derive(Debug, thiserror::Error)]
pub enum CutShort {
    /// The upstream broke off.
    #[error("the upstream broke off")]
    Broken(#[source] ContentError),
    /// The token that admitted its request is no longer honoured.
    #[error("the token is no longer honoured")]
    Dishonoured,
    /// The upstream fell silent, or the route's time is over.
    #[error("the upstream took too long")]
    Slow,
}

impl ResponseBody {
    /// A body that is all there.
    #[must_use]
    pub(super) fn whole(bytes: Bytes) -> Self {
        let content = if bytes.is_empty() { Content::Empty } else { Content::Whole(bytes) };
        Self { content, record: None }
    }

    /// The same without what is all there, for a request that asked for the head alone: and how long it
    /// would have been.
    #[must_use]
    pub(super) fn without_content(mut self) -> (Self, Option<usize>) {
        let length = match &self.content {
            Content::Whole(bytes) => Some(bytes.len()),
            Content::Empty | Content::Upstream(_) => None,
        };
        if length.is_some() {
            self.content = Content::Empty;
        }
        (self, length)
    }

    /// A body that comes from an upstream, with at most `patience` of silence and wholly before `until`.
    #[must_use]
    pub(super) fn upstream(incoming: Answered, mut lease: Lease, patience: Duration, until: Option<Instant>) -> Self {
        if incoming.is_end_stream() {
            lease.response_complete();
            return Self::whole(Bytes::new());
        }
        let (silence, watch_due, begun, known) = (None, None, false, false);
        let body = UpstreamBody { incoming, lease, patience, until, silence, watch_due, begun, known };
        Self { content: Content::Upstream(Box::new(body)), record: None }
    }

    /// Keeps `record` until this body has ended.
    pub(super) fn keep(&mut self, record: Box<Record>) {
        if let Content::Upstream(body) = &mut self.content
            && record.bearer.is_some()
        {
            body.watch_due = Some(body.lease.heard() + GRACE);
        }
        self.record = Some(record);
    }

    /// Whether the token of its request does not allow any more of it. One that is short is over before
    /// this asks anybody, or reads a clock.
    fn is_dishonoured(&mut self, cx: &Context<'_>) -> bool {
        let (Content::Upstream(body), Some(record)) = (&mut self.content, &self.record) else { return false };
        if !std::mem::replace(&mut body.begun, true) {
            return false;
        }
        if let (Some(due), Some(bearer)) = (body.watch_due, &record.bearer) {
            if !std::mem::replace(&mut body.known, true) {
                record.handover.begin_answer(due, &record.journal, bearer);
            }
            if Instant::now() >= due {
                body.watch_due = None;
                record.handover.hold(cx);
            }
        }
        body.known && record.handover.is_dishonoured(cx)
    }

    /// Takes note that somebody has asked for more.
    fn asked(&self, got: bool) {
        if let Some(record) = &self.record {
            record.handover.asked(got);
        }
    }
}

impl UpstreamBody {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, CutShort>>> {
        loop {
            let frame = match Pin::new(&mut self.incoming).poll_frame(cx) {
                Poll::Ready(frame) => frame,
                Poll::Pending => {
                    ready!(self.poll_silence(cx));
                    self.lease.failed_slow();
                    return Poll::Ready(Some(Err(CutShort::Slow)));
                }
            };
            self.silence = None;
            return Poll::Ready(match frame {
                None => {
                    self.lease.response_complete();
                    None
                }
                Some(Err(error)) => {
                    self.lease.failed_broken();
                    Some(Err(CutShort::Broken(error)))
                }
                Some(Ok(frame)) => {
                    let data = match frame.into_data() {
                        Ok(data) => data,
                        Err(frame) => {
                            let Ok(mut trailers) = frame.into_trailers() else { continue };
                            self.lease.response_complete();
                            headers::clean_trailers(&mut trailers);
                            return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
                        }
                    };
                    if self.incoming.is_end_stream() {
                        self.lease.response_complete();
                    }
                    Some(Ok(Frame::data(data)))
                }
            });
        }
    }

    fn poll_silence(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let silence = self.silence.get_or_insert_with(|| {
            let at = Instant::now() + self.patience;
            let until = self.until.map_or(at, |until| until.min(at));
            let first = self.watch_due.map_or(until, |due| until.min(due));
            Silence { until, timer: Box::pin(tokio::time::sleep_until(first)) }
        });
        ready!(silence.timer.as_mut().poll(cx));
        if silence.timer.deadline() >= silence.until {
            return Poll::Ready(());
        }
        // Only the watch is due: whoever asks once more begins it.
        silence.timer.as_mut().reset(silence.until);
        cx.waker().wake_by_ref();
        silence.timer.as_mut().poll(cx)
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = CutShort;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = self.get_mut();
        if this.is_dishonoured(cx) {
            let ends_by_itself = this.record.as_ref().is_some_and(|record| record.handover.is_stream());
            return if ends_by_itself { Poll::Pending } else { Poll::Ready(Some(Err(CutShort::Dishonoured))) };
        }
        let frame = match &mut this.content {
            Content::Empty => None,
            Content::Whole(bytes) => {
                let bytes = std::mem::take(bytes);
                this.content = Content::Empty;
                Some(Ok(Frame::data(bytes)))
            }
            Content::Upstream(body) => match body.poll_frame(cx) {
                Poll::Ready(frame) => frame,
                Poll::Pending => {
                    this.asked(false);
                    return Poll::Pending;
                }
            },
        };
        this.asked(matches!(frame, Some(Ok(_))));
        if let (Some(Ok(frame)), Some(record)) = (&frame, &mut this.record) {
            record.bytes_out += frame.data_ref().map_or(0, |data| data.len() as u64);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match &self.content {
            Content::Empty => true,
            Content::Whole(_) => false,
            Content::Upstream(body) => body.incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Empty => SizeHint::with_exact(0),
            Content::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Content::Upstream(body) => body.incoming.size_hint(),
        }
    }
}

impl Drop for ResponseBody {
    fn drop(&mut self) {
        let Some(record) = &mut self.record else { return };
        if matches!(&self.content, Content::Upstream(body) if body.known) {
            let ended_by = record.handover.end_answer();
            record.reason = record.reason.or(ended_by);
        }
    }
}
