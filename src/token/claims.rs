//! The claims of a token (RFC 7519 §4), read once into types that the rest can rely on.

use serde_json::{Map, Value};

use crate::time::Timestamp;

/// The longest `jti`, `sid`, `azp` or `client_id`, in bytes.
const NAME_BYTES_MAX: usize = 256;

/// The longest `iss`, `sub` or audience, in bytes.
const IDENTIFIER_BYTES_MAX: usize = 1024;

/// What a token says about itself. Well formed; believed only inside a
/// [`Verified`](crate::gate::Verified).
#[derive(Clone, Debug)]
pub struct Claims {
    /// `iss`, always a string.
    pub issuer: String,
    /// `sub`.
    pub subject: Option<String>,
    /// `aud`; a single string is a list of one. Empty when absent.
    pub audiences: Vec<String>,
    /// `exp`, fractions rounded down.
    pub expires: Timestamp,
    /// `nbf`, fractions rounded down.
    pub not_before: Option<Timestamp>,
    /// `iat`, fractions rounded down.
    pub issued: Timestamp,
    /// `jti`.
    pub id: Option<String>,
    /// `sid` (OpenID Connect Front-/Back-Channel Logout 1.0).
    pub session: Option<String>,
    /// `azp`, else `client_id` (RFC 9068 §2.2).
    pub client: Option<String>,
    /// `auth_time` (OpenID Connect Core 1.0 §2), fractions rounded down.
    pub authenticated: Option<Timestamp>,
    /// Every member of the payload, the above included, in the order they came.
    pub all: Map<String, Value>,
}

/// Why a payload is not a set of claims that we read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ClaimsError {
    /// `iss`, `exp` or `iat` is absent.
    Missing,
    /// A registered claim has the wrong type or an impossible value.
    Malformed,
}

impl Claims {
    /// Reads the registered claims out of `all`.
    pub(super) fn from_object(all: Map<String, Value>) -> Result<Self, ClaimsError> {
        let issuer = string(&all, "iss", IDENTIFIER_BYTES_MAX)?.ok_or(ClaimsError::Missing)?;
        let expires = time(&all, "exp")?.ok_or(ClaimsError::Missing)?;
        let issued = time(&all, "iat")?.ok_or(ClaimsError::Missing)?;
        // Both are read before one is chosen: a malformed one is never merely passed over.
        let (authorized_party, client_id) =
            (string(&all, "azp", NAME_BYTES_MAX)?, string(&all, "client_id", NAME_BYTES_MAX)?);
        Ok(Self {
            issuer,
            subject: string(&all, "sub", IDENTIFIER_BYTES_MAX)?,
            audiences: audiences(&all)?,
            expires,
            not_before: time(&all, "nbf")?,
            issued,
            id: string(&all, "jti", NAME_BYTES_MAX)?,
            session: string(&all, "sid", NAME_BYTES_MAX)?,
            client: authorized_party.or(client_id),
            authenticated: time(&all, "auth_time")?,
            all,
        })
    }

    /// The scopes granted: the space-separated `scope` (RFC 8693 §4.2) or, when there is none, `scp`.
    /// Issuers write either as an array too; then each element is one scope.
    pub fn scopes(&self) -> impl Iterator<Item = &str> {
        let (text, list) = match self.all.get("scope").or_else(|| self.all.get("scp")) {
            Some(Value::String(text)) => (text.as_str(), &[][..]),
            Some(Value::Array(list)) => ("", list.as_slice()),
            _ => ("", &[][..]),
        };
        let listed = list.iter().filter_map(Value::as_str);
        text.split(' ').chain(listed).filter(|scope| !scope.is_empty())
    }

    /// The claim of this name: a member of exactly that name or, when there is none, the member that
    /// the name reaches as a dotted path of objects (`realm_access.roles`).
    #[must_use]
    pub fn find(&self, name: &str) -> Option<&Value> {
        if let Some(value) = self.all.get(name) {
            return Some(value);
        }
        let (first, rest) = name.split_once('.')?;
        rest.split('.').try_fold(self.all.get(first)?, |value, member| value.get(member))
    }
}

