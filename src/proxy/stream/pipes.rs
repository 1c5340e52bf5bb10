//! The two directions of a tunnel, copied with a bounded buffer, which is only there while it is needed:
//! an idle tunnel holds none.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::time::{Instant, timeout};

use super::frames::{self, Frames};
use crate::alarm::Alarm;

/// What is read at once, and what waits at most for a side that does not take it.
const PIECE: usize = 16 * 1024;
/// How long a frame that is under way may take to be whole before a Close.
const FINISH: Duration = Duration::from_millis(250);
/// How long, and how much, a client may send after its Close: a connection closed with bytes unread
/// would be reset, and the client might never see it.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: u64 = 64 * 1024;

/// Both sides of a tunnel.
#[derive(Debug)]
pub(super) struct Pipes<C, U> {
    client: C,
    upstream: U,
    /// From the client.
    incoming: Direction,
    /// To the client.
    outgoing: Direction,
}

#[derive(Debug, Default)]
struct Direction {
    /// Read and not yet written.
    waiting: Vec<u8>,
    ended: bool,
    closed: bool,
    frames: Option<Frames>,
    bytes: u64,
}

/// How a tunnel ended by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Over {
    /// Both sides have said all.
    Closed,
    /// One of them broke off.
    Broken,
    /// Nothing passed for too long.
    Idle,
    /// The client took nothing for too long.
    Stalled,
}

impl<C: AsyncRead + AsyncWrite + Unpin, U: AsyncRead + AsyncWrite + Unpin> Pipes<C, U> {
    /// Pipes between two sides; `early` came from the client already.
    pub(super) fn new(client: C, upstream: U, early: &[u8], websocket: bool) -> Self {
        let direction = || Direction { frames: websocket.then(Frames::default), ..Direction::default() };
        let mut incoming = direction();
        incoming.read(early);
        incoming.waiting = early.to_vec();
        Self { client, upstream, incoming, outgoing: direction() }
    }

    /// Copies until both sides have ended, or nothing passed for `idle`, or the client took nothing of
    /// what waits for it for `stall`.
    pub(super) async fn copy(&mut self, idle: Duration, stall: Duration) -> Over {
        let mut quiet = Alarm::new(idle);
        quiet.set(Some(Instant::now() + idle));
        let mut stalled = Alarm::new(stall);
        let mut waits = false;
        poll_fn(|cx| {
            let (mut came, mut went) = (false, false);
            let incoming = self.incoming.poll_copy(&mut self.client, &mut self.upstream, cx, &mut came);
            let outgoing = self.outgoing.poll_copy(&mut self.upstream, &mut self.client, cx, &mut went);
            match (incoming, outgoing) {
                (Poll::Ready(Err(_)), _) | (_, Poll::Ready(Err(_))) => return Poll::Ready(Over::Broken),
                (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => return Poll::Ready(Over::Closed),
                _ => {}
            }
            if came || went {
                quiet.set(Some(Instant::now() + idle));
            }
            let waited = std::mem::replace(&mut waits, !self.outgoing.waiting.is_empty());
            if !waits {
                stalled.set(None);
            } else if went || !waited {
                stalled.set(Some(Instant::now() + stall));
            }
            if stalled.poll_due(cx).is_ready() {
                return Poll::Ready(Over::Stalled);
            }
            quiet.poll_due(cx).map(|()| Over::Idle)
        })
        .await
    }

    /// Ends a WebSocket connection: `code` and `reason` to the client, 1001 to the upstream. Neither side
    /// gets more than the frame that was under way. A tunnel of anything else is just dropped.
    pub(super) async fn close(&mut self, code: u16, reason: &str) {
        let told = timeout(FINISH, self.outgoing.finish(&mut self.upstream, &mut self.client)).await;
        let tell_client = matches!(told, Ok(Ok(true)));
        let frame = frames::close(code, reason, None);
        if tell_client && !matches!(timeout(FINISH, self.client.write_all(&frame)).await, Ok(Ok(()))) {
            return;
        }
        let goodbye = async {
            // What a client sends from now on is nobody's: only what was read before goes on.
            self.upstream.write_all(&self.incoming.waiting).await?;
            if self.incoming.frames.as_ref().is_some_and(|it| it.is_between() && !it.is_closing()) {
                self.upstream.write_all(&frames::close(1001, "", Some(rand::random()))).await?;
            }
            self.upstream.shutdown().await
        };
        // Whoever does not take it finds the connection gone.
        drop(timeout(FINISH, goodbye).await);
        if tell_client {
            let leave = async {
                self.client.shutdown().await?;
                tokio::io::copy(&mut (&mut self.client).take(LINGER_BYTES), &mut tokio::io::sink()).await
            };
            drop(timeout(LINGER, leave).await);
        }
    }

    /// Bytes that came from the client and from the upstream.
    pub(super) const fn bytes(&self) -> (u64, u64) {
        (self.incoming.bytes, self.outgoing.bytes)
    }
}

impl Direction {
    fn read(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len() as u64;
        if let Some(frames) = &mut self.frames {
            frames.pass(bytes);
        }
    }

    /// Ready once `from` has ended and `to` knows.
    fn poll_copy(
        &mut self,
        from: &mut (impl AsyncRead + Unpin),
        to: &mut (impl AsyncWrite + Unpin),
        cx: &mut Context<'_>,
        moved: &mut bool,
    ) -> Poll<io::Result<()>> {
        if self.closed {
            return Poll::Ready(Ok(()));
        }
        loop {
            while !self.waiting.is_empty() {
                let written = ready!(Pin::new(&mut *to).poll_write(cx, &self.waiting))?;
                if written == 0 {
                    return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                }
                self.waiting.drain(..written);
                *moved = true;
            }
            self.waiting = Vec::new();
            if self.ended {
                ready!(Pin::new(&mut *to).poll_shutdown(cx))?;
                self.closed = true;
                return Poll::Ready(Ok(()));
            }
            let mut space = [0; PIECE];
            let mut piece = ReadBuf::new(&mut space);
            if Pin::new(&mut *from).poll_read(cx, &mut piece)?.is_pending() {
                ready!(Pin::new(&mut *to).poll_flush(cx))?;
                return Poll::Pending;
            }
            let piece = piece.filled();
            self.ended = piece.is_empty();
            self.read(piece);
            *moved = true;
            let written = match Pin::new(&mut *to).poll_write(cx, piece)? {
                _ if piece.is_empty() => 0,
                Poll::Ready(written) => written,
                Poll::Pending => 0,
            };
            self.waiting.extend_from_slice(piece.get(written..).unwrap_or_default());
        }
    }

    /// Brings the frame that is under way to its end, and no more. Whether a frame may follow it.
    async fn finish(
        &mut self,
        from: &mut (impl AsyncRead + Unpin),
        to: &mut (impl AsyncWrite + Unpin),
    ) -> io::Result<bool> {
        to.write_all(&self.waiting).await?;
        self.waiting.clear();
        let Some(frames) = &mut self.frames else { return Ok(false) };
        let mut space = vec![0; PIECE];
        while !frames.is_between() && !self.ended {
            let count = from.read(&mut space).await?;
            self.ended = count == 0;
            let taken = frames.finish(space.get(..count).unwrap_or_default());
            to.write_all(space.get(..taken).unwrap_or_default()).await?;
            self.bytes += taken as u64;
        }
        Ok(frames.is_between() && !frames.is_closing() && !self.closed)
    }
}
