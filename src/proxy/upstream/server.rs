//! One server of an upstream, and a worker's own connections to it.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use tokio::time::Instant;

use super::ForwardError;
use super::connection::{Connection, Place};
use super::lease::Lease;
use super::standing::{Blame, Seat};
use super::tls::UpstreamTls;
use crate::config::{Server, Upstream};
use crate::proxy::body::Progress;
use crate::telemetry::{UpstreamMetrics, UpstreamResult};

/// A worker's connections to one server.
#[derive(Debug)]
pub(super) struct ServerPool {
    place: Place,
    /// `Host` for requests that do not keep the client's.
    authority: HeaderValue,
    running: Cell<usize>,
    idle: RefCell<Vec<Idle>>,
    connect_timeout: Duration,
    response_timeout: Duration,
    idle_timeout: Duration,
    max_idle: usize,
    metrics: Arc<UpstreamMetrics>,
    seat: Seat,
}

#[derive(Debug)]
struct Idle {
    connection: Connection,
    since: Instant,
}

impl ServerPool {
    pub(super) fn new(server: &Server, upstream: &Upstream, tls: Option<&Arc<UpstreamTls>>, seat: Seat) -> Self {
        let place = Place::new(server, tls);
        let authority = HeaderValue::from_str(&place.name()).unwrap_or(HeaderValue::from_static("upstream"));
        Self {
            place,
            authority,
            running: Cell::new(0),
            idle: RefCell::default(),
            connect_timeout: upstream.connect_timeout,
            response_timeout: upstream.response_timeout,
            idle_timeout: upstream.idle_timeout,
            max_idle: upstream.max_idle,
            metrics: Arc::clone(seat.group.metrics()),
            seat,
        }
    }

    pub(super) fn name(&self) -> &str {
        self.authority.to_str().unwrap_or_default()
    }

    pub(super) fn lease(self: &Rc<Self>, request: Option<Rc<Progress>>, now: Instant) -> Lease {
        self.running.set(self.running.get() + 1);
        self.metrics.active.inc();
        Lease::new(Rc::clone(self), request, now)
    }

    /// The connection used last, if one is idle and open at `now`. Older ones beyond their time are closed.
    pub(super) fn take(&self, now: Instant) -> Option<Connection> {
        let mut idle = self.idle.borrow_mut();
        while let Some(last) = idle.pop() {
            self.metrics.idle.dec();
            if now.saturating_duration_since(last.since) > self.idle_timeout {
                // Whatever lies below has been idle for longer still.
                self.metrics.idle.sub(i64::try_from(idle.len()).unwrap_or(0));
                idle.clear();
                return None;
            }
            if !last.connection.is_closed() {
                return Some(last.connection);
            }
        }
        None
    }

    /// Keeps `connection`, idle as if since it was last heard of: after an answer that took longer than
    /// idle connections are kept, it will not be used again.
    pub(super) fn put(&self, connection: Connection, since: Instant) {
        let mut idle = self.idle.borrow_mut();
        if idle.len() < self.max_idle {
            idle.push(Idle { connection, since });
            self.metrics.idle.inc();
        }
    }

    /// Closes connections that have been idle for too long.
    pub(super) fn reap(&self) {
        let mut idle = self.idle.borrow_mut();
        let before = idle.len();
        idle.retain(|idle| idle.since.elapsed() <= self.idle_timeout && !idle.connection.is_closed());
        self.metrics.idle.sub(i64::try_from(before - idle.len()).unwrap_or(0));
    }

    /// `Host` for requests that do not keep the client's.
    pub(super) const fn authority(&self) -> &HeaderValue {
        &self.authority
    }

    /// Requests that are running on it.
    pub(super) const fn running(&self) -> usize {
        self.running.get()
    }

    /// A request has ended, with `result`, by whose fault `blame` says.
    pub(super) fn ended(&self, result: UpstreamResult, blame: Blame) {
        self.running.set(self.running.get() - 1);
        self.metrics.active.dec();
        self.metrics.ended(result);
        self.seat.judge(result, blame);
    }

    /// A new connection.
    ///
    /// # Errors
    ///
    /// Why there is none.
    pub(super) async fn connect(&self) -> Result<Connection, ForwardError> {
        let opened = Connection::open(&self.place, self.connect_timeout, self.response_timeout).await;
        opened.inspect_err(|error| {
            tracing::warn!(server = %self.name(), %error, "failed to connect to an upstream server");
        })
    }
}

impl Drop for ServerPool {
    fn drop(&mut self) {
        self.metrics.idle.sub(i64::try_from(self.idle.get_mut().len()).unwrap_or(0));
    }
}
