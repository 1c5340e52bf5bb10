//! Subjects that have been replaced by others: whose tokens are refused for it, and whose past others
//! answer for.
//!
//! A replacement is a link from an old id to a new one of the same issuer; links in a row are a chain. Two
//! things follow, and both are asked wherever standing is: every token of an id that has been replaced is
//! refused, and what is revoked for an id is revoked for all that came after it. The first belongs to the
//! link and not to the id: were it an ordinary block, it would reach the new id as well.
//!
//! Exact, and in memory only. A chain has no branches: an id replaces one other at most, and is replaced by
//! one other at most. What two nodes might do at the same time, and what a damaged copy might hold, is
//! [restored](Replacements::restore) all the same, and whoever it concerns is refused.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use dashmap::DashMap;

use super::effect::Verdict;
use super::reference::{BuildPassThrough, Key};
use super::{Reason, RecordId, Target, TargetKind, TargetRef};
use crate::time::Timestamp;

/// The longest chain, in ids: every token of the last one is judged by all of them. At the bound a further
/// replacement is refused, and the account needs a fresh start under an id of its own.
pub const CHAIN_MAX: usize = 32;
/// Replacements in force: each takes some 500 bytes. At the bound further ones are refused: so many at once
/// are better served by a cutoff on the issuer.
pub const LINKS_MAX: usize = 100_000;
/// Look-ups are short, and changes rare.
const SHARDS: usize = 64;

/// One subject that has been replaced by another. It stays until undone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replacement {
    /// Its own id, or the caller's `Idempotency-Key`.
    pub id: RecordId,
    /// The `iss` of both.
    pub issuer: String,
    /// The `sub` that nobody may use any more.
    pub old: String,
    /// The `sub` in its place.
    pub new: String,
    /// Why.
    pub reason: Reason,
    /// Who asked for it.
    pub actor: String,
    /// A free remark.
    pub note: Option<String>,
    /// When it was made.
    pub at: Timestamp,
}

/// Why a subject cannot be replaced. Read as "failed to replace the subject: {self}".
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidReplacement {
    /// Another id has replaced the old one.
    #[error("the subject has been replaced by another id already; undo that first")]
    AlreadyReplaced,
    /// The chain has as many ids as it may.
    #[error("the chain of this account has {CHAIN_MAX} ids, which is as many as it may have")]
    ChainTooLong,
    /// The new id came before the old one, or is the same.
    #[error("the new id is an earlier id of the same account; a chain does not go in circles")]
    Cycle,
    /// The new id belongs to the chain of another account.
    #[error("the new id belongs to another account: it replaces an id, or has been replaced, itself")]
    InUse,
    /// As many replacements are in force as may be.
    #[error("{LINKS_MAX} replacements are in force, which is as many as may be")]
    TooMany,
}

/// Why a replacement cannot be undone. Read as "failed to undo the replacement: {self}".
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidUndo {
    /// The new id has been replaced as well.
    #[error("the new id has been replaced in its turn; undo that first")]
    NotTheLast,
    /// Nothing has replaced it.
    #[error("the subject has not been replaced")]
    NotReplaced,
}

/// What is known of one id that belongs to a chain.
#[derive(Debug)]
struct Node {
    id: Arc<str>,
    /// Its own replacement, and who took its place.
    later: Option<(Arc<Replacement>, TargetRef)>,
    /// Whose place it took.
    earlier: Option<TargetRef>,
    /// It was given two places in chains. Nobody can say what it stands for, so it stands for nothing.
    disputed: bool,
}

/// Every replacement in force.
pub struct Replacements {
    key: Key,
    nodes: DashMap<TargetRef, Node, BuildPassThrough>,
    /// The old ids by the replacements' own. Held while something changes: what is checked must still be
    /// so when it is written.
    changing: Mutex<HashMap<RecordId, TargetRef>>,
    links: AtomicUsize,
    generation: AtomicU64,
}

impl Replacements {
    pub(super) fn new(key: Key) -> Self {
        Self {
            key,
            nodes: DashMap::with_capacity_and_hasher_and_shard_amount(0, BuildPassThrough::default(), SHARDS),
            changing: Mutex::default(),
            links: AtomicUsize::new(0),
            generation: AtomicU64::new(0),
        }
    }

    /// Whether there are any. Nothing else need be asked when there are not.
    #[must_use]
    pub fn any(&self) -> bool {
        // Whoever adds the first one moves the revocation epoch afterwards, and standing is judged after
        // that was read.
        self.links.load(Ordering::Relaxed) > 0
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.links.load(Ordering::Relaxed)
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        !self.any()
    }

