use std::cell::Cell;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::gate::{Demand, Kind, Stage, TokenCache, TrustedIssuer, Unsettled};
use crate::keys::{KeySet, SigningKey};
use crate::revocation::RevocationMap;
use crate::token::Policy;

const NOW: Timestamp = Timestamp::from_secs(1_800_000_000);
const URL: &str = "https://shop.example/orders";

fn base64url(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// The key of a client.
struct Client(EcdsaKeyPair);

impl Client {
    fn new() -> Self {
        Self(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap())
    }

    fn jwk(&self) -> Value {
        let point = self.0.public_key().as_ref();
        json!({"kty": "EC", "crv": "P-256", "x": base64url(&point[1..33]), "y": base64url(&point[33..])})
    }

    fn thumbprint(&self) -> String {
        let jwk = self.jwk();
        VerifyingKey::of_proof(jwk.as_object().unwrap(), Algorithm::ES256).unwrap().thumbprint().to_owned()
    }

    fn sign(&self, header: &Value, claims: &Value) -> String {
        let input = format!("{}.{}", base64url(header.to_string()), base64url(claims.to_string()));
        let signature = self.0.sign(&SystemRandom::new(), input.as_bytes()).unwrap();
        format!("{input}.{}", base64url(signature.as_ref()))
    }

    /// A good proof for `token`, apart from these members of its header and its claims; `null` removes one.
    fn proof(&self, token: &str, header: Value, claims: Value) -> String {
        thread_local!(static COUNT: Cell<u64> = const { Cell::new(0) });
        let id = COUNT.with(|count| count.replace(count.get() + 1));
        let with = |mut all: Value, changes: Value| {
            let members = all.as_object_mut().unwrap();
            members.extend(changes.as_object().unwrap().clone());
            members.retain(|_, value| !value.is_null());
            all
        };
        let ath = base64url(digest(&SHA256, token.as_bytes()));
        let header = with(json!({"typ": "dpop+jwt", "alg": "ES256", "jwk": self.jwk()}), header);
        let claims =
            with(json!({"jti": id.to_string(), "htm": "GET", "htu": URL, "iat": NOW.secs(), "ath": ath}), claims);
        self.sign(&header, &claims)
    }
}

/// What a request shows.
#[derive(Clone, Default)]
struct Shown {
    proof: Option<String>,
    certificate: Option<[u8; 32]>,
}

impl Sender for Shown {
    fn proof(&self) -> Result<&str, ProofFault> {
        self.proof.as_deref().ok_or(ProofFault::Missing)
    }

    fn is_method(&self, htm: &str) -> bool {
        htm == "GET"
    }

    fn is_safe(&self) -> bool {
        true
    }

    fn is_target(&self, htu: &str) -> bool {
        htu == URL
    }

    fn certificate(&self) -> Option<[u8; 32]> {
        self.certificate
    }
}

struct World {
    gate: Gate,
    cache: TokenCache,
    key: SigningKey,
}

fn world_with(change: impl FnOnce(&mut Senders)) -> World {
    let key = SigningKey::generate(Algorithm::EdDSA).unwrap();
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
        keys: Arc::new(arc_swap::ArcSwap::from_pointee(KeySet::from_keys(vec![key.verifying_key()]))),
        renewable: false,
        max_authentication_age: None,
        credentials: None,
    };
    let mut senders = Senders::default();
    change(&mut senders);
    let gate = Gate::new(vec![issuer], 8192, Arc::new(RevocationMap::new(10))).with_senders(senders);
    World { gate, cache: TokenCache::new(1 << 20), key }
}

fn world() -> World {
    world_with(|_| ())
}

impl World {
    fn token(&self, cnf: Value) -> String {
        let mut claims = json!({"iss": "i", "aud": "shop", "sub": "bob", "iat": NOW.secs(), "exp": NOW.secs() + 3600});
        if !cnf.is_null() {
            claims["cnf"] = cnf;
        }
        self.key.sign(claims.as_object().unwrap(), "JWT").unwrap()
    }

    fn ask(&self, token: &str, scheme: &str, shown: &Shown, demand: &Demand, now: Timestamp) -> Result<(), Denial> {
        let mut headers = http::HeaderMap::new();
        headers.insert("authorization", format!("{scheme} {token}").trim().parse().unwrap());
        let places = if scheme.is_empty() {
            headers.insert("x-token", token.parse().unwrap());
            [crate::config::TokenPlace::Header(http::HeaderName::from_static("x-token"))]
        } else {
            [crate::config::TokenPlace::Header(http::header::AUTHORIZATION)]
        };
        let (token, _) = crate::token::present::find(&headers, &places).unwrap().unwrap();
        match self.gate.admit(&self.cache, Presentation { token, sender: shown }, demand, now) {
            Ok(_) => Ok(()),
            Err(Unsettled::Denied(Stage { denial, .. })) => Err(denial),
            Err(Unsettled::Needs(need)) => panic!("{need:?}"),
        }
    }

