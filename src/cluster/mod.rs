//! How nodes hear of each other: one log, over an engine that is there already.
//!
//! State is a set of records that never change, tombstones included, and every node has all of it on its own
//! disk. So what arrives twice, late or in any order changes nothing, and a broker that loses everything is
//! given it back. The broker makes it fast; the copies make it safe.
//!
//! Three parts, side by side: what is written here is published (`publish`), what others write is followed
//! (`follow`), and when either cannot go on from where it was, all that is kept is read and what others lack is
//! published (`resync`). A node knows that it is up to date by reading back what it said itself.

mod broker;
#[cfg(test)]
mod contract;
mod failure;
mod follow;
mod history;
mod message;
#[cfg(test)]
mod model;
pub mod nats;
mod node;
mod peers;
mod publish;
pub mod redis;
mod resync;
mod tls;

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};

pub use self::broker::{
    Broker, BrokerError, Bucket, Delivered, Epoch, Exchanged, Head, InvalidPosition, MAX_PUBLISH, MAX_READ, Place,
    Position, Publication, Wanted,
};
pub use self::message::{CredentialDrop, Digest, Forged, Heartbeat, Message, Seal, Sum, Unreadable, UsedProof};
pub use self::node::{Audience, Cause, Observation, PROGRESS, Settings};
use self::node::{Node, Phase};
pub use self::tls::Tls;
use crate::intake::{
    Document, DocumentKind, DocumentWrite, Ledger, Level, Put, Reached, Replication, StoreError, Unreachable,
};
use crate::revocation::Freshness;
use crate::time::{Clock, Timestamp};

/// How long the last words of a node may take.
const GOODBYE: Duration = Duration::from_secs(2);

/// A node's part in a cluster.
#[derive(Debug)]
pub struct Cluster {
    node: Arc<Node>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

/// Why a node was not let into the cluster.
#[derive(Clone, Debug, thiserror::Error)]
pub enum JoinError {
    /// Another node has its name or its store.
    #[error("another node of the cluster has the same name or store: {0}")]
    Conflict(String),
}

/// What is known of one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeStatus {
    /// What it said last.
    pub said: Heartbeat,
    /// When the broker took that, by the broker's clock.
    pub heard: Timestamp,
    /// Whether it is there.
    pub live: bool,
    /// Whether it is this one.
    pub here: bool,
    /// How far its clock is ahead of the broker's, in milliseconds.
    pub offset: i64,
    /// Records of all nodes that it has not, and this one has.
    pub lag: u64,
}

/// How this node stands in its cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterStatus {
    /// `redis` or `nats`.
    pub engine: &'static str,
    /// Whether it has been up to date once.
    pub joined: bool,
    /// Whether the broker was there when it was last asked.
    pub reachable: bool,
    /// How old what it knows may be; `None`: that was never proved.
    pub staleness: Option<Duration>,
    /// Whether that is too old.
    pub stale: bool,
    /// Whether its clock is further from the broker's than it may be.
    pub skewed: bool,
    /// How far it has read.
    pub position: Position,
    /// What went wrong last, while it does.
    pub failure: Option<String>,
    /// Every node that was heard of, this one among them.
    pub nodes: Vec<NodeStatus>,
}

impl Cluster {
    /// Begins to publish and to follow, from where the ledger's store says that it was.
    ///
    /// # Errors
    ///
    /// When the store cannot be read.
    pub async fn start(
        settings: Settings,
        broker: Arc<dyn Broker>,
        seal: Seal,
        ledger: &Arc<Ledger>,
        audience: Arc<dyn Audience>,
        freshness: &Arc<Freshness>,
        clock: Clock,
    ) -> Result<Self, StoreError> {
        // One that cannot be read says nothing: then all that is kept is read.
        let progress = ledger.setting(PROGRESS).await?;
        let progress = progress.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
        let (ledger, freshness) = (Arc::clone(ledger), Arc::clone(freshness));
        let node = Arc::new(Node::new(settings, broker, seal, ledger, audience, freshness, clock, progress));
        node.count_what_is_here().await?;
        node.ledger.replicate(Arc::new(Replica(Arc::downgrade(&node))));
        let (following, publishing) = (Arc::clone(&node), Arc::clone(&node));
        let tasks = vec![
            tokio::spawn(async move { follow::run(&following).await }),
            tokio::spawn(async move { publish::run(&publishing).await }),
        ];
        Ok(Self { node, tasks: Mutex::new(tasks) })
    }