    /// Changes with every change of a chain: what was said about accounts before holds while it stays.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// What chains say about a token of `subject`, given what `judge` says about each earlier id.
    pub(super) fn judge(&self, subject: TargetRef, judge: impl Fn(TargetRef) -> Verdict) -> Verdict {
        let place = self.nodes.view(&subject, |_, node| (node.later.is_some() || node.disputed, node.earlier));
        let mut earlier = match place {
            None => return Verdict::Good,
            Some((true, _)) => return Verdict::Revoked,
            Some((false, earlier)) => earlier,
        };
        let mut verdict = Verdict::Good;
        for _ in 0..CHAIN_MAX {
            let Some(id) = earlier else { return verdict };
            match judge(id) {
                Verdict::Good => {}
                Verdict::TooOld => verdict = Verdict::TooOld,
                Verdict::Revoked => return Verdict::Revoked,
            }
            earlier = self.nodes.view(&id, |_, node| node.earlier).flatten();
        }
        // Longer than any chain can be.
        Verdict::Revoked
    }

    /// The first id of the chain that `subject` is in; `None` when it is in none.
    #[must_use]
    pub fn account(&self, issuer: &str, subject: &str) -> Option<Arc<str>> {
        let mut place = self.reference(issuer, subject);
        let mut account = None;
        for _ in 0..CHAIN_MAX {
            let Some((id, earlier)) = self.nodes.view(&place, |_, node| (Arc::clone(&node.id), node.earlier)) else {
                break;
            };
            account = Some(id);
            match earlier {
                None => break,
                Some(earlier) => place = earlier,
            }
        }
        account
    }

    /// The replacement of `subject`, if it has been replaced.
    #[must_use]
    pub fn of(&self, issuer: &str, subject: &str) -> Option<Arc<Replacement>> {
        self.later(self.reference(issuer, subject)).map(|(link, _)| link)
    }

    /// The replacement with this id.
    #[must_use]
    pub fn with_id(&self, id: &RecordId) -> Option<Arc<Replacement>> {
        let old = self.changing.lock().unwrap_or_else(PoisonError::into_inner).get(id).copied()?;
        self.later(old).map(|(link, _)| link)
    }

    /// Every replacement of the chain that `subject` is in, the first one first.
    #[must_use]
    pub fn chain(&self, issuer: &str, subject: &str) -> Vec<Arc<Replacement>> {
        let mut place = self.reference(issuer, subject);
        for _ in 0..CHAIN_MAX {
            match self.nodes.view(&place, |_, node| node.earlier).flatten() {
                None => break,
                Some(earlier) => place = earlier,
            }
        }
        let mut chain = Vec::new();
        while chain.len() < CHAIN_MAX
            && let Some((link, later)) = self.later(place)
        {
            chain.push(link);
            place = later;
        }
        chain
    }

    /// The ids that `subject` answers for besides its own, the nearest first.
    #[must_use]
    pub fn earlier(&self, issuer: &str, subject: &str) -> Vec<Target> {
        if !self.any() {
            return Vec::new();
        }
        let of_subject = |link: &&Arc<Replacement>| link.old != subject;
        let mut ids = Vec::new();
        for link in self.chain(issuer, subject).iter().take_while(of_subject) {
            ids.push(Target::new(TargetKind::Subject, issuer, link.old.as_str()));
        }
        ids.reverse();
        ids
    }

    /// Whether `old` could be replaced by `new` now.
    ///
    /// # Errors
    ///
    /// Why not.
    pub fn check(&self, issuer: &str, old: &str, new: &str) -> Result<(), InvalidReplacement> {
        if old == new {
            return Err(InvalidReplacement::Cycle);
        }
        let place = self.reference(issuer, old);
        if self.later(place).is_some() {
            return Err(InvalidReplacement::AlreadyReplaced);
        }
        let chain = self.chain(issuer, old);
        if chain.iter().any(|link| link.old == new) {
            return Err(InvalidReplacement::Cycle);
        }
        let disputed = self.nodes.view(&place, |_, node| node.disputed);
        if disputed == Some(true) || self.nodes.contains_key(&self.reference(issuer, new)) {
            return Err(InvalidReplacement::InUse);
        }
        if chain.len() + 2 > CHAIN_MAX {
            return Err(InvalidReplacement::ChainTooLong);
        }
        if self.len() >= LINKS_MAX { Err(InvalidReplacement::TooMany) } else { Ok(()) }
    }

    /// Adds a replacement. The caller has cut the new id, and moves the revocation epoch afterwards.
    pub(super) fn link(&self, link: Replacement) -> Result<Arc<Replacement>, InvalidReplacement> {
        let mut ids = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        self.check(&link.issuer, &link.old, &link.new)?;
        let link = Arc::new(link);
        self.write(&mut ids, &link);
        Ok(link)
    }

