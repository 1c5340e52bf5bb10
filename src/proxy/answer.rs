//! Every answer that the gateway gives itself: the one place where a refusal becomes HTTP.
//!
//! A caller learns the reason from the closed list and nothing else; what went wrong inside is for the
//! log. Bodies are problem details (RFC 9457), challenges as in RFC 6750 §3.

#![deny(clippy::wildcard_enum_match_arm)]

mod grpc;
#[cfg(test)]
mod tests;
mod token;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, header};

pub(super) use self::grpc::is_call as is_grpc_call;
pub use self::token::TokenRefusal;
use super::path::PathError;
use crate::gate::{Denial, ProofFault};

/// Why a request is answered by the gateway and not by an upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The decision was negative.
    Denied(Denial),
    /// An upstream would have logged somebody in who may not be.
    LoginRefused(Denial),
    /// A refresh token brought nothing.
    NoToken(TokenRefusal),
    /// The request has no single meaning.
    BadRequest(&'static str),
    /// Its path has none.
    BadPath(PathError),
    /// Its host is not one that the certificate of its connection is for.
    Misdirected,
    /// Its method is known and not served here; the ones that are.
    MethodNotAllowed(&'static str),
    /// Its method is not known.
    MethodNotImplemented,
    /// It has more fields than `limits.header_count`.
    TooManyFields,
    /// Its target is longer than `limits.uri_bytes`.
    UriTooLong,
    /// Its body is larger than the route's `max_body`.
    BodyTooLarge,
    /// Its body came slower than `limits` allow.
    BodyTooSlow,
    /// Its body's framing is broken.
    BodyBroken,
    /// Its head did not become whole in time.
    HeadTooSlow,
    /// It expects something other than `100-continue`.
    ExpectationFailed,
    /// A rate limit does not let it pass.
    RateLimited {
        /// Seconds after which the next one may.
        seconds: u64,
    },
    /// The gateway has too many requests in flight.
    Overloaded,
    /// Its upstream has.
    UpstreamOverloaded,
    /// No route covers it.
    NoRoute,
    /// The session that it names is not one of its sender's.
    UnknownSession,
    /// No server of the upstream is healthy, so none was asked.
    UpstreamUnhealthy,
    /// No server of the upstream could be reached.
    UpstreamUnreachable,
    /// The server of the upstream could not be verified over TLS, or did not accept the gateway's certificate.
    UpstreamTlsFailed,
    /// The server answered with something that is not a response to forward, or broke off.
    UpstreamBroken,
    /// The server did not answer in time.
    UpstreamSlow,
    /// All connections that may be made to the servers are in use.
    UpstreamBusy,
    /// A revocation is in force and could not be made durable.
    StoreNotDurable,
    /// A session's token is longer than browsers keep in a cookie.
    CookieTooLarge,
    /// The gateway failed at something of its own.
    Internal,
}

/// What is the same in all answers to one request.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// `token.realm`.
    pub realm: &'a str,
    /// Algorithms that proofs of possession may be signed with, joined by spaces.
    pub proof_algorithms: &'a str,
    /// The request's id.
    pub request_id: &'a str,
    /// Whether the request is a call of gRPC, which is answered in its words.
    pub is_grpc: bool,
}

impl From<Denial> for Refusal {
    fn from(denial: Denial) -> Self {
        Self::Denied(denial)
    }
}

