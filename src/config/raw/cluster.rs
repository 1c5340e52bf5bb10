//! Other nodes, and how they are heard of.

use schemars::JsonSchema;
use serde::Deserialize;

use super::{Duration, Nats, Redis, Secret};

/// Several gateways that honour and refuse the same. Each keeps its own copy of everything in `revocation.store`, and
/// hears of what the others do through one broker: exactly one of `redis` and `nats`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Cluster {
    /// The name of the cluster: all its nodes have the same, and several clusters may share a broker.
    #[schemars(length(min = 1), extend("default" = "portcullis"))]
    pub(in crate::config) name: Option<String>,
    /// The name of this node, different from every other node's. Absent: the name of the machine.
    #[schemars(length(min = 1))]
    pub(in crate::config) node: Option<String>,
    /// What all nodes share and nobody else has: what is not sealed with it is not listened to.
    #[schemars(with = "Secret")]
    pub(in crate::config) secret: Option<Secret>,
    /// Redis 7.0 or Valkey.
    pub(in crate::config) redis: Option<Redis>,
    /// NATS with JetStream.
    pub(in crate::config) nats: Option<Nats>,
    /// How often a node says that it is there, and proves that it hears.
    #[schemars(extend("default" = "1s"))]
    pub(in crate::config) heartbeat: Option<Duration>,
    /// How old what is known of the others may be before `on_stale` decides.
    #[schemars(extend("default" = "30s"))]
    pub(in crate::config) max_staleness: Option<Duration>,
    /// What becomes of requests while it is older than that.
    #[schemars(extend("default" = "reject"))]
    pub(in crate::config) on_stale: Option<OnStale>,
    /// How far a revocation must have come before it is answered with 201; until then it is 202.
    #[schemars(extend("default" = "bus"))]
    pub(in crate::config) ack: Option<Ack>,
    /// How long that is waited for.
    #[schemars(extend("default" = "500ms"))]
    pub(in crate::config) ack_timeout: Option<Duration>,
    /// How far this node's clock may be off before it says that it is not ready.
    #[schemars(extend("default" = "1s"))]
    pub(in crate::config) max_clock_skew: Option<Duration>,
    /// What a node does that starts while the broker is away.
    #[schemars(extend("default" = "refuse"))]
    pub(in crate::config) cold_start: Option<ColdStart>,
    /// With `cold_start: last_known`: how old what it knows may be.
    #[schemars(extend("default" = "10m"))]
    pub(in crate::config) cold_start_max_age: Option<Duration>,
}

/// `reject`: 503 for everything that needs a token. `reject_unsafe_methods`: for everything but `GET`, `HEAD`, `OPTIONS`
/// and `TRACE`. `allow`: nothing.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(in crate::config) enum OnStale {
    Reject,
    RejectUnsafeMethods,
    Allow,
}

/// `local`: on disk here. `bus`: the broker has it, too. `all`: every node that is there has it on disk.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(in crate::config) enum Ack {
    Local,
    Bus,
    All,
}

/// `refuse`: it waits, and opens no listener. `last_known`: it serves what it knew when it stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(in crate::config) enum ColdStart {
    Refuse,
    LastKnown,
}
