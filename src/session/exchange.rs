//! Opening a session with another issuer's token (RFC 8693 in spirit).

use std::sync::Arc;

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

use super::Sessions;
use super::claims::OWN;
use super::mint::{Draft, MintError, Minted};
use crate::time::Timestamp;
use crate::token::{Claims, Lineage, Origin};

/// Keeps what is derived here apart from any other use of the session secret.
const SID_DOMAIN: &[u8] = b"portcullis/sid/1";

/// A verified token of another issuer that a session is opened with.
#[derive(Clone, Copy, Debug)]
pub struct Parent<'a> {
    /// Its issuer's place in [`Config::issuers`](crate::config::Config::issuers).
    pub issuer_index: usize,
    /// What it says.
    pub claims: &'a Claims,
    /// Its revocation name: `jti`, or `sha256:` and a digest.
    pub token_name: &'a str,
    /// The thumbprint of the key that verified it.
    pub key_thumbprint: &'a str,
    /// Put before its `sub`.
    pub subject_prefix: &'a str,
    /// The fingerprint of the credential that it hangs on; without one, what its `cfp` says is kept.
    pub credential: Option<&'a str>,
}

/// Why a token opened no session. Read as "failed to exchange the token: {self}".
#[derive(Debug, thiserror::Error)]
pub enum ExchangeError {
    /// Its issuer is not listed in `session.exchange`.
    #[error("tokens of this issuer open no sessions")]
    IssuerNotListed,
    /// It has no `sub`, and a session belongs to somebody.
    #[error("the token names no subject")]
    MissingSubject,
    /// Nothing could be minted.
    #[error(transparent)]
    Mint(#[from] MintError),
}

impl Sessions {
    /// Opens the session that belongs to `parent`, or returns the token it has already opened.
    ///
    /// One parent has one session, on every node that has the same session secret; its token is
    /// remembered until its own turn to be reissued, so that a client that ignores the new token costs
    /// one minting an interval. The caller has checked the parent's standing.
    ///
    /// The session begins at the parent's `iat`. Scope, client, `auth_time`, `cnf` and unregistered
    /// claims are copied; those that describe the parent token itself are not (they are in `orig`, or
    /// set anew).
    ///
    /// # Errors
    /// When the issuer is not listed, the parent has no subject, the session would already be over, or
    /// the token would be too long.
    pub fn exchange(&self, parent: Parent<'_>, now: Timestamp) -> Result<Arc<Minted>, ExchangeError> {
        self.exchange_after(parent, Timestamp::MIN, now)
    }

    /// The same, with a token that expires after `newest`: with `rotation: strict`, one that has been
    /// replaced is not handed out again.
    ///
    /// # Errors
    /// As [`Self::exchange`].
    pub fn exchange_after(
        &self,
        parent: Parent<'_>,
        newest: Timestamp,
        now: Timestamp,
    ) -> Result<Arc<Minted>, ExchangeError> {
        if !self.config.exchange.contains(&parent.issuer_index) {
            return Err(ExchangeError::IssuerNotListed);
        }
        let Some(subject) = parent.claims.subject.as_deref().filter(|it| !it.is_empty()) else {
            return Err(ExchangeError::MissingSubject);
        };
        let session = self.session_of(&parent.claims.issuer, parent.token_name);
        let ring = self.ring.load();
        let usable = |minted: &Minted| {
            // An issuer that gives two tokens one `jti` must not give one user the other's session.
            minted.key_thumbprint == ring.thumbprint && minted.expires > newest && parent.is_origin_of(minted)
        };
        let minted = self.exchanged.find_or_mint(&session, now, usable, || {
            let draft = Draft {
                subject: format!("{}{subject}", parent.subject_prefix),
                session: session.clone(),
                authenticated: parent.claims.authenticated,
                client: parent.claims.client.clone(),
                lineage: Lineage {
                    origin_issued: parent.claims.issued,
                    origin: Some(parent.origin()),
                    keys: Vec::new(),
                },
                others: taken_over(&parent.claims.all),
            };
            self.mint(&ring, draft, now)
        })?;
        Ok(minted)
    }

    /// The `sid` of the session that a token opens: not guessable without the session secret.
    fn session_of(&self, issuer: &str, token_name: &str) -> String {
        let mut context = hmac::Context::with_key(&self.secret);
        for part in [SID_DOMAIN, issuer.as_bytes(), token_name.as_bytes()] {
            // Framed, so that no two pairs run together into one text.
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part);
        }
        URL_SAFE_NO_PAD.encode(context.sign())
    }
}

