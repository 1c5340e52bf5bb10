//! The JWS compact serialization (RFC 7515 §7.1), split and decoded in its one canonical spelling.

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

use super::claims::ClaimsError;
use super::{Algorithm, Claims, json};

/// The longest `kid`, in bytes.
const KEY_ID_BYTES_MAX: usize = 256;

/// Header parameters that change what the rest means. None is implemented, so none may be there:
/// `crit` (RFC 7515 §4.1.11), `b64` (RFC 7797), `zip` and `enc` (RFC 7516), `cty` (a nested token).
const UNSUPPORTED: [&str; 5] = ["crit", "b64", "zip", "enc", "cty"];

/// What begins a revocation name that is a digest; no `jti` may claim it.
const DIGEST_PREFIX: &str = "sha256:";

/// Why a text is not a token that we read. Says nothing about trust.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// Longer than the bound; nothing was decoded.
    #[error("the token is too large")]
    TooLarge,
    /// Not three parts of canonical base64url around JSON objects, or a header parameter of the wrong
    /// type.
    #[error("the token is malformed")]
    Malformed,
    /// `alg` is none of [`Algorithm::ALL`].
    #[error("the token's algorithm is not one of ours")]
    AlgNotAllowed,
    /// `crit`, `b64`, `zip`, `enc` or `cty` is there.
    #[error("the token's header asks for what is not supported")]
    CritNotSupported,
    /// `iss`, `exp` or `iat` is absent.
    #[error("a required claim is missing")]
    MissingClaim,
    /// A registered claim has the wrong type or an impossible value.
    #[error("a claim is malformed")]
    MalformedClaim,
}

impl From<ClaimsError> for ParseError {
    fn from(error: ClaimsError) -> Self {
        match error {
            ClaimsError::Missing => Self::MissingClaim,
            ClaimsError::Malformed => Self::MalformedClaim,
        }
    }
}

/// The parts of a JOSE header that are used. Parameters that carry or point to keys (`jku`, `jwk`,
/// `x5u`, `x5c`) are never looked at: a token does not choose whom to trust.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// `alg`.
    pub algorithm: Algorithm,
    /// `kid`, at most 256 bytes.
    pub key_id: Option<String>,
    /// `typ`.
    pub typ: Option<String>,
}

impl Header {
    pub(super) fn from_object(mut object: Map<String, Value>) -> Result<Self, ParseError> {
        let name = object.get("alg").and_then(Value::as_str).ok_or(ParseError::Malformed)?;
        let algorithm = name.parse().map_err(|_| ParseError::AlgNotAllowed)?;
        if UNSUPPORTED.iter().any(|parameter| object.contains_key(*parameter)) {
            return Err(ParseError::CritNotSupported);
        }
        let key_id = text(&mut object, "kid")?;
        if key_id.as_ref().is_some_and(|id| id.len() > KEY_ID_BYTES_MAX || id.contains('\0')) {
            return Err(ParseError::Malformed);
        }
        Ok(Self { algorithm, key_id, typ: text(&mut object, "typ")? })
    }
}

/// A token in compact form, well formed. Nothing in it is believed yet.
#[derive(Clone, Debug)]
pub struct Compact<'a> {
    /// *header.payload*: what the signature covers.
    pub signing_input: &'a str,
    /// What the header says.
    pub header: Header,
    /// What the payload says.
    pub claims: Claims,
    /// The signature's bytes.
    pub signature: Vec<u8>,
}

impl<'a> Compact<'a> {
    /// Reads `token`, which may have at most `max_bytes` bytes.
    ///
    /// # Errors
    /// See [`ParseError`]; the size is judged before anything is decoded.
    pub fn parse(token: &'a str, max_bytes: usize) -> Result<Self, ParseError> {
        let parts = Parts::split(token, max_bytes)?;
        let header = parts.header()?;
        let payload = decode(parts.payload)?;
        let claims = Claims::from_object(json::object(&payload).map_err(|_| ParseError::Malformed)?)?;
        Ok(Self { signing_input: parts.signing_input, header, claims, signature: decode(parts.signature)? })
    }

