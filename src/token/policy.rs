//! What one issuer's tokens must look like to be honoured.

use std::time::Duration;

use serde_json::Value;

use super::{Algorithm, Claims, Header};
use crate::time::Timestamp;

/// The rules of one issuer. Pure: the same token, the same instant, the same answer.
#[derive(Clone, Debug)]
pub struct Policy {
    /// `alg` values honoured.
    pub algorithms: Vec<Algorithm>,
    /// `typ` values honoured, compared ignoring ASCII case and an `application/` prefix (RFC 7515
    /// §4.1.9). The empty string stands for an absent `typ`.
    pub types: Vec<String>,
    /// Audiences, one of which `aud` must name, byte by byte.
    pub audiences: Vec<String>,
    /// Tolerance between the issuer's clock and ours.
    pub clock_skew: Duration,
    /// The longest `exp - iat` honoured.
    pub max_lifetime: Duration,
    /// Claims that must be there and not `null`, beyond `iss`, `exp` and `iat`; looked up as
    /// [`Claims::find`] does.
    pub require: Vec<String>,
}

/// Which rule a token breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// `alg` is not in the list.
    #[error("the algorithm is not allowed")]
    AlgNotAllowed,
    /// `typ` is not in the list.
    #[error("the type is not allowed")]
    TypNotAllowed,
    /// A required claim is absent or `null`.
    #[error("a required claim is missing")]
    MissingClaim,
    /// `exp` is before `iat`.
    #[error("a claim is malformed")]
    MalformedClaim,
    /// `aud` names none of the audiences, or is absent.
    #[error("the audience is not allowed")]
    AudienceNotAllowed,
    /// `exp` has passed.
    #[error("the token has expired")]
    Expired,
    /// `nbf` has not come.
    #[error("the token is not valid yet")]
    NotYetValid,
    /// `iat` has not come.
    #[error("the token was issued in the future")]
    IssuedInFuture,
    /// `exp - iat` is more than the limit.
    #[error("the token's lifetime is too long")]
    LifetimeTooLong,
}

impl Policy {
    /// Judges `alg` and `typ`.
    ///
    /// # Errors
    /// [`PolicyError::AlgNotAllowed`] or [`PolicyError::TypNotAllowed`].
    pub fn check_header(&self, header: &Header) -> Result<(), PolicyError> {
        if !self.algorithms.contains(&header.algorithm) {
            return Err(PolicyError::AlgNotAllowed);
        }
        let typ = match header.typ.as_deref() {
            None => "",
            // An empty `typ` that is there is not an absent one.
            Some("") => return Err(PolicyError::TypNotAllowed),
            Some(typ) => bare(typ),
        };
        if self.types.iter().any(|allowed| bare(allowed).eq_ignore_ascii_case(typ)) {
            return Ok(());
        }
        Err(PolicyError::TypNotAllowed)
    }

    /// Judges the required claims and the audience.
    ///
    /// # Errors
    /// [`PolicyError::MissingClaim`] or [`PolicyError::AudienceNotAllowed`].
    pub fn check_claims(&self, claims: &Claims) -> Result<(), PolicyError> {
        if self.require.iter().any(|name| claims.find(name).is_none_or(Value::is_null)) {
            return Err(PolicyError::MissingClaim);
        }
        if claims.audiences.iter().any(|audience| self.audiences.contains(audience)) {
            return Ok(());
        }
        Err(PolicyError::AudienceNotAllowed)
    }

    /// Judges the token's times at `now`. The token is alive while `now < exp + skew` (RFC 7519
    /// §4.1.4: `exp` itself is too late), from `nbf - skew` and `iat - skew` on.
    ///
    /// # Errors
    /// The first of [`PolicyError::Expired`], [`PolicyError::NotYetValid`],
    /// [`PolicyError::IssuedInFuture`], [`PolicyError::MalformedClaim`] (it expires before it was
    /// issued) and [`PolicyError::LifetimeTooLong`] that holds.
    pub fn check_times(&self, claims: &Claims, now: Timestamp) -> Result<(), PolicyError> {
        let latest = now.plus(self.clock_skew);
        if now >= claims.expires.plus(self.clock_skew) {
            return Err(PolicyError::Expired);
        }
        if claims.not_before.is_some_and(|at| at > latest) {
            return Err(PolicyError::NotYetValid);
        }
        if claims.issued > latest {
            return Err(PolicyError::IssuedInFuture);
        }
        if claims.expires < claims.issued {
            return Err(PolicyError::MalformedClaim);
        }
        if claims.expires.since(claims.issued) > self.max_lifetime {
            return Err(PolicyError::LifetimeTooLong);
        }
        Ok(())
    }
}

/// A media type without the `application/` that `typ` may leave out.
fn bare(typ: &str) -> &str {
    const PREFIX: &str = "application/";
    match typ.split_at_checked(PREFIX.len()) {
        Some((prefix, rest)) if prefix.eq_ignore_ascii_case(PREFIX) => rest,
        _ => typ,
    }
}
