//! Keys against the standards' own examples, and tables of keys that must not be used.

mod files;
mod oracle;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value, json};

use super::*;
use crate::secret::Secret;
use crate::token::{Algorithm, Compact, SignedParts};

const N: &str = "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2l\
     ZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R\
     2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9\
     gb54h4FRWyuXpoQ";

/// RFC 7515 A.2.
fn rsa() -> Value {
    json!({"kty": "RSA", "n": N, "e": "AQAB"})
}

/// RFC 7515 A.3.
fn p256() -> Value {
    json!({
        "kty": "EC", "crv": "P-256",
        "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU", "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0",
    })
}

/// RFC 8037 A.2.
fn ed25519() -> Value {
    json!({"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"})
}

/// RFC 7515 A.1.
fn secret() -> Value {
    json!({
        "kty": "oct",
        "k": "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow",
    })
}

fn with(mut jwk: Value, members: Value) -> Value {
    jwk.as_object_mut().unwrap().extend(members.as_object().unwrap().clone());
    jwk
}

fn load(jwk: &Value, allowed: &[Algorithm], symmetric: bool) -> Result<KeySet, KeySetError> {
    KeySet::from_jwk(&jwk.to_string(), allowed, symmetric)
}

fn refusal(jwk: &Value) -> Unfit {
    match load(jwk, &Algorithm::ALL, true) {
        Err(KeySetError::Unfit(why)) => why,
        other => panic!("{jwk}: {other:?}"),
    }
}

/// Whether one of the keys signed it, as the gate asks.
fn verifies(keys: &KeySet, jws: &str) -> bool {
    let Ok(parts) = SignedParts::parse(jws, 64 << 10) else { return false };
    keys.candidates(parts.header.key_id.as_deref(), parts.header.algorithm)
        .any(|key| key.verify(parts.signing_input.as_bytes(), &parts.signature))
}

#[test]
fn the_examples_of_the_standards_verify_and_no_changed_byte_of_them_does() {
    const PAYLOAD: &str =
        "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";
    for (jwk, jws) in [
        (secret(), format!("eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.{PAYLOAD}.dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk")),
        (
            rsa(),
            format!(
                "eyJhbGciOiJSUzI1NiJ9.{PAYLOAD}.cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Q\
                 c_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1\
                 L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9\
                 Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw"
            ),
        ),
        (
            p256(),
            format!(
                "eyJhbGciOiJFUzI1NiJ9.{PAYLOAD}.DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqP\
                 P3-Kg6NU1Q"
            ),
        ),
        (
            ed25519(),
            "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc.hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4\
             ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg"
                .to_owned(),
        ),
    ] {
        let keys = load(&jwk, &Algorithm::ALL, true).unwrap();
        assert!(verifies(&keys, &jws), "{jws}");
        let parts = SignedParts::parse(&jws, 64 << 10).unwrap();
        let key = keys.candidates(None, parts.header.algorithm).next().unwrap();
        for at in 0..parts.signing_input.len() {
            let mut changed = parts.signing_input.as_bytes().to_vec();
            changed[at] ^= 1;
            assert!(!key.verify(&changed, &parts.signature), "{jws} byte {at}");
        }
        for at in 0..parts.signature.len() {
            let mut changed = parts.signature.clone();
            changed[at] ^= 1;
            assert!(!key.verify(parts.signing_input.as_bytes(), &changed), "{jws} signature byte {at}");
        }
        for signature in [
            vec![],
            vec![0],
            vec![0; parts.signature.len()],
            vec![0xff; 10 << 10],
            [&[0][..], &parts.signature].concat(),
            [&parts.signature[..], &[0]].concat(),
            parts.signature[..parts.signature.len() - 1].to_vec(),
        ] {
            assert!(!key.verify(parts.signing_input.as_bytes(), &signature), "{jws} {} bytes", signature.len());
        }
    }
}

