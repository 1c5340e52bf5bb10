//! What others write, on its way here: in force first, on disk then, and only then is this node further.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use super::history::{self, Continuity};
use super::message::{Digest, Heartbeat, Message, Unreadable};
use super::node::{Cause, Node, Observation, Phase, StepError};
use super::{BrokerError, Bucket, Delivered, Epoch, Position};
use crate::intake::{Adopted, Appended, Body, Document, DocumentKind, Entry};
use crate::time::Timestamp;

/// How long is waited before a broker that failed is asked again.
const PAUSE: Duration = Duration::from_millis(200);
/// Who is said to have written a document of another node: whoever did, it was not this one.
pub(super) const ELSEWHERE: &str = "elsewhere";

/// Follows the log for as long as the gateway runs.
pub(super) async fn run(node: &Arc<Node>) {
    let mut known = false;
    loop {
        if let Err(error) = node.step(&mut known).await {
            match error {
                StepError::Broker(BrokerError::Epoch) => node.ask_for_resync(Cause::Epoch),
                StepError::Broker(BrokerError::Trimmed) => node.ask_for_resync(Cause::Trimmed),
                // Whatever the broker has become meanwhile is looked at first.
                _ => known = false,
            }
            node.failed(&error);
            sleep(PAUSE).await;
        }
    }
}

impl Node {
    /// Reads on, by as much as there is. `known`: whether the log is the one that was read before.
    async fn step(&self, known: &mut bool) -> Result<(), StepError> {
        if !*known {
            self.recognise().await?;
            *known = true;
        }
        let resync = self.state().resync;
        if let Some(cause) = resync {
            self.resync(cause).await?;
        }
        if !self.state().speaks {
            self.begin_to_speak().await?;
        }
        let (epoch, position) = {
            let state = self.state();
            (state.epoch.clone(), state.position)
        };
        let Some(epoch) = epoch else { return Ok(()) };
        let batch = self.broker.read(&epoch, position, self.settings.heartbeat).await?;
        if !batch.is_empty() {
            self.take(&epoch, batch).await?;
        }
        self.works();
        Ok(())
    }

    /// Looks whether the log is the one that this node has read so far.
    async fn recognise(&self) -> Result<(), StepError> {
        let head = self.broker.head().await?;
        let (cause, was_known) = {
            let mut state = self.state();
            state.peers.pass(head.now);
            state.began.get_or_insert(head.now);
            // What others hold is worth knowing after any interruption.
            state.compare = true;
            match &state.epoch {
                None => (Some(Cause::New), false),
                Some(epoch) if *epoch != head.epoch || head.position < state.position => (Some(Cause::Epoch), true),
                Some(_) => (None, true),
            }
        };
        if let Some(cause) = cause {
            self.ask_for_resync(cause);
        } else if was_known {
            self.published.send_modify(|published| published.reachable = true);
        }
        Ok(())
    }

    /// Waits until nobody is there that has this node's name or store: the process before this one may have been
    /// killed a moment ago, or may be alive.
    async fn begin_to_speak(&self) -> Result<(), StepError> {
        let head = self.broker.head().await?;
        if self.state().peers.all().next().is_none() {
            self.hear_of_nodes(&head.epoch).await?;
        }
        let mut state = self.state();
        state.peers.pass(head.now);
        let peers = &state.peers;
        let taken =
            peers.others(&self.incarnation).any(|it| it.said.node == self.settings.node || it.said.store == self.store);
        if !taken {
            state.speaks = true;
            drop(state);
            self.wake.notify_one();
        }
        Ok(())
    }