    /// Waits until this node has all that the others have.
    ///
    /// # Errors
    ///
    /// When it must not take part.
    pub async fn joined(&self) -> Result<(), JoinError> {
        let mut phase = self.node.phase.subscribe();
        loop {
            match &*phase.borrow_and_update() {
                Phase::Joined => return Ok(()),
                Phase::Conflict(text) => return Err(JoinError::Conflict(text.clone())),
                Phase::Joining => {}
            }
            if phase.changed().await.is_err() {
                return Ok(());
            }
        }
    }

    /// When this node was last up to date, by its own clock, and whether the broker is away.
    #[must_use]
    pub fn cut_off_since(&self) -> Option<Timestamp> {
        let state = self.node.state();
        state.failure.as_ref().and(state.fresh_at)
    }

    /// How far this node's record `sequence` has come; `None` when there is no such record.
    #[must_use]
    pub fn reached(&self, sequence: u64) -> Option<Level> {
        let node = &self.node;
        if sequence == 0 || sequence > node.ledger.stored_sequence() {
            return None;
        }
        if node.published.borrow().sequence < sequence {
            return Some(Level::Local);
        }
        let everywhere = node.state().peers.all_have(&node.incarnation, &node.store, sequence);
        Some(if everywhere { Level::All } else { Level::Bus })
    }

    /// The thumbprints of session keys that every node that is there has loaded.
    #[must_use]
    pub fn all_have_key(&self, thumbprint: &str) -> bool {
        self.node
            .state()
            .peers
            .others(&self.node.incarnation)
            .all(|it| it.said.keys.iter().any(|key| key == thumbprint))
    }

    /// Tells the others that a subject's credential has changed.
    pub fn credential_changed(&self, issuer: String, subject: String) {
        self.node.send(Message::Credential(CredentialDrop { issuer, subject }));
    }

    /// Tells the others that a proof was used.
    pub fn proof_used(&self, proof: UsedProof) {
        self.node.send(Message::Proofs(vec![proof]));
    }

    /// How this node stands.
    #[must_use]
    pub fn status(&self) -> ClusterStatus {
        let node = &self.node;
        let state = node.state();
        let peers = state.peers.all().map(|peer| {
            let here = peer.said.incarnation == node.incarnation;
            let applied = state.history.applied();
            let behind = |(origin, count): (&String, &u64)| {
                count.saturating_sub(peer.said.applied.get(origin).copied().unwrap_or(0))
            };
            NodeStatus {
                heard: peer.at,
                live: state.peers.is_live(peer),
                here,
                offset: if here { state.offset } else { peer.offset() },
                lag: applied.iter().map(behind).sum(),
                said: peer.said.clone(),
            }
        });
        ClusterStatus {
            engine: node.broker.engine(),
            joined: *node.phase.borrow() == Phase::Joined,
            reachable: node.published.borrow().reachable,
            staleness: node.freshness.age(),
            stale: node.freshness.is_stale(),
            skewed: state.offset.unsigned_abs()
                > u64::try_from(node.settings.max_clock_skew.as_millis()).unwrap_or(u64::MAX),
            position: state.position,
            failure: state.failure.clone(),
            nodes: peers.collect(),
        }
    }

    /// Drops from the broker what ended before `before`.
    ///
    /// # Errors
    ///
    /// When the broker fails.
    pub async fn forget(&self, before: Timestamp) -> Result<(), BrokerError> {
        let epoch = self.node.state().epoch.clone();
        match epoch {
            Some(epoch) => self.node.broker.forget(&epoch, before).await,
            None => Ok(()),
        }
    }

    /// Publishes what is left, says goodbye and stops.
    pub async fn stop(&self) {
        let tasks = std::mem::take(&mut *self.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        tasks.iter().for_each(JoinHandle::abort);
        for task in tasks {
            // Ended before the last words are said.
            drop(task.await);
        }
        let epoch = {
            let state = self.node.state();
            state.epoch.clone().filter(|_| state.speaks)
        };
        if let Some(epoch) = epoch {
            // A broker that is away hears it from the store the next time.
            drop(timeout_at(Instant::now() + GOODBYE, self.node.publish(&epoch, true, true)).await);
        }
        let progress = self.node.progress();
        drop(self.node.ledger.follow(Vec::new(), Vec::new(), vec![progress]).await);
    }
}

/// A node as the ledger knows it, which the node holds: when it is gone, the ledger is alone.
#[derive(Debug)]
struct Replica(Weak<Node>);

impl Replication for Replica {
    fn written(&self) {
        if let Some(node) = self.0.upgrade() {
            node.wake.notify_one();
        }
    }

