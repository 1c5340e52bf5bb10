//! Opening a session on the word of a login service.
//!
//! An upstream on a route with `login: true` says who has logged in, and the gateway mints: the
//! service needs no JWT code at all. What it says is read as strictly as a token's payload.

use std::fmt;

use http::HeaderMap;
use serde_json::{Map, Value};

use super::Sessions;
use super::claims::{OWN, VOUCHED, numeric_date};
use super::deliver::SESSION_GRANT;
use super::mint::{Draft, MintError, Minted, SUBJECT_BYTES_MAX, random_id};
use crate::time::Timestamp;
use crate::token::{Lineage, json};

/// Longest grant that is read.
const GRANT_BYTES_MAX: usize = 8 * 1024;

/// Who has logged in, and what is known of them: the value of `X-Session-Grant`.
///
/// `Debug` shows the names of the claims, not what they say.
#[derive(Clone, PartialEq)]
pub struct Grant {
    subject: String,
    claims: Map<String, Value>,
}

/// Why a grant was not accepted. Read as "failed to read the grant: {self}".
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum GrantError {
    /// A claim has a type that no reader of the minted token would accept.
    #[error("`{0}` must be text or a list of texts")]
    BadScope(&'static str),
    /// `sub` is not a text of 1 to 1024 bytes without control characters.
    #[error("`sub` must be a text of 1 to {SUBJECT_BYTES_MAX} bytes without control characters")]
    BadSubject,
    /// Not one JSON object without repeated members, at most 16 levels deep.
    #[error("it is not one JSON object, each member once, at most 16 levels deep")]
    Malformed,
    /// There is no `sub`.
    #[error("`sub` is missing")]
    MissingSubject,
    /// A claim that is not the login service's to set.
    #[error("`{0}` is set by the gateway alone")]
    Reserved(&'static str),
    /// The header is there more than once.
    #[error("the header came more than once")]
    Several,
    /// Longer than is read.
    #[error("it is longer than {GRANT_BYTES_MAX} bytes")]
    TooLarge,
}

impl Grant {
    /// Reads the value of `X-Session-Grant`: `{"sub": "…", …claims}`.
    ///
    /// Refused are the claims that the gateway sets itself (`iss` `aud` `exp` `nbf` `iat` `jti` `sid`
    /// `orig_iat` `orig` `keys` `cfp` `typ` `nonce` `at_hash` `c_hash` `s_hash`) and those that only an
    /// issuer can state (`azp` `client_id` `auth_time` `cnf` `act` `may_act`).
    ///
    /// # Errors
    /// See [`GrantError`].
    pub fn parse(value: &[u8]) -> Result<Self, GrantError> {
        if value.len() > GRANT_BYTES_MAX {
            return Err(GrantError::TooLarge);
        }
        let mut claims = json::object(value).map_err(|_| GrantError::Malformed)?;
        let subject = match claims.shift_remove("sub") {
            None => return Err(GrantError::MissingSubject),
            Some(Value::String(subject)) if is_subject(&subject) => subject,
            Some(_) => return Err(GrantError::BadSubject),
        };
        if let Some(name) = OWN.into_iter().chain(VOUCHED).find(|name| claims.contains_key(*name)) {
            return Err(GrantError::Reserved(name));
        }
        let is_text_or_texts = |value: &Value| match value {
            Value::String(_) => true,
            Value::Array(list) => list.iter().all(Value::is_string),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => false,
        };
        match ["scope", "scp"].into_iter().find(|name| claims.get(*name).is_some_and(|it| !is_text_or_texts(it))) {
            Some(name) => Err(GrantError::BadScope(name)),
            None => Ok(Self { subject, claims }),
        }
    }

    /// Takes the grant out of an upstream's response headers; `None` when there is none.
    ///
    /// # Errors
    /// See [`GrantError`]. The header is gone either way.
    pub fn take(headers: &mut HeaderMap) -> Result<Option<Self>, GrantError> {
        let several = headers.get_all(SESSION_GRANT).iter().nth(1).is_some();
        match headers.remove(SESSION_GRANT) {
            None => Ok(None),
            Some(_) if several => Err(GrantError::Several),
            Some(value) => Self::parse(value.as_bytes()).map(Some),
        }
    }

    /// Who has logged in, without the prefix.
    #[must_use]
    pub fn subject(&self) -> &str {
        &self.subject
    }
}

impl fmt::Debug for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Grant").field("claims", &self.claims.keys()).finish_non_exhaustive()
    }
}

