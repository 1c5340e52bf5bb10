//! One HTTP/2 connection's byte stream, watched where the library does not look: what a client makes the
//! gateway work with.
//!
//! A client may send as many frames as it likes that ask for nothing: PING, SETTINGS, empty DATA and the
//! like; and it may take back requests as fast as it makes them. Each costs the gateway more than the
//! client. So they are paid for out of two budgets, which time refills, and of which the one for frames is
//! refilled also by what the gateway sends: a client may well say something about each piece of an answer.
//! Nothing is looked at but the nine bytes that a frame begins with (RFC 9113 §4.1), and the reason of a reset.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use prometheus::IntCounter;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::patient::Patient;
use crate::config::Http2Limits;
use crate::telemetry::Limit;

/// What a client begins an HTTP/2 connection with (RFC 9113 §3.4).
pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

const HEADER: usize = 9;
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const END_STREAM: u8 = 1;
const ACK: u8 = 1;
/// RFC 9113 §7.
const REFUSED_STREAM: u32 = 7;
const ENHANCE_YOUR_CALM: u8 = 11;

/// In this time a budget that was used up is whole again.
const REFILL: Duration = Duration::from_secs(30);
/// What a client may say about a piece of an answer: two windows are opened for more, and its time is measured.
const FOR_DATA: u32 = 3;

/// Where in the frames of one direction a byte stream is.
#[derive(Debug)]
struct Frames {
    header: [u8; HEADER],
    /// Bytes of the present header so far.
    have: usize,
    /// Bytes of the present payload that are still to come.
    left: usize,
    /// The reset whose code comes next, and what came of that.
    reset: Option<Frame>,
}

/// The beginning of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Frame {
    length: usize,
    kind: u8,
    flags: u8,
    stream: u32,
    /// Why, of a reset (RFC 9113 §6.4).
    code: u32,
}

impl Frames {
    /// Frames that begin after `left` bytes.
    const fn after(left: usize) -> Self {
        Self { header: [0; HEADER], have: 0, left, reset: None }
    }

    /// Whether no frame is under way.
    const fn is_between(&self) -> bool {
        self.have == 0 && self.left == 0
    }

    fn see(&mut self, mut bytes: &[u8], mut each: impl FnMut(Frame)) {
        while !bytes.is_empty() {
            let passed = bytes.len().min(self.left);
            self.left -= passed;
            if let Some(reset) = &mut self.reset {
                for byte in bytes.get(..passed).unwrap_or_default() {
                    reset.code = reset.code << 8 | u32::from(*byte);
                }
            }
            if self.left == 0
                && let Some(reset) = self.reset.take()
            {
                each(reset);
            }
            bytes = bytes.get(passed..).unwrap_or_default();
            let taken = bytes.len().min(HEADER - self.have);
            if let (Some(place), Some(part)) = (self.header.get_mut(self.have..self.have + taken), bytes.get(..taken)) {
                place.copy_from_slice(part);
            }
            self.have += taken;
            bytes = bytes.get(taken..).unwrap_or_default();
            if self.have == HEADER {
                let [a, b, c, kind, flags, stream @ ..] = self.header;
                let length = u32::from_be_bytes([0, a, b, c]) as usize;
                (self.have, self.left) = (0, length);
                let stream = u32::from_be_bytes(stream) & (u32::MAX >> 1);
                let frame = Frame { length, kind, flags, stream, code: 0 };
                if kind == RST_STREAM && length > 0 {
                    self.reset = Some(frame);
                } else {
                    each(frame);
                }
            }
        }
    }
}

/// So much at once, and as much again in each [`REFILL`].
#[derive(Debug)]
struct Budget {
    most: u32,
    left: u32,
    /// When it was refilled.
    since: Instant,
}

impl Budget {
    const fn new(most: u32, now: Instant) -> Self {
        Self { most, left: most, since: now }
    }

    /// Takes one; false when there is none. The clock is read only then.
    fn take(&mut self, now: impl FnOnce() -> Instant) -> bool {
        if self.left == 0 {
            let now = now();
            let whole = REFILL.as_micros().max(1);
            let gained = now.duration_since(self.since).as_micros().saturating_mul(u128::from(self.most)) / whole;
            if gained == 0 {
                return false;
            }
            self.give(u32::try_from(gained).unwrap_or(u32::MAX));
            self.since = now;
        }
        self.left = self.left.saturating_sub(1);
        true
    }

    fn give(&mut self, count: u32) {
        self.left = self.left.saturating_add(count).min(self.most);
    }
}

/// What a client has left of its budgets. Shared by the connection's stream and whoever drives it.
#[derive(Debug)]
pub(super) struct Ledger {
    received: Frames,
    sent: Frames,
    control: Budget,
    resets: Budget,
    /// The last stream that the client opened.
    stream: u32,
    overdrawn: Option<Limit>,
    /// Counts requests that were too many at once: the library refuses them without a word to anybody.
    refused: IntCounter,
}

