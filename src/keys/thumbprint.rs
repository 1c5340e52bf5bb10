//! What a key is known by, whatever anybody calls it.

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

use super::fit::Material;

/// What a secret's own digest is taken over.
const SECRET_CONTEXT: &[u8] = b"portcullis/key-thumbprint/1";

/// The RFC 7638 thumbprint of a public key; for a secret a digest keyed with it, because a plain one
/// would let a reader of logs test guesses against it without ever seeing a token.
pub(super) fn thumbprint(material: &Material) -> String {
    match material {
        Material::Secret(secret) => {
            let key = hmac::Key::new(hmac::HMAC_SHA256, secret.expose());
            URL_SAFE_NO_PAD.encode(hmac::sign(&key, SECRET_CONTEXT))
        }
        public => {
            // Values are base64url and names of curves: nothing that JSON would escape.
            let members: Vec<String> =
                required_members(public).into_iter().map(|(name, value)| format!("\"{name}\":\"{value}\"")).collect();
            URL_SAFE_NO_PAD.encode(digest(&SHA256, format!("{{{}}}", members.join(",")).as_bytes()))
        }
    }
}

/// The public key as a JWK of its required members alone (RFC 7638 §3.2); a secret has none to show.
pub(super) fn public_jwk(material: &Material) -> Map<String, Value> {
    required_members(material).into_iter().map(|(name, value)| (name.to_owned(), Value::String(value))).collect()
}

/// In the order of their names, which the thumbprint needs.
fn required_members(material: &Material) -> Vec<(&'static str, String)> {
    match material {
        Material::Ec { curve, point } => {
            let (x, y) = point.get(1..).unwrap_or_default().split_at(curve.coordinate_bytes().min(point.len() / 2));
            vec![
                ("crv", curve.name().to_owned()),
                ("kty", "EC".to_owned()),
                ("x", URL_SAFE_NO_PAD.encode(x)),
                ("y", URL_SAFE_NO_PAD.encode(y)),
            ]
        }
        Material::Ed { point } => {
            vec![("crv", "Ed25519".to_owned()), ("kty", "OKP".to_owned()), ("x", URL_SAFE_NO_PAD.encode(point))]
        }
        Material::Rsa { n, e } => {
            vec![("e", URL_SAFE_NO_PAD.encode(e)), ("kty", "RSA".to_owned()), ("n", URL_SAFE_NO_PAD.encode(n))]
        }
        Material::Secret(_) => Vec::new(),
    }
}