impl Refusal {
    /// The status it is answered with.
    #[must_use]
    pub const fn status(&self) -> StatusCode {
        match self {
            Self::Denied(denial) => denial_status(denial),
            Self::LoginRefused(_) => StatusCode::FORBIDDEN,
            Self::NoToken(refusal) => refusal.status(),
            Self::BadRequest(_) | Self::BadPath(_) | Self::BodyBroken => StatusCode::BAD_REQUEST,
            Self::Misdirected => StatusCode::MISDIRECTED_REQUEST,
            Self::MethodNotAllowed(_) => StatusCode::METHOD_NOT_ALLOWED,
            Self::MethodNotImplemented => StatusCode::NOT_IMPLEMENTED,
            Self::TooManyFields => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::UriTooLong => StatusCode::URI_TOO_LONG,
            Self::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::BodyTooSlow | Self::HeadTooSlow => StatusCode::REQUEST_TIMEOUT,
            Self::ExpectationFailed => StatusCode::EXPECTATION_FAILED,
            Self::RateLimited { .. } => StatusCode::TOO_MANY_REQUESTS,
            Self::NoRoute | Self::UnknownSession => StatusCode::NOT_FOUND,
            Self::UpstreamUnreachable | Self::UpstreamTlsFailed | Self::UpstreamBroken => StatusCode::BAD_GATEWAY,
            Self::UpstreamSlow => StatusCode::GATEWAY_TIMEOUT,
            Self::UpstreamUnhealthy
            | Self::UpstreamBusy
            | Self::StoreNotDurable
            | Self::Overloaded
            | Self::UpstreamOverloaded => StatusCode::SERVICE_UNAVAILABLE,
            Self::CookieTooLarge | Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// The reason in the body and the log.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Denied(denial) | Self::LoginRefused(denial) => denial.reason(),
            Self::NoToken(refusal) => refusal.reason(),
            Self::BadRequest(_) => "bad_request",
            Self::BadPath(_) => "bad_path",
            Self::Misdirected => "misdirected",
            Self::MethodNotAllowed(_) => "method_not_allowed",
            Self::MethodNotImplemented => "method_not_implemented",
            Self::TooManyFields => "too_many_fields",
            Self::UriTooLong => "uri_too_long",
            Self::BodyTooLarge => "body_too_large",
            Self::BodyTooSlow => "body_too_slow",
            Self::BodyBroken => "body_broken",
            Self::HeadTooSlow => "head_too_slow",
            Self::ExpectationFailed => "expectation_failed",
            Self::RateLimited { .. } => "rate_limited",
            Self::Overloaded => "overloaded",
            Self::UpstreamOverloaded => "upstream_overloaded",
            Self::NoRoute => "no_route",
            Self::UnknownSession => "unknown_session",
            Self::UpstreamUnhealthy => "upstream_unhealthy",
            Self::UpstreamUnreachable => "upstream_unreachable",
            Self::UpstreamTlsFailed => "upstream_tls_failed",
            Self::UpstreamBroken => "upstream_broken",
            Self::UpstreamSlow => "upstream_slow",
            Self::UpstreamBusy => "upstream_busy",
            Self::StoreNotDurable => "store_not_durable",
            Self::CookieTooLarge => "cookie_too_large",
            Self::Internal => "internal",
        }
    }

    /// Whether the connection must end with the answer: its next bytes may not be a request.
    #[must_use]
    pub const fn closes(&self) -> bool {
        match self {
            Self::BadRequest(_)
            | Self::BadPath(_)
            | Self::TooManyFields
            | Self::UriTooLong
            | Self::BodyTooLarge
            | Self::BodyTooSlow
            | Self::BodyBroken
            | Self::HeadTooSlow
            | Self::ExpectationFailed => true,
            Self::Denied(_)
            | Self::LoginRefused(_)
            | Self::NoToken(_)
            | Self::Misdirected
            | Self::MethodNotAllowed(_)
            | Self::MethodNotImplemented
            | Self::RateLimited { .. }
            | Self::Overloaded
            | Self::UpstreamOverloaded
            | Self::NoRoute
            | Self::UnknownSession
            | Self::UpstreamUnhealthy
            | Self::UpstreamUnreachable
            | Self::UpstreamTlsFailed
            | Self::UpstreamBroken
            | Self::UpstreamSlow
            | Self::UpstreamBusy
            | Self::StoreNotDurable
            | Self::CookieTooLarge
            | Self::Internal => false,
        }
    }

