//! Who may, and what is written down of those who may not.

use serde_json::json;

use super::fixture::{Fixture, OPERATOR, VIEWER, request};
use crate::admin::auth::Peer;

const ENDPOINTS: [(&str, &str, bool); 17] = [
    ("POST", "/v1/revocations", true),
    ("POST", "/v1/revocations:batch", true),
    ("DELETE", "/v1/revocations/r-1", true),
    ("POST", "/v1/reload", true),
    ("DELETE", "/v1/sessions?subject=ann", true),
    ("DELETE", "/v1/sessions/s1", true),
    ("GET", "/v1/sessions", false),
    ("POST", "/v1/keys:rotate", true),
    ("PUT", "/v1/nothing", true),
    ("GET", "/v1/revocations", false),
    ("GET", "/v1/revocations/r-1", false),
    ("GET", "/v1/status", false),
    ("GET", "/v1/config", false),
    ("GET", "/v1/keys", false),
    ("POST", "/v1/explain", false),
    ("GET", "/v1/nothing", false),
    ("GET", "/", false),
];

#[tokio::test]
async fn without_a_whole_credential_everything_looks_the_same() {
    let fixture = Fixture::new();
    let mut answers = Vec::new();
    for (method, path, _) in ENDPOINTS {
        for token in [None, Some("wrong"), Some(&OPERATOR[1..]), Some(&OPERATOR[..OPERATOR.len() - 1]), Some("")] {
            let answer = fixture.send(request(method, path, None).body_as(token)).await;
            let mut document = answer.problem(401, "unauthorized");
            assert_eq!(answer.headers["www-authenticate"], "Bearer realm=\"portcullis admin\"");
            document["request_id"].take();
            answers.push(document);
        }
    }
    answers.dedup();
    assert_eq!(answers.len(), 1, "nothing tells what exists or what was nearly right");
    assert!(fixture.audit().iter().all(|line| line["actor"] == "unknown" && line["result"] == "unauthorized"));
}

#[tokio::test]
async fn a_viewer_reads_and_changes_nothing() {
    let fixture = Fixture::new();
    let mut refused = 0;
    for (method, path, is_change) in ENDPOINTS {
        let body = (path == "/v1/explain").then(|| json!({}));
        let answer = fixture.send(request(method, path, body).body_as(Some(VIEWER))).await;
        if is_change {
            answer.problem(403, "forbidden");
            refused += 1;
        } else {
            assert!(!matches!(answer.status.as_u16(), 401 | 403), "{method} {path}: {}", answer.status);
        }
    }
    let lines = fixture.audit();
    assert_eq!(lines.len(), refused);
    assert!(
        lines.iter().all(|line| line["actor"] == "eyes" && line["role"] == "viewer" && line["result"] == "forbidden")
    );
    let actions: Vec<_> = lines.iter().filter_map(|line| line["action"].as_str()).collect();
    let expected = ["revoke", "revoke_batch", "lift", "reload", "end_sessions", "end_session", "rotate_key", "unknown"];
    assert_eq!(actions, expected);
}

#[tokio::test]
async fn monitoring_needs_no_credential() {
    let fixture = Fixture::new();
    for (path, text) in [("/healthz", "ok\n"), ("/readyz", "ready\n")] {
        let answer = fixture.send(request("GET", path, None).body_as(None)).await;
        assert_eq!((answer.status.as_u16(), answer.text.as_str()), (200, text), "{path}");
    }
    let answer = fixture.send(request("GET", "/metrics", None).body_as(None)).await;
    assert_eq!(answer.headers["content-type"], "text/plain; version=0.0.4; charset=utf-8");
    assert!(answer.text.contains("portcullis_revocations{kind=\"subject\"} 0"));
    fixture.send(request("POST", "/metrics", None).body_as(None)).await.problem(405, "method_not_allowed");
}

#[tokio::test]
async fn a_socket_without_tokens_trusts_whoever_may_open_it_and_tcp_does_not() {
    let fixture = Fixture::with(vec![]);
    let mut local = request("POST", "/v1/reload", None).body_as(None);
    local.extensions_mut().insert(Peer::Unix);
    assert_eq!(fixture.send(local).await.status, 200);
    fixture.send(request("POST", "/v1/reload", None).body_as(None)).await.problem(401, "unauthorized");
    let lines = fixture.audit();
    assert_eq!((&lines[0]["actor"], &lines[0]["address"]), (&json!("local"), &json!("unix")));
    assert_eq!((&lines[1]["actor"], &lines[1]["address"]), (&json!("unknown"), &json!("127.0.0.1")));

    let guarded = Fixture::new();
    let mut local = request("GET", "/v1/status", None).body_as(None);
    local.extensions_mut().insert(Peer::Unix);
    guarded.send(local).await.problem(401, "unauthorized");
}

#[tokio::test]
async fn a_page_of_another_site_is_refused_even_with_a_credential() {
    let fixture = Fixture::new();
    for (name, value) in [("origin", "https://evil.example"), ("origin", "null"), ("sec-fetch-site", "cross-site")] {
        let asked = request("POST", "/v1/reload", None).header(name, value).body_as(Some(OPERATOR));
        fixture.send(asked).await.problem(403, "cross_site");
    }
    let own = request("POST", "/v1/reload", None).header("origin", "http://127.0.0.1:9901").body_as(Some(OPERATOR));
    assert_eq!(fixture.send(own).await.status, 200);
    let results: Vec<_> = fixture.audit().iter().map(|line| line["result"].clone()).collect();
    assert_eq!(results, ["cross_site", "cross_site", "cross_site", "ok"]);
}

#[tokio::test]
async fn reloaded_credentials_count_at_once() {
    let fixture = Fixture::new();
    assert_eq!(fixture.ask("GET", "/v1/status", None).await.status, 200);
    fixture.api.credentials().set(vec![]);
    fixture.ask("GET", "/v1/status", None).await.problem(401, "unauthorized");
}

#[tokio::test]
async fn wrong_methods_and_paths_are_problems() {
    let fixture = Fixture::new();
    let answer = fixture.ask("PUT", "/v1/revocations", None).await;
    answer.problem(405, "method_not_allowed");
    assert_eq!(answer.headers["allow"], "GET,HEAD,POST");
    fixture.ask("GET", "/v1/reload", None).await.problem(405, "method_not_allowed");
    fixture.ask("GET", "/v1/nothing", None).await.problem(404, "not_found");
    fixture.ask("GET", "/", None).await.problem(404, "not_found");
}
