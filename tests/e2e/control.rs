//! The control plane: who may do what, what is written down, what a reload changes, what is measured.

use std::io::Read;

use serde_json::{Value, json};

use crate::sessions::{log_in, service, slide, sliding};

use crate::support::site::{EYES, OPS};
use crate::support::{Admin, Connection, Gateway, Response, Site, Upstream, bearer, request, until};

fn ask(gateway: &Gateway, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Response {
    let all = [&[("Host", "admin"), ("Connection", "close")], headers].concat();
    Connection::open(gateway.admin_address).send(&request(method, path, &all, body)).response()
}

fn subject(name: &str) -> Value {
    json!({"target": {"kind": "subject", "issuer": "accounts", "value": name}, "reason": "admin"})
}

/// The audit lines so far.
fn audit(site: &Site) -> Vec<Value> {
    site.read("audit.jsonl").lines().map(|line| serde_json::from_str(line).expect("one JSON object a line")).collect()
}

#[test]
fn a_credential_says_who_may_do_what() {
    let upstream = Upstream::start();
    let site = Site::with_sessions(&upstream);
    let gateway = site.start();
    let token = site.accounts.token_of("bob");
    let truncated = &OPS[..OPS.len() - 1];
    for credential in [None, Some("wrong"), Some(truncated), Some(token.as_str()), Some("")] {
        let authorization = credential.map(bearer);
        let headers: Vec<_> = authorization.iter().map(|value| ("Authorization", value.as_str())).collect();
        for (method, path) in [
            ("GET", "/v1/status"),
            ("GET", "/v1/revocations"),
            ("GET", "/v1/config"),
            ("POST", "/v1/revocations"),
            ("POST", "/v1/explain"),
            ("POST", "/v1/reload"),
            ("DELETE", "/v1/revocations/x"),
            ("GET", "/v1/nothing-here"),
        ] {
            let response = ask(&gateway, method, path, &headers, b"");
            assert_eq!((response.status, response.reason()), (401, "unauthorized".to_owned()), "{credential:?} {path}");
        }
    }
    let viewer = Admin::new(gateway.admin_address, EYES);
    for path in ["/v1/status", "/v1/revocations", "/v1/config", "/v1/keys"] {
        assert_eq!(viewer.get(path).status, 200, "{path}");
    }
    assert_eq!(viewer.explain(&token)["admitted"], true);
    for (path, body) in [("/v1/revocations", subject("bob")), ("/v1/reload", json!({})), ("/v1/keys:rotate", json!({}))]
    {
        let response = viewer.post(path, &body);
        assert_eq!((response.status, response.reason()), (403, "forbidden".to_owned()), "{path}");
    }
    assert_eq!(viewer.delete("/v1/revocations/x").status, 403);
    assert_eq!(gateway.get_as("/orders", &token).status, 200, "nothing was revoked");
    let misplaced = gateway.get_as("/orders", OPS);
    assert_eq!((misplaced.status, misplaced.reason()), (401, "malformed_token".to_owned()), "166");
}

#[test]
fn what_makes_no_sense_changes_nothing() {
    let upstream = Upstream::start();
    let site = Site::new(&upstream);
    let gateway = site.start();
    let admin = gateway.admin();
    let good = subject("bob").to_string();
    let twice = good.replace(r#""reason":"#, r#""reason":"logout","reason":"#);
    let unknown = good.replace(r#""reason":"#, r#""because":"x","reason":"#);
    let large = format!(r#"{{"note":"{}",{}"#, "x".repeat(10 << 20), &good[1..]);
    let json = ("Content-Type", "application/json");
    for (headers, body, status) in [
        (vec![json], "{", 400),
        (vec![json], twice.as_str(), 400),
        (vec![json], unknown.as_str(), 400),
        (vec![json], large.as_str(), 413),
        (vec![("Content-Type", "text/plain")], good.as_str(), 415),
        (vec![], good.as_str(), 415),
        (vec![json, ("Sec-Fetch-Site", "cross-site")], good.as_str(), 403),
        (vec![json, ("Origin", "https://evil.example")], good.as_str(), 403),
    ] {
        let response = admin.send("POST", "/v1/revocations", &headers, body.as_bytes());
        assert_eq!(response.status, status, "167, 169 {headers:?}: {}", response.text());
    }
    assert_eq!(gateway.get_as("/orders", &site.accounts.token_of("bob")).status, 200);
    assert_eq!(admin.get("/v1/revocations").json()["items"], json!([]));
    // Ids are kept byte by byte.
    let response = admin.send(
        "POST",
        "/v1/revocations",
        &[json, ("Idempotency-Key", "x/../y%00")],
        subject("ann").to_string().as_bytes(),
    );
    assert_eq!((response.status, &response.json()["id"]), (201, &json!("x/../y%00")), "168");
    assert_eq!(admin.get("/v1/revocations/x%2F..%2Fy%2500").json()["id"], "x/../y%00");
    assert_eq!(admin.get("/v1/revocations/x%00").status, 400);
}

#[test]
fn every_change_is_one_audit_line() {
    let upstream = Upstream::start();
    let site = Site::new(&upstream);
    let gateway = site.start();
    let (admin, viewer) = (gateway.admin(), Admin::new(gateway.admin_address, EYES));
    let hostile = "bob\r\n{\"seq\":1}\u{1b}[31m";
    let record = admin.revoke(&subject(hostile));
    let id = record["id"].as_str().unwrap();
    admin.delete(&format!("/v1/revocations/{id}"));
    viewer.post("/v1/revocations", &subject("ann"));
    ask(&gateway, "POST", "/v1/reload", &[], b"");
    admin.post("/v1/reload", &json!({}));
    admin.get("/v1/revocations");
    let lines = audit(&site);
    let told: Vec<_> = lines
        .iter()
        .map(|line| ["actor", "role", "action", "result"].map(|name| line[name].as_str().unwrap_or("?").to_owned()))
        .collect();
    let expected = [
        ["ops", "operator", "revoke", "ok"],
        ["ops", "operator", "lift", "ok"],
        ["eyes", "viewer", "revoke", "forbidden"],
        ["none", "none", "reload", "unauthorized"],
        ["ops", "operator", "reload", "ok"],
    ];
    assert_eq!(told.len(), expected.len(), "{lines:#?}");
    for (told, expected) in told.iter().zip(expected) {
        assert_eq!((&told[1..], told[0].is_empty()), (&expected.map(str::to_owned)[1..], false), "{lines:#?}");
    }
    assert!(lines[0]["target"].as_str().unwrap().contains("bob\r\n"), "{}", lines[0]);
    assert_eq!((&lines[0]["id"], &lines[0]["address"]), (&json!(id), &json!("127.0.0.1")));
    assert!(!site.read("audit.jsonl").contains('\u{1b}'), "170 control characters are escaped");
    for (line, next) in lines.iter().zip(&lines[1..]) {
        assert_eq!((&next["prev"], next["seq"].as_u64()), (&line["hash"], line["seq"].as_u64().map(|it| it + 1)));
    }
}

#[test]
fn a_refusal_is_explained_and_status_and_configuration_are_told_without_secrets() {
    let upstream = Upstream::start();
    let site = Site::with_sessions(&upstream);
    let gateway = site.start();
    let admin = gateway.admin();
    let token = site.accounts.token_of("bob");
    let explained = admin.explain(&token);
    assert_eq!((&explained["admitted"], &explained["issuer"]), (&json!(true), &json!("accounts")), "{explained}");
    let record = admin.revoke(&subject("bob"));
    let explained = admin.explain(&token);
    assert_eq!((&explained["admitted"], &explained["status"]), (&json!(false), &json!(401)), "{explained}");
    assert_eq!((&explained["reason"], &explained["verified"]), (&json!("revoked_subject"), &json!(true)));
    assert_eq!(explained["revocations"][0]["id"], record["id"], "by which record");
    let route = admin.post("/v1/explain", &json!({"path": "/admin/x", "token": site.accounts.token_of("ann")})).json();
    assert_eq!((&route["route"], &route["reason"]), (&json!("admin"), &json!("insufficient_scope")), "{route}");
    let nobody = admin.post("/v1/explain", &json!({"path": "/orders"})).json();
    assert_eq!(nobody["reason"], "missing_token", "{nobody}");
    assert_eq!(admin.metric("portcullis_requests_total", &[]), 0.0, "an explanation is not a request");

    let status = admin.get("/v1/status").json();
    assert_eq!((&status["ready"], &status["revocations"]["subject"]), (&json!(true), &json!(1)), "{status}");
    assert_eq!(status["gateway"]["listeners"], json!([gateway.address.to_string()]));
    let config = admin.get("/v1/config").text();
    assert!(config.contains("https://accounts.example/"), "{config}");
    assert!(!config.contains(OPS) && !config.contains(EYES), "{config}");
}

#[test]
fn a_reload_takes_all_of_a_file_or_nothing() {
    let upstream = Upstream::start();
    let mut site = Site::new(&upstream);
    let gateway = site.start();
    let admin = gateway.admin();
    let status = || gateway.get("/orders/x", &[]).status;
    let reloads = |result: &str| admin.metric("portcullis_config_reloads_total", &[("result", result)]);
    assert_eq!(status(), 401);

    let good = site.config.clone();
    site.route(json!({"name": "open", "match": {"path": "/orders/"}, "upstream": "shop", "auth": "none"}));
    site.set("/listners", json!([]));
    site.write_config();
    let response = admin.post("/v1/reload", &json!({}));
    assert_eq!((response.status, response.reason()), (422, "config_invalid".to_owned()));
    let detail = response.json()["detail"].as_str().unwrap().to_owned();
    assert!(
        detail.contains("portcullis.yaml:") && detail.contains("listners") && detail.contains("listeners"),
        "{detail}"
    );
    assert_eq!(
        (status(), reloads("failed"), admin.metric("portcullis_config_last_reload_successful", &[])),
        (401, 1.0, 0.0)
    );

    site.config = good.clone();
    site.set("/listeners", json!([{"address": "127.0.0.1:1"}])).write_config();
    let response = admin.post("/v1/reload", &json!({}));
    assert_eq!((response.status, response.reason()), (409, "needs_restart".to_owned()));
    assert!(response.text().contains("listeners"), "{}", response.text());

    site.config = good.clone();
    site.route(json!({"name": "open", "match": {"path": "/orders/"}, "upstream": "shop", "auth": "none"}));
    site.write_config();
    let response = admin.post("/v1/reload", &json!({}));
    assert_eq!((response.status, &response.json()["changed"]), (200, &json!(true)), "{}", response.text());
    assert_eq!(
        (status(), reloads("ok"), admin.metric("portcullis_config_last_reload_successful", &[])),
        (200, 1.0, 1.0)
    );

    site.config = good;
    site.write_config();
    gateway.signal("HUP");
    until("the old routes again", || (status() == 401).then_some(()));
    site.write("portcullis.yaml", "{");
    gateway.signal("HUP");
    until("the failure of a reload", || (reloads("failed") == 3.0).then_some(()));
    assert_eq!((status(), gateway.get_as("/orders", &site.accounts.token_of("bob")).status), (401, 200));
    assert!(gateway.output().contains("the old configuration stays in force"), "{}", gateway.output());
}

#[test]
fn what_happens_is_measured() {
    let upstream = service();
    let site = sliding(&upstream);
    let gateway = site.start();
    let admin = gateway.admin();
    let token = log_in(&gateway, "bob");
    slide(&gateway, &token);
    let parent = site.accounts.token_of("ann");
    assert_eq!(gateway.get_as("/orders", &parent).status, 200);
    admin.revoke(&subject("ann"));
    assert_eq!(gateway.get_as("/orders", &parent).status, 401);
    gateway.post_as("/session/logout", &token);
    admin.post("/v1/reload", &json!({}));
    for (name, labels) in [
        ("requests_total", vec![("route", "shop"), ("method", "GET"), ("status", "401")]),
        ("request_duration_seconds_count", vec![("route", "shop")]),
        ("decisions_total", vec![("issuer", "accounts"), ("reason", "revoked_subject")]),
        ("verification_duration_seconds_count", vec![("algorithm", "ES256")]),
        ("token_cache_total", vec![("result", "hit")]),
        ("token_cache_total", vec![("result", "miss")]),
        ("revocations", vec![("kind", "subject")]),
        ("revocations", vec![("kind", "session")]),
        ("revocations_total", vec![("kind", "subject"), ("reason", "admin"), ("source", "admin")]),
        ("revocations_total", vec![("kind", "session"), ("reason", "logout"), ("source", "logout")]),
        ("reissues_total", vec![("result", "minted")]),
        ("sessions_opened_total", vec![("how", "exchange")]),
        ("sessions_opened_total", vec![("how", "grant")]),
        ("upstream_requests_total", vec![("upstream", "shop")]),
        ("config_reloads_total", vec![("result", "ok")]),
        ("config_last_reload_successful", vec![]),
        ("build_info", vec![]),
    ] {
        assert!(admin.metric(&format!("portcullis_{name}"), &labels) >= 1.0, "{name} {labels:?}");
    }
    let text = admin.get("/metrics").text();
    // Present, and well at nought.
    for series in ["requests_in_flight", "upstream_connections", "store_errors_total"] {
        assert!(text.lines().any(|line| line.starts_with(&format!("portcullis_{series}"))), "{series}:\n{text}");
    }
    for series in ["process_cpu_seconds_total", "process_resident_memory_bytes", "process_open_fds"] {
        assert!(text.lines().any(|line| line.starts_with(series)), "{series}:\n{text}");
    }
    assert_eq!(admin.metric("portcullis_store_errors_total", &[]), 0.0);
    for client_said in ["bob", "ann", "/orders", "shop.example"] {
        assert!(!text.contains(client_said), "nothing a client sends is a label: {client_said}");
    }
}

#[test]
fn revocations_can_be_watched() {
    let upstream = Upstream::start();
    let site = Site::new(&upstream);
    let gateway = site.start();
    let mut watcher = Connection::open(gateway.admin_address);
    let head = [("Host", "admin"), ("Authorization", &bearer(OPS))];
    watcher.send(&request("GET", "/v1/revocations:watch", &head, b""));
    let answered = String::from_utf8(watcher.read_head().unwrap()).unwrap();
    assert!(answered.starts_with("HTTP/1.1 200") && answered.contains("text/event-stream"), "{answered}");
    let record = gateway.admin().revoke(&subject("bob"));
    let id = record["id"].as_str().unwrap();
    let mut seen = String::from_utf8(watcher.take_buffer()).unwrap();
    until("the event", || {
        let mut piece = [0; 4096];
        let count = watcher.stream().read(&mut piece).unwrap();
        assert!(count > 0, "the stream ended: {seen}");
        seen.push_str(&String::from_utf8_lossy(&piece[..count]));
        seen.contains(id).then_some(())
    });
}
