//! A store that hands out what it holds in some order, and some of it twice: as a log may that nodes share.

use std::sync::{Arc, Mutex};

use portcullis::revocation::{InForce, RecordId, Revocation, Target, TargetKind};
use portcullis::store::{
    Acknowledgement, AdoptAcknowledgement, Adopted, Cursor, Document, DocumentKind, DocumentWrite, Entry, Filter, Kept,
    Live, MemoryStore, Page, PutAcknowledgement, Store, StoreError, StoreStatus, Written,
};
use portcullis::time::Timestamp;

/// The store; clones share what they hold.
#[derive(Clone, Debug)]
pub(crate) struct Shuffled {
    inner: Arc<MemoryStore>,
    seed: u64,
}

impl Shuffled {
    pub(crate) fn new() -> Self {
        Self { inner: Arc::new(MemoryStore::new()), seed: 0 }
    }

    /// The same store, read in another order.
    pub(crate) fn reordered(&self, seed: u64) -> Self {
        Self { inner: Arc::clone(&self.inner), seed }
    }

    fn shuffle<T: Clone>(&self, items: &mut Vec<T>) {
        let mut state = self.seed | 1;
        let mut next = |below: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            usize::try_from(state >> 33).unwrap() % below
        };
        for place in (1..items.len()).rev() {
            items.swap(place, next(place + 1));
        }
        if !items.is_empty() {
            let again = items[next(items.len())].clone();
            items.push(again);
        }
    }
}

#[derive(Clone)]
struct Held {
    kind: TargetKind,
    issuer: String,
    value: String,
    effect: InForce,
    left_by_lift: bool,
}

impl Store for Shuffled {
    fn replay(&self, each: &(dyn Fn(Live<'_>) + Sync)) -> Result<(), StoreError> {
        let held = Mutex::new(Vec::new());
        self.inner.replay(&|live| {
            held.lock().unwrap().push(Held {
                kind: live.kind,
                issuer: live.issuer.to_owned(),
                value: live.value.to_owned(),
                effect: live.effect,
                left_by_lift: live.left_by_lift,
            });
        })?;
        let mut held = held.into_inner().unwrap();
        self.shuffle(&mut held);
        for it in &held {
            let Held { kind, effect, left_by_lift, .. } = *it;
            each(Live { kind, issuer: &it.issuer, value: &it.value, effect, left_by_lift });
        }
        Ok(())
    }

    fn documents(&self, kind: DocumentKind, each: &mut dyn FnMut(Document)) -> Result<(), StoreError> {
        let mut held = Vec::new();
        self.inner.documents(kind, &mut |document| held.push(document))?;
        // Each key once, as it is written.
        self.shuffle(&mut held);
        held.pop();
        held.into_iter().for_each(each);
        Ok(())
    }

    fn store_id(&self) -> &str {
        self.inner.store_id()
    }

    fn own_sequence(&self) -> u64 {
        self.inner.own_sequence()
    }

    fn append(&self, entries: Vec<Entry>) -> Acknowledgement {
        self.inner.append(entries)
    }

    fn put(&self, writes: Vec<DocumentWrite>) -> PutAcknowledgement {
        self.inner.put(writes)
    }

    fn adopt(
        &self,
        entries: Vec<Entry>,
        documents: Vec<Adopted>,
        progress: Vec<(String, String)>,
    ) -> AdoptAcknowledgement {
        self.inner.adopt(entries, documents, progress)
    }

    fn written(&self, after: u64, limit: usize) -> Result<Vec<Written>, StoreError> {
        self.inner.written(after, limit)
    }

    fn entries(&self, each: &mut dyn FnMut(Entry)) -> Result<(), StoreError> {
        self.inner.entries(each)
    }

    fn document(&self, kind: DocumentKind, key: &str) -> Result<Option<Document>, StoreError> {
        self.inner.document(kind, key)
    }

    fn live(&self, target: &Target, each: &mut dyn FnMut(Live<'_>)) -> Result<(), StoreError> {
        self.inner.live(target, each)
    }

    fn find(&self, id: &RecordId) -> Result<Option<Kept>, StoreError> {
        self.inner.find(id)
    }

    fn is_lift(&self, id: &RecordId) -> Result<bool, StoreError> {
        self.inner.is_lift(id)
    }

    fn is_lifted(&self, id: &RecordId, target: &Target) -> Result<bool, StoreError> {
        self.inner.is_lifted(id, target)
    }

    fn of_target(&self, target: &Target, limit: usize) -> Result<Vec<Revocation>, StoreError> {
        self.inner.of_target(target, limit)
    }

    fn page(&self, filter: &Filter, from: Option<Cursor>, limit: usize) -> Result<Page, StoreError> {
        self.inner.page(filter, from, limit)
    }

    fn forget(&self, before: Timestamp, limit: usize) -> Result<usize, StoreError> {
        self.inner.forget(before, limit)
    }

    fn setting(&self, name: &str) -> Result<Option<String>, StoreError> {
        self.inner.setting(name)
    }

    fn set_setting(&self, name: &str, value: &str) -> Result<(), StoreError> {
        self.inner.set_setting(name, value)
    }

    fn status(&self) -> StoreStatus {
        self.inner.status()
    }
}