    /// What comes of a proof for a bound token.
    fn prove(&self, token: &str, proof: String) -> Result<(), Denial> {
        let shown = Shown { proof: Some(proof), certificate: None };
        self.ask(token, "DPoP", &shown, &Demand::default(), NOW)
    }
}

#[test]
fn a_bound_token_is_honoured_with_a_proof_for_this_request_alone() {
    let (world, client, other) = (world(), Client::new(), Client::new());
    let token = world.token(json!({"jkt": client.thumbprint()}));
    let another = world.token(json!({"jkt": client.thumbprint(), "x": 1}));
    let same = json!({});
    assert_eq!(world.prove(&token, client.proof(&token, same.clone(), same.clone())), Ok(()));
    let with_secret = {
        let mut jwk = client.jwk();
        jwk["d"] = json!("AAAA");
        jwk
    };
    let (mut with_k, mut with_alg) = (client.jwk(), client.jwk());
    with_k["k"] = json!("AAAA");
    with_alg["alg"] = json!("ES384");
    use ProofFault::{Age, Algorithm as Alg, Binding, Key, Malformed, Method, Target, Token};
    for (header, claims, fault) in [
        (json!({"typ": "JWT"}), json!({}), Malformed),
        (json!({"typ": "DPOP+JWT"}), json!({}), Malformed),
        (json!({"typ": null}), json!({}), Malformed),
        (json!({"jwk": null}), json!({}), Malformed),
        (json!({"jwk": "x"}), json!({}), Malformed),
        (json!({"alg": "none"}), json!({}), Malformed),
        (json!({"crit": ["x"], "x": 1}), json!({}), Malformed),
        (json!({"alg": "HS256"}), json!({}), Alg),
        (json!({"alg": "PS512"}), json!({}), Alg),
        (json!({"alg": "EdDSA"}), json!({}), Key),
        (json!({"alg": "ES384"}), json!({}), Key),
        (json!({"jwk": with_secret}), json!({}), Key),
        (json!({"jwk": with_k}), json!({}), Key),
        (json!({"jwk": with_alg}), json!({}), Key),
        (json!({"jwk": {"kty": "oct", "k": "AAAA"}}), json!({}), Key),
        (json!({"jwk": {"kty": "EC", "crv": "P-256", "x": "AAAA", "y": "AAAA"}}), json!({}), Key),
        (json!({"jwk": other.jwk()}), json!({}), Binding),
        (json!({}), json!({"htm": "POST"}), Method),
        (json!({}), json!({"htm": "get"}), Method),
        (json!({}), json!({"htm": null}), Malformed),
        (json!({}), json!({"htu": "https://shop.example/other"}), Target),
        (json!({}), json!({"htu": null}), Malformed),
        (json!({}), json!({"htu": 5}), Malformed),
        (json!({}), json!({"ath": base64url(digest(&SHA256, another.as_bytes()))}), Token),
        (json!({}), json!({"ath": null}), Token),
        (json!({}), json!({"ath": "AAAA"}), Malformed),
        (json!({}), json!({"jti": null}), Malformed),
        (json!({}), json!({"jti": ""}), Malformed),
        (json!({}), json!({"jti": 5}), Malformed),
        (json!({}), json!({"jti": "j".repeat(257)}), Malformed),
        (json!({}), json!({"jti": "a\nb"}), Malformed),
        (json!({}), json!({"iat": null}), Malformed),
        (json!({}), json!({"iat": "1"}), Malformed),
        (json!({}), json!({"iat": NOW.secs() - 65}), Age),
        (json!({}), json!({"iat": NOW.secs() + 6}), Age),
        (json!({}), json!({"iat": 1e300}), Age),
    ] {
        let refused = world.prove(&token, client.proof(&token, header.clone(), claims.clone()));
        assert_eq!(refused, Err(Denial::InvalidProof(fault)), "{header} {claims}");
    }
    for iat in [NOW.secs() - 64, NOW.secs() + 5] {
        let proof = client.proof(&token, json!({}), json!({"iat": iat}));
        assert_eq!(world.prove(&token, proof), Ok(()), "{iat}");
    }
    // The right key in the header, and somebody else's signature.
    let header = json!({"jwk": client.jwk()});
    let forged = world.prove(&token, other.proof(&token, header, json!({})));
    assert_eq!(forged, Err(Denial::InvalidProof(ProofFault::Signature)));
}

