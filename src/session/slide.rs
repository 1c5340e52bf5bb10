//! Reissue: the window slides while it is used, and never past the session's absolute end.

use std::sync::Arc;

use super::Sessions;
use super::mint::{Draft, MintError, Minted};
use super::successors::turn;
use crate::time::Timestamp;
use crate::token::{Claims, Lineage};

/// Claims that every token of a chain has of its own; all others go from one to the next unchanged.
const OF_ONE_TOKEN: [&str; 4] = ["exp", "iat", "jti", "keys"];

/// How many successors of a successor are followed; each takes a second at least. Past it a late answer
/// may bring an older token, which then gets its own successor when it is used.
const CHAIN_MAX: usize = 64;

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
        let mut minted = self.slid.find_or_mint(current.token_name, now, usable, || {
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
        // An answer that comes late brings the newest token, and so takes no newer one's place in a
        // cookie jar.
        for _ in 0..CHAIN_MAX {
            let newer = self.slid.find(&minted.id, now, usable).filter(|next| next.expires > minted.expires);
            let Some(newer) = newer else { break };
            minted = newer;
        }
        Ok(Some(minted))
    }

    fn grows(&self, current: &Current<'_>, now: Timestamp) -> bool {
        let expires = self.expiry(current.lineage.origin_issued, now);
        expires > current.claims.expires && expires > now
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::fixture::{NOW, after, foreign, honour, parent, sessions, sessions_with};

    #[test]
    fn a_token_is_due_when_more_than_the_share_of_its_life_is_gone() {
        let (_folder, sessions) = sessions();
        let minted = sessions.exchange(parent(&foreign(json!({}))), NOW).unwrap();
        let old = honour(&sessions, minted.token(), NOW);
        // Issued at the whole second, a quarter of one before NOW.
        for (millis, due) in [(0, false), (29_000, false), (29_750, false), (29_751, true), (59_000, true)] {
            let now = NOW.plus(std::time::Duration::from_millis(millis));
            assert_eq!(sessions.due(&old.current(), now), due, "after {millis} ms");
        }
    }

    #[test]
    fn the_n_th_request_makes_a_token_due_whatever_its_age() {
        let (_folder, sessions) = sessions_with(|config| config.reissue_every = Some(3));
        let minted = sessions.exchange(parent(&foreign(json!({}))), NOW).unwrap();
        let old = honour(&sessions, minted.token(), NOW);
        let due: Vec<_> = (1..=5).map(|_| sessions.due(&old.current(), after(2))).collect();
        assert_eq!(due, [false, false, true, true, true]);
        let successor = sessions.slide(&old.current(), after(2)).unwrap().unwrap();
        let new = honour(&sessions, successor.token(), after(2));
        assert!(!sessions.due(&new.current(), after(3)), "the successor is counted for itself");
        let (_folder, sessions) = sessions_with(|config| config.reissue_every = Some(1));
        assert!(!sessions.due(&old.current(), NOW), "within the second the expiry cannot grow");
        assert!(sessions.due(&old.current(), after(1)));
    }

    #[test]
    fn a_successor_differs_in_its_times_and_id_alone() {
        let (_folder, sessions) = sessions();
        let claims = foreign(json!({ "auth_time": 1_732_400_000.75, "azp": "web", "roles": [1, 2.5, null] }));
        let minted = sessions.exchange(parent(&claims), NOW).unwrap();
        let old = honour(&sessions, minted.token(), NOW);
        let new = sessions.slide(&old.current(), after(40)).unwrap().unwrap();
        let new = honour(&sessions, new.token(), after(40));
        let mut expected = old.claims.all.clone();
        expected["exp"] = (NOW.secs() + 100).into();
        expected["iat"] = (NOW.secs() + 40).into();
        expected["jti"] = new.name.clone().into();
        assert_eq!(new.claims.all, expected);
        assert_ne!(new.name, old.name);
    }

    #[test]
    fn a_session_ends_at_its_absolute_end_however_much_it_is_used() {
        let (_folder, sessions) = sessions();
        let minted = sessions.exchange(parent(&foreign(json!({}))), NOW).unwrap();
        let mut token = honour(&sessions, minted.token(), NOW);
        let mut lived = 0;
        for secs in (40..1_000).step_by(40) {
            let Some(next) = sessions.slide(&token.current(), after(secs)).unwrap() else { break };
            token = honour(&sessions, next.token(), after(secs));
            lived = secs;
        }
        assert_eq!(lived, 240, "from there on the expiry is the end");
        assert_eq!(token.claims.expires, sessions.absolute_end(token.lineage.origin_issued));
        assert!(!sessions.due(&token.current(), after(299)), "nothing to be gained");
    }

    #[test]
    fn an_old_token_gets_its_successor_again_until_that_ones_turn() {
        let (_folder, sessions) = sessions();
        let minted = sessions.exchange(parent(&foreign(json!({}))), NOW).unwrap();
        let old = honour(&sessions, minted.token(), NOW);
        let first = sessions.slide(&old.current(), after(31)).unwrap().unwrap();
        let again = sessions.slide(&old.current(), after(58)).unwrap().unwrap();
        assert!(first.count_once() && !again.count_once(), "one minting, counted once");
        assert_eq!(first.id, again.id);
        sessions.sweep(after(58));
        assert_eq!(sessions.slide(&old.current(), after(58)).unwrap().unwrap().id, first.id, "a sweep keeps it");
        sessions.sweep(after(120));
        assert_eq!(sessions.remembered(), 0);
    }

    #[test]
    fn a_late_answer_brings_the_newest_token_known() {
        let (_folder, sessions) = sessions_with(|config| {
            config.reissue_every = Some(2);
            config.idle_timeout = std::time::Duration::from_secs(200);
        });
        let minted = sessions.exchange(parent(&foreign(json!({}))), NOW).unwrap();
        let first = honour(&sessions, minted.token(), NOW);
        let mut newest = sessions.slide(&first.current(), after(1)).unwrap().unwrap();
        for secs in 2..20 {
            let token = honour(&sessions, newest.token(), after(secs));
            newest = sessions.slide(&token.current(), after(secs)).unwrap().unwrap();
        }
        assert_eq!(sessions.slide(&first.current(), after(20)).unwrap().unwrap().id, newest.id);
    }

    #[test]
    fn a_rotation_names_the_old_key_and_ends_what_was_remembered() {
        let (_folder, sessions) = sessions();
        let claims = foreign(json!({}));
        let minted = sessions.exchange(parent(&claims), NOW).unwrap();
        let old = honour(&sessions, minted.token(), NOW);
        let before = sessions.slide(&old.current(), after(31)).unwrap().unwrap();
        sessions.rotate(after(32), true).unwrap();
        let after_it = sessions.slide(&old.current(), after(33)).unwrap().unwrap();
        assert_ne!(after_it.id, before.id, "the old key may be retired next");
        let new = honour(&sessions, after_it.token(), after(33));
        assert_eq!(new.lineage.keys, std::slice::from_ref(&old.key));
        assert_ne!(new.key, old.key);
        let opened = sessions.exchange(parent(&claims), after(33)).unwrap();
        assert_eq!(honour(&sessions, opened.token(), after(33)).key, new.key);
        sessions.rotate(after(40), true).unwrap();
        let third = sessions.slide(&new.current(), after(70)).unwrap().unwrap();
        assert_eq!(third.lineage.keys, [old.key, new.key]);
    }
}