    /// What a caller is told of it.
    #[must_use]
    pub const fn detail(&self) -> &'static str {
        match self {
            Self::Denied(denial) => denial_detail(denial),
            Self::LoginRefused(_) => "this login is not allowed",
            Self::NoToken(refusal) => refusal.detail(),
            Self::BadRequest(detail) => detail,
            Self::BadPath(PathError::NotAbsolute) => "the request target is not a path",
            Self::BadPath(PathError::BrokenEscape) => "the path has a broken percent-escape",
            Self::BadPath(PathError::Ambiguous) => "the path has a byte that servers read differently",
            Self::Misdirected => "this host is served on other connections",
            Self::MethodNotAllowed(_) => "the method is not allowed here",
            Self::MethodNotImplemented => "the method is not known",
            Self::TooManyFields => "the request has too many fields",
            Self::UriTooLong => "the request target is too long",
            Self::BodyTooLarge => "the request body is too large",
            Self::BodyTooSlow => "the request body came too slowly",
            Self::BodyBroken => "the request body is malformed",
            Self::HeadTooSlow => "the request head came too slowly",
            Self::ExpectationFailed => "the expectation is not supported",
            Self::RateLimited { .. } => "too many requests",
            Self::Overloaded => "the gateway has too much to do",
            Self::UpstreamOverloaded => "the upstream has too much to do",
            Self::NoRoute => "no route for this request",
            Self::UnknownSession => "no such session",
            Self::UpstreamUnhealthy => "no server of the upstream is healthy",
            Self::UpstreamUnreachable => "the upstream could not be reached",
            Self::UpstreamTlsFailed => "the upstream could not be reached over TLS",
            Self::UpstreamBroken => "the upstream gave no valid response",
            Self::UpstreamSlow => "the upstream did not answer in time",
            Self::UpstreamBusy => "the upstream is busy",
            Self::StoreNotDurable => "in force here until restart, but not durable",
            Self::CookieTooLarge => "the session has more claims than a cookie can carry",
            Self::Internal => "the gateway failed",
        }
    }

    /// The response.
    #[must_use]
    pub fn response(&self, context: Context<'_>) -> Response<Bytes> {
        if let Self::NoToken(refusal) = self {
            return refusal.response();
        }
        let mut headers = HeaderMap::with_capacity(6);
        if let Self::Denied(denial) = self
            && let Some(challenge) = challenge(denial, context)
        {
            headers.insert(header::WWW_AUTHENTICATE, challenge);
        }
        if let Self::MethodNotAllowed(allowed) = self {
            headers.insert(header::ALLOW, HeaderValue::from_static(allowed));
        }
        if self.status() == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("5"));
        }
        if matches!(self, Self::Overloaded | Self::UpstreamOverloaded) {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        if let Self::RateLimited { seconds } = self {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(*seconds));
        }
        if *self == Self::UpstreamBusy {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        if self.closes() {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        if context.is_grpc {
            return grpc::response(self.status(), self.reason(), self.detail(), headers);
        }
        problem(self.status(), self.reason(), self.detail(), context.request_id, headers)
    }
}

