//! What the session endpoints say.

use std::fmt;

use serde::Serialize;

use super::Sessions;
use super::mint::Minted;
use super::open::Open;
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
    /// What brings the next one, when the session has such and it goes this way.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refresh_token: Option<&'a str>,
    /// Seconds until that lapses, wherever it went.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refresh_expires_in: Option<u64>,
}

impl<'a> ExchangeAnswer<'a> {
    /// The answer that hands out `minted` at `now`.
    #[must_use]
    pub fn new(minted: &'a Minted, now: Timestamp) -> Self {
        Self {
            access_token: minted.token(),
            issued_token_type: "urn:ietf:params:oauth:token-type:access_token",
            token_type: minted.token_type(),
            expires_in: minted.remaining(now).as_secs(),
            scope: minted.scope.as_deref(),
            refresh_token: None,
            refresh_expires_in: None,
        }
    }

    /// The same with a refresh token that is good until `ends`; `None` when it goes another way.
    #[must_use]
    pub fn with_refresh(self, token: Option<&'a str>, ends: Timestamp, now: Timestamp) -> Self {
        Self { refresh_token: token, refresh_expires_in: Some(ends.since(now).as_secs()), ..self }
    }
}

impl fmt::Debug for ExchangeAnswer<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExchangeAnswer").field("expires_in", &self.expires_in).finish_non_exhaustive()
    }
}

/// The answer of `POST /session/refresh` (RFC 6749 §5.1). `Debug` does not show the tokens.
#[derive(Clone, Serialize)]
pub struct RefreshAnswer<'a> {
    /// The access token; absent when it goes as a cookie, which is to keep it from scripts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub access_token: Option<&'a str>,
    /// How it is used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_type: Option<&'static str>,
    /// Seconds until it expires.
    pub expires_in: u64,
    /// What brings the next one; absent when it goes as a cookie.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refresh_token: Option<&'a str>,
    /// Seconds until that lapses.
    pub refresh_expires_in: u64,
    /// What the access token may be used for, when it says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scope: Option<&'a str>,
}

/// What of a refreshed session is told in the body, and what goes as a cookie.
#[derive(Clone, Copy, Debug)]
pub struct InCookies {
    /// The access token does.
    pub access: bool,
    /// The refresh token does.
    pub refresh: bool,
}

impl<'a> RefreshAnswer<'a> {
    /// The answer that hands out `minted` at `now`, and a refresh token that is good until `ends`.
    #[must_use]
    pub fn new(minted: &'a Minted, (refresh, ends): (&'a str, Timestamp), cookies: InCookies, now: Timestamp) -> Self {
        Self {
            access_token: (!cookies.access).then(|| minted.token()),
            token_type: (!cookies.access).then(|| minted.token_type()),
            expires_in: minted.remaining(now).as_secs(),
            refresh_token: (!cookies.refresh).then_some(refresh),
            refresh_expires_in: ends.since(now).as_secs(),
            scope: minted.scope.as_deref(),
        }
    }
}

impl fmt::Debug for RefreshAnswer<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RefreshAnswer").field("expires_in", &self.expires_in).finish_non_exhaustive()
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

/// One session as its subject sees it in `GET /session/devices`. Times are RFC 3339.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DeviceAnswer<'a> {
    /// Which it is: what `DELETE /session/devices/{sid}` takes. Not a secret, and the name that logs,
    /// upstreams and operators have for it, too; it ends nothing but a session of the same subject.
    pub sid: &'a str,
    /// Whether it is the one that asks.
    pub current: bool,
    /// When it was opened, or first seen by this gateway.
    pub opened_at: Timestamp,
    /// When it was last used, to the second.
    pub last_seen_at: Timestamp,
    /// When it ends, however much it is used.
    pub ends_at: Timestamp,
    /// The issuer whose token opened it; absent when a login did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub opened_with: Option<&'a str>,
    /// The client it was opened by, if its token said so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client: Option<&'a str>,
    /// Browser and system, as far as they are known and kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent: Option<&'a str>,
    /// The network it was opened from, if that is kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network: Option<&'a str>,
}

