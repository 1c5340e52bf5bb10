//! The servers of an upstream, and a worker's own connections to them.
//!
//! Each worker keeps its connections to itself, so a request takes no lock. The server with the fewest
//! requests of this worker on it is chosen; a server that cannot be connected to is passed over for
//! the next. A request is sent again only if no byte of it had been written.

mod connection;
mod lease;
mod server;
mod tls;

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response, header};
use hyper::body::Incoming;
use tokio::time::Instant;

pub(super) use self::lease::Lease;
use self::lease::Unanswered;
use self::server::ServerPool;
pub use self::tls::{UpstreamTls, UpstreamTlsError};
use super::body::{BodyFailure, RequestBody};
use crate::config::Upstream;
use crate::telemetry::{UpstreamMetrics, UpstreamResult};

/// A worker's side of one upstream group.
#[derive(Debug)]
pub(super) struct Pool {
    servers: Vec<Rc<ServerPool>>,
    turn: Cell<usize>,
    response_timeout: Duration,
}

/// Why an upstream gave no response.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum ForwardError {
    /// No server could be connected to.
    #[error("the server cannot be connected to")]
    Refused,
    /// The server could not be verified, or did not accept the gateway's certificate.
    #[error("the server cannot be spoken to over TLS")]
    TlsFailed,
    /// The server took too long to connect.
    #[error("the server took too long to connect")]
    ConnectTimedOut,
    /// The server took too long to answer.
    #[error("the server took too long to answer")]
    TimedOut,
    /// The connection broke before a response came, or it was not a response to forward.
    #[error("the server gave no valid response")]
    Broken,
    /// The request body failed, by the client's fault.
    #[error(transparent)]
    Body(#[from] BodyFailure),
}

impl Pool {
    /// An empty pool for `upstream`.
    #[must_use]
    pub(super) fn new(upstream: &Upstream, tls: Option<&Arc<UpstreamTls>>, metrics: &Arc<UpstreamMetrics>) -> Self {
        let servers = upstream.servers.iter();
        let servers = servers.map(|server| Rc::new(ServerPool::new(server, upstream, tls, metrics)));
        Self { servers: servers.collect(), turn: Cell::new(0), response_timeout: upstream.response_timeout }
    }

    /// Sends `request` at `began`, which is now, and waits for the head of the response.
    ///
    /// # Errors
    ///
    /// Why there is none. The request is lost with it.
    pub(super) async fn send(
        &self,
        mut request: Request<RequestBody>,
        preserve_host: bool,
        began: Instant,
    ) -> Result<(Response<Incoming>, Lease), ForwardError> {
        let progress = request.body().progress();
        let keeps_host = preserve_host && request.headers().contains_key(header::HOST);
        let mut failure = ForwardError::Refused;
        for server in self.by_load() {
            if !keeps_host {
                request.headers_mut().insert(header::HOST, server.authority().clone());
            }
            let mut lease = server.lease(progress.clone(), began);
            match lease.send(request, self.response_timeout).await {
                Ok(response) => return Ok((response, lease)),
                Err(Unanswered { error, unsent: None }) => return Err(error),
                Err(Unanswered { error, unsent: Some(unsent) }) => {
                    request = *unsent;
                    failure = error;
                }
            }
        }
        Err(failure)
    }

    /// Closes connections that have been idle for too long. Asked now and then by the worker.
    pub(super) fn reap(&self) {
        self.servers.iter().for_each(|server| server.reap());
    }

    /// The servers, the one with the fewest running requests first; equals take turns.
    fn by_load(&self) -> impl Iterator<Item = &Rc<ServerPool>> {
        let count = self.servers.len();
        let first = self.turn.get();
        self.turn.set(if first + 1 >= count { 0 } else { first + 1 });
        let mut order: Vec<usize> = Vec::new();
        let only = (count == 1).then_some(0);
        if only.is_none() {
            order.extend((0..count).map(|step| (first + step) % count));
            order.sort_by_key(|index| self.servers.get(*index).map_or(usize::MAX, |server| server.running()));
        }
        only.into_iter().chain(order).filter_map(|index| self.servers.get(index))
    }
}

impl ForwardError {
    const fn result(&self) -> UpstreamResult {
        match self {
            Self::Refused => UpstreamResult::Refused,
            Self::TlsFailed => UpstreamResult::TlsFailed,
            Self::ConnectTimedOut => UpstreamResult::ConnectTimedOut,
            Self::TimedOut => UpstreamResult::TimedOut,
            Self::Broken => UpstreamResult::Broken,
            Self::Body(_) => UpstreamResult::ClientGone,
        }
    }
}
