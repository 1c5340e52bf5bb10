//! Everything in force on this node, in memory.

use std::array;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use dashmap::{DashMap, Entry};

use super::effect::{InForce, Packed, Verdict};
use super::reference::{BuildPassThrough, Key};
use super::{
    Form, InvalidReplacement, InvalidUndo, Live, Replacement, Replacements, Standing, Target, TargetKind, TargetRef,
};
use crate::time::Timestamp;

/// So many that a writer, or the sweep, holds up no more than a thousandth of all look-ups, and each
/// for no longer than a pass over a thousandth of the entries takes.
const SHARDS: usize = 1024;
/// Few targets need the table beside.
const SHARDS_ASIDE: usize = 16;

/// What is in force, by target. Exact: nothing is refused that no record names.
///
/// No lock outlives a call. A write is in the map before the [epoch](Self::epoch) moves, so whoever
/// reads the epoch first and then the map may keep the answer for as long as the epoch stays.
pub struct RevocationMap {
    key: Key,
    entries: DashMap<TargetRef, Packed, BuildPassThrough>,
    /// Effects that eight bytes cannot hold. Only touched under the lock of the target's own shard in
    /// `entries`, so the two never disagree.
    aside: DashMap<TargetRef, InForce, BuildPassThrough>,
    replacements: Apart<Replacements>,
    max_entries: usize,
    /// Entries that exist or are about to: never more than `max_entries`.
    reserved: Apart<AtomicUsize>,
    epoch: Apart<AtomicU64>,
    counts: Apart<[AtomicU64; TargetKind::ALL.len()]>,
    live: Arc<Live>,
}

/// Keeps a value on cache lines of its own: readers of one should not pay for writers of another.
#[repr(align(128))]
struct Apart<T>(T);

impl<T> Deref for Apart<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

/// What a write did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// The target had nothing in force before.
    Added,
    /// What was in force changed.
    Changed,
    /// Everything it says was in force already.
    Unchanged,
}

/// The map holds as many targets as it may; nothing was dropped to make room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the revocation map is full: {max_entries} targets")]
pub struct Full {
    /// How many it may hold.
    pub max_entries: usize,
}

impl RevocationMap {
    /// An empty map for at most `max_entries` targets; an entry takes some 42 bytes at ten million.
    #[must_use]
    pub fn new(max_entries: usize) -> Self {
        let hasher = BuildPassThrough::default;
        let key = Key::random();
        Self {
            replacements: Apart(Replacements::new(key.clone())),
            key,
            entries: DashMap::with_capacity_and_hasher_and_shard_amount(0, hasher(), SHARDS),
            aside: DashMap::with_capacity_and_hasher_and_shard_amount(0, hasher(), SHARDS_ASIDE),
            max_entries,
            reserved: Apart(AtomicUsize::new(0)),
            epoch: Apart(AtomicU64::new(0)),
            counts: Apart(array::from_fn(|_| AtomicU64::new(0))),
            live: Arc::new(Live::new()),
        }
    }

    /// How this map names a target. Parts that `kind` does not have are ignored.
    #[must_use]
    pub fn reference(&self, kind: TargetKind, issuer: &str, value: &str) -> TargetRef {
        self.key.reference(kind, issuer, value)
    }

    /// Whether a token that belongs to `targets`, with this origin and this `auth_time`, is honoured.
    /// When several targets are revoked, the narrowest is named. A subject that has been replaced is
    /// revoked; one that replaced another is as far as that one is.
    #[must_use]
    pub fn standing(&self, targets: &[TargetRef], issued: Timestamp, authenticated: Option<Timestamp>) -> Standing {
        let mut narrowest: Option<TargetKind> = None;
        let mut too_old = false;
        for &target in targets {
            let kind = target.kind();
            if narrowest.is_some_and(|found| found <= kind) {
                continue;
            }
            let judge = |target| self.judge(target, issued, authenticated);
            let own = if self.count(kind) == 0 { Verdict::Good } else { judge(target) };
            let past = match kind {
                TargetKind::Subject if self.replacements.any() => self.replacements.judge(target, judge),
                _ => Verdict::Good,
            };
            match own.max(past) {
                Verdict::Good => {}
                Verdict::TooOld => too_old = true,
                Verdict::Revoked => narrowest = Some(kind),
            }
        }
        match narrowest {
            Some(kind) => Standing::Revoked(kind),
            None if too_old => Standing::AuthenticationTooOld,
            None => Standing::Good,
        }
    }

