//! Tokens whose signature was found good before: one cache for each worker, shared with nobody.

use std::cell::{Cell, OnceCell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use http::{HeaderName, HeaderValue};
use quick_cache::Weighter;
use quick_cache::unsync::Cache;

use super::Verified;
use crate::session::Open;
use crate::time::Timestamp;

/// One cache entry: what is remembered of a token.
#[derive(Debug)]
pub struct Remembered {
    /// The token itself.
    pub verified: Verified,
    /// The revocation epoch at which its standing was last found good.
    pub(super) judged_at: Cell<u64>,
    /// From when on it must be judged again whatever the epoch: what it rests on may be too old by then.
    pub(super) good_until: Cell<Timestamp>,
    /// The session it belongs to, as the registry knows it, so that a request need not look it up.
    open: OnceCell<Option<Arc<Open>>>,
    /// Its identity headers under each mapping that was asked for: they depend on its claims, and on whose
    /// account it belongs to.
    identity: RefCell<Vec<Prepared>>,
}

/// The identity headers under one mapping.
#[derive(Debug)]
struct Prepared {
    mapping: usize,
    /// The state of the chains of replaced subjects at which they were made.
    accounts: u64,
    headers: IdentityHeaders,
}

/// Prepared header fields, ready to be inserted.
type IdentityHeaders = Rc<[(HeaderName, HeaderValue)]>;

impl Remembered {
    pub(super) fn new(verified: Verified, judged_at: u64, good_until: Timestamp) -> Self {
        Self {
            verified,
            judged_at: Cell::new(judged_at),
            good_until: Cell::new(good_until),
            open: OnceCell::new(),
            identity: RefCell::new(Vec::new()),
        }
    }

    /// The session it belongs to, found by `find` the first time.
    pub fn open(&self, find: impl FnOnce() -> Option<Arc<Open>>) -> Option<&Arc<Open>> {
        self.open.get_or_init(find).as_ref()
    }

    /// The identity headers under mapping number `mapping`, made by `make` the first time and whenever
    /// `accounts`, the [generation](crate::revocation::Replacements::generation) read before, has changed.
    pub fn identity(
        &self,
        mapping: usize,
        accounts: u64,
        make: impl FnOnce(&Verified) -> IdentityHeaders,
    ) -> IdentityHeaders {
        let current = |it: &&Prepared| it.mapping == mapping && it.accounts == accounts;
        if let Some(prepared) = self.identity.borrow().iter().find(current) {
            return Rc::clone(&prepared.headers);
        }
        let headers = make(&self.verified);
        let mut identity = self.identity.borrow_mut();
        identity.retain(|it| it.mapping != mapping);
        identity.push(Prepared { mapping, accounts, headers: Rc::clone(&headers) });
        headers
    }
}

/// Verified tokens by their whole text: a malleated copy of a token is another text and merely misses.
///
/// Only tokens that verified get in, so a flood of forgeries evicts nothing. Bounded in bytes.
pub struct TokenCache(RefCell<Entries>);

type Entries = Cache<Box<[u8]>, Rc<Remembered>, Bytes, foldhash::quality::RandomState>;

impl std::fmt::Debug for TokenCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenCache").field("entries", &self.0.borrow().len()).finish_non_exhaustive()
    }
}

/// An entry weighs what it holds on to: the token, its claims, the bookkeeping around them.
#[derive(Clone)]
struct Bytes;

impl Weighter<Box<[u8]>, Rc<Remembered>> for Bytes {
    fn weight(&self, token: &Box<[u8]>, _: &Rc<Remembered>) -> u64 {
        // Claims parsed into a tree take some three times the room of their text.
        512 + 4 * token.len() as u64
    }
}

impl TokenCache {
    /// A cache that holds about `bytes` bytes.
    #[must_use]
    pub fn new(bytes: u64) -> Self {
        let typical = 512 + 4 * 768;
        let items = usize::try_from(bytes / typical).unwrap_or(usize::MAX).max(16);
        Self(RefCell::new(Cache::with(
            items,
            bytes,
            Bytes,
            foldhash::quality::RandomState::default(),
            Default::default(),
        )))
    }

    pub(super) fn find(&self, token: &[u8]) -> Option<Rc<Remembered>> {
        self.0.borrow_mut().get(token).cloned()
    }

    pub(super) fn insert(&self, token: &[u8], entry: &Rc<Remembered>) {
        self.0.borrow_mut().insert(token.into(), Rc::clone(entry));
    }

    pub(super) fn remove(&self, token: &[u8]) {
        self.0.borrow_mut().remove(token);
    }

    /// How many tokens it remembers.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.borrow().len()
    }

    /// Whether it remembers none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
