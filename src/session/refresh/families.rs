//! What a node remembers of the families there are: how far each has come, and how many they are.
//!
//! The families themselves are in the store. This is some hundred bytes each, and bounded.

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{Family, RefreshToken};
use crate::session::PER_SUBJECT_MAX;
use crate::time::Timestamp;

/// The families this node has seen. Shared by all threads, and asked only when a session is opened,
/// refreshed or ended.
///
/// At the bound, a new session goes without a refresh token, and whoever has one keeps it; so does a subject
/// that has [`PER_SUBJECT_MAX`] of them: who logs in without end shuts out nobody else.
#[derive(Debug)]
pub struct Families {
    known: Mutex<Known>,
    hasher: foldhash::quality::RandomState,
    max: AtomicUsize,
}

#[derive(Debug, Default)]
struct Known {
    by_session: HashMap<Box<str>, Seen, foldhash::quality::RandomState>,
    /// By the hash of the subject. Two that collide share one bound.
    by_subject: HashMap<u64, usize>,
}

#[derive(Debug)]
struct Seen {
    subject: u64,
    opened: Timestamp,
    generation: u32,
    ends: Timestamp,
    /// Whether somebody is ending its session.
    ending: bool,
}

impl Families {
    /// Nothing known yet, and at most `max` families to come.
    #[must_use]
    pub fn new(max: usize) -> Self {
        let hasher = foldhash::quality::RandomState::default();
        Self { known: Mutex::default(), hasher, max: AtomicUsize::new(max) }
    }

    /// Changes how many there may be. Those that are there stay.
    pub fn set_max(&self, max: usize) {
        self.max.store(max, Ordering::Relaxed);
    }

    /// Makes room for a family that is about to be opened; `false` when there is none.
    #[must_use]
    pub fn reserve(&self, family: &Family, now: Timestamp) -> bool {
        let max = self.max.load(Ordering::Relaxed);
        let subject = self.hasher.hash_one(&family.subject);
        let mut known = self.lock();
        let is_new = !known.by_session.contains_key(&family.session);
        if is_new && known.by_session.len() >= max {
            known.sweep(now);
        }
        let of_subject = known.by_subject.get(&subject).copied().unwrap_or_default();
        if is_new && (known.by_session.len() >= max || of_subject >= PER_SUBJECT_MAX) {
            return false;
        }
        known.note(family, subject);
        true
    }

    /// Notes what the store has of a family.
    pub fn note(&self, family: &Family) {
        let subject = self.hasher.hash_one(&family.subject);
        self.lock().note(family, subject);
    }

    /// Whether this node knows that the successor of `token` was used, whatever a store says.
    #[must_use]
    pub fn is_past(&self, token: &RefreshToken) -> bool {
        let known = self.lock();
        let seen = known.by_session.get(&token.session).filter(|seen| seen.opened == token.opened);
        seen.is_some_and(|seen| seen.generation > token.generation.saturating_add(1))
    }

    /// Whether whoever asks is the one to end the session: one theft is one line of the audit log.
    #[must_use]
    pub fn begin_ending(&self, session: &str) -> bool {
        self.lock().by_session.get_mut(session).is_none_or(|seen| !std::mem::replace(&mut seen.ending, true))
    }

    /// It is ended, or was not after all: whoever comes next finds out which.
    pub fn end_turn(&self, session: &str) {
        if let Some(seen) = self.lock().by_session.get_mut(session) {
            seen.ending = false;
        }
    }

    /// Forgets the family of a session that has ended, or that was not opened after all.
    pub fn release(&self, session: &str) {
        self.lock().remove(session);
    }

    /// Forgets families that have ended.
    pub fn sweep(&self, now: Timestamp) {
        self.lock().sweep(now);
    }

    /// How many are known.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lock().by_session.len()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn note(&mut self, family: &Family, subject: u64) {
        let Family { session, opened, generation, ends, .. } = family;
        if let Some(seen) = self.by_session.get_mut(session) {
            // The latest family of a session, and of that the latest generation, in whatever order they come.
            if (*opened, *generation) > (seen.opened, seen.generation) {
                (seen.opened, seen.generation, seen.ends) = (*opened, *generation, *ends);
            }
            return;
        }
        let seen = Seen { subject, opened: *opened, generation: *generation, ends: *ends, ending: false };
        self.by_session.insert(session.clone(), seen);
        *self.by_subject.entry(subject).or_default() += 1;
    }

    fn remove(&mut self, session: &str) {
        let Some(seen) = self.by_session.remove(session) else { return };
        if let Some(count) = self.by_subject.get_mut(&seen.subject) {
            *count -= 1;
            if *count == 0 {
                self.by_subject.remove(&seen.subject);
            }
        }
    }

    fn sweep(&mut self, now: Timestamp) {
        let over: Vec<_> =
            self.by_session.iter().filter(|(_, seen)| seen.ends <= now).map(|(session, _)| session.clone()).collect();
        over.iter().for_each(|session| self.remove(session));
    }
}
