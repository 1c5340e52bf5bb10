//! A family: what is stored of the refresh tokens of one session, and the rule that they follow.

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Salt};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::token::{RefreshToken, digest_of};
use crate::config::Delivery;
use crate::time::Timestamp;
use crate::token::Lineage;

/// Keeps the keys that successors are sealed with apart from whatever else a token is used for.
const SEAL_SALT: &[u8] = b"portcullis/refresh/seal/1";
/// Bytes of an AES-256 key.
const KEY_BYTES: usize = 32;

/// The refresh tokens of one session, and everything that the next access token says.
///
/// In it are hashes, and one token sealed under its predecessor: who reads the store can use nothing of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Family {
    /// `sid`, and the name it is stored under.
    pub session: Box<str>,
    /// `sub`, prefix included.
    pub subject: String,
    /// `azp`, else `client_id`, of its access tokens.
    pub client: Option<String>,
    /// The `client_id` that it was opened for.
    pub bound_to: Option<String>,
    /// When its holder authenticated.
    pub authenticated: Option<Timestamp>,
    /// The thumbprint of the key that signed its latest access token.
    pub key: String,
    /// Where the session comes from.
    pub lineage: Lineage,
    /// What its access tokens say beside that.
    pub claims: Map<String, Value>,
    /// How its first access token was handed out.
    pub delivery: Delivery,
    /// When it was opened.
    pub opened: Timestamp,
    /// The place of the current token, from 1 on.
    pub generation: u32,
    /// From when on no token of it is good.
    pub ends: Timestamp,
    /// The digest of the current token.
    pub(super) current: String,
    /// What brought the current token.
    pub(super) previous: Option<Previous>,
}

/// What brought the current token: its predecessor, or the token that opened the session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Previous {
    /// Its digest.
    digest: String,
    /// The current token, sealed under it.
    sealed: String,
    /// When it was used.
    at: Timestamp,
}

/// What a refresh token of this family is worth.
#[derive(Debug)]
pub enum Judgement {
    /// It is the current one.
    Current,
    /// It was replaced so lately that its answer may have been lost: this is its successor.
    Repeated(RefreshToken),
    /// It was replaced before: it, or its successor, is in the wrong hands.
    Reused,
    /// It is of an earlier family of the session, which has ended, or of a later state than the store's.
    Unknown,
}

/// What is stored of a family.
#[derive(Serialize, Deserialize)]
struct Stored {
    sub: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    client: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    client_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    auth_time: Option<Timestamp>,
    key: String,
    /// `orig_iat`, `orig`, `keys`, as in its tokens.
    lineage: Map<String, Value>,
    claims: Map<String, Value>,
    cookie: bool,
    opened: Timestamp,
    generation: u32,
    ends: Timestamp,
    current: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    previous: Option<Previous>,
}

/// A stored family is not what this release writes. Read as "failed to read a family: {self}".
#[derive(Debug, thiserror::Error)]
#[error("it is not what was written")]
pub struct UnreadableFamily;

impl Family {
    /// What `token` is worth at `now`, when one that was replaced may come again for `grace`.
    ///
    /// The caller knows that the family has not ended, and that its session is in good standing.
    #[must_use]
    pub fn judge(&self, token: &RefreshToken, now: Timestamp, grace: std::time::Duration) -> Judgement {
        if token.opened != self.opened || token.generation > self.generation {
            return Judgement::Unknown;
        }
        if token.generation == self.generation {
            // Made here and not handed out, unless the store was put back to an earlier state.
            return if is_same(&self.current, &token.digest()) { Judgement::Current } else { Judgement::Reused };
        }
        if token.generation + 1 != self.generation {
            return Judgement::Reused;
        }
        self.repeated(token.bytes(), now, grace).map_or(Judgement::Reused, Judgement::Repeated)
    }

    /// The first token of the family again, for the token that the session was opened with, as long as it is
    /// the current one and within `grace`.
    #[must_use]
    pub fn opened_again(&self, with: &str, now: Timestamp, grace: std::time::Duration) -> Option<RefreshToken> {
        if self.generation == 1 { self.repeated(with.as_bytes(), now, grace) } else { None }
    }

