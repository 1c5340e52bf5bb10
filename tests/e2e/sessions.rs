//! Gateway sessions: opened by exchange, slid by use, never past a revocation.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::support::issuer::{ACCOUNTS, claims_of};
use crate::support::{Gateway, Latch, Response, Site, Upstream, bearer, now, request, until};

/// A life of twenty seconds, of which one has to pass before a token slides.
fn quick(upstream: &Upstream) -> Site {
    let mut site = Site::with_sessions(upstream);
    site.set("/session/idle_timeout", json!("20s"));
    site.set("/session/reissue", json!({"after": "5%"}));
    site
}

/// The token that `POST /session/exchange` answers with.
pub(crate) fn exchange(gateway: &Gateway, token: &str) -> String {
    let response = gateway.post_as("/session/exchange", token);
    assert_eq!(response.status, 200, "{}", response.text());
    response.json()["access_token"].as_str().unwrap().to_owned()
}

/// Uses the token until it is replaced.
pub(crate) fn slide(gateway: &Gateway, token: &str) -> Response {
    until("a new token", || {
        let response = gateway.get_as("/orders", token);
        assert_eq!(response.status, 200, "{}", response.text());
        response.session_token().is_some().then_some(response)
    })
}

fn refusal(gateway: &Gateway, token: &str) -> (u16, String) {
    let response = gateway.get_as("/orders", token);
    if response.status == 200 {
        return (200, String::new());
    }
    assert_eq!(response.session_token(), None, "a refusal hands out a token");
    (response.status, response.reason())
}

#[test]
fn a_token_is_exchanged_for_a_session() {
    let upstream = Upstream::start();
    let site = Site::with_sessions(&upstream);
    let gateway = site.start();
    let parent = site.accounts.token(json!({"scope": "read admin", "role": "buyer", "sid": "s-7"}));
    let response = gateway.post_as("/session/exchange", &parent);
    let body = response.json();
    assert_eq!((response.status, response.header("cache-control")), (200, Some("no-store")));
    assert_eq!(body["token_type"], "Bearer");
    assert_eq!(body["issued_token_type"], "urn:ietf:params:oauth:token-type:access_token");
    assert!(body["expires_in"].as_u64().is_some_and(|left| (3590..=3600).contains(&left)), "{body}");
    let token = body["access_token"].as_str().unwrap();

    let (claims, parent_claims) = (claims_of(token), claims_of(&parent));
    assert_eq!((&claims["iss"], &claims["aud"]), (&json!("https://gate.example/"), &json!("shop")));
    assert_eq!(
        (&claims["sub"], &claims["scope"], &claims["role"]),
        (&json!("accounts:bob"), &json!("read admin"), &json!("buyer"))
    );
    assert_eq!(claims["orig_iat"].as_f64(), parent_claims["iat"].as_f64());
    assert_eq!((&claims["orig"]["iss"], &claims["orig"]["sub"]), (&json!(ACCOUNTS), &json!("bob")));
    assert_eq!((&claims["orig"]["tok"], &claims["orig"]["sid"]), (&parent_claims["jti"], &json!("s-7")));
    assert_ne!(claims["sid"], "s-7", "a session of our own");

    assert_eq!(gateway.get_as("/orders", token).status, 200);
    assert_eq!(upstream.take_one().header("x-auth-request-user"), Some("accounts:bob"));
    assert_eq!(gateway.get_as("/admin/", token).status, 200, "its scope counts");
    let described = gateway.get_as("/session", token);
    assert_eq!((described.status, &described.json()["sid"]), (200, &claims["sid"]));
    assert!(!described.text().contains(token));

    // One parent, one session, however often it is exchanged.
    assert_eq!(claims_of(&exchange(&gateway, &parent))["sid"], claims["sid"]);
    // A session does not open a session.
    assert_ne!(gateway.post_as("/session/exchange", token).status, 200);
    assert_eq!(gateway.send("POST", "/session/exchange", &[("Content-Length", "0")], b"").reason(), "missing_token");
    assert_eq!(gateway.get_as("/session/exchange", &parent).status, 405);
    assert_eq!(gateway.admin().metric("portcullis_sessions_opened_total", &[("how", "exchange")]) as u32, 1);
}

#[test]
fn any_request_with_a_listed_issuers_token_opens_its_session_silently() {
    let upstream = Upstream::start();
    let site = Site::with_sessions(&upstream);
    let gateway = site.start();
    let parent = site.accounts.token_of("bob");
    let first = gateway.get_as("/orders", &parent);
    let token = first.session_token().expect("a session token");
    assert_eq!(first.header("cache-control"), Some("no-store"));
    assert_eq!(
        first.header("x-session-expires").unwrap().parse::<i64>().unwrap(),
        claims_of(&token)["exp"].as_i64().unwrap()
    );
    assert_eq!(gateway.get_as("/orders", &token).status, 200);
    // A client that ignores the header keeps getting the same.
    assert_eq!(gateway.get_as("/orders", &parent).session_token(), Some(token));
}