#[test]
fn thumbprints_are_those_of_the_standards() {
    // RFC 7638 §3.1.
    const EXAMPLE_N: &str = "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECP\
         ebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJ\
         ZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1j\
         F44-csFCur-kEgU8awapJzKnqDKgw";
    let example = json!({"kty": "RSA", "n": EXAMPLE_N, "e": "AQAB", "alg": "RS256", "kid": "2011-04-29"});
    for (jwk, thumbprint) in [
        (example, "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"),
        // RFC 8037 A.3.
        (ed25519(), "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"),
    ] {
        let keys = load(&jwk, &Algorithm::ALL, false).unwrap();
        assert!(!keys.keys().is_empty(), "{jwk}");
        assert!(keys.keys().iter().all(|key| key.thumbprint() == thumbprint));
    }
    for jwk in [p256(), rsa()] {
        let keys = load(&jwk, &Algorithm::ALL, false).unwrap();
        let parsed: jsonwebtoken::jwk::Jwk = serde_json::from_value(jwk).unwrap();
        let expected = parsed.thumbprint(jsonwebtoken::jwk::ThumbprintHash::SHA256).unwrap();
        assert_eq!(keys.keys()[0].thumbprint(), expected);
    }
    // A secret's is keyed: it is not the digest that RFC 7638 would publish.
    let keys = load(&secret(), &Algorithm::ALL, true).unwrap();
    let parsed: jsonwebtoken::jwk::Jwk = serde_json::from_value(secret()).unwrap();
    assert_ne!(keys.keys()[0].thumbprint(), parsed.thumbprint(jsonwebtoken::jwk::ThumbprintHash::SHA256).unwrap());
    assert_eq!(keys.keys()[0].thumbprint().len(), 43);
}

#[test]
fn a_key_is_bound_to_its_own_algorithm_or_to_each_allowed_one_that_fits() {
    use Algorithm::{ES256, ES384, EdDSA, HS256, HS384, HS512, PS256, RS256, RS384};
    let bound = |jwk: &Value, allowed: &[Algorithm]| -> Vec<Algorithm> {
        load(jwk, allowed, true).unwrap().keys().iter().map(|key| key.algorithm()).collect()
    };
    assert_eq!(bound(&rsa(), &[ES256, RS256, PS256]), [RS256, PS256]);
    assert_eq!(bound(&with(rsa(), json!({"alg": "RS384"})), &Algorithm::ALL), [RS384]);
    assert_eq!(bound(&p256(), &Algorithm::ALL), [ES256]);
    assert_eq!(bound(&ed25519(), &Algorithm::ALL), [EdDSA]);
    assert_eq!(bound(&secret(), &Algorithm::ALL), [HS256, HS384, HS512]);
    let short = json!({"kty": "oct", "k": URL_SAFE_NO_PAD.encode([7; 48])});
    assert_eq!(bound(&short, &Algorithm::ALL), [HS256, HS384]);
    for (jwk, allowed) in [
        (rsa(), &[ES256][..]),
        (rsa(), &[]),
        (with(rsa(), json!({"alg": "RS256"})), &[PS256]),
        (p256(), &[ES384]),
        (secret(), &[RS256]),
    ] {
        let error = load(&jwk, allowed, true).unwrap_err();
        assert!(matches!(error, KeySetError::Unfit(Unfit::AlgorithmNotAllowed)), "{jwk} {allowed:?}: {error}");
    }
}

/// A modulus of 2048 bits whose residue is 65537^7 for each of the primes of ROCA, by the Chinese
/// remainder theorem: 65537^7 plus a multiple of their product.
fn roca_modulus() -> Vec<u8> {
    let mut number = vec![0u8; 256];
    // Little-endian for the sums: times a small number, and plus one.
    let times = |number: &mut Vec<u8>, factor: u32| {
        let mut carry = 0u32;
        for digit in number.iter_mut() {
            carry += u32::from(*digit) * factor;
            *digit = carry as u8;
            carry >>= 8;
        }
        carry
    };
    let primes = (3u32..=167).filter(|n| (2..*n).all(|divisor| n % divisor != 0));
    number[0] = 2;
    for prime in primes {
        assert_eq!(times(&mut number, prime), 0);
    }
    // Doubling keeps it a multiple, and even; it ends with the highest bit set.
    while number[255] & 0x80 == 0 {
        assert_eq!(times(&mut number, 2), 0);
    }
    let mut carry = 0u32;
    for (digit, more) in number.iter_mut().zip(65537u128.pow(7).to_le_bytes().into_iter().chain([0; 240])) {
        carry += u32::from(*digit) + u32::from(more);
        *digit = carry as u8;
        carry >>= 8;
    }
    number.reverse();
    number
}

