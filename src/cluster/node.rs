//! One node of a cluster: what its parts share.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, watch};

use super::history::History;
use super::message::{CredentialDrop, Heartbeat, Message, Seal, UsedProof};
use super::peers::{Peer, Peers};
use super::{Broker, BrokerError, Epoch, Position};
use crate::intake::{Document, FollowError, Ledger, Level, StoreError};
use crate::revocation::Freshness;
use crate::time::{Clock, Timestamp};

/// The setting of a store that says how far its node has come in the log. Without it, or with what cannot be read,
/// all that the cluster has is read.
pub const PROGRESS: &str = "cluster";
/// Heartbeats whose sending is remembered until they are read back.
const MAX_SENT: usize = 1024;
/// Messages besides records and documents that wait to be sent. At the bound the oldest are dropped.
pub(super) const MAX_OUTGOING: usize = 10_000;
/// What another node takes for the present counts, as long as it is no further ahead of the broker's clock than this. A
/// cutoff at that time keeps people out until then, so a clock that is hours ahead must not make one; what it opened
/// itself is in everybody else's future, and refused for it.
const MAX_AHEAD: Duration = Duration::from_secs(300);

/// What a node is to do.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Its name, different from every other node's.
    pub node: String,
    /// The name of the cluster, by which several may share a broker.
    pub cluster: String,
    /// How often it says that it is there.
    pub heartbeat: Duration,
    /// How often nodes compare what they hold.
    pub compare: Duration,
    /// How far a revocation is to have come before it is answered.
    pub level: Level,
    /// For how long that is waited for.
    pub patience: Duration,
    /// How far its clock may be off.
    pub max_clock_skew: Duration,
}

/// What the rest of the gateway hears of other nodes, and tells them.
pub trait Audience: Send + Sync + fmt::Debug {
    /// A document of another node is in the store here.
    fn document(&self, document: &Document);
    /// What is remembered of a subject's credential is not good any more.
    fn credential(&self, changed: &CredentialDrop);
    /// Changes of credentials may have been missed: what is remembered of any is not good any more.
    fn missed(&self);
    /// Proofs of possession were used elsewhere.
    fn proofs(&self, used: &[UsedProof]);
    /// The session keys that are loaded here, by thumbprint.
    fn keys(&self) -> Vec<String>;
    /// Whether this node serves.
    fn is_serving(&self) -> bool;
    /// Something happened that is counted.
    fn observe(&self, what: Observation);
}

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Observation {
    /// A revocation of another node is in force here, so long after it was made, by the clocks of both.
    Propagated(Duration),
    /// A message was not said by a node of this cluster.
    Forged,
    /// A message of a node was not understood.
    Malformed,
    /// All that is kept was read, and what others lack was published.
    Resynced(Cause),
    /// The broker failed.
    Failed,
}

/// Why all that is kept was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The node has never read it.
    New,
    /// The broker does not keep what it kept before.
    Epoch,
    /// The log does not reach back far enough.
    Trimmed,
    /// Records are missing.
    Gap,
    /// Another node holds something else.
    Differs,
}

impl Cause {
    /// The name in metrics and logs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Epoch => "epoch",
            Self::Trimmed => "trimmed",
            Self::Gap => "gap",
            Self::Differs => "differs",
        }
    }
}

/// Why a step of a node came to nothing.
#[derive(Debug, thiserror::Error)]
pub(super) enum StepError {
    #[error("the broker failed: {0}")]
    Broker(#[from] BrokerError),
    #[error("failed to take in what other nodes said: {0}")]
    Follow(#[from] FollowError),
    #[error("failed to read the store: {0}")]
    Store(#[from] StoreError),
}

/// How far a node is on its way into the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// It is not known whether it has all that the others have.
    Joining,
    /// It has been up to date once.
    Joined,
    /// Another node that is there has its name or its store.
    Conflict(String),
}

/// How far the log has this node's records, and whether the broker was there when it was last asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Published {
    pub(super) sequence: u64,
    pub(super) reachable: bool,
}

/// What survives of a node's standing in the log.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Progress {
    pub(super) epoch: Option<String>,
    #[serde(default)]
    pub(super) position: String,
    #[serde(default)]
    pub(super) applied: BTreeMap<String, u64>,
    #[serde(default)]
    pub(super) outbox: u64,
    #[serde(default)]
    pub(super) latest: Timestamp,
    /// When it was last up to date, by its wall clock.
    #[serde(default)]
    pub(super) fresh_at: Option<Timestamp>,
}

