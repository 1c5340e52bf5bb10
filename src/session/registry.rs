//! Which sessions are open, by subject: what their owners and operators see, and how many there may be.
//!
//! A list for people, never a source of authority: whether a token is honoured is judged by what it says
//! and what is revoked, and a session that is forgotten here lives on until it expires or is ended. One
//! that is forgotten and used again is met again. So everything here may be lost without letting anybody
//! in, and nothing that is revoked comes back by it.
//!
//! A request touches the [`Open`] that its worker remembers with the token, and nothing else. The locks
//! here are taken when a session is opened, first seen by a worker, listed or written.

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use super::open::{Open, RestoreError, Written};
use crate::time::{Clock, Timestamp};

/// Each with a lock of its own; all sessions of one subject are in one of them.
const SHARDS: usize = 64;
/// Sessions of one subject that are remembered. At the bound the one of them that was unused for longest
/// is forgotten: who logs in without end pushes out nobody else's.
pub const PER_SUBJECT_MAX: usize = 1000;
/// How far `last_seen` may be ahead of what is stored: a session in use is written once a minute.
const SEEN_GRAIN: Duration = Duration::from_secs(60);
/// Sessions that wait to be written for the first time. At the bound they wait for the next pass over all.
const FRESH_MAX: usize = 8 * 1024;

/// The open sessions that this node knows. Shared by all threads.
pub struct Registry {
    shards: Box<[Mutex<Shard>]>,
    hasher: foldhash::quality::RandomState,
    /// Of each shard. At the bound the session of the shard that was unused for longest is forgotten.
    per_shard: AtomicUsize,
    /// Sessions that came since they were last taken: they are written at once, for a gateway that is killed.
    fresh: Mutex<Vec<Arc<Open>>>,
    /// Wakes who writes them.
    has_fresh: Notify,
}

#[derive(Default)]
struct Shard {
    by_subject: HashMap<Box<str>, Vec<Arc<Open>>, foldhash::quality::RandomState>,
    count: usize,
}

/// What came of opening a session.
#[derive(Debug)]
pub struct Opening {
    /// The session; the one that was there, if it was.
    pub session: Arc<Open>,
    /// Whether it was not there before.
    pub is_new: bool,
    /// Sessions beyond the limit: the caller ends them, and takes them out when that is durable.
    pub beyond: Vec<Arc<Open>>,
    /// Whether it is itself beyond the limit: later logins fill it. It is not in the registry then.
    pub refused: bool,
}

/// What is asked for of the whole registry.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wanted<'a> {
    /// Of this subject of the gateway's own.
    pub subject: Option<&'a str>,
    /// Opened with a token of this issuer, by URL.
    pub opened_with: Option<&'a str>,
    /// Of this subject of that issuer.
    pub parent: Option<&'a str>,
}

/// A session to be written to the store.
#[derive(Debug)]
pub struct Unwritten {
    session: Arc<Open>,
    state: Written,
    /// What to write.
    pub body: String,
    /// Under which revision.
    pub revision: u64,
}

impl Registry {
    /// A registry for about `max` sessions, some 700 bytes each.
    #[must_use]
    pub fn new(max: usize) -> Self {
        let registry = Self {
            shards: std::iter::repeat_with(Mutex::default).take(SHARDS).collect(),
            hasher: foldhash::quality::RandomState::default(),
            per_shard: AtomicUsize::new(0),
            fresh: Mutex::default(),
            has_fresh: Notify::new(),
        };
        registry.set_max(max);
        registry
    }

    /// Changes how many sessions are remembered. A lower number is reached as others come.
    pub fn set_max(&self, max: usize) {
        self.per_shard.store(max.div_ceil(SHARDS).max(1), Ordering::Relaxed);
    }

    /// The session, if it is known.
    #[must_use]
    pub fn find(&self, subject: &str, session: &str) -> Option<Arc<Open>> {
        self.shard(subject).find(subject, session).cloned()
    }

    /// The session with this id, whoever it belongs to. Looks through all of them.
    #[must_use]
    pub fn find_by_id(&self, session: &str) -> Option<Arc<Open>> {
        self.shards.iter().find_map(|shard| {
            let shard = lock(shard);
            shard.by_subject.values().flatten().find(|it| &*it.session == session).cloned()
        })
    }

    /// The session that a token was just admitted of: the one that is known, else `met`.
    pub fn meet(&self, met: Open, now: Timestamp) -> Arc<Open> {
        let mut shard = self.shard(&met.subject);
        if let Some(known) = shard.find(&met.subject, &met.session) {
            known.touch(now);
            known.learn(&met);
            return Arc::clone(known);
        }
        let met = shard.insert(met, self.per_shard(), now);
        drop(shard);
        self.note_fresh(&met);
        met
    }

