//! The ledger: requests in, records out, and the map in step with them.

mod change;
mod follow;
mod lift;
mod replace;

pub use self::replace::UnreadableReplacement;

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use futures_util::future::join_all;
use tokio::sync::{Mutex, Semaphore, broadcast};

use super::claim::Claims;
use super::limits::{self, Limits};
use super::outcome::{Accepted, Event, ExchangeError, LedgerError, LiftError, Lifted, RevokeError, Swept};
use super::replace::{ReplaceError, ReplaceRequest, Replaced, UndoError, UndoRequest, Undone};
use super::replication::{Level, Reached, Replication};
use super::request::{InvalidRequest, Meaning, Request};
use crate::revocation::{Form, Full, Horizons, InForce, RecordId, Revocation, RevocationMap, Target, UnknownIssuer};
use crate::store::{
    Acknowledgement, Adopted, Appended, Body, Cursor, Document, DocumentKind, DocumentWrite, Entry, Filter, Kept, Live,
    Page, Put, Store, StoreError, StoreStatus,
};
use crate::time::{Clock, Timestamp};

/// Requests under way; beyond it, callers are told to come back.
const MAX_IN_FLIGHT: usize = 8 * 1024;
/// Requests of one batch that are under way at the same time: enough to fill a commit, and no more
/// than leaves others their turn.
const BATCH: usize = 1024;
/// Events that a slow watcher may fall behind by.
const EVENTS: usize = 1024;
/// Entries deleted in one transaction: others wait for it.
const FORGET_BATCH: usize = 500;
/// Revocations of one target that [`Ledger::of_targets`] names, newest first.
const MAX_OF_TARGET: usize = 100;
/// Who is said to have written what all nodes agreed on: it need not be published again.
const AGREED: &str = "agreed";
/// Items on one page, at most.
const MAX_PAGE: usize = 1000;

/// Revocations: taken in, in force, durable, and undone again. Clones share everything.
#[derive(Clone, Debug)]
pub struct Ledger {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    store: Arc<dyn Store>,
    map: Arc<RevocationMap>,
    horizons: ArcSwap<Horizons>,
    limits: ArcSwap<Limits>,
    /// Held while limits change: one change is compared with the one before it.
    changing: std::sync::Mutex<()>,
    clock: Clock,
    opened: (Timestamp, Instant),
    /// The last `origin_seq` given. Whoever holds it decides what is in force: a revocation while it
    /// is put in force and queued, a lift for as long as it takes.
    /// Whether what the store has taken outlives the process.
    survives: bool,
    sequence: Mutex<u64>,
    /// The other nodes, where there are any.
    replication: OnceLock<Arc<dyn Replication>>,
    /// Held while a subject is replaced, or that is undone: one chain is changed by one request at a time.
    replacing: Mutex<()>,
    claims: Arc<Claims>,
    in_flight: Semaphore,
    events: broadcast::Sender<Event>,
}

