//! Where the servers that are named by a host are.
//!
//! A name is looked up when the first connection is made, again as often as `resolve_interval` says, and
//! when nobody could be reached. Connections are made to all its addresses in turn. While a look-up fails, the
//! last answer is good for as long as `resolve_keep` allows.

use std::cell::{Cell, RefCell};
use std::fmt::Debug;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};

use super::ForwardError;
use crate::config::{Server, Upstream};
use crate::telemetry::UpstreamMetrics;

/// How long a look-up may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// What failed is not asked for again so soon.
const AGAIN: Duration = Duration::from_secs(1);
/// Addresses of one name that are used; more are of no use to anybody.
const ADDRESSES_MAX: usize = 64;

/// Who knows the addresses of a name.
pub(super) trait Lookup: Debug {
    /// The addresses of `host`, with `port`.
    fn lookup(&self, host: &str, port: u16) -> Answer;
}

/// The addresses of a name, once they are known.
pub(super) type Answer = Pin<Box<dyn Future<Output = io::Result<Vec<SocketAddr>>>>>;

/// The system's resolver, on a thread of its own.
#[derive(Debug)]
pub(super) struct System;

impl Lookup for System {
    fn lookup(&self, host: &str, port: u16) -> Answer {
        let host = host.to_owned();
        Box::pin(async move { Ok(tokio::net::lookup_host((host, port)).await?.collect()) })
    }
}

/// The addresses of one server.
#[derive(Debug)]
pub(super) struct Addresses {
    host: String,
    port: u16,
    /// The only one there is, when the server is named by it.
    fixed: Option<SocketAddr>,
    known: RefCell<Vec<SocketAddr>>,
    /// When they were found.
    found: Cell<Option<Instant>>,
    /// When they were last asked for.
    asked: Cell<Option<Instant>>,
    /// Whether the last look-up failed.
    failing: Cell<bool>,
    turn: Cell<usize>,
    asking: Mutex<()>,
    interval: Duration,
    keep: Duration,
    lookup: Box<dyn Lookup>,
    metrics: Arc<UpstreamMetrics>,
}

