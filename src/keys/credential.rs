//! What is known, at this moment, of subjects' credentials.
//!
//! The gate asks synchronously and is told one of three things: this is the credential, there is no such
//! subject, or nobody knows. Whatever is remembered was asked for (or pushed), has an end, and is dropped
//! at once when its source says so. An answer that was under way while its subject was dropped may be the
//! old one: it is not remembered, and whoever asked asks again.
//!
//! Only the derived key and a keyed fingerprint are kept, never what they were made from.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use quick_cache::sync::Cache;
use tokio::sync::watch;

use super::VerifyingKey;
use crate::time::Timestamp;

/// Look-ups of one issuer under way at once. At the bound a further subject is "cannot be looked up":
/// a flood of made-up subjects must not become a flood at the user database.
pub const FLIGHTS_MAX: usize = 256;

/// How many subjects that do not exist are remembered, as a share of those that do: a cache of their own,
/// so that made-up subjects push out none but each other.
const UNKNOWN_SHARE: usize = 8;

/// For how long an answer is believed while nobody would tell us of a change. Long enough for the request
/// that asked, and shorter than the second within which a change must count.
pub const DEAF_TTL: Duration = Duration::from_millis(500);

/// How far the clock may be set back before what was remembered is no longer believed.
const CLOCK_BACK: Duration = Duration::from_secs(2);

/// The current credential of one subject.
#[derive(Clone, Debug)]
pub struct Credential {
    /// The key that verifies the subject's tokens, for issuers whose keys are per subject.
    pub key: Option<Arc<VerifyingKey>>,
    /// What changes whenever the credential does.
    pub fingerprint: Box<str>,
}

/// What the gate is told of a subject.
#[derive(Clone, Debug)]
pub enum Known {
    /// This is its credential.
    Current(Arc<Credential>),
    /// There is no such subject.
    Unknown,
    /// Nothing is known: it must be looked up.
    Absent,
}

/// For how long answers are believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifetimes {
    /// A credential.
    pub known: Duration,
    /// That there is no such subject.
    pub unknown: Duration,
}

/// The end of a look-up, for those who wait: whether it succeeded.
pub(super) type Landed = watch::Receiver<Option<bool>>;

/// What a look-up is to whoever begins or joins it.
pub(super) enum Boarding {
    /// It is under way already.
    Joined(Landed),
    /// It is to be started, and its end announced here.
    Begun(watch::Sender<Option<bool>>, Landed),
    /// Too many are under way.
    Full,
}

/// What is remembered of one subject's credential.
#[derive(Clone)]
struct Entry<T> {
    value: T,
    asked_at: Timestamp,
    until: Timestamp,
}

impl<T> Entry<T> {
    /// Whether it still counts. A clock that was set back would make it count for longer than it may.
    fn holds(&self, now: Timestamp) -> bool {
        now < self.until && now.plus(CLOCK_BACK) >= self.asked_at
    }
}

/// The credentials of one issuer's subjects, shared by all threads.
pub(super) struct CredentialCache {
    lifetimes: Lifetimes,
    known: Cache<Box<str>, Entry<Arc<Credential>>, quick_cache::UnitWeighter, foldhash::quality::RandomState>,
    unknown: Cache<Box<str>, Entry<()>, quick_cache::UnitWeighter, foldhash::quality::RandomState>,
    /// Held while anything is put in or dropped, so that no answer slips in behind a drop.
    flights: Mutex<Flights>,
}

struct Flights {
    under_way: HashMap<Box<str>, Flight>,
    /// Whether changes would be heard of, if that was asked for.
    deaf: bool,
}

struct Flight {
    landed: Landed,
    /// Something happened to its subject since it began.
    overtaken: bool,
}

impl CredentialCache {
    /// A cache for `max_entries` subjects, and some that do not exist. It begins `deaf` when there is a
    /// channel that is not listened to yet.
    pub(super) fn new(max_entries: usize, lifetimes: Lifetimes, deaf: bool) -> Self {
        let cache =
            |items: usize| (items, items as u64, quick_cache::UnitWeighter, foldhash::quality::RandomState::default());
        let (items, weight, weighter, hasher) = cache(max_entries);
        let known = Cache::with(items, weight, weighter, hasher, quick_cache::sync::DefaultLifecycle::default());
        let (items, weight, weighter, hasher) = cache((max_entries / UNKNOWN_SHARE).max(64));
        let unknown = Cache::with(items, weight, weighter, hasher, quick_cache::sync::DefaultLifecycle::default());
        let flights = Mutex::new(Flights { under_way: HashMap::new(), deaf });
        Self { lifetimes, known, unknown, flights }
    }

    /// What is known of `subject` at `now`.
    pub(super) fn find(&self, subject: &str, now: Timestamp) -> Known {
        if let Some(entry) = self.known.get(subject).filter(|entry| entry.holds(now)) {
            return Known::Current(entry.value);
        }
        match self.unknown.get(subject).filter(|entry| entry.holds(now)) {
            Some(_) => Known::Unknown,
            None => Known::Absent,
        }
    }

