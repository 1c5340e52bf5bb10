//! Sessions that a login service opens with `X-Session-Grant`, delivery in a cookie, and logout.

use std::sync::Arc;

use serde_json::json;

use crate::sessions::{exchange, slide};
use crate::support::issuer::claims_of;
use crate::support::{Gateway, Latch, Response, Site, Upstream, bearer, request, until};

/// Grants a session to whom `X-Login` names; `/held` waits for the latch.
fn login_service(gate: &Arc<Latch>) -> Upstream {
    let door = Arc::clone(gate);
    Upstream::scripted(move |exchange| {
        if exchange.recorded.target.starts_with("/held") || exchange.recorded.target.starts_with("/login/held") {
            door.wait();
        }
        match exchange.recorded.header("x-login").map(str::to_owned) {
            Some(grant) => exchange.answer(200, &[("X-Session-Grant", &grant)], b"welcome"),
            None => exchange.answer(200, &[], b"hello"),
        }
    })
}

fn log_in(gateway: &Gateway, grant: &str) -> Response {
    gateway.send("POST", "/login/", &[("X-Login", grant), ("Content-Length", "0")], b"")
}

fn cookie_of(response: &Response) -> Option<String> {
    let cookies = response.all("set-cookie");
    let ours: Vec<&&str> = cookies.iter().filter(|cookie| cookie.starts_with("__Host-session=")).collect();
    assert!(ours.len() <= 1, "{response:?}");
    ours.first().map(|cookie| (**cookie).to_owned())
}

fn cookie_value(set_cookie: &str) -> String {
    set_cookie.split(';').next().unwrap().trim_start_matches("__Host-session=").to_owned()
}

