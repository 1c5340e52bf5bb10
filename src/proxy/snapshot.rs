//! What the request path reads: one generation of configuration, built whole and swapped at once.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::time::Instant;

use super::flight::Flights;
use super::headers::Cleaner;
use super::journal::Journal;
use super::need::Supplier;
use super::rate::RateLimits;
use super::request_id::RequestIds;
use super::route::RouteTable;
use super::upstream::{Group, Pool, UpstreamTls};
use crate::config::{Config, Identity};
use crate::gate::{Gate, TokenCache};
use crate::intake::Ledger;
use crate::keys::Published;
use crate::session::{Families, Registry, Sessions};
use crate::telemetry::{AccessLog, Audit, Counted, DecisionMetrics, Metrics, NONE, RouteMetrics, UpstreamMetrics};
use crate::time::Clock;

/// What lives as long as the process, shared by all threads.
#[derive(Debug)]
pub struct Shared {
    /// The configuration in force.
    pub snapshot: ArcSwap<Snapshot>,
    /// The way in for revocations that come with traffic: logouts and ended sessions.
    pub ledger: Arc<Ledger>,
    /// Which sessions are open.
    pub registry: Arc<Registry>,
    /// How far the refresh tokens of each have come.
    pub families: Arc<Families>,
    /// Where what a client ended is written down.
    pub audit: Arc<Audit>,
    /// Every exported series.
    pub metrics: Arc<Metrics>,
    /// Where the time comes from.
    pub clock: Clock,
}

/// One generation of configuration, as the request path needs it.
#[derive(Debug)]
pub struct Snapshot {
    /// The configuration itself.
    pub config: Config,
    /// What tokens are judged by.
    pub gate: Gate,
    /// By issuer of the gate: where what a decision lacks is had.
    pub suppliers: Vec<Option<Arc<dyn Supplier>>>,
    /// By issuer of the gate: keys that are fetched.
    pub published: Vec<Option<Arc<Published>>>,
    /// By upstream: how its `https` servers are spoken to.
    pub upstream_tls: Vec<Option<Arc<UpstreamTls>>>,
    /// Which route a request takes; an index into the configuration's.
    pub(super) routes: RouteTable,
    /// What must not reach an upstream.
    pub(super) cleaner: Arc<Cleaner>,
    /// The distinct identity mappings of the routes.
    pub mappings: Vec<Identity>,
    /// For each route, its mapping.
    pub mapping_of: Vec<usize>,
    /// Gateway sessions, when there are any.
    pub sessions: Option<Arc<Sessions>>,
    /// How often what may be asked.
    pub rate_limits: RateLimits,
    /// Where access-log lines go.
    pub access_log: Arc<AccessLog>,
    /// Series by route; the last is for requests that took none.
    pub route_metrics: Vec<Arc<RouteMetrics>>,
    /// Series by issuer of the gate; the last is for tokens of none.
    pub decision_metrics: Vec<Arc<DecisionMetrics>>,
    /// Series by upstream.
    pub upstream_metrics: Vec<Arc<UpstreamMetrics>>,
    /// By upstream: how its servers stand.
    pub groups: Vec<Arc<Group>>,
    /// Counts it for as long as anything holds it.
    _counted: Counted,
}

/// Where what is not in the configuration itself comes from.
#[derive(Debug, Default)]
pub struct Sources {
    /// By issuer of the gate: what decisions lack.
    pub suppliers: Vec<Option<Arc<dyn Supplier>>>,
    /// By issuer of the gate: keys that are fetched.
    pub published: Vec<Option<Arc<Published>>>,
    /// By upstream: how its `https` servers are spoken to.
    pub upstream_tls: Vec<Option<Arc<UpstreamTls>>>,
    /// How often what may be asked, and how it stands with that.
    pub rate_limits: RateLimits,
    /// How the servers of upstreams stood before; in no order.
    pub groups: Vec<Arc<Group>>,
}

