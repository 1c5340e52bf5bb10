//! What a decision may lack.
//!
//! A decision awaits nothing. Where it turns on something that is not here yet (an issuer's keys, a
//! subject's credential), it says so instead of guessing; whoever asked gets it, once and bounded, and
//! asks again with a fresh `now`. What is lacking still then is a refusal: [`Gate::refusal`] says which.

use super::{Denial, Gate, Stage};
use crate::time::Timestamp;

/// Something that a decision turns on and that is not here.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Need {
    /// Keys of an issuer: none are known, they are too old to count, or none fits what a token names.
    Keys {
        /// Index of the issuer within the gate.
        issuer: usize,
    },
    /// What a subject's tokens are bound to.
    Credential {
        /// Index of the issuer within the gate.
        issuer: usize,
        /// The subject, as its issuer names it.
        subject: String,
    },
}

impl Need {
    /// Index of the issuer that it is about.
    #[must_use]
    pub const fn issuer(&self) -> usize {
        match self {
            Self::Keys { issuer } | Self::Credential { issuer, .. } => *issuer,
        }
    }
}

/// A decision that was not positive.
#[derive(Debug)]
pub enum Unsettled {
    /// Refused, whatever else there is to know.
    Denied(Stage),
    /// Not decided: this must be had first.
    Needs(Need),
}

impl From<Stage> for Unsettled {
    fn from(stage: Stage) -> Self {
        Self::Denied(stage)
    }
}

impl From<Need> for Unsettled {
    fn from(need: Need) -> Self {
        Self::Needs(need)
    }
}

impl From<Denial> for Unsettled {
    fn from(denial: Denial) -> Self {
        Self::Denied(denial.into())
    }
}