    /// Takes in messages in their order, and is that much further when they are on disk.
    async fn take(&self, epoch: &Epoch, batch: Vec<Delivered>) -> Result<(), StepError> {
        let last = batch.last().map(|it| it.position).unwrap_or_default();
        let messages: Vec<_> =
            batch.into_iter().filter_map(|it| self.open(&it).map(|message| (it.position, it.at, message))).collect();
        // What this node said itself is here, unless an older copy of its store was put back.
        let stored = self.ledger.stored_sequence();
        let is_here = |entry: &Entry| entry.origin == self.store && entry.origin_seq <= stored;
        let entries: Vec<Entry> = messages
            .iter()
            .filter_map(|(_, _, message)| match message {
                Message::Record(entry) if !is_here(entry) => Some(entry.clone()),
                _ => None,
            })
            .collect();
        let documents: Vec<Document> = messages
            .iter()
            .filter_map(|(_, _, message)| match message {
                Message::Document(document) if document.kind != DocumentKind::Key => Some(document.clone()),
                _ => None,
            })
            .collect();
        let made: Vec<_> = entries.iter().map(|it| it.body.at()).collect();
        let foreign: Vec<_> =
            entries.iter().map(|it| it.origin != self.store && matches!(it.body, Body::Revocation(_))).collect();
        let applied = {
            let state = self.state();
            let mut applied = state.history.applied().clone();
            for (_, _, message) in &messages {
                if let Message::Record(entry) = message {
                    history::advance(&mut applied, &entry.origin, entry.origin_seq);
                }
            }
            applied
        };
        let progress = self.progress_at(last, applied);
        let outcomes = self.adopt(entries, documents, progress).await?;
        let now = self.clock.now();
        for ((outcome, made), foreign) in outcomes.iter().zip(made).zip(foreign) {
            if foreign && *outcome == Appended::New {
                self.audience.observe(Observation::Propagated(now.since(made)));
            }
        }
        let mut outcomes = outcomes.into_iter();
        for (position, at, message) in messages {
            self.state().peers.pass(at);
            match message {
                Message::Record(entry) => {
                    let outcome = if is_here(&entry) { None } else { outcomes.next() };
                    self.note(&entry, outcome);
                }
                Message::Document(document) if document.kind == DocumentKind::Replacement => {
                    self.state().history.count_replacement(&document);
                }
                Message::Heartbeat(heartbeat) => self.hear(heartbeat, position, at),
                Message::Digest(digest) => self.compare(&digest),
                Message::Credential(changed) => self.audience.credential(&changed),
                Message::Proofs(used) => self.audience.proofs(&used),
                Message::Document(_) | Message::Unknown => {}
            }
        }
        let mut state = self.state();
        if state.epoch.as_ref() == Some(epoch) {
            state.position = last;
        }
        Ok(())
    }

    /// Has the ledger take in what others have said, this node being as far as `progress` then.
    pub(super) async fn adopt(
        &self,
        entries: Vec<Entry>,
        documents: Vec<Document>,
        progress: (String, String),
    ) -> Result<Vec<Appended>, StepError> {
        if entries.is_empty() && documents.is_empty() {
            return Ok(Vec::new());
        }
        let adopted =
            documents.iter().map(|it| Adopted { origin: ELSEWHERE.to_owned(), document: it.clone() }).collect();
        let adoption = self.ledger.follow(entries, adopted, vec![progress]).await?;
        for (document, taken) in documents.iter().zip(adoption.documents) {
            if taken {
                self.audience.document(document);
            }
        }
        Ok(adoption.entries)
    }

    /// The message, if a node of this cluster said it.
    pub(super) fn open(&self, delivered: &Delivered) -> Option<Message> {
        self.unseal(&delivered.sealed)
    }

    pub(super) fn unseal(&self, sealed: &[u8]) -> Option<Message> {
        match self.seal.open(sealed) {
            Ok(message) => Some(message),
            Err(Unreadable::Forged(error)) => {
                self.audience.observe(Observation::Forged);
                tracing::error!(%error, "somebody else writes to the cluster's broker; the message is dropped");
                None
            }
            Err(Unreadable::Malformed(error)) => {
                self.audience.observe(Observation::Malformed);
                tracing::error!(%error, "a message of another node is not understood, and dropped");
                None
            }
        }
    }

