//! An issuer: it signs whatever it is told to, and publishes its keys.

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair,
    RSA_PKCS1_SHA256, RSA_PKCS1_SHA384, RSA_PSS_SHA256, RsaEncoding, RsaKeyPair,
};
use aws_lc_rs::{digest, hmac};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use portcullis::time::Clock;
use serde_json::{Map, Value, json};

/// The `iss` of the issuer that [`super::Site`] configures as `accounts`.
pub(crate) const ACCOUNTS: &str = "https://accounts.example/";

/// Seconds since the epoch.
pub(crate) fn now() -> i64 {
    Clock::System.now().secs()
}

/// base64url without padding (RFC 7515 §2).
pub(crate) fn base64url(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// SHA-256.
pub(crate) fn sha256(bytes: &[u8]) -> Vec<u8> {
    digest::digest(&digest::SHA256, bytes).as_ref().to_vec()
}

/// The claims of a token, not verified.
pub(crate) fn claims_of(token: &str) -> Value {
    let payload = token.split('.').nth(1).expect("a payload");
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).expect("base64url")).expect("JSON")
}

/// A key pair or a secret.
pub(crate) enum Key {
    Es256(EcdsaKeyPair),
    Es384(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
    Rsa(RsaKeyPair),
    Secret(Vec<u8>),
}

impl Key {
    pub(crate) fn es256() -> Self {
        Self::Es256(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap())
    }

    pub(crate) fn es384() -> Self {
        Self::Es384(EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).unwrap())
    }

    pub(crate) fn ed25519() -> Self {
        Self::Ed25519(Ed25519KeyPair::generate().unwrap())
    }

    pub(crate) fn rsa() -> Self {
        Self::Rsa(RsaKeyPair::generate(KeySize::Rsa2048).unwrap())
    }

    pub(crate) fn secret(bytes: &[u8]) -> Self {
        Self::Secret(bytes.to_vec())
    }

    /// The `alg` it signs with unless told otherwise.
    pub(crate) fn algorithm(&self) -> &'static str {
        match self {
            Self::Es256(_) => "ES256",
            Self::Es384(_) => "ES384",
            Self::Ed25519(_) => "EdDSA",
            Self::Rsa(_) => "RS256",
            Self::Secret(_) => "HS256",
        }
    }

    /// The public JWK with this `kid`.
    pub(crate) fn jwk(&self, kid: &str) -> Value {
        let (alg, point) = (self.algorithm(), self.public());
        match self {
            Self::Es256(_) | Self::Es384(_) => {
                let half = (point.len() - 1) / 2;
                let crv = if half == 32 { "P-256" } else { "P-384" };
                let (x, y) = (base64url(&point[1..=half]), base64url(&point[half + 1..]));
                json!({"kty": "EC", "use": "sig", "alg": alg, "crv": crv, "kid": kid, "x": x, "y": y})
            }
            Self::Ed25519(_) => {
                json!({"kty": "OKP", "use": "sig", "alg": alg, "crv": "Ed25519", "kid": kid, "x": base64url(point)})
            }
            Self::Rsa(pair) => {
                let n = pair.public_key().modulus().big_endian_without_leading_zero();
                json!({"kty": "RSA", "use": "sig", "alg": alg, "kid": kid, "n": base64url(n), "e": "AQAB"})
            }
            Self::Secret(bytes) => json!({"kty": "oct", "alg": alg, "kid": kid, "k": base64url(bytes)}),
        }
    }

    /// The public key as the key pair encodes it: an uncompressed point, raw Ed25519 bytes, or DER.
    pub(crate) fn public(&self) -> Vec<u8> {
        match self {
            Self::Es256(pair) | Self::Es384(pair) => pair.public_key().as_ref().to_vec(),
            Self::Ed25519(pair) => pair.public_key().as_ref().to_vec(),
            Self::Rsa(pair) => pair.public_key().as_ref().to_vec(),
            Self::Secret(bytes) => bytes.clone(),
        }
    }

    /// The public key as a PEM `SubjectPublicKeyInfo`.
    pub(crate) fn pem(&self) -> String {
        let der = match self {
            Self::Es256(pair) | Self::Es384(pair) => AsDer::as_der(pair.public_key()).unwrap().as_ref().to_vec(),
            Self::Ed25519(pair) => AsDer::as_der(pair.public_key()).unwrap().as_ref().to_vec(),
            Self::Rsa(pair) => AsDer::as_der(pair.public_key()).unwrap().as_ref().to_vec(),
            Self::Secret(_) => panic!("a secret has no public key"),
        };
        let lines: Vec<String> =
            STANDARD.encode(der).as_bytes().chunks(64).map(|line| String::from_utf8(line.to_vec()).unwrap()).collect();
        format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", lines.join("\n"))
    }

    /// Signs with this key's own algorithm.
    pub(crate) fn sign(&self, input: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match self {
            Self::Es256(pair) | Self::Es384(pair) => pair.sign(&random, input).unwrap().as_ref().to_vec(),
            Self::Ed25519(pair) => pair.sign(input).as_ref().to_vec(),
            Self::Rsa(_) => self.sign_rsa(&RSA_PKCS1_SHA256, input),
            Self::Secret(bytes) => hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, bytes), input).as_ref().to_vec(),
        }
    }

    /// An RSA signature of another kind: what an attacker tries with the right key.
    pub(crate) fn sign_rsa_as(&self, algorithm: &str, input: &[u8]) -> Vec<u8> {
        match algorithm {
            "PS256" => self.sign_rsa(&RSA_PSS_SHA256, input),
            "RS384" => self.sign_rsa(&RSA_PKCS1_SHA384, input),
            other => panic!("{other} is not an RSA algorithm of these tests"),
        }
    }

    fn sign_rsa(&self, padding: &'static dyn RsaEncoding, input: &[u8]) -> Vec<u8> {
        let Self::Rsa(pair) = self else { panic!("not an RSA key") };
        let mut signature = vec![0; pair.public_modulus_len()];
        pair.sign(padding, &SystemRandom::new(), input, &mut signature).unwrap();
        signature
    }
}

