//! Revocations through the admin API: in force when the answer is there, exact, and only as long as meant.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use serde_json::json;

use crate::support::issuer::{ACCOUNTS, Key, base64url, sha256};
use crate::support::{Gateway, Issuer, Site, Upstream, bearer, now, request};

fn status(gateway: &Gateway, token: &str) -> u16 {
    gateway.get_as("/orders", token).status
}

fn at(seconds: i64) -> String {
    jiff::Timestamp::from_second(seconds).unwrap().to_string()
}

#[test]
fn a_revoked_token_is_refused_from_the_answer_on_and_no_other() {
    let upstream = Upstream::start();
    let mut site = Site::new(&upstream);
    let partner = Issuer::new("https://partner.example/", "partner-1", Key::ed25519());
    site.trust("partner", &partner);
    let gateway = site.start();
    let token = |jti: &str| site.accounts.token(json!({"jti": jti}));
    let mut others: Vec<String> = ["A", "a ", "a\u{301}", "\u{e1}", "b"].iter().map(|jti| token(jti)).collect();
    others.push(partner.token(json!({"jti": "a"})));
    let dead = token("a");
    assert_eq!(status(&gateway, &dead), 200);
    let answer = gateway.admin().revoke_of_accounts("token", "a", "logout");
    assert_eq!(answer["target"], json!({"kind": "token", "issuer": ACCOUNTS, "value": "a"}));
    assert_eq!((&answer["form"], &answer["durable"]), (&json!({"block": true}), &json!(true)));
    let refused = gateway.get_as("/orders", &dead);
    assert_eq!((refused.status, refused.reason().as_str()), (401, "revoked_token"), "78, 91");
    assert_eq!(
        refused.header("www-authenticate"),
        Some("Bearer realm=\"shop\", error=\"invalid_token\", error_description=\"the token was revoked\""),
    );
    for (index, other) in others.iter().enumerate() {
        assert_eq!(status(&gateway, other), 200, "80, 81 number {index}");
    }
    assert_eq!(gateway.admin().metric("portcullis_revocations", &[("kind", "token")]), 1.0);
    assert_eq!(gateway.admin().metric("portcullis_decisions_total", &[("reason", "revoked_token")]), 1.0);
}

/// An ECDSA signature can be turned into another good one for the same claims; the claims are what is revoked.
#[test]
fn a_token_without_jti_is_revoked_by_what_it_says_not_by_its_signature() {
    let upstream = Upstream::start();
    let site = Site::new(&upstream);
    let gateway = site.start();
    let payload = site.accounts.claims(json!({"jti": null})).to_string();
    let (first, second) = (site.accounts.sign_payload(&payload), site.accounts.sign_payload(&payload));
    assert_ne!(first, second, "two signatures of the same claims");
    assert_eq!((status(&gateway, &first), status(&gateway, &second)), (200, 200));
    let answer = gateway.admin().revoke(&json!({"token": first, "reason": "credential_compromised"}));
    let digest = base64url(sha256(first.rsplit_once('.').unwrap().0.as_bytes()));
    assert_eq!(answer["target"]["value"], json!(format!("sha256:{digest}")));
    assert_eq!((status(&gateway, &first), status(&gateway, &second)), (401, 401));
}

