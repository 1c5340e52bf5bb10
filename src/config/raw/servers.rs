//! How the servers of an upstream are watched, chosen and tried again.

use schemars::JsonSchema;
use serde::Deserialize;

use super::{Duration, Limit};

/// A server, with its share of the requests.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct WeightedServer {
    /// `http://host:port`.
    #[schemars(with = "String", length(min = 1))]
    pub(in crate::config) url: Option<String>,
    /// How many requests it takes where a server of weight 1 takes one.
    #[schemars(range(min = 1, max = 1000), extend("default" = 1))]
    pub(in crate::config) weight: Option<u32>,
}

/// What is asked of each server now and then, once for all workers.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Health {
    /// What is asked for, with `GET`: a path, and a query if need be.
    #[schemars(with = "String", length(min = 1), extend("examples" = ["/healthz"]))]
    pub(in crate::config) path: Option<String>,
    /// Between one check and the next.
    #[schemars(extend("default" = "5s"))]
    pub(in crate::config) interval: Option<Duration>,
    /// How long a check may take, connecting included.
    #[schemars(extend("default" = "2s"))]
    pub(in crate::config) timeout: Option<Duration>,
    /// Failed checks in a row that take a server out of use; the first check of all decides alone.
    #[schemars(range(min = 1, max = 100), extend("default" = 3))]
    pub(in crate::config) unhealthy_after: Option<u32>,
    /// Good checks in a row that bring it back.
    #[schemars(range(min = 1, max = 100), extend("default" = 2))]
    pub(in crate::config) healthy_after: Option<u32>,
    /// Statuses that are good: one, or the first and the last. Redirects are not followed.
    #[schemars(extend("default" = "200-299", "examples" = ["200", "200-399"]))]
    pub(in crate::config) expect: Option<String>,
    /// `Host` of the checks. Absent: host and port of the server.
    #[schemars(length(min = 1))]
    pub(in crate::config) host: Option<String>,
}

/// When a server that fails at traffic is taken out of use for a while.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Ejection {
    /// Failures in a row (no connection, no answer, 502, 503, 504), or `none`: never.
    #[schemars(extend("default" = 5))]
    pub(in crate::config) after: Option<Limit>,
    /// For how long at first; twice as long each time it comes to that again.
    #[schemars(extend("default" = "10s"))]
    pub(in crate::config) time: Option<Duration>,
    /// For how long at most.
    #[schemars(extend("default" = "5m"))]
    pub(in crate::config) max_time: Option<Duration>,
    /// The share of the servers that may be out of use because of it, rounded down.
    #[schemars(extend("default" = "50%"))]
    pub(in crate::config) max_ejected: Option<String>,
}

/// When a request is sent once more, to another server where there is one.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Retries {
    /// How often a request that has been sent is sent again at most. Idempotent methods without a body only.
    #[schemars(range(max = 10), extend("default" = 2))]
    pub(in crate::config) attempts: Option<u32>,
    /// How long the answer to a try may take that another one can follow, or `none`.
    #[schemars(extend("default" = "none"))]
    pub(in crate::config) per_try_timeout: Option<Duration>,
    /// After what.
    #[schemars(extend("default" = ["connect_failure", "reset_before_response"]))]
    pub(in crate::config) on: Option<Vec<RetryCause>>,
    /// Retries a worker makes at most, as a share of its requests; one a second is always allowed.
    #[schemars(extend("default" = "20%"))]
    pub(in crate::config) budget: Option<String>,
}

/// `connect_failure`: nothing was sent. `reset_before_response`: the connection ended before an answer.
/// `timeout`: a try took too long. `gateway_errors`: the answer is 502, 503 or 504.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(in crate::config) enum RetryCause {
    ConnectFailure,
    ResetBeforeResponse,
    Timeout,
    GatewayErrors,
}
