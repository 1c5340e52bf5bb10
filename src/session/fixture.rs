//! What the tests of this module share: a configuration, a foreign issuer, and a strict reader.

use std::path::Path;
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::{Current, Parent, Sessions};
use crate::config::{self, Delivery};
use crate::keys::{KeySet, SigningKey};
use crate::time::Timestamp;
use crate::token::{Algorithm, Claims, Compact, Lineage};

pub(super) const NOW: Timestamp = Timestamp::from_millis(1_732_406_400_250);
pub(super) const ISSUER: &str = "https://gate.example.com/";
pub(super) const FOREIGN: &str = "https://accounts.example.com/";

/// Idle after a minute, over after five, reissued after half a token's life.
pub(super) fn config(keys_dir: &Path) -> config::Session {
    config::Session {
        issuer: ISSUER.to_owned(),
        audience: "shop".to_owned(),
        keys_dir: keys_dir.to_owned(),
        algorithm: Algorithm::ES256,
        publish_before: Duration::ZERO,
        idle_timeout: Duration::from_secs(60),
        absolute_timeout: Duration::from_secs(300),
        reissue_after_permille: 500,
        reissue_every: None,
        reuse_grace: None,
        exchange: vec![0],
        grant_subject_prefix: "login:".to_owned(),
        delivery: Delivery::Header,
        cookie: "__Host-session".to_owned(),
        max_per_subject: None,
        refresh: None,
        devices: config::Devices { max: 100_000, address: true, user_agent: true },
    }
}

pub(super) fn after(secs: u64) -> Timestamp {
    NOW.plus(Duration::from_secs(secs))
}

/// A fresh folder with sessions on it.
pub(super) fn sessions() -> (tempfile::TempDir, Sessions) {
    sessions_with(|_| ())
}

pub(super) fn sessions_with(change: impl FnOnce(&mut config::Session)) -> (tempfile::TempDir, Sessions) {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config(&folder.path().join("keys"));
    change(&mut config);
    let sessions = Sessions::open(&config, NOW).unwrap();
    (folder, sessions)
}

/// Claims of a token of the foreign issuer, issued at [`NOW`] unless `more` says otherwise.
pub(super) fn foreign(more: Value) -> Claims {
    let mut claims = json!({ "iss": FOREIGN, "sub": "42", "aud": ["shop", "desk"], "iat": NOW.secs(),
        "exp": NOW.secs() + 86_400, "jti": "p1" });
    let Value::Object(more) = more else { panic!("claims are an object") };
    claims.as_object_mut().unwrap().extend(more);
    claims.as_object_mut().unwrap().retain(|_, value| !value.is_null());
    let key = SigningKey::generate(Algorithm::ES256).unwrap();
    let token = key.sign(claims.as_object().unwrap(), "JWT").unwrap();
    Compact::parse(&token, 64 * 1024).unwrap().claims
}

pub(super) fn parent(claims: &Claims) -> Parent<'_> {
    Parent {
        issuer_index: 0,
        claims,
        token_name: claims.id.as_deref().unwrap_or("sha256:none"),
        credential: None,
        key_thumbprint: "foreign-key",
        subject_prefix: "acc:",
    }
}

/// A minted token, read back and verified as the gate does it.
pub(super) struct Honoured {
    pub(super) claims: Claims,
    pub(super) lineage: Lineage,
    pub(super) name: String,
    pub(super) key: String,
}

impl Honoured {
    pub(super) fn current(&self) -> Current<'_> {
        Current { claims: &self.claims, lineage: &self.lineage, token_name: &self.name, key_thumbprint: &self.key }
    }

    /// What goes from token to token unchanged.
    pub(super) fn of_the_session(&self) -> Map<String, Value> {
        let mut all = self.claims.all.clone();
        all.retain(|name, _| !["exp", "iat", "jti", "keys"].contains(&name.as_str()));
        all
    }
}

/// Reads a token with the gateway's own reader and with `jsonwebtoken`, which must agree.
pub(super) fn honour(sessions: &Sessions, token: &str, now: Timestamp) -> Honoured {
    let compact = Compact::parse(token, 8 * 1024).unwrap();
    let policy = sessions.policy();
    policy.check_header(&compact.header).unwrap();
    policy.check_claims(&compact.claims).unwrap();
    policy.check_times(&compact.claims, now).unwrap();
    let keys = KeySet::from_jwks(&sessions.jwks().to_string(), &policy.algorithms, false).unwrap();
    assert!(keys.refused().is_empty(), "{:?}", keys.refused());
    let mut fitting = keys.candidates(compact.header.key_id.as_deref(), compact.header.algorithm);
    let key = fitting.find(|key| key.verify(compact.signing_input.as_bytes(), &compact.signature)).unwrap();
    assert!(sessions.key_set().load().keys().iter().any(|own| own.thumbprint() == key.thumbprint()));
    assert_eq!(oracle(sessions, token), compact.claims.all);
    Honoured {
        lineage: Lineage::read(&compact.claims.all).unwrap(),
        name: compact.name(),
        key: key.thumbprint().to_owned(),
        claims: compact.claims,
    }
}

fn oracle(sessions: &Sessions, token: &str) -> Map<String, Value> {
    let set: jsonwebtoken::jwk::JwkSet = serde_json::from_slice(&sessions.jwks_bytes()).unwrap();
    let header = jsonwebtoken::decode_header(token).unwrap();
    assert_eq!(header.typ.as_deref(), Some("at+jwt"));
    let jwk = set.find(&header.kid.unwrap()).unwrap();
    let mut rules = jsonwebtoken::Validation::new(header.alg);
    rules.set_issuer(&[ISSUER]);
    rules.set_audience(&["shop"]);
    rules.validate_exp = false;
    let key = jsonwebtoken::DecodingKey::from_jwk(jwk).unwrap();
    jsonwebtoken::decode::<Map<String, Value>>(token, &key, &rules).unwrap().claims
}
