//! Refresh tokens: what outlives an access token, and opens the next one without a login.
//!
//! The refresh tokens of one session are a family. Each is good for one use, which brings its successor;
//! one that is used again tells that two hold it, and the session ends. [`Family::judge`] is that rule;
//! [`token`] is what a client holds, [`families`] what a node remembers of all families.
//!
//! Nothing here stores or waits. A family is one document, replaced whole: whoever comes with a token reads
//! it, makes the next one, and puts it in its place only if nobody else has meanwhile. That comparison is
//! where rotation is decided, whether the store is this node's or shared by many.

mod families;
mod family;
mod token;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

pub use families::Families;
pub use family::{Family, Judgement, UnreadableFamily};
use token::Maker;
pub use token::RefreshToken;

use self::family::Previous;
use super::Sessions;
use super::mint::{Draft, MintError, Minted};
use crate::config::Delivery;
use crate::time::Timestamp;

/// Claims that each token of a session has of its own, or that a family keeps elsewhere.
const NOT_KEPT: [&str; 10] = ["iss", "sub", "aud", "exp", "iat", "jti", "sid", "orig_iat", "orig", "keys"];

/// Why there is no refresh token. Read as "failed to make a refresh token: {self}".
#[derive(Debug, thiserror::Error)]
pub enum RefreshError {
    /// The session, or the number of its tokens, has come to its end.
    #[error("the session has reached its end")]
    Ended,
    /// `session.refresh` is not configured.
    #[error("there are no refresh tokens")]
    Off,
    /// Its successor could not be put out of sight.
    #[error("it could not be sealed")]
    Seal,
    /// The access token is not one of the gateway's own.
    #[error("the access token cannot be read back")]
    Unreadable,
}

/// What a family is opened with, beside the access token.
#[derive(Clone, Copy, Debug)]
pub struct Opener<'a> {
    /// The token of another issuer that was exchanged: presented again within the grace, it brings the same
    /// refresh token. `None` for a login.
    pub token: Option<&'a str>,
    /// The `client_id` that was given: nobody else may use the family then.
    pub client: Option<&'a str>,
    /// How the access token was handed out.
    pub delivery: Delivery,
}

impl Sessions {
    /// The refresh token that `text` is: one that was made here, whatever has become of it.
    #[must_use]
    pub fn refresh_token(&self, text: &str) -> Option<RefreshToken> {
        RefreshToken::read(text, self.maker())
    }

    /// The family of the session that `minted` opens at `now`, and its first token.
    ///
    /// # Errors
    /// When there are no refresh tokens, or the session is over.
    pub fn open_family(
        &self,
        minted: &Minted,
        opener: Opener<'_>,
        now: Timestamp,
    ) -> Result<(Family, RefreshToken), RefreshError> {
        let idle = self.config.refresh.as_ref().ok_or(RefreshError::Off)?.idle_timeout;
        let ends = self.family_end(minted.lineage.origin_issued, idle, now)?;
        let mut claims = minted.claims().ok_or(RefreshError::Unreadable)?;
        claims.retain(|name, _| !NOT_KEPT.contains(&name.as_str()));
        let generation = 1;
        let token = RefreshToken::make(&minted.session, now, generation, self.maker());
        let previous = match opener.token {
            Some(opened_with) => {
                Some(Previous::sealing(&token, opened_with.as_bytes(), now).ok_or(RefreshError::Seal)?)
            }
            None => None,
        };
        let family = Family {
            session: minted.session.as_str().into(),
            subject: minted.subject.clone(),
            client: minted.client.clone(),
            bound_to: opener.client.map(str::to_owned),
            authenticated: minted.authenticated,
            key: minted.key_thumbprint.to_string(),
            lineage: minted.lineage.clone(),
            claims,
            delivery: opener.delivery,
            opened: now,
            generation,
            ends,
            current: token.digest(),
            previous,
        };
        Ok((family, token))
    }

    /// The access token that `presented`, a token of `family`, brings at `now`. All who come with one refresh
    /// token get the same, until its own turn to be renewed; never one that expires before `newest`.
    ///
    /// The caller has judged the token and the standing of the session.
    ///
    /// # Errors
    /// When the session has reached its absolute end, or nothing could be signed.
    pub fn refreshed(
        &self,
        family: &Family,
        presented: &RefreshToken,
        newest: Timestamp,
        now: Timestamp,
    ) -> Result<Arc<Minted>, MintError> {
        let ring = self.ring.load();
        let usable = |minted: &Minted| minted.key_thumbprint == ring.thumbprint && minted.expires >= newest;
        // A token's name has no space in it, so nothing that slides is taken for this.
        let name = format!("refresh {}", presented.digest());
        self.slid.find_or_mint(&name, now, usable, || {
            let mut lineage = family.lineage.clone();
            if *family.key != *ring.thumbprint && !lineage.keys.contains(&family.key) {
                lineage.keys.push(family.key.clone());
            }
            let draft = Draft {
                subject: family.subject.clone(),
                session: family.session.to_string(),
                authenticated: family.authenticated,
                client: family.client.clone(),
                lineage,
                others: family.claims.clone(),
            };
            self.mint(&ring, draft, now)
        })
    }

    /// What `family` becomes when its current token `presented` is used at `now` and brings `minted`, and the
    /// token that is current then.
    ///
    /// # Errors
    /// When the session is over, or the successor could not be sealed.
    pub fn next_generation(
        &self,
        family: &Family,
        presented: &RefreshToken,
        minted: &Minted,
        now: Timestamp,
    ) -> Result<(Family, RefreshToken), RefreshError> {
        let idle = self.config.refresh.as_ref().ok_or(RefreshError::Off)?.idle_timeout;
        let generation = family.generation.checked_add(1).ok_or(RefreshError::Ended)?;
        let token = RefreshToken::make(&family.session, family.opened, generation, self.maker());
        let previous = Previous::sealing(&token, presented.bytes(), now).ok_or(RefreshError::Seal)?;
        let next = Family {
            key: minted.key_thumbprint.to_string(),
            lineage: minted.lineage.clone(),
            generation,
            ends: self.family_end(family.lineage.origin_issued, idle, now)?,
            current: token.digest(),
            previous: Some(previous),
            ..family.clone()
        };
        Ok((next, token))
    }

    fn maker(&self) -> Maker<'_> {
        Maker { secret: &self.secret, issuer: &self.config.issuer }
    }

    fn family_end(&self, origin: Timestamp, idle: Duration, now: Timestamp) -> Result<Timestamp, RefreshError> {
        let ends = now.plus(idle).min(self.absolute_end(origin));
        if ends > now { Ok(ends) } else { Err(RefreshError::Ended) }
    }
}