    fn reached(&self, sequence: u64, level: Option<Level>) -> BoxFuture<'_, Reached> {
        async move {
            let Some(node) = self.0.upgrade() else { return Reached::ALONE };
            let wanted = level.unwrap_or(node.settings.level);
            let until = Instant::now() + node.settings.patience;
            let mut reached = Level::Local;
            if wanted >= Level::Bus && node.is_published(sequence, until).await {
                reached = Level::Bus;
                // Others say how far they are with their heartbeats.
                let until = until + 2 * node.settings.heartbeat;
                if wanted == Level::All && node.is_everywhere(sequence, until).await {
                    reached = Level::All;
                }
            }
            Reached { level: reached, enough: reached >= wanted, sequence }
        }
        .boxed()
    }

    fn compare_and_put<'a>(&'a self, write: &'a DocumentWrite) -> BoxFuture<'a, Result<Put, Unreachable>> {
        async move {
            let node = self.0.upgrade().ok_or(Unreachable)?;
            let epoch = node.state().epoch.clone().ok_or(Unreachable)?;
            let message = node.seal(&Message::Document(write.document.clone())).ok_or(Unreachable)?;
            let expects = write.expects.unwrap_or(0);
            match node.broker.compare_and_put(&epoch, &message, expects).await {
                Ok(Exchanged::Written(_)) => Ok(Put::Written),
                Ok(Exchanged::Conflict(there)) => {
                    let there = node.document(there, write.document.kind, &write.document.key)?;
                    if there.as_ref().map_or(0, |there| there.revision) < expects {
                        // What was there is lost: whoever has it gives it back.
                        node.ask_for_resync(Cause::Differs);
                    }
                    Ok(Put::Conflict(there))
                }
                Err(error) => Err(node.unreachable(error)),
            }
        }
        .boxed()
    }

    fn agreed<'a>(&'a self, kind: DocumentKind, key: &'a str) -> BoxFuture<'a, Result<Option<Document>, Unreachable>> {
        async move {
            let node = self.0.upgrade().ok_or(Unreachable)?;
            let epoch = node.state().epoch.clone().ok_or(Unreachable)?;
            match node.broker.document(&epoch, kind, key).await {
                Ok(sealed) => node.document(sealed, kind, key),
                Err(error) => Err(node.unreachable(error)),
            }
        }
        .boxed()
    }

    fn time(&self, now: Timestamp) -> Timestamp {
        let Some(node) = self.0.upgrade() else { return now };
        let mut state = node.state();
        // Whatever is decided now is known to have happened. A clock that is far ahead deceives nobody but itself.
        state.note_time(now);
        state.latest.max(now).max(now.plus(state.ahead()))
    }
}

impl Node {
    /// Whether the log has the record, as soon as it has, or when it has not in time.
    async fn is_published(&self, sequence: u64, until: Instant) -> bool {
        let mut published = self.published.subscribe();
        // A broker that was away a moment ago is not waited for.
        if !published.borrow().reachable {
            return false;
        }
        let wait = published.wait_for(|it| it.sequence >= sequence || !it.reachable);
        matches!(timeout_at(until, wait).await, Ok(Ok(it)) if it.sequence >= sequence)
    }

    async fn is_everywhere(&self, sequence: u64, until: Instant) -> bool {
        let mut heard = self.heard.subscribe();
        loop {
            heard.borrow_and_update();
            if self.state().peers.all_have(&self.incarnation, &self.store, sequence) {
                return true;
            }
            if !matches!(timeout_at(until, heard.changed()).await, Ok(Ok(()))) {
                return false;
            }
        }
    }

    fn unreachable(&self, error: BrokerError) -> Unreachable {
        if matches!(error, BrokerError::Epoch) {
            self.ask_for_resync(Cause::Epoch);
        }
        self.failed(&error.into());
        Unreachable
    }

    /// The document that is in the place. One that nobody here can read is somebody else's doing.
    fn document(
        &self,
        sealed: Option<bytes::Bytes>,
        kind: DocumentKind,
        key: &str,
    ) -> Result<Option<Document>, Unreachable> {
        match sealed.map(|sealed| self.unseal(&sealed)) {
            None => Ok(None),
            Some(Some(Message::Document(it))) if it.kind == kind && it.key == key => Ok(Some(it)),
            Some(_) => Err(Unreachable),
        }
    }
}

#[cfg(test)]
mod tests;
