//! The servers of an upstream, and a worker's own connections to them.
//!
//! Each worker keeps its connections to itself, so a request takes no lock; how the servers stand is shared
//! ([`Group`]). The healthy server with the fewest requests of this worker on it for its weight is chosen; one
//! that cannot be connected to is passed over for the next. What a server may have seen is sent again only as
//! `retry` allows.

mod balance;
mod connection;
mod content;
mod health;
mod http2;
mod lease;
mod resolve;
mod retry;
mod server;
mod slots;
mod standing;
mod tls;

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, Request, Response, header};
use tokio::time::{Instant, sleep};

use self::balance::Balance;
pub(super) use self::content::Content;
pub use self::content::ContentError;
pub use self::health::Checks;
pub(super) use self::lease::Lease;
use self::lease::{Unanswered, is_bad_gateway};
use self::retry::{Retrying, Setback, Tries};
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
    retrying: Retrying,
    response_timeout: Duration,
    /// Requests that wait for a connection.
    line: Rc<Line>,
    /// Whether a connection may carry several requests.
    may_share: bool,
}

/// What a request is sent under.
#[derive(Clone, Copy)]
pub(super) struct Terms<'a> {
    /// Whether the client's own `Host` goes upstream: it has one, and may keep it.
    pub(super) keeps_host: bool,
    /// Whether the connection may change its protocol.
    pub(super) upgrades: bool,
    /// Whether the token that let the request in is still honoured: asked before it is sent again.
    pub(super) still: &'a dyn Fn() -> bool,
    /// Puts into a head what the gateway itself says in it: into the request's, and into that of each repetition.
    pub(super) complete: &'a dyn Fn(&mut HeaderMap),
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
            retrying: Retrying::new(upstream.retries.clone(), group.metrics(), Instant::now()),
            response_timeout: upstream.response_timeout,
            line,
            may_share: upstream.protocol != Protocol::Http1,
        }
    }

    /// Sends `request` at `began`, which is now, and waits for the head of the response; again, as far as the
    /// group allows it.
    ///
    /// # Errors
    ///
    /// Why there is none. The request is lost with it.
    pub(super) async fn send(
        &self,
        mut request: Box<Request<RequestBody>>,
        terms: Terms<'_>,
        began: Instant,
    ) -> Result<(Response<Content>, Lease), ForwardError> {
        let progress = request.body().progress();
        // A connection that changes its protocol is no one else's.
        let alone = self.may_share && terms.upgrades;
        let mut tries = self.retrying.begin(&mut request, terms);
        let mut waits = self.line.is_waiting();
        let (mut until, mut now, mut failure) = (None, began, ForwardError::NoServer);
        loop {
            if waits {
                self.wait(&mut until).await?;
                now = Instant::now();
            }
            let mut full = false;
            let mut passed = tries.tried().to_vec();
            loop {
                let index = match self.choose(&passed, now) {
                    Some(index) => index,
                    None if full => break,
                    None => match Box::pin(self.choose_again(&mut tries, now)).await {
                        Some(index) => index,
                        None => break,
                    },
                };
                let Some(server) = self.servers.get(index) else { break };
                if !server.has_room() {
                    full = true;
                    passed.push(index);
                    continue;
                }
                if !terms.keeps_host {
                    request.headers_mut().insert(header::HOST, server.authority().clone());
                }
                let mut lease = server.lease(progress.clone(), now);
                let setback = match lease.send(request, tries.patience(self.response_timeout, now), alone).await {
                    Ok(response) => {
                        lease.answered_with(response.status());
                        let setback = Setback::Answer(response.status());
                        if is_bad_gateway(response.status())
                            && let Some(again) = tries.again(index, setback, Instant::now())
                        {
                            lease.passed_over(http_body::Body::is_end_stream(response.body()));
                            request = again;
                            now = Instant::now();
                            passed.push(index);
                            continue;
                        }
                        tries.answered();
                        return Ok((response, lease));
                    }
                    Err(Unanswered { error: ForwardError::QueueFull, unsent: Some(unsent), .. }) => {
                        request = unsent;
                        full = true;
                        passed.push(index);
                        continue;
                    }
                    Err(Unanswered { error, unsent: Some(unsent), .. }) => {
                        request = unsent;
                        failure = error;
                        if !tries.pass_over(index) {
                            return Err(failure);
                        }
                        now = Instant::now();
                        passed.push(index);
                        continue;
                    }
                    Err(Unanswered { error, unsent: None, kept: true }) => {
                        server.distrust();
                        failure = error;
                        Setback::KeptEnded(error)
                    }
                    Err(Unanswered { error, unsent: None, kept: false }) => {
                        failure = error;
                        Setback::NoAnswer(error)
                    }
                };
                now = Instant::now();
                let Some(again) = tries.again(index, setback, now) else {
                    tries.gave_up();
                    return Err(failure);
                };
                request = again;
                passed.push(index);
            }
            // Where there is no room it may come; where there was, waiting helps nobody.
            if !full || !matches!(failure, ForwardError::NoServer) {
                tries.gave_up();
                if failure == ForwardError::NoServer {
                    self.group.metrics().ended(failure.result());
                }
                return Err(failure);
            }
            waits = true;
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

    /// A server to be asked a second time, after a pause.
    async fn choose_again(&self, tries: &mut Tries<'_>, now: Instant) -> Option<usize> {
        let (pause, refused) = tries.second_round()?;
        if let Some(pause) = pause {
            sleep(pause).await;
        }
        self.choose(refused, now)
    }

    /// The place of the server that takes the next request, of those not in `tried`.
    fn choose(&self, tried: &[usize], now: Instant) -> Option<usize> {
        let running = |index: usize| self.servers.get(index).map_or(usize::MAX, |server| server.running());
        self.balance.choose(&self.group, tried, running, now)
    }
}

/// The configuration that it is of is not in force any more, and no request is being sent under it.
impl Drop for Pool {
    fn drop(&mut self) {
        self.servers.iter().for_each(|server| server.retire());
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
