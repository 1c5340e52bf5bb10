//! Every exported series, in one struct (`portcullis_` and `process_`).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use prometheus::process_collector::ProcessCollector;
use prometheus::{Histogram, IntCounter, IntGauge, TextEncoder};

use super::certificates::CertificateMetrics;
use super::series::{Counted, Series};
use super::{
    ClusterMetrics, DecisionMetrics, KeysMetrics, Limit, LimitMetrics, RouteMetrics, StreamMetrics, UpstreamMetrics,
    buckets,
};
use crate::revocation::{Reason, Source, TargetKind};
use crate::token::Algorithm;

/// What the store was doing when it failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum StoreOperation {
    /// Making entries durable.
    Append,
    /// Removing forgotten entries.
    Trim,
    /// Reading entries back.
    Read,
}

impl StoreOperation {
    const ALL: [Self; 3] = [Self::Append, Self::Trim, Self::Read];

    const fn name(self) -> &'static str {
        match self {
            Self::Append => "append",
            Self::Trim => "trim",
            Self::Read => "read",
        }
    }
}

/// What became of a reissue that was due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum ReissueResult {
    /// A new token was minted.
    Minted,
    /// A parallel or earlier request had minted it; the same one was handed out.
    Shared,
    /// The session was no longer in good standing when the upstream had answered.
    Refused,
    /// Minting failed.
    Failed,
    /// The cookie would be larger than browsers keep, so the old one was left as it is.
    TooLarge,
    /// With `rotation: strict`, a token came that had been replaced too long ago, and its session ended.
    Reused,
}

impl ReissueResult {
    const ALL: [Self; 6] = [Self::Minted, Self::Shared, Self::Refused, Self::Failed, Self::TooLarge, Self::Reused];

    const fn name(self) -> &'static str {
        match self {
            Self::Minted => "minted",
            Self::Shared => "shared",
            Self::Refused => "refused",
            Self::Failed => "failed",
            Self::TooLarge => "too_large",
            Self::Reused => "reused",
        }
    }
}

/// What became of a refresh.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum RefreshResult {
    /// The token was taken for its successor.
    Rotated,
    /// It had been taken within the grace: its successor was handed out again.
    Repeated,
    /// It had been taken before, and its session ended.
    Reused,
    /// Its session is no longer in good standing.
    Refused,
    /// The request is none, or the token is unknown, or has lapsed.
    Invalid,
    /// The gateway failed, or could not make it durable.
    Failed,
    /// A session was opened without a refresh token, because the bound was reached or the store failed.
    NotOpened,
}

impl RefreshResult {
    const ALL: [Self; 7] =
        [Self::Rotated, Self::Repeated, Self::Reused, Self::Refused, Self::Invalid, Self::Failed, Self::NotOpened];

    const fn name(self) -> &'static str {
        match self {
            Self::Rotated => "rotated",
            Self::Repeated => "repeated",
            Self::Reused => "reused",
            Self::Refused => "refused",
            Self::Invalid => "invalid",
            Self::Failed => "failed",
            Self::NotOpened => "not_opened",
        }
    }
}

/// How a session was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum SessionOpening {
    /// With a token of another issuer.
    Exchange,
    /// By an upstream's `X-Session-Grant`.
    Grant,
}

impl SessionOpening {
    const ALL: [Self; 2] = [Self::Exchange, Self::Grant];

    const fn name(self) -> &'static str {
        match self {
            Self::Exchange => "exchange",
            Self::Grant => "grant",
        }
    }
}

type Table<T> = Mutex<HashMap<String, Arc<T>>>;

