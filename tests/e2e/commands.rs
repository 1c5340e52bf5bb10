//! The command line: offline, and against a running gateway.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use serde_json::{Value, json};

use crate::sessions::{log_in, service, sliding};
use crate::support::command::{Finished, portcullis, portcullis_with};
use crate::support::issuer::{Key, claims_of};
use crate::support::site::{EYES, OPS};
use crate::support::{Gateway, Issuer, Site, Upstream, until};

/// Runs a command against the gateway as the operator; what it printed.
fn operate(site: &Site, gateway: &Gateway, arguments: &[&str], stdin: &str) -> Finished {
    let admin = format!("http://{}", gateway.admin_address);
    let env = [("PORTCULLIS_ADMIN", admin.as_str()), ("PORTCULLIS_ADMIN_TOKEN", OPS)];
    portcullis_with(site.path(), arguments, &env, stdin)
}

/// The same with `--json`, which must succeed.
fn operate_json(site: &Site, gateway: &Gateway, arguments: &[&str], stdin: &str) -> Value {
    let finished = operate(site, gateway, &[arguments, &["--json"]].concat(), stdin);
    assert_eq!((finished.code, finished.stderr.as_str()), (0, ""), "{arguments:?}: {finished:?}");
    serde_json::from_str(&finished.stdout).unwrap_or_else(|error| panic!("{error}: {finished:?}"))
}

#[test]
fn check_says_every_problem_and_where() {
    let upstream = Upstream::start();
    let site = Site::with_sessions(&upstream);
    site.write_config();
    let good = portcullis(site.path(), &["check", "portcullis.yaml"]);
    assert_eq!((good.code, good.stderr.as_str()), (0, ""), "{good:?}");

    site.write(
        "bad.yaml",
        "listners:\n  - address: 127.0.0.1:0\nupstreams:\n  shop: { servers: [http://127.0.0.1:1] }\nroutes:\n  \
         - match: { path: / }\n    upstream: shopp\n    timeout: 5\n",
    );
    let bad = portcullis(site.path(), &["check", "bad.yaml"]);
    assert_eq!(bad.code, 78, "{bad:?}");
    for said in ["bad.yaml:1:1", "listners", "listeners", "bad.yaml:7:15", "shopp", "bad.yaml:8:14", "^"] {
        assert!(bad.stderr.contains(said), "{said}: {}", bad.stderr);
    }
    assert_eq!(portcullis(site.path(), &["check", "absent.yaml"]).code, 78);
    assert_eq!(portcullis(site.path(), &["run", "--config", "bad.yaml"]).code, 78);
    assert_eq!(portcullis(site.path(), &["chek"]).code, 64, "usage");
}

#[test]
fn the_committed_schema_is_the_one_that_is_printed() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let printed = portcullis(root, &["schema"]);
    assert_eq!(printed.code, 0, "{}", printed.stderr);
    assert_eq!(printed.stdout, fs::read_to_string(root.join("config/portcullis.schema.json")).unwrap());
    for shipped in ["config/quickstart.yaml", "config/reference.yaml"] {
        assert!(root.join(shipped).exists(), "{shipped}");
    }
}

