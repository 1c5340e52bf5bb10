//! A client that proves to hold a key (DPoP, RFC 9449).

use serde_json::{Value, json};

use super::issuer::{Key, base64url, now, sha256};
use super::{Gateway, Response};

/// The scheme and authority of requests that name no other: what [`super::request`] sends as `Host`.
pub(crate) const ORIGIN: &str = "http://shop.example";

/// The client and its key.
pub(crate) struct Holder(pub(crate) Key);

impl Holder {
    pub(crate) fn new() -> Self {
        Self(Key::es256())
    }

    /// The members of the public key that its thumbprint is made of (RFC 7638).
    pub(crate) fn jwk(&self) -> Value {
        let jwk = self.0.jwk("");
        json!({"crv": jwk["crv"], "kty": jwk["kty"], "x": jwk["x"], "y": jwk["y"]})
    }

    /// What a token that is bound to it has as `cnf`.
    pub(crate) fn cnf(&self) -> Value {
        json!({"jkt": base64url(sha256(self.jwk().to_string().as_bytes()))})
    }

    /// A good proof for one request; `claims` replaces some, and `null` removes one.
    pub(crate) fn proof(&self, method: &str, target: &str, token: &str, claims: Value) -> String {
        let mut all = json!({
            "jti": uuid::Uuid::now_v7().to_string(), "htm": method, "htu": format!("{ORIGIN}{target}"), "iat": now(),
            "ath": base64url(sha256(token.as_bytes())),
        });
        let members = all.as_object_mut().unwrap();
        members.extend(claims.as_object().unwrap().clone());
        members.retain(|_, value| !value.is_null());
        let header = json!({"typ": "dpop+jwt", "alg": self.0.algorithm(), "jwk": self.jwk()});
        let input = format!("{}.{}", base64url(header.to_string()), base64url(all.to_string()));
        format!("{input}.{}", base64url(self.0.sign(input.as_bytes())))
    }

    /// A request with a token that is bound to it, and a proof.
    pub(crate) fn send(&self, gateway: &Gateway, method: &str, target: &str, token: &str) -> Response {
        self.send_with(gateway, method, target, token, &self.proof(method, target, token, json!({})))
    }

    /// The same with this proof.
    pub(crate) fn send_with(
        &self,
        gateway: &Gateway,
        method: &str,
        target: &str,
        token: &str,
        proof: &str,
    ) -> Response {
        let authorization = format!("DPoP {token}");
        let mut headers = vec![("Authorization", authorization.as_str()), ("DPoP", proof)];
        if method != "GET" {
            headers.push(("Content-Length", "0"));
        }
        gateway.send(method, target, &headers, b"")
    }

    pub(crate) fn get(&self, gateway: &Gateway, target: &str, token: &str) -> Response {
        self.send(gateway, "GET", target, token)
    }
}
