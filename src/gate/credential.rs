//! What a token hangs on beyond its signature: the current credential of its subject (T5).
//!
//! Asked at every decision, cached or not, because no revocation says that a password has changed: the
//! user database does, and what was read there may be dropped at any moment. The cost is one look-up in
//! memory, and only tokens of issuers that say so, and sessions opened with such tokens, pay it.

use std::sync::Arc;

use super::issuer::TrustedIssuer;
use super::verified::Held;
use super::{Denial, Gate, Need, Stage, Unsettled, Verified};
use crate::keys::Known;
use crate::keys::VerifyingKey;
use crate::keys::subject::{Binding, Credentials};
use crate::time::Timestamp;
use crate::token::{Claims, Compact, Lineage};

impl Gate {
    /// Whether the credential that `verified` hangs on is the current one of its subject.
    ///
    /// # Errors
    ///
    /// [`Denial::CredentialChanged`]; or that it must be looked up first.
    pub fn credential(&self, verified: &Verified, now: Timestamp) -> Result<(), Unsettled> {
        match &verified.held {
            None => Ok(()),
            Some(held) => self.is_current(held, verified.issuer, now),
        }
    }

    /// Whether the credential that a session hangs on is the current one, where only the session's lineage
    /// is at hand: a refresh token has no claims.
    ///
    /// # Errors
    ///
    /// As [`Self::credential`].
    pub fn credential_of_session(&self, lineage: &Lineage, now: Timestamp) -> Result<(), Unsettled> {
        let own = self.issuers().iter().position(|issuer| issuer.kind == super::Kind::Own).unwrap_or_default();
        let refuse = |denial| Unsettled::Denied(Stage { denial, issuer: Some(own) });
        let Some(origin) = &lineage.origin else { return Ok(()) };
        let index = self.issuers().iter().position(|issuer| issuer.url == origin.issuer);
        let index = index.ok_or_else(|| refuse(Denial::IssuerNotAllowed))?;
        match self.held_by_session(lineage, index).map_err(refuse)? {
            None => Ok(()),
            Some(held) => self.is_current(&held, own, now),
        }
    }

    pub(super) fn is_current(&self, held: &Held, issuer: usize, now: Timestamp) -> Result<(), Unsettled> {
        let refuse = |denial| Unsettled::Denied(Stage { denial, issuer: Some(issuer) });
        let Some(credentials) = self.issuers().get(held.issuer).and_then(|it| it.credentials.as_ref()) else {
            return Err(refuse(Denial::IssuerNotAllowed));
        };
        match credentials.find(&held.subject, now) {
            Known::Current(credential) if credential.fingerprint == held.fingerprint => Ok(()),
            Known::Current(_) | Known::Unknown => Err(refuse(Denial::CredentialChanged)),
            Known::Absent => Err(Need::Credential { issuer: held.issuer, subject: held.subject.to_string() }.into()),
        }
    }

    /// What a session hangs on: its parent's credential, when the parent's issuer at `origin` has such.
    pub(super) fn held_by_session(&self, lineage: &Lineage, origin: usize) -> Result<Option<Held>, Denial> {
        let bound = self.issuers().get(origin).is_some_and(|issuer| issuer.credentials.is_some());
        let (true, Some(parent)) = (bound, &lineage.origin) else { return Ok(None) };
        // A session from before its issuer was bound to credentials: nobody knows which it was opened with.
        let (Some(subject), Some(fingerprint)) = (&parent.subject, &parent.credential) else {
            return Err(Denial::CredentialChanged);
        };
        Ok(Some(Held { issuer: origin, subject: subject.as_str().into(), fingerprint: fingerprint.as_str().into() }))
    }
}

/// What a token of `issuer`, which has the place `index`, hangs on according to its claims.
pub(super) fn held_by_claim(index: usize, issuer: &TrustedIssuer, claims: &Claims) -> Result<Option<Held>, Denial> {
    let Some(Binding::Claim(name)) = issuer.credentials.as_ref().map(|it| it.binding()) else { return Ok(None) };
    let subject = claims.subject.as_deref().ok_or(Denial::MissingClaim)?;
    let fingerprint = claims.all.get(name).ok_or(Denial::MissingClaim)?;
    let fingerprint = fingerprint.as_str().ok_or(Denial::MalformedClaim)?;
    Ok(Some(Held { issuer: index, subject: subject.into(), fingerprint: fingerprint.into() }))
}