    /// Begins a look-up, or joins the one under way.
    pub(super) fn board(&self, subject: &str) -> Boarding {
        let mut flights = self.flights();
        if let Some(flight) = flights.under_way.get(subject) {
            return Boarding::Joined(flight.landed.clone());
        }
        if flights.under_way.len() >= FLIGHTS_MAX {
            return Boarding::Full;
        }
        let (announce, landed) = watch::channel(None);
        flights.under_way.insert(subject.into(), Flight { landed: landed.clone(), overtaken: false });
        Boarding::Begun(announce, landed)
    }

    /// Remembers what the source, which was asked at `asked_at`, said by `now`, unless its subject was
    /// dropped in the meantime: `false` then, and it must be asked again.
    ///
    /// A lifetime begins with the question, for that is when the answer was true; but those who waited for
    /// it find it, however long it took.
    pub(super) fn land(
        &self,
        subject: &str,
        answer: Option<Credential>,
        (asked_at, now): (Timestamp, Timestamp),
    ) -> bool {
        let mut flights = self.flights();
        let deaf = flights.deaf;
        if let Some(flight) = flights.under_way.get_mut(subject)
            && std::mem::take(&mut flight.overtaken)
        {
            return false;
        }
        let moment = now.plus(DEAF_TTL);
        let until = |lifetime: Duration| if deaf { moment } else { asked_at.plus(lifetime).max(moment) };
        match answer {
            Some(credential) => {
                self.unknown.remove(subject);
                let until = until(self.lifetimes.known);
                self.known.insert(subject.into(), Entry { value: Arc::new(credential), asked_at, until });
            }
            None => {
                self.known.remove(subject);
                let until = until(self.lifetimes.unknown);
                self.unknown.insert(subject.into(), Entry { value: (), asked_at, until });
            }
        }
        true
    }

    /// Ends a look-up, however it went.
    pub(super) fn leave(&self, subject: &str) {
        self.flights().under_way.remove(subject);
    }

    /// Drops what is known of one subject, and what is being asked about it.
    pub(super) fn forget(&self, subject: &str) {
        let mut flights = self.flights();
        if let Some(flight) = flights.under_way.get_mut(subject) {
            flight.overtaken = true;
        }
        self.known.remove(subject);
        self.unknown.remove(subject);
    }

    /// Drops everything, and says whether changes will be heard of from now on.
    pub(super) fn forget_all(&self, deaf: bool) {
        let mut flights = self.flights();
        flights.deaf = deaf;
        self.forget_entries(&mut flights);
    }

    /// Drops everything, because the source says that everything may have changed.
    pub(super) fn forget_known(&self) {
        let mut flights = self.flights();
        self.forget_entries(&mut flights);
    }

    fn forget_entries(&self, flights: &mut Flights) {
        flights.under_way.values_mut().for_each(|flight| flight.overtaken = true);
        self.known.clear();
        self.unknown.clear();
    }

    fn flights(&self) -> MutexGuard<'_, Flights> {
        // Nothing in here panics halfway through a change.
        self.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for CredentialCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CredentialCache")
            .field("known", &self.known.len())
            .field("unknown", &self.unknown.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIFETIMES: Lifetimes = Lifetimes { known: Duration::from_secs(30), unknown: Duration::from_secs(5) };

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millis(1_700_000_000_000 + millis)
    }

    fn credential(fingerprint: &str) -> Option<Credential> {
        Some(Credential { key: None, fingerprint: fingerprint.into() })
    }

    fn told(cache: &CredentialCache, subject: &str, now: Timestamp) -> String {
        match cache.find(subject, now) {
            Known::Current(credential) => credential.fingerprint.to_string(),
            Known::Unknown => "unknown".to_owned(),
            Known::Absent => "absent".to_owned(),
        }
    }

    #[test]
    fn an_answer_is_believed_for_its_lifetime_and_not_when_the_clock_was_set_back() {
        let cache = CredentialCache::new(100, LIFETIMES, false);
        assert_eq!(told(&cache, "ada", at(0)), "absent");
        assert!(cache.land("ada", credential("one"), (at(0), at(0))));
        assert!(cache.land("bob", None, (at(0), at(0))));
        for (millis, ada, bob) in [
            (-2_001, "absent", "absent"),
            (-2_000, "one", "unknown"),
            (0, "one", "unknown"),
            (4_999, "one", "unknown"),
            (5_000, "one", "absent"),
            (29_999, "one", "absent"),
            (30_000, "absent", "absent"),
        ] {
            assert_eq!(told(&cache, "ada", at(millis)), ada, "after {millis} ms");
            assert_eq!(told(&cache, "bob", at(millis)), bob, "after {millis} ms");
        }
    }

    #[test]
    fn the_last_answer_counts_whichever_it_was() {
        let cache = CredentialCache::new(100, LIFETIMES, false);
        for (answer, wanted) in
            [(credential("one"), "one"), (None, "unknown"), (credential("two"), "two"), (credential("three"), "three")]
        {
            assert!(cache.land("ada", answer, (at(0), at(0))));
            assert_eq!(told(&cache, "ada", at(0)), wanted);
        }
    }