/// The handles of all series. One a process; they are prepared when a configuration is loaded, and a
/// label set that stays keeps its handle, and so its count.
#[derive(Debug)]
pub struct Metrics {
    series: Series,
    routes: Table<RouteMetrics>,
    issuers: Table<DecisionMetrics>,
    upstreams: Table<UpstreamMetrics>,
    keys: Table<KeysMetrics>,
    certificates: Mutex<CertificateMetrics>,
    verifications: [OnceLock<Histogram>; Algorithm::ALL.len()],
    rate_limits: Table<IntCounter>,
    /// Limits that have bitten.
    pub limits: LimitMetrics,
    /// Tunnels and long answers.
    pub streams: StreamMetrics,
    /// Other nodes.
    pub cluster: ClusterMetrics,
    /// `requests_in_flight`: raised when a request head was read, lowered when its response has ended.
    pub requests_in_flight: IntGauge,
    /// `token_cache_total{result="hit"}`: the signature was known to be good.
    pub token_cache_hits: IntCounter,
    /// `token_cache_total{result="miss"}`.
    pub token_cache_misses: IntCounter,
    /// Lines of the access log that were lost: the queue was full, or the file could not be written.
    pub access_log_lost: IntCounter,
    /// Lines of the audit log that could not be made durable.
    pub audit_errors: IntCounter,
    revocations: [IntGauge; TargetKind::ALL.len()],
    revoked: [[[OnceLock<IntCounter>; Source::ALL.len()]; Reason::ALL.len()]; TargetKind::ALL.len()],
    store_errors: [IntCounter; StoreOperation::ALL.len()],
    reissues: [IntCounter; ReissueResult::ALL.len()],
    /// `refresh_reuse_total`: sessions ended because a refresh token came that had been taken before.
    pub refresh_reuse: IntCounter,
    refreshes: [IntCounter; RefreshResult::ALL.len()],
    sessions: [IntCounter; SessionOpening::ALL.len()],
    reloads: [IntCounter; 2],
    generations: IntGauge,
    last_reload_successful: IntGauge,
}

impl Metrics {
    /// All series that do not depend on the configuration, at zero.
    #[must_use]
    pub fn new() -> Self {
        let series = Series::new();
        let cache = |result| series.counter("token_cache_total", "Look-ups of verified tokens.", &[("result", result)]);
        let reloads = |result| {
            let help = "Attempts to take up a changed configuration.";
            series.counter("config_reloads_total", help, &[("result", result)])
        };
        let last_reload_successful =
            series.gauge("config_last_reload_successful", "Whether the last reload, or the start, succeeded.", &[]);
        last_reload_successful.set(1);
        let build = [("version", env!("CARGO_PKG_VERSION"))];
        series.gauge("build_info", "The build that runs; always 1.", &build).set(1);
        series.register("process_*", ProcessCollector::for_self());
        Self {
            routes: Table::default(),
            issuers: Table::default(),
            upstreams: Table::default(),
            keys: Table::default(),
            certificates: Mutex::default(),
            verifications: std::array::from_fn(|_| OnceLock::new()),
            rate_limits: Table::default(),
            limits: LimitMetrics::new(&series),
            streams: StreamMetrics::new(&series),
            cluster: ClusterMetrics::new(&series),
            requests_in_flight: series.gauge("requests_in_flight", "Requests being worked on.", &[]),
            token_cache_hits: cache("hit"),
            token_cache_misses: cache("miss"),
            access_log_lost: series.counter("access_log_lost_total", "Access-log lines that were not written.", &[]),
            audit_errors: series.counter("audit_errors_total", "Audit lines that could not be made durable.", &[]),
            revocations: TargetKind::ALL
                .map(|kind| series.gauge("revocations", "Revocations in force.", &[("kind", kind.name())])),
            revoked: std::array::from_fn(|_| std::array::from_fn(|_| std::array::from_fn(|_| OnceLock::new()))),
            store_errors: StoreOperation::ALL
                .map(|op| series.counter("store_errors_total", "Failures of the store.", &[("op", op.name())])),
            reissues: ReissueResult::ALL
                .map(|it| series.counter("reissues_total", "Due reissues.", &[("result", it.name())])),
            refresh_reuse: series.counter(
                "refresh_reuse_total",
                "Sessions ended because a refresh token was used twice.",
                &[],
            ),
            refreshes: RefreshResult::ALL
                .map(|it| series.counter("refreshes_total", "Refreshes.", &[("result", it.name())])),
            sessions: SessionOpening::ALL
                .map(|how| series.counter("sessions_opened_total", "Sessions opened.", &[("how", how.name())])),
            reloads: ["ok", "failed"].map(reloads),
            generations: series.gauge("config_generations", "Generations of configuration that are in memory.", &[]),
            last_reload_successful,
            series,
        }
    }

    /// The series of the route `name`; for requests that matched none, [`super::NONE`].
    #[must_use]
    pub fn route(&self, name: &str) -> Arc<RouteMetrics> {
        entry(&self.routes, name, || RouteMetrics::new(&self.series, name))
    }

