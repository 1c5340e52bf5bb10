//! A key that is rotated while it is in use.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use serde_json::{Value, json};

use crate::sessions::{exchanged, log_in, service, sliding};
use crate::support::command::{Finished, portcullis, portcullis_with};
use crate::support::issuer::{Key, claims_of};
use crate::support::site::OPS;
use crate::support::{Gateway, Issuer, Site, Upstream, bearer, document, request, until};

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
            let key = operate_json(&site, &gateway, &["keys", "rotate", "--now"], "");
            key["kid"].as_str().expect("a key").to_owned()
        });
        let rotated = rotations.collect();
        until("successors after it", || (slid.load(Ordering::Acquire) >= CLIENTS * 3).then_some(()));
        stop.store(true, Ordering::Release);
        rotated
    });
    assert_eq!(gateway.get_as("/orders", &first).status, 200, "the key of the first token still verifies");
    let listed = operate_json(&site, &gateway, &["keys", "list"], "");
    let signing: Vec<_> = listed["keys"].as_array().unwrap().iter().filter(|key| key["state"] == "signing").collect();
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

/// Clients that use their sessions all the time; any refusal fails the test.
fn under_load<T>(site: &Site, gateway: &Gateway, during: impl FnOnce(&dyn Fn(usize)) -> T) -> T {
    const CLIENTS: usize = 4;
    let (stop, slid) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        for client in 0..CLIENTS {
            let (stop, slid) = (&stop, &slid);
            let mut token = match client % 2 {
                0 => log_in(gateway, &format!("user-{client}")),
                _ => exchanged(gateway, &site.accounts.token_of("bob")),
            };
            scope.spawn(move || {
                let mut connection = gateway.connect();
                while !stop.load(Ordering::Acquire) {
                    let request = request("GET", "/orders", &[("Authorization", &bearer(&token))], b"");
                    let response = connection.send(&request).response();
                    assert_eq!(response.status, 200, "{response:?}");
                    if let Some(next) = response.session_token() {
                        token = next;
                        slid.fetch_add(1, Ordering::AcqRel);
                    }
                }
            });
        }
        // Waits until so many more successors were handed out.
        let more = |count: usize| {
            let wanted = slid.load(Ordering::Acquire) + count;
            until("successors", || (slid.load(Ordering::Acquire) >= wanted).then_some(()));
        };
        let outcome = during(&more);
        stop.store(true, Ordering::Release);
        outcome
    })
}

fn published(gateway: &Gateway) -> Vec<Value> {
    gateway.get("/.well-known/jwks.json", &[]).json()["keys"].as_array().unwrap().clone()
}

fn state(site: &Site, gateway: &Gateway, kid: &Value) -> Value {
    let listed = operate_json(site, gateway, &["keys", "list"], "");
    let key = listed["keys"].as_array().unwrap().iter().find(|key| key["kid"] == *kid).cloned();
    key.unwrap_or_else(|| panic!("{kid} is not in {listed}"))
}

