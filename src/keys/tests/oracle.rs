//! `jsonwebtoken` as the oracle: what it refuses, we refuse; what both accept says the same to both.
//! Where we are stricter, a row says so. Nowhere are we more lenient.

use std::sync::LazyLock;
use std::time::Duration;

use jsonwebtoken::{DecodingKey, EncodingKey, Header, Validation, decode, encode};
use proptest::prelude::*;
use rcgen::PublicKeyData as _;

use super::*;
use crate::time::Timestamp;
use crate::token::{Claims, ParseError, Policy, PolicyError};

const NOW: i64 = 1_800_000_000;
const SECRET: [u8; 64] = [7; 64];

fn policy(algorithm: Algorithm) -> Policy {
    Policy {
        algorithms: vec![algorithm],
        types: vec!["JWT".into(), "at+jwt".into(), String::new()],
        audiences: vec!["shop".into()],
        clock_skew: Duration::ZERO,
        max_lifetime: Duration::from_secs(86_400),
        require: vec!["sub".into()],
    }
}

/// The gate's order, without its revocations.
fn ours(keys: &KeySet, algorithm: Algorithm, token: &str) -> Result<Claims, &'static str> {
    let parsed = Compact::parse(token, 8 << 10).map_err(|error| match error {
        ParseError::TooLarge => "token_too_large",
        ParseError::Malformed => "malformed_token",
        ParseError::AlgNotAllowed => "alg_not_allowed",
        ParseError::CritNotSupported => "crit_not_supported",
        ParseError::MissingClaim => "missing_claim",
        ParseError::MalformedClaim => "malformed_claim",
    })?;
    let policy = policy(algorithm);
    let named = |error: PolicyError| match error {
        PolicyError::AlgNotAllowed => "alg_not_allowed",
        PolicyError::TypNotAllowed => "typ_not_allowed",
        PolicyError::MissingClaim => "missing_claim",
        PolicyError::MalformedClaim => "malformed_claim",
        PolicyError::AudienceNotAllowed => "audience_not_allowed",
        PolicyError::Expired => "expired",
        PolicyError::NotYetValid => "not_yet_valid",
        PolicyError::IssuedInFuture => "issued_in_future",
        PolicyError::LifetimeTooLong => "lifetime_too_long",
    };
    policy.check_header(&parsed.header).map_err(named)?;
    if parsed.claims.issuer != "https://a.example/" {
        return Err("issuer_not_allowed");
    }
    if !keys
        .candidates(parsed.header.key_id.as_deref(), parsed.header.algorithm)
        .any(|key| key.verify(parsed.signing_input.as_bytes(), &parsed.signature))
    {
        return Err("bad_signature");
    }
    policy.check_claims(&parsed.claims).map_err(named)?;
    policy.check_times(&parsed.claims, Timestamp::from_secs(NOW)).map_err(named)?;
    Ok(parsed.claims)
}

/// The library, with its checks of signature, issuer and audience. Its clock is the system's, so the
/// times are left to ours, and it says nothing about them.
fn theirs(key: &DecodingKey, algorithm: Algorithm, token: &str) -> Option<Map<String, Value>> {
    let mut validation = Validation::new(algorithm.name().parse().unwrap());
    validation.validate_exp = false;
    validation.set_issuer(&["https://a.example/"]);
    validation.set_audience(&["shop"]);
    decode::<Map<String, Value>>(token, key, &validation).ok().map(|data| data.claims)
}

fn mac(header: &str, payload: &str) -> String {
    let input = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(payload));
    let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, &SECRET);
    format!("{input}.{}", URL_SAFE_NO_PAD.encode(aws_lc_rs::hmac::sign(&key, input.as_bytes())))
}