#[test]
fn a_proof_is_good_once_whatever_worker_it_comes_to() {
    let (world, client) = (world(), Client::new());
    let token = world.token(json!({"jkt": client.thumbprint()}));
    let proof = client.proof(&token, json!({}), json!({}));
    assert_eq!(world.prove(&token, proof.clone()), Ok(()));
    let elsewhere = TokenCache::new(0);
    for _ in 0..3 {
        assert_eq!(world.prove(&token, proof.clone()), Err(Denial::InvalidProof(ProofFault::Used)));
        let shown = Shown { proof: Some(proof.clone()), certificate: None };
        let presented = Presentation { sender: &shown, ..token.as_str().into() };
        let again = world.gate.admit(&elsewhere, presented, &Demand::default(), NOW);
        assert!(matches!(again, Err(Unsettled::Denied(Stage { denial: Denial::InvalidProof(ProofFault::Used), .. }))));
    }
    let renamed = client.proof(&token, json!({}), json!({"jti": "another"}));
    assert_eq!(world.prove(&token, renamed), Ok(()));
}

#[test]
fn asking_what_would_be_decided_uses_no_proof_up() {
    let (world, client) = (world(), Client::new());
    let token = world.token(json!({"jkt": client.thumbprint()}));
    let verified = world.gate.verify(&token, NOW).unwrap();
    let shown = Shown { proof: Some(client.proof(&token, json!({}), json!({}))), certificate: None };
    let presented = Presentation { sender: &shown, ..token.as_str().into() };
    for _ in 0..2 {
        assert_eq!(world.gate.would_confirm(&verified, presented, NOW), Ok(()));
    }
    assert_eq!(world.gate.confirm(&verified, presented, NOW), Ok(()));
    let used = Err(Denial::InvalidProof(ProofFault::Used));
    assert_eq!(world.gate.would_confirm(&verified, presented, NOW), used);
}

#[test]
fn what_was_made_before_the_process_began_may_have_been_used() {
    let world = world_with(|it| {
        it.replays = Arc::new(Replays::new(10, Duration::from_secs(65), NOW.plus(Duration::from_millis(900))))
    });
    let client = Client::new();
    let token = world.token(json!({"jkt": client.thumbprint()}));
    for (iat, expected) in [(-1, Err(Denial::InvalidProof(ProofFault::Age))), (0, Ok(()))] {
        let proof = client.proof(&token, json!({}), json!({"iat": NOW.secs() + iat}));
        assert_eq!(world.prove(&token, proof), expected, "{iat}");
    }
}

#[test]
fn when_no_more_proofs_can_be_remembered_none_is_taken() {
    let world = world_with(|it| it.replays = Arc::new(Replays::new(1, Duration::from_secs(65), Timestamp::MIN)));
    let client = Client::new();
    let token = world.token(json!({"jkt": client.thumbprint()}));
    let proof = || client.proof(&token, json!({}), json!({}));
    assert_eq!(world.prove(&token, proof()), Ok(()));
    assert_eq!(world.prove(&token, proof()), Err(Denial::ProofsExhausted));
}

#[test]
fn a_token_is_presented_as_what_it_is() {
    let (world, client) = (world(), Client::new());
    let (bearer, bound) = (world.token(Value::Null), world.token(json!({"jkt": client.thumbprint()})));
    let ask = |token: &str, scheme: &str, proven: bool| {
        let proof = proven.then(|| client.proof(token, json!({}), json!({})));
        world.ask(token, scheme, &Shown { proof, certificate: None }, &Demand::default(), NOW)
    };
    let missing = Err(Denial::InvalidProof(ProofFault::Missing));
    for _ in 0..2 {
        // The first time unknown, then remembered.
        assert_eq!(ask(&bearer, "Bearer", false), Ok(()));
        assert_eq!(ask(&bearer, "Bearer", true), Ok(()), "a proof does no harm");
        assert_eq!(ask(&bearer, "DPoP", true), Err(Denial::TokenNotBound));
        assert_eq!(ask(&bearer, "", false), Ok(()));
        assert_eq!(ask(&bound, "Bearer", false), Err(Denial::BoundTokenAsBearer));
        assert_eq!(ask(&bound, "Bearer", true), Err(Denial::BoundTokenAsBearer), "RFC 9449 §7.2");
        assert_eq!(ask(&bound, "DPoP", false), missing);
        assert_eq!(ask(&bound, "", false), missing);
        assert_eq!(ask(&bound, "DPoP", true), Ok(()));
        assert_eq!(ask(&bound, "", true), Ok(()));
    }
    for cnf in [json!({}), json!("k"), json!({"jwk": client.jwk()}), json!({"jkt": "short"})] {
        assert_eq!(ask(&world.token(cnf.clone()), "Bearer", false), Err(Denial::MalformedClaim), "{cnf}");
    }
}