#[test]
fn a_weak_or_misused_key_is_refused_with_its_reason() {
    let number = |bytes: &[u8]| Value::from(URL_SAFE_NO_PAD.encode(bytes));
    let modulus = URL_SAFE_NO_PAD.decode(N).unwrap();
    let even = [&modulus[..255], &[0]].concat();
    let large = [&[1][..], &[0; 1023], &[1]].concat();
    let roca = roca_modulus();
    for (jwk, why) in [
        (with(rsa(), json!({"n": number(&modulus[1..])})), Unfit::Modulus),
        (with(rsa(), json!({"n": number(&[0xff; 128])})), Unfit::Modulus),
        (with(rsa(), json!({"n": number(&[&[0x7f][..], &[0xff; 255]].concat())})), Unfit::Modulus),
        (with(rsa(), json!({"n": number(&large)})), Unfit::Modulus),
        (with(rsa(), json!({"n": number(&even)})), Unfit::Modulus),
        (with(rsa(), json!({"n": number(&roca)})), Unfit::Roca),
        (with(rsa(), json!({"n": number(&[&[0][..], &modulus].concat())})), Unfit::Member("n")),
        (with(rsa(), json!({"n": ""})), Unfit::Member("n")),
        (with(rsa(), json!({"n": 5})), Unfit::Member("n")),
        (with(rsa(), json!({"n": format!("{N}=")})), Unfit::Member("n")),
        (json!({"kty": "RSA", "e": "AQAB"}), Unfit::Member("n")),
        (with(rsa(), json!({"e": "AQ"})), Unfit::Exponent),
        (with(rsa(), json!({"e": "Aw"})), Unfit::Exponent),
        (with(rsa(), json!({"e": "AQAA"})), Unfit::Exponent),
        (with(rsa(), json!({"e": number(&[0xff, 0xff])})), Unfit::Exponent),
        (with(rsa(), json!({"e": "AAEAAQ"})), Unfit::Member("e")),
        (with(rsa(), json!({"d": "AQ"})), Unfit::Private),
        (with(rsa(), json!({"qi": null})), Unfit::Private),
        (with(p256(), json!({"d": "AQ"})), Unfit::Private),
        (with(ed25519(), json!({"d": "AQ"})), Unfit::Private),
        (with(p256(), json!({"x": number(&[7; 32])})), Unfit::Point),
        (with(p256(), json!({"x": number(&[0; 32]), "y": number(&[0; 32])})), Unfit::Point),
        (with(p256(), json!({"x": number(&[7; 31])})), Unfit::Member("x")),
        (with(p256(), json!({"y": number(&[0; 33])})), Unfit::Member("y")),
        (with(p256(), json!({"crv": "P-384"})), Unfit::Member("x")),
        (with(p256(), json!({"crv": "P-521"})), Unfit::Curve),
        (with(p256(), json!({"crv": "secp256k1"})), Unfit::Curve),
        (with(ed25519(), json!({"crv": "X25519"})), Unfit::Curve),
        (with(ed25519(), json!({"crv": "Ed448"})), Unfit::Curve),
        (with(ed25519(), json!({"x": number(&[7; 31])})), Unfit::Member("x")),
        (with(p256(), json!({"kty": "RSA"})), Unfit::Member("n")),
        (with(p256(), json!({"kty": "ec"})), Unfit::Type),
        (with(p256(), json!({"kty": "AKP"})), Unfit::Type),
        (with(p256(), json!({"kty": 5})), Unfit::Member("kty")),
        (json!({}), Unfit::Member("kty")),
        (with(p256(), json!({"kid": 5})), Unfit::Member("kid")),
        (with(p256(), json!({"use": "enc"})), Unfit::NotForSignatures),
        (with(p256(), json!({"use": 5})), Unfit::Member("use")),
        (with(p256(), json!({"key_ops": ["sign"]})), Unfit::NotForSignatures),
        (with(p256(), json!({"key_ops": []})), Unfit::NotForSignatures),
        (with(p256(), json!({"key_ops": "verify"})), Unfit::Member("key_ops")),
        (with(p256(), json!({"use": "enc", "key_ops": ["verify"]})), Unfit::NotForSignatures),
        (with(p256(), json!({"alg": "ES384"})), Unfit::AlgorithmMismatch),
        (with(p256(), json!({"alg": "RS256"})), Unfit::AlgorithmMismatch),
        (with(p256(), json!({"alg": "HS256"})), Unfit::AlgorithmMismatch),
        (with(rsa(), json!({"alg": "ES256"})), Unfit::AlgorithmMismatch),
        (with(ed25519(), json!({"alg": "ES256"})), Unfit::AlgorithmMismatch),
        (with(secret(), json!({"alg": "RS256"})), Unfit::AlgorithmMismatch),
        (with(p256(), json!({"alg": "ES521"})), Unfit::AlgorithmUnknown),
        (with(p256(), json!({"alg": "ECDH-ES"})), Unfit::AlgorithmUnknown),
        (with(p256(), json!({"alg": "none"})), Unfit::AlgorithmUnknown),
        (with(p256(), json!({"alg": 5})), Unfit::Member("alg")),
        (json!({"kty": "oct", "alg": "HS256", "k": number(&[7; 31])}), Unfit::SecretTooShort(32)),
        (json!({"kty": "oct", "alg": "HS384", "k": number(&[7; 47])}), Unfit::SecretTooShort(48)),
        (json!({"kty": "oct", "alg": "HS512", "k": number(&[7; 63])}), Unfit::SecretTooShort(64)),
        (json!({"kty": "oct", "alg": "HS256", "k": ""}), Unfit::SecretTooShort(32)),
        (json!({"kty": "oct", "alg": "HS256"}), Unfit::Member("k")),
    ] {
        assert_eq!(refusal(&jwk), why, "{jwk}");
    }
    let remote = load(&secret(), &Algorithm::ALL, false).unwrap_err();
    assert!(matches!(remote, KeySetError::Unfit(Unfit::Symmetric)), "{remote}");
    // Certificates beside a key change nothing.
    let adorned = with(p256(), json!({"x5c": ["nonsense"], "x5u": 5, "key_ops": ["verify"], "use": "sig"}));
    assert!(load(&adorned, &Algorithm::ALL, false).is_ok());
}

