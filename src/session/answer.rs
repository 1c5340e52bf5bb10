//! What the session endpoints say.

use std::fmt;

use serde::Serialize;

use super::Sessions;
use super::mint::Minted;
use super::slide::Current;
use crate::time::Timestamp;

/// The answer of `POST /session/exchange` (RFC 8693 §2.2.1). `Debug` does not show the token.
#[derive(Clone, Serialize)]
pub struct ExchangeAnswer<'a> {
    /// The minted token.
    pub access_token: &'a str,
    /// That it is an access token.
    pub issued_token_type: &'static str,
    /// How it is used.
    pub token_type: &'static str,
    /// Seconds until it expires.
    pub expires_in: u64,
    /// What it may be used for, when it says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scope: Option<&'a str>,
}

impl<'a> ExchangeAnswer<'a> {
    /// The answer that hands out `minted` at `now`.
    #[must_use]
    pub fn new(minted: &'a Minted, now: Timestamp) -> Self {
        Self {
            access_token: minted.token(),
            issued_token_type: "urn:ietf:params:oauth:token-type:access_token",
            token_type: "Bearer",
            expires_in: minted.remaining(now).as_secs(),
            scope: minted.scope.as_deref(),
        }
    }
}

impl fmt::Debug for ExchangeAnswer<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExchangeAnswer").field("expires_in", &self.expires_in).finish_non_exhaustive()
    }
}

/// The answer of `GET /session`: what the holder of a session may know of it. Times are RFC 3339.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SessionAnswer<'a> {
    /// Whose it is.
    pub sub: &'a str,
    /// Which it is.
    pub sid: &'a str,
    /// When it began.
    pub began_at: Timestamp,
    /// When its holder authenticated, if that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub authenticated_at: Option<Timestamp>,
    /// When the presented token was issued.
    pub issued_at: Timestamp,
    /// When the presented token expires, unless it is reissued.
    pub expires_at: Timestamp,
    /// When the session ends, however much it is used.
    pub ends_at: Timestamp,
    /// The issuer whose token opened it; absent when a login did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub opened_with: Option<&'a str>,
    /// What it may be used for, when it says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scope: Option<String>,
}

impl Sessions {
    /// What is known of the session that a token belongs to.
    #[must_use]
    pub fn describe<'a>(&self, current: &Current<'a>) -> SessionAnswer<'a> {
        let scope: Vec<_> = current.claims.scopes().collect();
        SessionAnswer {
            sub: current.claims.subject.as_deref().unwrap_or_default(),
            sid: current.claims.session.as_deref().unwrap_or_default(),
            began_at: current.lineage.origin_issued,
            authenticated_at: current.authenticated(),
            issued_at: current.claims.issued,
            expires_at: current.claims.expires,
            ends_at: self.absolute_end(current.lineage.origin_issued),
            opened_with: current.lineage.origin.as_ref().map(|it| it.issuer.as_str()),
            scope: (!scope.is_empty()).then(|| scope.join(" ")),
        }
    }
}
