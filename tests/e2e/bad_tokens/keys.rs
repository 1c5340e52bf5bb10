//! Algorithms, keys and header parameters (bad-token rows 31 to 58).

use serde_json::{Value, json};

use super::{Cast, Row};
use crate::support::Issuer;
use crate::support::issuer::{Key, base64url};

pub(super) fn rows(cast: &Cast) -> Vec<Row> {
    [algorithms(cast), confusion(cast), key_ids(cast), parameters(cast), tampering(cast)]
        .into_iter()
        .flatten()
        .collect()
}

/// Tokens that look unusual and are good.
pub(super) fn good(cast: &Cast) -> Vec<String> {
    vec![
        cast.es256.token_with_header(json!({"kid": null})),
        cast.small.token_with_header(json!({"kid": null})),
        cast.large.token_with_header(json!({"kid": null})),
        cast.es256.token_with_header(json!({"typ": "at+jwt"})),
        cast.es256.token_with_header(json!({"typ": "application/at+jwt"})),
        cast.es256.token_with_header(json!({"typ": "jwt"})),
        cast.es256.token_with_header(json!({"typ": null})),
        cast.es256.token_with_header(json!({"x-harmless": {"a": [1, 2]}})),
    ]
}

fn algorithms(cast: &Cast) -> Vec<Row> {
    let issuer = &cast.es256;
    let mut rows = Vec::new();
    let either = &["alg_not_allowed", "malformed_token"][..];
    for none in ["none", "None", "NONE", "nOnE"] {
        let token = issuer.token_with_header(json!({"alg": none}));
        let (input, _) = token.rsplit_once('.').unwrap();
        rows.push(Row::token(&format!("31 {none}, unsigned"), &format!("{input}."), either));
        rows.push(Row::token(&format!("31 {none}, signed"), &token, &["alg_not_allowed"]));
    }
    for (name, header) in [
        ("33 no alg", json!({"alg": null})),
        ("33 an array", json!({"alg": ["ES256"]})),
        ("33 a number", json!({"alg": 256})),
        ("33 lower case", json!({"alg": "es256"})),
        ("33 a space", json!({"alg": "ES256 "})),
        ("33 empty", json!({"alg": ""})),
        ("33 an encryption algorithm", json!({"alg": "RSA-OAEP"})),
        ("33 ES512", json!({"alg": "ES512"})),
        ("33 ES256K", json!({"alg": "ES256K"})),
    ] {
        rows.push(Row::token(name, &issuer.token_with_header(header), either));
    }
    let null_alg = issuer.header().to_string().replace("\"ES256\"", "null");
    rows.push(Row::token("33 null", &issuer.sign(&null_alg, &issuer.claims(json!({})).to_string()), either));
    for algorithm in ["PS256", "RS384"] {
        let header = cast.rs256.header().to_string().replace("RS256", algorithm);
        let input = format!("{}.{}", base64url(header), base64url(cast.rs256.claims(json!({})).to_string()));
        let token = format!("{input}.{}", base64url(cast.rs256.key.sign_rsa_as(algorithm, input.as_bytes())));
        rows.push(Row::token(&format!("34 {algorithm} with a key for RS256"), &token, &["alg_not_allowed"]));
    }
    let wrong_key = cast.small.token_with_header(json!({"kid": "large"}));
    rows.push(Row::token("35 ES256 with the kid of a P-384 key", &wrong_key, &["unknown_key", "alg_not_allowed"]));
    rows
}

/// An HMAC under what is public (CVE-2015-9235 and its many heirs).
fn confusion(cast: &Cast) -> Vec<Row> {
    let mut rows = Vec::new();
    for issuer in [&cast.rs256, &cast.es256] {
        let pem = issuer.key.pem();
        let jwk = issuer.key.jwk(&issuer.kid).to_string();
        for (name, secret) in [
            ("PEM", pem.clone().into_bytes()),
            ("PEM without its last line end", pem.trim_end().as_bytes().to_vec()),
            ("raw", issuer.key.public()),
            ("JWK", jwk.into_bytes()),
            ("nothing", vec![0]),
        ] {
            let forger = Issuer::new(&issuer.url, &issuer.kid, Key::secret(&secret));
            let name = format!("32 HS256 under the public key, {name}, {}", issuer.key.algorithm());
            rows.push(Row::token(&name, &forger.token(json!({})), &["alg_not_allowed"]));
        }
    }
    // The one issuer with a secret is not open to the others' algorithms either.
    let forger = Issuer::new(&cast.hs256.url, &cast.hs256.kid, Key::es256());
    rows.push(Row::token("ES256 where HS256 is expected", &forger.token(json!({})), &["alg_not_allowed"]));
    let forger = Issuer::new(&cast.hs256.url, &cast.hs256.kid, Key::secret(&[8; 48]));
    rows.push(Row::token("HS256 under another secret", &forger.token(json!({})), &["bad_signature"]));
    rows
}

