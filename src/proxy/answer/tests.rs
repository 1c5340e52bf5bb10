//! What is answered, to the byte.

use super::*;
use crate::revocation::TargetKind;

fn answered(refusal: &Refusal) -> (u16, Option<String>, String) {
    let context = Context { realm: "shop \"1\"", proof_algorithms: "ES256 EdDSA", request_id: "r1", is_grpc: false };
    let response = refusal.response(context);
    let challenge = response.headers().get(header::WWW_AUTHENTICATE).map(|it| it.to_str().unwrap().to_owned());
    (response.status().as_u16(), challenge, String::from_utf8(response.body().to_vec()).unwrap())
}

#[test]
fn every_denial_has_its_status_and_challenge_to_the_byte() {
    let described =
        |text: &str| Some(format!(r#"Bearer realm="shop \"1\"", error="invalid_token", error_description="{text}""#));
    let unbound = |text: &str| described(text).map(|text| format!(r#"{text}, DPoP algs="ES256 EdDSA""#));
    let bare = Some(r#"Bearer realm="shop \"1\"", error="invalid_token""#.to_owned());
    let invalid = Some(r#"Bearer realm="shop \"1\"", error="invalid_request""#.to_owned());
    let scope = Some(r#"Bearer realm="shop \"1\"", error="insufficient_scope", scope="a b""#.to_owned());
    let stepping = |parameters: &str| {
        Some(format!(r#"Bearer realm="shop \"1\"", error="insufficient_user_authentication", {parameters}"#))
    };
    let step_up = |max_age, acr: &str| Denial::InsufficientUserAuthentication { max_age, acr_values: acr.to_owned() };
    let claim = Some(r#"Bearer realm="shop \"1\"", error="insufficient_scope""#.to_owned());
    for (denial, status, challenge) in [
        (Denial::MissingToken, 401, Some(r#"Bearer realm="shop \"1\"""#.to_owned())),
        (Denial::MultipleTokens, 400, invalid),
        (Denial::MalformedToken, 401, bare.clone()),
        (Denial::TokenTooLarge, 401, bare),
        (Denial::AlgNotAllowed, 401, described("the signature algorithm is not allowed")),
        (Denial::TypNotAllowed, 401, described("the token type is not allowed")),
        (Denial::CritNotSupported, 401, described("the token needs an extension that is not supported")),
        (Denial::IssuerNotAllowed, 401, described("the issuer is not known")),
        (Denial::UnknownKey, 401, described("the signing key is not known")),
        (Denial::BadSignature, 401, described("the signature does not verify")),
        (Denial::MissingClaim, 401, described("a required claim is missing")),
        (Denial::MalformedClaim, 401, described("a claim is malformed")),
        (Denial::AudienceNotAllowed, 401, described("the token is meant for another audience")),
        (Denial::Expired, 401, described("the token has expired")),
        (Denial::NotYetValid, 401, described("the token is not valid yet")),
        (Denial::IssuedInFuture, 401, described("the token was issued in the future")),
        (Denial::LifetimeTooLong, 401, described("the token lives too long")),
        (Denial::Revoked(TargetKind::Subject), 401, described("the token was revoked")),
        (Denial::SessionTooOld, 401, described("a new login is needed")),
        (Denial::InsufficientScope("a b".to_owned()), 403, scope),
        (Denial::ClaimMismatch, 403, claim),
        (step_up(Some(300), ""), 401, stepping(r#"max_age="300""#)),
        (step_up(None, "mfa"), 401, stepping(r#"acr_values="mfa""#)),
        (step_up(Some(0), "phr \"x\""), 401, stepping(r#"max_age="0", acr_values="phr \"x\"""#)),
        (
            Denial::InvalidProof(ProofFault::Used),
            401,
            Some(r#"DPoP error="invalid_dpop_proof", algs="ES256 EdDSA""#.to_owned()),
        ),
        (Denial::BoundTokenAsBearer, 401, unbound("the token is bound to a key: it is no bearer token")),
        (Denial::TokenNotBound, 401, unbound("the token must be bound to its holder, and is not")),
        (Denial::CertificateMismatch, 401, described("the token is bound to another client certificate")),
        (Denial::ProofsExhausted, 503, None),
        (Denial::StateStale, 503, None),
        (Denial::CrossSite, 403, None),
        (Denial::KeysUnavailable, 503, None),
    ] {
        let (found, told, body) = answered(&Refusal::Denied(denial.clone()));
        assert_eq!((found, told), (status, challenge), "{denial:?}");
        assert!(body.contains(&format!(r#""reason":"{}""#, denial.reason())), "{body}");
    }
}

#[test]
fn a_problem_is_told_to_the_byte() {
    let (_, _, body) = answered(&Refusal::NoRoute);
    let wanted = r#"{"type":"about:blank","title":"Not Found","status":404,"detail":"no route for this request","reason":"no_route","request_id":"r1"}"#;
    assert_eq!(body, wanted);
}

#[test]
fn grpc_is_told_in_its_own_words() {
    let context = Context { realm: "shop", proof_algorithms: "ES256", request_id: "r1", is_grpc: true };
    for (refusal, status, code, message) in [
        (Refusal::Denied(Denial::MissingToken), 401, "16", "missing_token: a token is needed"),
        (Refusal::Denied(Denial::CrossSite), 403, "7", "cross_site: a cookie from another site does not count"),
        (Refusal::Denied(Denial::MultipleTokens), 400, "3", "multiple_tokens: exactly one token must be presented"),
        (Refusal::NoRoute, 404, "12", "no_route: no route for this request"),
        (Refusal::RateLimited { seconds: 3 }, 429, "8", "rate_limited: too many requests"),
        (Refusal::BodyTooLarge, 413, "8", "body_too_large: the request body is too large"),
        (Refusal::Internal, 500, "13", "internal: the gateway failed"),
        (Refusal::UpstreamUnreachable, 502, "14", "upstream_unreachable: the upstream could not be reached"),
        (Refusal::Overloaded, 503, "14", "overloaded: the gateway has too much to do"),
        (Refusal::UpstreamSlow, 504, "14", "upstream_slow: the upstream did not answer in time"),
    ] {
        let response = refusal.response(context);
        assert_eq!((response.status().as_u16(), response.body().len()), (status, 0), "{refusal:?}");
        let field = |name: &str| response.headers().get(name).map(|value| value.to_str().unwrap());
        assert_eq!(field("content-type"), Some("application/grpc"), "{refusal:?}");
        assert_eq!((field("grpc-status"), field("grpc-message")), (Some(code), Some(message)), "{refusal:?}");
        assert_eq!(field("www-authenticate").is_some(), matches!(status, 400 | 401), "{refusal:?}");
        assert_eq!(field("retry-after").is_some(), matches!(status, 429 | 503), "{refusal:?}");
    }
}

#[test]
fn other_refusals_have_their_statuses() {
    for (refusal, status) in [
        (Refusal::LoginRefused(Denial::Revoked(TargetKind::Subject)), 403),
        (Refusal::BadRequest("x"), 400),
        (Refusal::BadPath(PathError::Ambiguous), 400),
        (Refusal::MethodNotAllowed("GET"), 405),
        (Refusal::MethodNotImplemented, 501),
        (Refusal::UriTooLong, 414),
        (Refusal::BodyTooLarge, 413),
        (Refusal::BodyTooSlow, 408),
        (Refusal::BodyBroken, 400),
        (Refusal::HeadTooSlow, 408),
        (Refusal::ExpectationFailed, 417),
        (Refusal::UnknownSession, 404),
        (Refusal::UpstreamUnhealthy, 503),
        (Refusal::UpstreamUnreachable, 502),
        (Refusal::UpstreamTlsFailed, 502),
        (Refusal::UpstreamBroken, 502),
        (Refusal::UpstreamSlow, 504),
        (Refusal::UpstreamBusy, 503),
        (Refusal::StoreNotDurable, 503),
        (Refusal::CookieTooLarge, 500),
        (Refusal::Internal, 500),
    ] {
        assert_eq!(answered(&refusal).0, status, "{refusal:?}");
    }
}
