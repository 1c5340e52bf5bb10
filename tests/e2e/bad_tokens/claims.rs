//! Claims and times (bad-token rows 60 to 75).

use serde_json::json;

use super::{Cast, Row};
use crate::support::now;

const MALFORMED: &[&str] = &["malformed_claim"];
const MISSING: &[&str] = &["missing_claim"];

pub(super) fn rows(cast: &Cast) -> Vec<Row> {
    [times(cast), names(cast), identifiers(cast)].into_iter().flatten().collect()
}

/// Tokens at the edge of what is honoured.
pub(super) fn good(cast: &Cast) -> Vec<(&'static str, String)> {
    let issuer = &cast.es256;
    let now = now();
    vec![
        ("60 expired, within the skew", issuer.token(json!({"iat": now - 60, "exp": now - 2}))),
        (
            "64 a fraction",
            issuer.sign_payload(&issuer.claims(json!({})).to_string().replacen("\"exp\":", "\"exp\": ", 1)),
        ),
        ("64 exp with a fraction", issuer.token(json!({"exp": (now + 600) as f64 + 0.5}))),
        ("65 not before, within the skew", issuer.token(json!({"nbf": now + 3}))),
        ("67 issued in the future, within the skew", issuer.token(json!({"iat": now + 3}))),
        ("71 one audience of several", issuer.token(json!({"aud": ["other", "shop"]}))),
        ("no jti", issuer.token(json!({"jti": null}))),
        ("depth 16", issuer.token(json!({"a": serde_json::from_str::<serde_json::Value>(&nested(15)).unwrap()}))),
    ]
}

fn nested(depth: usize) -> String {
    format!("{}1{}", "{\"a\":".repeat(depth), "}".repeat(depth))
}

/// The claims of a good token, one of them replaced by this text.
fn with(cast: &Cast, claim: &str, text: &str) -> String {
    let claims = cast.es256.claims(json!({claim: "REPLACED"})).to_string();
    cast.es256.sign_payload(&claims.replace("\"REPLACED\"", text))
}

fn times(cast: &Cast) -> Vec<Row> {
    let issuer = &cast.es256;
    let now = now();
    let mut rows = vec![
        Row::token("60 expired beyond the skew", &issuer.token(json!({"exp": now - 7})), &["expired"]),
        Row::token("60 expired long ago", &issuer.token(json!({"iat": 1, "exp": 2})), &["expired"]),
        Row::token("61 no exp", &issuer.token(json!({"exp": null})), MISSING),
        Row::token("63 exp in 2286", &issuer.token(json!({"exp": 10_000_000_000_i64})), &["lifetime_too_long"]),
        Row::token(
            "63 the longest life and a second",
            &issuer.token(json!({"iat": now, "exp": now + 86_401})),
            &["lifetime_too_long"],
        ),
        Row::token("65 not yet valid", &issuer.token(json!({"nbf": now + 60})), &["not_yet_valid"]),
        Row::token("67 issued in the future", &issuer.token(json!({"iat": now + 60})), &["issued_in_future"]),
        Row::token("68 no iat", &issuer.token(json!({"iat": null})), MISSING),
    ];
    for text in ["null", "true", "\"\"", "\"1999999999\"", "[]", "{}", "-1", "-0.5", "[1999999999]"] {
        for claim in ["exp", "iat", "nbf"] {
            let name = format!("61, 62, 66, 68 {claim} {text}");
            let missing = text == "null";
            let reasons: &[&str] = if missing { &["missing_claim", "malformed_claim"] } else { MALFORMED };
            rows.push(Row::token(&name, &with(cast, claim, text), reasons));
        }
    }
    for text in ["18446744073709551615", "18446744073709551616", "1e300", "9223372036854775807", "1e18"] {
        let reasons = &["lifetime_too_long", "malformed_claim", "issued_in_future", "not_yet_valid"][..];
        for claim in ["exp", "iat", "nbf"] {
            rows.push(Row::token(&format!("63 {claim} {text}"), &with(cast, claim, text), reasons));
        }
    }
    for text in ["NaN", "1e400", "0x10", "01", "+5", "Infinity"] {
        let token = with(cast, "exp", text);
        rows.push(Row::token(&format!("62 exp {text}"), &token, &["malformed_token", "malformed_claim"]));
    }
    rows
}

