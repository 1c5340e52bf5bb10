//! Routes: the path that is decided on is the path that is sent, byte for byte, and no spelling of a protected path is
//! open.

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, TestRng, TestRunner};
use serde_json::json;

use crate::support::{Site, Upstream, bearer, request};

#[test]
fn no_spelling_of_a_protected_path_is_open() {
    let upstream = Upstream::start();
    let gateway = Site::new(&upstream).start();
    for target in [
        // 140: dot segments, however they are written.
        "/public/../admin",
        "/public/%2e%2e/admin",
        "/public/%2E%2E%2Fadmin",
        "/public/..%2fadmin",
        "/public/.%2e/admin",
        // 141: several slashes.
        "//admin",
        "///public//../admin",
        // 142: single dots.
        "/./admin",
        "/public/.//../admin",
        // 143: escaped letters.
        "/%61dmin",
        "/adm%69n",
        // 144: path parameters.
        "/admin;x=1",
        "/public;/../admin",
        "/public/..;/admin",
        "/public/;/../admin",
        // 145: backslashes.
        "/admin\\..\\x",
        "/public\\..\\admin",
        "/public/..\\admin",
        "/public/%5c..%5cadmin",
        // 146: NUL and line ends.
        "/public/%00/../admin",
        "/public/%0d%0a",
        "/public/%0aX",
        // 147: a path in the query.
        "/admin?/public/",
        // 148: a fragment.
        "/public#/../admin",
        // 151: bytes outside ASCII, and overlong ones.
        "/public/\u{e4}",
        "/public/%c0%ae%c0%ae/admin",
        "/public/%",
        "/public/%4",
        "/public/%zz",
        // 149: another case, and what only looks alike.
        "/Public/",
        "/public%2f",
        "/publicly",
        "/public/../../../../admin",
        "/..",
        "/public/%252e%252e/%00",
    ] {
        let mut connection = gateway.connect();
        let response = connection.send(&request("GET", target, &[], b"")).response();
        assert!(matches!(response.status, 400 | 401), "{target}: {}", response.status);
        assert_eq!(upstream.bytes(), 0, "{target}: {:?}", upstream.take());
    }
    for (target, forwarded) in [
        ("/public", "/public"),
        ("/public/", "/public/"),
        ("/public/a", "/public/a"),
        ("//public//a", "/public/a"),
        ("/admin/../public/a", "/public/a"),
        ("/p%75blic/%61", "/public/a"),
        ("/public/./a", "/public/a"),
        ("/public/a?x=/../admin", "/public/a?x=/../admin"),
        ("/public/a?%2e%2e", "/public/a?%2e%2e"),
        ("/public/%c3%a4", "/public/%C3%A4"),
        ("/public/a%20b", "/public/a%20b"),
    ] {
        assert_eq!(gateway.get(target, &[]).status, 200, "{target}");
        let target_sent = upstream.take_one().target;
        assert!(target_sent.eq_ignore_ascii_case(forwarded), "{target} became {target_sent}");
    }
}

#[test]
fn hosts_are_compared_without_case_port_and_final_dot() {
    // 150
    let upstream = Upstream::start();
    let mut site = Site::new(&upstream);
    site.route(
        json!({"name": "open", "match": {"host": "open.example", "path": "/"}, "upstream": "shop", "auth": "none"}),
    );
    site.route(
        json!({"name": "any", "match": {"host": "*.wild.example", "path": "/"}, "upstream": "shop", "auth": "none"}),
    );
    let gateway = site.start();
    for (host, status) in [
        ("open.example", 200),
        ("OPEN.Example", 200),
        ("open.example:8080", 200),
        ("open.example.", 200),
        ("a.wild.example", 200),
        ("a.b.wild.example", 200),
        ("wild.example", 401),
        ("notopen.example", 401),
        ("open.example.evil.example", 401),
        ("xopen.example", 401),
    ] {
        assert_eq!(gateway.get("/", &[("Host", host)]).status, status, "{host}");
    }
}

