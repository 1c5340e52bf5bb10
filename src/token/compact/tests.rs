//! What is a token and what is not, row by row. Signatures are other tests' business: none is made here.

use proptest::prelude::*;

use super::*;
use crate::time::Timestamp;

const HEADER: &str = r#"{"alg":"ES256","kid":"k1","typ":"JWT"}"#;
const CLAIMS: &str = r#"{"iss":"https://a.example/","sub":"ada","iat":1000,"exp":2000,"jti":"t1"}"#;
const MAX: usize = 8 << 10;

fn encoded(part: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(part)
}

fn token(header: &str, claims: &str) -> String {
    format!("{}.{}.{}", encoded(header), encoded(claims), encoded([7; 64]))
}

fn with_header(header: &str) -> Result<Header, ParseError> {
    let token = token(header, CLAIMS);
    // The entry point that does not interpret the payload judges headers alike.
    let parts = SignedParts::parse(&token, MAX).map(|parts| parts.header);
    assert_eq!(Compact::parse(&token, MAX).map(|token| token.header), parts, "{header}");
    parts
}

/// The usual claims with one member set to JSON text, or taken away.
fn with_claim(name: &str, json: Option<&str>) -> Result<Claims, ParseError> {
    let mut members: Vec<(String, String)> = serde_json::from_str::<Map<String, Value>>(CLAIMS)
        .unwrap()
        .into_iter()
        .filter(|(member, _)| member != name)
        .map(|(member, value)| (member, value.to_string()))
        .collect();
    members.extend(json.map(|json| (name.to_owned(), json.to_owned())));
    let members: Vec<_> = members.iter().map(|(member, value)| format!("{}:{value}", Value::from(&**member))).collect();
    Compact::parse(&token(HEADER, &format!("{{{}}}", members.join(","))), MAX).map(|token| token.claims)
}

#[test]
fn a_token_is_read_whole() {
    let text = token(HEADER, CLAIMS);
    let read = Compact::parse(&text, MAX).unwrap();
    assert_eq!(format!("{}.{}", read.signing_input, encoded(&read.signature)), text);
    let expected = Header { algorithm: Algorithm::ES256, key_id: Some("k1".to_owned()), typ: Some("JWT".to_owned()) };
    assert_eq!(read.header, expected);
    assert_eq!(read.claims.issuer, "https://a.example/");
    assert_eq!(read.claims.subject.as_deref(), Some("ada"));
    assert_eq!(read.claims.id.as_deref(), Some("t1"));
    assert_eq!((read.claims.issued, read.claims.expires), (Timestamp::from_secs(1000), Timestamp::from_secs(2000)));
    assert_eq!(Value::Object(read.claims.all).to_string(), CLAIMS);
}

