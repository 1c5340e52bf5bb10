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