#[test]
fn a_certificate_is_the_one_that_the_token_names() {
    let (world, client) = (world(), Client::new());
    let cert = |byte: u8| base64url([byte; 32]);
    let ask = |token: &str, scheme: &str, certificate, proof| {
        let certificate = Option::<u8>::map(certificate, |byte| [byte; 32]);
        world.ask(token, scheme, &Shown { proof, certificate }, &Demand::default(), NOW)
    };
    let token = world.token(json!({"x5t#S256": cert(7)}));
    assert_eq!(ask(&token, "Bearer", Some(7), None), Ok(()));
    assert_eq!(ask(&token, "Bearer", Some(8), None), Err(Denial::CertificateMismatch));
    assert_eq!(ask(&token, "Bearer", None, None), Err(Denial::CertificateMismatch));
    assert_eq!(ask(&token, "", None, None), Err(Denial::CertificateMismatch));
    let both = world.token(json!({"x5t#S256": cert(7), "jkt": client.thumbprint()}));
    let proof = || Some(client.proof(&both, json!({}), json!({})));
    assert_eq!(ask(&both, "DPoP", Some(7), proof()), Ok(()));
    assert_eq!(ask(&both, "DPoP", Some(8), proof()), Err(Denial::CertificateMismatch));
    assert_eq!(ask(&both, "DPoP", Some(7), None), Err(Denial::InvalidProof(ProofFault::Missing)));
}

#[test]
fn routes_and_issuers_may_demand_that_tokens_are_bound() {
    let client = Client::new();
    let (by_key, by_certificate) = (json!({"jkt": client.thumbprint()}), json!({"x5t#S256": base64url([7; 32])}));
    for (demanded, none, key, certificate) in [
        (None, true, true, true),
        (Some(Constraint::Any), false, true, true),
        (Some(Constraint::Dpop), false, true, false),
        (Some(Constraint::Mtls), false, false, true),
    ] {
        for (cnf, passes) in [(Value::Null, none), (by_key.clone(), key), (by_certificate.clone(), certificate)] {
            let expected = if passes { Ok(()) } else { Err(Denial::TokenNotBound) };
            let ask = |world: &World, demand: &Demand| {
                let token = world.token(cnf.clone());
                let proof = Some(client.proof(&token, json!({}), json!({})));
                world.ask(&token, "", &Shown { proof, certificate: Some([7; 32]) }, demand, NOW)
            };
            let of_route = Demand { sender: demanded, ..Demand::default() };
            assert_eq!(ask(&world(), &of_route), expected, "route: {demanded:?}, {cnf}");
            let of_issuer = world_with(|it| it.demanded = vec![demanded]);
            assert_eq!(ask(&of_issuer, &Demand::default()), expected, "issuer: {demanded:?}, {cnf}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn no_change_of_a_good_proof_passes(at in any::<prop::sample::Index>(), to in any::<u8>(), cut in 0_u8..4) {
        let (world, client) = (world(), Client::new());
        let token = world.token(json!({"jkt": client.thumbprint()}));
        let good = client.proof(&token, json!({}), json!({}));
        let mut bytes = good.clone().into_bytes();
        let place = at.index(bytes.len());
        match cut {
            0 => bytes.truncate(place),
            1 => { bytes.remove(place); }
            2 => bytes.insert(place, to),
            _ => bytes[place] = to,
        }
        if let Ok(changed) = String::from_utf8(bytes) && changed != good {
            prop_assert!(world.prove(&token, changed.clone()).is_err(), "{}", changed);
        }
        prop_assert_eq!(world.prove(&token, good), Ok(()));
    }

    #[test]
    fn no_text_makes_the_reader_panic(text in ".{0,200}", header in ".{0,60}", payload in ".{0,60}") {
        let _ = Proof::parse(&text);
        let _ = Proof::parse(&format!("{}.{}.AA", base64url(header), base64url(payload)));
    }
}
