//! A store that forgets: everything in memory, nothing on disk.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use super::document::{self, Document, DocumentKind, DocumentWrite, MAX_DOCUMENTS, Put};
use super::{
    Acknowledgement, Appended, Body, Cursor, Entry, Filter, Kept, Live, Page, PutAcknowledgement, Store, StoreError,
    StoreStatus,
};
use crate::revocation::{Form, InForce, Lift, RecordId, Revocation, Target};
use crate::time::Timestamp;

/// Entries in memory only. What it acknowledges is gone when the process ends.
#[derive(Debug)]
pub struct MemoryStore {
    store_id: String,
    max_documents: u64,
    kept: Mutex<Contents>,
}

#[derive(Debug, Default)]
struct Contents {
    sequence: u64,
    own_sequence: u64,
    revocations: BTreeMap<u64, Revocation>,
    lifts: HashMap<RecordId, Lift>,
    lift_ids: HashSet<RecordId>,
    by_id: HashMap<RecordId, u64>,
    by_target: HashMap<Target, Vec<u64>>,
    lifts_by_target: HashMap<Target, Vec<RecordId>>,
    documents: [BTreeMap<String, Document>; DocumentKind::ALL.len()],
    settings: HashMap<String, String>,
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryStore {
    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::with_max_documents(MAX_DOCUMENTS)
    }

    pub(super) fn with_max_documents(max_documents: u64) -> Self {
        Self { store_id: uuid::Uuid::now_v7().to_string(), max_documents, kept: Mutex::default() }
    }

    fn kept(&self) -> MutexGuard<'_, Contents> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Contents {
    fn append(&mut self, store_id: &str, entry: Entry) -> Appended {
        let outcome = match entry.body {
            Body::Revocation(revocation) => self.append_revocation(revocation),
            Body::Lift(lift) => self.append_lift(lift),
        };
        if outcome == Appended::New && entry.origin == store_id {
            self.own_sequence = self.own_sequence.max(entry.origin_seq);
        }
        outcome
    }

    fn append_revocation(&mut self, revocation: Revocation) -> Appended {
        if let Some(known) = self.by_id.get(&revocation.id) {
            let same = self.revocations.get(known) == Some(&revocation);
            return if same { Appended::Known } else { Appended::Conflict };
        }
        self.sequence += 1;
        self.by_id.insert(revocation.id.clone(), self.sequence);
        self.by_target.entry(revocation.target.clone()).or_default().push(self.sequence);
        self.revocations.insert(self.sequence, revocation);
        Appended::New
    }

    fn append_lift(&mut self, lift: Lift) -> Appended {
        if let Some(known) = self.lifts.get(&lift.of) {
            return if *known == lift { Appended::Known } else { Appended::Conflict };
        }
        if !self.lift_ids.insert(lift.id.clone()) {
            return Appended::Conflict;
        }
        self.sequence += 1;
        self.lifts_by_target.entry(lift.target.clone()).or_default().push(lift.of.clone());
        self.lifts.insert(lift.of.clone(), lift);
        Appended::New
    }

    fn of_target(&self, target: &Target) -> impl DoubleEndedIterator<Item = &Revocation> {
        let numbers = self.by_target.get(target).map_or(&[][..], Vec::as_slice);
        let found = numbers.iter().filter_map(|seq| self.revocations.get(seq));
        found.filter(|revocation| !self.lifts.contains_key(&revocation.id))
    }

    fn keep(&self, revocation: &Revocation) -> Kept {
        Kept { revocation: revocation.clone(), lifted: self.lifts.get(&revocation.id).cloned() }
    }

    fn forget(&mut self, before: Timestamp, limit: usize) -> usize {
        let over = |forget_at: Option<Timestamp>| forget_at.is_some_and(|at| at < before);
        let numbers: Vec<u64> =
            self.revocations.iter().filter(|(_, it)| over(it.forget_at)).map(|(seq, _)| *seq).take(limit).collect();
        for seq in &numbers {
            if let Some(revocation) = self.revocations.remove(seq) {
                self.by_id.remove(&revocation.id);
                remove(&mut self.by_target, &revocation.target, seq);
            }
        }
        let room = limit - numbers.len();
        let lifts: Vec<RecordId> =
            self.lifts.values().filter(|it| over(it.forget_at)).map(|it| it.of.clone()).take(room).collect();
        for of in &lifts {
            if let Some(lift) = self.lifts.remove(of) {
                self.lift_ids.remove(&lift.id);
                remove(&mut self.lifts_by_target, &lift.target, of);
            }
        }
        let forgotten = numbers.len() + lifts.len();
        forgotten + self.forget_documents(before, limit - forgotten)
    }

    fn forget_documents(&mut self, before: Timestamp, limit: usize) -> usize {
        let mut left = limit;
        for documents in &mut self.documents {
            documents.retain(|_, it| {
                let goes = left > 0 && it.forget_at.is_some_and(|at| at < before);
                left -= usize::from(goes);
                !goes
            });
        }
        limit - left
    }

    fn put(&mut self, writes: Vec<DocumentWrite>, max_documents: u64) -> Result<Put, StoreError> {
        document::check(&writes)?;
        let mut counts = self.documents.each_ref().map(|documents| documents.len() as u64);
        for write in &writes {
            let kind = write.document.kind;
            let there = self.documents[kind.place()].get(&write.document.key);
            if !write.may_replace(there.map_or(0, |it| it.revision)) {
                return Ok(Put::Conflict(there.cloned()));
            }
            counts[kind.place()] += u64::from(there.is_none());
            if there.is_none() && counts[kind.place()] > max_documents {
                return Err(StoreError::Full(kind));
            }
        }
        for DocumentWrite { document, .. } in writes {
            self.sequence += 1;
            self.documents[document.kind.place()].insert(document.key.clone(), document);
        }
        Ok(Put::Written)
    }
}