#[test]
fn every_kind_of_target_is_revoked_and_lifted() {
    let upstream = Upstream::start();
    let site = Site::new(&upstream);
    let gateway = site.start();
    let token = site.accounts.token(json!({"jti": "t", "sid": "s", "azp": "app", "iat": now() - 10}));
    let explained = gateway.admin().explain(&token);
    assert_eq!(explained["admitted"], true, "{explained}");
    let thumbprint = thumbprint(&site.accounts);
    for target in [
        json!({"kind": "token", "issuer": "accounts", "value": "t"}),
        json!({"kind": "session", "issuer": "accounts", "value": "s"}),
        json!({"kind": "subject", "issuer": "accounts", "value": "bob"}),
        json!({"kind": "client", "issuer": ACCOUNTS, "value": "app"}),
        json!({"kind": "key", "value": thumbprint}),
        json!({"kind": "issuer", "issuer": "accounts"}),
        json!({"kind": "all"}),
    ] {
        let revoked = gateway.admin().revoke(&json!({"target": target, "reason": "admin", "note": "a test"}));
        let kind = target["kind"].as_str().unwrap();
        let refused = gateway.get_as("/orders", &token);
        assert_eq!((refused.status, refused.reason()), (401, format!("revoked_{kind}")));
        let explained = gateway.admin().explain(&token);
        assert_eq!((&explained["admitted"], &explained["reason"]), (&json!(false), &json!(format!("revoked_{kind}"))));
        assert!(explained.to_string().contains(revoked["id"].as_str().unwrap()), "it names the record: {explained}");
        let path = format!("/v1/revocations/{}", revoked["id"].as_str().unwrap());
        let kept = gateway.admin().get(&path).json();
        assert_eq!((&kept["in_force"], &kept["note"], &kept["actor"]), (&json!(true), &json!("a test"), &json!("ops")));
        assert_eq!(gateway.admin().delete(&format!("{path}?restore=true&note=again")).status, 200);
        assert_eq!(status(&gateway, &token), 200, "{kind} restored");
        assert_eq!(gateway.admin().get(&path).json()["in_force"], false);
    }
}

