//! A token of the gateway's own, as it was minted.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::HeaderValue;
use serde_json::{Map, Value};

use super::Sessions;
use super::ring::Ring;
use crate::keys::SignError;
use crate::time::Timestamp;
use crate::token::Lineage;

/// `typ` of every token minted here (RFC 9068 §2.1).
pub const TYP: &str = "at+jwt";

/// The longest `sub` that [`Claims`](crate::token::Claims) reads, in bytes.
pub(super) const SUBJECT_BYTES_MAX: usize = 1024;

/// Why no token was minted. Read as "failed to mint a token: {self}".
#[derive(Debug, thiserror::Error)]
pub enum MintError {
    /// The session is past its absolute end, or within a second of it.
    #[error("the session has reached its absolute end")]
    Ended,
    /// The subject, prefix included, is longer than the gateway itself accepts.
    #[error("the subject would have more than {SUBJECT_BYTES_MAX} bytes")]
    SubjectTooLong,
    /// The signer refused.
    #[error("the claims could not be signed")]
    Sign(#[source] SignError),
    /// The token would be longer than the gateway itself accepts.
    #[error("the token would have {bytes} bytes, more than the {max} accepted")]
    TooLarge {
        /// What it would have.
        bytes: usize,
        /// `token.max_bytes`.
        max: usize,
    },
}

/// A token just minted, with what is needed to judge and deliver it. `Debug` does not show the token.
#[derive(Clone)]
pub struct Minted {
    token: HeaderValue,
    /// `sub`, prefix included.
    pub subject: String,
    /// `sid`.
    pub session: String,
    /// `jti`, which is also its revocation name.
    pub id: String,
    /// `iat`, a whole second.
    pub issued: Timestamp,
    /// `exp`, a whole second.
    pub expires: Timestamp,
    /// `auth_time`.
    pub authenticated: Option<Timestamp>,
    /// `azp`, else `client_id`.
    pub client: Option<String>,
    /// `scope`, or else `scp`, as one string.
    pub scope: Option<String>,
    /// `cnf`: whom it is bound to.
    pub confirmation: Option<Value>,
    /// Where the session comes from.
    pub lineage: Lineage,
    /// The RFC 7638 thumbprint of the key that signed it.
    pub key_thumbprint: Arc<str>,
    /// Whether it has been counted; shared by its copies.
    counted: Arc<AtomicBool>,
}

impl Minted {
    /// The compact JWS.
    #[must_use]
    pub fn token(&self) -> &str {
        // Base64url and dots, so it is text; an empty one would be refused by whoever gets it.
        self.token.to_str().unwrap_or_default()
    }

    /// Whether it is counted for the first time: requests that share one successor are one minting.
    #[must_use]
    pub fn count_once(&self) -> bool {
        !self.counted.swap(true, Ordering::Relaxed)
    }

    /// What it says, read back.
    pub(super) fn claims(&self) -> Option<Map<String, Value>> {
        let payload = URL_SAFE_NO_PAD.decode(self.token().split('.').nth(1)?).ok()?;
        serde_json::from_slice(&payload).ok()
    }

    /// The token as a header value, marked as sensitive.
    #[must_use]
    pub fn header_value(&self) -> HeaderValue {
        self.token.clone()
    }

    /// How it is presented: `DPoP` when it is bound to a key (RFC 9449 §5), else `Bearer`.
    #[must_use]
    pub fn token_type(&self) -> &'static str {
        let key = self.confirmation.as_ref().and_then(|confirmation| confirmation.get("jkt"));
        if key.is_some() { "DPoP" } else { "Bearer" }
    }

    /// How long it lives from `now` on.
    #[must_use]
    pub fn remaining(&self, now: Timestamp) -> std::time::Duration {
        self.expires.since(now)
    }
}

impl fmt::Debug for Minted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Minted")
            .field("id", &self.id)
            .field("session", &self.session)
            .field("issued", &self.issued)
            .field("expires", &self.expires)
            .finish_non_exhaustive()
    }
}

/// What a token to be minted says beyond its times and id.
pub(super) struct Draft {
    pub(super) subject: String,
    pub(super) session: String,
    pub(super) authenticated: Option<Timestamp>,
    pub(super) client: Option<String>,
    pub(super) lineage: Lineage,
    /// Every claim that is not set by [`Sessions::mint`].
    pub(super) others: Map<String, Value>,
}

impl Sessions {
    /// When a token minted at `now` expires, for a session that began at `origin`: whole seconds,
    /// rounded down, so that neither limit is passed.
    pub(super) fn expiry(&self, origin: Timestamp, now: Timestamp) -> Timestamp {
        now.plus(self.config.idle_timeout).min(self.absolute_end(origin)).floor_to_second()
    }

    /// Signs a token for `draft` with the key of `ring`.
    pub(super) fn mint(&self, ring: &Ring, draft: Draft, now: Timestamp) -> Result<Minted, MintError> {
        let issued = now.floor_to_second();
        let expires = self.expiry(draft.lineage.origin_issued, now);
        if expires <= now {
            return Err(MintError::Ended);
        }
        if draft.subject.len() > SUBJECT_BYTES_MAX {
            return Err(MintError::SubjectTooLong);
        }
        // A token names its session, so that revoking either by its id alone ends both.
        let id = format!("{}.{}", draft.session, random_id());
        let mut claims = Map::with_capacity(draft.others.len() + 11);
        claims.insert("iss".into(), self.config.issuer.as_str().into());
        claims.insert("sub".into(), draft.subject.as_str().into());
        claims.insert("aud".into(), self.config.audience.as_str().into());
        claims.insert("exp".into(), expires.secs().into());
        claims.insert("iat".into(), issued.secs().into());
        claims.insert("jti".into(), id.as_str().into());
        claims.insert("sid".into(), draft.session.as_str().into());
        draft.lineage.write(&mut claims);
        for (name, value) in draft.others {
            claims.entry(name).or_insert(value);
        }
        let token = ring.signer.sign(&claims, TYP).map_err(MintError::Sign)?;
        if token.len() > self.token_bytes_max {
            return Err(MintError::TooLarge { bytes: token.len(), max: self.token_bytes_max });
        }
        // A compact JWS has no byte that a header value cannot have; an over-long one is refused above.
        let bytes = token.len();
        let mut token =
            HeaderValue::try_from(token).map_err(|_| MintError::TooLarge { bytes, max: self.token_bytes_max })?;
        token.set_sensitive(true);
        Ok(Minted {
            token,
            subject: draft.subject,
            session: draft.session,
            id,
            issued,
            expires,
            authenticated: draft.authenticated,
            client: draft.client,
            scope: scope(&claims),
            confirmation: claims.get("cnf").cloned(),
            lineage: draft.lineage,
            key_thumbprint: Arc::clone(&ring.thumbprint),
            counted: Arc::default(),
        })
    }
}

fn scope(claims: &Map<String, Value>) -> Option<String> {
    match claims.get("scope").or_else(|| claims.get("scp"))? {
        Value::String(text) => Some(text.clone()),
        Value::Array(list) => Some(list.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" ")),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => None,
    }
}

/// 128 random bits, base64url.
pub(super) fn random_id() -> String {
    URL_SAFE_NO_PAD.encode(rand::random::<[u8; 16]>())
}
