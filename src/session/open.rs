//! One open session: what is known of it, and what changes while it is used.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::device::Device;
use super::mint::Minted;
use super::refresh::Family;
use super::slide::Current;
use crate::time::Timestamp;
use crate::token::Lineage;

/// How a session was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum How {
    /// With a token of another issuer.
    Exchange,
    /// By a login service.
    Grant,
}

/// A session that is open as far as this node knows.
///
/// Shared by the registry and by every worker that remembers one of its tokens, so that a request
/// notes its use with one store and asks nobody.
#[derive(Debug)]
pub struct Open {
    /// `sid`.
    pub session: Box<str>,
    /// `sub`, prefix included.
    pub subject: Box<str>,
    /// `azp`, else `client_id`.
    pub client: Option<Box<str>>,
    /// When its holder authenticated.
    pub authenticated: Option<Timestamp>,
    /// The thumbprint of the key that signed the first token seen of it.
    pub key: Box<str>,
    /// Where it comes from.
    pub lineage: Lineage,
    /// When it was opened here, or first seen here.
    pub opened: Timestamp,
    /// From where.
    pub device: Device,
    /// When one of its tokens was last admitted, in milliseconds.
    last_seen: AtomicI64,
    /// The latest instant at which any token of it may be alive, in milliseconds.
    expires: AtomicI64,
    /// The latest `exp` of any token of it that is known, in milliseconds.
    tokens_expire: AtomicI64,
    /// Whether somebody is ending it.
    ending: AtomicBool,
    rotation: Mutex<Rotation>,
    written: Mutex<Written>,
}

/// Which of its tokens have been replaced, for `rotation: strict`. Tokens of one session are ordered by
/// their `exp`: a successor's is always later.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Rotation {
    /// Tokens that expire before this were replaced for good.
    gone: Timestamp,
    /// Tokens first used within the grace: when each expires, and when it was first used. Oldest first.
    recent: Vec<(Timestamp, Timestamp)>,
}

/// First uses remembered within one grace. At the bound one of them is forgotten, the oldest but one:
/// what it replaced may come for a little longer than it should.
const RECENT_MAX: usize = 32;

/// What the store has of it.
#[derive(Clone, Debug, Default)]
pub(super) struct Written {
    /// The revision; 0: nothing.
    pub(super) revision: u64,
    pub(super) last_seen: Timestamp,
    pub(super) expires: Timestamp,
    rotation: Rotation,
}

/// What the presented token is among those of its session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// The newest, or replaced so lately that it may have been on its way.
    Current,
    /// Replaced too long ago: it, or its successor, is in the wrong hands.
    Reused,
}

/// What is stored of a session.
#[derive(Serialize, Deserialize)]
struct Stored {
    sub: Box<str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    client: Option<Box<str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    auth_time: Option<Timestamp>,
    key: Box<str>,
    /// `orig_iat`, `orig`, `keys`, as in its tokens.
    lineage: Map<String, Value>,
    opened: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    network: Option<Box<str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    agent: Option<Box<str>>,
    seen: Timestamp,
    expires: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rotation: Option<Rotation>,
}

