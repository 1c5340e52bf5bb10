//! The claims of a token (RFC 7519 §4), read once into types that the rest can rely on.

use serde_json::{Map, Value};

use crate::time::Timestamp;

/// What a token says about itself. Well formed; believed only inside a
/// [`Verified`](crate::gate::Verified).
#[derive(Clone, Debug)]
pub struct Claims {
    /// `iss`, always a string.
    pub issuer: String,
    /// `sub`.
    pub subject: Option<String>,
    /// `aud`; a single string is a list of one. Empty when absent.
    pub audiences: Vec<String>,
    /// `exp`, fractions rounded down.
    pub expires: Timestamp,
    /// `nbf`, fractions rounded down.
    pub not_before: Option<Timestamp>,
    /// `iat`, fractions rounded down.
    pub issued: Timestamp,
    /// `jti`.
    pub id: Option<String>,
    /// `sid` (OpenID Connect Front-/Back-Channel Logout 1.0).
    pub session: Option<String>,
    /// `azp`, else `client_id` (RFC 9068 §2.2).
    pub client: Option<String>,
    /// `auth_time` (OpenID Connect Core 1.0 §2), fractions rounded down.
    pub authenticated: Option<Timestamp>,
    /// Every member of the payload, the above included, in the order they came.
    pub all: Map<String, Value>,
}

/// What only the gateway's own tokens carry: where their session comes from (the origin rule).
///
/// Copied unchanged on reissue and refresh, so that neither moves anybody past a revocation. Never
/// read from a token of another issuer.
#[derive(Clone, Debug, PartialEq)]
pub struct Lineage {
    /// `orig_iat`: the `iat` of the token that opened the session or, for a grant, when the login
    /// request arrived (NumericDate with milliseconds).
    pub origin_issued: Timestamp,
    /// `orig`: the token that opened the session; absent for a grant.
    pub origin: Option<Origin>,
    /// `keys`: thumbprints of the gateway keys that signed in this chain before the present one.
    pub keys: Vec<String>,
}

/// The token that a session was opened with, as far as a revocation can name it.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Origin {
    /// Its `iss`.
    pub issuer: String,
    /// Its `sub`.
    pub subject: Option<String>,
    /// Its revocation name: `jti`, or `sha256:` and the base64url digest of *header.payload*.
    pub token: String,
    /// Its `sid`.
    pub session: Option<String>,
    /// Its `azp` or `client_id`.
    pub client: Option<String>,
    /// The RFC 7638 thumbprint of the key that verified it.
    pub key: String,
    /// Its `aud`.
    pub audiences: Vec<String>,
    /// Its credential fingerprint (`cfp`), when its issuer has one.
    pub credential: Option<String>,
}
