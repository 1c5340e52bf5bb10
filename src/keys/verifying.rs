//! One key and the one algorithm it may verify.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::hmac;
use aws_lc_rs::rsa::PublicKeyComponents;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ED25519, ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256,
    RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512, RSA_PSS_2048_8192_SHA256, RSA_PSS_2048_8192_SHA384,
    RSA_PSS_2048_8192_SHA512, RsaParameters, VerificationAlgorithm,
};
use serde_json::{Map, Value};

use super::Unfit;
use super::fit::Material;
use super::jwk::Jwk;
use super::thumbprint::thumbprint;
use crate::token::Algorithm;

/// A key that verifies signatures, bound to one algorithm: what a token says of its own algorithm can
/// only fail to match it (RFC 8725 §3.1).
pub struct VerifyingKey {
    key_id: Option<Box<str>>,
    algorithm: Algorithm,
    thumbprint: Arc<str>,
    verifier: Verifier,
}

enum Verifier {
    Mac(Box<hmac::Key>),
    Public(ParsedPublicKey),
}

impl VerifyingKey {
    /// Binds judged material to one algorithm that fits it.
    pub(super) fn new(
        material: &Material,
        algorithm: Algorithm,
        key_id: Option<&str>,
        thumbprint: Arc<str>,
    ) -> Result<Self, Unfit> {
        let verifier = match material {
            Material::Secret(secret) => Verifier::Mac(Box::new(hmac::Key::new(mac(algorithm)?, secret.expose()))),
            Material::Rsa { n, e } => {
                let key = PublicKeyComponents { n, e }.to_parsed_public_key(rsa(algorithm)?);
                Verifier::Public(key.map_err(|_| Unfit::Modulus)?)
            }
            Material::Ec { point, .. } | Material::Ed { point } => {
                let key = ParsedPublicKey::new(curve(algorithm)?, point);
                Verifier::Public(key.map_err(|_| Unfit::Point)?)
            }
        };
        Ok(Self { key_id: key_id.map(Box::from), algorithm, thumbprint, verifier })
    }

    /// The key that a proof of possession carries in its header (RFC 9449 §4.2), judged as one that is
    /// configured. Whether it counts, its thumbprint says: it must be the one that a token names.
    ///
    /// # Errors
    /// [`Unfit`]; a secret or a private half among its members is one of the reasons.
    pub fn of_proof(members: &Map<String, Value>, algorithm: Algorithm) -> Result<Self, Unfit> {
        let jwk = Jwk::read(members, false)?;
        if members.contains_key("k") {
            return Err(Unfit::Private);
        }
        if !jwk.material.suits(algorithm) || jwk.algorithm.is_some_and(|own| own != algorithm) {
            return Err(Unfit::AlgorithmMismatch);
        }
        Self::new(&jwk.material, algorithm, None, thumbprint(&jwk.material).into())
    }

    /// The `kid` its owner gave it: an alias, not an identity.
    #[must_use]
    pub fn key_id(&self) -> Option<&str> {
        self.key_id.as_deref()
    }

    /// The one algorithm it verifies.
    #[must_use]
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// What it is known by: the RFC 7638 SHA-256 thumbprint, base64url; for a secret a digest keyed
    /// with the secret itself, so that nobody can search for the secret with it.
    #[must_use]
    pub fn thumbprint(&self) -> &str {
        &self.thumbprint
    }

    /// Whether `signature` is this key's over `signing_input`. MACs are compared in constant time.
    #[must_use]
    pub fn verify(&self, signing_input: &[u8], signature: &[u8]) -> bool {
        match &self.verifier {
            Verifier::Mac(key) => hmac::verify(key, signing_input, signature).is_ok(),
            Verifier::Public(key) => key.verify_sig(signing_input, signature).is_ok(),
        }
    }
}

impl fmt::Debug for VerifyingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VerifyingKey")
            .field("key_id", &self.key_id)
            .field("algorithm", &self.algorithm)
            .field("thumbprint", &self.thumbprint)
            .finish_non_exhaustive()
    }
}

/// The MAC of an algorithm.
fn mac(algorithm: Algorithm) -> Result<hmac::Algorithm, Unfit> {
    match algorithm {
        Algorithm::HS256 => Ok(hmac::HMAC_SHA256),
        Algorithm::HS384 => Ok(hmac::HMAC_SHA384),
        Algorithm::HS512 => Ok(hmac::HMAC_SHA512),
        _ => Err(Unfit::AlgorithmMismatch),
    }
}

fn rsa(algorithm: Algorithm) -> Result<&'static RsaParameters, Unfit> {
    match algorithm {
        Algorithm::PS256 => Ok(&RSA_PSS_2048_8192_SHA256),
        Algorithm::PS384 => Ok(&RSA_PSS_2048_8192_SHA384),
        Algorithm::PS512 => Ok(&RSA_PSS_2048_8192_SHA512),
        Algorithm::RS256 => Ok(&RSA_PKCS1_2048_8192_SHA256),
        Algorithm::RS384 => Ok(&RSA_PKCS1_2048_8192_SHA384),
        Algorithm::RS512 => Ok(&RSA_PKCS1_2048_8192_SHA512),
        _ => Err(Unfit::AlgorithmMismatch),
    }
}

/// JWS writes an ECDSA signature as r and s of fixed length (RFC 7518 §3.4), not as DER.
fn curve(algorithm: Algorithm) -> Result<&'static dyn VerificationAlgorithm, Unfit> {
    match algorithm {
        Algorithm::EdDSA => Ok(&ED25519),
        Algorithm::ES256 => Ok(&ECDSA_P256_SHA256_FIXED),
        Algorithm::ES384 => Ok(&ECDSA_P384_SHA384_FIXED),
        _ => Err(Unfit::AlgorithmMismatch),
    }
}
