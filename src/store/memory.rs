//! A store that forgets: everything in memory, nothing on disk.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use super::document::{self, Document, DocumentKind, DocumentWrite, MAX_DOCUMENTS, Put};
use super::exchange::{self, AdoptAcknowledgement, Adopted, Adoption, Written, WrittenWhat};
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
    /// By their number in this store, as everything below.
    entries: BTreeMap<u64, Entry>,
    by_id: HashMap<RecordId, Vec<u64>>,
    /// By every target that an entry names.
    by_target: HashMap<Target, Vec<u64>>,
    /// By the id that a lift lifts.
    lifts: HashMap<RecordId, Vec<u64>>,
    documents: [BTreeMap<String, Placed>; DocumentKind::ALL.len()],
    /// What this node wrote itself.
    own: BTreeMap<u64, Own>,
    settings: HashMap<String, String>,
}

#[derive(Debug)]
struct Placed {
    seq: u64,
    document: Document,
}

#[derive(Debug)]
enum Own {
    Document(DocumentKind, String),
    Entry,
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
    /// Whether two bodies are of one sort: only then one can have the other's id.
    fn is_alike(one: &Body, other: &Body) -> bool {
        std::mem::discriminant(one) == std::mem::discriminant(other)
    }

    fn append(&mut self, store_id: &str, entry: Entry) -> Appended {
        let alike = |it: &&Entry| Self::is_alike(&it.body, &entry.body);
        let same_id: Vec<_> = self.with_id(entry.body.id()).filter(alike).collect();
        if same_id.iter().any(|it| it.body == entry.body) {
            return Appended::Known;
        }
        let lifted = |it: &Lift| self.lift_of(&it.of, &it.target).is_some();
        if !same_id.is_empty() || matches!(&entry.body, Body::Lift(it) if lifted(it)) {
            return Appended::Conflict;
        }
        self.write(store_id, entry)
    }

    fn write(&mut self, store_id: &str, entry: Entry) -> Appended {
        self.sequence += 1;
        let seq = self.sequence;
        if entry.origin == store_id {
            self.own_sequence = self.own_sequence.max(entry.origin_seq);
            self.own.insert(seq, Own::Entry);
        }
        self.by_id.entry(entry.body.id().clone()).or_default().push(seq);
        for target in targets(&entry.body) {
            self.by_target.entry(target.clone()).or_default().push(seq);
        }
        if let Body::Lift(lift) = &entry.body {
            self.lifts.entry(lift.of.clone()).or_default().push(seq);
        }
        self.entries.insert(seq, entry);
        Appended::New
    }

    /// The same number of the same origin; the id counts as well, so that two nodes that began as copies of
    /// one another lose nothing.
    fn is_known(&self, entry: &Entry) -> bool {
        let same = |it: &Entry| it.origin == entry.origin && it.origin_seq == entry.origin_seq;
        self.with_id(entry.body.id()).any(same)
    }

    fn entries_at<K: std::hash::Hash + Eq>(
        &self,
        index: &HashMap<K, Vec<u64>>,
        key: &K,
    ) -> impl DoubleEndedIterator<Item = &Entry> {
        let numbers = index.get(key).cloned().unwrap_or_default();
        numbers.into_iter().filter_map(|seq| self.entries.get(&seq))
    }

    fn with_id(&self, id: &RecordId) -> impl DoubleEndedIterator<Item = &Entry> {
        self.entries_at(&self.by_id, id)
    }

    fn lift_of(&self, id: &RecordId, target: &Target) -> Option<&Lift> {
        self.entries_at(&self.lifts, id).find_map(|it| match &it.body {
            Body::Lift(lift) if lift.target == *target => Some(lift),
            Body::Lift(_) | Body::Revocation(_) | Body::Other(_) => None,
        })
    }

    fn of_target(&self, target: &Target) -> impl DoubleEndedIterator<Item = &Revocation> {
        let found = self.entries_at(&self.by_target, target).filter_map(|it| as_revocation(&it.body));
        found.filter(|revocation| self.lift_of(&revocation.id, &revocation.target).is_none())
    }

