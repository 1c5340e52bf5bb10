//! The event stream.

use axum::body::Body;
use http_body_util::BodyExt;
use serde_json::json;
use tower::ServiceExt;

use super::fixture::{Fixture, OPERATOR, request};
use crate::admin::WATCHERS;

async fn open(fixture: &Fixture) -> (u16, Body) {
    let mut asked = request("GET", "/v1/revocations:watch", None).body_as(Some(OPERATOR));
    asked.extensions_mut().insert(crate::admin::auth::Peer::Unix);
    let response = fixture.api.router().oneshot(asked).await.unwrap();
    (response.status().as_u16(), response.into_body())
}

async fn next(body: &mut Body) -> String {
    let frame = body.frame().await.unwrap().unwrap();
    String::from_utf8(frame.into_data().unwrap().to_vec()).unwrap()
}

fn subject(value: &str) -> serde_json::Value {
    json!({ "target": { "kind": "subject", "issuer": "accounts", "value": value }, "reason": "account_blocked" })
}

#[tokio::test]
async fn revocations_and_lifts_are_told_as_they_happen() {
    let fixture = Fixture::new();
    let (status, mut body) = open(&fixture).await;
    assert_eq!(status, 200);
    let made = fixture.ask("POST", "/v1/revocations", Some(subject("alice"))).await.json();
    let event = next(&mut body).await;
    assert!(event.starts_with("event: revocation\ndata: {\"id\":"), "{event}");
    assert!(event.contains("\"value\":\"alice\"") && event.ends_with("\n\n"), "{event}");
    fixture.ask("DELETE", &format!("/v1/revocations/{}", made["id"].as_str().unwrap()), None).await;
    assert!(next(&mut body).await.starts_with("event: lift\n"));
}

#[tokio::test]
async fn whoever_falls_behind_is_told_how_far() {
    let fixture = Fixture::new();
    let (_, mut body) = open(&fixture).await;
    let lines: String = (0..1100).map(|number| subject(&format!("s{}", number % 500)).to_string() + "\n").collect();
    let draft = request("POST", "/v1/revocations:batch", None).header("content-type", "application/x-ndjson");
    let mut asked = draft.body_as(Some(OPERATOR));
    *asked.body_mut() = Body::from(lines);
    assert_eq!(fixture.send(asked).await.status, 200);
    let event = next(&mut body).await;
    assert_eq!(event, "event: lagged\ndata: {\"missed\":76}\n\n");
}

#[tokio::test]
async fn streams_are_bounded_and_end_with_the_listener() {
    let fixture = Fixture::new();
    let mut streams = Vec::new();
    for _ in 0..WATCHERS {
        let (status, body) = open(&fixture).await;
        assert_eq!(status, 200);
        streams.push(body);
    }
    assert_eq!(open(&fixture).await.0, 503);
    streams.pop();
    let (status, mut body) = open(&fixture).await;
    assert_eq!(status, 200, "a place that was left is free again");
    fixture.api.close();
    assert!(body.frame().await.is_none());
}
