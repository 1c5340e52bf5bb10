//! What is remembered of one request until its response has ended: for the metrics and the access log.

use std::cell::Cell;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::request::Parts;
use http::{HeaderValue, Method, StatusCode};

use super::answer::Refusal;
use super::body::{BodyFailure, Progress};
use super::headers::Peer;
use super::journal::Journal;
use super::rate::Told;
use super::sender::RequestSender;
use super::snapshot::Snapshot;
use super::stream::{Handover, Upgraded};
use crate::gate::{Denial, Remembered};
use crate::telemetry::{DecisionMetrics, Limit, Line};
use crate::time::Timestamp;

/// One request on its way. Whatever becomes of it, it is counted and logged once: when this is dropped,
/// with the response body or, if the client went away before there was one, with the request.
#[derive(Debug)]
pub(super) struct Record {
    /// What it is counted and logged with.
    pub(super) journal: Rc<Journal>,
    /// When its head had been read: the `now` of its decision.
    pub(super) time: Timestamp,
    /// The same on the clock that only goes forward.
    pub(super) started: Instant,
    /// Its id.
    pub(super) request_id: HeaderValue,
    /// The connection it came on.
    pub(super) peer: Rc<Peer>,
    /// What that connection comes to.
    pub(super) handover: Rc<Handover>,
    /// Where it came from.
    pub(super) client: IpAddr,
    /// Its method.
    pub(super) method: Method,
    /// The route it took.
    pub(super) route: Option<usize>,
    /// The status it was answered with.
    pub(super) status: StatusCode,
    /// Why the gateway answered itself.
    pub(super) reason: Option<&'static str>,
    /// Why it would have been refused, on a route that only reports.
    pub(super) would_refuse: Option<&'static str>,
    /// The token it was admitted with.
    pub(super) bearer: Option<Rc<Remembered>>,
    /// Whether its token came in a cookie.
    pub(super) cookie_borne: Cell<bool>,
    /// How long its upstream took to answer.
    pub(super) upstream_took: Option<Duration>,
    /// How its body came in.
    pub(super) body: Option<Rc<Progress>>,
    /// Bytes of the response body that were handed on.
    pub(super) bytes_out: u64,
    /// Bytes of a tunnel that came from the client.
    pub(super) tunnel_in: u64,
    /// The upstream's side of the tunnel that this request opens.
    pub(super) upgraded: Option<Box<Upgraded>>,
    /// The upstream it is in flight at.
    at_upstream: Option<usize>,
    /// Whether it was counted as finished already.
    counted: bool,
    /// What the client is told of the rate limits that were asked for it.
    pub(super) told: Option<Box<Told>>,
    /// Host and path, only if they are going to be logged.
    pub(super) target: Option<Box<(String, String)>>,
}

impl Record {
    /// Begins the record of a request whose head was read at `time`.
    #[must_use]
    pub(super) fn begin(
        journal: &Rc<Journal>,
        time: Timestamp,
        (peer, handover): (Rc<Peer>, Rc<Handover>),
        client: IpAddr,
        method: Method,
        request_id: HeaderValue,
    ) -> Self {
        journal.shared.metrics.requests_in_flight.inc();
        journal.in_flight.begin();
        Self {
            journal: Rc::clone(journal),
            time,
            started: Instant::now(),
            request_id,
            peer,
            handover,
            client,
            method,
            route: None,
            // What a client that goes away before any answer is counted under, as nginx does.
            status: StatusCode::from_u16(499).unwrap_or(StatusCode::BAD_REQUEST),
            reason: None,
            would_refuse: None,
            bearer: None,
            cookie_borne: Cell::new(false),
            upstream_took: None,
            body: None,
            bytes_out: 0,
            tunnel_in: 0,
            upgraded: None,
            at_upstream: None,
            counted: false,
            told: None,
            target: None,
        }
    }

    /// The id as text.
    #[must_use]
    pub(super) fn request_id(&self) -> &str {
        self.request_id.to_str().unwrap_or_default()
    }

    /// What its head and its connection show of who sends it, as `snapshot` trusts them.
    #[must_use]
    pub(super) fn sender<'r>(&'r self, head: &'r Parts, snapshot: &Snapshot) -> RequestSender<'r> {
        let trusted = self.peer.is_trusted(&snapshot.config.trusted_proxies);
        RequestSender::new(head, &self.peer, trusted)
    }

