//! Gateway sessions: how one is opened, slides while it is used, and reaches its client.
//!
//! The gateway is an issuer of its own. Everything it mints obeys the origin rule: a token carries
//! `orig_iat`, `auth_time` and, when another issuer's token opened its session, `orig`, and passes them
//! on unchanged, so that no reissue and no exchange moves anybody past a revocation. A chain of tokens
//! ends at `orig_iat` + `absolute_timeout`, whatever happens in between.
//!
//! Nothing here judges standing, opens a connection or remembers a session: the caller has asked
//! [`crate::gate`] just before, and a session lives in its tokens. What is kept in memory is only what
//! was minted lately, so that one token has one successor. The one thing on disk is the folder of the
//! signing keys, which [`Sessions::open`], [`Sessions::rotate`] and [`Sessions::prune`] touch.

mod answer;
mod claims;
pub mod deliver;
mod device;
mod exchange;
mod folder;
mod grant;
mod mint;
mod open;
pub mod origin;
mod refresh;
mod registry;
mod ring;
mod slide;
mod successors;

#[cfg(test)]
mod fixture;
#[cfg(test)]
mod tests;

use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use aws_lc_rs::hmac;
use bytes::Bytes;
use serde_json::Value;

pub use answer::{DeviceAnswer, ExchangeAnswer, InCookies, RefreshAnswer, SessionAnswer};
pub use device::Device;
pub use exchange::{ExchangeError, Parent};
pub use folder::OpenError;
pub use grant::{Grant, GrantError};
pub use mint::{MintError, Minted, TYP};
pub use open::{How, Open, RestoreError, Use};
pub use refresh::{Families, Family, Judgement, Opener, RefreshError, RefreshToken, UnreadableFamily};
pub use registry::{Opening, PER_SUBJECT_MAX, Registry, Unwritten, Wanted};
pub use ring::{KeyInfo, KeyState};
pub use slide::Current;

use crate::config;
use crate::keys::KeySet;
use crate::time::Timestamp;
use crate::token::Policy;
use folder::{Contents, Folder, Stamp, Terms};
use ring::Ring;
use successors::{Counts, Successors};

/// Longest token minted, unless [`Sessions::with_token_bytes_max`] says otherwise: what the gateway
/// accepts by default.
const TOKEN_BYTES_MAX: usize = 8 * 1024;
/// How much longer than its tokens a key is kept, against a clock that was set back.
const PRUNE_MARGIN: Duration = Duration::from_secs(60);

/// The gateway as an issuer. Shared by all threads.
pub struct Sessions {
    config: config::Session,
    token_bytes_max: usize,
    folder: Folder,
    /// What session ids of exchanges are derived with.
    secret: hmac::Key,
    ring: ArcSwap<Ring>,
    /// What `ring` verifies with, where the gate reads it: never behind the key that signs.
    key_set: Arc<ArcSwap<KeySet>>,
    /// Held while the folder and then `ring` change, so that a later change is not undone by an earlier.
    changing: Mutex<()>,
    /// Of the marker, when the folder was last read.
    seen: Mutex<Option<Stamp>>,
    /// By session.
    exchanged: Successors,
    /// By the old token's name.
    slid: Successors,
    counts: Option<Counts>,
}

impl Sessions {
    /// Opens the key folder, making what is missing: the folder (mode 0700), a signing key, the session
    /// secret (each 0600). When the current key is not of the configured algorithm, one that is gets
    /// staged. Every key in the folder verifies.
    ///
    /// Reads and writes files; waits while another process does the same.
    ///
    /// # Errors
    /// When a file may be read by others, is damaged, or is missing though its fellows are there. Each
    /// error names the file and the way out.
    pub fn open(config: &config::Session, now: Timestamp) -> Result<Self, OpenError> {
        let (folder, contents, secret) = Folder::open(&config.keys_dir, key_terms(config), now)?;
        let seen = folder.stamp();
        let ring = Ring::new(contents)?;
        Ok(Self {
            key_set: Arc::new(ArcSwap::from_pointee(KeySet::from_keys(ring.verifying.clone()))),
            token_bytes_max: TOKEN_BYTES_MAX,
            folder,
            secret: hmac::Key::new(hmac::HMAC_SHA256, secret.expose()),
            ring: ArcSwap::from_pointee(ring),
            changing: Mutex::new(()),
            seen: Mutex::new(seen),
            exchanged: Successors::new(config.reissue_after_permille),
            slid: Successors::new(config.reissue_after_permille),
            counts: config.reissue_every.map(Counts::new),
            config: config.clone(),
        })
    }

