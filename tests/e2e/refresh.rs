//! Refresh tokens: each is good for one use, a lost answer may be asked for again, and whoever brings one that was
//! used before ends the session for everybody.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;

use serde_json::{Value, json};

use crate::sessions::service;
use crate::support::holder::Holder;
use crate::support::issuer::{Issuer, Key, claims_of};
use crate::support::{Gateway, Response, Site, Upstream, now, until};

const FORM: (&str, &str) = ("Content-Type", "application/x-www-form-urlencoded");
const JSON: (&str, &str) = ("Content-Type", "application/json");
const SAME_ORIGIN: (&str, &str) = ("Sec-Fetch-Site", "same-origin");

/// A site that gives refresh tokens, good for an hour and, once used, for `grace` more.
fn refreshing(upstream: &Upstream, grace: &str) -> Site {
    let mut site = Site::with_sessions(upstream);
    site.set("/session/idle_timeout", json!("60s"));
    site.set("/session/refresh", json!({"idle_timeout": "1h", "reuse_grace": grace}));
    site
}

/// An access token and a refresh token.
#[derive(Clone, Debug)]
struct Pair {
    access: String,
    refresh: String,
}

impl Pair {
    fn of(response: &Response) -> Self {
        assert_eq!((response.status, response.header("cache-control")), (200, Some("no-store")), "{response:?}");
        let answer = response.json();
        let text = |name: &str| answer[name].as_str().unwrap_or_else(|| panic!("no {name}: {answer}")).to_owned();
        Self { access: text("access_token"), refresh: text("refresh_token") }
    }

    fn sid(&self) -> Value {
        claims_of(&self.access)["sid"].clone()
    }
}

fn exchange(gateway: &Gateway, parent: &str, more: &str) -> Response {
    let form = format!("subject_token={parent}{more}");
    gateway.send("POST", "/session/exchange", &[FORM], form.as_bytes())
}

/// A session of `bob`, by exchange.
fn open(site: &Site, gateway: &Gateway) -> Pair {
    Pair::of(&exchange(gateway, &site.accounts.token_of("bob"), ""))
}

fn log_in(gateway: &Gateway, name: &str) -> Pair {
    let response = gateway.get(&format!("/login/{name}"), &[]);
    let refresh = response.header("x-session-refresh").expect("a refresh token").to_owned();
    Pair { access: response.session_token().expect("a session"), refresh }
}

fn post(gateway: &Gateway, body: &str) -> Response {
    gateway.send("POST", "/session/refresh", &[FORM], body.as_bytes())
}

fn refresh(gateway: &Gateway, token: &str) -> Response {
    post(gateway, &format!("grant_type=refresh_token&refresh_token={token}"))
}

fn refreshed(gateway: &Gateway, token: &str) -> Pair {
    Pair::of(&refresh(gateway, token))
}

/// That the answer is an OAuth error, and which.
fn error(response: &Response) -> String {
    assert_eq!(response.header("content-type"), Some("application/json"), "{response:?}");
    assert_eq!(response.header("cache-control"), Some("no-store"), "{response:?}");
    assert_eq!((response.session_token(), response.header("x-session-refresh")), (None, None), "{response:?}");
    response.json()["error"].as_str().unwrap_or_else(|| panic!("no error: {response:?}")).to_owned()
}

fn refused(gateway: &Gateway, token: &str) {
    let response = refresh(gateway, token);
    assert_eq!((response.status, error(&response).as_str()), (400, "invalid_grant"), "{response:?}");
}

