//! No token, cookie, secret or query string is in anything the gateway writes: logs, metrics, audit lines, answers.

use std::fs;
use std::path::Path;

use serde_json::json;

use crate::sessions::{exchanged, slide};
use crate::support::site::{EYES, OPS};
use crate::support::{Site, Upstream, bearer, until};

#[test]
fn nothing_secret_is_written_anywhere() {
    let upstream = Upstream::scripted(|exchange| {
        if exchange.recorded.target.starts_with("/login") {
            return exchange.answer(200, &[("X-Session-Grant", r#"{"sub":"bob","note":"grant-secret-1"}"#)], b"");
        }
        exchange.answer(200, &[], b"")
    });
    let mut site = Site::with_sessions(&upstream);
    site.set("/session/idle_timeout", json!("20s")).set("/session/reissue", json!({"after": "5%"}));
    let gateway = site.start();
    let parent = site.accounts.token_of("bob");
    let session = exchanged(&gateway, &parent);
    let successor = slide(&gateway, &session);
    let granted = gateway.send("POST", "/login/", &[("Content-Length", "0")], b"").session_token().unwrap();
    let expired = site.accounts.token(json!({"iat": 1, "exp": 2}));
    let broken = format!("{}x", site.accounts.token_of("eve"));
    let cookie = site.accounts.token_of("carol");
    let mut answers = Vec::new();
    for token in [&parent, &session, &expired, &broken] {
        answers.push(gateway.get_as("/orders?access_token=query-secret-1", token));
        answers.push(gateway.admin().post("/v1/explain", &json!({"token": token, "path": "/orders"})));
    }
    answers.push(gateway.get("/orders", &[("Cookie", &format!("__Host-session={cookie}; other=cookie-secret-1"))]));
    answers.push(gateway.get("/orders", &[("Authorization", "Basic basic-secret-1")]));
    answers.push(
        gateway.get("/orders", &[("Authorization", &bearer(&parent)), ("Cookie", "__Host-session=cookie-secret-2")]),
    );
    answers.push(gateway.admin().post("/v1/revocations", &json!({"token": granted, "reason": "admin"})));
    answers.push(gateway.admin().post("/v1/revocations", &json!({"token": broken, "reason": "admin"})));
    answers.push(gateway.admin().post("/v1/revocations", &json!({"token": 5, "target": granted, "reason": granted})));
    answers.push(gateway.get_as("/session", &successor));
    answers.push(gateway.admin().get("/v1/config"));
    answers.push(gateway.admin().get("/v1/status"));
    answers.push(gateway.admin().get("/v1/revocations"));
    answers.push(gateway.admin().get("/metrics"));
    let wrong = crate::support::Admin::new(gateway.admin_address, "wrong-admin-secret-1-0123456789abcdef");
    answers.push(wrong.get("/v1/status"));
    answers.push(gateway.post_as("/session/logout", &successor));
    until("the access log", || site.read("access.jsonl").contains("/session/logout").then_some(()));
    let (code, output, _) = gateway.stop();
    assert_eq!(code, 0);

    let mut written: Vec<(String, String)> = vec![("standard output and error".to_owned(), output)];
    written.extend(
        answers.iter().map(|answer| ("an answer".to_owned(), format!("{:?} {}", answer.headers, answer.text()))),
    );
    collect(site.path(), &mut written);
    let mut secrets = vec![OPS, EYES, "grant-secret-1", "query-secret-1", "cookie-secret-1", "cookie-secret-2"];
    secrets.extend(["basic-secret-1", "wrong-admin-secret-1"]);
    // A token is as good as known with its signature, and its payload alone is personal data.
    let tokens = [&parent, &session, &successor, &granted, &expired, &broken, &cookie];
    secrets.extend(tokens.iter().flat_map(|token| token.split('.').skip(1)));
    for (place, text) in &written {
        // A new token is handed to the client it belongs to, and to nobody else.
        let handed_out = place == "an answer" && text.contains("x-session-token");
        for secret in &secrets {
            assert!(handed_out || !text.contains(secret), "{place} has {secret}:\n{text}");
        }
    }
    assert!(written.len() > 20);
    let log = site.read("access.jsonl");
    for line in log.lines() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        assert!(line["path"].as_str().is_some_and(|path| !path.contains('?')), "{line}");
    }
    assert!(log.contains("\"reason\":\"expired\"") && log.contains("\"jti\":"), "{log}");
}

/// Every file below a folder, but for what holds secrets by its nature and what the test itself has written.
fn collect(folder: &Path, into: &mut Vec<(String, String)>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.ends_with("keys") || path.ends_with("secrets") {
            continue;
        }
        if path.is_dir() {
            collect(&path, into);
        } else {
            let bytes = fs::read(&path).unwrap();
            into.push((path.display().to_string(), String::from_utf8_lossy(&bytes).into_owned()));
        }
    }
}

#[test]
fn files_with_secrets_are_the_owners_alone() {
    use std::os::unix::fs::PermissionsExt;
    let upstream = Upstream::start();
    let site = Site::with_sessions(&upstream);
    let _gateway = site.start();
    let mut looked_at = 0;
    for entry in fs::read_dir(site.file("keys")).unwrap() {
        let path = entry.unwrap().path();
        let mode = fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode & 0o077, 0, "{} has mode {mode:o}", path.display());
        looked_at += 1;
    }
    assert!(looked_at > 0);
}

#[test]
fn key_files_that_others_may_read_refuse_the_start() {
    use std::os::unix::fs::PermissionsExt;
    let upstream = Upstream::start();
    let site = Site::with_sessions(&upstream);
    assert_eq!(site.start().stop().0, 0);
    for entry in fs::read_dir(site.file("keys")).unwrap() {
        fs::set_permissions(entry.unwrap().path(), fs::Permissions::from_mode(0o644)).unwrap();
    }
    let (code, said) = crate::support::Gateway::refuse(&site);
    assert!(code != 0 && said.contains("keys"), "{said}");
}
