//! Per-subject keys (T5) whose credentials a service knows: what it is asked, what its answers mean, and that an
//! answer which is none admits nobody and signs nobody out.

use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use crate::credentials::{BASE, HASH, PEOPLE, refused, status, token, unavailable};
use crate::sessions::exchanged;
use crate::support::{Gateway, Site, Upstream, bearer, until};

/// What the service says: a status, fields and a body.
type Saying = Arc<Mutex<(u16, Vec<(&'static str, String)>, String)>>;

const SECRET: &str = "only-the-service-and-the-gateway-know";

fn service() -> (Upstream, Saying) {
    let saying = Saying::default();
    say(&saying, 200, &json!({"columns": null}));
    let said = Arc::clone(&saying);
    let service = Upstream::scripted(move |exchange| {
        let (status, fields, body) = said.lock().unwrap().clone();
        let fields: Vec<_> = fields.iter().map(|(name, value)| (*name, value.as_str())).collect();
        if status == 0 {
            return exchange.await_close();
        }
        exchange.answer(status, &fields, body.as_bytes())
    });
    (service, saying)
}

fn say(saying: &Saying, status: u16, body: &Value) {
    *saying.lock().unwrap() = (status, Vec::new(), body.to_string());
}

fn site(upstream: &Upstream, service: &Upstream) -> Site {
    let mut site = Site::with_sessions(upstream);
    site.write_secret("secrets/base", BASE);
    site.write_secret("secrets/users", SECRET.as_bytes());
    site.config["issuers"]["people"] = json!({
        "issuer": PEOPLE, "audiences": ["shop"], "algorithms": ["HS256"],
        "keys": {"per_subject": {
            "base_secret": {"file": "secrets/base"},
            "http": {"url": format!("{}/credential?v=1", service.url()), "token": {"file": "secrets/users"}},
            "ttl": "1h", "negative_ttl": "1s",
        }},
    });
    site.config["session"]["exchange"] = json!([{"issuer": "people", "subject_prefix": "people:"}]);
    site
}

fn forget(gateway: &Gateway, subject: &str) {
    let path = format!("/v1/subjects/people/{subject}/credential");
    assert_eq!(gateway.admin().delete(&path).status, 204);
}

#[test]
fn a_service_is_asked_once_and_its_answer_is_the_key() {
    let (upstream, (service, saying)) = (Upstream::start(), service());
    let site = site(&upstream, &service);
    let gateway = site.start();
    let subject = "ada/../' OR 1=1";
    say(&saying, 200, &json!({"columns": [HASH, null]}));
    let ada = token(subject, &[Some(HASH), None]);
    for _ in 0..5 {
        assert_eq!(status(&gateway, &ada), 200);
    }
    let asked = service.take_one();
    assert_eq!((asked.method.as_str(), asked.target.as_str()), ("POST", "/credential?v=1"));
    assert_eq!(asked.header("authorization"), Some(bearer(SECRET).as_str()));
    let question: Value = serde_json::from_slice(&asked.body).unwrap();
    assert_eq!(question, json!({"issuer": PEOPLE, "subject": subject}));
    assert_eq!(status(&gateway, &token(subject, &[Some("wrong"), None])), 401);

    // A change counts once whoever made it has what is remembered dropped, for sessions as well.
    let session = exchanged(&gateway, &ada);
    say(&saying, 200, &json!({"columns": ["another", null]}));
    assert_eq!(status(&gateway, &ada), 200, "nobody has told it");
    forget(&gateway, "ada%2F..%2F%27%20OR%201%3D1");
    assert_eq!([status(&gateway, &ada), status(&gateway, &session)], [401, 401]);
    assert_eq!(refused(&gateway, &session).1, "credential_changed");
    assert_eq!(status(&gateway, &token(subject, &[Some("another"), None])), 200);
    say(&saying, 200, &json!({"columns": null}));
    assert_eq!(refused(&gateway, &token("bob", &[Some(HASH), None])), (401, "bad_signature".to_owned()));

    let push = gateway.admin().send(
        "PUT",
        "/v1/subjects/people/ada/credential",
        &[("Content-Type", "application/json")],
        br#"{"columns": ["x"]}"#,
    );
    assert_eq!((push.status, push.reason().as_str()), (409, "not_pushed"));
    let told = gateway.output() + &site.read("access.jsonl") + &site.read("audit.jsonl");
    for secret in [SECRET, HASH, "another"] {
        assert!(!told.contains(secret), "{secret} is told");
    }
}

#[test]
fn an_answer_that_is_none_is_503_and_says_why_and_repeats_nothing() {
    let (upstream, (service, saying)) = (Upstream::start(), service());
    let elsewhere = Upstream::start();
    let columns = json!({"columns": [HASH]}).to_string();
    let ada = token("ada", &[Some(HASH)]);
    let answer = |status: u16, body: &str| (status, Vec::new(), body.to_owned());
    let many = json!({"columns": vec!["x"; 17]}).to_string();
    for (saying_now, said) in [
        (answer(404, &columns), "status 404"),
        (answer(401, &columns), "status 401"),
        (answer(500, &columns), "status 500"),
        (answer(201, &columns), "status 201"),
        ((302, vec![("Location", elsewhere.url())], columns.clone()), "status 302"),
        (answer(200, "<html>hunter2</html>"), "the answer is neither"),
        (answer(200, r#"{"columns": ["hunter2", 1]}"#), "the answer is neither"),
        (answer(200, "{}"), "the answer is neither"),
        (answer(200, &many), "17 columns"),
        (answer(200, &format!("{{\"columns\": [\"{}\"]}}", "x".repeat(20_000))), "longer than"),
        (answer(200, &"x".repeat(2 << 20)), "larger than"),
        (answer(0, ""), "answer within 300ms"),
    ] {
        let mut site = site(&upstream, &service);
        if saying_now.0 == 0 {
            site.set("/issuers/people/keys/per_subject/http/timeout", json!("300ms"));
        }
        *saying.lock().unwrap() = saying_now;
        let gateway = site.start();
        unavailable(&gateway.get_as("/orders", &ada));
        until(said, || gateway.output().contains(said).then_some(()));
        let output = gateway.output();
        assert!(output.contains("failed to look up a credential"), "{said}: {output}");
        assert!(!output.contains("hunter2") && !output.contains(SECRET), "{output}");
        // It recovers as soon as the service does.
        *saying.lock().unwrap() = answer(200, &columns);
        assert_eq!(status(&gateway, &ada), 200, "{said}");
    }
    assert_eq!(elsewhere.requests().len(), 0, "what is for one server is not sent to another");
    drop(service);
}

#[test]
fn a_service_that_is_gone_is_503_for_those_who_are_not_remembered_alone() {
    let (upstream, (service, saying)) = (Upstream::start(), service());
    let mut site = site(&upstream, &service);
    let gateway = site.start();
    say(&saying, 200, &json!({"columns": [HASH]}));
    let (ada, bob) = (token("ada", &[Some(HASH)]), token("bob", &[Some(HASH)]));
    assert_eq!(status(&gateway, &ada), 200);
    let nowhere = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = nowhere.local_addr().unwrap();
    drop(nowhere);
    *saying.lock().unwrap() = (503, Vec::new(), String::new());
    assert_eq!(status(&gateway, &ada), 200);
    unavailable(&gateway.get_as("/orders", &bob));
    gateway.stop();
    site.set("/issuers/people/keys/per_subject/http/url", json!(format!("http://{address}/")));
    let gateway = site.start();
    unavailable(&gateway.get_as("/orders", &ada));
    until("the cause", || gateway.output().contains("onnection refused").then_some(()));
}