    /// Enters a session that is being opened, and finds out which ones are too many: with a limit of N,
    /// the N whose login was last stay, whichever of them was entered first. `is_alive` says whether one
    /// still counts.
    ///
    /// For all openings of one subject at a time, so that it is exact however many come at once.
    pub fn open(&self, open: Open, limit: Option<usize>, now: Timestamp, is_alive: impl Fn(&Open) -> bool) -> Opening {
        let mut shard = self.shard(&open.subject);
        if let Some(known) = shard.find(&open.subject, &open.session) {
            known.touch(now);
            known.learn(&open);
            return Opening { session: Arc::clone(known), is_new: false, beyond: Vec::new(), refused: false };
        }
        let limit = limit.unwrap_or(usize::MAX);
        let mut others: Vec<_> =
            shard.of(&open.subject).filter(|it| !it.is_over(now) && is_alive(it)).cloned().collect();
        // Equal logins stay in the order in which they were entered; this one comes after them.
        others.sort_by_key(|it| it.lineage.origin_issued);
        let excess = (others.len() + 1).saturating_sub(limit);
        let older = others.partition_point(|it| it.lineage.origin_issued <= open.lineage.origin_issued);
        if excess > older {
            others.truncate(excess - 1);
            return Opening { session: Arc::new(open), is_new: true, beyond: others, refused: true };
        }
        others.truncate(excess);
        let session = shard.insert(open, self.per_shard(), now);
        drop(shard);
        self.note_fresh(&session);
        Opening { session, is_new: true, beyond: others, refused: false }
    }

    /// Every known session of a subject that may be alive, the one used last first.
    #[must_use]
    pub fn of_subject(&self, subject: &str, now: Timestamp) -> Vec<Arc<Open>> {
        let mut found: Vec<_> = self.shard(subject).of(subject).filter(|it| !it.is_over(now)).cloned().collect();
        found.sort_by_key(|it| std::cmp::Reverse(it.last_seen()));
        found
    }

    /// At most `limit` sessions that may be alive, by id, after the id `from`; and whether there are more.
    ///
    /// Looks through all of them, shard by shard; for operators.
    #[must_use]
    pub fn page(&self, wanted: Wanted<'_>, from: Option<&str>, limit: usize, now: Timestamp) -> (Vec<Arc<Open>>, bool) {
        let mut found = Vec::new();
        for shard in &self.shards {
            let shard = lock(shard);
            let fits = shard
                .by_subject
                .values()
                .flatten()
                .filter(|it| from.is_none_or(|from| &*it.session > from) && !it.is_over(now) && wanted.fits(it));
            found.extend(fits.cloned());
        }
        found.sort_unstable_by(|one: &Arc<Open>, other| one.session.cmp(&other.session));
        let more = found.len() > limit;
        found.truncate(limit);
        (found, more)
    }

    /// Forgets a session that has ended.
    pub fn remove(&self, subject: &str, session: &str) {
        self.shard(subject).remove(subject, session);
    }

    /// Forgets sessions of which nothing can be alive.
    pub fn sweep(&self, now: Timestamp) {
        for shard in &self.shards {
            lock(shard).retain(|open| !open.is_over(now));
        }
    }

    /// How many sessions are known.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| lock(shard).count).sum()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Sessions that the store has not, or not lately enough; with `all`, also those it has nearly so.
    #[must_use]
    pub fn unwritten(&self, all: bool, now: Timestamp) -> Vec<Unwritten> {
        let grain = if all { Duration::ZERO } else { SEEN_GRAIN };
        let mut found = Vec::new();
        for shard in &self.shards {
            // Written without the lock: it is held for as long as it takes to copy a list.
            let open: Vec<_> = lock(shard).by_subject.values().flatten().cloned().collect();
            found.extend(open.into_iter().filter_map(|it| Unwritten::of(it, grain, now)));
        }
        found
    }

    /// Waits for sessions that came, and takes them. For one task.
    pub async fn fresh(&self, clock: &Clock) -> Vec<Unwritten> {
        loop {
            let fresh = std::mem::take(&mut *lock(&self.fresh));
            let now = clock.now();
            let found: Vec<_> = fresh.into_iter().filter_map(|it| Unwritten::of(it, SEEN_GRAIN, now)).collect();
            if !found.is_empty() {
                return found;
            }
            self.has_fresh.notified().await;
        }
    }

    /// Takes in a session that was stored. One that is known already stays as it is.
    ///
    /// # Errors
    /// When it is not what was written.
    pub fn restore(&self, session: &str, body: &str, revision: u64, now: Timestamp) -> Result<(), RestoreError> {
        let open = Open::restored(session, body, revision)?;
        let mut shard = self.shard(&open.subject);
        if !open.is_over(now) && shard.find(&open.subject, session).is_none() {
            shard.insert(open, self.per_shard(), now);
        }
        Ok(())
    }