impl Gate {
    /// What an unsettled decision comes to when nothing more is to be had: a key that no usable set
    /// has is unknown, and everything else could not be looked up.
    #[must_use]
    pub fn refusal(&self, unsettled: Unsettled, now: Timestamp) -> Stage {
        let need = match unsettled {
            Unsettled::Denied(stage) => return stage,
            Unsettled::Needs(need) => need,
        };
        let issuer = need.issuer();
        let usable = |index: usize| self.issuers().get(index).is_some_and(|it| now < it.keys.load().until());
        let denial = match need {
            Need::Keys { issuer } if usable(issuer) => Denial::UnknownKey,
            Need::Keys { .. } | Need::Credential { .. } => Denial::KeysUnavailable,
        };
        Stage { denial, issuer: Some(issuer) }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use arc_swap::ArcSwap;
    use serde_json::json;

    use super::*;
    use crate::gate::{Demand, Kind, TokenCache, TrustedIssuer};
    use crate::keys::{KeySet, SigningKey};
    use crate::revocation::RevocationMap;
    use crate::token::{Algorithm, Policy};

    const NOW: Timestamp = Timestamp::from_secs(1_800_000_000);

    struct World {
        gate: Gate,
        keys: Arc<ArcSwap<KeySet>>,
        map: Arc<RevocationMap>,
        cache: TokenCache,
    }

    fn key() -> SigningKey {
        SigningKey::generate(Algorithm::EdDSA).unwrap()
    }

    fn token(key: &SigningKey) -> String {
        let claims = json!({"iss": "i", "aud": "shop", "sub": "bob", "iat": NOW.secs(), "exp": NOW.secs() + 3600});
        key.sign(claims.as_object().unwrap(), "JWT").unwrap()
    }

    fn set(keys: &[&SigningKey]) -> KeySet {
        KeySet::from_keys(keys.iter().map(|key| key.verifying_key()).collect())
    }

    fn world(keys: KeySet, renewable: bool) -> World {
        let keys = Arc::new(ArcSwap::from_pointee(keys));
        let issuer = TrustedIssuer {
            name: "accounts".to_owned(),
            url: "i".to_owned(),
            kind: Kind::Foreign,
            policy: Policy {
                algorithms: vec![Algorithm::EdDSA],
                types: vec!["JWT".to_owned()],
                audiences: vec!["shop".to_owned()],
                clock_skew: Duration::ZERO,
                max_lifetime: Duration::from_secs(3600),
                require: Vec::new(),
            },
            keys: Arc::clone(&keys),
            renewable,
            max_authentication_age: None,
            credentials: None,
        };
        let map = Arc::new(RevocationMap::new(10));
        World { gate: Gate::new(vec![issuer], 8192, Arc::clone(&map)), keys, map, cache: TokenCache::new(1 << 20) }
    }

    impl World {
        /// `ok`, what is lacking, or why not.
        fn ask(&self, token: &str, now: Timestamp) -> Result<bool, Option<Denial>> {
            match self.gate.admit(&self.cache, token.into(), &Demand::default(), now) {
                Ok(admission) => Ok(admission.cached),
                Err(Unsettled::Needs(Need::Keys { issuer: 0 })) => Err(None),
                Err(Unsettled::Denied(stage)) => Err(Some(stage.denial)),
                Err(other) => panic!("{other:?}"),
            }
        }

        fn swap(&self, keys: KeySet) {
            self.keys.store(Arc::new(keys));
            self.map.bump();
        }
    }

    #[test]
    fn an_unknown_key_is_asked_for_where_there_may_be_newer_ones_and_refused_elsewhere() {
        let (known, other) = (key(), key());
        let fixed = world(set(&[&known]), false);
        assert_eq!(fixed.ask(&token(&other), NOW), Err(Some(Denial::UnknownKey)));
        let renewable = world(set(&[&known]), true);
        assert_eq!(renewable.ask(&token(&other), NOW), Err(None));
        assert_eq!(renewable.ask(&token(&known), NOW), Ok(false));
        let still = Unsettled::Needs(Need::Keys { issuer: 0 });
        assert_eq!(renewable.gate.refusal(still, NOW).denial, Denial::UnknownKey, "the set counts and has it not");
        renewable.swap(set(&[&other]));
        assert_eq!(renewable.ask(&token(&other), NOW), Ok(false));
        assert_eq!(renewable.ask(&token(&known), NOW), Err(Some(Denial::UnknownKey)), "it is gone at once");
    }

    #[test]
    fn a_forged_signature_asks_for_nothing() {
        let known = key();
        let world = world(set(&[&known]), true);
        let good = token(&known);
        let (input, _) = good.rsplit_once('.').unwrap();
        let forged = format!("{input}.{}", "A".repeat(86));
        assert_eq!(world.ask(&forged, NOW), Err(Some(Denial::BadSignature)));
    }

    #[test]
    fn keys_that_are_not_known_or_too_old_are_asked_for_and_admit_nobody() {
        let known = key();
        let world = world(KeySet::unknown(), true);
        let good = token(&known);
        assert_eq!(world.ask(&good, NOW), Err(None));
        assert!(world.gate.authenticate(&good, NOW).is_err());
        let still = || Unsettled::Needs(Need::Keys { issuer: 0 });
        assert_eq!(world.gate.refusal(still(), NOW).denial, Denial::KeysUnavailable);
        let after = |secs| NOW.plus(Duration::from_secs(secs));
        world.swap(set(&[&known]).counting_until(after(60)));
        assert_eq!(world.ask(&good, NOW), Ok(false));
        let verified = world.gate.verify(&good, NOW).unwrap();
        // No epoch moves when time passes, so a remembered token must notice by itself.
        for (secs, wanted) in [(59, Ok(true)), (60, Err(None)), (3000, Err(None))] {
            assert_eq!(world.ask(&good, after(secs)), wanted, "after {secs} s");
            assert_eq!(world.gate.still_honoured(&verified, after(secs)).is_ok(), wanted.is_ok(), "after {secs} s");
        }
        assert_eq!(world.gate.refusal(still(), after(60)).denial, Denial::KeysUnavailable);
        world.swap(set(&[&known]).counting_until(after(120)));
        assert_eq!(world.ask(&good, after(60)), Ok(true), "remembered again, under the newer set");
        assert_eq!(world.ask(&good, after(119)), Ok(true));
        assert_eq!(world.ask(&good, after(120)), Err(None));
    }
}