/// Why a stored session was not read. Read as "failed to read a session: {self}".
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// Not what was written.
    #[error("it is not what was written")]
    Malformed(#[source] serde_json::Error),
    /// It does not say where it comes from.
    #[error(transparent)]
    Lineage(#[from] crate::token::LineageError),
}

impl Open {
    /// The session that `minted` opens at `now`.
    #[must_use]
    pub fn minted(minted: &Minted, device: Device, now: Timestamp) -> Self {
        Self {
            session: minted.session.as_str().into(),
            subject: minted.subject.as_str().into(),
            client: minted.client.as_deref().map(Into::into),
            authenticated: minted.authenticated,
            key: minted.key_thumbprint.as_ref().into(),
            lineage: minted.lineage.clone(),
            opened: now,
            device,
            last_seen: AtomicI64::new(now.millis()),
            expires: AtomicI64::new(minted.expires.millis()),
            tokens_expire: AtomicI64::new(minted.expires.millis()),
            ending: AtomicBool::new(false),
            rotation: Mutex::default(),
            written: Mutex::default(),
        }
    }

    /// The session of a token that was admitted at `now` and is not known here: opened elsewhere, or
    /// forgotten. `None` for a token that names none.
    #[must_use]
    pub fn met(current: &Current<'_>, device: Device, now: Timestamp) -> Option<Self> {
        Some(Self {
            session: current.claims.session.as_deref()?.into(),
            subject: current.claims.subject.as_deref()?.into(),
            client: current.claims.client.as_deref().map(Into::into),
            authenticated: current.authenticated(),
            key: current.key_thumbprint.into(),
            lineage: current.lineage.clone(),
            opened: now,
            device,
            last_seen: AtomicI64::new(now.millis()),
            expires: AtomicI64::new(current.claims.expires.millis()),
            tokens_expire: AtomicI64::new(current.claims.expires.millis()),
            ending: AtomicBool::new(false),
            rotation: Mutex::default(),
            written: Mutex::default(),
        })
    }

    /// The session of a refresh token that came at `now`.
    #[must_use]
    pub fn of_family(family: &Family, device: Device, now: Timestamp) -> Self {
        Self {
            session: family.session.clone(),
            subject: family.subject.as_str().into(),
            client: family.client.as_deref().map(Into::into),
            authenticated: family.authenticated,
            key: family.key.as_str().into(),
            lineage: family.lineage.clone(),
            opened: family.opened,
            device,
            last_seen: AtomicI64::new(now.millis()),
            expires: AtomicI64::new(family.ends.millis()),
            tokens_expire: AtomicI64::new(0),
            ending: AtomicBool::new(false),
            rotation: Mutex::default(),
            written: Mutex::default(),
        }
    }

    /// How it was opened.
    #[must_use]
    pub const fn how(&self) -> How {
        if self.lineage.origin.is_some() { How::Exchange } else { How::Grant }
    }

    /// When one of its tokens was last admitted.
    #[must_use]
    pub fn last_seen(&self) -> Timestamp {
        Timestamp::from_millis(self.last_seen.load(Ordering::Relaxed))
    }

    /// The latest instant at which any token of it may be alive.
    #[must_use]
    pub fn expires(&self) -> Timestamp {
        Timestamp::from_millis(self.expires.load(Ordering::Relaxed))
    }

    /// Notes that a token of it was admitted at `now`. On the path of every request: one load, and
    /// one store a second, so that workers do not take the line from each other for each request.
    pub fn touch(&self, now: Timestamp) {
        let seen = self.last_seen.load(Ordering::Relaxed);
        if now.millis() >= seen.saturating_add(1000) {
            self.last_seen.store(now.millis(), Ordering::Relaxed);
        }
    }

    /// The latest `exp` of any token of it that this node has seen since it started: until then what its
    /// tokens have opened may stay open. A refresh token prolongs that only when it is used.
    #[must_use]
    pub fn tokens_expire(&self) -> Timestamp {
        Timestamp::from_millis(self.tokens_expire.load(Ordering::Relaxed))
    }

    /// Notes that a token was handed out that lives until `expires`.
    pub fn prolong(&self, expires: Timestamp) {
        self.tokens_expire.fetch_max(expires.millis(), Ordering::Relaxed);
        self.may_live_until(expires);
    }

    /// Notes that it may live until `ends`: something that brings a token was handed out.
    pub fn may_live_until(&self, ends: Timestamp) {
        self.expires.fetch_max(ends.millis(), Ordering::Relaxed);
    }

    /// Notes what is known of it by `other`.
    pub(super) fn learn(&self, other: &Self) {
        self.prolong(other.tokens_expire());
        self.may_live_until(other.expires());
    }

    /// Whether whoever asks is the one to end it: one theft is one line of the audit log.
    #[must_use]
    pub fn begin_ending(&self) -> bool {
        !self.ending.swap(true, Ordering::Relaxed)
    }

    /// It was not ended after all.
    pub fn lives_on(&self) {
        self.ending.store(false, Ordering::Relaxed);
    }

    /// Whether nothing of it can be alive.
    #[must_use]
    pub fn is_over(&self, now: Timestamp) -> bool {
        self.expires() <= now
    }

    /// Notes that the token that expires at `expires` is used at `now`, and says what it is: with
    /// `rotation: strict` it may come until `grace` after a newer one was first used.
    #[must_use]
    pub fn uses(&self, expires: Timestamp, now: Timestamp, grace: Duration) -> Use {
        lock(&self.rotation).uses(expires, now, grace)
    }

    /// The `exp` of the newest token that has been used, as far as that is followed.
    #[must_use]
    pub fn newest_used(&self) -> Timestamp {
        lock(&self.rotation).newest()
    }

    /// What the store is to have of it, if it has something older than `grain`: body and state.
    pub(super) fn unwritten(&self, grain: Duration) -> Option<(String, Written)> {
        let written = lock(&self.written).clone();
        let rotation = lock(&self.rotation).clone();
        let (last_seen, expires) = (self.last_seen(), self.expires());
        let state = Written { revision: written.revision, last_seen, expires, rotation };
        let grown = expires > written.expires || state.rotation.newest() != written.rotation.newest();
        let fresher = state.last_seen > written.last_seen.plus(grain);
        if written.revision != 0 && !grown && !fresher {
            return None;
        }
        let mut lineage = Map::new();
        self.lineage.write(&mut lineage);
        let stored = Stored {
            sub: self.subject.clone(),
            client: self.client.clone(),
            auth_time: self.authenticated,
            key: self.key.clone(),
            lineage,
            opened: self.opened,
            network: self.device.network.clone(),
            agent: self.device.agent.clone(),
            seen: state.last_seen,
            expires: state.expires,
            rotation: (state.rotation != Rotation::default()).then(|| state.rotation.clone()),
        };
        // A struct of texts and times cannot fail to be written.
        serde_json::to_string(&stored).ok().map(|body| (body, state))
    }

    /// Notes that the store has `state` of it.
    pub(super) fn set_written(&self, state: Written) {
        *lock(&self.written) = state;
    }

    /// Notes that the store has a revision that this node has not written.
    pub(super) fn set_revision(&self, revision: u64) {
        let mut written = lock(&self.written);
        written.revision = written.revision.max(revision);
    }

    /// What is forgotten first at a bound: what is over, then what was unused for longest.
    pub(super) fn warmth(&self, now: Timestamp) -> (bool, Timestamp) {
        (!self.is_over(now), self.last_seen())
    }

    /// The session `session` as it was stored with `revision`.
    pub(super) fn restored(session: &str, body: &str, revision: u64) -> Result<Self, RestoreError> {
        let stored: Stored = serde_json::from_str(body).map_err(RestoreError::Malformed)?;
        let rotation = stored.rotation.unwrap_or_default();
        Ok(Self {
            session: session.into(),
            subject: stored.sub,
            client: stored.client,
            authenticated: stored.auth_time,
            key: stored.key,
            lineage: Lineage::read(&stored.lineage)?,
            opened: stored.opened,
            device: Device::stored(stored.network.as_deref(), stored.agent.as_deref()),
            last_seen: AtomicI64::new(stored.seen.millis()),
            expires: AtomicI64::new(stored.expires.millis()),
            tokens_expire: AtomicI64::new(0),
            ending: AtomicBool::new(false),
            rotation: Mutex::new(rotation.clone()),
            written: Mutex::new(Written { revision, last_seen: stored.seen, expires: stored.expires, rotation }),
        })
    }
}

impl Rotation {
    fn uses(&mut self, expires: Timestamp, now: Timestamp, grace: Duration) -> Use {
        let past = self.recent.iter().take_while(|(_, since)| now > since.plus(grace)).count();
        for (expires, _) in self.recent.drain(..past) {
            self.gone = self.gone.max(expires);
        }
        if expires < self.gone {
            return Use::Reused;
        }
        if expires > self.newest() {
            if self.recent.len() == RECENT_MAX {
                self.recent.remove(1);
            }
            self.recent.push((expires, now));
        }
        Use::Current
    }

    fn newest(&self) -> Timestamp {
        self.recent.last().map_or(self.gone, |(expires, _)| *expires)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::fixture::{NOW, after, foreign, honour, parent, sessions};
    use super::*;

    const GRACE: Duration = Duration::from_secs(10);

    fn open() -> Open {
        let (_folder, sessions) = sessions();
        let claims = foreign(json!({ "azp": "web", "sid": "idp", "auth_time": NOW.secs() - 5 }));
        let minted = sessions.exchange(parent(&claims), NOW).unwrap();
        let device = Device { network: Some("203.0.113.0/24".into()), agent: Some("curl".into()) };
        Open::minted(&minted, device, NOW)
    }

    #[test]
    fn a_session_survives_being_stored() {
        let open = open();
        assert_eq!(open.uses(after(60), after(3), GRACE), Use::Current);
        open.touch(after(5));
        open.prolong(after(90));
        let (body, state) = open.unwritten(Duration::ZERO).unwrap();
        let read = Open::restored(&open.session, &body, 7).unwrap();
        assert_eq!((&read.session, &read.subject, &read.client), (&open.session, &open.subject, &open.client));
        assert_eq!((&read.lineage, &read.key, &read.device), (&open.lineage, &open.key, &open.device));
        assert_eq!((read.authenticated, read.opened), (open.authenticated, open.opened));
        assert_eq!((read.last_seen(), read.expires(), read.newest_used()), (after(5), after(90), after(60)));
        assert_eq!(read.how(), How::Exchange);
        assert!(read.unwritten(Duration::ZERO).is_none(), "the store has it");
        assert!(open.unwritten(Duration::ZERO).is_some(), "not before it is said to be written");
        open.set_written(Written { revision: 1, ..state });
        assert!(open.unwritten(Duration::ZERO).is_none());
    }

    #[test]
    fn what_is_not_a_session_is_not_read() {
        let (body, _) = open().unwritten(Duration::ZERO).unwrap();
        let mut without: Map<String, Value> = serde_json::from_str(&body).unwrap();
        without.shift_remove("lineage");
        let nowhere = json!({ "lineage": {}, "sub": "a", "key": "k", "opened": NOW, "seen": NOW, "expires": NOW });
        for (body, is_lineage) in [
            ("", false),
            ("[]", false),
            (serde_json::to_string(&without).unwrap().as_str(), false),
            (nowhere.to_string().as_str(), true),
        ] {
            let error = Open::restored("s", body, 1).unwrap_err();
            assert_eq!(matches!(error, RestoreError::Lineage(_)), is_lineage, "{body}: {error}");
        }
    }

    #[test]
    fn being_used_is_written_now_and_then_and_growing_at_once() {
        let open = open();
        let minute = Duration::from_secs(60);
        let (_, state) = open.unwritten(minute).unwrap();
        open.set_written(Written { revision: 1, ..state });
        open.touch(after(60));
        assert!(open.unwritten(minute).is_none());
        open.touch(after(61));
        let (_, state) = open.unwritten(minute).unwrap();
        open.set_written(Written { revision: 2, ..state });
        assert!(open.unwritten(minute).is_none());
        open.prolong(after(120));
        assert!(open.unwritten(minute).is_some());
    }

    #[test]
    fn last_seen_never_goes_back() {
        let open = open();
        for (secs, seen) in [(5, 5), (3, 5), (6, 6)] {
            open.touch(after(secs));
            assert_eq!(open.last_seen(), after(seen));
        }
        open.touch(after(6).plus(Duration::from_millis(999)));
        assert_eq!(open.last_seen(), after(6), "within a second nothing is written");
    }

    #[test]
    fn a_token_may_come_until_the_grace_after_its_successors_first_use_is_over() {
        let open = open();
        let (first, second, third) = (after(60), after(90), after(120));
        assert_eq!(open.uses(first, after(1), GRACE), Use::Current);
        assert_eq!(open.uses(first, after(59), GRACE), Use::Current, "a successor that nobody uses ends nothing");
        assert_eq!(open.uses(second, after(60), GRACE), Use::Current);
        assert_eq!(open.uses(first, after(70), GRACE), Use::Current, "it may have been on its way");
        assert_eq!(open.uses(second, after(200), GRACE), Use::Current, "the newest may always come");
        assert_eq!(open.uses(first, after(71), GRACE), Use::Reused);
        assert_eq!(open.uses(third, after(100), GRACE), Use::Current);
        assert_eq!(open.uses(first, after(105), GRACE), Use::Reused, "a later successor does not bring it back");
        assert_eq!(open.uses(second, after(110), GRACE), Use::Current);
        assert_eq!(open.uses(second, after(111), GRACE), Use::Reused);
        assert_eq!(open.newest_used(), third);
    }

    #[test]
    fn tokens_that_are_replaced_faster_than_the_grace_are_each_judged_by_their_own_successor() {
        let open = open();
        for n in 0..200_u64 {
            assert_eq!(open.uses(after(60 + n), after(n), GRACE), Use::Current, "token {n}");
            // Its successor was first used one second after it.
            if let Some(old) = n.checked_sub(11) {
                assert_eq!(open.uses(after(60 + old), after(n), GRACE), Use::Current, "token {old} at second {n}");
            }
            if let Some(old) = n.checked_sub(12) {
                assert_eq!(open.uses(after(60 + old), after(n), GRACE), Use::Reused, "token {old} at second {n}");
            }
        }
        let bounded = Rotation::default();
        let mut bounded = bounded;
        for n in 0..1_000 {
            assert_eq!(bounded.uses(after(60 + n), NOW, GRACE), Use::Current);
        }
        assert_eq!((bounded.recent.len(), bounded.newest()), (RECENT_MAX, after(1_059)));
        assert_eq!(bounded.uses(after(60), after(11), GRACE), Use::Reused);
    }

    #[test]
    fn a_session_met_is_the_one_that_was_opened() {
        let (_folder, sessions) = sessions();
        let minted = sessions.exchange(parent(&foreign(json!({ "azp": "web" }))), NOW).unwrap();
        let opened = Open::minted(&minted, Device::default(), NOW);
        let token = honour(&sessions, minted.token(), NOW);
        let met = Open::met(&token.current(), Device::default(), after(9)).unwrap();
        assert_eq!((&met.session, &met.subject, &met.client), (&opened.session, &opened.subject, &opened.client));
        assert_eq!((&met.lineage, &met.key, met.authenticated), (&opened.lineage, &opened.key, opened.authenticated));
        assert_eq!((met.expires(), met.opened), (opened.expires(), after(9)));
        assert!(!met.is_over(after(59)) && met.is_over(after(60)));
    }
}
