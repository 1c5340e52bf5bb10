//! One subject in the place of another after a compromise (T4): what it ends, what it leaves, and that it lasts.

use serde_json::{Value, json};

use crate::sessions::{exchanged, log_in, service};
use crate::support::issuer::ACCOUNTS;
use crate::support::{Gateway, Site, Upstream, document, now};

fn replace(gateway: &Gateway, issuer: &str, old: &str, new: &str) -> Value {
    let path = format!("/v1/subjects/{issuer}/{old}/replace");
    let answer = gateway.admin().post(&path, &json!({"by": new}));
    assert_eq!(answer.status, 201, "{answer:?}");
    answer.json()
}

/// A token that no cutoff of this second reaches: issued ahead, within the issuer's skew.
fn fresh(site: &Site, subject: &str) -> String {
    site.accounts.token(json!({"sub": subject, "iat": now() + 3, "exp": now() + 600}))
}

/// Why a token is refused; `None` when it is not.
fn refusal(gateway: &Gateway, token: &str) -> Option<String> {
    let response = gateway.get_as("/orders", token);
    (response.status != 200).then(|| response.reason())
}

/// What the upstream is told about the holder of a token.
fn told(gateway: &Gateway, upstream: &Upstream, token: &str) -> (String, String) {
    upstream.take();
    assert_eq!(refusal(gateway, token), None);
    let recorded = upstream.take_one();
    let field = |name: &str| recorded.header(name).unwrap_or("(none)").to_owned();
    (field("x-auth-request-user"), field("x-auth-request-account"))
}

fn named(user: &str, account: &str) -> (String, String) {
    (user.to_owned(), account.to_owned())
}

const REVOKED: Option<&str> = Some("revoked_subject");

#[test]
fn a_stolen_id_is_given_up_and_its_account_lives_on() {
    let upstream = service();
    let site = Site::with_sessions(&upstream);
    let gateway = site.start();
    let stolen = site.accounts.token_of("bob-1");
    let session = exchanged(&gateway, &stolen);
    let early = site.accounts.token_of("bob-2");
    let early_session = exchanged(&gateway, &early);
    assert_eq!(told(&gateway, &upstream, &stolen), named("bob-1", "bob-1"));
    assert_eq!(told(&gateway, &upstream, &session), named("accounts:bob-1", "accounts:bob-1"));

    let said = replace(&gateway, "accounts", "bob-1", "bob-2");
    assert_eq!(
        (&said["issuer"], &said["account"], &said["durable"]),
        (&json!(ACCOUNTS), &json!("bob-1"), &json!(true))
    );
    for dead in [&stolen, &session, &early, &early_session, &fresh(&site, "bob-1")] {
        assert_eq!(refusal(&gateway, dead).as_deref(), REVOKED);
    }
    assert_eq!(gateway.post_as("/session/exchange", &fresh(&site, "bob-1")).status, 401);
    let explained = gateway.admin().post("/v1/explain", &json!({"token": session, "path": "/orders"})).json();
    assert_eq!(
        (&explained["reason"], &explained["replacements"][0]["by"]),
        (&json!("revoked_subject"), &json!("bob-2"))
    );

    let token = fresh(&site, "bob-2");
    let renewed = exchanged(&gateway, &token);
    assert_eq!(told(&gateway, &upstream, &token), named("bob-2", "bob-1"));
    assert_eq!(told(&gateway, &upstream, &renewed), named("accounts:bob-2", "accounts:bob-1"));
    let explained = gateway.admin().post("/v1/explain", &json!({"token": renewed, "path": "/orders"})).json();
    assert_eq!((&explained["admitted"], &explained["account"]), (&json!(true), &json!("accounts:bob-1")));

    // Whatever is revoked for the first id reaches the last one, and is named where it is explained.
    let target = json!({"kind": "subject", "issuer": "accounts", "value": "bob-1"});
    let block = gateway.admin().revoke(&json!({"target": target, "reason": "account_blocked"}));
    for token in [&token, &renewed] {
        assert_eq!(refusal(&gateway, token).as_deref(), REVOKED);
        let explained = gateway.admin().post("/v1/explain", &json!({"token": token, "path": "/orders"})).json();
        let records = explained["revocations"].as_array().unwrap();
        assert!(records.iter().any(|record| record["id"] == block["id"]), "{explained}");
    }
    let lift = format!("/v1/revocations/{}?restore=true", block["id"].as_str().unwrap());
    assert_eq!(gateway.admin().delete(&lift).status, 200);
    assert_eq!(refusal(&gateway, &token), None);

    gateway.kill();
    let gateway = site.start();
    assert_eq!(told(&gateway, &upstream, &token), named("bob-2", "bob-1"));
    assert_eq!(told(&gateway, &upstream, &renewed), named("accounts:bob-2", "accounts:bob-1"));
    for dead in [&stolen, &session, &early, &early_session] {
        assert_eq!(refusal(&gateway, dead).as_deref(), REVOKED);
    }

    let undone = gateway.admin().delete("/v1/subjects/accounts/bob-1/replace");
    assert_eq!((undone.status, undone.json()["cutoffs"].as_array().map(Vec::len)), (200, Some(2)), "{undone:?}");
    for dead in [&stolen, &session, &early, &early_session] {
        assert_eq!(refusal(&gateway, dead).as_deref(), REVOKED, "undoing revives nothing");
    }
    let back = fresh(&site, "bob-1");
    assert_eq!(told(&gateway, &upstream, &back), named("bob-1", "bob-1"));
    gateway.kill();
    let gateway = site.start();
    assert_eq!(told(&gateway, &upstream, &back), named("bob-1", "bob-1"));
    assert_eq!(refusal(&gateway, &stolen).as_deref(), REVOKED);
    let audit = site.read("audit.jsonl");
    for action in ["replace_subject", "undo_replacement"] {
        assert_eq!(audit.matches(action).count(), 1, "{action}:\n{audit}");
    }
}

