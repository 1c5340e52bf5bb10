//! Open sessions, listed and ended.

use std::sync::atomic::Ordering;

use http::StatusCode;
use serde_json::{Value, json};

use super::fixture::{ACCOUNTS, Fixture, OWN, now};

/// Lets a session be open: `parent` opened it with a token of its own.
fn open(fixture: &Fixture, session: &str, subject: &str, parent: Option<&str>) {
    let mut lineage = json!({ "orig_iat": now().secs() - 60 });
    if let Some(parent) = parent {
        lineage["orig"] = json!({ "iss": ACCOUNTS, "sub": parent, "tok": format!("token-of-{session}"), "key": "k" });
    }
    let body = json!({
        "sub": subject, "key": "k", "lineage": lineage, "opened": now(), "seen": now(), "client": "app",
        "expires": now().plus(std::time::Duration::from_secs(60)), "agent": "Firefox on Linux",
        "network": "203.0.113.0/24",
    });
    fixture.gateway.sessions.0.restore(session, &body.to_string(), 1, now()).unwrap();
}

fn sids(page: &Value) -> Vec<&str> {
    page["items"].as_array().unwrap().iter().map(|item| item["sid"].as_str().unwrap()).collect()
}

fn filled() -> Fixture {
    let fixture = Fixture::new();
    for number in 0..5 {
        open(&fixture, &format!("s{number}"), "local:ann", None);
    }
    open(&fixture, "t0", "accounts:bob", Some("bob"));
    open(&fixture, "t1", "accounts:bob", Some("bob"));
    open(&fixture, "t2", "accounts:eve", Some("eve"));
    fixture
}

#[tokio::test]
async fn sessions_are_listed_page_by_page() {
    let fixture = filled();
    let all = fixture.ask("GET", "/v1/sessions", None).await.json();
    assert_eq!((sids(&all), &all["next"]), (vec!["s0", "s1", "s2", "s3", "s4", "t0", "t1", "t2"], &Value::Null));
    let item = &all["items"][5];
    let expected = json!({
        "sid": "t0", "subject": "accounts:bob", "how": "exchange", "began_at": "2027-01-15T07:59:00Z",
        "opened_at": "2027-01-15T08:00:00Z", "last_seen_at": "2027-01-15T08:00:00Z",
        "expires_at": "2027-01-15T08:01:00Z", "opened_with": { "issuer": ACCOUNTS, "subject": "bob" },
        "client": "app", "agent": "Firefox on Linux", "network": "203.0.113.0/24",
    });
    assert_eq!(item, &expected);
    let mut path = "/v1/sessions?limit=3".to_owned();
    let mut seen = Vec::new();
    loop {
        let page = fixture.ask("GET", &path, None).await.json();
        seen.extend(sids(&page).into_iter().map(str::to_owned));
        let Some(next) = page["next"].as_str() else { break };
        path = format!("/v1/sessions?limit=3&cursor={next}");
    }
    assert_eq!(seen.len(), 8, "{seen:?}");
    for (query, found) in [
        ("subject=accounts%3Abob", &["t0", "t1"][..]),
        ("subject=accounts%3Abob&issuer=session", &["t0", "t1"]),
        ("subject=bob&issuer=accounts", &["t0", "t1"]),
        ("issuer=https%3A%2F%2Faccounts.example%2F", &["t0", "t1", "t2"]),
        ("subject=bob", &[]),
    ] {
        let page = fixture.ask("GET", &format!("/v1/sessions?{query}"), None).await.json();
        assert_eq!(sids(&page), found, "{query}");
    }
}

