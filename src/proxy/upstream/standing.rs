//! How the servers of a group stand: what checks and requests say of each, for all workers.
//!
//! Workers read atomics when they choose a server. A server that fails too often in a row is ejected for a
//! while, by whoever sees it; only that takes a lock, so that two workers never eject one more than the
//! group allows. A change of state is logged once, by whoever brings it about.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::config::{Ejection, Server, Upstream};
use crate::telemetry::{ServerState, UpstreamMetrics, UpstreamResult};

/// The least share of its weight that a server takes when it comes back, in per mille.
const SLOW_START_LEAST: u64 = 100;

/// The servers of an upstream, as all workers see them.
#[derive(Debug)]
pub struct Group {
    name: String,
    members: Vec<Member>,
    ejection: Ejection,
    slow_start: Option<Duration>,
    /// Times are milliseconds since then; the same for every generation of configuration.
    epoch: Instant,
    /// Held while an ejection is judged.
    judging: Mutex<()>,
    metrics: Arc<UpstreamMetrics>,
}

/// A server of a group.
#[derive(Debug)]
struct Member {
    weight: u64,
    standing: Arc<Standing>,
}

/// A server's place in its group.
#[derive(Debug)]
pub(super) struct Seat {
    pub(super) group: Arc<Group>,
    pub(super) index: usize,
}

/// Whose fault it is how a request ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Blame {
    /// The server's, if it ended badly.
    #[default]
    Server,
    /// The server's, though it answered: for what it should have asked did not.
    BadGateway,
    /// Nobody's: a kept connection may end at any time.
    Nobody,
}

impl Seat {
    /// Whether both are the place of one server.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        let standing = |seat: &Self| seat.group.members.get(seat.index).map(|member| Arc::as_ptr(&member.standing));
        standing(self) == standing(other)
    }

    /// Whether no check has said anything about the server yet.
    pub(super) fn is_unchecked(&self) -> bool {
        let member = self.group.members.get(self.index);
        member.is_some_and(|member| member.standing.checked.load(Ordering::Acquire) == UNKNOWN)
    }

    /// Its checks say that the server is well, or why not.
    pub(super) fn checked(&self, outcome: Result<(), &str>, now: Instant) {
        self.group.checked(self.index, outcome, now);
    }

    /// A request to the server ended, with `result`.
    pub(super) fn judge(&self, result: UpstreamResult, blame: Blame) {
        match (result, blame) {
            (UpstreamResult::Answered, Blame::BadGateway) => {
                self.group.failed(self.index, "bad_gateway", Instant::now());
            }
            (UpstreamResult::Answered, _) => self.group.succeeded(self.index),
            (
                UpstreamResult::ClientGone
                | UpstreamResult::NoServer
                | UpstreamResult::QueueFull
                | UpstreamResult::QueueTimedOut,
                _,
            )
            | (UpstreamResult::Broken, Blame::Nobody) => {}
            (
                UpstreamResult::Refused
                | UpstreamResult::Unresolved
                | UpstreamResult::TlsFailed
                | UpstreamResult::ConnectTimedOut
                | UpstreamResult::TimedOut
                | UpstreamResult::Broken,
                _,
            ) => self.group.failed(self.index, result.name(), Instant::now()),
        }
    }
}

/// What is known of one server. It outlives a reload that leaves the server where it is.
#[derive(Debug, Default)]
struct Standing {
    name: String,
    /// What its checks say: one of the constants below.
    checked: AtomicU8,
    /// Requests that failed in a row.
    failures: AtomicU32,
    /// Until when it is ejected; 0: it is not.
    ejected_until: AtomicU64,
    /// How often it was ejected without a long good time in between.
    ejections: AtomicU32,
    /// When it last came back; 0: it was never away.
    back_since: AtomicU64,
    /// It would be ejected if it could be spared; said once.
    failing: AtomicBool,
    /// The latest change of state.
    change: Mutex<Option<Change>>,
}

const UNKNOWN: u8 = 0;
const WELL: u8 = 1;
const UNWELL: u8 = 2;

#[derive(Clone, Debug)]
struct Change {
    at: u64,
    why: String,
}

/// One server, for operators to see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerView {
    /// Host and port.
    pub name: String,
    /// How it stands.
    pub state: ServerState,
    /// Its share, as configured.
    pub weight: u64,
    /// How long ago that began, and why; `None`: it has always been so.
    pub changed: Option<(Duration, String)>,
}

