//! Where requests go.

use schemars::JsonSchema;
use serde::Deserialize;

use super::{Bound, Duration, Either, Ejection, Health, Limit, Retries, WeightedServer};

/// A group of servers that do the same work.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Upstream {
    /// `http://host:port` or `https://host:port` of each, or a mapping with its weight; the one with the fewest
    /// running requests for its weight is chosen.
    #[schemars(with = "Vec<Either<String, WeightedServer>>", length(min = 1))]
    pub(in crate::config) servers: Option<Vec<Either<String, WeightedServer>>>,
    /// How `https` servers are verified, and what they are shown. Absent: the system's authorities, and nothing.
    pub(in crate::config) tls: Option<UpstreamTls>,
    /// What is spoken to them: `http1`; `http2`, by prior knowledge in clear and agreed on over TLS; or `auto`, HTTP/2
    /// where a server offers it over TLS.
    #[schemars(extend("default" = "http1"))]
    pub(in crate::config) protocol: Option<Protocol>,
    /// How often an HTTP/2 connection is pinged; one whose server does not answer is given up. `none`: never.
    #[schemars(extend("default" = "none"))]
    pub(in crate::config) ping_interval: Option<Duration>,
    /// How long a connection may take to be made, TLS included.
    #[schemars(extend("default" = "5s"))]
    pub(in crate::config) connect_timeout: Option<Duration>,
    /// Requests in flight, waiting for its answers included, or `none`.
    #[schemars(extend("default" = "none"))]
    pub(in crate::config) max_requests: Option<Bound>,
    /// How long the response head may take, and how long a silence within the response body may be.
    #[schemars(extend("default" = "60s"))]
    pub(in crate::config) response_timeout: Option<Duration>,
    /// How long an idle connection is kept.
    #[schemars(extend("default" = "30s"))]
    pub(in crate::config) idle_timeout: Option<Duration>,
    /// How long a connection is used at most, or `none`.
    #[schemars(extend("default" = "1h"))]
    pub(in crate::config) max_age: Option<Duration>,
    /// Connections of each worker to each server at most, or `none`; an HTTP/2 connection carries many requests.
    #[schemars(extend("default" = "none"))]
    pub(in crate::config) max_connections: Option<Limit>,
    /// Requests of each worker that may wait for a connection; beyond it 503.
    #[schemars(range(max = 1_000_000), extend("default" = 1000))]
    pub(in crate::config) max_queued: Option<u64>,
    /// How long they may wait; then 503.
    #[schemars(extend("default" = "1s"))]
    pub(in crate::config) queue_timeout: Option<Duration>,
    /// How often host names of servers are looked up again.
    #[schemars(extend("default" = "30s"))]
    pub(in crate::config) resolve_interval: Option<Duration>,
    /// For how long the last addresses are good while they cannot be looked up.
    #[schemars(extend("default" = "1h"))]
    pub(in crate::config) resolve_keep: Option<Duration>,
    /// Idle connections kept per worker and server.
    #[schemars(range(max = 65535), extend("default" = 64))]
    pub(in crate::config) max_idle: Option<u64>,
    /// What its servers are asked now and then. Absent: they are not asked.
    pub(in crate::config) health: Option<Health>,
    /// When a server that fails at traffic is taken out of use for a while.
    #[schemars(extend("default" = {}))]
    pub(in crate::config) ejection: Option<Ejection>,
    /// Over how long a server that came back takes up its share, from a tenth of it, or `none`: at once.
    #[schemars(extend("default" = "none"))]
    pub(in crate::config) slow_start: Option<Duration>,
    /// When a request is sent once more.
    #[schemars(extend("default" = {}))]
    pub(in crate::config) retries: Option<Retries>,
}

/// TLS to the servers of an upstream. The files are read again at a reload.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct UpstreamTls {
    /// PEM authorities that vouch for the servers, and no others. Absent: those of the system.
    #[schemars(length(min = 1))]
    pub(in crate::config) ca_file: Option<String>,
    /// The gateway's own PEM certificate, followed by those between it and its authority.
    #[schemars(length(min = 1))]
    pub(in crate::config) certificate: Option<String>,
    /// Its PEM private key, not encrypted.
    #[schemars(length(min = 1))]
    pub(in crate::config) key: Option<String>,
    /// The name that certificates of the servers must be for. Absent: the host of each.
    #[schemars(length(min = 1))]
    pub(in crate::config) server_name: Option<String>,
}

/// What is spoken to the servers of an upstream.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(in crate::config) enum Protocol {
    Http1,
    Http2,
    Auto,
}
