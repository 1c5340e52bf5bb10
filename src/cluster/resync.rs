//! All that is kept, read; and all that others lack, published: after it this node and the broker hold the same.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use futures_util::StreamExt as _;

use super::history::History;
use super::message::Message;
use super::node::{Cause, Node, Observation, StepError};
use super::{Bucket, Epoch, MAX_PUBLISH, Publication, Wanted};
use crate::intake::{Document, DocumentKind, Entry, StoreError};

/// Kinds of documents that all nodes have.
const SHARED: [DocumentKind; 3] = [DocumentKind::Family, DocumentKind::Session, DocumentKind::Replacement];

/// Which records there are: the number of the origin among `origins`, and the sequence.
#[derive(Default)]
struct Identities {
    origins: HashMap<String, u32>,
    known: HashSet<(u32, u64)>,
}

impl Identities {
    /// Whether it is the first time.
    fn insert(&mut self, origin: &str, sequence: u64) -> bool {
        let next = u32::try_from(self.origins.len()).unwrap_or(u32::MAX);
        let origin = *self.origins.entry(origin.to_owned()).or_insert(next);
        self.known.insert((origin, sequence))
    }

    fn contains(&self, origin: &str, sequence: u64) -> bool {
        self.origins.get(origin).is_some_and(|origin| self.known.contains(&(*origin, sequence)))
    }
}

impl Node {
    /// Reads all that is kept, and publishes what is not there.
    pub(super) async fn resync(&self, cause: Cause) -> Result<(), StepError> {
        let head = self.broker.head().await?;
        tracing::info!(cause = cause.name(), "reading all that the broker keeps");
        let mut kept = Identities::default();
        self.hear_of_nodes(&head.epoch).await?;
        let said = self.said_to_be_published();
        // This node gives back whatever it has said and is not kept.
        let mut highest = BTreeMap::from([(self.store.clone(), self.published.borrow().sequence)]);
        let here = self.identities().await?;
        let mut parts = self.broker.kept(&head.epoch, Wanted::Records);
        while let Some(part) = parts.next().await {
            let mut entries = Vec::new();
            for sealed in part? {
                let Some(Message::Record(entry)) = self.unseal(&sealed) else { continue };
                let far = highest.entry(entry.origin.clone()).or_default();
                *far = entry.origin_seq.max(*far);
                if kept.insert(&entry.origin, entry.origin_seq) && !here.contains(&entry.origin, entry.origin_seq) {
                    entries.push(entry);
                }
            }
            self.adopt(entries, Vec::new(), self.progress()).await?;
        }
        drop((parts, here));
        let revisions = self.take_documents(&head.epoch).await?;
        self.give_back(&head.epoch, kept, revisions).await?;
        self.recount(highest, true).await?;
        let reached = self.broker.head().await?;
        let goes_on = {
            let mut state = self.state();
            state.history.waive(said);
            // What is kept nowhere passes by in the log alone: it is read on from where it was, where that can be.
            let goes_on = matches!(cause, Cause::Gap | Cause::Differs) && state.epoch.as_ref() == Some(&head.epoch);
            let goes_on = goes_on && state.position <= head.position;
            if !goes_on {
                state.position = head.position;
            }
            state.epoch = Some(head.epoch);
            state.resynced_to = reached.position;
            state.resync = None;
            state.compare = true;
            goes_on
        };
        if !goes_on {
            self.audience.missed();
        }
        let progress = self.progress();
        self.ledger.follow(Vec::new(), Vec::new(), vec![progress]).await?;
        self.audience.observe(Observation::Resynced(cause));
        self.wake.notify_one();
        Ok(())
    }

    /// By origin, the last record that its node has said to be in the log.
    fn said_to_be_published(&self) -> BTreeMap<String, u64> {
        let mut said: BTreeMap<String, u64> = BTreeMap::new();
        let state = self.state();
        for peer in state.peers.all() {
            let far = said.entry(peer.said.store.clone()).or_default();
            *far = peer.said.sequence.max(*far);
        }
        said
    }

    async fn identities(&self) -> Result<Identities, StoreError> {
        self.read_entries(Identities::default(), |entry, identities| {
            identities.insert(&entry.origin, entry.origin_seq);
        })
        .await
    }

