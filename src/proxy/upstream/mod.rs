//! The servers of an upstream, and a worker's own connections to them.
//!
//! Each worker keeps its connections to itself, so a request takes no lock. The server with the fewest
//! requests of this worker on it is chosen; a server that cannot be connected to is passed over for
//! the next. A request is sent again only if no byte of it had been written.

mod connection;
mod lease;
mod server;

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response, header};
use hyper::body::Incoming;
use tokio::time::Instant;

pub(super) use self::lease::Lease;
use self::server::ServerPool;
use super::body::{BodyFailure, RequestBody};
use crate::config::Upstream;
use crate::telemetry::{UpstreamMetrics, UpstreamResult};

/// A worker's side of one upstream group.
#[derive(Debug)]
pub(super) struct Pool {
    servers: Vec<Rc<ServerPool>>,
    turn: Cell<usize>,
    connect_timeout: Duration,
    response_timeout: Duration,
}

/// Why an upstream gave no response.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum ForwardError {
    /// No server could be connected to.
    #[error("no server could be connected to")]
    Unreachable,
    /// The server took too long to connect or to answer.
    #[error("the server took too long")]
    Slow,
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
    pub(super) fn new(upstream: &Upstream, metrics: &Arc<UpstreamMetrics>) -> Self {
        let servers = upstream.servers.iter().map(|server| Rc::new(ServerPool::new(server, upstream, metrics)));
        Self {
            servers: servers.collect(),
            turn: Cell::new(0),
            connect_timeout: upstream.connect_timeout,
            response_timeout: upstream.response_timeout,
        }
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
        let mut failure = ForwardError::Unreachable;
        for server in self.by_load() {
            if !keeps_host {
                request.headers_mut().insert(header::HOST, server.authority().clone());
            }
            let mut lease = server.lease(progress.clone(), began);
            let mut idle = server.take(began);
            loop {
                let reused = idle.is_some();
                let connection = match idle.take() {
                    Some(connection) => Ok(connection),
                    None => server.connect(self.connect_timeout, self.response_timeout).await,
                };
                let connection = match connection {
                    Ok(connection) => connection,
                    Err(error) => {
                        lease.failed(error.result());
                        tracing::warn!(server = %server.name(), %error, "failed to connect to an upstream server");
                        failure = error;
                        break;
                    }
                };
                let from = if reused { began } else { Instant::now() };
                let connection = lease.hold(connection);
                match connection.exchange(request, progress.as_deref(), from, self.response_timeout).await {
                    Ok(response) => return Ok((response, lease)),
                    // Nothing was written: an idle connection that the server had closed, or a server that
                    // hangs up on new ones and is passed over for the next.
                    Err((error, Some(unsent))) => {
                        request = *unsent;
                        if !reused {
                            lease.failed(error.result());
                            failure = error;
                            break;
                        }
                    }
                    Err((error, None)) => {
                        lease.failed(error.result());
                        return Err(error);
                    }
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
            Self::Unreachable => UpstreamResult::Refused,
            Self::Slow => UpstreamResult::TimedOut,
            Self::Broken => UpstreamResult::Broken,
            Self::Body(_) => UpstreamResult::ClientGone,
        }
    }
}