    fn judge(&self, target: TargetRef, issued: Timestamp, authenticated: Option<Timestamp>) -> Verdict {
        let found = self.entries.view(&target, |_, &packed| {
            self.effect(target, packed).map_or(Verdict::Good, |effect| effect.judge(issued, authenticated))
        });
        found.unwrap_or(Verdict::Good)
    }

    /// Whether a block of this very target is in force.
    #[must_use]
    pub fn is_blocked(&self, target: &Target) -> bool {
        // No cutoff reaches the end of time.
        self.is_cut(target, Timestamp::MAX)
    }

    /// Whether everything of this target is refused that has its origin at or before `until`.
    #[must_use]
    pub fn is_cut(&self, target: &Target, until: Timestamp) -> bool {
        let reference = self.reference(target.kind, &target.issuer, &target.value);
        matches!(self.standing(&[reference], until, Some(until)), Standing::Revoked(_))
    }

    /// What is in force for one target.
    #[must_use]
    pub fn in_force(&self, target: TargetRef) -> Option<InForce> {
        self.entries.view(&target, |_, &packed| self.effect(target, packed)).flatten()
    }

    /// The effect behind the eight bytes of `target`, whose shard the caller has locked.
    fn effect(&self, target: TargetRef, packed: Packed) -> Option<InForce> {
        packed.unpack().or_else(|| self.aside.view(&target, |_, &effect| effect))
    }

    /// The number of changes so far. Load it before a look-up; while it stays, so does the answer.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// Moves the epoch, for a change outside of this map that anybody's standing may depend on.
    pub fn bump(&self) {
        self.bump_for(TargetKind::All, "", "");
    }

    /// The same for a change that concerns the tokens of one target alone. What is cached is judged again
    /// in any case; of what is open, only that.
    pub fn bump_for(&self, kind: TargetKind, issuer: &str, value: &str) {
        self.changed(self.reference(kind, issuer, value));
    }

    /// What is held open, and asks again when something changes.
    #[must_use]
    pub const fn live(&self) -> &Arc<Live> {
        &self.live
    }

    /// To be called once a change of `target` can be seen.
    fn changed(&self, target: TargetRef) {
        self.epoch.fetch_add(1, Ordering::Release);
        self.live.raise(target);
    }

    /// Subjects that have been replaced by others.
    #[must_use]
    pub fn replacements(&self) -> &Replacements {
        &self.replacements
    }

    /// Puts a replacement in force: the old subject is refused from now on, and the new one answers for
    /// it. The caller has cut the new one first.
    ///
    /// # Errors
    ///
    /// When it does not fit the chains there are; then nothing was changed.
    pub fn replace_subject(&self, replacement: Replacement) -> Result<Arc<Replacement>, InvalidReplacement> {
        let link = self.replacements.link(replacement)?;
        self.bump();
        Ok(link)
    }

    /// Puts a replacement in force that was before. Whether it fits the others: if not, both of its
    /// subjects are refused.
    pub fn restore_replacement(&self, replacement: Replacement) -> bool {
        let fits = self.replacements.restore(replacement);
        self.bump();
        fits
    }

    /// Takes the replacement of `old` out of force. The caller has cut both subjects first.
    ///
    /// # Errors
    ///
    /// When there is none, or a later one depends on it.
    pub fn undo_replacement(&self, issuer: &str, old: &str) -> Result<Arc<Replacement>, InvalidUndo> {
        let link = self.replacements.unlink(issuer, old)?;
        self.bump();
        Ok(link)
    }

    /// Puts one record in force, beside what already is.
    ///
    /// # Errors
    ///
    /// [`Full`] when the target is new and there is no room; what is in force already can always be
    /// widened.
    pub fn apply(&self, target: TargetRef, form: Form, forget_at: Option<Timestamp>) -> Result<Effect, Full> {
        let record = InForce::new(form, forget_at);
        self.write(target, |before| before.map_or(record, |before| before.join(record)))
    }

