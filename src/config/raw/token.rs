//! Where tokens stand in a request.

use schemars::JsonSchema;
use serde::Deserialize;

use super::{AlgorithmName, Duration, Size};

/// Where tokens are looked for.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Token {
    /// Places, in order; a request may have a token in one of them only.
    #[schemars(length(min = 1), extend("default" = [{ "header": "Authorization" }]))]
    pub(in crate::config) from: Option<Vec<TokenPlace>>,
    /// The longest token looked at.
    #[schemars(extend("default" = "8KiB"))]
    pub(in crate::config) max_bytes: Option<Size>,
    /// The realm of challenges (RFC 6750 §3).
    #[schemars(extend("default" = "portcullis"))]
    pub(in crate::config) realm: Option<String>,
    /// What each worker spends on remembering verified tokens.
    #[schemars(extend("default" = "64MiB"))]
    pub(in crate::config) cache: Option<Size>,
    /// Proofs of possession for tokens that are bound to a key (DPoP, RFC 9449).
    #[schemars(extend("default" = {}))]
    pub(in crate::config) dpop: Option<Dpop>,
}

/// Proofs of possession for tokens that are bound to a key (DPoP, RFC 9449).
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Dpop {
    /// Algorithms that proofs may be signed with; never HS*.
    #[schemars(length(min = 1), extend("default" = ["ES256", "ES384", "EdDSA", "PS256", "RS256"]))]
    pub(in crate::config) algorithms: Option<Vec<AlgorithmName>>,
    /// For how long a proof is good after its `iat`.
    #[schemars(extend("default" = "60s"))]
    pub(in crate::config) proof_max_age: Option<Duration>,
    /// Tolerance between the clocks of clients and ours; at most 5m.
    #[schemars(extend("default" = "5s"))]
    pub(in crate::config) clock_skew: Option<Duration>,
    /// Used proofs remembered at most, an eighth of them of one key; beyond it proofs are refused with 503.
    #[schemars(range(min = 1000, max = 100_000_000), extend("default" = 200_000))]
    pub(in crate::config) max_proofs: Option<u64>,
}

/// One place a token may be in: exactly one of the two.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct TokenPlace {
    /// A header: `Authorization: Bearer …`, or another one whose whole value is the token.
    #[schemars(length(min = 1))]
    pub(in crate::config) header: Option<String>,
    /// A cookie.
    #[schemars(length(min = 1))]
    pub(in crate::config) cookie: Option<String>,
}