fn names(cast: &Cast) -> Vec<Row> {
    let issuer = &cast.es256;
    let foreign = &["issuer_not_allowed"][..];
    let audience = &["audience_not_allowed"][..];
    let mut rows = vec![
        Row::token("69 no iss", &issuer.token(json!({"iss": null})), MISSING),
        Row::token("69 iss in another case", &issuer.token(json!({"iss": "https://Accounts.example/"})), foreign),
        Row::token("69 iss without its slash", &issuer.token(json!({"iss": "https://accounts.example"})), foreign),
        Row::token("69 iss with two slashes", &issuer.token(json!({"iss": "https://accounts.example//"})), foreign),
        Row::token("69 iss with a space", &issuer.token(json!({"iss": "https://accounts.example/ "})), foreign),
        Row::token("69 iss by its name here", &issuer.token(json!({"iss": "accounts"})), foreign),
        Row::token("71 no aud", &issuer.token(json!({"aud": null})), &["missing_claim", "audience_not_allowed"]),
        Row::token(
            "71 an empty array",
            &issuer.token(json!({"aud": []})),
            &["audience_not_allowed", "malformed_claim"],
        ),
        Row::token("71 another audience", &issuer.token(json!({"aud": "other"})), audience),
        Row::token("71 another case", &issuer.token(json!({"aud": "Shop"})), audience),
        Row::token("71 a prefix", &issuer.token(json!({"aud": "sho"})), audience),
        Row::token("71 a longer one", &issuer.token(json!({"aud": "shop2"})), audience),
        Row::token("71 a list in a string", &issuer.token(json!({"aud": "shop other"})), audience),
    ];
    for text in ["5", "[\"https://accounts.example/\"]", "{}", "true"] {
        rows.push(Row::token(&format!("70 iss {text}"), &with(cast, "iss", text), MALFORMED));
    }
    for text in ["5", "[\"shop\",5]", "[[\"shop\"]]", "{\"shop\":1}", "true"] {
        rows.push(Row::token(&format!("71 aud {text}"), &with(cast, "aud", text), MALFORMED));
    }
    rows
}

fn identifiers(cast: &Cast) -> Vec<Row> {
    let issuer = &cast.es256;
    let mut rows = vec![
        Row::token("72 no jti where it is required", &cast.strict.token(json!({"jti": null})), MISSING),
        Row::token("74 no sub", &issuer.token(json!({"sub": null})), MISSING),
        Row::token("74 a long sub", &issuer.token(json!({"sub": "x".repeat(16_384)})), &["token_too_large"]),
        Row::token("73 a jti of 257 bytes", &issuer.token(json!({"jti": "x".repeat(257)})), MALFORMED),
    ];
    for text in ["5", "{}", "[]", "true", "[\"x\"]", "\"a\\u0000b\""] {
        for claim in ["jti", "sub", "sid"] {
            rows.push(Row::token(&format!("73, 74 {claim} {text}"), &with(cast, claim, text), MALFORMED));
        }
    }
    for claim in ["jti", "sub"] {
        rows.push(Row::token(&format!("73, 74 an empty {claim}"), &with(cast, claim, "\"\""), MALFORMED));
    }
    for sub in ["bob\r\nX-Evil: 1", "bob\nX-Evil: 1", "bob\u{0}"] {
        rows.push(Row::token(&format!("75 the sub {sub:?}"), &issuer.token(json!({"sub": sub})), MALFORMED));
    }
    rows
}
