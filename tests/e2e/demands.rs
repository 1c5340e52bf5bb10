//! What routes demand of a token beyond being honoured, and routes that only report what they would demand.

use serde_json::{Value, json};

use crate::sessions::{log_in, service, slide, sliding};
use crate::support::{Gateway, Recorded, Site, Upstream, bearer, now, until};

/// A site with one more route, `/demanding/`.
fn demanding(upstream: &Upstream, auth: Value) -> Site {
    let mut site = Site::with_sessions(upstream);
    site.route(json!({"name": "demanding", "match": {"path": "/demanding/"}, "upstream": "shop", "auth": auth}));
    site
}

fn status(gateway: &Gateway, token: &str) -> u16 {
    gateway.get_as("/demanding/", token).status
}

#[test]
fn patterns_paths_and_numbers_are_held_against_claims() {
    let upstream = Upstream::start();
    let site = demanding(
        &upstream,
        json!({"claims": {
            "email": {"pattern": "[^@]+@example\\.com"},
            "realm_access.roles": {"contains": "admin"},
            "level": {"equals": 2},
        }}),
    );
    let gateway = site.start();
    let roles = json!({"roles": ["user", "admin"]});
    for (claims, wanted) in [
        (json!({"email": "ada@example.com", "realm_access": roles, "level": 2}), 200),
        (json!({"email": "ada@example.com", "realm_access": roles, "level": 2.0}), 200),
        (json!({"email": "ada@example.com.evil", "realm_access": roles, "level": 2}), 403),
        (json!({"email": ["ada@example.com"], "realm_access": roles, "level": 2}), 403),
        (json!({"email": "ada@example.com", "realm_access": {"roles": "admin"}, "level": 2}), 403),
        (json!({"email": "ada@example.com", "realm_access": roles, "level": "2"}), 403),
    ] {
        assert_eq!(status(&gateway, &site.accounts.token(claims.clone())), wanted, "{claims}");
    }
}

#[test]
fn an_old_login_is_sent_to_log_in_again_and_a_fresh_one_passes() {
    let upstream = service();
    let site = demanding(&upstream, json!({"max_age": "5m", "acr": ["phr", "mfa"]}));
    let gateway = site.start();
    let at = |seconds_ago: i64, acr: &str| {
        site.accounts.token(json!({"auth_time": now() - seconds_ago, "acr": acr, "sub": "ada"}))
    };
    assert_eq!(status(&gateway, &at(10, "mfa")), 200);
    for token in [at(400, "mfa"), at(10, "pwd"), site.accounts.token(json!({"acr": "mfa"}))] {
        let refused = gateway.get_as("/demanding/", &token);
        assert_eq!((refused.status, refused.reason().as_str()), (401, "insufficient_user_authentication"));
        assert_eq!(
            refused.header("www-authenticate"),
            Some(
                r#"Bearer realm="shop", error="insufficient_user_authentication", max_age="300", acr_values="phr mfa""#
            )
        );
        assert_eq!(gateway.get_as("/orders", &token).status, 200, "elsewhere it is as good as before");
    }
}

#[test]
fn a_session_is_as_old_as_the_login_it_began_with_however_often_it_is_reissued() {
    let upstream = service();
    let mut site = sliding(&upstream);
    site.route(json!({"match": {"path": "/demanding/"}, "upstream": "shop", "auth": {"max_age": "5m"}}));
    let gateway = site.start();
    let old = site.accounts.token(json!({"auth_time": now() - 400}));
    let mut session = gateway.get_as("/orders", &old).session_token().expect("a session");
    for _ in 0..2 {
        assert_eq!(status(&gateway, &session), 401);
        session = slide(&gateway, &session);
    }
    assert_eq!(status(&gateway, &session), 401);
    let fresh = site.accounts.token(json!({"auth_time": now() - 10}));
    let session = gateway.get_as("/orders", &fresh).session_token().expect("a session");
    assert_eq!(status(&gateway, &session), 200);
    // A login that this gateway saw is as old as its request.
    assert_eq!(status(&gateway, &log_in(&gateway, "ada")), 200);
}