    /// Counts a record that is here.
    fn note(&self, entry: &Entry, outcome: Option<Appended>) {
        let mut state = self.state();
        let continuity = state.history.see(&entry.origin, entry.origin_seq);
        // This node's own counts when it comes back.
        let is_new = outcome.map_or(continuity != Continuity::Known, |outcome| outcome == Appended::New);
        if is_new {
            state.history.count(Bucket::of(entry.body.forget_at()), &entry.origin, entry.origin_seq);
        }
        if continuity == Continuity::Gap {
            state.resync.get_or_insert(Cause::Gap);
        }
    }

    /// A node is there; perhaps this one, which then knows that it hears.
    fn hear(&self, said: Heartbeat, position: Position, at: Timestamp) {
        let own = said.incarnation == self.incarnation;
        let asks = said.compare;
        let conflict = !own && !said.leaving && (said.node == self.settings.node || said.store == self.store);
        let mut proved = None;
        {
            let mut state = self.state();
            state.note_time(said.latest);
            if own {
                while let Some(&(number, shown)) = state.sent.front().filter(|(number, _)| *number <= said.number) {
                    state.sent.pop_front();
                    proved = (number == said.number).then_some(shown).or(proved);
                }
                state.offset = said.sent.millis() - at.millis();
                state.fresh_at = Some(said.sent);
                state.hears_itself = true;
            }
            if state.history.lacks(&said.store, said.sequence) {
                // It has published more than has come here; where that is this node, it gives back what is lost.
                state.resync.get_or_insert(Cause::Gap);
            }
            // Who knows that something is missing is not up to date, whatever it hears.
            proved = proved.filter(|_| state.resync.is_none());
            if conflict && state.began.is_some_and(|began| at > began) {
                let text = format!("a node `{}` with the store {} is there", said.node, said.store);
                drop(state);
                return self.in_conflict(text);
            }
            state.peers.hear(said, at);
        }
        if let Some(shown) = proved {
            self.freshness.prove(shown);
        }
        self.heard.send_modify(|heard| *heard += 1);
        if asks {
            let (buckets, replacements, counts) = {
                let mut state = self.state();
                if position <= state.resynced_to {
                    // What was read of what is kept may be later than this place.
                    (Default::default(), Default::default(), false)
                } else {
                    let (buckets, replacements) = state.history.remember(position, at);
                    (buckets, replacements, true)
                }
            };
            if counts {
                self.send(Message::Digest(Digest {
                    node: self.settings.node.clone(),
                    incarnation: self.incarnation.clone(),
                    at: position.to_string(),
                    buckets,
                    replacements,
                }));
            }
        }
        if own {
            self.come_to_be_alone();
        }
    }

    /// Compares what another node holds with what is held here.
    fn compare(&self, digest: &Digest) {
        if digest.incarnation == self.incarnation {
            return;
        }
        let (same, hears_itself) = {
            let state = self.state();
            (state.history.compare(digest), state.hears_itself)
        };
        match same {
            None => {}
            // One that is met on the way says nothing of what follows.
            Some(true) if !hears_itself => {}
            Some(true) => self.joined(),
            Some(false) => {
                tracing::warn!(node = digest.node, "another node holds something else: what differs is exchanged");
                let mut state = self.state();
                state.resync.get_or_insert(Cause::Differs);
                state.compare = true;
            }
        }
    }

    /// A node that hears itself, and that nobody else is there to compare with, has all there is.
    fn come_to_be_alone(&self) {
        let alone = {
            let state = self.state();
            state.resync.is_none() && state.peers.others(&self.incarnation).next().is_none()
        };
        if alone {
            self.joined();
        }
    }

    fn joined(&self) {
        let joined = self.phase.send_if_modified(|phase| {
            let joins = *phase == Phase::Joining;
            if joins {
                *phase = Phase::Joined;
            }
            joins
        });
        if joined {
            tracing::info!(node = self.settings.node, "the cluster was joined");
        }
    }

    fn in_conflict(&self, text: String) {
        tracing::error!(text, "two nodes have one name or one store: each needs its own");
        // Whoever was there first stays.
        self.phase.send_if_modified(|phase| {
            let second = *phase == Phase::Joining;
            if second {
                *phase = Phase::Conflict(text);
            }
            second
        });
    }
}
