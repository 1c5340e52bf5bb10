//! What a connection, or a stream of one, comes to besides its answer; shared by the request and by whoever
//! drives the connection.
//!
//! The two protocols differ in what a cut is. HTTP/1.1 has one answer at a time, and ending it means ending
//! the connection. HTTP/2 has many, each carried by tasks of its own, and ending those resets the one stream.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::Context;

use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::tunnel::Tunnel;
use super::watch::Watch;
use crate::gate::Remembered;
use crate::proxy::journal::Journal;

/// What a connection comes to besides its next request: one for each HTTP/1.1 connection, and for each
/// HTTP/2 stream.
#[derive(Debug, Default)]
pub struct Handover {
    tunnel: RefCell<Option<Box<Tunnel>>>,
    cut: Cell<bool>,
    leaving: Cell<bool>,
    answer: RefCell<Option<Answer>>,
    stream: Option<Stream>,
}

/// An answer that goes on.
#[derive(Debug)]
struct Answer {
    /// When its token begins to hold it.
    due: Instant,
    journal: Rc<Journal>,
    bearer: Rc<Remembered>,
    watch: Option<Watch>,
}

/// What only an HTTP/2 stream has.
#[derive(Debug, Default)]
struct Stream {
    /// What carries it.
    tasks: RefCell<Vec<AbortHandle>>,
    /// Pieces of its answer that were handed on.
    pieces: Cell<u64>,
    /// Whether nobody has asked for more since the last of them.
    waits: Cell<bool>,
}

impl Handover {
    /// That of an HTTP/2 stream.
    #[must_use]
    pub fn of_stream() -> Self {
        Self { stream: Some(Stream::default()), ..Self::default() }
    }

    /// Whether it is of an HTTP/2 stream.
    #[must_use]
    pub const fn is_stream(&self) -> bool {
        self.stream.is_some()
    }

    /// The tunnel that the connection becomes, once its answer is out.
    #[must_use]
    pub fn take_tunnel(&self) -> Option<Box<Tunnel>> {
        self.tunnel.take()
    }

    /// Whether it must end now, whatever is still to be written.
    #[must_use]
    pub fn is_cut(&self) -> bool {
        self.cut.get()
    }

    /// Says that the connection is to end with the answer to its next request, which tells the client so.
    pub fn leave(&self) {
        self.leaving.set(true);
    }

    pub(in crate::proxy) fn is_leaving(&self) -> bool {
        self.leaving.get()
    }

    /// Ends it: an HTTP/2 stream at once, an HTTP/1.1 connection when its driver asks [`Self::is_cut`].
    pub fn cut(&self) {
        self.cut.set(true);
        if let Some(stream) = &self.stream {
            stream.tasks.borrow().iter().for_each(AbortHandle::abort);
        }
    }

    /// A task carries the stream, and ends with it.
    pub fn carry(&self, task: AbortHandle) {
        let Some(stream) = &self.stream else { return };
        if self.is_cut() {
            task.abort();
        }
        stream.tasks.borrow_mut().push(task);
    }

    /// Pieces of the stream's answer that were handed on so far, if its client has yet to take the last.
    #[must_use]
    pub fn waits_for_client(&self) -> Option<u64> {
        self.stream.as_ref().filter(|stream| stream.waits.get()).map(|stream| stream.pieces.get())
    }

    /// When the token of the answer has to begin to hold it; `None` if there is none, and once it does.
    #[must_use]
    pub fn hold_due(&self) -> Option<Instant> {
        self.answer.borrow().as_ref().filter(|answer| answer.watch.is_none()).map(|answer| answer.due)
    }

    /// Lets the token hold its answer, if it does not yet. Whoever asks is woken when the answer is cut.
    pub fn hold(self: &Rc<Self>, cx: &Context<'_>) {
        let held = match &*self.answer.borrow() {
            Some(Answer { journal, bearer, watch: None, .. }) => (Rc::clone(journal), Rc::clone(bearer)),
            Some(_) | None => return,
        };
        // It may find at once that the answer must end.
        let watch = Watch::begin(&held.0.shared, &held.1, self);
        watch.denial(cx);
        if let Some(answer) = &mut *self.answer.borrow_mut() {
            answer.watch = Some(watch);
        }
    }

    pub(in crate::proxy) fn put_tunnel(&self, tunnel: Tunnel) {
        self.tunnel.replace(Some(Box::new(tunnel)));
    }

    /// An answer goes on, which its token holds from `due`.
    pub(in crate::proxy) fn begin_answer(&self, due: Instant, journal: &Rc<Journal>, bearer: &Rc<Remembered>) {
        let (journal, bearer) = (Rc::clone(journal), Rc::clone(bearer));
        self.answer.replace(Some(Answer { due, journal, bearer, watch: None }));
    }

    /// Whether the token of the answer does not allow any more of it; asked by whoever would hand it on.
    pub(in crate::proxy) fn is_dishonoured(&self, cx: &Context<'_>) -> bool {
        let answer = self.answer.borrow();
        answer.as_ref().and_then(|answer| answer.watch.as_ref()).is_some_and(|watch| watch.denial(cx).is_some())
    }

    /// The answer is over: the name of what ended it, if the gateway did.
    pub(in crate::proxy) fn end_answer(&self) -> Option<&'static str> {
        self.answer.take()?.watch.as_ref().and_then(Watch::reason)
    }

    /// Somebody asked for a piece of the answer, and got it or did not.
    pub(in crate::proxy) fn asked(&self, got: bool) {
        if let Some(stream) = &self.stream {
            stream.waits.set(got);
            stream.pieces.set(stream.pieces.get() + u64::from(got));
        }
    }
}