#[test]
fn use_slides_a_session_and_keeps_what_it_is() {
    let upstream = Upstream::scripted(|exchange| {
        let fields = [
            ("Cache-Control", "public, max-age=600"),
            ("Access-Control-Allow-Origin", "https://app.example"),
            ("X-Session-Token", "forged"),
            ("X-Session-Expires", "1"),
            ("Set-Cookie", "__Host-session=forged; Path=/"),
            ("Set-Cookie", "theme=dark"),
        ];
        exchange.answer(200, &fields, b"hello")
    });
    let site = quick(&upstream);
    let gateway = site.start();
    let token = exchange(&gateway, &site.accounts.token(json!({"auth_time": now() - 100})));
    let fresh = gateway.get_as("/orders", &token);
    assert_eq!(fresh.session_token(), None, "99 and before its time");
    assert_eq!(fresh.all("set-cookie"), ["theme=dark"], "99");
    assert_eq!(fresh.header("cache-control"), Some("public, max-age=600"));

    let slid = slide(&gateway, &token);
    let successor = slid.session_token().unwrap();
    let (old, new) = (claims_of(&token), claims_of(&successor));
    for claim in ["iss", "sub", "sid", "aud", "orig_iat", "orig", "auth_time"] {
        assert_eq!(old[claim], new[claim], "95 {claim}");
    }
    assert_ne!(old["jti"], new["jti"], "95");
    assert!(new["exp"].as_i64() > old["exp"].as_i64(), "95");
    assert_eq!(slid.header("cache-control"), Some("no-store"), "98");
    assert!(slid.all("vary").iter().any(|vary| vary.to_ascii_lowercase().contains("authorization")), "98 {slid:?}");
    let exposed = slid.all("access-control-expose-headers").join(",").to_ascii_lowercase();
    assert!(exposed.contains("x-session-token") && exposed.contains("x-session-expires"), "{exposed}");
    assert_eq!(gateway.get_as("/orders", &successor).status, 200);
}

#[test]
fn no_token_is_handed_out_with_these_answers() {
    let upstream = Upstream::scripted(|exchange| {
        let status = exchange.recorded.target.trim_start_matches('/').parse().unwrap_or(200);
        exchange.answer(status, &[], b"")
    });
    let site = quick(&upstream);
    let gateway = site.start();
    let token = exchange(&gateway, &site.accounts.token_of("bob"));
    slide(&gateway, &token);
    for status in [401, 403, 304, 500, 502, 503] {
        let response = gateway.get_as(&format!("/{status}"), &token);
        assert_eq!((response.status, response.session_token()), (status, None), "97");
    }
    let preflight = gateway.send("OPTIONS", "/orders", &[("Authorization", &bearer(&token))], b"");
    assert_eq!(preflight.session_token(), None, "97 a preflight");
    assert_eq!(gateway.get_as("/admin/", &token).session_token(), None, "97 a refusal of ours");
    assert!(gateway.get_as("/404", &token).session_token().is_some());
    assert!(gateway.get_as("/204", &token).session_token().is_some());
}

#[test]
fn parallel_requests_get_one_successor() {
    let gate = Arc::new(Latch::default());
    let door = Arc::clone(&gate);
    let upstream = Upstream::scripted(move |exchange| {
        if exchange.recorded.target == "/held" {
            door.wait();
        }
        exchange.answer(200, &[], b"hello")
    });
    let site = quick(&upstream);
    let gateway = site.start();
    let token = exchange(&gateway, &site.accounts.token_of("bob"));
    let issued = claims_of(&token)["iat"].as_i64().unwrap();
    until("the token to be due", || (now() > issued + 2).then_some(()));
    upstream.take();
    let bytes = request("GET", "/held", &[("Authorization", &bearer(&token))], b"");
    let mut connections: Vec<_> = (0..100).map(|_| gateway.connect()).collect();
    for connection in &mut connections {
        connection.send(&bytes);
    }
    upstream.await_requests(100);
    gate.open();
    let mut successors: Vec<String> =
        connections.iter_mut().map(|connection| connection.response().session_token().expect("a token")).collect();
    successors.dedup();
    assert_eq!(successors.len(), 1, "100");
    assert_eq!(gateway.admin().metric("portcullis_reissues_total", &[("result", "minted")]), 1.0);
    assert_eq!(gateway.get_as("/orders", &token).status, 200, "100 the old token lives on");
}

