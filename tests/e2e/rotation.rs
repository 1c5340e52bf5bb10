//! A key that is rotated while it is in use.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use serde_json::{Value, json};

use crate::sessions::{log_in, service, sliding};
use crate::support::command::{Finished, portcullis, portcullis_with};
use crate::support::issuer::claims_of;
use crate::support::site::OPS;
use crate::support::{Gateway, Site, until};

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
