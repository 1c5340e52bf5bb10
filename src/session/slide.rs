//! Reissue: the window slides while it is used, and never past the session's absolute end.

use std::sync::Arc;

use super::Sessions;
use super::mint::{Draft, MintError, Minted};
use super::successors::turn;
use crate::time::Timestamp;
use crate::token::{Claims, Lineage};

/// Claims that every token of a chain has of its own; all others go from one to the next unchanged.
const OF_ONE_TOKEN: [&str; 4] = ["exp", "iat", "jti", "keys"];

/// A token of the gateway's own that was presented, verified and found in good standing.
#[derive(Clone, Copy, Debug)]
pub struct Current<'a> {
    /// What it says.
    pub claims: &'a Claims,
    /// Where its session comes from.
    pub lineage: &'a Lineage,
    /// Its revocation name.
    pub token_name: &'a str,
    /// The thumbprint of the key that verified it.
    pub key_thumbprint: &'a str,
}

impl Current<'_> {
    /// When its holder authenticated. The same as the origin for a grant, of which `auth_time` as it
    /// is read has lost the milliseconds.
    #[must_use]
    pub fn authenticated(&self) -> Option<Timestamp> {
        match self.lineage.origin {
            None => Some(self.lineage.origin_issued),
            Some(_) => self.claims.authenticated,
        }
    }
}

impl Sessions {
    /// Whether the token should be reissued: more than `reissue.after` of its life is gone, or
    /// `reissue.every` requests came with it, and a new one would live longer.
    ///
    /// To be asked once for each admitted request, for it counts them.
    #[must_use]
    pub fn due(&self, current: &Current<'_>, now: Timestamp) -> bool {
        let claims = current.claims;
        let reached = self.counts.as_ref().is_some_and(|it| it.is_reached(current.token_name, claims.expires));
        let aged = now > turn(claims.issued, claims.expires, self.config.reissue_after_permille);
        (reached || aged) && self.grows(current, now)
    }

    /// The token's successor: a new id and a later expiry, all else the same. Every request that asks
    /// with one old token gets the same, until the successor's own turn to be reissued.
    ///
    /// The caller has asked [`Self::due`], and has checked the standing again. `None` when the expiry
    /// would not grow, or the absolute end is reached.
    ///
    /// # Errors
    /// When signing fails or the token would be too long.
    pub fn slide(&self, current: &Current<'_>, now: Timestamp) -> Result<Option<Arc<Minted>>, MintError> {
        if !self.grows(current, now) {
            return Ok(None);
        }
        let (Some(subject), Some(session)) = (&current.claims.subject, &current.claims.session) else {
            // Nothing minted here lacks one; what does is not continued.
            return Ok(None);
        };
        let ring = self.ring.load();
        // A rotation ends what is remembered: if the old key is retired next, so is all it signed.
        let usable = |minted: &Minted| minted.key_thumbprint == ring.thumbprint;
        let minted = self.slid.find_or_mint(current.token_name, now, usable, || {
            let mut lineage = current.lineage.clone();
            let signed_by = current.key_thumbprint;
            if signed_by != &*ring.thumbprint && !lineage.keys.iter().any(|key| key == signed_by) {
                lineage.keys.push(signed_by.to_owned());
            }
            let mut others = current.claims.all.clone();
            others.retain(|name, _| !OF_ONE_TOKEN.contains(&name.as_str()));
            let draft = Draft {
                subject: subject.clone(),
                session: session.clone(),
                authenticated: current.authenticated(),
                client: current.claims.client.clone(),
                lineage,
                others,
            };
            self.mint(&ring, draft, now)
        })?;
        Ok(Some(minted))
    }

    fn grows(&self, current: &Current<'_>, now: Timestamp) -> bool {
        let expires = self.expiry(current.lineage.origin_issued, now);
        expires > current.claims.expires && expires > now
    }
}
