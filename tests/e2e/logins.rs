//! Logins: what a service behind the gateway may grant, and what a login ends.

use std::sync::Arc;

use portcullis::time::Clock;
use serde_json::json;

use crate::sessions::exchanged;
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
    assert_eq!((response.status, response.reason().as_str()), (403, "revoked_subject"));
    assert_eq!((response.session_token(), response.header("x-session-grant")), (None, None));
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

/// Answers with a status from the path and a grant for bob, whatever was asked.
fn granting() -> Upstream {
    Upstream::scripted(|exchange| {
        let status = exchange.recorded.target.rsplit('/').next().and_then(|it| it.parse().ok()).unwrap_or(200);
        exchange.answer(status, &[("X-Session-Grant", r#"{"sub":"bob"}"#), ("X-Session-Token", "forged")], b"hi")
    })
}

#[test]
fn a_grant_reaches_nobody_and_counts_on_logins_that_were_carried_out_alone() {
    let upstream = granting();
    let mut site = Site::with_sessions(&upstream);
    for route in [
        json!({"name": "leave", "match": {"path": "/leave/"}, "upstream": "shop", "auth": "none", "logout": true}),
        json!({"name": "watched", "match": {"path": "/watched/"}, "upstream": "shop", "auth": "required",
            "report_only": true}),
    ] {
        site.route(route);
    }
    let gateway = site.start();
    let authorization = bearer(&log_in(&gateway, "").session_token().unwrap());
    let mut opened = 0;
    for path in ["/login", "/public", "/orders", "/leave", "/watched"] {
        for status in [200, 204, 302, 304, 400, 401, 403, 404, 500, 503] {
            for method in ["GET", "HEAD", "POST", "OPTIONS"] {
                // A session of its own would be renewed or ended: public routes are asked without.
                let fields = [("Authorization", authorization.as_str()), ("Content-Length", "0")];
                let fields = if path == "/orders" { &fields[..] } else { &fields[1..] };
                let target = format!("{path}/{status}");
                let mut connection = gateway.connect();
                connection.send(&request(method, &target, fields, b""));
                let response = if method == "HEAD" { connection.response_to_head() } else { connection.response() };
                assert_eq!((response.status, response.header("x-session-grant")), (status, None), "{method} {target}");
                let opens = path == "/login" && matches!(status, 200 | 204 | 302) && method != "OPTIONS";
                assert_eq!(response.session_token().is_some(), opens, "{method} {target}");
                opened += usize::from(opens);
            }
        }
    }
    assert_eq!(opened, 9);
    let metric = gateway.admin().metric("portcullis_sessions_opened_total", &[("how", "grant")]);
    assert_eq!(metric, 10.0);

    let site = Site::new(&upstream);
    let gateway = site.start();
    let response = gateway.get_as("/orders", &site.accounts.token_of("bob"));
    assert_eq!((response.status, response.header("x-session-grant")), (200, None), "nor where there are no sessions");
}

#[test]
fn a_grant_is_bounded_and_comes_once() {
    let upstream = Upstream::scripted(|exchange| {
        let size = exchange.recorded.target.rsplit('/').next().unwrap_or_default().to_owned();
        let grant = r#"{"sub":"bob"}"#;
        match size.parse::<usize>() {
            Ok(size) => {
                let padded = format!(r#"{{"sub":"bob","x":"{}"}}"#, "x".repeat(size - 20));
                exchange.answer(200, &[("X-Session-Grant", &padded)], b"welcome")
            }
            Err(_) => exchange.answer(200, &[("X-Session-Grant", grant), ("X-Session-Grant", grant)], b"welcome"),
        }
    });
    let mut site = Site::with_sessions(&upstream);
    site.set("/token/max_bytes", json!("16KiB"));
    let gateway = site.start();
    for (path, status) in [("/login/8192", 200), ("/login/8193", 502), ("/login/30000", 502), ("/login/twice", 502)] {
        let response = gateway.get(path, &[]);
        assert_eq!((response.status, response.header("x-session-grant")), (status, None), "{path}");
        assert_eq!(response.session_token().is_some(), status == 200, "{path}");
    }
    let metric = gateway.admin().metric("portcullis_sessions_opened_total", &[("how", "grant")]);
    assert_eq!(metric, 1.0);
}

/// The session begins when the login request arrived, not when it was answered.
#[test]
fn a_session_begins_with_the_request_for_it() {
    let gate = Arc::new(Latch::default());
    let upstream = login_service(&gate);
    let gateway = Site::with_sessions(&upstream).start();
    let mut held = gateway.connect();
    let grant = r#"{"sub":"bob"}"#;
    let before = Clock::System.now();
    held.send(&request("POST", "/login/held", &[("X-Login", grant), ("Content-Length", "0")], b""));
    upstream.await_requests(1);
    let arrived = Clock::System.now();
    until("some time", || (Clock::System.now().millis() > arrived.millis() + 50).then_some(()));
    gate.open();
    let claims = claims_of(&held.response().session_token().unwrap());
    let began = claims["orig_iat"].as_f64().unwrap();
    #[expect(clippy::cast_precision_loss, reason = "milliseconds of this century are exact")]
    let (before, arrived) = (before.millis() as f64 / 1000.0, arrived.millis() as f64 / 1000.0);
    assert!((before..=arrived).contains(&began), "{before} {began} {arrived}");
    assert_eq!(claims["auth_time"], claims["orig_iat"]);
}

/// What `/leave/STATUS` answers.
fn logout_service() -> Upstream {
    Upstream::scripted(|exchange| match exchange.recorded.target.strip_prefix("/leave/").map(str::to_owned) {
        Some(status) => exchange.answer(status.parse().unwrap(), &[], b"bye"),
        None => {
            let grant: &[_] = if exchange.recorded.target.starts_with("/login/") {
                &[("X-Session-Grant", r#"{"sub":"bob"}"#)]
            } else {
                &[]
            };
            exchange.answer(200, grant, b"hello")
        }
    })
}

fn leaving(site: &mut Site, auth: &str) {
    let route =
        json!({"name": "leave", "match": {"path": "/leave/"}, "upstream": "shop", "auth": auth, "logout": true});
    site.route(route);
}

#[test]
fn a_session_ends_when_the_service_says_so() {
    let upstream = logout_service();
    for auth in ["required", "none"] {
        let mut site = Site::with_sessions(&upstream);
        leaving(&mut site, auth);
        let gateway = site.start();
        let parent = site.accounts.token_of("ann");
        let token = exchanged(&gateway, &parent);
        for status in [304, 400, 401, 403, 404, 409, 500, 503] {
            let response = gateway.post_as(&format!("/leave/{status}"), &token);
            assert_eq!((response.status, response.header("clear-site-data")), (status, None), "{auth}");
            assert_eq!(response.all("set-cookie").len(), 0, "{auth} {status}");
            assert_eq!(gateway.get_as("/orders", &token).status, 200, "{auth} {status}: the service has refused");
        }
        let preflight = gateway.send("OPTIONS", "/leave/204", &[("Authorization", &bearer(&token))], b"");
        assert_eq!((preflight.status, gateway.get_as("/orders", &token).status), (204, 200), "{auth}");

        let response = gateway.post_as("/leave/200", &token);
        assert_eq!((response.status, response.text().as_str()), (200, "bye"), "the service's own answer");
        assert_eq!(response.header("clear-site-data"), Some(r#""cookies", "storage""#));
        assert!(response.header("set-cookie").unwrap().contains("Max-Age=0"));
        assert_eq!(response.session_token(), None);
        for dead in [&token, &parent] {
            assert_eq!(gateway.get_as("/orders", dead).reason(), "revoked_token", "{auth}");
        }
        let redirected = log_in(&gateway, "").session_token().unwrap();
        assert_eq!(gateway.get_as("/leave/303", &redirected).status, 303);
        assert_eq!(gateway.get_as("/orders", &redirected).reason(), "revoked_session", "{auth}");
        gateway.kill();
        let gateway = site.start();
        assert_eq!(gateway.get_as("/orders", &redirected).reason(), "revoked_session", "{auth}: it was durable");
        assert_eq!(gateway.get_as("/leave/200", &redirected).status, if auth == "none" { 200 } else { 401 });
    }
}

#[test]
fn nobody_is_logged_out_by_another_site_and_nobody_needs_a_living_token() {
    let upstream = logout_service();
    let mut site = Site::with_sessions(&upstream);
    leaving(&mut site, "required");
    site.set("/session/delivery", json!("cookie")).set("/session/idle_timeout", json!("2s"));
    let gateway = site.start();
    let cookie = gateway.get("/login/", &[]).header("set-cookie").unwrap().split(';').next().unwrap().to_owned();
    let post = |fields: &[(&str, &str)]| {
        gateway.send(
            "POST",
            "/leave/200",
            &[&[("Cookie", cookie.as_str()), ("Content-Length", "0")], fields].concat(),
            b"",
        )
    };
    upstream.take();
    let refused = post(&[("Origin", "https://evil.example")]);
    assert_eq!((refused.status, refused.reason().as_str(), upstream.take().len()), (403, "cross_site", 0));
    assert_eq!(gateway.get("/orders", &[("Cookie", &cookie)]).status, 200);
    until("its end", || {
        let response = gateway.get("/orders", &[("Cookie", &cookie)]);
        (response.status == 401).then(|| assert_eq!(response.reason(), "expired"))
    });
    upstream.take();
    let left = post(&[("Sec-Fetch-Site", "same-origin")]);
    assert_eq!(left.status, 200, "a token that has merely expired says goodbye: {left:?}");
    assert!(left.header("set-cookie").unwrap().contains("Max-Age=0"));
    assert_eq!(upstream.take_one().header("x-auth-request-user"), None, "as nobody's");
    let records = gateway.admin().get("/v1/revocations?kind=session").json();
    assert_eq!(records["items"].as_array().map(Vec::len), Some(1), "what may descend from it has ended: {records}");
}
