//! Sessions: opened by exchange and by a login, slid, ended; and nothing moves one past a revocation.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::thread;

use portcullis::time::{Clock, Timestamp};
use serde_json::{Value, json};

use crate::support::issuer::{ACCOUNTS, claims_of};
use crate::support::{Admin, Gateway, Latch, Response, Site, Upstream, bearer, now, until};

/// An upstream that opens a session for `NAME` at `/login/NAME`, and says hello everywhere else.
pub(crate) fn service() -> Upstream {
    Upstream::scripted(|exchange| match exchange.recorded.target.clone().strip_prefix("/login/") {
        Some(name) => {
            let grant = json!({"sub": name, "scope": "orders"}).to_string();
            exchange.answer(200, &[("X-Session-Grant", &grant)], b"welcome")
        }
        None => exchange.answer(200, &[], b"hello"),
    })
}

/// A site whose session tokens are due for a successor within a second or two.
pub(crate) fn sliding(upstream: &Upstream) -> Site {
    let mut site = Site::with_sessions(upstream);
    site.set("/session/idle_timeout", json!("60s")).set("/session/reissue", json!({"after": "1%"}));
    site
}

/// Logs `name` in and returns the session's first token.
pub(crate) fn log_in(gateway: &Gateway, name: &str) -> String {
    let response = gateway.get(&format!("/login/{name}"), &[]);
    assert_eq!((response.status, response.header("x-session-grant")), (200, None), "{response:?}");
    response.session_token().expect("a session")
}

/// Opens a session at the endpoint.
fn exchange(gateway: &Gateway, parent: &str) -> Response {
    gateway.post_as("/session/exchange", parent)
}

pub(crate) fn exchanged(gateway: &Gateway, parent: &str) -> String {
    let response = exchange(gateway, parent);
    assert_eq!(response.status, 200, "{response:?}");
    response.json()["access_token"].as_str().expect("a token").to_owned()
}

/// Uses `token` until a request brings its successor.
pub(crate) fn slide(gateway: &Gateway, token: &str) -> String {
    until("a successor", || {
        let response = gateway.get_as("/orders", token);
        assert_eq!(response.status, 200, "{response:?}");
        response.session_token()
    })
}

/// That `token` is refused, and why.
fn refusal(gateway: &Gateway, token: &str) -> String {
    let response = gateway.get_as("/orders", token);
    assert_eq!((response.status, response.session_token()), (401, None), "{response:?}");
    response.reason()
}

fn cut(admin: &Admin, issuer: &str, subject: &str, before: Option<Timestamp>) -> Value {
    let mut body =
        json!({"target": {"kind": "subject", "issuer": issuer, "value": subject}, "reason": "permissions_changed"});
    if let Some(before) = before {
        body["issued_before"] = json!(before);
    }
    admin.revoke(&body)
}

#[test]
fn a_token_is_exchanged_for_a_session() {
    let upstream = service();
    let site = Site::with_sessions(&upstream);
    let gateway = site.start();
    let parent = site.accounts.token(json!({"scope": "orders", "sid": "idp-1", "iat": now() - 100}));

    let response = exchange(&gateway, &parent);
    assert_eq!((response.status, response.header("cache-control")), (200, Some("no-store")), "{response:?}");
    assert_eq!(response.all("set-cookie"), Vec::<&str>::new(), "a cookie only when asked");
    let answer = response.json();
    assert_eq!(answer["token_type"], "Bearer");
    assert_eq!(answer["issued_token_type"], "urn:ietf:params:oauth:token-type:access_token");
    assert_eq!(answer["scope"], "orders");
    assert!((3590..=3600).contains(&answer["expires_in"].as_i64().unwrap()), "{}", answer["expires_in"]);

    let token = answer["access_token"].as_str().unwrap();
    let (claims, origin) = (claims_of(token), claims_of(&parent));
    assert_eq!(claims["iss"], "https://gate.example/");
    assert_eq!(claims["sub"], "accounts:bob");
    assert_eq!(claims["orig_iat"], origin["iat"], "the origin is the parent's");
    assert_eq!(claims["orig"]["iss"], ACCOUNTS);
    assert_eq!(claims["orig"]["sub"], "bob");
    assert_eq!(claims["orig"]["tok"], origin["jti"]);
    assert_eq!(claims["orig"]["sid"], "idp-1");
    assert_ne!(claims["sid"], "idp-1");
    assert_eq!(gateway.get_as("/orders", token).status, 200);

    let again = exchanged(&gateway, &parent);
    assert_eq!(claims_of(&again)["sid"], claims["sid"], "one parent, one session");
    let session = gateway.get_as("/session", token);
    assert_eq!((session.status, &session.json()["sid"]), (200, &claims["sid"]));

    assert_eq!(gateway.post_as("/session/exchange", token).status, 401, "the gateway does not exchange its own");
    assert_eq!(gateway.send("POST", "/session/exchange", &[("Content-Length", "0")], b"").reason(), "missing_token");
    let form = format!("subject_token={parent}&delivery=cookie");
    let kind = [("Content-Type", "application/x-www-form-urlencoded")];
    let response = gateway.send("POST", "/session/exchange", &kind, form.as_bytes());
    assert_eq!(response.status, 200);
    assert!(response.header("set-cookie").unwrap().starts_with("__Host-session=ey"));
}

