//! A broker in memory that does what a broker may do, and fails as one may fail: what nodes are tested with.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream};
use futures_util::{FutureExt as _, StreamExt as _};
use tokio::sync::watch;
use tokio::time::timeout;

use super::{
    Broker, BrokerError, Bucket, Delivered, Epoch, Exchanged, Head, MAX_READ, Place, Position, Publication, Wanted,
};
use crate::store::DocumentKind;
use crate::time::{Clock, Timestamp};

/// What a broker keeps, shared by its connections.
#[derive(Clone, Debug)]
pub(super) struct Model {
    kept: Arc<Mutex<Kept>>,
    grown: watch::Sender<u64>,
    clock: Clock,
}

#[derive(Clone, Debug, Default)]
struct Kept {
    life: u64,
    last: u64,
    /// Of the log.
    first: u64,
    log: BTreeMap<u64, (Timestamp, Bytes)>,
    records: BTreeMap<(Bucket, String, u64), Bytes>,
    documents: BTreeMap<(DocumentKind, String), (u64, Bytes)>,
    nodes: BTreeMap<String, Bytes>,
}

/// One node's connection to it.
#[derive(Debug)]
pub(super) struct Link {
    model: Model,
    /// Whether what this node says arrives.
    pub(super) cut_out: AtomicBool,
    /// Whether what others say arrives here.
    pub(super) cut_in: AtomicBool,
    /// How long it takes to say something, in milliseconds.
    pub(super) slow: AtomicU64,
}

/// An earlier state of a broker, to be put back.
pub(super) struct Backup(Kept);

impl Model {
    pub(super) fn new(clock: Clock) -> Self {
        Self { kept: Arc::default(), grown: watch::Sender::new(0), clock }
    }

    pub(super) fn link(&self) -> Arc<Link> {
        Arc::new(Link {
            model: self.clone(),
            cut_out: AtomicBool::new(false),
            cut_in: AtomicBool::new(false),
            slow: AtomicU64::new(0),
        })
    }

    /// Loses everything.
    pub(super) fn lose_everything(&self) {
        let mut kept = self.kept();
        *kept = Kept { life: kept.life + 1, ..Kept::default() };
        drop(kept);
        self.grown.send_modify(|grown| *grown += 1);
    }

    pub(super) fn back_up(&self) -> Backup {
        Backup(self.kept().clone())
    }

    /// Is what it was before, and does not know it.
    pub(super) fn put_back(&self, backup: Backup) {
        *self.kept() = backup.0;
        self.grown.send_modify(|grown| *grown += 1);
    }

    /// Drops the log up to its last message; what is kept beside it stays.
    pub(super) fn trim(&self) {
        let mut kept = self.kept();
        kept.first = kept.last + 1;
        kept.log.clear();
    }

    /// Loses one message out of the log, as a failover may.
    pub(super) fn lose_last(&self) {
        let mut kept = self.kept();
        let last = kept.last;
        kept.log.remove(&last);
        let place = kept.records.keys().next_back().cloned();
        place.map(|place| kept.records.remove(&place));
    }

    /// Loses every document, and nothing else.
    pub(super) fn lose_documents(&self) {
        self.kept().documents.clear();
    }

    /// Somebody puts what nodes said of one document in the place of another.
    pub(super) fn misplace(&self, kind: DocumentKind, from: &str, to: &str) {
        let mut kept = self.kept();
        let said = kept.documents.get(&(kind, from.to_owned())).cloned();
        said.map(|said| kept.documents.insert((kind, to.to_owned()), said));
    }

    /// Somebody else writes to it.
    pub(super) fn forge(&self, sealed: Bytes) {
        let at = self.clock.now();
        self.kept().append(at, sealed);
        self.grown.send_modify(|grown| *grown += 1);
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn epoch(&self) -> Epoch {
        Epoch(format!("life-{}", self.life))
    }

    fn check(&self, epoch: &Epoch) -> Result<(), BrokerError> {
        if self.epoch() == *epoch { Ok(()) } else { Err(BrokerError::Epoch) }
    }

    fn append(&mut self, at: Timestamp, sealed: Bytes) -> Position {
        self.last += 1;
        self.log.insert(self.last, (at, sealed));
        position(self.last)
    }

    fn take(&mut self, at: Timestamp, message: &Publication) -> Option<Position> {
        let sealed = message.sealed.clone();
        match &message.place {
            Place::Record { bucket, origin, sequence } => {
                self.records.insert((*bucket, origin.clone(), *sequence), sealed.clone());
            }
            Place::Document { kind, key, revision, .. } => {
                let place = (*kind, key.clone());
                if self.documents.get(&place).is_some_and(|(there, _)| there >= revision) {
                    return None;
                }
                self.documents.insert(place, (*revision, sealed.clone()));
            }
            Place::Node(node) => {
                self.nodes.insert(node.clone(), sealed.clone());
            }
            Place::Passing => {}
        }
        Some(self.append(at, sealed))
    }
}

const fn position(number: u64) -> Position {
    Position { major: number, minor: 0 }
}

fn away() -> BrokerError {
    BrokerError::Unavailable(Arc::new(std::io::Error::from(std::io::ErrorKind::TimedOut)))
}

impl Link {
    /// Cuts this node off, or joins it again.
    pub(super) fn cut(&self, cut: bool) {
        self.cut_out.store(cut, Ordering::SeqCst);
        self.cut_in.store(cut, Ordering::SeqCst);
    }