    /// Hands out what an entry does, if it is not lifted; of one target, or of all it names.
    fn live(&self, body: &Body, of: Option<&Target>, each: &mut dyn FnMut(Live<'_>)) {
        match body {
            Body::Lift(it) => live_lift(it).into_iter().for_each(each),
            Body::Revocation(it) if self.lift_of(&it.id, &it.target).is_none() => {
                each(live(&it.target, InForce::new(it.form, it.forget_at), false));
            }
            Body::Revocation(_) => {}
            Body::Other(it) => {
                for target in targets(body) {
                    if of.is_none_or(|of| of == target) && self.lift_of(&it.id, target).is_none() {
                        each(live(target, InForce::new(Form::Block, it.forget_at), false));
                    }
                }
            }
        }
    }

    fn keep(&self, revocation: &Revocation) -> Kept {
        let lifted = self.lift_of(&revocation.id, &revocation.target).cloned();
        Kept { revocation: revocation.clone(), lifted }
    }

    fn forget(&mut self, before: Timestamp, limit: usize) -> usize {
        let over = |it: &Entry| it.body.forget_at().is_some_and(|at| at < before);
        // A tombstone outlives what it may lift.
        let passes: [fn(&Body) -> bool; 2] = [|it| !matches!(it, Body::Lift(_)), |it| matches!(it, Body::Lift(_))];
        let mut forgotten = 0;
        for pass in passes {
            let room = limit - forgotten;
            let due = self.entries.iter().filter(|(_, it)| over(it) && pass(&it.body));
            let numbers: Vec<u64> = due.map(|(seq, _)| *seq).take(room).collect();
            forgotten += numbers.len();
            numbers.into_iter().for_each(|seq| self.remove(seq));
        }
        forgotten + self.forget_documents(before, limit - forgotten)
    }

    fn remove(&mut self, seq: u64) {
        let Some(entry) = self.entries.remove(&seq) else { return };
        self.own.remove(&seq);
        remove(&mut self.by_id, entry.body.id(), seq);
        for target in targets(&entry.body) {
            remove(&mut self.by_target, target, seq);
        }
        if let Body::Lift(lift) = &entry.body {
            remove(&mut self.lifts, &lift.of, seq);
        }
    }

    fn forget_documents(&mut self, before: Timestamp, limit: usize) -> usize {
        let mut left = limit;
        for documents in &mut self.documents {
            documents.retain(|_, it| {
                let goes = left > 0 && it.document.forget_at.is_some_and(|at| at < before);
                left -= usize::from(goes);
                if goes {
                    self.own.remove(&it.seq);
                }
                !goes
            });
        }
        limit - left
    }

    fn document(&self, kind: DocumentKind, key: &str) -> Option<&Document> {
        self.documents[kind.place()].get(key).map(|it| &it.document)
    }

    fn put(&mut self, store_id: &str, writes: Vec<DocumentWrite>, max_documents: u64) -> Result<Put, StoreError> {
        document::check(&writes)?;
        let mut counts = self.documents.each_ref().map(|documents| documents.len() as u64);
        for write in &writes {
            let kind = write.document.kind;
            let there = self.document(kind, &write.document.key);
            if !write.may_replace(there.map_or(0, |it| it.revision)) {
                return Ok(Put::Conflict(there.cloned()));
            }
            counts[kind.place()] += u64::from(there.is_none());
            if there.is_none() && counts[kind.place()] > max_documents {
                return Err(StoreError::Full(kind));
            }
        }
        for DocumentWrite { document, .. } in writes {
            self.write_document(store_id, store_id, document);
        }
        Ok(Put::Written)
    }

    fn adopt_document(&mut self, store_id: &str, adopted: Adopted, max_documents: u64) -> bool {
        let kind = adopted.document.kind;
        let takes = match self.document(kind, &adopted.document.key) {
            Some(there) => adopted.replaces(there),
            None => (self.documents[kind.place()].len() as u64) < max_documents,
        };
        if takes {
            self.write_document(store_id, &adopted.origin, adopted.document);
        }
        takes
    }

    fn write_document(&mut self, store_id: &str, origin: &str, document: Document) {
        self.sequence += 1;
        let (seq, kind, key) = (self.sequence, document.kind, document.key.clone());
        if origin == store_id {
            self.own.insert(seq, Own::Document(kind, key.clone()));
        }
        if let Some(replaced) = self.documents[kind.place()].insert(key, Placed { seq, document }) {
            self.own.remove(&replaced.seq);
        }
    }

    fn written(&self, seq: u64, own: &Own) -> Option<Written> {
        let what = match own {
            Own::Document(kind, key) => WrittenWhat::Document(self.document(*kind, key)?.clone()),
            Own::Entry => WrittenWhat::Entry(self.entries.get(&seq)?.clone()),
        };
        Some(Written { seq, what })
    }
}

/// The targets that an entry names, each once.
fn targets(body: &Body) -> Vec<&Target> {
    match body {
        Body::Revocation(it) => vec![&it.target],
        Body::Lift(it) => vec![&it.target],
        Body::Other(it) => it.restricts.iter().collect::<BTreeSet<_>>().into_iter().collect(),
    }
}

const fn as_revocation(body: &Body) -> Option<&Revocation> {
    match body {
        Body::Revocation(it) => Some(it),
        Body::Lift(_) | Body::Other(_) => None,
    }
}

/// Takes one entry out of an index, and its key with the last one.
fn remove<K: std::hash::Hash + Eq>(index: &mut HashMap<K, Vec<u64>>, key: &K, seq: u64) {
    if let Some(entries) = index.get_mut(key) {
        entries.retain(|it| *it != seq);
        if entries.is_empty() {
            index.remove(key);
        }
    }
}

fn live(target: &Target, effect: InForce, left_by_lift: bool) -> Live<'_> {
    Live { kind: target.kind, issuer: &target.issuer, value: &target.value, effect, left_by_lift }
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
        let (done, answer) = oneshot::channel();
        let appended = exchange::check_entries(&entries).map_err(StoreError::from).map(|()| {
            let mut kept = self.kept();
            entries.into_iter().map(|entry| kept.append(&self.store_id, entry)).collect()
        });
        // Nobody can have given up on an answer that was not handed out yet.
        let _ = done.send(appended);
        answer
    }

    fn adopt(
        &self,
        entries: Vec<Entry>,
        documents: Vec<Adopted>,
        progress: Vec<(String, String)>,
    ) -> AdoptAcknowledgement {
        let (done, answer) = oneshot::channel();
        let adopted = exchange::check(&entries, &documents).map(|()| {
            let mut kept = self.kept();
            let take = |entry| if kept.is_known(&entry) { Appended::Known } else { kept.write(&self.store_id, entry) };
            let entries = entries.into_iter().map(take).collect();
            let take = |it| kept.adopt_document(&self.store_id, it, self.max_documents);
            let documents = documents.into_iter().map(take).collect();
            kept.settings.extend(progress);
            Adoption { entries, documents }
        });
        // As above.
        let _ = done.send(adopted);
        answer
    }

    fn written(&self, after: u64, limit: usize) -> Result<Vec<Written>, StoreError> {
        let kept = self.kept();
        let Some(first) = after.checked_add(1) else { return Ok(Vec::new()) };
        Ok(kept.own.range(first..).take(limit).filter_map(|(seq, own)| kept.written(*seq, own)).collect())
    }

    fn entries(&self, each: &mut dyn FnMut(Entry)) -> Result<(), StoreError> {
        let entries: Vec<_> = self.kept().entries.values().cloned().collect();
        entries.into_iter().for_each(each);
        Ok(())
    }

    fn replay(&self, each: &(dyn Fn(Live<'_>) + Sync)) -> Result<(), StoreError> {
        let kept = self.kept();
        kept.entries.values().for_each(|it| kept.live(&it.body, None, &mut |live| each(live)));
        Ok(())
    }

    fn live(&self, target: &Target, each: &mut dyn FnMut(Live<'_>)) -> Result<(), StoreError> {
        let kept = self.kept();
        kept.entries_at(&kept.by_target, target).for_each(|it| kept.live(&it.body, Some(target), each));
        Ok(())
    }

    fn find(&self, id: &RecordId) -> Result<Option<Kept>, StoreError> {
        let kept = self.kept();
        let found: Vec<_> = kept.with_id(id).filter_map(|it| as_revocation(&it.body)).map(|it| kept.keep(it)).collect();
        let in_force = found.iter().position(|it| it.lifted.is_none()).unwrap_or(0);
        Ok(found.into_iter().nth(in_force))
    }

    fn is_lift(&self, id: &RecordId) -> Result<bool, StoreError> {
        Ok(self.kept().with_id(id).any(|it| matches!(it.body, Body::Lift(_))))
    }

    fn is_lifted(&self, id: &RecordId, target: &Target) -> Result<bool, StoreError> {
        Ok(self.kept().lift_of(id, target).is_some())
    }

    fn of_target(&self, target: &Target, limit: usize) -> Result<Vec<Revocation>, StoreError> {
        Ok(self.kept().of_target(target).rev().take(limit).cloned().collect())
    }

    fn page(&self, filter: &Filter, from: Option<Cursor>, limit: usize) -> Result<Page, StoreError> {
        let kept = self.kept();
        let mut page = Page::default();
        for (seq, it) in kept.entries.range(..from.map_or(u64::MAX, |Cursor(seq)| seq)).rev() {
            let Some(it) = as_revocation(&it.body) else { continue };
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
        let _ = done.send(self.kept().put(&self.store_id, writes, self.max_documents));
        answer
    }

    fn document(&self, kind: DocumentKind, key: &str) -> Result<Option<Document>, StoreError> {
        Ok(self.kept().document(kind, key).cloned())
    }

    fn documents(&self, kind: DocumentKind, each: &mut dyn FnMut(Document)) -> Result<(), StoreError> {
        let documents: Vec<_> = self.kept().documents[kind.place()].values().map(|it| it.document.clone()).collect();
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
            records: (kept.entries.len()
                + kept.settings.len()
                + kept.documents.iter().map(BTreeMap::len).sum::<usize>()) as u64,
            failure: None,
        }
    }
}