#[test]
fn a_session_is_opened_silently_and_once() {
    let upstream = service();
    let site = Site::with_sessions(&upstream);
    let gateway = site.start();
    let parent = site.accounts.token_of("bob");
    let tokens: BTreeSet<_> =
        (0..5).map(|_| gateway.get_as("/orders", &parent).session_token().expect("a session")).collect();
    assert_eq!(tokens.len(), 1, "a client that ignores the header gets one token, not five");
    let token = tokens.first().unwrap();
    assert_eq!(claims_of(token)["sub"], "accounts:bob");
    upstream.take();
    assert_eq!(gateway.get_as("/orders", token).session_token(), None, "it is not yet due");
    assert_eq!(upstream.take_one().header("x-auth-request-user"), Some("accounts:bob"));
    let opened = gateway.admin().metric("portcullis_sessions_opened_total", &[("how", "exchange")]);
    assert!((1.0..=5.0).contains(&opened), "{opened}");
}

#[test]
fn a_login_route_opens_a_session_and_its_grant_never_reaches_the_client() {
    let upstream = Upstream::scripted(|exchange| {
        let grant = match exchange.recorded.target.as_str() {
            "/login/reserved" => json!({"sub": "bob", "iat": 1}),
            "/login/nobody" => json!({"scope": "orders"}),
            _ => json!({"sub": "bob", "email": "bob@example.com"}),
        };
        exchange.answer(200, &[("X-Session-Grant", &grant.to_string())], b"welcome")
    });
    let site = Site::with_sessions(&upstream);
    let gateway = site.start();
    let claims = claims_of(&log_in(&gateway, "bob"));
    assert_eq!((&claims["sub"], &claims["email"]), (&json!("local:bob"), &json!("bob@example.com")));
    assert_eq!(claims["orig"], Value::Null);
    assert_ne!(claims_of(&log_in(&gateway, "bob"))["sid"], claims["sid"], "each login is a session of its own");

    for path in ["/login/reserved", "/login/nobody"] {
        let response = gateway.get(path, &[]);
        assert_eq!((response.status, response.session_token()), (502, None), "{path}");
        assert_eq!(response.header("x-session-grant"), None, "{path}");
    }
    // Only login routes may open sessions.
    for (path, token) in [("/public/x", None), ("/orders", Some(site.accounts.token_of("eve")))] {
        let authorization = token.as_deref().map(bearer);
        let headers: Vec<_> = authorization.iter().map(|value| ("Authorization", value.as_str())).collect();
        let response = gateway.get(path, &headers);
        assert_eq!((response.status, response.header("x-session-grant")), (200, None), "{path}");
        let subject = response.session_token().map(|token| claims_of(&token)["sub"].clone());
        assert_eq!(subject, token.map(|_| json!("accounts:eve")), "{path}");
    }
    // A login with a session in hand ends that session.
    let first = log_in(&gateway, "bob");
    let second = gateway.get_as("/login/bob", &first).session_token().expect("a session");
    assert_eq!(refusal(&gateway, &first), "revoked_session");
    assert_eq!(gateway.get_as("/orders", &second).status, 200);
}

#[test]
fn a_session_slides_while_it_is_used() {
    let upstream = service();
    let site = sliding(&upstream);
    let gateway = site.start();
    for first in [log_in(&gateway, "bob"), exchanged(&gateway, &site.accounts.token_of("ann"))] {
        let old = claims_of(&first);
        let response = until("a successor", || {
            let response = gateway.get_as("/orders", &first);
            response.session_token().is_some().then_some(response)
        });
        let second = response.session_token().unwrap();
        let new = claims_of(&second);
        for kept in ["iss", "sub", "aud", "sid", "orig_iat", "orig", "auth_time", "scope"] {
            assert_eq!(new[kept], old[kept], "{kept}");
        }
        assert_ne!(new["jti"], old["jti"]);
        assert!(new["exp"].as_i64() > old["exp"].as_i64());
        assert_eq!(response.header("x-session-expires"), Some(new["exp"].to_string().as_str()));
        assert_eq!(response.header("cache-control"), Some("no-store"));
        assert_eq!(gateway.get_as("/orders", &first).status, 200, "the old one lives until its end");
        let third = slide(&gateway, &second);
        assert_eq!(claims_of(&third)["orig_iat"], old["orig_iat"]);
    }
}

