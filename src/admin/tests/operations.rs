//! Questions and orders about the gateway as a whole.

use std::sync::atomic::Ordering;

use axum::body::Body;
use serde_json::json;

use super::fixture::{ACCOUNTS, Fixture, OPERATOR, VIEWER, request};

#[tokio::test]
async fn an_explanation_names_the_records_in_force() {
    let fixture = Fixture::new();
    let body =
        json!({ "target": { "kind": "subject", "issuer": "accounts", "value": "alice" }, "reason": "account_blocked" });
    let made = fixture.ask("POST", "/v1/revocations", Some(body)).await.json();
    let question =
        json!({ "token": "secret.raw.token", "method": "POST", "host": "shop.example", "path": "/cart?x=1" });
    let answer = fixture.send(request("POST", "/v1/explain", Some(question)).body_as(Some(VIEWER))).await;
    let document = answer.json();
    assert_eq!((&document["admitted"], &document["reason"]), (&json!(false), &json!("revoked_subject")));
    assert_eq!(document["route"], "POST Some(\"shop.example\") /cart?x=1");
    assert_eq!(document["targets"], json!([{ "kind": "subject", "issuer": ACCOUNTS, "value": "alice" }]));
    assert_eq!(
        (&document["revocations"][0]["id"], &document["revocations"][0]["reason"]),
        (&made["id"], &json!("account_blocked"))
    );
    assert!(!answer.text.contains("secret"));
    assert_eq!(fixture.audit().len(), 1, "a question is no change");
}

#[tokio::test]
async fn a_question_is_read_strictly() {
    let fixture = Fixture::new();
    let good = json!({ "headers": { "Authorization": "Bearer good", "cookie": ["a=1", "b=2"] } });
    assert_eq!(fixture.ask("POST", "/v1/explain", Some(good)).await.json()["admitted"], true);
    for body in [
        r#"{"token":"a","token":"b"}"#,
        r#"{"tokn":"a"}"#,
        r#"{"token":"a","headers":{"authorization":"Bearer b"}}"#,
        r#"{"headers":{"cookie":"a=1","Cookie":"b=2"}}"#,
        r#"{"headers":{"cookie":null}}"#,
        r#"{"headers":{"co okie":"a"}}"#,
        r#"{"headers":{"cookie":"a\nb"}}"#,
        r#"{"headers":["cookie"]}"#,
        r#"{"token":"a\nb"}"#,
        r#"{"method":"GET IT"}"#,
        r#"{"path":"no-slash"}"#,
    ] {
        let mut asked = request("POST", "/v1/explain", Some(json!({}))).body_as(Some(OPERATOR));
        *asked.body_mut() = Body::from(body);
        let answer = fixture.send(asked).await;
        assert_eq!(answer.status, 400, "{body}");
        answer.problem(400, "invalid_body");
    }
}

#[tokio::test]
async fn status_config_and_keys_are_shown() {
    let fixture = Fixture::new();
    let status = fixture.ask("GET", "/v1/status", None).await.json();
    assert_eq!((&status["ready"], &status["uptime_seconds"]), (&json!(true), &json!(60)));
    assert_eq!((&status["store"]["engine"], &status["store"]["failure"]), (&json!("memory"), &json!(null)));
    assert_eq!((&status["revocations"]["subject"], &status["gateway"]["workers"]), (&json!(0), &json!(2)));
    assert_eq!(fixture.ask("GET", "/v1/config", None).await.json()["admin"]["tokens"], "[redacted]");
    assert_eq!(fixture.ask("GET", "/v1/keys", None).await.json()["keys"][0]["kid"], "k1");
}

#[tokio::test]
async fn orders_are_carried_out_or_refused_and_written_down() {
    let fixture = Fixture::new();
    assert_eq!(fixture.ask("POST", "/v1/reload", None).await.json()["changed"], true);
    let rotated = fixture.ask("POST", "/v1/keys:rotate", None).await;
    assert_eq!((rotated.status.as_u16(), rotated.json()["kid"].clone()), (201, json!("k1")));
    fixture.gateway.broken.store(true, Ordering::Relaxed);
    fixture.ask("POST", "/v1/reload", None).await.problem(422, "config_invalid");
    fixture.ask("POST", "/v1/keys:rotate", None).await.problem(409, "no_sessions");
    fixture.ask("POST", "/v1/keys:rotate?now=1", None).await.problem(400, "invalid_query");
    let lines: Vec<_> = fixture.audit().iter().map(|line| (line["action"].clone(), line["result"].clone())).collect();
    let expected = [
        ("reload", "ok"),
        ("rotate_key", "ok"),
        ("reload", "config_invalid"),
        ("rotate_key", "no_sessions"),
        ("rotate_key", "invalid_query"),
    ];
    assert_eq!(lines, expected.map(|(action, result)| (json!(action), json!(result))));
}

#[tokio::test]
async fn a_draining_gateway_is_alive_and_not_ready() {
    let fixture = Fixture::new();
    fixture.gateway.draining.store(true, Ordering::Relaxed);
    let ready = fixture.send(request("GET", "/readyz", None).body_as(None)).await;
    assert_eq!(ready.problem(503, "not_ready")["reasons"], json!(["draining"]));
    assert_eq!(fixture.send(request("GET", "/healthz", None).body_as(None)).await.status, 200);
}