    /// The current token, for what brought it.
    fn repeated(&self, presented: &[u8], now: Timestamp, grace: std::time::Duration) -> Option<RefreshToken> {
        let previous = self.previous.as_ref()?;
        if now > previous.at.plus(grace) || !is_same(&previous.digest, &digest_of(presented)) {
            return None;
        }
        let bytes = unseal(&previous.sealed, presented, &self.session)?;
        let token = RefreshToken::restored(bytes, &self.session, self.opened, self.generation);
        is_same(&self.current, &token.digest()).then_some(token)
    }

    /// What is stored of it.
    #[must_use]
    pub fn body(&self) -> String {
        let mut lineage = Map::new();
        self.lineage.write(&mut lineage);
        let stored = Stored {
            sub: self.subject.clone(),
            client: self.client.clone(),
            client_id: self.bound_to.clone(),
            auth_time: self.authenticated,
            key: self.key.clone(),
            lineage,
            claims: self.claims.clone(),
            cookie: self.delivery == Delivery::Cookie,
            opened: self.opened,
            generation: self.generation,
            ends: self.ends,
            current: self.current.clone(),
            previous: self.previous.clone(),
        };
        // A struct of texts, times and JSON cannot fail to be written; an empty body is not read back.
        serde_json::to_string(&stored).unwrap_or_default()
    }

    /// The family of `session` as it was stored.
    ///
    /// # Errors
    /// When it is not what this release writes.
    pub fn restored(session: &str, body: &str) -> Result<Self, UnreadableFamily> {
        let stored: Stored = serde_json::from_str(body).map_err(|_| UnreadableFamily)?;
        Ok(Self {
            session: session.into(),
            subject: stored.sub,
            client: stored.client,
            bound_to: stored.client_id,
            authenticated: stored.auth_time,
            key: stored.key,
            lineage: Lineage::read(&stored.lineage).map_err(|_| UnreadableFamily)?,
            claims: stored.claims,
            delivery: if stored.cookie { Delivery::Cookie } else { Delivery::Header },
            opened: stored.opened,
            generation: stored.generation,
            ends: stored.ends,
            current: stored.current,
            previous: stored.previous,
        })
    }
}

impl Previous {
    /// What is kept when `presented` brings `successor` at `now`; `None` when that cannot be sealed.
    pub(super) fn sealing(successor: &RefreshToken, presented: &[u8], now: Timestamp) -> Option<Self> {
        let sealed = seal(successor.bytes(), presented, &successor.session)?;
        Some(Self { digest: digest_of(presented), sealed, at: now })
    }
}

fn is_same(one: &str, other: &str) -> bool {
    one.as_bytes().ct_eq(other.as_bytes()).into()
}

struct SealKey;

impl KeyType for SealKey {
    fn len(&self) -> usize {
        KEY_BYTES
    }
}

/// The key that only the holder of `presented` can derive.
fn seal_key(presented: &[u8], session: &str) -> Option<RandomizedNonceKey> {
    let secret = Salt::new(HKDF_SHA256, SEAL_SALT).extract(presented);
    let mut key = Zeroizing::new([0; KEY_BYTES]);
    secret.expand(&[session.as_bytes()], SealKey).and_then(|derived| derived.fill(key.as_mut_slice())).ok()?;
    RandomizedNonceKey::new(&AES_256_GCM, key.as_slice()).ok()
}

/// AES-256-GCM, the nonce before it, base64url.
fn seal(plain: &[u8], presented: &[u8], session: &str) -> Option<String> {
    let mut text = Zeroizing::new(plain.to_vec());
    let nonce =
        seal_key(presented, session)?.seal_in_place_append_tag(Aad::from(session.as_bytes()), &mut *text).ok()?;
    Some(URL_SAFE_NO_PAD.encode([nonce.as_ref().as_slice(), &text].concat()))
}

fn unseal(sealed: &str, presented: &[u8], session: &str) -> Option<Zeroizing<Vec<u8>>> {
    let bytes = Zeroizing::new(URL_SAFE_NO_PAD.decode(sealed).ok()?);
    let (nonce, text) = bytes.split_at_checked(NONCE_LEN)?;
    let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
    let mut text = Zeroizing::new(text.to_vec());
    let key = seal_key(presented, session)?;
    let length = key.open_in_place(nonce, Aad::from(session.as_bytes()), &mut text).ok()?.len();
    text.truncate(length);
    Some(text)
}