impl Sessions {
    /// Opens a session for whom a login service has named.
    ///
    /// It begins at `requested_at`, when the login *request* arrived: the password checked is the one
    /// of that instant, so a password changed while the login was under way ends the session.
    /// `auth_time` is the same instant. The caller judges the standing of the result before it is
    /// delivered.
    ///
    /// # Errors
    /// When the session would already be over, or the token or its subject would be too long.
    pub fn grant(&self, grant: Grant, requested_at: Timestamp, now: Timestamp) -> Result<Minted, MintError> {
        let mut others = grant.claims;
        others.insert("auth_time".into(), numeric_date(requested_at));
        let draft = Draft {
            subject: format!("{}{}", self.config.grant_subject_prefix, grant.subject),
            session: random_id(),
            authenticated: Some(requested_at),
            client: None,
            lineage: Lineage { origin_issued: requested_at, origin: None, keys: Vec::new() },
            others,
        };
        self.mint(&self.ring.load(), draft, now)
    }
}

fn is_subject(subject: &str) -> bool {
    (1..=SUBJECT_BYTES_MAX).contains(&subject.len()) && !subject.chars().any(char::is_control)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::super::fixture::{NOW, after, honour, sessions};
    use super::*;

    #[test]
    fn a_login_service_names_the_subject_and_what_is_known_of_it() {
        let (_folder, sessions) = sessions();
        let grant = Grant::parse(r#" {"sub":"Zoë","scope":"read","groups":["a","b"],"plan":{"seats":3}} "#.as_bytes());
        let requested_at = Timestamp::from_millis(NOW.millis() - 1_127);
        let minted = sessions.grant(grant.unwrap(), requested_at, NOW).unwrap();
        let token = honour(&sessions, minted.token(), NOW);
        let expected = serde_json::json!({
            "iss": "https://gate.example.com/", "sub": "login:Zoë", "aud": "shop", "exp": NOW.secs() + 60,
            "iat": NOW.secs(), "jti": minted.id, "sid": minted.session, "orig_iat": 1_732_406_399.123,
            "scope": "read", "groups": ["a", "b"], "plan": { "seats": 3 }, "auth_time": 1_732_406_399.123,
        });
        assert_eq!(Value::Object(token.claims.all.clone()), expected);
        assert_eq!(minted.authenticated, Some(requested_at));
        assert_eq!(token.current().authenticated(), Some(requested_at), "to the millisecond");
    }

    #[test]
    fn each_grant_opens_a_session_of_its_own() {
        let (_folder, sessions) = sessions();
        let grant = Grant::parse(br#"{"sub":"ada"}"#).unwrap();
        let first = sessions.grant(grant.clone(), NOW, NOW).unwrap();
        let second = sessions.grant(grant, NOW, NOW).unwrap();
        assert_ne!(first.session, second.session);
        assert_ne!(first.id, second.id);
    }

    #[test]
    fn a_login_that_took_longer_than_a_session_may_live_opens_none() {
        let (_folder, sessions) = sessions();
        let grant = Grant::parse(br#"{"sub":"ada"}"#).unwrap();
        assert!(matches!(sessions.grant(grant, NOW, after(300)), Err(MintError::Ended)));
    }

    #[test]
    fn a_bad_grant_is_refused_for_what_is_wrong_with_it() {
        let deep = |levels: usize| format!(r#"{{"sub":"a","x":{}{}}}"#, "[".repeat(levels), "]".repeat(levels));
        let long = |bytes: usize| format!(r#"{{"sub":"a","x":"{}"}}"#, "x".repeat(bytes - 18));
        assert!(Grant::parse(deep(15).as_bytes()).is_ok());
        assert!(Grant::parse(long(8_192).as_bytes()).is_ok());
        assert!(Grant::parse(format!(r#"{{"sub":"{}"}}"#, "s".repeat(1024)).as_bytes()).is_ok());
        let cases: Vec<(String, GrantError)> = vec![
            (String::new(), GrantError::Malformed),
            ("null".into(), GrantError::Malformed),
            ("[]".into(), GrantError::Malformed),
            (r#""a""#.into(), GrantError::Malformed),
            (r#"{"sub":"a"} x"#.into(), GrantError::Malformed),
            (r#"{"sub":"a"}{"sub":"b"}"#.into(), GrantError::Malformed),
            (r#"{"sub":"a","sub":"b"}"#.into(), GrantError::Malformed),
            (r#"{"sub":"a","s\u0075b":"b"}"#.into(), GrantError::Malformed),
            (r#"{"sub":"a","x":{"y":1,"y":2}}"#.into(), GrantError::Malformed),
            (r#"{"sub":"a","x":1e400}"#.into(), GrantError::Malformed),
            (r#"{"sub":"a\ud800"}"#.into(), GrantError::Malformed),
            (r#"{'sub':'a'}"#.into(), GrantError::Malformed),
            ("\u{feff}{\"sub\":\"a\"}".into(), GrantError::Malformed),
            (deep(16), GrantError::Malformed),
            (deep(4_000), GrantError::Malformed),
            (long(8_193), GrantError::TooLarge),
            ("{}".into(), GrantError::MissingSubject),
            (r#"{"Sub":"a"}"#.into(), GrantError::MissingSubject),
            (r#"{"sub":""}"#.into(), GrantError::BadSubject),
            (r#"{"sub":null}"#.into(), GrantError::BadSubject),
            (r#"{"sub":42}"#.into(), GrantError::BadSubject),
            (r#"{"sub":["a"]}"#.into(), GrantError::BadSubject),
            (r#"{"sub":"a\u0000"}"#.into(), GrantError::BadSubject),
            (r#"{"sub":"a\r\nX: y"}"#.into(), GrantError::BadSubject),
            (r#"{"sub":"a\u0085"}"#.into(), GrantError::BadSubject),
            (format!(r#"{{"sub":"{}"}}"#, "s".repeat(1025)), GrantError::BadSubject),
            (r#"{"sub":"a","scope":7}"#.into(), GrantError::BadScope("scope")),
            (r#"{"sub":"a","scp":[1]}"#.into(), GrantError::BadScope("scp")),
        ];
        for (text, error) in cases {
            assert_eq!(Grant::parse(text.as_bytes()), Err(error), "{}", &text[..text.len().min(60)]);
        }
        assert_eq!(Grant::parse(b"{\"sub\":\"\xff\"}"), Err(GrantError::Malformed));
        for name in OWN.into_iter().chain(VOUCHED).filter(|name| *name != "sub") {
            let text = format!(r#"{{"sub":"a","{name}":"x"}}"#);
            assert_eq!(Grant::parse(text.as_bytes()), Err(GrantError::Reserved(name)));
        }
    }

    #[test]
    fn a_grant_is_taken_once_and_never_stays() {
        let mut headers = HeaderMap::new();
        assert_eq!(Grant::take(&mut headers), Ok(None));
        headers.insert(SESSION_GRANT, HeaderValue::from_static(r#"{"sub":"ada"}"#));
        let mut twice = headers.clone();
        assert_eq!(Grant::take(&mut headers).unwrap().unwrap().subject(), "ada");
        twice.append(SESSION_GRANT, HeaderValue::from_static(r#"{"sub":"ada"}"#));
        assert_eq!(Grant::take(&mut twice), Err(GrantError::Several));
        assert!(headers.is_empty() && twice.is_empty());
    }

    #[test]
    fn debug_shows_no_claim() {
        let grant = Grant::parse(br#"{"sub":"ada-lovelace","email":"ada@example.com"}"#).unwrap();
        let shown = format!("{grant:?}");
        assert!(shown.contains("email") && !shown.contains("ada"), "{shown}");
    }
}