#[test]
fn a_login_route_opens_a_session() {
    let upstream = login_service(&Arc::default());
    let site = Site::with_sessions(&upstream);
    let gateway = site.start();
    let response = log_in(&gateway, r#"{"sub":"bob","scope":"read","email":"bob@shop.example"}"#);
    assert_eq!((response.status, response.text().as_str()), (200, "welcome"));
    assert_eq!((response.header("x-session-grant"), response.header("cache-control")), (None, Some("no-store")));
    let token = response.session_token().expect("a session");
    let claims = claims_of(&token);
    assert_eq!((&claims["sub"], &claims["scope"]), (&json!("local:bob"), &json!("read")));
    assert!(claims["orig_iat"].is_number() && claims.get("orig").is_none(), "{claims}");
    assert_eq!(gateway.get_as("/orders", &token).status, 200);
    let recorded = upstream.requests().pop().unwrap();
    assert_eq!(recorded.header("x-auth-request-user"), Some("local:bob"));
    assert_eq!(recorded.header("x-auth-request-email"), Some("bob@shop.example"));

    // Elsewhere the header is removed and means nothing.
    let elsewhere = gateway.get("/public/", &[("X-Login", r#"{"sub":"eve"}"#)]);
    assert_eq!((elsewhere.status, elsewhere.header("x-session-grant"), elsewhere.session_token()), (200, None, None));
    assert_eq!(gateway.admin().metric("portcullis_sessions_opened_total", &[("how", "grant")]), 1.0);
}

#[test]
fn a_grant_that_claims_what_only_we_may_say_is_refused() {
    let upstream = login_service(&Arc::default());
    let gateway = Site::with_sessions(&upstream).start();
    for grant in [
        r#"{"sub":"bob","iss":"https://accounts.example/"}"#,
        r#"{"sub":"bob","orig_iat":1}"#,
        r#"{"sub":"bob","sid":"s"}"#,
        r#"{"sub":"bob","exp":9999999999}"#,
        r#"{"sub":"bob","sub":"eve"}"#,
        r#"{"name":"bob"}"#,
        r#"{"sub":""}"#,
        r#"{"sub":5}"#,
        "not JSON",
    ] {
        let response = log_in(&gateway, grant);
        assert_eq!((response.status, response.session_token()), (502, None), "{grant}");
        assert!(!response.text().contains("bob"), "{grant}");
    }
}

#[test]
fn a_blocked_subject_cannot_log_in_and_a_cut_one_can() {
    let upstream = login_service(&Arc::default());
    let gateway = Site::with_sessions(&upstream).start();
    let token = log_in(&gateway, r#"{"sub":"bob"}"#).session_token().unwrap();
    let target = json!({"kind": "subject", "issuer": "session", "value": "local:bob"});
    // A cutoff: old sessions end, and a login within the same second is admitted.
    gateway.admin().revoke(&json!({"target": target, "reason": "password_changed"}));
    assert_eq!(gateway.get_as("/orders", &token).reason(), "revoked_subject");
    let again = log_in(&gateway, r#"{"sub":"bob"}"#).session_token().expect("a login right after the cutoff");
    assert_eq!(gateway.get_as("/orders", &again).status, 200);
    // A block: nothing, until it is lifted.
    let block = gateway.admin().revoke(&json!({"target": target, "reason": "account_blocked"}));
    assert_eq!(block["form"], json!({"block": true}));
    let refused = log_in(&gateway, r#"{"sub":"bob"}"#);
    assert_eq!((refused.status, refused.session_token()), (403, None));
    let lifted = gateway.admin().delete(&format!("/v1/revocations/{}", block["id"].as_str().unwrap()));
    assert_eq!(lifted.status, 200);
    assert!(lifted.json()["leaves_issued_before"].is_string(), "{}", lifted.text());
    assert_eq!(gateway.get_as("/orders", &again).status, 401, "what was stolen stays dead");
    let fresh = log_in(&gateway, r#"{"sub":"bob"}"#).session_token().expect("a login after the lift");
    assert_eq!(gateway.get_as("/orders", &fresh).status, 200);
}

/// The password that was checked is the one of the moment the request came in.
#[test]
fn a_cutoff_during_a_login_ends_the_session_it_opens() {
    let gate = Arc::new(Latch::default());
    let upstream = login_service(&gate);
    let gateway = Site::with_sessions(&upstream).start();
    let mut connection = gateway.connect();
    connection.send(&request("POST", "/login/held", &[("X-Login", r#"{"sub":"bob"}"#), ("Content-Length", "0")], b""));
    upstream.await_requests(1);
    let target = json!({"kind": "subject", "issuer": "session", "value": "local:bob"});
    gateway.admin().revoke(&json!({"target": target, "reason": "password_changed"}));
    gate.open();
    let response = connection.response();
    if let Some(token) = response.session_token() {
        assert_eq!(gateway.get_as("/orders", &token).status, 401);
    }
}

#[test]
fn a_new_login_ends_the_session_it_came_with() {
    let upstream = login_service(&Arc::default());
    let gateway = Site::with_sessions(&upstream).start();
    let first = log_in(&gateway, r#"{"sub":"bob"}"#).session_token().unwrap();
    let fields = [("X-Login", r#"{"sub":"alice"}"#), ("Authorization", &bearer(&first)), ("Content-Length", "0")];
    let second = gateway.send("POST", "/login/", &fields, b"").session_token().unwrap();
    assert_eq!(gateway.get_as("/orders", &first).reason(), "revoked_session");
    assert_eq!(gateway.get_as("/orders", &second).status, 200);
}

#[test]
fn logout_ends_the_session_and_the_token_it_was_opened_with() {
    let upstream = Upstream::start();
    let mut site = Site::with_sessions(&upstream);
    site.set("/session/idle_timeout", json!("20s")).set("/session/reissue", json!({"after": "5%"}));
    let gateway = site.start();
    let parent = site.accounts.token_of("bob");
    let token = exchange(&gateway, &parent);
    let successor = slide(&gateway, &token).session_token().unwrap();
    let other = exchange(&gateway, &site.accounts.token_of("bob"));
    let response = gateway.post_as("/session/logout", &token);
    assert_eq!((response.status, response.header("cache-control")), (204, Some("no-store")));
    let cleared = cookie_of(&response).expect("T1: a cleared cookie");
    assert!(cleared.starts_with("__Host-session=;") && cleared.contains("Max-Age=0"), "{cleared}");
    assert!(response.header("clear-site-data").unwrap().contains("\"cookies\""));
    assert_eq!(response.session_token(), None);
    for dead in [&token, &successor, &parent] {
        assert_eq!(gateway.get_as("/orders", dead).status, 401);
    }
    assert_ne!(gateway.post_as("/session/exchange", &parent).status, 200);
    assert_eq!(gateway.get_as("/orders", &other).status, 200, "another session of the same user");
    let list = gateway.admin().get("/v1/revocations").json();
    assert!(list["items"].as_array().unwrap().iter().all(|item| item["reason"] == "logout"), "{list}");
    let logouts = gateway.admin().metric("portcullis_revocations_total", &[("reason", "logout"), ("source", "logout")]);
    assert!(logouts >= 1.0, "{logouts}");
    // Without a session, or with rubbish, there is nothing to end, and the browser is cleaned all the same.
    for fields in [&[("Content-Length", "0")][..], &[("Content-Length", "0"), ("Authorization", "Bearer x.y.z")][..]] {
        let response = gateway.send("POST", "/session/logout", fields, b"");
        assert_eq!(response.status, 204);
        assert!(cookie_of(&response).is_some());
    }
    assert_eq!(gateway.get_as("/session/logout", &other).status, 405, "a link must not log anybody out");
}

#[test]
fn an_expired_token_logs_out_what_lives_on() {
    let upstream = Upstream::start();
    let mut site = Site::with_sessions(&upstream);
    site.set("/session/idle_timeout", json!("4s")).set("/session/reissue", json!({"after": "10%"}));
    let gateway = site.start();
    let token = exchange(&gateway, &site.accounts.token_of("bob"));
    let mut successor = slide(&gateway, &token).session_token().unwrap();
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

/// The request was admitted, the upstream is slow, the user logs out: the answer must not bring a token.
#[test]
fn a_logout_that_overtakes_a_slow_answer_wins() {
    let gate = Arc::new(Latch::default());
    let upstream = login_service(&gate);
    let mut site = Site::with_sessions(&upstream);
    site.set("/session/idle_timeout", json!("20s")).set("/session/reissue", json!({"after": "5%"}));
    let gateway = site.start();
    let parent = site.accounts.token_of("bob");
    let token = exchange(&gateway, &parent);
    slide(&gateway, &token);
    upstream.take();
    let mut connections: Vec<_> = [&token, &parent]
        .iter()
        .cycle()
        .take(20)
        .map(|token| {
            let mut connection = gateway.connect();
            connection.send(&request("GET", "/held", &[("Authorization", &bearer(token))], b""));
            connection
        })
        .collect();
    upstream.await_requests(20);
    assert_eq!(gateway.post_as("/session/logout", &token).status, 204);
    gate.open();
    for connection in &mut connections {
        let response = connection.response();
        assert_eq!((response.status, response.session_token(), cookie_of(&response)), (200, None, None));
    }
    assert!(gateway.admin().metric("portcullis_reissues_total", &[("result", "refused")]) >= 20.0);
}

#[test]
fn a_cookie_session_is_set_slid_and_cleared_as_a_cookie() {
    let upstream = login_service(&Arc::default());
    let mut site = Site::with_sessions(&upstream);
    site.set("/session/delivery", json!("cookie"));
    site.set("/session/idle_timeout", json!("20s")).set("/session/reissue", json!({"after": "5%"}));
    let gateway = site.start();
    let response = log_in(&gateway, r#"{"sub":"bob"}"#);
    assert_eq!(response.session_token(), None);
    let set = cookie_of(&response).expect("a cookie");
    let attributes: Vec<&str> = set.split("; ").skip(1).collect();
    for attribute in ["Path=/", "HttpOnly", "Secure", "SameSite=Lax"] {
        assert!(attributes.contains(&attribute), "101 {attribute}: {set}");
    }
    assert!(!set.contains("Domain"), "101 {set}");
    let max_age: u64 = attributes.iter().find_map(|it| it.strip_prefix("Max-Age=")).unwrap().parse().unwrap();
    assert!(max_age <= 20, "101 {set}");

    let token = cookie_value(&set);
    let cookie = format!("__Host-session={token}");
    let slid = until("a new cookie", || {
        let response = gateway.get("/orders", &[("Cookie", &cookie)]);
        assert_eq!((response.status, response.session_token()), (200, None));
        cookie_of(&response).map(|set| (set, response))
    });
    assert_ne!(cookie_value(&slid.0), token);
    assert!(slid.1.all("vary").iter().any(|vary| vary.to_ascii_lowercase().contains("cookie")), "{:?}", slid.1);
    // One that came in a header goes back in a header.
    assert!(gateway.get_as("/orders", &token).session_token().is_some());

    gateway.admin().revoke(&json!({"token": token, "reason": "admin"}));
    let refused = gateway.get("/orders", &[("Cookie", &cookie)]);
    assert_eq!(refused.status, 401);
    assert!(cookie_of(&refused).is_some_and(|set| set.contains("Max-Age=0")), "T1: {refused:?}");
}

#[test]
fn a_cookie_from_another_site_changes_nothing() {
    let upstream = Upstream::start();
    let site = Site::with_sessions(&upstream);
    let gateway = site.start();
    let cookie = format!("__Host-session={}", exchange(&gateway, &site.accounts.token_of("bob")));
    upstream.take();
    let post = |target: &str, more: &[(&str, &str)]| {
        gateway.send("POST", target, &[&[("Cookie", cookie.as_str()), ("Content-Length", "0")], more].concat(), b"")
    };
    for (name, fields) in [
        ("another site", &[("Sec-Fetch-Site", "cross-site")][..]),
        ("a sibling host", &[("Sec-Fetch-Site", "same-site")][..]),
        ("another origin", &[("Origin", "https://evil.example")][..]),
        ("an opaque origin", &[("Origin", "null")][..]),
        ("no word on it", &[][..]),
        ("two words", &[("Sec-Fetch-Site", "same-origin"), ("Sec-Fetch-Site", "cross-site")][..]),
    ] {
        let response = post("/orders", fields);
        assert_eq!((response.status, response.reason().as_str()), (403, "cross_site"), "102 {name}");
        assert_eq!(response.header("www-authenticate"), None);
        assert_eq!(post("/session/logout", fields).status, 403, "102 {name}: a logout");
    }
    assert_eq!(upstream.bytes(), 0);
    assert_eq!(post("/orders", &[("Sec-Fetch-Site", "same-origin")]).status, 200);
    assert_eq!(post("/orders", &[("Origin", "https://shop.example")]).status, 200);
    assert_eq!(gateway.get("/orders", &[("Cookie", &cookie), ("Sec-Fetch-Site", "cross-site")]).status, 200, "a link");
}