/// RFC 7638 of an EC key.
fn thumbprint(issuer: &Issuer) -> String {
    let key = issuer.key.jwk(&issuer.kid);
    let canonical = format!(r#"{{"crv":"P-256","kty":"EC","x":{},"y":{}}}"#, key["x"], key["y"]);
    base64url(sha256(canonical.as_bytes()))
}

#[test]
fn a_cutoff_refuses_what_was_issued_before_it_and_never_moves_back() {
    let upstream = Upstream::start();
    let site = Site::new(&upstream);
    let gateway = site.start();
    let issued = |seconds: i64| site.accounts.token(json!({"iat": seconds, "exp": now() + 600}));
    let now = now();
    let (old, edge, new) = (issued(now - 100), issued(now - 50), issued(now - 49));
    let cut = |seconds: i64| {
        let target = json!({"kind": "subject", "issuer": "accounts", "value": "bob"});
        gateway
            .admin()
            .revoke(&json!({"target": target, "issued_before": at(seconds), "reason": "permissions_changed"}))
    };
    cut(now - 50);
    assert_eq!([&old, &edge, &new].map(|token| status(&gateway, token)), [401, 401, 200], "82, 83");
    cut(now - 90);
    assert_eq!([&old, &edge, &new].map(|token| status(&gateway, token)), [401, 401, 200], "84");
    let later = cut(now - 20);
    assert_eq!(status(&gateway, &new), 401);
    // Lifting the highest leaves the next: the effect is the maximum of what is in force.
    let path = format!("/v1/revocations/{}?restore=true", later["id"].as_str().unwrap());
    assert_eq!(gateway.admin().delete(&path).status, 200);
    assert_eq!([&old, &edge, &new].map(|token| status(&gateway, token)), [401, 401, 200]);
    let target = json!({"kind": "subject", "issuer": "accounts", "value": "bob"});
    let future = json!({"target": target, "issued_before": at(now + 86_400), "reason": "admin"});
    assert_eq!(gateway.admin().post("/v1/revocations", &future).status, 400, "85");
    // A default cutoff is now: a foreign token of this second is refused, whichever came first.
    gateway.admin().revoke_of_accounts("subject", "bob", "password_changed");
    assert_eq!(status(&gateway, &issued(crate::support::now() - 2)), 401);
    assert_eq!(status(&gateway, &site.accounts.token(json!({"sub": "alice", "iat": now - 100}))), 200);
}

#[test]
fn reasons_that_mean_gone_block_until_lifted() {
    let upstream = Upstream::start();
    let site = Site::new(&upstream);
    let gateway = site.start();
    for (reason, blocks) in
        [("account_deleted", true), ("account_blocked", true), ("account_suspended", true), ("admin", false)]
    {
        let answer = gateway.admin().revoke_of_accounts("subject", reason, reason);
        assert_eq!(answer["form"].get("block").is_some(), blocks, "{reason}");
        assert_eq!(answer["effective_until"].is_null(), blocks, "{reason}");
        let future = site.accounts.token(json!({"sub": reason, "iat": now() + 3}));
        assert_eq!(status(&gateway, &future), if blocks { 401 } else { 200 }, "{reason}");
    }
}

#[test]
fn a_cutoff_on_authentication_needs_an_issuer_that_states_it() {
    let upstream = Upstream::start();
    let mut site = Site::new(&upstream);
    let target = json!({"kind": "subject", "issuer": "accounts", "value": "bob"});
    let now = now();
    let body = json!({"target": target, "authenticated_before": at(now - 50), "reason": "admin"});
    {
        let gateway = site.start();
        assert_eq!(gateway.admin().post("/v1/revocations", &body).status, 422);
    }
    site.set("/issuers/accounts/max_authentication_age", json!("1h"));
    let gateway = site.start();
    let authenticated = |at: i64| site.accounts.token(json!({"auth_time": at}));
    let (old, new) = (authenticated(now - 100), authenticated(now - 10));
    assert_eq!((status(&gateway, &old), status(&gateway, &new)), (200, 200));
    gateway.admin().revoke(&body);
    assert_eq!((status(&gateway, &old), status(&gateway, &new)), (401, 200));
    assert_eq!(gateway.get_as("/orders", &old).reason(), "session_too_old");
    // A thief's refresh gives a new `iat`, not a new `auth_time`.
    let answer = gateway.admin().revoke(&json!({"target": target, "reason": "password_changed"}));
    assert!(
        answer["form"]["issued_before"].is_string() && answer["form"]["authenticated_before"].is_string(),
        "{answer}"
    );
    assert_eq!(status(&gateway, &site.accounts.token(json!({"auth_time": now - 10, "iat": now + 4}))), 401);
}

#[test]
fn what_is_unknown_is_kept_and_what_is_over_does_no_harm() {
    let upstream = Upstream::start();
    let site = Site::new(&upstream);
    let gateway = site.start();
    gateway.admin().revoke_of_accounts("token", "not-seen-yet", "admin");
    assert_eq!(status(&gateway, &site.accounts.token(json!({"jti": "not-seen-yet"}))), 401, "86");
    let target = json!({"kind": "token", "issuer": "accounts", "value": "over"});
    let over = json!({"target": target, "expires_at": at(now() - 10), "reason": "admin"});
    assert!(gateway.admin().post("/v1/revocations", &over).status / 100 == 2, "87");
    // 88 A revocation outlives the token and the tolerance for its clock.
    let dying = site.accounts.token(json!({"jti": "dying", "exp": now() - 1}));
    assert_eq!(status(&gateway, &dying), 200, "within the skew");
    gateway.admin().revoke_of_accounts("token", "dying", "admin");
    assert_eq!(gateway.get_as("/orders", &dying).reason(), "revoked_token", "88");
}

/// None of a thousand requests that start after the answer is admitted.
#[test]
fn no_request_that_starts_after_the_answer_is_admitted() {
    let upstream = Upstream::start();
    let site = Site::new(&upstream);
    let gateway = Arc::new(site.start());
    let token = site.accounts.token(json!({"jti": "hot"}));
    let revoked = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..8)
        .map(|_| {
            let (gateway, revoked) = (Arc::clone(&gateway), Arc::clone(&revoked));
            let bytes = request("GET", "/orders", &[("Authorization", &bearer(&token))], b"");
            thread::spawn(move || {
                let mut connection = gateway.connect();
                let (mut before, mut after) = (0, 0);
                while after < 125 {
                    let was_revoked = revoked.load(Ordering::Acquire);
                    let status = connection.send(&bytes).response().status;
                    if was_revoked {
                        assert_eq!(status, 401, "79");
                        after += 1;
                    }
                    before += u32::from(status == 200);
                }
                before
            })
        })
        .collect();
    upstream.await_requests(100);
    gateway.admin().revoke_of_accounts("token", "hot", "admin");
    revoked.store(true, Ordering::Release);
    let admitted: u32 = clients.into_iter().map(|client| client.join().unwrap()).sum();
    assert!(admitted >= 100, "{admitted}");
}