#[test]
fn parallel_requests_get_one_successor() {
    let upstream = service();
    let mut site = sliding(&upstream);
    // Due after four seconds; so is the successor, which leaves that long to ask for it.
    site.set("/session/idle_timeout", json!("400s"));
    let gateway = site.start();
    let token = log_in(&gateway, "bob");
    let due = claims_of(&token)["iat"].as_i64().unwrap() + 5;
    until("the token's turn", || (now() >= due).then_some(()));
    let successors: BTreeSet<_> = thread::scope(|scope| {
        let requests: Vec<_> = (0..40).map(|_| scope.spawn(|| gateway.get_as("/orders", &token))).collect();
        requests.into_iter().map(|it| it.join().unwrap().session_token().expect("a successor")).collect()
    });
    assert_eq!(successors.len(), 1);
    assert_eq!(gateway.get_as("/orders", successors.first().unwrap()).status, 200);
}

#[test]
fn a_session_ends_at_its_absolute_limit_however_much_it_is_used() {
    let upstream = service();
    let mut site = sliding(&upstream);
    site.set("/session/idle_timeout", json!("3s")).set("/session/absolute_timeout", json!("5s"));
    let gateway = site.start();
    let mut token = log_in(&gateway, "bob");
    let origin = claims_of(&token)["orig_iat"].as_f64().unwrap();
    let mut slides = 0;
    let reason = until("the end of the session", || {
        let response = gateway.get_as("/orders", &token);
        if response.status == 401 {
            return Some(response.reason());
        }
        if let Some(next) = response.session_token() {
            assert!(claims_of(&next)["exp"].as_f64().unwrap() <= origin + 5.0, "no token outlives the session");
            assert!(claims_of(&next)["exp"].as_i64() > claims_of(&token)["exp"].as_i64());
            token = next;
            slides += 1;
        }
        None
    });
    assert_eq!(reason, "expired");
    assert!((1..=5).contains(&slides), "{slides}");
    assert!(now() >= claims_of(&token)["exp"].as_i64().unwrap());
}

