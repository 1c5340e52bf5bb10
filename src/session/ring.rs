//! The keys in force: one that signs, all that verify.

use std::sync::Arc;

use bytes::Bytes;
use serde::Serialize;
use serde_json::{Value, json};

use super::folder::{Contents, OpenError};
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
}

/// What a key does now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum KeyState {
    /// It signs new tokens, and verifies.
    Signing,
    /// It verifies what it signed before.
    Verifying,
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
}

impl Ring {
    /// The keys of a folder, the signing one first, then the newest.
    pub(super) fn new(contents: Contents) -> Result<Self, OpenError> {
        let Contents { mut keys, marker } = contents;
        keys.sort_by_key(|it| (it.key.key_id() != marker.current, std::cmp::Reverse(it.created)));
        let infos: Vec<_> = keys
            .iter()
            .map(|it| KeyInfo {
                key_id: it.key.key_id().to_owned(),
                thumbprint: it.key.verifying_key().thumbprint().to_owned(),
                algorithm: it.key.algorithm(),
                created: it.created,
                state: if it.key.key_id() == marker.current { KeyState::Signing } else { KeyState::Verifying },
            })
            .collect();
        let verifying = keys.iter().map(|it| it.key.verifying_key()).collect();
        let jwks = json!({ "keys": keys.iter().map(|it| it.key.public_jwk()).collect::<Vec<_>>() });
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
        })
    }
}

fn algorithm_name<S: serde::Serializer>(algorithm: &Algorithm, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(algorithm.name())
}