    /// Whether a folder has signing keys: whether [`open`](Self::open) would not make the first.
    #[must_use]
    pub fn has_keys(folder: &Path) -> bool {
        Folder::is_begun(folder)
    }

    /// The same, minting no token longer than `bytes`: `token.max_bytes`, past which the gateway would
    /// refuse its own.
    #[must_use]
    pub fn with_token_bytes_max(self, bytes: usize) -> Self {
        Self { token_bytes_max: bytes, ..self }
    }

    /// The `iss` of what is minted.
    #[must_use]
    pub fn issuer(&self) -> &str {
        &self.config.issuer
    }

    /// The configuration it was opened with.
    #[must_use]
    pub fn config(&self) -> &config::Session {
        &self.config
    }

    /// When a session that began at `origin` ends, however much it is used.
    #[must_use]
    pub fn absolute_end(&self, origin: Timestamp) -> Timestamp {
        origin.plus(self.config.absolute_timeout)
    }

    /// What an own token must look like. The clock that judges is the one that minted, so there is no
    /// tolerance between them: a session ends when it says.
    #[must_use]
    pub fn policy(&self) -> Policy {
        let ring = self.ring.load();
        let mut algorithms = Vec::new();
        for key in &ring.infos {
            if !algorithms.contains(&key.algorithm) {
                algorithms.push(key.algorithm);
            }
        }
        // Both times are whole seconds, so a limit that is none is rounded up.
        let whole = Duration::from_secs(self.config.absolute_timeout.as_millis().div_ceil(1000) as u64);
        Policy {
            algorithms,
            types: vec![TYP.to_owned()],
            audiences: vec![self.config.audience.clone()],
            clock_skew: Duration::ZERO,
            max_lifetime: whole,
            require: ["sub", "sid", "jti", "orig_iat"].map(str::to_owned).to_vec(),
        }
    }

    /// The keys that verify own tokens, the signing one first; kept current by [`Self::rotate`] and
    /// [`Self::prune`].
    #[must_use]
    pub fn key_set(&self) -> Arc<ArcSwap<KeySet>> {
        Arc::clone(&self.key_set)
    }

    /// The same keys for the control plane.
    #[must_use]
    pub fn keys(&self) -> Vec<KeyInfo> {
        self.ring.load().infos.clone()
    }

    /// The public keys as a JWK set (RFC 7517 §5).
    #[must_use]
    pub fn jwks(&self) -> Value {
        self.ring.load().jwks.clone()
    }

    /// The same as text, prepared: the body of `/.well-known/jwks.json`.
    #[must_use]
    pub fn jwks_bytes(&self) -> Bytes {
        self.ring.load().jwks_bytes.clone()
    }

    /// Makes a new key, which is published at once and signs after `publish_before`, or now if
    /// `immediately`; the old one goes on verifying. Where one is staged already, that is the one. Tokens
    /// remembered from before are not handed out again. Reads and writes files.
    ///
    /// For one process a folder: another one that has it open goes on with its own key until it opens
    /// the folder again.
    ///
    /// # Errors
    /// As [`Self::open`]; the keys in force are then as they were.
    pub fn rotate(&self, now: Timestamp, immediately: bool) -> Result<KeyInfo, OpenError> {
        let mut terms = key_terms(&self.config);
        if immediately {
            terms.publish_before = Duration::ZERO;
        }
        self.change(|folder| folder.rotate(terms, now).map(Some))?;
        let infos = self.keys();
        let staged = infos.iter().find(|it| it.state == KeyState::Staged);
        // A ring is not made without its signing key, which comes first.
        let missing = || OpenError::CurrentKeyMissing { path: self.config.keys_dir.clone(), key_id: String::new() };
        staged.or_else(|| infos.first()).cloned().ok_or_else(missing)
    }

    /// When [`Self::activate`] has something to do.
    #[must_use]
    pub fn next_activation(&self) -> Option<Timestamp> {
        self.ring.load().next
    }

    /// Lets the staged key sign once its time has come; whether it did. Reads and writes files.
    ///
    /// # Errors
    /// As [`Self::open`]; the keys in force are then as they were.
    pub fn activate(&self, now: Timestamp) -> Result<bool, OpenError> {
        self.change(|folder| folder.activate(self.config.algorithm, now))
    }

