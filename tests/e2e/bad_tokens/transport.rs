//! How a token is presented (bad-token rows 1 to 15).

use serde_json::json;

use super::{Cast, Row};
use crate::support::{bearer, request};

pub(super) fn rows(cast: &Cast) -> Vec<Row> {
    let bob = cast.es256.token_of("bob");
    let alice = cast.es256.token_of("alice");
    let (good, other) = (bearer(&bob), bearer(&alice));
    let cookie = format!("__Host-session={alice}");
    let (missing, invalid) = (&["missing_token"][..], &["multiple_tokens"][..]);
    let large = cast.es256.token(json!({"pad": "x".repeat(7_000)}));
    assert!(large.len() > 8192);
    let mut rows = vec![
        Row::fields("1 no token", &[], 401, missing),
        Row::fields("2 an empty bearer", &[("Authorization", "Bearer")], 400, invalid),
        Row::fields("2 an empty bearer and a space", &[("Authorization", "Bearer ")], 400, invalid),
        Row::fields("3 another scheme", &[("Authorization", "Basic dXNlcjpw")], 401, missing),
        Row::fields("3 a digest", &[("Authorization", "Digest username=\"bob\"")], 401, missing),
        Row::fields("3 an empty field", &[("Authorization", "")], 401, missing),
        Row::fields("5 a TAB", &[("Authorization", &format!("Bearer\t{bob}"))], 400, invalid),
        Row::fields("6 good, then another", &[("Authorization", &good), ("Authorization", &other)], 400, invalid),
        Row::fields("6 another, then good", &[("Authorization", &other), ("Authorization", &good)], 400, invalid),
        Row::fields("6 good, then rubbish", &[("Authorization", &good), ("Authorization", "Bearer x")], 400, invalid),
        Row::fields("7 a comma", &[("Authorization", &format!("{good}, {other}"))], 400, invalid),
        Row::fields("a space within", &[("Authorization", &good.replacen('.', ". ", 1))], 400, invalid),
        Row::fields("7 a comma without spaces", &[("Authorization", &format!("{good},{other}"))], 400, invalid),
        Row::fields("8 a header and another cookie", &[("Authorization", &good), ("Cookie", &cookie)], 400, invalid),
        Row::fields(
            "9 two cookies in one field",
            &[("Cookie", &format!("__Host-session={bob}; {cookie}"))],
            400,
            invalid,
        ),
        Row::fields(
            "9 two cookie fields",
            &[("Cookie", &cookie), ("Cookie", &format!("__Host-session={bob}"))],
            400,
            invalid,
        ),
        Row::fields("10 in the query", &[], 401, missing).at(&format!("/orders?access_token={bob}")),
        Row::fields("10 in the query, by another name", &[], 401, missing).at(&format!("/orders?token={bob}")),
        Row::token("11 longer than 8 KiB", &large, &["token_too_large"]),
        Row::token("11 longer than 8 KiB and no token", &"x".repeat(9_000), &["token_too_large"]),
        Row::token("15 a trailing dot", &format!("{bob}."), &["malformed_token"]),
        Row::fields("15 an encoded NUL in a cookie", &[("Cookie", &format!("{cookie}%00"))], 401, &["malformed_token"]),
        Row::fields(
            "15 an encoded space in a cookie",
            &[("Cookie", &format!("{cookie}%20"))],
            401,
            &["malformed_token"],
        ),
        Row::fields(
            "15 an encoded line end in a cookie",
            &[("Cookie", &format!("{cookie}%0a"))],
            401,
            &["malformed_token"],
        ),
    ];
    rows.push(Row {
        name: "12 one MiB of authorization".to_owned(),
        bytes: request("GET", "/orders", &[("Authorization", &bearer(&"x".repeat(1 << 20)))], b""),
        status: 431,
        reasons: &[],
    });
    for (what, byte) in [("0xFF", 0xFF_u8), ("0x80", 0x80)] {
        let mut bytes = request("GET", "/orders", &[("Authorization", &format!("{good}?"))], b"");
        let place = bytes.iter().position(|byte| *byte == b'?').unwrap();
        bytes[place] = byte;
        // Malformed is the field, not yet a token: RFC 6750 §3.1 calls that an invalid request.
        rows.push(Row { name: format!("13 the byte {what}"), bytes, status: 400, reasons: invalid });
    }
    rows
}

/// Presentations that count: each is bob's token.
pub(super) fn good(cast: &Cast) -> Vec<(&'static str, Vec<(&'static str, String)>)> {
    let bob = cast.es256.token_of("bob");
    let cookie = format!("__Host-session={bob}");
    vec![
        ("4 lower case", vec![("Authorization", format!("bearer {bob}"))]),
        ("4 upper case", vec![("Authorization", format!("BEARER {bob}"))]),
        ("a cookie", vec![("Cookie", cookie.clone())]),
        ("a cookie among others", vec![("Cookie", format!("a=1; {cookie}; b=2"))]),
        ("the same token twice", vec![("Authorization", bearer(&bob)), ("Authorization", bearer(&bob))]),
        ("the same token in header and cookie", vec![("Authorization", bearer(&bob)), ("Cookie", cookie.clone())]),
        ("14 a quoted cookie", vec![("Cookie", format!("__Host-session=\"{bob}\""))]),
        ("another scheme and a cookie", vec![("Authorization", "Basic dXNlcjpw".to_owned()), ("Cookie", cookie)]),
    ]
}
