//! One client connection's byte stream, watched where hyper does not look.
//!
//! hyper parses and frames HTTP/1.1; four things it lets pass are caught here, on the bytes as they
//! come: a line of a request head that ends without CR, a fragment in the request target and a
//! `Content-Length` beside `Transfer-Encoding` (both of which the parser drops silently), and a target
//! beyond its bound.
//!
//! The watch knows where a head begins because it is told, for each request, what follows its head.

#[cfg(test)]
mod agreement;
#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::patient::Patient;

/// What was seen in a request head that must not be forwarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Violation {
    /// A line ended with a bare LF.
    BareLineFeed,
    /// The request target has a fragment.
    Fragment,
    /// The parser has found the end of a head where the watch has not: one of the two has lost its place.
    OutOfStep,
    /// The request line is longer than allowed.
    TargetTooLong,
    /// The head frames the body twice (RFC 9112 §6.3).
    TwoFramings,
}

/// What follows a request head (RFC 9112 §6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// The next request.
    Nothing,
    /// So many bytes of body, then the next request.
    Length(u64),
    /// A chunked body, then the next request.
    Chunked,
}

/// The watch over the request heads of one connection; shared by its stream and its service.
#[derive(Debug)]
pub(super) struct Watch {
    state: State,
    max_target: usize,
    violation: Option<Violation>,
    /// Whether the client does not take what is written for it.
    stalled: bool,
    /// Since when a head that is not whole is coming in.
    begun: Option<Instant>,
    /// Lines of the present head.
    lines: usize,
    /// Which of [`FRAMING_FIELDS`] the present head has.
    framed: [Field; 2],
    /// Bytes that came after a head before it was known what follows it.
    undecided: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Within a head: bytes of the present line so far, its last byte, and whether it is the first.
    Head { line: usize, last: u8, first: bool },
    /// After a head, not yet told what follows.
    Undecided,
    /// Within a body of known length.
    Body(u64),
    /// Within a chunked body.
    Chunked(Chunk),
    /// After a violation, or a body whose framing was lost: nothing more is read as a request.
    Ended,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Chunk {
    /// In the digits of a size.
    Size(u64),
    /// In what follows the size, up to the end of the line.
    Extension(u64),
    /// In the data, and the line end after it.
    Data(u64),
    /// In the lines after the last chunk; whether the present one is empty so far.
    Trailer { empty: bool },
}

/// The fields that frame a body. A head may have one of them.
const FRAMING_FIELDS: [&[u8]; 2] = [b"content-length:", b"transfer-encoding:"];

/// How far a head has been found to have a field.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Field {
    /// The present line agrees with its name so far.
    agrees: bool,
    /// A line before had it.
    seen: bool,
}

/// At the start of a head.
const START: State = State::Head { line: 0, last: 0, first: true };

/// What a request line has besides its target: the longest method, the version, two spaces and CR.
const METHOD_AND_VERSION: usize = 32;

impl Watch {
    /// A watch that allows request targets of `max_target` bytes.
    #[must_use]
    pub(super) const fn new(max_target: usize) -> Self {
        Self {
            state: START,
            max_target,
            violation: None,
            stalled: false,
            begun: None,
            lines: 0,
            framed: [Field { agrees: false, seen: false }; 2],
            undecided: Vec::new(),
        }
    }

    /// Since when a head that is not whole is coming in.
    pub(super) const fn begun(&self) -> Option<Instant> {
        self.begun
    }

    /// Lines of the head that came last, the request line among them.
    pub(super) const fn lines(&self) -> usize {
        self.lines
    }

    /// Reads the clock if a head has begun and is not whole yet: most heads come in one piece.
    fn note_time(&mut self) {
        let is_coming = self.state != START && matches!(self.state, State::Head { .. });
        self.begun = if is_coming { self.begun.or_else(|| Some(Instant::now())) } else { None };
    }

    /// Whether the bytes that the parser got are not all the client's.
    pub(super) fn is_cut_short(&self) -> bool {
        self.violation == Some(Violation::TargetTooLong)
    }

    /// Whether the client does not take what is written for it.
    pub(super) const fn is_stalled(&self) -> bool {
        self.stalled
    }

    /// What was wrong with the head that was just read; then goes on with what follows it.
    pub(super) fn head_read(&mut self, framing: Framing) -> Option<Violation> {
        if self.violation.is_some() {
            return self.violation;
        }
        if self.state != State::Undecided {
            self.stop(Violation::OutOfStep);
            return self.violation;
        }
        self.state = match framing {
            Framing::Nothing | Framing::Length(0) => START,
            Framing::Length(length) => State::Body(length),
            Framing::Chunked => State::Chunked(Chunk::Size(0)),
        };
        if !self.undecided.is_empty() {
            let rest = std::mem::take(&mut self.undecided);
            self.see(&rest);
        }
        // What those bytes violate is the next request's business.
        None
    }