/// A claim that is a string: not empty, at most `max` bytes, without control characters, which would
/// forge lines in logs and headers downstream.
pub(super) fn string(all: &Map<String, Value>, name: &str, max: usize) -> Result<Option<String>, ClaimsError> {
    match all.get(name) {
        None => Ok(None),
        Some(Value::String(text)) if is_identifier(text, max) => Ok(Some(text.clone())),
        Some(_) => Err(ClaimsError::Malformed),
    }
}

fn is_identifier(text: &str, max: usize) -> bool {
    // Control characters outside ASCII (U+0080 to U+009F) are two bytes that begin with 0xC2.
    let plain = text.bytes().all(|byte| byte >= b' ' && byte != 0x7f && byte != 0xc2);
    !text.is_empty() && text.len() <= max && (plain || !text.chars().any(char::is_control))
}

/// `aud` (RFC 7519 §4.1.3): one string or an array of them.
fn audiences(all: &Map<String, Value>) -> Result<Vec<String>, ClaimsError> {
    let list = match all.get("aud") {
        None => return Ok(Vec::new()),
        Some(Value::Array(list)) => list.as_slice(),
        Some(one) => std::slice::from_ref(one),
    };
    list.iter()
        .map(|entry| match entry {
            Value::String(text) if is_identifier(text, IDENTIFIER_BYTES_MAX) => Ok(text.clone()),
            _ => Err(ClaimsError::Malformed),
        })
        .collect()
}

/// A NumericDate (RFC 7519 §2), its fraction dropped. One beyond the range becomes the end of the
/// range, which the limit on lifetimes refuses.
pub(super) fn time(all: &Map<String, Value>, name: &str) -> Result<Option<Timestamp>, ClaimsError> {
    let Some(value) = all.get(name) else { return Ok(None) };
    let Value::Number(number) = value else { return Err(ClaimsError::Malformed) };
    let at = match (number.as_u64(), number.as_f64()) {
        (Some(secs), _) => Timestamp::from_secs(i64::try_from(secs).unwrap_or(i64::MAX)),
        (None, Some(secs)) if secs.is_finite() && secs >= 0.0 => {
            // The cast holds the value within the range of the type.
            Timestamp::from_secs(secs.floor() as i64)
        }
        _ => return Err(ClaimsError::Malformed),
    };
    Ok(Some(at))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn claims(extra: Value) -> Claims {
        let Value::Object(mut all) = json!({"iss": "a", "iat": 1, "exp": 2}) else { unreachable!() };
        let Value::Object(extra) = extra else { unreachable!() };
        all.extend(extra);
        Claims::from_object(all).unwrap()
    }

    #[test]
    fn scopes_are_read_from_either_claim_in_either_form() {
        for (extra, expected) in [
            (json!({}), &[][..]),
            (json!({"scope": ""}), &[]),
            (json!({"scope": "read write"}), &["read", "write"]),
            (json!({"scope": "  read  "}), &["read"]),
            (json!({"scope": ["read", "write"]}), &["read", "write"]),
            (json!({"scp": "read"}), &["read"]),
            (json!({"scp": ["read", 5, "write"]}), &["read", "write"]),
            (json!({"scope": "read", "scp": "admin"}), &["read"]),
            (json!({"scope": null, "scp": "admin"}), &[]),
            (json!({"scope": {"admin": true}}), &[]),
            // A list has one scope an element; a space does not make it two.
            (json!({"scope": ["read admin"]}), &["read admin"]),
        ] {
            assert_eq!(claims(extra.clone()).scopes().collect::<Vec<_>>(), expected, "{extra}");
        }
    }

    #[test]
    fn a_claim_is_found_by_its_whole_name_before_its_path() {
        let claims = claims(json!({
            "https://a.example/roles": ["x"],
            "realm_access": {"roles": ["admin"], "deep": {"er": 1}},
            "a.b": "whole",
            "a": {"b": "path"},
        }));
        for (name, expected) in [
            ("iss", Some(json!("a"))),
            ("https://a.example/roles", Some(json!(["x"]))),
            ("realm_access.roles", Some(json!(["admin"]))),
            ("realm_access.deep.er", Some(json!(1))),
            ("a.b", Some(json!("whole"))),
            ("realm_access.none", None),
            ("realm_access.roles.0", None),
            ("iss.x", None),
            ("none", None),
            ("", None),
            (".", None),
        ] {
            assert_eq!(claims.find(name), expected.as_ref(), "{name}");
        }
    }
}
