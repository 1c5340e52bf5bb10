//! How often something may be asked.

use schemars::JsonSchema;
use serde::Deserialize;

/// One rule. Routes name it in `rate_limits`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct RateLimit {
    /// What has a quota of its own: each client address (an IPv6 network of 64 bits), each route, or each
    /// subject of a verified token.
    #[schemars(with = "RateKey")]
    pub(in crate::config) key: Option<RateKey>,
    /// How many on average, such as `10/s`, `300/m`, `1000/h` or `5/10s`.
    #[schemars(with = "String", length(min = 3), extend("examples" = ["10/s", "300/m", "5/10s"]))]
    pub(in crate::config) rate: Option<String>,
    /// How many at once. Absent: as many as in one period.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub(in crate::config) burst: Option<u64>,
    /// What uses the quota up: every request, or tokens that are refused.
    #[schemars(extend("default" = "requests"))]
    pub(in crate::config) counts: Option<RateCounts>,
    /// Quotas remembered at most; beyond it newcomers share one.
    #[schemars(range(min = 1, max = 10_000_000), extend("default" = 100_000))]
    pub(in crate::config) max_keys: Option<u64>,
}

/// What has a quota of its own.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(in crate::config) enum RateKey {
    Address,
    Route,
    Subject,
}

/// What uses a quota up.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(in crate::config) enum RateCounts {
    Denials,
    Requests,
}