#[test]
fn logout_ends_the_session_and_its_parent() {
    let upstream = service();
    let site = sliding(&upstream);
    let gateway = site.start();
    let parent = site.accounts.token_of("bob");
    let first = exchanged(&gateway, &parent);
    let second = slide(&gateway, &first);
    let response = gateway.post_as("/session/logout", &first);
    assert_eq!(response.status, 204);
    assert_eq!(response.header("clear-site-data"), Some(r#""cookies", "storage""#));
    let cleared = "__Host-session=; Path=/; Max-Age=0; HttpOnly; Secure; SameSite=Lax";
    assert_eq!(response.header("set-cookie"), Some(cleared));
    assert_eq!((response.session_token(), response.header("cache-control")), (None, Some("no-store")));
    for token in [&first, &second, &parent] {
        assert_eq!(refusal(&gateway, token), "revoked_token", "the parent is dead, and all that came from it");
    }
    let sid = claims_of(&first)["sid"].as_str().unwrap().to_owned();
    let records = gateway.admin().get(&format!("/v1/revocations?kind=session&issuer=session&value={sid}")).json();
    assert_eq!(records["items"][0]["reason"], "logout", "{records}");
    assert_eq!(exchange(&gateway, &parent).status, 401, "and it opens no other session");

    let anonymous = gateway.send("POST", "/session/logout", &[("Content-Length", "0")], b"");
    assert_eq!((anonymous.status, anonymous.header("set-cookie")), (204, Some(cleared)));
    let session = log_in(&gateway, "bob");
    assert_eq!(gateway.get_as("/orders", &session).status, 200, "a new login is a new session");
    let successor = slide(&gateway, &session);
    assert_eq!(gateway.post_as("/session/logout", &session).status, 204);
    for token in [&session, &successor] {
        assert_eq!(refusal(&gateway, token), "revoked_session");
    }
    let count = || gateway.admin().get("/v1/revocations").json()["items"].as_array().unwrap().len();
    assert_eq!(count(), 3, "a session and its parent, and a session without one");
    for token in [&first, &session, &successor, &parent] {
        assert_eq!(gateway.post_as("/session/logout", token).status, 204);
    }
    assert_eq!(count(), 3, "whoever repeats it does not fill the store");
    let audit = site.read("audit.jsonl");
    assert_eq!(audit.matches(r#""role":"session","address":"127.0.0.1","action":"logout""#).count(), 3, "{audit}");
}

/// What happens to a session while the upstream takes its time, and whether a token comes with the late answer.
fn during_a_slow_answer(first: impl Fn(&Site, &Gateway) -> String, meanwhile: impl Fn(&Gateway, &str)) -> Response {
    let door = Arc::new(Latch::default());
    let waiting = Arc::clone(&door);
    let upstream = Upstream::scripted(move |exchange| match exchange.recorded.target.as_str() {
        "/slow" => {
            waiting.wait();
            exchange.answer(200, &[], b"late")
        }
        "/login/bob" => exchange.answer(200, &[("X-Session-Grant", r#"{"sub":"bob"}"#)], b"welcome"),
        _ => exchange.answer(200, &[], b"hello"),
    });
    let site = sliding(&upstream);
    let gateway = site.start();
    let token = first(&site, &gateway);
    upstream.take();
    thread::scope(|scope| {
        // A request with an effect: a long poll would be told nothing (`streams`).
        let late = scope.spawn(|| gateway.post_as("/slow", &token));
        upstream.await_requests(1);
        meanwhile(&gateway, &token);
        door.open();
        late.join().unwrap()
    })
}

/// A token whose next use brings a successor.
fn due(_: &Site, gateway: &Gateway) -> String {
    let token = log_in(gateway, "bob");
    slide(gateway, &token);
    token
}

fn parent(site: &Site, _: &Gateway) -> String {
    site.accounts.token_of("bob")
}

#[test]
fn a_logout_during_a_slow_answer_wins() {
    let undisturbed = during_a_slow_answer(due, |_, _| ());
    assert!(undisturbed.session_token().is_some(), "without a logout it slides: {undisturbed:?}");
    let response = during_a_slow_answer(due, |gateway, token| {
        assert_eq!(gateway.post_as("/session/logout", token).status, 204);
    });
    assert_eq!((response.status, response.session_token()), (200, None));
    assert_eq!(response.text(), "late");
}

#[test]
fn a_revocation_during_a_slow_answer_wins() {
    let undisturbed = during_a_slow_answer(parent, |_, _| ());
    assert!(undisturbed.session_token().is_some(), "without a revocation a session opens: {undisturbed:?}");
    let response = during_a_slow_answer(parent, |gateway, token| {
        gateway.admin().revoke(&json!({"token": token, "reason": "admin"}));
    });
    assert_eq!((response.status, response.session_token()), (200, None));
    let response = during_a_slow_answer(due, |gateway, _| {
        cut(&gateway.admin(), "session", "local:bob", None);
    });
    assert_eq!((response.status, response.session_token()), (200, None));
}

#[test]
fn what_descends_from_a_revoked_user_is_refused() {
    let upstream = service();
    let site = sliding(&upstream);
    let gateway = site.start();
    let admin = gateway.admin();
    let issued = now() - 100;
    let parent = site.accounts.token(json!({"iat": issued}));
    let session = exchanged(&gateway, &parent);
    let descendant = slide(&gateway, &session);
    let others = exchanged(&gateway, &site.accounts.token_of("ann"));

    cut(&admin, "accounts", "bob", Some(Timestamp::from_secs(issued - 1)));
    for token in [&parent, &session, &descendant] {
        assert_eq!(gateway.get_as("/orders", token).status, 200, "a cutoff before the origin");
    }
    // Long before the exchange, and before the reissue: only the origin counts.
    cut(&admin, "accounts", "bob", Some(Timestamp::from_secs(issued + 1)));
    for token in [&parent, &session, &descendant] {
        assert_eq!(refusal(&gateway, token), "revoked_subject");
    }
    assert_eq!(exchange(&gateway, &parent).status, 401);
    assert_eq!(gateway.get_as("/orders", &others).status, 200, "another user");
    let later = site.accounts.token(json!({"iat": issued + 2}));
    let fresh = exchanged(&gateway, &later);
    assert_eq!(gateway.get_as("/orders", &fresh).status, 200, "a token issued after the cutoff, and its session");

    cut(&admin, "accounts", "bob", None);
    for token in [&later, &fresh] {
        assert_eq!(refusal(&gateway, token), "revoked_subject");
    }
    cut(&admin, "accounts", "bob", Some(Timestamp::from_secs(issued - 50)));
    assert_eq!(refusal(&gateway, &fresh), "revoked_subject", "an earlier cutoff loosens nothing");
}

#[test]
fn a_login_in_the_second_of_a_cutoff_is_admitted() {
    let upstream = service();
    let site = Site::with_sessions(&upstream);
    let gateway = site.start();
    let admin = gateway.admin();
    let old = log_in(&gateway, "bob");
    until("a cutoff and a login within one second", || {
        let second = Clock::System.now().secs();
        cut(&admin, "session", "local:bob", None);
        let fresh = log_in(&gateway, "bob");
        let within = Clock::System.now().secs() == second;
        assert_eq!(gateway.get_as("/orders", &fresh).status, 200);
        assert_eq!(refusal(&gateway, &old), "revoked_subject");
        within.then_some(())
    });
}
