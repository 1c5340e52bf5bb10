//! Credentials that somebody who knows them has told us.
//!
//! They have no end: whoever pushed one says when it changes. They are in memory alone, because what
//! would have to be written down is the key itself; after a restart a subject is "cannot be looked up"
//! until it is pushed again, never "unknown".

use std::sync::atomic::{AtomicUsize, Ordering};

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use std::sync::Arc;

use crate::keys::credential::{Credential, Known};

/// Nothing more fits.
#[derive(Debug)]
pub(super) struct Full;

/// What was pushed, by subject; `None` for one that was said to be gone.
#[derive(Debug)]
pub(super) struct Pushed {
    all: DashMap<Box<str>, Option<Arc<Credential>>>,
    count: AtomicUsize,
    /// Subjects at most. At the bound a new one is refused: to drop another would shut somebody out.
    max: usize,
}

impl Pushed {
    pub(super) fn new(max: usize) -> Self {
        Self { all: DashMap::new(), count: AtomicUsize::new(0), max }
    }

    pub(super) fn find(&self, subject: &str) -> Known {
        match self.all.get(subject).map(|it| it.value().clone()) {
            Some(Some(credential)) => Known::Current(credential),
            Some(None) => Known::Unknown,
            None => Known::Absent,
        }
    }

    /// Takes the credential of a subject, or that it has none any more.
    pub(super) fn put(&self, subject: &str, credential: Option<Credential>) -> Result<(), Full> {
        let credential = credential.map(Arc::new);
        match self.all.entry(subject.into()) {
            Entry::Occupied(mut entry) => drop(entry.insert(credential)),
            Entry::Vacant(entry) => {
                if self.count.fetch_add(1, Ordering::Relaxed) >= self.max {
                    self.count.fetch_sub(1, Ordering::Relaxed);
                    return Err(Full);
                }
                entry.insert(credential);
            }
        }
        Ok(())
    }
}