impl Ledger {
    /// Puts in force everything in the store. Blocks until that is done; afterwards traffic may be
    /// let in.
    ///
    /// A limit that is higher than when the store was last open is treated as in
    /// [`set_horizons`](Self::set_horizons).
    ///
    /// # Errors
    ///
    /// When the store is damaged or cannot be read or written, and when the map is too small.
    pub fn open(
        store: Arc<dyn Store>,
        map: Arc<RevocationMap>,
        horizons: Horizons,
        clock: Clock,
    ) -> Result<Self, LedgerError> {
        let full = OnceLock::new();
        store.replay(&|live| {
            let target = map.reference(live.kind, live.issuer, live.value);
            let effect = effect(&live, &horizons);
            if let Err(error) = map.apply(target, effect.form, effect.forget_at) {
                // The first one says it all.
                let _ = full.set(error);
            }
        })?;
        if let Some(full) = full.into_inner() {
            return Err(full.into());
        }
        let now = clock.now();
        let limits = match store.setting(limits::SETTING)? {
            Some(text) => serde_json::from_str(&text).map_err(LedgerError::Limits)?,
            None => Limits::default(),
        };
        let sequence = store.own_sequence();
        let inner = Inner {
            survives: store.status().survives,
            store,
            map,
            horizons: ArcSwap::from_pointee(horizons.clone()),
            limits: ArcSwap::from_pointee(limits),
            changing: std::sync::Mutex::new(()),
            clock,
            opened: (now, Instant::now()),
            sequence: Mutex::new(sequence),
            replication: OnceLock::new(),
            replacing: Mutex::new(()),
            claims: Arc::default(),
            in_flight: Semaphore::new(MAX_IN_FLIGHT),
            events: broadcast::Sender::new(EVENTS),
        };
        inner.restore_replacements()?;
        inner.change_limits(horizons)?;
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Takes in one revocation. When this returns `Ok`, it is in force here and on disk. A call that
    /// is dropped half-way is carried out all the same.
    ///
    /// # Errors
    ///
    /// [`RevokeError::NotDurable`] when it is in force but not on disk; any other: nothing was done.
    pub async fn revoke(&self, request: Request) -> Result<Accepted, RevokeError> {
        let inner = Arc::clone(&self.inner);
        let task = tokio::spawn(async move {
            let _turn = inner.in_flight.try_acquire().map_err(|_| RevokeError::Busy)?;
            inner.revoke(request).await
        });
        task.await.unwrap_or(Err(RevokeError::Store(StoreError::Stopped)))
    }

    /// Takes in many, a share at a time so that others get their turn; one result each, in order.
    pub async fn revoke_all(&self, requests: Vec<Request>) -> Vec<Result<Accepted, RevokeError>> {
        let inner = Arc::clone(&self.inner);
        let count = requests.len();
        let task = tokio::spawn(async move {
            let mut results = Vec::with_capacity(requests.len());
            let mut requests = requests.into_iter();
            loop {
                let share: Vec<_> =
                    requests.by_ref().take(BATCH).map(|request| inner.revoke_in_turn(request)).collect();
                if share.is_empty() {
                    return results;
                }
                results.extend(join_all(share).await);
            }
        });
        let stopped = || Err(RevokeError::Store(StoreError::Stopped));
        task.await.unwrap_or_else(|_| std::iter::repeat_with(stopped).take(count).collect())
    }

    /// Undoes one revocation, by its id. Lifting a block leaves a cutoff at this moment, so that
    /// stolen tokens stay dead, unless `restore`. Lifting again changes nothing.
    ///
    /// # Errors
    ///
    /// When there is no such revocation, or the tombstone could not be stored: then everything stays
    /// in force.
    pub async fn lift(
        &self,
        id: RecordId,
        restore: bool,
        actor: String,
        note: Option<String>,
    ) -> Result<Lifted, LiftError> {
        let inner = Arc::clone(&self.inner);
        let task = tokio::spawn(async move { inner.lift(id, restore, actor, note).await });
        task.await.unwrap_or(Err(LiftError::Store(StoreError::Stopped)))
    }

    /// Puts one subject in the place of another: every token of the old one is refused from now on, and
    /// those that the new one has already are as well. When this returns `Ok`, that is in force here and
    /// on disk. Asked again for the same, it changes nothing. A call that is dropped half-way is carried
    /// out all the same.
    ///
    /// # Errors
    ///
    /// [`ReplaceError::NotDurable`] when it is in force but not on disk; any other: nothing was replaced.
    pub async fn replace(&self, request: ReplaceRequest) -> Result<Replaced, ReplaceError> {
        let inner = Arc::clone(&self.inner);
        let task = tokio::spawn(async move { inner.replace(request).await });
        task.await.unwrap_or(Err(ReplaceError::Store(StoreError::Stopped)))
    }

    /// Takes the replacement of a subject back: it is live again, and what both ids have already is
    /// refused. Asked again, it changes nothing.
    ///
    /// # Errors
    ///
    /// When there is none, it is not the last of its chain, or it could not be stored: then it stays in
    /// force.
    pub async fn undo_replacement(&self, request: UndoRequest) -> Result<Undone, UndoError> {
        let inner = Arc::clone(&self.inner);
        let task = tokio::spawn(async move { inner.undo_replacement(request).await });
        task.await.unwrap_or(Err(UndoError::Store(Some(StoreError::Stopped))))
    }

    /// The revocation with this id, lifted or not.
    ///
    /// # Errors
    ///
    /// When the store cannot be read.
    pub async fn find(&self, id: RecordId) -> Result<Option<Kept>, StoreError> {
        self.inner.ask(move |store| store.find(&id)).await
    }

    /// A page of revocations, newest first; at most 1,000, of an issuer given by URL or config name.
    ///
    /// # Errors
    ///
    /// When the store cannot be read.
    pub async fn list(&self, mut filter: Filter, from: Option<Cursor>, limit: usize) -> Result<Page, StoreError> {
        filter.issuer = filter.issuer.map(|issuer| self.resolve(&issuer).unwrap_or(issuer));
        self.inner.ask(move |store| store.page(&filter, from, limit.clamp(1, MAX_PAGE))).await
    }

    /// The revocations in force for any of these targets, newest first for each; at most 100 for each.
    ///
    /// # Errors
    ///
    /// When the store cannot be read.
    pub async fn of_targets(&self, targets: &[Target]) -> Result<Vec<Revocation>, StoreError> {
        let targets = targets.to_vec();
        self.inner
            .ask(move |store| {
                let mut found = Vec::new();
                for target in &targets {
                    found.extend(store.of_target(target, MAX_OF_TARGET)?);
                }
                Ok(found)
            })
            .await
    }

    /// Waits until all that is in force is durable: for whoever finds that there is nothing left to revoke,
    /// because somebody else is about to have done it.
    ///
    /// # Errors
    ///
    /// When the store does not keep it.
    pub async fn settled(&self) -> Result<(), StoreError> {
        let pending = {
            // Whatever is in force by now is queued before this.
            let _sequence = self.inner.sequence.lock().await;
            self.inner.store.append(Vec::new())
        };
        answer(pending.await).map(drop)
    }

    /// Whether a request makes sense now, so that a batch can be refused before any of it is carried out.
    ///
    /// # Errors
    ///
    /// Why it does not.
    pub fn check(&self, request: &Request) -> Result<(), InvalidRequest> {
        request.meaning(&self.inner.horizons.load(), self.inner.clock.now()).map(drop)
    }

    /// The URL of the issuer with this config name or URL.
    ///
    /// # Errors
    ///
    /// When there is none.
    pub fn resolve(&self, name_or_url: &str) -> Result<String, UnknownIssuer> {
        self.inner.horizons.load().resolve(name_or_url).map(ToOwned::to_owned)
    }

    /// Everything that comes into force from now on. Who falls too far behind is told so.
    #[must_use]
    pub fn watch(&self) -> broadcast::Receiver<Event> {
        self.inner.events.subscribe()
    }

    /// Forgets what refuses nothing alive any more, in memory and on disk. Blocks.
    ///
    /// # Errors
    ///
    /// When the store does not write; the map is swept all the same.
    pub fn sweep(&self) -> Result<Swept, StoreError> {
        let before = self.inner.forget_before();
        let targets = self.inner.map.sweep(before);
        let mut records = 0;
        loop {
            let forgotten = self.inner.store.forget(before, FORGET_BATCH)?;
            records += forgotten;
            if forgotten < FORGET_BATCH {
                return Ok(Swept { targets, records });
            }
        }
    }

    /// Takes new limits. One that is raised first cuts what the old one had let be forgotten: an
    /// issuer cutoff at *now − old horizon*, in force and on disk before this returns. Call it before
    /// the raised limit lets anything in.
    ///
    /// # Errors
    ///
    /// When the cutoff or the limits cannot be stored, or the map is full: then the new limits must
    /// not be used.
    pub async fn set_horizons(&self, horizons: Horizons) -> Result<(), LedgerError> {
        let inner = Arc::clone(&self.inner);
        let task = tokio::task::spawn_blocking(move || inner.change_limits(horizons));
        task.await.unwrap_or(Err(LedgerError::Store(StoreError::Stopped)))
    }

    /// Writes documents, all of them or none. When this returns [`Put::Written`], they are on disk. A call
    /// that is dropped half-way is carried out all the same.
    ///
    /// # Errors
    ///
    /// When the store does not take them, or does not write: after [`StoreError::NotDurable`] it is not
    /// known whether they are there.
    pub async fn put(&self, writes: Vec<DocumentWrite>) -> Result<Put, StoreError> {
        let put = self.inner.store.put(writes).await.unwrap_or(Err(StoreError::Stopped));
        if let Ok(Put::Written) = put {
            self.inner.announce();
        }
        put
    }

    /// Puts one document where the one it expects is: of all nodes that expect the same, one is told
    /// [`Put::Written`], and it is on disk then, here and where they agree. A conflict brings what is there
    /// here first.
    ///
    /// # Errors
    ///
    /// When that place cannot be asked, or the store does not write: then it is not known whether it is there.
    pub async fn exchange(&self, write: DocumentWrite) -> Result<Put, ExchangeError> {
        let Some(replication) = self.inner.replication.get() else {
            return Ok(self.put(vec![write]).await?);
        };
        let put = replication.compare_and_put(&write).await?;
        let document = match &put {
            Put::Written => Some(write.document),
            Put::Conflict(there) => there.clone(),
        };
        if let Some(document) = document {
            self.adopt_agreed(document).await?;
        }
        Ok(put)
    }

    /// The document of this kind with this key, as all nodes agree on it: another node may have written it a moment
    /// ago. A broker that has lost it, or a later revision of it, is not believed.
    ///
    /// # Errors
    ///
    /// When the store cannot be read, or that place cannot be asked.
    pub async fn agreed_document(&self, kind: DocumentKind, key: &str) -> Result<Option<Document>, ExchangeError> {
        let here = self.document(kind, key).await?;
        let Some(replication) = self.inner.replication.get() else { return Ok(here) };
        let Some(there) = replication.agreed(kind, key).await? else { return Ok(here) };
        if here.as_ref().is_some_and(|here| here.revision >= there.revision) {
            return Ok(here);
        }
        self.adopt_agreed(there.clone()).await?;
        Ok(Some(there))
    }

    async fn adopt_agreed(&self, document: Document) -> Result<(), StoreError> {
        let there = Adopted { origin: AGREED.to_owned(), document };
        let adopted = self.inner.store.adopt(Vec::new(), vec![there], Vec::new());
        adopted.await.unwrap_or(Err(StoreError::Stopped)).map(drop)
    }

    /// Has the ledger tell others from now on. To be said once.
    pub fn replicate(&self, replication: Arc<dyn Replication>) {
        // A second one would be a second cluster: the first stays.
        drop(self.inner.replication.set(replication));
    }

    /// The document of this kind with this key. Whether it still means something is for the caller to
    /// ask: [`Document::is_live`].
    ///
    /// # Errors
    ///
    /// When the store cannot be read.
    pub async fn document(&self, kind: DocumentKind, key: &str) -> Result<Option<Document>, StoreError> {
        let key = key.to_owned();
        self.inner.ask(move |store| store.document(kind, &key)).await
    }

    /// Hands out every document of a kind, in the order of their keys. Blocks.
    ///
    /// # Errors
    ///
    /// When the store cannot be read: then some were not handed out.
    pub fn documents(&self, kind: DocumentKind, each: &mut dyn FnMut(Document)) -> Result<(), StoreError> {
        self.inner.store.documents(kind, each)
    }

    /// What the store says about itself.
    #[must_use]
    pub fn status(&self) -> StoreStatus {
        self.inner.store.status()
    }
}

/// The effect of a stored record. A lift of what had no end has none itself, but the cutoff that it
/// leaves has one.
fn effect(live: &Live<'_>, horizons: &Horizons) -> InForce {
    let mut effect = live.effect;
    if let (true, None, Form::Before { issued: Some(cutoff), .. }) = (live.left_by_lift, effect.forget_at, effect.form)
    {
        let target = Target::new(live.kind, live.issuer, live.value);
        effect.forget_at = horizons.forget_at(&target, effect.form, cutoff);
    }
    effect
}

impl Inner {
    async fn revoke_in_turn(&self, request: Request) -> Result<Accepted, RevokeError> {
        let _turn = self.in_flight.acquire().await.map_err(|_| RevokeError::Busy)?;
        self.revoke(request).await
    }