#[test]
fn a_key_is_published_before_it_signs_and_a_change_of_algorithm_costs_nobody_a_request() {
    let upstream = service();
    let mut site = sliding(&upstream);
    site.set("/session/keys/publish_before", json!("2s"));
    let gateway = site.start();
    let first = published(&gateway)[0]["kid"].clone();
    under_load(&site, &gateway, |more| {
        more(4);
        let staged = operate_json(&site, &gateway, &["keys", "rotate"], "");
        assert_eq!((&staged["state"], published(&gateway).len()), (&json!("staged"), 2), "{staged}");
        let again = operate_json(&site, &gateway, &["keys", "rotate"], "");
        assert_eq!(again["kid"], staged["kid"], "one that is staged is not put off by another");
        until("the staged key signs", || (state(&site, &gateway, &staged["kid"])["state"] == "signing").then_some(()));
        assert_eq!(state(&site, &gateway, &first)["state"], "verifying");
        more(8);
        // Another algorithm, by reload: the same way.
        let config = site.read("portcullis.yaml");
        site.write("portcullis.yaml", &config.replace("\"algorithm\": \"ES256\"", "\"algorithm\": \"EdDSA\""));
        assert_eq!(gateway.admin().post("/v1/reload", &json!({})).status, 200);
        let key = published(&gateway).into_iter().find(|key| key["alg"] == "EdDSA").expect("it is published at once");
        assert_eq!(state(&site, &gateway, &key["kid"])["state"], "staged");
        more(4);
        until("the new algorithm signs", || (state(&site, &gateway, &key["kid"])["state"] == "signing").then_some(()));
        more(8);
    });
    // A restart in the middle of a rotation goes on with it.
    site.set("/session/keys/algorithm", json!("EdDSA")).set("/session/keys/publish_before", json!("1h"));
    site.write_config();
    assert_eq!(gateway.admin().post("/v1/reload", &json!({})).status, 200);
    let staged = operate_json(&site, &gateway, &["keys", "rotate"], "");
    gateway.kill();
    let gateway = site.start();
    assert_eq!(state(&site, &gateway, &staged["kid"]), staged);
    let now = operate_json(&site, &gateway, &["keys", "rotate", "--now"], "");
    assert_eq!((&now["kid"], &now["state"]), (&staged["kid"], &json!("signing")));
}

#[test]
fn a_retired_key_of_our_own_is_dead_at_once_and_logins_go_on() {
    let upstream = service();
    let site = sliding(&upstream);
    let gateway = site.start();
    let leaked = published(&gateway)[0]["kid"].as_str().unwrap().to_owned();
    let (dead, parent) = (log_in(&gateway, "ann"), site.accounts.token_of("bob"));
    let dead_exchange = exchanged(&gateway, &parent);
    let spared = {
        operate_json(&site, &gateway, &["keys", "rotate", "--now"], "");
        log_in(&gateway, "carol")
    };
    // What slid under the new key still descends from the old one.
    let descendant = crate::sessions::slide(&gateway, &dead);
    let refused = |gateway: &Gateway| {
        for token in [&dead, &dead_exchange, &descendant].iter().cycle().take(12) {
            let response = gateway.get_as("/orders", token);
            assert_eq!((response.status, response.reason().as_str()), (401, "revoked_key"));
        }
    };
    for _ in 0..4 {
        assert_eq!(gateway.get_as("/orders", &dead).status, 200, "it is remembered as good on both workers");
    }
    let retired = operate_json(&site, &gateway, &["keys", "retire", "session", &leaked], "");
    assert_eq!(retired["retired"][0]["thumbprint"], json!(leaked));
    refused(&gateway);
    assert_eq!(state(&site, &gateway, &json!(leaked))["state"], "retired");
    assert!(!published(&gateway).iter().any(|key| key["kid"] == leaked.as_str()));
    assert_eq!(gateway.get_as("/orders", &spared).status, 200);
    // The parent is the identity provider's, whose key did not leak. Its session is over: one parent, one
    // session. The next one opens another.
    assert_eq!(gateway.get_as("/orders", &parent).status, 200);
    assert_eq!(gateway.post_as("/session/exchange", &parent).reason(), "revoked_key");
    let next = exchanged(&gateway, &site.accounts.token_of("bob"));
    assert_eq!(gateway.get_as("/orders", &next).status, 200);

    // The one that signs: a new one does at once.
    let signing = published(&gateway)[0]["kid"].as_str().unwrap().to_owned();
    let finished = operate(&site, &gateway, &["keys", "retire", "session", &signing], "");
    assert_eq!(finished.code, 0, "{finished:?}");
    assert_eq!(gateway.get_as("/orders", &spared).reason(), "revoked_key");
    assert_eq!(gateway.get_as("/orders", &log_in(&gateway, "carol")).status, 200);
    gateway.kill();
    let gateway = site.start();
    refused(&gateway);
    assert_eq!(gateway.get_as("/orders", &spared).reason(), "revoked_key");
    assert_eq!(gateway.get_as("/orders", &log_in(&gateway, "carol")).status, 200);
    let again = operate_json(&site, &gateway, &["keys", "retire", "session", &leaked], "");
    assert_eq!(again["retired"][0]["id"], retired["retired"][0]["id"], "once is enough");
    assert_eq!(site.read("audit.jsonl").matches("retire_key").count(), 3);
}

