//! A connection while it is lent to one request.

use std::rc::Rc;

use tokio::time::Instant;

use super::connection::Connection;
use super::server::ServerPool;
use crate::proxy::body::Progress;
use crate::telemetry::UpstreamResult;

/// A connection with one request on it. It goes back to the pool once request and response are
/// complete, and is closed otherwise.
#[derive(Debug)]
pub(in crate::proxy) struct Lease {
    server: Rc<ServerPool>,
    connection: Option<Connection>,
    request: Option<Rc<Progress>>,
    /// When the connection was last heard of.
    heard: Instant,
    complete: bool,
    result: UpstreamResult,
}

impl Lease {
    /// A request of `server` begins at `now`, whose body is as far as `request` says.
    pub(super) const fn new(server: Rc<ServerPool>, request: Option<Rc<Progress>>, now: Instant) -> Self {
        Self { server, connection: None, request, heard: now, complete: false, result: UpstreamResult::ClientGone }
    }

    /// Holds `connection` while the answer is awaited: if the client goes away, so does it.
    pub(super) fn hold(&mut self, connection: Connection) -> &mut Connection {
        self.connection.insert(connection)
    }

    /// What became of the request, unless more is said.
    pub(super) const fn failed(&mut self, result: UpstreamResult) {
        self.result = result;
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
        server.ended(self.result);
        let Some(connection) = self.connection.take() else { return };
        let sent = self.request.as_ref().is_none_or(|request| request.is_complete());
        if self.complete && sent && !connection.is_closed() {
            server.put(connection, self.heard);
        } else {
            connection.abort();
        }
    }
}
