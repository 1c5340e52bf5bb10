//! Other nodes, and how they are heard of.

use std::time::Duration;

use crate::cluster::{nats, redis};
use crate::gate::OnStale;
use crate::intake::Level;
use crate::secret::Secret;

/// A node's part in a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    /// The name of the cluster.
    pub name: String,
    /// The name of this node.
    pub node: String,
    /// What all nodes share, at least 32 bytes.
    pub secret: Secret,
    /// The broker.
    pub engine: Engine,
    /// How often a node says that it is there.
    pub heartbeat: Duration,
    /// From what age on what is known of the others is stale.
    pub max_staleness: Duration,
    /// What becomes of requests then, on routes that do not say it.
    pub on_stale: OnStale,
    /// How far a revocation must have come before it is answered.
    pub ack: Level,
    /// How long that is waited for.
    pub ack_timeout: Duration,
    /// How far this node's clock may be off.
    pub max_clock_skew: Duration,
    /// How old what it knew may be for it to serve while the broker is away at its start; `None`: it waits.
    pub cold_start: Option<Duration>,
}

/// The broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Engine {
    /// Redis or Valkey.
    Redis(redis::Options),
    /// NATS with JetStream.
    Nats(nats::Options),
}
