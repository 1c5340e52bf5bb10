//! Other nodes, and how they are heard of.

use std::time::Duration;

use super::{DAY, Lower, MILLISECOND, Place, SECOND, is_name};
use crate::config::model::{Cluster, Engine, StoreConfig};
use crate::config::raw;
use crate::gate::OnStale;
use crate::intake::Level;
use crate::secret::Secret;

/// Shortest secret of a cluster, in bytes.
const SECRET_LEAST: usize = 32;
/// Longest time between two heartbeats.
const HEARTBEAT_MOST: Duration = Duration::from_secs(10);

impl From<raw::OnStale> for OnStale {
    fn from(raw: raw::OnStale) -> Self {
        match raw {
            raw::OnStale::Reject => Self::Reject,
            raw::OnStale::RejectUnsafeMethods => Self::RejectUnsafeMethods,
            raw::OnStale::Allow => Self::Allow,
        }
    }
}

impl Lower<'_, '_> {
    pub(super) fn cluster(&mut self, raw: &raw::Cluster, place: &Place<'_>, store: &StoreConfig) -> Option<Cluster> {
        let at = place.key("name");
        let name = raw.name.as_deref().map(|name| self.name(name, "a cluster", &at)).unwrap_or_default();
        if name.contains('.') {
            self.error(&at, "a cluster's name has no `.`", "it is a part of names that dots have a meaning in");
        }
        let node = self.node_name(raw.node.as_deref(), place);
        let secret = raw.secret.as_ref().and_then(|secret| self.secret(secret, SECRET_LEAST, &place.key("secret")));
        if matches!(store, StoreConfig::Memory) && !place.is_damaged() {
            self.error(
                &place.at_key(),
                "a cluster needs nodes that do not forget",
                "write `revocation: { store: { path: FOLDER } }`",
            );
        }
        let heartbeat =
            self.duration(raw.heartbeat.as_ref(), &place.key("heartbeat"), 100 * MILLISECOND..=HEARTBEAT_MOST);
        let at = place.key("max_staleness");
        let max_staleness = self.duration(raw.max_staleness.as_ref(), &at, 2 * SECOND..=DAY);
        if !heartbeat.is_zero() && !max_staleness.is_zero() && max_staleness < 3 * heartbeat {
            self.error(&at, "`cluster.max_staleness` is too short", "at least three times `heartbeat`");
        }
        let ack_timeout = self.duration(raw.ack_timeout.as_ref(), &place.key("ack_timeout"), MILLISECOND..=60 * SECOND);
        let max_clock_skew =
            self.duration(raw.max_clock_skew.as_ref(), &place.key("max_clock_skew"), 10 * MILLISECOND..=3600 * SECOND);
        let max_age =
            self.duration(raw.cold_start_max_age.as_ref(), &place.key("cold_start_max_age"), SECOND..=30 * DAY);
        let engine = match (&raw.redis, &raw.nats) {
            (Some(redis), None) => self.redis(redis, &name, &place.key("redis")).map(Engine::Redis),
            (None, Some(nats)) => self.nats(nats, &name, &place.key("nats")).map(Engine::Nats),
            _ if place.is_damaged() => None,
            _ => {
                self.error(place, "`cluster` must have one broker", "exactly one of `redis`, `nats`");
                None
            }
        };
        Some(Cluster {
            name,
            node,
            secret: secret.unwrap_or_else(|| Secret::new(Vec::new())),
            engine: engine?,
            heartbeat,
            max_staleness,
            on_stale: raw.on_stale.map_or(OnStale::Reject, OnStale::from),
            ack: match raw.ack {
                Some(raw::Ack::Local) => Level::Local,
                Some(raw::Ack::All) => Level::All,
                Some(raw::Ack::Bus) | None => Level::Bus,
            },
            ack_timeout,
            max_clock_skew,
            cold_start: (raw.cold_start == Some(raw::ColdStart::LastKnown)).then_some(max_age),
        })
    }

    /// The name of this node: as said, or that of the machine.
    fn node_name(&mut self, raw: Option<&str>, place: &Place<'_>) -> String {
        let at = place.key("node");
        if let Some(name) = raw {
            return self.name(name, "a node", &at);
        }
        let machine = rustix::system::uname().nodename().to_string_lossy().into_owned();
        if is_name(&machine) {
            return machine;
        }
        self.error(
            place,
            "the name of this machine cannot be the name of a node",
            format!("write `node:` with 1 to 64 letters, digits, `-`, `_` and `.`, not {machine:?}"),
        );
        String::new()
    }
}