impl Ledger {
    pub(super) fn new(limits: &Http2Limits, now: Instant, refused: IntCounter) -> Self {
        Self {
            received: Frames::after(PREFACE.len()),
            sent: Frames::after(0),
            control: Budget::new(limits.control_frames, now),
            resets: Budget::new(limits.resets, now),
            stream: 0,
            overdrawn: None,
            refused,
        }
    }

    /// The budget that was used up: the connection ends.
    pub(super) const fn overdrawn(&self) -> Option<Limit> {
        self.overdrawn
    }

    fn receive(&mut self, bytes: &[u8]) {
        let Self { received, control, resets, stream, overdrawn, .. } = self;
        received.see(bytes, |frame| {
            let (budget, limit) = match frame.kind {
                HEADERS => {
                    *stream = (*stream).max(frame.stream);
                    return;
                }
                DATA if frame.length > 0 || frame.flags & END_STREAM != 0 => return,
                RST_STREAM => (&mut *resets, Limit::Http2Resets),
                _ => (&mut *control, Limit::Http2ControlFrames),
            };
            if !budget.take(Instant::now) {
                overdrawn.get_or_insert(limit);
            }
        });
    }

    fn send(&mut self, bytes: &[u8]) {
        let Self { sent, control, refused, .. } = self;
        sent.see(bytes, |frame| match frame.kind {
            DATA => control.give(FOR_DATA),
            HEADERS => control.give(1),
            PING if frame.flags & ACK == 0 => control.give(1),
            RST_STREAM if frame.code == REFUSED_STREAM => refused.inc(),
            _ => {}
        });
    }

    /// The frame that says why the connection ends, if one may be put in here.
    fn farewell(&self) -> Option<[u8; HEADER + 8]> {
        let [a, b, c, d] = self.stream.to_be_bytes();
        let frame = [0, 0, 8, GOAWAY, 0, 0, 0, 0, 0, a, b, c, d, 0, 0, 0, ENHANCE_YOUR_CALM];
        self.sent.is_between().then_some(frame)
    }
}

/// A client's byte stream under a [`Ledger`].
#[derive(Debug)]
pub(super) struct Metered<S> {
    stream: Patient<S>,
    ledger: Rc<RefCell<Ledger>>,
    /// Whether the client was told why it goes no further.
    told: bool,
}