    fn see(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            match self.state {
                State::Head { line, last, first } => bytes = self.see_head(bytes, line, last, first),
                State::Undecided => {
                    self.undecided.extend_from_slice(bytes);
                    return;
                }
                State::Body(left) => {
                    let (left, rest) = skip(bytes, left);
                    self.state = if left == 0 { START } else { State::Body(left) };
                    bytes = rest;
                }
                State::Chunked(chunk) => bytes = self.see_chunk(bytes, chunk),
                State::Ended => return,
            }
        }
    }

    /// Reads up to the end of one line of a head.
    fn see_head<'b>(&mut self, bytes: &'b [u8], line: usize, last: u8, first: bool) -> &'b [u8] {
        let end = memchr::memchr(b'\n', bytes);
        let (part, rest) = match end {
            Some(end) => (&bytes[..end], &bytes[end + 1..]),
            None => (bytes, &bytes[..0]),
        };
        let length = line + part.len();
        if first {
            self.framed = [Field::default(); 2];
            self.lines = 1;
        } else {
            self.see_name(part, line);
        }
        if first && part.contains(&b'#') {
            self.stop(Violation::Fragment);
        } else if first && length > self.max_target + METHOD_AND_VERSION {
            self.stop(Violation::TargetTooLong);
        } else {
            let last = part.last().copied().unwrap_or(last);
            match (end.is_some(), last, length, first) {
                (false, _, _, _) => self.state = State::Head { line: length, last, first },
                (true, b'\r', 1, false) if self.framed.iter().all(|field| field.seen) => {
                    self.stop(Violation::TwoFramings);
                }
                (true, b'\r', 1, false) => self.state = State::Undecided,
                // Empty lines before a request line are skipped (RFC 9112 §2.2).
                (true, b'\r', 1, true) => self.state = START,
                (true, b'\r', _, _) => {
                    self.lines += 1;
                    self.state = State::Head { line: 0, last: 0, first: false };
                }
                (true, _, _, _) => self.stop(Violation::BareLineFeed),
            }
        }
        rest
    }

    /// Compares the bytes of a line, the first of them at `at`, with the names of the framing fields.
    fn see_name(&mut self, part: &[u8], at: usize) {
        // Most lines differ from both in their first byte.
        if at == 0 && !matches!(part.first(), None | Some(b'c' | b'C' | b't' | b'T')) {
            self.framed.iter_mut().for_each(|field| field.agrees = false);
            return;
        }
        for (name, field) in FRAMING_FIELDS.iter().zip(&mut self.framed) {
            field.agrees |= at == 0;
            let Some(rest) = name.get(at..).filter(|rest| field.agrees && !rest.is_empty()) else { continue };
            let length = rest.len().min(part.len());
            field.agrees = rest[..length].eq_ignore_ascii_case(&part[..length]);
            field.seen |= field.agrees && length == rest.len();
        }
    }

    /// A violation ends the watch: the request it is in is the last one answered.
    const fn stop(&mut self, violation: Violation) {
        self.violation = Some(violation);
        self.state = State::Ended;
    }

    /// Follows a chunked body to its end (RFC 9112 §7.1). The parser refuses what is malformed; here
    /// it merely ends the watch.
    fn see_chunk<'b>(&mut self, bytes: &'b [u8], chunk: Chunk) -> &'b [u8] {
        let Some((&byte, rest)) = bytes.split_first() else { return bytes };
        let (next, rest) = match chunk {
            Chunk::Size(size) => match char::from(byte).to_digit(16) {
                Some(digit) => match size.checked_mul(16) {
                    Some(size) => (State::Chunked(Chunk::Size(size + u64::from(digit))), rest),
                    None => (State::Ended, rest),
                },
                None => (State::Chunked(Chunk::Extension(size)), bytes),
            },
            Chunk::Extension(size) if byte != b'\n' => (State::Chunked(Chunk::Extension(size)), rest),
            Chunk::Extension(0) => (State::Chunked(Chunk::Trailer { empty: true }), rest),
            // The data, and the CR LF that ends it.
            Chunk::Extension(size) => (State::Chunked(Chunk::Data(size.saturating_add(2))), rest),
            Chunk::Data(left) => {
                let (left, rest) = skip(bytes, left);
                let next = if left == 0 { Chunk::Size(0) } else { Chunk::Data(left) };
                (State::Chunked(next), rest)
            }
            Chunk::Trailer { empty: true } if byte == b'\n' => (START, rest),
            Chunk::Trailer { empty } => {
                let empty = byte == b'\n' || empty && byte == b'\r';
                (State::Chunked(Chunk::Trailer { empty }), rest)
            }
        };
        self.state = next;
        rest
    }
}

/// Passes over at most `left` bytes: how many are still to pass over, and the rest.
fn skip(bytes: &[u8], left: u64) -> (u64, &[u8]) {
    let take = bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX));
    (left - take as u64, bytes.get(take..).unwrap_or_default())
}

/// The end of a head that was cut short, so that the parser hands the request over to be refused.
const CUT_SHORT: &[u8] = b" HTTP/1.1\r\n\r\n";

/// A client's byte stream under [`Watch`].
#[derive(Debug)]
pub(super) struct Guarded<S> {
    stream: Patient<S>,
    watch: Rc<RefCell<Watch>>,
    cut: bool,
}

impl<S> Guarded<S> {
    /// Watches `stream`.
    pub(super) const fn new(stream: Patient<S>, watch: Rc<RefCell<Watch>>) -> Self {
        Self { stream, watch, cut: false }
    }

    /// The stream itself: what follows is not HTTP.
    pub(super) fn into_inner(self) -> S {
        self.stream.into_inner()
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Guarded<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.watch.borrow().violation == Some(Violation::TargetTooLong) {
            // Neither more bytes nor an end: the answer is on its way, and ends the connection.
            if this.cut {
                return Poll::Pending;
            }
            this.cut = true;
            buf.put_slice(CUT_SHORT);
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(cx, buf))?;
        let mut watch = this.watch.borrow_mut();
        watch.see(buf.filled().get(before..).unwrap_or_default());
        watch.note_time();
        drop(watch);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Guarded<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let outcome = Pin::new(&mut this.stream).poll_write(cx, buf);
        this.watch.borrow_mut().stalled = this.stream.is_stalled();
        outcome
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let outcome = Pin::new(&mut this.stream).poll_write_vectored(cx, bufs);
        this.watch.borrow_mut().stalled = this.stream.is_stalled();
        outcome
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}