/// How often the audit log says that a session was ended for reuse.
fn thefts(site: &Site) -> usize {
    site.read("audit.jsonl").matches(r#""action":"session_reuse""#).count()
}

/// The value of the cookie `name` that a response sets, and all of the field.
fn cookie(response: &Response, name: &str) -> (String, String) {
    let fields = response.all("set-cookie");
    let field = fields.iter().find(|field| field.starts_with(&format!("{name}="))).expect("the cookie");
    let value = field.split(';').next().unwrap().split_once('=').unwrap().1;
    (value.to_owned(), (*field).to_owned())
}

#[test]
fn a_refresh_token_brings_the_next_pair_as_form_and_as_json() {
    let upstream = service();
    let site = refreshing(&upstream, "10s");
    let gateway = site.start();
    let parent = site.accounts.token(json!({"scope": "orders", "iat": now() - 100}));
    let opened = exchange(&gateway, &parent, "");
    let lapses = opened.json()["refresh_expires_in"].as_i64().unwrap();
    assert!((3590..=3600).contains(&lapses), "{lapses}");
    let first = Pair::of(&opened);

    let answer = refresh(&gateway, &first.refresh);
    let second = Pair::of(&answer);
    let said = answer.json();
    assert_eq!((&said["token_type"], &said["scope"]), (&json!("Bearer"), &json!("orders")));
    assert!((50..=60).contains(&said["expires_in"].as_i64().unwrap()), "{said}");
    assert_eq!(answer.all("set-cookie"), Vec::<&str>::new());
    let (old, new) = (claims_of(&first.access), claims_of(&second.access));
    for kept in ["iss", "sub", "aud", "sid", "orig_iat", "orig", "auth_time", "scope"] {
        assert_eq!(new[kept], old[kept], "{kept}");
    }
    assert_ne!(new["jti"], old["jti"]);
    assert_ne!(second.refresh, first.refresh);
    assert_eq!(gateway.get_as("/orders", &second.access).status, 200);

    let body = json!({"grant_type": "refresh_token", "refresh_token": second.refresh, "scope": "orders"});
    let third = gateway.send("POST", "/session/refresh", &[JSON], body.to_string().as_bytes());
    let third = Pair::of(&third);
    assert_eq!(third.sid(), first.sid());
    assert_eq!(gateway.get_as("/orders", &third.access).status, 200);

    let granted = log_in(&gateway, "ann");
    let next = refreshed(&gateway, &granted.refresh);
    let (old, new) = (claims_of(&granted.access), claims_of(&next.access));
    for kept in ["sub", "sid", "orig_iat", "auth_time", "scope"] {
        assert_eq!(new[kept], old[kept], "{kept}");
    }
    let rotated = gateway.admin().metric("portcullis_refreshes_total", &[("result", "rotated")]);
    assert!((rotated - 3.0).abs() < 0.1, "{rotated}");
}

#[test]
fn a_request_that_is_none_is_told_so_and_costs_nothing() {
    let upstream = service();
    let site = refreshing(&upstream, "10s");
    let gateway = site.start();
    let pair = open(&site, &gateway);
    let token = &pair.refresh;
    for (body, wanted) in [
        (String::new(), "invalid_request"),
        ("grant_type=refresh_token".to_owned(), "invalid_request"),
        (format!("refresh_token={token}"), "invalid_request"),
        (format!("grant_type=refresh_token&refresh_token={token}&refresh_token={token}"), "invalid_request"),
        (format!("grant_type=password&refresh_token={token}"), "unsupported_grant_type"),
        (format!("grant_type=refresh_token&refresh_token={token}&scope=admin"), "invalid_scope"),
        (format!("grant_type=refresh_token&refresh_token={token}x"), "invalid_grant"),
        (format!("grant_type=refresh_token&refresh_token={}", pair.access), "invalid_grant"),
        (format!("grant_type=refresh_token&refresh_token={}", "A".repeat(9_000)), "invalid_grant"),
    ] {
        let response = post(&gateway, &body);
        assert_eq!((response.status, error(&response).as_str()), (400, wanted), "{body}");
    }
    let response = gateway.send("POST", "/session/refresh", &[JSON], b"[]");
    assert_eq!((response.status, error(&response).as_str()), (400, "invalid_request"));
    assert_eq!(gateway.get("/session/refresh", &[]).status, 405);
    assert_eq!(gateway.get_as("/orders", token).status, 401, "it is no access token");
    refreshed(&gateway, token);
    assert_eq!(thefts(&site), 0);
}

#[test]
fn without_the_section_there_are_none() {
    let upstream = service();
    let site = Site::with_sessions(&upstream);
    let gateway = site.start();
    let answer = exchange(&gateway, &site.accounts.token_of("bob"), "").json();
    assert_eq!((answer.get("refresh_token"), answer.get("refresh_expires_in")), (None, None));
    let response = gateway.send("POST", "/session/refresh", &[FORM], b"grant_type=refresh_token&refresh_token=x");
    assert_eq!((response.status, response.reason().as_str()), (401, "missing_token"), "it is a path like any other");
}

#[test]
fn ten_at_once_get_one_successor_and_nobody_is_logged_out() {
    let upstream = service();
    let site = refreshing(&upstream, "60s");
    let gateway = site.start();
    let parent = site.accounts.token_of("bob");
    let at_once = |token: &(dyn Fn() -> Response + Sync)| -> Vec<Pair> {
        thread::scope(|scope| {
            let requests: Vec<_> = (0..10).map(|_| scope.spawn(token)).collect();
            requests.into_iter().map(|it| Pair::of(&it.join().unwrap())).collect()
        })
    };
    let opened = at_once(&|| exchange(&gateway, &parent, ""));
    let mut token = opened[0].refresh.clone();
    assert!(opened.iter().all(|pair| pair.refresh == token), "one session is opened once");
    for round in 0..5 {
        let pairs = at_once(&|| refresh(&gateway, &token));
        let successors: BTreeSet<_> = pairs.iter().map(|pair| pair.refresh.clone()).collect();
        assert_eq!(successors.len(), 1, "round {round}");
        assert!(pairs.iter().all(|pair| gateway.get_as("/orders", &pair.access).status == 200), "round {round}");
        token = successors.first().unwrap().clone();
        assert!(pairs.iter().all(|pair| pair.sid() == opened[0].sid()));
    }
    let count = |result| gateway.admin().metric("portcullis_refreshes_total", &[("result", result)]);
    assert_eq!([count("rotated"), count("repeated"), count("reused")], [5.0, 45.0, 0.0]);
    assert_eq!(thefts(&site), 0);
}

#[test]
fn a_lost_answer_is_given_again_to_the_byte_also_after_kill_9() {
    let upstream = service();
    let site = refreshing(&upstream, "60s");
    let gateway = site.start();
    let opened = open(&site, &gateway);
    let first = refreshed(&gateway, &opened.refresh);
    gateway.kill();
    let gateway = site.start();
    let again = refreshed(&gateway, &opened.refresh);
    assert_eq!(again.refresh, first.refresh, "it does not rotate anew");
    assert_eq!(gateway.get_as("/orders", &again.access).status, 200);
    let second = refreshed(&gateway, &first.refresh);
    gateway.kill();
    let gateway = site.start();
    assert_eq!(refreshed(&gateway, &first.refresh).refresh, second.refresh);
    refreshed(&gateway, &second.refresh);
    assert_eq!(thefts(&site), 0);
    // Two generations back is not an answer that was lost.
    refused(&gateway, &first.refresh);
    assert_eq!(thefts(&site), 1);
}

/// Whoever comes second brings what was used before: whether that is the thief or the owner, and how far the first one
/// has come meanwhile, the session is dead for both with that one request.
#[test]
fn a_thief_and_an_owner_in_either_order_end_the_session_for_both() {
    let upstream = service();
    let site = refreshing(&upstream, "1s");
    let gateway = site.start();
    for (first, uses) in [("the owner", 1), ("the thief", 1), ("the owner", 3), ("the thief", 3)] {
        let both = if uses == 1 { open(&site, &gateway) } else { log_in(&gateway, "ann") };
        let earlier = thefts(&site);
        let mut of_first = both.clone();
        (0..uses).for_each(|_| of_first = refreshed(&gateway, &of_first.refresh));
        let began = now();
        until("the end of the grace", || (now() > began + 2).then_some(()));
        refused(&gateway, &both.refresh);
        for token in [&both.access, &of_first.access] {
            let response = gateway.get_as("/orders", token);
            assert_eq!((response.status, response.reason().as_str()), (401, "revoked_session"), "{first} first");
        }
        for token in [&of_first.refresh, &both.refresh] {
            refused(&gateway, token);
        }
        assert_eq!(thefts(&site), earlier + 1, "{first} first");
    }
    let audit = site.read("audit.jsonl");
    assert!(audit.contains(r#""reason":"session_reuse""#), "{audit}");
    let counted = gateway.admin().metric("portcullis_refresh_reuse_total", &[]);
    assert!((counted - 4.0).abs() < 0.1, "{counted}");
}

#[test]
fn ten_thieves_at_once_are_one_line_and_a_grandparent_ends_it_within_the_grace() {
    let upstream = service();
    let site = refreshing(&upstream, "60s");
    let gateway = site.start();
    let first = open(&site, &gateway);
    let second = refreshed(&gateway, &first.refresh);
    let third = refreshed(&gateway, &second.refresh);
    thread::scope(|scope| {
        for _ in 0..10 {
            scope.spawn(|| refused(&gateway, &first.refresh));
        }
    });
    until("the end of the session", || (gateway.get_as("/orders", &third.access).status == 401).then_some(()));
    refused(&gateway, &third.refresh);
    assert_eq!(thefts(&site), 1);
}

/// An operator may take back the end of a session. Whoever brings a used token again is as good a reason as before.
#[test]
fn a_session_that_was_restored_ends_again_with_the_next_reuse() {
    let upstream = service();
    let site = refreshing(&upstream, "60s");
    let gateway = site.start();
    let admin = gateway.admin();
    let first = open(&site, &gateway);
    let third = refreshed(&gateway, &refreshed(&gateway, &first.refresh).refresh);
    for count in 1..=3 {
        refused(&gateway, &first.refresh);
        assert_eq!(gateway.get_as("/orders", &third.access).reason(), "revoked_session", "{count}");
        assert_eq!(thefts(&site), count);
        let records = admin.get("/v1/revocations?kind=session").json();
        for record in records["items"].as_array().unwrap() {
            let lifted = admin.delete(&format!("/v1/revocations/{}?restore=true", record["id"].as_str().unwrap()));
            assert!(lifted.status < 300, "{lifted:?}");
        }
        assert_eq!(gateway.get_as("/orders", &third.access).status, 200, "{count}");
    }
    refreshed(&gateway, &third.refresh);
}

#[test]
fn what_ends_a_session_ends_its_refresh_token() {
    let upstream = service();
    let site = refreshing(&upstream, "10s");
    let gateway = site.start();
    let admin = gateway.admin();
    let target = |kind: &str, issuer: &str, value: &Value| json!({"kind": kind, "issuer": issuer, "value": value});
    // Each of its own and of its parent's targets.
    for (name, revoke) in [
        ("blocked", (|_| json!({"kind": "subject", "issuer": "accounts", "value": "blocked"})) as fn(&Value) -> Value),
        ("own", |_| json!({"kind": "subject", "issuer": "session", "value": "accounts:own"})),
        ("token", |claims| json!({"kind": "token", "issuer": "accounts", "value": claims["orig"]["tok"]})),
        ("session", |claims| json!({"kind": "session", "issuer": "session", "value": claims["sid"]})),
        ("client", |_| json!({"kind": "client", "issuer": "accounts", "value": "app-client"})),
        ("key", |claims| json!({"kind": "key", "value": claims["orig"]["key"]})),
    ] {
        let parent = site.accounts.token(json!({"sub": name, "azp": format!("app-{name}")}));
        let pair = Pair::of(&exchange(&gateway, &parent, ""));
        let pair = refreshed(&gateway, &pair.refresh);
        admin.revoke(&json!({"target": revoke(&claims_of(&pair.access)), "reason": "admin", "block": true}));
        refused(&gateway, &pair.refresh);
    }
    let pair = log_in(&gateway, "cut");
    let cutoff = json!({"target": target("subject", "session", &json!("local:cut")), "reason": "password_changed"});
    admin.revoke(&cutoff);
    refused(&gateway, &pair.refresh);
    let fresh = log_in(&gateway, "cut");
    refreshed(&gateway, &fresh.refresh);
    assert_eq!(thefts(&site), 0, "nothing was stolen");
    assert!(admin.metric("portcullis_refreshes_total", &[("result", "refused")]) > 6.0);
}

#[test]
fn a_token_is_the_clients_that_it_was_given_to() {
    let upstream = service();
    let site = refreshing(&upstream, "10s");
    let gateway = site.start();
    let pair = Pair::of(&exchange(&gateway, &site.accounts.token_of("bob"), "&client_id=web"));
    let ask =
        |client: &str| post(&gateway, &format!("grant_type=refresh_token&refresh_token={}{client}", pair.refresh));
    for client in ["", "&client_id=app", "&client_id=WEB", "&client_id="] {
        let response = ask(client);
        assert_eq!((response.status, error(&response).as_str()), (400, "invalid_grant"), "{client}");
    }
    Pair::of(&ask("&client_id=web"));
    let long = exchange(&gateway, &site.accounts.token_of("ann"), &format!("&client_id={}", "c".repeat(600)));
    assert_eq!(long.status, 400);
}

#[test]
fn a_session_ends_with_its_refresh_token_and_at_its_absolute_end() {
    let upstream = service();
    let mut site = Site::with_sessions(&upstream);
    site.set("/session/idle_timeout", json!("1s")).set("/session/absolute_timeout", json!("5s"));
    site.set("/session/refresh", json!({"idle_timeout": "3s"}));
    let gateway = site.start();
    let idle = log_in(&gateway, "ann");
    let mut pair = log_in(&gateway, "bob");
    let origin = claims_of(&pair.access)["orig_iat"].as_f64().unwrap();
    let mut refreshes = 0;
    until("the absolute end", || {
        let response = refresh(&gateway, &pair.refresh);
        if response.status == 400 {
            assert_eq!(error(&response), "invalid_grant");
            return Some(());
        }
        pair = Pair::of(&response);
        refreshes += 1;
        assert!(claims_of(&pair.access)["exp"].as_f64().unwrap() <= origin + 5.0);
        None
    });
    assert!(now() >= origin as i64 + 4, "not before");
    assert!(refreshes > 1, "{refreshes}");
    refused(&gateway, &idle.refresh);
    assert_eq!(thefts(&site), 0);
}

#[test]
fn a_browser_keeps_it_in_a_cookie_that_nobody_else_sees() {
    let upstream = Upstream::scripted(|exchange| {
        let evil = [("Set-Cookie", "__Host-refresh=evil; Path=/; Secure"), ("X-Session-Refresh", "evil")];
        let grant = ("X-Session-Grant", r#"{"sub":"bob"}"#);
        if exchange.recorded.target == "/login/bob" {
            return exchange.answer(200, &[evil[0], evil[1], grant], b"welcome");
        }
        exchange.answer(200, &evil, b"hello")
    });
    let mut site = refreshing(&upstream, "10s");
    site.set("/session/delivery", json!("cookie")).set("/session/refresh/delivery", json!("cookie"));
    let gateway = site.start();
    let login = gateway.get("/login/bob", &[]);
    assert_eq!(login.header("x-session-refresh"), None);
    let (first, field) = cookie(&login, "__Host-refresh");
    let age = field.split("Max-Age=").nth(1).and_then(|rest| rest.split(';').next()).unwrap().parse::<i64>().unwrap();
    assert!((3590..=3600).contains(&age), "{field}");
    assert!(field.ends_with("; HttpOnly; Secure; SameSite=Strict") && field.contains("; Path=/;"), "{field}");
    let (access, _) = cookie(&login, "__Host-session");

    // On no route does it go further, and no upstream may set it.
    upstream.take();
    for path in ["/public/x", "/orders", "/login/other"] {
        let both = format!("a=1; __Host-session={access}; __Host-refresh={first}; b=2");
        let response = gateway.get(path, &[("Cookie", &both), ("X-Session-Refresh", &first), SAME_ORIGIN]);
        assert_eq!((response.status, response.header("x-session-refresh")), (200, None), "{path}");
        assert!(!response.all("set-cookie").iter().any(|field| field.contains("evil")), "{path}");
        let seen = upstream.take_one();
        assert_eq!((seen.header("cookie"), seen.header("x-session-refresh")), (Some("a=1; b=2"), None), "{path}");
    }
    let alone = gateway.get("/orders", &[("Cookie", &format!("__Host-refresh={first}"))]);
    assert_eq!((alone.status, alone.reason().as_str()), (401, "missing_token"), "it is no access token");

    let sent = format!("__Host-session={access}; __Host-refresh={first}");
    let post = |cookies: &str, more: &[(&str, &str)]| {
        let mut headers = vec![("Cookie", cookies), ("Content-Length", "0")];
        headers.extend_from_slice(more);
        gateway.send("POST", "/session/refresh", &headers, b"")
    };
    for more in [&[][..], &[("Sec-Fetch-Site", "cross-site")], &[("Origin", "https://evil.example")]] {
        let response = post(&sent, more);
        assert_eq!((response.status, response.reason().as_str()), (403, "cross_site"), "{more:?}");
    }
    let response = post(&sent, &[SAME_ORIGIN]);
    assert_eq!((response.status, response.header("cache-control")), (200, Some("no-store")), "{response:?}");
    let answer = response.json();
    assert_eq!((answer.get("access_token"), answer.get("refresh_token")), (None, None), "not for scripts: {answer}");
    let (second, _) = cookie(&response, "__Host-refresh");
    let (renewed, _) = cookie(&response, "__Host-session");
    assert_ne!(second, first);
    assert_eq!(gateway.get("/orders", &[("Cookie", &format!("__Host-session={renewed}"))]).status, 200);
    let tab = post(&sent, &[SAME_ORIGIN]);
    assert_eq!(cookie(&tab, "__Host-refresh").0, second, "another tab gets the same");
    let twice = post(&format!("__Host-refresh={first}; __Host-refresh={second}"), &[SAME_ORIGIN]);
    assert_eq!((twice.status, error(&twice).as_str()), (400, "invalid_request"));

    // A revoked one is cleared.
    let sid = claims_of(&renewed)["sid"].clone();
    gateway
        .admin()
        .revoke(&json!({"target": {"kind": "session", "issuer": "session", "value": sid}, "reason": "admin"}));
    let response = post(&format!("__Host-refresh={second}"), &[SAME_ORIGIN]);
    assert_eq!((response.status, error(&response).as_str()), (400, "invalid_grant"));
    assert!(cookie(&response, "__Host-refresh").1.starts_with("__Host-refresh=; Path=/; Max-Age=0;"));
    assert!(cookie(&response, "__Host-session").1.starts_with("__Host-session=; Path=/; Max-Age=0;"));
}

#[test]
fn an_exchange_hands_it_out_as_a_cookie_when_asked_and_once() {
    let upstream = service();
    let site = refreshing(&upstream, "1s");
    let gateway = site.start();
    let parent = site.accounts.token_of("bob");
    let response = exchange(&gateway, &parent, "&delivery=cookie");
    assert_eq!(response.json().get("refresh_token"), None);
    let (token, _) = cookie(&response, "__Host-refresh");
    let again = exchange(&gateway, &parent, "");
    assert_eq!(again.json()["refresh_token"], json!(token), "a lost answer");
    let began = now();
    until("the end of the grace", || (now() > began + 2).then_some(()));
    let later = exchange(&gateway, &parent, "");
    assert_eq!((later.status, later.json().get("refresh_token")), (200, None), "one session, one family");
    let next = refreshed(&gateway, &token);
    assert_eq!(next.sid(), claims_of(later.json()["access_token"].as_str().unwrap())["sid"]);
}

#[test]
fn a_refresh_token_alone_logs_out() {
    let upstream = service();
    let mut site = refreshing(&upstream, "10s");
    site.set("/session/idle_timeout", json!("1s"));
    let gateway = site.start();
    let parent = site.accounts.token_of("bob");
    let pair = Pair::of(&exchange(&gateway, &parent, ""));
    let logout =
        |headers: &[(&str, &str)], body: &str| gateway.send("POST", "/session/logout", headers, body.as_bytes());
    let response = logout(&[FORM], &format!("refresh_token={}", pair.refresh));
    assert_eq!((response.status, response.all("set-cookie").len()), (204, 2), "{response:?}");
    refused(&gateway, &pair.refresh);
    assert_eq!(gateway.get_as("/orders", &parent).status, 401, "the parent is dead, too");

    let pair = log_in(&gateway, "ann");
    let next = refreshed(&gateway, &pair.refresh);
    let cookie = format!("__Host-refresh={}", pair.refresh);
    let crossing = logout(&[("Cookie", &cookie), ("Content-Length", "0")], "");
    assert_eq!((crossing.status, crossing.reason().as_str()), (403, "cross_site"));
    let again = refreshed(&gateway, &next.refresh);
    // Any token of the family will do, for it ends nothing else.
    let response = logout(&[("Cookie", &cookie), ("Content-Length", "0"), SAME_ORIGIN], "");
    assert_eq!(response.status, 204);
    refused(&gateway, &again.refresh);
    assert_eq!(logout(&[FORM], "refresh_token=nonsense").status, 204);
    let audit = site.read("audit.jsonl");
    assert_eq!((audit.matches(r#""action":"logout""#).count(), thefts(&site)), (3, 0), "{audit}");
}

/// A browser whose access token is gone is still logged in, so that is what a logout or another login ends.
#[test]
fn logout_and_login_routes_end_the_session_of_a_refresh_cookie() {
    let upstream = service();
    let mut site = refreshing(&upstream, "10s");
    site.route(json!({"match": {"path": "/bye"}, "upstream": "shop", "auth": "none", "logout": true}));
    let gateway = site.start();
    let first = log_in(&gateway, "ann");
    let response = gateway.get("/bye", &[("Cookie", &format!("__Host-refresh={}", first.refresh))]);
    assert_eq!((response.status, response.all("set-cookie").len()), (200, 2), "{response:?}");
    refused(&gateway, &first.refresh);
    let second = log_in(&gateway, "ann");
    let sent = format!("__Host-refresh={}", second.refresh);
    let crossing = [("Cookie", sent.as_str()), ("Sec-Fetch-Site", "cross-site"), ("Content-Length", "0")];
    assert_eq!(gateway.send("POST", "/bye", &crossing, b"").reason(), "cross_site");
    let third = gateway.get("/login/ann", &[("Cookie", &sent)]).header("x-session-refresh").unwrap().to_owned();
    refused(&gateway, &second.refresh);
    refreshed(&gateway, &third);
    assert_eq!(thefts(&site), 0);
}

/// RFC 9449 §5: a session that is bound to a key is refreshed by its holder alone.
#[test]
fn a_bound_session_is_refreshed_with_a_proof_and_without_one_nothing_happens() {
    let upstream = service();
    let site = refreshing(&upstream, "10s");
    let gateway = site.start();
    let (holder, thief) = (Holder::new(), Holder::new());
    let parent = site.accounts.token(json!({"cnf": holder.cnf()}));
    let pair = Pair::of(&holder.send(&gateway, "POST", "/session/exchange", &parent));
    let ask = |token: &str, proof: Option<&str>| {
        let mut headers = vec![FORM];
        headers.extend(proof.map(|proof| ("DPoP", proof)));
        let form = format!("grant_type=refresh_token&refresh_token={token}");
        gateway.send("POST", "/session/refresh", &headers, form.as_bytes())
    };
    let proof = |holder: &Holder, method: &str| holder.proof(method, "/session/refresh", "", json!({"ath": null}));
    for wrong in [None, Some(proof(&thief, "POST")), Some(proof(&holder, "GET")), Some("a.b.c".to_owned())] {
        let response = ask(&pair.refresh, wrong.as_deref());
        assert_eq!((response.status, error(&response).as_str()), (400, "invalid_dpop_proof"), "{wrong:?}");
    }
    let good = proof(&holder, "POST");
    let response = ask(&pair.refresh, Some(&good));
    assert_eq!(response.json()["token_type"], "DPoP");
    let next = Pair::of(&response);
    assert_eq!(claims_of(&next.access)["cnf"], holder.cnf());
    assert_eq!(error(&ask(&pair.refresh, Some(&good))), "invalid_dpop_proof", "once");
    assert_eq!(Pair::of(&ask(&pair.refresh, Some(&proof(&holder, "POST")))).refresh, next.refresh);
    Pair::of(&ask(&next.refresh, Some(&proof(&holder, "POST"))));
    // Who has an old token and not the key cannot end the session, either.
    assert_eq!(error(&ask(&pair.refresh, None)), "invalid_dpop_proof");
    assert_eq!(thefts(&site), 0);
}

/// A changed password ends what it opened, without a revocation.
#[test]
fn a_session_whose_credential_has_changed_is_not_refreshed() {
    let upstream = service();
    let mut site = refreshing(&upstream, "10s");
    let partners = Issuer::new("https://partners.example/", "p1", Key::es256());
    site.trust("partners", &partners);
    site.write_secret("secrets/base", b"a base secret that only this test and the gateway have");
    site.set("/issuers/partners/credential", json!({"base_secret": {"file": "secrets/base"}, "pushed": true}));
    site.config["session"]["exchange"] = json!([
        {"issuer": "accounts", "subject_prefix": "accounts:"},
        {"issuer": "partners", "subject_prefix": "partners:"},
    ]);
    let gateway = site.start();
    let push = |hash: &str| {
        let path = "/v1/subjects/partners/bob/credential";
        let body = json!({"columns": [hash]}).to_string();
        let response = gateway.admin().send("PUT", path, &[JSON], body.as_bytes());
        assert_eq!(response.status, 200, "{response:?}");
    };
    push("first");
    let print = crate::credentials::fingerprint("https://partners.example/", "bob", &[Some("first")]);
    let pair = Pair::of(&exchange(&gateway, &partners.token(json!({"sub": "bob", "cfp": print})), ""));
    let pair = refreshed(&gateway, &pair.refresh);
    assert_eq!(claims_of(&pair.access)["orig"]["cfp"], json!(print));
    push("second");
    refused(&gateway, &pair.refresh);
    assert_eq!(gateway.get_as("/orders", &pair.access).reason(), "credential_changed");
    // What was pushed does not outlive the process: until it comes again nobody can say, and nobody is signed out for that.
    gateway.stop();
    let gateway = site.start();
    let response = refresh(&gateway, &pair.refresh);
    assert_eq!((response.status, error(&response).as_str()), (503, "temporarily_unavailable"), "{response:?}");
    assert!(response.header("retry-after").is_some());
    assert_eq!(thefts(&site), 0);
}

#[test]
fn strict_rotation_and_refresh_tokens_go_together() {
    let upstream = service();
    let mut site = refreshing(&upstream, "10s");
    site.set("/session/reissue", json!({"after": "1%", "rotation": "strict", "reuse_grace": "1s"}));
    let gateway = site.start();
    let first = log_in(&gateway, "ann");
    assert_eq!(gateway.get_as("/orders", &first.access).status, 200);
    let issued = claims_of(&first.access)["iat"].as_i64().unwrap();
    until("a later second", || (now() > issued).then_some(()));
    let second = refreshed(&gateway, &first.refresh);
    assert_eq!(gateway.get_as("/orders", &second.access).status, 200);
    let again = refreshed(&gateway, &first.refresh);
    assert_eq!(gateway.get_as("/orders", &again.access).status, 200, "never one that was replaced");
}

#[test]
fn nothing_of_it_is_written_in_clear() {
    let upstream = service();
    let site = refreshing(&upstream, "60s");
    let gateway = site.start();
    let first = log_in(&gateway, "bob");
    let second = refreshed(&gateway, &first.refresh);
    let third = refreshed(&gateway, &second.refresh);
    let opened = open(&site, &gateway);
    refused(&gateway, &first.refresh);
    assert_eq!(gateway.get_as("/orders", &opened.refresh).status, 401);
    let metrics = gateway.admin().get("/metrics").text();
    until("the access log", || site.read("access.jsonl").contains("malformed_token").then_some(()));
    let (code, output, _) = gateway.stop();
    assert_eq!(code, 0);
    let mut written = vec![("output".to_owned(), output.into_bytes()), ("metrics".to_owned(), metrics.into_bytes())];
    collect(site.path(), &mut written);
    assert!(written.iter().any(|(place, _)| place.contains("/data/")), "the store was looked at");
    for token in [&first.refresh, &second.refresh, &third.refresh, &opened.refresh] {
        // As text, and the random bits as bytes.
        let random = &base64(token)[..32];
        for (place, bytes) in &written {
            for secret in [&token.as_bytes()[..40], &random[..16], &random[16..]] {
                assert!(!bytes.windows(secret.len()).any(|window| window == secret), "{place} has a refresh token");
            }
        }
    }
}

fn base64(text: &str) -> Vec<u8> {
    use base64::Engine as _;
    base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(text).unwrap()
}

fn collect(folder: &Path, into: &mut Vec<(String, Vec<u8>)>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, into);
        } else {
            into.push((path.display().to_string(), fs::read(&path).unwrap()));
        }
    }
}

/// What docs/sessions.md shows, as it stands there.
#[test]
fn the_example_in_the_documents_works() {
    let document = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/sessions.md")).unwrap();
    let section = document.split("## Refresh tokens").nth(1).expect("the section");
    let example = section.split("```sh\n").nth(1).and_then(|rest| rest.split("```").next()).expect("an example");
    let upstream = service();
    let site = refreshing(&upstream, "10s");
    let gateway = site.start();
    let ran = Command::new("sh")
        .args(["-eu", "-c", example])
        .env("GATE", format!("http://{}", gateway.address))
        .env("TOKEN", site.accounts.token_of("bob"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&ran.stdout);
    assert!(ran.status.success(), "{said}{}", String::from_utf8_lossy(&ran.stderr));
    let statuses: Vec<_> = said.lines().filter(|line| line.len() == 3).collect();
    assert_eq!(statuses, ["200", "204", "400"], "{said}");
    assert!(said.contains("invalid_grant"), "{said}");
}

/// Where a route forwards the access token, the refresh token stays here.
#[test]
fn a_refresh_cookie_reaches_no_upstream_not_even_one_that_gets_the_token() {
    let upstream = Upstream::start();
    let mut site = refreshing(&upstream, "10s");
    site.route(json!({"name": "trusted", "match": {"path": "/trusted/"}, "upstream": "shop", "forward_token": true}));
    let gateway = site.start();
    let pair = open(&site, &gateway);
    let cookies = format!("theme=dark; __Host-refresh={}", pair.refresh);
    for path in ["/trusted/orders", "/orders", "/public/orders"] {
        upstream.take();
        let fields = [("Authorization", &*crate::support::bearer(&pair.access)), ("Cookie", &*cookies)];
        assert_eq!(gateway.get(path, &fields).status, 200, "{path}");
        let recorded = upstream.take_one();
        assert_eq!(recorded.header("cookie"), Some("theme=dark"), "{path}");
        assert_eq!(recorded.header("authorization").is_some(), path != "/orders", "{path}");
    }
}

/// What was revoked names the gateway's own issuer: under another one, no refresh token brings it back.
#[test]
fn a_new_name_of_the_gateway_leaves_old_refresh_tokens_behind() {
    let upstream = service();
    let mut site = refreshing(&upstream, "10s");
    let gateway = site.start();
    let (ended, unended) = (log_in(&gateway, "ann"), log_in(&gateway, "bob"));
    let form = format!("refresh_token={}", ended.refresh);
    assert_eq!(gateway.send("POST", "/session/logout", &[FORM], form.as_bytes()).status, 204);
    gateway.stop();
    site.set("/session/issuer", json!("https://new-name.example/"));
    let gateway = site.start();
    for token in [&ended.refresh, &unended.refresh] {
        let response = refresh(&gateway, token);
        assert_eq!((response.status, error(&response)), (400, "invalid_grant".to_owned()));
    }
}
