//! The origin rule: a session belongs to what it was opened with, and so does every token it has ever had.

use serde_json::{Value, json};

use crate::sessions::{exchanged, slide, sliding};
use crate::support::issuer::{ACCOUNTS, claims_of};
use crate::support::{Gateway, Site, Upstream, now, until};

fn refusal(gateway: &Gateway, token: &str) -> (u16, String) {
    let response = gateway.get_as("/orders", token);
    if response.status == 200 {
        return (200, String::new());
    }
    assert_eq!(response.session_token(), None, "a refusal hands out a token");
    (response.status, response.reason())
}

/// The origin rule: whatever names the parent ends the session, and its descendants, however often it slid.
#[test]
fn a_revocation_of_the_parent_ends_the_session_and_every_descendant() {
    let upstream = Upstream::start();
    let site = sliding(&upstream);
    let gateway = site.start();
    for (name, target) in [
        ("token", json!({"kind": "token", "issuer": "accounts", "value": "parent"})),
        ("session", json!({"kind": "session", "issuer": "accounts", "value": "idp-sid"})),
        ("subject", json!({"kind": "subject", "issuer": ACCOUNTS, "value": "bob"})),
        ("client", json!({"kind": "client", "issuer": "accounts", "value": "app"})),
        ("issuer", json!({"kind": "issuer", "issuer": "accounts"})),
        ("all", json!({"kind": "all"})),
    ] {
        let jti = format!("parent-{name}");
        let parent = site.accounts.token(json!({"jti": jti, "sid": "idp-sid", "azp": "app"}));
        let token = exchanged(&gateway, &parent);
        let successor = slide(&gateway, &token);
        let mut target = target;
        if name == "token" {
            target["value"] = json!(jti);
        }
        let revoked = gateway.admin().revoke(&json!({"target": target, "reason": "admin"}));
        let reason = format!("revoked_{name}");
        for (which, dead) in [("parent", &parent), ("session", &token), ("descendant", &successor)] {
            assert_eq!(refusal(&gateway, dead), (401, reason.clone()), "{which} after {name}");
        }
        assert_ne!(gateway.post_as("/session/exchange", &parent).status, 200, "{name}");
        let lifted =
            gateway.admin().delete(&format!("/v1/revocations/{}?restore=true", revoked["id"].as_str().unwrap()));
        assert_eq!(lifted.status, 200, "{}", lifted.text());
        assert_eq!(refusal(&gateway, &successor).0, 200, "{name} restored");
    }
}

/// The exchange came after the cutoff; the login it stands on came before.
#[test]
fn a_cutoff_set_back_to_before_the_exchange_refuses_what_was_exchanged() {
    let upstream = Upstream::start();
    let site = sliding(&upstream);
    let gateway = site.start();
    let parent = site.accounts.token(json!({"iat": now() - 100, "exp": now() + 600}));
    let token = exchanged(&gateway, &parent);
    let successor = slide(&gateway, &token);
    let at = jiff::Timestamp::from_second(now() - 50).unwrap().to_string();
    let target = json!({"kind": "subject", "issuer": "accounts", "value": "bob"});
    let answer = gateway.admin().revoke(&json!({"target": target, "issued_before": at, "reason": "admin"}));
    assert_eq!(answer["form"]["issued_before"], json!(at));
    for dead in [&parent, &token, &successor] {
        assert_eq!(refusal(&gateway, dead), (401, "revoked_subject".to_owned()));
    }
    let again = site.accounts.token(json!({"iat": now() - 40}));
    assert_eq!(refusal(&gateway, &exchanged(&gateway, &again)).0, 200, "a login after the cutoff");
    // The horizon covers the session, not only the parent's own life.
    let until: jiff::Timestamp = answer["effective_until"].as_str().unwrap().parse().unwrap();
    assert!(until.as_second() >= now() - 50 + 8 * 3600, "{answer}");
}

#[test]
fn revoking_a_minted_token_or_its_session_ends_all_of_that_session() {
    let upstream = Upstream::start();
    let site = sliding(&upstream);
    let gateway = site.start();
    for by in ["raw token", "jti", "sid", "sub"] {
        let token = exchanged(&gateway, &site.accounts.token_of("bob"));
        let other = exchanged(&gateway, &site.accounts.token_of("alice"));
        let successor = slide(&gateway, &token);
        let claims = claims_of(&token);
        let target = |kind: &str, value: &Value| json!({"kind": kind, "issuer": "session", "value": value});
        let body = match by {
            "raw token" => json!({"token": token, "reason": "admin"}),
            "jti" => json!({"target": target("token", &claims["jti"]), "reason": "admin"}),
            "sid" => json!({"target": target("session", &claims["sid"]), "reason": "admin"}),
            _ => json!({"target": target("subject", &claims["sub"]), "reason": "admin"}),
        };
        gateway.admin().revoke(&body);
        assert_eq!(refusal(&gateway, &token).0, 401, "{by}");
        if by != "jti" {
            assert_eq!(refusal(&gateway, &successor).0, 401, "{by}: the descendant");
        }
        assert_eq!(refusal(&gateway, &other).0, 200, "{by}: another session");
    }
}

#[test]
fn an_unused_session_expires() {
    let upstream = Upstream::start();
    let mut site = Site::with_sessions(&upstream);
    site.set("/session/idle_timeout", json!("2s"));
    let gateway = site.start();
    let token = exchanged(&gateway, &site.accounts.token_of("bob"));
    let expires = claims_of(&token)["exp"].as_f64().unwrap() as i64;
    until("the token to expire", || (now() > expires + 1).then_some(()));
    assert_eq!(refusal(&gateway, &token), (401, "expired".to_owned()));
}

#[test]
fn an_expired_token_logs_out_what_lives_on() {
    let upstream = Upstream::start();
    let mut site = Site::with_sessions(&upstream);
    site.set("/session/idle_timeout", json!("4s")).set("/session/reissue", json!({"after": "10%"}));
    let gateway = site.start();
    let token = exchanged(&gateway, &site.accounts.token_of("bob"));
    let mut successor = slide(&gateway, &token);
    until("the first token to expire", || {
        if let Some(next) = gateway.get_as("/orders", &successor).session_token() {
            successor = next;
        }
        (gateway.get_as("/orders", &token).status == 401).then_some(())
    });
    assert_eq!(gateway.get_as("/orders", &successor).status, 200);
    assert_eq!(gateway.post_as("/session/logout", &token).status, 204);
    // The narrowest of what was ended is named: the token the session was opened with.
    assert_eq!(gateway.get_as("/orders", &successor).reason(), "revoked_token");
}