#[test]
fn points_of_small_order_and_second_spellings_of_points_are_refused() {
    let mut field = [0xff; 32];
    (field[0], field[31]) = (0xed, 0x7f);
    let plus = |more: u8, sign: u8| {
        let mut y = field;
        y[0] += more;
        y[31] |= sign;
        y
    };
    let minus_one = {
        let mut y = field;
        y[0] -= 1;
        y
    };
    let order_8 = |hex: &str| -> [u8; 32] {
        let bytes: Vec<u8> = (0..32).map(|at| u8::from_str_radix(&hex[at * 2..at * 2 + 2], 16).unwrap()).collect();
        bytes.try_into().unwrap()
    };
    let mut one = [0; 32];
    one[0] = 1;
    let points = [
        ([0; 32], Unfit::SmallOrder),
        (one, Unfit::SmallOrder),
        (minus_one, Unfit::SmallOrder),
        (order_8("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"), Unfit::SmallOrder),
        (order_8("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"), Unfit::SmallOrder),
        (plus(0, 0), Unfit::Point),
        (plus(1, 0), Unfit::Point),
        (plus(18, 0), Unfit::Point),
    ];
    for (point, why) in points {
        for sign in [0, 0x80] {
            let mut point = point;
            point[31] |= sign;
            let jwk = with(ed25519(), json!({"x": URL_SAFE_NO_PAD.encode(point)}));
            assert_eq!(refusal(&jwk), why, "{jwk}");
        }
    }
    // The attack itself: with the neutral element as key, R = S·B verifies for every message, so the
    // library would say yes to a signature that nobody made.
    let key = aws_lc_rs::signature::ParsedPublicKey::new(&aws_lc_rs::signature::ED25519, one).unwrap();
    let mut forged = [0; 64];
    forged[0] = 1;
    assert!(key.verify_sig(b"anything", &forged).is_ok(), "the library refuses such keys itself by now");
}

#[test]
fn a_set_keeps_its_good_keys_and_lists_the_others() {
    let json = json!({"keys": [
        with(p256(), json!({"kid": "a"})),
        with(rsa(), json!({"kid": "b", "use": "enc"})),
        {"kty": "AKP", "kid": "c", "alg": "ML-DSA-44"},
        with(secret(), json!({"kid": "d"})),
        {"kty": "RSA", "kid": "e", "e": "AQAB"},
        with(ed25519(), json!({})),
        {"kid": 5},
    ]});
    let keys =
        KeySet::from_jwks(&json.to_string(), &[Algorithm::ES256, Algorithm::EdDSA, Algorithm::RS256], false).unwrap();
    let kept: Vec<_> = keys.keys().iter().map(|key| (key.key_id(), key.algorithm())).collect();
    assert_eq!(kept, [(Some("a"), Algorithm::ES256), (None, Algorithm::EdDSA)]);
    let refused: Vec<_> = keys.refused().iter().map(|key| (key.key_id.as_deref(), key.why.clone())).collect();
    assert_eq!(
        refused,
        [
            (Some("b"), Unfit::NotForSignatures),
            (Some("c"), Unfit::AlgorithmUnknown),
            (Some("d"), Unfit::Symmetric),
            (Some("e"), Unfit::Member("n")),
            (None, Unfit::Member("kty")),
        ]
    );
}

