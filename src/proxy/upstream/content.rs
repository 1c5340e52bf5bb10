//! What a server answers, over whichever protocol it came.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::RecvStream;
use http::{Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

/// A response body that comes in.
#[derive(Debug)]
pub(in crate::proxy) enum Content {
    /// Over a connection of its own.
    Http1(Incoming),
    /// As one of many.
    Http2(Http2Content),
}

/// One that comes over HTTP/2.
#[derive(Debug)]
pub(in crate::proxy) struct Http2Content {
    stream: RecvStream,
    /// Bytes that are still to come, where the head says how many.
    left: Option<u64>,
    /// Whether only trailers may still come.
    data_ended: bool,
    /// Whether nothing may come, though the server may not have said yet that nothing will.
    bare: bool,
}

/// Why a response body broke off.
#[derive(Debug, thiserror::Error)]
pub enum ContentError {
    /// Over HTTP/1.1.
    #[error(transparent)]
    Http1(#[from] hyper::Error),
    /// Over HTTP/2.
    #[error(transparent)]
    Http2(#[from] h2::Error),
}

impl Content {
    /// What comes in with `response`; `bare`: nothing, for only the head was asked for.
    pub(super) fn http2(response: Response<RecvStream>, bare: bool) -> Response<Self> {
        let (head, stream) = response.into_parts();
        // The library has checked that it is one number, and holds the server to it.
        let stated = head.headers.get(http::header::CONTENT_LENGTH);
        let left = stated.and_then(|length| length.to_str().ok()?.parse().ok());
        let bare = bare || matches!(head.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        Response::from_parts(head, Self::Http2(Http2Content { stream, left, data_ended: false, bare }))
    }
}

impl Http2Content {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        if !self.data_ended {
            match ready!(self.stream.poll_data(cx)) {
                Some(Ok(data)) => {
                    // Handed on, it makes room for more.
                    self.stream.flow_control().release_capacity(data.len())?;
                    self.left = self.left.map(|left| left.saturating_sub(data.len() as u64));
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                // Also a reset that gives no reason: what has not ended is not whole.
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => self.data_ended = true,
            }
        }
        let trailers = ready!(self.stream.poll_trailers(cx))?;
        Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))))
    }
}

impl Body for Content {
    type Data = Bytes;
    type Error = ContentError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        match self.get_mut() {
            Self::Http1(incoming) => {
                Pin::new(incoming).poll_frame(cx).map(|frame| frame.map(|it| it.map_err(ContentError::Http1)))
            }
            Self::Http2(content) => content.poll_frame(cx).map(|frame| frame.map(|it| it.map_err(ContentError::Http2))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Http1(incoming) => incoming.is_end_stream(),
            Self::Http2(content) => content.bare || content.stream.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Http1(incoming) => incoming.size_hint(),
            Self::Http2(content) => content.left.map_or_else(SizeHint::default, SizeHint::with_exact),
        }
    }
}