impl Snapshot {
    /// Prepares `config` for the request path.
    #[must_use]
    pub fn new(
        config: Config,
        gate: Gate,
        sources: Sources,
        sessions: Option<Arc<Sessions>>,
        access_log: Arc<AccessLog>,
        metrics: &Metrics,
    ) -> Self {
        let upstream_metrics: Vec<_> =
            config.upstreams.iter().map(|upstream| metrics.upstream(&upstream.name)).collect();
        let upstreams = config.upstreams.iter().zip(&upstream_metrics);
        let groups = upstreams.map(|(upstream, metrics)| {
            let before = sources.groups.iter().find(|group| group.name() == upstream.name);
            Arc::new(Group::new(upstream, metrics, before.map(Arc::as_ref), Instant::now()))
        });
        let groups = groups.collect();
        let mut mappings: Vec<Identity> = Vec::new();
        let mapping_of = config.routes.iter().map(|route| {
            mappings.iter().position(|mapping| *mapping == route.identity).unwrap_or_else(|| {
                mappings.push(route.identity.clone());
                mappings.len() - 1
            })
        });
        let mapping_of = mapping_of.collect();
        let routes = config.routes.iter().map(|route| route.name.as_str()).chain([NONE]);
        let issuers = gate.issuers().iter().map(|issuer| issuer.name.as_str()).chain([NONE]);
        Self {
            routes: RouteTable::new(&config.routes),
            cleaner: Arc::new(Cleaner::new(mappings.iter().chain([&config.identity]), &config.token.from)),
            route_metrics: routes.map(|name| metrics.route(name)).collect(),
            decision_metrics: issuers.map(|name| metrics.issuer(name)).collect(),
            upstream_metrics,
            groups,
            rate_limits: sources.rate_limits,
            mappings,
            mapping_of,
            gate,
            suppliers: sources.suppliers,
            published: sources.published,
            upstream_tls: sources.upstream_tls,
            sessions,
            access_log,
            config,
            _counted: metrics.generation(),
        }
    }
}

/// One worker thread's own side of a snapshot: caches and connections that it shares with nobody.
#[derive(Debug)]
pub struct Local {
    /// The generation it belongs to.
    pub snapshot: Arc<Snapshot>,
    /// What lives as long as the process.
    pub shared: Arc<Shared>,
    /// Tokens this worker has verified.
    pub cache: TokenCache,
    /// Connections by upstream.
    pub(super) pools: Vec<Pool>,
    /// What of it goes on as long as what was begun under it.
    pub(super) journal: Rc<Journal>,
}

/// One worker thread's state.
#[derive(Debug)]
pub struct Worker {
    shared: Arc<Shared>,
    local: RefCell<Rc<Local>>,
    flights: Flights,
    /// Ids for requests that come without one.
    pub(super) request_ids: RequestIds,
}

impl Worker {
    /// A worker with empty caches. To be made on the thread it stays on.
    #[must_use]
    pub fn new(shared: Arc<Shared>) -> Self {
        let flights = Flights::default();
        let local = RefCell::new(Local::new(&shared, shared.snapshot.load_full(), &flights));
        Self { shared, local, flights, request_ids: RequestIds::default() }
    }

    /// This worker's side of the configuration in force. A reload starts with empty caches; requests
    /// under way keep what they began with.
    #[must_use]
    pub fn local(&self) -> Rc<Local> {
        let current = self.shared.snapshot.load();
        let mut local = self.local.borrow_mut();
        if !Arc::ptr_eq(&local.snapshot, &current) {
            *local = Local::new(&self.shared, Arc::clone(&current), &self.flights);
        }
        Rc::clone(&local)
    }

    /// Closes upstream connections that have been idle for too long. Asked now and then.
    pub fn reap(&self) {
        self.local().pools.iter().for_each(Pool::reap);
    }
}

impl Local {
    fn new(shared: &Arc<Shared>, snapshot: Arc<Snapshot>, flights: &Flights) -> Rc<Self> {
        let tls = snapshot.upstream_tls.iter().map(Option::as_ref).chain(std::iter::repeat(None));
        let upstreams = snapshot.config.upstreams.iter().zip(tls).zip(&snapshot.groups);
        Rc::new(Self {
            cache: TokenCache::new(snapshot.config.token.cache_bytes),
            pools: upstreams.map(|((upstream, tls), group)| Pool::new(upstream, tls, group)).collect(),
            journal: Rc::new(Journal::new(shared, &snapshot, flights)),
            shared: Arc::clone(shared),
            snapshot,
        })
    }
}