/// A response as HTTP/1.1 writes it.
pub(super) fn written(response: &Response<Bytes>) -> Vec<u8> {
    let status = response.status();
    let mut bytes = format!("HTTP/1.1 {} {}\r\n", status.as_str(), status.canonical_reason().unwrap_or_default());
    bytes.push_str(&format!("content-length: {}\r\n", response.body().len()));
    let mut bytes = bytes.into_bytes();
    for (name, value) in response.headers() {
        let line = [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"];
        line.into_iter().for_each(|part| bytes.extend_from_slice(part));
    }
    bytes.extend_from_slice(b"\r\n");
    bytes.extend_from_slice(response.body());
    bytes
}

/// Problem details (RFC 9457) as a response, never stored.
fn problem(status: StatusCode, reason: &str, detail: &str, request_id: &str, headers: HeaderMap) -> Response<Bytes> {
    let title = status.canonical_reason().unwrap_or_default();
    let code = status.as_u16();
    let body = serde_json::json!({
        "type": "about:blank", "title": title, "status": code, "detail": detail, "reason": reason,
        "request_id": request_id,
    });
    let mut response = json(status, "application/problem+json", body.to_string());
    response.headers_mut().extend(headers);
    response
}

/// A JSON answer that is never stored.
#[must_use]
pub(super) fn json(status: StatusCode, content_type: &'static str, body: String) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

const fn denial_status(denial: &Denial) -> StatusCode {
    match denial {
        Denial::MultipleTokens => StatusCode::BAD_REQUEST,
        // Nobody is signed out because a key server or a broker is down, or because others send too many proofs.
        Denial::KeysUnavailable | Denial::ProofsExhausted | Denial::StateStale => StatusCode::SERVICE_UNAVAILABLE,
        Denial::InsufficientScope(_) | Denial::ClaimMismatch | Denial::CrossSite => StatusCode::FORBIDDEN,
        Denial::MissingToken
        | Denial::MalformedToken
        | Denial::TokenTooLarge
        | Denial::AlgNotAllowed
        | Denial::TypNotAllowed
        | Denial::CritNotSupported
        | Denial::IssuerNotAllowed
        | Denial::UnknownKey
        | Denial::BadSignature
        | Denial::MissingClaim
        | Denial::MalformedClaim
        | Denial::AudienceNotAllowed
        | Denial::Expired
        | Denial::NotYetValid
        | Denial::IssuedInFuture
        | Denial::LifetimeTooLong
        | Denial::Revoked(_)
        | Denial::SessionTooOld
        | Denial::CredentialChanged
        | Denial::InvalidProof(_)
        | Denial::BoundTokenAsBearer
        | Denial::TokenNotBound
        | Denial::CertificateMismatch
        | Denial::InsufficientUserAuthentication { .. } => StatusCode::UNAUTHORIZED,
    }
}

/// What a caller is told: enough to act on, nothing about keys or other tokens.
const fn denial_detail(denial: &Denial) -> &'static str {
    match denial {
        Denial::MissingToken => "a token is needed",
        Denial::MultipleTokens => "exactly one token must be presented",
        Denial::MalformedToken => "the token is malformed",
        Denial::TokenTooLarge => "the token is too large",
        Denial::AlgNotAllowed => "the signature algorithm is not allowed",
        Denial::TypNotAllowed => "the token type is not allowed",
        Denial::CritNotSupported => "the token needs an extension that is not supported",
        Denial::IssuerNotAllowed => "the issuer is not known",
        Denial::UnknownKey => "the signing key is not known",
        Denial::KeysUnavailable => "the keys to check the token with cannot be had",
        Denial::BadSignature => "the signature does not verify",
        Denial::MissingClaim => "a required claim is missing",
        Denial::MalformedClaim => "a claim is malformed",
        Denial::AudienceNotAllowed => "the token is meant for another audience",
        Denial::Expired => "the token has expired",
        Denial::NotYetValid => "the token is not valid yet",
        Denial::IssuedInFuture => "the token was issued in the future",
        Denial::LifetimeTooLong => "the token lives too long",
        Denial::Revoked(_) => "the token was revoked",
        Denial::CredentialChanged => "the credentials of the account have changed",
        Denial::SessionTooOld => "a new login is needed",
        Denial::InvalidProof(fault) => proof_detail(*fault),
        Denial::BoundTokenAsBearer => "the token is bound to a key: it is no bearer token",
        Denial::TokenNotBound => "the token must be bound to its holder, and is not",
        Denial::CertificateMismatch => "the token is bound to another client certificate",
        Denial::ProofsExhausted => "too many proofs of possession have come lately",
        Denial::StateStale => "it cannot be known whether the token was revoked elsewhere",
        Denial::InsufficientScope(_) => "the token lacks a scope",
        Denial::ClaimMismatch => "the token does not meet this route's conditions",
        Denial::InsufficientUserAuthentication { .. } => "a more recent or a stronger login is needed",
        Denial::CrossSite => "a cookie from another site does not count",
    }
}

/// What a client must know to make a better proof.
const fn proof_detail(fault: ProofFault) -> &'static str {
    match fault {
        ProofFault::Missing => "the token is bound to a key, and no proof of possession came with it",
        ProofFault::Several => "exactly one proof of possession must come",
        ProofFault::Malformed => "the proof of possession is malformed",
        ProofFault::Algorithm => "the algorithm of the proof of possession is not allowed",
        ProofFault::Key => "the key of the proof of possession cannot be used",
        ProofFault::Signature => "the signature of the proof of possession does not verify",
        ProofFault::Method => "the proof of possession was made for another method",
        ProofFault::Target => "the proof of possession was made for another URL",
        ProofFault::Age => "the proof of possession is too old, or from the future",
        ProofFault::Token => "the proof of possession was made for another token",
        ProofFault::Binding => "the token is bound to another key",
        ProofFault::Used => "the proof of possession was used before",
    }
}