    async fn revoke(&self, request: Request) -> Result<Accepted, RevokeError> {
        let now = self.time();
        let horizons = self.horizons.load_full();
        let level = request.level;
        let meaning = request.meaning(&horizons, now);
        let _claim = match &request.id {
            None => None,
            Some(id) => {
                let claim = self.claims.take(id).await;
                let asked = id.clone();
                let target = meaning.as_ref().ok().map(|it| it.target.clone());
                let known = self.ask(move |store| {
                    let lifted = target.map_or(Ok(false), |target| store.is_lifted(&asked, &target))?;
                    Ok((store.find(&asked)?, lifted))
                });
                match known.await.map_err(RevokeError::Store)? {
                    (Some(kept), _) => {
                        let mut accepted = repeated(&request, kept.revocation, &horizons, self.survives)?;
                        // Everything up to now, and so that one as well.
                        let number = *self.sequence.lock().await;
                        accepted.reached = self.reached(number, level).await;
                        return Ok(accepted);
                    }
                    // The revocation is forgotten, its tombstone is not: it would undo this one as well.
                    (None, true) => return Err(RevokeError::Conflict),
                    (None, false) => {}
                }
                Some(claim)
            }
        };
        let Meaning { target, form, forget_at } = meaning?;
        let revocation = Revocation {
            id: request.id.unwrap_or_else(RecordId::generate),
            target,
            form,
            reason: request.reason,
            source: request.source,
            actor: request.actor,
            note: request.note,
            at: now,
            forget_at,
        };
        let mut accepted = Accepted {
            id: revocation.id.clone(),
            target: revocation.target.clone(),
            form,
            effective_until: forget_at,
            durable: self.survives,
            existing: false,
            reached: Reached::ALONE,
        };
        let (stored, number) = {
            let mut sequence = self.sequence.lock().await;
            (self.enforce(&mut sequence, revocation)?, *sequence)
        };
        match answer(stored.await) {
            Ok(outcomes) if outcomes.first() == Some(&Appended::Conflict) => Err(RevokeError::Conflict),
            Ok(_) => {
                accepted.reached = self.reached(number, level).await;
                Ok(accepted)
            }
            Err(source) => {
                accepted.durable = false;
                Err(RevokeError::NotDurable { accepted: Box::new(accepted), source })
            }
        }
    }