impl Group {
    /// The group of `upstream`. Servers that `before` has too keep what is known of them.
    #[must_use]
    pub fn new(upstream: &Upstream, metrics: &Arc<UpstreamMetrics>, before: Option<&Self>, now: Instant) -> Self {
        let member = |server: &Server| {
            let host = if server.host.contains(':') { format!("[{}]", server.host) } else { server.host.clone() };
            let name = format!("{host}:{}", server.port);
            let known = before.and_then(|before| before.members.iter().find(|member| member.standing.name == name));
            let standing = match known {
                Some(member) => Arc::clone(&member.standing),
                None => Arc::new(Standing { name, ..Standing::default() }),
            };
            if upstream.health.is_none() {
                // Nobody would ever bring it back.
                standing.checked.store(UNKNOWN, Ordering::Release);
            }
            Member { weight: u64::from(server.weight), standing }
        };
        Self {
            name: upstream.name.clone(),
            members: upstream.servers.iter().map(member).collect(),
            ejection: upstream.ejection.clone(),
            slow_start: upstream.slow_start,
            epoch: before.map_or(now, |before| before.epoch),
            judging: Mutex::default(),
            metrics: Arc::clone(metrics),
        }
    }

    /// The config name of the upstream.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The series of the upstream.
    pub(super) const fn metrics(&self) -> &Arc<UpstreamMetrics> {
        &self.metrics
    }

    /// Whether a request may go to the server at `index`. Whoever first finds that its time is over brings an
    /// ejected one back, on probation: the next failure ejects it again.
    pub(super) fn is_available(&self, index: usize, now: Instant) -> bool {
        let Some(Member { standing, .. }) = self.members.get(index) else { return false };
        let until = standing.ejected_until.load(Ordering::Acquire);
        if until != 0 && !self.come_back(standing, until, now) {
            return false;
        }
        standing.checked.load(Ordering::Relaxed) != UNWELL
    }

    /// Whether the server at `index` is at least not known to be unwell by its checks.
    pub(super) fn is_last_resort(&self, index: usize) -> bool {
        self.members.get(index).is_some_and(|member| member.standing.checked.load(Ordering::Relaxed) != UNWELL)
    }

    /// How much the server at `index` takes now, in thousandths of a server of weight 1.
    pub(super) fn share(&self, index: usize, now: Instant) -> u64 {
        let Some(Member { weight, standing }) = self.members.get(index) else { return 1 };
        let Some(slow_start) = self.slow_start else { return weight * 1000 };
        let since = standing.back_since.load(Ordering::Relaxed);
        if since == 0 {
            return weight * 1000;
        }
        let (back, whole) = (self.millis(now).saturating_sub(since), millis_of(slow_start));
        weight * (back.saturating_mul(1000) / whole.max(1)).clamp(SLOW_START_LEAST, 1000)
    }

    /// A request was answered well by the server at `index`.
    pub(super) fn succeeded(&self, index: usize) {
        let Some(Member { standing, .. }) = self.members.get(index) else { return };
        if standing.failures.load(Ordering::Relaxed) == 0 {
            return;
        }
        standing.failures.store(0, Ordering::Relaxed);
        if standing.failing.swap(false, Ordering::AcqRel) {
            tracing::info!(upstream = self.name, server = standing.name, "a server that failed answers again");
        }
    }

    /// A request to the server at `index` failed, by the server's fault.
    pub(super) fn failed(&self, index: usize, why: &'static str, now: Instant) {
        let (Some(Member { standing, .. }), Some(after)) = (self.members.get(index), self.ejection.after) else {
            return;
        };
        if standing.failures.fetch_add(1, Ordering::AcqRel).saturating_add(1) < after {
            return;
        }
        let judging = self.judging.lock().unwrap_or_else(PoisonError::into_inner);
        let is_out = |member: &Member| self.state_of(&member.standing, now) != ServerState::Healthy;
        if standing.ejected_until.load(Ordering::Acquire) != 0 || standing.checked.load(Ordering::Acquire) == UNWELL {
            // Requests that were under way when it went out.
            return;
        }
        let out = self.members.iter().filter(|member| is_out(member)).count() as u64;
        let most = self.members.len() as u64 * u64::from(self.ejection.max_ejected) / 1000;
        if out >= most {
            // Not 0: one good answer must still be noticed as the end of it.
            standing.failures.store(1, Ordering::Release);
            if !standing.failing.swap(true, Ordering::AcqRel) {
                let (upstream, server) = (&self.name, &standing.name);
                tracing::warn!(upstream, server, why, "a server fails, and is needed: it is not ejected");
            }
            return;
        }
        let at = self.millis(now);
        let back = standing.back_since.load(Ordering::Acquire);
        let (least, most) = (millis_of(self.ejection.time), millis_of(self.ejection.max_time));
        let good_for_long = at.saturating_sub(back) >= most;
        let earlier = if good_for_long { 0 } else { standing.ejections.load(Ordering::Acquire) };
        let span = least.saturating_mul(1 << earlier.min(32)).min(most).max(1);
        standing.ejections.store(earlier.saturating_add(1), Ordering::Release);
        standing.failures.store(0, Ordering::Release);
        standing.failing.store(false, Ordering::Release);
        standing.ejected_until.store(at.saturating_add(span), Ordering::Release);
        drop(judging);
        standing.changed(at, format!("{after} requests failed in a row, the last one: {why}"));
        let (upstream, server) = (&self.name, &standing.name);
        tracing::warn!(upstream, server, why, for_ms = span, "a server is ejected: it fails");
    }

