//! Keys that sign: the gateway's own. They are never secrets, because the gateway publishes what
//! verifies its tokens.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, EcdsaSigningAlgorithm,
    Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256, RSA_PKCS1_SHA384, RSA_PKCS1_SHA512, RSA_PSS_SHA256, RSA_PSS_SHA384,
    RSA_PSS_SHA512, RsaEncoding,
};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Map, Value};
use x509_parser::pem::Pem;
use zeroize::Zeroizing;

use super::fit::{Curve, Material};
use super::thumbprint::{public_jwk, thumbprint};
use super::{Unfit, VerifyingKey, pem};
use crate::token::{Algorithm, Family};

/// The PEM label of an unencrypted private key (RFC 7468 §10).
const LABEL: &str = "PRIVATE KEY";

/// Why there is no signing key. Read as "failed to load the signing key: {self}".
#[derive(Debug, thiserror::Error)]
pub enum SigningKeyError {
    /// The library could not make one.
    #[error("a key could not be generated")]
    Generate,
    /// Not one unencrypted PKCS #8 `PRIVATE KEY` of the algorithm's type and curve.
    #[error("not an unencrypted PKCS #8 private key for {0}")]
    Malformed(Algorithm),
    /// An HMAC algorithm, which has no key pair.
    #[error("{0} has no key pair")]
    Kind(Algorithm),
    /// Its public half would not be honoured.
    #[error("the key cannot be used: {0}")]
    Unfit(#[from] Unfit),
}

/// Why a token was not signed.
#[derive(Debug, thiserror::Error)]
#[error("the token could not be signed")]
pub struct SignError;

/// A key pair bound to one algorithm. Its id is its RFC 7638 thumbprint.
pub struct SigningKey {
    pair: Pair,
    pem: Zeroizing<String>,
    public: Map<String, Value>,
    verifying: Arc<VerifyingKey>,
    header: HeaderStart,
}

enum Pair {
    Ec(EcdsaKeyPair),
    Ed(Ed25519KeyPair),
    Rsa(rsa::KeyPair),
}

impl SigningKey {
    /// Makes a new key pair; RSA keys get 2048 bits.
    ///
    /// # Errors
    /// [`SigningKeyError::Kind`] for an HMAC algorithm, [`SigningKeyError::Generate`] when the library
    /// fails.
    pub fn generate(algorithm: Algorithm) -> Result<Self, SigningKeyError> {
        let failed = |_| SigningKeyError::Generate;
        let pkcs8 = match algorithm.family() {
            Family::Ec => {
                let pair = EcdsaKeyPair::generate(ecdsa(algorithm)?).map_err(failed)?;
                pem_of(pair.to_pkcs8v1().map_err(failed)?.as_ref())
            }
            Family::Ed => {
                let pair = Ed25519KeyPair::generate().map_err(failed)?;
                pem_of(pair.to_pkcs8v1().map_err(failed)?.as_ref())
            }
            Family::Rsa => {
                let pair = rsa::KeyPair::generate(rsa::KeySize::Rsa2048).map_err(failed)?;
                pem_of(pair.as_der().map_err(failed)?.as_ref())
            }
            Family::Hmac => return Err(SigningKeyError::Kind(algorithm)),
        };
        Self::from_pkcs8_pem(&pkcs8, algorithm)
    }

    /// Reads an unencrypted PKCS #8 private key (RFC 5958) from PEM.
    ///
    /// # Errors
    /// [`SigningKeyError::Malformed`] when it is none, or not of the algorithm's type and curve,
    /// [`SigningKeyError::Unfit`] when its public half would be refused, [`SigningKeyError::Kind`] for
    /// an HMAC algorithm.
    pub fn from_pkcs8_pem(pem: &str, algorithm: Algorithm) -> Result<Self, SigningKeyError> {
        let malformed = || SigningKeyError::Malformed(algorithm);
        let der = private_key(pem).ok_or_else(malformed)?;
        let (pair, material) = match algorithm.family() {
            Family::Ec => {
                let pair = EcdsaKeyPair::from_pkcs8(ecdsa(algorithm)?, &der).map_err(|_| malformed())?;
                let point = pair.public_key().as_ref().to_vec();
                let curve = if algorithm == Algorithm::ES384 { Curve::P384 } else { Curve::P256 };
                (Pair::Ec(pair), Material::Ec { curve, point })
            }
            Family::Ed => {
                let pair = Ed25519KeyPair::from_pkcs8(&der).map_err(|_| malformed())?;
                let point = pair.public_key().as_ref().to_vec();
                (Pair::Ed(pair), Material::Ed { point })
            }
            Family::Rsa => {
                let pair = rsa::KeyPair::from_pkcs8(&der).map_err(|_| malformed())?;
                let spki: PublicKeyX509Der<'_> = pair.public_key().as_der().map_err(|_| malformed())?;
                let material = pem::spki(spki.as_ref())?;
                (Pair::Rsa(pair), material)
            }
            Family::Hmac => return Err(SigningKeyError::Kind(algorithm)),
        };
        material.judge()?;
        let id: Arc<str> = thumbprint(&material).into();
        let verifying = Arc::new(VerifyingKey::new(&material, algorithm, Some(&id), Arc::clone(&id))?);
        Ok(Self {
            pair,
            pem: pem_of(&der),
            public: public_jwk(&material),
            verifying,
            header: HeaderStart::new(algorithm, &id),
        })
    }

