//! A proof of possession (DPoP, RFC 9449 §4.2), read as strictly as a token. Nothing in it is believed yet:
//! it carries its own key, and what that key is worth only the token that names it says.

use serde_json::{Map, Value};

use super::claims::{ClaimsError, string, time};
use super::compact::Parts;
use super::confirmation::digest_of;
use super::{Algorithm, json};
use crate::time::Timestamp;

/// The longest proof read, in bytes: one with an RSA key and signature of 8192 bits has some 4,500.
pub const PROOF_BYTES_MAX: usize = 8 * 1024;

/// The longest `jti`, in bytes: each is remembered for as long as its proof is good.
const ID_BYTES_MAX: usize = 256;

/// The longest `htm`, `htu` or `nonce`, in bytes.
const TEXT_BYTES_MAX: usize = 4 * 1024;

/// `typ`, in this very spelling.
const TYP: &str = "dpop+jwt";

/// A proof, well formed.
#[derive(Clone, Debug)]
pub struct Proof<'a> {
    /// *header.payload*: what the signature covers.
    pub signing_input: &'a str,
    /// The signature's bytes.
    pub signature: Vec<u8>,
    /// `alg`.
    pub algorithm: Algorithm,
    /// `jwk`: the key it wants to be verified with, not judged.
    pub key: Map<String, Value>,
    /// `jti`.
    pub id: String,
    /// `htm`: the method it was made for.
    pub method: String,
    /// `htu`: the URL it was made for.
    pub target: String,
    /// `iat`, fractions rounded down.
    pub issued: Timestamp,
    /// `ath`: the SHA-256 of the token it was made for; one made to ask for tokens has none (RFC 9449 §5).
    pub token: Option<[u8; 32]>,
}

/// The text is not a proof that we read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the proof is malformed")]
pub struct ProofError;

impl<'a> Proof<'a> {
    /// Reads `text`.
    ///
    /// # Errors
    /// [`ProofError`] when it is longer than [`PROOF_BYTES_MAX`], not a compact JWS in its one canonical
    /// spelling, of another `typ`, without `jwk` or a claim, or when one of them has the wrong type.
    pub fn parse(text: &'a str) -> Result<Self, ProofError> {
        let parts = Parts::split(text, PROOF_BYTES_MAX).map_err(|_| ProofError)?;
        let mut object = parts.header_object().map_err(|_| ProofError)?;
        let Some(Value::Object(key)) = object.get_mut("jwk").map(Value::take) else { return Err(ProofError) };
        let header = super::Header::from_object(object).map_err(|_| ProofError)?;
        if header.typ.as_deref() != Some(TYP) {
            return Err(ProofError);
        }
        let payload = parts.payload().map_err(|_| ProofError)?;
        let claims = json::object(&payload).map_err(|_| ProofError)?;
        let said = |name, max| string(&claims, name, max).map_err(|_: ClaimsError| ProofError);
        let text = |name, max| said(name, max)?.ok_or(ProofError);
        Ok(Self {
            id: text("jti", ID_BYTES_MAX)?,
            method: text("htm", TEXT_BYTES_MAX)?,
            target: text("htu", TEXT_BYTES_MAX)?,
            issued: time(&claims, "iat").map_err(|_| ProofError)?.ok_or(ProofError)?,
            token: said("ath", 43)?.map(|text| digest_of(&text).ok_or(ProofError)).transpose()?,
            signing_input: parts.signing_input,
            signature: parts.signature().map_err(|_| ProofError)?,
            algorithm: header.algorithm,
            key,
        })
    }
}
