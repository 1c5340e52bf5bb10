//! What other nodes have said, taken in: in force first, then durable, as what is said here.

use std::sync::Arc;

use super::{Inner, Ledger, replace};
use crate::intake::{Event, FollowError};
use crate::revocation::{Form, RecordId, Target};
use crate::store::{Adopted, Adoption, Body, DocumentKind, Entry, StoreError};

impl Ledger {
    /// Takes in what other nodes have said, and the settings `progress`. When this returns `Ok`, all of it is in
    /// force here and on disk. What is known already changes nothing. A call that is dropped half-way is
    /// carried out all the same.
    ///
    /// # Errors
    ///
    /// When it is not on disk, or the map has no room: then this node must not take itself to be up to date.
    pub async fn follow(
        &self,
        entries: Vec<Entry>,
        documents: Vec<Adopted>,
        progress: Vec<(String, String)>,
    ) -> Result<Adoption, FollowError> {
        let inner = Arc::clone(&self.inner);
        let task = tokio::spawn(async move { inner.follow(entries, documents, progress).await });
        task.await.unwrap_or(Err(FollowError::Store(StoreError::Stopped)))
    }
}

impl Inner {
    async fn follow(
        &self,
        entries: Vec<Entry>,
        documents: Vec<Adopted>,
        progress: Vec<(String, String)>,
    ) -> Result<Adoption, FollowError> {
        let lifted = self.lifted_among(&entries).await?;
        let replacements = self.newer_replacements(&documents).await?;
        // Whoever lifts something counts on it that whatever is in force is queued.
        let mut sequence = self.sequence.lock().await;
        for (entry, lifted) in entries.iter().zip(lifted) {
            match &entry.body {
                Body::Revocation(it) if !lifted => {
                    let Target { kind, issuer, value } = &it.target;
                    self.map.apply(self.map.reference(*kind, issuer, value), it.form, it.forget_at)?;
                    self.tell(Event::Revoked(Arc::new(it.clone())));
                }
                Body::Other(it) => {
                    for Target { kind, issuer, value } in &it.restricts {
                        self.map.apply(self.map.reference(*kind, issuer, value), Form::Block, it.forget_at)?;
                    }
                }
                Body::Revocation(_) | Body::Lift(_) => {}
            }
        }
        for said in &replacements {
            self.follow_replacement(said);
        }
        let lifts: Vec<_> = entries
            .iter()
            .filter_map(|it| if let Body::Lift(it) = &it.body { Some(it.clone()) } else { None })
            .collect();
        let own = entries.iter().filter(|it| it.origin == self.store.store_id()).map(|it| it.origin_seq).max();
        // A copy of this store was put back: what it said since is not said again under the same number.
        *sequence = (*sequence).max(own.unwrap_or(0));
        let stored = self.store.adopt(entries, documents, progress);
        // A lift is carried out before anybody else's turn; nothing else need wait for the disk here.
        let held = (!lifts.is_empty() || replacements.iter().any(replace::Said::undoes)).then_some(sequence);
        let adoption = stored.await.unwrap_or(Err(StoreError::Stopped))?;
        for lift in lifts {
            self.loosen(lift.target.clone()).await?;
            self.tell(Event::Lifted(Arc::new(lift)));
        }
        for said in &replacements {
            self.follow_undo(said);
        }
        drop(held);
        Ok(adoption)
    }

    /// Which of the records a lift is already here for.
    async fn lifted_among(&self, entries: &[Entry]) -> Result<Vec<bool>, StoreError> {
        let asked: Vec<Option<(RecordId, Target)>> = entries
            .iter()
            .map(|entry| match &entry.body {
                Body::Revocation(it) => Some((it.id.clone(), it.target.clone())),
                Body::Lift(_) | Body::Other(_) => None,
            })
            .collect();
        self.ask(move |store| {
            asked.iter().map(|it| it.as_ref().map_or(Ok(false), |(id, target)| store.is_lifted(id, target))).collect()
        })
        .await
    }

    /// The replacements of subjects among the documents that are newer than what is here.
    async fn newer_replacements(&self, documents: &[Adopted]) -> Result<Vec<replace::Said>, StoreError> {
        let mut newer = Vec::new();
        for Adopted { document, .. } in documents.iter().filter(|it| it.document.kind == DocumentKind::Replacement) {
            let key = document.key.clone();
            let here = self.ask(move |store| store.document(DocumentKind::Replacement, &key)).await?;
            if here.is_some_and(|here| (here.revision, &here.body) >= (document.revision, &document.body)) {
                continue;
            }
            match replace::Said::read(document) {
                Ok(said) => newer.push(said),
                Err(error) => {
                    tracing::error!(%error, "a replacement of a subject that another node made is not in force here")
                }
            }
        }
        Ok(newer)
    }
}

impl Ledger {
    /// Everything that this node wrote itself after the number `after`, in order, at most `limit`.
    ///
    /// # Errors
    ///
    /// When the store cannot be read.
    pub async fn written(&self, after: u64, limit: usize) -> Result<Vec<crate::store::Written>, StoreError> {
        self.inner.ask(move |store| store.written(after, limit)).await
    }

    /// Hands out every record there is, whoever made it, in no particular order. Blocks.
    ///
    /// # Errors
    ///
    /// When the store cannot be read.
    pub fn entries(&self, each: &mut dyn FnMut(Entry)) -> Result<(), StoreError> {
        self.inner.store.entries(each)
    }

    /// A named text that survives with the records.
    ///
    /// # Errors
    ///
    /// When the store cannot be read.
    pub async fn setting(&self, name: &'static str) -> Result<Option<String>, StoreError> {
        self.inner.ask(move |store| store.setting(name)).await
    }

    /// Which store this is: the origin of this node's records.
    #[must_use]
    pub fn store_id(&self) -> String {
        self.inner.store.store_id().to_owned()
    }

    /// The number of this node's last record that is on disk.
    #[must_use]
    pub fn stored_sequence(&self) -> u64 {
        self.inner.store.own_sequence()
    }
}

#[cfg(test)]
mod tests;
