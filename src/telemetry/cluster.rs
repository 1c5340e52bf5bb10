//! How a node stands among the others.

use std::time::Duration;

use prometheus::{Histogram, IntCounter, IntGauge};

use super::series::Series;

/// Why a node read all that is kept.
const CAUSES: [&str; 5] = ["new", "epoch", "trimmed", "gap", "differs"];
/// From a hop on one machine to an outage.
const SECONDS: [f64; 12] = [0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0, 300.0];

/// The series of a cluster. Without one they stay at zero.
#[derive(Debug)]
pub struct ClusterMetrics {
    propagation: Histogram,
    /// `revocation_staleness_seconds`: how old what is known of the others may be, in whole seconds.
    pub staleness: IntGauge,
    /// `cluster_messages_dropped_total{reason="forged"}`: messages without the seal of the cluster.
    pub forged: IntCounter,
    /// `cluster_messages_dropped_total{reason="malformed"}`: messages that are not understood.
    pub malformed: IntCounter,
    /// `cluster_broker_errors_total`.
    pub failures: IntCounter,
    /// `cluster_nodes{state="live"}`: nodes that are there, this one among them.
    pub live: IntGauge,
    /// `cluster_nodes{state="gone"}`: nodes that were heard of and are not there.
    pub gone: IntGauge,
    /// `cluster_stale_served_total`: requests that were admitted although what is known was stale.
    pub stale_served: IntCounter,
    resyncs: [IntCounter; CAUSES.len()],
}

impl ClusterMetrics {
    pub(super) fn new(series: &Series) -> Self {
        let dropped = |reason| {
            let help = "Messages of the broker that were dropped.";
            series.counter("cluster_messages_dropped_total", help, &[("reason", reason)])
        };
        let nodes = |state| series.gauge("cluster_nodes", "Nodes that were heard of.", &[("state", state)]);
        Self {
            propagation: series.histogram(
                "revocation_propagation_seconds",
                "From a revocation at another node to its being in force here, by the clocks of both.",
                &[],
                &SECONDS,
            ),
            staleness: series.gauge(
                "revocation_staleness_seconds",
                "How old what is known of revocations elsewhere may be.",
                &[],
            ),
            forged: dropped("forged"),
            malformed: dropped("malformed"),
            failures: series.counter("cluster_broker_errors_total", "Failures of the broker.", &[]),
            live: nodes("live"),
            gone: nodes("gone"),
            stale_served: series.counter(
                "cluster_stale_served_total",
                "Requests admitted while what is known of revocations elsewhere was stale.",
                &[],
            ),
            resyncs: CAUSES.map(|cause| {
                let help = "How often all that the broker keeps was read.";
                series.counter("cluster_resyncs_total", help, &[("cause", cause)])
            }),
        }
    }

    /// Notes that a revocation of another node came into force here, so long after it was made.
    pub fn propagated(&self, after: Duration) {
        self.propagation.observe(after.as_secs_f64());
    }

    /// Counts that all that is kept was read.
    pub fn resynced(&self, cause: &str) {
        let counters = CAUSES.iter().zip(&self.resyncs);
        counters.filter(|(name, _)| **name == cause).for_each(|(_, counter)| counter.inc());
    }
}
