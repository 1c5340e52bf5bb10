//! A changed configuration is taken up whole, without a dropped request, or not at all.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use serde_json::json;

use crate::support::issuer::Key;
use crate::support::site::OPS;
use crate::support::{Issuer, Site, Upstream, request, until};

#[test]
fn a_good_file_is_swapped_in_by_signal_and_by_call() {
    let upstream = Upstream::start();
    let mut site = Site::new(&upstream);
    let gateway = site.start();
    assert_eq!(gateway.get("/new/", &[]).status, 401);
    site.route(json!({"name": "new", "match": {"path": "/new/"}, "upstream": "shop", "auth": "none"}));
    site.write_config();
    gateway.signal("HUP");
    until("the new route", || (gateway.get("/new/", &[]).status == 200).then_some(()));
    site.route(json!({"name": "newer", "match": {"path": "/newer/"}, "upstream": "shop", "auth": "none"}));
    site.write_config();
    let answer = gateway.admin().post("/v1/reload", &json!({}));
    assert_eq!((answer.status, answer.json()["changed"].as_bool()), (200, Some(true)));
    assert_eq!(gateway.get("/newer/", &[]).status, 200);
    assert_eq!(gateway.admin().metric("portcullis_config_reloads_total", &[("result", "ok")]), 2.0);
}

#[test]
fn a_bad_file_keeps_the_old_configuration_and_says_why() {
    let upstream = Upstream::start();
    let site = Site::new(&upstream);
    let gateway = site.start();
    let path = site.write_config();
    let good = std::fs::read_to_string(&path).unwrap();
    for (name, text, says) in [
        ("not YAML", "{{{".to_owned(), ""),
        ("empty", String::new(), ""),
        ("an unknown key", good.replacen("\"routes\"", "\"ruotes\"", 1), "routes"),
        ("a missing key file", good.replace("accounts.jwks.json", "nowhere.json"), "nowhere.json"),
        ("a missing upstream", good.replacen("\"upstream\": \"shop\"", "\"upstream\": \"shpo\"", 1), "shop"),
        ("a bare number", good.replace("\"24h\"", "86400"), "86400"),
    ] {
        std::fs::write(&path, &text).unwrap();
        let answer = gateway.admin().post("/v1/reload", &json!({}));
        assert_eq!((answer.status, answer.reason().as_str()), (422, "config_invalid"), "{name}");
        assert!(answer.text().contains(says), "{name}: {}", answer.text());
        assert_eq!(gateway.get_as("/orders", &site.accounts.token_of("bob")).status, 200, "{name}");
        assert_eq!(gateway.admin().metric("portcullis_config_last_reload_successful", &[]), 0.0, "{name}");
    }
    assert_eq!(gateway.admin().metric("portcullis_config_reloads_total", &[("result", "failed")]), 6.0);
    std::fs::write(&path, &good).unwrap();
    assert_eq!(gateway.admin().post("/v1/reload", &json!({})).status, 200);
    assert_eq!(gateway.admin().metric("portcullis_config_last_reload_successful", &[]), 1.0);
}

#[test]
fn what_needs_a_restart_is_refused() {
    let upstream = Upstream::start();
    let mut site = Site::new(&upstream);
    let gateway = site.start();
    site.set("/revocation/store/path", json!("elsewhere"));
    site.write_config();
    let answer = gateway.admin().post("/v1/reload", &json!({}));
    assert_eq!((answer.status, answer.reason().as_str()), (409, "needs_restart"), "{}", answer.text());
    assert_eq!(gateway.get("/public/", &[]).status, 200);
}

/// A key that disappears stops verifying at once, also for tokens remembered as authentic.
#[test]
fn a_key_that_is_gone_verifies_nothing_any_more() {
    let upstream = Upstream::start();
    let site = Site::new(&upstream);
    let gateway = site.start();
    let old = site.accounts.token_of("bob");
    assert_eq!(gateway.get_as("/orders", &old).status, 200);
    let successor = Issuer::new(&site.accounts.url, "accounts-2", Key::es256());
    assert_eq!(gateway.get_as("/orders", &successor.token_of("bob")).reason(), "unknown_key");
    site.write("accounts.jwks.json", &successor.jwks().to_string());
    assert_eq!(gateway.admin().post("/v1/reload", &json!({})).status, 200);
    assert_eq!(gateway.get_as("/orders", &old).reason(), "unknown_key");
    assert_eq!(gateway.get_as("/orders", &successor.token_of("bob")).status, 200);
}

/// Raising a limit may not revive what a shorter horizon has let be forgotten.
#[test]
fn revocations_survive_a_reload() {
    let upstream = Upstream::start();
    let mut site = Site::new(&upstream);
    let gateway = site.start();
    let token = site.accounts.token(json!({"jti": "dead"}));
    gateway.admin().revoke_of_accounts("token", "dead", "admin");
    site.set("/issuers/accounts/max_lifetime", json!("48h"));
    site.write_config();
    assert_eq!(gateway.admin().post("/v1/reload", &json!({})).status, 200);
    assert_eq!(gateway.get_as("/orders", &token).reason(), "revoked_token");
    assert_eq!(gateway.get_as("/orders", &site.accounts.token_of("bob")).status, 200);
    let cutoffs = gateway.admin().get("/v1/revocations?kind=issuer").json();
    assert_eq!(cutoffs["items"][0]["source"], "gateway", "a cutoff at now less the old horizon: {cutoffs}");
}

#[test]
fn a_reload_under_load_drops_nothing() {
    let upstream = Upstream::start();
    let site = Site::new(&upstream);
    let gateway = Arc::new(site.start());
    let stop = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let (gateway, stop) = (Arc::clone(&gateway), Arc::clone(&stop));
            thread::spawn(move || {
                let mut connection = gateway.connect();
                while !stop.load(Ordering::Acquire) {
                    let response = connection.send(&request("GET", "/public/", &[], b"")).response();
                    assert_eq!(response.status, 200);
                    if response.header("connection").is_some() {
                        connection = gateway.connect();
                    }
                }
            })
        })
        .collect();
    for _ in 0..20 {
        assert_eq!(gateway.admin().post("/v1/reload", &json!({})).status, 200);
    }
    stop.store(true, Ordering::Release);
    for client in clients {
        client.join().unwrap();
    }
}

#[test]
fn the_configuration_is_shown_without_its_secrets() {
    let upstream = Upstream::start();
    let mut site = Site::new(&upstream);
    site.write_secret("secrets/hmac", b"an-hmac-secret-that-nobody-may-see-0123456789");
    site.set(
        "/issuers/hmac",
        json!({
            "issuer": "https://hmac.example/", "audiences": ["shop"], "algorithms": ["HS256"],
            "keys": {"secret": {"file": "secrets/hmac"}},
        }),
    );
    let gateway = site.start();
    let shown = gateway.admin().get("/v1/config").text();
    assert!(shown.contains("https://hmac.example/"), "{shown}");
    for secret in [OPS, "an-hmac-secret"] {
        assert!(!shown.contains(secret), "{shown}");
    }
}
