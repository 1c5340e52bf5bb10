//! Keys from files: private keys that sign, PEM public keys and certificates, secrets.

use super::*;
use crate::token::Family;

#[test]
fn a_signing_key_survives_its_file_and_verifies_what_it_signs() {
    let claims = json!({"iss": "https://gate.example/", "iat": 1000, "exp": 2000, "sub": "ada", "x": "é\"\\"});
    let claims = claims.as_object().unwrap();
    for algorithm in Algorithm::ALL {
        if algorithm.family() == Family::Hmac {
            assert!(matches!(SigningKey::generate(algorithm), Err(SigningKeyError::Kind(_))));
            continue;
        }
        let made = SigningKey::generate(algorithm).unwrap();
        let pem = made.to_pkcs8_pem();
        assert!(pem.lines().all(|line| line.len() <= 64) && pem.starts_with("-----BEGIN PRIVATE KEY-----\n"));
        let key = SigningKey::from_pkcs8_pem(&pem, algorithm).unwrap();
        assert_eq!((key.key_id(), key.algorithm()), (made.key_id(), algorithm));
        assert_eq!(key.to_pkcs8_pem(), pem);
        let published = json!({"keys": [key.public_jwk()]}).to_string();
        let keys = KeySet::from_jwks(&published, &[algorithm], false).unwrap();
        assert!(keys.refused().is_empty());
        for typ in ["at+jwt", "odd\"type"] {
            let token = key.sign(claims, typ).unwrap();
            let read = Compact::parse(&token, 8 << 10).unwrap();
            assert_eq!(read.header.key_id.as_deref(), Some(key.key_id()));
            assert_eq!(read.header.typ.as_deref(), Some(typ));
            assert_eq!(&read.claims.all, claims);
            assert!(key.verifying_key().verify(read.signing_input.as_bytes(), &read.signature));
            assert!(verifies(&keys, &token), "{algorithm}");
            assert!(!made.verifying_key().verify(b"another text", &read.signature));
        }
    }
}

#[test]
fn what_is_not_a_private_key_of_the_algorithm_is_refused() {
    let ec = SigningKey::generate(Algorithm::ES256).unwrap().to_pkcs8_pem();
    for (pem, algorithm) in [
        ("", Algorithm::ES256),
        ("-----BEGIN PRIVATE KEY-----\n-----END PRIVATE KEY-----\n", Algorithm::ES256),
        (&ec, Algorithm::ES384),
        (&ec, Algorithm::EdDSA),
        (&ec, Algorithm::RS256),
        (&format!("{}{}", *ec, *ec), Algorithm::ES256),
        (&ec.replace("PRIVATE", "PUBLIC"), Algorithm::ES256),
    ] {
        let error = SigningKey::from_pkcs8_pem(pem, algorithm).unwrap_err();
        assert!(matches!(error, SigningKeyError::Malformed(_)), "{algorithm}: {error}");
    }
    let key = SigningKey::from_pkcs8_pem(&ec, Algorithm::ES256).unwrap();
    let shown = format!("{key:?} {:?}", key.verifying_key());
    let private = ec.lines().nth(1).unwrap();
    assert!(!shown.contains(private) && shown.contains(key.key_id()), "{shown}");
}

#[test]
fn a_pem_file_holds_one_public_key_or_certificate() {
    for (algorithm, params) in [
        (Algorithm::ES256, &rcgen::PKCS_ECDSA_P256_SHA256),
        (Algorithm::ES384, &rcgen::PKCS_ECDSA_P384_SHA384),
        (Algorithm::EdDSA, &rcgen::PKCS_ED25519),
        (Algorithm::RS256, &rcgen::PKCS_RSA_SHA256),
    ] {
        let pair = rcgen::KeyPair::generate_for(params).unwrap();
        let signing = SigningKey::from_pkcs8_pem(&pair.serialize_pem(), algorithm).unwrap();
        let certificate = rcgen::CertificateParams::new(vec!["a.example".into()]).unwrap().self_signed(&pair).unwrap();
        for pem in [pair.public_key_pem(), certificate.pem()] {
            let keys = KeySet::from_pem(&pem, &Algorithm::ALL).unwrap();
            assert!(keys.contains(&signing.verifying_key()), "{algorithm}");
            let token = signing.sign(&Map::new(), "JWT").unwrap();
            assert!(verifies(&keys, &token), "{algorithm}: the key has no name, so any `kid` may mean it");
            let unfit = KeySet::from_pem(&pem, &[Algorithm::HS256]).unwrap_err();
            assert!(matches!(unfit, KeySetError::Unfit(Unfit::AlgorithmNotAllowed)), "{unfit}");
            let two = KeySet::from_pem(&format!("{pem}\n{pem}"), &Algorithm::ALL).unwrap_err();
            assert!(matches!(two, KeySetError::Unfit(Unfit::Member("PEM block"))), "{two}");
        }
        let private = KeySet::from_pem(&pair.serialize_pem(), &Algorithm::ALL).unwrap_err();
        assert!(matches!(private, KeySetError::Unfit(Unfit::Private)), "{private}");
    }
    for pem in ["", "nonsense", "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"] {
        assert!(KeySet::from_pem(pem, &Algorithm::ALL).is_err(), "{pem}");
    }
    let p521 = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P521_SHA512).unwrap();
    let error = KeySet::from_pem(&p521.public_key_pem(), &Algorithm::ALL).unwrap_err();
    assert!(matches!(error, KeySetError::Unfit(Unfit::Curve)), "{error}");
}

#[test]
fn a_secret_is_long_enough_for_each_of_its_algorithms() {
    let load = |length: usize, allowed: &[Algorithm]| KeySet::from_secret(&Secret::new(vec![7; length]), allowed);
    assert_eq!(load(64, &[Algorithm::HS256, Algorithm::HS512]).unwrap().keys().len(), 2);
    for (length, allowed, why) in [
        (0, &[Algorithm::HS256][..], Unfit::SecretTooShort(32)),
        (31, &[Algorithm::HS256], Unfit::SecretTooShort(32)),
        (32, &[Algorithm::HS256, Algorithm::HS384], Unfit::SecretTooShort(48)),
        (64, &[Algorithm::RS256], Unfit::AlgorithmNotAllowed),
        (64, &[], Unfit::AlgorithmNotAllowed),
    ] {
        match load(length, allowed) {
            Err(KeySetError::Unfit(refused)) => assert_eq!(refused, why, "{length} {allowed:?}"),
            other => panic!("{length} {allowed:?}: {other:?}"),
        }
    }
}