/// What changes, under one lock that is never held for longer than it takes to look.
#[derive(Debug)]
pub(super) struct State {
    pub(super) epoch: Option<Epoch>,
    pub(super) position: Position,
    pub(super) history: History,
    pub(super) peers: Peers,
    /// The number in the store up to which everything written here was published.
    pub(super) outbox: u64,
    /// The latest time that anything is known to have happened at.
    pub(super) latest: Timestamp,
    /// Heartbeats that were sent and not read back: their numbers, and what the clock that goes on showed.
    pub(super) sent: VecDeque<(u64, u64)>,
    pub(super) number: u64,
    /// Messages besides what the store has.
    pub(super) outgoing: VecDeque<Message>,
    /// Why all that is kept is to be read, if it is.
    pub(super) resync: Option<Cause>,
    /// Up to where the log was read when that was last done: nothing is compared before.
    pub(super) resynced_to: Position,
    /// Whether the next heartbeat asks everybody what they hold.
    pub(super) compare: bool,
    /// How far the clock here is ahead of the broker's, in milliseconds.
    pub(super) offset: i64,
    /// Whether it has read a heartbeat of its own: then it has read what the log had when the process began.
    pub(super) hears_itself: bool,
    /// When it was last up to date, by the wall clock.
    pub(super) fresh_at: Option<Timestamp>,
    /// What the broker's clock showed when this process first asked it.
    pub(super) began: Option<Timestamp>,
    /// Whether this node says anything yet: not before it is known that nobody else has its name.
    pub(super) speaks: bool,
    /// What went wrong last.
    pub(super) failure: Option<String>,
}

impl State {
    /// Notes that something happened at `time`, unless that is too far ahead of the broker's clock to be true.
    pub(super) fn note_time(&mut self, time: Timestamp) {
        let broker = self.peers.now();
        if broker == Timestamp::MIN || time <= broker.plus(MAX_AHEAD) {
            self.latest = self.latest.max(time);
        }
    }

    /// How far the clock of a node that is there is ahead of the one here: what it opened since it was last heard
    /// was opened by that. Both are seen by the broker's clock.
    pub(super) fn ahead(&self) -> Duration {
        let believed = i64::try_from(MAX_AHEAD.as_millis()).unwrap_or(i64::MAX);
        let offsets = self.peers.all().filter(|peer| self.peers.is_live(peer)).map(Peer::offset);
        let furthest = offsets.filter(|offset| *offset <= believed).max().unwrap_or(self.offset);
        Duration::from_millis(u64::try_from(furthest.saturating_sub(self.offset)).unwrap_or(0)).min(MAX_AHEAD)
    }
}

/// One node.
pub(super) struct Node {
    pub(super) settings: Settings,
    pub(super) broker: Arc<dyn Broker>,
    pub(super) seal: Seal,
    pub(super) ledger: Arc<Ledger>,
    pub(super) audience: Arc<dyn Audience>,
    pub(super) freshness: Arc<Freshness>,
    pub(super) clock: Clock,
    /// Drawn when the process began.
    pub(super) incarnation: String,
    pub(super) store: String,
    /// Wakes who publishes.
    pub(super) wake: Notify,
    pub(super) published: watch::Sender<Published>,
    /// Changes whenever a heartbeat was heard.
    pub(super) heard: watch::Sender<u64>,
    pub(super) phase: watch::Sender<Phase>,
    state: Mutex<State>,
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Node").field("node", &self.settings.node).finish_non_exhaustive()
    }
}