/// The `WWW-Authenticate` value (RFC 6750 §3, RFC 9449 §7.1), parameters in fixed order.
fn challenge(denial: &Denial, context: Context<'_>) -> Option<HeaderValue> {
    let (realm, algorithms) = (quoted(context.realm), quoted(context.proof_algorithms));
    let text = match (denial, denial_status(denial)) {
        (Denial::MissingToken, _) => format!("Bearer realm={realm}"),
        (Denial::MultipleTokens, _) => format!("Bearer realm={realm}, error=\"invalid_request\""),
        (Denial::MalformedToken | Denial::TokenTooLarge, _) => {
            format!("Bearer realm={realm}, error=\"invalid_token\"")
        }
        (Denial::InsufficientScope(scope), _) => {
            let scope = quoted(scope);
            format!("Bearer realm={realm}, error=\"insufficient_scope\", scope={scope}")
        }
        (Denial::ClaimMismatch, _) => format!("Bearer realm={realm}, error=\"insufficient_scope\""),
        (Denial::InsufficientUserAuthentication { max_age, acr_values }, _) => step_up(&realm, *max_age, acr_values),
        (Denial::InvalidProof(_), _) => format!("DPoP error=\"invalid_dpop_proof\", algs={algorithms}"),
        (Denial::BoundTokenAsBearer | Denial::TokenNotBound, _) => {
            let detail = quoted(denial_detail(denial));
            format!("Bearer realm={realm}, error=\"invalid_token\", error_description={detail}, DPoP algs={algorithms}")
        }
        (Denial::CrossSite | Denial::KeysUnavailable | Denial::ProofsExhausted | Denial::StateStale, _) => return None,
        (other, _) => {
            let detail = quoted(denial_detail(other));
            format!("Bearer realm={realm}, error=\"invalid_token\", error_description={detail}")
        }
    };
    HeaderValue::from_str(&text).ok()
}

/// The challenge of RFC 9470 §3, its parameters quoted as in its examples.
fn step_up(realm: &str, max_age: Option<u64>, acr_values: &str) -> String {
    let mut text = format!("Bearer realm={realm}, error=\"insufficient_user_authentication\"");
    if let Some(seconds) = max_age {
        text.push_str(&format!(", max_age=\"{seconds}\""));
    }
    if !acr_values.is_empty() {
        text.push_str(&format!(", acr_values={}", quoted(acr_values)));
    }
    text
}

/// A quoted-string (RFC 9110 §5.6.4); bytes it cannot hold are left out.
fn quoted(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for char in text.chars().filter(|char| matches!(char, ' '..='~')) {
        if matches!(char, '"' | '\\') {
            quoted.push('\\');
        }
        quoted.push(char);
    }
    quoted.push('"');
    quoted
}

/// The answer to a method that one of the gateway's own endpoints does not have.
#[must_use]
pub(super) fn wrong_method(method: &Method, allowed: &'static str) -> Option<Refusal> {
    let fits = allowed.split(", ").any(|name| name == method.as_str());
    (!fits).then_some(Refusal::MethodNotAllowed(allowed))
}

/// Names that answers to browsers expose.
pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
