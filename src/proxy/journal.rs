//! What a request is counted and logged with: all that a tunnel, or an answer that takes its time, holds of
//! the configuration it began under.
//!
//! The rest of a generation, with its caches and its connections to upstreams, goes when the next has come and
//! the requests that are being walked through it are answered. Whatever goes on is judged by the one in force.

use std::sync::Arc;
use std::time::Duration;

use super::flight::{Flight, Flights};
use super::headers::Cleaner;
use super::snapshot::{Shared, Snapshot};
use crate::telemetry::{AccessLog, DecisionMetrics, RouteMetrics};

/// One worker's, for one generation.
#[derive(Debug)]
pub(super) struct Journal {
    /// What lives as long as the process.
    pub(super) shared: Arc<Shared>,
    /// Requests in flight.
    pub(super) in_flight: Flight,
    /// The same by upstream.
    pub(super) in_flight_at: Vec<Flight>,
    /// Where access-log lines go.
    pub(super) access_log: Arc<AccessLog>,
    /// How long a tunnel may be silent.
    pub(super) tunnel_idle_timeout: Duration,
    /// How long its client may take nothing.
    pub(super) write_timeout: Duration,
    /// Series by route; the last is for requests that took none.
    pub(super) route_metrics: Vec<Arc<RouteMetrics>>,
    /// Series by issuer of the gate; the last is for tokens of none.
    pub(super) decision_metrics: Vec<Arc<DecisionMetrics>>,
    /// What must not reach an upstream, behind a body either.
    pub(super) cleaner: Arc<Cleaner>,
    names: Names,
}

/// What a line of the log calls things by.
#[derive(Debug)]
struct Names {
    /// By route, with its upstream.
    routes: Box<[(Box<str>, usize)]>,
    upstreams: Box<[Box<str>]>,
    issuers: Box<[Box<str>]>,
}

impl Journal {
    /// A worker's, for `snapshot`, with what it has in flight already.
    pub(super) fn new(shared: &Arc<Shared>, snapshot: &Snapshot, flights: &Flights) -> Self {
        let (config, workers) = (&snapshot.config, snapshot.config.workers);
        let at = config.upstreams.iter().map(|it| flights.at(&it.name).bounded(it.max_requests, workers));
        let names = Names {
            routes: config.routes.iter().map(|route| (route.name.as_str().into(), route.upstream)).collect(),
            upstreams: config.upstreams.iter().map(|upstream| upstream.name.as_str().into()).collect(),
            issuers: snapshot.gate.issuers().iter().map(|issuer| issuer.name.as_str().into()).collect(),
        };
        Self {
            in_flight: flights.all().bounded(config.limits.requests_in_flight, workers),
            in_flight_at: at.collect(),
            shared: Arc::clone(shared),
            access_log: Arc::clone(&snapshot.access_log),
            tunnel_idle_timeout: config.limits.tunnel_idle_timeout,
            write_timeout: config.limits.write_timeout,
            route_metrics: snapshot.route_metrics.clone(),
            decision_metrics: snapshot.decision_metrics.clone(),
            cleaner: Arc::clone(&snapshot.cleaner),
            names,
        }
    }

    /// The name of the route at `route`.
    pub(super) fn route(&self, route: usize) -> Option<&str> {
        self.names.routes.get(route).map(|(name, _)| &**name)
    }

    /// The name of the upstream of the route at `route`.
    pub(super) fn upstream_of(&self, route: usize) -> Option<&str> {
        let (_, upstream) = self.names.routes.get(route)?;
        self.names.upstreams.get(*upstream).map(|name| &**name)
    }

    /// The name of the issuer at `issuer` of the gate.
    pub(super) fn issuer(&self, issuer: usize) -> Option<&str> {
        self.names.issuers.get(issuer).map(|name| &**name)
    }
}
