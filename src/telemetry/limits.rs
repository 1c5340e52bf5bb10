//! Limits that have bitten.

use prometheus::IntCounter;

use super::series::Series;

/// A limit, by the name it has in the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Limit {
    /// A request body brought too little in its time.
    BodyMinRate,
    /// Nothing came of a request body.
    BodyTimeout,
    /// Too many connections in the process: it was not served at once.
    Connections,
    /// Too many connections of one client address: it was closed.
    ConnectionsPerClient,
    /// Too many connections of one worker: none was accepted.
    ConnectionsPerWorker,
    /// A TLS handshake took too long.
    HandshakeTimeout,
    /// Too many TLS handshakes of one worker: it waited for its turn.
    HandshakesPerWorker,
    /// A request head was too large.
    HeaderBytes,
    /// A request head had too many fields.
    HeaderCount,
    /// A request head took too long.
    HeaderTimeout,
    /// Too many frames of an HTTP/2 connection asked for nothing: it ended.
    Http2ControlFrames,
    /// Too many requests of an HTTP/2 connection were taken back: it ended.
    Http2Resets,
    /// Too many requests of an HTTP/2 connection at the same time: it was refused.
    Http2Streams,
    /// A connection was idle for too long.
    IdleTimeout,
    /// A request body was too large.
    MaxBody,
    /// An upstream had too many requests in flight.
    MaxRequests,
    /// A rule on rates had too many keys: a newcomer shared a quota.
    RateLimitKeys,
    /// A request took too long to come.
    RequestTimeout,
    /// The gateway had too many requests in flight.
    RequestsInFlight,
    /// A connection had brought enough requests, and was ended.
    RequestsPerConnection,
    /// A token was too large.
    TokenBytes,
    /// Nothing passed through a tunnel.
    TunnelIdleTimeout,
    /// A request target was too long.
    UriBytes,
    /// A client did not read its answer.
    WriteTimeout,
}

impl Limit {
    const ALL: [Self; 24] = [
        Self::BodyMinRate,
        Self::BodyTimeout,
        Self::Connections,
        Self::ConnectionsPerClient,
        Self::ConnectionsPerWorker,
        Self::HandshakeTimeout,
        Self::HandshakesPerWorker,
        Self::HeaderBytes,
        Self::HeaderCount,
        Self::HeaderTimeout,
        Self::Http2ControlFrames,
        Self::Http2Resets,
        Self::Http2Streams,
        Self::IdleTimeout,
        Self::MaxBody,
        Self::MaxRequests,
        Self::RateLimitKeys,
        Self::RequestTimeout,
        Self::RequestsInFlight,
        Self::RequestsPerConnection,
        Self::TokenBytes,
        Self::TunnelIdleTimeout,
        Self::UriBytes,
        Self::WriteTimeout,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::BodyMinRate => "body_min_rate",
            Self::BodyTimeout => "body_timeout",
            Self::Connections => "connections",
            Self::ConnectionsPerClient => "connections_per_client",
            Self::ConnectionsPerWorker => "connections_per_worker",
            Self::HandshakeTimeout => "handshake_timeout",
            Self::HandshakesPerWorker => "handshakes_per_worker",
            Self::HeaderBytes => "header_bytes",
            Self::HeaderCount => "header_count",
            Self::HeaderTimeout => "header_timeout",
            Self::Http2ControlFrames => "http2_control_frames",
            Self::Http2Resets => "http2_resets",
            Self::Http2Streams => "http2_streams",
            Self::IdleTimeout => "idle_timeout",
            Self::MaxBody => "max_body",
            Self::MaxRequests => "max_requests",
            Self::RateLimitKeys => "rate_limit_keys",
            Self::RequestTimeout => "request_timeout",
            Self::RequestsInFlight => "requests_in_flight",
            Self::RequestsPerConnection => "requests_per_connection",
            Self::TokenBytes => "token_bytes",
            Self::TunnelIdleTimeout => "tunnel_idle_timeout",
            Self::UriBytes => "uri_bytes",
            Self::WriteTimeout => "write_timeout",
        }
    }
}

/// The series of all limits.
#[derive(Debug)]
pub struct LimitMetrics([IntCounter; Limit::ALL.len()]);

impl LimitMetrics {
    pub(super) fn new(series: &Series) -> Self {
        let help = "What a limit ended, refused or held up.";
        Self(Limit::ALL.map(|limit| series.counter("limits_hit_total", help, &[("limit", limit.name())])))
    }

    /// Counts one time that `limit` has bitten.
    pub fn hit(&self, limit: Limit) {
        self.0[limit as usize].inc();
    }

    /// What it counts with, for whoever counts by itself.
    #[must_use]
    pub fn counter(&self, limit: Limit) -> IntCounter {
        self.0[limit as usize].clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::Metrics;

    #[test]
    fn each_limit_has_its_own_series_under_its_name() {
        let metrics = Metrics::new();
        for (place, limit) in Limit::ALL.into_iter().enumerate() {
            assert_eq!(limit as usize, place, "{limit:?}");
            (0..=place).for_each(|_| metrics.limits.hit(limit));
        }
        let text = metrics.render();
        for (place, limit) in Limit::ALL.into_iter().enumerate() {
            let line = format!("portcullis_limits_hit_total{{limit=\"{}\"}} {}", limit.name(), place + 1);
            assert!(text.lines().any(|it| it == line), "{line}\n{text}");
        }
    }
}
