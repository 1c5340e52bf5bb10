//! Subjects in the place of others.

use std::sync::atomic::Ordering;

use http::StatusCode;
use serde_json::{Value, json};

use super::fixture::{ACCOUNTS, Fixture, OPERATOR, VIEWER, request};

fn path(subject: &str) -> String {
    format!("/v1/subjects/accounts/{subject}/replace")
}

fn by(subject: &str) -> Option<Value> {
    Some(json!({ "by": subject }))
}

#[tokio::test]
async fn a_replacement_says_what_was_understood() {
    let fixture = Fixture::new();
    let body = json!({ "by": "bob-2", "reason": "account_blocked", "note": "laptop" });
    let answer = fixture.ask("POST", &path("bob%2D1"), Some(body.clone())).await;
    assert_eq!(answer.status, StatusCode::CREATED, "{}", answer.text);
    let said = answer.json();
    for (name, value) in [
        ("issuer", json!(ACCOUNTS)),
        ("subject", json!("bob-1")),
        ("by", json!("bob-2")),
        ("account", json!("bob-1")),
        ("reason", json!("account_blocked")),
        ("note", json!("laptop")),
        ("actor", json!("ops")),
        ("at", json!("2027-01-15T08:00:00Z")),
        ("existing", json!(false)),
    ] {
        assert_eq!(said[name], value, "{name}: {said}");
    }
    assert_eq!(said["cutoff"]["target"]["value"], "bob-2");
    assert_eq!(said["cutoff"]["form"], json!({ "issued_before": "2027-01-15T08:00:00Z" }));
    let again = fixture.ask("POST", &path("bob-1"), by("bob-2")).await;
    assert_eq!((again.status, &again.json()["existing"]), (StatusCode::OK, &json!(true)));
    assert_eq!(again.json()["id"], said["id"]);

    let metrics = fixture.metrics.render();
    let line = r#"portcullis_revocations_total{kind="subject",reason="account_blocked",source="admin"} 1"#;
    assert!(metrics.contains(line), "{metrics}");
    let audit = fixture.audit();
    assert_eq!(audit.len(), 2, "{audit:?}");
    assert_eq!(audit[0]["action"], "replace_subject");
    assert_eq!(audit[0]["target"], format!("subject {ACCOUNTS} bob-1 -> bob-2"));
    assert_eq!((&audit[0]["result"], &audit[0]["reason"]), (&json!("ok"), &json!("account_blocked")));
    assert_eq!(audit[0]["id"], said["id"]);
}

#[tokio::test]
async fn a_chain_is_shown_with_what_is_in_force_for_it() {
    let fixture = Fixture::new();
    fixture.ask("POST", &path("a"), by("b")).await;
    fixture.ask("POST", &path("b"), by("c")).await;
    let block = json!({ "target": { "kind": "subject", "issuer": "accounts", "value": "a" }, "reason": "admin" });
    fixture.ask("POST", "/v1/revocations", Some(block)).await;
    for (subject, by, cutoffs) in [("a", json!("b"), 1), ("b", json!("c"), 2), ("c", Value::Null, 3)] {
        let shown = fixture.ask("GET", &format!("/v1/subjects/accounts/{subject}"), None).await.json();
        assert_eq!((&shown["subject"], &shown["account"], &shown["replaced_by"]), (&json!(subject), &json!("a"), &by));
        assert_eq!(shown["chain"].as_array().map(Vec::len), Some(2));
        assert_eq!(shown["revocations"].as_array().map(Vec::len), Some(cutoffs), "{subject}: {shown}");
    }
    let other = fixture.ask("GET", "/v1/subjects/accounts/z", None).await.json();
    assert_eq!((&other["account"], &other["chain"]), (&json!("z"), &json!([])));
    fixture.ask("GET", "/v1/subjects/nobody/z", None).await.problem(422, "unknown_issuer");
}

#[tokio::test]
async fn undoing_says_what_was_cut() {
    let fixture = Fixture::new();
    fixture.ask("DELETE", &path("a"), None).await.problem(404, "not_replaced");
    fixture.ask("POST", &path("a"), by("b")).await;
    fixture.ask("POST", &path("b"), by("c")).await;
    fixture.ask("DELETE", &path("a"), None).await.problem(409, "not_the_last");
    let answer = fixture.ask("DELETE", &format!("{}?reason=admin&note=mistake", path("b")), None).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
    let said = answer.json();
    let cut: Vec<_> = said["cutoffs"].as_array().unwrap().iter().map(|it| it["target"]["value"].clone()).collect();
    assert_eq!(cut, ["c", "b"]);
    assert_eq!((&said["subject"], &said["by"], &said["existing"]), (&json!("b"), &json!("c"), &json!(false)));
    assert_eq!(fixture.ask("DELETE", &path("b"), None).await.json()["existing"], true);
    let audit = fixture.audit();
    let done = audit.iter().find(|line| line["action"] == "undo_replacement" && line["result"] == "ok").unwrap();
    assert_eq!((&done["target"], &done["reason"]), (&json!(format!("subject {ACCOUNTS} b -> c")), &json!("admin")));
    assert_eq!(audit[0]["result"], "not_replaced");
}