#[test]
fn a_retired_key_of_an_issuer_is_dead_with_the_sessions_that_it_opened() {
    let upstream = Upstream::start();
    let site = Site::with_sessions(&upstream);
    // The issuer publishes two keys.
    let other = Issuer::new(&site.accounts.url, "accounts-2", Key::es256());
    let both = json!({"keys": [site.accounts.key.jwk("accounts-1"), other.key.jwk("accounts-2")]});
    site.write("accounts.jwks.json", &both.to_string());
    let gateway = site.start();
    let (leaked, good) = (site.accounts.token_of("bob"), other.token_of("bob"));
    let (leaked_session, good_session) = (exchanged(&gateway, &leaked), exchanged(&gateway, &good));
    let unknown = operate(&site, &gateway, &["keys", "retire", "accounts", "accounts-9"], "");
    assert!(unknown.code != 0 && unknown.stderr.contains("unknown_key"), "{unknown:?}");
    operate_json(&site, &gateway, &["keys", "retire", "accounts", "accounts-1", "--reason", "key_compromised"], "");
    for token in [&leaked, &leaked_session] {
        assert_eq!(gateway.get_as("/orders", token).reason(), "revoked_key");
    }
    assert_eq!(gateway.post_as("/session/exchange", &leaked).status, 401);
    for token in [&good, &good_session] {
        assert_eq!(gateway.get_as("/orders", token).status, 200);
    }
    // One that the issuer publishes no more is retired by its thumbprint: its sessions live on until then.
    let listed = operate_json(&site, &gateway, &["keys", "list"], "");
    let key = listed["keys"].as_array().unwrap().iter().find(|key| key["kid"] == "accounts-2").unwrap().clone();
    site.write("accounts.jwks.json", &json!({"keys": [Key::es256().jwk("accounts-3")]}).to_string());
    assert_eq!(gateway.admin().post("/v1/reload", &json!({})).status, 200);
    assert_eq!(
        (gateway.get_as("/orders", &good).reason(), gateway.get_as("/orders", &good_session).status),
        ("unknown_key".to_owned(), 200)
    );
    operate_json(&site, &gateway, &["keys", "retire", "accounts", key["thumbprint"].as_str().unwrap()], "");
    assert_eq!(gateway.get_as("/orders", &good_session).reason(), "revoked_key");
}

/// The shell blocks of the document, one after the other, as a reader would run them.
#[test]
fn the_document_can_be_followed() {
    let upstream = service();
    let site = Site::with_sessions(&upstream);
    let gateway = site.start();
    let blocks = document::shell_blocks(&document::read("docs/keys.md"));
    let [list, rotate, retire, over_http, foreign, cut] = blocks.as_slice() else { panic!("{blocks:?}") };
    let token = log_in(&gateway, "ann");
    let own = published(&gateway)[0]["kid"].as_str().unwrap().to_owned();
    let run = |block: &str, kid: &str| document::run(&site, &gateway, block, &[("KID", kid)]);
    assert_eq!(run(list, "").lines().count(), 2, "an own key and one of the issuer");
    assert!(run(rotate, "").contains("signs from "));
    assert!(run(retire, &own).contains("every token, until lifted"));
    assert!(run(over_http, &own).contains(&own), "the same again");
    assert_eq!(gateway.get_as("/orders", &token).reason(), "revoked_key");
    assert_eq!(gateway.get_as("/orders", &site.accounts.token_of("bob")).status, 200);
    run(foreign, "accounts-1");
    assert_eq!(gateway.get_as("/orders", &site.accounts.token_of("bob")).reason(), "revoked_key");
    let token = log_in(&gateway, "ann");
    assert!(run(cut, "").contains("tokens issued at or before"));
    assert_eq!(gateway.get_as("/orders", &token).reason(), "revoked_all");
}
