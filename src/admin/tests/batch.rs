//! Many at once: all valid, or none carried out.

use std::sync::atomic::Ordering;

use axum::body::Body;
use serde_json::{Value, json};

use super::fixture::{Answer, Fixture, OPERATOR, request};

fn line(value: &str) -> String {
    json!({ "target": { "kind": "subject", "issuer": "accounts", "value": value }, "reason": "admin" }).to_string()
}

async fn batch(fixture: &Fixture, text: String) -> Answer {
    let draft = request("POST", "/v1/revocations:batch", None).header("content-type", "application/x-ndjson");
    let mut asked = draft.body_as(Some(OPERATOR));
    *asked.body_mut() = Body::from(text);
    fixture.send(asked).await
}

async fn listed(fixture: &Fixture) -> usize {
    fixture.ask("GET", "/v1/revocations", None).await.json()["items"].as_array().unwrap().len()
}

#[tokio::test]
async fn each_line_has_its_result_and_its_audit_line() {
    let fixture = Fixture::new();
    let token = json!({ "token": "authentic.but.expired", "reason": "logout", "id": "mine" }).to_string();
    let answer = batch(&fixture, format!("{}\n\n{token}\r\n{}", line("a"), line("b"))).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    let results = answer.json()["results"].clone();
    let values: Vec<_> = results.as_array().unwrap().iter().map(|it| it["target"]["value"].clone()).collect();
    assert_eq!(values, ["a", "jti-7", "b"]);
    assert_eq!(results[1]["id"], "mine");
    assert_eq!(listed(&fixture).await, 3);
    let lines = fixture.audit();
    assert_eq!(lines.len(), 3);
    assert!(lines.iter().all(|line| line["action"] == "revoke" && line["result"] == "ok"));
}

#[tokio::test]
async fn one_bad_line_refuses_the_batch_and_names_it() {
    let fixture = Fixture::new();
    let unknown = line("a").replace("accounts", "nobody");
    let text = [line("a"), "{".to_owned(), line("b"), unknown, line("c").replace("admin", "because")].join("\n");
    let answer = batch(&fixture, text).await;
    let problems = answer.problem(400, "invalid_batch")["problems"].clone();
    let found: Vec<_> =
        problems.as_array().unwrap().iter().map(|it| (it["line"].clone(), it["reason"].clone())).collect();
    let expected = [(2, "invalid_body"), (4, "unknown_issuer"), (5, "invalid_body")];
    assert_eq!(found, expected.map(|(line, reason)| (json!(line), json!(reason))));
    assert_eq!(listed(&fixture).await, 0);
    let lines = fixture.audit();
    assert_eq!(lines.len(), 1);
    assert_eq!((&lines[0]["action"], &lines[0]["result"]), (&json!("revoke_batch"), &json!("invalid_batch")));
}

#[tokio::test]
async fn batches_have_bounds() {
    let fixture = Fixture::new();
    batch(&fixture, String::new()).await.problem(400, "invalid_body");
    batch(&fixture, "\n\n".to_owned()).await.problem(400, "invalid_body");
    batch(&fixture, "{}\n".repeat(100_001)).await.problem(413, "too_large");
    batch(&fixture, "x".repeat(10 * 1024 * 1024 + 1)).await.problem(413, "too_large");
    let many = batch(&fixture, "{}\n".repeat(1000)).await;
    assert_eq!(many.problem(400, "invalid_batch")["problems"].as_array().map(Vec::len), Some(100));
    let asked = request("POST", "/v1/revocations:batch", Some(json!({})));
    fixture.send(asked.body_as(Some(OPERATOR))).await.problem(415, "unsupported_media_type");
    assert_eq!(listed(&fixture).await, 0);
}

#[tokio::test]
async fn a_batch_that_is_not_durable_is_no_success() {
    let fixture = Fixture::new();
    fixture.store.failing.store(true, Ordering::Relaxed);
    let answer = batch(&fixture, format!("{}\n{}\n", line("a"), line("b"))).await;
    let results = answer.problem(503, "store_not_durable")["results"].clone();
    let reasons: Vec<&Value> = results.as_array().unwrap().iter().map(|it| &it["reason"]).collect();
    assert_eq!(reasons, ["store_not_durable", "store_not_durable"]);
    let lines = fixture.audit();
    assert!(
        lines.len() == 2 && lines.iter().all(|line| line["result"] == "store_not_durable" && line["id"].is_string())
    );
}