    /// The decisions about tokens of the issuer `name`; when it is not known, [`super::NONE`].
    #[must_use]
    pub fn issuer(&self, name: &str) -> Arc<DecisionMetrics> {
        entry(&self.issuers, name, || DecisionMetrics::new(&self.series, name))
    }

    /// The series of the upstream `name`.
    #[must_use]
    pub fn upstream(&self, name: &str) -> Arc<UpstreamMetrics> {
        entry(&self.upstreams, name, || UpstreamMetrics::new(&self.series, name))
    }

    /// The series of the published keys of the issuer `name`.
    #[must_use]
    pub fn keys(&self, name: &str) -> Arc<KeysMetrics> {
        entry(&self.keys, name, || KeysMetrics::new(&self.series, name))
    }

    /// Says for how long the certificates that listeners show are good: each with the listener's address and
    /// its first name. What is not among them is not exported any more.
    pub fn set_certificates<'c>(&self, shown: impl IntoIterator<Item = (&'c str, &'c str, Duration)>) {
        self.certificates.lock().unwrap_or_else(PoisonError::into_inner).set(&self.series, shown);
    }

    /// `rate_limited_total` of the rule `name`, and what counts the quotas that there was no room for.
    #[must_use]
    pub fn rate_limit(&self, name: &str) -> (IntCounter, IntCounter) {
        let help = "Requests refused by a rate limit.";
        let limited =
            entry(&self.rate_limits, name, || self.series.counter("rate_limited_total", help, &[("rule", name)]));
        (IntCounter::clone(&limited), self.limits.counter(Limit::RateLimitKeys))
    }

    /// Counts one signature check.
    pub fn verified(&self, algorithm: Algorithm, took: Duration) {
        let histogram = self.verifications[algorithm as usize].get_or_init(|| {
            let labels = [("algorithm", algorithm.name())];
            let help = "Time a signature check took.";
            self.series.histogram("verification_duration_seconds", help, &labels, &buckets::VERIFICATION)
        });
        histogram.observe(took.as_secs_f64());
    }

    /// Counts one revocation that came into force.
    pub fn revoked(&self, kind: TargetKind, reason: Reason, source: Source) {
        let counter = self.revoked[kind as usize - 1][reason as usize - 1][source as usize - 1].get_or_init(|| {
            let labels = [("kind", kind.name()), ("reason", reason.name()), ("source", source.name())];
            self.series.counter("revocations_total", "Revocations that came into force.", &labels)
        });
        counter.inc();
    }

    /// Says how many revocations of `kind` are in force; asked of the map when metrics are read.
    pub fn set_revocations(&self, kind: TargetKind, count: u64) {
        self.revocations[kind as usize - 1].set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// Counts one failure of the store.
    pub fn store_failed(&self, operation: StoreOperation) {
        self.store_errors[operation as usize].inc();
    }

    /// Counts one reissue that was due.
    pub fn reissued(&self, result: ReissueResult) {
        self.reissues[result as usize].inc();
    }

    /// Counts one refresh.
    pub fn refreshed(&self, result: RefreshResult) {
        self.refreshes[result as usize].inc();
    }

    /// Counts one new session.
    pub fn session_opened(&self, how: SessionOpening) {
        self.sessions[how as usize].inc();
    }

    /// Counts a generation of configuration until what this gives is dropped.
    #[must_use]
    pub fn generation(&self) -> Counted {
        Counted::new(&self.generations)
    }

    /// Counts one reload, and remembers whether it succeeded.
    pub fn reloaded(&self, ok: bool) {
        self.reloads[usize::from(!ok)].inc();
        self.last_reload_successful.set(i64::from(ok));
    }

    /// All series in the text format 0.0.4. Reads `/proc`, so not for a worker thread.
    #[must_use]
    pub fn render(&self) -> String {
        let mut text = String::new();
        if let Err(error) = TextEncoder::new().encode_utf8(&self.series.registry().gather(), &mut text) {
            tracing::error!(error = &error as &dyn std::error::Error, "metrics cannot be written");
        }
        text
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

fn entry<T>(table: &Table<T>, name: &str, make: impl FnOnce() -> T) -> Arc<T> {
    let mut table = table.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = table.get(name) {
        return Arc::clone(known);
    }
    let made = Arc::new(make());
    table.insert(name.to_owned(), Arc::clone(&made));
    made
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_series_is_there_under_its_name() {
        let metrics = Metrics::new();
        metrics.route("r").finished(&http::Method::GET, http::StatusCode::OK, Duration::from_millis(1));
        metrics.issuer("i").permitted();
        metrics.upstream("u").ended(super::super::UpstreamResult::Answered);
        for algorithm in Algorithm::ALL {
            metrics.verified(algorithm, Duration::from_micros(50));
        }
        for kind in TargetKind::ALL {
            metrics.set_revocations(kind, 3);
            for reason in Reason::ALL {
                for source in Source::ALL {
                    metrics.revoked(kind, reason, source);
                }
            }
        }
        StoreOperation::ALL.into_iter().for_each(|it| metrics.store_failed(it));
        ReissueResult::ALL.into_iter().for_each(|it| metrics.reissued(it));
        RefreshResult::ALL.into_iter().for_each(|it| metrics.refreshed(it));
        metrics.refresh_reuse.inc();
        SessionOpening::ALL.into_iter().for_each(|it| metrics.session_opened(it));
        let _generation = metrics.generation();
        drop(metrics.generation());
        metrics.reloaded(true);
        metrics.reloaded(false);
        metrics.requests_in_flight.inc();
        let _open = metrics.streams.opened();
        drop(metrics.streams.opened());
        metrics.streams.cut("revoked_session");
        metrics.token_cache_hits.inc();

        let text = metrics.render();
        for line in [
            r#"portcullis_requests_total{method="GET",route="r",status="200"} 1"#,
            r#"portcullis_request_duration_seconds_bucket{route="r",le="0.0025"} 1"#,
            "portcullis_requests_in_flight 1",
            "portcullis_streams_open 1",
            r#"portcullis_streams_cut_total{reason="revoked_session"} 1"#,
            r#"portcullis_decisions_total{issuer="i",outcome="permit",reason="none"} 1"#,
            r#"portcullis_verification_duration_seconds_count{algorithm="EdDSA"} 1"#,
            r#"portcullis_verification_duration_seconds_count{algorithm="RS512"} 1"#,
            r#"portcullis_token_cache_total{result="hit"} 1"#,
            r#"portcullis_token_cache_total{result="miss"} 0"#,
            r#"portcullis_revocations{kind="subject"} 3"#,
            r#"portcullis_revocations_total{kind="token",reason="logout",source="admin"} 1"#,
            r#"portcullis_revocations_total{kind="all",reason="admin",source="gateway"} 1"#,
            r#"portcullis_store_errors_total{op="append"} 1"#,
            r#"portcullis_store_errors_total{op="trim"} 1"#,
            r#"portcullis_reissues_total{result="minted"} 1"#,
            r#"portcullis_reissues_total{result="refused"} 1"#,
            r#"portcullis_reissues_total{result="too_large"} 1"#,
            r#"portcullis_reissues_total{result="reused"} 1"#,
            r#"portcullis_refreshes_total{result="rotated"} 1"#,
            r#"portcullis_refreshes_total{result="not_opened"} 1"#,
            "portcullis_refresh_reuse_total 1",
            r#"portcullis_sessions_opened_total{how="exchange"} 1"#,
            r#"portcullis_sessions_opened_total{how="grant"} 1"#,
            r#"portcullis_upstream_requests_total{result="answered",upstream="u"} 1"#,
            r#"portcullis_upstream_connections{state="idle",upstream="u"} 0"#,
            r#"portcullis_config_reloads_total{result="ok"} 1"#,
            r#"portcullis_config_reloads_total{result="failed"} 1"#,
            "portcullis_config_last_reload_successful 0",
            "portcullis_config_generations 1",
            "portcullis_access_log_lost_total 0",
            "portcullis_audit_errors_total 0",
            concat!("portcullis_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1"),
            "# TYPE process_resident_memory_bytes gauge",
            "# TYPE process_open_fds gauge",
        ] {
            assert!(text.lines().any(|it| it == line), "{line}\n{text}");
        }
        assert_eq!(text.matches("portcullis_revocations_total{").count(), 7 * 10 * 3);
    }
}
