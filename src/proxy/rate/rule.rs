//! One rule on how often something may be asked, and how it stands with each of its keys.

use std::hash::Hasher;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, Instant};

use governor::clock::Clock;
use governor::middleware::{StateInformationMiddleware, StateSnapshot};
use governor::nanos::Nanos;
use governor::{NotUntil, Quota, RateLimiter};
use prometheus::IntCounter;
use siphasher::sip128::{Hasher128, SipHasher13};

use super::buckets::{Buckets, Glance, Table};
use crate::config::RateLimit;

type Limiter<S, C> = RateLimiter<u128, S, C, StateInformationMiddleware>;

/// A rule in force. Kept over a reload that does not change it, with all that it remembers.
#[derive(Debug)]
pub(super) struct Rule<C: Clock<Instant = Nanos> = Ticks> {
    config: RateLimit,
    limiter: Limiter<Buckets, C>,
    /// The same quotas and the same state, and nothing is used up.
    glance: Limiter<Glance, C>,
    clock: C,
    /// What names are turned into keys under: nobody can choose two with one key.
    secret: [u64; 2],
    /// Quota and window, as they are announced.
    announced: (u64, u64),
    /// Requests that were refused by it.
    limited: IntCounter,
}

/// How it stands with a key after it has asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Standing {
    /// How many more may come at once.
    pub(super) remaining: u32,
    /// Until the whole quota is there again; for who is refused, until the next may come.
    pub(super) wait: Duration,
    /// Whether this one may pass.
    pub(super) admitted: bool,
}

impl Rule {
    /// A rule without a past. `full` counts newcomers beyond the keys it may remember.
    pub(super) fn new(config: &RateLimit, limited: IntCounter, full: IntCounter) -> Self {
        Self::with_clock(config, limited, full, Ticks(Instant::now()))
    }
}

impl<C: Clock<Instant = Nanos> + Clone> Rule<C> {
    fn with_clock(config: &RateLimit, limited: IntCounter, full: IntCounter, clock: C) -> Self {
        let interval = interval(config);
        let quota = Quota::with_period(interval).unwrap_or(Quota::per_second(NonZeroU32::MIN));
        let quota = quota.allow_burst(NonZeroU32::new(config.burst).unwrap_or(NonZeroU32::MIN));
        let table = Arc::new(Table::new(config.max_keys, full));
        let limiter = RateLimiter::new(quota, Buckets(Arc::clone(&table)), clock.clone());
        let glance = RateLimiter::new(quota, Glance(table), clock.clone());
        Self {
            limiter,
            glance,
            clock,
            secret: [rand::random(), rand::random()],
            announced: announced(config, interval),
            limited,
            config: config.clone(),
        }
    }

    /// What it was made from.
    pub(super) const fn config(&self) -> &RateLimit {
        &self.config
    }

    /// The quota, and the seconds in which all of it comes back.
    pub(super) const fn announced(&self) -> (u64, u64) {
        self.announced
    }

    /// Uses up one of the quota of `key`, if there is one left.
    pub(super) fn take(&self, key: u128) -> Standing {
        self.standing(self.limiter.check_key(&key))
    }

    /// How it stands with `key`, which uses nothing up.
    pub(super) fn look(&self, key: u128) -> Standing {
        self.standing(self.glance.check_key(&key))
    }

    /// Counts a request that it has refused.
    pub(super) fn count(&self) {
        self.limited.inc();
    }

    /// Forgets keys whose whole quota is there again.
    pub(super) fn sweep(&self) {
        self.limiter.retain_recent();
    }

    /// Keys that are remembered.
    #[cfg(test)]
    fn len(&self) -> usize {
        self.limiter.len()
    }

    /// The key of something that has a name, made of parts.
    pub(super) fn key_of(&self, parts: &[&str]) -> u128 {
        let mut hasher = SipHasher13::new_with_keys(self.secret[0], self.secret[1]);
        for part in parts {
            hasher.write_usize(part.len());
            hasher.write(part.as_bytes());
        }
        hasher.finish128().as_u128()
    }

    fn standing(&self, outcome: Result<StateSnapshot, NotUntil<Nanos>>) -> Standing {
        match outcome {
            Ok(state) => {
                let remaining = state.remaining_burst_capacity();
                let used = self.config.burst.saturating_sub(remaining);
                Standing { remaining, wait: interval(&self.config).saturating_mul(used), admitted: true }
            }
            Err(until) => Standing { remaining: 0, wait: until.wait_time_from(self.clock.now()), admitted: false },
        }
    }
}

/// The key of an address. Whoever has an IPv6 address has 2^64 of them.
pub(super) fn key_of_address(address: IpAddr) -> u128 {
    match address.to_canonical() {
        IpAddr::V4(address) => address.to_ipv6_mapped().to_bits(),
        IpAddr::V6(address) => address.to_bits() >> 64 << 64,
    }
}

/// How long one of the quota takes to come back.
fn interval(config: &RateLimit) -> Duration {
    (config.period / config.count.max(1)).max(Duration::from_nanos(1))
}