impl Sessions {
    /// What the subject of a session is told about it; `current` is the `sid` of the one that asks.
    #[must_use]
    pub fn device<'a>(&self, open: &'a Open, current: &str) -> DeviceAnswer<'a> {
        DeviceAnswer {
            sid: &open.session,
            current: &*open.session == current,
            opened_at: open.opened,
            last_seen_at: open.last_seen(),
            ends_at: self.absolute_end(open.lineage.origin_issued),
            opened_with: open.lineage.origin.as_ref().map(|it| it.issuer.as_str()),
            client: open.client.as_deref(),
            agent: open.device.agent.as_deref(),
            network: open.device.network.as_deref(),
        }
    }

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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::Grant;
    use super::super::fixture::{FOREIGN, NOW, after, foreign, honour, parent, sessions};
    use super::*;

    #[test]
    fn an_exchange_is_answered_as_rfc_8693_says() {
        let (_folder, sessions) = sessions();
        let minted = sessions.exchange(parent(&foreign(json!({ "scp": ["a", "b"] }))), NOW).unwrap();
        let answer = serde_json::to_value(ExchangeAnswer::new(&minted, after(10))).unwrap();
        let expected = json!({
            "access_token": minted.token(), "token_type": "Bearer", "expires_in": 49, "scope": "a b",
            "issued_token_type": "urn:ietf:params:oauth:token-type:access_token",
        });
        assert_eq!(answer, expected);
        let minted = sessions.exchange(parent(&foreign(json!({ "jti": "p2" }))), NOW).unwrap();
        let answer = serde_json::to_value(ExchangeAnswer::new(&minted, after(100))).unwrap();
        assert_eq!((&answer["expires_in"], answer.get("scope")), (&json!(0), None));
        for (cnf, kind) in [(json!({ "jkt": "k" }), "DPoP"), (json!({ "x5t#S256": "c" }), "Bearer")] {
            let minted = sessions.exchange(parent(&foreign(json!({ "jti": kind, "cnf": cnf }))), NOW).unwrap();
            assert_eq!(ExchangeAnswer::new(&minted, NOW).token_type, kind);
        }
    }

    #[test]
    fn a_refresh_tells_in_the_body_what_does_not_go_as_a_cookie() {
        let (_folder, sessions) = sessions();
        let minted = sessions.exchange(parent(&foreign(json!({ "scope": "a b" }))), NOW).unwrap();
        for (access, refresh) in [(false, false), (false, true), (true, true)] {
            let cookies = InCookies { access, refresh };
            let answer = serde_json::to_value(RefreshAnswer::new(&minted, ("r1", after(90)), cookies, NOW)).unwrap();
            let mut expected = json!({ "expires_in": 59, "refresh_expires_in": 90, "scope": "a b" });
            if !access {
                expected["access_token"] = minted.token().into();
                expected["token_type"] = "Bearer".into();
            }
            if !refresh {
                expected["refresh_token"] = "r1".into();
            }
            assert_eq!(answer, expected, "{cookies:?}");
        }
    }

    #[test]
    fn a_session_describes_itself_to_its_holder() {
        let (_folder, sessions) = sessions();
        let minted = sessions.exchange(parent(&foreign(json!({ "scope": "a b", "auth_time": 0 }))), NOW).unwrap();
        let token = honour(&sessions, minted.token(), NOW);
        let expected = json!({
            "sub": "acc:42", "sid": minted.session, "began_at": "2024-11-24T00:00:00Z",
            "authenticated_at": "1970-01-01T00:00:00Z", "issued_at": "2024-11-24T00:00:00Z",
            "expires_at": "2024-11-24T00:01:00Z", "ends_at": "2024-11-24T00:05:00Z", "opened_with": FOREIGN,
            "scope": "a b",
        });
        assert_eq!(serde_json::to_value(sessions.describe(&token.current())).unwrap(), expected);
        let grant = Grant::parse(br#"{"sub":"ada"}"#).unwrap();
        let token = honour(&sessions, sessions.grant(grant, NOW, NOW).unwrap().token(), NOW);
        let answer = serde_json::to_value(sessions.describe(&token.current())).unwrap();
        assert_eq!(answer["authenticated_at"], "2024-11-24T00:00:00.25Z");
        assert_eq!((answer.get("opened_with"), answer.get("scope")), (None, None));
    }
}
