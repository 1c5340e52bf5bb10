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
        let typ = header.typ.as_deref().map(bare);
        // A `typ` that is there and says nothing is not an absent one.
        if typ == Some("") {
            return Err(PolicyError::TypNotAllowed);
        }
        let typ = typ.unwrap_or_default();
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn policy() -> Policy {
        Policy {
            algorithms: vec![Algorithm::ES256],
            types: vec!["JWT".into(), "at+jwt".into()],
            audiences: vec!["shop".into(), "api".into()],
            clock_skew: Duration::from_secs(5),
            max_lifetime: Duration::from_secs(3600),
            require: vec!["sub".into(), "realm.role".into()],
        }
    }

    fn claims(value: Value) -> Claims {
        Claims::from_object(value.as_object().unwrap().clone()).unwrap()
    }

    #[test]
    fn a_type_is_allowed_in_each_spelling_of_it() {
        let judge = |policy: &Policy, typ: Option<&str>| {
            policy.check_header(&Header { algorithm: Algorithm::ES256, key_id: None, typ: typ.map(str::to_owned) })
        };
        let without = policy();
        let with = Policy { types: vec!["application/JWT".into(), String::new()], ..policy() };
        for typ in ["JWT", "jwt", "at+jwt", "AT+JWT", "application/at+jwt", "Application/JWT"] {
            assert_eq!(judge(&without, Some(typ)), Ok(()), "{typ}");
        }
        for typ in [
            "",
            "logout+jwt",
            "secevent+jwt",
            "dpop+jwt",
            "text/jwt",
            "application/",
            "application/application/jwt",
            " JWT",
        ] {
            assert_eq!(judge(&without, Some(typ)), Err(PolicyError::TypNotAllowed), "{typ}");
        }
        assert_eq!(judge(&without, None), Err(PolicyError::TypNotAllowed));
        assert_eq!(judge(&with, None), Ok(()));
        assert_eq!(judge(&with, Some("jwt")), Ok(()));
        assert_eq!(judge(&with, Some("")), Err(PolicyError::TypNotAllowed));
        // What is left of the prefix alone is not an absent type.
        assert_eq!(judge(&with, Some("application/")), Err(PolicyError::TypNotAllowed));
    }

    #[test]
    fn an_algorithm_outside_the_list_is_refused() {
        for algorithm in Algorithm::ALL {
            let header = Header { algorithm, key_id: None, typ: Some("JWT".into()) };
            let expected = if algorithm == Algorithm::ES256 { Ok(()) } else { Err(PolicyError::AlgNotAllowed) };
            assert_eq!(policy().check_header(&header), expected, "{algorithm}");
        }
    }

    #[test]
    fn required_claims_and_one_of_the_audiences_must_be_there() {
        let base = json!({"iss": "a", "iat": 1, "exp": 2, "sub": "ada", "aud": "shop", "realm": {"role": "x"}});
        for (member, value, expected) in [
            ("x", json!(1), Ok(())),
            ("aud", json!(["other", "api"]), Ok(())),
            ("aud", json!([]), Err(PolicyError::AudienceNotAllowed)),
            ("aud", json!("Shop"), Err(PolicyError::AudienceNotAllowed)),
            ("aud", json!("shop2"), Err(PolicyError::AudienceNotAllowed)),
            ("aud", json!("sho"), Err(PolicyError::AudienceNotAllowed)),
            ("realm", json!({"role": null}), Err(PolicyError::MissingClaim)),
            ("realm", json!("role"), Err(PolicyError::MissingClaim)),
        ] {
            let mut all = base.clone();
            all[member] = value.clone();
            assert_eq!(policy().check_claims(&claims(all)), expected, "{member}: {value}");
        }
        for (member, expected) in [("aud", PolicyError::AudienceNotAllowed), ("sub", PolicyError::MissingClaim)] {
            let mut all = base.clone();
            all.as_object_mut().unwrap().shift_remove(member);
            assert_eq!(policy().check_claims(&claims(all)), Err(expected), "{member}");
        }
        let no_audience = Policy { audiences: vec![], ..policy() };
        assert_eq!(no_audience.check_claims(&claims(base)), Err(PolicyError::AudienceNotAllowed));
    }

    #[test]
    fn a_token_is_alive_within_its_times_and_the_skew() {
        let now = Timestamp::from_secs(10_000);
        for (iat, nbf, exp, expected) in [
            (9_000, None, 10_100, Ok(())),
            (9_000, None, 9_996, Ok(())),
            (9_000, None, 9_995, Err(PolicyError::Expired)),
            (9_000, None, 9_994, Err(PolicyError::Expired)),
            (9_000, Some(10_005), 10_100, Ok(())),
            (9_000, Some(10_006), 10_100, Err(PolicyError::NotYetValid)),
            (10_005, None, 10_100, Ok(())),
            (10_006, None, 10_100, Err(PolicyError::IssuedInFuture)),
            (9_999, None, 9_998, Err(PolicyError::MalformedClaim)),
            (9_999, None, 9_999, Ok(())),
            (9_000, None, 12_600, Ok(())),
            (9_000, None, 12_601, Err(PolicyError::LifetimeTooLong)),
            (9_000, None, 10_000_000_000, Err(PolicyError::LifetimeTooLong)),
            (9_000, None, u64::MAX, Err(PolicyError::LifetimeTooLong)),
            (u64::MAX, None, u64::MAX, Err(PolicyError::IssuedInFuture)),
        ] {
            let mut all = json!({"iss": "a", "iat": iat, "exp": exp});
            if let Some(nbf) = nbf {
                all["nbf"] = json!(nbf);
            }
            assert_eq!(policy().check_times(&claims(all), now), expected, "iat {iat} nbf {nbf:?} exp {exp}");
        }
        let strict = Policy { clock_skew: Duration::ZERO, ..policy() };
        let at_its_end = claims(json!({"iss": "a", "iat": 9_000, "exp": 10_000.9}));
        assert_eq!(strict.check_times(&at_its_end, now), Err(PolicyError::Expired), "the fraction is dropped");
    }
}