fn key_ids(cast: &Cast) -> Vec<Row> {
    let issuer = &cast.es256;
    let mut rows = vec![
        Row::token("43 an unknown kid", &issuer.token_with_header(json!({"kid": "accounts-2"})), &["unknown_key"]),
        Row::token(
            "43 an empty kid",
            &issuer.token_with_header(json!({"kid": ""})),
            &["unknown_key", "malformed_token"],
        ),
        Row::token(
            "47 a long kid",
            &issuer.token_with_header(json!({"kid": "k".repeat(10_240)})),
            &["token_too_large"],
        ),
    ];
    for kid in [
        "../../../../dev/null",
        "/dev/null",
        "file:///etc/passwd",
        "' UNION SELECT 'x",
        "|sleep 10",
        "$(id)",
        "{{7*7}}",
        "a\r\nX-Evil: 1",
        "a\u{0}b",
        "\u{1b}[31mred",
        "\u{1f511}",
        "accounts-1 ",
        "ACCOUNTS-1",
    ] {
        let token = issuer.token_with_header(json!({"kid": kid}));
        rows.push(Row::token(&format!("45 the kid {kid:?}"), &token, &["unknown_key", "malformed_token"]));
    }
    for (name, kid) in [("a number", json!(1)), ("an array", json!(["accounts-1"])), ("an object", json!({"a": 1}))] {
        rows.push(Row::token(
            &format!("48 a kid that is {name}"),
            &issuer.token_with_header(json!({"kid": kid})),
            &["malformed_token"],
        ));
    }
    rows
}

fn parameters(cast: &Cast) -> Vec<Row> {
    let issuer = &cast.es256;
    let attacker = Issuer::new(&issuer.url, "attacker", Key::es256());
    let unknown = &["unknown_key"][..];
    let unsupported = &["crit_not_supported"][..];
    let mut rows = vec![
        Row::token(
            "50 the attacker's key within",
            &attacker.token_with_header(json!({"jwk": attacker.key.jwk("attacker")})),
            unknown,
        ),
        Row::token(
            "50 the same without kid",
            &attacker.token_with_header(json!({"kid": null, "jwk": attacker.key.jwk("a")})),
            &["bad_signature"],
        ),
        Row::token("50 a certificate within", &attacker.token_with_header(json!({"x5c": ["MIIB"]})), unknown),
        Row::token(
            "51 an unknown issuer",
            &attacker_of("https://evil.example/").token(json!({})),
            &["issuer_not_allowed"],
        ),
        Row::token(
            "57 another issuer's key",
            &Issuer::new(&issuer.url, "ed-1", Key::ed25519()).token(json!({})),
            &["alg_not_allowed", "unknown_key"],
        ),
        Row::token("57 the key of `strict` for `accounts`", &foreign(cast), unknown),
        Row::token("56 an ID token", &issuer.token(json!({"aud": "client-7"})), &["audience_not_allowed"]),
    ];
    for crit in [json!(["exp"]), json!(["http://x/y"]), json!([]), json!(["alg"]), json!("exp"), json!(["b64"])] {
        let token = issuer.token_with_header(json!({"crit": crit}));
        rows.push(Row::token(&format!("52 crit {crit}"), &token, &["crit_not_supported", "malformed_token"]));
    }
    for (name, header) in [
        ("53 b64 with crit", json!({"b64": false, "crit": ["b64"]})),
        ("53 b64", json!({"b64": false})),
        ("53 b64, true", json!({"b64": true})),
        ("54 zip", json!({"zip": "DEF"})),
        ("54 enc", json!({"enc": "A128GCM"})),
        ("54 cty", json!({"cty": "JWT"})),
    ] {
        rows.push(Row::token(name, &issuer.token_with_header(header), unsupported));
    }
    for typ in ["logout+jwt", "secevent+jwt", "dpop+jwt", "JWE", "x", ""] {
        let token = issuer.token_with_header(json!({"typ": typ}));
        rows.push(Row::token(&format!("55 typ {typ:?}"), &token, &["typ_not_allowed"]));
    }
    for typ in [json!(1), json!(["JWT"])] {
        rows.push(Row::token(
            &format!("55 typ {typ}"),
            &issuer.token_with_header(json!({"typ": typ})),
            &["malformed_token"],
        ));
    }
    rows
}

fn attacker_of(url: &str) -> Issuer {
    Issuer::new(url, "attacker", Key::es256())
}

/// Signed by a key that is known, for another issuer, under the name it has there.
fn foreign(cast: &Cast) -> String {
    let claims = cast.es256.claims(json!({}));
    cast.strict.sign_payload(&claims.to_string())
}

/// One symbol changed, in each part, for each kind of key.
fn tampering(cast: &Cast) -> Vec<Row> {
    let mut rows = Vec::new();
    for issuer in [&cast.es256, &cast.rs256, &cast.ed25519, &cast.hs256] {
        let good = issuer.token_of("bob");
        let parts: Vec<&str> = good.split('.').collect();
        let algorithm = issuer.key.algorithm();
        let mut signature = parts[2].to_owned().into_bytes();
        signature[10] = if signature[10] == b'A' { b'B' } else { b'A' };
        let signature = String::from_utf8(signature).unwrap();
        let changed = format!("{}.{}.{signature}", parts[0], parts[1]);
        rows.push(Row::token(&format!("58 another signature, {algorithm}"), &changed, &["bad_signature"]));
        let payload = issuer.claims(json!({"sub": "admin"})).to_string();
        let changed = format!("{}.{}.{}", parts[0], base64url(payload), parts[2]);
        rows.push(Row::token(&format!("58 another payload, {algorithm}"), &changed, &["bad_signature"]));
        let mut header: Value = issuer.header();
        header["x"] = json!(1);
        let changed = format!("{}.{}.{}", base64url(header.to_string()), parts[1], parts[2]);
        rows.push(Row::token(&format!("58 another header, {algorithm}"), &changed, &["bad_signature"]));
    }
    rows
}
