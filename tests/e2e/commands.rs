//! The command line, offline and against a running gateway.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::support::command::{portcullis, portcullis_with};
use crate::support::issuer::Key;
use crate::support::site::{EYES, OPS};
use crate::support::{Issuer, Site, Upstream, now};

#[test]
fn check_accepts_a_good_file_and_shows_every_problem_of_a_bad_one() {
    let upstream = Upstream::start();
    let mut site = Site::with_sessions(&upstream);
    site.write_config();
    let good = portcullis(site.path(), &["check", "portcullis.yaml"]);
    assert_eq!(good.code, 0, "{good:?}");
    site.set("/issuers/accounts/algorithms", json!([]));
    site.set("/issuers/accounts/max_lifetime", json!(3600));
    site.set("/routes/0/upstrem", json!("shop"));
    site.set("/routes/1/upstream", json!("shpo"));
    site.write_config();
    let bad = portcullis(site.path(), &["check", "portcullis.yaml"]);
    assert_eq!(bad.code, 78, "{bad:?}");
    let said = format!("{}{}", bad.stdout, bad.stderr);
    assert!(said.matches("portcullis.yaml:").count() >= 4, "each with its place:\n{said}");
    for word in ["algorithms", "3600", "upstrem", "shpo", "did you mean"] {
        assert!(said.contains(word), "{word}:\n{said}");
    }
    assert_eq!(portcullis(site.path(), &["check", "nowhere.yaml"]).code, 78);
    assert_eq!(portcullis(site.path(), &["chekc"]).code, 64);
    assert_eq!(portcullis(site.path(), &["run", "--config", "portcullis.yaml"]).code, 78);
}

