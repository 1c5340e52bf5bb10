//! What was minted lately, so that one token has one successor.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use quick_cache::Weighter;
use quick_cache::sync::{Cache, EntryAction, EntryResult};

use super::mint::Minted;
use crate::time::Timestamp;

/// Bytes of minted tokens remembered, each for exchanges and for reissues: some 25,000 tokens.
///
/// At the bound the coldest is forgotten. The price is one more minting for a client that asks again
/// with the old token, never a wrong answer, and new entries are the ones that parallel requests need.
const REMEMBERED_BYTES_MAX: u64 = 32 << 20;
/// Tokens whose requests are counted. At the bound the coldest count starts anew, so a token may be
/// renewed later than it should by its count; its age still renews it.
const COUNTED_MAX: usize = 100_000;
/// What an entry weighs beside its token and its names.
const ENTRY_BYTES: u64 = 640;
/// The grain of `exp`: within it a successor cannot be improved on.
const GRAIN: Duration = Duration::from_secs(1);

/// Minted tokens by what they were minted for: an old token's name, or the session of a parent.
///
/// While one thread signs, others that ask for the same wait for its result; nobody else does.
pub(super) struct Successors {
    minted: Cache<String, Arc<Minted>, Bytes>,
    /// Share of a token's life, in per mille, after which it is itself due.
    after_permille: u32,
}

impl Successors {
    pub(super) fn new(after_permille: u32) -> Self {
        Self::with_bytes(after_permille, REMEMBERED_BYTES_MAX)
    }

    fn with_bytes(after_permille: u32, bytes: u64) -> Self {
        let items = usize::try_from(bytes / (2 * ENTRY_BYTES)).unwrap_or(usize::MAX);
        Self { minted: Cache::with_weighter(items, bytes, Bytes), after_permille }
    }

    /// The token remembered for `name` if its own turn has not come and it is `usable`, else the one
    /// that `mint` makes, remembered.
    pub(super) fn find_or_mint<E>(
        &self,
        name: &str,
        now: Timestamp,
        usable: impl FnOnce(&Minted) -> bool,
        mint: impl FnOnce() -> Result<Minted, E>,
    ) -> Result<Arc<Minted>, E> {
        let found = self.minted.entry(name, None, |_, minted: &mut Arc<Minted>| {
            if self.is_fresh(minted, now) && usable(minted) {
                return EntryAction::Retain(Arc::clone(minted));
            }
            EntryAction::ReplaceWithGuard
        });
        match found {
            EntryResult::Retained(minted) => Ok(minted),
            EntryResult::Vacant(guard) | EntryResult::Replaced(guard, _) => {
                // An error drops the guard, and the next to ask tries for itself.
                let minted = Arc::new(mint()?);
                // Refused when the entry was removed meanwhile: then this one is simply not remembered.
                let _ = guard.insert(Arc::clone(&minted));
                Ok(minted)
            }
            // The entry is neither removed by the callback nor waited for with a limit.
            EntryResult::Removed(..) | EntryResult::Timeout => mint().map(Arc::new),
        }
    }

    /// The token remembered for `name`, if it would be given out.
    pub(super) fn find(&self, name: &str, now: Timestamp, usable: impl FnOnce(&Minted) -> bool) -> Option<Arc<Minted>> {
        self.minted.get(name).filter(|minted| self.is_fresh(minted, now) && usable(minted))
    }

    /// Forgets what would not be given out again.
    pub(super) fn sweep(&self, now: Timestamp) {
        self.minted.retain(|_, minted| self.is_fresh(minted, now));
    }

    /// How many are remembered.
    pub(super) fn len(&self) -> usize {
        self.minted.len()
    }

    fn is_fresh(&self, minted: &Minted, now: Timestamp) -> bool {
        let turn = turn(minted.issued, minted.expires, self.after_permille);
        now < minted.expires && now <= turn.max(minted.issued.plus(GRAIN))
    }
}

/// The last instant at which a token that lives from `issued` to `expires` is not yet due.
pub(super) fn turn(issued: Timestamp, expires: Timestamp, after_permille: u32) -> Timestamp {
    issued.plus(expires.since(issued) * after_permille / 1000)
}

/// Requests seen with each token.
pub(super) struct Counts {
    every: u32,
    seen: Cache<String, Arc<Count>>,
}

struct Count {
    requests: AtomicU32,
    expires: Timestamp,
}

impl Counts {
    pub(super) fn new(every: u32) -> Self {
        Self { every, seen: Cache::new(COUNTED_MAX) }
    }

