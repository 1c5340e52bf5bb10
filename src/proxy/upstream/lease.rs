//! A connection while it is lent to one request.

use std::rc::Rc;
use std::time::Duration;

use http::{Request, Response, StatusCode};
use tokio::time::Instant;

use super::ForwardError;
use super::connection::{Connection, Patience};
use super::content::Content;
use super::http2::Stream;
use super::server::ServerPool;
use super::standing::Blame;
use crate::proxy::body::{Progress, RequestBody};
use crate::telemetry::UpstreamResult;

/// How often a request that a server says it has not looked at goes out again to it.
const REFUSALS_MAX: usize = 3;

/// A connection with one request on it. It goes back to the pool once request and response are
/// complete, and is closed otherwise; of a connection that others use as well, the request is cancelled.
#[derive(Debug)]
pub(in crate::proxy) struct Lease {
    server: Rc<ServerPool>,
    connection: Option<Held>,
    request: Option<Rc<Progress>>,
    /// When the request began.
    began: Instant,
    /// When the connection was last heard of.
    heard: Instant,
    complete: bool,
    result: UpstreamResult,
    blame: Blame,
}

/// What a request goes over.
#[derive(Debug)]
pub(super) enum Held {
    /// A connection of its own.
    Http1(Box<Connection>),
    /// A part of one.
    Http2(Stream),
}

/// A request that a server has not answered.
#[derive(Debug)]
pub(super) struct Unanswered {
    /// Why not.
    pub(super) error: ForwardError,
    /// The request, when the server has seen nothing of it: it may go to another.
    pub(super) unsent: Option<Box<Request<RequestBody>>>,
    /// Whether the connection had been kept from an earlier request.
    pub(super) kept: bool,
}

impl Lease {
    /// A request of `server` begins at `now`, whose body is as far as `request` says.
    pub(super) const fn new(server: Rc<ServerPool>, request: Option<Rc<Progress>>, now: Instant) -> Self {
        let (result, blame) = (UpstreamResult::ClientGone, Blame::Server);
        Self { server, connection: None, request, began: now, heard: now, complete: false, result, blame }
    }

    /// Sends `request` over an idle connection, or a new one, and waits at most `patience` for the head of
    /// the response. `alone`: over none that others use as well.
    ///
    /// # Errors
    ///
    /// Why there is none. An idle connection that the server had closed is no error, nor is a request that it
    /// says it has not looked at: there are others.
    pub(super) async fn send(
        &mut self,
        mut request: Box<Request<RequestBody>>,
        patience: Duration,
        alone: bool,
    ) -> Result<Response<Content>, Unanswered> {
        let mut refusals = 0;
        loop {
            let ready = self.server.ready(self.began, alone);
            let reused = ready.is_some();
            let held = match ready {
                Some(held) => held,
                // Rare, and large.
                None => match Box::pin(self.server.open(alone)).await {
                    Ok(held) => held,
                    Err(error) => return Err(self.failed(error, Some(request), false)),
                },
            };
            let from = if reused { self.began } else { Instant::now() };
            let patience = Patience { from, span: patience };
            // Held while the answer is awaited: if the client goes away, so does it.
            match self.connection.insert(held) {
                Held::Http1(connection) => {
                    match connection.exchange(request, self.request.as_deref(), patience).await {
                        Ok(response) => return Ok(response.map(Content::Http1)),
                        // Nothing was written: an idle connection that the server had closed.
                        Err(Unanswered { unsent: Some(unsent), .. }) if reused => request = unsent,
                        Err(Unanswered { error, unsent, .. }) => {
                            if reused {
                                // It may end at any time: that says nothing about the server.
                                self.blame = Blame::Nobody;
                            }
                            return Err(self.failed(error, unsent, reused));
                        }
                    }
                    self.server.stopped();
                }
                Held::Http2(stream) => {
                    match Box::pin(stream.exchange(request, self.request.as_deref(), patience)).await {
                        Ok(response) => return Ok(response),
                        Err(Unanswered { unsent: Some(unsent), .. }) if refusals < REFUSALS_MAX => request = unsent,
                        Err(Unanswered { error, unsent, .. }) => return Err(self.failed(error, unsent, false)),
                    }
                    refusals += 1;
                }
            }
            self.connection = None;
        }
    }

    const fn failed(
        &mut self,
        error: ForwardError,
        unsent: Option<Box<Request<RequestBody>>>,
        kept: bool,
    ) -> Unanswered {
        self.result = error.result();
        Unanswered { error, unsent, kept }
    }

    /// The response began with this status.
    pub(super) fn answered_with(&mut self, status: StatusCode) {
        if is_bad_gateway(status) {
            self.blame = Blame::BadGateway;
        }
    }

    /// The response is not handed on; `complete` if all of it is there.
    pub(super) const fn passed_over(&mut self, complete: bool) {
        self.complete = complete;
        self.result = UpstreamResult::Answered;
    }

    /// The head of the response came then.
    pub(in crate::proxy) const fn answered_at(&mut self, at: Instant) {
        self.heard = at;
    }

    /// When the connection was last heard of.
    pub(in crate::proxy) const fn heard(&self) -> Instant {
        self.heard
    }

    /// The connection has changed its protocol: no request will go over it again.
    pub(in crate::proxy) const fn switched(&mut self) {
        self.complete = false;
        self.result = UpstreamResult::Answered;
    }

    /// The response was read to its end.
    pub(in crate::proxy) fn response_complete(&mut self) {
        self.complete = true;
        self.result = UpstreamResult::Answered;
    }

    /// The response broke off.
    pub(in crate::proxy) const fn failed_broken(&mut self) {
        self.result = UpstreamResult::Broken;
    }

    /// The response took too long.
    pub(in crate::proxy) const fn failed_slow(&mut self) {
        self.result = UpstreamResult::TimedOut;
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let server = &self.server;
        server.ended(self.result, self.blame);
        // Over HTTP/2, what is not complete is cancelled by being dropped.
        let Some(Held::Http1(connection)) = self.connection.take() else { return };
        server.stopped();
        let sent = self.request.as_ref().is_none_or(|request| request.is_complete());
        if self.complete && sent && !connection.is_closed() {
            server.put(connection, self.heard);
        } else {
            connection.abort();
        }
    }
}

/// Whether a server that answers so failed at the request, or those behind it did.
pub(super) const fn is_bad_gateway(status: StatusCode) -> bool {
    matches!(status, StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT)
}