#[test]
fn the_first_route_that_matches_decides_and_without_one_there_is_nothing() {
    let upstream = Upstream::start();
    let mut site = Site::new(&upstream);
    site.set(
        "/routes",
        json!([
            {"name": "read", "match": {"path": "/items/", "methods": ["GET"]}, "upstream": "shop", "auth": "none"},
            {"name": "write", "match": {"path": "/items/"}, "upstream": "shop", "auth": "required"},
            {"name": "one", "match": {"pattern": "/users/{id}/avatar"}, "upstream": "shop", "auth": "none"},
            {"name": "rest", "match": {"pattern": "/files/{*path}"}, "upstream": "shop", "auth": "none"},
        ]),
    );
    let gateway = site.start();
    for (method, target, status) in [
        ("GET", "/items/1", 200),
        ("GET", "/items", 200),
        ("GET", "/itemsx", 404),
        ("POST", "/items/1", 401),
        ("GET", "/users/7/avatar", 200),
        ("GET", "/users/7/8/avatar", 404),
        ("GET", "/users/7/avatar/x", 404),
        ("GET", "/files/a/b/c", 200),
        ("GET", "/", 404),
        ("GET", "/users", 404),
    ] {
        let response = gateway.send(method, target, &[("Content-Length", "0")], b"");
        assert_eq!(response.status, status, "{method} {target}");
        if status == 404 {
            assert_eq!(response.header("www-authenticate"), None);
            assert_eq!(response.header("content-type"), Some("application/problem+json"));
        }
    }
}

/// One path segment, or something that looks like one.
fn segment() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => "[a-z0-9._~-]{1,6}",
        2 => prop::sample::select(vec!["public", "admin", "..", ".", "%2e", "%2E%2e", "%61dmin", "", "p%75blic"]).prop_map(str::to_owned),
        1 => prop::sample::select(vec![";", "a;b=c", "..;", "%3b", "%2f", "%5c", "%00", "%25", "%c3%a4", "+", "@", ":", "!$&'()*,="]).prop_map(str::to_owned),
        1 => "%[0-9a-fA-F]{2}",
    ]
}

fn target() -> impl Strategy<Value = String> {
    let query = prop::option::weighted(0.3, "\\?[a-z/.%0-9&=;]{0,10}");
    (prop::collection::vec(segment(), 0..6), any::<bool>(), query).prop_map(|(segments, slash, query)| {
        format!("/{}{}{}", segments.join("/"), if slash { "/" } else { "" }, query.unwrap_or_default())
    })
}

/// Generated targets, without a token and with one: what reaches the upstream is in normal form, and read there it lies
/// within the route whose rule admitted it.
#[test]
fn the_path_sent_upstream_is_the_path_decided_on() {
    // 152
    let count: usize = std::env::var("PORTCULLIS_PATHS").map_or(10_000, |count| count.parse().unwrap());
    let upstream = Upstream::start();
    let site = Site::new(&upstream);
    let gateway = site.start();
    let user = bearer(&site.accounts.token_of("bob"));
    let mut runner = TestRunner::new_with_rng(Config::default(), TestRng::deterministic_rng(Default::default()));
    let strategy = target();
    let mut connection = gateway.connect();
    let mut admitted = [0; 2];
    for _ in 0..count {
        let target = strategy.new_tree(&mut runner).unwrap().current();
        let anonymous = connection.send(&request("GET", &target, &[], b"")).try_response();
        let Ok(anonymous) = anonymous else {
            connection = gateway.connect();
            continue;
        };
        let sent = upstream.take().pop().map(|recorded| recorded.target);
        match (anonymous.status, sent) {
            (200, Some(sent)) => {
                admitted[0] += 1;
                assert!(is_public(&sent), "{target} was sent as {sent} without a token");
            }
            (400, None) => {
                connection = gateway.connect();
                continue;
            }
            (401, None) => {}
            (status, sent) => panic!("{target}: {status}, sent {sent:?}"),
        }
        // With a token: what passes without a scope is not below /admin, as the upstream reads the path.
        let response = connection.send(&request("GET", &target, &[("Authorization", &user)], b"")).response();
        match (response.status, upstream.take().pop()) {
            (200, Some(recorded)) => {
                admitted[1] += 1;
                assert!(
                    !is_below(&recorded.target, "admin"),
                    "{target} was sent as {} without the scope",
                    recorded.target
                );
                // What was sent is in normal form: sent again, it does not change.
                let again = connection.send(&request("GET", &recorded.target, &[("Authorization", &user)], b""));
                assert_eq!(again.response().status, 200, "{target} became {}", recorded.target);
                assert_eq!(upstream.take_one().target, recorded.target, "{target}");
            }
            (403, None) => {}
            (status, sent) => panic!("{target} with a token: {status}, sent {sent:?}"),
        }
    }
    assert!(admitted[0] * 50 > count && admitted[1] * 4 > count, "{admitted:?} of {count} paths were admitted");
}

fn is_public(target: &str) -> bool {
    is_below(target, "public")
}

/// Whether the first segment is this one, for the strictest reader and for one that ignores parameters alike.
fn is_below(target: &str, name: &str) -> bool {
    let path = target.split('?').next().unwrap();
    let safe =
        !path.contains("//") && !path.split('/').any(|segment| matches!(segment.split(';').next(), Some("." | "..")));
    assert!(safe, "not in normal form: {target}");
    path.split('/').nth(1).is_some_and(|segment| segment.split(';').next() == Some(name))
}