impl Addresses {
    pub(super) fn new(
        server: &Server,
        upstream: &Upstream,
        metrics: &Arc<UpstreamMetrics>,
        lookup: Box<dyn Lookup>,
    ) -> Rc<Self> {
        let fixed = server.host.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, server.port));
        Rc::new(Self {
            host: server.host.clone(),
            port: server.port,
            fixed,
            known: RefCell::default(),
            found: Cell::default(),
            asked: Cell::default(),
            failing: Cell::default(),
            turn: Cell::default(),
            asking: Mutex::default(),
            interval: upstream.resolve_interval,
            keep: upstream.resolve_keep,
            lookup,
            metrics: Arc::clone(metrics),
        })
    }

    /// Host and port, as in `Host`.
    pub(super) fn name(&self) -> String {
        self.fixed.map_or_else(|| format!("{}:{}", self.host, self.port), |address| address.to_string())
    }

    /// All of them at `now`, another one first each time.
    ///
    /// # Errors
    ///
    /// When none are known.
    pub(super) async fn in_turn(self: &Rc<Self>, now: Instant) -> Result<Vec<SocketAddr>, ForwardError> {
        if let Some(fixed) = self.fixed {
            return Ok(vec![fixed]);
        }
        self.forget(now);
        if self.known.borrow().is_empty() {
            self.ask(now).await;
        } else {
            self.renew(now);
        }
        let mut addresses = self.known.borrow().clone();
        if addresses.is_empty() {
            return Err(ForwardError::Unresolved);
        }
        let turn = self.turn.get();
        self.turn.set(turn.wrapping_add(1));
        let first = turn % addresses.len();
        addresses.rotate_left(first);
        Ok(addresses)
    }

    /// Whether connections to `address` are still wanted.
    pub(super) fn is_listed(&self, address: SocketAddr) -> bool {
        self.fixed.is_some() || self.known.borrow().contains(&address)
    }

    /// Asks again, beside whoever calls, if it is time to.
    pub(super) fn renew(self: &Rc<Self>, now: Instant) {
        if self.fixed.is_none() && self.asked.get().is_some_and(|asked| now >= asked + self.interval) {
            self.ask_aside(now);
        }
    }

    /// Nobody could be reached at any of them: asks again, not waiting for the time to come.
    pub(super) fn unreachable(self: &Rc<Self>, now: Instant) {
        if self.fixed.is_none() && self.asked.get().is_some_and(|asked| now >= asked + AGAIN) {
            self.ask_aside(now);
        }
    }

    fn ask_aside(self: &Rc<Self>, now: Instant) {
        // Set at once, so that others do not ask as well.
        self.asked.set(Some(now));
        let this = Rc::clone(self);
        tokio::task::spawn_local(async move {
            this.look_up(now).await;
        });
    }

    /// Asks, unless others have just done so.
    async fn ask(&self, now: Instant) {
        let _turn = self.asking.lock().await;
        let just_failed = self.failing.get() && self.asked.get().is_some_and(|asked| now < asked + AGAIN);
        if self.known.borrow().is_empty() && !just_failed {
            self.look_up(now).await;
        }
    }

    async fn look_up(&self, now: Instant) {
        self.asked.set(Some(now));
        let found = match timeout(PATIENCE, self.lookup.lookup(&self.host, self.port)).await {
            Ok(Ok(found)) if found.is_empty() => Err(io::ErrorKind::NotFound.into()),
            Ok(found) => found,
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        };
        self.metrics.looked_up(found.is_ok());
        self.failing.set(found.is_err());
        match found {
            Ok(mut found) => {
                found.sort_unstable();
                found.dedup();
                found.truncate(ADDRESSES_MAX);
                self.found.set(Some(now));
                self.known.replace(found);
            }
            Err(error) => tracing::warn!(host = self.host, %error, "failed to look up an upstream server"),
        }
    }

    /// Forgets what was found too long ago.
    fn forget(&self, now: Instant) {
        if self.found.get().is_some_and(|found| now > found + self.keep) {
            self.known.borrow_mut().clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;
    use crate::proxy::upstream::standing::tests::upstream;
    use crate::telemetry::Metrics;

    /// Answers what it is told to, one after the other.
    #[derive(Clone, Debug, Default)]
    struct Told(Rc<RefCell<VecDeque<Option<Vec<u8>>>>>);

    impl Told {
        /// The addresses that end so; `None`: none can be had.
        fn next(&self, answer: Option<&[u8]>) {
            self.0.borrow_mut().push_back(answer.map(<[u8]>::to_vec));
        }
    }

    impl Lookup for Told {
        fn lookup(&self, host: &str, port: u16) -> Answer {
            assert_eq!(host, "shop.internal");
            let answer = self.0.borrow_mut().pop_front().expect("nobody should ask");
            let found = answer.map(|ends| ends.iter().map(|end| at(*end, port)).collect());
            Box::pin(async move { found.ok_or_else(|| io::ErrorKind::NotFound.into()) })
        }
    }

    fn at(end: u8, port: u16) -> SocketAddr {
        SocketAddr::new(IpAddr::from([10, 0, 0, end]), port)
    }

    fn named(host: &str, told: &Told) -> Rc<Addresses> {
        let upstream = Upstream {
            resolve_interval: Duration::from_secs(30),
            resolve_keep: Duration::from_secs(100),
            ..upstream(&[1])
        };
        let server = Server { host: host.to_owned(), ..upstream.servers[0].clone() };
        Addresses::new(&server, &upstream, &Metrics::new().upstream("shop"), Box::new(told.clone()))
    }

    /// The ends of all addresses, in turn; after whatever was begun has had its chance.
    async fn ends(addresses: &Rc<Addresses>, now: Instant) -> Result<Vec<u8>, ForwardError> {
        let all = addresses.in_turn(now).await;
        for _ in 0..8 {
            tokio::task::yield_now().await;
        }
        all.map(|all| all.iter().map(|it| if let IpAddr::V4(ip) = it.ip() { ip.octets()[3] } else { 0 }).collect())
    }

    fn run(test: impl Future<Output = ()>) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        tokio::task::LocalSet::new().block_on(&runtime, test);
    }

    #[test]
    fn all_addresses_are_used_in_turn_and_asked_for_again_in_time() {
        run(async {
            let told = Told::default();
            let addresses = named("shop.internal", &told);
            let start = Instant::now();
            let after = |seconds| start + Duration::from_secs(seconds);
            told.next(Some(&[2, 1, 2]));
            assert_eq!(ends(&addresses, start).await, Ok(vec![1, 2]));
            assert_eq!(ends(&addresses, after(29)).await, Ok(vec![2, 1]));
            told.next(Some(&[3]));
            assert_eq!(ends(&addresses, after(30)).await, Ok(vec![1, 2]), "nobody waits for the new ones");
            assert_eq!(ends(&addresses, after(31)).await, Ok(vec![3]));
            assert!(addresses.is_listed(at(3, 80)) && !addresses.is_listed(at(1, 80)));
            told.next(Some(&[4]));
            addresses.unreachable(after(32));
            addresses.unreachable(after(32));
            assert_eq!(ends(&addresses, after(32)).await, Ok(vec![3]));
            assert_eq!(ends(&addresses, after(32)).await, Ok(vec![4]));
        });
    }

    #[test]
    fn the_last_addresses_are_good_for_a_while_when_there_are_no_new_ones() {
        run(async {
            let told = Told::default();
            let addresses = named("shop.internal", &told);
            let start = Instant::now();
            let after = |seconds| start + Duration::from_secs(seconds);
            told.next(None);
            assert_eq!(ends(&addresses, start).await, Err(ForwardError::Unresolved));
            assert_eq!(ends(&addresses, start).await, Err(ForwardError::Unresolved), "and is not asked at once");
            told.next(Some(&[1]));
            assert_eq!(ends(&addresses, after(1)).await, Ok(vec![1]));
            for seconds in [31, 61, 91] {
                told.next(None);
                assert_eq!(ends(&addresses, after(seconds)).await, Ok(vec![1]), "{seconds}");
            }
            told.next(Some(&[]));
            assert_eq!(ends(&addresses, after(102)).await, Err(ForwardError::Unresolved));
            told.next(Some(&[5]));
            assert_eq!(ends(&addresses, after(103)).await, Ok(vec![5]));
        });
    }

    #[test]
    fn an_address_is_never_looked_up() {
        run(async {
            let addresses = named("10.0.0.9", &Told::default());
            for seconds in [0, 1000] {
                let now = Instant::now() + Duration::from_secs(seconds);
                addresses.renew(now);
                addresses.unreachable(now);
                assert_eq!(ends(&addresses, now).await, Ok(vec![9]));
            }
            assert_eq!(addresses.name(), "10.0.0.9:80");
        });
    }
}
