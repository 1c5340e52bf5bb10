//! Brokers, which the nodes of a cluster hear of each other through.

use schemars::JsonSchema;
use serde::Deserialize;

use super::{Duration, Either, Secret};

/// Redis 7.0 or Valkey: one server, a master that Sentinels name, or a Redis Cluster.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Redis {
    /// `redis://user:password@host:6379/0`, `rediss://` for TLS, or `unix:///path`. Several, with spaces or line ends
    /// between, are tried in turn: of a Redis Cluster any of its nodes, with `sentinel` the Sentinels.
    /// One with a password in it is a secret, and stands in a `file` or an environment variable (`env`).
    #[schemars(with = "Either<String, Secret>")]
    pub(in crate::config) url: Option<Either<String, Secret>>,
    /// The URLs are those of Sentinels; user, password and database are still those of the servers.
    pub(in crate::config) sentinel: Option<Sentinel>,
    /// How `rediss://` servers are verified, and what they are shown. Absent: the system's authorities, and nothing.
    pub(in crate::config) tls: Option<BrokerTls>,
    /// Replicas that must have what is published before it counts as durable (`WAIT`).
    #[schemars(range(max = 16), extend("default" = 0))]
    pub(in crate::config) min_replicas: Option<u64>,
    /// Whether what is published must be on the server's disk, and on that of as many replicas (`WAITAOF`: Redis 7.2,
    /// with `appendonly yes`).
    #[schemars(extend("default" = false))]
    pub(in crate::config) disk: Option<bool>,
    /// Entries of the log, about. A node that comes later reads what is kept beside it.
    #[schemars(range(min = 1000, max = 100_000_000), extend("default" = 250_000))]
    pub(in crate::config) log_entries: Option<u64>,
    /// What one question may take.
    #[schemars(extend("default" = "2s"))]
    pub(in crate::config) timeout: Option<Duration>,
}

/// Sentinels, which know who the master is.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Sentinel {
    /// The name of the master.
    #[schemars(with = "String", length(min = 1))]
    pub(in crate::config) master: Option<String>,
    /// The user at the Sentinels. Absent: the default one.
    #[schemars(length(min = 1))]
    pub(in crate::config) username: Option<String>,
    /// The password at the Sentinels. Absent: they want none.
    pub(in crate::config) password: Option<Secret>,
}

/// NATS with JetStream. At most one of `user`, `token`, `nkey` and `credentials` says who the gateway is.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Nats {
    /// `nats://host:4222`, or `tls://host:4222` for TLS. One is enough: the others of its cluster are heard of.
    #[schemars(with = "Vec<String>", length(min = 1), inner(length(min = 1)))]
    pub(in crate::config) servers: Option<Vec<String>>,
    /// The user.
    #[schemars(length(min = 1))]
    pub(in crate::config) user: Option<String>,
    /// With `user`: the password.
    pub(in crate::config) password: Option<Secret>,
    /// A token.
    pub(in crate::config) token: Option<Secret>,
    /// The seed of an NKey, `SU…`.
    pub(in crate::config) nkey: Option<Secret>,
    /// What `nsc` writes into a `.creds` file.
    pub(in crate::config) credentials: Option<Secret>,
    /// How servers are verified, and what they are shown; asks for TLS. Absent: the system's authorities, and nothing.
    pub(in crate::config) tls: Option<BrokerTls>,
    /// Servers that keep the stream, if the gateway makes it.
    #[schemars(range(min = 1, max = 5), extend("default" = 1))]
    pub(in crate::config) replicas: Option<u64>,
    /// What one question may take.
    #[schemars(extend("default" = "2s"))]
    pub(in crate::config) timeout: Option<Duration>,
}

/// TLS with a broker.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct BrokerTls {
    /// PEM authorities that vouch for the servers, and no others. Absent: those of the system.
    #[schemars(length(min = 1))]
    pub(in crate::config) ca_file: Option<String>,
    /// The gateway's own PEM certificate, followed by those between it and its authority.
    #[schemars(length(min = 1))]
    pub(in crate::config) certificate: Option<String>,
    /// Its PEM private key, not encrypted.
    #[schemars(length(min = 1))]
    pub(in crate::config) key: Option<String>,
}