    /// The name a revocation knows this token by, within its issuer: the `jti` or, when there is none
    /// (or it poses as a digest), `sha256:` and the base64url digest of *header.payload*. Never a
    /// digest of the whole text: an ECDSA signature has more than one spelling.
    #[must_use]
    pub fn name(&self) -> String {
        match &self.claims.id {
            Some(id) if !id.starts_with(DIGEST_PREFIX) => id.clone(),
            _ => {
                let mut name = String::with_capacity(DIGEST_PREFIX.len() + 43);
                name.push_str(DIGEST_PREFIX);
                URL_SAFE_NO_PAD.encode_string(digest(&SHA256, self.signing_input.as_bytes()), &mut name);
                name
            }
        }
    }
}

/// A JWS whose payload is not interpreted: it need not be a token. For checking a signature alone.
#[derive(Clone, Debug)]
pub struct SignedParts<'a> {
    /// What the header says.
    pub header: Header,
    /// *header.payload*: what the signature covers.
    pub signing_input: &'a str,
    /// The signature's bytes.
    pub signature: Vec<u8>,
}

impl<'a> SignedParts<'a> {
    /// Reads `jws`, which may have at most `max_bytes` bytes. Its payload must be canonical base64url.
    ///
    /// # Errors
    /// See [`ParseError`]; the size is judged before anything is decoded.
    pub fn parse(jws: &'a str, max_bytes: usize) -> Result<Self, ParseError> {
        let parts = Parts::split(jws, max_bytes)?;
        let header = parts.header()?;
        decode(parts.payload)?;
        Ok(Self { header, signing_input: parts.signing_input, signature: decode(parts.signature)? })
    }
}

/// The three parts as they are written; none is empty.
pub(super) struct Parts<'a> {
    pub(super) signing_input: &'a str,
    header: &'a str,
    payload: &'a str,
    signature: &'a str,
}

impl<'a> Parts<'a> {
    pub(super) fn split(token: &'a str, max_bytes: usize) -> Result<Self, ParseError> {
        if token.len() > max_bytes {
            return Err(ParseError::TooLarge);
        }
        let (signing_input, signature) = token.rsplit_once('.').ok_or(ParseError::Malformed)?;
        let (header, payload) = signing_input.split_once('.').ok_or(ParseError::Malformed)?;
        let is_three_parts = !header.is_empty() && !payload.is_empty() && !signature.is_empty();
        if !is_three_parts || payload.contains('.') {
            return Err(ParseError::Malformed);
        }
        Ok(Self { signing_input, header, payload, signature })
    }

    fn header(&self) -> Result<Header, ParseError> {
        Header::from_object(self.header_object()?)
    }

    pub(super) fn header_object(&self) -> Result<Map<String, Value>, ParseError> {
        json::object(&decode(self.header)?).map_err(|_| ParseError::Malformed)
    }

    pub(super) fn payload(&self) -> Result<Vec<u8>, ParseError> {
        decode(self.payload)
    }

    pub(super) fn signature(&self) -> Result<Vec<u8>, ParseError> {
        decode(self.signature)
    }
}

/// Base64url without padding (RFC 7515 §2). The engine refuses padding, the other alphabet, white
/// space and bits left over in the last symbol, so that no part has a second spelling.
fn decode(part: &str) -> Result<Vec<u8>, ParseError> {
    URL_SAFE_NO_PAD.decode(part).map_err(|_| ParseError::Malformed)
}

/// Takes a text parameter out of the header.
fn text(object: &mut Map<String, Value>, name: &str) -> Result<Option<String>, ParseError> {
    match object.get_mut(name).map(Value::take) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(ParseError::Malformed),
    }
}

#[cfg(test)]
mod tests;