#[test]
fn signatures_are_verified_offline() {
    let upstream = Upstream::start();
    let site = Site::new(&upstream);
    let other = Issuer::new("https://other.example/", "other", Key::es256());
    let token = site.accounts.token(json!({}));
    let jwk = |issuer: &Issuer| issuer.key.jwk(&issuer.kid);
    site.write("good.jwk", &jwk(&site.accounts).to_string());
    site.write("other.jwks", &other.jwks().to_string());
    site.write("weak.jwk", &json!({"kty": "oct", "alg": "HS256", "k": "c2hvcnQ"}).to_string());
    let run = |arguments: &[&str], stdin: &str| {
        portcullis_with(site.path(), &[&["token", "verify"], arguments].concat(), &[], stdin)
    };
    for (arguments, stdin, code) in [
        (["--jwk", "good.jwk", token.as_str()], "", 0),
        (["--jwk", "good.jwk", "-"], token.as_str(), 0),
        (["--jwks", "other.jwks", token.as_str()], "", 1),
        (["--jwk", "good.jwk", "a.b.c"], "", 1),
        (["--jwk", "weak.jwk", token.as_str()], "", 2),
        (["--jwk", "absent.jwk", token.as_str()], "", 2),
    ] {
        let finished = run(&arguments, stdin);
        assert_eq!(finished.code, code, "{arguments:?}: {finished:?}");
    }
    let lines = [
        json!({"jwk": jwk(&site.accounts), "token": token}).to_string(),
        json!({"jwks": site.accounts.jwks(), "token": token}).to_string(),
        json!({"jwk": jwk(&other), "token": token}).to_string(),
        "nonsense".to_owned(),
        json!({"jwk": {"kty": "oct", "alg": "HS256", "k": "c2hvcnQ"}, "token": token}).to_string(),
    ];
    let batch = run(&["--batch", "-"], &(lines.join("\n") + "\n"));
    assert_eq!(batch.code, 0, "{batch:?}");
    let answers: Vec<Value> = batch.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let verdicts: Vec<_> = answers.iter().map(|it| (it["valid"].as_bool().unwrap(), it["reason"].as_str())).collect();
    assert_eq!(verdicts.len(), lines.len(), "{}", batch.stdout);
    assert_eq!(verdicts[..2], [(true, None), (true, None)]);
    assert!(!verdicts[2].0 && verdicts[2].1.is_some(), "{}", batch.stdout);
    assert_eq!(verdicts[3..], [(false, Some("malformed_line")), (false, Some("key_refused"))]);
}

#[test]
fn operators_revoke_list_lift_and_ask() {
    let upstream = service();
    let site = Site::with_sessions(&upstream);
    let gateway = site.start();
    let status = |token: &str| gateway.get_as("/orders", token).status;
    let (bob, ann) = (site.accounts.token_of("bob"), site.accounts.token_of("ann"));

    let revoke = ["revoke", "subject", "bob", "--issuer", "accounts", "--reason", "account_blocked", "--note", "hr"];
    let record = operate_json(&site, &gateway, &revoke, "");
    assert_eq!((status(&bob), status(&ann)), (401, 200));
    let id = record["id"].as_str().unwrap();
    assert_eq!(operate_json(&site, &gateway, &["revocations", "get", id], "")["note"], "hr");
    let by_token = operate_json(&site, &gateway, &["revoke", "token", "-"], &ann);
    assert_eq!((&by_token["target"]["kind"], status(&ann)), (&json!("token"), 401));

    let listed = operate_json(&site, &gateway, &["revocations", "list", "--kind", "subject"], "");
    assert_eq!((listed["items"].as_array().unwrap().len(), &listed["items"][0]["id"]), (1, &json!(id)));
    let text = operate(&site, &gateway, &["revocations", "list"], "");
    assert!(text.stdout.lines().count() == 2 && text.stdout.contains(id), "{text:?}");

    let explained = operate_json(&site, &gateway, &["explain", "-", "--path", "/orders"], &bob);
    assert_eq!((&explained["admitted"], &explained["reason"]), (&json!(false), &json!("revoked_subject")));
    let text = operate(&site, &gateway, &["explain", "-", "--path", "/orders"], &bob);
    assert!(text.stdout.contains("refused: revoked_subject") && text.stdout.contains(id), "{text:?}");

    let lifted = operate_json(&site, &gateway, &["revocations", "lift", id, "--restore"], "");
    assert_eq!((&lifted["lifts"], status(&bob)), (&json!(id), 200));
    assert_eq!(operate_json(&site, &gateway, &["status"], "")["ready"], true);
    assert_eq!(operate(&site, &gateway, &["revocations", "get", "unknown"], "").code, 1);

    let admin = format!("http://{}", gateway.admin_address);
    let run = |env: &[(&str, &str)], arguments: &[&str]| portcullis_with(site.path(), arguments, env, "");
    let as_viewer = [("PORTCULLIS_ADMIN", admin.as_str()), ("PORTCULLIS_ADMIN_TOKEN", EYES)];
    assert_eq!(run(&as_viewer, &["revoke", "all"]).code, 77);
    assert_eq!(run(&as_viewer, &["status"]).code, 0);
    assert_eq!(run(&as_viewer[..1], &["status"]).code, 77, "no credential");
    assert_eq!(run(&as_viewer[..1], &["status", "--token-file", "secrets/ops"]).code, 0);
    let on_the_line = run(&as_viewer, &["revoke", "token", &ann]);
    assert_eq!(on_the_line.code, 64, "a token is not an argument");
    assert!(!on_the_line.stderr.contains(&ann), "{}", on_the_line.stderr);
    drop(gateway);
    assert_eq!(run(&as_viewer, &["status"]).code, 69, "nobody is there");
}

