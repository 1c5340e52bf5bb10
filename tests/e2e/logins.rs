//! Logins: what a service behind the gateway may grant, and what a login ends.

use std::sync::Arc;

use serde_json::json;

use crate::support::{Gateway, Latch, Response, Site, Upstream, bearer, request};

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
