//! How often: each rule counts by what it says, tells clients what is left, and is asked at the right moment.

use serde_json::{Value, json};

use crate::support::{Gateway, Response, Site, Upstream, bearer};

/// A site whose open route and whose route for tokens follow these rules.
fn site(upstream: &Upstream, rules: Value, public: &[&str], shop: &[&str]) -> Site {
    let mut site = Site::new(upstream);
    site.set("/rate_limits", rules);
    site.set("/routes/0/rate_limits", json!(public)).set("/routes/2/rate_limits", json!(shop));
    site
}

fn limited(gateway: &Gateway, rule: &str) -> f64 {
    gateway.admin().metric("portcullis_rate_limited_total", &[("rule", rule)])
}

fn statuses(times: usize, mut ask: impl FnMut() -> Response) -> Vec<u16> {
    (0..times).map(|_| ask().status).collect()
}

#[test]
fn a_client_is_told_what_is_left_and_when_to_come_back() {
    let upstream = Upstream::start();
    let rules = json!({"visitors": {"key": "address", "rate": "2/h", "burst": 3}});
    let gateway = site(&upstream, rules, &["visitors"], &[]).start();
    for left in [2, 1, 0] {
        let response = gateway.get("/public/", &[]);
        assert_eq!((response.status, response.header("ratelimit-policy")), (200, Some("\"visitors\";q=3;w=5400")));
        let told = format!("\"visitors\";r={left};t={}", 1800 * (3 - left));
        assert_eq!(response.header("ratelimit"), Some(told.as_str()));
    }
    assert_eq!(upstream.take().len(), 3);
    let refused = gateway.get("/public/", &[]);
    assert_eq!((refused.status, refused.reason().as_str()), (429, "rate_limited"));
    assert_eq!(refused.header("content-type"), Some("application/problem+json"));
    let after: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!((1700..=1800).contains(&after), "{after}");
    assert_eq!(refused.header("ratelimit"), Some(format!("\"visitors\";r=0;t={after}").as_str()));
    assert_eq!(upstream.take().len(), 0, "forwarded");
    assert_eq!(limited(&gateway, "visitors"), 1.0);
    // A route without rules says nothing of them.
    let other = gateway.get("/orders", &[]);
    assert_eq!((other.status, other.header("ratelimit-policy"), other.header("ratelimit")), (401, None, None));
}

#[test]
fn a_client_is_its_address_as_trusted_proxies_name_it() {
    let upstream = Upstream::start();
    let rules = json!({"visitors": {"key": "address", "rate": "1/h"}});
    let mut site = site(&upstream, rules, &["visitors"], &[]);
    {
        let gateway = site.start();
        let from = |client: &str| gateway.get("/public/", &[("X-Forwarded-For", client)]).status;
        assert_eq!([from("10.0.0.1"), from("10.0.0.2")], [200, 429], "a stranger names itself in vain");
    }
    site.set("/trusted_proxies", json!(["127.0.0.0/8"]));
    let gateway = site.start();
    for (client, status) in [
        ("203.0.113.1", 200),
        ("203.0.113.1", 429),
        ("203.0.113.2", 200),
        ("2001:db8::1", 200),
        ("2001:db8::ffff:1", 429),
        ("2001:db8:0:1::1", 200),
        ("198.51.100.1, 203.0.113.2", 429),
    ] {
        assert_eq!(gateway.get("/public/", &[("X-Forwarded-For", client)]).status, status, "{client}");
    }
}

#[test]
fn a_subject_has_one_quota_for_all_its_tokens_and_connections() {
    let upstream = Upstream::start();
    let rules = json!({"users": {"key": "subject", "rate": "3/h"}});
    let site = site(&upstream, rules, &[], &["users"]);
    let gateway = site.start();
    // Connections are spread over the workers; the quota is one.
    let ask = |user: &str| gateway.get_as("/orders", &site.accounts.token_of(user));
    assert_eq!(statuses(5, || ask("bob")), [200, 200, 200, 429, 429]);
    assert_eq!(statuses(4, || ask("alice")), [200, 200, 200, 429]);
    assert_eq!(limited(&gateway, "users"), 3.0);
    // Nobody's quota is used up by a token that is not his.
    let forged = site.accounts.token_of("carol").replace('.', "x.");
    assert_eq!(statuses(5, || gateway.get_as("/orders", &forged)), [401; 5]);
    assert_eq!(ask("carol").header("ratelimit"), Some("\"users\";r=2;t=1200"));
}

#[test]
fn a_route_has_one_quota_for_everybody_and_its_own() {
    let upstream = Upstream::start();
    let rules = json!({"busy": {"key": "route", "rate": "2/h"}});
    let site = site(&upstream, rules, &["busy"], &["busy"]);
    let gateway = site.start();
    assert_eq!(statuses(3, || gateway.get("/public/", &[])), [200, 200, 429]);
    let mut users = ["bob", "alice", "carol"].into_iter();
    let next = || gateway.get_as("/orders", &site.accounts.token_of(users.next().unwrap()));
    assert_eq!(statuses(3, next), [200, 200, 429]);
}