impl<S> Metered<S> {
    pub(super) const fn new(stream: Patient<S>, ledger: Rc<RefCell<Ledger>>) -> Self {
        Self { stream, ledger, told: false }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Metered<S> {
    /// Says that it is over, and closes gently.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        if !self.told {
            self.told = true;
            let farewell = self.ledger.borrow().farewell();
            if let Some(frame) = farewell {
                // Whoever leaves no room for it does without.
                let _ = Pin::new(&mut self.stream).poll_write(cx, &frame);
            }
        }
        let _ = ready!(Pin::new(&mut self.stream).poll_shutdown(cx));
        Poll::Ready(io::ErrorKind::ConnectionAborted.into())
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Metered<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.ledger.borrow().overdrawn().is_some() {
            return this.poll_end(cx).map(Err);
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(cx, buf))?;
        this.ledger.borrow_mut().receive(buf.filled().get(before..).unwrap_or_default());
        if this.ledger.borrow().overdrawn().is_some() {
            buf.set_filled(before);
            return this.poll_end(cx).map(Err);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Metered<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.told {
            return Poll::Ready(Ok(buf.len()));
        }
        let written = ready!(Pin::new(&mut this.stream).poll_write(cx, buf))?;
        this.ledger.borrow_mut().send(buf.get(..written).unwrap_or_default());
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.told {
            return Poll::Ready(Ok(bufs.iter().map(|buf| buf.len()).sum()));
        }
        let written = ready!(Pin::new(&mut this.stream).poll_write_vectored(cx, bufs))?;
        let (mut ledger, mut left) = (this.ledger.borrow_mut(), written);
        for buf in bufs {
            let part = buf.get(..left.min(buf.len())).unwrap_or_default();
            ledger.send(part);
            left -= part.len();
        }
        Poll::Ready(Ok(written))
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

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
    }

    fn ledger(control_frames: u32, resets: u32) -> Ledger {
        let limits = Http2Limits {
            streams: 1,
            resets,
            control_frames,
            idle_timeout: REFILL,
            keep_alive: None,
            stream_window: 1,
            connection_window: 1,
            send_buffer: 1,
        };
        let mut ledger = Ledger::new(&limits, Instant::now(), IntCounter::new("refused", "refused").unwrap());
        ledger.receive(PREFACE);
        ledger
    }

    #[tokio::test(start_paused = true)]
    async fn frames_are_found_however_they_are_cut() {
        let bytes = [
            frame(4, 0, 0, &[0; 12]),
            frame(HEADERS, 5, 7, b"abc"),
            frame(DATA, 1, 7, &[]),
            frame(PING, 0, 0, &[9; 8]),
            frame(RST_STREAM, 0, 7, &[0; 4]),
        ]
        .concat();
        for step in 1..=bytes.len() {
            let (mut frames, mut seen) = (Frames::after(0), Vec::new());
            for piece in bytes.chunks(step) {
                frames.see(piece, |frame| seen.push((frame.kind, frame.length, frame.flags, frame.stream)));
            }
            let wanted = [(4, 12, 0, 0), (HEADERS, 3, 5, 7), (DATA, 0, 1, 7), (PING, 8, 0, 0), (RST_STREAM, 4, 0, 7)];
            assert_eq!(seen, wanted, "in {step}");
            assert!(frames.is_between());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_asks_for_nothing_is_paid_for_and_time_pays_it_back() {
        // What a client sends, and whether it costs anything.
        for (name, bytes, limit) in [
            ("ping", frame(PING, 0, 0, &[0; 8]), Some(Limit::Http2ControlFrames)),
            ("settings", frame(4, 0, 0, &[]), Some(Limit::Http2ControlFrames)),
            ("empty data", frame(DATA, 0, 1, &[]), Some(Limit::Http2ControlFrames)),
            ("priority", frame(2, 0, 1, &[0; 5]), Some(Limit::Http2ControlFrames)),
            ("window update", frame(8, 0, 0, &[0; 4]), Some(Limit::Http2ControlFrames)),
            ("continuation", frame(9, 0, 1, &[]), Some(Limit::Http2ControlFrames)),
            ("unknown", frame(99, 0, 1, &[]), Some(Limit::Http2ControlFrames)),
            ("reset", frame(RST_STREAM, 0, 1, &[0; 4]), Some(Limit::Http2Resets)),
            ("request", frame(HEADERS, 5, 1, &[0; 4]), None),
            ("data", frame(DATA, 0, 1, &[0]), None),
            ("the end", frame(DATA, END_STREAM, 1, &[]), None),
        ] {
            let mut ledger = ledger(10, 10);
            ledger.receive(&bytes.repeat(10));
            assert_eq!(ledger.overdrawn(), None, "{name}");
            tokio::time::advance(REFILL / 2).await;
            ledger.receive(&bytes.repeat(5));
            assert_eq!(ledger.overdrawn(), None, "{name}, half of it paid back");
            ledger.receive(&bytes);
            assert_eq!(ledger.overdrawn(), limit, "{name}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_library_refuses_is_counted_however_it_is_cut() {
        let reset = |code: u8| frame(RST_STREAM, 0, 1, &[0, 0, 0, code]);
        let bytes = [reset(7), frame(DATA, 0, 3, &[0, 0, 0, 7]), reset(8), reset(7)].concat();
        for step in 1..=bytes.len() {
            let mut ledger = ledger(10, 10);
            bytes.chunks(step).for_each(|piece| ledger.send(piece));
            assert_eq!(ledger.refused.get(), 2, "in {step}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_pays_for_what_is_said_about_it() {
        let mut ledger = ledger(10, 10);
        let window = frame(8, 0, 1, &[0; 4]);
        for _ in 0..1000 {
            ledger.send(&frame(DATA, 0, 1, b"x"));
            ledger.receive(&window.repeat(3));
        }
        assert_eq!(ledger.overdrawn(), None);
        // An answer to a PING is none to a request.
        ledger.send(&frame(PING, ACK, 0, &[0; 8]).repeat(1000));
        ledger.receive(&window.repeat(11));
        assert_eq!(ledger.overdrawn(), Some(Limit::Http2ControlFrames));
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_cut_off_is_told_why_and_which_request_was_the_last() {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let (ours, mut theirs) = tokio::io::duplex(1 << 16);
        let ledger = Rc::new(RefCell::new(ledger(10, 10)));
        let mut metered = Metered::new(Patient::new(ours, Vec::new(), Duration::from_secs(5)), Rc::clone(&ledger));
        theirs.write_all(&frame(HEADERS, 5, 0x8000_0003, &[0; 4])).await.unwrap();
        theirs.write_all(&frame(PING, 0, 0, &[0; 8]).repeat(20)).await.unwrap();
        let client = async {
            let mut all = Vec::new();
            theirs.read_to_end(&mut all).await.unwrap();
            drop(theirs);
            all
        };
        let mut asked = Vec::new();
        let (end, told) = tokio::join!(metered.read_to_end(&mut asked), client);
        assert_eq!(end.unwrap_err().kind(), io::ErrorKind::ConnectionAborted);
        assert_eq!(told, frame(GOAWAY, 0, 0, &[0, 0, 0, 3, 0, 0, 0, ENHANCE_YOUR_CALM]));
        assert_eq!(ledger.borrow().overdrawn(), Some(Limit::Http2ControlFrames));
    }
}
