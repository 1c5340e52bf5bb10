//! The keys of one issuer.

use std::collections::HashSet;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::fit::Material;
use super::jwk::{self, Jwk};
use super::thumbprint::thumbprint;
use super::{Unfit, VerifyingKey, pem};
use crate::secret::Secret;
use crate::time::Timestamp;
use crate::token::{Algorithm, json};

/// The largest key set read, in bytes of JSON; a larger one is refused unread.
pub const JSON_BYTES_MAX: usize = 1 << 20;

/// Most keys in one set; a larger set is refused whole.
pub const KEYS_MAX: usize = 1000;

/// Most keys tried for one token: a token without `kid` must not buy a thousand signature checks.
const CANDIDATES_MAX: usize = 4;

/// Keys that verify the tokens of one issuer, and those that were refused.
#[derive(Clone, Debug)]
pub struct KeySet {
    keys: Vec<Arc<VerifyingKey>>,
    refused: Vec<Refused>,
    /// From when on it does not count any more.
    until: Timestamp,
}

/// A key that was in the source and is not used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Its `kid`, when it has one.
    pub key_id: Option<String>,
    /// Why.
    pub why: Unfit,
}

/// Why a source of keys is refused whole. Read as "failed to load the keys: {self}".
#[derive(Debug, thiserror::Error)]
pub enum KeySetError {
    /// Two keys share a `kid`, so what it names depends on who reads it (RFC 7517 §4.5).
    #[error("two keys have the `kid` {0:?}")]
    DuplicateKeyId(String),
    /// Not a JSON object with an array `keys` of objects, or a member occurs twice.
    #[error("not a JSON Web Key Set: {0}")]
    Malformed(String),
    /// Secrets beside other keys, in a set that may hold secrets.
    #[error("secrets and public keys are mixed")]
    Mixed,
    /// More than [`JSON_BYTES_MAX`].
    #[error("larger than {JSON_BYTES_MAX} bytes")]
    TooLarge,
    /// More than [`KEYS_MAX`].
    #[error("more than {KEYS_MAX} keys")]
    TooManyKeys,
    /// The only key there is cannot be used.
    #[error("the key cannot be used: {0}")]
    Unfit(#[from] Unfit),
}

impl KeySet {
    /// Reads a JSON Web Key Set (RFC 7517 §5). A key without `alg` is bound to each of the `allowed`
    /// algorithms that fits it. A key that cannot be used is left out and listed in
    /// [`refused`](Self::refused); the set may come out empty. `symmetric` lets secrets in.
    ///
    /// # Errors
    /// See [`KeySetError`].
    pub fn from_jwks(json: &str, allowed: &[Algorithm], symmetric: bool) -> Result<Self, KeySetError> {
        let set = read(json)?;
        let Some(Value::Array(list)) = set.get("keys") else {
            return Err(KeySetError::Malformed("no array `keys`".to_owned()));
        };
        if list.len() > KEYS_MAX {
            return Err(KeySetError::TooManyKeys);
        }
        let mut names = HashSet::new();
        let mut keys = Self::from_keys(Vec::new());
        for entry in list {
            let Value::Object(members) = entry else {
                return Err(KeySetError::Malformed("an element of `keys` is not an object".to_owned()));
            };
            let key_id = jwk::key_id(members).ok().flatten();
            if let Some(name) = key_id.filter(|name| !names.insert(*name)) {
                return Err(KeySetError::DuplicateKeyId(name.to_owned()));
            }
            if let Err(why) = keys.add_jwk(members, key_id, allowed, symmetric) {
                keys.refused.push(Refused { key_id: key_id.map(str::to_owned), why });
            }
        }
        let is_secret = |entry: &Value| entry.get("kty").is_some_and(|kty| kty == "oct");
        if symmetric && list.iter().any(is_secret) && !list.iter().all(is_secret) {
            return Err(KeySetError::Mixed);
        }
        Ok(keys)
    }

    /// Reads one JSON Web Key (RFC 7517 §4), as [`from_jwks`](Self::from_jwks) reads its elements.
    ///
    /// # Errors
    /// See [`KeySetError`].
    pub fn from_jwk(json: &str, allowed: &[Algorithm], symmetric: bool) -> Result<Self, KeySetError> {
        let members = read(json)?;
        let key_id = jwk::key_id(&members)?;
        let mut keys = Self::from_keys(Vec::new());
        keys.add_jwk(&members, key_id, allowed, symmetric)?;
        Ok(keys)
    }

    /// Reads a PEM public key or certificate: one key without a `kid`, bound to each of the `allowed`
    /// algorithms that fits it.
    ///
    /// # Errors
    /// [`KeySetError::TooLarge`] or [`KeySetError::Unfit`].
    pub fn from_pem(pem: &str, allowed: &[Algorithm]) -> Result<Self, KeySetError> {
        if pem.len() > JSON_BYTES_MAX {
            return Err(KeySetError::TooLarge);
        }
        let mut keys = Self::from_keys(Vec::new());
        keys.add(&pem::read(pem)?, None, allowed)?;
        Ok(keys)
    }

