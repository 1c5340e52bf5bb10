//! Whether what a token once opened may stay open: the decision again, without the request.
//!
//! Whoever asks has held on for a while, and the configuration may be another one by now: places in it
//! that a token remembers are looked up by name. Two things differ from a request's decision. The life of
//! what a session opened is the session's, not that of the one token; its caller knows until when. And
//! what the route demands was asked once, of the request.

use super::credential::held_by_claim;
use super::issuer::Kind;
use super::verified::Held;
use super::{Denial, Gate, Need, Stage, Unsettled, Verified};
use crate::keys::subject::Binding;
use crate::time::Timestamp;

impl Gate {
    /// Whether what `verified` opened, under this configuration or an earlier one, may stay open at `now`,
    /// its expiry aside.
    ///
    /// # Errors
    ///
    /// Why not; or what must be had first to tell.
    pub fn still_holds(&self, verified: &Verified, now: Timestamp) -> Result<(), Unsettled> {
        let own = verified.lineage.is_some();
        let at = |url: &str| self.issuers().iter().position(|issuer| issuer.url == url);
        let index = at(&verified.claims.issuer).ok_or(Denial::IssuerNotAllowed)?;
        let refuse = |denial| Unsettled::Denied(Stage { denial, issuer: Some(index) });
        let issuer = self.issuers().get(index).filter(|issuer| (issuer.kind == Kind::Own) == own);
        let issuer = issuer.ok_or_else(|| refuse(Denial::IssuerNotAllowed))?;
        // First, for it names the reason best: the key of a retired one is gone as well.
        self.standing(verified).map_err(refuse)?;
        let origin = verified.lineage.as_ref().and_then(|lineage| lineage.origin.as_ref());
        let origin = match origin.map(|origin| at(&origin.issuer)) {
            Some(None) => return Err(refuse(Denial::IssuerNotAllowed)),
            found => found.flatten(),
        };
        issuer.policy.check_claims(&verified.claims).map_err(|error| refuse(error.into()))?;
        let authority = origin.and_then(|origin| self.issuers().get(origin)).unwrap_or(issuer);
        if let Some(age) = authority.max_authentication_age {
            let until = verified.claims.authenticated.map(|at| at.plus(age).plus(authority.policy.clock_skew));
            if until.is_none_or(|until| now >= until) {
                return Err(refuse(Denial::SessionTooOld));
            }
        }
        let of_subject = matches!(issuer.credentials.as_ref().map(|it| it.binding()), Some(Binding::Key(_)));
        if let Some(held) = self.held_now(verified, (index, origin), of_subject).map_err(refuse)? {
            self.is_current(&held, index, now)?;
        }
        // A session that goes on has tokens of newer keys; that the first one's key is gone ends nothing.
        let lapsed = own && now >= verified.until;
        if of_subject || lapsed {
            return Ok(());
        }
        let keys = issuer.keys.load();
        if now >= keys.until() {
            return Err(Unsettled::Needs(Need::Keys { issuer: index }));
        }
        if keys.contains(&verified.key) { Ok(()) } else { Err(refuse(Denial::UnknownKey)) }
    }

    /// From when on the token itself is too old, by this configuration.
    #[must_use]
    pub fn expiry(&self, expires: Timestamp, verified: &Verified) -> Timestamp {
        let issuer = self.issuers().iter().find(|issuer| issuer.url == verified.claims.issuer);
        issuer.map_or(expires, |issuer| expires.plus(issuer.policy.clock_skew))
    }

    /// The credential that `verified` hangs on by this configuration.
    fn held_now(
        &self,
        verified: &Verified,
        (index, origin): (usize, Option<usize>),
        of_subject: bool,
    ) -> Result<Option<Held>, Denial> {
        match (&verified.lineage, origin, self.issuers().get(index)) {
            (Some(lineage), Some(origin), _) => self.held_by_session(lineage, origin),
            (None, _, Some(_)) if of_subject => match &verified.held {
                Some(held) => Ok(Some(Held { issuer: index, ..held.clone() })),
                None => Err(Denial::CredentialChanged),
            },
            (None, _, Some(issuer)) => held_by_claim(index, issuer, &verified.claims),
            (Some(_), None, _) | (None, _, None) => Ok(None),
        }
    }
}
