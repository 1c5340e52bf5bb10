//! What became of requests sent upstream, and the connections they went over.

use prometheus::{IntCounter, IntGauge};

use super::ServerMetrics;
use super::series::Series;

/// How one attempt to have a request answered by an upstream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum UpstreamResult {
    /// A whole response came.
    Answered,
    /// No connection could be made.
    Refused,
    /// The server's name has no address.
    Unresolved,
    /// The server could not be verified over TLS, or did not accept the gateway's certificate.
    TlsFailed,
    /// A connection took too long to be made.
    ConnectTimedOut,
    /// A response took too long.
    TimedOut,
    /// The connection broke before the end of the response.
    Broken,
    /// No connection could be made, and too many requests waited for one.
    QueueFull,
    /// No connection became free in time.
    QueueTimedOut,
    /// The client went away first.
    ClientGone,
    /// No server was asked, because none is healthy.
    NoServer,
}

impl UpstreamResult {
    /// Every result.
    pub const ALL: [Self; 11] = [
        Self::Answered,
        Self::Refused,
        Self::Unresolved,
        Self::TlsFailed,
        Self::ConnectTimedOut,
        Self::TimedOut,
        Self::Broken,
        Self::QueueFull,
        Self::QueueTimedOut,
        Self::ClientGone,
        Self::NoServer,
    ];

    /// The label value.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Refused => "refused",
            Self::Unresolved => "unresolved",
            Self::QueueFull => "queue_full",
            Self::QueueTimedOut => "queue_timed_out",
            Self::TlsFailed => "tls_failed",
            Self::ConnectTimedOut => "connect_timed_out",
            Self::TimedOut => "timed_out",
            Self::Broken => "broken",
            Self::ClientGone => "client_gone",
            Self::NoServer => "no_server",
        }
    }
}

/// The series of one upstream group.
#[derive(Debug)]
pub struct UpstreamMetrics {
    requests: [IntCounter; UpstreamResult::ALL.len()],
    /// Connections with a request on them; raised and lowered by whoever holds one.
    pub active: IntGauge,
    /// Connections waiting for a request.
    pub idle: IntGauge,
    /// How its servers stand, and what was sent again.
    pub servers: ServerMetrics,
    /// Requests waiting for a connection.
    pub queued: IntGauge,
    /// Look-ups of names that gave an address, and that did not.
    lookups: [IntCounter; 2],
}

impl UpstreamMetrics {
    pub(super) fn new(series: &Series, upstream: &str) -> Self {
        let connections = |state| {
            let labels = [("upstream", upstream), ("state", state)];
            series.gauge("upstream_connections", "Open connections to upstream servers.", &labels)
        };
        let requests = UpstreamResult::ALL.map(|result| {
            let labels = [("upstream", upstream), ("result", result.name())];
            series.counter("upstream_requests_total", "Requests sent upstream, by how they ended.", &labels)
        });
        let lookups = ["failed", "ok"].map(|result| {
            let labels = [("upstream", upstream), ("result", result)];
            series.counter("upstream_lookups_total", "Look-ups of the names of upstream servers.", &labels)
        });
        let queued =
            series.gauge("upstream_queued", "Requests waiting for an upstream connection.", &[("upstream", upstream)]);
        let servers = ServerMetrics::new(series, upstream);
        Self { requests, active: connections("active"), idle: connections("idle"), servers, queued, lookups }
    }

    /// Counts one look-up of a name.
    pub fn looked_up(&self, found: bool) {
        self.lookups[usize::from(found)].inc();
    }

    /// Counts one attempt.
    pub fn ended(&self, result: UpstreamResult) {
        self.requests[result as usize].inc();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::Metrics;

    #[test]
    fn each_result_has_its_own_series() {
        let metrics = Metrics::new();
        let shop = metrics.upstream("shop");
        for (times, result) in UpstreamResult::ALL.into_iter().enumerate() {
            (0..=times).for_each(|_| shop.ended(result));
        }
        shop.active.inc();
        let text = metrics.render();
        for (times, result) in UpstreamResult::ALL.into_iter().enumerate() {
            let line = format!(r#"requests_total{{result="{}",upstream="shop"}} {}"#, result.name(), times + 1);
            assert!(text.contains(&line), "{line}");
        }
        assert!(text.contains(r#"portcullis_upstream_connections{state="active",upstream="shop"} 1"#));
        assert!(text.contains(r#"portcullis_upstream_connections{state="idle",upstream="shop"} 0"#));
    }
}