    #[test]
    fn an_answer_that_was_overtaken_by_a_drop_is_not_remembered() {
        let drops: [fn(&CredentialCache); 4] = [
            |cache| cache.forget("ada"),
            |cache| cache.forget_all(false),
            |cache| cache.forget_all(true),
            CredentialCache::forget_known,
        ];
        for (index, drop_it) in drops.into_iter().enumerate() {
            let cache = CredentialCache::new(100, LIFETIMES, false);
            assert!(matches!(cache.board("ada"), Boarding::Begun(..)));
            drop_it(&cache);
            assert!(!cache.land("ada", credential("old"), (at(0), at(0))), "drop {index}");
            assert_eq!(told(&cache, "ada", at(0)), "absent", "drop {index}");
            // The second question was asked after the drop.
            assert!(cache.land("ada", credential("new"), (at(1), at(1))), "drop {index}");
            assert_eq!(told(&cache, "ada", at(1)), "new", "drop {index}");
        }
        let cache = CredentialCache::new(100, LIFETIMES, false);
        assert!(matches!(cache.board("ada"), Boarding::Begun(..)));
        cache.forget("bob");
        assert!(cache.land("ada", credential("one"), (at(0), at(0))), "another's drop is none of its business");
    }

    #[test]
    fn a_drop_ends_what_is_known_and_what_is_known_not_to_be() {
        let cache = CredentialCache::new(100, LIFETIMES, false);
        let fill = || {
            assert!(cache.land("ada", credential("one"), (at(0), at(0))) && cache.land("bob", None, (at(0), at(0))));
            assert!(cache.land("eve", credential("two"), (at(0), at(0))));
        };
        fill();
        cache.forget("ada");
        cache.forget("bob");
        assert_eq!(["ada", "bob", "eve"].map(|it| told(&cache, it, at(0))), ["absent", "absent", "two"]);
        fill();
        cache.forget_all(false);
        assert_eq!(["ada", "bob", "eve"].map(|it| told(&cache, it, at(0))), ["absent"; 3]);
    }

    #[test]
    fn what_is_learned_while_nobody_would_tell_of_a_change_is_believed_for_a_moment() {
        let cache = CredentialCache::new(100, LIFETIMES, true);
        assert!(cache.land("ada", credential("one"), (at(0), at(0))));
        assert_eq!(told(&cache, "ada", at(499)), "one");
        assert_eq!(told(&cache, "ada", at(500)), "absent");
        cache.forget_all(false);
        assert!(cache.land("ada", credential("two"), (at(500), at(500))));
        assert_eq!(told(&cache, "ada", at(29_000)), "two");
        cache.forget_all(true);
        assert_eq!(told(&cache, "ada", at(29_000)), "absent");
    }

    #[test]
    fn an_answer_that_took_longer_than_it_lives_is_found_by_those_who_waited() {
        for deaf in [false, true] {
            let cache = CredentialCache::new(100, LIFETIMES, deaf);
            assert!(cache.land("ada", credential("one"), (at(0), at(40_000))));
            assert_eq!(told(&cache, "ada", at(40_499)), "one", "deaf: {deaf}");
            assert_eq!(told(&cache, "ada", at(40_500)), "absent", "deaf: {deaf}");
        }
    }

    #[test]
    fn one_look_up_a_subject_and_not_too_many_at_once() {
        let cache = CredentialCache::new(100, LIFETIMES, false);
        let Boarding::Begun(announce, _) = cache.board("0") else { panic!("it is the first") };
        let Boarding::Joined(landed) = cache.board("0") else { panic!("it is under way") };
        announce.send_replace(Some(true));
        assert_eq!(*landed.borrow(), Some(true));
        for number in 1..FLIGHTS_MAX {
            assert!(matches!(cache.board(&number.to_string()), Boarding::Begun(..)), "{number}");
        }
        assert!(matches!(cache.board("more"), Boarding::Full));
        assert!(matches!(cache.board("7"), Boarding::Joined(_)), "whoever waits already may be joined");
        cache.leave("7");
        assert!(matches!(cache.board("more"), Boarding::Begun(..)));
    }

    #[test]
    fn made_up_subjects_push_out_nobody_who_exists() {
        let cache = CredentialCache::new(1_000, LIFETIMES, false);
        for number in 0..200 {
            assert!(cache.land(&format!("user-{number}"), credential("one"), (at(0), at(0))));
        }
        for number in 0..100_000 {
            assert!(cache.land(&format!("made-up-{number}"), None, (at(0), at(0))));
        }
        let kept = (0..200).filter(|number| told(&cache, &format!("user-{number}"), at(0)) == "one").count();
        assert_eq!(kept, 200);
        assert!(cache.unknown.len() <= 2 * 1_000 / UNKNOWN_SHARE, "{cache:?}");
    }
}
