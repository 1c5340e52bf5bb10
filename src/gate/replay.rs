//! Proofs of possession that were used: each is good once (RFC 9449 §11.1).
//!
//! One for the process, whatever the configuration: a reload forgets nothing. It is in memory alone, so
//! proofs made before the process began are not honoured ([`Replays::since`]), and the nodes of a
//! cluster tell each other of what was used, a moment later.
//!
//! Only what passed every other check gets here, so nobody fills it but holders of bound tokens that are
//! honoured; and one key may fill an eighth of it at most, so that no single one shuts out the others. At
//! either bound a proof is refused, never an earlier one forgotten: that would let it be used again.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::Hasher;
use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use siphasher::sip128::{Hasher128, SipHasher13};

use crate::time::Timestamp;

/// Parts that are locked apart; all proofs of one key are in one.
const SHARDS: usize = 16;

/// One key may have this part of all that is remembered.
const SHARE_OF_A_KEY: usize = 8;

/// How many proofs are remembered unless configured otherwise.
pub const REPLAYS_MAX: usize = 200_000;

/// The used proofs of this process.
pub struct Replays {
    shards: [Mutex<Shard>; SHARDS],
    count: AtomicUsize,
    max: AtomicUsize,
    /// For how long proofs are good, at most: whatever the configuration says now, or ever said.
    life: AtomicU64,
    /// In milliseconds since the epoch.
    since: AtomicI64,
    /// Drawn when it is made, so that nobody can prepare two names with one digest.
    secret: (u64, u64),
    /// Who is told of proofs that are used here.
    told: OnceLock<Told>,
}

/// Hears of a proof: its key, its id, and when it was made.
pub type Told = Box<dyn Fn(&str, &str, Timestamp) + Send + Sync>;

/// Why a proof is not taken as new.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotNew {
    /// It was used before.
    Used,
    /// As many as may be are remembered already, of all keys or of this one.
    Full,
}

#[derive(Default)]
struct Shard {
    used: HashSet<u128>,
    /// How many of them are of one key.
    of_keys: HashMap<u64, usize>,
    /// By the second in which they may be forgotten: each with its key.
    ending: BTreeMap<i64, Vec<(u128, u64)>>,
}

impl Replays {
    /// Remembers nothing, and at most `max` later, each for `life`. `now` is when the process began.
    #[must_use]
    pub fn new(max: usize, life: Duration, now: Timestamp) -> Self {
        Self {
            shards: std::array::from_fn(|_| Mutex::default()),
            count: AtomicUsize::new(0),
            max: AtomicUsize::new(max),
            life: AtomicU64::new(whole_seconds(life)),
            since: AtomicI64::new(now.floor_to_second().millis()),
            secret: rand::random(),
            told: OnceLock::new(),
        }
    }

    /// From here on the proofs that were used are known: what was made earlier may have been used.
    #[must_use]
    pub fn since(&self) -> Timestamp {
        Timestamp::from_millis(self.since.load(Ordering::Acquire))
    }

    /// Says that proofs are good for `life` from `now` on. What is remembered is remembered for as long as
    /// that, and what is so old that it may have been forgotten is honoured no more. A shorter life changes
    /// nothing here. To be said before anybody is judged by it.
    pub fn outlive(&self, life: Duration, now: Timestamp) {
        let life = whole_seconds(life);
        let before = self.life.fetch_max(life, Ordering::AcqRel);
        let Some(more) = life.checked_sub(before).filter(|more| *more > 0) else { return };
        let forgotten = now.minus(Duration::from_secs(before)).plus(Duration::from_secs(1));
        self.since.fetch_max(forgotten.millis(), Ordering::AcqRel);
        for place in 0..SHARDS {
            let mut shard = self.lock(place);
            let ending = std::mem::take(&mut shard.ending);
            shard.ending = ending.into_iter().map(|(second, names)| (second + more.cast_signed(), names)).collect();
        }
    }