    /// The private key as PEM, for the one file it is kept in.
    #[must_use]
    pub fn to_pkcs8_pem(&self) -> Zeroizing<String> {
        self.pem.clone()
    }

    /// The `kid` of what it signs: its RFC 7638 thumbprint.
    #[must_use]
    pub fn key_id(&self) -> &str {
        self.verifying.thumbprint()
    }

    /// The one algorithm it signs with.
    #[must_use]
    pub fn algorithm(&self) -> Algorithm {
        self.verifying.algorithm()
    }

    /// The public half as it is published (RFC 7517 §4), with `kid`, `alg` and `use`.
    #[must_use]
    pub fn public_jwk(&self) -> Value {
        let mut jwk = self.public.clone();
        for (name, value) in [("kid", self.key_id()), ("alg", self.algorithm().name()), ("use", "sig")] {
            jwk.insert(name.to_owned(), Value::String(value.to_owned()));
        }
        Value::Object(jwk)
    }

    /// The public half, ready to verify.
    #[must_use]
    pub fn verifying_key(&self) -> Arc<VerifyingKey> {
        Arc::clone(&self.verifying)
    }

    /// Signs `claims` into a compact JWS with the header `typ`.
    ///
    /// # Errors
    /// [`SignError`] when the library fails.
    pub fn sign(&self, claims: &Map<String, Value>, typ: &str) -> Result<String, SignError> {
        let mut token = self.header.signing_input(claims, typ)?;
        match &self.pair {
            Pair::Ec(pair) => {
                let signature = pair.sign(&SystemRandom::new(), token.as_bytes()).map_err(|_| SignError)?;
                append(&mut token, signature.as_ref());
            }
            Pair::Ed(pair) => {
                let signature = pair.try_sign(token.as_bytes()).map_err(|_| SignError)?;
                append(&mut token, signature.as_ref());
            }
            Pair::Rsa(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(rsa_encoding(self.algorithm())?, &SystemRandom::new(), token.as_bytes(), &mut signature)
                    .map_err(|_| SignError)?;
                append(&mut token, &signature);
            }
        }
        Ok(token)
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKey")
            .field("algorithm", &self.algorithm())
            .field("key_id", &self.key_id())
            .finish_non_exhaustive()
    }
}

/// The header up to its `typ`, written once: minting is on the request path.
struct HeaderStart(String);

impl HeaderStart {
    fn new(algorithm: Algorithm, key_id: &str) -> Self {
        Self(format!("{{\"alg\":\"{algorithm}\",\"kid\":{},\"typ\":", Value::from(key_id)))
    }

    /// *header.payload*, with room for the signature.
    fn signing_input(&self, claims: &Map<String, Value>, typ: &str) -> Result<String, SignError> {
        let payload = serde_json::to_vec(claims).map_err(|_| SignError)?;
        let header = format!("{}{}}}", self.0, Value::from(typ));
        let mut input = String::with_capacity((header.len() + payload.len()) * 4 / 3 + 360);
        URL_SAFE_NO_PAD.encode_string(header, &mut input);
        input.push('.');
        URL_SAFE_NO_PAD.encode_string(payload, &mut input);
        Ok(input)
    }
}

fn append(token: &mut String, signature: &[u8]) {
    token.push('.');
    URL_SAFE_NO_PAD.encode_string(signature, token);
}

fn ecdsa(algorithm: Algorithm) -> Result<&'static EcdsaSigningAlgorithm, SigningKeyError> {
    match algorithm {
        Algorithm::ES256 => Ok(&ECDSA_P256_SHA256_FIXED_SIGNING),
        Algorithm::ES384 => Ok(&ECDSA_P384_SHA384_FIXED_SIGNING),
        _ => Err(SigningKeyError::Kind(algorithm)),
    }
}

fn rsa_encoding(algorithm: Algorithm) -> Result<&'static dyn RsaEncoding, SignError> {
    match algorithm {
        Algorithm::PS256 => Ok(&RSA_PSS_SHA256),
        Algorithm::PS384 => Ok(&RSA_PSS_SHA384),
        Algorithm::PS512 => Ok(&RSA_PSS_SHA512),
        Algorithm::RS256 => Ok(&RSA_PKCS1_SHA256),
        Algorithm::RS384 => Ok(&RSA_PKCS1_SHA384),
        Algorithm::RS512 => Ok(&RSA_PKCS1_SHA512),
        _ => Err(SignError),
    }
}

/// The bytes of the one private key in the text.
fn private_key(pem: &str) -> Option<Zeroizing<Vec<u8>>> {
    let mut blocks = Pem::iter_from_buffer(pem.as_bytes());
    match (blocks.next(), blocks.next()) {
        (Some(Ok(block)), None) if block.label == LABEL => Some(Zeroizing::new(block.contents)),
        _ => None,
    }
}

/// RFC 7468 §2: 64 characters a line.
fn pem_of(pkcs8: &[u8]) -> Zeroizing<String> {
    let body = Zeroizing::new(STANDARD.encode(pkcs8));
    let mut pem = Zeroizing::new(String::with_capacity(body.len() * 66 / 64 + 64));
    pem.push_str("-----BEGIN PRIVATE KEY-----\n");
    let mut rest = body.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at_checked(64).unwrap_or((rest, ""));
        pem.push_str(line);
        pem.push('\n');
        rest = after;
    }
    pem.push_str("-----END PRIVATE KEY-----\n");
    pem
}