#[tokio::test]
async fn bad_requests_are_answered_by_what_is_wrong_with_them() {
    let fixture = Fixture::new();
    let long = "x".repeat(1025);
    for (path, body, status, reason) in [
        (path("%zz"), json!({ "by": "b" }), 400, "invalid_path"),
        (path("%ff"), json!({ "by": "b" }), 400, "invalid_path"),
        (path("a"), json!({ "by": "" }), 400, "invalid_target"),
        (path("a"), json!({ "by": long }), 400, "too_long"),
        (path(&long), json!({ "by": "b" }), 400, "too_long"),
        (path("a"), json!({}), 400, "invalid_body"),
        (path("a"), json!({ "by": 5 }), 400, "invalid_body"),
        (path("a"), json!({ "by": null }), 400, "invalid_body"),
        (path("a"), json!({ "by": "b", "block": true }), 400, "invalid_body"),
        (path("a"), json!({ "by": "b", "reason": "boredom" }), 400, "invalid_body"),
        (path("a"), json!({ "by": "b", "note": "x".repeat(5_000) }), 400, "too_long"),
        (path("a"), json!({ "by": "a" }), 409, "replacement_cycle"),
        ("/v1/subjects/nobody/a/replace".to_owned(), json!({ "by": "b" }), 422, "unknown_issuer"),
    ] {
        fixture.ask("POST", &path, Some(body)).await.problem(status, reason);
    }
    fixture.ask("POST", "/v1/subjects/accounts//replace", by("b")).await.problem(400, "invalid_path");
    fixture.ask("POST", &path("a"), by("b")).await;
    fixture.ask("POST", &path("b"), by("a")).await.problem(409, "replacement_cycle");
    fixture.ask("POST", &path("a"), by("c")).await.problem(409, "already_replaced");
    fixture.ask("POST", &path("c"), by("b")).await.problem(409, "subject_in_use");
    fixture.ask("DELETE", &format!("{}?reason=boredom", path("a")), None).await.problem(400, "invalid_body");
    fixture.ask("DELETE", &format!("{}?restore=true", path("a")), None).await.problem(400, "invalid_query");
    fixture.ask("PUT", &path("a"), by("c")).await.problem(405, "method_not_allowed");
    for line in fixture.audit() {
        assert!(
            ["replace_subject", "undo_replacement", "unknown"].contains(&line["action"].as_str().unwrap()),
            "{line}"
        );
    }
}

#[tokio::test]
async fn viewers_look_and_operators_change() {
    let fixture = Fixture::new();
    for (method, status) in [("POST", 403), ("DELETE", 403)] {
        let answer = fixture.send(request(method, &path("a"), by("b")).body_as(Some(VIEWER))).await;
        answer.problem(status, "forbidden");
    }
    let shown = fixture.send(request("GET", "/v1/subjects/accounts/a", None).body_as(Some(VIEWER))).await;
    assert_eq!(shown.status, StatusCode::OK);
    assert_eq!(fixture.send(request("GET", "/v1/subjects/accounts/a", None).body_as(None)).await.status, 401);
}

#[tokio::test]
async fn a_key_makes_a_call_repeatable() {
    let fixture = Fixture::new();
    let send = |subject: &str, new: &str| {
        let draft = request("POST", &path(subject), by(new)).header("idempotency-key", "k-1");
        fixture.send(draft.body_as(Some(OPERATOR)))
    };
    assert_eq!(send("a", "b").await.status, StatusCode::CREATED);
    assert_eq!(send("a", "b").await.status, StatusCode::OK);
    send("a", "c").await.problem(409, "idempotency_conflict");
    send("c", "d").await.problem(409, "idempotency_conflict");
    fixture.ask("DELETE", &path("a"), None).await;
    send("a", "b").await.problem(409, "idempotency_conflict");
}

#[tokio::test]
async fn without_a_disk_it_says_so_and_without_an_audit_log_nothing_is_undone() {
    let fixture = Fixture::new();
    fixture.ask("POST", &path("a"), by("b")).await;
    fixture.store.failing.store(true, Ordering::Relaxed);
    let problem = fixture.ask("POST", &path("x"), by("y")).await.problem(503, "store_not_durable");
    assert_eq!((&problem["in_force"], &problem["replacement"]["by"]), (&json!(true), &json!("y")));
    fixture.ask("DELETE", &path("a"), None).await.problem(503, "store_not_durable");
    let metrics = fixture.metrics.render();
    assert!(metrics.contains(r#"portcullis_store_errors_total{op="append"} 2"#), "{metrics}");

    let fixture = Fixture::without_audit();
    fixture.ask("POST", &path("a"), by("b")).await;
    fixture.ask("DELETE", &path("a"), None).await.problem(503, "audit_unavailable");
}