/// Takes one entry out of an index, and the target with its last one.
fn remove<T: PartialEq>(index: &mut HashMap<Target, Vec<T>>, target: &Target, entry: &T) {
    if let Some(entries) = index.get_mut(target) {
        entries.retain(|it| it != entry);
        if entries.is_empty() {
            index.remove(target);
        }
    }
}

fn live(target: &Target, effect: InForce, left_by_lift: bool) -> Live<'_> {
    Live { kind: target.kind, issuer: &target.issuer, value: &target.value, effect, left_by_lift }
}

fn live_revocation(it: &Revocation) -> Live<'_> {
    live(&it.target, InForce::new(it.form, it.forget_at), false)
}

fn live_lift(it: &Lift) -> Option<Live<'_>> {
    let form = Form::Before { issued: Some(it.leaves?), authenticated: None };
    Some(live(&it.target, InForce::new(form, it.forget_at), true))
}

impl Store for MemoryStore {
    fn store_id(&self) -> &str {
        &self.store_id
    }

    fn own_sequence(&self) -> u64 {
        self.kept().own_sequence
    }

    fn append(&self, entries: Vec<Entry>) -> Acknowledgement {
        let mut kept = self.kept();
        let outcomes = entries.into_iter().map(|entry| kept.append(&self.store_id, entry)).collect();
        let (done, answer) = oneshot::channel();
        // Nobody can have given up on an answer that was not handed out yet.
        let _ = done.send(Ok(outcomes));
        answer
    }

    fn replay(&self, each: &(dyn Fn(Live<'_>) + Sync)) -> Result<(), StoreError> {
        let kept = self.kept();
        kept.lifts.values().filter_map(live_lift).for_each(each);
        let in_force = kept.revocations.values().filter(|it| !kept.lifts.contains_key(&it.id));
        in_force.map(live_revocation).for_each(each);
        Ok(())
    }

    fn live(&self, target: &Target, each: &mut dyn FnMut(Live<'_>)) -> Result<(), StoreError> {
        let kept = self.kept();
        kept.of_target(target).map(live_revocation).for_each(&mut *each);
        let lifts = kept.lifts_by_target.get(target).map_or(&[][..], Vec::as_slice);
        lifts.iter().filter_map(|of| kept.lifts.get(of)).filter_map(live_lift).for_each(each);
        Ok(())
    }

    fn find(&self, id: &RecordId) -> Result<Option<Kept>, StoreError> {
        let kept = self.kept();
        Ok(kept.by_id.get(id).and_then(|seq| kept.revocations.get(seq)).map(|it| kept.keep(it)))
    }

    fn is_lift(&self, id: &RecordId) -> Result<bool, StoreError> {
        Ok(self.kept().lift_ids.contains(id))
    }

    fn is_lifted(&self, id: &RecordId) -> Result<bool, StoreError> {
        Ok(self.kept().lifts.contains_key(id))
    }

    fn of_target(&self, target: &Target, limit: usize) -> Result<Vec<Revocation>, StoreError> {
        Ok(self.kept().of_target(target).rev().take(limit).cloned().collect())
    }

    fn page(&self, filter: &Filter, from: Option<Cursor>, limit: usize) -> Result<Page, StoreError> {
        let kept = self.kept();
        let mut page = Page::default();
        for (seq, it) in kept.revocations.range(..from.map_or(u64::MAX, |Cursor(seq)| seq)).rev() {
            if filter.admits(it.target.kind, &it.target.issuer, &it.target.value) {
                page.items.push(kept.keep(it));
            }
            if page.items.len() >= limit {
                page.next = Some(Cursor(*seq));
                break;
            }
        }
        Ok(page)
    }

    fn put(&self, writes: Vec<DocumentWrite>) -> PutAcknowledgement {
        let (done, answer) = oneshot::channel();
        // As above.
        let _ = done.send(self.kept().put(writes, self.max_documents));
        answer
    }

    fn document(&self, kind: DocumentKind, key: &str) -> Result<Option<Document>, StoreError> {
        Ok(self.kept().documents[kind.place()].get(key).cloned())
    }

    fn documents(&self, kind: DocumentKind, each: &mut dyn FnMut(Document)) -> Result<(), StoreError> {
        let documents: Vec<_> = self.kept().documents[kind.place()].values().cloned().collect();
        documents.into_iter().for_each(each);
        Ok(())
    }

    fn forget(&self, before: Timestamp, limit: usize) -> Result<usize, StoreError> {
        Ok(self.kept().forget(before, limit))
    }

    fn setting(&self, name: &str) -> Result<Option<String>, StoreError> {
        Ok(self.kept().settings.get(name).cloned())
    }

    fn set_setting(&self, name: &str, value: &str) -> Result<(), StoreError> {
        self.kept().settings.insert(name.to_owned(), value.to_owned());
        Ok(())
    }

    fn status(&self) -> StoreStatus {
        let kept = self.kept();
        StoreStatus {
            engine: "memory",
            survives: false,
            store_id: self.store_id.clone(),
            sequence: kept.sequence,
            records: (kept.revocations.len()
                + kept.lifts.len()
                + kept.settings.len()
                + kept.documents.iter().map(BTreeMap::len).sum::<usize>()) as u64,
            failure: None,
        }
    }
}
