//! Revocations through the admin API: whatever is revoked is refused from the next request on, and nothing else is.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use portcullis::time::Timestamp;
use serde_json::{Value, json};

use crate::sessions::service;
use crate::support::issuer::{ACCOUNTS, Key, base64url, claims_of, sha256};
use crate::support::{Admin, Gateway, Issuer, Site, Upstream, bearer, now, request, until};

/// The RFC 7638 thumbprint of a key of elliptic-curve kind.
fn thumbprint(issuer: &Issuer) -> String {
    let jwk = issuer.key.jwk(&issuer.kid);
    base64url(sha256(format!(r#"{{"crv":{},"kty":"EC","x":{},"y":{}}}"#, jwk["crv"], jwk["x"], jwk["y"]).as_bytes()))
}

/// Why `token` is refused; `None` when it is admitted.
fn verdict(gateway: &Gateway, token: &str) -> Option<String> {
    let response = gateway.get_as("/orders", token);
    match response.status {
        200 => None,
        401 => {
            let challenge = response.header("www-authenticate").expect("a challenge");
            assert!(challenge.contains(r#"error="invalid_token""#), "{challenge}");
            Some(response.reason())
        }
        other => panic!("{other}: {response:?}"),
    }
}

fn refused(reason: &str) -> Option<String> {
    Some(reason.to_owned())
}

fn lift(admin: &Admin, record: &Value, query: &str) -> Value {
    let response = admin.delete(&format!("/v1/revocations/{}{query}", record["id"].as_str().unwrap()));
    assert_eq!(response.status, 200, "{}", response.text());
    response.json()
}

#[test]
fn each_kind_is_refused_with_its_reason_and_can_be_restored() {
    let upstream = Upstream::start();
    let site = Site::new(&upstream);
    let gateway = site.start();
    let admin = gateway.admin();
    let token = site.accounts.token(json!({"jti": "t-1", "sid": "s-1", "azp": "web"}));
    let nameless = site.accounts.token(json!({"jti": null, "sub": "ann"}));
    let client_id = site.accounts.token(json!({"client_id": "web", "sub": "ann"}));
    let other = site.accounts.token(json!({"sub": "ann", "sid": "s-2", "azp": "app"}));
    let target = |kind: &str, value: &str| json!({"target": {"kind": kind, "issuer": "accounts", "value": value}});
    let all = [&token, &nameless, &client_id, &other];
    for (body, reason, hit) in [
        (target("token", "t-1"), "revoked_token", vec![&token]),
        (json!({"token": token}), "revoked_token", vec![&token]),
        (json!({"token": nameless}), "revoked_token", vec![&nameless]),
        (target("session", "s-1"), "revoked_session", vec![&token]),
        (target("subject", "bob"), "revoked_subject", vec![&token]),
        (target("client", "web"), "revoked_client", vec![&token, &client_id]),
        (json!({"target": {"kind": "key", "value": thumbprint(&site.accounts)}}), "revoked_key", all.to_vec()),
        (json!({"target": {"kind": "issuer", "issuer": ACCOUNTS}}), "revoked_issuer", all.to_vec()),
        (json!({"target": {"kind": "all"}}), "revoked_all", all.to_vec()),
    ] {
        let mut body = body;
        body["reason"] = json!("admin");
        body["block"] = json!(true);
        let record = admin.revoke(&body);
        assert_eq!((&record["form"], &record["durable"]), (&json!({"block": true}), &json!(true)), "{record}");
        for one in all {
            let expected = hit.contains(&one).then(|| reason.to_owned());
            assert_eq!(verdict(&gateway, one), expected, "{body}: {one}");
            assert_eq!(verdict(&gateway, one), expected, "the second time too");
        }
        lift(&admin, &record, "?restore=true");
        for one in all {
            assert_eq!(verdict(&gateway, one), None, "restored {body}");
        }
    }
}

#[test]
fn forms_cut_where_they_say() {
    let upstream = Upstream::start();
    let mut site = Site::new(&upstream);
    site.set("/issuers/accounts/max_authentication_age", json!("12h"));
    let partners = Issuer::new("https://partners.example/", "partners-1", Key::es256());
    site.trust("partners", &partners);
    let gateway = site.start();
    let admin = gateway.admin();
    let at = now() - 500;
    let of = |name: &str, issued: i64, authenticated: i64| {
        site.accounts.token(json!({"sub": name, "iat": issued, "auth_time": authenticated}))
    };
    let subject = |name: &str, reason: &str, more: Value| {
        let mut body = json!({"target": {"kind": "subject", "issuer": "accounts", "value": name}, "reason": reason});
        for (key, value) in more.as_object().unwrap() {
            body[key] = value.clone();
        }
        body
    };
    let cutoff = json!(Timestamp::from_secs(at));

    let record = admin.revoke(&subject("ann", "admin", json!({"issued_before": cutoff})));
    assert_eq!(record["form"], json!({"issued_before": cutoff}));
    assert_eq!(verdict(&gateway, &of("ann", at - 1, at)), refused("revoked_subject"));
    assert_eq!(verdict(&gateway, &of("ann", at, at)), refused("revoked_subject"), "at the cutoff");
    assert_eq!(verdict(&gateway, &of("ann", at + 1, at)), None);
    admin.revoke(&subject("ann", "admin", json!({"issued_before": Timestamp::from_secs(at - 100)})));
    assert_eq!(verdict(&gateway, &of("ann", at, at)), refused("revoked_subject"), "84 an earlier one loosens nothing");

    admin.revoke(&subject("bea", "admin", json!({"authenticated_before": cutoff})));
    assert_eq!(verdict(&gateway, &of("bea", at + 100, at)), refused("session_too_old"));
    assert_eq!(verdict(&gateway, &of("bea", at + 100, at + 1)), None);

    admin.revoke(&subject("cid", "password_changed", json!({})));
    assert_eq!(verdict(&gateway, &of("cid", now() + 2, now() - 60)), refused("session_too_old"), "a thief's refresh");
    assert_eq!(verdict(&gateway, &of("cid", now() + 2, now() + 2)), None, "a new login");

    for reason in ["account_deleted", "account_blocked", "account_suspended"] {
        let record = admin.revoke(&subject("dan", reason, json!({})));
        assert_eq!((&record["form"], &record["effective_until"]), (&json!({"block": true}), &Value::Null), "{reason}");
        assert_eq!(verdict(&gateway, &of("dan", now() + 2, now())), refused("revoked_subject"), "{reason}");
        lift(&admin, &record, "?restore=true");
    }

    let partner = |more: Value| {
        let mut body = subject("eve", "admin", more);
        body["target"]["issuer"] = json!("partners");
        body
    };
    let ahead = json!(Timestamp::from_secs(now() + 3600));
    for (body, status, reason) in [
        (subject("eve", "admin", json!({"issued_before": ahead})), 400, "future_cutoff"),
        (subject("eve", "admin", json!({"issued_before": cutoff, "block": true})), 400, "invalid_form"),
        (partner(json!({"authenticated_before": cutoff})), 422, "authentication_time_not_stated"),
        (subject("eve", "boredom", json!({})), 400, "invalid_body"),
        (json!({"target": {"kind": "subject", "value": "eve"}, "reason": "admin"}), 400, "invalid_target"),
        (
            json!({"target": {"kind": "user", "issuer": "accounts", "value": "eve"}, "reason": "admin"}),
            400,
            "invalid_body",
        ),
        (
            json!({"target": {"kind": "subject", "issuer": "nobody", "value": "eve"}, "reason": "admin"}),
            422,
            "unknown_issuer",
        ),
        (
            json!({"target": {"kind": "token", "issuer": "accounts", "value": "t"}, "reason": "admin", "issued_before": cutoff}),
            422,
            "invalid_form",
        ),
        (json!({"token": "not.a.token", "reason": "admin"}), 422, "token_not_identified"),
    ] {
        let response = admin.post("/v1/revocations", &body);
        assert_eq!((response.status, response.reason()), (status, reason.to_owned()), "{body}");
    }
    assert_eq!(verdict(&gateway, &of("eve", at, at)), None, "what was refused had no effect");
}

#[test]
fn a_lifted_block_leaves_a_cutoff() {
    let upstream = Upstream::start();
    let site = Site::new(&upstream);
    let gateway = site.start();
    let admin = gateway.admin();
    let stolen = site.accounts.token_of("bob");
    let record = admin.revoke_of_accounts("subject", "bob", "account_blocked");
    assert_eq!(verdict(&gateway, &stolen), refused("revoked_subject"));
    let lifted = lift(&admin, &record, "");
    assert!(lifted["leaves_issued_before"].is_string(), "{lifted}");
    assert_eq!(verdict(&gateway, &stolen), refused("revoked_subject"), "stolen tokens stay dead");
    assert_eq!(verdict(&gateway, &site.accounts.token(json!({"iat": now() + 2}))), None, "a new one lives");
    let found = admin.get(&format!("/v1/revocations/{}", record["id"].as_str().unwrap())).json();
    assert_eq!((&found["in_force"], &found["lifted"]["actor"]), (&json!(false), &json!("ops")), "{found}");
    assert_eq!(admin.delete("/v1/revocations/unknown").status, 404);
}

#[test]
fn a_blocked_subject_is_not_let_in_by_a_login() {
    let upstream = service();
    let site = Site::with_sessions(&upstream);
    let gateway = site.start();
    let target = json!({"kind": "subject", "issuer": "session", "value": "local:bob"});
    gateway.admin().revoke(&json!({"target": target, "reason": "account_blocked"}));
    let response = gateway.get("/login/bob", &[]);
    assert_eq!((response.status, response.session_token()), (403, None));
    assert_eq!(response.header("x-session-grant"), None);
    assert_eq!(gateway.get("/login/ann", &[]).status, 200);
}

#[test]
fn the_same_call_twice_is_one_revocation() {
    let upstream = Upstream::start();
    let site = Site::new(&upstream);
    let gateway = site.start();
    let admin = gateway.admin();
    let call = |subject: &str| {
        let body = json!({"target": {"kind": "subject", "issuer": "accounts", "value": subject}, "reason": "admin"});
        let headers = [("Content-Type", "application/json"), ("Idempotency-Key", "hr-4711")];
        admin.send("POST", "/v1/revocations", &headers, body.to_string().as_bytes())
    };
    let first = call("bob");
    assert_eq!((first.status, &first.json()["id"]), (201, &json!("hr-4711")));
    let again = call("bob");
    assert_eq!((again.status, &again.json()["existing"]), (200, &json!(true)));
    assert_eq!(again.json()["form"], first.json()["form"], "the cutoff is that of the first call");
    assert_eq!(call("ann").status, 409);
    assert_eq!(verdict(&gateway, &site.accounts.token_of("ann")), None);
    let listed = admin.get("/v1/revocations?kind=subject").json();
    assert_eq!(listed["items"].as_array().unwrap().len(), 1, "{listed}");
    lift(&admin, &first.json(), "?restore=true");
    assert_eq!(call("bob").status, 200);
    assert_eq!(verdict(&gateway, &site.accounts.token_of("bob")), None, "a repeat does not undo the lift");
}

/// The same ES256 token with the other valid signature: *s* replaced by *n − s*.
fn malleate(token: &str) -> String {
    const ORDER: [u8; 32] = [
        0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xbc, 0xe6, 0xfa, 0xad,
        0xa7, 0x17, 0x9e, 0x84, 0xf3, 0xb9, 0xca, 0xc2, 0xfc, 0x63, 0x25, 0x51,
    ];
    let (input, signature) = token.rsplit_once('.').unwrap();
    let mut bytes = URL_SAFE_NO_PAD.decode(signature).unwrap();
    let mut borrow = 0;
    for place in (0..32).rev() {
        let difference = i16::from(ORDER[place]) - i16::from(bytes[32 + place]) - borrow;
        borrow = i16::from(difference < 0);
        bytes[32 + place] = difference.rem_euclid(256).try_into().unwrap();
    }
    format!("{input}.{}", base64url(bytes))
}

#[test]
fn names_are_exact_and_belong_to_one_issuer() {
    let upstream = Upstream::start();
    let mut site = Site::new(&upstream);
    let partners = Issuer::new("https://partners.example/", "partners-1", Key::es256());
    site.trust("partners", &partners);
    let gateway = site.start();
    let admin = gateway.admin();
    // Neither name nor signature tells the copy from the original.
    for claims in [json!({}), json!({"jti": null})] {
        let token = site.accounts.token(claims);
        let copy = malleate(&token);
        assert_ne!(copy, token);
        assert_eq!(verdict(&gateway, &copy), None, "it is authentic");
        admin.revoke(&json!({"token": token, "reason": "admin"}));
        assert_eq!(verdict(&gateway, &token), refused("revoked_token"));
        assert_eq!(verdict(&gateway, &copy), refused("revoked_token"));
    }
    let ours = site.accounts.token(json!({"jti": "twin", "sub": "42"}));
    let theirs = partners.token(json!({"jti": "twin", "sub": "42"}));
    admin.revoke_of_accounts("token", "twin", "admin");
    assert_eq!((verdict(&gateway, &ours), verdict(&gateway, &theirs)), (refused("revoked_token"), None), "81");
    admin.revoke_of_accounts("subject", "42", "admin");
    assert_eq!(verdict(&gateway, &partners.token(json!({"sub": "42"}))), None, "two users 42");
    admin.revoke_of_accounts("token", "caf\u{e9}", "admin");
    for (jti, reason) in
        [("caf\u{e9}", refused("revoked_token")), ("cafe\u{301}", None), ("Caf\u{e9}", None), ("caf\u{e9} ", None)]
    {
        assert_eq!(verdict(&gateway, &site.accounts.token(json!({"jti": jti}))), reason, "80 {jti:?}");
    }
    admin.revoke_of_accounts("token", "to-come", "admin");
    assert_eq!(verdict(&gateway, &site.accounts.token(json!({"jti": "to-come"}))), refused("revoked_token"), "86");
    // Within the skew of its end it would still be honoured, so it must still be refused.
    let ending = site.accounts.token(json!({"iat": now() - 60, "exp": now()}));
    assert_eq!(verdict(&gateway, &ending), None, "88");
    admin.revoke(&json!({"token": ending, "reason": "admin", "expires_at": Timestamp::from_secs(now() - 60)}));
    assert_eq!(verdict(&gateway, &ending), refused("revoked_token"), "88");
}

#[test]
fn a_batch_is_taken_whole_or_not_at_all() {
    let upstream = Upstream::start();
    let site = Site::new(&upstream);
    let gateway = site.start();
    let admin = gateway.admin();
    let line = |subject: &str| {
        json!({"target": {"kind": "subject", "issuer": "accounts", "value": subject}, "reason": "admin", "id": format!("b-{subject}")})
            .to_string()
    };
    let send = |text: String| {
        admin.send("POST", "/v1/revocations:batch", &[("Content-Type", "application/x-ndjson")], text.as_bytes())
    };
    let broken = send(format!("{}\n{{\"target\":\n{}\n", line("ann"), line("bob")));
    assert_eq!((broken.status, broken.reason()), (400, "invalid_batch".to_owned()));
    assert_eq!(broken.json()["problems"][0]["line"], 2, "{}", broken.text());
    assert_eq!(verdict(&gateway, &site.accounts.token_of("ann")), None);
    let whole = send(format!("{}\n{}\n", line("ann"), line("bob")));
    assert_eq!(whole.status, 200, "{}", whole.text());
    for subject in ["ann", "bob"] {
        assert_eq!(verdict(&gateway, &site.accounts.token_of(subject)), refused("revoked_subject"));
        assert_eq!(admin.get(&format!("/v1/revocations/b-{subject}")).status, 200);
    }
    assert_eq!(verdict(&gateway, &site.accounts.token_of("cid")), None);
}

#[test]
fn no_request_that_starts_after_the_answer_is_admitted() {
    const CLIENTS: usize = 100;
    let upstream = Upstream::start();
    let site = Site::new(&upstream);
    let gateway = site.start();
    for kind in ["token", "subject"] {
        let token = site.accounts.token(json!({"jti": format!("hot-{kind}"), "sub": format!("hot-{kind}")}));
        let (revoked, admitted, late) = (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(0));
        thread::scope(|scope| {
            for _ in 0..CLIENTS {
                scope.spawn(|| {
                    let mut connection = gateway.connect();
                    let bytes = request("GET", "/orders", &[("Authorization", &bearer(&token))], b"");
                    let mut mine = 0;
                    while mine < 10 {
                        let after = revoked.load(Ordering::Acquire);
                        let status = connection.send(&bytes).response().status;
                        assert!(status == 200 || status == 401, "{status}");
                        assert!(!(after && status == 200), "{kind}: admitted although it started after the answer");
                        let counter = if after { &late } else { &admitted };
                        counter.fetch_add(usize::from(after || status == 200), Ordering::AcqRel);
                        mine += usize::from(after);
                    }
                });
            }
            until("a thousand requests", || (admitted.load(Ordering::Acquire) >= 1000).then_some(()));
            gateway.admin().revoke_of_accounts(kind, &format!("hot-{kind}"), "admin");
            revoked.store(true, Ordering::Release);
        });
        assert_eq!(late.load(Ordering::Acquire), CLIENTS * 10);
        assert_eq!(claims_of(&token)["sub"], format!("hot-{kind}"));
    }
}