    fn speak(&self) -> Result<MutexGuard<'_, Kept>, BrokerError> {
        if self.cut_out.load(Ordering::SeqCst) { Err(away()) } else { Ok(self.model.kept()) }
    }

    fn hear(&self) -> Result<MutexGuard<'_, Kept>, BrokerError> {
        if self.cut_in.load(Ordering::SeqCst) { Err(away()) } else { Ok(self.model.kept()) }
    }
}

impl Broker for Link {
    fn engine(&self) -> &'static str {
        "model"
    }

    fn head(&self) -> BoxFuture<'_, Result<Head, BrokerError>> {
        async {
            let kept = self.hear()?;
            Ok(Head { epoch: kept.epoch(), position: position(kept.last), now: self.model.clock.now() })
        }
        .boxed()
    }

    fn publish<'a>(
        &'a self,
        epoch: &'a Epoch,
        messages: &'a [Publication],
    ) -> BoxFuture<'a, Result<Position, BrokerError>> {
        async move {
            match self.slow.load(Ordering::SeqCst) {
                0 => {}
                slow => tokio::time::sleep(Duration::from_millis(slow)).await,
            }
            let at = self.model.clock.now();
            let last = {
                let mut kept = self.speak()?;
                kept.check(epoch)?;
                messages
                    .iter()
                    .filter_map(|message| kept.take(at, message))
                    .last()
                    .unwrap_or_else(|| position(kept.last))
            };
            self.model.grown.send_modify(|grown| *grown += 1);
            Ok(last)
        }
        .boxed()
    }

    fn compare_and_put<'a>(
        &'a self,
        epoch: &'a Epoch,
        message: &'a Publication,
        expects: u64,
    ) -> BoxFuture<'a, Result<Exchanged, BrokerError>> {
        async move {
            let at = self.model.clock.now();
            let exchanged = {
                let mut kept = self.speak()?;
                kept.check(epoch)?;
                let Place::Document { kind, key, .. } = &message.place else { return Err(away()) };
                match kept.documents.get(&(*kind, key.clone())).cloned() {
                    Some((revision, sealed)) if revision != expects => Exchanged::Conflict(Some(sealed)),
                    None if expects != 0 => Exchanged::Conflict(None),
                    _ => kept.take(at, message).map_or(Exchanged::Conflict(None), Exchanged::Written),
                }
            };
            self.model.grown.send_modify(|grown| *grown += 1);
            Ok(exchanged)
        }
        .boxed()
    }

    fn document<'a>(
        &'a self,
        epoch: &'a Epoch,
        kind: DocumentKind,
        key: &'a str,
    ) -> BoxFuture<'a, Result<Option<Bytes>, BrokerError>> {
        async move {
            let kept = self.hear()?;
            kept.check(epoch)?;
            Ok(kept.documents.get(&(kind, key.to_owned())).map(|(_, sealed)| sealed.clone()))
        }
        .boxed()
    }

    fn read<'a>(
        &'a self,
        epoch: &'a Epoch,
        after: Position,
        wait: Duration,
    ) -> BoxFuture<'a, Result<Vec<Delivered>, BrokerError>> {
        async move {
            let mut grown = self.model.grown.subscribe();
            loop {
                grown.borrow_and_update();
                {
                    let kept = self.hear()?;
                    kept.check(epoch)?;
                    if after.major + 1 < kept.first {
                        return Err(BrokerError::Trimmed);
                    }
                    let later = kept.log.range(after.major + 1..).take(MAX_READ);
                    let found: Vec<_> = later
                        .map(|(number, (at, sealed))| Delivered {
                            position: position(*number),
                            at: *at,
                            sealed: sealed.clone(),
                        })
                        .collect();
                    if !found.is_empty() {
                        return Ok(found);
                    }
                }
                if timeout(wait, grown.changed()).await.is_err() {
                    return Ok(Vec::new());
                }
            }
        }
        .boxed()
    }

    fn kept<'a>(&'a self, epoch: &'a Epoch, wanted: Wanted) -> BoxStream<'a, Result<Vec<Bytes>, BrokerError>> {
        let parts = self.hear().and_then(|kept| {
            kept.check(epoch)?;
            let all: Vec<Bytes> = match wanted {
                Wanted::Records => kept.records.values().cloned().collect(),
                Wanted::Buckets(buckets) => kept
                    .records
                    .iter()
                    .filter(|(place, _)| buckets.contains(&place.0))
                    .map(|(_, it)| it.clone())
                    .collect(),
                Wanted::Documents => kept.documents.values().map(|(_, sealed)| sealed.clone()).collect(),
                Wanted::Nodes => kept.nodes.values().cloned().collect(),
            };
            Ok(all.chunks(7).map(<[Bytes]>::to_vec).collect::<Vec<_>>())
        });
        match parts {
            Ok(parts) => stream::iter(parts.into_iter().map(Ok)).boxed(),
            Err(error) => stream::iter([Err(error)]).boxed(),
        }
    }

    fn forget<'a>(&'a self, epoch: &'a Epoch, before: Timestamp) -> BoxFuture<'a, Result<(), BrokerError>> {
        async move {
            let mut kept = self.speak()?;
            kept.check(epoch)?;
            kept.records.retain(|(bucket, ..), _| bucket.ends().is_none_or(|ends| ends > before));
            Ok(())
        }
        .boxed()
    }
}
