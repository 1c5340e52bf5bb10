//! One connection to a server: how it is made, and one exchange over it.

use std::error::Error;
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Poll, ready};
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout};
use tokio_rustls::client::TlsStream;

use super::ForwardError;
use super::tls::UpstreamTls;
use crate::alarm::Alarm;
use crate::config::Server;
use crate::proxy::body::{Progress, RequestBody};

/// An open connection to a server.
#[derive(Debug)]
pub(super) struct Connection {
    sender: SendRequest<RequestBody>,
    task: AbortHandle,
    /// Until when the response head has to be there.
    late: Alarm,
}

/// Where connections go.
#[derive(Debug)]
pub(super) struct Place {
    server: Server,
    /// The address, when the server is named by one.
    address: Option<SocketAddr>,
    /// How it is spoken to, and whom to expect there; `None`: in clear.
    secured: Option<(Arc<UpstreamTls>, ServerName<'static>)>,
}

impl Place {
    /// `tls` is that of the group; what it has prepared for every `https` server.
    pub(super) fn new(server: &Server, tls: Option<&Arc<UpstreamTls>>) -> Self {
        let address = server.host.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, server.port));
        let secured = tls.filter(|_| server.tls).and_then(|tls| Some((Arc::clone(tls), tls.name_of(server)?)));
        Self { server: server.clone(), address, secured }
    }

    /// Host and port, as in `Host`.
    pub(super) fn name(&self) -> String {
        match self.address {
            Some(address) => address.to_string(),
            None => format!("{}:{}", self.server.host, self.server.port),
        }
    }

    async fn dial(&self) -> io::Result<TcpStream> {
        let stream = match self.address {
            Some(address) => TcpStream::connect(address).await,
            None => TcpStream::connect((self.server.host.as_str(), self.server.port)).await,
        }?;
        // Without it a request in two writes waits for a delayed acknowledgement.
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    /// A way there, TLS included where it is wanted.
    ///
    /// # Errors
    ///
    /// Why there is none.
    pub(super) async fn reach(&self) -> Result<Reached, ForwardError> {
        let refused = |error: io::Error| {
            tracing::debug!(server = self.name(), %error, "an upstream server cannot be connected to");
            ForwardError::Refused
        };
        let stream = self.dial().await.map_err(refused)?;
        match &self.secured {
            // Its name was found wanting, which the configuration does not let through.
            None if self.server.tls => Err(ForwardError::TlsFailed),
            None => Ok(Reached::Clear(stream)),
            Some((tls, name)) => match tls.connect(stream, name.clone()).await {
                Ok(stream) => Ok(Reached::Secured(Box::new(stream))),
                Err(error) => {
                    tracing::warn!(server = self.name(), %error, "a TLS handshake with an upstream server failed");
                    Err(ForwardError::TlsFailed)
                }
            },
        }
    }
}

/// A way to a server, over which nothing was said yet.
#[derive(Debug)]
pub(super) enum Reached {
    Clear(TcpStream),
    Secured(Box<TlsStream<TcpStream>>),
}

impl Connection {
    /// A new connection, made within `patience`, to a server that usually has `response_timeout` to answer.
    pub(super) async fn open(to: &Place, patience: Duration, response_timeout: Duration) -> Result<Self, ForwardError> {
        timeout(patience, Self::connect(to, response_timeout)).await.unwrap_or(Err(ForwardError::ConnectTimedOut))
    }

    async fn connect(to: &Place, response_timeout: Duration) -> Result<Self, ForwardError> {
        match to.reach().await? {
            Reached::Clear(stream) => Self::greet(stream, response_timeout).await,
            Reached::Secured(stream) => Self::greet(*stream, response_timeout).await,
        }
    }

    async fn greet<S>(stream: S, response_timeout: Duration) -> Result<Self, ForwardError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let handshake = http1::Builder::new().max_buf_size(64 * 1024).handshake(TokioIo::new(stream)).await;
        let Ok((sender, connection)) = handshake else { return Err(ForwardError::Refused) };
        let task = tokio::task::spawn_local(async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "an upstream connection ended");
            }
        });
        Ok(Self { sender, task: task.abort_handle(), late: Alarm::new(response_timeout) })
    }

    /// Whether no request can be sent over it any more.
    pub(super) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    /// Closes it, whatever is going on over it.
    pub(super) fn abort(&self) {
        self.task.abort();
    }

    /// One exchange: from `from` the head of the response may take for `patience`, counted anew from the end of
    /// the request. The error gives the request back if none of it was written.
    pub(super) async fn exchange(
        &mut self,
        request: Request<RequestBody>,
        progress: Option<&Progress>,
        from: Instant,
        patience: Duration,
    ) -> Result<Response<Incoming>, (ForwardError, Option<Box<Request<RequestBody>>>)> {
        let Self { sender, late, .. } = self;
        let mut sending = pin!(sender.try_send_request(request));
        let received = || progress.map_or(0, Progress::received);
        let mut seen = received();
        late.set(Some(from + patience));
        let outcome = poll_fn(|cx| {
            loop {
                if let Poll::Ready(outcome) = sending.as_mut().poll(cx) {
                    return Poll::Ready(Some(outcome));
                }
                ready!(late.poll_due(cx));
                // The time runs from the end of the request: while its body moves, nobody is late.
                if progress.is_none_or(Progress::is_complete) || received() == seen {
                    return Poll::Ready(None);
                }
                seen = received();
                late.set(Some(Instant::now() + patience));
            }
        });
        let outcome = outcome.await;
        late.set(None);
        match outcome {
            Some(Ok(response)) => Ok(response),
            Some(Err(mut error)) => {
                let unsent = error.take_message().map(Box::new);
                let broken = if is_tls_failure(error.error()) { ForwardError::TlsFailed } else { ForwardError::Broken };
                let failure = progress.and_then(Progress::failure);
                Err((failure.map_or(broken, ForwardError::Body), unsent))
            }
            None => Err((ForwardError::TimedOut, None)),
        }
    }
}

/// Whether a connection broke because TLS did. With TLS 1.3, a server that is not content with the
/// gateway's certificate says so after the handshake.
fn is_tls_failure(error: &hyper::Error) -> bool {
    let mut cause = error.source();
    while let Some(error) = cause {
        let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        if inner.is_some_and(|inner| inner.is::<rustls::Error>()) {
            return true;
        }
        cause = error.source();
    }
    false
}
