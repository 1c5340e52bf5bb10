use clap::Parser;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::keys::SigningKey;
use crate::token::{Algorithm, Compact};

#[derive(Debug, Parser)]
struct Line {
    #[command(flatten)]
    token: TokenArgs,
}

/// Status, stdout, stderr.
type Outcome = (ExitCode, String, String);

fn at(secs: i64, args: &[&str], stdin: &[u8]) -> Outcome {
    let line = Line::try_parse_from([&["token"], args].concat()).unwrap();
    let (mut input, mut out, mut err) = (stdin, Vec::new(), Vec::new());
    let code = run(&line.token, Timestamp::from_secs(secs), &mut input, &mut out, &mut err);
    (code, String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
}

fn portcullis(args: &[&str], stdin: &[u8]) -> Outcome {
    at(1_800_000_000, args, stdin)
}

struct Files(tempfile::TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        let path = self.0.path().join(name);
        std::fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

fn signed(key: &SigningKey) -> String {
    key.sign(json!({"iss": "a", "iat": 1, "exp": 2}).as_object().unwrap(), "JWT").unwrap()
}

#[test]
fn verify_tells_valid_invalid_and_a_refused_key_apart() {
    let files = Files::new();
    let key = SigningKey::generate(Algorithm::ES256).unwrap();
    let other = SigningKey::generate(Algorithm::ES256).unwrap();
    let jwk = files.write("jwk", key.public_jwk().to_string());
    let jwks = files.write("jwks", json!({"keys": [{"kty": "AKP"}, key.public_jwk()]}).to_string());
    let weak = files.write("weak", json!({"kty": "oct", "alg": "HS256", "k": ""}).to_string());
    let unusable = files.write("unusable", json!({"keys": [{"kty": "AKP"}]}).to_string());
    let pem = files.write("pem", rcgen::KeyPair::from_pem(&key.to_pkcs8_pem()).unwrap().public_key_pem());
    let (good, stranger) = (signed(&key), signed(&other));
    let none = format!("eyJhbGciOiJub25lIn0.{}", good.split_once('.').unwrap().1);
    let parts: Vec<&str> = good.split('.').collect();
    let tampered = format!("{}.e30.{}", parts[0], parts[2]);
    let nowhere = files.0.path().join("nowhere").to_str().unwrap().to_owned();
    for (args, status, out) in [
        (&["verify", "--jwk", &jwk, &good][..], 0, "valid\n"),
        (&["verify", "--jwks", &jwks, &good], 0, "valid\n"),
        (&["verify", "--public-key", &pem, &good], 0, "valid\n"),
        (&["verify", "--jwk", &jwk, "--alg", "ES256,EdDSA", &good], 0, "valid\n"),
        (&["verify", "--jwk", &jwk, &stranger], 1, "invalid: unknown_key\n"),
        (&["verify", "--public-key", &pem, &stranger], 1, "invalid: bad_signature\n"),
        (&["verify", "--jwk", &jwk, &none], 1, "invalid: alg_not_allowed\n"),
        (&["verify", "--jwk", &jwk, &tampered], 1, "invalid: bad_signature\n"),
        (&["verify", "--jwk", &jwk, "a.b"], 1, "invalid: malformed_token\n"),
        (&["verify", "--jwk", &jwk, &"a".repeat(70_000)], 1, "invalid: token_too_large\n"),
        (&["verify", "--jwk", &jwk, "--alg", "EdDSA", &good], 2, ""),
        (&["verify", "--jwk", &weak, &good], 2, ""),
        (&["verify", "--jwks", &unusable, &good], 2, ""),
        (&["verify", "--jwk", &nowhere, &good], 2, ""),
        (&["verify", "--public-key", &jwk, &good], 2, ""),
    ] {
        let outcome = portcullis(args, b"");
        assert_eq!((outcome.0, &*outcome.1), (ExitCode::from(status), out), "{args:?}: {}", outcome.2);
        assert_eq!(status == 2, outcome.2.starts_with("error: ") || outcome.2.contains("\nerror: "), "{}", outcome.2);
    }
    let piped = portcullis(&["verify", "--jwk", &jwk, "-"], format!("{good}\n").as_bytes());
    assert_eq!(piped.0, ExitCode::SUCCESS);
    let large = portcullis(&["verify", "--jwk", &jwk, "-"], "a".repeat(70_000).as_bytes());
    assert_eq!(large.1, "invalid: token_too_large\n");
}

#[test]
fn verify_takes_a_secret_from_its_file() {
    let files = Files::new();
    let secret = files.write("secret", [&[7; 48][..], b"\n"].concat());
    let short = files.write("short", [7; 31]);
    let mint =
        |alg: &str| portcullis(&["mint", "--key", &secret, "--alg", alg, "--iss", "a"], b"").1.trim_end().to_owned();
    for (args, token, status) in [
        (&["--secret-file", &secret][..], mint("HS256"), 0),
        (&["--secret-file", &secret], mint("HS384"), 0),
        (&["--secret-file", &secret, "--alg", "HS384"], mint("HS256"), 1),
        (&["--secret-file", &secret, "--alg", "HS512"], mint("HS256"), 2),
        (&["--secret-file", &short], mint("HS256"), 2),
    ] {
        let outcome = portcullis(&[&["verify"], args, &[&token]].concat(), b"");
        assert_eq!(outcome.0, ExitCode::from(status), "{args:?}: {outcome:?}");
    }
    assert_eq!(portcullis(&["mint", "--key", &secret, "--alg", "HS512", "--iss", "a"], b"").0, ExitCode::from(2));
}

#[test]
fn a_batch_answers_every_line() {
    let key = SigningKey::generate(Algorithm::EdDSA).unwrap();
    let token = signed(&key);
    let (jwk, jwks) = (key.public_jwk(), json!({"keys": [key.public_jwk()]}));
    let secret = json!({"kty": "oct", "k": "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow"});
    let hs256 = "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNv\
                 bS9pc19yb290Ijp0cnVlfQ.dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
    let duplicate = format!(r#"{{"jwks":{{"keys":[{jwk},{jwk}]}},"token":"{token}"}}"#);
    let repeated = format!(r#"{{"jwk":{},"token":"{token}"}}"#, jwk.to_string().replacen('{', r#"{"use":"sig","#, 1));
    let long = format!(r#"{{"jwk":{jwk},"token":"{}"}}"#, "a".repeat(1 << 20));
    let rows: Vec<(String, Option<&str>)> = vec![
        (json!({"jwk": jwk, "token": token}).to_string(), None),
        (json!({"jwks": jwks, "token": token}).to_string(), None),
        (json!({"jwk": secret, "token": hs256, "comment": "passed over"}).to_string(), None),
        (json!({"jwk": jwk, "token": hs256}).to_string(), Some("alg_not_allowed")),
        (json!({"jwk": jwk, "token": format!("{token}=")}).to_string(), Some("malformed_token")),
        (json!({"jwk": {"kty": "oct", "k": "AA"}, "token": hs256}).to_string(), Some("key_refused")),
        (json!({"jwks": {"keys": [{"kty": "AKP"}]}, "token": hs256}).to_string(), Some("key_refused")),
        (json!({"jwks": {"keys": []}, "token": token}).to_string(), Some("unknown_key")),
        (duplicate, Some("key_refused")),
        // The key is read from its own text, where a member that occurs twice still shows.
        (repeated, Some("key_refused")),
        (json!({"jwk": jwk, "jwks": jwks, "token": token}).to_string(), Some("malformed_line")),
        (json!({"token": token}).to_string(), Some("malformed_line")),
        (json!({"jwk": jwk}).to_string(), Some("malformed_line")),
        (json!({"jwk": jwk, "token": 5}).to_string(), Some("malformed_line")),
        (String::new(), Some("malformed_line")),
        ("nonsense".to_owned(), Some("malformed_line")),
        (long, Some("malformed_line")),
        (json!({"jwk": jwk, "token": token}).to_string(), None),
    ];
    let input: Vec<&str> = rows.iter().map(|(line, _)| &**line).collect();
    for end in ["", "\n", "\r\n"] {
        let end_of_each = if end.is_empty() { "\n" } else { end };
        let text = format!("{}{end}", input.join(end_of_each));
        let outcome = portcullis(&["verify", "--batch", "-"], text.as_bytes());
        assert_eq!(outcome.0, ExitCode::SUCCESS);
        let answers: Vec<Value> = outcome.1.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(answers.len(), rows.len());
        for ((line, reason), answer) in rows.iter().zip(answers) {
            let shown: String = line.chars().take(200).collect();
            assert_eq!(answer["valid"], json!(reason.is_none()), "{shown}");
            assert_eq!(answer["reason"], json!(reason), "{shown}");
        }
    }
    assert_eq!(
        portcullis(&["verify", "--batch", "-"], b"\xff\n").1.trim_end(),
        r#"{"valid":false,"reason":"malformed_line"}"#
    );
    assert_eq!(portcullis(&["verify", "--batch", "-"], b"").1, "");
}

#[test]
fn a_key_and_a_token_or_a_batch_must_be_named() {
    for args in [
        &["verify", "a.b.c"][..],
        &["verify", "--jwk", "f"],
        &["verify", "--jwk", "f", "--jwks", "g", "a.b.c"],
        &["verify", "--batch", "-", "a.b.c"],
        &["verify", "--batch", "-", "--jwk", "f"],
        &["verify", "--batch", "file"],
        &["verify", "--jwk", "f", "--alg", "none", "a.b.c"],
        &["mint", "--key", "f", "--alg", "ES256"],
        &["mint", "--key", "f", "--alg", "ES256", "--iss", "a", "--ttl", "15"],
        &["mint", "--key", "f", "--alg", "ES256", "--iss", "a", "--ttl=-5m"],
        &["mint", "--key", "f", "--alg", "ES256", "--iss", "a", "--claim", "role"],
        &["mint", "--key", "f", "--alg", "ES256", "--iss", "a", "--claim", "role=admin"],
    ] {
        assert!(Line::try_parse_from([&["token"], args].concat()).is_err(), "{args:?}");
    }
}

#[test]
fn decode_shows_everything_and_believes_nothing() {
    let key = SigningKey::generate(Algorithm::EdDSA).unwrap();
    let claims = json!({"iss": "a", "iat": 1_700_000_000, "exp": 1_700_000_900.5, "jti": "t1", "sub": "ada"});
    let token = key.sign(claims.as_object().unwrap(), "at+jwt").unwrap();
    let outcome = portcullis(&["decode", "-"], format!("{token}\n").as_bytes());
    assert_eq!(outcome.0, ExitCode::SUCCESS);
    assert!(outcome.2.contains("signature NOT verified"), "{}", outcome.2);
    let shown: Value = serde_json::from_str(&outcome.1).unwrap();
    assert_eq!(shown["signature"], "NOT verified");
    assert_eq!(shown["claims"], claims);
    assert_eq!(shown["header"], json!({"alg": "EdDSA", "kid": key.key_id(), "typ": "at+jwt"}));
    assert_eq!(shown["revocation_name"], "t1");
    assert_eq!(shown["times"], json!({"iat": "2023-11-14T22:13:20Z", "exp": "2023-11-14T22:28:20.5Z"}));
    assert!(outcome.1.contains("\n  \""), "for a person: {}", outcome.1);

    // What the gateway would refuse to read is shown all the same, with the reason.
    let refused = "eyJhbGciOiJub25lIn0.eyJpc3MiOiJhIn0.AAAA";
    let shown: Value = serde_json::from_str(&portcullis(&["decode", refused], b"").1).unwrap();
    assert_eq!(shown["claims"], json!({"iss": "a"}));
    assert!(shown["refused"].as_str().unwrap().starts_with("alg_not_allowed: "), "{shown}");

    let large = "a".repeat(70_000);
    for (token, message) in [
        ("", "error: there is no header\n"),
        ("e30", "error: there is no payload\n"),
        ("e30.e3", "error: the payload is not base64url"),
        ("e30.W10.AA", "error: the payload is not one JSON object"),
        (&*large, "error: token_too_large\n"),
    ] {
        let outcome = portcullis(&["decode", token], b"");
        assert_eq!((outcome.0, &*outcome.1), (ExitCode::from(1), ""));
        assert!(outcome.2.starts_with(message), "{}", outcome.2);
    }
}

#[test]
fn mint_signs_what_it_is_told() {
    let files = Files::new();
    for algorithm in [Algorithm::EdDSA, Algorithm::ES256, Algorithm::ES384, Algorithm::RS256, Algorithm::PS256] {
        let key = SigningKey::generate(algorithm).unwrap();
        let path = files.write("key", key.to_pkcs8_pem().as_bytes());
        let (code, out, err) = portcullis(
            &[
                "mint",
                "--key",
                &path,
                "--alg",
                algorithm.name(),
                "--iss",
                "https://a.example/",
                "--aud",
                "shop",
                "--aud",
                "api",
                "--sub",
                "ada",
                "--ttl",
                "1h30m",
                "--claim",
                "role=\"admin\"",
                "--claim",
                "n={\"a\":[1]}",
                "--kid",
                key.key_id(),
                "--typ",
                "at+jwt",
            ],
            b"",
        );
        assert_eq!((code, &*err), (ExitCode::SUCCESS, ""), "{algorithm}");
        let token = Compact::parse(out.trim_end(), 8 << 10).unwrap();
        assert!(key.verifying_key().verify(token.signing_input.as_bytes(), &token.signature), "{algorithm}");
        assert_eq!(token.header.key_id.as_deref(), Some(key.key_id()));
        assert_eq!(token.header.typ.as_deref(), Some("at+jwt"));
        assert_eq!(
            (token.claims.issuer.as_str(), token.claims.subject.as_deref()),
            ("https://a.example/", Some("ada"))
        );
        assert_eq!(token.claims.audiences, ["shop", "api"]);
        assert_eq!(token.claims.issued, Timestamp::from_secs(1_800_000_000));
        assert_eq!(token.claims.expires, Timestamp::from_secs(1_800_005_400));
        assert_eq!(token.claims.id.map(|id| id.len()), Some(36));
        assert_eq!((&token.claims.all["role"], &token.claims.all["n"]), (&json!("admin"), &json!({"a": [1]})));
        let jwk = files.write("jwk", key.public_jwk().to_string());
        assert_eq!(portcullis(&["verify", "--jwk", &jwk, "-"], out.as_bytes()).0, ExitCode::SUCCESS);
    }
    let path = files.write("ec", SigningKey::generate(Algorithm::ES256).unwrap().to_pkcs8_pem().as_bytes());
    // A claim replaces what the other arguments say; nothing that was not asked for is there.
    let one = portcullis(
        &[
            "mint", "--key", &path, "--alg", "ES256", "--iss", "a", "--aud", "shop", "--claim", "exp=5", "--claim",
            "iat=4",
        ],
        b"",
    );
    let token = Compact::parse(one.1.trim_end(), 8 << 10).unwrap();
    assert_eq!((token.claims.issued, token.claims.expires), (Timestamp::from_secs(4), Timestamp::from_secs(5)));
    assert_eq!((&token.claims.all["aud"], token.claims.subject, token.header.key_id), (&json!("shop"), None, None));
    // A thumbprint may begin with a hyphen.
    let named =
        portcullis(&["mint", "--key", &path, "--alg", "ES256", "--iss", "a", "--kid", "-k", "--sub", "-s"], b"");
    let token = Compact::parse(named.1.trim_end(), 8 << 10).unwrap();
    assert_eq!((token.header.key_id.as_deref(), token.claims.subject.as_deref()), (Some("-k"), Some("-s")));
    for (key, alg) in [(&*path, "RS256"), (&*path, "EdDSA"), (&*path, "ES384"), ("/nowhere", "ES256")] {
        let outcome = portcullis(&["mint", "--key", key, "--alg", alg, "--iss", "a"], b"");
        assert_eq!((outcome.0, &*outcome.1), (ExitCode::from(2), ""), "{alg}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn a_batch_answers_one_line_for_each_whatever_is_in_it(
        lines in prop::collection::vec(prop::collection::vec(any::<u8>().prop_filter("no line end", |byte| *byte != b'\n'), 0..60), 0..8),
    ) {
        let text: Vec<u8> = lines.iter().flat_map(|line| line.iter().copied().chain([b'\n'])).collect();
        let outcome = portcullis(&["verify", "--batch", "-"], &text);
        prop_assert_eq!(outcome.1.lines().count(), lines.len());
    }
}

#[test]
fn derive_shows_what_the_published_vectors_say() {
    let files = Files::new();
    let vectors: Value = serde_json::from_str(include_str!("../../../docs/per-subject-vectors.json")).unwrap();
    for vector in vectors["vectors"].as_array().unwrap() {
        let text = |name: &str| vector[name].as_str().unwrap();
        let unhex = |text: &str| -> Vec<u8> {
            (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
        };
        let base = files.write("base", [unhex(text("base_secret_hex")).as_slice(), b"\n"].concat());
        let columns = vector["columns"].to_string();
        let fixed = ["derive", "--base", &base, "--iss", text("issuer"), "--sub", text("subject"), "--columns", "-"];
        let (code, shown, _) = portcullis(&[&fixed[..], &["--derive", text("derive")]].concat(), columns.as_bytes());
        assert_eq!(code, ExitCode::SUCCESS, "{vector}");
        assert_eq!(serde_json::from_str::<Value>(&shown).unwrap(), json!({ "cfp": text("cfp") }), "no key unasked");
        let all = [&fixed[..], &["--derive", text("derive"), "--show-key"]].concat();
        let shown: Value = serde_json::from_str(&portcullis(&all, columns.as_bytes()).1).unwrap();
        let key =
            base64::Engine::decode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, shown["key"].as_str().unwrap());
        assert_eq!(key.unwrap(), unhex(text("key_hex")), "{vector}");
    }
}

#[test]
fn a_token_is_minted_with_the_key_of_its_subject() {
    let files = Files::new();
    let base = [7; 32];
    let (base_file, columns) = (files.write("base", base), files.write("columns", r#"["hash", null]"#));
    let fixed = ["mint", "--key", &base_file, "--iss", "people", "--aud", "shop", "--sub", "ada"];
    let mint = |more: &[&str]| portcullis(&[&fixed[..], more].concat(), br#"["hash", null]"#);
    for from in [columns.as_str(), "-"] {
        let (code, token, error) = mint(&["--alg", "HS256", "--per-subject", from]);
        assert_eq!(code, ExitCode::SUCCESS, "{error}");
        let jws = Compact::parse(token.trim_end(), 8192).unwrap();
        let derivation = crate::keys::subject::Derivation::new(
            &crate::secret::Secret::new(base.to_vec()),
            crate::keys::subject::Derive::Hkdf,
            "people",
        );
        let columns = crate::keys::subject::Columns::from_json(br#"["hash", null]"#).unwrap();
        let key = derivation.key("ada", &columns).unwrap();
        let keys = crate::keys::KeySet::from_secret(&key, &[Algorithm::HS256]).unwrap();
        assert!(keys.keys()[0].verify(jws.signing_input.as_bytes(), &jws.signature), "{from}");
    }
    let short = files.write("short", [7; 31]);
    let refused = ExitCode::from(KEY_REFUSED);
    for (args, said) in [
        (&["--alg", "HS512", "--per-subject", "-"][..], "for HS256"),
        (&["--alg", "HS256", "--per-subject", "nowhere"], "cannot read nowhere"),
        (&["--alg", "HS256", "--per-subject", "-", "--derive", "concat"], "exactly one column"),
        (&["--alg", "HS256", "--per-subject", &short], "not a JSON array"),
    ] {
        let (code, out, error) = mint(args);
        assert!(code == refused && out.is_empty() && error.contains(said), "{args:?}: {error}");
    }
    let args = ["derive", "--base", &short, "--iss", "p", "--sub", "a", "--columns", "-"];
    let (code, out, error) = portcullis(&args, br#"["h"]"#);
    assert!(code == refused && out.is_empty() && error.contains("31 bytes, and 32 are needed"), "{error}");
}