/// A key with the name it is published under and the `iss` it signs for.
pub(crate) struct Issuer {
    pub(crate) url: String,
    pub(crate) kid: String,
    pub(crate) key: Key,
}

impl Issuer {
    /// `accounts`, with a fresh ES256 key.
    pub(crate) fn accounts() -> Self {
        Self::new(ACCOUNTS, "accounts-1", Key::es256())
    }

    pub(crate) fn new(url: &str, kid: &str, key: Key) -> Self {
        Self { url: url.to_owned(), kid: kid.to_owned(), key }
    }

    /// The key set it publishes.
    pub(crate) fn jwks(&self) -> Value {
        json!({"keys": [self.key.jwk(&self.kid)]})
    }

    /// The header of its tokens.
    pub(crate) fn header(&self) -> Value {
        json!({"alg": self.key.algorithm(), "typ": "JWT", "kid": self.kid})
    }

    /// What its tokens say: `overrides` replaces claims; `null` removes one.
    pub(crate) fn claims(&self, overrides: Value) -> Value {
        let issued = now() - 1;
        let mut claims = json!({
            "iss": self.url, "sub": "bob", "aud": "shop", "iat": issued, "exp": issued + 3600,
            "jti": uuid::Uuid::now_v7().to_string(),
        });
        let (Value::Object(all), Value::Object(changes)) = (&mut claims, overrides) else { panic!("not an object") };
        for (name, value) in changes {
            if value.is_null() {
                all.shift_remove(&name)
            } else {
                all.insert(name, value)
            };
        }
        claims
    }

    /// A good token, apart from what `overrides` changes.
    pub(crate) fn token(&self, overrides: Value) -> String {
        self.sign(&self.header().to_string(), &self.claims(overrides).to_string())
    }

    /// A good token of a subject.
    pub(crate) fn token_of(&self, subject: &str) -> String {
        self.token(json!({"sub": subject}))
    }

    /// A token with other header parameters; `null` removes one.
    pub(crate) fn token_with_header(&self, overrides: Value) -> String {
        let mut header: Map<String, Value> = self.header().as_object().unwrap().clone();
        for (name, value) in overrides.as_object().unwrap() {
            if value.is_null() {
                header.shift_remove(name)
            } else {
                header.insert(name.clone(), value.clone())
            };
        }
        self.sign(&Value::Object(header).to_string(), &self.claims(json!({})).to_string())
    }

    /// Signs these texts as they are, be they JSON or not.
    pub(crate) fn sign(&self, header: &str, payload: &str) -> String {
        let input = format!("{}.{}", base64url(header), base64url(payload));
        format!("{input}.{}", base64url(self.key.sign(input.as_bytes())))
    }

    /// Signs this payload under a good header.
    pub(crate) fn sign_payload(&self, payload: &str) -> String {
        self.sign(&self.header().to_string(), payload)
    }
}
