//! One connection to a server: how it is made, and one exchange over it.

use std::future::poll_fn;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::task::{Poll, ready};
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout};

use super::ForwardError;
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
}

impl Place {
    pub(super) fn new(server: &Server) -> Self {
        let address = server.host.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, server.port));
        Self { server: server.clone(), address }
    }

    /// Host and port, as in `Host`.
    pub(super) fn name(&self) -> String {
        match self.address {
            Some(address) => address.to_string(),
            None => format!("{}:{}", self.server.host, self.server.port),
        }
    }

    async fn dial(&self) -> std::io::Result<TcpStream> {
        match self.address {
            Some(address) => TcpStream::connect(address).await,
            None => TcpStream::connect((self.server.host.as_str(), self.server.port)).await,
        }
    }
}

impl Connection {
    /// A new connection, made within `patience`, to a server that usually has `response_timeout` to answer.
    pub(super) async fn open(to: &Place, patience: Duration, response_timeout: Duration) -> Result<Self, ForwardError> {
        let stream = match timeout(patience, to.dial()).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(_)) => return Err(ForwardError::Unreachable),
            Err(_) => return Err(ForwardError::Slow),
        };
        // Without it a request in two writes waits for a delayed acknowledgement.
        if stream.set_nodelay(true).is_err() {
            return Err(ForwardError::Unreachable);
        }
        let handshake = http1::Builder::new().max_buf_size(64 * 1024).handshake(TokioIo::new(stream)).await;
        let Ok((sender, connection)) = handshake else { return Err(ForwardError::Unreachable) };
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
                let failure = progress.and_then(Progress::failure);
                Err((failure.map_or(ForwardError::Broken, ForwardError::Body), unsent))
            }
            None => Err((ForwardError::Slow, None)),
        }
    }
}