    /// Puts a revocation in force and queues it, in the order in which the sequence is handed round.
    fn enforce(&self, sequence: &mut u64, revocation: Revocation) -> Result<Acknowledgement, Full> {
        let Target { kind, issuer, value } = &revocation.target;
        self.map.apply(self.map.reference(*kind, issuer, value), revocation.form, revocation.forget_at)?;
        self.tell(Event::Revoked(Arc::new(revocation.clone())));
        Ok(self.append(sequence, Body::Revocation(revocation)))
    }

    fn append(&self, sequence: &mut u64, body: Body) -> Acknowledgement {
        *sequence += 1;
        let origin = self.store.store_id().to_owned();
        self.store.append(vec![Entry { origin, origin_seq: *sequence, version: Entry::VERSION, body }])
    }

    /// The time of what is decided now: not before anything that is known to have happened elsewhere.
    fn time(&self) -> Timestamp {
        let now = self.clock.now();
        self.replication.get().map_or(now, |it| it.time(now))
    }

    /// Says that something was written that others are to hear of.
    fn announce(&self) {
        if let Some(replication) = self.replication.get() {
            replication.written();
        }
    }

    /// Says that something was written, and waits for the others as far as is asked for.
    async fn reached(&self, sequence: u64, level: Option<Level>) -> Reached {
        match self.replication.get() {
            None => Reached::ALONE,
            Some(replication) => {
                replication.written();
                replication.reached(sequence, level).await
            }
        }
    }