    /// Makes `effect` all that is in force for the target; `None` leaves nothing. The one way to
    /// loosen anything: `effect` must be the join of every record of the target that is not lifted.
    ///
    /// # Errors
    ///
    /// [`Full`] when the target is new and there is no room.
    pub fn replace(&self, target: TargetRef, effect: Option<InForce>) -> Result<Effect, Full> {
        if let Some(effect) = effect {
            return self.write(target, |_| effect);
        }
        let removed = self.entries.remove_if(&target, |_, _| {
            self.aside.remove(&target);
            true
        });
        if removed.is_none() {
            return Ok(Effect::Unchanged);
        }
        self.release(target.kind(), 1);
        self.changed(target);
        Ok(Effect::Changed)
    }

    fn write(&self, target: TargetRef, after: impl FnOnce(Option<InForce>) -> InForce) -> Result<Effect, Full> {
        let effect = match self.entries.entry(target) {
            Entry::Occupied(mut entry) => {
                let before = self.effect(target, *entry.get());
                let after = after(before);
                let packed = self.place(target, after);
                if *entry.get() == packed && before == Some(after) {
                    return Ok(Effect::Unchanged);
                }
                *entry.get_mut() = packed;
                Effect::Changed
            }
            Entry::Vacant(entry) => {
                self.reserve()?;
                // Before the entry can be seen: a sweep that took it at once would else count it out first,
                // and the count could read zero beside an entry that is in force.
                self.counts[index(target.kind())].fetch_add(1, Ordering::Release);
                entry.insert(self.place(target, after(None)));
                Effect::Added
            }
        };
        self.changed(target);
        Ok(effect)
    }

    /// The eight bytes for `effect`, with the table beside brought in step; the caller has locked the
    /// shard of `target`.
    fn place(&self, target: TargetRef, effect: InForce) -> Packed {
        if let Some(packed) = Packed::pack(effect) {
            self.aside.remove(&target);
            return packed;
        }
        self.aside.insert(target, effect);
        Packed::ASIDE
    }

    fn reserve(&self) -> Result<(), Full> {
        let max_entries = self.max_entries;
        self.reserved
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |held| (held < max_entries).then_some(held + 1))
            .map(|_| ())
            .map_err(|_| Full { max_entries })
    }

    fn release(&self, kind: TargetKind, entries: usize) {
        self.counts[index(kind)].fetch_sub(entries as u64, Ordering::Release);
        self.reserved.fetch_sub(entries, Ordering::Relaxed);
    }

    /// Forgets what refuses nothing alive at `now`, and gives memory back when most of it is unused.
    /// Returns how many targets were forgotten.
    ///
    /// Takes about 5 ns an entry, on the calling thread; a look-up waits at most for the pass over
    /// its own shard. Call it where blocking is allowed.
    pub fn sweep(&self, now: Timestamp) -> usize {
        let mut forgotten = [0_usize; TargetKind::ALL.len()];
        self.entries.retain(|&target, packed| {
            let over = self.effect(target, *packed).is_some_and(|effect| effect.is_over(now));
            if over {
                if *packed == Packed::ASIDE {
                    self.aside.remove(&target);
                }
                forgotten[index(target.kind())] += 1;
            }
            !over
        });
        for kind in TargetKind::ALL {
            self.release(kind, forgotten[index(kind)]);
        }
        if self.entries.capacity() / 4 > self.entries.len() {
            self.entries.shrink_to_fit();
            self.aside.shrink_to_fit();
        }
        forgotten.iter().sum()
    }

    /// How many targets of each kind have something in force.
    #[must_use]
    pub fn counts(&self) -> [(TargetKind, u64); TargetKind::ALL.len()] {
        TargetKind::ALL.map(|kind| (kind, self.count(kind)))
    }

    /// Raised before an entry is there and lowered after it is gone: never zero while one is in force.
    fn count(&self, kind: TargetKind) -> u64 {
        self.counts[index(kind)].load(Ordering::Acquire)
    }

    /// How many targets have something in force.
    #[must_use]
    pub fn len(&self) -> usize {
        self.reserved.load(Ordering::Relaxed)
    }

    /// Whether nothing is in force.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many targets it may hold.
    #[must_use]
    pub const fn max_entries(&self) -> usize {
        self.max_entries
    }
}

impl std::fmt::Debug for RevocationMap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RevocationMap").field("len", &self.len()).field("max_entries", &self.max_entries).finish()
    }
}

/// The place of a kind in an array of all of them.
const fn index(kind: TargetKind) -> usize {
    kind as usize - 1
}

#[cfg(test)]
mod tests;
