//! Keys that are retired.

use std::sync::atomic::Ordering;

use serde_json::json;

use super::fixture::Fixture;

#[tokio::test]
async fn a_retired_key_is_blocked_once_and_written_down() {
    let fixture = Fixture::new();
    let retired = fixture.ask("POST", "/v1/keys/session/k1:retire?note=seen+in+a+log", None).await;
    let first = retired.json()["retired"][0].clone();
    assert_eq!((retired.status.as_u16(), &first["thumbprint"]), (201, &json!("thumb")), "{retired:?}");
    assert_eq!((&first["target"]["kind"], &first["form"]["block"]), (&json!("key"), &json!(true)));
    // Again, by its thumbprint and by the issuer's URL: the same record.
    for path in ["/v1/keys/session/thumb:retire", "/v1/keys/https%3A%2F%2Fgate.example.com%2F/k1:retire"] {
        let again = fixture.ask("POST", path, None).await;
        assert_eq!((again.status.as_u16(), &again.json()["retired"][0]["id"]), (200, &first["id"]));
    }
    // One that is published no more is named by its thumbprint.
    let thumbprint = "A".repeat(43);
    let gone = fixture.ask("POST", &format!("/v1/keys/accounts/{thumbprint}:retire?reason=admin"), None).await;
    assert_eq!(gone.status, 201);
    let listed = fixture.ask("GET", "/v1/revocations?kind=key", None).await.json();
    assert_eq!(listed["items"].as_array().map(Vec::len), Some(2));
    let audit = fixture.audit();
    let actions: Vec<_> = audit.iter().map(|line| line["action"].as_str().unwrap()).collect();
    assert_eq!(actions, ["retire_key"; 4]);
    assert_eq!((&audit[0]["target"], &audit[0]["result"]), (&json!("key thumb of session"), &json!("ok")));
}

#[tokio::test]
async fn what_names_no_key_is_refused() {
    let fixture = Fixture::new();
    let unknown = fixture.ask("POST", "/v1/keys/session/k9:retire", None).await;
    assert_eq!(unknown.problem(404, "unknown_key")["known"], json!(["k1"]));
    for (path, status, reason) in [
        ("/v1/keys/nobody/k1:retire", 422, "unknown_issuer"),
        ("/v1/keys/session/k1", 404, "not_found"),
        ("/v1/keys/session/%zz:retire", 400, "invalid_path"),
        ("/v1/keys/session/:retire", 400, "invalid_path"),
        ("/v1/keys/session/k1:retire?reason=whim", 400, "invalid_query"),
        ("/v1/keys/session/k1:retire?why=whim", 400, "invalid_query"),
    ] {
        fixture.ask("POST", path, None).await.problem(status, reason);
    }
    assert_eq!(fixture.ask("GET", "/v1/revocations", None).await.json()["items"], json!([]));
}

#[tokio::test]
async fn a_key_that_cannot_be_succeeded_is_blocked_all_the_same() {
    let fixture = Fixture::new();
    fixture.gateway.broken.store(true, Ordering::Relaxed);
    let retired = fixture.ask("POST", "/v1/keys/session/k1:retire", None).await;
    let problem = retired.problem(500, "rotate_failed");
    assert_eq!((&problem["in_force"], &problem["revocation"]["target"]["value"]), (&json!(true), &json!("thumb")));
    let fixture = Fixture::new();
    fixture.store.failing.store(true, Ordering::Relaxed);
    fixture.ask("POST", "/v1/keys/session/k1:retire", None).await.problem(503, "store_not_durable");
}
