//! A client's byte stream with the patience that every connection needs, whatever is spoken on it: what was
//! read before comes first, a write that makes no progress is given up in time, and a connection that
//! ends while the client still sends is closed gently, so that the client reads the answer rather than a
//! reset.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

/// How long a client may go on sending after the last answer, and how much.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 64 * 1024;

/// A stream of a client.
#[derive(Debug)]
pub(super) struct Patient<S> {
    stream: S,
    /// Bytes that were read from it before.
    early: Vec<u8>,
    write_timeout: Duration,
    stalled: Option<Pin<Box<Sleep>>>,
    farewell: Farewell,
}

/// How far the gentle end of a connection has come.
#[derive(Debug)]
enum Farewell {
    NotYet,
    Lingering { until: Pin<Box<Sleep>>, left: usize },
    Done,
}

impl<S> Patient<S> {
    /// A write to `stream` that makes no progress for `write_timeout` fails; what is read from it begins with
    /// `early`.
    pub(super) const fn new(stream: S, early: Vec<u8>, write_timeout: Duration) -> Self {
        Self { stream, early, write_timeout, stalled: None, farewell: Farewell::NotYet }
    }

    /// The stream itself: what follows is not HTTP.
    pub(super) fn into_inner(self) -> S {
        self.stream
    }

    /// Whether the client does not take what is written for it.
    pub(super) const fn is_stalled(&self) -> bool {
        self.stalled.is_some()
    }

    fn written<T>(&mut self, cx: &mut Context<'_>, outcome: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if outcome.is_ready() {
            self.stalled = None;
            return outcome;
        }
        let patience = self.write_timeout;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep(patience)));
        ready!(stalled.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.early.is_empty() {
            let count = this.early.len().min(buf.remaining());
            buf.put_slice(this.early.get(..count).unwrap_or_default());
            this.early.drain(..count);
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut this.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let outcome = Pin::new(&mut this.stream).poll_write(cx, buf);
        this.written(cx, outcome)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let outcome = Pin::new(&mut this.stream).poll_write_vectored(cx, bufs);
        this.written(cx, outcome)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let outcome = Pin::new(&mut this.stream).poll_flush(cx);
        this.written(cx, outcome)
    }

    /// Ends our side, then reads on for a moment: closing with bytes unread would reset the connection,
    /// and the client might never see the answer.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            match &mut this.farewell {
                Farewell::NotYet => {
                    ready!(Pin::new(&mut this.stream).poll_shutdown(cx))?;
                    let until = Box::pin(tokio::time::sleep(LINGER));
                    this.farewell = Farewell::Lingering { until, left: LINGER_BYTES };
                }
                Farewell::Lingering { until, left } => {
                    let mut space = [0; 4096];
                    let mut scratch = ReadBuf::new(&mut space);
                    let over = match Pin::new(&mut this.stream).poll_read(cx, &mut scratch) {
                        Poll::Ready(Ok(())) => {
                            let read = scratch.filled().len();
                            *left = left.saturating_sub(read);
                            read == 0 || *left == 0
                        }
                        Poll::Ready(Err(_)) => true,
                        Poll::Pending => {
                            ready!(until.as_mut().poll(cx));
                            true
                        }
                    };
                    if over {
                        this.farewell = Farewell::Done;
                    }
                }
                Farewell::Done => return Poll::Ready(Ok(())),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_write_without_progress_is_given_up() {
        use tokio::io::AsyncWriteExt;
        let (ours, _theirs) = tokio::io::duplex(16);
        let mut patient = Patient::new(ours, Vec::new(), Duration::from_secs(5));
        let error = patient.write_all(&[0; 64]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test(start_paused = true)]
    async fn an_end_reads_on_for_a_moment() {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let (ours, mut theirs) = tokio::io::duplex(64);
        let mut patient = Patient::new(ours, Vec::new(), Duration::from_secs(5));
        patient.write_all(b"answer").await.unwrap();
        let sender = async {
            theirs.write_all(&[b'x'; 1000]).await.unwrap();
            let mut answer = Vec::new();
            theirs.read_to_end(&mut answer).await.unwrap();
            answer
        };
        let (ended, answer) = tokio::join!(patient.shutdown(), sender);
        ended.unwrap();
        assert_eq!(answer, b"answer");
    }
}