/// What reached the upstream must not tell of anybody.
fn is_nobody(request: &Recorded) {
    for name in ["x-auth-request-user", "x-auth-request-email", "x-auth-request-groups", "x-auth-request-session"] {
        assert_eq!(request.header(name), None, "{name}");
    }
}

#[test]
fn a_route_that_reports_lets_everything_by_as_nobody_and_says_what_it_would_have_done() {
    let upstream = Upstream::start();
    let mut site = Site::with_sessions(&upstream);
    site.route(json!({"name": "trial", "match": {"path": "/trial/"}, "upstream": "shop", "report_only": true,
                      "auth": {"scopes": {"all": ["admin"]}}}));
    let gateway = site.start();
    let admin = gateway.admin();
    let good = site.accounts.token(json!({"scope": "admin", "sub": "ada"}));
    let weak = site.accounts.token_of("ada");
    let expired = site.accounts.token(json!({"iat": now() - 100, "exp": now() - 50}));
    let revoked = site.accounts.token(json!({"scope": "admin", "sub": "eve"}));
    admin.revoke_of_accounts("subject", "eve", "account_blocked");
    for (asked, (token, reason)) in [
        (Some(&good), None),
        (Some(&weak), Some("insufficient_scope")),
        (Some(&expired), Some("expired")),
        (Some(&revoked), Some("revoked_subject")),
        (None, Some("missing_token")),
    ]
    .into_iter()
    .enumerate()
    {
        let authorization = token.map(|token| bearer(token));
        let mut headers = vec![("X-Auth-Request-User", "admin"), ("Cookie", "a=b; __Host-session=")];
        headers.extend(authorization.as_deref().map(|value| ("Authorization", value)));
        let answer = gateway.get("/trial/", &headers);
        assert_eq!(answer.status, 200, "{reason:?}");
        assert_eq!(answer.session_token(), None, "nothing is earned: {reason:?}");
        assert!(answer.all("set-cookie").is_empty());
        let request = upstream.take_one();
        is_nobody(&request);
        assert_eq!(request.header("authorization"), authorization.as_deref(), "as on a public route");
        assert_eq!(request.header("cookie"), Some("a=b"), "the session cookie is the gateway's own");
        if let Some(reason) = reason {
            let counted = admin.metric("portcullis_decisions_total", &[("outcome", "would_deny"), ("reason", reason)]);
            assert_eq!(counted, 1.0, "{reason}");
        }
        let log = until("the access-log line", || {
            let log = site.read("access.jsonl");
            (log.lines().count() == asked + 1).then_some(log)
        });
        let line: Value = serde_json::from_str(log.lines().last().unwrap()).unwrap();
        assert_eq!((line["reason"].as_str(), line["status"].as_u64()), (reason, Some(200)), "{line}");
        assert_eq!(line["report_only"].as_bool(), reason.map(|_| true), "{line}");
    }
    let denied = admin.metric("portcullis_decisions_total", &[("outcome", "deny")]);
    assert_eq!(denied, 0.0, "nothing was refused");
    let told = admin.post("/v1/explain", &json!({"token": weak, "path": "/trial/"})).json();
    assert_eq!((&told["report_only"], &told["reason"]), (&json!(true), &json!("insufficient_scope")));
}

#[test]
fn what_has_no_single_meaning_is_refused_where_decisions_are_only_reported_too() {
    let upstream = Upstream::start();
    let mut site = Site::new(&upstream);
    site.route(json!({"match": {"path": "/trial/"}, "upstream": "shop", "report_only": true}));
    let gateway = site.start();
    assert_eq!(gateway.get("/trial/%2f", &[]).status, 400);
    let twice = gateway.raw(b"GET /trial/ HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n");
    assert_eq!(twice.status, 400);
    assert_eq!(upstream.take().len(), 0);
}