fn payload(members: &str) -> String {
    format!(r#"{{"iss":"https://a.example/","aud":"shop","sub":"ada","iat":{},"exp":{}{members}}}"#, NOW - 60, NOW + 60)
}

fn without(name: &str, members: &str) -> String {
    let mut all: Map<String, Value> = serde_json::from_str(&payload("")).unwrap();
    all.shift_remove(name);
    let all = Value::Object(all).to_string();
    format!("{}{members}}}", &all[..all.len() - 1])
}

#[test]
fn what_the_library_lets_through_is_refused_here() {
    const H: &str = r#"{"alg":"HS256"}"#;
    let keys = KeySet::from_secret(&Secret::new(SECRET.to_vec()), &[Algorithm::HS256]).unwrap();
    let key = DecodingKey::from_secret(&SECRET);
    // Header, payload, what we say, and whether the library accepts signature, issuer and audience.
    let rows: Vec<(&str, String, Result<(), &str>, bool)> = vec![
        (H, payload(""), Ok(()), true),
        (r#"{"alg":"HS256","crit":["foo"]}"#, payload(""), Err("crit_not_supported"), true),
        (r#"{"alg":"HS256","crit":[]}"#, payload(""), Err("crit_not_supported"), true),
        (r#"{"alg":"HS256","crit":["b64"],"b64":false}"#, payload(""), Err("crit_not_supported"), true),
        (r#"{"alg":"HS256","zip":"DEF"}"#, payload(""), Err("crit_not_supported"), true),
        (r#"{"alg":"HS256","cty":"JWT"}"#, payload(""), Err("crit_not_supported"), true),
        (r#"{"alg":"HS256","typ":"dpop+jwt"}"#, payload(""), Err("typ_not_allowed"), true),
        (r#"{"alg":"HS256","typ":"logout+jwt"}"#, payload(""), Err("typ_not_allowed"), true),
        (r#"{"alg":"HS256","alg":"HS256"}"#, payload(""), Err("malformed_token"), false),
        (r#"{"alg":"HS256","kid":"a","kid":"a"}"#, payload(""), Err("malformed_token"), false),
        (r#"{"alg":"HS256","x":"1","x":"2"}"#, payload(""), Err("malformed_token"), true),
        (r#"{"alg":"none"}"#, payload(""), Err("alg_not_allowed"), false),
        (r#"{"alg":"ES512"}"#, payload(""), Err("alg_not_allowed"), false),
        (r#"{"alg":"Ed25519"}"#, payload(""), Err("alg_not_allowed"), false),
        (r#"{"alg":"RS256"}"#, payload(""), Err("alg_not_allowed"), false),
        (r#"{"alg":"HS384"}"#, payload(""), Err("alg_not_allowed"), false),
        (H, payload(r#","exp":1"#), Err("malformed_token"), false),
        (H, payload(r#","role":"user","role":"admin""#), Err("malformed_token"), true),
        (H, payload(r#","jti":"a","jti":"b""#), Err("malformed_token"), true),
        (H, format!("[{}]", payload("")), Err("malformed_token"), false),
        (H, without("exp", r#","exp":"1999999999""#), Err("malformed_claim"), false),
        (H, without("exp", r#","exp":-1"#), Err("malformed_claim"), false),
        (H, without("exp", r#","exp":null"#), Err("malformed_claim"), false),
        (H, without("exp", ""), Err("missing_claim"), false),
        (H, without("exp", r#","exp":1e300"#), Err("lifetime_too_long"), false),
        (H, without("exp", r#","exp":1e18"#), Err("lifetime_too_long"), true),
        (H, without("exp", &format!(r#","exp":{NOW}"#)), Err("expired"), true),
        (H, without("exp", &format!(r#","exp":{NOW}.6"#)), Err("expired"), true),
        (H, without("exp", &format!(r#","exp":{}.6"#, NOW + 1)), Ok(()), true),
        (H, payload(&format!(r#","nbf":{}"#, NOW + 1)), Err("not_yet_valid"), true),
        (H, payload(r#","nbf":"soon""#), Err("malformed_claim"), true),
        (H, without("iat", &format!(r#","iat":{}"#, NOW + 1)), Err("issued_in_future"), true),
        (H, without("iat", r#","iat":"now""#), Err("malformed_claim"), true),
        (H, without("iat", ""), Err("missing_claim"), true),
        (H, without("aud", ""), Err("audience_not_allowed"), true),
        (H, without("aud", r#","aud":"other""#), Err("audience_not_allowed"), false),
        (H, without("aud", r#","aud":5"#), Err("malformed_claim"), true),
        (H, without("aud", r#","aud":["x",5]"#), Err("malformed_claim"), true),
        (H, without("aud", r#","aud":["other","shop"]"#), Ok(()), true),
        (H, without("iss", ""), Err("missing_claim"), true),
        (H, without("iss", r#","iss":{}"#), Err("malformed_claim"), true),
        (H, without("iss", r#","iss":["https://a.example/"]"#), Err("malformed_claim"), true),
        (H, without("iss", r#","iss":"https://a.example""#), Err("issuer_not_allowed"), false),
        (H, without("iss", r#","iss":"https://A.example/""#), Err("issuer_not_allowed"), false),
        (H, payload(r#","jti":5"#), Err("malformed_claim"), true),
        (H, payload(r#","jti":{}"#), Err("malformed_claim"), true),
        (H, payload(r#","jti":"a\u0000""#), Err("malformed_claim"), true),
        (H, without("sub", ""), Err("missing_claim"), true),
        (H, without("sub", r#","sub":5"#), Err("malformed_claim"), true),
        (H, payload(&format!(r#","x":{}1{}"#, "[".repeat(17), "]".repeat(17))), Err("malformed_token"), true),
        (H, payload(&format!(r#","x":{}1{}"#, "[".repeat(200), "]".repeat(200))), Err("malformed_token"), false),
        (H, format!("{}x", payload("")), Err("malformed_token"), false),
    ];
    for (header, payload, expected, library) in rows {
        let token = mac(header, &payload);
        let verdict = ours(&keys, Algorithm::HS256, &token).map(drop);
        assert_eq!(verdict, expected, "{header} {payload}");
        let accepted = theirs(&key, Algorithm::HS256, &token).is_some();
        // `exp` is looked at by the library even when it is not asked to judge it.
        assert_eq!(accepted, library, "the library changed its mind: {header} {payload}");
    }
}

#[test]
fn a_token_signed_with_what_everybody_knows_is_refused() {
    let signing = SigningKey::generate(Algorithm::RS256).unwrap();
    let pair = rcgen::KeyPair::from_pem(&signing.to_pkcs8_pem()).unwrap();
    let keys = KeySet::from_pem(&pair.public_key_pem(), &[Algorithm::RS256]).unwrap();
    let pem = pair.public_key_pem();
    let jwk = signing.public_jwk().to_string();
    let claims: Map<String, Value> = serde_json::from_str(&payload("")).unwrap();
    for known in [pem.as_bytes(), pem.trim_end().as_bytes(), &pair.subject_public_key_info(), jwk.as_bytes()] {
        let header = Header::new(jsonwebtoken::Algorithm::HS256);
        let token = encode(&header, &claims, &EncodingKey::from_secret(known)).unwrap();
        assert_eq!(ours(&keys, Algorithm::RS256, &token).map(drop), Err("alg_not_allowed"));
        assert!(!verifies(&keys, &token), "even where HS256 were allowed, no key is bound to it");
    }
    // The attacker's own key, carried along.
    let theirs = SigningKey::generate(Algorithm::RS256).unwrap();
    let own = theirs.sign(&claims, "JWT").unwrap();
    assert_eq!(ours(&keys, Algorithm::RS256, &own).map(drop), Err("bad_signature"));
    // The same RSA key with another algorithm than the one it is bound to.
    for algorithm in [Algorithm::PS256, Algorithm::RS384, Algorithm::RS512] {
        let other = SigningKey::from_pkcs8_pem(&signing.to_pkcs8_pem(), algorithm).unwrap();
        let token = other.sign(&claims, "JWT").unwrap();
        assert_eq!(ours(&keys, Algorithm::RS256, &token).map(drop), Err("alg_not_allowed"));
        assert!(!verifies(&keys, &token), "{algorithm}");
    }
    assert!(ours(&keys, Algorithm::RS256, &signing.sign(&claims, "JWT").unwrap()).is_ok());
}

#[test]
fn the_second_spelling_of_an_ecdsa_signature_has_the_same_name() {
    // The order of P-256.
    const ORDER: [u8; 32] = [
        0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xbc, 0xe6, 0xfa, 0xad,
        0xa7, 0x17, 0x9e, 0x84, 0xf3, 0xb9, 0xca, 0xc2, 0xfc, 0x63, 0x25, 0x51,
    ];
    let signing = SigningKey::generate(Algorithm::ES256).unwrap();
    let claims: Map<String, Value> = serde_json::from_str(&payload("")).unwrap();
    let token = signing.sign(&claims, "JWT").unwrap();
    let first = Compact::parse(&token, 8 << 10).unwrap();
    let mut signature = first.signature.clone();
    let mut borrow = 0i16;
    for at in (0..32).rev() {
        let digit = i16::from(ORDER[at]) - i16::from(first.signature[32 + at]) - borrow;
        borrow = i16::from(digit < 0);
        signature[32 + at] = digit.rem_euclid(256) as u8;
    }
    let twin = format!("{}.{}", first.signing_input, URL_SAFE_NO_PAD.encode(&signature));
    assert_ne!(twin, token);
    let second = Compact::parse(&twin, 8 << 10).unwrap();
    assert!(signing.verifying_key().verify(second.signing_input.as_bytes(), &second.signature), "it does verify");
    assert_eq!(second.name(), first.name());
}

/// One token of each kind, with both readers' keys.
struct Case {
    algorithm: Algorithm,
    token: String,
    keys: KeySet,
    key: DecodingKey,
}

static CASES: LazyLock<Vec<Case>> = LazyLock::new(|| {
    let claims: Map<String, Value> =
        serde_json::from_str(&payload(r#","jti":"t1","scope":"read write","n":{"a":[1,2.5,null,"é"]}"#)).unwrap();
    let asymmetric = [Algorithm::EdDSA, Algorithm::ES256, Algorithm::ES384, Algorithm::RS256, Algorithm::PS256];
    let mut cases: Vec<Case> = asymmetric
        .into_iter()
        .map(|algorithm| {
            let signing = SigningKey::generate(algorithm).unwrap();
            let jwk = signing.public_jwk();
            Case {
                algorithm,
                token: signing.sign(&claims, "JWT").unwrap(),
                keys: KeySet::from_jwk(&jwk.to_string(), &[algorithm], false).unwrap(),
                key: DecodingKey::from_jwk(&serde_json::from_value(jwk).unwrap()).unwrap(),
            }
        })
        .collect();
    for algorithm in [Algorithm::HS256, Algorithm::HS384, Algorithm::HS512] {
        let header = Header::new(algorithm.name().parse().unwrap());
        cases.push(Case {
            algorithm,
            token: encode(&header, &claims, &EncodingKey::from_secret(&SECRET)).unwrap(),
            keys: KeySet::from_secret(&Secret::new(SECRET.to_vec()), &[algorithm]).unwrap(),
            key: DecodingKey::from_secret(&SECRET),
        });
    }
    cases
});

#[test]
fn both_readers_take_each_others_tokens() {
    for case in CASES.iter() {
        let claims = ours(&case.keys, case.algorithm, &case.token).unwrap();
        assert_eq!(theirs(&case.key, case.algorithm, &case.token), Some(claims.all), "{}", case.algorithm);
    }
}

/// One change to a text: a byte replaced, inserted or taken away, or a part swapped for another token's.
fn mutate(token: &str, at: usize, way: u8, byte: u8, other: &str) -> String {
    let at = at % token.len();
    let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.=+/ ";
    let byte = char::from(alphabet[usize::from(byte) % alphabet.len()]);
    let mut text = token.to_owned();
    match way {
        0 => text.replace_range(at..=at, &byte.to_string()),
        1 => text.insert(at, byte),
        2 => drop(text.remove(at)),
        3 => text.truncate(at),
        4 => text.push(byte),
        _ => {
            let mut parts: Vec<&str> = token.split('.').collect();
            let others: Vec<&str> = other.split('.').collect();
            parts[at % 3] = others[at % 3];
            text = parts.join(".");
        }
    }
    text
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_the_library_refuses_we_refuse_and_what_both_accept_says_the_same(
        which in 0usize..8, from in 0usize..8, at in any::<usize>(), way in 0u8..6, byte in any::<u8>(),
    ) {
        let case = &CASES[which];
        let token = mutate(&case.token, at, way, byte, &CASES[from].token);
        let (we, they) = (ours(&case.keys, case.algorithm, &token), theirs(&case.key, case.algorithm, &token));
        if let Ok(claims) = we {
            prop_assert_eq!(they, Some(claims.all), "{}", token);
        }
    }

    #[test]
    fn a_signed_payload_is_judged_alike(
        name in prop::sample::select(vec!["iss", "aud", "sub", "jti", "exp", "iat", "x"]),
        value in prop::sample::select(vec![
            "null", "true", "5", "-5", "2.5", "1e400", "\"\"", "\"shop\"", "\"https://a.example/\"", "[]", "[\"shop\"]",
            "{}", "{\"a\":1,\"a\":2}", "\"\\ud800\"", "1800000030", "1800000030.5", "x", "",
        ]),
    ) {
        let case = &CASES[5];
        let token = mac(r#"{"alg":"HS256","typ":"JWT"}"#, &without(name, &format!(r#","{name}":{value}"#)));
        let (we, they) = (ours(&case.keys, case.algorithm, &token), theirs(&case.key, case.algorithm, &token));
        if let Ok(claims) = we {
            prop_assert_eq!(they, Some(claims.all), "{}: {}", name, value);
        }
    }
}