/// What a client can reckon with: so many in so many whole seconds. It is the burst and the time that takes to
/// come back or, where that is within a second, what comes back in a second.
fn announced(config: &RateLimit, interval: Duration) -> (u64, u64) {
    let whole = interval.saturating_mul(config.burst);
    if whole >= Duration::from_secs(1) {
        return (u64::from(config.burst), ceil(whole));
    }
    (u64::from(config.count) / config.period.as_secs().max(1), 1)
}

/// Whole seconds, rounded up: who waits for them waits long enough.
pub(super) const fn ceil(span: Duration) -> u64 {
    if span.subsec_nanos() == 0 { span.as_secs() } else { span.as_secs() + 1 }
}

/// Nanoseconds since a rule was made.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ticks(Instant);

impl Clock for Ticks {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        Nanos::new(u64::try_from(self.0.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use governor::clock::FakeRelativeClock;

    use super::*;
    use crate::config::{RateCounts, RateKey};

    fn config(count: u32, period: u64, burst: u32, max_keys: usize) -> RateLimit {
        RateLimit {
            name: "rule".to_owned(),
            key: RateKey::Address,
            count,
            period: Duration::from_secs(period),
            burst,
            counts: RateCounts::Requests,
            max_keys,
        }
    }

    fn rule(config: &RateLimit) -> (Rule<FakeRelativeClock>, FakeRelativeClock, IntCounter) {
        let (clock, full) = (FakeRelativeClock::default(), IntCounter::new("full", "full").unwrap());
        let limited = IntCounter::new("limited", "limited").unwrap();
        (Rule::with_clock(config, limited, full.clone(), clock.clone()), clock, full)
    }

    #[test]
    fn a_burst_passes_at_once_and_comes_back_at_the_rate() {
        let (rule, clock, _) = rule(&config(2, 1, 3, 10));
        let seconds = Duration::from_secs_f64;
        let pass = |remaining, wait| Standing { remaining, wait: seconds(wait), admitted: true };
        for wanted in [pass(2, 0.5), pass(1, 1.0), pass(0, 1.5)] {
            assert_eq!(rule.take(1), wanted);
        }
        let refused = Standing { remaining: 0, wait: seconds(0.5), admitted: false };
        assert_eq!(rule.take(1), refused);
        assert_eq!(rule.take(2).remaining, 2, "another key");
        clock.advance(seconds(0.499));
        assert!(!rule.take(1).admitted);
        clock.advance(seconds(0.001));
        assert!(rule.take(1).admitted && !rule.take(1).admitted);
    }

    #[test]
    fn a_look_uses_nothing_up() {
        let (rule, _, _) = rule(&config(1, 60, 2, 10));
        for _ in 0..5 {
            assert!(rule.look(1).admitted);
        }
        assert!(rule.take(1).admitted && rule.look(1).admitted && rule.take(1).admitted);
        assert_eq!(rule.look(1), Standing { remaining: 0, wait: Duration::from_secs(60), admitted: false });
        assert!(rule.look(2).admitted);
    }

    #[test]
    fn beyond_the_bound_newcomers_share_one_quota_and_those_known_keep_theirs() {
        let (rule, clock, full) = rule(&config(1, 1, 2, 3));
        assert!((0..3).all(|key| rule.take(key).admitted));
        let admitted = (100..200).filter(|key| rule.take(*key).admitted).count();
        assert_eq!((admitted, rule.len(), full.get()), (2, 3, 100));
        assert!(!rule.look(300).admitted);
        assert!((0..3).all(|key| rule.take(key).admitted), "they have one left each");
        // Known keys are forgotten once that changes nothing, and newcomers have their own again.
        clock.advance(Duration::from_millis(900));
        rule.sweep();
        assert_eq!(rule.len(), 3);
        clock.advance(Duration::from_secs(3));
        rule.sweep();
        assert_eq!(rule.len(), 0);
        assert_eq!((100..103).filter(|key| rule.take(*key).remaining == 1).count(), 3);
    }

    #[test]
    fn an_ipv6_network_is_one_client() {
        let key = |text: &str| key_of_address(text.parse().unwrap());
        assert_eq!(key("2001:db8::1"), key("2001:db8::ffff:1:2:3"));
        assert_ne!(key("2001:db8::1"), key("2001:db8:0:1::1"));
        assert_eq!(key("10.0.0.1"), key("::ffff:10.0.0.1"));
        assert_ne!(key("10.0.0.1"), key("10.0.0.2"));
    }

    #[test]
    fn names_are_told_apart_where_they_end() {
        let (rule, _, _) = rule(&config(1, 1, 1, 1));
        assert_ne!(rule.key_of(&["ab", "c"]), rule.key_of(&["a", "bc"]));
        assert_eq!(rule.key_of(&["a", "b"]), rule.key_of(&["a", "b"]));
    }

    #[test]
    fn what_is_announced_is_what_comes_back_in_whole_seconds() {
        for (count, period, burst, wanted) in [
            (10, 1, 20, (20, 2)),
            (300, 60, 300, (300, 60)),
            (100, 1, 1, (100, 1)),
            (1, 60, 1, (1, 60)),
            (3, 1, 1, (3, 1)),
        ] {
            let config = config(count, period, burst, 1);
            assert_eq!(announced(&config, interval(&config)), wanted, "{count}/{period}s, {burst} at once");
        }
    }
}