#[test]
fn a_session_ends_at_its_absolute_limit_however_much_it_is_used() {
    let upstream = Upstream::start();
    let mut site = quick(&upstream);
    site.set("/session/idle_timeout", json!("3s"));
    site.set("/session/absolute_timeout", json!("6s"));
    site.set("/session/reissue", json!({"after": "10%"}));
    let gateway = site.start();
    let began = now();
    let mut token = exchange(&gateway, &site.accounts.token(json!({"iat": began})));
    let mut slides = 0;
    let refused = until("the session to end", || {
        let response = gateway.get_as("/orders", &token);
        if let Some(successor) = response.session_token() {
            assert!(claims_of(&successor)["exp"].as_f64().unwrap() <= (began + 6) as f64, "96");
            token = successor;
            slides += 1;
        }
        (response.status != 200).then_some(response)
    });
    assert_eq!((refused.status, refused.reason().as_str()), (401, "expired"), "96");
    assert!(slides >= 2, "96 it slid {slides} times");
    assert!(now() >= began + 6, "96 it ended early");
}

#[test]
fn an_unused_session_expires() {
    let upstream = Upstream::start();
    let mut site = quick(&upstream);
    site.set("/session/idle_timeout", json!("2s"));
    let gateway = site.start();
    let token = exchange(&gateway, &site.accounts.token_of("bob"));
    let expires = claims_of(&token)["exp"].as_f64().unwrap() as i64;
    until("the token to expire", || (now() > expires + 1).then_some(()));
    assert_eq!(refusal(&gateway, &token), (401, "expired".to_owned()));
}

/// The origin rule: whatever names the parent ends the session, and its descendants, however often it slid.
#[test]
fn a_revocation_of_the_parent_ends_the_session_and_every_descendant() {
    let upstream = Upstream::start();
    let site = quick(&upstream);
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
        let token = exchange(&gateway, &parent);
        let successor = slide(&gateway, &token).session_token().unwrap();
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
    let site = quick(&upstream);
    let gateway = site.start();
    let parent = site.accounts.token(json!({"iat": now() - 100, "exp": now() + 600}));
    let token = exchange(&gateway, &parent);
    let successor = slide(&gateway, &token).session_token().unwrap();
    let at = jiff::Timestamp::from_second(now() - 50).unwrap().to_string();
    let target = json!({"kind": "subject", "issuer": "accounts", "value": "bob"});
    let answer = gateway.admin().revoke(&json!({"target": target, "issued_before": at, "reason": "admin"}));
    assert_eq!(answer["form"]["issued_before"], json!(at));
    for dead in [&parent, &token, &successor] {
        assert_eq!(refusal(&gateway, dead), (401, "revoked_subject".to_owned()));
    }
    let again = site.accounts.token(json!({"iat": now() - 40}));
    assert_eq!(refusal(&gateway, &exchange(&gateway, &again)).0, 200, "a login after the cutoff");
    // The horizon covers the session, not only the parent's own life.
    let until: jiff::Timestamp = answer["effective_until"].as_str().unwrap().parse().unwrap();
    assert!(until.as_second() >= now() - 50 + 8 * 3600, "{answer}");
}

#[test]
fn revoking_a_minted_token_or_its_session_ends_all_of_that_session() {
    let upstream = Upstream::start();
    let site = quick(&upstream);
    let gateway = site.start();
    for by in ["raw token", "jti", "sid", "sub"] {
        let token = exchange(&gateway, &site.accounts.token_of("bob"));
        let other = exchange(&gateway, &site.accounts.token_of("alice"));
        let successor = slide(&gateway, &token).session_token().unwrap();
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
fn the_verifying_keys_are_published() {
    let upstream = Upstream::start();
    let site = Site::with_sessions(&upstream);
    let gateway = site.start();
    let response = gateway.get("/.well-known/jwks.json", &[]);
    let keys = response.json();
    assert_eq!(response.status, 200);
    let key = &keys["keys"][0];
    assert_eq!(
        (&key["kty"], &key["alg"], &key["use"], key.get("d")),
        (&json!("EC"), &json!("ES256"), &json!("sig"), None)
    );
    let token = exchange(&gateway, &site.accounts.token_of("bob"));
    site.write("gate.jwks.json", &keys.to_string());
    let arguments = ["token", "verify", "--jwks", "gate.jwks.json", token.as_str()];
    let verified = crate::support::command::portcullis(site.path(), &arguments);
    assert_eq!(verified.code, 0, "{verified:?}");
}