    /// Adds a replacement that was in force before. One that does not fit what is there is written all the
    /// same, and refuses both of its ids; then this is false.
    pub(super) fn restore(&self, link: Replacement) -> bool {
        let mut ids = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let fits = match self.check(&link.issuer, &link.old, &link.new) {
            // Links come in any order, so the two sides of one may be there before it.
            Ok(()) | Err(InvalidReplacement::InUse) => self.joins(&link),
            Err(InvalidReplacement::TooMany) => true,
            Err(InvalidReplacement::AlreadyReplaced | InvalidReplacement::ChainTooLong | InvalidReplacement::Cycle) => {
                false
            }
        };
        let (old, new) = (self.reference(&link.issuer, &link.old), self.reference(&link.issuer, &link.new));
        let link = Arc::new(link);
        if fits {
            self.write(&mut ids, &link);
            return true;
        }
        for (place, id) in [(old, &link.old), (new, &link.new)] {
            self.nodes.entry(place).or_insert_with(|| Node::new(id)).disputed = true;
        }
        self.links.fetch_add(1, Ordering::Relaxed);
        self.generation.fetch_add(1, Ordering::Release);
        false
    }

    /// Whether the chain that ends with the old id and the one that begins with the new one make one chain.
    fn joins(&self, link: &Replacement) -> bool {
        let new = self.reference(&link.issuer, &link.new);
        let free = self.nodes.view(&new, |_, node| node.earlier.is_none() && !node.disputed).unwrap_or(true);
        let (before, after) = (self.chain(&link.issuer, &link.old), self.chain(&link.issuer, &link.new));
        free && before.len() + after.len() + 2 <= CHAIN_MAX && after.last().is_none_or(|last| last.new != link.old)
    }

    fn write(&self, ids: &mut HashMap<RecordId, TargetRef>, link: &Arc<Replacement>) {
        let (old, new) = (self.reference(&link.issuer, &link.old), self.reference(&link.issuer, &link.new));
        ids.insert(link.id.clone(), old);
        // The past of the new id first: whoever looks in between finds the stricter of the two.
        self.nodes.entry(new).or_insert_with(|| Node::new(&link.new)).earlier = Some(old);
        self.nodes.entry(old).or_insert_with(|| Node::new(&link.old)).later = Some((Arc::clone(link), new));
        self.links.fetch_add(1, Ordering::Relaxed);
        self.generation.fetch_add(1, Ordering::Release);
    }

    /// Whether the replacement of `old` can be undone now.
    ///
    /// # Errors
    ///
    /// Why not.
    pub fn check_undo(&self, issuer: &str, old: &str) -> Result<Arc<Replacement>, InvalidUndo> {
        let (link, new) = self.later(self.reference(issuer, old)).ok_or(InvalidUndo::NotReplaced)?;
        if self.later(new).is_some() { Err(InvalidUndo::NotTheLast) } else { Ok(link) }
    }

    /// Takes a replacement out. The caller has cut both ids, and moves the revocation epoch afterwards.
    pub(super) fn unlink(&self, issuer: &str, old: &str) -> Result<Arc<Replacement>, InvalidUndo> {
        let mut ids = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let link = self.check_undo(issuer, old)?;
        ids.remove(&link.id);
        let (old, new) = (self.reference(issuer, &link.old), self.reference(issuer, &link.new));
        for (place, is_old) in [(new, false), (old, true)] {
            if let Some(mut node) = self.nodes.get_mut(&place) {
                if is_old {
                    node.later = None;
                } else {
                    node.earlier = None;
                }
            }
            self.nodes.remove_if(&place, |_, node| node.is_alone());
        }
        self.links.fetch_sub(1, Ordering::Relaxed);
        self.generation.fetch_add(1, Ordering::Release);
        Ok(link)
    }

    fn later(&self, place: TargetRef) -> Option<(Arc<Replacement>, TargetRef)> {
        self.nodes.view(&place, |_, node| node.later.clone()).flatten()
    }

    fn reference(&self, issuer: &str, subject: &str) -> TargetRef {
        self.key.reference(TargetKind::Subject, issuer, subject)
    }
}

impl Node {
    fn new(id: &str) -> Self {
        Self { id: id.into(), later: None, earlier: None, disputed: false }
    }

    const fn is_alone(&self) -> bool {
        self.later.is_none() && self.earlier.is_none() && !self.disputed
    }
}

impl fmt::Debug for Replacements {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replacements").field("len", &self.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
