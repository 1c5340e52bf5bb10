//! The gateway in a cluster: what others say reaches its parts, and what its parts say reaches others.

use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::time::sleep;

use super::control::Control;
use crate::cli::{Exit, Failure};
use crate::cluster::{
    self, Audience, Broker, BrokerError, Cluster, CredentialDrop, JoinError, Observation, Seal, Settings, UsedProof,
    nats::NatsBroker, redis::RedisBroker,
};
use crate::config;
use crate::intake::{Document, DocumentKind};
use crate::revocation::Freshness;
use crate::session::Family;
use crate::telemetry::ClusterMetrics;

/// How often nodes compare what they hold.
const COMPARE: Duration = Duration::from_secs(30);
/// How often a node that waits for its cluster says so.
const COMPLAIN: Duration = Duration::from_secs(5);
/// How often a node that may serve what it last knew looks whether it has to.
const LOOK: Duration = Duration::from_millis(200);
/// Beyond their end, records are kept for as long as clocks may differ and a node may be behind.
const KEEP: Duration = Duration::from_secs(2 * 3600);

/// Begins to take part, and returns once this node has all that the others have, or may do without.
///
/// # Errors
///
/// When the broker will have nothing to do with it, or another node has its name.
pub(super) async fn join(
    config: &config::Cluster,
    control: &Arc<Control>,
    freshness: &Arc<Freshness>,
) -> Result<(), Failure> {
    let failed = |error: &BrokerError| Failure::of(Exit::Failed, "cannot take part in the cluster", error);
    let broker: Arc<dyn Broker> = match &config.engine {
        config::Engine::Redis(options) => {
            Arc::new(RedisBroker::connect(options.clone()).await.map_err(|error| failed(&error))?)
        }
        config::Engine::Nats(options) => {
            Arc::new(NatsBroker::connect(options.clone()).await.map_err(|error| failed(&error))?)
        }
    };
    let settings = Settings {
        node: config.node.clone(),
        cluster: config.name.clone(),
        heartbeat: config.heartbeat,
        compare: COMPARE,
        level: config.ack,
        patience: config.ack_timeout,
        max_clock_skew: config.max_clock_skew,
    };
    let audience = Arc::new(Ears { control: Arc::downgrade(control) });
    let seal = Seal::new(&config.name, &config.secret);
    let (ledger, clock) = (&control.shared.ledger, control.shared.clock.clone());
    let started = Cluster::start(settings, broker, seal, ledger, audience, freshness, clock).await;
    let cluster = started.map_err(|error| Failure::of(Exit::Failed, "cannot read the store", &error))?;
    // Set once, here.
    drop(control.cluster.set(cluster));
    let Some(cluster) = control.cluster.get() else { return Ok(()) };
    let telling = Arc::downgrade(control);
    control.parts.replays.tell(Box::new(move |key, id, issued| {
        if let Some(cluster) = telling.upgrade().as_ref().and_then(|control| control.cluster.get()) {
            cluster.proof_used(UsedProof { key: key.to_owned(), id: id.to_owned(), issued });
        }
    }));
    tokio::select! {
        joined = cluster.joined() => joined.map_err(|error: JoinError| {
            Failure::of(Exit::Failed, "cannot take part in the cluster", &error)
        }),
        () = complain() => Ok(()),
        () = last_known(config, control, cluster, freshness) => Ok(()),
    }
}

/// Says now and then what is waited for.
async fn complain() {
    loop {
        sleep(COMPLAIN).await;
        tracing::warn!("no listener is open: this node does not know yet what the cluster knows");
    }
}

/// Returns when the broker is away and what this node last knew is young enough to be served.
async fn last_known(config: &config::Cluster, control: &Control, cluster: &Cluster, freshness: &Freshness) {
    let Some(max_age) = config.cold_start else { return std::future::pending().await };
    loop {
        sleep(LOOK).await;
        let now = control.shared.clock.now();
        let Some(left) = cluster.cut_off_since().and_then(|since| max_age.checked_sub(now.since(since))) else {
            continue;
        };
        freshness.excuse_for(left);
        tracing::warn!(
            seconds = left.as_secs(),
            "the broker is away: what was known when this node stopped is served, for so long at most"
        );
        return;
    }
}

/// Drops from the broker what has lapsed.
pub(super) async fn forget(control: &Control) {
    if let Some(cluster) = control.cluster.get()
        && let Err(error) = cluster.forget(control.shared.clock.now().minus(KEEP)).await
    {
        tracing::warn!(%error, "failed to drop what has lapsed from the broker");
    }
}

