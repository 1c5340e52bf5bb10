//! CORS preflights: they pass without a token where a route says so, and nothing else does.

use serde_json::json;

use crate::support::{Site, Upstream, bearer, request};

const ORIGIN: (&str, &str) = ("Origin", "https://app.example");
const ASKED: (&str, &str) = ("Access-Control-Request-Method", "PUT");

#[test]
fn a_preflight_passes_where_its_route_lets_it_and_nothing_else_does() {
    let upstream = Upstream::start();
    let mut site = Site::new(&upstream);
    site.route(json!({
        "name": "api", "match": {"path": "/api/"}, "upstream": "shop", "auth": "required", "pass_preflight": true,
    }));
    let gateway = site.start();
    let forged = [ORIGIN, ASKED, ("X-Auth-Request-User", "admin")];
    assert_eq!(gateway.send("OPTIONS", "/api/orders", &forged, b"").status, 200);
    let recorded = upstream.take_one();
    assert_eq!((recorded.method.as_str(), recorded.header("origin")), ("OPTIONS", Some(ORIGIN.1)));
    assert_eq!(recorded.header("x-auth-request-user"), None, "nobody's identity");

    let stranger = ("Authorization", "Bearer x.y.z");
    for (name, method, target, fields, status) in [
        ("another route", "OPTIONS", "/orders", &[ORIGIN, ASKED][..], 401),
        ("no origin", "OPTIONS", "/api/", &[ASKED], 401),
        ("no method asked for", "OPTIONS", "/api/", &[ORIGIN], 401),
        ("two methods asked for", "OPTIONS", "/api/", &[ORIGIN, ASKED, ASKED], 401),
        ("the request itself", "PUT", "/api/", &[ORIGIN, ASKED], 401),
        ("a GET", "GET", "/api/", &[ORIGIN, ASKED], 401),
        ("a method override", "POST", "/api/", &[ORIGIN, ASKED, ("X-HTTP-Method-Override", "OPTIONS")], 401),
        ("a bad token", "OPTIONS", "/api/", &[ORIGIN, ASKED, stranger], 401),
    ] {
        assert_eq!(gateway.send(method, target, fields, b"").status, status, "{name}");
        assert_eq!(upstream.take().len(), 0, "{name}");
    }
    assert_eq!(gateway.send("OPTIONS", "/api/", &[ORIGIN, ASKED], b"body").status, 401, "a body");
    let mut chunked = gateway.connect();
    chunked.send(&request("OPTIONS", "/api/", &[ORIGIN, ASKED, ("Transfer-Encoding", "chunked")], b""));
    assert_eq!(chunked.response().status, 401, "a body of unknown length");
    assert_eq!(upstream.take().len(), 0);
    // Whoever brings a token is judged by it, and known upstream.
    let bob = bearer(&site.accounts.token_of("bob"));
    assert_eq!(gateway.send("OPTIONS", "/api/", &[ORIGIN, ASKED, ("Authorization", &bob)], b"").status, 200);
    assert_eq!(upstream.take_one().header("x-auth-request-user"), Some("bob"));
}

#[test]
fn a_preflight_of_a_login_route_opens_no_session() {
    let upstream =
        Upstream::scripted(|exchange| exchange.answer(200, &[("X-Session-Grant", r#"{"sub":"mallory"}"#)], b""));
    let mut site = Site::with_sessions(&upstream);
    site.route(json!({
        "name": "sign-in", "match": {"path": "/sign-in/"}, "upstream": "shop", "auth": "required", "login": true,
        "pass_preflight": true,
    }));
    let gateway = site.start();
    let response = gateway.send("OPTIONS", "/sign-in/", &[ORIGIN, ASKED], b"");
    assert_eq!((response.status, response.session_token(), response.header("x-session-grant")), (200, None, None));
}