impl Parent<'_> {
    fn origin(&self) -> Origin {
        Origin {
            issuer: self.claims.issuer.clone(),
            subject: self.claims.subject.clone(),
            token: self.token_name.to_owned(),
            session: self.claims.session.clone(),
            client: self.claims.client.clone(),
            key: self.key_thumbprint.to_owned(),
            audiences: self.claims.audiences.clone(),
            credential: self.credential().map(str::to_owned),
        }
    }

    fn credential(&self) -> Option<&str> {
        self.credential.or_else(|| self.claims.all.get("cfp").and_then(Value::as_str))
    }

    fn is_origin_of(&self, minted: &Minted) -> bool {
        let subject = minted.subject.strip_prefix(self.subject_prefix);
        minted.lineage.origin_issued == self.claims.issued
            && subject == self.claims.subject.as_deref()
            && minted.authenticated == self.claims.authenticated
            // Else a token that is bound to its holder could be had without one.
            && minted.confirmation.as_ref() == self.claims.all.get("cnf")
            && minted.lineage.origin.as_ref().is_some_and(|origin| {
                origin.issuer == self.claims.issuer
                    && origin.subject == self.claims.subject
                    && origin.token == self.token_name
                    && origin.session == self.claims.session
                    && origin.client == self.claims.client
                    && origin.key == self.key_thumbprint
                    && origin.audiences == self.claims.audiences
                    && origin.credential.as_deref() == self.credential()
            })
    }
}

