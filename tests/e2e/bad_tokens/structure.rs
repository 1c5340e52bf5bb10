//! What a compact JWS looks like (bad-token rows 16 to 30).

use serde_json::json;

use super::{Cast, Row};
use crate::support::issuer::base64url;

const MALFORMED: &[&str] = &["malformed_token"];

pub(super) fn rows(cast: &Cast) -> Vec<Row> {
    let issuer = &cast.es256;
    let good = issuer.token_of("bob");
    let parts: Vec<&str> = good.split('.').collect();
    let (header, payload, signature) = (parts[0], parts[1], parts[2]);
    let mut rows = Vec::new();
    let mut bad = |name: &str, token: &str| rows.push(Row::token(name, token, MALFORMED));

    for (name, token) in [
        ("16 one part", header.to_owned()),
        ("16 two parts", format!("{header}.{payload}")),
        ("16 four parts", format!("{good}.{signature}")),
        ("16 six parts", format!("{good}.{good}")),
        ("16 two dots", "..".to_owned()),
        ("16 four dots", "....".to_owned()),
        ("16 a hundred dots", ".".repeat(100)),
        ("16 one letter", "x".to_owned()),
        ("17 a JSON serialisation", format!("{{\"payload\":\"{payload}\"}}")),
        ("18 five parts", format!("{header}.{payload}.{signature}.{payload}.{signature}")),
        ("20 padding", format!("{good}=")),
        ("20 padding in the payload", format!("{header}.{payload}=.{signature}")),
        ("20 the other alphabet", good.replacen('.', "+.", 1)),
        ("20 a slash", format!("{good}/")),
        ("percent-encoding", good.replacen('.', "%2e", 1)),
    ] {
        bad(name, &token);
    }
    for (name, jose) in [
        ("18 a JWE, dir", json!({"alg": "dir", "enc": "A256GCM"})),
        (
            "18 a JWE, PBES2",
            json!({"alg": "PBES2-HS256+A128KW", "enc": "A128GCM", "p2c": 2_147_483_647, "p2s": "AAAA"}),
        ),
    ] {
        bad(name, &format!("{}.AAAA.AAAA.AAAA.AAAA", base64url(jose.to_string())));
    }
    // The last symbol of 64 bytes carries four unused bits, which must be zero.
    for (part, name) in ["header", "payload", "signature"].iter().enumerate() {
        if let Some(token) = with_unused_bits(&parts, part) {
            bad(&format!("21 unused bits in the {name}"), &token);
        }
    }
    let texts = [
        ("not JSON", "hello".to_owned()),
        ("nothing", String::new()),
        ("an array", "[]".to_owned()),
        ("a string", "\"x\"".to_owned()),
        ("null", "null".to_owned()),
        ("a number", "5".to_owned()),
        ("depth 17", nested(17)),
        ("depth 200", nested(200)),
        ("depth 900", nested(900)),
        ("invalid escape", r#"{"a":"\ud800"}"#.to_owned()),
        ("a raw line end in a string", "{\"a\":\"x\ny\"}".to_owned()),
        ("a trailing comma", r#"{"a":1,}"#.to_owned()),
        ("a comment", r#"{"a":1/*x*/}"#.to_owned()),
    ];
    for (name, text) in &texts {
        bad(&format!("22 a header that is {name}"), &issuer.sign(text, &claims(cast)));
        bad(&format!("24 a payload that is {name}"), &issuer.sign_payload(text));
    }
    let (head, body) = (issuer.header().to_string(), claims(cast));
    for (name, before, after) in [("a BOM", "\u{feff}", ""), ("trailing bytes", "", "x"), ("a second object", "", "{}")]
    {
        bad(&format!("22 a header with {name}"), &issuer.sign(&format!("{before}{head}{after}"), &body));
        bad(&format!("24 a payload with {name}"), &issuer.sign_payload(&format!("{before}{body}{after}")));
    }
    for (name, more) in [
        ("alg", r#""alg":"ES256""#),
        ("alg, escaped", r#""\u0061lg":"none""#),
        ("kid", r#""kid":"other""#),
        ("kid, escaped", r#""k\u0069d":"other""#),
        ("typ", r#""typ":"JWT""#),
    ] {
        bad(&format!("23 a second {name}"), &issuer.sign(&added(&head, more), &body));
    }
    for (name, more) in [
        ("exp", r#""exp":9999999999"#),
        ("exp, escaped", r#""e\u0078p":9999999999"#),
        ("sub", r#""sub":"alice""#),
        ("iss", r#""iss":"https://other/""#),
        ("aud", r#""aud":"shop""#),
        ("26 jti", r#""jti":"another""#),
        ("iat", r#""iat":1"#),
        ("sid", r#""sid":"a","sid":"b""#),
        ("role", r#""role":"user","role":"admin""#),
        ("deep member", r#""a":{"b":[{"c":1,"c":2}]}"#),
    ] {
        bad(&format!("25 a second {name}"), &issuer.sign_payload(&added(&body, more)));
    }
    bad("28 a lone surrogate", &issuer.sign_payload(&added(&body, r#""x":"\udc00""#)));
    bad("28 a lone surrogate as a name", &issuer.sign_payload(&added(&body, r#""\ud800":1"#)));
    bad("invalid UTF-8", &invalid_utf8(cast));

    let large = &["token_too_large"][..];
    let many: String = (0..2_000).map(|index| format!(",\"c{index}\":1")).collect();
    rows.push(Row::token("29 many claims", &issuer.sign_payload(&added(&body, &many[1..])), large));
    rows.push(Row::token("19 a long signature", &format!("{header}.{payload}.{}", "A".repeat(10_240)), large));
    rows.push(Row::token("30 many spaces", &issuer.sign_payload(&format!("{body}{}", " ".repeat(20_000))), large));
    let either = &["malformed_token", "bad_signature"][..];
    rows.push(Row::token("19 no signature", &format!("{header}.{payload}."), either));
    rows.push(Row::token("19 a signature of one byte", &format!("{header}.{payload}.AA"), either));
    rows.push(Row::token("19 a signature of zeroes", &format!("{header}.{payload}.{}", base64url([0; 64])), either));
    rows
}

fn claims(cast: &Cast) -> String {
    cast.es256.claims(json!({})).to_string()
}

/// A JSON object with more members at its end.
fn added(object: &str, members: &str) -> String {
    format!("{},{members}}}", object.strip_suffix('}').unwrap())
}

/// An object nested this deep, itself counted.
fn nested(depth: usize) -> String {
    format!("{}1{}", "{\"a\":".repeat(depth), "}".repeat(depth))
}

/// The token with one unused bit set in the last symbol of a part, if that part has unused bits.
fn with_unused_bits(parts: &[&str], part: usize) -> Option<String> {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let text = parts[part];
    if text.len().is_multiple_of(4) {
        return None;
    }
    let last = ALPHABET.iter().position(|symbol| *symbol == text.as_bytes()[text.len() - 1]).unwrap();
    let mut changed: Vec<String> = parts.iter().map(|part| (*part).to_owned()).collect();
    changed[part].pop();
    changed[part].push(char::from(ALPHABET[last | 1]));
    Some(changed.join("."))
}

fn invalid_utf8(cast: &Cast) -> String {
    let mut payload = claims(cast).into_bytes();
    let place = payload.windows(3).position(|window| window == b"bob").unwrap();
    payload[place] = 0xFF;
    let input = format!("{}.{}", base64url(cast.es256.header().to_string()), base64url(payload));
    format!("{input}.{}", base64url(cast.es256.key.sign(input.as_bytes())))
}