    /// Counts a negative decision about a token of the issuer at `issuer`, if that was known.
    pub(super) fn denied(&self, denial: &Denial, issuer: Option<usize>) {
        if let Some(metrics) = self.decisions(issuer) {
            metrics.denied(denial);
        }
    }

    /// Counts a decision that would have been negative, and keeps its reason for the log.
    pub(super) fn would_deny(&mut self, denial: &Denial, issuer: Option<usize>) {
        self.would_refuse = Some(denial.reason());
        if let Some(metrics) = self.decisions(issuer) {
            metrics.would_deny(denial);
        }
    }

    fn decisions(&self, issuer: Option<usize>) -> Option<&Arc<DecisionMetrics>> {
        let metrics = &self.journal.decision_metrics;
        metrics.get(issuer.unwrap_or(metrics.len() - 1))
    }

    /// Counts the request as finished. Of one that opens a tunnel that is so when the tunnel begins: what
    /// lasts for hours is no request in flight, and its time none of a request's.
    pub(super) fn count(&mut self) {
        if std::mem::replace(&mut self.counted, true) {
            return;
        }
        let journal = &self.journal;
        journal.shared.metrics.requests_in_flight.dec();
        journal.in_flight.end();
        if let Some(flight) = self.at_upstream.and_then(|upstream| journal.in_flight_at.get(upstream)) {
            flight.end();
        }
        let place = self.route.unwrap_or(journal.route_metrics.len() - 1);
        if let Some(metrics) = journal.route_metrics.get(place) {
            metrics.finished(&self.method, self.status, self.started.elapsed());
        }
    }

    /// Counts it among the requests at `upstream`.
    ///
    /// # Errors
    ///
    /// When there are too many.
    pub(super) fn enter_upstream(&mut self, upstream: usize) -> Result<(), Refusal> {
        let Some(flight) = self.journal.in_flight_at.get(upstream) else { return Err(Refusal::Internal) };
        flight.begin();
        self.at_upstream = Some(upstream);
        if flight.is_full() { Err(Refusal::UpstreamOverloaded) } else { Ok(()) }
    }

    /// The limit that its body has met.
    fn limit_met(&self) -> Option<Limit> {
        match self.body.as_ref()?.failure()? {
            BodyFailure::Broken => None,
            BodyFailure::Silent => Some(Limit::BodyTimeout),
            BodyFailure::TooLarge => Some(Limit::MaxBody),
            BodyFailure::TooLate => Some(Limit::RequestTimeout),
            BodyFailure::TooSlow => Some(Limit::BodyMinRate),
        }
    }

    fn log(&self, duration: Duration) {
        let journal = &self.journal;
        let upstream = self.upstream_took.and(self.route).and_then(|route| journal.upstream_of(route));
        let verified = self.bearer.as_ref().map(|bearer| &bearer.verified);
        let (host, path) = self.target.as_deref().map_or(("", ""), |(host, path)| (host.as_str(), path.as_str()));
        journal.access_log.record(&Line {
            time: self.time,
            request_id: self.request_id(),
            client: self.client,
            method: self.method.as_str(),
            host,
            path,
            route: self.route.and_then(|route| journal.route(route)).unwrap_or(crate::telemetry::NONE),
            status: self.status.as_u16(),
            bytes_in: self.body.as_ref().map_or(0, |body| body.received()) + self.tunnel_in,
            bytes_out: self.bytes_out,
            duration,
            upstream,
            upstream_duration: self.upstream_took,
            reason: self.reason.or(self.would_refuse),
            report_only: self.reason.is_none() && self.would_refuse.is_some(),
            issuer: verified.and_then(|verified| journal.issuer(verified.issuer)),
            jti: verified.and_then(|verified| verified.claims.id.as_deref()),
            sid: verified.and_then(|verified| verified.claims.session.as_deref()),
        });
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        self.count();
        if let Some(limit) = self.limit_met() {
            self.journal.shared.metrics.limits.hit(limit);
        }
        if self.journal.access_log.enabled() {
            self.log(self.started.elapsed());
        }
    }
}