/// What protects the checking of signatures is asked before one is checked; several rules are told of together.
#[test]
fn rules_by_address_come_before_the_token_and_rules_by_subject_after_it() {
    let upstream = Upstream::start();
    let rules = json!({
        "visitors": {"key": "address", "rate": "4/h"},
        "users": {"key": "subject", "rate": "2/h", "burst": 1},
    });
    let site = site(&upstream, rules, &[], &["visitors", "users"]);
    let gateway = site.start();
    let bob = site.accounts.token_of("bob");
    let first = gateway.get_as("/orders", &bob);
    assert_eq!(first.header("ratelimit-policy"), Some("\"visitors\";q=4;w=3600, \"users\";q=1;w=1800"));
    assert_eq!(first.header("ratelimit"), Some("\"visitors\";r=3;t=900, \"users\";r=0;t=1800"));
    assert_eq!(gateway.get_as("/orders", &bob).reason(), "rate_limited");
    let checked = || gateway.admin().metric("portcullis_decisions_total", &[("reason", "malformed_token")]);
    assert_eq!(gateway.get_as("/orders", "x.y.z").status, 401);
    let before = checked();
    assert_eq!(gateway.get_as("/orders", "x.y.z").status, 401);
    assert_eq!(checked(), before + 1.0);
    assert_eq!(gateway.get_as("/orders", "x.y.z").status, 429);
    assert_eq!(checked(), before + 1.0, "it was looked at");
    assert_eq!([limited(&gateway, "visitors"), limited(&gateway, "users")], [1.0, 1.0]);
}

#[test]
fn who_tries_out_tokens_is_kept_out_for_a_while_and_nobody_else() {
    let upstream = Upstream::start();
    let rules = json!({"guessing": {"key": "address", "rate": "3/h", "counts": "denials"}});
    let mut site = site(&upstream, rules, &[], &["guessing"]);
    site.set("/trusted_proxies", json!(["127.0.0.0/8"]));
    let gateway = site.start();
    let ask = |client: &str, token: Option<&str>| {
        let authorization = token.map(bearer);
        let mut fields = vec![("X-Forwarded-For", client)];
        fields.extend(authorization.as_deref().map(|it| ("Authorization", it)));
        gateway.get("/orders", &fields)
    };
    let good = site.accounts.token_of("bob");
    let stale = site.accounts.token(json!({"iat": crate::support::now() - 100, "exp": crate::support::now() - 50}));
    for _ in 0..6 {
        assert_eq!(ask("203.0.113.1", Some(&good)).status, 200);
        assert_eq!(ask("203.0.113.1", None).status, 401);
        assert_eq!(ask("203.0.113.1", Some(&stale)).reason(), "expired");
    }
    assert_eq!(statuses(3, || ask("203.0.113.1", Some("x.y.z"))), [401; 3]);
    let out = ask("203.0.113.1", Some(&good));
    assert_eq!((out.status, out.header("ratelimit-policy")), (429, None));
    assert!(out.header("retry-after").is_some());
    assert_eq!(ask("203.0.113.2", Some(&good)).status, 200);
    assert_eq!(limited(&gateway, "guessing"), 1.0);
}

#[test]
fn the_session_endpoints_follow_rules_of_their_own() {
    let upstream = Upstream::start();
    let mut site = Site::with_sessions(&upstream);
    site.set("/rate_limits", json!({"refreshes": {"key": "address", "rate": "2/h"}}));
    site.set("/session/rate_limits", json!(["refreshes"]));
    let gateway = site.start();
    assert_eq!(gateway.post_as("/session/exchange", &site.accounts.token_of("bob")).status, 200);
    assert_eq!(statuses(2, || gateway.post_as("/session/exchange", "x.y.z"))[1], 429);
    assert_eq!(gateway.get_as("/orders", &site.accounts.token_of("bob")).status, 200);
}

#[test]
fn an_unchanged_rule_goes_on_over_a_reload_and_a_changed_one_begins_anew() {
    let upstream = Upstream::start();
    let rules = |rate: &str| json!({"a": {"key": "address", "rate": "1/h"}, "b": {"key": "address", "rate": rate}});
    let mut site = site(&upstream, rules("1/h"), &["a"], &[]);
    site.route(
        json!({"name": "b", "match": {"path": "/b/"}, "upstream": "shop", "auth": "none", "rate_limits": ["b"]}),
    );
    let gateway = site.start();
    let both = || [gateway.get("/public/", &[]).status, gateway.get("/b/", &[]).status];
    assert_eq!([both(), both()], [[200, 200], [429, 429]]);
    site.set("/rate_limits", rules("2/h"));
    site.write_config();
    assert_eq!(gateway.admin().post("/v1/reload", &json!({})).status, 200);
    assert_eq!(both(), [429, 200]);
}

#[test]
fn an_upstreams_own_limits_are_told_as_well() {
    let upstream = Upstream::scripted(|exchange| exchange.answer(200, &[("RateLimit", "\"theirs\";r=7;t=1")], b""));
    let rules = json!({"visitors": {"key": "address", "rate": "5/h"}});
    let gateway = site(&upstream, rules, &["visitors"], &[]).start();
    let response = gateway.get("/public/", &[]);
    assert_eq!(response.all("ratelimit"), ["\"theirs\";r=7;t=1", "\"visitors\";r=4;t=720"]);
}
