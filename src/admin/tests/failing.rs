//! A memory store whose disk can be made to fail.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::oneshot;

use crate::revocation::{RecordId, Revocation, Target};
use crate::store::{
    Acknowledgement, AdoptAcknowledgement, Adopted, Cursor, Document, DocumentKind, DocumentWrite, Entry, Filter, Kept,
    Live, MemoryStore, Page, PutAcknowledgement, Store, StoreError, StoreStatus, Written,
};
use crate::time::Timestamp;

#[derive(Debug, Default)]
pub(crate) struct FailingStore {
    inner: MemoryStore,
    pub(crate) failing: AtomicBool,
}

fn no_disk() -> StoreError {
    StoreError::NotDurable(Arc::new(std::io::Error::other("no disk")))
}

impl Store for FailingStore {
    fn append(&self, entries: Vec<Entry>) -> Acknowledgement {
        if !self.failing.load(Ordering::Relaxed) {
            return self.inner.append(entries);
        }
        let (reply, answer) = oneshot::channel();
        drop(reply.send(Err(no_disk())));
        answer
    }

    fn put(&self, writes: Vec<DocumentWrite>) -> PutAcknowledgement {
        if !self.failing.load(Ordering::Relaxed) {
            return self.inner.put(writes);
        }
        let (reply, answer) = oneshot::channel();
        drop(reply.send(Err(no_disk())));
        answer
    }

    fn adopt(
        &self,
        entries: Vec<Entry>,
        documents: Vec<Adopted>,
        progress: Vec<(String, String)>,
    ) -> AdoptAcknowledgement {
        if !self.failing.load(Ordering::Relaxed) {
            return self.inner.adopt(entries, documents, progress);
        }
        let (reply, answer) = oneshot::channel();
        drop(reply.send(Err(no_disk())));
        answer
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

    fn documents(&self, kind: DocumentKind, each: &mut dyn FnMut(Document)) -> Result<(), StoreError> {
        self.inner.documents(kind, each)
    }

    fn status(&self) -> StoreStatus {
        let failure = self.failing.load(Ordering::Relaxed).then(|| "no disk".to_owned());
        StoreStatus { failure, ..self.inner.status() }
    }

    fn store_id(&self) -> &str {
        self.inner.store_id()
    }

    fn own_sequence(&self) -> u64 {
        self.inner.own_sequence()
    }

    fn replay(&self, each: &(dyn Fn(Live<'_>) + Sync)) -> Result<(), StoreError> {
        self.inner.replay(each)
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
}