impl Node {
    #[expect(clippy::too_many_arguments, reason = "everything that a node is made of, once")]
    pub(super) fn new(
        settings: Settings,
        broker: Arc<dyn Broker>,
        seal: Seal,
        ledger: Arc<Ledger>,
        audience: Arc<dyn Audience>,
        freshness: Arc<Freshness>,
        clock: Clock,
        progress: Progress,
    ) -> Self {
        let store = ledger.store_id();
        let sequence = progress.applied.get(&store).copied().unwrap_or(0);
        let state = State {
            epoch: progress.epoch.map(Epoch),
            position: progress.position.parse().unwrap_or_default(),
            history: History::new(progress.applied),
            peers: Peers::new(settings.heartbeat),
            outbox: progress.outbox,
            latest: progress.latest,
            sent: VecDeque::new(),
            number: 0,
            outgoing: VecDeque::new(),
            resync: None,
            resynced_to: Position::START,
            compare: true,
            offset: 0,
            hears_itself: false,
            fresh_at: progress.fresh_at,
            began: None,
            speaks: false,
            failure: None,
        };
        Self {
            settings,
            broker,
            seal,
            ledger,
            audience,
            freshness,
            clock,
            incarnation: uuid::Uuid::now_v7().to_string(),
            store,
            wake: Notify::new(),
            published: watch::Sender::new(Published { sequence, reachable: false }),
            heard: watch::Sender::new(0),
            phase: watch::Sender::new(Phase::Joining),
            state: Mutex::new(state),
        }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How far it has come, as it is stored.
    pub(super) fn progress(&self) -> (String, String) {
        let (position, applied) = {
            let state = self.state();
            (state.position, state.history.applied().clone())
        };
        self.progress_at(position, applied)
    }

    /// The same for a node that has come as far as `position` and, by origin, `applied`.
    pub(super) fn progress_at(&self, position: Position, applied: BTreeMap<String, u64>) -> (String, String) {
        let state = self.state();
        let progress = Progress {
            epoch: state.epoch.as_ref().map(|epoch| epoch.0.clone()),
            position: position.to_string(),
            applied,
            outbox: state.outbox,
            latest: state.latest,
            fresh_at: state.fresh_at,
        };
        // Texts and numbers: nothing that JSON could not say.
        (PROGRESS.to_owned(), serde_json::to_string(&progress).unwrap_or_default())
    }

    /// Has something sent that is in no store.
    pub(super) fn send(&self, message: Message) {
        {
            let mut state = self.state();
            if state.outgoing.len() >= MAX_OUTGOING {
                state.outgoing.pop_front();
            }
            state.outgoing.push_back(message);
        }
        self.wake.notify_one();
    }

    /// Has all that is kept read, for the first cause that there is.
    pub(super) fn ask_for_resync(&self, cause: Cause) {
        self.state().resync.get_or_insert(cause);
    }

    /// The next heartbeat.
    pub(super) fn heartbeat(&self, leaving: bool) -> Heartbeat {
        let now = self.clock.now();
        let (keys, ready) = (self.audience.keys(), self.audience.is_serving());
        let shown = self.freshness.clock();
        let mut state = self.state();
        state.number += 1;
        let number = state.number;
        if state.sent.len() == MAX_SENT {
            state.sent.pop_front();
        }
        state.sent.push_back((number, shown));
        state.note_time(now);
        Heartbeat {
            node: self.settings.node.clone(),
            store: self.store.clone(),
            incarnation: self.incarnation.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            number,
            sent: now,
            latest: state.latest,
            sequence: self.published.borrow().sequence,
            applied: state.history.applied().clone(),
            position: state.position.to_string(),
            keys,
            ready,
            compare: std::mem::take(&mut state.compare),
            leaving,
        }
    }

    /// Says what went wrong, once for as long as it is the same.
    pub(super) fn failed(&self, error: &StepError) {
        let text = match std::error::Error::source(error).and_then(std::error::Error::source) {
            Some(cause) => format!("{error}: {cause}"),
            None => error.to_string(),
        };
        let before = self.state().failure.replace(text.clone());
        if matches!(error, StepError::Broker(_)) {
            self.audience.observe(Observation::Failed);
        }
        if before.as_ref() != Some(&text) {
            tracing::error!(error = text, "the cluster is not what it should be");
        }
    }

    /// All went well.
    pub(super) fn works(&self) {
        if self.state().failure.take().is_some() {
            tracing::info!("the cluster is what it should be again");
        }
    }
}