    /// Counts one request with the token `name`; whether it is the `every`-th or a later one.
    pub(super) fn is_reached(&self, name: &str, expires: Timestamp) -> bool {
        let fresh = || Arc::new(Count { requests: AtomicU32::new(0), expires });
        let count = match self.seen.get_or_insert_with(name, || Ok::<_, std::convert::Infallible>(fresh())) {
            Ok(count) => count,
            Err(never) => match never {},
        };
        // It stays at the bound, so that it never wraps.
        let before = count
            .requests
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |seen| (seen < self.every).then_some(seen + 1));
        before.is_err() || before.is_ok_and(|seen| seen + 1 >= self.every)
    }

    /// Forgets tokens that have expired.
    pub(super) fn sweep(&self, now: Timestamp) {
        self.seen.retain(|_, count| now < count.expires);
    }
}

/// Weighs a minted token by its length and those of its names.
#[derive(Clone)]
struct Bytes;

impl Weighter<String, Arc<Minted>> for Bytes {
    fn weight(&self, name: &String, minted: &Arc<Minted>) -> u64 {
        let names = minted.subject.len() + minted.scope.as_ref().map_or(0, String::len);
        // The names in `orig` are in the token, too, as base64.
        ENTRY_BYTES + (name.len() + 2 * minted.token().len() + names) as u64
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use serde_json::json;

    use super::super::MintError;
    use super::super::fixture::{NOW, after, foreign, parent, sessions};
    use super::*;

    fn minted() -> Minted {
        let (_folder, sessions) = sessions();
        let minted = sessions.exchange(parent(&foreign(json!({}))), NOW).unwrap();
        Minted::clone(&minted)
    }

    #[test]
    fn a_failure_is_not_remembered() {
        let successors = Successors::new(500);
        let failed = successors.find_or_mint("a", NOW, |_| true, || Err(MintError::Ended));
        assert!(failed.is_err());
        let minted = minted();
        let made = successors.find_or_mint::<MintError>("a", NOW, |_| true, || Ok(minted));
        assert!(made.is_ok());
        assert_eq!(successors.len(), 1);
    }

    #[test]
    fn what_is_not_usable_is_replaced() {
        let successors = Successors::new(500);
        let minted = minted();
        let calls = Cell::new(0);
        let ask = |usable: bool, at| {
            let mint = || {
                calls.set(calls.get() + 1);
                Ok::<_, MintError>(minted.clone())
            };
            successors.find_or_mint("a", at, |_| usable, mint).unwrap();
            calls.get()
        };
        assert_eq!(
            [ask(true, NOW), ask(true, after(20)), ask(false, NOW), ask(true, NOW), ask(true, after(40))],
            [1, 1, 2, 2, 3]
        );
    }

    #[test]
    fn even_a_share_of_nothing_remembers_for_a_second() {
        let successors = Successors::new(0);
        let minted = minted();
        let issued = minted.issued;
        successors.find_or_mint::<MintError>("a", issued, |_| true, || Ok(minted)).unwrap();
        for (millis, kept) in [(1_000, 1), (1_001, 0)] {
            successors.sweep(issued.plus(Duration::from_millis(millis)));
            assert_eq!(successors.len(), kept, "after {millis} ms");
        }
    }

    #[test]
    fn memory_is_bounded_and_at_the_bound_only_costs_a_minting() {
        let minted = minted();
        let one = Bytes.weight(&"00000".to_owned(), &Arc::new(minted.clone()));
        let successors = Successors::with_bytes(500, 400 * one);
        for n in 0..2_000 {
            let name = format!("{n:05}");
            successors.find_or_mint::<MintError>(&name, NOW, |_| true, || Ok(minted.clone())).unwrap();
            // Parallel requests come at once: what was just minted is there.
            let again = successors.find_or_mint(&name, NOW, |_| true, || Err(MintError::Ended));
            assert!(again.is_ok(), "{name}");
        }
        assert!(successors.len() <= 400, "{} entries", successors.len());
        assert!(successors.len() >= 200, "{} entries", successors.len());
    }

    #[test]
    fn a_count_stays_at_its_bound() {
        let counts = Counts::new(2);
        let reached: Vec<_> = (0..4).map(|_| counts.is_reached("a", after(60))).collect();
        assert_eq!(reached, [false, true, true, true]);
        counts.sweep(after(59));
        assert!(counts.is_reached("a", after(60)));
        counts.sweep(after(60));
        assert!(!counts.is_reached("a", after(60)), "forgotten with the token");
    }
}