#[test]
fn a_rotated_key_costs_nobody_their_session() {
    const CLIENTS: usize = 4;
    let upstream = service();
    let site = sliding(&upstream);
    let gateway = site.start();
    let first = log_in(&gateway, "ann");
    let (stop, slid) = (AtomicBool::new(false), AtomicUsize::new(0));
    let rotated: Vec<String> = thread::scope(|scope| {
        for client in 0..CLIENTS {
            let (gateway, stop, slid) = (&gateway, &stop, &slid);
            scope.spawn(move || {
                let mut token = log_in(gateway, &format!("user-{client}"));
                while !stop.load(Ordering::Acquire) {
                    let response = gateway.get_as("/orders", &token);
                    assert_eq!(response.status, 200, "{response:?}");
                    if let Some(next) = response.session_token() {
                        token = next;
                        slid.fetch_add(1, Ordering::AcqRel);
                    }
                }
            });
        }
        let rotations = (0..3).map(|rotation| {
            until("successors between rotations", || {
                (slid.load(Ordering::Acquire) >= CLIENTS * rotation).then_some(())
            });
            let key = operate_json(&site, &gateway, &["keys", "rotate"], "");
            key["kid"].as_str().expect("a key").to_owned()
        });
        let rotated = rotations.collect();
        until("successors after it", || (slid.load(Ordering::Acquire) >= CLIENTS * 3).then_some(()));
        stop.store(true, Ordering::Release);
        rotated
    });
    assert_eq!(gateway.get_as("/orders", &first).status, 200, "the key of the first token still verifies");
    let listed = operate_json(&site, &gateway, &["keys", "list"], "");
    let signing: Vec<_> = listed["keys"].as_array().unwrap().iter().filter(|key| key["signing"] == true).collect();
    assert_eq!((signing.len(), &signing[0]["kid"]), (1, &json!(rotated[2])), "{listed}");
    let published = gateway.get("/.well-known/jwks.json", &[]).json();
    assert_eq!(published["keys"].as_array().unwrap().len(), 4, "{published}");
    let fresh = log_in(&gateway, "bob");
    site.write("published.json", &published.to_string());
    for token in [&first, &fresh] {
        assert_eq!(portcullis(site.path(), &["token", "verify", "--jwks", "published.json", token]).code, 0);
    }
    // A session that began under an older key dies with that key: its chain is remembered.
    let old = published["keys"].as_array().unwrap().iter().map(|key| key["kid"].clone());
    let old: Vec<_> = old.filter(|kid| !rotated.iter().any(|it| kid == it)).collect();
    assert_eq!(old.len(), 1, "{published}");
    let descendant = crate::sessions::slide(&gateway, &first);
    let keys = listed["keys"].as_array().unwrap();
    let thumbprint = &keys.iter().find(|key| key["kid"] == old[0]).unwrap()["thumbprint"];
    assert_eq!(claims_of(&descendant)["keys"], json!([thumbprint]));
    gateway.admin().revoke(&json!({"target": {"kind": "key", "value": thumbprint}, "reason": "key_compromised"}));
    for token in [&first, &descendant] {
        assert_eq!(gateway.get_as("/orders", token).reason(), "revoked_key");
    }
    assert_eq!(gateway.get_as("/orders", &fresh).status, 200);
}