#[test]
fn what_was_remembered_of_a_token_does_not_outlive_its_account() {
    let upstream = service();
    let mut site = Site::with_sessions(&upstream);
    site.set("/claims_to_headers", json!({"preset": "authelia", "account": "Remote-Account"}));
    let gateway = site.start();
    let token = fresh(&site, "carol-2");
    let account = |spoofed: &str| {
        upstream.take();
        let fields = [("Authorization", &*crate::support::bearer(&token)), ("remote_account", spoofed)];
        assert_eq!(gateway.get("/orders", &fields).status, 200);
        let recorded = upstream.take_one();
        assert!(!recorded.head.contains(spoofed), "{}", recorded.head);
        assert_eq!(recorded.header("x-auth-request-account"), None);
        recorded.header("remote-account").unwrap_or("(none)").to_owned()
    };
    // On every worker, and twice: prepared, then remembered.
    let everywhere = |expected: &str| (0..12).for_each(|_| assert_eq!(account("somebody-else"), expected));
    everywhere("carol-2");
    replace(&gateway, "accounts", "carol-1", "carol-2");
    everywhere("carol-1");
    let replaced = gateway.admin().get("/v1/subjects/accounts/carol-2").json();
    assert_eq!(replaced["account"], "carol-1");
}

#[test]
fn a_login_of_the_gateways_own_is_replaced_like_any_other() {
    let upstream = service();
    let site = Site::with_sessions(&upstream);
    let gateway = site.start();
    let old = log_in(&gateway, "dan-1");
    replace(&gateway, "session", "local:dan-1", "local:dan%202");
    assert_eq!(gateway.admin().get("/v1/subjects/session/local%3Adan-1").json()["replaced_by"], "local:dan%202");
    assert_eq!(refusal(&gateway, &old).as_deref(), REVOKED);
    let refused = gateway.get("/login/dan-1", &[]);
    assert_eq!((refused.status, refused.session_token()), (403, None), "{refused:?}");
    let new = log_in(&gateway, "dan%202");
    assert_eq!(told(&gateway, &upstream, &new), named("local:dan%25202", "local:dan-1"));
    let foreign = site.accounts.token_of("local:dan-1");
    assert_eq!(refusal(&gateway, &foreign), None, "another issuer's subject of that name is somebody else");
}

/// The shell blocks of the document, one after the other, as a reader would run them.
#[test]
fn the_document_can_be_followed() {
    let upstream = service();
    let site = Site::with_sessions(&upstream);
    let gateway = site.start();
    let blocks = document::shell_blocks(&document::read("docs/subjects.md"));
    assert_eq!(blocks.len(), 2);
    for block in blocks {
        let said = document::run(&site, &gateway, &block, &[]);
        for word in ["bob-1", "bob-2", "account"] {
            assert!(said.contains(word), "{word}: {said}");
        }
        let shown = gateway.admin().get("/v1/subjects/accounts/bob-1").json();
        assert_eq!((&shown["replaced_by"], &shown["chain"]), (&Value::Null, &json!([])), "undone at the end");
        assert_eq!(shown["revocations"].as_array().map(Vec::is_empty), Some(false));
    }
}
