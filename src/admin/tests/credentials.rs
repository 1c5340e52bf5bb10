//! Credentials pushed and dropped through the API.

use serde_json::json;

use super::fixture::{ACCOUNTS, Fixture, VIEWER, request};

const PATH: &str = "/v1/subjects/accounts/ada%2Flovelace/credential";
const HASH: &str = "$2b$12$R9h/cIPz0gi.URNNX3kh2OPST9";

#[tokio::test]
async fn a_credential_is_pushed_and_dropped_and_none_of_it_is_written_down() {
    let fixture = Fixture::new();
    let body = json!({ "columns": [HASH, null, "active"] });
    let put = fixture.ask("PUT", PATH, Some(body.clone())).await;
    assert_eq!(put.status, 200, "{put:?}");
    assert_eq!(put.json()["subject"], "ada/lovelace");
    assert_eq!(put.json()["issuer"], ACCOUNTS);
    let fingerprint = put.json()["cfp"].as_str().unwrap().to_owned();
    assert_eq!(fingerprint.len(), 22);
    let again = fixture.ask("PUT", PATH, Some(body.clone())).await;
    assert_eq!(again.json()["cfp"], fingerprint, "the same credential has the same fingerprint");
    let other = fixture.ask("PUT", PATH, Some(json!({ "columns": [HASH, null, "blocked"] }))).await;
    assert_ne!(other.json()["cfp"], fingerprint);
    assert_eq!(fixture.ask("DELETE", PATH, None).await.status, 204);
    let audit = std::fs::read_to_string(fixture.audit_path()).unwrap();
    for wanted in ["put_credential", "drop_credential", "ada/lovelace"] {
        assert!(audit.contains(wanted), "{wanted}: {audit}");
    }
    assert!(!audit.contains(HASH) && !audit.contains("active"), "{audit}");
}

#[tokio::test]
async fn what_is_no_credential_is_refused_and_not_repeated() {
    let fixture = Fixture::new();
    let many: Vec<_> = (0..17).map(|_| "x").collect();
    for (path, body, status, reason) in [
        (PATH, json!({ "columns": [] }), 422, "invalid_credential"),
        (PATH, json!({ "columns": many }), 422, "invalid_credential"),
        (PATH, json!({ "columns": ["x".repeat(20_000)] }), 422, "invalid_credential"),
        (PATH, json!({ "columns": [HASH, 7] }), 400, "invalid_body"),
        (PATH, json!({ "columns": HASH }), 400, "invalid_body"),
        (PATH, json!({ "columns": [HASH], "note": HASH }), 400, "invalid_body"),
        (PATH, json!({}), 400, "invalid_body"),
        ("/v1/subjects/nobody/ada/credential", json!({ "columns": [HASH] }), 422, "unknown_issuer"),
        (
            &format!("/v1/subjects/accounts/{}/credential", "x".repeat(1025)),
            json!({ "columns": [HASH] }),
            422,
            "invalid_subject",
        ),
    ] {
        let refused = fixture.ask("PUT", path, Some(body)).await;
        refused.problem(status, reason);
        assert!(!refused.text.contains(HASH), "{}", refused.text);
    }
    for method in ["PUT", "DELETE"] {
        let body = (method == "PUT").then(|| json!({ "columns": [HASH] }));
        fixture.send(request(method, PATH, body).body_as(Some(VIEWER))).await.problem(403, "forbidden");
    }
    let audit = std::fs::read_to_string(fixture.audit_path()).unwrap();
    assert!(!audit.contains(HASH) && !audit.contains("unknown\",\"target\":\"/v1/subjects"), "{audit}");
}