/// What the gateway hears of others.
#[derive(Debug)]
struct Ears {
    /// Which holds the cluster that holds this.
    control: Weak<Control>,
}

impl Audience for Ears {
    fn document(&self, document: &Document) {
        let Some(control) = self.control.upgrade() else { return };
        let shared = &control.shared;
        let now = shared.clock.now();
        if !document.is_live(now) {
            return;
        }
        let heard = match document.kind {
            DocumentKind::Session => shared
                .registry
                .follow(&document.key, &document.body, document.revision, now)
                .map_err(|error| error.to_string()),
            DocumentKind::Family => {
                Family::restored(&document.key, &document.body).map_err(|error| error.to_string()).map(|family| {
                    shared.families.note(&family);
                    if let Some(open) = shared.registry.find(&family.subject, &family.session) {
                        open.may_live_until(family.ends);
                    }
                })
            }
            // In force already.
            DocumentKind::Replacement | DocumentKind::Key => Ok(()),
        };
        if let Err(error) = heard {
            tracing::error!(error, "a document of another node is not understood");
        }
    }

    fn credential(&self, changed: &CredentialDrop) {
        let Some(control) = self.control.upgrade() else { return };
        let gate = &control.shared.snapshot.load().gate;
        let issuer = gate.issuers().iter().find(|issuer| issuer.url == changed.issuer);
        if let Some(credentials) = issuer.and_then(|issuer| issuer.credentials.as_ref())
            && let Err(error) = credentials.forget(&changed.subject)
        {
            tracing::error!(%error, "a credential that was dropped elsewhere is not dropped here");
        }
    }

    fn missed(&self) {
        let Some(control) = self.control.upgrade() else { return };
        let gate = &control.shared.snapshot.load().gate;
        gate.issuers().iter().filter_map(|issuer| issuer.credentials.as_ref()).for_each(|it| it.forget_known());
    }

    fn proofs(&self, used: &[UsedProof]) {
        let Some(control) = self.control.upgrade() else { return };
        let now = control.shared.clock.now();
        for proof in used {
            // Used here as well, or no room: then it is not taken here either.
            let _ = control.parts.replays.take(&proof.key, &proof.id, proof.issued, now);
        }
    }

    fn keys(&self) -> Vec<String> {
        let Some(control) = self.control.upgrade() else { return Vec::new() };
        let snapshot = control.shared.snapshot.load();
        let keys = snapshot.sessions.iter().flat_map(|sessions| sessions.keys());
        keys.map(|key| key.thumbprint).collect()
    }

    fn is_serving(&self) -> bool {
        self.control.upgrade().is_some_and(|control| !control.parts.entrances.all().is_empty())
    }

    fn observe(&self, what: Observation) {
        let Some(control) = self.control.upgrade() else { return };
        let metrics = &control.shared.metrics.cluster;
        match what {
            Observation::Propagated(after) => metrics.propagated(after),
            Observation::Forged => metrics.forged.inc(),
            Observation::Malformed => metrics.malformed.inc(),
            Observation::Resynced(cause) => metrics.resynced(cause.name()),
            Observation::Failed => metrics.failures.inc(),
        }
    }
}

/// What readiness says of a cluster.
pub(super) fn reasons(cluster: &Cluster, why: &mut Vec<String>) {
    let status: cluster::ClusterStatus = cluster.status();
    let reasons = [
        ("cluster_joining", !status.joined && status.stale),
        ("revocation_state_stale", status.joined && status.stale),
        ("clock_skew", status.skewed),
    ];
    why.extend(reasons.into_iter().filter(|(_, is)| *is).map(|(reason, _)| reason.to_owned()));
}

/// Whether a part of it has changed that is read once, at the start.
pub(super) fn differs(before: Option<&config::Cluster>, after: Option<&config::Cluster>) -> bool {
    // What may change while the gateway runs is taken out of the comparison.
    let fixed = |it: &config::Cluster| config::Cluster {
        max_staleness: Duration::ZERO,
        on_stale: crate::gate::OnStale::default(),
        cold_start: None,
        ..it.clone()
    };
    before.map(fixed) != after.map(fixed)
}

/// Brings the series up to date.
pub(super) fn observe(cluster: &Cluster, metrics: &ClusterMetrics) {
    let status = cluster.status();
    let live = status.nodes.iter().filter(|node| node.live).count();
    let count = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
    metrics.live.set(count(live));
    metrics.gone.set(count(status.nodes.len() - live));
    metrics.staleness.set(status.staleness.map_or(i64::MAX, |it| i64::try_from(it.as_secs()).unwrap_or(i64::MAX)));
}