#[test]
fn only_three_parts_that_are_not_empty_are_a_token() {
    let (header, claims, signature) = (encoded(HEADER), encoded(CLAIMS), encoded([7; 64]));
    let json =
        format!(r#"{{"payload":"{claims}","signatures":[{{"protected":"{header}","signature":"{signature}"}}]}}"#);
    for text in [
        String::new(),
        header.clone(),
        format!("{header}.{claims}"),
        format!("{header}.{claims}."),
        format!(".{claims}.{signature}"),
        format!("{header}..{signature}"),
        format!("{header}.{claims}.{signature}."),
        format!(".{header}.{claims}.{signature}"),
        format!("{header}.{claims}.{signature}.{signature}"),
        format!("{header}..{claims}.{signature}"),
        format!("{header}.{header}.{claims}.{claims}.{signature}.{signature}"),
        // A JWE has five parts; no key is derived for one.
        format!("{}.a.b.c.d", encoded(r#"{"alg":"dir","enc":"A128GCM"}"#)),
        format!("{}.a.b.c.d", encoded(r#"{"alg":"PBES2-HS256+A128KW","p2c":2147483647,"enc":"A128GCM"}"#)),
        ".".to_owned(),
        "..".to_owned(),
        "....".to_owned(),
        "a.b.c".to_owned(),
        json,
    ] {
        assert_eq!(Compact::parse(&text, MAX).unwrap_err(), ParseError::Malformed, "{text}");
        assert_eq!(SignedParts::parse(&text, MAX).unwrap_err(), ParseError::Malformed, "{text}");
    }
}

#[test]
fn the_size_is_judged_before_anything_is_decoded() {
    let long = "!".repeat(MAX + 1);
    assert_eq!(Compact::parse(&long, MAX).unwrap_err(), ParseError::TooLarge);
    assert_eq!(SignedParts::parse(&long, MAX).unwrap_err(), ParseError::TooLarge);
    let text = token(HEADER, CLAIMS);
    assert!(Compact::parse(&text, text.len()).is_ok());
    assert_eq!(Compact::parse(&text, text.len() - 1).unwrap_err(), ParseError::TooLarge);
    let many: Vec<_> = (0..10_000).map(|n| format!("\"c{n}\":{n}")).collect();
    for claims in [format!("{{{}}}", many.join(",")), format!("{}{CLAIMS}", " ".repeat(1_000_000))] {
        assert_eq!(Compact::parse(&token(HEADER, &claims), MAX).unwrap_err(), ParseError::TooLarge);
    }
}

#[test]
fn every_part_has_one_spelling() {
    let text = token(HEADER, CLAIMS);
    let parts: Vec<&str> = text.split('.').collect();
    for part in 0..3 {
        let spell = |spelling: String| {
            let mut spelled = parts.clone();
            spelled[part] = &spelling;
            spelled.join(".")
        };
        let last_byte_changed: Vec<String> = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
            .chars()
            .map(|last| format!("{}{last}", &parts[part][..parts[part].len() - 1]))
            .filter(|spelling| *spelling != parts[part])
            // Only those that lenient decoders read as the same bytes.
            .filter(|spelling| lenient(spelling) == lenient(parts[part]))
            .collect();
        let spellings = ["=", "==", " ", "\n", "\0", "%3d", "é"].map(|tail| format!("{}{tail}", parts[part]));
        for spelling in spellings.into_iter().chain(last_byte_changed).chain([
            format!(" {}", parts[part]),
            format!("{}+/", parts[part]),
            format!("{}\r\n{}", &parts[part][..4], &parts[part][4..]),
        ]) {
            let text = spell(spelling);
            assert_eq!(Compact::parse(&text, MAX).unwrap_err(), ParseError::Malformed, "{text:?}");
            assert_eq!(SignedParts::parse(&text, MAX).unwrap_err(), ParseError::Malformed, "{text:?}");
        }
    }
}

fn lenient(part: &str) -> Option<Vec<u8>> {
    use base64::engine::{GeneralPurpose, GeneralPurposeConfig};
    let config = GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(base64::engine::DecodePaddingMode::Indifferent);
    GeneralPurpose::new(&base64::alphabet::URL_SAFE, config).decode(part).ok()
}

#[test]
fn header_and_payload_are_json_objects_and_nothing_else() {
    let deep = |levels: usize| format!("{}1{}", "{\"a\":".repeat(levels), "}".repeat(levels));
    for part in [
        "".to_owned(),
        "ES256".to_owned(),
        "null".to_owned(),
        "5".to_owned(),
        "\"text\"".to_owned(),
        "[]".to_owned(),
        format!("[{HEADER}]"),
        format!("\u{feff}{HEADER}"),
        format!("{HEADER}x"),
        format!("{HEADER}{HEADER}"),
        format!("{HEADER}\0"),
        deep(17),
        deep(200),
        deep(1000),
        r#"{"alg":"ES256","x":"\ud800"}"#.to_owned(),
    ] {
        for text in [token(&part, CLAIMS), token(HEADER, &part)] {
            if text.contains("..") {
                continue;
            }
            assert_eq!(Compact::parse(&text, MAX).unwrap_err(), ParseError::Malformed, "{part}");
        }
    }
    // Far deeper than any stack, when the bound on the size lets it through.
    let text = token(HEADER, &deep(100_000));
    assert_eq!(Compact::parse(&text, usize::MAX).unwrap_err(), ParseError::Malformed);
}

#[test]
fn no_member_occurs_twice() {
    for (header, claims) in [
        (r#"{"alg":"ES256","alg":"ES256"}"#, CLAIMS),
        (r#"{"alg":"none","\u0061lg":"ES256"}"#, CLAIMS),
        (r#"{"alg":"ES256","kid":"a","kid":"b"}"#, CLAIMS),
        (r#"{"alg":"ES256","kid":"a","\u006bid":"b"}"#, CLAIMS),
        (r#"{"alg":"ES256","x":1,"x":1}"#, CLAIMS),
        (r#"{"alg":"ES256","x":{"y":1,"y":1}}"#, CLAIMS),
        (HEADER, r#"{"iss":"a","iat":1,"exp":2,"exp":3}"#),
        (HEADER, r#"{"iss":"a","iat":1,"exp":2,"e\u0078p":3}"#),
        (HEADER, r#"{"iss":"a","iss":"a","iat":1,"exp":2}"#),
        (HEADER, r#"{"iss":"a","iat":1,"exp":2,"sub":"a","sub":"b"}"#),
        (HEADER, r#"{"iss":"a","iat":1,"exp":2,"aud":"a","aud":"b"}"#),
        (HEADER, r#"{"iss":"a","iat":1,"iat":1,"exp":2}"#),
        (HEADER, r#"{"iss":"a","iat":1,"exp":2,"jti":"a","jti":"b"}"#),
        (HEADER, r#"{"iss":"a","iat":1,"exp":2,"sid":"a","sid":"b"}"#),
        (HEADER, r#"{"iss":"a","iat":1,"exp":2,"role":"user","role":"admin"}"#),
        (HEADER, r#"{"iss":"a","iat":1,"exp":2,"r":[{"a":1,"\u0061":2}]}"#),
    ] {
        assert_eq!(
            Compact::parse(&token(header, claims), MAX).unwrap_err(),
            ParseError::Malformed,
            "{header} {claims}"
        );
    }
}

#[test]
fn an_algorithm_is_one_of_ours_by_its_exact_name() {
    for name in
        ["none", "None", "NONE", "nOnE", "", "es256", "Es256", "ES256 ", "ES512", "ES256K", "Ed25519", "HS1", "dir"]
    {
        assert_eq!(with_header(&format!(r#"{{"alg":"{name}"}}"#)), Err(ParseError::AlgNotAllowed), "{name}");
    }
    for header in [
        "{}",
        r#"{"alg":null}"#,
        r#"{"alg":["ES256"]}"#,
        r#"{"alg":256}"#,
        r#"{"alg":true}"#,
        r#"{"alg":{"alg":"ES256"}}"#,
        r#"{"ALG":"ES256"}"#,
    ] {
        assert_eq!(with_header(header), Err(ParseError::Malformed), "{header}");
    }
    for algorithm in Algorithm::ALL {
        assert_eq!(with_header(&format!(r#"{{"alg":"{algorithm}"}}"#)).map(|header| header.algorithm), Ok(algorithm));
    }
}

#[test]
fn a_parameter_that_changes_what_the_rest_means_is_refused() {
    for parameter in [
        r#""crit":["exp"]"#,
        r#""crit":["http://x/y"]"#,
        r#""crit":[]"#,
        r#""crit":["alg"]"#,
        r#""crit":null"#,
        r#""crit":"exp""#,
        r#""crit":["b64"],"b64":false"#,
        r#""b64":false"#,
        r#""b64":true"#,
        r#""b64":"false""#,
        r#""zip":"DEF""#,
        r#""enc":"A128GCM""#,
        r#""cty":"JWT""#,
        r#""cty":"""#,
        r#""\u0063rit":["exp"]"#,
    ] {
        let header = format!(r#"{{"alg":"ES256",{parameter}}}"#);
        assert_eq!(with_header(&header), Err(ParseError::CritNotSupported), "{header}");
    }
}

#[test]
fn a_key_id_is_a_bounded_text_and_carried_keys_are_not_looked_at() {
    for kid in ["5", "[]", "[\"k\"]", "{}", "null", "true", r#""a\u0000b""#, &format!("\"{}\"", "k".repeat(257))] {
        assert_eq!(with_header(&format!(r#"{{"alg":"ES256","kid":{kid}}}"#)), Err(ParseError::Malformed), "{kid}");
    }
    for typ in ["5", "null", "[\"JWT\"]", "{}"] {
        assert_eq!(with_header(&format!(r#"{{"alg":"ES256","typ":{typ}}}"#)), Err(ParseError::Malformed), "{typ}");
    }
    // Names that would be paths, queries or commands elsewhere are only names here.
    for kid in ["../../../../dev/null", "file:///etc/passwd", "' UNION SELECT 'x", "$(id)", "\u{1b}[2J", "🗝", ""] {
        let header = with_header(&format!(r#"{{"alg":"ES256","kid":{}}}"#, Value::from(kid))).unwrap();
        assert_eq!(header.key_id.as_deref(), Some(kid));
    }
    assert!(with_header(&format!(r#"{{"alg":"ES256","kid":"{}"}}"#, "k".repeat(256))).is_ok());
    let header = r#"{"alg":"ES256","jku":"http://127.0.0.1:1/","x5u":5,"jwk":{"kty":"oct"},"x5c":["a"]}"#;
    assert_eq!(with_header(header), Ok(Header { algorithm: Algorithm::ES256, key_id: None, typ: None }));
}

#[test]
fn a_required_claim_that_is_absent_is_not_a_malformed_one() {
    for name in ["iss", "exp", "iat"] {
        assert_eq!(with_claim(name, None).unwrap_err(), ParseError::MissingClaim, "{name}");
        for json in ["null", "true", "[]", "{}", "\"\"", "[1]"] {
            assert_eq!(with_claim(name, Some(json)).unwrap_err(), ParseError::MalformedClaim, "{name}: {json}");
        }
    }
}

#[test]
fn a_time_is_a_number_that_is_not_negative() {
    for name in ["exp", "iat", "nbf", "auth_time"] {
        for json in ["-1", "-0.5", "-1e-9", "\"1999999999\"", "\"\"", "null", "true", "{}", "[1999999999]"] {
            assert_eq!(with_claim(name, Some(json)).unwrap_err(), ParseError::MalformedClaim, "{name}: {json}");
        }
        // Not JSON, or beyond what a number can be.
        for json in ["NaN", "1e400", "Infinity", "0x10", "+1", "01"] {
            assert_eq!(with_claim(name, Some(json)).unwrap_err(), ParseError::Malformed, "{name}: {json}");
        }
    }
    for (json, at) in [
        ("0", Timestamp::MIN),
        ("-0.0", Timestamp::MIN),
        ("1500", Timestamp::from_secs(1500)),
        ("1500.5", Timestamp::from_secs(1500)),
        ("1500.999999", Timestamp::from_secs(1500)),
        ("1.5e3", Timestamp::from_secs(1500)),
        ("1e10", Timestamp::MAX),
        ("1e18", Timestamp::MAX),
        ("1e300", Timestamp::MAX),
        ("9223372036854775808", Timestamp::MAX),
        ("18446744073709551615", Timestamp::MAX),
        ("18446744073709551616", Timestamp::MAX),
    ] {
        assert_eq!(with_claim("exp", Some(json)).unwrap().expires, at, "{json}");
        assert_eq!(with_claim("iat", Some(json)).unwrap().issued, at, "{json}");
        assert_eq!(with_claim("nbf", Some(json)).unwrap().not_before, Some(at), "{json}");
        assert_eq!(with_claim("auth_time", Some(json)).unwrap().authenticated, Some(at), "{json}");
    }
}

#[test]
fn an_identifier_is_a_bounded_text_without_control_characters() {
    let text = |length: usize| format!("\"{}\"", "a".repeat(length));
    for (name, longest) in [("iss", 1024), ("sub", 1024), ("jti", 256), ("sid", 256), ("azp", 256), ("client_id", 256)]
    {
        let too_long = text(longest + 1);
        for json in [
            "5",
            "{}",
            "[]",
            "null",
            "true",
            r#"["https://a.example/"]"#,
            r#"{"https://a.example/":1}"#,
            "\"\"",
            &too_long,
            r#""a\u0000""#,
            r#""a\nb""#,
            r#""a\r\nb""#,
            r#""\u007f""#,
            r#""\u0085""#,
        ] {
            assert_eq!(with_claim(name, Some(json)).unwrap_err(), ParseError::MalformedClaim, "{name}: {json}");
        }
        for json in [&text(1), &text(longest), "\"zoë © ß\"", "\" \""] {
            assert!(with_claim(name, Some(json)).is_ok(), "{name}: {json}");
        }
    }
    let claims = with_claim("azp", Some("\"shop\"")).unwrap();
    assert_eq!(claims.client.as_deref(), Some("shop"));
    assert_eq!(with_claim("client_id", Some("\"cli\"")).unwrap().client.as_deref(), Some("cli"));
}

#[test]
fn an_audience_is_a_text_or_a_list_of_texts() {
    for json in
        ["5", "null", "{}", "true", "[5]", r#"["shop",5]"#, r#"["shop",null]"#, r#"[["shop"]]"#, r#""""#, r#"[""]"#]
    {
        assert_eq!(with_claim("aud", Some(json)).unwrap_err(), ParseError::MalformedClaim, "{json}");
    }
    for (json, audiences) in
        [(None, vec![]), (Some("\"shop\""), vec!["shop"]), (Some("[]"), vec![]), (Some(r#"["a","b"]"#), vec!["a", "b"])]
    {
        assert_eq!(with_claim("aud", json).unwrap().audiences, audiences, "{json:?}");
    }
}

#[test]
fn a_revocation_knows_a_token_by_its_id_or_else_by_what_was_signed() {
    let name = |claims: &str, signature: &[u8]| {
        let text = format!("{}.{}.{}", encoded(HEADER), encoded(claims), encoded(signature));
        Compact::parse(&text, MAX).unwrap().name()
    };
    assert_eq!(name(CLAIMS, &[7; 64]), "t1");
    let nameless = r#"{"iss":"a","iat":1,"exp":2}"#;
    let digest = name(nameless, &[7; 64]);
    assert!(digest.starts_with("sha256:") && digest.len() == 7 + 43, "{digest}");
    assert_eq!(name(nameless, &[8; 64]), digest, "another spelling of the signature");
    assert_ne!(name(r#"{"iss":"a","iat":1,"exp":3}"#, &[7; 64]), digest);
    // A `jti` that poses as the digest of another token does not name that token.
    let posing = format!(r#"{{"iss":"a","iat":1,"exp":2,"jti":"{digest}"}}"#);
    assert_ne!(name(&posing, &[7; 64]), digest);
    assert!(name(&posing, &[7; 64]).starts_with("sha256:"));
}

#[test]
fn the_payload_of_signed_parts_need_not_be_a_token() {
    for payload in ["Zm9v", &encoded("[1,1]"), &encoded("{\"a\":1,\"a\":2}")] {
        let text = format!("{}.{payload}.{}", encoded(HEADER), encoded([7; 64]));
        let parts = SignedParts::parse(&text, MAX).unwrap();
        assert_eq!(format!("{}.{}", parts.signing_input, encoded(&parts.signature)), text);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_text_makes_the_parser_panic(text in ".{0,200}", bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = Compact::parse(&text, MAX);
        let part = encoded(&bytes);
        let _ = Compact::parse(&format!("{part}.{part}.{part}"), MAX);
        let _ = Compact::parse(&format!("{}.{part}.{part}", encoded(HEADER)), MAX);
    }

    #[test]
    fn what_is_read_is_what_was_written(subject in "[^\\p{Cc}]{1,40}", issued in 0i64..4_000_000_000, life in 0i64..100_000) {
        let claims = serde_json::json!({"iss": "a", "sub": subject, "iat": issued, "exp": issued + life}).to_string();
        let text = token(HEADER, &claims);
        let read = Compact::parse(&text, MAX).unwrap();
        prop_assert_eq!(read.claims.subject.as_deref(), Some(&*subject));
        prop_assert_eq!(read.claims.issued, Timestamp::from_secs(issued));
        prop_assert_eq!(read.claims.expires, Timestamp::from_secs(issued + life));
    }
}