#[test]
fn a_set_that_can_be_read_in_two_ways_is_refused_whole() {
    let a = with(p256(), json!({"kid": "a"}));
    let set = |keys: Vec<Value>| json!({ "keys": keys }).to_string();
    let from = |json: &str| KeySet::from_jwks(json, &Algorithm::ALL, true);
    let duplicate = set(vec![a.clone(), with(rsa(), json!({"kid": "a", "use": "enc"}))]);
    assert!(matches!(from(&duplicate), Err(KeySetError::DuplicateKeyId(id)) if id == "a"));
    let mixed = set(vec![a.clone(), with(secret(), json!({"kid": "b"}))]);
    assert!(matches!(from(&mixed), Err(KeySetError::Mixed)));
    // Where secrets have no place anyway, they are left out one by one.
    assert_eq!(KeySet::from_jwks(&mixed, &Algorithm::ALL, false).unwrap().keys().len(), 1);
    for json in [
        "",
        "[]",
        "{}",
        r#"{"keys":{}}"#,
        r#"{"keys":[5]}"#,
        r#"{"keys":[],"keys":[]}"#,
        r#"{"keys":[{"kty":"EC","kty":"RSA"}]}"#,
        r#"{"keys":[]} x"#,
    ] {
        assert!(matches!(from(json), Err(KeySetError::Malformed(_))), "{json}");
    }
    let many = |count: usize| set((0..count).map(|n| json!({"kty": "none", "kid": n.to_string()})).collect());
    assert_eq!(from(&many(1000)).unwrap().refused().len(), 1000);
    assert!(matches!(from(&many(1001)), Err(KeySetError::TooManyKeys)));
    assert!(matches!(from(&format!("{{\"keys\":[]{}}}", " ".repeat(JSON_BYTES_MAX))), Err(KeySetError::TooLarge)));
}

#[test]
fn a_token_is_tried_with_the_key_it_names_or_at_most_four() {
    let keys: Vec<SigningKey> = (0..6).map(|_| SigningKey::generate(Algorithm::EdDSA).unwrap()).collect();
    let jwks = |named: bool| {
        let jwks: Vec<Value> = keys
            .iter()
            .map(|key| {
                let mut jwk = key.public_jwk();
                if !named {
                    jwk.as_object_mut().unwrap().shift_remove("kid");
                }
                jwk
            })
            .collect();
        KeySet::from_jwks(&json!({ "keys": jwks }).to_string(), &Algorithm::ALL, false).unwrap()
    };
    let named = jwks(true);
    let tried = |set: &KeySet, kid: Option<&str>, algorithm| -> Vec<String> {
        set.candidates(kid, algorithm).map(|key| key.thumbprint().to_owned()).collect()
    };
    let all: Vec<_> = keys.iter().map(|key| key.key_id().to_owned()).collect();
    assert_eq!(tried(&named, Some(&all[5]), Algorithm::EdDSA), [all[5].clone()]);
    assert_eq!(tried(&named, Some("other"), Algorithm::EdDSA), [""; 0]);
    assert_eq!(tried(&named, Some(&all[5]), Algorithm::ES256), [""; 0]);
    assert_eq!(tried(&named, None, Algorithm::EdDSA), all[..4]);
    // A key without a name may be meant by any.
    assert_eq!(tried(&jwks(false), Some("other"), Algorithm::EdDSA), all[..4]);
}

/// The same key under another algorithm is another key.
#[test]
fn a_set_has_a_key_only_with_the_algorithm_it_is_bound_to() {
    let load = |alg: &str| load(&with(rsa(), json!({"alg": alg})), &Algorithm::ALL, false).unwrap();
    let (old, new) = (load("RS256"), load("PS256"));
    assert_eq!(old.keys()[0].thumbprint(), new.keys()[0].thumbprint());
    assert!(old.contains(&old.keys()[0]) && !new.contains(&old.keys()[0]));
}
