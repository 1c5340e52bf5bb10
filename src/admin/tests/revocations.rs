//! One revocation at a time: in, shown, listed, lifted.

use std::sync::atomic::Ordering;

use axum::body::Body;
use http::Request;
use serde_json::{Value, json};

use super::fixture::{ACCOUNTS, Fixture, OPERATOR, request};
use crate::telemetry::AuditTrail;

fn alice(reason: &str) -> Value {
    json!({ "target": { "kind": "subject", "issuer": "accounts", "value": "alice" }, "reason": reason })
}

async fn revoke(fixture: &Fixture, body: Value) -> Value {
    let answer = fixture.ask("POST", "/v1/revocations", Some(body)).await;
    assert_eq!(answer.status, 201, "{}", answer.text);
    answer.json()
}

#[tokio::test]
async fn the_answer_says_what_was_understood() {
    let fixture = Fixture::new();
    let cut = revoke(&fixture, alice("permissions_changed")).await;
    assert_eq!(cut["target"], json!({ "kind": "subject", "issuer": ACCOUNTS, "value": "alice" }));
    assert_eq!(cut["form"], json!({ "issued_before": "2027-01-15T08:00:00Z" }));
    assert_eq!(cut["effective_until"].as_str().map(|at| &at[..14]), Some("2027-01-15T09:"));
    assert_eq!((&cut["durable"], &cut["existing"]), (&json!(false), &json!(false)));
    let block = revoke(&fixture, alice("account_blocked")).await;
    assert_eq!((&block["form"], &block["effective_until"]), (&json!({ "block": true }), &Value::Null));
    let everything = revoke(&fixture, json!({ "target": { "kind": "all" }, "reason": "admin" })).await;
    assert_eq!(everything["target"], json!({ "kind": "all" }));
    let text = fixture.metrics.render();
    assert!(text.contains(r#"revocations_total{kind="subject",reason="account_blocked",source="admin"} 1"#));
}

#[tokio::test]
async fn a_raw_token_names_itself_and_is_shown_nowhere() {
    let fixture = Fixture::new();
    let made = revoke(&fixture, json!({ "token": "authentic.but.expired", "reason": "logout" })).await;
    assert_eq!(made["target"], json!({ "kind": "token", "issuer": ACCOUNTS, "value": "jti-7" }));
    let forged = json!({ "token": "forged.secret.token", "reason": "logout" });
    let answer = fixture.ask("POST", "/v1/revocations", Some(forged)).await;
    assert_eq!(answer.problem(422, "token_not_identified")["denial"], "bad_signature");
    let unknown = json!({ "token": "keys.are.away", "reason": "logout" });
    let answer = fixture.ask("POST", "/v1/revocations", Some(unknown)).await;
    answer.problem(503, "keys_unavailable");
    let wrong = r#"{"token": "forged.secret.token", "reason": ["forged.secret.token"]}"#;
    let wrong = Request::post("/v1/revocations")
        .header("content-type", "application/json")
        .header("authorization", format!("Bearer {OPERATOR}"))
        .body(Body::from(wrong))
        .unwrap();
    let wrong = fixture.send(wrong).await;
    wrong.problem(400, "invalid_body");
    let audit = std::fs::read_to_string(fixture.audit_path()).unwrap();
    for text in [&answer.text, &wrong.text, &audit] {
        assert!(!text.contains("forged"), "{text}");
        assert!(!text.contains("but.expired"), "{text}");
    }
}

#[tokio::test]
async fn bad_documents_change_nothing() {
    let fixture = Fixture::new();
    let target = r#""target":{"kind":"subject","issuer":"accounts","value":"a"}"#;
    let long = format!(r#"{{{target},"reason":"admin","note":"{}"}}"#, "x".repeat(5000));
    let rows: Vec<(String, u16, &str)> = vec![
        (String::new(), 400, "invalid_body"),
        ("{".to_owned(), 400, "invalid_body"),
        ("[]".to_owned(), 400, "invalid_body"),
        (format!(r#"{{{target}}}"#), 400, "invalid_body"),
        (format!(r#"{{{target},"reason":"admin"}} x"#), 400, "invalid_body"),
        (format!(r#"{{{target},"reason":"admin","reason":"logout"}}"#), 400, "invalid_body"),
        (format!(r#"{{{target},{target},"reason":"admin"}}"#), 400, "invalid_body"),
        (r#"{"target":{"kind":"subject","kind":"all","issuer":"accounts","value":"a"},"reason":"admin"}"#.to_owned(), 400, "invalid_body"),
        (format!(r#"{{{target},"reason":"admin","reson":"x"}}"#), 400, "invalid_body"),
        (format!(r#"{{{target},"reason":"because"}}"#), 400, "invalid_body"),
        (format!(r#"{{{target},"reason":"admin","id":"x"}}"#), 400, "invalid_body"),
        (format!(r#"{{{target},"reason":"admin","token":"a.b.c"}}"#), 400, "invalid_body"),
        (r#"{"reason":"admin"}"#.to_owned(), 400, "invalid_body"),
        (format!(r#"{{{target},"reason":"admin","issued_before":1700000000}}"#), 400, "invalid_body"),
        (format!(r#"{{{target},"reason":"admin","issued_before":"yesterday"}}"#), 400, "invalid_body"),
        (format!(r#"{{{target},"reason":"admin","issued_before":"2099-01-01T00:00:00Z"}}"#), 400, "future_cutoff"),
        (format!(r#"{{{target},"reason":"admin","authenticated_before":"2027-01-01T00:00:00Z"}}"#), 422, "authentication_time_not_stated"),
        (format!(r#"{{{target},"reason":"admin","block":true,"issued_before":"2027-01-01T00:00:00Z"}}"#), 400, "invalid_form"),
        (long, 400, "too_long"),
        (r#"{"target":{"kind":"user","value":"a"},"reason":"admin"}"#.to_owned(), 400, "invalid_body"),
        (r#"{"target":{"kind":"subject","value":"a"},"reason":"admin"}"#.to_owned(), 400, "invalid_target"),
        (r#"{"target":{"kind":"subject","issuer":"accounts","value":""},"reason":"admin"}"#.to_owned(), 400, "invalid_target"),
        (r#"{"target":{"kind":"all","issuer":"accounts"},"reason":"admin"}"#.to_owned(), 400, "invalid_target"),
        (r#"{"target":{"kind":"issuer","issuer":"accounts","value":"x"},"reason":"admin"}"#.to_owned(), 400, "invalid_target"),
        (r#"{"target":{"kind":"subject","issuer":"nobody","value":"a"},"reason":"admin"}"#.to_owned(), 422, "unknown_issuer"),
        (r#"{"target":{"kind":"token","issuer":"accounts","value":"a"},"reason":"admin","issued_before":"2027-01-01T00:00:00Z"}"#.to_owned(), 422, "invalid_form"),
        (format!(r#"{{{target},"reason":"admin","note":"{}"}}"#, "x".repeat(70_000)), 413, "too_large"),
    ];
    let count = rows.len();
    for (body, status, reason) in rows {
        let shown = body.chars().take(120).collect::<String>();
        let asked = request("POST", "/v1/revocations", None).header("content-type", "application/json; charset=utf-8");
        let mut asked = asked.body_as(Some(OPERATOR));
        *asked.body_mut() = Body::from(body);
        let answer = fixture.send(asked).await;
        assert_eq!(answer.status, status, "{shown}: {}", answer.text);
        answer.problem(status, reason);
    }
    for content_type in ["text/plain", "application/x-www-form-urlencoded", "application/jsonx", ""] {
        let asked = request("POST", "/v1/revocations", None).header("content-type", content_type);
        fixture.send(asked.body_as(Some(OPERATOR))).await.problem(415, "unsupported_media_type");
    }
    let list = fixture.ask("GET", "/v1/revocations", None).await.json();
    assert_eq!(list, json!({ "items": [], "next": null }));
    let lines = fixture.audit();
    assert_eq!(lines.len(), count + 4, "each refused change has its line");
    assert!(lines.iter().all(|line| line["action"] == "revoke" && line["result"] != "ok"));
}

#[tokio::test]
async fn the_same_key_is_carried_out_once() {
    let fixture = Fixture::new();
    let ask = async |key: &str, body: Value| {
        let draft = request("POST", "/v1/revocations", Some(body)).header("idempotency-key", key);
        fixture.send(draft.body_as(Some(OPERATOR))).await
    };
    let first = ask("call-1", alice("logout")).await;
    assert_eq!((first.status.as_u16(), first.json()["id"].clone()), (201, json!("call-1")));
    let again = ask("call-1", alice("logout")).await;
    assert_eq!(again.status, 200);
    assert_eq!(again.json()["existing"], true);
    ask("call-1", alice("account_deleted")).await.problem(409, "idempotency_conflict");
    for key in ["", "two words", "\u{e9}", &"x".repeat(129)] {
        ask(key, alice("logout")).await.problem(400, "invalid_idempotency_key");
    }
    let items = fixture.ask("GET", "/v1/revocations", None).await.json()["items"].as_array().map(Vec::len);
    assert_eq!(items, Some(1));
    let counted = r#"revocations_total{kind="subject",reason="logout",source="admin"} 1"#;
    assert!(fixture.metrics.render().contains(counted));
}

#[tokio::test]
async fn values_are_kept_byte_for_byte() {
    let fixture = Fixture::new();
    for (number, value) in
        ["a/../b", "..", "%2e%2f", "nul\0byte", "cr\r\nlf", "\u{1b}[2J", "é", "e\u{301}"].into_iter().enumerate()
    {
        let body = json!({ "target": { "kind": "subject", "issuer": "accounts", "value": value }, "reason": "admin" });
        let made = revoke(&fixture, body).await;
        let found = fixture.ask("GET", &format!("/v1/revocations/{}", made["id"].as_str().unwrap()), None).await.json();
        assert_eq!(found["target"]["value"], value);
        let line = &fixture.audit()[number];
        assert_eq!(line["target"], format!("subject {ACCOUNTS} {value}"));
    }
    let raw = std::fs::read_to_string(fixture.audit_path()).unwrap();
    assert_eq!(raw.lines().count(), 8);
    assert!(!raw.contains('\u{1b}') && !raw.contains('\r') && !raw.contains('\0'));
    assert_eq!(AuditTrail::new(fixture.audit_path()).verify().unwrap(), 8);
}

#[tokio::test]
async fn ids_in_paths_are_decoded_once_or_refused() {
    let fixture = Fixture::new();
    let draft = request("POST", "/v1/revocations", Some(alice("logout"))).header("idempotency-key", "a/../%2f?#");
    assert_eq!(fixture.send(draft.body_as(Some(OPERATOR))).await.status, 201);
    let found = fixture.ask("GET", "/v1/revocations/a%2F..%2F%252f%3F%23", None).await;
    assert_eq!(found.json()["id"], "a/../%2f?#");
    fixture.ask("GET", "/v1/revocations/unknown", None).await.problem(404, "unknown_revocation");
    for path in ["/v1/revocations/%00", "/v1/revocations/a%20b", "/v1/revocations/%ff", "/v1/revocations/%0d%0a"] {
        fixture.ask("GET", path, None).await.problem(400, "invalid_query");
        fixture.ask("DELETE", path, None).await.problem(400, "invalid_query");
    }
}

#[tokio::test]
async fn lists_are_filtered_and_paged() {
    let fixture = Fixture::new();
    for number in 0..5 {
        let value = format!("s{number}");
        revoke(
            &fixture,
            json!({ "target": { "kind": "subject", "issuer": "accounts", "value": value }, "reason": "admin" }),
        )
        .await;
    }
    revoke(&fixture, json!({ "target": { "kind": "key", "value": "thumb" }, "reason": "key_compromised" })).await;
    let mut values = Vec::new();
    let mut path = "/v1/revocations?kind=subject&issuer=accounts&limit=2".to_owned();
    loop {
        let page = fixture.ask("GET", &path, None).await.json();
        let items = page["items"].as_array().unwrap();
        assert!(items.len() <= 2);
        values.extend(items.iter().map(|item| item["target"]["value"].as_str().unwrap().to_owned()));
        let Some(next) = page["next"].as_str() else { break };
        path = format!("/v1/revocations?kind=subject&issuer=accounts&limit=2&cursor={next}");
    }
    assert_eq!(values, ["s4", "s3", "s2", "s1", "s0"]);
    let one = fixture.ask("GET", &format!("/v1/revocations?issuer={ACCOUNTS}&value=s3"), None).await.json();
    assert_eq!(one["items"].as_array().map(Vec::len), Some(1));
    assert_eq!(one["items"][0]["in_force"], true);
    for query in ["kind=user", "limit=0", "limit=1001", "limit=x", "cursor=x", "unknown=1", "kind=key&kind=all"] {
        fixture.ask("GET", &format!("/v1/revocations?{query}"), None).await.problem(400, "invalid_query");
    }
}

#[tokio::test]
async fn a_lift_is_a_record_and_leaves_a_cutoff_unless_told_otherwise() {
    let fixture = Fixture::new();
    for (query, action, leaves) in
        [("", "lift", json!("2027-01-15T08:00:00Z")), ("?restore=true&note=sorry%20bob", "restore", Value::Null)]
    {
        let made = revoke(&fixture, alice("account_blocked")).await;
        let path = format!("/v1/revocations/{}", made["id"].as_str().unwrap());
        let lifted = fixture.ask("DELETE", &format!("{path}{query}"), None).await;
        assert_eq!((lifted.status.as_u16(), &lifted.json()["lifts"]), (200, &made["id"]));
        assert_eq!(lifted.json()["leaves_issued_before"], leaves);
        let found = fixture.ask("GET", &path, None).await.json();
        assert_eq!((&found["in_force"], &found["lifted"]["id"]), (&json!(false), &lifted.json()["id"]));
        let line = fixture.audit().pop().unwrap();
        assert_eq!((&line["action"], &line["result"], &line["actor"]), (&json!(action), &json!("ok"), &json!("ops")));
        assert_eq!(line["target"], format!("subject {ACCOUNTS} alice ({})", made["id"].as_str().unwrap()));
        assert_eq!(fixture.ask("DELETE", &path, None).await.json()["existing"], true);
    }
    fixture.ask("DELETE", "/v1/revocations/unknown", None).await.problem(404, "unknown_revocation");
    fixture.ask("DELETE", "/v1/revocations/unknown?restore=perhaps", None).await.problem(400, "invalid_query");
    let results: Vec<_> = fixture.audit().iter().rev().take(2).map(|line| line["result"].clone()).collect();
    assert_eq!(results, ["invalid_query", "unknown_revocation"]);
}

#[tokio::test]
async fn a_disk_that_fails_is_said_and_the_revocation_holds() {
    let fixture = Fixture::new();
    let kept = revoke(&fixture, alice("account_blocked")).await;
    fixture.store.failing.store(true, Ordering::Relaxed);
    let body =
        json!({ "target": { "kind": "subject", "issuer": "accounts", "value": "bob" }, "reason": "account_blocked" });
    let answer = fixture.ask("POST", "/v1/revocations", Some(body)).await;
    let problem = answer.problem(503, "store_not_durable");
    assert_eq!(problem["in_force"], true);
    assert_eq!(problem["revocation"]["target"]["value"], "bob");
    assert!(answer.headers.contains_key("retry-after"));
    let ready = fixture.send(request("GET", "/readyz", None).body_as(None)).await;
    assert_eq!(ready.problem(503, "not_ready")["reasons"], json!(["store_not_durable"]));
    let path = format!("/v1/revocations/{}", kept["id"].as_str().unwrap());
    fixture.ask("DELETE", &path, None).await.problem(503, "store_not_durable");
    assert_eq!(fixture.ask("GET", &path, None).await.json()["in_force"], true);
    let text = fixture.send(request("GET", "/metrics", None).body_as(None)).await.text;
    assert!(text.contains(r#"portcullis_revocations{kind="subject"} 2"#), "bob is refused too");
    assert!(text.contains(r#"portcullis_store_errors_total{op="append"} 2"#));
    let results: Vec<_> = fixture.audit().iter().map(|line| line["result"].clone()).collect();
    assert_eq!(results, ["ok", "store_not_durable", "store_not_durable"]);
}

#[tokio::test]
async fn without_an_audit_log_revocations_come_in_and_nothing_is_lifted() {
    let fixture = Fixture::without_audit();
    let made = revoke(&fixture, alice("account_blocked")).await;
    let path = format!("/v1/revocations/{}", made["id"].as_str().unwrap());
    fixture.ask("DELETE", &path, None).await.problem(503, "audit_unavailable");
    assert_eq!(fixture.ask("GET", &path, None).await.json()["in_force"], true);
    assert!(fixture.metrics.render().contains("portcullis_audit_errors_total 2\n"));
}