/// Keys are judged when they are loaded (bad-token rows 36 to 42).
#[test]
fn bad_keys_are_refused_when_they_are_loaded() {
    let upstream = Upstream::start();
    let check = |change: &dyn Fn(&mut Site)| {
        let mut site = Site::new(&upstream);
        change(&mut site);
        site.write_config();
        portcullis(site.path(), &["check", "portcullis.yaml"])
    };
    let secret = |site: &mut Site, algorithm: &str, bytes: &[u8]| {
        site.write_secret("secrets/hmac", bytes);
        site.set("/issuers/accounts/keys", json!({"secret": {"file": "secrets/hmac"}}));
        site.set("/issuers/accounts/algorithms", json!([algorithm]));
    };
    assert_eq!(check(&|site| secret(site, "HS256", &[7; 32])).code, 0);
    for (algorithm, length) in [("HS256", 31), ("HS384", 47), ("HS512", 63), ("HS256", 0)] {
        let refused = check(&|site| secret(site, algorithm, &vec![7; length]));
        assert_eq!(refused.code, 78, "37 {algorithm} with {length} bytes: {refused:?}");
    }
    for mixed in [json!(["HS256", "RS256"]), json!(["ES256", "HS512"]), json!([]), json!(["none"]), json!(["ES257"])] {
        let refused = check(&|site| {
            site.set("/issuers/accounts/algorithms", mixed.clone());
        });
        assert_eq!(refused.code, 78, "36 {mixed}");
    }
    let twice = check(&|site| {
        let keys = json!({"keys": [site.accounts.key.jwk("same"), Key::es256().jwk("same")]});
        site.write("accounts.jwks.json", &keys.to_string());
    });
    assert_eq!(twice.code, 78, "42 {twice:?}");
    let none = check(&|site| site.write("accounts.jwks.json", r#"{"keys":[]}"#));
    assert_eq!(none.code, 78, "an empty set");
    let sample = check(&|site| site.write_secret("secrets/ops", b"changeme"));
    assert_eq!(sample.code, 78, "165 a short, well-known admin secret");
}

#[test]
fn a_bad_key_in_a_set_does_not_spoil_the_good_one() {
    let upstream = Upstream::start();
    let site = Site::new(&upstream);
    let good = site.accounts.key.jwk(&site.accounts.kid);
    let changed = |kid: &str, member: &str, value: Value| {
        let issuer = Issuer::new(&site.accounts.url, kid, Key::es256());
        let mut jwk = issuer.key.jwk(kid);
        jwk[member] = value;
        (issuer, jwk)
    };
    let refused = [
        changed("encrypts", "use", json!("enc")),
        changed("signs", "key_ops", json!(["sign"])),
        changed("misfit", "alg", json!("ES384")),
        changed("curve", "crv", json!("P-384")),
    ];
    let shared = Issuer::new(&site.accounts.url, "shared", Key::secret(&[9; 32]));
    let mut keys: Vec<Value> = refused.iter().map(|(_, jwk)| jwk.clone()).collect();
    keys.extend([good, shared.key.jwk("shared"), json!({"kty": "XX", "kid": "x"}), json!({"kty": "RSA", "kid": "small",
        "n": &"sXchDaQebHnPiGvyDOAT4saGEUetSyo9MKLOoWFsueri23bOdgWp4Dy1WlUzewbgBHod5pcM9H95GQRV3JDXboIRROSBigeC5yjU1hGzHHyXss8UDprecbAYxknTcQkhslANGRUZmdTOQ5qTRsLAt6BTYuyvVRdhS8exSZEy_c4gs_7svlJJQ4H9_NxsiIoLwAEk7-Q3UXERGYw_75IDrGA84-lA_-Ct4eTlXHBIY2EaV7t7LjJaynVJCpkv4LKjTTAumiGUIuQhrNhZLuF_RJLqHpM2kgWFLU7-VTdL1VbC2tejvcI2BlMkEpk1BzBZI0KQB0GaDWFLN-aEAw3vRw"[..171], "e": "AQAB"})]);
    site.write("accounts.jwks.json", &json!({"keys": keys}).to_string());
    let gateway = site.start();
    assert_eq!(gateway.get_as("/orders", &site.accounts.token_of("bob")).status, 200, "38 the good key is kept");
    for (issuer, _) in &refused {
        let response = gateway.get_as("/orders", &issuer.token_of("bob"));
        assert_eq!((response.status, response.reason().as_str()), (401, "unknown_key"), "39, 40 {}", issuer.kid);
    }
    assert_eq!(gateway.get_as("/orders", &shared.token_of("bob")).status, 401, "41 a secret in a key set");
}

#[test]
fn the_schema_is_the_committed_one() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let printed = portcullis(root, &["schema"]);
    assert_eq!(printed.code, 0);
    let schema: Value = serde_json::from_str(&printed.stdout).unwrap();
    assert_eq!(schema["title"], "Portcullis configuration");
    let committed = fs::read_dir(root.join("config")).unwrap().map(|entry| entry.unwrap().path());
    let committed: Vec<PathBuf> =
        committed.filter(|path| path.to_str().is_some_and(|path| path.contains("schema"))).collect();
    assert_eq!(committed.len(), 1, "{committed:?}");
    assert_eq!(printed.stdout.trim_end(), fs::read_to_string(&committed[0]).unwrap().trim_end(), "the file is stale");
}

#[test]
fn a_token_is_verified_offline() {
    let folder = tempfile::tempdir().unwrap();
    let issuer = Issuer::accounts();
    let jwk = issuer.key.jwk(&issuer.kid);
    fs::write(folder.path().join("key.json"), jwk.to_string()).unwrap();
    fs::write(folder.path().join("set.json"), issuer.jwks().to_string()).unwrap();
    let mut weak = jwk.clone();
    weak["use"] = json!("enc");
    fs::write(folder.path().join("weak.json"), weak.to_string()).unwrap();
    let good = issuer.sign(&issuer.header().to_string(), "any text, which is not looked at");
    let other = Issuer::accounts().token(json!({}));
    for (arguments, code) in [
        (["--jwk", "key.json", &good], 0),
        (["--jwks", "set.json", &good], 0),
        (["--jwk", "key.json", &other], 1),
        (["--jwk", "key.json", "x.y.z"], 1),
        (["--jwk", "weak.json", &good], 2),
        (["--jwk", "nowhere.json", &good], 2),
    ] {
        let finished = portcullis(folder.path(), &[&["token", "verify"], &arguments[..]].concat());
        assert_eq!(finished.code, code, "{arguments:?}: {finished:?}");
    }
    let from_stdin =
        portcullis_with(folder.path(), &["token", "verify", "--jwk", "key.json", "-"], &[], &format!("{good}\n"));
    assert_eq!(from_stdin.code, 0, "{from_stdin:?}");
    let lines = [
        json!({"jwk": jwk, "token": good}),
        json!({"jwks": issuer.jwks(), "token": good}),
        json!({"jwk": jwk, "token": other}),
        json!({"jwk": weak, "token": good}),
    ];
    let input: String = lines.iter().map(|line| format!("{line}\n")).collect();
    let batch = portcullis_with(folder.path(), &["token", "verify", "--batch", "-"], &[], &input);
    let results: Vec<Value> = batch.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let valid: Vec<bool> = results.iter().map(|result| result["valid"].as_bool().unwrap()).collect();
    assert_eq!(valid, [true, true, false, false], "{batch:?}");
    assert!(results[2]["reason"].is_string() && results[3]["reason"].is_string(), "{batch:?}");
}

#[test]
fn the_gateway_is_operated_from_the_command_line() {
    let upstream = Upstream::start();
    let site = Site::new(&upstream);
    let gateway = site.start();
    let admin = format!("http://{}", gateway.admin_address);
    let env = [("PORTCULLIS_ADMIN", admin.as_str()), ("PORTCULLIS_ADMIN_TOKEN", OPS)];
    let run = |arguments: &[&str], stdin: &str| portcullis_with(site.path(), arguments, &env, stdin);
    let status = run(&["status", "--json"], "");
    assert_eq!(status.code, 0, "{status:?}");
    assert_eq!(serde_json::from_str::<Value>(&status.stdout).unwrap()["ready"], true);

    let token = site.accounts.token(json!({"jti": "cli", "iat": now() - 5}));
    let explained = run(&["explain", "--path", "/orders", "-"], &token);
    assert_eq!(explained.code, 0, "{explained:?}");
    let revoked = run(&["revoke", "token", "-", "--reason", "logout", "--id", "from-the-cli"], &token);
    assert_eq!(revoked.code, 0, "{revoked:?}");
    assert_eq!(gateway.get_as("/orders", &token).reason(), "revoked_token");
    let explained = run(&["explain", "--path", "/orders", "-"], &token);
    assert!(explained.stdout.contains("revoked_token"), "{explained:?}");
    let as_argument = run(&["revoke", "token", &token], "");
    assert_eq!(as_argument.code, 64, "a token on the command line is seen by others: {as_argument:?}");

    let list = run(&["revocations", "list", "--json"], "");
    assert_eq!(serde_json::from_str::<Value>(&list.stdout).unwrap()["items"][0]["id"], "from-the-cli", "{list:?}");
    assert!(run(&["revocations", "get", "from-the-cli"], "").stdout.contains("cli"));
    assert_eq!(run(&["revocations", "lift", "from-the-cli", "--restore"], "").code, 0);
    assert_eq!(gateway.get_as("/orders", &token).status, 200);
    let subject = run(&["revoke", "subject", "bob", "--issuer", "accounts", "--reason", "account_blocked"], "");
    assert_eq!(subject.code, 0, "{subject:?}");
    assert_eq!(gateway.get_as("/orders", &token).reason(), "revoked_subject");

    let viewer = [("PORTCULLIS_ADMIN", admin.as_str()), ("PORTCULLIS_ADMIN_TOKEN", EYES)];
    let denied = portcullis_with(site.path(), &["revoke", "all"], &viewer, "");
    assert_eq!(denied.code, 77, "{denied:?}");
    let nobody = [("PORTCULLIS_ADMIN", "http://127.0.0.1:1"), ("PORTCULLIS_ADMIN_TOKEN", OPS)];
    assert_eq!(portcullis_with(site.path(), &["status"], &nobody, "").code, 69);
    for finished in [&status, &explained, &list, &revoked] {
        assert!(!finished.stdout.contains(OPS) && !finished.stdout.contains(&token));
    }
}

/// What `deploy/` hands to people is accepted by the gateway it is for.
#[test]
fn the_example_configurations_are_accepted() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = tempfile::tempdir().unwrap();
    let yaml = fs::read_to_string(root.join("deploy/portcullis.yaml")).unwrap();
    let state = folder.path().join("state");
    fs::create_dir_all(state.join("data")).unwrap();
    fs::create_dir_all(folder.path().join("secrets")).unwrap();
    fs::write(folder.path().join("portcullis.yaml"), yaml.replace("/var/lib/portcullis", state.to_str().unwrap()))
        .unwrap();
    for name in ["ops", "viewer", "issuer"] {
        use std::os::unix::fs::PermissionsExt;
        let path = folder.path().join("secrets").join(name);
        fs::write(&path, format!("a-secret-for-{name}-0123456789abcdef0123456789")).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    }
    let checked = portcullis(folder.path(), &["check", "portcullis.yaml"]);
    assert_eq!(checked.code, 0, "{checked:?}");
}