/// The key of the subject that `jws` names, which has to verify it, and the credential it belongs to.
///
/// A subject that does not exist is met with a key that verifies nothing, so that it is refused for the
/// same reason and after the same work as a forged token of one that does.
pub(super) fn subject_signer(
    index: usize,
    credentials: &Credentials,
    jws: &Compact<'_>,
    now: Timestamp,
) -> Result<(Arc<VerifyingKey>, Held), Unsettled> {
    let refuse = |denial| Unsettled::Denied(Stage { denial, issuer: Some(index) });
    let subject = jws.claims.subject.as_deref().ok_or_else(|| refuse(Denial::MissingClaim))?;
    let (credential, exists) = match credentials.find(subject, now) {
        Known::Current(credential) => (credential, true),
        Known::Unknown => (Arc::clone(credentials.nobody()), false),
        Known::Absent => return Err(Need::Credential { issuer: index, subject: subject.to_owned() }.into()),
    };
    let Some(key) = &credential.key else { return Err(refuse(Denial::KeysUnavailable)) };
    if key.algorithm() != jws.header.algorithm {
        return Err(refuse(Denial::AlgNotAllowed));
    }
    let good = key.verify(jws.signing_input.as_bytes(), &jws.signature);
    if !(good && exists) {
        return Err(refuse(Denial::BadSignature));
    }
    let held = Held { issuer: index, subject: subject.into(), fingerprint: credential.fingerprint.clone() };
    Ok((Arc::clone(key), held))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use arc_swap::ArcSwap;
    use serde_json::{Value, json};
    use zeroize::Zeroizing;

    use super::*;
    use crate::gate::{Demand, Kind, TokenCache};
    use crate::keys::subject::{Columns, Derivation, Derive, Source, Terms};
    use crate::keys::{KeySet, Lifetimes, SigningKey};
    use crate::revocation::RevocationMap;
    use crate::secret::Secret;
    use crate::time::Clock;
    use crate::token::{Algorithm, Policy};

    const NOW: Timestamp = Timestamp::from_secs(1_800_000_000);
    const BASE: [u8; 32] = [7; 32];

    struct World {
        gate: Gate,
        cache: TokenCache,
        people: Arc<Credentials>,
        partners: Arc<Credentials>,
        partner_key: SigningKey,
        own_key: SigningKey,
        map: Arc<RevocationMap>,
    }

    fn credentials(url: &str, binding: Binding, map: &Arc<RevocationMap>) -> Arc<Credentials> {
        let lifetimes = Lifetimes { known: Duration::from_secs(30), unknown: Duration::from_secs(5) };
        let base_secret = Secret::new(BASE.to_vec());
        let terms = Terms { base_secret, binding, source: Source::Pushed, lifetimes, max_entries: 3 };
        let map = Arc::clone(map);
        Credentials::open(url, &terms, Clock::manual(NOW), Box::new(move |_| map.bump())).unwrap()
    }

    fn world() -> World {
        let map = Arc::new(RevocationMap::new(10));
        let people = credentials("people", Binding::Key(Derive::Hkdf), &map);
        let partners = credentials("partners", Binding::Claim("cfp".to_owned()), &map);
        let (partner_key, own_key) =
            (SigningKey::generate(Algorithm::EdDSA).unwrap(), SigningKey::generate(Algorithm::EdDSA).unwrap());
        let trusted = |url: &str, kind, algorithm, keys: Vec<Arc<VerifyingKey>>, credentials| TrustedIssuer {
            name: url.to_owned(),
            url: url.to_owned(),
            kind,
            policy: Policy {
                algorithms: vec![algorithm],
                types: vec!["JWT".to_owned()],
                audiences: vec!["shop".to_owned()],
                clock_skew: Duration::ZERO,
                max_lifetime: Duration::from_secs(3600),
                require: Vec::new(),
            },
            keys: Arc::new(ArcSwap::from_pointee(KeySet::from_keys(keys))),
            renewable: false,
            max_authentication_age: None,
            credentials,
        };
        let issuers = vec![
            trusted("people", Kind::Foreign, Algorithm::HS256, Vec::new(), Some(Arc::clone(&people))),
            trusted(
                "partners",
                Kind::Foreign,
                Algorithm::EdDSA,
                vec![partner_key.verifying_key()],
                Some(Arc::clone(&partners)),
            ),
            trusted("gate", Kind::Own, Algorithm::EdDSA, vec![own_key.verifying_key()], None),
            trusted("plain", Kind::Foreign, Algorithm::EdDSA, vec![partner_key.verifying_key()], None),
        ];
        let gate = Gate::new(issuers, 8192, Arc::clone(&map));
        World { gate, cache: TokenCache::new(1 << 20), people, partners, partner_key, own_key, map }
    }

    fn columns(hash: &str) -> Columns {
        Columns::new(vec![Some(Zeroizing::new(hash.to_owned()))]).unwrap()
    }

    fn claims(issuer: &str, more: Value) -> Value {
        let mut claims =
            json!({"iss": issuer, "aud": "shop", "sub": "ada", "iat": NOW.secs(), "exp": NOW.secs() + 3600});
        claims.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        claims
    }

    /// What the login service signs while the password hash is `hash`.
    fn of_people(hash: &str) -> String {
        let derivation = Derivation::new(&Secret::new(BASE.to_vec()), Derive::Hkdf, "people");
        let key = derivation.key("ada", &columns(hash)).unwrap();
        let key = jsonwebtoken::EncodingKey::from_secret(key.expose());
        jsonwebtoken::encode(&jsonwebtoken::Header::default(), &claims("people", json!({})), &key).unwrap()
    }

    impl World {
        fn of_partners(&self, issuer: &str, cfp: Value) -> String {
            let claims = claims(issuer, json!({ "cfp": cfp }));
            self.partner_key.sign(claims.as_object().unwrap(), "JWT").unwrap()
        }

        /// A session opened with a token of `issuer`.
        fn session(&self, issuer: &str, cfp: Option<&str>) -> String {
            let mut orig = json!({"iss": issuer, "sub": "ada", "tok": "t1", "key": "k1"});
            if let Some(cfp) = cfp {
                orig["cfp"] = json!(cfp);
            }
            let claims = claims("gate", json!({"sub": "p:ada", "orig_iat": NOW.secs(), "orig": orig, "sid": "s"}));
            self.own_key.sign(claims.as_object().unwrap(), "JWT").unwrap()
        }

        /// `Ok` says whether it was remembered; `Err(None)` that a credential is needed.
        fn ask(&self, token: &str) -> Result<bool, Option<Denial>> {
            match self.gate.admit(&self.cache, token.into(), &Demand::default(), NOW) {
                Ok(admission) => Ok(admission.cached),
                Err(Unsettled::Denied(stage)) => Err(Some(stage.denial)),
                Err(Unsettled::Needs(Need::Credential { subject, .. })) => {
                    assert_eq!(subject, "ada");
                    Err(None)
                }
                Err(other) => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn a_subjects_token_is_good_while_its_credential_is_remembered_or_not() {
        let world = world();
        let (first, second) = (of_people("one"), of_people("two"));
        assert_eq!(world.ask(&first), Err(None), "nobody knows");
        world.people.push("ada", &columns("one")).unwrap();
        assert_eq!([world.ask(&first), world.ask(&first)], [Ok(false), Ok(true)]);
        assert_eq!(world.ask(&second), Err(Some(Denial::BadSignature)));
        let held = world.gate.verify(&first, NOW).unwrap();
        let epoch = world.map.epoch();
        world.people.push("ada", &columns("two")).unwrap();
        assert!(world.map.epoch() > epoch, "what was judged is judged again");
        assert_eq!(world.ask(&first), Err(Some(Denial::CredentialChanged)));
        let still = world.gate.still_honoured(&held, NOW);
        assert!(
            matches!(still, Err(Unsettled::Denied(Stage { denial: Denial::CredentialChanged, .. }))),
            "{still:?}: also right before minting"
        );
        assert_eq!(world.ask(&second), Ok(false));
        world.people.forget("ada").unwrap();
        for token in [&first, &second] {
            assert_eq!(world.ask(token), Err(Some(Denial::CredentialChanged)), "there is no such subject");
        }
        assert_eq!(world.ask(&of_people("three")), Err(Some(Denial::BadSignature)), "never seen, and nobody's");
        assert_eq!(world.map.len(), 0);
    }

    #[test]
    fn nobodys_key_verifies_nothing_even_if_it_did() {
        let world = world();
        world.people.forget("ada").unwrap();
        let nobody = world.people.nobody().key.as_ref().unwrap();
        assert_eq!(nobody.algorithm(), Algorithm::HS256);
        for hash in ["", "one"] {
            assert_eq!(world.ask(&of_people(hash)), Err(Some(Denial::BadSignature)));
        }
    }

    #[test]
    fn a_token_that_carries_a_fingerprint_is_held_to_the_current_one() {
        let world = world();
        let one = world.partners.push("ada", &columns("one")).unwrap();
        let good = world.of_partners("partners", json!(one));
        assert_eq!([world.ask(&good), world.ask(&good)], [Ok(false), Ok(true)]);
        for (cfp, denial) in [
            (json!(""), Denial::CredentialChanged),
            (json!(format!("{one}=")), Denial::CredentialChanged),
            (json!(null), Denial::MalformedClaim),
            (json!([one]), Denial::MalformedClaim),
        ] {
            assert_eq!(world.ask(&world.of_partners("partners", cfp.clone())), Err(Some(denial)), "{cfp}");
        }
        let unsigned = claims("partners", json!({}));
        let without = world.partner_key.sign(unsigned.as_object().unwrap(), "JWT").unwrap();
        assert_eq!(world.ask(&without), Err(Some(Denial::MissingClaim)));
        world.partners.push("ada", &columns("two")).unwrap();
        assert_eq!(world.ask(&good), Err(Some(Denial::CredentialChanged)));
        assert_eq!(
            world.ask(&world.of_partners("plain", json!("anything"))),
            Ok(false),
            "others may say what they like"
        );
    }

    #[test]
    fn a_session_hangs_on_its_parents_credential_wherever_it_is_asked() {
        let world = world();
        let one = world.people.push("ada", &columns("one")).unwrap();
        let good = world.session("people", Some(&one));
        assert_eq!([world.ask(&good), world.ask(&good)], [Ok(false), Ok(true)]);
        let verified = world.gate.verify(&good, NOW).unwrap();
        let lineage = verified.lineage.clone().unwrap();
        assert!(world.gate.credential_of_session(&lineage, NOW).is_ok());
        assert_eq!(world.ask(&world.session("people", None)), Err(Some(Denial::CredentialChanged)), "from before");
        assert_eq!(world.ask(&world.session("plain", None)), Ok(false));
        world.people.push("ada", &columns("two")).unwrap();
        assert_eq!(world.ask(&good), Err(Some(Denial::CredentialChanged)));
        assert!(world.gate.still_honoured(&verified, NOW).is_err());
        assert!(world.gate.credential_of_session(&lineage, NOW).is_err());
        let gone =
            Lineage { origin: Some(crate::token::Origin { issuer: "x".into(), ..lineage.origin.unwrap() }), ..lineage };
        assert!(world.gate.credential_of_session(&gone, NOW).is_err(), "an issuer that is no longer trusted");
    }

    #[test]
    fn what_was_pushed_is_bounded() {
        let world = world();
        for name in ["a", "b", "c"] {
            world.people.push(name, &columns("one")).unwrap();
        }
        assert!(world.people.push("d", &columns("one")).is_err());
        assert!(world.people.push("a", &columns("two")).is_ok(), "who is there already may change");
        assert!(world.people.forget("e").is_err(), "nor can it be remembered that there is nobody");
    }
}
