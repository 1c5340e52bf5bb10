//! How old what this node knows may be, where others know things as well.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Says that it was never proved.
const NEVER: u64 = u64::MAX;

/// When it was last proved that everything known elsewhere had come here.
///
/// Measured by a clock that goes on while the machine sleeps and that nobody sets: a process that was stopped
/// for a minute knows that it is a minute behind before it says anything.
#[derive(Debug)]
pub struct Freshness {
    proved: AtomicU64,
    max_staleness: AtomicU64,
    /// Up to when it is excused, by the clock.
    excused: AtomicU64,
    /// What tests add to what the clock shows.
    ahead: AtomicI64,
}

impl Freshness {
    /// Nothing is proved yet; what is older than `max_staleness` is stale.
    #[must_use]
    pub fn new(max_staleness: Duration) -> Self {
        let freshness = Self {
            proved: AtomicU64::new(NEVER),
            max_staleness: AtomicU64::new(0),
            excused: AtomicU64::new(0),
            ahead: AtomicI64::new(0),
        };
        freshness.set_max_staleness(max_staleness);
        freshness
    }

    /// Changes from what age on it is stale.
    pub fn set_max_staleness(&self, max_staleness: Duration) {
        self.max_staleness.store(millis(max_staleness), Ordering::Release);
    }

    /// What the clock shows, in milliseconds since the machine started.
    #[must_use]
    pub fn clock(&self) -> u64 {
        let shown = clock_gettime(ClockId::Boottime);
        let since = Duration::new(shown.tv_sec.unsigned_abs(), u32::try_from(shown.tv_nsec).unwrap_or(0));
        millis(since).saturating_add_signed(self.ahead.load(Ordering::Relaxed))
    }

    /// Everything that was known elsewhere when the clock showed `at` has come here.
    pub fn prove(&self, at: u64) {
        let later = |proved| (proved == NEVER || proved < at).then_some(at);
        // What was let pass until it is proved ends with that.
        self.excused.store(0, Ordering::Release);
        // One that proves less than is proved already changes nothing.
        let _ = self.proved.fetch_update(Ordering::AcqRel, Ordering::Acquire, later);
    }

    /// How old what is known may be; `None` before the first proof.
    #[must_use]
    pub fn age(&self) -> Option<Duration> {
        match self.proved.load(Ordering::Acquire) {
            NEVER => None,
            proved => Some(Duration::from_millis(self.clock().saturating_sub(proved))),
        }
    }

    /// Whether it may be older than it should.
    #[must_use]
    pub fn is_stale(&self) -> bool {
        let too_old = self.age().is_none_or(|age| millis(age) > self.max_staleness.load(Ordering::Acquire));
        too_old && self.clock() >= self.excused.load(Ordering::Acquire)
    }

    /// Lets it be as old as it is for so long: for a node that serves what it knew when it was stopped.
    pub fn excuse_for(&self, span: Duration) {
        self.excused.store(self.clock().saturating_add(millis(span)), Ordering::Release);
    }

    /// Moves the clock on, for tests.
    #[cfg(test)]
    pub(crate) fn advance(&self, span: Duration) {
        self.ahead.fetch_add(i64::try_from(span.as_millis()).unwrap_or(0), Ordering::Relaxed);
    }
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(NEVER - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: Duration = Duration::from_secs(30);

    #[test]
    fn what_was_never_proved_is_stale() {
        let freshness = Freshness::new(MAX);
        assert_eq!((freshness.age(), freshness.is_stale()), (None, true));
    }

    #[test]
    fn an_excuse_has_an_end() {
        let freshness = Freshness::new(MAX);
        freshness.excuse_for(Duration::from_secs(60));
        assert!(!freshness.is_stale());
        freshness.advance(Duration::from_secs(61));
        assert!(freshness.is_stale());
        freshness.excuse_for(Duration::from_secs(600));
        freshness.prove(freshness.clock());
        freshness.advance(MAX + Duration::from_secs(1));
        assert!(freshness.is_stale(), "it is not needed any more");
    }

    #[test]
    fn what_was_proved_grows_old() {
        let freshness = Freshness::new(MAX);
        let proved = freshness.clock();
        freshness.prove(proved);
        assert!(!freshness.is_stale());
        freshness.advance(MAX + Duration::from_secs(1));
        assert!(freshness.is_stale());
        freshness.prove(proved - 5);
        assert!(freshness.is_stale(), "an old proof proves nothing new");
        freshness.prove(freshness.clock());
        assert!(!freshness.is_stale());
        freshness.set_max_staleness(Duration::ZERO);
        freshness.advance(Duration::from_millis(1));
        assert!(freshness.is_stale());
    }
}