#[tokio::test]
async fn one_session_ends_with_the_token_that_opened_it() {
    let fixture = filled();
    let answer = fixture.ask("DELETE", "/v1/sessions/t1?reason=account_blocked&note=stolen%20phone", None).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
    let said = answer.json();
    assert_eq!(said["ended"], 1);
    let targets: Vec<_> = said["revocations"].as_array().unwrap().iter().map(|it| &it["target"]).collect();
    let session = json!({ "kind": "session", "issuer": OWN, "value": "t1" });
    assert_eq!(targets, [&session, &json!({ "kind": "token", "issuer": ACCOUNTS, "value": "token-of-t1" })]);
    let records = fixture.ask("GET", "/v1/revocations", None).await.json();
    assert!(records["items"].as_array().unwrap().iter().all(|it| it["note"] == "stolen phone" && it["actor"] == "ops"));
    let line = fixture.audit().pop().unwrap();
    assert_eq!((&line["action"], &line["target"]), (&json!("end_session"), &json!("session t1")), "{line}");
    assert_eq!((&line["reason"], &line["result"]), (&json!("account_blocked"), &json!("ok")), "{line}");
    fixture.ask("DELETE", "/v1/sessions/t1", None).await.problem(404, "unknown_session");
    assert_eq!(fixture.audit().pop().unwrap()["result"], "unknown_session");
}

#[tokio::test]
async fn all_of_a_subject_end_listed_or_not() {
    let fixture = filled();
    for (query, ended, first, records) in [
        ("subject=local%3Aann", 5, json!({ "kind": "subject", "issuer": OWN, "value": "local:ann" }), 6),
        ("subject=bob&issuer=accounts", 2, json!({ "kind": "subject", "issuer": ACCOUNTS, "value": "bob" }), 5),
        ("subject=nobody", 0, json!({ "kind": "subject", "issuer": OWN, "value": "nobody" }), 1),
    ] {
        let path = format!("/v1/sessions?{query}&reason=account_suspended");
        let answer = fixture.ask("DELETE", &path, None).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
        let said = answer.json();
        let revocations = said["revocations"].as_array().unwrap();
        assert_eq!((&said["ended"], revocations.len()), (&json!(ended), records), "{said}");
        assert_eq!(revocations[0]["target"], first);
        assert_eq!(revocations[0]["form"]["issued_before"], "2027-01-15T08:00:00Z", "it may log in again");
        let line = fixture.audit().pop().unwrap();
        assert_eq!((&line["action"], &line["result"]), (&json!("end_sessions"), &json!("ok")), "{line}");
    }
    let left = fixture.ask("GET", "/v1/sessions", None).await.json();
    assert_eq!(sids(&left), ["t2"]);
}

#[tokio::test]
async fn what_makes_no_sense_is_refused() {
    let fixture = filled();
    for (method, path, status, reason) in [
        ("GET", "/v1/sessions?limit=0", 400, "invalid_query"),
        ("GET", "/v1/sessions?limit=1001", 400, "invalid_query"),
        ("GET", "/v1/sessions?sub=ann", 400, "invalid_query"),
        ("GET", "/v1/sessions?issuer=nobody", 422, "unknown_issuer"),
        ("DELETE", "/v1/sessions", 400, "invalid_query"),
        ("DELETE", "/v1/sessions?subject=", 400, "invalid_query"),
        ("DELETE", "/v1/sessions?subject=ann&reason=because", 400, "invalid_query"),
        ("DELETE", "/v1/sessions?subject=ann&issuer=nobody", 422, "unknown_issuer"),
        ("DELETE", "/v1/sessions/s0?reason=because", 400, "invalid_query"),
        ("DELETE", "/v1/sessions/s0?subject=ann", 400, "invalid_query"),
        ("DELETE", "/v1/sessions/nobody", 404, "unknown_session"),
        ("DELETE", "/v1/sessions/%ff", 400, "invalid_query"),
        ("POST", "/v1/sessions", 405, "method_not_allowed"),
    ] {
        fixture.ask(method, path, None).await.problem(status, reason);
    }
    let long = "n".repeat(4097);
    fixture.ask("DELETE", &format!("/v1/sessions/s0?note={long}"), None).await.problem(400, "too_long");
    let left = fixture.ask("GET", "/v1/sessions", None).await.json();
    assert_eq!(sids(&left).len(), 8, "nothing has ended");
}

#[tokio::test]
async fn an_end_that_is_not_durable_says_so_and_stays_in_the_list() {
    let fixture = filled();
    fixture.store.failing.store(true, Ordering::Relaxed);
    let answer = fixture.ask("DELETE", "/v1/sessions/s0", None).await;
    let said = answer.problem(503, "store_not_durable");
    assert_eq!(said["in_force"], true);
    assert_eq!(fixture.audit().pop().unwrap()["result"], "store_not_durable");
}