    /// Takes in what another node says of a session: when it was used there, and until when it lives.
    ///
    /// # Errors
    /// When it is not what was written.
    pub fn follow(&self, session: &str, body: &str, revision: u64, now: Timestamp) -> Result<(), RestoreError> {
        let open = Open::restored(session, body, revision)?;
        let mut shard = self.shard(&open.subject);
        match shard.find(&open.subject, session) {
            Some(known) => {
                known.touch(open.last_seen());
                known.prolong(open.expires());
                known.learn(&open);
            }
            None if !open.is_over(now) => {
                shard.insert(open, self.per_shard(), now);
            }
            None => {}
        }
        Ok(())
    }

    fn note_fresh(&self, open: &Arc<Open>) {
        let mut fresh = lock(&self.fresh);
        if fresh.len() < FRESH_MAX {
            fresh.push(Arc::clone(open));
        }
        drop(fresh);
        self.has_fresh.notify_one();
    }

    fn shard(&self, subject: &str) -> MutexGuard<'_, Shard> {
        let hash = self.hasher.hash_one(subject);
        // The index is below the number of shards, which is not zero.
        #[expect(clippy::cast_possible_truncation, reason = "any bits of the hash will do")]
        lock(&self.shards[hash as usize % SHARDS])
    }

    fn per_shard(&self) -> usize {
        self.per_shard.load(Ordering::Relaxed)
    }
}

impl Unwritten {
    fn of(session: Arc<Open>, grain: Duration, now: Timestamp) -> Option<Self> {
        if session.is_over(now) {
            return None;
        }
        let (body, state) = session.unwritten(grain)?;
        // Revisions grow with time, so that whoever writes later wins, on whichever node.
        let revision = now.millis().cast_unsigned().max(state.revision + 1);
        Some(Self { session, state, body, revision })
    }

    /// Its `sid`, the key of what is written.
    #[must_use]
    pub fn session(&self) -> &str {
        &self.session.session
    }

    /// From when on it need not be kept.
    #[must_use]
    pub fn forget_at(&self) -> Timestamp {
        self.state.expires
    }

    /// Notes that the store has it.
    pub fn is_written(mut self) {
        self.state.revision = self.revision;
        self.session.set_written(self.state);
    }

    /// Notes that the store has something newer: the next try is newer still.
    pub fn is_behind(self, revision: u64) {
        self.session.set_revision(revision);
    }
}

impl Wanted<'_> {
    fn fits(&self, open: &Open) -> bool {
        let origin = open.lineage.origin.as_ref();
        self.subject.is_none_or(|subject| &*open.subject == subject)
            && self.opened_with.is_none_or(|issuer| origin.is_some_and(|it| it.issuer == issuer))
            && self.parent.is_none_or(|parent| origin.is_some_and(|it| it.subject.as_deref() == Some(parent)))
    }
}

impl Shard {
    fn of(&self, subject: &str) -> impl Iterator<Item = &Arc<Open>> {
        self.by_subject.get(subject).into_iter().flatten()
    }

    fn find(&self, subject: &str, session: &str) -> Option<&Arc<Open>> {
        self.of(subject).find(|it| &*it.session == session)
    }

    fn insert(&mut self, open: Open, bound: usize, now: Timestamp) -> Arc<Open> {
        if self.of(&open.subject).count() >= PER_SUBJECT_MAX {
            let subject = open.subject.clone();
            self.forget_one_of(&subject, now);
        }
        while self.count >= bound {
            let Some(subject) = self.coldest(now) else { break };
            self.forget_one_of(&subject, now);
        }
        let open = Arc::new(open);
        self.by_subject.entry(open.subject.clone()).or_default().push(Arc::clone(&open));
        self.count += 1;
        open
    }

    /// Whose session was unused for longest; whose is over, comes first.
    fn coldest(&self, now: Timestamp) -> Option<Box<str>> {
        let coldest = self.by_subject.values().flatten().min_by_key(|it| it.warmth(now));
        coldest.map(|it| it.subject.clone())
    }

    fn forget_one_of(&mut self, subject: &str, now: Timestamp) {
        let coldest = self.of(subject).min_by_key(|it| it.warmth(now)).map(|it| it.session.clone());
        if let Some(session) = coldest {
            self.remove(subject, &session);
        }
    }

    fn remove(&mut self, subject: &str, session: &str) {
        let Some(sessions) = self.by_subject.get_mut(subject) else { return };
        let before = sessions.len();
        sessions.retain(|it| &*it.session != session);
        self.count -= before - sessions.len();
        if sessions.is_empty() {
            self.by_subject.remove(subject);
        }
    }

    fn retain(&mut self, keep: impl Fn(&Open) -> bool) {
        let mut count = 0;
        self.by_subject.retain(|_, sessions| {
            sessions.retain(|it| keep(it));
            count += sessions.len();
            !sessions.is_empty()
        });
        self.count = count;
    }
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registry").field("sessions", &self.len()).finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