    /// Its checks say that the server at `index` is well, or why not.
    pub(super) fn checked(&self, index: usize, outcome: Result<(), &str>, now: Instant) {
        let Some(Member { standing, .. }) = self.members.get(index) else { return };
        let (upstream, server, at) = (&self.name, &standing.name, self.millis(now));
        match outcome {
            Ok(()) if standing.checked.swap(WELL, Ordering::AcqRel) == UNWELL => {
                standing.back_since.store(at.max(1), Ordering::Release);
                standing.changed(at, "its checks succeed".to_owned());
                tracing::info!(upstream, server, "a server is healthy: its checks succeed");
            }
            Err(why) if standing.checked.swap(UNWELL, Ordering::AcqRel) != UNWELL => {
                standing.changed(at, format!("its checks fail: {why}"));
                tracing::warn!(upstream, server, why, "a server is unhealthy: its checks fail");
            }
            Ok(()) | Err(_) => {}
        }
    }

    /// How every server stands.
    #[must_use]
    pub fn servers(&self, now: Instant) -> Vec<ServerView> {
        let view = |member: &Member| {
            let standing = &member.standing;
            let until = standing.ejected_until.load(Ordering::Acquire);
            if until != 0 {
                self.come_back(standing, until, now);
            }
            let change = standing.change.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let ago = |at: u64| Duration::from_millis(self.millis(now).saturating_sub(at));
            ServerView {
                name: standing.name.clone(),
                state: self.state_of(standing, now),
                weight: member.weight,
                changed: change.map(|change| (ago(change.at), change.why)),
            }
        };
        self.members.iter().map(view).collect()
    }

    /// Brings the series up to date that say how many servers stand how.
    pub fn observe(&self, now: Instant) {
        let servers = self.servers(now);
        for state in ServerState::ALL {
            self.metrics.servers.set(state, servers.iter().filter(|server| server.state == state).count());
        }
    }

    /// Whether the ejection of a server is over.
    fn come_back(&self, standing: &Standing, until: u64, now: Instant) -> bool {
        if self.millis(now) < until {
            return false;
        }
        if standing.ejected_until.compare_exchange(until, 0, Ordering::AcqRel, Ordering::Acquire).is_ok() {
            standing.failures.store(self.ejection.after.unwrap_or(1) - 1, Ordering::Release);
            standing.back_since.store(until, Ordering::Release);
            standing.changed(until, "its ejection is over".to_owned());
            let (upstream, server) = (&self.name, &standing.name);
            tracing::info!(upstream, server, "a server is back: its ejection is over");
        }
        true
    }

    fn state_of(&self, standing: &Standing, now: Instant) -> ServerState {
        if standing.checked.load(Ordering::Acquire) == UNWELL {
            return ServerState::Unhealthy;
        }
        let ejected = standing.ejected_until.load(Ordering::Acquire) > self.millis(now);
        if ejected { ServerState::Ejected } else { ServerState::Healthy }
    }

    /// Milliseconds since the epoch.
    fn millis(&self, now: Instant) -> u64 {
        millis_of(now.saturating_duration_since(self.epoch))
    }
}

impl Standing {
    fn changed(&self, at: u64, why: String) {
        *self.change.lock().unwrap_or_else(PoisonError::into_inner) = Some(Change { at, why });
    }
}

fn millis_of(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
pub(super) mod tests;