    /// Before when a record must end to be forgotten now.
    ///
    /// A wall clock that jumps ahead must not make anything be forgotten, so time since the start is
    /// measured by the clock that cannot jump.
    fn forget_before(&self) -> Timestamp {
        let now = match self.clock {
            Clock::System => steady(self.clock.now(), self.opened.0, self.opened.1.elapsed()),
            Clock::Manual(_) => self.clock.now(),
        };
        now.minus(self.limits.load().slack(now))
    }

    /// Asks the store, where waiting for the disk is allowed.
    async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&dyn Store) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let store = Arc::clone(&self.store);
        tokio::task::spawn_blocking(move || question(&*store)).await.unwrap_or(Err(StoreError::Stopped))
    }

    fn tell(&self, event: Event) {
        // Nobody watching is nothing wrong.
        let _ = self.events.send(event);
    }
}

/// What a wall clock shows, but never ahead of what has passed since it showed `opened`.
fn steady(wall: Timestamp, opened: Timestamp, elapsed: Duration) -> Timestamp {
    wall.min(opened.plus(elapsed))
}

/// The answer to a request whose id was used before.
fn repeated(request: &Request, made: Revocation, horizons: &Horizons, durable: bool) -> Result<Accepted, RevokeError> {
    // Asked again at the time of the first, a request for the same means the same.
    let same = request.reason == made.reason
        && request.note == made.note
        && request
            .meaning(horizons, made.at)
            .is_ok_and(|meaning| meaning.target == made.target && meaning.form == made.form)
        && request.expires_at.is_none_or(|at| made.forget_at.is_none_or(|until| at <= until));
    if !same {
        return Err(RevokeError::Conflict);
    }
    Ok(Accepted {
        id: made.id,
        target: made.target,
        form: made.form,
        effective_until: made.forget_at,
        durable,
        existing: true,
        reached: Reached::ALONE,
    })
}

/// What the store answered; a store that went away did not store.
fn answer<E>(answer: Result<Result<Vec<Appended>, StoreError>, E>) -> Result<Vec<Appended>, StoreError> {
    answer.unwrap_or(Err(StoreError::Stopped))
}

#[cfg(test)]
mod tests;
