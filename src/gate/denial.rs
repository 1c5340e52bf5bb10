//! Why a request was refused: one closed list for body, log, metric and `explain`.

use super::ProofFault;
use crate::revocation::TargetKind;

/// Proof of one negative decision. Each variant is a fact; `proxy::answer` alone turns it into HTTP.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Denial {
    /// No token was presented.
    MissingToken,
    /// Several tokens, or an `Authorization` header that is not one bearer token (RFC 6750 §3.1,
    /// `invalid_request`).
    MultipleTokens,
    /// Not a compact JWS of JSON objects in canonical form.
    MalformedToken,
    /// Longer than `token.max_bytes`.
    TokenTooLarge,
    /// `alg` unknown, not in the issuer's list, or not the one bound to the key.
    AlgNotAllowed,
    /// `typ` not in the issuer's list.
    TypNotAllowed,
    /// `crit`, `b64`, `zip`, `enc` or `cty` is there.
    CritNotSupported,
    /// `iss` is not configured.
    IssuerNotAllowed,
    /// No key of the issuer fits `kid` and `alg`.
    UnknownKey,
    /// The issuer's keys, or what a subject's tokens are bound to, could not be had.
    KeysUnavailable,
    /// No fitting key verifies the signature.
    BadSignature,
    /// A required claim is absent.
    MissingClaim,
    /// A claim has the wrong type or an impossible value.
    MalformedClaim,
    /// `aud` names none of the expected audiences.
    AudienceNotAllowed,
    /// `exp` has passed.
    Expired,
    /// `nbf` has not come.
    NotYetValid,
    /// `iat` has not come.
    IssuedInFuture,
    /// `exp - iat` is more than the issuer's `max_lifetime`.
    LifetimeTooLong,
    /// A revocation of one of its targets is in force.
    Revoked(TargetKind),
    /// A cutoff on `auth_time` is in force and the token has none, or its authentication is older than
    /// the issuer's `max_authentication_age`.
    SessionTooOld,
    /// The subject's credential is not the one that the token, or the one that opened its session, hangs on.
    CredentialChanged,
    /// The token is bound to a key, and what proves that its sender has it is not good (RFC 9449 §4.3).
    InvalidProof(ProofFault),
    /// The token is bound to a key, and came as a bearer token (RFC 9449 §7.2).
    BoundTokenAsBearer,
    /// The token is not bound to its holder, and the route, its issuer or the way it came demand that.
    TokenNotBound,
    /// The token is bound to a certificate that its sender did not connect with (RFC 8705 §3).
    CertificateMismatch,
    /// As many proofs as may be are remembered already; an earlier one is not forgotten for this one.
    ProofsExhausted,
    /// What was revoked elsewhere may not have come here yet.
    StateStale,
    /// The route demands scopes that the token lacks; they are named to the caller (RFC 6750 §3.1).
    InsufficientScope(String),
    /// The route demands claim values that the token lacks.
    ClaimMismatch,
    /// The route demands a more recent or a stronger authentication (RFC 9470).
    InsufficientUserAuthentication {
        /// How long ago it may have been at most, in seconds, if that is demanded.
        max_age: Option<u64>,
        /// The `acr` values that would do, the preferred one first, joined by spaces; may be empty.
        acr_values: String,
    },
    /// A cookie-borne token on an unsafe method without proof of same origin.
    CrossSite,
}

impl Denial {
    /// The name in bodies, logs, metrics and `explain`: chosen by us, never by a caller.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::MissingToken => "missing_token",
            Self::MultipleTokens => "multiple_tokens",
            Self::MalformedToken => "malformed_token",
            Self::TokenTooLarge => "token_too_large",
            Self::AlgNotAllowed => "alg_not_allowed",
            Self::TypNotAllowed => "typ_not_allowed",
            Self::CritNotSupported => "crit_not_supported",
            Self::IssuerNotAllowed => "issuer_not_allowed",
            Self::UnknownKey => "unknown_key",
            Self::KeysUnavailable => "keys_unavailable",
            Self::BadSignature => "bad_signature",
            Self::MissingClaim => "missing_claim",
            Self::MalformedClaim => "malformed_claim",
            Self::AudienceNotAllowed => "audience_not_allowed",
            Self::Expired => "expired",
            Self::NotYetValid => "not_yet_valid",
            Self::IssuedInFuture => "issued_in_future",
            Self::LifetimeTooLong => "lifetime_too_long",
            Self::Revoked(TargetKind::Token) => "revoked_token",
            Self::Revoked(TargetKind::Session) => "revoked_session",
            Self::Revoked(TargetKind::Subject) => "revoked_subject",
            Self::Revoked(TargetKind::Client) => "revoked_client",
            Self::Revoked(TargetKind::Key) => "revoked_key",
            Self::Revoked(TargetKind::Issuer) => "revoked_issuer",
            Self::Revoked(TargetKind::All) => "revoked_all",
            Self::SessionTooOld => "session_too_old",
            Self::CredentialChanged => "credential_changed",
            Self::InvalidProof(_) => "invalid_dpop_proof",
            Self::BoundTokenAsBearer => "bound_token_as_bearer",
            Self::TokenNotBound => "token_not_bound",
            Self::CertificateMismatch => "certificate_mismatch",
            Self::ProofsExhausted => "proofs_exhausted",
            Self::StateStale => "revocation_state_stale",
            Self::InsufficientScope(_) => "insufficient_scope",
            Self::ClaimMismatch => "claim_mismatch",
            Self::InsufficientUserAuthentication { .. } => "insufficient_user_authentication",
            Self::CrossSite => "cross_site",
        }
    }
}