    /// Goes through every record that is here, where waiting for the disk is allowed.
    async fn read_entries<T: Send + 'static>(
        &self,
        mut into: T,
        each: impl Fn(Entry, &mut T) + Send + 'static,
    ) -> Result<T, StoreError> {
        let ledger = Arc::clone(&self.ledger);
        let reading = tokio::task::spawn_blocking(move || {
            ledger.entries(&mut |entry| each(entry, &mut into))?;
            Ok(into)
        });
        reading.await.unwrap_or(Err(StoreError::Stopped))
    }

    /// Takes in every document that is kept; which revisions there are.
    async fn take_documents(&self, epoch: &Epoch) -> Result<HashMap<(DocumentKind, String), u64>, StepError> {
        let mut revisions = HashMap::new();
        let mut parts = self.broker.kept(epoch, Wanted::Documents);
        while let Some(part) = parts.next().await {
            let mut documents = Vec::new();
            for sealed in part? {
                let Some(Message::Document(document)) = self.unseal(&sealed) else { continue };
                revisions.insert((document.kind, document.key.clone()), document.revision);
                documents.push(document);
            }
            self.adopt(Vec::new(), documents, self.progress()).await?;
        }
        Ok(revisions)
    }

    /// Which nodes there were: those who are there are compared with.
    pub(super) async fn hear_of_nodes(&self, epoch: &Epoch) -> Result<(), StepError> {
        let mut parts = self.broker.kept(epoch, Wanted::Nodes);
        while let Some(part) = parts.next().await {
            for sealed in part? {
                if let Some(Message::Heartbeat(said)) = self.unseal(&sealed) {
                    // When the broker took it is not kept; when it was sent is near enough.
                    let at = said.sent;
                    let mut state = self.state();
                    let now = state.peers.now();
                    state.peers.hear(said, at.min(now));
                }
            }
        }
        Ok(())
    }

    /// Publishes what is here and not kept there.
    async fn give_back(
        &self,
        epoch: &Epoch,
        kept: Identities,
        revisions: HashMap<(DocumentKind, String), u64>,
    ) -> Result<(), StepError> {
        let before = self.clock.now();
        let lapsed = move |bucket: Bucket| bucket.ends().is_some_and(|ends| ends <= before);
        let is_lacking =
            move |it: &Entry| !kept.contains(&it.origin, it.origin_seq) && !lapsed(Bucket::of(it.body.forget_at()));
        let lacking = self.read_entries(Vec::new(), move |entry, lacking: &mut Vec<Entry>| {
            if is_lacking(&entry) {
                lacking.push(entry);
            }
        });
        self.publish_all(epoch, lacking.await?.into_iter().map(Message::Record)).await?;
        for kind in SHARED {
            let ledger = Arc::clone(&self.ledger);
            let reading = tokio::task::spawn_blocking(move || {
                let mut all = Vec::new();
                ledger.documents(kind, &mut |document| all.push(document))?;
                Ok::<Vec<Document>, StoreError>(all)
            });
            let all = reading.await.unwrap_or(Err(StoreError::Stopped))?;
            let newer = |it: &Document| {
                it.is_live(before) && revisions.get(&(kind, it.key.clone())).is_none_or(|there| *there < it.revision)
            };
            self.publish_all(epoch, all.into_iter().filter(newer).map(Message::Document)).await?;
        }
        Ok(())
    }

    async fn publish_all(&self, epoch: &Epoch, messages: impl Iterator<Item = Message>) -> Result<(), StepError> {
        let mut batch: Vec<Publication> = Vec::with_capacity(MAX_PUBLISH);
        let mut count = 0_u64;
        let mut messages = messages.filter_map(|message| self.seal(&message)).peekable();
        while let Some(message) = messages.next() {
            batch.push(message);
            count += 1;
            if batch.len() == MAX_PUBLISH || messages.peek().is_none() {
                self.broker.publish(epoch, &batch).await?;
                batch.clear();
            }
        }
        if count > 0 {
            tracing::warn!(count, "the broker was given back what it did not keep");
        }
        Ok(())
    }

    /// Counts what is here when the node starts.
    pub(super) async fn count_what_is_here(&self) -> Result<(), StoreError> {
        let applied = self.state().history.applied().clone();
        self.recount(applied, false).await
    }

    /// Counts anew what is here, where the log has each node's records up to `highest`. `complete`: nothing that is
    /// missing before the last record of a node can be had any more.
    async fn recount(&self, highest: BTreeMap<String, u64>, complete: bool) -> Result<(), StoreError> {
        let own = self.store.clone();
        // This node's own records count once they are in the log.
        let read_back = highest.get(&own).copied().unwrap_or(0);
        let mut history = self
            .read_entries(History::default(), move |entry, history| {
                if complete && entry.origin != own {
                    history.close(&entry.origin, entry.origin_seq);
                }
                if entry.origin != own || entry.origin_seq <= read_back {
                    history.count(Bucket::of(entry.body.forget_at()), &entry.origin, entry.origin_seq);
                }
            })
            .await?;
        for (origin, sequence) in highest {
            history.close(&origin, sequence);
        }
        let ledger = Arc::clone(&self.ledger);
        let reading = tokio::task::spawn_blocking(move || {
            ledger.documents(DocumentKind::Replacement, &mut |document| history.count_replacement(&document))?;
            Ok::<History, StoreError>(history)
        });
        self.state().history = reading.await.unwrap_or(Err(StoreError::Stopped))?;
        Ok(())
    }
}
