//! The keys in force: one that signs, all that verify.

use std::sync::Arc;

use bytes::Bytes;
use serde::Serialize;
use serde_json::{Value, json};

use super::folder::{Contents, OpenError, StoredKey};
use crate::keys::{SigningKey, VerifyingKey};
use crate::time::Timestamp;
use crate::token::Algorithm;

/// One key of the gateway, as the control plane shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct KeyInfo {
    /// `kid`, also the name of its file.
    pub key_id: String,
    /// Its RFC 7638 thumbprint: what a revocation of the key names.
    pub thumbprint: String,
    /// What it signs with.
    #[serde(serialize_with = "algorithm_name")]
    pub algorithm: Algorithm,
    /// When it was made.
    pub created: Timestamp,
    /// What it does now.
    pub state: KeyState,
    /// When it begins to sign, while it is staged.
    pub signs_from: Option<Timestamp>,
    /// When it signed for the last time, once another one signs.
    pub signed_until: Option<Timestamp>,
}

/// What a key does now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum KeyState {
    /// It is published, and will sign.
    Staged,
    /// It signs new tokens, and verifies.
    Signing,
    /// It verifies what it signed before.
    Verifying,
    /// Nothing of it is honoured, and it is published no more.
    Retired,
}

/// An immutable set of keys; a change makes a new one.
pub(super) struct Ring {
    pub(super) signer: Arc<SigningKey>,
    /// The thumbprint of `signer`.
    pub(super) thumbprint: Arc<str>,
    pub(super) infos: Vec<KeyInfo>,
    pub(super) verifying: Vec<Arc<VerifyingKey>>,
    pub(super) jwks: Value,
    pub(super) jwks_bytes: Bytes,
    /// When the staged key is to sign.
    pub(super) next: Option<Timestamp>,
}

impl Ring {
    /// The keys of a folder: the signing one first, then the staged one, then the newest.
    pub(super) fn new(contents: Contents) -> Result<Self, OpenError> {
        let Contents { mut keys, marker } = contents;
        let staged = marker.staged.as_ref();
        let state = |key_id: &str| {
            if key_id == marker.current {
                KeyState::Signing
            } else if staged.is_some_and(|it| it.key_id == key_id) {
                KeyState::Staged
            } else if marker.is_retired(key_id) {
                KeyState::Retired
            } else {
                KeyState::Verifying
            }
        };
        let rank = |it: &StoredKey| match state(it.key.key_id()) {
            KeyState::Signing => 0,
            KeyState::Staged => 1,
            KeyState::Verifying | KeyState::Retired => 2,
        };
        keys.sort_by_key(|it| (rank(it), std::cmp::Reverse(it.created)));
        let info = |it: &StoredKey| {
            let key_id = it.key.key_id();
            KeyInfo {
                key_id: key_id.to_owned(),
                thumbprint: it.key.verifying_key().thumbprint().to_owned(),
                algorithm: it.key.algorithm(),
                created: it.created,
                state: state(key_id),
                signs_from: staged.filter(|staged| staged.key_id == key_id).map(|staged| staged.from),
                signed_until: marker.past.iter().find(|past| past.key_id == key_id).map(|past| past.until),
            }
        };
        let infos: Vec<_> = keys.iter().map(info).collect();
        // A retired one goes on verifying here, where standing refuses it by name; elsewhere nobody may.
        let verifying = keys.iter().map(|it| it.key.verifying_key()).collect();
        let published = keys.iter().filter(|it| !marker.is_retired(it.key.key_id()));
        let jwks = json!({ "keys": published.map(|it| it.key.public_jwk()).collect::<Vec<_>>() });
        let next = staged.map(|it| it.from);
        let signer = keys.into_iter().next().filter(|it| it.key.key_id() == marker.current);
        // The folder has checked that the marker names one of its keys.
        let Some(signer) = signer else {
            return Err(OpenError::CurrentKeyMissing { path: "current".into(), key_id: marker.current });
        };
        Ok(Self {
            thumbprint: signer.key.verifying_key().thumbprint().into(),
            signer: Arc::new(signer.key),
            infos,
            verifying,
            jwks_bytes: jwks.to_string().into(),
            jwks,
            next,
        })
    }
}

fn algorithm_name<S: serde::Serializer>(algorithm: &Algorithm, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(algorithm.name())
}
