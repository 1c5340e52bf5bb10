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
            minted.key_thumbprint == ring.thumbprint && parent.is_origin_of(minted)
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
        self.claims.all.get("cfp").and_then(Value::as_str)
    }

    fn is_origin_of(&self, minted: &Minted) -> bool {
        let subject = minted.subject.strip_prefix(self.subject_prefix);
        minted.lineage.origin_issued == self.claims.issued
            && subject == self.claims.subject.as_deref()
            && minted.authenticated == self.claims.authenticated
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