    /// Whether another process may have changed the folder. Looks at one file.
    #[must_use]
    pub fn is_behind(&self) -> bool {
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) != self.folder.stamp()
    }

    /// Takes up what another process has changed in the folder; whether it has. Reads files.
    ///
    /// # Errors
    /// As [`Self::open`]; the keys in force are then as they were.
    pub fn follow_folder(&self) -> Result<bool, OpenError> {
        let stamp = self.folder.stamp();
        if *self.seen.lock().unwrap_or_else(PoisonError::into_inner) == stamp {
            return Ok(false);
        }
        let changed = self.change(|folder| folder.read_again(self.config.algorithm).map(Some))?;
        // As it was before it was read: what came in between is looked at again.
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = stamp;
        Ok(changed)
    }

    /// The thumbprint of the key that is to sign next, if one is staged.
    #[must_use]
    pub fn staged(&self) -> Option<String> {
        self.keys().into_iter().find(|key| key.state == KeyState::Staged).map(|key| key.thumbprint)
    }

    /// Takes a key out of use: it is published no more, and if it signed, a new one does from now on.
    /// Whether there is such a key. That what it signed is refused is a revocation, which the caller makes.
    /// Reads and writes files.
    ///
    /// # Errors
    /// As [`Self::open`]; the keys in force are then as they were.
    pub fn retire(&self, key_id: &str, now: Timestamp) -> Result<bool, OpenError> {
        self.change(|folder| folder.retire(key_id, self.config.algorithm, now))
    }

    /// Changes the folder, then what is in force; whether there was anything to change.
    fn change(&self, change: impl FnOnce(&Folder) -> Result<Option<Contents>, OpenError>) -> Result<bool, OpenError> {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(contents) = change(&self.folder)? else { return Ok(false) };
        let ring = Arc::new(Ring::new(contents)?);
        // Verifiable before the first token is signed with it.
        self.key_set.store(Arc::new(KeySet::from_keys(ring.verifying.clone())));
        self.ring.store(ring);
        Ok(true)
    }

    /// Deletes the keys whose tokens have all lapsed, and returns how many: those that signed for the last time
    /// longer ago than a session may live. (No token lives longer, whatever the limits were when it was
    /// minted, for a longer one is not honoured.) The current key stays, and so does one that has never
    /// signed here. Reads and writes files.
    ///
    /// # Errors
    /// As [`Self::open`]; the keys in force are then as they were.
    pub fn prune(&self, now: Timestamp) -> Result<usize, OpenError> {
        let before = now.minus(self.config.absolute_timeout).minus(PRUNE_MARGIN);
        let had = self.ring.load().infos.len();
        self.change(|folder| folder.prune(before, self.config.algorithm))?;
        Ok(had.saturating_sub(self.ring.load().infos.len()))
    }

    /// The id of the revocation store that belongs to these keys, once bound. Reads a file.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn store_id(&self) -> Result<Option<String>, OpenError> {
        self.folder.store_id()
    }

    /// Says which revocation store belongs to these keys. Writes a file.
    ///
    /// # Errors
    /// When another one does, or as [`Self::open`].
    pub fn bind_store_id(&self, id: &str) -> Result<(), OpenError> {
        self.folder.bind_store_id(id)
    }

    /// Says that another revocation store belongs to these keys from now on: what the former one held
    /// is lost, by somebody's decision. Writes a file.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn rebind_store_id(&self, id: &str) -> Result<(), OpenError> {
        self.folder.rebind_store_id(id)
    }

    /// Forgets minted tokens that would not be handed out again, and counts of tokens that have
    /// expired. To be called now and then; what it frees would otherwise stay until the bound is
    /// reached.
    pub fn sweep(&self, now: Timestamp) {
        self.exchanged.sweep(now);
        self.slid.sweep(now);
        if let Some(counts) = &self.counts {
            counts.sweep(now);
        }
    }

    /// How many minted tokens are remembered.
    #[must_use]
    pub fn remembered(&self) -> usize {
        self.exchanged.len() + self.slid.len()
    }
}

/// What new keys are to be like.
const fn key_terms(config: &config::Session) -> Terms {
    Terms { algorithm: config.algorithm, publish_before: config.publish_before }
}

impl fmt::Debug for Sessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sessions").field("issuer", &self.config.issuer).finish_non_exhaustive()
    }
}
