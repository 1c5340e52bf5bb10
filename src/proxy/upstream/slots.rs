//! How many connections a worker has to a server, and who waits for one.
//!
//! Where `max_connections` is reached at every server of a group, requests wait in one line, in order, for so
//! many and so long as the group allows.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use super::ForwardError;
use crate::config::Upstream;
use crate::telemetry::UpstreamMetrics;

/// The connections of a worker to one server.
#[derive(Debug)]
pub(super) struct Slots {
    open: Cell<usize>,
    max: usize,
    line: Rc<Line>,
}

/// Held by each connection for as long as it is open.
#[derive(Debug)]
pub(super) struct Slot(Rc<Slots>);

/// The requests of a group that wait for a connection.
#[derive(Debug)]
pub(super) struct Line {
    waiting: Cell<usize>,
    max: usize,
    patience: Duration,
    next: Notify,
    metrics: Arc<UpstreamMetrics>,
}

impl Slots {
    pub(super) fn new(max: usize, line: &Rc<Line>) -> Rc<Self> {
        Rc::new(Self { open: Cell::new(0), max, line: Rc::clone(line) })
    }

    /// Whether one more connection may be made.
    pub(super) const fn has_room(&self) -> bool {
        self.open.get() < self.max
    }

    /// A place for one more connection, if there is room.
    pub(super) fn take(self: &Rc<Self>) -> Option<Slot> {
        self.has_room().then(|| {
            self.open.set(self.open.get() + 1);
            Slot(Rc::clone(self))
        })
    }

    /// A connection can be used that could not before.
    pub(super) fn freed(&self) {
        self.line.freed();
    }

    /// Several can.
    pub(super) fn opened(&self) {
        self.line.next.notify_waiters();
    }

    /// The series of the group.
    pub(super) fn metrics(&self) -> &UpstreamMetrics {
        &self.line.metrics
    }
}

impl Slot {
    pub(super) fn slots(&self) -> &Slots {
        &self.0
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.open.set(self.0.open.get() - 1);
        self.0.freed();
    }
}

impl Line {
    pub(super) fn new(upstream: &Upstream, metrics: &Arc<UpstreamMetrics>) -> Rc<Self> {
        Rc::new(Self {
            waiting: Cell::new(0),
            max: upstream.max_queued,
            patience: upstream.queue_timeout,
            next: Notify::new(),
            metrics: Arc::clone(metrics),
        })
    }

    /// Whether others have come before.
    pub(super) const fn is_waiting(&self) -> bool {
        self.waiting.get() > 0
    }

    fn freed(&self) {
        if self.is_waiting() {
            self.next.notify_one();
        }
    }

    /// Until when whoever comes now may wait.
    pub(super) fn until(&self) -> Instant {
        Instant::now() + self.patience
    }

    /// Waits until `take` gives something, and `until` then.
    ///
    /// # Errors
    ///
    /// When too many wait already, or it took too long.
    pub(super) async fn wait<T>(&self, until: Instant, mut take: impl FnMut() -> Option<T>) -> Result<T, ForwardError> {
        if self.waiting.get() >= self.max {
            return Err(ForwardError::QueueFull);
        }
        let _place = Waiting::begin(self);
        let taking = async {
            loop {
                let next = self.next.notified();
                // Whoever comes out of the line has been told that there is room.
                next.await;
                if let Some(taken) = take() {
                    return taken;
                }
            }
        };
        timeout_at(until, taking).await.map_err(|_| ForwardError::QueueTimedOut)
    }
}

/// A place in the line; given up when dropped.
struct Waiting<'a>(&'a Line);

impl<'a> Waiting<'a> {
    fn begin(line: &'a Line) -> Self {
        line.waiting.set(line.waiting.get() + 1);
        line.metrics.queued.inc();
        Self(line)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.set(self.0.waiting.get() - 1);
        self.0.metrics.queued.dec();
    }
}
