//! To whom a token is bound: the `cnf` claim (RFC 7800), as far as it can be held against a request.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

/// What whoever presents a token must prove to hold. At least one of the two is there; both must be proven
/// when both are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Confirmation {
    /// `jkt`: the RFC 7638 SHA-256 thumbprint of the key that signs its proofs (RFC 9449 §6.1).
    pub key: Option<[u8; 32]>,
    /// `x5t#S256`: the SHA-256 of the certificate, DER, on the connection it comes on (RFC 8705 §3.1).
    pub certificate: Option<[u8; 32]>,
}

/// The token is bound in a way that cannot be checked, or that makes no sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the token's `cnf` cannot be checked")]
pub struct ConfirmationError;

impl Confirmation {
    /// Reads `cnf`; `None` for a token of whoever bears it.
    ///
    /// RFC 7800 §3.1 lets a reader pass over members that it does not know. Where only such are there
    /// (`jwk`, `kid`, …), to do so would make a bearer token of one that is bound, so it is an error.
    ///
    /// # Errors
    /// [`ConfirmationError`].
    pub fn read(claims: &Map<String, Value>) -> Result<Option<Self>, ConfirmationError> {
        let members = match claims.get("cnf") {
            None => return Ok(None),
            Some(Value::Object(members)) => members,
            Some(_) => return Err(ConfirmationError),
        };
        let found = Self { key: digest(members, "jkt")?, certificate: digest(members, "x5t#S256")? };
        if found.key.is_none() && found.certificate.is_none() { Err(ConfirmationError) } else { Ok(Some(found)) }
    }
}

/// A SHA-256 digest in canonical base64url.
fn digest(members: &Map<String, Value>, name: &str) -> Result<Option<[u8; 32]>, ConfirmationError> {
    match members.get(name) {
        None => Ok(None),
        Some(Value::String(text)) => digest_of(text).ok_or(ConfirmationError).map(Some),
        Some(_) => Err(ConfirmationError),
    }
}

/// The SHA-256 digest that `text` spells in base64url without padding, in its one canonical spelling.
#[must_use]
pub fn digest_of(text: &str) -> Option<[u8; 32]> {
    URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_binds_a_token_is_read_and_what_cannot_be_checked_is_refused() {
        let text = "A".repeat(43);
        let of = |key, certificate| Ok(Some(Confirmation { key, certificate }));
        for (claims, expected) in [
            (json!({}), Ok(None)),
            (json!({"cnf": {"jkt": text}}), of(Some([0; 32]), None)),
            (json!({"cnf": {"x5t#S256": text}}), of(None, Some([0; 32]))),
            (json!({"cnf": {"x5t#S256": text, "jkt": text, "kid": "k"}}), of(Some([0; 32]), Some([0; 32]))),
            (json!({"cnf": null}), Err(ConfirmationError)),
            (json!({"cnf": "k"}), Err(ConfirmationError)),
            (json!({"cnf": []}), Err(ConfirmationError)),
            (json!({"cnf": {}}), Err(ConfirmationError)),
            (json!({"cnf": {"jwk": {"kty": "EC"}}}), Err(ConfirmationError)),
            (json!({"cnf": {"kid": "k"}}), Err(ConfirmationError)),
            (json!({"cnf": {"JKT": text}}), Err(ConfirmationError)),
            (json!({"cnf": {"jkt": null}}), Err(ConfirmationError)),
            (json!({"cnf": {"jkt": ""}}), Err(ConfirmationError)),
            (json!({"cnf": {"jkt": text, "x5t#S256": 5}}), Err(ConfirmationError)),
            (json!({"cnf": {"jkt": "A".repeat(42)}}), Err(ConfirmationError)),
            (json!({"cnf": {"jkt": format!("{}B", "A".repeat(42))}}), Err(ConfirmationError)),
            (json!({"cnf": {"jkt": format!("{text}=")}}), Err(ConfirmationError)),
            (json!({"cnf": {"jkt": "A".repeat(86)}}), Err(ConfirmationError)),
        ] {
            assert_eq!(Confirmation::read(claims.as_object().unwrap()), expected, "{claims}");
        }
    }
}