    /// Changes how many are remembered. Those beyond a lower number stay until they may be forgotten.
    pub fn set_max(&self, max: usize) {
        self.max.store(max, Ordering::Relaxed);
    }

    /// How many are remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Has `told` hear of every proof that is used here from now on. To be said once.
    pub fn tell(&self, told: Told) {
        // A second one would be a second cluster: the first stays.
        drop(self.told.set(told));
    }

    /// Takes the proof `id` of `key`, made at `issued`, as used for as long as it is good, and tells others.
    ///
    /// # Errors
    ///
    /// [`NotNew`]; it is then not remembered once more.
    pub fn use_up(&self, key: &str, id: &str, issued: Timestamp, now: Timestamp) -> Result<(), NotNew> {
        self.take(key, id, issued, now)?;
        if let Some(told) = self.told.get() {
            told(key, id, issued);
        }
        Ok(())
    }

    /// Takes the proof `id` of `key`, made at `issued`, as used for as long as it is good.
    ///
    /// # Errors
    ///
    /// [`NotNew`]; it is then not remembered once more.
    pub fn take(&self, key: &str, id: &str, issued: Timestamp, now: Timestamp) -> Result<(), NotNew> {
        let (shard, owner, name) = self.place(key, id);
        let max = self.max.load(Ordering::Relaxed);
        {
            let mut shard = self.lock(shard);
            self.forget(&mut shard, now);
            if shard.used.contains(&name) {
                return Err(NotNew::Used);
            }
        }
        if self.len() >= max {
            self.sweep(now);
        }
        let mut shard = self.lock(shard);
        // Asked again: the lock was open in between.
        if shard.used.contains(&name) {
            return Err(NotNew::Used);
        }
        let share = (max / SHARE_OF_A_KEY).max(1);
        let owned = shard.of_keys.get(&owner).copied().unwrap_or(0);
        if self.len() >= max || owned >= share {
            return Err(NotNew::Full);
        }
        // Read under the lock: whoever lengthens it comes to this shard before, or after.
        let until = issued.plus(Duration::from_secs(self.life.load(Ordering::Acquire)));
        shard.used.insert(name);
        shard.of_keys.insert(owner, owned + 1);
        shard.ending.entry(until.secs()).or_default().push((name, owner));
        self.count.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Whether the proof `id` of `key` was used.
    #[must_use]
    pub fn is_used(&self, key: &str, id: &str) -> bool {
        let (shard, _, name) = self.place(key, id);
        self.lock(shard).used.contains(&name)
    }

    /// Forgets those that are too old to be honoured. To be called now and then; what is used does it for
    /// its own part.
    pub fn sweep(&self, now: Timestamp) {
        for place in 0..SHARDS {
            self.forget(&mut self.lock(place), now);
        }
    }

    fn forget(&self, shard: &mut Shard, now: Timestamp) {
        while let Some(first) = shard.ending.first_entry() {
            // Whole seconds: one is kept until the second after the one it ends in has begun.
            if *first.key() >= now.secs() {
                break;
            }
            let ended = first.remove();
            self.count.fetch_sub(ended.len(), Ordering::Relaxed);
            for (name, owner) in ended {
                shard.used.remove(&name);
                if let Entry::Occupied(mut owned) = shard.of_keys.entry(owner) {
                    *owned.get_mut() -= 1;
                    if *owned.get() == 0 {
                        owned.remove();
                    }
                }
            }
        }
    }

    /// Its shard, and the digests of its key and of key and id.
    fn place(&self, key: &str, id: &str) -> (usize, u64, u128) {
        let mut hasher = SipHasher13::new_with_keys(self.secret.0, self.secret.1);
        // A thumbprint has one length, so the two do not run together.
        hasher.write(key.as_bytes());
        let owner = hasher.finish();
        hasher.write(id.as_bytes());
        (owner as usize % SHARDS, owner, hasher.finish128().as_u128())
    }

    fn lock(&self, place: usize) -> MutexGuard<'_, Shard> {
        // A panic elsewhere leaves nothing half done that would let a proof in twice.
        self.shards[place % SHARDS].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn whole_seconds(life: Duration) -> u64 {
    life.as_secs() + u64::from(life.subsec_nanos() > 0)
}

impl std::fmt::Debug for Replays {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Replays").field("count", &self.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIFE: Duration = Duration::from_secs(60);
    const NOW: Timestamp = Timestamp::from_secs(1_000);

    fn at(secs: i64) -> Timestamp {
        Timestamp::from_secs(1_000 + secs)
    }

    #[test]
    fn a_proof_is_new_once_for_its_key_until_it_is_too_old() {
        let replays = Replays::new(100, LIFE, NOW);
        assert_eq!(replays.take("k1", "a", NOW, NOW), Ok(()));
        for secs in [0, 30, 60] {
            assert_eq!(replays.take("k1", "a", NOW, at(secs)), Err(NotNew::Used), "after {secs} s");
        }
        assert!(replays.is_used("k1", "a") && !replays.is_used("k2", "a"));
        assert_eq!(replays.take("k2", "a", NOW, at(1)), Ok(()), "another key's is another proof");
        assert_eq!(replays.take("k1", "b", at(30), at(2)), Ok(()));
        assert_eq!(replays.len(), 3);
        replays.sweep(at(61));
        assert_eq!(replays.len(), 1);
        assert!(!replays.is_used("k1", "a") && replays.is_used("k1", "b"));
    }

    #[test]
    fn at_the_bound_nothing_is_forgotten_and_nothing_new_gets_in() {
        let replays = Replays::new(16, LIFE, NOW);
        for key in 0..8 {
            for id in ["a", "b"] {
                assert_eq!(replays.take(&format!("k{key}"), id, NOW, NOW), Ok(()), "{key} {id}");
            }
            assert_eq!(replays.take(&format!("k{key}"), "c", NOW, NOW), Err(NotNew::Full), "an eighth for each");
        }
        assert_eq!(replays.take("k9", "a", NOW, at(60)), Err(NotNew::Full));
        assert_eq!(replays.take("k1", "a", NOW, at(60)), Err(NotNew::Used));
        assert_eq!(replays.take("k9", "a", at(60), at(61)), Ok(()), "there is room once they are too old");
        replays.sweep(at(61));
        assert_eq!(replays.len(), 1);
        replays.set_max(0);
        assert_eq!(replays.take("k9", "b", at(60), at(61)), Err(NotNew::Full));
    }

    #[test]
    fn proofs_that_become_good_for_longer_are_remembered_for_longer() {
        let replays = Replays::new(100, LIFE, Timestamp::MIN);
        assert_eq!(replays.take("k1", "a", NOW, NOW), Ok(()));
        replays.outlive(10 * LIFE, at(50));
        // What may have been forgotten by then is not honoured, and everything later is known.
        assert_eq!(replays.since(), at(-9));
        for secs in [61, 300, 600] {
            replays.sweep(at(secs));
            assert_eq!(replays.take("k1", "a", NOW, at(secs)), Err(NotNew::Used), "after {secs} s");
        }
        // Shorter again: whoever was admitted by the longer life is still remembered.
        replays.outlive(LIFE, at(601));
        assert_eq!(replays.take("k1", "b", at(601), at(601)), Ok(()));
        assert_eq!((replays.since(), replays.take("k1", "b", at(601), at(900))), (at(-9), Err(NotNew::Used)));
        replays.sweep(at(1202));
        assert_eq!(replays.len(), 0);
    }

    #[test]
    fn of_many_at_once_one_is_first() {
        let replays = Replays::new(1_000, LIFE, NOW);
        let first: usize = std::thread::scope(|scope| {
            let ask = || (0..100).filter(|id| replays.take("k", &id.to_string(), NOW, NOW).is_ok()).count();
            let all: Vec<_> = (0..4).map(|_| scope.spawn(ask)).collect();
            all.into_iter().map(|it| it.join().unwrap()).sum()
        });
        assert_eq!((first, replays.len()), (100, 100));
    }
}