/// What a session keeps of the claims of the token that opened it.
fn taken_over(claims: &Map<String, Value>) -> Map<String, Value> {
    claims
        .iter()
        .filter(|(name, _)| !OWN.contains(&name.as_str()))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::fixture::{FOREIGN, NOW, after, config, foreign, honour, parent, sessions};
    use super::*;

    #[test]
    fn a_session_keeps_what_its_parent_says_of_the_holder_and_sets_the_rest() {
        let (_folder, sessions) = sessions();
        let claims = foreign(json!({
            "scope": "read write", "roles": ["admin"], "azp": "web", "client_id": "web2", "auth_time": 1_732_400_000,
            "acr": "2", "cnf": { "jkt": "k" }, "sid": "idp-session", "cfp": "print", "nbf": NOW.secs(), "typ": "Bearer",
            "nonce": "n", "at_hash": "h", "c_hash": "h", "s_hash": "h", "orig_iat": 1, "orig": { "iss": "x" },
            "keys": ["forged"],
        }));
        let minted = sessions.exchange(parent(&claims), NOW).unwrap();
        let token = honour(&sessions, minted.token(), NOW);
        let expected = json!({
            "iss": "https://gate.example.com/", "sub": "acc:42", "aud": "shop", "exp": NOW.secs() + 60,
            "iat": NOW.secs(), "jti": token.name, "sid": minted.session, "orig_iat": NOW.secs(),
            "orig": { "iss": FOREIGN, "sub": "42", "tok": "p1", "sid": "idp-session", "client": "web",
                "key": "foreign-key", "cfp": "print", "aud": ["shop", "desk"] },
            "scope": "read write", "roles": ["admin"], "azp": "web", "client_id": "web2", "auth_time": 1_732_400_000,
            "acr": "2", "cnf": { "jkt": "k" },
        });
        assert_eq!(Value::Object(token.claims.all.clone()), expected);
        assert_eq!(token.lineage.keys, Vec::<String>::new(), "what the parent claims of a chain is not believed");
        assert_eq!(minted.scope.as_deref(), Some("read write"));
    }

    #[test]
    fn a_parent_without_authentication_time_gives_none() {
        let (_folder, sessions) = sessions();
        let minted = sessions.exchange(parent(&foreign(json!({}))), NOW).unwrap();
        assert_eq!(minted.authenticated, None);
        assert!(!honour(&sessions, minted.token(), NOW).claims.all.contains_key("auth_time"));
    }

    #[test]
    fn one_parent_has_one_session_and_one_token_until_its_turn() {
        let (_folder, sessions) = sessions();
        let claims = foreign(json!({}));
        let first = sessions.exchange(parent(&claims), NOW).unwrap();
        for (secs, same) in [(0, true), (29, true), (31, false)] {
            let again = sessions.exchange(parent(&claims), after(secs)).unwrap();
            assert_eq!(again.id == first.id, same, "after {secs} s");
            assert_eq!(again.session, first.session, "after {secs} s");
        }
    }

    #[test]
    fn a_token_that_was_replaced_is_not_handed_out_again() {
        let (_folder, sessions) = sessions();
        let claims = foreign(json!({}));
        let first = sessions.exchange(parent(&claims), NOW).unwrap();
        assert_eq!(sessions.exchange_after(parent(&claims), after(50), after(1)).unwrap().id, first.id);
        let anew = sessions.exchange_after(parent(&claims), first.expires, after(2)).unwrap();
        assert_ne!(anew.id, first.id);
        assert_eq!(anew.session, first.session);
        assert!(anew.expires > first.expires);
    }

    #[test]
    fn every_node_with_the_secret_derives_the_same_session() {
        let (folder, sessions) = sessions();
        let other = Sessions::open(&config(&folder.path().join("keys")), NOW).unwrap();
        let claims = foreign(json!({}));
        let minted = sessions.exchange(parent(&claims), NOW).unwrap();
        let elsewhere = other.exchange(parent(&claims), after(5)).unwrap();
        assert_eq!(minted.session, elsewhere.session);
        assert_ne!(minted.id, elsewhere.id);
        let (_folder, stranger) = super::super::fixture::sessions();
        assert_ne!(stranger.exchange(parent(&claims), NOW).unwrap().session, minted.session);
    }

    #[test]
    fn issuer_and_token_name_do_not_run_together() {
        let (_folder, sessions) = sessions();
        let ids: std::collections::HashSet<_> =
            [("ab", "c"), ("a", "bc"), ("abc", ""), ("", "abc"), ("a", "b"), ("b", "a")]
                .map(|(issuer, name)| sessions.session_of(issuer, name))
                .into();
        assert_eq!(ids.len(), 6);
    }

    #[test]
    fn two_tokens_of_one_name_never_get_each_others_token() {
        let (_folder, sessions) = sessions();
        let first = sessions.exchange(parent(&foreign(json!({}))), NOW).unwrap();
        for other in [
            json!({ "sub": "43" }),
            json!({ "iat": NOW.secs() - 1 }),
            json!({ "aud": ["shop"] }),
            json!({ "azp": "web" }),
            json!({ "sid": "s" }),
            json!({ "cfp": "c" }),
            json!({ "auth_time": 1 }),
            json!({ "cnf": { "jkt": "k" } }),
        ] {
            let minted = sessions.exchange(parent(&foreign(other.clone())), NOW).unwrap();
            assert_ne!(minted.id, first.id, "{other}");
        }
        let claims = foreign(json!({}));
        let by_another_key = sessions.exchange(Parent { key_thumbprint: "k2", ..parent(&claims) }, NOW).unwrap();
        let of_another_name = sessions.exchange(Parent { subject_prefix: "x:", ..parent(&claims) }, NOW).unwrap();
        assert_eq!(of_another_name.subject, "x:42");
        assert_ne!(by_another_key.id, of_another_name.id);
    }

    #[test]
    fn what_cannot_open_a_session_is_refused() {
        let (_folder, sessions) = sessions();
        let plain = foreign(json!({}));
        let unlisted = sessions.exchange(Parent { issuer_index: 1, ..parent(&plain) }, NOW);
        assert!(matches!(unlisted, Err(ExchangeError::IssuerNotListed)));
        let nobody = foreign(json!({ "sub": null }));
        assert!(matches!(sessions.exchange(parent(&nobody), NOW), Err(ExchangeError::MissingSubject)));
        for (secs, ended) in [(298, false), (299, false), (300, true), (3_000, true)] {
            let result = sessions.exchange(parent(&plain), after(secs));
            assert_eq!(matches!(result, Err(ExchangeError::Mint(MintError::Ended))), ended, "after {secs} s");
            assert_eq!(result.is_ok(), !ended, "after {secs} s");
        }
        let long = foreign(json!({ "sub": "s".repeat(1021) }));
        assert!(matches!(sessions.exchange(parent(&long), NOW), Err(ExchangeError::Mint(MintError::SubjectTooLong))));
        let large = foreign(json!({ "blob": "b".repeat(6_000) }));
        let refused = sessions.exchange(parent(&large), NOW);
        assert!(matches!(refused, Err(ExchangeError::Mint(MintError::TooLarge { max: 8192, .. }))));
        let sessions = sessions.with_token_bytes_max(16 * 1024);
        assert!(sessions.exchange(parent(&large), NOW).is_ok());
    }
}
