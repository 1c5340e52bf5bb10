//! The file as it is written: what the JSON Schema is made from, and what YAML is read into.
//!
//! Nothing here has a meaning yet. Every field is optional, because a file with a problem is still
//! read to the end, so that all its problems are found at once. What is required (a field whose schema
//! is made `with` a type that is not optional) and what is the `default` is said in the schema, once,
//! and `check` sees to both.

mod broker;
mod cluster;
mod edge;
mod issuer;
mod rate_limit;
mod route;
mod servers;
mod session;
mod tls;
mod token;
mod upstream;
mod value;

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

pub(super) use self::broker::{BrokerTls, Nats, Redis, Sentinel};
pub(super) use self::cluster::{Ack, Cluster, ColdStart, OnStale};
pub(super) use self::edge::{
    Admin, AdminToken, Http2Limits, Limits, Listener, LogFile, LogWord, Reload, Revocation, Role, Shutdown,
};
pub(super) use self::issuer::{
    Constraint, Credential, CredentialService, DeriveWord, Issuer, Keys, PerSubject, Postgres, TlsWord,
};
pub(super) use self::rate_limit::{RateCounts, RateKey, RateLimit};
pub(super) use self::route::{AuthWord, ClaimTest, Demand, Identity, Match, Preset, Route};
pub(super) use self::servers::{Ejection, Health, Retries, RetryCause, WeightedServer};
pub(super) use self::session::{
    Delivery, Devices, Exchange, Refresh, RefreshDelivery, Reissue, Rotation, Session, SessionKeys,
};
pub(super) use self::tls::{ClientAuth, ListenerTls, TlsVersion};
pub(super) use self::token::{Dpop, Token, TokenPlace};
pub(super) use self::upstream::{Protocol, Upstream, UpstreamTls};
pub(super) use self::value::{AlgorithmName, Bound, Count, Duration, Either, Limit, Size, Workers};

/// Configuration of the Portcullis gateway. Paths are relative to the folder of this file.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "Portcullis configuration")]
pub(super) struct Root {
    /// Worker threads, each with its own listener sockets, upstream connections and caches; `auto`: one a CPU.
    #[schemars(extend("default" = "auto"))]
    pub(super) workers: Option<Workers>,
    /// Where traffic comes in.
    #[schemars(with = "Vec<Listener>", length(min = 1))]
    pub(super) listeners: Option<Vec<Listener>>,
    /// The control plane: API, metrics, health. Absent: there is none.
    pub(super) admin: Option<Admin>,
    /// Issuers whose tokens are honoured, by a name used in routes, the API and metrics.
    #[schemars(extend("default" = {}))]
    pub(super) issuers: Option<BTreeMap<String, Issuer>>,
    /// Where tokens are looked for, and how large they may be.
    #[schemars(extend("default" = {}))]
    pub(super) token: Option<Token>,
    /// Groups of servers that do the same work, by name.
    #[schemars(with = "BTreeMap<String, Upstream>", extend("minProperties" = 1))]
    pub(super) upstreams: Option<BTreeMap<String, Upstream>>,
    /// Routes; the first match wins.
    #[schemars(with = "Vec<Route>", length(min = 1))]
    pub(super) routes: Option<Vec<Route>>,
    /// Which claims go upstream in which headers, for routes that do not say otherwise.
    #[schemars(extend("default" = {}))]
    pub(super) claims_to_headers: Option<Identity>,
    /// Gateway sessions. Absent: tokens of the issuers are checked and nothing is minted.
    pub(super) session: Option<Session>,
    /// Where revocations survive.
    #[schemars(extend("default" = {}))]
    pub(super) revocation: Option<Revocation>,
    /// Other nodes that honour and refuse the same. Absent: this one is alone.
    pub(super) cluster: Option<Cluster>,
    /// Peers (addresses or networks) whose forwarding headers are believed.
    #[schemars(extend("default" = []))]
    pub(super) trusted_proxies: Option<Vec<String>>,
    /// Bounds on what clients may send and how long they may take.
    #[schemars(extend("default" = {}))]
    pub(super) limits: Option<Limits>,
    /// Rules on how often something may be asked, by name; routes name them.
    #[schemars(extend("default" = {}))]
    pub(super) rate_limits: Option<BTreeMap<String, RateLimit>>,
    /// When a changed configuration is taken up.
    #[schemars(extend("default" = {}))]
    pub(super) reload: Option<Reload>,
    /// What happens on SIGTERM.
    #[schemars(extend("default" = {}))]
    pub(super) shutdown: Option<Shutdown>,
    /// Where access-log lines go.
    #[schemars(extend("default" = "stdout"))]
    pub(super) access_log: Option<Either<LogWord, LogFile>>,
}

/// Where a secret of at least 32 bytes (or a URL with a password) is: exactly one of the two. It is never
/// in this file.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Secret {
    /// A file; one line end at its end does not count.
    pub(super) file: Option<String>,
    /// An environment variable.
    pub(super) env: Option<String>,
}
