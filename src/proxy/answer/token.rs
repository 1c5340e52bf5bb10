//! What a request for tokens is refused with: RFC 6749 §5.2, where everything else is problem details.

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};

use super::{denial_detail, json};
use crate::gate::Denial;

/// Why a refresh token brought nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenRefusal {
    /// It is worth nothing, or its session is not in good standing: a new login is needed. Or whoever asks has
    /// not proven to hold what it is bound to (RFC 9449 §5).
    InvalidGrant(Denial),
    /// The request does not say one thing.
    InvalidRequest(&'static str),
    /// Another scope was asked for than the session has.
    InvalidScope,
    /// It was given to another client, and that one may go on with it.
    OtherClient,
    /// What decides or remembers could not be had: the token is as good as before.
    Unavailable,
    /// Another grant type was asked for.
    UnsupportedGrantType,
}

impl TokenRefusal {
    /// The status it is answered with.
    pub(super) const fn status(&self) -> StatusCode {
        match self {
            Self::InvalidGrant(_)
            | Self::InvalidRequest(_)
            | Self::InvalidScope
            | Self::OtherClient
            | Self::UnsupportedGrantType => StatusCode::BAD_REQUEST,
            Self::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// The reason in the log.
    pub(super) const fn reason(&self) -> &'static str {
        match self {
            Self::InvalidGrant(denial) => denial.reason(),
            Self::InvalidRequest(_) => "bad_request",
            Self::InvalidScope => "insufficient_scope",
            Self::OtherClient => "claim_mismatch",
            Self::Unavailable => "keys_unavailable",
            Self::UnsupportedGrantType => "unsupported_grant_type",
        }
    }

    const fn error(&self) -> &'static str {
        match self {
            Self::InvalidGrant(Denial::InvalidProof(_)) => "invalid_dpop_proof",
            Self::InvalidGrant(_) | Self::OtherClient => "invalid_grant",
            Self::InvalidRequest(_) => "invalid_request",
            Self::InvalidScope => "invalid_scope",
            Self::Unavailable => "temporarily_unavailable",
            Self::UnsupportedGrantType => "unsupported_grant_type",
        }
    }

    pub(super) const fn detail(&self) -> &'static str {
        match self {
            Self::InvalidGrant(denial) => denial_detail(denial),
            Self::InvalidRequest(detail) => detail,
            Self::InvalidScope => "a session has the scope that it was opened with",
            Self::OtherClient => "the token was given to another client",
            Self::Unavailable => "try again",
            Self::UnsupportedGrantType => "grant_type must be refresh_token",
        }
    }

    /// The response.
    pub(super) fn response(&self) -> Response<Bytes> {
        let body = serde_json::json!({ "error": self.error(), "error_description": self.detail() });
        let mut response = json(self.status(), "application/json", body.to_string());
        if *self == Self::Unavailable {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("5"));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Context, Refusal};
    use super::*;
    use crate::gate::ProofFault;
    use crate::revocation::TargetKind;

    #[test]
    fn every_refusal_is_told_as_rfc_6749_says() {
        let context = Context { realm: "shop", proof_algorithms: "ES256", request_id: "r1", is_grpc: false };
        for (refusal, status, body) in [
            (
                TokenRefusal::InvalidGrant(Denial::Revoked(TargetKind::Session)),
                400,
                r#"{"error":"invalid_grant","error_description":"the token was revoked"}"#,
            ),
            (
                TokenRefusal::OtherClient,
                400,
                r#"{"error":"invalid_grant","error_description":"the token was given to another client"}"#,
            ),
            (
                TokenRefusal::InvalidGrant(Denial::InvalidProof(ProofFault::Missing)),
                400,
                r#"{"error":"invalid_dpop_proof","error_description":"the token is bound to a key, and no proof of possession came with it"}"#,
            ),
            (TokenRefusal::InvalidRequest("x"), 400, r#"{"error":"invalid_request","error_description":"x"}"#),
            (
                TokenRefusal::InvalidScope,
                400,
                r#"{"error":"invalid_scope","error_description":"a session has the scope that it was opened with"}"#,
            ),
            (
                TokenRefusal::UnsupportedGrantType,
                400,
                r#"{"error":"unsupported_grant_type","error_description":"grant_type must be refresh_token"}"#,
            ),
            (TokenRefusal::Unavailable, 503, r#"{"error":"temporarily_unavailable","error_description":"try again"}"#),
        ] {
            let response = Refusal::NoToken(refusal.clone()).response(context);
            assert_eq!(response.status(), status, "{refusal:?}");
            assert_eq!(response.body(), body, "{refusal:?}");
            assert_eq!(response.headers()["content-type"], "application/json");
            assert_eq!(response.headers()["cache-control"], "no-store");
            assert_eq!(response.headers().contains_key("retry-after"), status == 503);
        }
    }
}
