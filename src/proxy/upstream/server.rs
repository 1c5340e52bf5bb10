//! One server of an upstream, and a worker's own connections to it.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use super::ForwardError;
use super::connection::{Connection, Opened, Place};
use super::http2::Http2;
use super::lease::{Held, Lease};
use super::slots::{Line, Slots};
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
    /// Connections that carry many requests.
    shared: RefCell<Vec<Rc<Http2>>>,
    /// The one of them that is being made.
    opening: RefCell<Option<Rc<Opening>>>,
    /// Whether the server has chosen HTTP/1.1 when it was asked.
    declined: Cell<bool>,
    /// Whether its configuration is not in force any more: nothing is kept for requests to come.
    retired: Cell<bool>,
    slots: Rc<Slots>,
    connect_timeout: Duration,
    idle_timeout: Duration,
    max_age: Option<Duration>,
    max_idle: usize,
    metrics: Arc<UpstreamMetrics>,
    seat: Seat,
}

#[derive(Debug)]
struct Idle {
    connection: Box<Connection>,
    since: Instant,
}

/// A connection that is being made for all who need one.
#[derive(Debug, Default)]
struct Opening {
    ended: Notify,
    failure: Cell<Option<ForwardError>>,
}

impl ServerPool {
    pub(super) fn new(
        server: &Server,
        upstream: &Upstream,
        tls: Option<&Arc<UpstreamTls>>,
        line: &Rc<Line>,
        seat: Seat,
    ) -> Self {
        let place = Place::new(server, upstream, tls, seat.group.metrics());
        let name = place.addresses().name();
        Self {
            place,
            authority: HeaderValue::from_str(&name).unwrap_or(HeaderValue::from_static("upstream")),
            running: Cell::new(0),
            idle: RefCell::default(),
            shared: RefCell::default(),
            opening: RefCell::default(),
            declined: Cell::default(),
            retired: Cell::default(),
            slots: Slots::new(upstream.max_connections, line),
            connect_timeout: upstream.connect_timeout,
            idle_timeout: upstream.idle_timeout,
            max_age: upstream.max_age,
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
        Lease::new(Rc::clone(self), request, now)
    }

    /// Whether a request has somewhere to go without waiting for another to end.
    pub(super) fn has_room(&self) -> bool {
        self.slots.has_room()
            || !self.idle.borrow().is_empty()
            || self.shared.borrow().iter().any(|connection| connection.has_room())
    }

    /// What a request can go over at once; `alone`: nothing that others use as well.
    pub(super) fn ready(&self, now: Instant, alone: bool) -> Option<Held> {
        if !alone
            && self.place.may_share()
            && let Some(held) = self.share(now)
        {
            return Some(held);
        }
        let connection = self.take(now)?;
        self.metrics.active.inc();
        Some(Held::Http1(connection))
    }

    /// A part of a connection that carries many requests.
    fn share(&self, now: Instant) -> Option<Held> {
        let mut shared = self.shared.borrow_mut();
        // What is dropped here ends once the last request on it has ended.
        shared.retain(|it| !it.is_closed() && !self.is_old(it.born(), now) && self.is_listed(it.address()));
        let free = shared.iter().find(|connection| connection.has_room())?;
        Some(Held::Http2(free.stream()))
    }

    /// The connection used last, if one is idle and open at `now`. Older ones beyond their time are closed.
    fn take(&self, now: Instant) -> Option<Box<Connection>> {
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
    pub(super) fn put(&self, connection: Box<Connection>, since: Instant) {
        if self.retired.get() || self.is_old(connection.born(), since) || !self.is_listed(connection.address()) {
            return;
        }
        let mut idle = self.idle.borrow_mut();
        if idle.len() < self.max_idle {
            idle.push(Idle { connection, since });
            self.metrics.idle.inc();
            self.slots.freed();
        }
    }

    /// Closes every idle connection, as when one of them has ended under a request: they may be of an age.
    pub(super) fn distrust(&self) {
        let idle = std::mem::take(&mut *self.idle.borrow_mut());
        self.metrics.idle.sub(i64::try_from(idle.len()).unwrap_or(0));
    }

    /// Closes connections that are not wanted any more, and looks names up that it is time for.
    pub(super) fn reap(&self) {
        let now = Instant::now();
        self.place.addresses().renew(now);
        let mut idle = self.idle.borrow_mut();
        let before = idle.len();
        idle.retain(|idle| {
            let connection = &idle.connection;
            now.saturating_duration_since(idle.since) <= self.idle_timeout
                && !connection.is_closed()
                && !self.is_old(connection.born(), now)
                && self.is_listed(connection.address())
        });
        self.metrics.idle.sub(i64::try_from(before - idle.len()).unwrap_or(0));
        drop(idle);
        self.shared.borrow_mut().retain(|it| {
            !it.is_closed()
                && !self.is_old(it.born(), now)
                && self.is_listed(it.address())
                && it.idle(now).is_none_or(|idle| idle <= self.idle_timeout)
        });
    }

    /// Lets go of every connection that no request is on; the others go with their requests.
    pub(super) fn retire(&self) {
        self.retired.set(true);
        self.distrust();
        self.shared.borrow_mut().clear();
    }

    fn is_old(&self, born: Instant, now: Instant) -> bool {
        self.max_age.is_some_and(|max| now.saturating_duration_since(born) > max)
    }

    fn is_listed(&self, address: std::net::SocketAddr) -> bool {
        self.place.addresses().is_listed(address)
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
        self.metrics.ended(result);
        self.seat.judge(result, blame);
    }

    /// A connection of its own is not used by a request any more.
    pub(super) fn stopped(&self) {
        self.metrics.active.dec();
    }

    /// A new connection, or a part of one that is made for others too unless it is to be `alone`.
    ///
    /// # Errors
    ///
    /// Why there is none; [`ForwardError::QueueFull`] where no more may be made.
    pub(super) async fn open(&self, alone: bool) -> Result<Held, ForwardError> {
        let until = Instant::now() + self.connect_timeout;
        loop {
            if alone || self.declined.get() || !self.place.may_share() {
                return self.connect(alone).await.map(|opened| self.begin(opened));
            }
            if let Some(held) = self.share(Instant::now()) {
                return Ok(held);
            }
            let opening = self.opening.borrow().clone();
            let Some(opening) = opening else { return self.open_for_all().await };
            let ended = timeout_at(until, opening.ended.notified()).await;
            ended.map_err(|_| ForwardError::ConnectTimedOut)?;
            if let Some(failure) = opening.failure.get() {
                return Err(failure);
            }
        }
    }

    /// Makes a connection, which others wait for.
    async fn open_for_all(&self) -> Result<Held, ForwardError> {
        let guard = Guard::begin(&self.opening);
        let opened = self.connect(false).await;
        let opened = match opened {
            Ok(Opened::Http2(connection)) if connection.capacity() == 0 => {
                tracing::debug!(server = %self.name(), "an upstream server takes no requests");
                Err(ForwardError::Refused)
            }
            other => other,
        };
        match opened {
            Ok(opened) => {
                self.declined.set(matches!(opened, Opened::Http1(_)));
                let held = self.begin(opened);
                drop(guard);
                Ok(held)
            }
            Err(failure) => {
                guard.0.failure.set(Some(failure));
                Err(failure)
            }
        }
    }

    async fn connect(&self, alone: bool) -> Result<Opened, ForwardError> {
        let slot = self.slots.take().ok_or(ForwardError::QueueFull)?;
        self.place.open(slot, alone).await.inspect_err(|error| {
            tracing::debug!(server = %self.name(), %error, "failed to connect to an upstream server");
        })
    }

    fn begin(&self, opened: Opened) -> Held {
        match opened {
            Opened::Http1(connection) => {
                self.metrics.active.inc();
                Held::Http1(connection)
            }
            Opened::Http2(connection) => {
                let stream = connection.stream();
                self.shared.borrow_mut().push(connection);
                self.slots.opened();
                Held::Http2(stream)
            }
        }
    }
}

impl Drop for ServerPool {
    fn drop(&mut self) {
        self.metrics.idle.sub(i64::try_from(self.idle.get_mut().len()).unwrap_or(0));
    }
}

/// Tells those who wait for a connection, also when whoever makes it goes away.
struct Guard<'a>(Rc<Opening>, &'a RefCell<Option<Rc<Opening>>>);

impl<'a> Guard<'a> {
    fn begin(place: &'a RefCell<Option<Rc<Opening>>>) -> Self {
        let opening = Rc::<Opening>::default();
        place.replace(Some(Rc::clone(&opening)));
        Self(opening, place)
    }
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        self.1.replace(None);
        self.0.ended.notify_waiters();
    }
}
