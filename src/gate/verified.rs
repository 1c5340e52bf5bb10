//! A token whose signature, issuer, audience and shape were found good.

use std::sync::Arc;

use crate::keys::VerifyingKey;
use crate::revocation::{RevocationMap, Target, TargetKind, TargetRef};
use crate::session::Open;
use crate::time::Timestamp;
use crate::token::{Claims, Confirmation, Lineage};

/// Claims that may be believed, with everything a revocation can name them by.
///
/// Made by [`Gate`](super::Gate) alone. It says that the signature was good, once; whether the token is
/// honoured *now* is judged on every use.
#[derive(Debug)]
pub struct Verified {
    /// Index of its issuer within the gate.
    pub issuer: usize,
    /// Index of the issuer of the token that opened its session, for a session opened by exchange.
    pub origin_issuer: Option<usize>,
    /// What it says.
    pub claims: Claims,
    /// Where its session comes from; the gateway's own tokens only.
    pub lineage: Option<Lineage>,
    /// The name revocations know it by: `jti`, or the digest of *header.payload*.
    pub name: String,
    /// The key that verified it.
    pub key: Arc<VerifyingKey>,
    /// When the token that began this chain was issued: what cutoffs compare.
    pub origin_issued: Timestamp,
    /// The first instant at which it may be used.
    pub from: Timestamp,
    /// The first instant at which it may not be used any more.
    pub until: Timestamp,
    /// From when on its authentication is too old for its issuer.
    pub authentication_until: Option<Timestamp>,
    /// Whom it is bound to; boxed, for most are bound to nobody.
    pub confirmation: Option<Box<Confirmation>>,
    /// The credential it hangs on: its own subject's, or for a session its parent's.
    pub(super) held: Option<Held>,
    /// What revocations can name it by, as the map knows them.
    pub(super) references: Box<[TargetRef]>,
}

/// A credential that a token hangs on: it is honoured while this is the subject's current one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Held {
    /// Index of the issuer whose subject it is.
    pub(super) issuer: usize,
    /// The subject, as that issuer names it.
    pub(super) subject: Box<str>,
    /// Its fingerprint.
    pub(super) fingerprint: Box<str>,
}

impl Verified {
    /// The fingerprint of the credential that it hangs on.
    #[must_use]
    pub fn credential(&self) -> Option<&str> {
        self.held.as_ref().map(|held| &*held.fingerprint)
    }

    /// Every target it belongs to: its own and its parent's, narrowest first within each.
    #[must_use]
    pub fn targets(&self) -> Vec<Target> {
        targets(&self.claims, self.lineage.as_ref(), &self.name, self.key.thumbprint())
    }

    /// Its targets as the revocation map knows them.
    #[must_use]
    pub fn references(&self) -> &[TargetRef] {
        &self.references
    }

    /// When its holder authenticated: the instant the login request arrived for a session that a login
    /// opened, else `auth_time`.
    #[must_use]
    pub fn authenticated(&self) -> Option<Timestamp> {
        match &self.lineage {
            Some(lineage) if lineage.origin.is_none() => Some(lineage.origin_issued),
            _ => self.claims.authenticated,
        }
    }

    /// The session that owns it, for the gateway's own tokens.
    #[must_use]
    pub fn session(&self) -> Option<Target> {
        self.lineage.as_ref()?;
        let sid = self.claims.session.as_deref()?;
        Some(Target::new(TargetKind::Session, &self.claims.issuer, sid))
    }

    /// The token that opened its session, or itself if it is not the gateway's own.
    #[must_use]
    pub fn parent(&self) -> Option<Target> {
        match &self.lineage {
            None => Some(Target::new(TargetKind::Token, &self.claims.issuer, &self.name)),
            Some(lineage) => {
                lineage.origin.as_ref().map(|origin| Target::new(TargetKind::Token, &origin.issuer, &origin.token))
            }
        }
    }
}

/// The targets of a token: a session belongs to its own and to its parent's, so that neither reissue
/// nor exchange moves anybody past a revocation (the origin rule).
pub(super) fn targets(claims: &Claims, lineage: Option<&Lineage>, name: &str, key: &str) -> Vec<Target> {
    let mut all = Vec::with_capacity(14);
    let mut add = |kind, issuer: &str, value: &str| all.push(Target::new(kind, issuer, value));
    let issuer = claims.issuer.as_str();
    add(TargetKind::Token, issuer, name);
    if let Some(sid) = &claims.session {
        add(TargetKind::Session, issuer, sid);
    }
    if let Some(sub) = &claims.subject {
        add(TargetKind::Subject, issuer, sub);
    }
    if let Some(client) = &claims.client {
        add(TargetKind::Client, issuer, client);
    }
    add(TargetKind::Key, "", key);
    add(TargetKind::Issuer, issuer, "");
    if let Some(lineage) = lineage {
        inherited(lineage, &mut add);
    }
    add(TargetKind::All, "", "");
    all
}

/// The targets that every token of a session has, whichever of them is presented.
pub(super) fn targets_of_session(issuer: &str, open: &Open) -> Vec<Target> {
    let mut all = Vec::with_capacity(13);
    let mut add = |kind, issuer: &str, value: &str| all.push(Target::new(kind, issuer, value));
    add(TargetKind::Session, issuer, &open.session);
    add(TargetKind::Subject, issuer, &open.subject);
    if let Some(client) = &open.client {
        add(TargetKind::Client, issuer, client);
    }
    add(TargetKind::Key, "", &open.key);
    add(TargetKind::Issuer, issuer, "");
    inherited(&open.lineage, &mut add);
    add(TargetKind::All, "", "");
    all
}

/// What a session has of those before it: the keys of its chain, and everything of its parent.
fn inherited(lineage: &Lineage, add: &mut impl FnMut(TargetKind, &str, &str)) {
    for earlier in &lineage.keys {
        add(TargetKind::Key, "", earlier);
    }
    let Some(origin) = &lineage.origin else { return };
    add(TargetKind::Token, &origin.issuer, &origin.token);
    if let Some(sid) = &origin.session {
        add(TargetKind::Session, &origin.issuer, sid);
    }
    if let Some(sub) = &origin.subject {
        add(TargetKind::Subject, &origin.issuer, sub);
    }
    if let Some(client) = &origin.client {
        add(TargetKind::Client, &origin.issuer, client);
    }
    add(TargetKind::Key, "", &origin.key);
    add(TargetKind::Issuer, &origin.issuer, "");
}

/// The references of `targets` in `map`.
pub(super) fn references(map: &RevocationMap, targets: &[Target]) -> Box<[TargetRef]> {
    targets.iter().map(|target| map.reference(target.kind, &target.issuer, &target.value)).collect()
}
