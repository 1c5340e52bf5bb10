//! The servers of an upstream, and a worker's own connections to them.
//!
//! Each worker keeps its connections to itself, so a request takes no lock; how the servers stand is shared
//! ([`Group`]). The healthy server with the fewest requests of this worker on it for its weight is chosen; one
//! that cannot be connected to is passed over for the next. A request is sent again only if no byte of it
//! had been written.

mod balance;
mod connection;
mod content;
mod health;
mod http2;
mod lease;
mod resolve;
mod server;
mod slots;
mod standing;
mod tls;

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response, header};
use tokio::time::Instant;

use self::balance::Balance;
pub(super) use self::content::Content;
pub use self::content::ContentError;
pub use self::health::Checks;
pub(super) use self::lease::Lease;
use self::lease::Unanswered;
use self::server::ServerPool;
use self::slots::Line;
use self::standing::Seat;
pub use self::standing::{Group, ServerView};
pub use self::tls::{UpstreamTls, UpstreamTlsError};
use super::body::{BodyFailure, RequestBody};
use crate::config::{Protocol, Upstream};
use crate::telemetry::UpstreamResult;

/// A worker's side of one upstream group.
#[derive(Debug)]
pub(super) struct Pool {
    servers: Vec<Rc<ServerPool>>,
    group: Arc<Group>,
    balance: Balance,
    response_timeout: Duration,
    /// Requests that wait for a connection.
    line: Rc<Line>,
    /// Whether a connection may carry several requests.
    may_share: bool,
}

/// Why an upstream gave no response.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum ForwardError {
    /// The checks of every server fail: none was asked.
    #[error("no server is healthy")]
    NoServer,
    /// No server could be connected to.
    #[error("the server cannot be connected to")]
    Refused,
    /// The server's name has no address.
    #[error("the server's name has no address")]
    Unresolved,
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
    /// No more connections may be made, and too many requests wait for one.
    #[error("too many requests wait for a connection")]
    QueueFull,
    /// No more connections may be made, and none became free in time.
    #[error("no connection became free in time")]
    QueueTimedOut,
    /// The request body failed, by the client's fault.
    #[error(transparent)]
    Body(#[from] BodyFailure),
}

impl Pool {
    /// An empty pool for `upstream`, whose servers stand as `group` says.
    #[must_use]
    pub(super) fn new(upstream: &Upstream, tls: Option<&Arc<UpstreamTls>>, group: &Arc<Group>) -> Self {
        let line = Line::new(upstream, group.metrics());
        let servers = upstream.servers.iter().enumerate().map(|(index, server)| {
            let seat = Seat { group: Arc::clone(group), index };
            Rc::new(ServerPool::new(server, upstream, tls, &line, seat))
        });
        Self {
            servers: servers.collect(),
            group: Arc::clone(group),
            balance: Balance::new(upstream.servers.len()),
            response_timeout: upstream.response_timeout,
            line,
            may_share: upstream.protocol != Protocol::Http1,
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
    ) -> Result<(Response<Content>, Lease), ForwardError> {
        let progress = request.body().progress();
        let keeps_host = preserve_host && request.headers().contains_key(header::HOST);
        // A connection that changes its protocol is no one else's.
        let alone = self.may_share && request.headers().contains_key(header::UPGRADE);
        let mut waits = self.line.is_waiting();
        let mut until = None;
        loop {
            if waits {
                self.wait(&mut until).await?;
            }
            let (mut failure, mut full) = (ForwardError::NoServer, false);
            let mut tried = Vec::new();
            while let Some(index) = self.choose(&tried, began)
                && let Some(server) = self.servers.get(index)
            {
                if !server.has_room() {
                    full = true;
                    tried.push(index);
                    continue;
                }
                if !keeps_host {
                    request.headers_mut().insert(header::HOST, server.authority().clone());
                }
                let mut lease = server.lease(progress.clone(), began);
                match lease.send(request, self.response_timeout, alone).await {
                    Ok(response) => {
                        lease.answered_with(response.status());
                        return Ok((response, lease));
                    }
                    Err(Unanswered { error, unsent: None }) => return Err(error),
                    Err(Unanswered { error, unsent: Some(unsent) }) => {
                        request = *unsent;
                        failure = error;
                    }
                }
                tried.push(index);
            }
            // Where there is no room it may come; where there was, waiting helps nobody.
            match failure {
                ForwardError::NoServer if full => waits = true,
                ForwardError::QueueFull => waits = true,
                ForwardError::NoServer => {
                    self.group.metrics().ended(failure.result());
                    return Err(failure);
                }
                failure => return Err(failure),
            }
        }
    }

    /// Waits in line until some server has room; at most as long as is allowed, however often.
    async fn wait(&self, until: &mut Option<Instant>) -> Result<(), ForwardError> {
        let until = *until.get_or_insert_with(|| self.line.until());
        let has_room = || self.servers.iter().any(|server| server.has_room()).then_some(());
        let waited = Box::pin(self.line.wait(until, has_room)).await;
        waited.inspect_err(|error| self.group.metrics().ended(error.result()))
    }

    /// Closes connections that have been idle for too long. Asked now and then by the worker.
    pub(super) fn reap(&self) {
        self.servers.iter().for_each(|server| server.reap());
    }

    /// The place of the server that takes the next request, of those not in `tried`.
    fn choose(&self, tried: &[usize], now: Instant) -> Option<usize> {
        let running = |index: usize| self.servers.get(index).map_or(usize::MAX, |server| server.running());
        self.balance.choose(&self.group, tried, running, now)
    }
}

impl ForwardError {
    const fn result(&self) -> UpstreamResult {
        match self {
            Self::NoServer => UpstreamResult::NoServer,
            Self::Refused => UpstreamResult::Refused,
            Self::Unresolved => UpstreamResult::Unresolved,
            Self::QueueFull => UpstreamResult::QueueFull,
            Self::QueueTimedOut => UpstreamResult::QueueTimedOut,
            Self::TlsFailed => UpstreamResult::TlsFailed,
            Self::ConnectTimedOut => UpstreamResult::ConnectTimedOut,
            Self::TimedOut => UpstreamResult::TimedOut,
            Self::Broken => UpstreamResult::Broken,
            Self::Body(_) => UpstreamResult::ClientGone,
        }
    }
}