    /// Takes an HMAC secret: one key without a `kid`, bound to each of the `allowed` algorithms.
    ///
    /// # Errors
    /// [`KeySetError::Unfit`] when one of them needs a longer secret, or none of them is an HMAC.
    pub fn from_secret(secret: &Secret, allowed: &[Algorithm]) -> Result<Self, KeySetError> {
        let material = Material::Secret(secret.clone());
        allowed.iter().try_for_each(|algorithm| material.judge_for(*algorithm))?;
        let mut keys = Self::from_keys(Vec::new());
        keys.add(&material, None, allowed)?;
        Ok(keys)
    }

    /// A set of keys that are known to be good, such as the gateway's own.
    #[must_use]
    pub const fn from_keys(keys: Vec<Arc<VerifyingKey>>) -> Self {
        Self { keys, refused: Vec::new(), until: Timestamp::MAX }
    }

    /// The keys of an issuer of whom nothing is known yet, not even that it has none: a set that does
    /// not count.
    #[must_use]
    pub const fn unknown() -> Self {
        Self { keys: Vec::new(), refused: Vec::new(), until: Timestamp::MIN }
    }

    /// The same keys, which do not count any more from `until` on.
    #[must_use]
    pub fn counting_until(self, until: Timestamp) -> Self {
        Self { until, ..self }
    }

    /// From when on these keys do not count any more.
    #[must_use]
    pub const fn until(&self) -> Timestamp {
        self.until
    }

    /// The keys to try for a token: those bound to its algorithm that have its `kid` or, when the key
    /// or the token names none, may be meant; at most four, in the order of the set.
    pub fn candidates<'a>(
        &'a self,
        key_id: Option<&str>,
        algorithm: Algorithm,
    ) -> impl Iterator<Item = &'a Arc<VerifyingKey>> {
        let fits = move |key: &&Arc<VerifyingKey>| {
            key.algorithm() == algorithm
                && match (key.key_id(), key_id) {
                    (Some(own), Some(wanted)) => own == wanted,
                    _ => true,
                }
        };
        self.keys.iter().filter(fits).take(CANDIDATES_MAX)
    }

    /// Every key; one that fits several algorithms is there once for each.
    #[must_use]
    pub fn keys(&self) -> &[Arc<VerifyingKey>] {
        &self.keys
    }

    /// The keys that are not used, and why.
    #[must_use]
    pub fn refused(&self) -> &[Refused] {
        &self.refused
    }

    /// Whether this key is in the set, bound to the same algorithm.
    #[must_use]
    pub fn contains(&self, wanted: &VerifyingKey) -> bool {
        self.keys.iter().any(|key| key.algorithm() == wanted.algorithm() && key.thumbprint() == wanted.thumbprint())
    }

    /// Whether both sets have the same keys under the same names, in the same order.
    #[must_use]
    pub fn has_same_keys(&self, other: &Self) -> bool {
        let same = |(one, two): (&Arc<VerifyingKey>, &Arc<VerifyingKey>)| {
            one.key_id() == two.key_id() && one.algorithm() == two.algorithm() && one.thumbprint() == two.thumbprint()
        };
        self.keys.len() == other.keys.len() && self.keys.iter().zip(&other.keys).all(same)
    }

    fn add_jwk(
        &mut self,
        members: &Map<String, Value>,
        key_id: Option<&str>,
        allowed: &[Algorithm],
        symmetric: bool,
    ) -> Result<(), Unfit> {
        let jwk = Jwk::read(members, symmetric)?;
        match &jwk.algorithm {
            Some(own) if allowed.contains(own) => self.add(&jwk.material, key_id, &[*own]),
            Some(_) => Err(Unfit::AlgorithmNotAllowed),
            None => self.add(&jwk.material, key_id, allowed),
        }
    }

    /// Binds the key to each algorithm that fits it. A secret is bound to those it is long enough for.
    fn add(&mut self, material: &Material, key_id: Option<&str>, algorithms: &[Algorithm]) -> Result<(), Unfit> {
        let thumbprint: Arc<str> = thumbprint(material).into();
        let mut unfit = Some(Unfit::AlgorithmNotAllowed);
        for algorithm in algorithms.iter().filter(|algorithm| material.suits(**algorithm)) {
            if let Err(why) = material.judge_for(*algorithm) {
                unfit = unfit.and(Some(why));
                continue;
            }
            self.keys.push(Arc::new(VerifyingKey::new(material, *algorithm, key_id, Arc::clone(&thumbprint))?));
            unfit = None;
        }
        unfit.map_or(Ok(()), Err)
    }
}

fn read(json: &str) -> Result<Map<String, Value>, KeySetError> {
    if json.len() > JSON_BYTES_MAX {
        return Err(KeySetError::TooLarge);
    }
    json::object(json.as_bytes()).map_err(|error| KeySetError::Malformed(error.to_string()))
}
